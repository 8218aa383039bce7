//! Restarts that do not grow.

use super::{Own, OwnPod, PodChecks, quiet, unknown};
use async_trait::async_trait;
use jiff::Timestamp;
use rollback_core::{Context, Evidence, Result, Verdict, Verifier, Window, seconds};
use std::time::Duration;

/// No container of the wanted release has restarted, or ended, for a while.
///
/// Told from when containers last ended, so nothing must be remembered, and a resumed run goes on. Only what was after the
/// last write of the run counts. Until the last write is that long ago it is unknown, unless it fails already. Times are the
/// nodes', compared with the API server's: clocks that differ by more than the quiet time mislead it.
///
/// ```no_run
/// # fn of(checkout: &rollback_k8s::Deployment) {
/// let steady = checkout.checks().restarts_steady().with_quiet(rollback_core::minutes(1)).allowing(1);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RestartsSteady {
    checks: PodChecks,
    quiet: Duration,
    allowed: usize,
    window: Window,
}

impl RestartsSteady {
    pub(super) fn new(checks: PodChecks) -> Self {
        Self { checks, quiet: seconds(10), allowed: 0, window: Window::default() }
    }
    /// For so long. Default: 10 s.
    pub fn with_quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }
    /// So many containers may have restarted in that time. Default: none.
    pub fn allowing(mut self, containers: usize) -> Self {
        self.allowed = containers;
        self
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    async fn sample(&self, context: &Context) -> Result<Verdict> {
        let own = self.checks.source.own().await?;
        let after = self.checks.cutoff(self.quiet, context).await?;
        Ok(match ended(&own, after, context) {
            Some(ended) => quiet("restarts", ended, self.allowed, self.quiet, context),
            None => Verdict::Unknown(vec![Evidence::new("restarts", "there is no pod of the wanted release")]),
        })
    }
}

#[async_trait]
impl Verifier for RestartsSteady {
    fn name(&self) -> String {
        format!("no container of {} restarts for {:?}", self.checks.of, self.quiet)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        Ok(self.sample(context).await.unwrap_or_else(|e| unknown("restarts", &e)))
    }
}

/// Containers of the wanted release that ended since; `None` where there are no pods of it.
fn ended(own: &Own, after: Timestamp, context: &Context) -> Option<Vec<String>> {
    let pods: Vec<_> = own.wanted(context).filter(|pod| !pod.state.terminating).collect();
    (!pods.is_empty()).then(|| pods.into_iter().flat_map(|pod| ended_in(pod, after)).collect())
}

fn ended_in(pod: &OwnPod, after: Timestamp) -> Vec<String> {
    let mut ended = vec![];
    for container in pod.statuses() {
        let states = [&container.last_state, &container.state];
        let ends = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
        // An init container ends, and should.
        let ends = ends.filter(|end| end.exit_code != 0 || container.restart_count > 0);
        let Some(end) = ends.max_by_key(|end| end.finished_at.as_ref().map(|at| at.0)) else { continue };
        if end.finished_at.as_ref().is_none_or(|at| at.0 >= after) {
            let (name, restarts) = (&container.name, container.restart_count);
            let reason = end.reason.as_deref().unwrap_or("ended");
            ended.push(format!("{}, container {name}: {reason}, {restarts} restarts", pod.state.name));
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::own::sample::{context, own, pod, word};
    use super::*;
    use serde_json::{Value, json};

    fn status(restarts: i32, state: Value, last: Value) -> Value {
        json!({"name": "app", "image": "i", "imageID": "", "ready": true, "restartCount": restarts,
            "state": state, "lastState": last})
    }
    fn of(status: Value) -> OwnPod {
        pod("a", Some("good"), json!({"status": {"containerStatuses": [status]}}))
    }

    #[test]
    fn what_ended_since_then_counts_and_nothing_else() {
        let end = |at: &str, exit: i32| json!({"terminated": {"exitCode": exit, "reason": "Error", "finishedAt": at}});
        let (before, since) = ("2026-01-01T00:00:09Z", "2026-01-01T00:00:11Z");
        let after: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let running = || json!({"running": {}});
        for (what, pod, count) in [
            ("never restarted", of(status(0, running(), json!({}))), Some(0)),
            ("before the write", of(status(9, running(), end(before, 1))), Some(0)),
            ("since", of(status(1, running(), end(since, 1))), Some(1)),
            ("and waits to start again", of(status(1, json!({"waiting": {}}), end(since, 1))), Some(1)),
            ("has just ended, not restarted yet", of(status(0, end(since, 1), json!({}))), Some(1)),
            ("again, long after the first time", of(status(2, end(since, 1), end(before, 1))), Some(1)),
            ("exit 0 is an end too, if it is started again", of(status(1, running(), end(since, 0))), Some(1)),
            ("of the bad release", pod("b", Some("bad"), json!({})), None),
        ] {
            let found = ended(&own(vec![pod]), after, &context(60));
            assert_eq!(found.as_ref().map(Vec::len), count, "{what}: {found:?}");
        }
        let init =
            pod("a", Some("good"), json!({"status": {"initContainerStatuses": [status(0, end(since, 0), json!({}))]}}));
        assert_eq!(ended(&own(vec![init]), after, &context(60)), Some(vec![]), "an init container ends, and should");
    }

    #[test]
    fn too_short_a_look_tells_nothing_unless_it_fails() {
        let one = || vec!["a restarted".to_owned()];
        for (since, seen, allowed, is) in [
            (60, vec![], 0, "holds"),
            (60, one(), 0, "fails"),
            (60, one(), 1, "holds"),
            (3, vec![], 0, "unknown"),
            (3, one(), 0, "fails"),
        ] {
            let verdict = quiet("restarts", seen, allowed, seconds(10), &context(since));
            assert_eq!(word(&verdict), is, "{verdict:?}");
        }
    }
}
