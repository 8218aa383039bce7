//! A Canary, its primary and its target, as they were read.

use super::same::same_but_for_flagger;
use crate::{
    owner::is_controlled_by,
    release::{release_id, without_hash},
};
use kube::api::DynamicObject;
use rollback_core::{Error, Kind, Observation, ReleaseId, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where Flagger is with a Canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no primary yet.
    Starting,
    /// A run that its rollback webhook can end.
    Running,
    /// A run that nothing ends any more.
    Promoting,
    /// Nothing is under way, and the primary has the traffic.
    Resting,
    /// The same, after a run that failed.
    Failed,
    /// Its deletion.
    Terminating,
    Unknown,
}

/// A Canary as it was read.
#[derive(Clone, Debug)]
pub(super) struct Canary {
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) target: String,
    /// The Service that has the traffic.
    pub(super) service: String,
    pub(super) phase: Phase,
    /// As Flagger calls it.
    pub(super) phase_name: String,
    pub(super) weight: u64,
    pub(super) failed_checks: u64,
    pub(super) threshold: u64,
    /// Flagger's hash of what it brings out.
    pub(super) applied: String,
    /// When the phase last changed.
    pub(super) transition: String,
    /// Why, in Flagger's words.
    pub(super) message: String,
    /// Of type `rollback`.
    pub(super) webhooks: Vec<String>,
    pub(super) skips_analysis: bool,
    pub(super) suspended: bool,
    pub(super) reverts_on_deletion: bool,
}

fn text(of: &Value, at: &str) -> String {
    of.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Canary {
    pub(super) fn of(object: DynamicObject) -> Result<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let kind = text(&data, "/spec/targetRef/kind");
        if kind != "Deployment" {
            let why = format!("its targetRef is a {kind}: only Deployments are supported");
            return Err(Error::new(Kind::Unsupported, "read the Canary").with_message(why).without_effect());
        }
        let target = text(&data, "/spec/targetRef/name");
        let yes = |at: &str| data.pointer(at).and_then(Value::as_bool).unwrap_or(false);
        let number = |at: &str| data.pointer(at).and_then(Value::as_u64).unwrap_or(0);
        let phase_name = text(&data, "/status/phase");
        let phase = match phase_name.as_str() {
            "" | "Initializing" => Phase::Starting,
            "Progressing" | "Waiting" | "WaitingPromotion" => Phase::Running,
            "Promoting" | "Finalising" => Phase::Promoting,
            "Initialized" | "Succeeded" => Phase::Resting,
            "Failed" => Phase::Failed,
            "Terminating" | "Terminated" => Phase::Terminating,
            _ => Phase::Unknown,
        };
        // An older spelling is still read by Flagger.
        let analysis = data.pointer("/spec/analysis").or_else(|| data.pointer("/spec/canaryAnalysis"));
        let hooks = analysis.and_then(|analysis| analysis.get("webhooks")).and_then(Value::as_array);
        let webhooks = hooks.into_iter().flatten().filter(|hook| text(hook, "/type") == "rollback");
        let service = text(&data, "/spec/service/name");
        let conditions = data.pointer("/status/conditions").and_then(Value::as_array);
        let promoted = conditions.into_iter().flatten().find(|condition| text(condition, "/type") == "Promoted");
        Ok(Self {
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            service: if service.is_empty() { target.clone() } else { service },
            target,
            phase,
            phase_name,
            weight: number("/status/canaryWeight"),
            failed_checks: number("/status/failedChecks"),
            threshold: analysis
                .and_then(|analysis| analysis.get("threshold"))
                .and_then(Value::as_u64)
                .unwrap_or(1)
                .max(1),
            applied: text(&data, "/status/lastAppliedSpec"),
            transition: text(&data, "/status/lastTransitionTime"),
            message: promoted.map(|condition| text(condition, "/message")).unwrap_or_default(),
            webhooks: webhooks.map(|hook| text(hook, "/url")).collect(),
            skips_analysis: yes("/spec/skipAnalysis"),
            suspended: yes("/spec/suspend"),
            reverts_on_deletion: yes("/spec/revertOnDeletion"),
        })
    }
    pub(super) fn in_flight(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Promoting | Phase::Starting)
    }
    /// How far a run is, for people.
    pub(super) fn progress(&self) -> String {
        format!(
            "Flagger says {}: weight {}, {} of {} checks that may fail have failed",
            if self.phase_name.is_empty() { "nothing yet" } else { &self.phase_name },
            self.weight,
            self.failed_checks,
            self.threshold
        )
    }
}

/// The Deployment that Flagger steers.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) told: ReleaseId,
    pub(super) replicas: u32,
    /// Its releases, by what is the same in the primary's copy.
    releases: BTreeMap<ReleaseId, ReleaseId>,
}

impl Target {
    pub(super) fn of(object: DynamicObject, replica_sets: Vec<DynamicObject>) -> Self {
        let template = object.data.pointer("/spec/template").cloned().unwrap_or_default();
        let mut sets = controlled(&object, replica_sets);
        // The last one wins, so what it is told comes last.
        sets.push(template.clone());
        Self {
            told: release_id(&template),
            replicas: replicas(&object),
            releases: sets.iter().map(|of| (same_but_for_flagger(of), release_id(of))).collect(),
        }
    }
    /// The release of the target that a template of the primary is a copy of; its own id, where the target's history does
    /// not know it any more.
    pub(super) fn release_of(&self, of_primary: &ReleaseId) -> ReleaseId {
        self.releases.get(of_primary).cloned().unwrap_or_else(|| of_primary.clone())
    }
}

/// The copy of the target that has the traffic.
#[derive(Clone, Debug)]
pub(super) struct Primary {
    pub(super) seen: Observation,
    pub(super) replicas: u32,
    /// Labels of its pods.
    pub(super) selects: BTreeMap<String, String>,
    /// What it is told, less what Flagger changed in it.
    pub(super) told: ReleaseId,
    /// The same of each of its releases.
    same: BTreeMap<ReleaseId, ReleaseId>,
}

impl Primary {
    pub(super) fn of(object: DynamicObject, replica_sets: Vec<DynamicObject>, seen: Observation) -> Self {
        let template = object.data.pointer("/spec/template").cloned().unwrap_or_default();
        let selects = object.data.pointer("/spec/selector/matchLabels").cloned().unwrap_or_default();
        let mut sets = controlled(&object, replica_sets);
        sets.push(template.clone());
        Self {
            seen,
            replicas: replicas(&object),
            selects: serde_json::from_value(selects).unwrap_or_default(),
            told: same_but_for_flagger(&template),
            same: sets.iter().map(|of| (release_id(of), same_but_for_flagger(of))).collect(),
        }
    }
    /// A release of the primary's own, as the target knows it.
    pub(super) fn as_target(&self, target: &Target, own: &ReleaseId) -> ReleaseId {
        self.same.get(own).map_or_else(|| own.clone(), |same| target.release_of(same))
    }
}

fn replicas(of: &DynamicObject) -> u32 {
    let replicas = of.data.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    u32::try_from(replicas).unwrap_or(u32::MAX)
}

/// Templates of the ReplicaSets that a Deployment controls, in the order of their making.
fn controlled(by: &DynamicObject, mut sets: Vec<DynamicObject>) -> Vec<Value> {
    sets.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let mine = |set: &DynamicObject| by.metadata.uid.as_deref().is_some_and(|by| is_controlled_by(&set.metadata, by));
    let template = |set: &DynamicObject| set.data.pointer("/spec/template").map(without_hash);
    sets.iter().filter(|set| mine(set)).filter_map(template).collect()
}

/// What a Service selects its pods by.
pub(super) fn selects(service: &DynamicObject) -> Option<BTreeMap<String, String>> {
    serde_json::from_value(service.data.pointer("/spec/selector")?.clone()).ok()
}
