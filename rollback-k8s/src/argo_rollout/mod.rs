//! A Rollout of Argo Rollouts: aborted, reverted and promoted through its controller, never behind its back.
//!
//! Not here: the controller's own analysis, which decides by itself, and traffic objects, which are the controller's.

mod apply;
mod checks;
mod live;
mod observe;
mod prepare;

use crate::{
    Cluster,
    evidence::Saved,
    kinds::{DEPLOYMENT, POD, REPLICA_SET, ROLLOUT},
    pods::PodState,
    revisions::{Revision, newest_first},
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use live::{Live, revision};
use rollback_core::{
    Applied, Approved, Capabilities, Change, ChangeKind, Error, EvidenceSource, Fencing, Kind, Look, Observation,
    OnUnknown, Pacing, Prepared, Release, ReleaseId, Result, Stored, Target, TargetId, Token, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// A Rollout of Argo Rollouts, canary or blue/green, with its template in itself or in a Deployment that it refers to
/// (`workloadRef`). Cheap to clone.
///
/// # What it does
/// - **In flight**: aborted, it lands on its stable release. The abort is written to its status, so the traffic is back at
///   once; then the template is set back, because an aborted Rollout keeps the bad one, and the next retry would bring it
///   again. Both are one [`Change::Abort`], and it is in flight until both are done.
/// - **To another release**, in flight or after promotion: the template of that release's ReplicaSet, in one guarded write.
///   Its steps would run again, and stop at `pause: {}` until somebody comes; so the controller is told to skip them
///   (`promoteFull` in the status), unless [`through_its_steps`](ArgoRollout::through_its_steps) was said. Where the spec has
///   a `rollbackWindow` that the release is in, the controller skips them by itself.
/// - **With nothing in flight nothing is aborted**: the abort compares the hashes that were read, so a promotion that ended
///   meanwhile is not aborted either.
/// - It has settled once the controller has taken up the generation, says Healthy, its stable ReplicaSet is the one of the
///   template, all replicas of it are available, and pods of other releases are gone. For some 20 ms after a write it still
///   says Healthy of what was before.
/// - ReplicaSets that have lost their traffic and wait for `scaleDownDelaySeconds` do not count as running.
/// - A Rollout that somebody paused (`spec.paused`) is refused, unless [`lifting_pause`](ArgoRollout::lifting_pause).
///
/// A release is the pod template by its content ([`release_id`](crate::release_id)); history is the ReplicaSets left.
///
/// # Permissions
/// ```yaml
/// rules:
///   - {apiGroups: ["argoproj.io"], resources: ["rollouts"], verbs: ["get", "patch"]}
///   - {apiGroups: ["argoproj.io"], resources: ["rollouts/status"], verbs: ["patch"]}
///   - {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
///   # Where it has a workloadRef:
///   - {apiGroups: ["apps"], resources: ["deployments"], verbs: ["get", "patch"]}
///   # For findings; without them, less is found out beforehand.
///   - {apiGroups: [""], resources: ["configmaps", "secrets"], verbs: ["get"]}
///   - {apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}  # a ClusterRole
/// ```
///
/// # Requests
/// A look costs three requests: the Rollout, its ReplicaSets, its pods; a fourth with a `workloadRef`.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let report = Rollback::of(cluster.rollout("shop", "checkout"))
///     .because("checkout answers 500 since 2.4.0")
///     .to(Choose::verified().or_previous())
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ArgoRollout {
    cluster: Cluster,
    namespace: String,
    name: String,
    id: TargetId,
    options: Options,
}

/// What was asked for besides.
#[derive(Clone, Debug, Default)]
struct Options {
    lift_pause: bool,
    steps: bool,
    health_port: Option<u16>,
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    uid: String,
    /// Of the object that holds the template: this one, or the Deployment that it refers to.
    source_uid: String,
    template: Value,
    annotated: bool,
    paused: bool,
    /// The controller's hashes of the template, and of what is stable.
    current: String,
    stable: String,
    aborted: bool,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/argo-rollout-read";
    const VERSION: u32 = 1;
}

/// How an approved change is carried out: the template itself stays in the cluster, because it may hold secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undo {
    replica_set: String,
    uid: String,
    release: ReleaseId,
}
impl Stored for Undo {
    const NAME: &'static str = "k8s/argo-rollout-undo";
    const VERSION: u32 = 1;
}

/// What names a rollout under way, and what the server called a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Generation {
    uid: String,
    generation: i64,
}
impl Stored for Generation {
    const NAME: &'static str = "k8s/argo-rollout-generation";
    const VERSION: u32 = 1;
}

impl Cluster {
    /// A Rollout of Argo Rollouts in this cluster. No request; a name that is none is found out by the first look.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn emergency(cluster: rollback_k8s::Cluster) {
    /// let checkout = cluster.rollout("shop", "checkout");
    /// println!("{}", Rollback::break_glass_on(&checkout, "paged: all of checkout is down").await);
    /// # }
    /// ```
    pub fn rollout(&self, namespace: impl Into<String>, name: impl Into<String>) -> ArgoRollout {
        let (namespace, name) = (namespace.into(), name.into());
        ArgoRollout {
            id: TargetId::new(format!("k8s:{}/{namespace}/rollout/{name}", self.name())),
            cluster: self.clone(),
            namespace,
            name,
            options: Options::default(),
        }
    }
}

impl ArgoRollout {
    /// A Rollout that somebody paused may be resumed, in the same write that sets the release. Default: it is refused.
    pub fn lifting_pause(mut self) -> Self {
        self.options.lift_pause = true;
        self
    }
    /// The release goes through the Rollout's own steps and analyses again, as a deploy does. A pause without an end is then
    /// waited at until somebody promotes it. Default: the steps are skipped.
    pub fn through_its_steps(mut self) -> Self {
        self.options.steps = true;
        self
    }
    /// Where health checks reach a pod. Default: the first port that a container declares.
    pub fn with_health_port(mut self, port: u16) -> Self {
        self.options.health_port = Some(port);
        self
    }
    /// Its name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    async fn live(&self) -> Result<Live> {
        let object = self.cluster.named("read the Rollout", ROLLOUT, &self.namespace, &self.name).await?;
        let workload = match live::workload_of(&object)? {
            Some(name) => Some(
                self.cluster
                    .get("read the Deployment that the Rollout refers to", DEPLOYMENT, &self.namespace, &name)
                    .await?,
            ),
            None => None,
        };
        let live = Live::of(object, workload)?;
        Ok(live)
    }
    /// Its ReplicaSets, the newest revision first.
    async fn revisions(&self, live: &Live) -> Result<Vec<Revision>> {
        let all = self.cluster.list("list its ReplicaSets", REPLICA_SET, &self.namespace, &live.selector).await?;
        Ok(newest_first(&live.uid, all, revision))
    }
    async fn pods(&self, live: &Live) -> Result<Vec<PodState>> {
        let pods = self.cluster.list_of::<Pod>("list its pods", POD, &self.namespace, &live.selector).await?;
        Ok(pods.iter().map(PodState::of).collect())
    }
}

#[async_trait]
impl Target for ArgoRollout {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        // Again: each write is guarded by what was read, and what is so already is not written once more.
        Capabilities::new(Fencing::Token).with_pacing(Pacing::Platform).with_change(ChangeKind::Abort, OnUnknown::Again)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let look_at = async {
            // The Rollout first: what is judged must not be newer than the token.
            let live = self.live().await?;
            let (revisions, pods) = futures::try_join!(self.revisions(&live), self.pods(&live))?;
            self.judge(&live, &revisions, &pods, &look)
        };
        look_at.await.map_err(|e| e.with_target(&self.id))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let past = async {
            let live = self.live().await?;
            Ok(live.history(&self.revisions(&live).await?, limit))
        };
        past.await.map_err(|e: Error| e.with_target(&self.id))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        if !self.capabilities().supports(change) {
            let e = Error::new(Kind::Unsupported, "prepare the change").with_target(&self.id);
            return Err(e.with_message("a Rollout can be brought to a release, or aborted").without_effect());
        }
        let prepared = match change {
            Change::Abort { expect, never } => self.prepare_abort(change, expect, never, work).await,
            _ => self.prepare_undo(change, change.only_release()?, work).await,
        };
        prepared.map_err(|e| e.with_target(&self.id))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let read: Read = token.read()?;
        let applied = match &approved.change {
            Change::Abort { .. } => self.abort(approved, &read, work).await,
            _ => self.undo(approved, &read, work).await,
        };
        applied.map_err(|e| e.with_target(&self.id))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(Saved::of(&self.cluster, &self.id, &self.namespace).told_by(self.clone())))
    }
}

#[cfg(test)]
mod tests;
