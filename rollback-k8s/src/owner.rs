//! Who else writes an object: GitOps, Helm, an autoscaler, an operator; told from its metadata, without a request.
//!
//! Not here: stopping them, which is a freeze.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use rollback_core::{Finding, Severity};
use std::collections::BTreeSet;

/// The uid of its controller.
pub(crate) fn controller(owners: &[OwnerReference]) -> Option<String> {
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// Whether the object with this uid is its controller.
pub(crate) fn is_controlled_by(metadata: &ObjectMeta, uid: &str) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Who else writes this object, as an observation names them: `argo-cd:checkout`, `hpa`, `Rollout:checkout`.
pub(crate) fn owners(metadata: &ObjectMeta) -> Vec<String> {
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let managed = |wanted: &dyn Fn(&str, &str) -> bool| {
        metadata.managed_fields.iter().flatten().any(|entry| {
            wanted(entry.manager.as_deref().unwrap_or_default(), entry.subresource.as_deref().unwrap_or_default())
        })
    };
    let mut owners = BTreeSet::new();
    let tracked = annotation("argocd.argoproj.io/tracking-id").and_then(|id| id.split(':').next());
    let by_argo = managed(&|manager, _| manager.starts_with("argocd-"));
    let instance = label("app.kubernetes.io/instance").filter(|_| by_argo);
    match tracked.or(label("argocd.argoproj.io/instance")).or(instance) {
        Some(app) => drop(owners.insert(format!("argo-cd:{app}"))),
        None if by_argo => drop(owners.insert("argo-cd".into())),
        None => {}
    }
    for (kind, of) in [("kustomization", "kustomize"), ("helm-release", "helm")] {
        let at = |what: &str| label(&format!("{of}.toolkit.fluxcd.io/{what}"));
        if let Some(name) = at("name") {
            let namespace = at("namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
            owners.insert(format!("flux-{kind}:{namespace}{name}"));
        }
    }
    if let Some(release) = annotation("meta.helm.sh/release-name") {
        owners.insert(format!("helm:{release}"));
    }
    // An autoscaler scales as part of the controller manager; `kubectl scale` goes by its own name.
    if managed(&|manager, subresource| subresource == "scale" && manager == "kube-controller-manager") {
        owners.insert("hpa".into());
    }
    for owner in metadata.owner_references.iter().flatten() {
        owners.insert(format!("{}:{}", owner.kind, owner.name));
    }
    owners.into_iter().collect()
}

/// What an owner will do to a rollback, for people.
pub(crate) fn findings(owners: &[String]) -> Vec<Finding> {
    owners
        .iter()
        .map(|owner| {
            let kind = owner.split(':').next().unwrap_or(owner);
            let (severity, text) = match kind {
                "argo-cd" | "flux-kustomization" | "flux-helm-release" => {
                    (Severity::Warning, "deploys from Git, and puts the bad release back at its next sync: freeze it")
                }
                "helm" => (
                    Severity::Warning,
                    "deployed it: its record will name a release that does not run; the next upgrade starts from that",
                ),
                "hpa" => (Severity::Note, "decides how many replicas there are: they are left alone"),
                _ => (Severity::Warning, "owns it, and may undo what is done behind its back: roll back through it"),
            };
            Finding::new(severity, "owner", format!("{owner} {text}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn who_else_writes() {
        for (what, metadata, is) in [
            ("nobody", json!({}), vec![]),
            (
                "Argo CD",
                json!({"annotations": {"argocd.argoproj.io/tracking-id": "checkout:apps/Deployment:shop/checkout"}}),
                vec!["argo-cd:checkout"],
            ),
            (
                "Argo CD by label, which others use too",
                json!({"labels": {"app.kubernetes.io/instance": "checkout"},
                    "managedFields": [{"manager": "argocd-controller", "operation": "Apply"}]}),
                vec!["argo-cd:checkout"],
            ),
            ("a label alone", json!({"labels": {"app.kubernetes.io/instance": "checkout"}}), vec![]),
            (
                "Flux",
                json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps",
                    "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}),
                vec!["flux-kustomization:flux-system/apps"],
            ),
            ("Helm", json!({"annotations": {"meta.helm.sh/release-name": "shop"}}), vec!["helm:shop"]),
            (
                "an autoscaler",
                json!({"managedFields": [{"manager": "kube-controller-manager", "subresource": "scale"}]}),
                vec!["hpa"],
            ),
            (
                "a person who scaled",
                json!({"managedFields": [{"manager": "kubectl", "subresource": "scale"},
                    {"manager": "kube-controller-manager", "subresource": "status"}]}),
                vec![],
            ),
            (
                "an operator",
                json!({"ownerReferences": [{"apiVersion": "x/v1", "kind": "Shop", "name": "s", "uid": "u"}]}),
                vec!["Shop:s"],
            ),
        ] {
            assert_eq!(owners(&serde_json::from_value(metadata).unwrap()), is, "{what}");
        }
    }

    #[test]
    fn git_puts_the_bad_release_back() {
        let found = findings(&["argo-cd:checkout".into(), "hpa".into()]);
        assert_eq!(found.iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Warning, Severity::Note]);
        assert!(found[0].text.contains("freeze"));
    }
}
