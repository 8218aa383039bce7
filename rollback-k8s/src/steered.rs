//! Who steers a Deployment: a Canary of Flagger or a Rollout of Argo Rollouts. What is done to it behind their backs goes
//! unnoticed, or is undone: the Deployment's own target refuses, and names the right one.
//!
//! Not here: owners that merely write the same object (GitOps, autoscalers): see `owner`.

use crate::{
    connect::Cluster,
    kinds::{FLAGGER_CANARY, ObjectKind, ROLLOUT},
};
use kube::api::DynamicObject;
use rollback_core::{Finding, Kind, Result, Severity};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Who steers what in a namespace.
#[derive(Debug, Default)]
pub(crate) struct Steerers {
    /// By the Deployment's name: what is said of it.
    blocks: HashMap<String, String>,
    /// What could not be found out.
    notes: Vec<String>,
}

/// Findings for a Deployment that somebody steers. Two requests for a namespace; what cannot be asked blocks nothing.
pub(crate) async fn findings(cluster: &Cluster, namespace: &str, deployment: &str) -> Vec<Finding> {
    let known = cluster.known().steerers.get(namespace.to_owned(), || async {
        let (canaries, rollouts) =
            futures::join!(all(cluster, FLAGGER_CANARY, namespace), all(cluster, ROLLOUT, namespace));
        Ok(Arc::new(known(namespace, canaries, rollouts)))
    });
    let Ok(known) = known.await else { return vec![] };
    let blocks = known.blocks.get(deployment).map(|text| Finding::new(Severity::Blocks, "owner", text));
    let notes = known.notes.iter().map(|text| Finding::new(Severity::Note, "owner", text));
    blocks.into_iter().chain(notes).collect()
}

/// None, where the cluster does not know the kind.
async fn all(cluster: &Cluster, kind: ObjectKind, namespace: &str) -> Result<Vec<DynamicObject>> {
    match cluster.list("look for who steers it", kind, namespace, "").await {
        Err(e) if e.kind() == Kind::NotFound => Ok(vec![]),
        other => other,
    }
}

fn known(namespace: &str, canaries: Result<Vec<DynamicObject>>, rollouts: Result<Vec<DynamicObject>>) -> Steerers {
    let mut known = Steerers::default();
    let refers = |object: &DynamicObject, at: &str| {
        let of = |key: &str| object.data.pointer(&format!("/spec/{at}/{key}")).and_then(Value::as_str);
        of("name").filter(|_| of("kind") == Some("Deployment")).map(ToOwned::to_owned)
    };
    let name = |object: &DynamicObject| object.metadata.name.clone().unwrap_or_default();
    match canaries {
        Ok(all) => {
            for canary in &all {
                let Some(target) = refers(canary, "targetRef") else { continue };
                let name = name(canary);
                let text = format!(
                    "the Canary {name} of Flagger steers it: what is reverted behind its back goes unnoticed, and the bad \
                     release may be promoted all the same; roll back the Canary {namespace}/{name} instead"
                );
                known.blocks.insert(format!("{target}-primary"), text.clone());
                known.blocks.insert(target, text);
            }
        }
        Err(e) => known.notes.push(format!("whether Flagger steers it is not known: {e}")),
    }
    match rollouts {
        Ok(all) => {
            for rollout in &all {
                let Some(target) = refers(rollout, "workloadRef") else { continue };
                let name = name(rollout);
                let text = format!(
                    "the Rollout {name} takes its template from it, and brings it out by its own steps; roll back the \
                     Rollout {namespace}/{name} instead"
                );
                known.blocks.insert(target, text);
            }
        }
        Err(e) => known.notes.push(format!("whether Argo Rollouts steers it is not known: {e}")),
    }
    known
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::Error;
    use serde_json::json;

    fn object(name: &str, spec: Value) -> DynamicObject {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_right_target_is_named() {
        let canary = object("c", json!({"targetRef": {"kind": "Deployment", "name": "web"}}));
        let daemon = object("d", json!({"targetRef": {"kind": "DaemonSet", "name": "agent"}}));
        let rollout = object("r", json!({"workloadRef": {"kind": "Deployment", "name": "api"}}));
        let own = object("o", json!({"template": {}}));
        let known = known("shop", Ok(vec![canary, daemon]), Ok(vec![rollout, own]));
        for (deployment, named) in [
            ("web", Some("roll back the Canary shop/c instead")),
            ("web-primary", Some("roll back the Canary shop/c instead")),
            ("api", Some("roll back the Rollout shop/r instead")),
            ("agent", None),
            ("other", None),
        ] {
            let text = known.blocks.get(deployment);
            assert_eq!(text.is_some(), named.is_some(), "{deployment}");
            assert!(named.is_none_or(|named| text.unwrap().contains(named)), "{deployment}: {text:?}");
        }
        assert!(known.notes.is_empty());
    }

    #[test]
    fn what_cannot_be_asked_is_a_note() {
        let denied = || Err(Error::new(Kind::Denied, "list"));
        let known = known("shop", denied(), denied());
        assert_eq!((known.blocks.len(), known.notes.len()), (0, 2));
    }
}
