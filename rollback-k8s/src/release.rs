//! Releases of a workload: its pod template, by content.
//!
//! Kubernetes gives an old template a new revision number each time it comes back, and hashes of its own change with its
//! version: neither says which release it is.

use crate::marks::{Annotations, CHANGE_CAUSE};
use rollback_core::{Digest, Release, ReleaseId, Timestamp, Work};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What a controller adds to a template to tell its copies apart.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";
/// What `kubectl rollout restart` sets: the same release, started once more.
pub(crate) const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// The revision number of a Deployment and of its ReplicaSets.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";

/// The release that a pod template is, by its content: the same template has the same id in every cluster, whatever
/// revision number it has there.
///
/// What does not make another release is left out: the label `pod-template-hash`, the annotation
/// `kubectl.kubernetes.io/restartedAt`, and fields that say what the API server would have filled in. The id of a manifest
/// is the one it has once it is applied.
///
/// ```
/// use rollback_k8s::release_id;
/// use serde_json::json;
/// let manifest = json!({"spec": {"containers": [{"name": "app", "image": "shop:1.4"}]}});
/// let applied = json!({
///     "metadata": {"creationTimestamp": null, "labels": {"pod-template-hash": "7c9"}},
///     "spec": {
///         "containers": [{"name": "app", "image": "shop:1.4", "imagePullPolicy": "IfNotPresent", "resources": {},
///             "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
///         "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
///         "securityContext": {}, "terminationGracePeriodSeconds": 30,
///     },
/// });
/// assert_eq!(release_id(&manifest), release_id(&applied));
/// let other = json!({"spec": {"containers": [{"name": "app", "image": "shop:1.5"}]}});
/// assert_ne!(release_id(&manifest), release_id(&other));
/// ```
pub fn release_id(template: &Value) -> ReleaseId {
    let mut template = template.clone();
    plain(&mut template);
    // serde_json keeps the keys of objects in order, so the same content has the same bytes.
    let digest = Digest::of(template.to_string().as_bytes());
    // 80 bits: nobody reads 256 aloud at night, and a target has tens of releases.
    let short: String = digest.as_str().chars().skip("sha256:".len()).take(20).collect();
    ReleaseId::new(format!("template:{short}"))
}

/// The template without what says no more than the API server's defaults do, as a manifest has it.
pub(crate) fn as_in_a_manifest(template: &Value) -> Value {
    let mut template = template.clone();
    plain(&mut template);
    template
}

/// The same but for the label that a controller adds: what `kubectl rollout undo` calls equal.
pub(crate) fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        remove_key(metadata, "labels", TEMPLATE_HASH);
        drop_null(metadata);
    }
    template
}

fn remove_key(of: &mut Map<String, Value>, map: &str, key: &str) {
    if let Some(inner) = of.get_mut(map).and_then(Value::as_object_mut) {
        inner.remove(key);
    }
}

fn drop_null(of: &mut Map<String, Value>) {
    of.retain(|_, value| !value.is_null());
}

/// Leaves out what says no more than the API server's defaults do.
fn plain(template: &mut Value) {
    let Some(template) = template.as_object_mut() else { return };
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        remove_key(metadata, "labels", TEMPLATE_HASH);
        remove_key(metadata, "annotations", RESTARTED_AT);
        metadata.remove("creationTimestamp");
        metadata.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
    }
    template.retain(|key, value| !(key == "metadata" && value.as_object().is_some_and(Map::is_empty)));
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return };
    drop_null(spec);
    defaults(
        spec,
        &[
            ("dnsPolicy", Value::from("ClusterFirst")),
            ("restartPolicy", Value::from("Always")),
            ("schedulerName", Value::from("default-scheduler")),
            ("securityContext", Value::Object(Map::new())),
            ("terminationGracePeriodSeconds", Value::from(30)),
            ("enableServiceLinks", Value::from(true)),
        ],
    );
    // An old name of serviceAccountName, which the server fills in.
    if spec.get("serviceAccount") == spec.get("serviceAccountName") {
        spec.remove("serviceAccount");
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            plain_container(container);
        }
    }
    for volume in items(spec, "volumes") {
        for source in volume.values_mut().filter_map(Value::as_object_mut) {
            defaults(source, &[("defaultMode", Value::from(420)), ("type", Value::from(""))]);
            for inner in items(source, "sources") {
                if let Some(token) = inner.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                    defaults(token, &[("expirationSeconds", Value::from(3600))]);
                }
            }
        }
    }
}

fn plain_container(container: &mut Map<String, Value>) {
    drop_null(container);
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let pull = if is_latest(image) { "Always" } else { "IfNotPresent" };
    defaults(
        container,
        &[
            ("imagePullPolicy", Value::from(pull)),
            ("resources", Value::Object(Map::new())),
            ("terminationMessagePath", Value::from("/dev/termination-log")),
            ("terminationMessagePolicy", Value::from("File")),
        ],
    );
    for port in items(container, "ports") {
        defaults(port, &[("protocol", Value::from("TCP"))]);
    }
    for variable in items(container, "env") {
        let field = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef"));
        if let Some(field) = field.and_then(Value::as_object_mut) {
            defaults(field, &[("apiVersion", Value::from("v1"))]);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) else { continue };
        defaults(
            probe,
            &[
                ("timeoutSeconds", Value::from(1)),
                ("periodSeconds", Value::from(10)),
                ("successThreshold", Value::from(1)),
                ("failureThreshold", Value::from(3)),
            ],
        );
        plain_http_get(probe);
        if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
            defaults(grpc, &[("service", Value::from(""))]);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for hook in lifecycle.values_mut().filter_map(Value::as_object_mut) {
            plain_http_get(hook);
        }
    }
}

fn plain_http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        defaults(get, &[("scheme", Value::from("HTTP")), ("path", Value::from("/"))]);
    }
}

fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    match image.rsplit('/').next().and_then(|name| name.split_once(':')) {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

fn items<'a>(of: &'a mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    of.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn defaults(of: &mut Map<String, Value>, defaults: &[(&str, Value)]) {
    for (key, value) in defaults {
        if of.get(*key) == Some(value) {
            of.remove(*key);
        }
    }
}

/// Name and image of each container, the ones that run first in front.
pub(crate) fn images(template: &Value) -> Vec<(&str, &str)> {
    let containers = |list| template.pointer(list).and_then(Value::as_array).into_iter().flatten();
    containers("/spec/initContainers")
        .chain(containers("/spec/containers"))
        .filter_map(|container| Some((container.get("name")?.as_str()?, container.get("image")?.as_str()?)))
        .collect()
}

/// A release as history shows it.
pub(crate) fn described(
    template: &Value,
    revision: Option<i64>,
    made_at: Option<Timestamp>,
    annotations: &Annotations,
) -> Release {
    let mut release = Release::new(release_id(template)).with_label(label(template, revision));
    release.made_at = made_at;
    release.why = annotations.get(CHANGE_CAUSE).filter(|why| !why.is_empty()).cloned();
    let digests = images(template).into_iter().filter_map(|(_, image)| image.split_once('@')).map(|(_, d)| d.into());
    release.with_artifacts(digests.collect::<Vec<Digest>>())
}

/// Each release once, as it was last deployed, newest first: of what is there, newest first, and before it what was told but
/// not made yet.
///
/// A revision that was gone back to has the highest number and an old date: when it came back is not known, so no date is
/// given rather than one that is out of order.
pub(crate) fn each_once(
    unmade: Option<Release>,
    revisions: impl Iterator<Item = Release>,
    limit: usize,
) -> Vec<Release> {
    let mut known = BTreeSet::new();
    let once = revisions.filter(|release| known.insert(release.id.clone()));
    let mut releases: Vec<Release> = unmade.into_iter().chain(once).collect();
    let mut oldest_first = None;
    for release in releases.iter_mut().rev() {
        release.made_at = release.made_at.filter(|at| oldest_first.is_none_or(|older| *at >= older));
        oldest_first = release.made_at.or(oldest_first);
    }
    releases.truncate(limit);
    releases
}

/// Why a revision was made, as `kubectl rollout history` will show it.
pub(crate) fn cause(template: &Value, number: i64, work: &Work) -> String {
    let to = label(template, Some(number).filter(|n| *n > 0));
    match work.why() {
        "" => format!("rolled back to {to} by {}", work.run()),
        why => format!("rolled back to {to} by {}: {why}", work.run()),
    }
}

/// What people call it: `revision 7 (shop:1.4)`.
pub(crate) fn label(template: &Value, revision: Option<i64>) -> String {
    let mut names: Vec<&str> = vec![];
    for (_, image) in images(template) {
        let name = image.rsplit('/').next().unwrap_or(image);
        // A digest says nothing to people where there is a tag, and little where there is none.
        let name = match name.split_once('@') {
            Some((tagged, _)) if tagged.contains(':') => tagged,
            Some((bare, digest)) => name.get(..bare.len() + 1 + digest.len().min(19)).unwrap_or(name),
            None => name,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let images = if names.is_empty() { "no image".to_owned() } else { names.join(", ") };
    revision.map_or_else(|| images.clone(), |n| format!("revision {n} ({images})"))
}

/// The revision number of a Deployment or a ReplicaSet; 0 where it has none, as kubectl reads it.
pub(crate) fn revision(annotations: &Annotations) -> i64 {
    annotations.get(REVISION).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
    }

    #[test]
    fn what_makes_no_other_release() {
        let manifest = json!({
            "metadata": {"labels": {"app": "shop"}},
            "spec": {
                "serviceAccountName": "shop",
                "containers": [{"name": "app", "image": "shop", "ports": [{"containerPort": 80}],
                    "readinessProbe": {"httpGet": {"port": 80}}}],
                "volumes": [{"name": "conf", "configMap": {"name": "conf"}}, {"name": "tmp", "emptyDir": {}}],
            },
        });
        let live = json!({
            "metadata": {"creationTimestamp": null, "labels": {"app": "shop", "pod-template-hash": "abc"},
                "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}},
            "spec": {
                "serviceAccountName": "shop", "serviceAccount": "shop", "restartPolicy": "Always",
                "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "securityContext": {},
                "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "app", "image": "shop", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "volumes": [{"name": "conf", "configMap": {"name": "conf", "defaultMode": 420}},
                    {"name": "tmp", "emptyDir": {}}],
            },
        });
        assert_eq!(release_id(&manifest), release_id(&live));
    }

    #[test]
    fn what_makes_another_release() {
        let id = release_id(&template("shop:1"));
        let mut env = template("shop:1");
        env["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
        let mut annotated = template("shop:1");
        annotated["metadata"]["annotations"] = json!({"checksum/config": "1"});
        let mut never = template("shop:1");
        never["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
        for other in [template("shop:2"), env, annotated, never] {
            assert_ne!(id, release_id(&other), "{other}");
        }
        assert_eq!(id.as_str().len(), "template:".len() + 20);
    }

    #[test]
    fn labels_are_for_people() {
        for (image, label) in [
            ("registry.example:5000/team/shop:1.4", "revision 3 (shop:1.4)"),
            ("shop:1.4@sha256:0123456789abcdef0123", "revision 3 (shop:1.4)"),
            ("shop@sha256:0123456789abcdef0123", "revision 3 (shop@sha256:0123456789ab)"),
            ("shop", "revision 3 (shop)"),
        ] {
            assert_eq!(super::label(&template(image), Some(3)), label, "{image}");
        }
        let release = described(&template("shop@sha256:01"), None, None, &Annotations::new());
        assert_eq!(release.artifacts, [Digest::from("sha256:01")]);
    }
}
