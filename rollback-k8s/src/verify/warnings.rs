//! Events without new warnings.

use super::{Own, PodChecks, quiet, unknown};
use crate::events;
use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use rollback_core::{Context, Evidence, Result, Verdict, Verifier, Window, seconds};
use std::{collections::BTreeSet, time::Duration};

/// No event of type Warning about the workload and its pods of the wanted release for a while.
///
/// Warnings of pods of other releases do not count: they die noisily. Nor do those from before the last write of the run;
/// until that is as long ago as it must be quiet, it is unknown, unless it fails already. Unknown too where the namespace has
/// more warnings than are read (10,000), or events may not be listed.
///
/// ```no_run
/// # fn of(checkout: &rollback_k8s::Deployment) {
/// let calm = checkout.checks().no_new_warnings().with_quiet(rollback_core::seconds(30)).ignoring("FailedGetScale");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NoNewWarnings {
    checks: PodChecks,
    quiet: Duration,
    ignored: BTreeSet<String>,
    window: Window,
}

impl NoNewWarnings {
    pub(super) fn new(checks: PodChecks) -> Self {
        Self { checks, quiet: seconds(10), ignored: BTreeSet::new(), window: Window::default() }
    }
    /// For so long. Default: 10 s.
    pub fn with_quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }
    /// Warnings with this reason do not count: `FailedGetResourceMetric`.
    pub fn ignoring(mut self, reason: impl Into<String>) -> Self {
        self.ignored.insert(reason.into());
        self
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    async fn sample(&self, context: &Context) -> Result<Verdict> {
        let PodChecks { cluster, namespace, source, .. } = &self.checks;
        let own = source.own().await?;
        let after = self.checks.cutoff(self.quiet, context).await?;
        let (all, more) = events::list(cluster, namespace, "type=Warning", context.within).await?;
        let warned = warned(&all, &own, after, &self.ignored, context);
        let verdict = quiet("warnings", warned, 0, self.quiet, context);
        Ok(match verdict {
            Verdict::Holds(mut evidence) if more => {
                evidence.push(Evidence::new("warnings", "the namespace has more of them than are read"));
                Verdict::Unknown(evidence)
            }
            verdict => verdict,
        })
    }
}

#[async_trait]
impl Verifier for NoNewWarnings {
    fn name(&self) -> String {
        format!("no warnings of {} for {:?}", self.checks.of, self.quiet)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        Ok(self.sample(context).await.unwrap_or_else(|e| unknown("warnings", &e)))
    }
}

fn warned(all: &[Event], own: &Own, after: Timestamp, ignored: &BTreeSet<String>, context: &Context) -> Vec<String> {
    let ours = |release: Option<&_>| release.is_none_or(|release| *release == context.wanted);
    let objects = own.objects.iter().filter(|(_, release)| ours(release.as_ref())).map(|(uid, _)| uid.as_str());
    let pods = own.wanted(context).map(|pod| pod.state.uid.as_str());
    let uids: BTreeSet<&str> = objects.chain(pods).collect();
    let counts = |event: &&Event| {
        let about = event.involved_object.uid.as_deref();
        events::is_warning(event)
            && about.is_some_and(|uid| uids.contains(uid))
            && !event.reason.as_ref().is_some_and(|reason| ignored.contains(reason))
            && events::last_seen(event).is_none_or(|at| at >= after)
    };
    all.iter().filter(counts).map(events::told).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::own::sample::{context, own, pod};
    use super::*;
    use serde_json::json;

    #[test]
    fn warnings_of_its_own_since_then() {
        let (before, since) = ("2026-01-01T00:00:09Z", "2026-01-01T00:00:11Z");
        let after: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let event = |kind: &str, uid: &str, reason: &str, at: &str| -> Event {
            serde_json::from_value(json!({"metadata": {}, "type": kind, "reason": reason, "lastTimestamp": at,
                "involvedObject": {"kind": "Pod", "name": "n", "uid": uid}}))
            .unwrap()
        };
        let mut own = own(vec![pod("good", Some("good"), json!({})), pod("bad", Some("bad"), json!({}))]);
        own.objects = vec![("workload".into(), None), ("rs-bad".into(), Some("bad".into()))];
        for (what, event, counts) in [
            ("its pod", event("Warning", "good", "Unhealthy", since), true),
            ("the workload", event("Warning", "workload", "ReplicaFailure", since), true),
            ("no warning", event("Normal", "good", "Pulled", since), false),
            ("before", event("Warning", "good", "Unhealthy", before), false),
            ("a bad pod, which dies noisily", event("Warning", "bad", "Unhealthy", since), false),
            ("the bad revision", event("Warning", "rs-bad", "FailedCreate", since), false),
            ("another's", event("Warning", "other", "Unhealthy", since), false),
            ("ignored", event("Warning", "good", "Ignored", since), false),
        ] {
            let ignored = BTreeSet::from(["Ignored".to_owned()]);
            let found = warned(&[event], &own, after, &ignored, &context(60));
            assert_eq!(found.len(), usize::from(counts), "{what}: {found:?}");
        }
        // A series goes on: its first time is not its last.
        let series: Event = serde_json::from_value(json!({"metadata": {}, "type": "Warning",
            "eventTime": "2026-01-01T00:00:01.000000Z", "involvedObject": {"uid": "good"},
            "series": {"count": 3, "lastObservedTime": "2026-01-01T00:00:12.000000Z"}}))
        .unwrap();
        assert_eq!(warned(&[series], &own, after, &BTreeSet::new(), &context(60)).len(), 1);
    }
}
