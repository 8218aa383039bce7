//! The real Argo Rollouts: a Rollout goes back through its controller.

use crate::{
    alike::{Alike, EVIDENCE, Rule, with_rights},
    deployment_space::{PATIENCE, Space, settled, until},
    glass::{Glass, broken},
};
use async_trait::async_trait;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use rollback_core::{
    journal::MemoryShelf,
    prelude::*,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
    *,
};
use rollback_k8s::{ArgoRollout, release_id};
use rollback_tests::bed::kubernetes::{deployment, server_pod_spec, service};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const NAME: &str = "web";

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": NAME}}, "spec": server_pod_spec(&format!("bed/server:{image}"))})
}
fn id(image: &str) -> ReleaseId {
    release_id(&template(image))
}
fn rollout(image: &str, strategy: Value) -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": NAME},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": NAME}},
            "template": template(image),
            "strategy": strategy,
        },
    })
}
/// Half of the pods, then a pause without an end.
fn steps() -> Value {
    json!({"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}})
}

async fn space(what: &str) -> Space {
    let space = Space::new(what).await;
    space.own.bed().with("argo-rollouts").await;
    space
}
fn api(space: &Space) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Rollout"));
    Api::namespaced_with(space.own.bed().client(), &space.namespace, &resource)
}
async fn now(space: &Space) -> Value {
    serde_json::to_value(api(space).get(NAME).await.unwrap()).unwrap()
}
async fn deploy(space: &Space, image: &str) {
    let containers = json!([template(image)["spec"]["containers"][0]]);
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
    api(space).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
}
async fn promote(space: &Space) {
    let patch = Patch::Merge(json!({"status": {"promoteFull": true}}));
    api(space).patch_status(NAME, &PatchParams::default(), &patch).await.unwrap();
}
async fn is(space: &Space, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    until(what, || async { Some(now(space).await).filter(|rollout| so(rollout)) }).await.0
}
/// The controller's pause of its steps.
fn pauses(rollout: &Value) -> bool {
    let observed = rollout["status"]["observedGeneration"].as_str().and_then(|n| n.parse().ok());
    rollout["status"]["phase"] == "Paused" && observed == rollout["metadata"]["generation"].as_i64()
}
fn image(rollout: &Value) -> &str {
    let image = rollout.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str);
    image.unwrap_or_default().trim_start_matches("bed/server:")
}
/// Version 1 is there, and version 2 has come as far as its pause.
async fn half_way(what: &str, strategy: Value) -> (Space, ArgoRollout) {
    let (space, target) = first(what, strategy).await;
    deploy(&space, "v2").await;
    is(&space, "it pauses half way", pauses).await;
    (space, target)
}
async fn first(what: &str, strategy: Value) -> (Space, ArgoRollout) {
    let space = space(what).await;
    let target = space.cluster.rollout(&space.namespace, NAME);
    space.apply(rollout("v1", strategy)).await;
    settled(&target).await;
    (space, target)
}
/// Version 2 was promoted.
async fn promoted(what: &str, strategy: Value) -> (Space, ArgoRollout) {
    let (space, target) = half_way(what, strategy).await;
    promote(&space).await;
    settled(&target).await;
    (space, target)
}
fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(100));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}
fn work(step: &str) -> Work {
    Work::new("run".into(), 1, step, Duration::from_secs(30), Arc::new(MemoryShelf::new()))
}
/// The stable side is what the template names, at full capacity.
fn is_back(rollout: &Value) {
    let status = &rollout["status"];
    assert_eq!(image(rollout), "v1", "a retry would bring the bad one again");
    assert_eq!((&status["phase"], &status["currentPodHash"]), (&json!("Healthy"), &status["stableRS"]), "{status:#}");
    assert_eq!(&status["availableReplicas"], &json!(2), "{status:#}");
    // A blue/green's other side is kept for a while, without traffic.
    if rollout.pointer("/spec/strategy/blueGreen").is_none() {
        assert_eq!(&status["replicas"], &json!(2), "{status:#}");
    }
    assert_ne!(status["abort"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn in_flight_it_is_aborted_and_its_template_is_back() {
    let (space, _) = half_way("argo-abort", steps()).await;
    space.apply(service(NAME, json!({"app": NAME}))).await;
    // With the rights that its docs name, and those of evidence.
    let rights: [Rule<'_>; 4] = [
        ("argoproj.io", "rollouts", &["get", "patch"]),
        ("argoproj.io", "rollouts/status", &["patch"]),
        ("apps", "replicasets", &["list"]),
        ("", "pods", &["list"]),
    ];
    let rights = [&rights[..], &EVIDENCE].concat();
    let target = with_rights(&space.own, "least", &rights, |cluster| cluster.rollout(&space.namespace, NAME)).await;
    let alike = Alike { target: &target, checks: target.checks(), bad: id("v2"), good: id("v1") };
    let bundle = alike.before().await;
    assert!(bundle.json("k8s-objects/1").iter().any(|object| object["kind"] == "Service"), "{:?}", bundle.kinds());
    let seen = target.observe(Look::full()).await.unwrap();
    let flight = seen.in_flight.unwrap();
    assert_eq!((flight.from, flight.to), (Some(id("v1")), Some(id("v2"))));
    assert_eq!(flight.abort, Some(Landing::On(id("v1"))));
    let begun = Instant::now();
    let report = rollback(target.clone()).run().await.unwrap();
    println!("measured: argo-rollouts, aborted in flight and settled in {:?}", begun.elapsed());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(report.to_string().contains("abort"), "{report}");
    is_back(&now(&space).await);
    alike.after().await;
    let again = rollback(target).run().await.unwrap();
    assert!(matches!(again.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{again}");
    is_back(&now(&space).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn in_flight_it_is_reverted_by_one_request() {
    let (space, target) = half_way("argo-revert", steps()).await;
    let change = Change::release(&"all".into(), &id("v1"));
    let approved = target.prepare(&change, &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    let begun = Instant::now();
    target.apply(&approved, token, &work("1")).await.unwrap();
    settled(&target).await;
    println!("measured: argo-rollouts, reverted in flight and settled in {:?}", begun.elapsed());
    is_back(&now(&space).await);
}

/// Somebody else, or an analysis, aborted it: its template is still the bad one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_somebody_aborted_gets_its_template_back() {
    let (space, target) = half_way("argo-aborted", steps()).await;
    let patch = Patch::Merge(json!({"status": {"abort": true}}));
    api(&space).patch_status(NAME, &PatchParams::default(), &patch).await.unwrap();
    is(&space, "it is aborted", |rollout| rollout["status"]["phase"] == "Degraded").await;
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    is_back(&now(&space).await);
}

/// argo-rollouts#1292: an abort with nothing in flight scaled the stable side to 0.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn with_nothing_in_flight_nothing_is_aborted() {
    let (space, target) = half_way("argo-late", steps()).await;
    let change = Change::Abort { expect: Landing::On(id("v1")), never: id("v2") };
    let approved = target.prepare(&change, &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    // It is promoted between the look and the write.
    promote(&space).await;
    settled(&target).await;
    let late = target.apply(&approved, token, &work("1")).await.unwrap_err();
    assert_eq!((late.kind(), late.effect()), (Kind::Conflict, Effect::None), "{late}");
    let fresh = target.observe(Look::full()).await.unwrap();
    assert_eq!(fresh.in_flight, None);
    let late = target.apply(&approved, fresh.token, &work("1")).await.unwrap_err();
    assert_eq!(late.effect(), Effect::None, "{late}");
    let stale = target.prepare(&change, &work("2")).await.unwrap_err();
    assert_eq!((stale.kind(), stale.effect()), (Kind::Stale, Effect::None), "{stale}");
    let after = settled(&target).await;
    let part = after.parts.values().next().unwrap();
    assert_eq!((&part.running, part.ready), (&Running::Release(id("v2")), Some(2)));
    assert_ne!(now(&space).await["status"]["abort"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn after_promotion_its_steps_are_skipped() {
    let (space, target) = promoted("argo-undo", steps()).await;
    let begun = Instant::now();
    let report = rollback(target.clone()).run().await.unwrap();
    println!("measured: argo-rollouts, undone after promotion and settled in {:?}", begun.elapsed());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    is_back(&now(&space).await);
    let again = rollback(target).run().await.unwrap();
    assert!(matches!(again.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn through_its_steps_it_waits_to_be_promoted() {
    let (space, target) = promoted("argo-steps", steps()).await;
    let target = target.through_its_steps();
    let run = tokio::spawn(async move { rollback(target).run().await });
    let paused = is(&space, "it pauses on the way back", |rollout| image(rollout) == "v1" && pauses(rollout)).await;
    assert_ne!(paused["status"]["currentPodHash"], paused["status"]["stableRS"]);
    assert!(!run.is_finished(), "half of the pods are of the bad release");
    promote(&space).await;
    let report = run.await.unwrap().unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    is_back(&now(&space).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn within_its_rollback_window_it_skips_steps_by_itself() {
    let (space, target) = promoted("argo-window", steps()).await;
    let patch = Patch::Merge(json!({"spec": {"rollbackWindow": {"revisions": 3}}}));
    api(&space).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    settled(&target).await;
    let report = rollback(target.through_its_steps()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    is_back(&now(&space).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn blue_green_is_aborted_before_it_is_promoted() {
    let space = space("argo-blue").await;
    for name in ["active", "preview"] {
        space.apply(service(name, json!({"app": NAME}))).await;
    }
    let strategy = json!({"blueGreen": {"activeService": "active", "previewService": "preview",
        "autoPromotionEnabled": false}});
    let target = space.cluster.rollout(&space.namespace, NAME);
    space.apply(rollout("v1", strategy)).await;
    settled(&target).await;
    deploy(&space, "v2").await;
    is(&space, "it waits to be promoted", pauses).await;
    let report = rollback(target.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    is_back(&now(&space).await);
    let active = space.own.kubectl(&["get", "service", "active", "-o", "jsonpath={.spec.selector}"]).await;
    let stable = now(&space).await["status"]["stableRS"].as_str().unwrap().to_owned();
    assert!(active.contains(&stable), "{active}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_pause_of_somebody_is_lifted_only_when_asked() {
    let (space, target) = promoted("argo-paused", steps()).await;
    let patch = Patch::Merge(json!({"spec": {"paused": true}}));
    api(&space).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    let report = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert_eq!(image(&now(&space).await), "v2");
    let report = rollback(target.lifting_pause()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    is_back(&now(&space).await);
}

/// The Rollout has its template in a Deployment: that one's own target refuses, and names the right one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_deployment_that_a_rollout_refers_to_goes_back_through_the_rollout() {
    let space = space("argo-ref").await;
    let mut workload = deployment(NAME, 0, server_pod_spec("bed/server:v1"));
    workload["spec"]["template"] = template("v1");
    space.apply(workload).await;
    let mut refers = rollout("v1", steps());
    let spec = refers["spec"].as_object_mut().unwrap();
    spec.remove("template");
    spec.insert("workloadRef".into(), json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}));
    space.apply(refers).await;
    let target = space.cluster.rollout(&space.namespace, NAME);
    settled(&target).await;
    space.deploy(NAME, "v2").await;
    is(&space, "it pauses half way", |rollout| rollout["status"]["phase"] == "Paused").await;

    // It has no replicas of its own, so its own target has nothing to do; and may not be made to.
    let behind = space.cluster.deployment(&space.namespace, NAME);
    let prepared = behind.prepare(&Change::release(&"all".into(), &id("v1")), &work("1")).await.unwrap();
    let blocks: Vec<_> = prepared.findings.iter().filter(|finding| finding.severity == Severity::Blocks).collect();
    assert!(matches!(&blocks[..], [one] if one.text.contains("roll back the Rollout ")), "{blocks:?}");
    let report = rollback(behind).blaming(id("v2")).to(Choose::Exactly(id("v1"))).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{report}");
    assert_eq!(space.image(NAME).await, "v2");

    let report = rollback(target.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(space.image(NAME).await, "v1");
    let part = settled(&target).await.parts.values().next().unwrap().clone();
    assert_eq!((part.running, part.ready), (Running::Release(id("v1")), Some(2)));
}

#[derive(Debug, Default)]
struct Rollouts(Mutex<Option<Arc<Space>>>);

impl Rollouts {
    fn space(&self) -> Arc<Space> {
        self.0.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Bench for Rollouts {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let space = Arc::new(space("argo-laws").await);
        // The namespace before goes with it.
        *self.0.lock().unwrap() = Some(space.clone());
        let target = space.cluster.rollout(&space.namespace, NAME);
        let steps = json!({"canary": {"steps": [{"setWeight": 50}]}});
        space.apply(rollout("v1", steps)).await;
        settled(&target).await;
        deploy(&space, "v2").await;
        until("version 2 is there", || async {
            let seen = target.observe(Look::full()).await.ok()?;
            let part = seen.parts.values().next()?;
            (part.runs(&id("v2")) && part.settled == Settled::Yes).then_some(())
        })
        .await;
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        Change::release(&"all".into(), &id("v1"))
    }
    fn change_after(&self) -> Option<Change> {
        Some(Change::release(&"all".into(), &id("v2")))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        let space = self.space();
        deploy(&space, "v3").await;
        // What it comes to is looked at afterwards, and must not change by itself meanwhile.
        let target = space.cluster.rollout(&space.namespace, NAME);
        until("version 3 is there", || async {
            let seen = target.observe(Look::full()).await.ok()?;
            let part = seen.parts.values().next()?;
            (part.runs(&id("v3")) && part.settled == Settled::Yes).then_some(())
        })
        .await;
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        let gone = api(&self.space()).delete(NAME, &DeleteParams::background()).await;
        Some(gone.map(drop).map_err(|e| Error::new(Kind::Unexpected, "delete it").with_source(e)))
    }
    fn patience(&self) -> Duration {
        PATIENCE
    }
    fn poll(&self) -> Duration {
        Duration::from_millis(100)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_laws_hold_on_a_rollout() {
    let ruled = each(&Rollouts::default()).await;
    let broken: Vec<_> = ruled.iter().filter(|(_, ruling)| ruling.is_err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let left_out: Vec<_> = ruled.iter().filter(|(_, ruling)| matches!(ruling, Ok(Ruling::DoesNotApply(_)))).collect();
    // Only what Kubernetes has no epochs for.
    assert_eq!(left_out.iter().map(|(law, _)| *law).collect::<Vec<_>>(), ["lower_epoch_is_refused"]);
}

/// Half way, and after a promotion.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_takes_seconds_and_does_not_walk_on() {
    let (space, target) = half_way("argo-glass", steps()).await;
    let _ = broken(&target, Glass::Bare).await;
    is_back(&now(&space).await);
    deploy(&space, "v3").await;
    is(&space, "it pauses half way", pauses).await;
    promote(&space).await;
    settled(&target).await;
    let _ = broken(&target, Glass::Journalled).await;
    is_back(&now(&space).await);
}
