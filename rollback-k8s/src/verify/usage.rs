//! What pods use of what they may, as a metrics server tells it.

use super::{Own, OwnPod, PodChecks, shown, unknown};
use crate::kinds::POD_METRICS;
use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::DynamicObject;
use rollback_core::{Context, Evidence, Result, Verdict, Verifier, Window};
use serde_json::Value;

/// No container of the wanted release uses more than a share of its own limits.
///
/// Told by the metrics API (`metrics.k8s.io`), which a metrics server serves. Unknown where there is none, while a pod has no
/// figures of its own yet (they come every 15 s or so), and where no container has a limit. Containers without a limit do
/// not count.
///
/// ```no_run
/// # fn of(checkout: &rollback_k8s::Deployment) {
/// let room = checkout.checks().within_limits().with_memory(0.8);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WithinLimits {
    checks: PodChecks,
    shares: [(&'static str, f64); 2],
    window: Window,
}

impl WithinLimits {
    pub(super) fn new(checks: PodChecks) -> Self {
        Self { checks, shares: [("memory", 0.9), ("cpu", 0.9)], window: Window::default() }
    }
    /// Of the memory limit, beyond which a container is killed. Default: 0.9.
    pub fn with_memory(mut self, share: f64) -> Self {
        self.shares[0].1 = share;
        self
    }
    /// Of the CPU limit, beyond which a container is slowed down. Default: 0.9.
    pub fn with_cpu(mut self, share: f64) -> Self {
        self.shares[1].1 = share;
        self
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for WithinLimits {
    fn name(&self) -> String {
        format!("the pods of {} are within their limits", self.checks.of)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let PodChecks { cluster, namespace, source, .. } = &self.checks;
        let read = async {
            let metrics = cluster.list("ask what pods use", POD_METRICS, namespace, "").await?;
            Ok((source.own().await?, metrics))
        };
        Ok(match read.await {
            Ok((own, metrics)) => judge(&own, &metrics, &self.shares, context),
            Err(e) => unknown("resources", &e),
        })
    }
}

fn judge(own: &Own, metrics: &[DynamicObject], shares: &[(&'static str, f64)], context: &Context) -> Verdict {
    let (mut over, mut unclear, mut within) = (vec![], vec![], vec![]);
    for pod in own.wanted(context).filter(|pod| !pod.state.terminating) {
        match metrics.iter().find(|of| of.metadata.name.as_deref() == Some(&pod.state.name) && is_of(of, pod)) {
            None => unclear.push(format!("there are no figures of {} yet", pod.state.name)),
            Some(metrics) => {
                for (container, what, used, limit) in measured(pod, metrics, shares) {
                    let share = shares.iter().find(|(of, _)| *of == what).map_or(1.0, |(_, share)| *share);
                    let text = format!(
                        "{}, container {container}: {:.0} % of its {what} limit",
                        pod.state.name,
                        100.0 * used / limit
                    );
                    if used > share * limit { over.push(text) } else { within.push(text) }
                }
            }
        }
    }
    if !over.is_empty() {
        return Verdict::Fails(shown("resources", over));
    }
    if !unclear.is_empty() {
        return Verdict::Unknown(shown("resources", unclear));
    }
    if within.is_empty() {
        return Verdict::Unknown(vec![Evidence::new("resources", "no container of the wanted release has a limit")]);
    }
    Verdict::Holds(shown("resources", within))
}

/// A StatefulSet's pod has the name of the one before.
fn is_of(metrics: &DynamicObject, pod: &OwnPod) -> bool {
    let at = metrics.data.get("timestamp").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    let since = pod.pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
    at.is_none_or(|at| since.is_none_or(|since| at >= since))
}

/// What each container with a limit uses of it.
fn measured<'a>(
    pod: &'a OwnPod,
    metrics: &'a DynamicObject,
    shares: &'a [(&'static str, f64)],
) -> impl Iterator<Item = (&'a str, &'static str, f64, f64)> {
    let used = |container: &str, what: &str| {
        let mut all = metrics.data.get("containers").and_then(Value::as_array).into_iter().flatten();
        let found = all.find(|of| of.get("name").and_then(Value::as_str) == Some(container))?;
        quantity(found.get("usage")?.get(what)?.as_str()?)
    };
    let containers = pod.pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.flat_map(move |container| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        shares.iter().filter_map(move |(what, _)| {
            let limit = quantity(&limits?.get(*what)?.0).filter(|limit| *limit > 0.0)?;
            Some((container.name.as_str(), *what, used(&container.name, what)?, limit))
        })
    })
}

/// A quantity of the API: `250m`, `64Mi`, `1.5G`, `2e3`.
fn quantity(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    UNITS.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::own::sample::{context, own, pod, word};
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        for (text, is) in
            [("250m", 0.25), ("64Mi", 67_108_864.0), ("1.5G", 1.5e9), ("2e3", 2000.0), ("1500000n", 0.0015), ("3", 3.0)]
        {
            assert!((quantity(text).unwrap() - is).abs() < 1e-9 * is.max(1.0), "{text}");
        }
        assert_eq!(quantity("64Xi"), None);
    }

    #[test]
    fn what_is_used_of_limits() {
        let limits = json!({"spec": {"containers": [{"name": "app",
            "resources": {"limits": {"memory": "100Mi", "cpu": "1"}}}]}});
        let none = json!({});
        let of = |name: &str, at: &str, memory: &str, cpu: &str| -> DynamicObject {
            serde_json::from_value(json!({"metadata": {"name": name}, "timestamp": at,
                "containers": [{"name": "app", "usage": {"memory": memory, "cpu": cpu}}]}))
            .unwrap()
        };
        let later = "2026-01-01T00:01:00Z";
        for (what, limited, metrics, is) in [
            ("within", &limits, vec![of("a", later, "50Mi", "100m")], "holds"),
            ("too much memory", &limits, vec![of("a", later, "95Mi", "100m")], "fails"),
            ("too much CPU", &limits, vec![of("a", later, "50Mi", "950000000n")], "fails"),
            ("no figures", &limits, vec![], "unknown"),
            ("figures of the pod before", &limits, vec![of("a", "2025-12-31T23:59:00Z", "95Mi", "1")], "unknown"),
            ("no limits", &none, vec![of("a", later, "95Mi", "1")], "unknown"),
        ] {
            let own = own(vec![pod("a", Some("good"), limited.clone()), pod("b", Some("bad"), limits.clone())]);
            let verdict = judge(&own, &metrics, &[("memory", 0.9), ("cpu", 0.9)], &context(60));
            assert_eq!(word(&verdict), is, "{what}: {verdict:?}");
        }
    }
}
