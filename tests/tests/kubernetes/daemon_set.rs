//! A real DaemonSet goes back.

use crate::{
    alike::Alike,
    glass::{Glass, broken},
    workloads::{Place, id, rollback, said, settled, to, until, work, workload},
};
use kube::ResourceExt as _;
use rollback_core::prelude::*;
use rollback_k8s::DaemonSet;
use serde_json::{Value, json};

const SET: &str = "DaemonSet";
const NAME: &str = "agent";

async fn deployed(what: &str, bad: &str, change: impl FnOnce(&mut Value)) -> (Place, DaemonSet) {
    let place = Place::new(what).await;
    let target = place.cluster.daemon_set(&place.namespace, NAME);
    place.own.apply(workload(SET, NAME, "v1", change)).await;
    settled(&target).await;
    place.deploy(SET, NAME, bad).await;
    (place, target)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_rollout_that_fails_goes_back() {
    for bad in ["crashing", "no-such-tag"] {
        let (place, target) = deployed("agent", bad, |_| {}).await;
        place.failing_pod(bad).await;
        // What never ran has no log.
        let crashes = bad == "crashing";
        // A registry that does not answer may answer the next time, so not at the first try.
        until("it is said that it fails", || async { said(&target).await.starts_with("Never").then_some(()) }).await;
        place.edit(SET, NAME, json!({"metadata": {"annotations": {"added-since": "x"}}})).await;
        let (bad, good, checks) = (id(NAME, bad), id(NAME, "v1"), target.checks());
        let alike = Alike { target: &target, checks, bad, good };
        if crashes {
            alike.before().await;
        }
        let report = rollback(target.clone()).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        alike.after().await;
        assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"));
        let annotations = place.get(SET, NAME).await.annotations().clone();
        assert_eq!(annotations["added-since"], "x");
        assert!(annotations["kubernetes.io/change-cause"].ends_with("it fails"), "{annotations:?}");
        // The same number as kubectl shows.
        let shown = place.own.kubectl(&["rollout", "history", "daemonset/agent"]).await;
        assert!(shown.contains("\n3 ") && !shown.contains("\n1 "), "{shown}");
        assert_eq!(target.revision(3).await.unwrap().id, id(NAME, "v1"));
        assert_eq!(target.revision(1).await.unwrap_err().kind(), Kind::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn on_delete_is_refused_or_done() {
    let on_delete = |object: &mut Value| object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let (place, target) = deployed("ondelete", "v2", on_delete).await;
    place.own.kubectl(&["delete", "pods", "--all", "--wait=false"]).await;
    settled(&target).await;
    let report = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    let report = rollback(target.deleting_pods()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_revision_that_is_gone_is_said() {
    let few = |object: &mut Value| object["spec"]["revisionHistoryLimit"] = json!(0);
    let (_place, target) = deployed("pruned", "v2", few).await;
    settled(&target).await;
    let (e, _) =
        until("the old revision is pruned", || async { target.prepare(&to(NAME, "v1"), &work("1")).await.err() }).await;
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains("revisionHistoryLimit"), "{e}");
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
