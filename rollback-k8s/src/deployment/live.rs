//! A Deployment as it was read.

use crate::{
    connect::FIELD_MANAGER,
    marks::{self, Annotations},
    owner::owners,
    release::release_id,
    revisions::{Revision, parsed_selector_of, releases},
    watches::Kept,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::{api::DynamicObject, core::Selector};
use rollback_core::{Error, Kind, Release, ReleaseId, Result};
use serde_json::Value;

/// A Deployment as it was read. Its template is kept as the server wrote it: a write compares with it.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Who else writes it.
    pub(super) owners: Vec<String>,
    pub(super) annotations: Annotations,
    pub(super) template: Value,
    /// What the template is.
    pub(super) told: ReleaseId,
    pub(super) strategy: Value,
    pub(super) paused: bool,
    pub(super) replicas: u32,
    /// How many a restart of ours took away, where nobody has scaled it since.
    pub(super) restarts_to: Option<u32>,
    pub(super) history_limit: u64,
    /// The controller has taken up the last change of the spec.
    pub(super) taken_up: bool,
    /// Pods of the template, by the controller's count.
    pub(super) updated: u32,
    /// Pods of all templates that are not being deleted.
    pub(super) existing: u32,
    /// Pods that have been ready for `minReadySeconds`.
    pub(super) available: u32,
    pub(super) conditions: Vec<Condition>,
    pub(crate) selector: Selector,
}

/// What the controller says of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
}

impl Condition {
    /// It says what keeps pods from coming.
    pub(super) fn complains(&self) -> bool {
        match self.kind.as_str() {
            "ReplicaFailure" => self.status == "True",
            "Progressing" => self.status == "False" && self.reason == "ProgressDeadlineExceeded",
            _ => false,
        }
    }
    /// Right after a change, a condition may still speak of another ReplicaSet than these.
    pub(super) fn speaks_of(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.message.contains(&format!("\"{name}")))
    }
}

fn unreadable(why: impl Into<String>) -> Error {
    Error::new(Kind::Unexpected, "read the Deployment").with_message(why).without_effect()
}

/// The annotation stays when somebody scales by other means. So it counts only while it was we who set the replicas last.
fn restarts_to(metadata: &ObjectMeta) -> Option<u32> {
    let ours = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref();
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    };
    let before = metadata.annotations.as_ref()?.get(marks::REPLICAS)?.parse().ok();
    before.filter(|_| metadata.managed_fields.iter().flatten().any(ours))
}

impl Live {
    pub(super) fn of(object: DynamicObject) -> Result<Self> {
        let DynamicObject { metadata, mut data, .. } = object;
        let count = |at: &str, or: u64| data.pointer(at).and_then(Value::as_u64).unwrap_or(or);
        let small = |at: &str, or: u64| u32::try_from(count(at, or)).unwrap_or(u32::MAX);
        let conditions = data.pointer("/status/conditions").cloned().unwrap_or(Value::Array(vec![]));
        let generation = metadata.generation.unwrap_or_default();
        let replicas = small("/spec/replicas", 1);
        let live = Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation,
            owners: owners(&metadata),
            told: release_id(&Value::Null),
            template: Value::Null,
            strategy: data.pointer("/spec/strategy").cloned().unwrap_or_default(),
            paused: data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false),
            replicas,
            restarts_to: restarts_to(&metadata).filter(|_| replicas == 0),
            history_limit: count("/spec/revisionHistoryLimit", 10),
            taken_up: count("/status/observedGeneration", 0) >= u64::try_from(generation).unwrap_or(0),
            updated: small("/status/updatedReplicas", 0),
            existing: small("/status/replicas", 0),
            available: small("/status/availableReplicas", 0),
            conditions: serde_json::from_value(conditions).unwrap_or_default(),
            selector: parsed_selector_of(&data)?,
            annotations: metadata.annotations.unwrap_or_default(),
        };
        let template = data.pointer_mut("/spec/template").map(Value::take);
        let template = template.ok_or_else(|| unreadable("it has no pod template"))?;
        Ok(Self { told: release_id(&template), template, ..live })
    }
    /// Each release once, as it was last deployed, newest first.
    pub(super) fn history(&self, revisions: &[Revision], limit: usize) -> Vec<Release> {
        releases(&self.told, &self.template, &self.annotations, revisions, limit)
    }
    /// The run of ours that paused it, if it is our pause that holds.
    pub(super) fn paused_by_us(&self) -> Option<&str> {
        let (run, release) = self.annotations.get(marks::PAUSED)?.rsplit_once(' ')?;
        // Somebody who resumes leaves the annotation; with another template, it is not about this pause.
        (self.paused && self.told == release).then_some(run)
    }
    /// A complaint of this kind.
    pub(super) fn complaint(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind && condition.complains())
    }
    /// How many pods a rolling update may take away, is a matter of none or some.
    pub(super) fn takes_none_away(&self) -> bool {
        let most = self.strategy.pointer("/rollingUpdate/maxUnavailable");
        most.is_some_and(|most| most.as_u64() == Some(0) || most.as_str() == Some("0%"))
    }
}

impl Kept for Live {
    type Object = DynamicObject;
    fn metadata(object: &DynamicObject) -> &ObjectMeta {
        &object.metadata
    }
    fn of(object: DynamicObject) -> Option<Self> {
        Self::of(object).ok()
    }
    fn found_by(&self, _: &str) -> Vec<String> {
        vec![]
    }
}
