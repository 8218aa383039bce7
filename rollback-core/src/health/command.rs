//! Ask a program.

use super::{Context, Health, HealthCheck};
use crate::{Error, Kind, Result, process::Process, seconds};
use async_trait::async_trait;
use std::{fmt, time::Duration};

/// How much of the output is shown.
const OUTPUT: usize = 4 << 10;

/// Healthy, or not, as a program says: exit 0 is healthy, 1 is unhealthy, anything else is unknown (it could not be started,
/// another code, a signal, out of time: then it is killed with all it started).
///
/// No shell: the arguments go to the program as they are. It finds in its environment `ROLLBACK_TARGET`, `ROLLBACK_WANTED`,
/// `ROLLBACK_SUSPECT`, `ROLLBACK_PART` (empty: all that serve) and `ROLLBACK_SINCE_MS` (since the last write, or since the
/// window began). What it prints stands in the report, up to 4 KiB: it must print no secrets.
///
/// ```
/// use rollback_core::{health::CommandCheck, seconds};
/// let smoke = CommandCheck::new(["/usr/local/bin/smoke", "--quick"])?.with_timeout(seconds(5));
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone)]
pub struct CommandCheck {
    argv: Vec<String>,
    timeout: Duration,
}

impl CommandCheck {
    /// A program, looked up in `PATH`, and its arguments.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if there is no program.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        if argv.first().is_none_or(String::is_empty) {
            return Err(Error::new(Kind::Invalid, "make a command check")
                .with_message("the argv is empty: name a program")
                .without_effect());
        }
        Ok(Self { argv, timeout: seconds(8) })
    }
    /// How long it may take. Default: 8 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Without the arguments, which may be secrets.
impl fmt::Debug for CommandCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandCheck")
            .field("program", &self.argv[0])
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl HealthCheck for CommandCheck {
    fn name(&self) -> String {
        format!("run {}", self.argv[0])
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let output = Process::new(self.argv.clone())
            .env("ROLLBACK_TARGET", context.target.as_str())
            .env("ROLLBACK_WANTED", context.wanted.as_str())
            .env("ROLLBACK_SUSPECT", context.suspect.as_str())
            .env("ROLLBACK_PART", context.part.as_ref().map_or("", |part| part.as_str()))
            .env("ROLLBACK_SINCE_MS", context.since.as_millis().to_string())
            .within(self.timeout)
            .stdout_limit(OUTPUT)
            .run()
            .await?;
        let mut seen = output.to_string();
        for text in [String::from_utf8_lossy(&output.stdout).trim(), output.stderr.trim()] {
            // Both together stay within the limit.
            let mut end = text.len().min(OUTPUT.saturating_sub(seen.len()));
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            if end > 0 {
                seen = format!("{seen}: {}", &text[..end]);
            }
        }
        Ok(match output.code {
            Some(0) => Health::healthy(self.name(), seen),
            Some(1) => Health::unhealthy(self.name(), seen),
            _ => Health::unknown(self.name(), seen),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::*;
    use super::*;

    fn sh(script: &str) -> CommandCheck {
        CommandCheck::new(["sh", "-c", script]).unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_decides() {
        for (script, want) in [("exit 0", 'h'), ("exit 1", 'u'), ("exit 2", '?'), ("kill -9 $$", '?')] {
            assert_eq!(letter(&sh(script).check(&context()).await.unwrap()), want, "{script}");
        }
    }

    #[tokio::test]
    async fn it_knows_what_it_is_asked_about_and_its_output_is_bounded() {
        let script = "echo $ROLLBACK_TARGET $ROLLBACK_SUSPECT $ROLLBACK_WANTED $ROLLBACK_PART $ROLLBACK_SINCE_MS";
        let asked = context().with_part(Some("all".into())).with_since(seconds(2));
        let seen = sh(script).check(&asked).await.unwrap();
        assert_eq!(seen.evidence()[0].seen, "exit 0: test:t bad good all 2000");
        let seen = sh("yes 0123456789ä | head -c 100000; yes x | head -c 100000 >&2").check(&asked).await.unwrap();
        let len = seen.evidence()[0].seen.len();
        assert!((OUTPUT - 10..=OUTPUT + 4).contains(&len), "{len}");
    }

    #[tokio::test]
    async fn what_hangs_or_is_not_there_is_an_error_which_counts_as_unknown() {
        let e = sh("sleep 1000").with_timeout(Duration::from_millis(100)).check(&context()).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Unavailable);
        let e = CommandCheck::new(["/no/such/program"]).unwrap().check(&context()).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        assert_eq!(CommandCheck::new([""; 0]).unwrap_err().kind(), Kind::Invalid);
    }
}
