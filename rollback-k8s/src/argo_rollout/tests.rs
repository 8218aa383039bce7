//! What can be told without a controller.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::ClusterOptions;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config, api::DynamicObject};
use rollback_core::{Landing, Running, Settled};
use serde_json::json;

fn rollout() -> ArgoRollout {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    Cluster::unreachable(client, ClusterOptions::default().named("c")).rollout("shop", "web")
}
fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}})
}
fn live(image: &str, status: Value) -> Live {
    let object = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "web", "namespace": "shop", "uid": "r", "generation": 3},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)},
        "status": status,
    });
    Live::of(serde_json::from_value(object).unwrap(), None).unwrap()
}
fn sets(all: &[(&str, &str, bool)]) -> Vec<Revision> {
    let set = |(n, (image, hash, idle)): (usize, &(&str, &str, bool))| -> DynamicObject {
        let mut of = template(image);
        of["metadata"]["labels"][live::HASH] = json!(hash);
        of["metadata"]["labels"]["role"] = json!("canary");
        let deadline = if *idle { "2026-01-01T00:00:00Z" } else { "" };
        serde_json::from_value(json!({
            "metadata": {"name": format!("web-{hash}"), "uid": hash, "labels": {(live::HASH): hash},
                "annotations": {"rollout.argoproj.io/revision": (n + 1).to_string(), "scale-down-deadline": deadline,
                    "rollout.argoproj.io/ephemeral-metadata": "{\"labels\":{\"role\":\"canary\"}}"},
                "ownerReferences": [{"apiVersion": "x", "kind": "Rollout", "name": "web", "uid": "r", "controller": true}]},
            "spec": {"template": of},
        }))
        .unwrap()
    };
    newest_first("r", all.iter().enumerate().map(set).collect(), revision)
}
fn pod(set: &str) -> PodState {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": set, "uid": set, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": set, "controller": true}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    PodState::of(&pod)
}
fn status(generation: &str, phase: &str, current: &str, stable: &str, available: u32) -> Value {
    json!({"observedGeneration": generation, "phase": phase, "currentPodHash": current, "stableRS": stable,
        "availableReplicas": available})
}
fn id(image: &str) -> ReleaseId {
    crate::release_id(&template(image))
}

#[tokio::test]
async fn settled_is_more_than_healthy() {
    let revisions = sets(&[("v1", "h1", false), ("v2", "h2", false)]);
    for (what, image, status, pods, yes) in [
        ("there", "v2", status("3", "Healthy", "h2", "h2", 1), vec![pod("h2")], true),
        ("healthy is said of what was before", "v2", status("2", "Healthy", "h1", "h1", 1), vec![pod("h1")], false),
        ("not stable yet", "v2", status("3", "Healthy", "h2", "h1", 1), vec![pod("h2")], false),
        ("not at full capacity", "v2", status("3", "Healthy", "h2", "h2", 0), vec![pod("h2")], false),
        ("the old one is still there", "v2", status("3", "Healthy", "h2", "h2", 1), vec![pod("h1"), pod("h2")], false),
    ] {
        let live = live(image, status);
        let seen = rollout().judge(&live, &revisions, &pods, &Look::full()).unwrap();
        let part = seen.parts.values().next().unwrap();
        assert_eq!(part.settled == Settled::Yes, yes, "{what}: {:?}", part.settled);
    }
}

#[tokio::test]
async fn what_waits_to_be_scaled_down_does_not_run() {
    let revisions = sets(&[("v1", "h1", false), ("v2", "h2", true)]);
    let live = live("v1", status("3", "Healthy", "h1", "h1", 1));
    let seen = rollout().judge(&live, &revisions, &[pod("h1"), pod("h2")], &Look::full()).unwrap();
    let part = seen.parts.values().next().unwrap();
    assert_eq!((&part.running, &part.settled), (&Running::Release(id("v1")), &Settled::Yes));
    assert_eq!(seen.in_flight, None);
}

#[tokio::test]
async fn an_aborted_rollout_is_in_flight_until_its_template_is_back() {
    let revisions = sets(&[("v1", "h1", false), ("v2", "h2", false)]);
    let mut aborted = status("3", "Degraded", "h2", "h1", 1);
    aborted["abort"] = json!(true);
    for (what, live, lands) in [
        ("under way", live("v2", status("3", "Progressing", "h2", "h1", 1)), Some(Some(id("v1")))),
        ("aborted", live("v2", aborted), Some(Some(id("v1")))),
        ("promoted", live("v2", status("3", "Healthy", "h2", "h2", 1)), None),
        ("the first one", live("v1", status("3", "Progressing", "h1", "", 0)), Some(None)),
    ] {
        let seen = rollout().judge(&live, &revisions, &[pod("h1")], &Look::full()).unwrap();
        let landing = seen.in_flight.map(|flight| {
            flight.abort.map(|landing| match landing {
                Landing::On(release) => release,
                Landing::Unsaid => unreachable!("{what}"),
            })
        });
        assert_eq!(landing, lands, "{what}");
    }
}

#[test]
fn a_generation_is_text() {
    assert!(live("v1", json!({"observedGeneration": "3"})).taken_up);
    assert!(!live("v1", json!({"observedGeneration": "2"})).taken_up);
    assert!(!live("v1", json!({})).taken_up);
}
