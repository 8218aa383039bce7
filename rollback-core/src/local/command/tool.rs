//! One call of a tool: what is run, how long it may take, how its answer is read.

use super::{
    answer::{ToolAnswer, sealed::Read},
    exit, fill,
};
use crate::{Error, Kind, Result, process::Process, seconds};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// How many bytes of the standard output are read.
const OUTPUT_MOST: usize = 1 << 20;
/// How many characters of an output are shown.
const SHOWN: usize = 400;

type Reader<T> = Arc<dyn Fn(&ToolOutput) -> Result<T> + Send + Sync>;

/// One call of a tool: a program and its arguments, which may hold [placeholders](super). No shell.
///
/// ```
/// use rollback_core::{local::{Tool, ToolState}, seconds};
/// let speaks_the_protocol: Tool<ToolState> = Tool::run(["migrate", "current", "--json"]).within(seconds(10));
/// // One that prints `4f2a91c0d1e2 (head)`.
/// let read_by_hand = Tool::run(["alembic", "current"])
///     .read_by(|out| Ok(ToolState::runs(out.text().split_whitespace().next().unwrap_or("base"))));
/// ```
pub struct Tool<T> {
    argv: Vec<String>,
    within: Option<Duration>,
    reader: Option<Reader<T>>,
}

/// What a tool that ended well wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolOutput {
    stdout: String,
    stderr: String,
}

impl ToolOutput {
    /// Its standard output.
    pub fn text(&self) -> &str {
        &self.stdout
    }
    /// The end of its standard error output.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }
    /// The lines of its standard output that are not empty, without spaces at both ends.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.stdout.lines().map(str::trim).filter(|line| !line.is_empty())
    }
}

impl<T: ToolAnswer> Tool<T> {
    /// A program, looked up in `PATH`, and its arguments.
    pub fn run<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), within: None, reader: None }
    }
    /// How long it may take. Default: 30 s; for apply, as long as the step may take.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }
    /// Reads the output of a tool that does not speak the protocol. Not called if it exits with another code than 0, which
    /// is an unexpected failure then. An error of the closure is the error of the call; of an apply, with the effect
    /// unknown.
    pub fn read_by(mut self, reader: impl Fn(&ToolOutput) -> Result<T> + Send + Sync + 'static) -> Self {
        self.reader = Some(Arc::new(reader));
        self
    }

    pub(super) fn check(&self, verb: &str, placeholders: &[&str]) -> Result<()> {
        let failed = |message: String| {
            Err(Error::new(Kind::Invalid, format!("set up {verb}")).with_message(message).without_effect())
        };
        match self.argv.first() {
            None => return failed("its argv is empty: name the program".into()),
            Some(program) if program.trim().is_empty() => return failed("the name of its program is empty".into()),
            Some(_) => {}
        }
        if let Err(e) = fill::check(&self.argv, placeholders) {
            return failed(e.message().to_owned());
        }
        Ok(())
    }

    /// Runs it and reads its answer. Errors say whether it can have had an effect as an apply would; of a reading call,
    /// the caller says that it had none.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<T> {
        let operation = format!("run {} ({})", self.argv.first().map_or("", String::as_str), call.verb);
        let failed = |kind, message: String| Error::new(kind, operation.clone()).with_message(message);
        let within = match (self.within, call.at_most) {
            (Some(within), Some(most)) => within.min(most),
            (Some(within), None) | (None, Some(within)) => within,
            (None, None) => seconds(30),
        };
        let mut process = Process::new(fill::argv(&self.argv, &call.values)?).within(within).stdout_limit(OUTPUT_MOST);
        process = process.env("ROLLBACK_VERB", call.verb);
        for (name, value) in call.values.iter().chain(&call.more) {
            if let Some(value) = value {
                process = process.env(format!("ROLLBACK_{}", name.to_ascii_uppercase()), value);
            }
        }
        for (name, value) in call.env {
            process = process.env(name, value);
        }
        if let Some(dir) = call.dir {
            process = process.dir(dir);
        }
        if let Some(stdin) = call.stdin {
            process = process.stdin(stdin);
        }
        let out = process.run().await.map_err(|e| {
            let mut fault = e.into_fault();
            // A tool that is not there says nothing about the target.
            if fault.kind == Kind::NotFound {
                fault.kind = Kind::Invalid;
            }
            fault.operation.clone_from(&operation);
            Error::from(fault)
        })?;
        let shown = |text: &str| show(text, call.env);
        if !out.is_success() {
            let meaning = if self.reader.is_some() { None } else { out.code.and_then(exit::meaning) };
            let (kind, no_effect) = meaning.unwrap_or((Kind::Unexpected, false));
            let said = match (out.stderr.trim(), String::from_utf8_lossy(&out.stdout).trim()) {
                ("", "") => "it said nothing".to_owned(),
                ("", stdout) => format!("it said {}", shown(stdout)),
                // The end says what went wrong.
                (stderr, _) => format!("it said {}", show_end(stderr, call.env)),
            };
            let error = failed(kind, format!("{out}; {said}"));
            return Err(if no_effect { error.without_effect() } else { error });
        }
        if out.truncated {
            return Err(failed(
                Kind::Invalid,
                format!(
                    "it wrote more than {OUTPUT_MOST} bytes, which is no answer; it began {}",
                    shown(&lossy(&out.stdout))
                ),
            ));
        }
        let stdout = String::from_utf8(out.stdout).map_err(|e| {
            let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
            failed(Kind::Invalid, format!("its output is not UTF-8; it began {}", shown(&text)))
        })?;
        if let Some(reader) = &self.reader {
            return reader(&ToolOutput { stdout, stderr: out.stderr });
        }
        let expected = <T as Read>::EXPECTED;
        if stdout.trim().is_empty() {
            return T::nothing().ok_or_else(|| failed(Kind::Invalid, format!("it wrote nothing; expected {expected}")));
        }
        T::json(&stdout).map_err(|why| {
            let why = hide(&why, call.env);
            failed(Kind::Invalid, format!("expected {expected}, but {why}; it wrote {}", shown(stdout.trim())))
        })
    }
}

fn lossy(bytes: &[u8]) -> String {
    // A little more than is shown, so that the hiding of values sees them whole.
    String::from_utf8_lossy(&bytes[..bytes.len().min(16 * SHOWN)]).into_owned()
}

/// Text for a message: without the values of the environment that was set, escaped, short.
fn show(text: &str, env: &[(String, String)]) -> String {
    let text = hide(text, env);
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?} …", &text[..cut]),
        None => format!("{text:?}"),
    }
}

fn show_end(text: &str, env: &[(String, String)]) -> String {
    let text = hide(text, env);
    let skipped = text.chars().count().saturating_sub(SHOWN);
    let end: String = text.chars().skip(skipped).collect();
    if skipped > 0 { format!("… {end:?}") } else { format!("{end:?}") }
}

/// Without the values of the environment that was set.
pub(super) fn hide(text: &str, env: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    // Longest first, so that no rest of a longer one stays.
    let mut env: Vec<_> = env.iter().filter(|(_, value)| value.len() >= 4).collect();
    env.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    for (name, value) in env {
        text = text.replace(value, &format!("[{name}]"));
    }
    text
}

/// What one call is made with.
pub(super) struct Call<'a> {
    pub(super) verb: &'static str,
    /// Placeholders, also in the environment.
    pub(super) values: fill::Values,
    /// In the environment only.
    pub(super) more: fill::Values,
    pub(super) env: &'a [(String, String)],
    pub(super) dir: Option<&'a PathBuf>,
    pub(super) stdin: Option<Vec<u8>>,
    pub(super) at_most: Option<Duration>,
}

impl<T> Clone for Tool<T> {
    fn clone(&self) -> Self {
        Self { argv: self.argv.clone(), within: self.within, reader: self.reader.clone() }
    }
}

/// The program and how many arguments it gets: they may be secrets.
impl<T> fmt::Debug for Tool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("program", &self.argv.first())
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_environment_are_not_shown() {
        let env = [("PW".to_owned(), "hunter2".to_owned()), ("URL".to_owned(), "db://u:hunter2@h".to_owned())];
        assert_eq!(show("at db://u:hunter2@h with hunter2", &env), r#""at [URL] with [PW]""#);
        assert_eq!(show_end("hunter2\n", &env), r#""[PW]\n""#);
        assert_eq!(show(&"é".repeat(SHOWN + 1), &[]), format!("{:?} …", "é".repeat(SHOWN)));
        assert_eq!(show_end(&format!("x{}", "é".repeat(SHOWN)), &[]), format!("… {:?}", "é".repeat(SHOWN)));
    }

    #[test]
    fn debug_shows_no_arguments() {
        let tool: Tool<crate::Applied> = Tool::run(["psql", "--password=secret"]);
        assert!(!format!("{tool:?}").contains("secret"));
    }
}
