//! What a Service really sends to: its EndpointSlices, against the pods that its selector finds.
//!
//! Not here: whether every node has taken that up. kube-proxy says so nowhere; it needs up to a second.

use crate::{
    connect::Cluster,
    kinds::{ENDPOINT_SLICE, POD},
    pods::PodState,
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use rollback_core::Result;
use std::collections::{BTreeMap, BTreeSet};

/// A selector as the API takes it.
pub(crate) fn selector_text(selector: &BTreeMap<String, String>) -> String {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Why the endpoints of a Service are not just the ready pods of its selector; `None` where they are. Two requests.
pub(crate) async fn not_as_selected(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
    selector: &BTreeMap<String, String>,
) -> Result<Option<String>> {
    let of_service = format!("kubernetes.io/service-name={service}");
    let selected = selector_text(selector);
    let (slices, pods) = futures::try_join!(
        cluster.list_of::<EndpointSlice>("list the Service's endpoints", ENDPOINT_SLICE, namespace, &of_service),
        cluster.list_of::<Pod>("list the Service's pods", POD, namespace, &selected),
    )?;
    let pods: Vec<PodState> = pods.iter().map(PodState::of).collect();
    Ok(difference(&slices, &pods))
}

fn difference(slices: &[EndpointSlice], pods: &[PodState]) -> Option<String> {
    let ready: BTreeSet<&str> = pods.iter().filter(|pod| pod.serves()).map(|pod| pod.name.as_str()).collect();
    let endpoints: BTreeSet<&str> = slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        // Not said is yes.
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false))
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.as_deref())
        .collect();
    let named = |names: Vec<&&str>| match names[..] {
        [one] => (*one).to_owned(),
        [first, ..] => format!("{first} and {} more", names.len() - 1),
        [] => String::new(),
    };
    let strangers: Vec<_> = endpoints.difference(&ready).collect();
    if !strangers.is_empty() {
        return Some(format!("the Service still sends to {}", named(strangers)));
    }
    let missing: Vec<_> = ready.difference(&endpoints).collect();
    (!missing.is_empty()).then(|| format!("the Service does not send to {} yet", named(missing)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_the_ready_pods_and_no_others() {
        let pod = |name: &str, ready: bool| {
            let status = if ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": name}, "spec": {"containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}});
            PodState::of(&serde_json::from_value(pod).unwrap())
        };
        let slice = |endpoints: &[(&str, Option<bool>)]| -> EndpointSlice {
            let endpoints: Vec<_> = endpoints
                .iter()
                .map(|(name, ready)| {
                    json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready},
                        "targetRef": {"kind": "Pod", "name": name}})
                })
                .collect();
            let slice = json!({"addressType": "IPv4", "endpoints": endpoints});
            serde_json::from_value(slice).unwrap()
        };
        for (what, slices, pods, says) in [
            ("just those", vec![slice(&[("a", Some(true)), ("b", None)])], vec![pod("a", true), pod("b", true)], None),
            (
                "in two slices",
                vec![slice(&[("a", None)]), slice(&[("b", None)])],
                vec![pod("a", true), pod("b", true)],
                None,
            ),
            ("not ready, and known to be", vec![slice(&[("a", Some(false))])], vec![pod("a", false)], None),
            (
                "of the other side",
                vec![slice(&[("a", None), ("x", None)])],
                vec![pod("a", true)],
                Some("still sends to x"),
            ),
            (
                "one is missing",
                vec![slice(&[("a", None)])],
                vec![pod("a", true), pod("b", true)],
                Some("not send to b"),
            ),
            ("all are missing", vec![], vec![pod("a", true), pod("b", true)], Some("a and 1 more")),
            ("nobody serves", vec![], vec![], None),
        ] {
            let difference = difference(&slices, &pods);
            match says {
                None => assert_eq!(difference, None, "{what}"),
                Some(says) => assert!(difference.as_ref().unwrap().contains(says), "{what}: {difference:?}"),
            }
        }
    }
}
