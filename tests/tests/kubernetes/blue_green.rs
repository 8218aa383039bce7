//! Blue/green on a real Service: laws, real traffic, and other hands.

use crate::alike::{FINDINGS, Rule, STEERED, all_was_known};
use crate::glass::{Glass, broken};
use crate::pairs::{
    SOON, Watched, cluster, cluster_with, deploy, id, image, keeps_the_laws, replicas, rollback, scale, settled, side,
    until, when, work,
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams};
use rollback_core::{strategy::BlueGreen, testing::laws::target::Bench, *};
use rollback_k8s::{BlueGreenService, Cluster};
use rollback_tests::bed::kubernetes::{Bed, Namespace, service};
use serde_json::json;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const APP: &str = "checkout";

/// Blue and green with these images and replicas; the Service sends to green.
async fn found(about: &str, blue: (&str, i32), green: (&str, i32)) -> (Arc<Namespace>, BlueGreenService) {
    let bed = Bed::here().await;
    let namespace = Arc::new(bed.namespace(about).await);
    for (name, (image, replicas)) in [("blue", blue), ("green", green)] {
        namespace.apply(side(APP, name, image, replicas)).await;
    }
    namespace.apply(service(APP, json!({"app": APP, "side": "green"}))).await;
    let target = of(&cluster(&bed).await, &namespace, APP);
    settled(&target).await;
    (namespace, target)
}
fn of(cluster: &Cluster, namespace: &Namespace, app: &str) -> BlueGreenService {
    cluster.blue_green(namespace.name(), app, ["blue", "green"].map(|side| (side, format!("{app}-{side}"))))
}
async fn selected(namespace: &Namespace) -> String {
    let selector = namespace.api::<Service>().get(APP).await.unwrap().spec.unwrap().selector.unwrap();
    assert_eq!(selector["app"], APP, "what is shared stays");
    selector["side"].clone()
}
async fn select(namespace: &Namespace, side: &str) {
    let patch = Patch::Merge(json!({"spec": {"selector": {"side": side}}}));
    namespace.api::<Service>().patch(APP, &PatchParams::default(), &patch).await.unwrap();
}
fn switch() -> Change {
    Change::traffic([("blue".into(), Weight::ALL), ("green".into(), Weight::NONE)])
}
fn is_switch(change: &Change) -> bool {
    change.kinds().contains(&ChangeKind::Traffic)
}
fn empties(change: &Change) -> bool {
    *change == Change::capacity(&"green".into(), Capacity::Exactly(0))
}

/// A namespace for each world: the same names, so the same releases.
#[derive(Debug)]
struct Pairs {
    about: &'static str,
    world: Mutex<Option<Arc<Namespace>>>,
    change: Change,
    after: Option<Change>,
    /// Blue has this release behind it, and no replicas.
    blue_before: Option<&'static str>,
}
impl Pairs {
    fn namespace(&self) -> Arc<Namespace> {
        self.world.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Bench for Pairs {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        self.world.lock().unwrap().take();
        let (namespace, target) = match self.blue_before {
            None => found(self.about, ("v1", 1), ("v2", 1)).await,
            Some(before) => {
                let (namespace, target) = found(self.about, (before, 0), ("v2", 1)).await;
                deploy(&namespace, "checkout-blue", "v1").await;
                until(&target, "blue is told", |seen| seen.parts["blue"].wanted == Some(id(APP, "blue", "v1"))).await;
                settled(&target).await;
                (namespace, target)
            }
        };
        *self.world.lock().unwrap() = Some(namespace);
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        self.change.clone()
    }
    fn change_after(&self) -> Option<Change> {
        self.after.clone()
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        deploy(&self.namespace(), "checkout-blue", "v3").await;
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.namespace().api::<Service>().delete(APP, &DeleteParams::default()).await.unwrap();
        Some(Ok(()))
    }
    fn patience(&self) -> Duration {
        SOON
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_switch_keeps_the_laws() {
    let after = Some(Change::capacity(&"green".into(), Capacity::Exactly(0)));
    let bench = Pairs { about: "bg-laws", world: Mutex::default(), change: switch(), after, blue_before: None };
    keeps_the_laws("blue/green, the switch", &bench).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn making_the_idle_side_ready_keeps_the_laws() {
    let (release, capacity) = (Some(id(APP, "blue", "v4")), Some(Capacity::AtLeast(1)));
    let change = Change::reach([("blue".into(), Wish { release, capacity, ..Wish::default() })]);
    let (about, world) = ("bg-laws-ready", Mutex::default());
    let bench = Pairs { about, world, change, after: Some(switch()), blue_before: Some("v4") };
    keeps_the_laws("blue/green, release and capacity of the idle side", &bench).await;
}

/// The whole way, with the old side scaled to nothing, under 200 new and 200 kept-alive requests a second.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn no_new_connection_fails_and_the_bad_side_is_left() {
    let (namespace, target) = found("bg-traffic", ("v1", 0), ("v2", 3)).await;
    namespace.reached(APP, SOON).await;
    let fresh = namespace.load(APP).await.rate(200).start();
    let kept = namespace.load(APP).await.rate(200).kept_alive(10).start();
    tokio::time::sleep(Duration::from_secs(1)).await; // the load before
    let (watched, written) = Watched::new(target);
    let strategy = BlueGreen::default().with_hold(Duration::ZERO).with_drain(seconds(3)).with_empty_bad(true);
    let report = rollback(watched).using(strategy).run().await.unwrap();
    let over = Instant::now();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    tokio::time::sleep(Duration::from_secs(2)).await; // the load after
    let (fresh, kept) = (fresh.stop().await, kept.stop().await);

    let (switched, drained) = (when(&written, is_switch), when(&written, empties));
    let after = |answers: &rollback_tests::bed::load::Answers, moment| {
        answers.last_of("v2").and_then(|last| last.checked_duration_since(moment)).unwrap_or_default()
    };
    let (last_fresh, last_kept) = (after(&fresh, switched), after(&kept, drained));
    println!(
        "measured: blue/green under load: new connections: {} of {} failed, {} answers of the bad side after the switch, \
         the last {} ms after it; kept alive: {} of {} failed, the last bad answer {} ms after the end of the drain of 3 s",
        fresh.failed(),
        fresh.0.len(),
        fresh.sent_since(switched).of("v2"),
        last_fresh.as_millis(),
        kept.failed(),
        kept.0.len(),
        last_kept.as_millis(),
    );
    assert!(fresh.of("v2") > 100 && fresh.of("v1") > 100, "{:?}", fresh.summary());
    assert_eq!(fresh.failed(), 0, "{:?}", fresh.summary());
    assert_eq!(fresh.sent_since(over).of("v2"), 0, "the last {last_fresh:?} after the switch");
    assert!(kept.sent_since(switched).of("v2") > 100, "kept-alive connections stay until the drain ends");
    assert_eq!(kept.sent_since(over).of("v2"), 0, "the last {last_kept:?} after the drain");
    assert_eq!((selected(&namespace).await.as_str(), replicas(&namespace, "checkout-green").await), ("blue", 0));
    assert_eq!(replicas(&namespace, "checkout-blue").await, 3, "as many as served");
    let annotations = namespace.api::<Service>().get(APP).await.unwrap().metadata.annotations.unwrap();
    assert!(annotations.contains_key("rollback.dev/trace"), "the next rollback does not walk on: {annotations:?}");
}

/// The idle side has no pods yet that could be looked at.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_check_with_no_port_to_ask_at_is_refused_before_the_first_write() {
    let bed = Bed::here().await;
    let namespace = Arc::new(bed.namespace("bg-no-port").await);
    for (name, image, replicas) in [("blue", "v1", 0), ("green", "v2", 1)] {
        let mut side = side(APP, name, image, replicas);
        side["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().remove("ports");
        namespace.apply(side).await;
    }
    namespace.apply(service(APP, json!({"app": APP, "side": "green"}))).await;
    let target = of(&cluster(&bed).await, &namespace, APP);
    settled(&target).await;
    let get = || health::Http::at_each_part("/health").unwrap();
    let through = target.checks().through_api(get());
    let checks: [(Box<dyn HealthCheck>, &str); 2] =
        [(Box::new(through.clone()), "declares no port"), (Box::new(get()), "is reached")];
    for (check, says) in checks {
        let report = rollback(target.clone()).using(BlueGreen::default()).healthy_when(check).run().await.unwrap();
        assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains(says)), "{report}");
        assert_eq!((report.writes(), replicas(&namespace, "checkout-blue").await), (0, 0), "{report}");
    }
    let strategy = BlueGreen::default().with_drain(Duration::ZERO).with_hold(Duration::ZERO);
    let report = rollback(target).using(strategy).healthy_when(through.at_port(8080)).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
}

/// What progress shows, for as long as somebody looks at it.
#[derive(Clone, Default)]
struct Terminal(Arc<Mutex<Vec<u8>>>);
impl std::io::Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_is_waited_for_is_said_as_it_changes() {
    let bed = Bed::here().await;
    let namespace = Arc::new(bed.namespace("bg-progress").await);
    for (name, image, replicas) in [("blue", "v1", 0), ("green", "v2", 2)] {
        let mut side = side(APP, name, image, replicas);
        side["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["initialDelaySeconds"] = json!(6);
        namespace.apply(side).await;
    }
    namespace.apply(service(APP, json!({"app": APP, "side": "green"}))).await;
    let target = of(&cluster(&bed).await, &namespace, APP);
    settled(&target).await;
    let terminal = Terminal::default();
    let strategy = BlueGreen::default().with_hold(seconds(2)).with_drain(seconds(3));
    let report =
        rollback(target).using(strategy).observer(observe::Progress::to(terminal.clone())).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let shown = String::from_utf8(terminal.0.lock().unwrap().clone()).unwrap();
    println!("{shown}\n{report}");
    for says in ["0 of 2 pods are available: not ready", "containers with unready status", "a pause of 3s"] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    // Nothing of it is read by machines alone.
    assert!(!shown.contains("template:") && shown.contains("(server:v1)"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn an_idle_side_that_was_overwritten_gets_no_traffic() {
    let (namespace, target) = found("bg-overwritten", ("v1", 1), ("v2", 1)).await;
    let theirs = namespace.clone();
    let target = Watched::before_the_first(target, ChangeKind::Traffic, move || {
        let theirs = theirs.clone();
        async move { deploy(&theirs, "checkout-blue", "v3").await }
    });
    let report = rollback(target).using(BlueGreen::default().with_drain(Duration::ZERO)).run().await.unwrap();
    // Half way, blue runs a mix.
    let theirs = id(APP, "blue", "v3");
    assert!(matches!(report.outcome(), Outcome::Superseded { by } if by.contains(theirs.as_str())), "{report}");
    assert_eq!(selected(&namespace).await, "green");
    assert_eq!(image(&namespace, "checkout-blue").await, "v3", "nor is the deploy taken back");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_selector_that_somebody_changed_is_not_overwritten() {
    let (namespace, target) = found("bg-selector", ("v1", 1), ("v2", 1)).await;
    let (approved, seen) =
        (target.prepare(&switch(), &work("1")).await.unwrap().approved, target.observe(Look::full()).await.unwrap());
    select(&namespace, "red").await;
    let e = target.apply(&approved, seen.token, &work("1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
    assert_eq!(selected(&namespace).await, "red");

    select(&namespace, "green").await;
    settled(&target).await;
    let theirs = namespace.clone();
    let meddled = Watched::before_the_first(target.clone(), ChangeKind::Traffic, move || {
        let theirs = theirs.clone();
        async move { select(&theirs, "red").await }
    });
    let report = rollback(meddled).using(BlueGreen::default().with_drain(Duration::ZERO)).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Superseded { by } if by.contains("side=red")), "{report}");
    assert_eq!(selected(&namespace).await, "red");

    // Found so, it is what must be left: nobody serves.
    let seen = target.observe(Look::full()).await.unwrap();
    assert_eq!(seen.parts["elsewhere"].weight, Some(Weight::ALL));
    let leave = Change::traffic([("elsewhere".into(), Weight::NONE), ("blue".into(), Weight::ALL)]);
    let approved = target.prepare(&leave, &work("2")).await.unwrap().approved;
    target.apply(&approved, seen.token, &work("2")).await.unwrap();
    let seen = settled(&target).await;
    assert_eq!((seen.parts.len(), seen.parts["blue"].weight), (2, Some(Weight::ALL)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_idle_side_is_made_ready_with_a_release_it_ran_before() {
    let (namespace, target) = found("bg-release", ("v1", 0), ("v2", 2)).await;
    // The next one was being made ready on blue.
    deploy(&namespace, "checkout-blue", "v3").await;
    let wanted = id(APP, "blue", "v1");
    until(&target, "blue is told v3", |seen| seen.parts["blue"].wanted == Some(id(APP, "blue", "v3"))).await;
    settled(&target).await;
    let history: Vec<ReleaseId> = target.history(10).await.unwrap().into_iter().map(|release| release.id).collect();
    assert_eq!(history, [id(APP, "blue", "v3"), id(APP, "green", "v2"), wanted.clone()]);
    let report = rollback(target.clone())
        .blaming(id(APP, "green", "v2"))
        .to(Choose::Exactly(wanted.clone()))
        .using(BlueGreen::default().with_hold(Duration::ZERO).with_drain(Duration::ZERO))
        .run()
        .await
        .unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let seen = settled(&target).await;
    assert_eq!(seen.parts["blue"].running, Running::Release(wanted));
    assert_eq!((seen.parts["blue"].ready, selected(&namespace).await.as_str()), (Some(2), "blue"));

    // What only the other side ran cannot be had here, and the answer says what can be done.
    let onto = Change::release(&"blue".into(), &id(APP, "green", "v2"));
    let e = target.prepare(&onto, &work("1")).await.unwrap_err();
    assert!(e.kind() == Kind::NotFound && e.to_string().contains("in place"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_documented_rights_are_enough() {
    let (namespace, _) = found("bg-rights", ("v1", 0), ("v2", 1)).await;
    let rules: [Rule<'_>; 2] = [("", "services", &["get", "patch"]), ("discovery.k8s.io", "endpointslices", &["list"])];
    let rules = [&rules[..], &FINDINGS, &STEERED].concat();
    let target = of(&cluster_with(&namespace, &rules).await, &namespace, APP);
    until(&target, "the rules hold", |_| true).await;
    let strategy = BlueGreen::default().with_hold(Duration::ZERO).with_drain(Duration::ZERO).with_empty_bad(true);
    let report = rollback(target.clone()).using(strategy).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    all_was_known(&report);
    assert_eq!((selected(&namespace).await.as_str(), replicas(&namespace, "checkout-green").await), ("blue", 0));
    // In place, with all that is asked of a release.
    deploy(&namespace, "checkout-blue", "v3").await;
    until(&target, "blue is told", |seen| seen.parts["blue"].wanted == Some(id(APP, "blue", "v3"))).await;
    let back = Choose::Exactly(id(APP, "blue", "v1"));
    let report = rollback(target).blaming(id(APP, "blue", "v3")).to(back).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    all_was_known(&report);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_selector_that_tells_no_sides_apart_is_refused() {
    let (namespace, target) = found("bg-both", ("v1", 1), ("v2", 1)).await;
    namespace
        .kubectl(&["patch", "service", APP, "--type=json", "-p", r#"[{"op":"remove","path":"/spec/selector/side"}]"#])
        .await;
    let e = target.observe(Look::full()).await.unwrap_err();
    assert!(e.kind() == Kind::Invalid && e.to_string().contains("both blue and green"), "{e}");
    let report = rollback(target).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
}

/// The side that has the good release is asleep: it is woken, and nobody had to name a strategy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_switches_to_the_side_that_is_good() {
    let (namespace, target) = found("bg-glass", ("v1", 0), ("v2", 2)).await;
    let _ = broken(&target, Glass::Bare).await;
    let is = || async {
        let replicas = (replicas(&namespace, "checkout-blue").await, replicas(&namespace, "checkout-green").await);
        (selected(&namespace).await, replicas, image(&namespace, "checkout-green").await)
    };
    assert_eq!(is().await, ("blue".to_owned(), (2, 0), "v2".to_owned()), "connections that are kept alive end, too");
    // The next one is brought out on green.
    deploy(&namespace, "checkout-green", "v3").await;
    scale(&namespace, "checkout-green", 2).await;
    select(&namespace, "green").await;
    until(&target, "green serves v3", |seen| {
        seen.parts["green"].running == Running::Release(id(APP, "green", "v3"))
            && seen.parts.values().all(|part| part.settled == Settled::Yes)
    })
    .await;
    let _ = broken(&target, Glass::Journalled).await;
    assert_eq!(is().await, ("blue".to_owned(), (2, 0), "v3".to_owned()));
}

/// Somebody deployed to the side that serves: the other one never had the release to go back to.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_sets_the_serving_side_back_where_only_that_ran_it() {
    let (namespace, target) = found("bg-glass-place", ("v1", 0), ("v2", 2)).await;
    deploy(&namespace, "checkout-green", "crashing").await;
    until(&target, "green is told", |seen| seen.parts["green"].wanted == Some(id(APP, "green", "crashing"))).await;
    let report = broken(&target, Glass::Bare).await;
    assert_eq!(report.plan().map(|plan| plan.rungs.len()), Some(2), "{report}");
    assert_eq!(
        (selected(&namespace).await.as_str(), image(&namespace, "checkout-green").await.as_str()),
        ("green", "v2")
    );
    let blue = (image(&namespace, "checkout-blue").await, replicas(&namespace, "checkout-blue").await);
    assert_eq!(blue, ("v1".to_owned(), 0), "it is not touched");
}

/// Both sides have the bad software: the other one is no way back, whatever its id.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_does_not_go_to_a_copy_of_the_bad_release() {
    let (namespace, target) = found("bg-glass-copy", ("v4", 1), ("v1", 1)).await;
    for (name, part) in [("checkout-blue", "blue"), ("checkout-green", "green")] {
        deploy(&namespace, name, "v2").await;
        until(&target, "it is deployed", |seen| seen.parts[part].running == Running::Release(id(APP, part, "v2")))
            .await;
        // What is newer is told by seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    settled(&target).await;
    let _ = broken(&target, Glass::Bare).await;
    let serves = selected(&namespace).await;
    let image = image(&namespace, &format!("checkout-{serves}")).await;
    assert!(["v4", "v1"].contains(&image.as_str()), "{serves} serves {image}");
}
