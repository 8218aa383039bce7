#![allow(clippy::unwrap_used)]

use super::*;
use crate::ClusterOptions;
use kube::{Client, Config};
use rollback_core::{Running, Settled};
use serde_json::json;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "cart"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
}
fn id(image: &str) -> ReleaseId {
    crate::release_id(&template(image))
}

/// A StatefulSet of three, told to run version 1 again.
fn live(flavour: Flavour, change: impl FnOnce(&mut Value)) -> Live {
    let mut object = json!({
        "metadata": {"name": "cart", "uid": "w", "generation": 2},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "cart"}}, "template": template("v1"),
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
        "status": {"observedGeneration": 2, "updatedReplicas": 3, "availableReplicas": 3,
            "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3},
    });
    change(&mut object);
    Live::of(flavour, serde_json::from_value(object).unwrap()).unwrap()
}

fn revision(image: &str, number: i64, created: &str) -> kube::api::DynamicObject {
    let mut template = template(image);
    template["$patch"] = json!("replace");
    serde_json::from_value(json!({
        "metadata": {"name": format!("cart-{image}"), "uid": image, "creationTimestamp": created,
            "labels": {"controller-revision-hash": image},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": "w",
                "controller": true}]},
        "data": {"spec": {"template": template}}, "revision": number,
    }))
    .unwrap()
}

fn pod(of: &str, n: u32, change: impl Fn(&mut Value)) -> PodState {
    let mut pod = json!({
        "metadata": {"name": format!("cart-{n}"), "uid": format!("p{n}"), "resourceVersion": "7",
            "labels": {"controller-revision-hash": of},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": "w",
                "controller": true}]},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut pod);
    PodState::of(&serde_json::from_value(pod).unwrap())
}
fn going(pod: &mut Value) {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
}
fn crashes(pod: &mut Value) {
    pod["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "app", "image": "i", "imageID": "",
        "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "why"}}}]});
}
fn starts(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending"});
}

fn workload(flavour: Flavour) -> Workload {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let cluster = Cluster::unreachable(client, ClusterOptions::default().named("prod"));
    let workload = Workload::new(&cluster, flavour, "shop".into(), "cart".into());
    let mut both = vec![revision("v1", 1, "2026-01-01T00:00:00Z"), revision("v2", 2, "2026-01-02T00:00:00Z")];
    let mut before = revision("v1", 0, "2026-01-01T00:00:00Z");
    before.metadata.name = Some("cart-v1b".into());
    before.metadata.labels = Some([("controller-revision-hash".to_owned(), "v1b".to_owned())].into());
    before.data["data"]["spec"]["template"]["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/restartedAt": "1"});
    both.push(before);
    workload.remembered.learn(&newest_first("w", both, |one| super::revision(flavour, one)));
    workload
}

fn said(settled: &Settled) -> String {
    match settled {
        Settled::Yes => "yes".into(),
        Settled::NotYet { why } => format!("not yet: {why}"),
        Settled::Never { why } => format!("never: {why}"),
    }
}

#[tokio::test]
async fn how_a_stateful_set_is_seen() {
    let cart = workload(Flavour::StatefulSet);
    let set = |change: &dyn Fn(&mut Value)| live(Flavour::StatefulSet, change);
    type Pod<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let of = |all: &[Pod<'_>]| -> Vec<PodState> {
        all.iter().enumerate().map(|(n, (of, change))| pod(of, u32::try_from(n).unwrap(), change)).collect()
    };
    let (v1, v2): (&str, &str) = ("cart-v1", "cart-v2");
    let well = |_: &mut Value| {};
    let busy = |s: &mut Value| s["status"]["updatedReplicas"] = json!(2);
    let partition = |s: &mut Value| s["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(2);
    let on_delete = |s: &mut Value| s["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    type Case<'a> = (&'a str, Live, Vec<PodState>, &'a str, bool, usize);
    // (what, the set, its pods, whether it has settled, whether a rollout is in flight, how many pods are to be freed)
    let cases: Vec<Case<'_>> = vec![
        ("done", set(&well), of(&[(v1, &well), (v1, &well), (v1, &well)]), "yes", false, 0),
        (
            "not taken up",
            set(&|s| s["metadata"]["generation"] = json!(3)),
            of(&[(v1, &well), (v1, &well), (v1, &well)]),
            "not yet: the controller has not taken up",
            false,
            0,
        ),
        (
            "half way",
            set(&busy),
            of(&[(v2, &well), (v2, &well), (v1, &well)]),
            "not yet: 2 pods of another release",
            true,
            0,
        ),
        (
            "stuck",
            set(&busy),
            of(&[(v1, &well), (v1, &well), (v2, &crashes)]),
            "never: the rollout is stuck: its controller waits for cart-2",
            true,
            1,
        ),
        ("may come right", set(&busy), of(&[(v1, &well), (v1, &well), (v2, &starts)]), "not yet: 1 pods", true, 1),
        ("goes already", set(&busy), of(&[(v1, &well), (v1, &well), (v2, &going)]), "not yet: 1 pods", false, 0),
        (
            "Parallel heals by itself",
            set(&|s| {
                busy(s);
                s["spec"]["podManagementPolicy"] = json!("Parallel");
            }),
            of(&[(v1, &well), (v1, &well), (v2, &crashes)]),
            "not yet: 1 pods",
            true,
            0,
        ),
        (
            "the wanted release crashes",
            set(&busy),
            of(&[(v2, &well), (v2, &well), (v1, &crashes)]),
            "never: CrashLoopBackOff (cart-2, container app)",
            true,
            0,
        ),
        (
            "a partition",
            set(&partition),
            of(&[(v2, &well), (v2, &crashes), (v1, &well)]),
            "never: its partition (2) keeps cart-0, cart-1",
            false,
            0,
        ),
        (
            "nobody deletes",
            set(&on_delete),
            of(&[(v1, &well), (v1, &well), (v2, &well)]),
            "never: its update strategy is OnDelete",
            false,
            0,
        ),
        (
            "the same release, from before a restart",
            set(&|s| {
                busy(s);
                s["status"]["updateRevision"] = json!("cart-v1");
            }),
            of(&[("cart-v1b", &crashes), (v1, &well), (v1, &well)]),
            "never: the rollout is stuck",
            true,
            1,
        ),
        (
            "one is not ready",
            set(&|s| s["status"]["availableReplicas"] = json!(2)),
            of(&[(v1, &well), (v1, &well), (v1, &starts)]),
            "not yet: 2 of 3 pods of the wanted release are ready",
            false,
            0,
        ),
    ];
    for (what, live, pods, settled, flies, freed) in cases {
        let now = Seen { live: &live, pods: &pods };
        let seen = cart.judge(&now, &Look::full()).unwrap();
        let part = seen.parts.values().next().unwrap();
        assert_eq!((part.wanted.as_ref(), part.capacity), (Some(&id("v1")), Some(3)), "{what}");
        assert!(said(&part.settled).starts_with(settled), "{what}: {:?}", part.settled);
        assert_eq!(seen.in_flight.is_some(), flies, "{what}");
        assert_eq!(cart.sides(&now).stuck(&live).len(), freed, "{what}");
    }
}

#[tokio::test]
async fn pods_of_an_unknown_revision_are_unknown() {
    let cart = workload(Flavour::StatefulSet);
    let live = live(Flavour::StatefulSet, |_| {});
    let pods = [pod("cart-v1", 0, |_| {}), pod("cart-gone", 1, |_| {})];
    let seen = cart.judge(&Seen { live: &live, pods: &pods }, &Look::full()).unwrap();
    assert!(matches!(seen.parts.values().next().unwrap().running, Running::Unknown { .. }));
}

#[tokio::test]
async fn a_daemon_set_counts_nodes() {
    let agent = workload(Flavour::DaemonSet);
    let live = live(Flavour::DaemonSet, |s| s["status"]["desiredNumberScheduled"] = json!(2));
    let pods = [pod("v1", 0, |_| {}), pod("v1", 1, |_| {})];
    let seen = agent.judge(&Seen { live: &live, pods: &pods }, &Look::full()).unwrap();
    let part = seen.parts.values().next().unwrap();
    assert_eq!((part.capacity, part.ready, said(&part.settled).as_str()), (Some(2), Some(2), "yes"));
    assert_eq!(part.running, Running::Release(id("v1")));
}

#[tokio::test]
async fn one_pod_at_a_time_is_deleted() {
    let cart = workload(Flavour::StatefulSet);
    let live = live(Flavour::StatefulSet, |s| s["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    let next =
        |pods: &[PodState]| cart.sides(&Seen { live: &live, pods }).next_to_delete(&live).map(|pod| pod.name.clone());
    let (well, bad) = (|n| pod("cart-v1", n, |_| {}), |n| pod("cart-v2", n, |_| {}));
    assert_eq!(next(&[bad(0), bad(1), bad(2)]).as_deref(), Some("cart-2"), "the highest ordinal first");
    assert_eq!(next(&[bad(0), bad(1), pod("cart-v2", 2, going)]), None, "one is on its way");
    assert_eq!(next(&[bad(0), bad(1), pod("cart-v1", 2, starts)]), None, "one is not ready yet");
    assert_eq!(next(&[bad(0), bad(1), well(2)]).as_deref(), Some("cart-1"));
    assert_eq!(next(&[bad(0), pod("cart-v2", 1, crashes), bad(2)]).as_deref(), Some("cart-1"), "it serves nobody");
    assert_eq!(next(&[well(0), well(1), well(2)]), None);
}

#[test]
fn a_revision_is_its_template() {
    let both = vec![revision("v1", 3, "2026-01-01T00:00:00Z"), revision("v2", 2, "2026-01-02T00:00:00Z")];
    let all = newest_first("w", both, |one| super::revision(Flavour::StatefulSet, one));
    assert_eq!(all[0].release, id("v1"), "the patch directive is no part of it");
    assert_eq!(all[0].template, template("v1"));
    let history = live(Flavour::StatefulSet, |_| {}).history(&all, 10);
    assert_eq!(
        history.iter().map(|release| release.label.as_str()).collect::<Vec<_>>(),
        ["revision 3 (v1)", "revision 2 (v2)"]
    );
    assert!(history[0].made_at.is_none() && history[1].made_at.is_some(), "gone back to: {history:?}");
    let others = vec![revision("v1", 1, "2026-01-01T00:00:00Z")];
    assert!(newest_first("another", others, |one| super::revision(Flavour::StatefulSet, one)).is_empty());
}
