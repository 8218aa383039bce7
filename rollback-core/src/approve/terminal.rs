//! Someone at a terminal says yes.

use super::{Approval, ApprovalRequest, Approver};
use crate::{Digest, Error, Kind, Result, observe::printable};
use async_trait::async_trait;
use std::{
    fmt,
    io::{self, BufRead, IsTerminal as _, Write},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::oneshot;

/// How many digits of the digest must be typed.
const DIGITS: usize = 8;
/// How often a wrong answer may be given.
const ATTEMPTS: usize = 3;

/// Shows what is to be approved on a terminal, and takes the first eight digits of its digest for a yes: a `y` is typed too
/// easily. An empty line, `n`, `no`, the end of the input or a third wrong answer is a no.
///
/// Where the standard input is no terminal, nobody can be asked: an error, and the run is refused.
///
/// # Cancel safety
/// A line that is waited for cannot be taken back: a thread goes on waiting for it, and what is typed then is lost.
///
/// ```
/// use rollback_core::approve::TerminalPrompt;
/// let prompt = TerminalPrompt::new().with_who("me");
/// ```
#[derive(Clone)]
pub struct TerminalPrompt {
    who: String,
    dialogue: Arc<dyn Fn() -> Result<Dialogue> + Send + Sync>,
}

struct Dialogue {
    input: Box<dyn BufRead + Send>,
    output: Box<dyn Write + Send>,
}

impl TerminalPrompt {
    /// On the standard input and the standard error output; the approval is given by the user that the process runs as.
    pub fn new() -> Self {
        let open = || {
            if !io::stdin().is_terminal() {
                return Err(Error::new(Kind::Unavailable, "ask for an approval")
                    .with_message(
                        "the standard input is no terminal: run it where someone can answer, or use another approver",
                    )
                    .with_transient(false)
                    .without_effect());
            }
            Ok(Dialogue { input: Box::new(io::BufReader::new(io::stdin())), output: Box::new(io::stderr()) })
        };
        Self { who: user(), dialogue: Arc::new(open) }
    }
    /// On any other input and output, which is asked whatever it is: for tests, and for a terminal of one's own. It can be
    /// asked one thing after the other.
    pub fn on(input: impl BufRead + Send + 'static, output: impl Write + Send + 'static) -> Self {
        let input = Arc::new(Mutex::new(input));
        let output = Arc::new(Mutex::new(output));
        let open = move || {
            let (input, output) = (Shared(input.clone()), Shared(output.clone()));
            // One byte at a time, so that nothing is read beyond the line.
            Ok(Dialogue { input: Box::new(io::BufReader::with_capacity(1, input)), output: Box::new(output) })
        };
        Self { who: user(), dialogue: Arc::new(open) }
    }
    /// Who approves, for the journal.
    pub fn with_who(mut self, who: impl Into<String>) -> Self {
        self.who = who.into();
        self
    }
}

impl Default for TerminalPrompt {
    fn default() -> Self {
        Self::new()
    }
}

fn user() -> String {
    let id = rustix::process::getuid().as_raw();
    match std::env::var("USER") {
        Ok(name) if !name.is_empty() => format!("{name} (uid {id}) at the terminal"),
        _ => format!("uid {id} at the terminal"),
    }
}

struct Shared<T>(Arc<Mutex<T>>);

impl<T: io::Read> io::Read for Shared<T> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(to)
    }
}
impl<T: Write> Write for Shared<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

fn digits(digest: &Digest) -> &str {
    let hex = digest.as_str().rsplit(':').next().unwrap_or_default();
    hex.get(..DIGITS).unwrap_or(hex)
}

fn ask(dialogue: Dialogue, request: &ApprovalRequest) -> io::Result<bool> {
    let Dialogue { input, mut output } = dialogue;
    writeln!(output, "\nrun {} of {} needs an approval:", request.run, request.target)?;
    for line in &request.of {
        writeln!(output, "  {}", printable(line))?;
    }
    writeln!(output, "digest: {}", request.digest)?;
    let mut lines = input.lines();
    for _ in 0..ATTEMPTS {
        write!(output, "type the first {DIGITS} digits of the digest to approve, or no: ")?;
        output.flush()?;
        let Some(answer) = lines.next() else { return Ok(false) };
        let answer = answer?.trim().to_lowercase();
        match answer.as_str() {
            "" | "n" | "no" => return Ok(false),
            typed if typed == digits(&request.digest) => return Ok(true),
            _ => writeln!(output, "that is not it")?,
        }
    }
    Ok(false)
}

impl fmt::Debug for TerminalPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminalPrompt").field("who", &self.who).finish_non_exhaustive()
    }
}

#[async_trait]
impl Approver for TerminalPrompt {
    async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>> {
        let failed = |e: io::Error| Error::from_io("ask at the terminal", e).without_effect();
        let dialogue = (self.dialogue)()?;
        let (answer, answered) = oneshot::channel();
        let asked = request.clone();
        // A thread of its own, not one of tokio's: a runtime waits for those when it ends, and nobody may ever type a line.
        std::thread::Builder::new()
            .name("approval".into())
            .spawn(move || answer.send(ask(dialogue, &asked)))
            .map_err(failed)?;
        let yes = match answered.await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => return Err(Error::new(Kind::Unexpected, "ask at the terminal").without_effect()),
        };
        Ok(yes.then(|| Approval { digest: request.digest.clone(), by: self.who.clone() }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request() -> ApprovalRequest {
        let of = vec!["drops column note: 12 rows lose it".to_string()];
        ApprovalRequest::new("r1".into(), "db:shop".into(), "sha256:ba7816bf8f01cfea".into(), of)
    }

    #[tokio::test]
    async fn only_the_digits_of_the_digest_are_a_yes() {
        for (typed, want) in [
            ("ba7816bf\n", true),
            ("BA7816BF\n", true),
            ("wrong\nba7816bf\n", true),
            ("a\nb\nc\nba7816bf\n", false),
            ("y\nyes\n", false),
            ("no\nba7816bf\n", false),
            ("\nba7816bf\n", false),
            ("", false),
        ] {
            let prompt = TerminalPrompt::on(io::Cursor::new(typed), io::sink()).with_who("me");
            let answer = prompt.ask(&request()).await.unwrap();
            assert_eq!(answer, want.then(|| Approval { digest: request().digest, by: "me".into() }), "{typed:?}");
        }
    }

    #[tokio::test]
    async fn it_says_what_is_approved_and_can_be_asked_again() {
        let page = Arc::new(Mutex::new(vec![]));
        let input = io::Cursor::new("ba7816bf\nba7816bf\n");
        let prompt = TerminalPrompt::on(input, Shared(page.clone())).with_who("me");
        assert!(prompt.ask(&request()).await.unwrap().is_some());
        assert!(prompt.ask(&request()).await.unwrap().is_some());
        let text = String::from_utf8(page.lock().unwrap().clone()).unwrap();
        assert!(text.contains("run r1 of db:shop") && text.contains("12 rows lose it"), "{text}");
        assert!(text.contains("sha256:ba7816bf8f01cfea"), "{text}");
    }
}
