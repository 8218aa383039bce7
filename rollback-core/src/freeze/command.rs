//! A freeze by a program.

use super::{Freeze, Hold};
use crate::{
    Error, Kind, Payload, Result, Stored,
    process::{Output, Process},
    seconds,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// How much a program may print.
const OUTPUT: usize = 1 << 20;

/// Freezes through a program of one's own: one argv for each of the verbs `freeze`, `unfreeze` and `held`. No shell.
///
/// | verb | standard input | standard output, JSON |
/// |---|---|---|
/// | `freeze` | nothing | what was there before; `null` or nothing, if that need not be known to undo it |
/// | `unfreeze` | what `freeze` printed | not read |
/// | `held` | nothing | a list of holds: `[{"run", "target", "owner", "why", "until"}]`, `until` in ms since 1970 or `null` |
///
/// Exit codes: 0 done; 75 not now, try again later; 77 not allowed; anything else failed, with the end of the standard error
/// output in the message, which must hold no secrets. Every verb must be idempotent by run: a repeated `freeze` prints what
/// the first did. A program that takes too long is killed with all it started.
///
/// In its environment: `ROLLBACK_VERB`, and for `freeze` and `unfreeze` `ROLLBACK_KEY` (the same for every attempt of this
/// run and this freeze), `ROLLBACK_RUN`, `ROLLBACK_TARGET`, `ROLLBACK_OWNER`, `ROLLBACK_WHY`, and `ROLLBACK_UNTIL` (RFC 3339,
/// empty if it does not lapse).
///
/// ```
/// use rollback_core::freeze::FreezeCommand;
/// let pipeline = FreezeCommand::new("deploy pipeline", ["/usr/local/bin/pipeline-freeze"])?;
/// // The verb is the last argument, unless a verb has an argv of its own:
/// let gitops = FreezeCommand::new("gitops", ["gitops"])?.with_freeze(["gitops", "pause", "checkout"])
///     .with_unfreeze(["gitops", "resume", "checkout"]);
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone)]
pub struct FreezeCommand {
    name: String,
    argv: Vec<String>,
    own: [Option<Vec<String>>; 3],
    timeout: Duration,
}

#[derive(Clone, Copy)]
enum Verb {
    Freeze,
    Unfreeze,
    Held,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Freeze => "freeze",
            Verb::Unfreeze => "unfreeze",
            Verb::Held => "held",
        }
    }
}

/// What the program printed.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Was(serde_json::Value);
impl Stored for Was {
    const NAME: &'static str = "rollback-core/freeze-command";
    const VERSION: u32 = 1;
}

impl FreezeCommand {
    /// A program, looked up in `PATH`, with arguments; the verb comes after them. The name is unique within a run.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if there is no program.
    pub fn new(name: impl Into<String>, argv: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let name = name.into();
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        if argv.first().is_none_or(String::is_empty) {
            return Err(Error::new(Kind::Invalid, format!("make the freeze {name}"))
                .with_message("the argv is empty: name a program")
                .without_effect());
        }
        Ok(Self { name, argv, own: [None, None, None], timeout: seconds(30) })
    }
    /// The whole argv for `freeze`.
    pub fn with_freeze(self, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(Verb::Freeze, argv)
    }
    /// The whole argv for `unfreeze`.
    pub fn with_unfreeze(self, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(Verb::Unfreeze, argv)
    }
    /// The whole argv for `held`.
    pub fn with_held(self, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(Verb::Held, argv)
    }
    fn with(mut self, verb: Verb, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.own[verb as usize] = Some(argv.into_iter().map(Into::into).collect());
        self
    }
    /// How long each verb may take. Default: 30 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn run(&self, verb: Verb, hold: Option<&Hold>, stdin: Option<Vec<u8>>) -> Result<Output> {
        let argv = match &self.own[verb as usize] {
            Some(own) => own.clone(),
            None => self.argv.iter().cloned().chain([verb.word().to_string()]).collect(),
        };
        let mut process =
            Process::new(argv).env("ROLLBACK_VERB", verb.word()).within(self.timeout).stdout_limit(OUTPUT);
        if let Some(hold) = hold {
            process = process
                .env("ROLLBACK_KEY", format!("{}/{}", hold.run, self.name))
                .env("ROLLBACK_RUN", hold.run.as_str())
                .env("ROLLBACK_TARGET", hold.target.as_str())
                .env("ROLLBACK_OWNER", &hold.owner)
                .env("ROLLBACK_WHY", &hold.why)
                .env("ROLLBACK_UNTIL", hold.until.map_or_else(String::new, |until| until.to_string()));
        }
        if let Some(bytes) = stdin {
            process = process.stdin(bytes);
        }
        let output = process.run().await?;
        let kind = match output.code {
            Some(0) if output.truncated => {
                return Err(self
                    .failed(verb, Kind::Invalid)
                    .with_message(format!("it printed more than {OUTPUT} bytes")));
            }
            Some(0) => return Ok(output),
            Some(75) => Kind::Unavailable,
            Some(77) => Kind::Denied,
            _ => Kind::Unexpected,
        };
        Err(self.failed(verb, kind).with_message(format!("{output}: {}", output.stderr.trim())))
    }

    fn failed(&self, verb: Verb, kind: Kind) -> Error {
        Error::new(
            kind,
            format!("{} {}", if let Verb::Held = verb { "ask for the holds of" } else { verb.word() }, self.name),
        )
    }

    fn json(&self, verb: Verb, output: &Output) -> Result<serde_json::Value> {
        if output.stdout.trim_ascii().is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|e| {
            self.failed(verb, Kind::Invalid)
                .with_message("what it printed is not JSON: nothing else may go to its standard output")
                .with_source(e)
        })
    }
}

/// Without the arguments, which may be secrets.
impl fmt::Debug for FreezeCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreezeCommand")
            .field("name", &self.name)
            .field("program", &self.argv[0])
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Freeze for FreezeCommand {
    fn name(&self) -> String {
        self.name.clone()
    }
    async fn freeze(&self, hold: &Hold) -> Result<Payload> {
        let output = self.run(Verb::Freeze, Some(hold), None).await?;
        Payload::of(&Was(self.json(Verb::Freeze, &output)?))
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        let output = self.run(Verb::Held, None, None).await?;
        match self.json(Verb::Held, &output)? {
            serde_json::Value::Null => Ok(vec![]),
            list => serde_json::from_value(list).map_err(|e| {
                self.failed(Verb::Held, Kind::Invalid)
                    .with_message("what it printed is no list of holds")
                    .with_source(e)
            }),
        }
    }
    async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()> {
        let Was(was) = was.read()?;
        self.run(Verb::Unfreeze, Some(hold), Some(was.to_string().into_bytes())).await.map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn hold() -> Hold {
        Hold::new("r1".into(), "t:shop".into(), "me", "500s").with_until(Some(Timestamp(0)))
    }
    fn sh(script: &str) -> FreezeCommand {
        FreezeCommand::new("ci", ["sh", "-c", script, "sh"]).unwrap()
    }

    #[tokio::test]
    async fn what_freeze_prints_comes_back_to_unfreeze() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            r#"cd {}; case "$1" in
                freeze) echo "$ROLLBACK_KEY $ROLLBACK_OWNER $ROLLBACK_UNTIL" > env; echo '{{"paused": false}}';;
                unfreeze) cat > was;;
                held) echo '[{{"run":"r1","target":"t:shop","owner":"me","why":"500s","until":0}}]';;
            esac"#,
            dir.path().display()
        );
        let freeze = sh(&script);
        let was = freeze.freeze(&hold()).await.unwrap();
        assert_eq!(freeze.held().await.unwrap(), [hold()]);
        freeze.unfreeze(&hold(), was).await.unwrap();
        let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("env"), "r1/ci me 1970-01-01T00:00:00.000Z\n");
        assert_eq!(read("was"), r#"{"paused":false}"#);
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        for (script, kind, says) in [
            ("echo busy >&2; exit 75", Kind::Unavailable, "busy"),
            ("exit 77", Kind::Denied, "exit 77"),
            ("exit 1", Kind::Unexpected, "exit 1"),
            ("echo hello", Kind::Invalid, "not JSON"),
        ] {
            let e = sh(script).freeze(&hold()).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{script}");
            assert!(e.to_string().starts_with("could not freeze ci") && e.to_string().contains(says), "{e}");
        }
        assert_eq!(sh("echo '{}'").held().await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(sh("").held().await.unwrap(), []);
        let own = sh("exit 1").with_held(["sh", "-c", "echo '[]'"]);
        assert_eq!(own.held().await.unwrap(), []);
    }
}
