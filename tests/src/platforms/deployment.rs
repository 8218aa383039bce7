//! A Kubernetes Deployment: the controller paces; compare-and-set by a JSON-patch `test` of the whole template.

use super::*;
use rollback_core::{ChangeKind, Fencing, Finding, OnUnknown, Pacing, Severity};
use serde_json::{Value, json};
use std::collections::BTreeMap;

stored!(
    /// The patch: the template of the old ReplicaSet.
    Patch, "k8s/patch", 1 { template: Value, annotations: BTreeMap<String, String> }
);
stored!(
    /// What was read, for the patch's `test` operations.
    Read, "k8s/read", 1 { uid: String, template: Value }
);
stored!(
    /// What tells our write from a later one.
    Wrote, "k8s/wrote", 1 { uid: String, generation: i64, template_hash: String }
);

/// What it can do.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token)
        .with_pacing(Pacing::Platform)
        .with_change(ChangeKind::Halt, OnUnknown::Again)
        .with_change(ChangeKind::Capacity, OnUnknown::Again)
}

fn template(image: &str) -> Value {
    json!({"spec": {"containers": [{"name": "app", "image": image}]}})
}

/// Revision 7 crashes at the start; half of its pods are out.
pub fn picture() -> Result<Picture> {
    let token = token(&Read { uid: "u1".into(), template: template("shop@sha256:bad") })?;
    let pods = part("7", mixed(&[("6", 2), ("7", 2)]), never("CrashLoopBackOff")).with_capacity(4, 2);
    let found = observed("cluster-uid", "u1", vec![("pods", pods)], token.clone())
        .with_owners(["argo-cd:checkout".into(), "hpa:checkout".into()]);
    let half = part("6", mixed(&[("6", 3), ("7", 1)]), not_yet("one old pod is terminating")).with_capacity(4, 3);
    let change = to_release("pods", "6");
    let patch = Patch { template: template("shop@sha256:good"), annotations: BTreeMap::new() };
    let owner = Finding::new(Severity::Warning, "owner", "Argo CD would put 7 back: freeze it");
    Ok(Picture {
        id: "k8s:prod/shop/deployment/checkout".into(),
        capabilities: capabilities(),
        suspect: "7".into(),
        wanted: "6".into(),
        prepared: Prepared::new(&change)
            .with_instructions(Payload::of(&patch)?)
            .with_diff(diff("image", "shop@sha256:bad", "shop@sha256:good"))
            .with_finding(owner),
        change,
        applied: Applied::submitted().with_handle(Payload::of(&Wrote {
            uid: "u1".into(),
            generation: 9,
            template_hash: "6f".into(),
        })?),
        half: observed("cluster-uid", "u1", vec![("pods", half)], token),
        found,
    })
}
