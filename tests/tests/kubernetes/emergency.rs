//! The emergency ladder on a real cluster: each rung recovers what the ones before do not, and nobody waits for it.

use crate::{
    deployment_space::{Space, server, settled, until},
    glass::{Glass, broken},
    pairs::{self, cluster_with, replicas, side},
    workloads::ended,
};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use rollback_core::{health::Probe, prelude::*, wrap::WithVerb, *};
use rollback_k8s::{Deployment, EmergencyLadder, EmergencyRung, release_id};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

const NAME: &str = "checkout";

/// The names of the rungs that a run came to, and whether each failed.
fn rungs(report: &Report) -> Vec<String> {
    let plan = report.plan().expect("it was planned");
    let at = |rung: usize| plan.rungs[rung].name.clone();
    let of = |line: &Line| match &line.entry {
        Entry::RungFailed { rung, .. } => Some(format!("{} failed", at(*rung))),
        Entry::Reached { rung } => Some(at(*rung)),
        _ => None,
    };
    report.lines().iter().filter_map(of).collect()
}

/// How long it took until the first write was on its way.
fn first_write(report: &Report) -> Duration {
    let first = report.lines().iter().find(|line| matches!(line.entry, Entry::Doing { .. }));
    first.expect("it wrote").elapsed
}

fn healthy() -> Http {
    Http::at_each_part("/health").unwrap()
}

fn id(template: &Value) -> ReleaseId {
    release_id(&template["spec"]["template"])
}

/// As somebody breaks the glass, with the pods' own word for whether they are well.
async fn break_glass(target: impl Target, of: &Deployment, ladder: EmergencyLadder) -> Report {
    let soon = Window::default().with_within(Duration::from_secs(10));
    let report = Rollback::of(target)
        .using(ladder)
        .healthy_when(healthy())
        .recovered_when(Runs::wanted().and(InstancesReady::all().with_window(soon)).and(of.checks().bad_pods_gone()))
        .policy(Policy::default().with_poll(Duration::from_millis(200)))
        .break_glass("paged: checkout answers nobody")
        .await;
    let seconds = first_write(&report).as_secs_f64();
    println!("measured: emergency ladder, {}: {seconds:.1} s to the first write", of.namespace());
    report
}

/// Long enough for a rung that works on a busy machine, and what each rung that does not costs the test.
fn patient(target: &Deployment) -> EmergencyLadder {
    EmergencyLadder::of(target).with_settle_within(Duration::from_secs(45)).then_page("page payments on call")
}

/// Those that have not ended: what is left of one that has is an entry.
async fn pods(space: &Space) -> Vec<Pod> {
    let mut pods = space.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    pods.retain(|pod| !ended(pod));
    pods
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn an_undo_that_helps_is_the_whole_ladder() {
    let space = Space::new("rung-undo").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    space.apply(server(NAME, "v1", 2)).await;
    settled(&target).await;
    space.deploy(NAME, "crashing").await;
    let report = break_glass(target.clone(), &target, patient(&target)).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(rungs(&report), ["undo"]);
    assert_eq!(space.image(NAME).await, "v1");
}

/// Every revision there is names an image that nobody has: only a person knows one that works.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn an_image_that_no_revision_has_recovers_what_an_undo_does_not() {
    let space = Space::new("rung-image").await;
    let target = space.cluster.deployment(&space.namespace, NAME).with_image("server", "bed/server:v1");
    for gone in ["gone-1", "gone-2"] {
        space.apply(server(NAME, gone, 2)).await;
        until("its revision is there", || async {
            let seen = target.history(9).await.ok()?;
            seen.iter().any(|release| release.label.contains(gone) && release.label.contains("revision")).then_some(())
        })
        .await;
    }
    let journal = MemoryJournal::new();
    let report = Rollback::of(target.clone())
        .using(patient(&target))
        .healthy_when(healthy())
        .recovered_when(Runs::wanted().and(target.checks().bad_pods_gone()))
        .journal(journal.clone())
        .policy(Policy::default().with_poll(Duration::from_millis(200)))
        .break_glass("nothing can be pulled")
        .await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(rungs(&report), ["undo failed", "explicit image"], "{report}");
    assert_eq!(space.image(NAME).await, "v1");
    // What helped is what the ledger knows as good, not what was chosen.
    let ledger = journal.ledger(target.id()).await.unwrap();
    let helped = id(&server(NAME, "v1", 2));
    let standing = |of: &ReleaseId| ledger.iter().find(|entry| entry.release.id == *of).map(|entry| entry.standing);
    assert_eq!(standing(&helped), Some(Standing::Verified), "{ledger:#?}");
    assert_eq!(standing(&id(&server(NAME, "gone-1", 2))), Some(Standing::Seen), "{ledger:#?}");
    assert_eq!(target.observe(Look::full()).await.unwrap().trace.map(|trace| trace.reached), Some(helped));
}

/// A node that nobody hears of: nothing on it ends, as far as the API knows.
async fn lost_node(space: &Space) -> Value {
    let name = format!("lost-{}", space.namespace);
    let namespaces: Api<NamespaceObject> = Api::all(space.own.bed().client());
    let uid = namespaces.get(&space.namespace).await.unwrap().uid();
    let owned = json!([{"apiVersion": "v1", "kind": "Namespace", "name": space.namespace, "uid": uid}]);
    let metadata = json!({"name": name, "labels": {"lost": name}, "ownerReferences": owned});
    let room = json!({"cpu": "8", "memory": "8Gi", "pods": "10"});
    space
        .own
        .bed()
        .apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata,
            "spec": {"taints": [{"key": "lost", "effect": "NoSchedule"}]},
            "status": {"capacity": room, "allocatable": room}}))
        .await;
    json!({"nodeSelector": {"lost": name}, "tolerations": [{"operator": "Exists"}]})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn pods_that_will_not_end_are_deleted() {
    let space = Space::new("rung-pods").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    space.apply(server(NAME, "v1", 2)).await;
    settled(&target).await;
    let mut bad = server(NAME, "v2", 2);
    for (key, value) in lost_node(&space).await.as_object().unwrap() {
        bad["spec"]["template"]["spec"][key] = value.clone();
    }
    space.apply(bad).await;
    until("pods of the bad release are on the lost node", || async {
        let on = |pod: &&Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|node| node.starts_with("lost"))
        };
        (pods(&space).await.iter().filter(on).count() > 0).then_some(())
    })
    .await;
    let report = break_glass(target.clone(), &target, patient(&target)).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(rungs(&report), ["undo failed", "delete-bad-pods"], "{report}");
    let all = pods(&space).await;
    let images: Vec<String> =
        all.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap_or_default()).collect();
    assert_eq!(images, ["bed/server:v1"; 2]);
}

/// A rollout that is stuck, and pods of the good release that went bad meanwhile: an undo keeps those. With their uids.
async fn gone_bad(what: &str) -> (Space, Deployment, Vec<String>) {
    let space = Space::new(what).await;
    // With the rights that the target names, and no others.
    let cluster = cluster_with(&space.own, &[("", "pods", &["delete"])]).await;
    let target = cluster.deployment(&space.namespace, NAME);
    let mut good = server(NAME, "v1", 2);
    good["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    space.apply(good).await;
    settled(&target).await;
    let good = pods(&space).await;
    space.deploy(NAME, "crashing").await;
    for pod in &good {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap();
        let url = format!("http://{address}:8080/set?ready=0");
        reqwest::Client::new().post(url).send().await.unwrap().error_for_status().unwrap();
    }
    until("none is ready", || async {
        let seen = target.observe(Look::full()).await.ok()?;
        seen.parts.values().all(|part| part.ready == Some(0)).then_some(())
    })
    .await;
    (space, target, good.iter().filter_map(Pod::uid).collect())
}

async fn all_anew(space: &Space, before: &[String]) {
    assert_eq!(space.deployment(NAME).await.spec.and_then(|spec| spec.replicas), Some(2));
    assert_eq!(space.image(NAME).await, "v1");
    assert!(pods(space).await.iter().all(|pod| !before.contains(&pod.uid().unwrap_or_default())));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn pods_of_the_good_release_that_went_bad_are_started_anew() {
    let (space, target, before) = gone_bad("rung-restart").await;
    let ladder = patient(&target).with_settle_within(Duration::from_secs(30));
    let report = break_glass(target.clone(), &target, ladder).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(rungs(&report), ["undo failed", "delete-bad-pods failed", "restart"], "{report}");
    all_anew(&space, &before).await;
}

/// Cut off while there are no pods at all: the next call knows how many there are to be.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_restart_that_is_cut_off_is_gone_on_with() {
    let (space, target, before) = gone_bad("rung-resume").await;
    let (down, none_left) = (Arc::new(Notify::new()), At { rung: 1, step: 0 });
    let heard = down.clone();
    let hears = Observe::with(move |event: &Event| {
        if let EventKind::Journalled(line) = &event.kind
            && matches!(line.entry, Entry::StepDone { at } if at == none_left)
        {
            heard.notify_one();
        }
    });
    let ladder = Ladder::new()
        .rung(Direct::default().with_settle_within(Duration::from_secs(3)), Weight::NONE)
        .rung(Restart::default(), Weight::NONE);
    let rollback = Rollback::of(target.clone())
        .because("checkout answers nobody")
        .to(Choose::verified().or_previous())
        .using(ladder)
        .healthy_when(healthy())
        .journal(Arc::new(MemoryJournal::new()))
        .policy(Policy::default().with_poll(Duration::from_millis(200)).with_floor(Weight::NONE))
        .observer(hears);
    tokio::select! {
        biased;
        () = down.notified() => {}
        report = rollback.run() => panic!("{}", report.unwrap()),
    }
    assert_eq!(space.deployment(NAME).await.spec.and_then(|spec| spec.replicas), Some(0));
    assert_eq!(pods(&space).await.len(), 0);
    let report = rollback.run().await.unwrap();
    assert!(report.was_adopted());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    all_anew(&space, &before).await;
}

/// Whoever breaks the glass then knows neither that run nor its journal: what is left on the Deployment says how many there
/// are to be, and that it was on its way already.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_restart_that_is_cut_off_is_ended_by_whoever_breaks_the_glass() {
    for glass in [Glass::Bare, Glass::Journalled] {
        let space = Space::new("rung-at-none").await;
        let target = space.cluster.deployment(&space.namespace, NAME);
        for image in ["v4", "v1", "v2"] {
            space.apply(server(NAME, image, 2)).await;
            settled(&target).await;
        }
        // Back to v1, and then all of it off.
        let stopped = Arc::new(Notify::new());
        let heard = stopped.clone();
        let hears = Observe::with(move |event: &Event| {
            if let EventKind::Journalled(line) = &event.kind
                && matches!(line.entry, Entry::StepDone { at: At { rung: 1, step: 0 } })
            {
                heard.notify_one();
            }
        });
        let never = Probe::new("never", |_: &Context| Health::unhealthy("it", "as the test wants it"));
        let ladder = Ladder::new()
            .rung(Direct::default().with_settle_within(Duration::from_secs(3)), Weight::NONE)
            .rung(Restart::default(), Weight::NONE);
        let rollback = Rollback::of(target.clone())
            .to(Choose::previous())
            .using(ladder)
            .healthy_when(never)
            .journal(MemoryJournal::new())
            .policy(Policy::default().with_poll(Duration::from_millis(200)).with_floor(Weight::NONE))
            .observer(hears);
        tokio::select! {
            biased;
            () = stopped.notified() => {}
            report = rollback.run() => panic!("{}", report.unwrap()),
        }
        let replicas = || async { space.deployment(NAME).await.spec.and_then(|spec| spec.replicas) };
        assert_eq!(replicas().await, Some(0));
        let _ = broken(&target, glass).await;
        assert_eq!((space.image(NAME).await.as_str(), replicas().await), ("v1", Some(2)));
        let annotations = space.deployment(NAME).await.metadata.annotations.unwrap();
        assert!(!annotations.contains_key("rollback.dev/replicas-before"), "{annotations:?}");

        // Somebody who scales it to 0 means that.
        space.own.kubectl(&["annotate", "deployment", NAME, "rollback.dev/replicas-before=2"]).await;
        space.own.kubectl(&["scale", "deployment", NAME, "--replicas=0"]).await;
        until("it is at 0", || async {
            let seen = target.observe(Look::full()).await.ok()?;
            seen.parts.values().all(|part| part.running == Running::Nothing).then_some(())
        })
        .await;
        let report = Rollback::break_glass_on(&target, "is it meant to be off?").await;
        assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
        assert_eq!(replicas().await, Some(0));
    }
}

/// Nothing on this cluster helps: the command that was declared is run, once, and a person is told what is left to do.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn when_nothing_helps_the_failover_runs_and_a_person_is_paged() {
    let space = Space::new("rung-failover").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    for gone in ["gone-1", "gone-2"] {
        space.apply(server(NAME, gone, 1)).await;
        until("its revision is there", || async {
            let seen = target.history(9).await.ok()?;
            seen.iter().any(|release| release.label.contains(gone) && release.label.contains("revision")).then_some(())
        })
        .await;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("failed-over");
    let script = format!("echo $ROLLBACK_TARGET >>{}", log.display());
    let with_verb = WithVerb::new(target.clone(), "fail-over", ["sh", "-c", &script]);
    let begun = Instant::now();
    let report = break_glass(with_verb, &target, patient(&target)).await;
    let all = ["undo failed", "delete-bad-pods failed", "restart failed", "fail-over"];
    assert_eq!(rungs(&report), all, "{report}");
    assert!(matches!(report.outcome(), Outcome::NotRecovered { .. }), "{report}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{}\n", target.id()));
    assert!(report.to_string().contains("page payments on call"), "{report}");
    println!("measured: all rungs of a Deployment without a good image: {:.0} s", begun.elapsed().as_secs_f64());
}

/// A canary that is left over: the stable side takes everything, with the replicas for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_a_canary_has_goes_to_the_stable_side() {
    let space = Space::new("rung-stable").await;
    let (stable, canary) = (format!("{NAME}-stable"), format!("{NAME}-canary"));
    let pair = space.cluster.canary_pair(&space.namespace, [("stable", &stable), ("canary", &canary)]);
    space.apply(side(NAME, "stable", "v1", 1)).await;
    space.apply(side(NAME, "canary", "v2", 3)).await;
    pairs::settled(&pair).await;
    let report = Rollback::of(pair.clone())
        .blaming(pairs::id(NAME, "canary", "v2"))
        .using(EmergencyLadder::of(&pair).with_settle_within(Duration::from_secs(60)))
        .healthy_when(healthy())
        .policy(Policy::default().with_poll(Duration::from_millis(200)))
        .break_glass("the canary fails")
        .await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(rungs(&report), ["undo failed", "all to stable"], "{report}");
    assert_eq!((replicas(&space.own, &stable).await, replicas(&space.own, &canary).await), (4, 0));
    let plan = report.plan().expect("it was planned");
    assert_eq!(plan.rungs[0].name, "undo");
    assert!(plan.rungs.iter().any(|rung| rung.name == EmergencyRung::Restart.name()));
}
