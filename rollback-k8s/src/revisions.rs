//! The revisions that a controller keeps of a workload, ReplicaSets and ControllerRevisions: how the one of a release is
//! found, how history shows them, and what is remembered of them.
//!
//! Not here: how a pod names its revision, and what a workload of each kind is told.

use crate::{
    config_maps::Compared,
    kinds::DEPLOYMENT,
    marks::Annotations,
    owner::{controller, is_controlled_by},
    record::{Archive, RECORDED, Recorded, newest},
    release::{described, each_once, label, release_id, revision, without_hash},
    watches::Kept,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{api::DynamicObject, core::Selector};
use rollback_core::{Error, Kind, Release, ReleaseId, Result, Timestamp};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A revision as it was read. Its template is kept as its controller would write it.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// 0 where nobody counted.
    pub(crate) number: i64,
    pub(crate) release: ReleaseId,
    pub(crate) template: Value,
    pub(crate) annotations: Annotations,
    /// What its controller labels its pods with, where that is asked for.
    pub(crate) hash: String,
    created: Option<Timestamp>,
    /// The workload's uid.
    controller: Option<String>,
}

impl Revision {
    pub(crate) fn of(metadata: ObjectMeta, number: i64, template: Value, hash: String) -> Option<Self> {
        let created = metadata.creation_timestamp.and_then(|at| u64::try_from(at.0.as_millisecond()).ok());
        Some(Self {
            name: metadata.name?,
            uid: metadata.uid?,
            number,
            release: release_id(&template),
            template,
            annotations: metadata.annotations.unwrap_or_default(),
            hash,
            created: created.map(Timestamp),
            controller: controller(&metadata.owner_references.unwrap_or_default()),
        })
    }
    /// A Deployment's.
    pub(crate) fn of_replica_set(object: DynamicObject) -> Option<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let number = metadata.annotations.as_ref().map_or(0, revision);
        let template = without_hash(data.pointer("/spec/template")?);
        Self::of(metadata, number, template, String::new())
    }
    /// One that only a record knows.
    pub(crate) fn recorded(record: &Recorded) -> Self {
        Self {
            name: record.name.clone(),
            uid: record.uid.clone(),
            number: 0,
            release: record.release().clone(),
            template: without_hash(record.template()),
            annotations: Annotations::new(),
            hash: String::new(),
            created: Some(record.at()),
            controller: None,
        }
    }
    pub(crate) fn described(&self) -> Release {
        described(&self.template, Some(self.number).filter(|n| *n > 0), self.created, &self.annotations)
    }
}

/// As shared watches keep the ReplicaSets of Deployments.
impl Kept for Revision {
    type Object = DynamicObject;
    fn metadata(object: &DynamicObject) -> &ObjectMeta {
        &object.metadata
    }
    fn of(object: DynamicObject) -> Option<Self> {
        Self::of_replica_set(object)
    }
    fn found_by(&self, _: &str) -> Vec<String> {
        self.controller.iter().cloned().collect()
    }
}

/// The revisions that a workload controls, by its uid; the newest first.
pub(crate) fn newest_first(
    of: &str,
    objects: Vec<DynamicObject>,
    read: impl Fn(DynamicObject) -> Option<Revision>,
) -> Vec<Revision> {
    let own = objects.into_iter().filter(|object| is_controlled_by(&object.metadata, of));
    sorted(own.filter_map(read).collect())
}

/// The newest first.
pub(crate) fn sorted(mut all: Vec<Revision>) -> Vec<Revision> {
    all.sort_by(|a, b| (b.number, &b.created, &b.name).cmp(&(a.number, &a.created, &a.name)));
    all
}

/// Each release once, as it was last deployed, newest first. Of what was told last, the controller may not have made its
/// revision yet.
pub(crate) fn releases(
    told: &ReleaseId,
    template: &Value,
    annotations: &Annotations,
    revisions: &[Revision],
    limit: usize,
) -> Vec<Release> {
    let unmade = revisions.iter().all(|revision| revision.release != *told);
    let unmade = unmade.then(|| described(template, None, None, annotations));
    each_once(unmade, revisions.iter().map(Revision::described), limit)
}

/// The one with this number.
pub(crate) fn numbered(revisions: &[Revision], number: i64) -> Result<&Revision> {
    let found = revisions.iter().find(|revision| revision.number == number && number > 0);
    found.ok_or_else(|| {
        let there: Vec<String> = revisions.iter().map(|revision| revision.number.to_string()).collect();
        Error::new(Kind::NotFound, "find the revision")
            .with_message(format!("there is no revision {number}, only {}", there.join(", ")))
            .without_effect()
    })
}

/// None of this release is left.
pub(crate) fn gone(what: &str, wanted: &ReleaseId, limit: u64, revisions: &[Revision]) -> Error {
    let there: Vec<String> = revisions
        .iter()
        .map(|revision| format!("{} is {}", label(&revision.template, Some(revision.number)), revision.release))
        .collect();
    Error::new(Kind::NotFound, "find the release")
        .with_message(format!(
            "no {what} of {wanted} is left: revisionHistoryLimit keeps {limit} old ones. There are: {}",
            if there.is_empty() { "none".into() } else { there.join("; ") }
        ))
        .without_effect()
}

/// What was approved: by its name, with this uid, and as this release.
pub(crate) fn still_there<'a>(
    revisions: &'a [Revision],
    name: &str,
    uid: &str,
    release: &ReleaseId,
) -> Result<&'a Revision> {
    let found = revisions.iter().find(|revision| revision.uid == uid && revision.release == *release);
    found.ok_or_else(|| {
        Error::new(Kind::Stale, "find the release")
            .with_message(format!("{name} is gone, or is another one now"))
            .without_effect()
    })
}

impl Archive<'_> {
    /// What keeps revisions of its workload.
    fn revision_kind(&self) -> &'static str {
        if self.owner.kind == DEPLOYMENT { "ReplicaSet" } else { "ControllerRevision" }
    }
    /// The revision of a release (of several, the one that was deployed last) or its record, and how its configuration
    /// differs. Records are asked for only where there may be some.
    pub(crate) async fn find(
        &self,
        told: &ReleaseId,
        annotations: &Annotations,
        revisions: &[Revision],
        wanted: &ReleaseId,
        limit: u64,
    ) -> Result<(Revision, Compared)> {
        let found = revisions.iter().find(|revision| revision.release == *wanted).cloned();
        let restores = self.options.restore;
        let records = if annotations.contains_key(RECORDED) || restores || found.is_none() {
            self.records().await?
        } else {
            vec![]
        };
        let to = found.or_else(|| newest(&records, wanted).map(Revision::recorded));
        let what = format!("{} and no record", self.revision_kind());
        let to = to.ok_or_else(|| gone(&what, wanted, limit, revisions))?;
        if !restores && (records.is_empty() || *told == *wanted) {
            return Ok((to, Compared::default()));
        }
        Ok((to, self.compare_with(wanted, &records).await?))
    }
    /// The record that was approved.
    pub(crate) async fn approved(&self, name: &str, uid: &str, release: &ReleaseId) -> Result<Revision> {
        let records: Vec<Revision> = self.records().await?.iter().map(Revision::recorded).collect();
        still_there(&records, name, uid, release).cloned()
    }
}

/// A workload's selector, as the API takes it.
pub(crate) fn selector_of(object: &Value) -> Result<String> {
    parsed_selector_of(object).map(|selector| selector.to_string())
}

/// A workload's selector, to select with.
pub(crate) fn parsed_selector_of(object: &Value) -> Result<Selector> {
    let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
        let e = Error::new(Kind::Unexpected, "read a workload").with_source(e);
        e.with_message("its selector cannot be read").without_effect()
    };
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    let selector: LabelSelector = serde_json::from_value(selector).map_err(|e| unreadable(e.into()))?;
    Selector::try_from(selector).map_err(|e| unreadable(e.into()))
}

/// What revisions are. The template of one does not change, so it is asked for once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered(Arc<Mutex<Vec<Arc<Revision>>>>);

impl Remembered {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Revision>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn find(&self, is: impl Fn(&Revision) -> bool) -> Option<Arc<Revision>> {
        self.all().iter().find(|revision| is(revision)).cloned()
    }
    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<Revision>> {
        self.find(|revision| revision.uid == uid)
    }
    pub(crate) fn by_hash(&self, hash: &str) -> Option<Arc<Revision>> {
        self.find(|revision| revision.hash == hash)
    }
    /// Only those that are there: what was pruned is forgotten.
    pub(crate) fn learn(&self, revisions: &[Revision]) {
        *self.all() = revisions.iter().cloned().map(Arc::new).collect();
    }
    /// The uids of all, with the release of each.
    pub(crate) fn uids(&self) -> Vec<(String, ReleaseId)> {
        self.all().iter().map(|known| (known.uid.clone(), known.release.clone())).collect()
    }
    /// The names of those of a release.
    pub(crate) fn names(&self, release: &ReleaseId) -> Vec<String> {
        self.all().iter().filter(|known| known.release == *release).map(|known| known.name.clone()).collect()
    }
    /// The template of each release.
    pub(crate) fn templates(&self) -> BTreeMap<ReleaseId, Value> {
        self.all().iter().map(|known| (known.release.clone(), known.template.clone())).collect()
    }
}
