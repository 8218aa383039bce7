//! The real Flagger: a Deployment that it steers goes back through it.

use crate::{
    alike::{Alike, EVIDENCE, FINDINGS, Rule, all_was_known, with_rights},
    deployment_space::{PATIENCE, Space, server, settled, until},
    glass::{Glass, broken},
};
use async_trait::async_trait;
use axum::{Router, extract::State, http::StatusCode, routing::post};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use rollback_core::{journal::MemoryShelf, prelude::*, *};
use rollback_k8s::{Cluster, ClusterOptions, FlaggerCanary, LoadTesterGate, RollbackGate, release_id};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const NAME: &str = "web";

fn id(image: &str) -> ReleaseId {
    release_id(&server(NAME, image, 2)["spec"]["template"])
}

/// What answers the rollback webhook, as Flagger's load tester does. Flagger and this process share a network.
#[derive(Clone, Debug)]
struct Webhook {
    opened: Arc<AtomicBool>,
    port: u16,
}

impl Webhook {
    async fn start() -> Self {
        let opened = Arc::new(AtomicBool::new(false));
        let check = |State(opened): State<Arc<AtomicBool>>| async move {
            if opened.load(Ordering::SeqCst) { StatusCode::OK } else { StatusCode::FORBIDDEN }
        };
        let router = Router::new().route("/rollback/check", post(check)).with_state(opened.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { opened, port }
    }
    fn is_open(&self) -> bool {
        self.opened.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl RollbackGate for Webhook {
    async fn open(&self, _namespace: &str, _canary: &str) -> Result<()> {
        self.opened.store(true, Ordering::SeqCst);
        Ok(())
    }
    async fn close(&self, _namespace: &str, _canary: &str) -> Result<()> {
        self.opened.store(false, Ordering::SeqCst);
        Ok(())
    }
}

fn canary(iterations: u32, webhooks: Value) -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": NAME},
        "spec": {
            "provider": "kubernetes",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "service": {"port": 80, "targetPort": 8080},
            "analysis": {"interval": "10s", "threshold": 3, "iterations": iterations, "webhooks": webhooks},
        },
    })
}
fn rollback_webhook(port: u16) -> Value {
    json!([{"name": "rollback", "type": "rollback", "url": format!("http://127.0.0.1:{port}/rollback/check")}])
}
fn api(space: &Space) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("flagger.app", "v1beta1", "Canary"));
    Api::namespaced_with(space.own.bed().client(), &space.namespace, &resource)
}
async fn phase(space: &Space) -> String {
    let canary = api(space).get(NAME).await.unwrap();
    canary.data.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default().to_owned()
}
async fn reaches(space: &Space, wanted: &str) {
    let look = || async { (phase(space).await == wanted).then_some(()) };
    until(&format!("the Canary is {wanted}"), look).await;
}
async fn image(space: &Space, deployment: &str) -> String {
    space.image(deployment).await
}
async fn replicas(space: &Space, deployment: &str) -> i32 {
    space.deployment(deployment).await.spec.unwrap().replicas.unwrap_or(1)
}
async fn scale(space: &Space, deployment: &str, to: i32) {
    let scale = Patch::Merge(json!({"spec": {"replicas": to}}));
    space.api::<Deployment>().patch_scale(deployment, &PatchParams::default(), &scale).await.unwrap();
}

/// Version 1 is the primary.
async fn begun(what: &str, iterations: u32, webhooks: Value) -> (Space, FlaggerCanary) {
    let space = Space::new(what).await;
    space.own.bed().with("flagger").await;
    space.apply(server(NAME, "v1", 2)).await;
    space.apply(canary(iterations, webhooks)).await;
    let target = space.cluster.flagger_canary(&space.namespace, NAME);
    settled(&target).await;
    (space, target)
}
/// A run of version 2 is in flight, and its pods are ready: only then Flagger asks its webhook.
async fn in_flight(what: &str, webhooks: Value) -> (Space, FlaggerCanary) {
    let (space, target) = begun(what, 100, webhooks).await;
    space.deploy(NAME, "v2").await;
    reaches(&space, "Progressing").await;
    until("the canary's pods are ready", || async {
        let seen = target.observe(Look::full()).await.ok()?;
        let part = seen.parts.values().next()?;
        matches!(&part.running, Running::Mixed(all) if all.get(&id("v2")) == Some(&2)).then_some(())
    })
    .await;
    (space, target)
}
fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}
fn work(step: &str) -> Work {
    Work::new("run".into(), 1, step, Duration::from_secs(30), Arc::new(MemoryShelf::new()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_run_is_ended_by_its_webhook_and_its_target_undone() {
    let webhook = Webhook::start().await;
    let (space, _) = in_flight("flagger-end", rollback_webhook(webhook.port)).await;
    // With the rights that its docs name, and those of evidence.
    let rights: [Rule<'_>; 5] = [
        ("flagger.app", "canaries", &["get"]),
        ("apps", "deployments", &["get", "patch"]),
        ("apps", "replicasets", &["list"]),
        ("", "pods", &["list"]),
        ("", "services", &["get"]),
    ];
    let rights = [&rights[..], &EVIDENCE, &FINDINGS].concat();
    let of = |cluster: &Cluster| cluster.flagger_canary(&space.namespace, NAME).with_gate(webhook.clone());
    let target = with_rights(&space.own, "least", &rights, of).await;
    let alike = Alike { target: &target, checks: target.checks(), bad: id("v2"), good: id("v1") };
    let bundle = alike.before().await;
    let objects = bundle.json("k8s-objects/1");
    for kind in ["Canary", "Service"] {
        assert!(objects.iter().any(|object| object["kind"] == kind), "{objects:?}");
    }
    let seen = target.observe(Look::full()).await.unwrap();
    let flight = seen.in_flight.unwrap();
    assert_eq!((flight.from, flight.to), (Some(id("v1")), Some(id("v2"))));
    let traffic = space.own.load(NAME).await.rate(50).start();
    let begun = Instant::now();
    let report = rollback(target.clone()).run().await.unwrap();
    println!("measured: flagger, a run ended and its target undone in {:?}", begun.elapsed());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    all_was_known(&report);
    let answers = traffic.stop().await;
    // With this provider all of the traffic stays with the primary; nothing of this takes it away.
    assert_eq!((answers.failed(), answers.of("v2")), (0, 0), "{:?}", answers.summary());
    assert_eq!(phase(&space).await, "Failed");
    assert_eq!((image(&space, NAME).await.as_str(), replicas(&space, NAME).await), ("v1", 0));
    assert_eq!(image(&space, "web-primary").await, "v1");
    assert!(!webhook.is_open(), "the next run would end as soon as it begins");
    alike.after().await;
    let again = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(again.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{again}");
}

/// The template alone goes unnoticed, and the run ends Succeeded.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn in_flight_the_template_alone_is_never_reverted() {
    let webhook = Webhook::start().await;
    let (space, target) = in_flight("flagger-alone", rollback_webhook(webhook.port)).await;
    let target = target.with_gate(webhook.clone());
    let change = Change::release(&"all".into(), &id("v1"));
    let approved = target.prepare(&change, &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    let refused = target.apply(&approved, token, &work("1")).await.unwrap_err();
    assert_eq!((refused.kind(), refused.effect()), (Kind::Conflict, Effect::None), "{refused}");
    assert_eq!(image(&space, NAME).await, "v2");

    // Nor is the Canary deleted, which would send everything to the bad release.
    let refused = target.delete().await.unwrap_err();
    assert_eq!((refused.kind(), refused.effect()), (Kind::Conflict, Effect::None), "{refused}");
    assert_eq!(phase(&space).await, "Progressing");

    // Nor is it touched behind Flagger's back.
    let behind = rollback(space.cluster.deployment(&space.namespace, NAME)).run().await.unwrap();
    assert!(matches!(behind.outcome(), Outcome::Refused { .. }), "{behind}");
    assert!(behind.to_string().contains("roll back the Canary "), "{behind}");
    let behind = rollback(space.cluster.deployment(&space.namespace, "web-primary"))
        .to(Choose::Exactly(id("v1")))
        .blaming(id("v2"))
        .run()
        .await
        .unwrap();
    assert_ne!(behind.outcome(), &Outcome::Recovered, "{behind}");
    assert_eq!(image(&space, NAME).await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn without_a_rollback_webhook_it_says_so_and_touches_nothing() {
    let (space, target) = in_flight("flagger-none", json!([])).await;
    let report = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("no rollback webhook"), "{report}");
    assert_eq!((phase(&space).await.as_str(), image(&space, NAME).await.as_str()), ("Progressing", "v2"));
    // One that nobody knows how to open.
    let patch = Patch::Merge(json!({"spec": {"analysis": {"webhooks": rollback_webhook(9)}}}));
    api(&space).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    let report = rollback(target).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("open the gate"), "{report}");
}

/// flagger#869: all of the traffic onto a primary that is not there. Capacity first.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_run_is_not_ended_onto_a_primary_that_is_not_there() {
    let webhook = Webhook::start().await;
    let (space, target) = in_flight("flagger-869", rollback_webhook(webhook.port)).await;
    scale(&space, "web-primary", 0).await;
    let report = rollback(target.with_gate(webhook.clone())).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("capacity"), "{report}");
    assert!(!webhook.is_open());
    assert_eq!(image(&space, NAME).await, "v2");
}

/// flagger#944: scaling mistaken for the progress of a rollout.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn scaling_is_no_run() {
    let (space, target) = begun("flagger-944", 1, json!([])).await;
    scale(&space, "web-primary", 3).await;
    let looked = Instant::now();
    let mut ready = 0;
    // Longer than one tick of Flagger's.
    while looked.elapsed() < Duration::from_secs(12) || ready < 3 {
        let seen = target.observe(Look::full()).await.unwrap();
        let part = seen.parts.values().next().unwrap();
        assert_eq!(seen.in_flight, None);
        assert_eq!((&part.wanted, &part.running), (&Some(id("v1")), &Running::Release(id("v1"))));
        assert!(!matches!(part.settled, Settled::Never { .. }), "{:?}", part.settled);
        ready = part.ready.unwrap_or(0);
        assert!(looked.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let report = rollback(target).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{report}");
    assert_eq!(phase(&space).await, "Initialized");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn after_a_promotion_flagger_brings_the_good_release_back() {
    let (space, target) = begun("flagger-undo", 1, json!([])).await;
    space.deploy(NAME, "v2").await;
    reaches(&space, "Succeeded").await;
    let seen = settled(&target).await;
    assert_eq!(seen.parts.values().next().unwrap().running, Running::Release(id("v2")));
    let begun = Instant::now();
    let report = rollback(target.clone()).run().await.unwrap();
    println!("measured: flagger, undone after a promotion, by an analysis of one iteration, in {:?}", begun.elapsed());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(phase(&space).await, "Succeeded");
    assert_eq!((image(&space, "web-primary").await, image(&space, NAME).await), ("v1".into(), "v1".into()));
    let canary = api(&space).get(NAME).await.unwrap();
    assert_eq!(canary.data.pointer("/spec/skipAnalysis"), None, "the analysis is not skipped");
}

/// The gate of Flagger's load tester is reached through the API server.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_load_testers_gate_is_reached_through_the_api_server() {
    let space = Space::new("flagger-gate").await;
    // It answers any path; with what it was asked, the record of requests says.
    space.own.serve("tester", "bed/server:v1", 1).await;
    let bed = space.own.bed();
    let client = bed.client_called("rollback-gate");
    let cluster = Cluster::from_client(client, ClusterOptions::default()).await.unwrap();
    let gate = LoadTesterGate::new(&cluster, &space.namespace, "tester", 80);
    let mark = bed.mark();
    until("the gate is opened", || async { gate.open(&space.namespace, NAME).await.ok() }).await;
    gate.close(&space.namespace, NAME).await.unwrap();
    let at = format!("/api/v1/namespaces/{}/services/tester:80/proxy/rollback/", space.namespace);
    until("both were asked for", || async {
        let asked = bed.requests(mark, "rollback-gate");
        let was = |what: &str| {
            let uri = format!("{at}{what}");
            asked.iter().any(|asked| {
                let answered = asked.response_status.as_ref().is_some_and(|status| status.code == 200);
                asked.verb == "create" && asked.uri.trim_end_matches(['?', '&']) == uri && answered
            })
        };
        (was("open") && was("close")).then_some(())
    })
    .await;
    let nobody = LoadTesterGate::new(&cluster, &space.namespace, "nobody", 80);
    let e = nobody.open(&space.namespace, NAME).await.unwrap_err();
    assert!(matches!(e.kind(), Kind::NotFound | Kind::Unavailable), "{e}");
}

/// Elsewhere than in flight, too, only where it takes no traffic away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_canary_is_deleted_only_where_its_target_serves_as_well() {
    let (space, target) = begun("flagger-delete", 1, json!([])).await;
    let refused = target.delete().await.unwrap_err();
    assert!(refused.to_string().contains("revertOnDeletion"), "{refused}");
    let patch = Patch::Merge(json!({"spec": {"revertOnDeletion": true}}));
    api(&space).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    let refused = target.delete().await.unwrap_err();
    assert!(refused.to_string().contains("scale the target"), "{refused}");
    scale(&space, NAME, 2).await;
    let traffic = space.own.load(NAME).await.rate(50).start();
    until("it may go", || async { target.delete().await.ok() }).await;
    until("it is gone", || async { api(&space).get_opt(NAME).await.unwrap().is_none().then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answers = traffic.stop().await;
    println!("measured: flagger, a Canary deleted: {} of {} requests failed", answers.failed(), answers.0.len());
    assert_eq!(replicas(&space, NAME).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_takes_seconds_and_does_not_walk_on() {
    let webhook = Webhook::start().await;
    let (space, target) = in_flight("flagger-glass", rollback_webhook(webhook.port)).await;
    let target = target.with_gate(webhook.clone());
    let _ = broken(&target, Glass::Bare).await;
    assert_eq!((image(&space, NAME).await.as_str(), image(&space, "web-primary").await.as_str()), ("v1", "v1"));
    space.deploy(NAME, "v3").await;
    reaches(&space, "Progressing").await;
    until("the canary's pods are ready", || async {
        let seen = target.observe(Look::full()).await.ok()?;
        let part = seen.parts.values().next()?;
        matches!(&part.running, Running::Mixed(all) if all.get(&id("v3")) == Some(&2)).then_some(())
    })
    .await;
    let _ = broken(&target, Glass::Journalled).await;
    assert_eq!((image(&space, NAME).await.as_str(), phase(&space).await.as_str()), ("v1", "Failed"));
}
