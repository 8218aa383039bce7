//! A Deployment that a Canary of Flagger steers: its run is ended by its own rollback webhook, then the target is undone.
//!
//! Not here: Flagger's own analysis, which decides by itself; Canaries of DaemonSets and Services.

mod apply;
mod canary;
mod checks;
mod gate;
mod observe;
mod prepare;
mod same;

pub use gate::{LoadTesterGate, RollbackGate};

use crate::{
    Cluster, Deployment,
    evidence::Saved,
    kinds::{DEPLOYMENT, FLAGGER_CANARY, REPLICA_SET, SERVICE},
    revisions::selector_of,
};
use async_trait::async_trait;
use canary::{Canary, Primary, Target as Workload};
use rollback_core::{
    Applied, Approved, Capabilities, Change, ChangeKind, Error, EvidenceSource, Fencing, Kind, Look, Observation,
    OnUnknown, Pacing, Payload, Prepared, Release, Result, Stored, Target, TargetId, Token, Work,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A Canary of Flagger and the Deployment that it steers. Cheap to clone.
///
/// # What it does
/// - **In flight** (Progressing, Waiting, WaitingPromotion): the run is ended by the Canary's own rollback webhook, which is
///   made to answer 200 ([`RollbackGate`]); at its next tick Flagger sends all traffic to the primary, scales the target to 0
///   and says Failed. Then the target's template, which is still the bad one, is undone, and the webhook's gate is closed
///   again. Reverting the template alone goes unnoticed: the run goes on over the good pods and ends Succeeded.
/// - **Without a rollback webhook** a run cannot be ended from outside: that is said, and nothing is touched. Flagger ends it
///   by its own checks; add a webhook of type `rollback` to the Canary.
/// - **Promoting, Finalising**: nothing stops those; they are waited for, then it goes back as after a promotion.
/// - **After a promotion** the target's template is set to the wanted release, and Flagger brings that out by its analysis,
///   as any other release. That takes as long as the Canary's analysis; `skipAnalysis` is never set for it, because the same
///   switch promotes a bad release in flight, and it is warned about where it is set.
/// - The primary must have its replicas ready before a run is ended: all of the traffic is about to come to it.
/// - It has settled once no run is in flight, the Service selects the primary, the primary is at full capacity and settled,
///   and the target is at 0 with its last pods gone. Scaling, by an autoscaler for one, is no run.
///
/// A release is the target's pod template by its content ([`release_id`](crate::release_id)); that the primary runs it is
/// told from the primary's own template, less what Flagger changes in its copy (labels, affinity, names of ConfigMaps and
/// Secrets). History is the target's ReplicaSets.
///
/// # Limits
/// Flagger has no compare-and-set for a webhook: a deploy between the last look and Flagger's next tick restarts its
/// analysis, and fails by the open gate. Flagger asks the webhook only while the canary's pods are ready; a run whose pods
/// never get ready ends by `progressDeadlineSeconds`. An interval below 10 s runs as 10 s.
///
/// # Permissions
/// ```yaml
/// rules:
///   - {apiGroups: ["flagger.app"], resources: ["canaries"], verbs: ["get"]}
///   - {apiGroups: ["apps"], resources: ["deployments"], verbs: ["get", "patch"]}
///   - {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["services"], verbs: ["get"]}
///   # To open the gate of Flagger's load tester, in its namespace:
///   - {apiGroups: [""], resources: ["services/proxy"], verbs: ["create"]}
///   # For findings; without them, less is found out beforehand.
///   - {apiGroups: [""], resources: ["configmaps", "secrets"], verbs: ["get"]}
///   - {apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: ["list"]}
///   - {apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}  # a ClusterRole
///   # For FlaggerCanary::delete:
///   - {apiGroups: ["flagger.app"], resources: ["canaries"], verbs: ["delete"]}
/// ```
///
/// # Requests
/// A look costs ten requests.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let report = Rollback::of(cluster.flagger_canary("shop", "checkout"))
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
pub struct FlaggerCanary {
    cluster: Cluster,
    namespace: String,
    name: String,
    id: TargetId,
    gate: Option<Arc<dyn RollbackGate>>,
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    uid: String,
    /// Flagger's hash of what it is bringing out.
    applied: String,
    /// The token of the target's Deployment.
    target: Option<Payload>,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/flagger-canary-read";
    const VERSION: u32 = 1;
}

/// How an approved change is carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undo {
    target: Approved,
}
impl Stored for Undo {
    const NAME: &'static str = "k8s/flagger-canary-undo";
    const VERSION: u32 = 1;
}

/// When Flagger last changed its mind: what it says afterwards is about what was written then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Since {
    transition: String,
}
impl Stored for Since {
    const NAME: &'static str = "k8s/flagger-canary-since";
    const VERSION: u32 = 1;
}

/// Everything a look reads.
#[derive(Clone, Debug)]
struct Seen {
    canary: Canary,
    workload: Workload,
    target: Observation,
    primary: Option<Primary>,
    /// What the Service selects its pods by is the primary.
    on_primary: bool,
}

impl Cluster {
    /// A Canary of Flagger in this cluster, with the Deployment that it steers. No request; a name that is none is found out
    /// by the first look.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn emergency(cluster: rollback_k8s::Cluster) {
    /// let checkout = cluster.flagger_canary("shop", "checkout");
    /// println!("{}", Rollback::break_glass_on(&checkout, "paged: all of checkout is down").await);
    /// # }
    /// ```
    pub fn flagger_canary(&self, namespace: impl Into<String>, name: impl Into<String>) -> FlaggerCanary {
        let (namespace, name) = (namespace.into(), name.into());
        FlaggerCanary {
            id: TargetId::new(format!("k8s:{}/{namespace}/canary/{name}", self.name())),
            cluster: self.clone(),
            namespace,
            name,
            gate: None,
        }
    }
}

impl FlaggerCanary {
    /// How the Canary's rollback webhook is made to answer 200. Default: where its URL is that of Flagger's load tester
    /// (`http://SERVICE.NAMESPACE/rollback/check`), a [`LoadTesterGate`] there.
    pub fn with_gate(mut self, gate: impl RollbackGate) -> Self {
        self.gate = Some(Arc::new(gate));
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

    async fn canary(&self) -> Result<Canary> {
        Canary::of(self.cluster.named("read the Canary", FLAGGER_CANARY, &self.namespace, &self.name).await?)
    }
    fn deployment(&self, canary: &Canary) -> Deployment {
        self.cluster.deployment(&self.namespace, &canary.target).through_owner()
    }
    /// Flagger's copy of it, which has the traffic.
    fn primary(&self, canary: &Canary) -> Deployment {
        self.cluster.deployment(&self.namespace, format!("{}-primary", canary.target)).through_owner()
    }

    async fn look(&self, look: &Look) -> Result<Seen> {
        // The Canary first: what is judged must not be newer than the token.
        let canary = self.canary().await?;
        let namespace = &self.namespace;
        let deployment = self.deployment(&canary);
        let primary = async {
            let own = self.primary(&canary);
            match self.cluster.get("read the primary", DEPLOYMENT, namespace, own.name()).await {
                Ok(object) => {
                    let selector = selector_of(&object.data)?;
                    let sets = self.cluster.list("list the primary's ReplicaSets", REPLICA_SET, namespace, &selector);
                    let (seen, sets) = futures::try_join!(own.observe(Look::quick()), sets)?;
                    Ok(Some(Primary::of(object, sets, seen)))
                }
                Err(e) if e.kind() == Kind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        };
        let workload = async {
            let object = self.cluster.get("read the target", DEPLOYMENT, namespace, &canary.target).await?;
            let selector = selector_of(&object.data)?;
            let sets = self.cluster.list("list the target's ReplicaSets", REPLICA_SET, namespace, &selector).await?;
            Ok(Workload::of(object, sets))
        };
        let service = async {
            match self.cluster.get("read the Service", SERVICE, namespace, &canary.service).await {
                Ok(object) => Ok(canary::selects(&object)),
                Err(e) if e.kind() == Kind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        };
        let (primary, workload, target, service) =
            futures::try_join!(primary, workload, deployment.observe(look.clone()), service)?;
        let on_primary = primary.as_ref().is_some_and(|primary| service.as_ref() == Some(&primary.selects));
        Ok(Seen { canary, workload, target, primary, on_primary })
    }
}

#[async_trait]
impl Target for FlaggerCanary {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        // Again: a gate that is open is open, and the target's write is guarded by its template.
        Capabilities::new(Fencing::Token).with_pacing(Pacing::Platform).with_change(ChangeKind::Abort, OnUnknown::Again)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let judged = self.look(&look).await.and_then(|seen| self.judge(&seen, &look));
        judged.map_err(|e| e.with_target(&self.id))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let past = async { self.deployment(&self.canary().await?).history(limit).await };
        past.await.map_err(|e| e.with_target(&self.id))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        if !self.capabilities().supports(change) {
            let e = Error::new(Kind::Unsupported, "prepare the change").with_target(&self.id);
            return Err(e.with_message("a Canary can be brought to a release, or its run ended").without_effect());
        }
        let prepared = match change {
            Change::Abort { never, .. } => self.prepare_abort(change, never).await,
            _ => {
                change.only_release().map_err(|e| e.with_target(&self.id))?;
                self.prepare_undo(change, work).await
            }
        };
        prepared.map_err(|e| e.with_target(&self.id))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let read: Read = token.read()?;
        let applied = match &approved.change {
            Change::Abort { .. } => self.end_run(&read, work).await,
            _ => self.undo(approved, &read, work).await,
        };
        applied.map_err(|e| e.with_target(&self.id))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(Saved::of(&self.cluster, &self.id, &self.namespace).told_by(self.clone())))
    }
}
