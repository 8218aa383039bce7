//! What others were bitten by, replayed: with the tool that bit, and with ours.

use crate::deployment_space::{Space, settled};
use rollback_core::prelude::*;
use rollback_k8s::release_id;
use rollback_tests::bed::kubernetes::{deployment, server_pod_spec};
use serde_json::{Value, json};
use std::time::Duration;

const NAME: &str = "checkout";

/// A manifest, as a repository has it: an image, and variables.
fn manifest(image: &str, variables: &[&str]) -> Value {
    let mut manifest = deployment(NAME, 1, server_pod_spec(&format!("bed/server:{image}")));
    let variables: Vec<Value> = variables.iter().map(|name| json!({"name": name, "value": "x"})).collect();
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] = json!(variables);
    manifest
}
/// As pipelines do: `kubectl apply`, which remembers on the object what was applied.
async fn apply(space: &Space, manifest: &Value) {
    space.own.kubectl_with(&manifest.to_string(), &["apply", "-f", "-"]).await;
    settled(&space.cluster.deployment(&space.namespace, NAME)).await;
}
async fn variables(space: &Space) -> Vec<String> {
    let spec = space.deployment(NAME).await.spec.and_then(|spec| spec.template.spec).unwrap();
    spec.containers[0].env.iter().flatten().map(|variable| variable.name.clone()).collect()
}
fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}

/// kubectl#1301: after an undo, `kubectl apply` still thinks that the bad manifest was applied last. What only the good one
/// has is never removed again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn kubectl_1301_what_is_applied_after_a_rollback_is_what_runs() {
    for ours in [false, true] {
        let space = Space::new("kubectl-1301").await;
        apply(&space, &manifest("v1", &["KEPT", "OLD"])).await;
        apply(&space, &manifest("v2", &["KEPT", "NEW"])).await;
        // Somebody else's, which stays theirs.
        space.own.kubectl(&["set", "env", &format!("deployment/{NAME}"), "THEIRS=x"]).await;
        let target = space.cluster.deployment(&space.namespace, NAME);
        settled(&target).await;
        if ours {
            let first = release_id(&manifest("v1", &["KEPT", "OLD"])["spec"]["template"]);
            let report = rollback(target).to(Choose::Exactly(first)).run().await.unwrap();
            assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        } else {
            space.own.kubectl(&["rollout", "undo", &format!("deployment/{NAME}"), "--to-revision=1"]).await;
            settled(&target).await;
        }
        assert_eq!(variables(&space).await, ["KEPT", "OLD"]);
        // The next release, mended.
        apply(&space, &manifest("v3", &["KEPT", "NEW"])).await;
        let mut now = variables(&space).await;
        now.sort();
        let is: &[&str] = if ours { &["KEPT", "NEW"] } else { &["KEPT", "NEW", "OLD"] };
        assert_eq!(now, is, "ours: {ours}");
    }
}

/// armory#369: a pipeline failed before it had deployed anything, and its undo took the healthy release away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn armory_369_what_was_never_deployed_is_not_rolled_back() {
    let space = Space::new("armory-369").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    for image in ["v1", "v3", "v2"] {
        apply(&space, &manifest(image, &["KEPT"])).await;
    }
    let before = space.deployment(NAME).await.metadata;
    // v4 was never there; v3 was, and is not any more. Version 2 serves, and is not to blame.
    for failed in ["v4", "v3"] {
        let suspect = release_id(&manifest(failed, &["KEPT"])["spec"]["template"]);
        let report = rollback(target.clone()).blaming(suspect).run().await.unwrap();
        assert!(matches!(report.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{failed}: {report}");
        let now = space.deployment(NAME).await.metadata;
        assert_eq!((now.generation, now.annotations), (before.generation, before.annotations.clone()), "{failed}");
        assert_eq!(space.image(NAME).await, "v2");
    }
    // What kubectl does, which asks for nobody to blame.
    space.own.kubectl(&["rollout", "undo", &format!("deployment/{NAME}")]).await;
    assert_eq!(space.image(NAME).await, "v3");
}
