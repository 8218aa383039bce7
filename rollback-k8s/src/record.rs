//! What is kept of a release when it is deployed: its template, and copies of the ConfigMaps that its pods refer to.
//!
//! It lies in the namespace of the workload, as immutable ConfigMaps that the workload owns: whoever may read the originals
//! may read the copies and nobody else, no journal is needed in the bad night, `kubectl` shows them, and they go with the
//! workload. A copy is named after its content, so that a hundred releases with one configuration have one copy.
//!
//! Not here: how a copy is compared and put back, which is in `config_maps`.

use crate::{
    Cluster,
    config_maps::{Compared, Configs, Content, Restore},
    connect::JsonPatch,
    error::Request,
    kinds::{CONFIG_MAP, ObjectKind},
    marks::{self, Annotations},
    prepare::{Reference, all_references},
    release::described,
};
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions},
};
use rollback_core::{
    DiffLine, Digest, Effect, Error, Finding, Kind, Observation, Release, ReleaseId, Result, Severity, Timestamp, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// What an object of the archive is: a record, or a copy.
const ARCHIVE: &str = "rollback.dev/archive";
const RECORD: &str = "record";
const COPY: &str = "copy";
/// Whose it is.
const OF: &str = "rollback.dev/archive-of";
/// When it was recorded last, in milliseconds: a release that is deployed again is the newest again.
const AT: &str = "rollback.dev/recorded-at";
/// What it is a copy of, for people.
const COPY_OF: &str = "rollback.dev/copy-of";
/// On the workload: there are records of it, so they are looked for.
pub(crate) const RECORDED: &str = "rollback.dev/recorded";
/// So many releases are kept, the newest.
const KEEP: usize = 20;
/// Counted up when what is in a record changes its form.
const FORMAT: u32 = 1;

/// What a workload's configuration is asked to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigOptions {
    /// Put ConfigMaps back with the release.
    pub(crate) restore: bool,
    /// Secrets that are archived and put back too.
    pub(crate) secrets: BTreeSet<String>,
    /// How many releases are kept; [`KEEP`] if nobody says.
    pub(crate) keep: Option<usize>,
}

/// The workload that an archive is of, as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) kind: ObjectKind,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
}

/// Why there is a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reason {
    Deploy,
    /// What a rollback was about to overwrite.
    BeforeRollback,
}

/// A record, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    format: u32,
    release: ReleaseId,
    label: String,
    reason: Reason,
    template: Value,
    copies: Vec<Copied>,
}
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Copied {
    of: Reference,
    copy: String,
}

/// A record, as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) name: String,
    pub(crate) uid: String,
    at: Timestamp,
    entry: Entry,
}

impl Recorded {
    fn of(object: DynamicObject) -> Option<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let entry: Entry = serde_json::from_str(data.pointer("/data/record")?.as_str()?).ok()?;
        let written = metadata.annotations.as_ref().and_then(|all| all.get(AT)?.parse().ok());
        let created = || u64::try_from(metadata.creation_timestamp.as_ref()?.0.as_millisecond()).ok();
        let at = Timestamp(written.or_else(created)?);
        // One of a newer form may say something else with the same words.
        (entry.format <= FORMAT).then_some(Self { name: metadata.name?, uid: metadata.uid?, at, entry })
    }
    pub(crate) fn release(&self) -> &ReleaseId {
        &self.entry.release
    }
    pub(crate) fn template(&self) -> &Value {
        &self.entry.template
    }
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }
    /// As history shows it.
    pub(crate) fn described(&self) -> Release {
        let label = format!("{}, recorded", self.entry.label);
        let mut release = described(&self.entry.template, None, Some(self.at), &Annotations::new()).with_label(label);
        // As it was told when it was recorded, whatever a later version of this library would call it.
        release.id.clone_from(&self.entry.release);
        release
    }
}

/// The newest record of a release: one that was made at a deploy before one that a rollback made.
pub(crate) fn newest<'a>(records: &'a [Recorded], release: &ReleaseId) -> Option<&'a Recorded> {
    let of = || records.iter().filter(|record| record.release() == release);
    of().find(|record| record.entry.reason == Reason::Deploy).or_else(|| of().next())
}

/// Adds to a history, newest first, the releases that only records know.
pub(crate) fn with_recorded(mut history: Vec<Release>, records: &[Recorded], limit: usize) -> Vec<Release> {
    let mut known: BTreeSet<ReleaseId> = history.iter().map(|release| release.id.clone()).collect();
    let mut oldest = history.iter().filter_map(|release| release.made_at).min();
    for record in records.iter().filter(|record| known.insert(record.release().clone())) {
        // A date out of order is worse than none.
        let mut release = record.described();
        release.made_at = release.made_at.filter(|at| oldest.is_none_or(|oldest| *at <= oldest));
        oldest = release.made_at.or(oldest);
        history.push(release);
    }
    history.truncate(limit);
    history
}

fn hash(of: &str) -> String {
    Digest::of(of.as_bytes()).as_str().trim_start_matches("sha256:").chars().take(20).collect()
}

/// What was recorded of one workload.
#[derive(Clone, Debug)]
pub(crate) struct Archive<'a> {
    pub(crate) configs: Configs,
    pub(crate) owner: Owner<'a>,
    pub(crate) options: &'a ConfigOptions,
}

impl<'a> Archive<'a> {
    pub(crate) fn new(cluster: &Cluster, namespace: &str, owner: Owner<'a>, options: &'a ConfigOptions) -> Self {
        let configs = Configs { cluster: cluster.clone(), namespace: namespace.to_owned() };
        Self { configs, owner, options }
    }
    fn of(&self) -> String {
        hash(&format!("{} {} {}", self.owner.kind.name(), self.owner.name, self.owner.uid))
    }
    fn api(&self, kind: ObjectKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.configs.cluster.client().clone(), &self.configs.namespace, &kind.resource())
    }
    fn request<'b>(&'b self, operation: &'b str, verb: &'b str, kind: ObjectKind, name: &'b str) -> Request<'b> {
        Request { operation, verb, kind, namespace: Some(&self.configs.namespace), name }
    }
    fn reply(&self) -> Duration {
        self.configs.cluster.reply_within()
    }
    fn metadata(&self, name: String, what: &str, annotations: Vec<(&str, String)>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.configs.namespace.clone()),
            labels: Some([(ARCHIVE.to_owned(), what.to_owned()), (OF.to_owned(), self.of())].into()),
            annotations: Some(annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", self.owner.kind.group, self.owner.kind.version),
                kind: self.owner.kind.kind.into(),
                name: self.owner.name.into(),
                uid: self.owner.uid.into(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        }
    }

    /// All records, the newest first. None where this user may not list ConfigMaps.
    pub(crate) async fn records(&self) -> Result<Vec<Recorded>> {
        let selector = format!("{ARCHIVE}={RECORD},{OF}={}", self.of());
        let (cluster, namespace) = (&self.configs.cluster, &self.configs.namespace);
        let found = match cluster.list("list what was recorded", CONFIG_MAP, namespace, &selector).await {
            Err(e) if e.kind() == Kind::Denied => vec![],
            found => found?,
        };
        let mut records: Vec<Recorded> = found.into_iter().filter_map(Recorded::of).collect();
        records.sort_by(|a, b| (b.at, &b.name).cmp(&(a.at, &a.name)));
        Ok(records)
    }

    /// Keeps a template, and what its pods refer to, as it is now. What is kept already is not written again.
    pub(crate) async fn keep(&self, template: &Value, label: &str, reason: Reason, now: Timestamp) -> Result<Recorded> {
        let wanted = all_references(template).into_iter();
        let wanted = wanted.filter(|of| !of.secret || self.options.secrets.contains(&of.name));
        let mut copies = vec![];
        for of in wanted {
            // One that is not there is none that pods have.
            if let Some(object) = self.configs.read(&of).await? {
                copies.push(self.copy(of, &object).await?);
            }
        }
        copies.sort();
        let release = crate::release_id(template);
        let entry = Entry { format: FORMAT, release, label: label.into(), reason, template: template.clone(), copies };
        let named = json!([self.of(), entry.release, reason, entry.copies]).to_string();
        self.write(format!("rollback-record-{}", hash(&named)), entry, now).await
    }

    /// The copy of an object with its content; made, if there is none yet.
    async fn copy(&self, of: Reference, object: &DynamicObject) -> Result<Copied> {
        let kind = of.kind();
        // A digest of a Secret's content would let it be guessed.
        let content = match of.secret {
            true => json!([object.metadata.uid, object.metadata.resource_version]),
            false => Content::of(object).json(),
        };
        let name = format!("rollback-copy-{}", hash(&json!([self.of(), kind.kind, of.name, content]).to_string()));
        let mut data = Content::of(object).json();
        data["immutable"] = json!(true);
        if let Some(kind) = object.data.get("type") {
            data["type"] = kind.clone();
        }
        let metadata = self.metadata(name.clone(), COPY, vec![(COPY_OF, of.to_string())]);
        match self.configs.create("archive what pods refer to", kind, metadata, data, self.reply()).await {
            Err(e) if e.kind() != Kind::Conflict => Err(e),
            _ => Ok(Copied { of, copy: name }),
        }
    }

    async fn write(&self, name: String, entry: Entry, now: Timestamp) -> Result<Recorded> {
        let operation = "record the release";
        let unwritable = |e: serde_json::Error| Error::new(Kind::Invalid, operation).with_source(e).without_effect();
        let text = serde_json::to_string(&entry).map_err(unwritable)?;
        let data = json!({"immutable": true, "data": {"record": text}});
        let metadata = self.metadata(name.clone(), RECORD, vec![(AT, now.0.to_string())]);
        let made = match self.configs.create(operation, CONFIG_MAP, metadata, data, self.reply()).await {
            Err(e) if e.kind() == Kind::Conflict => {
                let records = self.records().await?;
                let known = records.iter().find(|record| record.name == name).cloned();
                let newest = newest(&records, &entry.release).is_some_and(|newest| newest.name == name);
                match known {
                    Some(known) if newest => return Ok(known),
                    _ => self.renew(&name, now).await?,
                }
            }
            made => made?,
        };
        let broken = || Error::new(Kind::Unexpected, operation).with_message("the record that was made cannot be read");
        Recorded::of(made).ok_or_else(broken)
    }

    /// It is the newest again.
    async fn renew(&self, name: &str, now: Timestamp) -> Result<DynamicObject> {
        let change = json!({"metadata": {"annotations": {AT: now.0.to_string()}}});
        let request = self.request("record the release", "patch", CONFIG_MAP, name);
        let (api, params) = (self.api(CONFIG_MAP), PatchParams::default());
        self.configs.cluster.ask(self.reply(), &request, api.patch(name, &params, &Patch::Merge(&change))).await
    }

    /// Leaves the newest records, and those of `running`, and the copies that they speak of.
    pub(crate) async fn prune(&self, running: &ReleaseId) -> Result<()> {
        let records = self.records().await?;
        let keep = self.options.keep.unwrap_or(KEEP);
        let stays = |(nth, record): &(usize, &Recorded)| *nth < keep || record.release() == running;
        let (kept, gone): (Vec<_>, Vec<_>) = records.iter().enumerate().partition(|one| stays(one));
        let copies = |of: &[(usize, &Recorded)]| -> BTreeSet<Copied> {
            of.iter().flat_map(|(_, record)| record.entry.copies.clone()).collect()
        };
        for (_, record) in &gone {
            self.delete(CONFIG_MAP, &record.name, Some(&record.uid)).await?;
        }
        // Only what a record that is gone spoke of: a copy that nobody speaks of yet may be another process's, just made.
        for copy in copies(&gone).difference(&copies(&kept)) {
            self.delete(copy.of.kind(), &copy.copy, None).await?;
        }
        Ok(())
    }
    async fn delete(&self, kind: ObjectKind, name: &str, uid: Option<&str>) -> Result<()> {
        let request = self.request("delete an old record", "delete", kind, name);
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let api = self.api(kind);
        match self.configs.cluster.ask(self.reply(), &request, api.delete(name, &params)).await {
            Err(e) if !matches!(e.kind(), Kind::NotFound | Kind::Conflict) => Err(e),
            _ => Ok(()),
        }
    }

    /// How what pods refer to differs from what was recorded with a release.
    pub(crate) async fn compare(&self, record: &Recorded) -> Result<Compared> {
        let mut compared = Compared::default();
        let wanted = record.entry.copies.iter().filter(|c| !c.of.secret || self.options.secrets.contains(&c.of.name));
        for Copied { of, copy } in wanted {
            let (copied, live) = futures::join!(self.configs.copy(of.kind(), copy), self.configs.read(of));
            match copied? {
                Some(copied) => compared.add(of, &copied, live?.as_ref()),
                None => {
                    let text = format!("the copy of the {of} ({copy}) is gone: it stays as it is");
                    compared.findings.push(Finding::new(Severity::Warning, "config", text));
                }
            }
        }
        Ok(compared.bounded())
    }

    /// How what pods refer to differs from what was recorded with the newest release that is not this one.
    pub(crate) async fn since_the_one_before(&self, told: &ReleaseId) -> Result<Vec<DiffLine>> {
        let records = self.records().await?;
        let before = records.iter().find(|record| record.release() != told && record.entry.reason == Reason::Deploy);
        match before {
            Some(before) => Ok(self.compare(before).await?.lines),
            None => Ok(vec![]),
        }
    }

    /// What a rollback to this release is to put back, and what there is to say of it.
    pub(crate) async fn compare_with(&self, wanted: &ReleaseId, records: &[Recorded]) -> Result<Compared> {
        let restores = self.options.restore;
        let Some(record) = newest(records, wanted) else {
            let mut none = Compared::default();
            if restores {
                let text = "nothing was recorded of the release, so ConfigMaps stay as they are: record each deploy";
                none.findings.push(Finding::new(Severity::Warning, "config", text));
            }
            return Ok(none);
        };
        let mut compared = self.compare(record).await?;
        if !restores && !compared.restores.is_empty() {
            let changed: Vec<String> = compared.restores.iter().map(|restore| restore.object.to_string()).collect();
            let text = format!(
                "changed since the release was recorded: {}; its pods start with what is there now, unless the \
                 rollback is ordered with leave to restore ConfigMaps",
                changed.join(", ")
            );
            compared = Compared::default();
            compared.findings.push(Finding::new(Severity::Warning, "config", text));
        }
        Ok(compared)
    }

    /// Copies what is about to be overwritten, puts back what was recorded, and then sets the template. `write` tries it
    /// without effect first (true): nothing is put back for a write that would be refused. `settle` is asked what a refusal
    /// came from; where the write is not ours already, what was put back is taken back.
    pub(crate) async fn bring_back<'f, L: Send>(
        &self,
        left: &Value,
        restores: &[Restore],
        work: &Work,
        write: impl Fn(bool) -> BoxFuture<'f, Result<L>> + Send + Sync,
        settle: impl Fn(Error) -> BoxFuture<'f, Result<L>> + Send + Sync,
    ) -> Result<L> {
        if let Err(e) = write(true).await {
            return if e.kind() == Kind::Conflict { settle(e).await } else { Err(e.without_effect()) };
        }
        let label = format!("before {}", work.run());
        self.keep(left, &label, Reason::BeforeRollback, Timestamp::now()).await.map_err(|e| {
            // Copies are no effect on the target.
            let message = "what would be overwritten could not be archived first";
            Error::new(e.kind(), "archive what pods refer to")
                .with_transient(e.is_transient())
                .with_message(message)
                .with_source(e)
                .without_effect()
        })?;
        let put_back = self.configs.restore(restores, work).await?;
        match write(false).await {
            Err(e) if e.effect() == Effect::None && !e.is_transient() => match settle(e).await {
                Err(e) => Err(self.configs.take_back(put_back, e, work).await),
                ours => ours,
            },
            // Whatever became of it, what was put back belongs to what is being tried again.
            Err(e) => {
                let again = Error::new(e.kind(), "set the template").with_transient(e.is_transient());
                Err(again.with_source(e))
            }
            written => written,
        }
    }
}

/// Records the release that runs, and marks the workload, so that records are looked for.
pub(crate) async fn record_running(
    archive: &Archive<'_>,
    seen: &Observation,
    template: &Value,
    annotations: &Annotations,
    label: &str,
) -> Result<Release> {
    let operation = "record the release that runs";
    let release = crate::release_id(template);
    if let Some(part) = seen.parts.values().find(|part| !part.runs(&release)) {
        let message = format!("not just {release} runs, but {}: record when the deploy is over", part.running);
        return Err(Error::new(Kind::Conflict, operation).with_message(message).without_effect());
    }
    let recorded = archive.keep(template, label, Reason::Deploy, Timestamp::now()).await?;
    if !annotations.contains_key(RECORDED) {
        let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": archive.owner.uid})];
        marks::annotate(&mut operations, !annotations.is_empty(), [(RECORDED.to_owned(), "yes".to_owned())].into());
        archive
            .configs
            .cluster
            .patch(JsonPatch {
                operation,
                kind: archive.owner.kind,
                namespace: &archive.configs.namespace,
                name: archive.owner.name,
                operations,
                dry_run: false,
                within: archive.reply(),
            })
            .await?;
    }
    archive.prune(&release).await?;
    Ok(described(template, None, Some(recorded.at), annotations).with_label(label))
}

/// The same template, whose pods start anew: those that run already may have read what has been put back since.
pub(crate) fn started_once_more(template: &Value, key: &str) -> Value {
    let mut template = template.clone();
    if !template.get("metadata").is_some_and(Value::is_object) {
        template["metadata"] = json!({});
    }
    if !template["metadata"].get("annotations").is_some_and(Value::is_object) {
        template["metadata"]["annotations"] = json!({});
    }
    template["metadata"]["annotations"][crate::release::RESTARTED_AT] = json!(key);
    template
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn record(name: &str, release: &str, reason: Reason, at: u64) -> Recorded {
        let entry = Entry {
            format: 1,
            release: release.into(),
            label: name.into(),
            reason,
            template: json!({}),
            copies: vec![],
        };
        Recorded { name: name.into(), uid: name.into(), at: Timestamp(at), entry }
    }

    #[test]
    fn what_was_recorded_at_a_deploy_counts_first() {
        let records = [
            record("c", "1", Reason::BeforeRollback, 3),
            record("b", "1", Reason::Deploy, 2),
            record("a", "1", Reason::Deploy, 1),
            record("x", "2", Reason::BeforeRollback, 1),
        ];
        assert_eq!(newest(&records, &"1".into()).unwrap().name, "b");
        assert_eq!(newest(&records, &"2".into()).unwrap().name, "x");
        assert!(newest(&records, &"3".into()).is_none());
    }

    #[test]
    fn history_goes_on_with_records() {
        let history =
            vec![Release::new("4").with_made_at(Timestamp(40)), Release::new("3").with_made_at(Timestamp(30))];
        let records = [
            record("d", "4", Reason::Deploy, 41),
            record("c", "2", Reason::Deploy, 35),
            record("b", "1", Reason::Deploy, 10),
        ];
        let all = with_recorded(history, &records, 10);
        assert_eq!(all.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["4", "3", "2", "1"]);
        assert_eq!((all[2].made_at, all[3].made_at), (None, Some(Timestamp(10))), "no date is out of order");
        assert_eq!(with_recorded(all, &records, 3).len(), 3);
    }

    #[test]
    fn to_start_once_more_makes_no_other_release() {
        for template in [json!({"spec": {"containers": []}}), json!({"metadata": {"annotations": {"a": "b"}}})] {
            let again = started_once_more(&template, "run/step");
            assert_ne!(again, template);
            assert_eq!(crate::release_id(&again), crate::release_id(&template));
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let written = record("a", "1", Reason::Deploy, 7);
        let text = serde_json::to_string(&written.entry).unwrap();
        let object = |text: &str| {
            serde_json::from_value::<DynamicObject>(json!({"metadata": {"name": "a", "uid": "a",
                "annotations": {AT: "7"}}, "data": {"record": text}}))
            .unwrap()
        };
        let read = Recorded::of(object(&text)).unwrap();
        assert_eq!((read.entry.clone(), read.at), (written.entry, Timestamp(7)));
        assert!(Recorded::of(object(&text.replace("\"format\":1", "\"format\":2"))).is_none(), "of a newer form");
    }
}
