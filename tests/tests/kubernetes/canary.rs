//! A canary on real Deployments, by replicas and by the weights of real routing objects. No mesh is on the bed: what is
//! claimed of weights is what the objects say.

use crate::alike::{FINDINGS, Rule, STEERED, all_was_known};
use crate::glass::{Glass, broken};
use crate::pairs::{
    SOON, Watched, cluster, cluster_with, deploy, id, image, keeps_the_laws, replicas, rollback, scale, settled, side,
    until, work,
};
use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use rollback_core::{strategy::Canary, testing::laws::target::Bench, *};
use rollback_k8s::{CanaryPair, Destination};
use rollback_tests::bed::kubernetes::{Bed, Namespace, service};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

const APP: &str = "checkout";
const STABLE: &str = "checkout-stable";
const CANARY: &str = "checkout-canary";

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Replicas,
    VirtualService,
    HttpRoute,
    Both,
}

fn routes(namespace: &Namespace, kind: &str) -> Api<DynamicObject> {
    let group = if kind == "HTTPRoute" { "gateway.networking.k8s.io" } else { "networking.istio.io" };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    Api::namespaced_with(namespace.bed().client(), namespace.name(), &resource)
}
fn subset(name: &str, weight: u16) -> Value {
    json!({"destination": {"host": APP, "subset": name, "port": {"number": 80}}, "weight": weight})
}
/// Testers by a header, the traffic of another service, and the shared route between them.
fn virtual_service(stable: u16) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": APP, "labels": {"team": "shop"}},
        "spec": {"hosts": [APP], "http": [
            {"name": "testers", "match": [{"headers": {"x-tester": {"exact": "1"}}}],
                "route": [{"destination": {"host": APP, "subset": "canary"}}]},
            {"name": "everybody", "timeout": "5s", "route": [subset("canary", 100 - stable), subset("stable", stable)]},
            {"name": "cart", "match": [{"uri": {"prefix": "/cart"}}], "route": [
                {"destination": {"host": "cart", "subset": "a"}, "weight": 30},
                {"destination": {"host": "cart", "subset": "b"}, "weight": 70}]},
        ]},
    })
}
fn http_route(stable: u16) -> Value {
    let backend = |name: &str, weight: u16| json!({"name": name, "port": 80, "weight": weight});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": APP},
        "spec": {"hostnames": ["shop.example"], "parentRefs": [{"name": "public"}], "rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/cart"}}], "backendRefs": [backend("cart", 1)]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}],
                "backendRefs": [backend(STABLE, stable), backend(CANARY, 100 - stable)]},
        ]},
    })
}
/// What an object sends to stable and canary.
fn weights(object: &DynamicObject) -> (u64, u64) {
    let weight = |at: &str| object.data.pointer(at).and_then(Value::as_u64).unwrap();
    if object.data.pointer("/spec/rules").is_some() {
        return (weight("/spec/rules/1/backendRefs/0/weight"), weight("/spec/rules/1/backendRefs/1/weight"));
    }
    (weight("/spec/http/1/route/1/weight"), weight("/spec/http/1/route/0/weight"))
}
async fn route(namespace: &Namespace, kind: &str) -> DynamicObject {
    routes(namespace, kind).get(APP).await.unwrap()
}

fn target(pair: CanaryPair, by: By) -> CanaryPair {
    let istio = |pair: CanaryPair| {
        pair.with_virtual_service(APP, ["stable", "canary"].map(|side| (side, Destination::subset(side))))
    };
    let gateway = |pair: CanaryPair| pair.with_http_route(APP, [("stable", STABLE), ("canary", CANARY)]);
    match by {
        By::Replicas => pair.behind(APP),
        By::VirtualService => istio(pair),
        By::HttpRoute => gateway(pair),
        By::Both => gateway(istio(pair)),
    }
}

/// The stable side runs v1, the canary v2, with so many replicas; routing objects give the stable side this share.
async fn found(about: &str, by: By, stable: i32, canary: i32, share: u16) -> (Arc<Namespace>, CanaryPair) {
    let bed = Bed::here().await;
    if by != By::Replicas {
        bed.with("crds").await;
    }
    let namespace = Arc::new(bed.namespace(about).await);
    namespace.apply(side(APP, "stable", "v1", stable)).await;
    namespace.apply(side(APP, "canary", "v2", canary)).await;
    match by {
        By::Replicas => drop(namespace.apply(service(APP, json!({"app": APP}))).await),
        By::VirtualService => drop(namespace.apply(virtual_service(share)).await),
        By::HttpRoute => drop(namespace.apply(http_route(share)).await),
        By::Both => {
            namespace.apply(virtual_service(share)).await;
            namespace.apply(http_route(share)).await;
        }
    }
    let pair = cluster(&bed).await.canary_pair(namespace.name(), [("stable", STABLE), ("canary", CANARY)]);
    let target = target(pair, by);
    settled(&target).await;
    (namespace, target)
}
fn to_stable(share: u16) -> Change {
    let share = Weight::percent(share);
    Change::traffic([("stable".into(), share), ("canary".into(), share.rest())])
}
fn ids() -> (ReleaseId, ReleaseId) {
    (id(APP, "stable", "v1"), id(APP, "canary", "v2"))
}

#[derive(Debug)]
struct Pairs {
    about: &'static str,
    by: By,
    world: Mutex<Option<Arc<Namespace>>>,
}
impl Pairs {
    fn new(about: &'static str, by: By) -> Self {
        Self { about, by, world: Mutex::default() }
    }
    fn namespace(&self) -> Arc<Namespace> {
        self.world.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Bench for Pairs {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        self.world.lock().unwrap().take();
        let (namespace, target) = found(self.about, self.by, 1, 1, 50).await;
        *self.world.lock().unwrap() = Some(namespace);
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        match self.by {
            By::Replicas => Change::capacity(&"canary".into(), Capacity::Exactly(0)),
            _ => to_stable(95),
        }
    }
    fn change_after(&self) -> Option<Change> {
        Some(match self.by {
            By::Replicas => Change::capacity(&"stable".into(), Capacity::AtLeast(2)),
            _ => to_stable(100),
        })
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        deploy(&self.namespace(), CANARY, "v3").await;
        // After weights, it is the weights that another write of ours would meet.
        if self.by != By::Replicas {
            let kind = if self.by == By::HttpRoute { "HTTPRoute" } else { "VirtualService" };
            let object = if self.by == By::HttpRoute { http_route(60) } else { virtual_service(60) };
            let patch = Patch::Merge(json!({"spec": object["spec"]}));
            routes(&self.namespace(), kind).patch(APP, &PatchParams::default(), &patch).await.unwrap();
        }
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.namespace().api::<Deployment>().delete(STABLE, &DeleteParams::default()).await.unwrap();
        Some(Ok(()))
    }
    fn patience(&self) -> Duration {
        SOON
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn replicas_keep_the_laws() {
    keeps_the_laws("canary by replicas", &Pairs::new("canary-laws", By::Replicas)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn weights_of_a_virtual_service_keep_the_laws() {
    keeps_the_laws("canary by a VirtualService", &Pairs::new("canary-laws-vs", By::VirtualService)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn weights_of_an_http_route_keep_the_laws() {
    keeps_the_laws("canary by an HTTPRoute", &Pairs::new("canary-laws-hr", By::HttpRoute)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn by_replicas_the_canary_goes_and_the_capacity_stays() {
    let (namespace, target) = found("canary-replicas", By::Replicas, 2, 2, 0).await;
    namespace.reached(APP, SOON).await;
    let load = namespace.load(APP).await.rate(200).start();
    let strategy = Canary::default().with_steps([75]).with_hold(Duration::ZERO);
    let report = rollback(target.clone()).blaming(ids().1).using(strategy).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let done = std::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await; // the load after
    let load = load.stop().await;
    println!("measured: canary by replicas, 2 + 2 to 4 + 0, pods that exit at once: {:?}", load.summary());
    assert_eq!((replicas(&namespace, STABLE).await, replicas(&namespace, CANARY).await), (4, 0));
    assert_eq!(load.sent_since(done + Duration::from_secs(2)).of("v2"), 0, "{:?}", load.summary());
    let seen = settled(&target).await;
    assert_eq!((seen.parts["stable"].ready, &seen.parts["canary"].running), (Some(4), &Running::Nothing));
}

/// What an object sends to stable and canary, and how many pods of stable were ready then.
type Step = ((u64, u64), i32);

/// Every state that an object had, in order.
async fn history(namespace: Arc<Namespace>, kind: &'static str, seen: Arc<Mutex<Vec<Step>>>) {
    let config = watcher::Config::default();
    let mut changes = watcher(routes(&namespace, kind), config).default_backoff().applied_objects().boxed();
    while let Some(Ok(object)) = changes.next().await {
        let stable = namespace.api::<Deployment>().get_status(STABLE).await.unwrap();
        let ready = stable.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let mut all = seen.lock().unwrap();
        if all.last().is_none_or(|(last, _)| *last != weights(&object)) {
            all.push((weights(&object), ready));
        }
    }
}

/// flagger#869, argo-rollouts#3020: all traffic onto a stable side that was scaled down.
async fn steps_down(about: &str, by: By, kind: &'static str) {
    let (namespace, target) = found(about, by, 1, 4, 50).await;
    let before = route(&namespace, kind).await;
    let seen = Arc::new(Mutex::new(vec![]));
    let watching = tokio::spawn(history(namespace.clone(), kind, seen.clone()));
    let strategy = Canary::default().with_steps([80, 95]).with_hold(Duration::ZERO);
    let report = rollback(target.clone()).blaming(ids().1).using(strategy).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    until(&target, "the watch has seen the end", |_| seen.lock().unwrap().last().is_some_and(|(w, _)| w.1 == 0)).await;
    watching.abort();
    let all = seen.lock().unwrap().clone();
    println!("measured: {kind}: weights of stable and canary, and pods of stable that were ready then: {all:?}");
    let weights: Vec<(u64, u64)> = all.iter().map(|(weights, _)| *weights).collect();
    assert_eq!(weights, [(50, 50), (80, 20), (95, 5), (100, 0)]);
    for ((stable, _), ready) in &all[1..] {
        let needed = Weight::percent(u16::try_from(*stable).unwrap()).of(5);
        assert!(
            u32::try_from(*ready).unwrap() >= needed,
            "{stable} % of the traffic on {ready} of {needed} pods: {all:?}"
        );
    }
    // Nothing else of the object is touched.
    let after = route(&namespace, kind).await;
    let mut expected = if kind == "HTTPRoute" { http_route(100) } else { virtual_service(100) };
    assert_eq!(after.data["spec"], expected["spec"].take());
    assert_ne!(before.data["spec"], after.data["spec"]);
    assert_eq!(after.metadata.labels, before.metadata.labels);
    assert!(after.metadata.annotations.unwrap().contains_key("rollback.dev/trace"));
    assert_eq!(replicas(&namespace, CANARY).await, 4, "nobody asked to scale the canary");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_virtual_service_steps_down_with_capacity_first() {
    steps_down("canary-vs", By::VirtualService, "VirtualService").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn an_http_route_steps_down_with_capacity_first() {
    steps_down("canary-hr", By::HttpRoute, "HTTPRoute").await;
}

/// argo-rollouts#1838: one routing object is left on the bad side.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn every_routing_object_counts() {
    let (namespace, target) = found("canary-both", By::Both, 2, 1, 50).await;
    namespace.apply(virtual_service(100)).await;
    let seen = target.observe(Look::full()).await.unwrap();
    assert_eq!(seen.parts["canary"].weight, Some(Weight::percent(50)), "the HTTPRoute still sends there");
    let prepared = target.prepare(&to_stable(100), &work("1")).await.unwrap();
    assert!(prepared.findings.iter().any(|finding| finding.code == "not-atomic"), "{:?}", prepared.findings);
    assert!(prepared.findings.iter().any(|finding| finding.text.contains("testers")), "{:?}", prepared.findings);
    let report = rollback(target.clone()).blaming(ids().1).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    for kind in ["VirtualService", "HTTPRoute"] {
        assert_eq!(weights(&route(&namespace, kind).await), (100, 0), "{kind}");
    }
    assert_eq!(target.observe(Look::full()).await.unwrap().parts["canary"].weight, Some(Weight::NONE));
}

/// A route that somebody put before ours has its place now: matched by name, compared in the write.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn routes_that_moved_are_not_overwritten() {
    let (namespace, target) = found("canary-moved", By::VirtualService, 2, 1, 50).await;
    async fn inserts(namespace: Arc<Namespace>) {
        let route = json!({"name": "new", "match": [{"uri": {"prefix": "/new"}}], "route": [
            {"destination": {"host": "new", "subset": "a"}, "weight": 10},
            {"destination": {"host": "new", "subset": "b"}, "weight": 90}]});
        let patch = json!([{"op": "add", "path": "/spec/http/0", "value": route}]);
        let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).unwrap());
        routes(&namespace, "VirtualService").patch(APP, &PatchParams::default(), &patch).await.unwrap();
    }
    let (approved, seen) = (
        target.prepare(&to_stable(100), &work("1")).await.unwrap().approved,
        target.observe(Look::full()).await.unwrap(),
    );
    inserts(namespace.clone()).await;
    let e = target.apply(&approved, seen.token, &work("1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");

    let theirs = namespace.clone();
    let meddled = Watched::before_the_first(target, ChangeKind::Traffic, move || inserts(theirs.clone()));
    let report = rollback(meddled).blaming(ids().1).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let after = route(&namespace, "VirtualService").await;
    let http = after.data["spec"]["http"].as_array().unwrap();
    let names: Vec<&str> = http.iter().map(|route| route["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["new", "new", "testers", "everybody", "cart"]);
    for (nth, is) in [(0, vec![10, 90]), (1, vec![10, 90]), (3, vec![0, 100]), (4, vec![30, 70])] {
        let of: Vec<u64> =
            http[nth]["route"].as_array().unwrap().iter().map(|entry| entry["weight"].as_u64().unwrap()).collect();
        assert_eq!(of, is, "{}", names[nth]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_documented_rights_are_enough() {
    let (namespace, _) = found("canary-rights", By::Both, 1, 1, 50).await;
    let rules: [Rule<'_>; 2] = [
        ("networking.istio.io", "virtualservices", &["get", "patch"]),
        ("gateway.networking.k8s.io", "httproutes", &["get", "patch"]),
    ];
    let rules = [&rules[..], &FINDINGS, &STEERED].concat();
    let cluster = cluster_with(&namespace, &rules).await;
    let pair = cluster.canary_pair(namespace.name(), [("stable", STABLE), ("canary", CANARY)]);
    let target = target(pair, By::Both);
    until(&target, "the rules hold", |_| true).await;
    let report = rollback(target).blaming(ids().1).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    all_was_known(&report);
    for kind in ["VirtualService", "HTTPRoute"] {
        assert_eq!(weights(&route(&namespace, kind).await), (100, 0), "{kind}");
    }
}

/// argo-rollouts#1292: an abort with nothing in flight scaled the stable side to 0.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn with_nothing_in_flight_nothing_is_scaled() {
    for (about, by) in [("canary-idle", By::Replicas), ("canary-idle-vs", By::VirtualService)] {
        let (namespace, target) = found(about, by, 2, 0, 100).await;
        let named = rollback(target.clone()).blaming(ids().1).using(Canary::default()).run().await.unwrap();
        assert_eq!(named.outcome(), &Outcome::NothingToDo, "{named}");
        let e = target.prepare(&Change::Halt, &work("1")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
        let never = ids().1;
        let e = target.prepare(&Change::Abort { expect: Landing::Unsaid, never }, &work("1")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
        assert_eq!((replicas(&namespace, STABLE).await, replicas(&namespace, CANARY).await), (2, 0), "{about}");
    }
}

/// flagger#944: an autoscaler's doing was taken for progress.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn an_autoscaler_is_no_progress_and_no_deploy() {
    let (namespace, target) = found("canary-hpa", By::VirtualService, 2, 1, 50).await;
    let theirs = namespace.clone();
    let meddled = Watched::before_the_first(target.clone(), ChangeKind::Traffic, move || {
        let theirs = theirs.clone();
        async move {
            scale(&theirs, STABLE, 5).await;
            scale(&theirs, CANARY, 2).await;
        }
    });
    let report = rollback(meddled).blaming(ids().1).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(weights(&route(&namespace, "VirtualService").await), (100, 0));
    assert_eq!((replicas(&namespace, STABLE).await, replicas(&namespace, CANARY).await), (5, 2), "not taken back");

    // Between the read and the write of replicas: more is not made fewer.
    let more = Change::capacity(&"stable".into(), Capacity::AtLeast(6));
    let approved = target.prepare(&more, &work("2")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    scale(&namespace, STABLE, 7).await;
    target.apply(&approved, token, &work("2")).await.unwrap();
    assert_eq!(replicas(&namespace, STABLE).await, 7);
    let hpa = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": STABLE},
        "spec": {"minReplicas": 2, "maxReplicas": 8,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": STABLE}},
    });
    namespace.apply(hpa).await;
    for (n, severity) in [(8, Severity::Warning), (9, Severity::Blocks)] {
        let change = Change::capacity(&"stable".into(), Capacity::AtLeast(n));
        let findings = target.prepare(&change, &work("3")).await.unwrap().findings;
        let found = findings.iter().find(|finding| finding.code == "autoscaler").unwrap();
        assert_eq!(found.severity, severity, "{}", found.text);
    }
}

/// By replicas and by weights; the stable side has a release behind it that nobody is to walk on to.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_cuts_the_canary_off() {
    for by in [By::Replicas, By::VirtualService] {
        let (namespace, target) = found(&format!("glass-{by:?}").to_lowercase(), by, 2, 0, 100).await;
        for image in ["v4", "v1"] {
            deploy(&namespace, STABLE, image).await;
            until(&target, "the stable side is told", |seen| {
                seen.parts["stable"].wanted == Some(id(APP, "stable", image))
            })
            .await;
            settled(&target).await;
        }
        for (bad, glass) in [("v2", Glass::Bare), ("v3", Glass::Journalled)] {
            deploy(&namespace, CANARY, bad).await;
            scale(&namespace, CANARY, 1).await;
            if by == By::VirtualService {
                namespace.apply(virtual_service(50)).await;
            }
            until(&target, "the canary serves", |seen| {
                seen.parts["canary"].running == Running::Release(id(APP, "canary", bad))
                    && seen.parts.values().all(|part| part.settled == Settled::Yes)
            })
            .await;
            let _ = broken(&target, glass).await;
            assert_eq!(image(&namespace, STABLE).await, "v1");
            match by {
                By::Replicas => assert_eq!(replicas(&namespace, CANARY).await, 0),
                _ => assert_eq!(weights(&route(&namespace, "VirtualService").await), (100, 0)),
            }
        }
    }
}

/// After a promotion the canary has a copy of what serves: that is no way back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_after_a_promotion_sets_the_stable_side_back() {
    let (namespace, target) = found("glass-promoted", By::Replicas, 2, 1, 100).await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is newer is told by seconds
    deploy(&namespace, STABLE, "v2").await;
    scale(&namespace, CANARY, 0).await;
    until(&target, "v2 is promoted", |seen| {
        seen.parts["stable"].running == Running::Release(id(APP, "stable", "v2"))
            && seen.parts["canary"].running == Running::Nothing
            && seen.parts.values().all(|part| part.settled == Settled::Yes)
    })
    .await;
    let _ = broken(&target, Glass::Bare).await;
    assert_eq!((image(&namespace, STABLE).await.as_str(), replicas(&namespace, CANARY).await), ("v1", 0));
}

/// The canary was not scaled down after the promotion: it serves what is left, under other labels.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_canary_that_serves_its_copy_of_a_promoted_release_is_left_too() {
    for (by, about) in [(By::Replicas, "copy-replicas"), (By::VirtualService, "copy-istio")] {
        let (namespace, target) = found(about, by, 2, 1, 50).await;
        tokio::time::sleep(Duration::from_millis(1100)).await; // what is newer is told by seconds
        deploy(&namespace, STABLE, "v2").await;
        until(&target, "v2 is promoted", |seen| {
            seen.parts["stable"].running == Running::Release(id(APP, "stable", "v2"))
                && seen.parts["canary"].running == Running::Release(id(APP, "canary", "v2"))
                && seen.parts.values().all(|part| part.settled == Settled::Yes)
        })
        .await;
        let report = rollback(target).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        assert_eq!((image(&namespace, STABLE).await.as_str(), replicas(&namespace, STABLE).await), ("v1", 3));
        match by {
            By::Replicas => assert_eq!(replicas(&namespace, CANARY).await, 0),
            _ => assert_eq!(weights(&route(&namespace, "VirtualService").await), (100, 0)),
        }
    }
}
