//! A program in the containers.

use crate::{error, member::Member, replicas::Replicas};
use async_trait::async_trait;
use bollard::{
    exec::{StartExecOptions, StartExecResults},
    models::ExecConfig,
};
use futures::{StreamExt as _, future::join_all};
use rollback_core::{Context, Error, Evidence, Health, HealthCheck, Kind, Result, redact::without_secrets, seconds};
use std::{fmt, time::Duration};
use tokio::time::timeout;

/// How much of the output is shown.
const OUTPUT: usize = 400;

/// Healthy if a program, run in each container that runs, ends with 0; unhealthy if it ends with anything else, as the
/// engine's own health checks are judged.
///
/// Unknown where no container runs, or where it could not be run (no such program, the engine does not answer) or did not
/// end in time: it may then still run. No shell: arguments go to the program as they are. Up to 400 bytes of what it prints
/// stand in the report, without what looks like a secret.
///
/// ```no_run
/// # fn of(web: &rollback_docker::ComposeService) -> rollback_core::Result<()> {
/// let alive = web.exec(["/bin/smoke", "--quick"])?.with_timeout(rollback_core::seconds(20));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ExecCheck {
    replicas: Replicas,
    argv: Vec<String>,
    timeout: Duration,
}

/// Without the arguments, which may be secrets.
impl fmt::Debug for ExecCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecCheck")
            .field("program", &self.program())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl ExecCheck {
    pub(crate) fn new(replicas: Replicas, argv: Vec<String>) -> Result<Self> {
        if argv.first().is_none_or(String::is_empty) {
            return Err(Error::new(Kind::Invalid, "make an exec check")
                .with_message("the argv is empty: name a program")
                .without_effect());
        }
        Ok(Self { replicas, argv, timeout: seconds(8) })
    }
    /// How long it may take in one container. Default: 8 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    async fn run_in(&self, member: &Member) -> Health {
        let what = format!("{} in {}", self.program(), member.name);
        match timeout(self.timeout, self.ask(member)).await {
            Ok(Ok((code, said))) => judge(what, code, &said),
            Ok(Err(e)) => Health::unknown(what, e.to_string()),
            Err(_) => Health::unknown(what, format!("it did not end within {:?}", self.timeout)),
        }
    }
    /// Its exit code, and the beginning of what it printed; the rest is read too, or the program would hang.
    async fn ask(&self, member: &Member) -> Result<(Option<i64>, String)> {
        let client = self.replicas.engine.client();
        let failed = || error::read(format!("run {} in {}", self.program(), member.name));
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(self.argv.clone()),
            ..ExecConfig::default()
        };
        let id = client.create_exec(&member.id, config).await.map_err(failed())?.id;
        let mut said = vec![];
        if let StartExecResults::Attached { mut output, .. } =
            client.start_exec(&id, None::<StartExecOptions>).await.map_err(failed())?
        {
            while let Some(bytes) = output.next().await {
                let bytes = bytes.map_err(failed())?.into_bytes();
                said.extend(bytes.iter().take(OUTPUT.saturating_sub(said.len())));
            }
        }
        let ended = client.inspect_exec(&id).await.map_err(failed())?;
        Ok((ended.exit_code, String::from_utf8_lossy(&said).into_owned()))
    }
}

fn judge(what: String, code: Option<i64>, said: &str) -> Health {
    let said: Vec<_> = said.lines().map(without_secrets).collect();
    let said = if said.is_empty() { String::new() } else { format!(": {}", said.join(" | ")) };
    match code {
        Some(0) => Health::healthy(what, format!("exit 0{said}")),
        // The words for "cannot be run" and "not found": it is not the service that said so.
        Some(code @ (126 | 127)) => Health::unknown(what, format!("it cannot be run (exit {code}){said}")),
        Some(code) => Health::unhealthy(what, format!("exit {code}{said}")),
        None => Health::unknown(what, format!("how it ended was not told{said}")),
    }
}

#[async_trait]
impl HealthCheck for ExecCheck {
    fn name(&self) -> String {
        format!("{} in the {}", self.program(), self.replicas.object())
    }
    async fn check(&self, _: &Context) -> Result<Health> {
        let members: Vec<Member> = self.replicas.members().await?.into_iter().filter(Member::runs).collect();
        let answers = join_all(members.iter().map(|member| self.run_in(member))).await;
        if answers.is_empty() {
            return Ok(Health::unknown(self.name(), "no container runs"));
        }
        let evidence: Vec<Evidence> = answers.iter().flat_map(Health::evidence).cloned().collect();
        let any = |is: fn(&Health) -> bool| answers.iter().any(is);
        Ok(match () {
            () if any(|health| matches!(health, Health::Unhealthy(_))) => Health::Unhealthy(evidence),
            () if any(|health| matches!(health, Health::Unknown(_))) => Health::Unknown(evidence),
            () => Health::Healthy(evidence),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_ran_can_say_that_it_is_unhealthy() {
        let of = |code| judge("x".into(), code, "password=hunter2");
        assert!(matches!(of(Some(0)), Health::Healthy(_)));
        assert!(matches!(of(Some(1)), Health::Unhealthy(_)));
        for none in [of(Some(126)), of(Some(127)), of(None)] {
            assert!(matches!(none, Health::Unknown(_)), "{none:?}");
            assert!(!format!("{none:?}").contains("hunter2"), "{none:?}");
        }
    }
}
