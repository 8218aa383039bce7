//! A Rollout and its ReplicaSets, as they were read.

use crate::{
    marks::Annotations,
    prepare::unavailable,
    release::{release_id, without_hash},
    revisions::{Revision, releases, selector_of},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use rollback_core::{Error, Kind, Release, ReleaseId, Result};
use serde_json::Value;

/// The label by which the controller tells its ReplicaSets apart.
pub(super) const HASH: &str = "rollouts-pod-template-hash";
/// The controller's count of revisions.
const REVISION: &str = "rollout.argoproj.io/revision";
/// Labels and annotations that a ReplicaSet's pods have only while it is the canary, or the stable one.
const EPHEMERAL: &str = "rollout.argoproj.io/ephemeral-metadata";
/// When a ReplicaSet that gets no traffic any more is scaled down.
const DEADLINE: &str = "scale-down-deadline";

/// A Rollout as it was read.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) metadata: ObjectMeta,
    pub(super) uid: String,
    /// The object that holds the template.
    pub(super) source: Source,
    pub(super) replicas: u32,
    /// How many pods it takes away at once.
    pub(super) away: u32,
    pub(super) paused: bool,
    /// The controller has taken up the last change of the spec.
    pub(super) taken_up: bool,
    pub(super) phase: String,
    pub(super) message: String,
    /// The controller's hashes of the template, and of what is stable.
    pub(super) current: String,
    pub(super) stable: String,
    pub(super) aborted: bool,
    /// It waits at a pause of its steps.
    pub(super) waits: bool,
    /// Pods of all templates, by the controller's count, and those of them that are available.
    pub(super) available: u32,
    pub(super) selector: String,
    pub(super) history_limit: u64,
}

/// What holds the template: the Rollout itself, or a Deployment.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The Deployment's name.
    pub(super) workload: Option<String>,
    pub(super) uid: String,
    pub(super) template: Value,
    pub(super) annotations: Annotations,
}

fn unreadable(why: impl Into<String>) -> Error {
    Error::new(Kind::Unexpected, "read the Rollout").with_message(why).without_effect()
}

fn text(of: &Value, at: &str) -> String {
    of.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(of: &Value, at: &str, or: u32) -> u32 {
    of.pointer(at).and_then(Value::as_u64).map_or(or, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// The Deployment that a Rollout takes its template from.
pub(super) fn workload_of(rollout: &DynamicObject) -> Result<Option<String>> {
    let Some(of) = rollout.data.pointer("/spec/workloadRef").filter(|of| !of.is_null()) else { return Ok(None) };
    let kind = text(of, "/kind");
    if kind != "Deployment" {
        let why = format!("its workloadRef is a {kind}: only Deployments are supported");
        return Err(Error::new(Kind::Unsupported, "read the Rollout").with_message(why).without_effect());
    }
    Ok(Some(text(of, "/name")))
}

impl Live {
    pub(super) fn of(object: DynamicObject, workload: Option<DynamicObject>) -> Result<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let own = data.pointer("/spec/selector").is_some_and(|selector| !selector.is_null());
        let selector = selector_of(workload.as_ref().filter(|_| !own).map_or(&data, |workload| &workload.data))?;
        let uid = metadata.uid.clone().unwrap_or_default();
        // A number as text, unlike everywhere else.
        let mut taken_up = text(&data, "/status/observedGeneration").parse().ok() == metadata.generation;
        let (holder, spec) = workload.as_ref().map_or((&metadata, &data), |of| (&of.metadata, &of.data));
        if let Some(workload) = &workload {
            let seen = text(&data, "/status/workloadObservedGeneration").parse().ok();
            taken_up &= seen == workload.metadata.generation;
        }
        let source = Source {
            workload: workload.as_ref().and_then(|of| of.metadata.name.clone()),
            uid: holder.uid.clone().unwrap_or_default(),
            template: spec.pointer("/spec/template").cloned().ok_or_else(|| unreadable("it has no pod template"))?,
            annotations: holder.annotations.clone().unwrap_or_default(),
        };
        let replicas = number(&data, "/spec/replicas", 1);
        // The sides of a blue/green are whole.
        let canary = data.pointer("/spec/strategy/canary");
        let away = canary.map_or(0, |canary| unavailable(canary.get("maxUnavailable"), "25%", replicas));
        let pauses = data.pointer("/status/pauseConditions").and_then(Value::as_array).map_or(0, Vec::len);
        Ok(Self {
            uid,
            source,
            replicas,
            away,
            paused: data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false),
            taken_up,
            phase: text(&data, "/status/phase"),
            message: text(&data, "/status/message"),
            current: text(&data, "/status/currentPodHash"),
            stable: text(&data, "/status/stableRS"),
            aborted: data.pointer("/status/abort").and_then(Value::as_bool).unwrap_or(false),
            waits: pauses > 0,
            available: number(&data, "/status/availableReplicas", 0),
            history_limit: number(&data, "/spec/revisionHistoryLimit", 10).into(),
            selector,
            metadata,
        })
    }
    /// What it is told to run. The server fills defaults in of a ReplicaSet's template, and not of a Rollout's, so the
    /// controller's own word counts for which one belongs to it.
    pub(super) fn told(&self, revisions: &[Revision]) -> ReleaseId {
        let own = release_id(&self.source.template);
        let known = revisions.iter().any(|revision| revision.release == own);
        let current = revisions.iter().find(|revision| self.taken_up && revision.hash == self.current);
        current.filter(|_| !known).map_or(own, |revision| revision.release.clone())
    }
    /// Each release once, as it was last deployed, newest first.
    pub(super) fn history(&self, revisions: &[Revision], limit: usize) -> Vec<Release> {
        let Source { template, annotations, .. } = &self.source;
        releases(&self.told(revisions), template, annotations, revisions, limit)
    }
    /// What it lands on when it is aborted.
    pub(super) fn stable_of<'a>(&self, revisions: &'a [Revision]) -> Option<&'a Revision> {
        revisions.iter().find(|revision| !self.stable.is_empty() && revision.hash == self.stable)
    }
}

/// A ReplicaSet of the Rollout: a revision of it.
pub(super) fn revision(object: DynamicObject) -> Option<Revision> {
    let DynamicObject { mut metadata, mut data, .. } = object;
    let annotations = metadata.annotations.clone().unwrap_or_default();
    let mut template = data.pointer_mut("/spec/template").map(Value::take)?;
    for (map, key) in passing(&annotations) {
        remove(&mut template, &map, &key);
    }
    remove(&mut template, "labels", HASH);
    let hash = metadata.labels.as_mut().and_then(|labels| labels.remove(HASH)).unwrap_or_default();
    let number = annotations.get(REVISION).and_then(|n| n.parse().ok()).unwrap_or(0);
    Revision::of(metadata, number, without_hash(&template), hash)
}

/// It gets no traffic any more, and is kept for a while.
pub(super) fn is_idle(revision: &Revision) -> bool {
    revision.annotations.get(DEADLINE).is_some_and(|deadline| !deadline.is_empty())
}

fn remove(template: &mut Value, map: &str, key: &str) {
    let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if let Some(inner) = metadata.get_mut(map).and_then(Value::as_object_mut) {
        inner.remove(key);
        if inner.is_empty() {
            metadata.remove(map);
        }
    }
}

/// Which of a template's labels and annotations come and go with the ReplicaSet's role.
fn passing(annotations: &Annotations) -> Vec<(String, String)> {
    let passing: Value =
        annotations.get(EPHEMERAL).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    ["labels", "annotations"]
        .iter()
        .flat_map(|map| {
            let keys = passing.get(map).and_then(Value::as_object);
            keys.into_iter().flat_map(|keys| keys.keys()).map(|key| ((*map).to_owned(), key.clone()))
        })
        .collect()
}
