//! What runs, asked of the process and not of the link.

use super::layout::Layout;
use crate::{Error, Kind, ReleaseId, Result, Running, local::hook::read_pid, process::Process, seconds};
use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

type Asked = Pin<Box<dyn Future<Output = Result<Option<ReleaseId>>> + Send>>;
type Ask = Arc<dyn Fn() -> Asked + Send + Sync>;

/// Who tells what really runs from a [`ReleaseDir`](super::ReleaseDir). An answer that does not come within the time
/// limit (2 s by default), or is an error, never counts as running; *nothing* is an answer.
///
/// ```
/// use rollback_core::local::RunningSource;
/// // The working directory of the process, as the kernel knows it.
/// let source = RunningSource::pid_cwd("/run/checkout.pid");
/// // A command that prints the release.
/// let source = RunningSource::command(["checkoutctl", "version"]);
/// // Anything else.
/// let source = RunningSource::ask("the fleet's registry", || async { Ok(Some("2.3.9".into())) });
/// ```
#[derive(Clone)]
pub struct RunningSource {
    name: String,
    within: Duration,
    how: How,
}

#[derive(Clone)]
enum How {
    Ask(Ask),
    PidCwd(PathBuf),
    Command(Vec<String>),
    #[cfg(feature = "http")]
    Http {
        client: reqwest::Client,
        url: reqwest::Url,
        pointer: String,
    },
}

impl RunningSource {
    fn new(name: impl Into<String>, how: How) -> Self {
        Self { name: name.into(), within: seconds(2), how }
    }
    /// A closure: the release that runs, or none if nothing does. The name is for people.
    pub fn ask<F>(name: impl Into<String>, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Option<ReleaseId>>> + Send + 'static,
    {
        Self::new(name, How::Ask(Arc::new(move || Box::pin(ask()))))
    }
    /// The release directory that the process works in, whose id stands in this file (Linux: `/proc/<pid>/cwd`). A
    /// missing file or process is *nothing runs*. A process that is started through `current` works in the release that
    /// was current then, as long as it does not change its directory.
    pub fn pid_cwd(pid_file: impl Into<PathBuf>) -> Self {
        let pid_file = pid_file.into();
        Self::new(format!("working directory of the process in {}", pid_file.display()), How::PidCwd(pid_file))
    }
    /// A command that prints the release's id, and nothing else, and exits with 0; nothing printed is *nothing runs*.
    /// Started without a shell, killed with what it started at its time limit.
    pub fn command<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        Self::new(format!("output of {}", argv.first().map_or("", String::as_str)), How::Command(argv))
    }
    /// An HTTP endpoint that answers in JSON, with the release's id at a JSON pointer: `/version`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for something that is no URL or no JSON pointer.
    ///
    /// ```
    /// # use rollback_core::local::RunningSource;
    /// let source = RunningSource::http("http://127.0.0.1:8080/version", "/version")?;
    /// assert!(RunningSource::http("http://127.0.0.1:8080/version", "version").is_err());
    /// # Ok::<(), rollback_core::Error>(())
    /// ```
    #[cfg(feature = "http")]
    pub fn http(url: &str, pointer: impl Into<String>) -> Result<Self> {
        let invalid = || Error::new(Kind::Invalid, "ask for the version over HTTP").without_effect();
        let parsed = reqwest::Url::parse(url).map_err(|e| invalid().with_message("this is no URL").with_source(e))?;
        let pointer = pointer.into();
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(invalid().with_message(format!("{pointer:?} is no JSON pointer: it begins with /")));
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| invalid().with_source(e))?;
        // No query: it may hold a secret.
        let name = format!("GET {}{}", parsed.origin().ascii_serialization(), parsed.path());
        Ok(Self::new(name, How::Http { client, url: parsed, pointer }))
    }
    /// How long an answer may take. Default: 2 s.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Asks.
    pub(super) async fn running(&self, layout: &Layout) -> Result<Running> {
        let ask = async {
            match &self.how {
                How::Ask(ask) => Ok(release(ask().await?)),
                How::PidCwd(file) => pid_cwd(file, layout),
                How::Command(argv) => command(argv, self.within).await,
                #[cfg(feature = "http")]
                How::Http { client, url, pointer } => http(client, url, pointer).await,
            }
        };
        tokio::time::timeout(self.within, ask)
            .await
            .unwrap_or_else(|_| Err(self.failed(Kind::Unavailable, format!("no answer within {:?}", self.within))))
    }
    fn failed(&self, kind: Kind, message: impl Into<String>) -> Error {
        Error::new(kind, format!("ask what runs ({})", self.name)).with_message(message).without_effect()
    }
}

impl fmt::Debug for RunningSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningSource").field("name", &self.name).field("within", &self.within).finish_non_exhaustive()
    }
}

fn release(answer: Option<ReleaseId>) -> Running {
    answer.map_or(Running::Nothing, Running::Release)
}

fn pid_cwd(file: &Path, layout: &Layout) -> Result<Running> {
    let Some(pid) = read_pid(file)? else { return Ok(Running::Nothing) };
    let link = format!("/proc/{}/cwd", pid.as_raw_nonzero());
    let cwd = match std::fs::read_link(&link) {
        Ok(cwd) => cwd,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Running::Nothing),
        // What ended but was not waited for yet has no working directory either.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(Running::Nothing),
        Err(e) => return Err(Error::from_io(format!("read {link}"), e).without_effect()),
    };
    let text = cwd.to_string_lossy().into_owned();
    // So says the kernel of a directory that was removed below a process.
    let cwd = text.strip_suffix(" (deleted)").map_or(cwd.as_path(), Path::new);
    Ok(match layout.release_of(cwd) {
        Some(id) => Running::Release(id),
        None => Running::Unknown { fingerprint: format!("cwd:{text}"), named: Some(format!("a process in {text}")) },
    })
}

async fn command(argv: &[String], within: Duration) -> Result<Running> {
    let output = Process::new(argv.to_vec()).within(within).stdout_limit(1024).run().await?;
    let failed = |message: String| {
        let operation = format!("ask what runs ({})", argv.first().map_or("", String::as_str));
        Err(Error::new(Kind::Unavailable, operation).with_message(message).without_effect())
    };
    if !output.is_success() {
        return failed(output.to_string());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim() {
        "" => Ok(Running::Nothing),
        id if id.contains(char::is_whitespace) => failed("it printed more than a release's id".into()),
        id => Ok(Running::Release(id.into())),
    }
}

#[cfg(feature = "http")]
async fn http(client: &reqwest::Client, url: &reqwest::Url, pointer: &str) -> Result<Running> {
    const MOST: usize = 1 << 20;
    let failed = || Error::new(Kind::Unavailable, "ask for the version over HTTP").without_effect();
    let sent = client.get(url.clone()).send().await;
    let mut answer = sent.map_err(|e| failed().with_message("no answer").with_source(e.without_url()))?;
    if !answer.status().is_success() {
        return Err(failed().with_message(format!("the answer is {}", answer.status())));
    }
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await.map_err(|e| failed().with_source(e.without_url()))? {
        if body.len() + chunk.len() > MOST {
            return Err(failed().with_message("the answer is longer than 1 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    let json: serde_json::Value =
        serde_json::from_slice(&body).map_err(|e| failed().with_message("the answer is not JSON").with_source(e))?;
    match json.pointer(pointer) {
        Some(serde_json::Value::String(id)) if !id.is_empty() => Ok(Running::Release(id.as_str().into())),
        Some(serde_json::Value::Number(id)) => Ok(Running::Release(id.to_string().into())),
        Some(serde_json::Value::Null) => Ok(Running::Nothing),
        _ => Err(failed().with_message(format!("the answer has no release's id at {pointer}"))),
    }
}
