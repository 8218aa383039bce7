//! Nothing of the bad release is left.

use super::{Own, PodChecks, shown, unknown};
use async_trait::async_trait;
use rollback_core::{Context, Evidence, Result, Verdict, Verifier, Window};

/// No pod of another release than the wanted one is left in the parts that serve, those that are being deleted included.
///
/// Holds where there is none; fails while there is one; unknown where the release of a pod is not known (its ReplicaSet is
/// gone), or the pods cannot be listed. Whether enough pods are ready, core's
/// [`InstancesReady`](rollback_core::verify::InstancesReady) says.
///
/// ```no_run
/// # use rollback_core::Window;
/// # fn of(checkout: &rollback_k8s::Deployment) {
/// let gone = checkout.checks().bad_pods_gone().with_window(Window::default().with_within(rollback_core::minutes(2)));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BadPodsGone {
    checks: PodChecks,
    window: Window,
}

impl BadPodsGone {
    pub(super) fn new(checks: PodChecks) -> Self {
        Self { checks, window: Window::default() }
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for BadPodsGone {
    fn name(&self) -> String {
        format!("no other pods of {} are left", self.checks.of)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        Ok(match self.checks.source.own().await {
            Ok(own) => judge(&own, context),
            Err(e) => unknown("pods", &e),
        })
    }
}

fn judge(own: &Own, context: &Context) -> Verdict {
    let (mut left, mut strangers, mut wanted) = (vec![], vec![], 0);
    for pod in own.asked(context) {
        let going = if pod.state.terminating { ", being deleted" } else { "" };
        match &pod.release {
            Some(release) if *release == context.wanted => wanted += 1,
            Some(release) => left.push(format!("{} of {release}{going}", pod.state.name)),
            None => strangers.push(format!("{} of a revision that is gone{going}", pod.state.name)),
        }
    }
    if !left.is_empty() {
        return Verdict::Fails(shown("pods", left));
    }
    if !strangers.is_empty() {
        return Verdict::Unknown(shown("pods", strangers));
    }
    Verdict::Holds(vec![Evidence::new("pods", format!("{wanted} of the wanted release, no others"))])
}

#[cfg(test)]
mod tests {
    use super::super::own::sample::{context, own, pod, word};
    use super::*;
    use serde_json::json;

    #[test]
    fn one_that_is_being_deleted_is_left_and_an_unnamed_one_makes_it_unknown() {
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let good = || pod("a", Some("good"), json!({}));
        for (pods, is) in [
            (vec![good()], "holds"),
            (vec![], "holds"),
            (vec![good(), pod("b", Some("bad"), json!({}))], "fails"),
            (vec![good(), pod("b", Some("bad"), going.clone())], "fails"),
            (vec![good(), pod("b", Some("third"), json!({}))], "fails"),
            (vec![good(), pod("b", None, going)], "unknown"),
            (vec![good(), pod("b", Some("bad"), json!({"status": {"phase": "Succeeded"}}))], "holds"),
        ] {
            let verdict = judge(&own(pods), &context(1));
            assert_eq!(word(&verdict), is, "{verdict:?}");
        }
    }
}
