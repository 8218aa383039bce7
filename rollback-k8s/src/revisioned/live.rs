//! A StatefulSet or a DaemonSet and its ControllerRevisions, as they were read.

use super::Flavour;
use crate::{
    marks::Annotations,
    pods::PodState,
    release::{release_id, without_hash},
    revisions::{Revision, releases, selector_of},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use rollback_core::{Error, Kind, Release, ReleaseId, Result};
use serde_json::Value;

/// How a DaemonSet's revision names itself on its pods. A StatefulSet's has its own name there.
const HASH: &str = "controller-revision-hash";

/// As it was read. The template is kept as the server wrote it: a write compares with it.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) flavour: Flavour,
    pub(super) metadata: ObjectMeta,
    pub(super) uid: String,
    pub(super) annotations: Annotations,
    pub(super) template: Value,
    /// What the template is.
    pub(super) told: ReleaseId,
    pub(super) strategy: Value,
    pub(super) history_limit: u64,
    /// The controller has taken up the last change of the spec.
    pub(super) taken_up: bool,
    /// A StatefulSet's replicas; the nodes that a DaemonSet has to be on, by its controller's count.
    pub(super) count: u32,
    /// Pods of the newest revision, by the controller's count.
    pub(super) updated: u32,
    /// Pods that have been ready for `minReadySeconds`.
    pub(super) available: u32,
    /// The controller waits for each pod to be ready before it touches the next.
    pub(super) ordered: bool,
    /// The ordinal below which pods are left as they are.
    pub(super) partition: u32,
    pub(super) selector: String,
    /// What pods of the newest revision have as their label, where the workload says it.
    pub(super) update_revision: Option<String>,
}

fn unreadable(why: impl Into<String>) -> Error {
    Error::new(Kind::Unexpected, "read the workload").with_message(why).without_effect()
}

impl Live {
    pub(super) fn of(flavour: Flavour, object: DynamicObject) -> Result<Self> {
        let DynamicObject { metadata, mut data, .. } = object;
        let count = |at: &str, or: u64| data.pointer(at).and_then(Value::as_u64).unwrap_or(or);
        let small = |at: &str, or: u64| u32::try_from(count(at, or)).unwrap_or(u32::MAX);
        let is = |at: &str, wanted: &str| data.pointer(at).and_then(Value::as_str) == Some(wanted);
        let set = flavour == Flavour::StatefulSet;
        let (all, updated, available) = if set {
            ("/spec/replicas", "/status/updatedReplicas", "/status/availableReplicas")
        } else {
            ("/status/desiredNumberScheduled", "/status/updatedNumberScheduled", "/status/numberAvailable")
        };
        let generation = u64::try_from(metadata.generation.unwrap_or_default()).unwrap_or(0);
        let first = small("/spec/ordinals/start", 0);
        let live = Self {
            flavour,
            uid: metadata.uid.clone().unwrap_or_default(),
            annotations: metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
            told: release_id(&Value::Null),
            template: Value::Null,
            strategy: data.pointer("/spec/updateStrategy").cloned().unwrap_or_default(),
            history_limit: count("/spec/revisionHistoryLimit", 10),
            taken_up: count("/status/observedGeneration", 0) >= generation,
            count: small(all, u64::from(set)),
            updated: small(updated, 0),
            available: small(available, 0),
            ordered: set && !is("/spec/podManagementPolicy", "Parallel"),
            partition: first.saturating_add(small("/spec/updateStrategy/rollingUpdate/partition", 0)),
            selector: selector_of(&data)?,
            update_revision: data.pointer("/status/updateRevision").and_then(Value::as_str).map(Into::into),
            metadata,
        };
        let template = data.pointer_mut("/spec/template").map(Value::take);
        let template = template.ok_or_else(|| unreadable("it has no pod template"))?;
        Ok(Self { told: release_id(&template), template, ..live })
    }
    /// Each release once, as it was last deployed, newest first.
    pub(super) fn history(&self, revisions: &[Revision], limit: usize) -> Vec<Release> {
        releases(&self.told, &self.template, &self.annotations, revisions, limit)
    }
    /// Its controller replaces pods only once somebody has deleted them.
    pub(super) fn on_delete(&self) -> bool {
        self.strategy.get("type").and_then(Value::as_str) == Some("OnDelete")
    }
    /// The partition keeps this pod as it is.
    pub(super) fn holds(&self, pod: &PodState) -> bool {
        self.flavour == Flavour::StatefulSet && ordinal(&pod.name).is_some_and(|n| n < self.partition)
    }
}

/// The number at the end of the name of a StatefulSet's pod.
pub(super) fn ordinal(pod: &str) -> Option<u32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

/// A ControllerRevision.
pub(super) fn revision(flavour: Flavour, object: DynamicObject) -> Option<Revision> {
    let DynamicObject { mut metadata, mut data, .. } = object;
    let number = data.get("revision").and_then(Value::as_i64).unwrap_or(0);
    let mut template = data.pointer_mut("/data/spec/template").map(Value::take)?;
    // It is stored as a strategic merge patch.
    template.as_object_mut()?.remove("$patch");
    let hash = match flavour {
        Flavour::StatefulSet => metadata.name.clone()?,
        Flavour::DaemonSet => metadata.labels.as_mut()?.remove(HASH)?,
    };
    Revision::of(metadata, number, without_hash(&template), hash)
}
