#![allow(clippy::unwrap_used)]

use super::*;
use crate::{ClusterOptions, marks};
use kube::{Client, Config};
use rollback_core::{Running, Settled};
use serde_json::json;

const V1: &str = "shop:1";
const V2: &str = "shop:2";

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
}
fn id(image: &str) -> ReleaseId {
    crate::release_id(&template(image))
}

/// A Deployment told to run version 2, with 3 replicas, as the controller leaves it when all is done.
fn deployment(change: impl FnOnce(&mut Value)) -> Live {
    let mut object = json!({
        "metadata": {"name": "shop", "uid": "d", "generation": 2,
            "annotations": {"deployment.kubernetes.io/revision": "2"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "shop"}}, "template": template(V2),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}},
        "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3},
    });
    change(&mut object);
    Live::of(serde_json::from_value(object).unwrap()).unwrap()
}

fn replica_set(name: &str, revision: &str, image: &str, created: &str) -> kube::api::DynamicObject {
    let mut template = template(image);
    template["metadata"]["labels"]["pod-template-hash"] = json!(name);
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": created,
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop", "uid": "d",
                "controller": true}]},
        "spec": {"template": template},
    }))
    .unwrap()
}

fn pods(of: &str, count: usize, change: impl Fn(&mut Value)) -> Vec<PodState> {
    let pod = |n: usize| {
        let mut pod = json!({
            "metadata": {"name": format!("{of}-{n}"), "uid": format!("{of}-{n}"), "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": of, "uid": of, "controller": true}]},
            "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut pod);
        PodState::of(&serde_json::from_value(pod).unwrap())
    };
    (0..count).map(pod).collect()
}
fn going(pod: &mut Value) {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
}
fn waiting(reason: &'static str) -> impl Fn(&mut Value) {
    move |pod| {
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "app", "image": "i", "imageID": "",
            "ready": false, "restartCount": 1, "state": {"waiting": {"reason": reason, "message": "why"}}}]});
    }
}
fn unschedulable(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}]});
}

/// The target, with a client that reaches nobody, and two ReplicaSets known to it.
async fn shop() -> Deployment {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let cluster = Cluster::unreachable(client, ClusterOptions::default().named("prod"));
    let shop = cluster.deployment("shop", "shop");
    shop.remembered.learn(&newest_first(
        "d",
        vec![replica_set("rs1", "1", V1, "2026-01-01T00:00:00Z"), replica_set("rs2", "2", V2, "2026-01-02T00:00:00Z")],
        Revision::of_replica_set,
    ));
    shop
}

#[tokio::test]
async fn how_it_is_seen() {
    let shop = shop().await;
    let busy = |updated: u32, existing: u32, available: u32| {
        move |d: &mut Value| {
            d["status"] = json!({"observedGeneration": 2, "replicas": existing, "updatedReplicas": updated,
                "availableReplicas": available});
        }
    };
    let condition = |kind: &'static str, status: &'static str, reason: &'static str, message: &'static str| {
        move |d: &mut Value| {
            d["status"] = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2,
                "conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]});
        }
    };
    let deadline = |message| condition("Progressing", "False", "ProgressDeadlineExceeded", message);
    let quota = |message| condition("ReplicaFailure", "True", "FailedCreate", message);
    let both = |one: usize, two: usize| [pods("rs1", one, |_| {}), pods("rs2", two, |_| {})].concat();
    let with = |mut all: Vec<PodState>, more: Vec<PodState>| {
        all.extend(more);
        all
    };
    let (v1, v2) = (id(V1), id(V2));
    let mixed = |one: u32, two: u32| Running::Mixed([(v1.clone(), one), (v2.clone(), two)].into());
    let only = |release: &ReleaseId| Running::Release(release.clone());
    // (what, the Deployment, its pods, what runs, whether it has settled, whether a rollout is in flight)
    type Case<'a> = (&'a str, Live, Vec<PodState>, Running, &'a str, bool);
    let cases: Vec<Case<'_>> = vec![
        ("done", deployment(|_| {}), pods("rs2", 3, |_| {}), only(&v2), "yes", false),
        (
            "not taken up",
            deployment(|d| d["metadata"]["generation"] = json!(3)),
            pods("rs2", 3, |_| {}),
            only(&v2),
            "not yet: the controller has not taken up",
            false,
        ),
        ("half way", deployment(busy(1, 4, 3)), both(3, 1), mixed(3, 1), "not yet: 1 of 3 pods", true),
        (
            "old pods are being deleted, and the controller says done",
            deployment(|_| {}),
            with(pods("rs2", 3, |_| {}), pods("rs1", 1, going)),
            mixed(1, 3),
            "not yet: 1 pods of another release are still there, 1 of them",
            false,
        ),
        ("a scale-up", deployment(busy(2, 2, 2)), pods("rs2", 2, |_| {}), only(&v2), "not yet: 2 of 3 pods", false),
        (
            "a crash loop",
            deployment(busy(1, 4, 3)),
            with(pods("rs1", 3, |_| {}), pods("rs2", 1, waiting("CrashLoopBackOff"))),
            mixed(3, 1),
            "never: CrashLoopBackOff (rs2-0, container app)",
            true,
        ),
        (
            "a crash loop of what is being left does not matter",
            deployment(busy(3, 4, 3)),
            with(pods("rs2", 3, |_| {}), pods("rs1", 1, waiting("CrashLoopBackOff"))),
            mixed(1, 3),
            "not yet: 1 pods of another release",
            true,
        ),
        (
            "no room while others go",
            deployment(busy(1, 4, 3)),
            with(pods("rs1", 3, |_| {}), pods("rs2", 1, unschedulable)),
            mixed(3, 1),
            "not yet: Unschedulable",
            true,
        ),
        ("no room", deployment(busy(3, 3, 0)), pods("rs2", 3, unschedulable), only(&v2), "never: Unschedulable", false),
        (
            "a quota",
            deployment(quota("pods \"rs2-x\" is forbidden: exceeded quota")),
            pods("rs2", 1, |_| {}),
            only(&v2),
            "never: no pod can be made (FailedCreate)",
            false,
        ),
        (
            "a quota that old pods hold",
            deployment(quota("pods \"rs2-x\" is forbidden: exceeded quota")),
            both(2, 1),
            mixed(2, 1),
            "not yet: no pod can be made",
            true,
        ),
        (
            "the deadline is over",
            deployment(deadline("ReplicaSet \"rs2\" has timed out progressing.")),
            both(2, 1),
            mixed(2, 1),
            "never: ProgressDeadlineExceeded",
            true,
        ),
        (
            "the deadline of the ReplicaSet before",
            deployment(deadline("ReplicaSet \"rs1\" has timed out progressing.")),
            both(2, 1),
            mixed(2, 1),
            "not yet: 1 of 3",
            true,
        ),
        (
            "paused by somebody",
            deployment(|d| {
                busy(1, 4, 3)(d);
                d["spec"]["paused"] = json!(true);
            }),
            both(3, 1),
            mixed(3, 1),
            "never: somebody paused",
            false,
        ),
        (
            "paused by us",
            deployment(|d| {
                busy(1, 4, 3)(d);
                d["spec"]["paused"] = json!(true);
                d["metadata"]["annotations"][marks::PAUSED] = json!(format!("run {}", id(V2)));
            }),
            both(3, 1),
            mixed(3, 1),
            "yes",
            false,
        ),
        (
            "scaled to nothing",
            deployment(|d| {
                busy(0, 0, 0)(d);
                d["spec"]["replicas"] = json!(0);
            }),
            vec![],
            Running::Nothing,
            "yes",
            false,
        ),
        ("no pods yet", deployment(busy(0, 0, 0)), vec![], Running::Nothing, "not yet: 0 of 3", true),
    ];
    for (what, live, pods, running, settled, flies) in cases {
        let seen = shop.judge(&Seen { live: &live, pods: &pods, by_watches: false }, &Look::full()).unwrap();
        let part = seen.parts.values().next().unwrap();
        assert_eq!(part.wanted.as_ref(), Some(&v2), "{what}");
        assert_eq!(part.running, running, "{what}");
        let said = match &part.settled {
            Settled::Yes => "yes".to_string(),
            Settled::NotYet { why } => format!("not yet: {why}"),
            Settled::Never { why } => format!("never: {why}"),
        };
        assert!(said.starts_with(settled), "{what}: {said}");
        let flight = seen.in_flight.as_ref();
        assert_eq!(flight.is_some(), flies, "{what}: {flight:?}");
        assert!(flight.is_none_or(|flight| flight.to.as_ref() == Some(&v2)), "{what}");
        assert_eq!(part.capacity, Some(live.replicas), "{what}");
    }
}

#[tokio::test]
async fn a_node_may_come() {
    let shop = shop().await.expecting_new_nodes();
    let live = deployment(|d| d["status"]["availableReplicas"] = json!(0));
    let pods = pods("rs2", 3, unschedulable);
    let seen = shop.judge(&Seen { live: &live, pods: &pods, by_watches: false }, &Look::full()).unwrap();
    assert!(matches!(seen.parts.values().next().unwrap().settled, Settled::NotYet { .. }));
}

#[tokio::test]
async fn pods_of_nobody_do_not_count() {
    let shop = shop().await.with_health_port(9);
    let live = deployment(|_| {});
    let mut all = pods("rs2", 3, |_| {});
    all.extend(pods("x", 1, |pod| pod["metadata"]["ownerReferences"] = json!([])));
    let seen = shop.judge(&Seen { live: &live, pods: &all, by_watches: false }, &Look::full()).unwrap();
    let part = seen.parts.values().next().unwrap();
    assert_eq!((part.running.clone(), part.ready), (Running::Release(id(V2)), Some(3)));
    assert_eq!(part.addresses, ["10.0.0.1:9"; 3]);
    all.extend(pods("another's", 1, |_| {}));
    let seen = shop.judge(&Seen { live: &live, pods: &all, by_watches: false }, &Look::full()).unwrap();
    assert!(matches!(seen.parts.values().next().unwrap().running, Running::Unknown { .. }), "{seen:?}");
}

#[test]
fn history_is_in_the_order_of_deploys() {
    let live = deployment(|_| {});
    let all = newest_first(
        "d",
        vec![
            replica_set("rs2", "2", V2, "2026-01-02T00:00:00Z"),
            // Gone back to: the highest number and the oldest date.
            replica_set("rs1", "3", V1, "2026-01-01T00:00:00Z"),
            // `kubectl rollout restart` makes another ReplicaSet of the same release.
            replica_set("rs0", "1", V1, "2025-12-01T00:00:00Z"),
        ],
        Revision::of_replica_set,
    );
    let history = live.history(&all, 10);
    let ids: Vec<&ReleaseId> = history.iter().map(|release| &release.id).collect();
    assert_eq!(ids, [&id(V1), &id(V2)]);
    assert_eq!(history[0].label, "revision 3 (shop:1)");
    assert!(history[0].made_at.is_none() && history[1].made_at.is_some(), "{history:?}");
    assert_eq!(live.history(&all, 1).len(), 1);
    assert!(
        newest_first("another", vec![replica_set("rs1", "1", V1, "2026-01-01T00:00:00Z")], Revision::of_replica_set)
            .is_empty()
    );
    let fresh = live.history(&[], 10);
    assert_eq!(fresh[0].id, id(V2), "the controller has made no ReplicaSet yet");
}

#[tokio::test]
async fn a_check_with_no_port_to_ask_at_is_known_before_the_write() {
    use rollback_core::{Context, Health, HealthCheck, Severity, health::Probe};
    let found = async |shop: Deployment, at: Option<u16>| {
        let live = deployment(|_| {});
        let seen = shop.judge(&Seen { live: &live, pods: &[], by_watches: false }, &Look::full()).unwrap();
        let context = Context::new(shop.id.clone(), id(V2), id(V1), seen);
        let check = shop.checks().through_api(Probe::new("ask", |_: &Context| Health::healthy("", "")));
        let check = at.into_iter().fold(check, |check, port| check.at_port(port));
        check.preflight(&context).await.unwrap()
    };
    let missing = found(shop().await, None).await;
    let [finding] = &missing[..] else { panic!("{missing:?}") };
    assert_eq!((finding.severity, finding.code.as_str()), (Severity::Blocks, "port"));
    assert!(finding.text.contains("declares no port"), "{finding}");
    assert_eq!(found(shop().await, Some(8080)).await, []);
    assert_eq!(found(shop().await.with_health_port(8080), None).await, []);
}
