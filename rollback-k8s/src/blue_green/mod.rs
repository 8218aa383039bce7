//! Blue/green: a Service whose selector decides which of several Deployments serves.
//!
//! Not here: one Deployment by itself ([`Deployment`]), and traffic by shares ([`CanaryPair`](crate::CanaryPair)).

mod apply;
mod observe;
mod prepare;
mod service;
mod strategy;

use crate::{
    Cluster,
    deployment::Deployment,
    evidence::Saved,
    kinds::{DEPLOYMENT, SERVICE},
    side,
    side::Side,
    verify::{PodChecks, Sides},
};
use async_trait::async_trait;
use rollback_core::{
    Applied, Approved, Capabilities, Change, ChangeKind, Error, EvidenceSource, Fencing, Kind, Look, Observation,
    OnUnknown, Pacing, PartId, PartMap, Parts, Prepared, Release, Result, Stored, Strategy, Target, TargetId, Token,
    Weights, Work,
};
use serde::{Deserialize, Serialize};
use service::{Selector, Service};
use std::sync::Arc;
use strategy::SwitchOrInPlace;

/// Where a Service sends that finds pods of none of its sides.
const ELSEWHERE: &str = "elsewhere";

/// A Service and the Deployments behind it, of which its selector finds one: the parts have the names that the caller gives
/// them, `blue` and `green` for example. Cheap to clone.
///
/// # What it does
/// - Traffic is switched whole, by one write of the Service's selector: each of its keys gets the value that the pods of
///   the other side have. Keys that both sides share stay as they are.
/// - **The idle side first.** Capacity and release are changes of their own; [`BlueGreen`](rollback_core::strategy::BlueGreen)
///   makes the idle side ready, and waits until it is, before it switches.
/// - **Refused if a side was overwritten.** A token holds the selector and the pod templates of all sides. The selector is
///   compared by the API server in the write itself. The templates are compared right before it, by a read: a deploy to the
///   idle side in between those two requests is not refused, but seen by the next look, and the run ends as superseded.
/// - A side that serves has settled once the Service's EndpointSlices hold just its ready pods. kube-proxy takes them up
///   within a second, and says so nowhere.
/// - Connections that are kept alive stay with the pods they were made to, until those end: give
///   [`BlueGreen::with_drain`](rollback_core::strategy::BlueGreen::with_drain) and
///   [`with_empty_bad`](rollback_core::strategy::BlueGreen::with_empty_bad), and the bad side is scaled to 0 after the drain.
/// - A selector that finds pods of no side is shown as a part of its own, `elsewhere`, with all of the traffic.
///
/// # Where no strategy is named
/// At the glass too: a side that is told to run the wanted release is brought up to as many ready pods as served, traffic is
/// switched to it, and 30 s later, once old connections had time to end, the bad side is scaled to 0
/// ([`BlueGreen`](rollback_core::strategy::BlueGreen) with [`with_empty_bad`](rollback_core::strategy::BlueGreen::with_empty_bad)):
/// connections that are kept alive stay with the bad release for as long as its pods live. Where no idle side is told to run
/// it, an idle side is brought to it if it ran it before; otherwise the serving side is, in place.
///
/// A release is a pod template by its content, labels included, so it belongs to the side that ran it: history is that of
/// all sides together. What is the same but for labels as what a side is told to run, the copy of it on another side, is
/// shown as not available: to go there would be no way back.
///
/// # Permissions
/// ```yaml
/// rules:
///   - {apiGroups: [""], resources: ["services"], verbs: ["get", "patch"]}
///   - {apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list"]}
///   - {apiGroups: ["apps"], resources: ["deployments"], verbs: ["get", "patch"]}
///   - {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
///   # So that a side that Flagger or Argo Rollouts steers is refused:
///   - {apiGroups: ["flagger.app"], resources: ["canaries"], verbs: ["list"]}
///   - {apiGroups: ["argoproj.io"], resources: ["rollouts"], verbs: ["list"]}
///   # For findings; without them, less is found out beforehand.
///   - {apiGroups: [""], resources: ["configmaps", "secrets"], verbs: ["get"]}
///   - {apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: ["list"]}
///   - {apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}  # a ClusterRole
///   # For evidence before the first change; without them, it is left out, and said.
///   - {apiGroups: [""], resources: ["events"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}
/// ```
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let checkout = cluster.blue_green("shop", "checkout", [("blue", "checkout-blue"), ("green", "checkout-green")]);
/// let report = Rollback::of(checkout)
///     .because("checkout answers 500 since green serves")
///     .to(Choose::verified().or_previous())
///     .using(BlueGreen::default().with_drain(seconds(30)).with_empty_bad(true))
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BlueGreenService {
    cluster: Cluster,
    namespace: String,
    name: String,
    id: TargetId,
    sides: Vec<Side>,
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    uid: String,
    selector: Selector,
    annotated: bool,
    sides: side::Reads,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/blue-green-read";
    const VERSION: u32 = 1;
}

/// How an approved change is carried out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Instructions {
    /// The selector that a switch sets.
    select: Option<Selector>,
    /// How the release of a side is set.
    releases: PartMap<Approved>,
}
impl Stored for Instructions {
    const NAME: &'static str = "k8s/blue-green-instructions";
    const VERSION: u32 = 1;
}

impl Cluster {
    /// A Service of this cluster that is switched between Deployments of its namespace: parts by name, with the Deployment
    /// of each. No request; names that are none are found out by the first look.
    ///
    /// ```no_run
    /// # async fn switch(cluster: rollback_k8s::Cluster) {
    /// let checkout = cluster.blue_green("shop", "checkout", [("blue", "checkout-blue"), ("green", "checkout-green")]);
    /// # }
    /// ```
    pub fn blue_green<P: Into<PartId>, D: Into<String>>(
        &self,
        namespace: impl Into<String>,
        service: impl Into<String>,
        sides: impl IntoIterator<Item = (P, D)>,
    ) -> BlueGreenService {
        let (namespace, name) = (namespace.into(), service.into());
        let side = |(part, deployment): (P, D)| {
            Side::new(self, part.into(), self.deployment(namespace.clone(), deployment.into()))
        };
        BlueGreenService {
            id: TargetId::new(format!("k8s:{}/{namespace}/service/{name}", self.name())),
            sides: sides.into_iter().map(side).collect(),
            cluster: self.clone(),
            namespace,
            name,
        }
    }
}

impl BlueGreenService {
    /// Where health checks reach a pod. Default: the first port that a container declares.
    pub fn with_health_port(mut self, port: u16) -> Self {
        self.sides = self.sides.into_iter().map(|side| side.with_health_port(port)).collect();
        self
    }
    /// The Deployment of a part, as a target of its own.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::BlueGreenService) {
    /// let blue = checkout.deployment("blue");
    /// # }
    /// ```
    pub fn deployment(&self, part: &str) -> Option<&Deployment> {
        self.sides.iter().find(|side| side.part == *part).map(|side| &side.deployment)
    }

    /// Verifiers and health checks of the pods of its parts that the API server answers.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::BlueGreenService) {
    /// let traffic = checkout.checks().endpoints_of("checkout");
    /// # }
    /// ```
    pub fn checks(&self) -> PodChecks {
        let sides = self.sides.iter().map(|side| (side.part.clone(), side.deployment.clone())).collect();
        PodChecks::new(&self.cluster, &self.namespace, format!("service/{}", self.name), Sides(sides))
    }

    fn refused(&self, kind: Kind, operation: &str, why: impl Into<String>) -> Error {
        Error::new(kind, operation).with_target(&self.id).with_message(why).without_effect()
    }
    async fn service(&self) -> Result<Service> {
        Service::read(&self.cluster, &self.namespace, &self.name).await
    }
}

#[async_trait]
impl Target for BlueGreenService {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        // Again: the write is guarded by what was read, and the same wish twice is written once.
        Capabilities::new(Fencing::Token)
            .with_pacing(Pacing::Platform)
            .with_parts(Parts::Places, Weights::Switch)
            .with_change(ChangeKind::Traffic, OnUnknown::Again)
            .with_change(ChangeKind::Capacity, OnUnknown::Again)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.look(&look).await.map_err(|e| e.with_target(&self.id))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.past(limit).await.map_err(|e| e.with_target(&self.id))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.make_ready(change, work).await.map_err(|e| e.with_target(&self.id))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.carry_out(approved, &token.read()?, work).await.map_err(|e| e.with_target(&self.id))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        let saved = Saved::of(&self.cluster, &self.id, &self.namespace);
        let names = self.sides.iter().map(|side| side.deployment.name());
        let saved =
            names.fold(saved, |saved, name| saved.with_workload(DEPLOYMENT, name)).with_object(SERVICE, &self.name);
        Some(Arc::new(saved))
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        Some(Arc::new(SwitchOrInPlace))
    }
}
