//! What a Service sends to.

use super::{Own, PodChecks, shown, unknown};
use crate::kinds::ENDPOINT_SLICE;
use async_trait::async_trait;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rollback_core::{Context, Evidence, Result, Verdict, Verifier, Window};
use std::collections::BTreeSet;

/// The EndpointSlices of a Service hold all ready pods of the wanted release, and nothing else that takes traffic.
///
/// An endpoint that is being deleted and still serves counts as taking traffic: kube-proxy falls back to such where none is
/// ready. Unknown where an endpoint names no pod, or where the slices or the pods cannot be listed. kube-proxy follows up to a
/// second later, and says so nowhere.
///
/// ```no_run
/// # fn of(checkout: &rollback_k8s::Deployment) {
/// let traffic = checkout.checks().endpoints_of("checkout");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EndpointsWanted {
    checks: PodChecks,
    service: String,
    window: Window,
}

impl EndpointsWanted {
    pub(super) fn new(checks: PodChecks, service: String) -> Self {
        Self { checks, service, window: Window::default() }
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for EndpointsWanted {
    fn name(&self) -> String {
        format!("service/{} sends to the wanted pods of {} only", self.service, self.checks.of)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let PodChecks { cluster, namespace, source, .. } = &self.checks;
        let of_service = format!("kubernetes.io/service-name={}", self.service);
        // The slices first: a pod that went meanwhile is then still among the endpoints, and looked at once more.
        let slices =
            cluster.list_of::<EndpointSlice>("list the Service's endpoints", ENDPOINT_SLICE, namespace, &of_service);
        let slices = match slices.await {
            Ok(slices) => slices,
            Err(e) => return Ok(unknown("endpoints", &e)),
        };
        Ok(match source.own().await {
            Ok(own) => judge(&slices, &own, context),
            Err(e) => unknown("endpoints", &e),
        })
    }
}

fn judge(slices: &[EndpointSlice], own: &Own, context: &Context) -> Verdict {
    let (mut wrong, mut unclear, mut sent_to) = (vec![], vec![], BTreeSet::new());
    for endpoint in slices.iter().flat_map(|slice| &slice.endpoints) {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Not said is yes; `serving` is `ready` for what is not being deleted.
        let ready = conditions.ready != Some(false);
        if !ready && conditions.serving != Some(true) {
            continue;
        }
        let reference = endpoint.target_ref.as_ref().filter(|reference| reference.kind.as_deref() == Some("Pod"));
        let Some(name) = reference.and_then(|reference| reference.name.as_deref()) else {
            unclear.push(format!("{} is no pod", endpoint.addresses.join(", ")));
            continue;
        };
        match own.pods.iter().find(|pod| pod.state.name == name) {
            None => wrong.push(format!("sends to {name}, which is none of its pods")),
            Some(pod) => match &pod.release {
                None => unclear.push(format!("sends to {name}, of a revision that is gone")),
                Some(release) if *release != context.wanted => wrong.push(format!("sends to {name} of {release}")),
                // One that is going is no use to new requests.
                Some(_) => drop(ready.then(|| sent_to.insert(name))),
            },
        }
    }
    let serving: Vec<_> = own.wanted(context).filter(|pod| pod.state.serves()).collect();
    let missing = serving.iter().filter(|pod| !sent_to.contains(pod.state.name.as_str()));
    wrong.extend(missing.map(|pod| format!("does not send to {}", pod.state.name)));
    if serving.is_empty() {
        wrong.push("no pod of the wanted release is ready".into());
    }
    if !wrong.is_empty() {
        return Verdict::Fails(shown("endpoints", wrong));
    }
    if !unclear.is_empty() {
        return Verdict::Unknown(shown("endpoints", unclear));
    }
    Verdict::Holds(vec![Evidence::new("endpoints", format!("{} pods of the wanted release, no others", sent_to.len()))])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::own::sample::{context, own, pod, word};
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn all_wanted_pods_and_no_others() {
        let to = |name: &str, ready: Value, serving: Value| {
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready, "serving": serving},
                "targetRef": {"kind": "Pod", "name": name}})
        };
        let yes = |name: &str| to(name, json!(true), json!(true));
        let address = json!({"addresses": ["10.0.0.9"]});
        for (endpoints, is) in [
            (vec![yes("a"), yes("b")], "holds"),
            (vec![to("a", json!(null), json!(null)), yes("b")], "holds"),
            (vec![yes("a")], "fails"),
            (vec![], "fails"),
            (vec![yes("a"), yes("b"), yes("bad")], "fails"),
            // It is being deleted and answers still.
            (vec![yes("a"), yes("b"), to("bad", json!(false), json!(true))], "fails"),
            (vec![yes("a"), yes("b"), to("bad", json!(false), json!(false))], "holds"),
            (vec![yes("a"), yes("b"), yes("of another workload")], "fails"),
            (vec![yes("a"), yes("b"), yes("unnamed")], "unknown"),
            (vec![yes("a"), yes("b"), address], "unknown"),
            (vec![yes("a"), to("b", json!(false), json!(true))], "fails"),
        ] {
            let slice = json!({"addressType": "IPv4", "endpoints": endpoints});
            let pods = own(vec![
                pod("a", Some("good"), json!({})),
                pod("b", Some("good"), json!({})),
                pod("bad", Some("bad"), json!({})),
                pod("unnamed", None, json!({})),
            ]);
            let verdict = judge(&[serde_json::from_value(slice.clone()).unwrap()], &pods, &context(1));
            assert_eq!(word(&verdict), is, "{slice}: {verdict:?}");
        }
        assert_eq!(word(&judge(&[], &own(vec![]), &context(1))), "fails");
    }
}
