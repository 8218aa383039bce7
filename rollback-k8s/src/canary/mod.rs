//! A canary: two Deployments that share the traffic, by how many replicas each has or by the weights of routing objects.
//!
//! Not here: canaries that Flagger or Argo Rollouts steer, and a Service that is switched whole
//! ([`BlueGreenService`](crate::BlueGreenService)).

mod apply;
mod observe;
mod prepare;
mod route;
mod split;
mod strategy;

pub use split::Destination;

use crate::{
    Cluster,
    deployment::Deployment,
    evidence::Saved,
    kinds::{DEPLOYMENT, HTTP_ROUTE, SERVICE, VIRTUAL_SERVICE},
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
use route::{Route, Seen};
use serde::{Deserialize, Serialize};
use split::{End, Form};
use std::sync::Arc;
use strategy::CopiesToo;

/// A stable Deployment and its canary: the parts have the names that the caller gives them. Cheap to clone.
///
/// # How traffic is shared
/// - **By replicas**, as long as no routing object is named: a Service finds the pods of both, and each side's share is its
///   share of the pods. Name that Service with [`behind`](CanaryPair::behind), and a side has settled only when the Service's
///   EndpointSlices hold just the ready pods.
/// - **By weights**, of Istio VirtualServices and Gateway API HTTPRoutes. All weights of an object are one write: every list
///   of destinations that names both sides, found by subset, host or backend name and never by position, is compared with
///   what was read and replaced in the same patch. Routes that name one side only, and those of others, stay as they are;
///   so do the weights of other destinations in the same list.
/// - **Several routing objects are several writes**, one after the other: no API server changes two objects at once. When one
///   fails, those before it are written; the same change again goes on with the rest. A side's weight is the most that any
///   list of any object gives it, so a side has left only when no object sends to it, and where they differ the weights come
///   to more than 100 %.
/// - The objects are what is claimed. Whether a mesh or a gateway does what they say is not: only where an HTTPRoute's
///   status has conditions is it waited for that its gateways have seen the last write.
///
/// # What it does
/// - Replicas and releases of the sides are changes of their own; [`Canary`](rollback_core::strategy::Canary) and
///   [`Direct`](rollback_core::strategy::Direct) bring the stable side to the capacity it needs, ready, before traffic moves.
///   Replicas are only ever set by a change that names them: nothing is scaled as a side effect.
/// - A write of weights is refused if a template of either side, or a list of destinations, is not as it was when it was
///   looked at. The lists are compared by the API server in the write itself, the templates by a read right before it.
/// - How many replicas an autoscaler makes is no progress of anything: releases are told from templates and pods alone.
///
/// # Where no strategy is named
/// At the glass too, it is [`Direct`](rollback_core::strategy::Direct): where a side has the wanted release, it is brought up
/// to as many ready pods as both have, then all of the traffic goes to it at once; traffic that goes away from a bad canary
/// needs no steps. Where none has it, a promoted release for one, the bad side is set back in place.
///
/// A release is a pod template by its content, labels included, so it belongs to the side that ran it: history is that of
/// both sides together. What is the same but for labels as what a side is told to run, the canary's copy of a release that was
/// promoted, is shown as not available: to go there would be no way back. Where no strategy is named, a canary that serves a
/// copy of the suspect is left as well, once the stable side is back: by replicas to none, by weights without traffic. A
/// strategy that is named leaves it as it is; scale it to 0 then.
///
/// # Permissions
/// ```yaml
/// rules:
///   - {apiGroups: ["apps"], resources: ["deployments"], verbs: ["get", "patch"]}
///   - {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
///   # Where they are named:
///   - {apiGroups: ["networking.istio.io"], resources: ["virtualservices"], verbs: ["get", "patch"]}
///   - {apiGroups: ["gateway.networking.k8s.io"], resources: ["httproutes"], verbs: ["get", "patch"]}
///   - {apiGroups: [""], resources: ["services"], verbs: ["get"]}
///   - {apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list"]}
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
/// use rollback_k8s::{Cluster, ClusterOptions, Destination};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let checkout = cluster
///     .canary_pair("shop", [("stable", "checkout"), ("canary", "checkout-canary")])
///     .with_virtual_service(
///         "checkout",
///         [("stable", Destination::subset("stable")), ("canary", Destination::subset("canary"))],
///     );
/// let report = Rollback::of(checkout)
///     .because("the canary answers 500")
///     .to(Choose::verified().or_previous())
///     .using(Canary::default().with_steps([80, 95])) // the canary's share: 20, 5, 0
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CanaryPair {
    cluster: Cluster,
    namespace: String,
    id: TargetId,
    sides: Vec<Side>,
    routes: Vec<Route>,
    service: Option<String>,
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    sides: side::Reads,
    /// In the order in which they were named.
    routes: Vec<Seen>,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/canary-read";
    const VERSION: u32 = 1;
}

/// How an approved change is carried out: how the release of a side is set. Weights are in the change itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Instructions {
    releases: PartMap<Approved>,
}
impl Stored for Instructions {
    const NAME: &'static str = "k8s/canary-instructions";
    const VERSION: u32 = 1;
}

impl Cluster {
    /// Two Deployments of a namespace that share traffic, the stable one first: parts by name, with the Deployment of each.
    /// No request; names that are none are found out by the first look.
    ///
    /// ```no_run
    /// # async fn by_replicas(cluster: rollback_k8s::Cluster) {
    /// let checkout =
    ///     cluster.canary_pair("shop", [("stable", "checkout"), ("canary", "checkout-canary")]).behind("checkout");
    /// # }
    /// ```
    pub fn canary_pair<P: Into<PartId>, D: Into<String>>(
        &self,
        namespace: impl Into<String>,
        sides: [(P, D); 2],
    ) -> CanaryPair {
        let namespace = namespace.into();
        let side = |(part, deployment): (P, D)| {
            Side::new(self, part.into(), self.deployment(namespace.clone(), deployment.into()))
        };
        let sides = sides.map(side);
        let stable = sides[0].deployment.name();
        CanaryPair {
            id: TargetId::new(format!("k8s:{}/{namespace}/canary-pair/{stable}", self.name())),
            sides: sides.into(),
            cluster: self.clone(),
            namespace,
            routes: vec![],
            service: None,
        }
    }
}

impl CanaryPair {
    /// Weights of an Istio VirtualService of the same namespace (`networking.istio.io/v1`), with how it names each side.
    /// May be called again for another object.
    pub fn with_virtual_service<P: Into<PartId>>(
        mut self,
        name: impl Into<String>,
        sides: [(P, Destination); 2],
    ) -> Self {
        let ends = sides.map(|(part, destination)| (part.into(), End::Istio(destination)));
        self.routes.push(Route::new(VIRTUAL_SERVICE, Form::VirtualService, name.into(), ends.into()));
        self
    }
    /// Weights of a Gateway API HTTPRoute of the same namespace (`gateway.networking.k8s.io/v1`), with the Service that is the
    /// backend of each side. May be called again for another object.
    ///
    /// ```no_run
    /// # fn weighted(checkout: rollback_k8s::CanaryPair) {
    /// let checkout =
    ///     checkout.with_http_route("checkout", [("stable", "checkout-stable"), ("canary", "checkout-canary")]);
    /// # }
    /// ```
    pub fn with_http_route<P: Into<PartId>, B: Into<String>>(
        mut self,
        name: impl Into<String>,
        sides: [(P, B); 2],
    ) -> Self {
        let ends = sides.map(|(part, backend)| (part.into(), End::Backend(backend.into())));
        self.routes.push(Route::new(HTTP_ROUTE, Form::HttpRoute, name.into(), ends.into()));
        self
    }
    /// The Service that finds the pods of both sides: its endpoints are looked at too.
    pub fn behind(mut self, service: impl Into<String>) -> Self {
        self.service = Some(service.into());
        self
    }
    /// Where health checks reach a pod. Default: the first port that a container declares.
    pub fn with_health_port(mut self, port: u16) -> Self {
        self.sides = self.sides.into_iter().map(|side| side.with_health_port(port)).collect();
        self
    }
    /// The Deployment of a part, as a target of its own.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::CanaryPair) {
    /// let stable = checkout.deployment("stable");
    /// # }
    /// ```
    pub fn deployment(&self, part: &str) -> Option<&Deployment> {
        self.sides.iter().find(|side| side.part == *part).map(|side| &side.deployment)
    }

    /// Verifiers and health checks of the pods of its parts that the API server answers.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::CanaryPair) {
    /// let traffic = checkout.checks().endpoints_of("checkout");
    /// # }
    /// ```
    pub fn checks(&self) -> PodChecks {
        let sides = self.sides.iter().map(|side| (side.part.clone(), side.deployment.clone())).collect();
        PodChecks::new(&self.cluster, &self.namespace, self.id.to_string(), Sides(sides))
    }

    fn refused(&self, kind: Kind, operation: &str, why: impl Into<String>) -> Error {
        Error::new(kind, operation).with_target(&self.id).with_message(why).without_effect()
    }
}

#[async_trait]
impl Target for CanaryPair {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        // Again: every write is guarded by what was read, and the same wish twice is written once.
        let pair = Capabilities::new(Fencing::Token)
            .with_pacing(Pacing::Platform)
            .with_change(ChangeKind::Capacity, OnUnknown::Again);
        if self.routes.is_empty() {
            return pair.with_parts(Parts::Places, Weights::ByCapacity);
        }
        pair.with_parts(Parts::Places, Weights::Exact { grain: 100, at_once: 2 })
            .with_change(ChangeKind::Traffic, OnUnknown::Again)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.look(&look).await.map_err(|e| e.with_target(&self.id))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        // Where dates do not tell, the canary's is the newer one: that is what a canary is for.
        let histories = self.sides.iter().rev().map(|side| side.deployment.history(limit));
        let histories = futures::future::try_join_all(histories).await.map_err(|e| e.with_target(&self.id))?;
        let told = side::written(&self.sides).await.map_err(|e| e.with_target(&self.id))?;
        let told: Vec<_> = told.values().map(side::Written::told).collect();
        Ok(side::without_copies(&self.sides, side::merged(histories, limit), &told))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.make_ready(change, work).await.map_err(|e| e.with_target(&self.id))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.carry_out(approved, &token.read()?, work).await.map_err(|e| e.with_target(&self.id))
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        Some(Arc::new(CopiesToo { sides: self.sides.clone() }))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        let saved = Saved::of(&self.cluster, &self.id, &self.namespace);
        let names = self.sides.iter().map(|side| side.deployment.name());
        let saved = names.fold(saved, |saved, name| saved.with_workload(DEPLOYMENT, name));
        let saved = self.service.iter().fold(saved, |saved, name| saved.with_object(SERVICE, name));
        let saved = self.routes.iter().fold(saved, |saved, route| saved.with_object(route.kind, &route.name));
        Some(Arc::new(saved))
    }
}
