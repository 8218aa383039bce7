//! A real StatefulSet goes back: stuck or not, held by a partition or by its update strategy.

use crate::{
    alike::Alike,
    glass::{Glass, broken},
    workloads::{Place, id, rollback, said, settled, to, until, work, workload},
};
use kube::ResourceExt as _;
use rollback_core::{prelude::*, *};
use rollback_k8s::StatefulSet;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

const SET: &str = "StatefulSet";
const NAME: &str = "cart";

/// Version 1 is deployed and settled; then version 2, which is as told.
async fn deployed(what: &str, bad: &str, change: impl FnOnce(&mut Value)) -> (Place, StatefulSet) {
    let place = Place::new(what).await;
    let target = place.cluster.stateful_set(&place.namespace, NAME);
    place.own.apply(workload(SET, NAME, "v1", change)).await;
    settled(&target).await;
    place.deploy(SET, NAME, bad).await;
    (place, target)
}
fn uids(pods: &[(String, String, String)]) -> BTreeMap<&str, &str> {
    pods.iter().map(|(name, uid, _)| (name.as_str(), uid.as_str())).collect()
}

/// kubernetes#67250: the template is reverted, and the broken pod stays for ever.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_kubectl_leaves_stuck_is_freed() {
    for bad in ["crashing", "no-such-tag"] {
        let (place, target) = deployed("stuck", bad, |_| {}).await;
        assert_eq!(place.failing_pod(bad).await, "cart-2");
        let before = place.pods().await;
        place.own.kubectl(&["rollout", "undo", "statefulset/cart"]).await;
        // Its controller has taken up the old template, and waits.
        until("the controller has seen the undo", || async {
            let set = place.get(SET, NAME).await;
            let status = |key: &str| set.data["status"][key].clone();
            let current = set.metadata.generation.map(Value::from) == Some(status("observedGeneration"));
            (current && status("currentRevision") == status("updateRevision") && status("updatedReplicas") == 2)
                .then_some(())
        })
        .await;
        until("it is seen that it is stuck", || async {
            said(&target).await.contains("kubernetes#67250").then_some(())
        })
        .await;
        assert_eq!(uids(&before), uids(&place.pods().await), "kubectl's undo reached no pod");
        let begun = Instant::now();
        let report =
            rollback(target.clone()).blaming(id(NAME, bad)).to(Choose::Exactly(id(NAME, "v1"))).run().await.unwrap();
        println!("measured: freed from {bad} in {:.1?}", begun.elapsed());
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        let after = place.pods().await;
        assert!(after.iter().all(|(_, _, tag)| tag == "v1"), "{after:?}");
        for name in ["cart-0", "cart-1"] {
            assert_eq!(uids(&before)[name], uids(&after)[name], "a good pod is not touched");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_rollout_that_fails_goes_back_in_one_run() {
    let (place, target) = deployed("fails", "crashing", |_| {}).await;
    place.failing_pod("crashing").await;
    let before = place.pods().await;
    let (bad, good, checks) = (id(NAME, "crashing"), id(NAME, "v1"), target.checks());
    let alike = Alike { target: &target, checks, bad, good };
    let bundle = alike.before().await;
    assert!(bundle.text("k8s-previous-log/1").contains("pod cart-2"), "{:?}", bundle.kinds());
    place.edit(SET, NAME, json!({"metadata": {"annotations": {"added-since": "x"}}})).await;
    let report = rollback(target.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    alike.after().await;
    let after = place.pods().await;
    assert_eq!(after.iter().map(|(.., tag)| tag.as_str()).collect::<Vec<_>>(), ["v1"; 3]);
    assert_eq!(uids(&before)["cart-0"], uids(&after)["cart-0"]);
    let annotations = place.get(SET, NAME).await.annotations().clone();
    assert_eq!(annotations["added-since"], "x");
    assert!(annotations["kubernetes.io/change-cause"].ends_with("it fails"), "{annotations:?}");
    assert!(annotations.contains_key("rollback.dev/trace"), "{annotations:?}");
    let history = target.history(10).await.unwrap();
    assert_eq!(history.iter().map(|r| &r.id).collect::<Vec<_>>(), [&id(NAME, "v1"), &id(NAME, "crashing")]);
    // Pressed twice, it does not walk on to the release that was left.
    let again = Rollback::break_glass_on(&target, "again").await;
    assert!(!matches!(again.outcome(), Outcome::Recovered), "{again}");
    assert_eq!(place.pods().await, after);
}

/// Every pod is of the bad release, and they fail only later: the controller would wait at the first one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn all_pods_are_broken() {
    let (place, target) = deployed("broken", "v2", |_| {}).await;
    settled(&target).await;
    for n in 0..3 {
        let pod = format!("cart-{n}");
        place
            .own
            .kubectl(&["exec", &pod, "--", "wget", "-qO-", "--post-data=", "http://127.0.0.1:8080/set?ready=0"])
            .await;
    }
    until("no pod is ready", || async {
        let seen = target.observe(Look::full()).await.ok()?;
        seen.parts.values().all(|part| part.ready == Some(0)).then_some(())
    })
    .await;
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn parallel_heals_by_undo_alone() {
    let parallel = |object: &mut Value| object["spec"]["podManagementPolicy"] = json!("Parallel");
    let (place, target) = deployed("parallel", "crashing", parallel).await;
    place.failing_pod("crashing").await;
    let approved = target.prepare(&to(NAME, "v1"), &work("1")).await.unwrap().approved;
    assert!(approved.diff.iter().all(|line| !line.what.contains("pods")), "nothing is deleted: {:?}", approved.diff);
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_partition_is_respected_and_said() {
    let (place, target) = deployed("partition", "v2", |_| {}).await;
    settled(&target).await;
    let partition = |n: u32| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": n}}}});
    place.edit(SET, NAME, partition(1)).await;
    let prepared = target.prepare(&to(NAME, "v1"), &work("1")).await.unwrap();
    let finding = prepared.findings.iter().find(|finding| finding.code == "partition").unwrap();
    assert!(finding.severity == Severity::Blocks && finding.text.contains("cart-0"), "{finding:?}");
    let report = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v2"), "nothing was touched");
    // A canary by partition: only what is above it is at the bad release, and all of that comes back.
    place.edit(SET, NAME, partition(0)).await;
    assert_eq!(rollback(target.clone()).run().await.unwrap().outcome(), &Outcome::Recovered);
    place.edit(SET, NAME, partition(2)).await;
    place.deploy(SET, NAME, "crashing").await;
    assert_eq!(place.failing_pod("crashing").await, "cart-2");
    let before = place.pods().await;
    let report = rollback(target).to(Choose::Exactly(id(NAME, "v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let after = place.pods().await;
    assert!(after.iter().all(|(.., tag)| tag == "v1"), "{after:?}");
    assert_eq!(uids(&before)["cart-1"], uids(&after)["cart-1"]);
    assert_eq!(place.get(SET, NAME).await.data["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn on_delete_is_refused_or_done_one_by_one() {
    let on_delete = |object: &mut Value| object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let (place, target) = deployed("ondelete", "v2", on_delete).await;
    place.own.kubectl(&["delete", "pods", "--all", "--wait=false"]).await;
    settled(&target).await;
    let before = place.pods().await;
    assert!(before.iter().all(|(.., tag)| tag == "v2"), "{before:?}");
    let report = rollback(target.clone()).run().await.unwrap();
    let Outcome::Refused { .. } = report.outcome() else { panic!("{report}") };
    assert!(report.to_string().contains("OnDelete"), "{report}");
    assert_eq!(place.pods().await, before);
    // While they are deleted one by one, never more than one is away.
    let asked = target.clone().deleting_pods();
    let run = tokio::spawn(async move { rollback(asked).run().await.unwrap() });
    let mut fewest = 3;
    while !run.is_finished() {
        let seen = target.observe(Look::full()).await.unwrap();
        fewest = fewest.min(seen.parts.values().next().unwrap().ready.unwrap());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let report = run.await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"));
    assert_eq!(fewest, 2);
}

/// The process dies right after the patch: what resumes it finds the template as wanted, and frees the rest.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn cut_off_in_the_middle_it_goes_on() {
    let (place, target) = deployed("cut", "crashing", |_| {}).await;
    place.failing_pod("crashing").await;
    let approved = target.prepare(&to(NAME, "v1"), &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    let (first, first_approved) = (target.clone(), approved.clone());
    let call = tokio::spawn(async move { first.apply(&first_approved, token, &work("1")).await });
    until("the patch is written", || async {
        let set = place.get(SET, NAME).await;
        set.annotations().contains_key("rollback.dev/key").then_some(())
    })
    .await;
    call.abort();
    // Another process: nothing is remembered.
    let fresh = place.cluster.stateful_set(&place.namespace, NAME);
    let token = fresh.observe(Look::full()).await.unwrap().token;
    fresh.apply(&approved, token, &work("1")).await.unwrap();
    settled(&fresh).await;
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn somebody_deploys_meanwhile() {
    let (place, target) = deployed("race", "v2", |_| {}).await;
    settled(&target).await;
    let approved = target.prepare(&to(NAME, "v1"), &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    // Scaling and annotations do not matter, a deploy does.
    place.edit(SET, NAME, json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 2}})).await;
    place.deploy(SET, NAME, "v3").await;
    let e = target.apply(&approved, token, &work("1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
    until("the deploy goes on", || async { place.pods().await.iter().all(|(.., tag)| tag == "v3").then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_takes_seconds_and_does_not_walk_on() {
    let (place, target) = deployed("glass", "v4", |_| {}).await;
    settled(&target).await;
    for (bad, glass) in [("crashing", Glass::Bare), ("no-such-tag", Glass::Journalled)] {
        place.deploy(SET, NAME, bad).await;
        place.failing_pod(bad).await;
        let _ = broken(&target, glass).await;
        assert!(place.pods().await.iter().all(|(.., tag)| tag == "v4"));
    }
}
