//! A program in the pods.

use crate::{
    error::Request,
    kinds::POD_EXEC,
    verify::{OwnPod, PodChecks},
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{Api, api::AttachParams};
use rollback_core::{
    Context, Error, Evidence, Health, HealthCheck, Kind, Result,
    redact::{shortened, without_secrets},
    seconds,
};
use std::{fmt, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Pods in which it runs at the same time.
const AT_ONCE: usize = 8;
/// How much of the output is shown.
const OUTPUT: u64 = 400;
/// Lines of evidence.
const SHOWN: usize = 8;

/// Healthy if a program, run in each pod that the target has and that is not being deleted, ends with 0; unhealthy if it
/// ends with anything else, as the kubelet's own exec probes are judged.
///
/// Unknown where there is no pod, where it could not be run (no such program, no such container, not allowed, the node does
/// not answer) or did not end in time: it may then still run. No shell: arguments go to the program as they are. Up to 400
/// bytes of what it prints stand in the report, without what looks like a secret.
///
/// # Permissions
/// `{apiGroups: [""], resources: ["pods/exec"], verbs: ["get", "create"]}`: who has that can run anything in these pods.
///
/// ```no_run
/// # fn of(checkout: &rollback_k8s::Deployment) -> rollback_core::Result<()> {
/// let alive = checkout.checks().exec(["/bin/smoke", "--quick"])?.in_container("app");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ExecCheck {
    checks: PodChecks,
    argv: Vec<String>,
    container: Option<String>,
    timeout: Duration,
}

/// Without the arguments, which may be secrets.
impl fmt::Debug for ExecCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecCheck")
            .field("program", &self.program())
            .field("container", &self.container)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl ExecCheck {
    pub(crate) fn new(checks: PodChecks, argv: Vec<String>) -> Result<Self> {
        if argv.first().is_none_or(String::is_empty) {
            return Err(Error::new(Kind::Invalid, "make an exec check")
                .with_message("the argv is empty: name a program")
                .without_effect());
        }
        Ok(Self { checks, argv, container: None, timeout: seconds(8) })
    }
    /// In this container. Default: the first of the pod.
    pub fn in_container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }
    /// How long it may take in one pod. Default: 8 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    async fn run_in(&self, pod: &OwnPod) -> Health {
        let what = format!("{} in pod {}", self.program(), pod.state.name);
        match tokio::time::timeout(self.timeout, self.ask(pod)).await {
            Ok(Ok((status, output))) => judge(what, status.as_ref(), &output),
            Ok(Err(e)) => Health::unknown(what, e.to_string()),
            Err(_) => Health::unknown(what, format!("it did not end within {:?}", self.timeout)),
        }
    }
    async fn ask(&self, pod: &OwnPod) -> Result<(Option<Status>, String)> {
        let request = Request {
            operation: "run a program in a pod",
            verb: "get",
            kind: POD_EXEC,
            namespace: Some(&self.checks.namespace),
            name: &pod.state.name,
        };
        let first =
            pod.pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone()).next();
        let mut params = AttachParams::default().stdin(false).stdout(true).stderr(true);
        params.container = self.container.clone().or(first);
        let api: Api<Pod> = Api::namespaced(self.checks.cluster.client().clone(), &self.checks.namespace);
        let exec = api.exec(&pod.state.name, self.argv.iter().map(String::as_str), &params);
        let mut process = self.checks.cluster.within(self.timeout, &request, exec).await?;
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        let status = async move {
            match status {
                Some(status) => status.await,
                None => None,
            }
        };
        let (out, err, status) = futures::join!(head(stdout), head(stderr), status);
        Ok((status, format!("{out}{err}")))
    }
}

/// The beginning of it; the rest is read too, or the program would hang.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = vec![];
    // What breaks off is told by the status, or by its absence.
    let _ = (&mut stream).take(OUTPUT).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn judge(what: String, status: Option<&Status>, output: &str) -> Health {
    let said: Vec<_> = output.lines().map(without_secrets).collect();
    let said = if said.is_empty() { String::new() } else { format!(": {}", said.join(" | ")) };
    let Some(status) = status else { return Health::unknown(what, format!("how it ended was not told{said}")) };
    if status.status.as_deref() == Some("Success") {
        return Health::healthy(what, format!("exit 0{said}"));
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref());
    match code {
        // The shell's words for "cannot be run" and "not found": it is not the service that said so.
        Some(code @ ("126" | "127")) => Health::unknown(what, format!("it cannot be run (exit {code}){said}")),
        Some(code) => Health::unhealthy(what, format!("exit {code}{said}")),
        None => Health::unknown(what, shortened(status.message.as_deref().unwrap_or_default(), 400)),
    }
}

#[async_trait]
impl HealthCheck for ExecCheck {
    fn name(&self) -> String {
        format!("{} in the pods of {}", self.program(), self.checks.of)
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let own = self.checks.source.own().await?;
        let pods: Vec<_> = own.asked(context).filter(|pod| !pod.state.terminating).collect();
        if pods.is_empty() {
            return Ok(Health::unknown(self.name(), "there is no pod"));
        }
        let asked = pods.iter().map(|pod| self.run_in(pod)).collect::<Vec<_>>();
        let answers: Vec<Health> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        Ok(all(&self.name(), answers))
    }
}

/// All must be healthy. Those that are not come first.
fn all(what: &str, answers: Vec<Health>) -> Health {
    let of = answers.len();
    let rank = |health: &Health| match health {
        Health::Unhealthy(_) => 0,
        Health::Unknown(_) => 1,
        Health::Healthy(_) => 2,
    };
    let worst = answers.iter().map(rank).min();
    let mut answers = answers;
    answers.sort_by_key(rank);
    let mut evidence: Vec<Evidence> = answers.iter().flat_map(Health::evidence).cloned().collect();
    if evidence.len() > SHOWN {
        evidence.truncate(SHOWN);
        evidence.push(Evidence::new(what, format!("{} more", of.saturating_sub(SHOWN))));
    }
    match worst {
        Some(0) => Health::Unhealthy(evidence),
        Some(2) => Health::Healthy(evidence),
        _ => Health::Unknown(evidence),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn letter(health: &Health) -> char {
        match health {
            Health::Healthy(_) => 'h',
            Health::Unhealthy(_) => 'u',
            Health::Unknown(_) => '?',
        }
    }

    #[test]
    fn only_a_program_that_ran_can_say_that_it_is_unhealthy() {
        let exit = |code: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated",
                "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
        };
        for (status, is) in [
            (json!({"status": "Success"}), 'h'),
            (exit("1"), 'u'),
            (exit("42"), 'u'),
            (exit("127"), '?'),
            (json!({"status": "Failure", "reason": "InternalError", "message": "no such file or directory"}), '?'),
        ] {
            let health = judge("x".into(), Some(&serde_json::from_value(status.clone()).unwrap()), "password=hunter2");
            assert_eq!(letter(&health), is, "{status}");
            assert!(!format!("{health:?}").contains("hunter2"), "{health:?}");
        }
        assert_eq!(letter(&judge("x".into(), None, "")), '?');
    }

    #[test]
    fn one_that_is_not_healthy_decides_and_is_shown_first() {
        let answers = |letters: &str| {
            let health = letters.chars().map(|letter| match letter {
                'h' => Health::healthy("p", "h"),
                'u' => Health::unhealthy("p", "u"),
                _ => Health::unknown("p", "?"),
            });
            all("all", health.collect())
        };
        for (of, is) in [("hh", 'h'), ("hu", 'u'), ("h?", '?'), ("?u", 'u'), ("", '?')] {
            assert_eq!(letter(&answers(of)), is, "{of}");
        }
        let many = answers(&format!("{}u", "h".repeat(50)));
        assert_eq!((many.evidence().len(), many.evidence()[0].seen.as_str()), (SHOWN + 1, "u"));
    }
}
