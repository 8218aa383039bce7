//! A revision as Helm stores it: a Secret with JSON in gzip in base64.

use crate::{
    kinds::ObjectKind,
    marks::Annotations,
    prepare::{may_be_missing, unavailable},
    release,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use rollback_core::{Digest, Error, Kind, Release, ReleaseId, Result, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use std::{fmt, io::Read as _, time::Duration};

/// A Secret holds 1 MiB; nothing that a release may be has more than this in it.
const MOST: u64 = 64 << 20;

/// A revision of a release. Its values are not kept.
#[derive(Clone)]
pub(super) struct Revision {
    pub(super) number: u64,
    pub(super) status: String,
    pub(super) release: ReleaseId,
    pub(super) chart: String,
    pub(super) values: Digest,
    /// As Helm writes it: RFC 3339.
    pub(super) deployed_at: String,
    pub(super) description: String,
    pub(super) objects: Vec<Object>,
    pub(super) secret: ObjectMeta,
}

/// An object of the manifest.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) content: Value,
}

/// Without what is in it.
impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revision")
            .field("number", &self.number)
            .field("status", &self.status)
            .field("release", &self.release)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Stored {
    version: u64,
    info: Info,
    chart: Chart,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    manifest: String,
}
#[derive(Deserialize)]
struct Info {
    status: String,
    #[serde(default)]
    last_deployed: String,
    #[serde(default)]
    description: String,
}
#[derive(Deserialize)]
struct Chart {
    metadata: Metadata,
}
#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

impl Revision {
    pub(super) fn of(secret: &Secret) -> Result<Self> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let unreadable = |why: String| {
            let text = format!("what Helm stored in the Secret {name} cannot be read: {why}");
            Error::new(Kind::Unexpected, "read the release").with_message(text).without_effect()
        };
        let data = secret.data.iter().flatten().find(|(key, _)| *key == "release").map(|(_, data)| &data.0);
        let data = data.ok_or_else(|| unreadable("it has no release".into()))?;
        let packed = STANDARD.decode(data).map_err(|_| unreadable("it is no base64".into()))?;
        let mut json = vec![];
        let unpacked = if packed.starts_with(&[0x1f, 0x8b]) {
            GzDecoder::new(packed.as_slice()).take(MOST).read_to_end(&mut json).map(drop)
        } else {
            // Old ones are not packed.
            json = packed;
            Ok(())
        };
        unpacked.map_err(|e| unreadable(e.to_string()))?;
        // What is wrong in it is not quoted: there are values in it.
        let stored: Stored = serde_json::from_slice(&json)
            .map_err(|e| unreadable(format!("line {}, column {}", e.line(), e.column())))?;
        // No values and none at all are the same.
        let values = if stored.config.is_null() { "{}".into() } else { stored.config.to_string() };
        let values = Digest::of(values.as_bytes());
        let release = Digest::of(format!("{}\0{values}", stored.manifest).as_bytes());
        let short: String = release.as_str().chars().skip("sha256:".len()).take(20).collect();
        // While helm works, the label is newer than what is packed.
        let label = secret.metadata.labels.iter().flatten().find(|(key, _)| *key == "status").map(|(_, status)| status);
        Ok(Self {
            number: stored.version,
            status: label.cloned().unwrap_or(stored.info.status),
            release: ReleaseId::new(format!("helm:{short}")),
            chart: format!("{}-{}", stored.chart.metadata.name, stored.chart.metadata.version),
            values,
            deployed_at: stored.info.last_deployed,
            description: stored.info.description,
            objects: objects(&stored.manifest).map_err(|()| unreadable("its manifest is no YAML".into()))?,
            secret: ObjectMeta { managed_fields: None, ..secret.metadata.clone() },
        })
    }
    pub(super) fn is_pending(&self) -> bool {
        self.status.starts_with("pending-")
    }
    pub(super) fn annotations(&self) -> Annotations {
        self.secret.annotations.clone().unwrap_or_default()
    }
    pub(super) fn secret_name(&self) -> &str {
        self.secret.name.as_deref().unwrap_or_default()
    }
    pub(super) fn secret_uid(&self) -> &str {
        self.secret.uid.as_deref().unwrap_or_default()
    }
    fn made_at(&self) -> Option<Timestamp> {
        let at = self.secret.creation_timestamp.as_ref()?.0.as_millisecond();
        u64::try_from(at).ok().map(Timestamp)
    }
    /// How long ago it was begun, by this machine's clock.
    pub(super) fn age(&self, now: Timestamp) -> Option<Duration> {
        Some(Duration::from_millis(now.0.saturating_sub(self.made_at()?.0)))
    }
    pub(super) fn label(&self) -> String {
        let mut images = vec![];
        for object in self.workloads() {
            let template = object.content.pointer("/spec/template").unwrap_or(&Value::Null);
            let label = release::label(template, None);
            if !images.contains(&label) {
                images.push(label);
            }
        }
        let images = if images.is_empty() { String::new() } else { format!("; {}", images.join(", ")) };
        format!("revision {} ({}, {}{images})", self.number, self.chart, self.status)
    }
    pub(super) fn described(&self) -> Release {
        let mut release = Release::new(self.release.clone()).with_label(self.label());
        release.made_at = self.made_at();
        release.why = Some(self.description.clone()).filter(|why| !why.is_empty());
        release
    }
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|object| object.workload().is_some())
    }
    pub(super) fn object(&self, kind: &str, name: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.kind == kind && object.name == name)
    }
}

impl Object {
    /// Its kind, if pods come of it.
    pub(super) fn workload(&self) -> Option<ObjectKind> {
        use crate::kinds::{DAEMON_SET, DEPLOYMENT, STATEFUL_SET};
        [DEPLOYMENT, STATEFUL_SET, DAEMON_SET].into_iter().find(|kind| kind.kind == self.kind)
    }
    /// How many pods the manifest wants, and how many of them a rollout takes away at once. Of a DaemonSet, whose nodes are
    /// not in the manifest, none is said.
    pub(super) fn replicas(&self) -> (u32, u32) {
        let wanted = self.content.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let none = Value::Null;
        match self.kind.as_str() {
            "Deployment" => (wanted, may_be_missing(self.content.pointer("/spec/strategy").unwrap_or(&none), wanted)),
            "StatefulSet" => {
                let most = self.content.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable");
                (wanted, unavailable(most, "1", wanted))
            }
            _ => (u32::MAX, 0),
        }
    }
    pub(super) fn template(&self) -> Value {
        self.content.pointer("/spec/template").cloned().unwrap_or_default()
    }
}

/// The objects of a manifest: YAML documents.
fn objects(manifest: &str) -> std::result::Result<Vec<Object>, ()> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).map_err(|_| ())?;
    let text = |of: &Value, at: &str| of.pointer(at).and_then(Value::as_str).map(ToOwned::to_owned);
    let object = |content: Value| {
        Some(Object {
            kind: text(&content, "/kind")?,
            name: text(&content, "/metadata/name")?,
            namespace: text(&content, "/metadata/namespace"),
            content,
        })
    };
    Ok(documents.into_iter().filter_map(object).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use serde_json::json;
    use std::io::Write as _;

    fn secret(version: u64, status: &str, tag: &str, config: Value) -> Secret {
        let manifest = format!(
            "---\n# Source: web/templates/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  \
             template:\n    spec:\n      containers:\n      - {{name: web, image: \"web:{tag}\"}}\n---\n# nothing\n"
        );
        let stored = json!({"name": "web", "version": version, "manifest": manifest, "config": config,
            "info": {"status": "deployed", "last_deployed": "2026-01-01T00:00:00.5Z", "description": "Upgrade complete"},
            "chart": {"metadata": {"name": "web", "version": "1.0.0"}}});
        let mut packed = GzEncoder::new(vec![], Compression::fast());
        packed.write_all(stored.to_string().as_bytes()).unwrap();
        let text = STANDARD.encode(packed.finish().unwrap());
        serde_json::from_value(json!({
            "metadata": {"name": format!("sh.helm.release.v1.web.v{version}"), "uid": "u", "labels": {"status": status},
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "data": {"release": STANDARD.encode(text)},
        }))
        .unwrap()
    }

    #[test]
    fn a_release_is_manifest_and_values() {
        let of = |secret: Secret| Revision::of(&secret).unwrap();
        let first = of(secret(1, "superseded", "1", json!({"password": "hunter2"})));
        let back = of(secret(3, "deployed", "1", json!({"password": "hunter2"})));
        assert_eq!(first.release, back.release, "a number is no release");
        assert_ne!(first.release, of(secret(2, "deployed", "2", json!({"password": "hunter2"}))).release);
        assert_ne!(first.release, of(secret(2, "deployed", "1", json!({"password": "hunter3"}))).release);
        assert_eq!(
            of(secret(1, "deployed", "1", json!(null))).release,
            of(secret(1, "deployed", "1", json!({}))).release
        );
        assert_eq!(back.label(), "revision 3 (web-1.0.0, deployed; web:1)");
        assert_eq!((back.objects.len(), back.objects[0].kind.as_str()), (1, "Deployment"));
        assert!(!format!("{back:?} {:?}", back.described()).contains("hunter"));
    }

    #[test]
    fn pending_is_told_from_the_label() {
        let pending = Revision::of(&secret(2, "pending-upgrade", "2", json!({}))).unwrap();
        assert!(pending.is_pending());
        assert_eq!(pending.age(Timestamp(pending.made_at().unwrap().0 + 60_000)), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_is_damaged_is_not_quoted() {
        let mut damaged = secret(1, "deployed", "1", json!({}));
        let text = STANDARD.encode("{\"password\": \"hunter2\", }");
        damaged.data.as_mut().unwrap().insert("release".into(), k8s_openapi::ByteString(text.into_bytes()));
        let e = Revision::of(&damaged).unwrap_err();
        assert!(e.to_string().contains("v1.web.v1") && !format!("{e:?}").contains("hunter"), "{e:?}");
    }
}
