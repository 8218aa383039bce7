//! One child process, bounded in time and in output, with everything it started killed when it is given up.
//!
//! For back ends that work through a platform's own program.
//!
//! Not here: what an exit code means, and shells: arguments go to the program as they are.

use crate::{Error, Kind, Result, seconds};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{fmt, io, os::unix::process::ExitStatusExt as _, path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

/// How many bytes of the standard error output are kept: the last ones, because they say what went wrong.
const STDERR_KEPT: usize = 4 << 10;
/// A process may leave others running that hold its pipes open (a restarted service): their output is not waited for.
const AFTER_EXIT: Duration = Duration::from_millis(200);
/// How long a killed process is waited for; only one that hangs in the kernel takes longer.
const AFTER_KILL: Duration = Duration::from_secs(1);

/// A program with its arguments. It inherits the environment and gets a process group of its own.
///
/// ```
/// use rollback_core::{process::Process, seconds};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> rollback_core::Result<()> {
/// let out = Process::new(["echo", "$HOME is not looked up"]).within(seconds(5)).run().await?;
/// assert!(out.is_success());
/// assert_eq!(out.stdout, b"$HOME is not looked up\n");
/// # Ok(()) }
/// ```
pub struct Process {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    without: Vec<String>,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    within: Duration,
    stdout_limit: usize,
}

/// How a process ended, and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Its standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// The end of its standard error output, 4 KiB at the most.
    pub stderr: String,
    /// The standard output was longer than the limit.
    pub truncated: bool,
}

impl Output {
    /// It exited with 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

/// `exit 3`, `killed by signal 9`.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit {code}"),
            (None, Some(signal)) => write!(f, "killed by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

impl Process {
    /// A program, looked up in `PATH`, and its arguments; nothing on standard input, 30 s, 1 MiB of output.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: vec![],
            without: vec![],
            dir: None,
            stdin: None,
            within: seconds(30),
            stdout_limit: 1 << 20,
        }
    }
    /// A variable of the environment that it does not inherit.
    pub fn without_env(mut self, name: impl Into<String>) -> Self {
        self.without.push(name.into());
        self
    }
    /// One more variable in its environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
    /// Its working directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
    /// What it reads. A process that does not read it all is no error.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }
    /// How long it may take.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
    /// How many bytes of its standard output are kept: the first ones. The rest is read and thrown away.
    pub fn stdout_limit(mut self, bytes: usize) -> Self {
        self.stdout_limit = bytes;
        self
    }
    /// The program, without its arguments, which may hold secrets.
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Without effect where it could not be started: [`Kind::NotFound`], [`Kind::Denied`], [`Kind::Invalid`] for an empty
    /// argv. [`Kind::Unavailable`], with the effect unknown, when the time is over: it is killed with its whole group.
    ///
    /// # Cancel safety
    /// Dropping the future kills the process and its group.
    pub async fn run(self) -> Result<Output> {
        let operation = format!("run {}", self.program());
        let mut child = self.spawn(&operation)?;
        // Declared after the child, so that it is dropped first, while the child's id cannot be someone else's.
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let done = timeout(self.within, self.drive(&mut child)).await;
        match done {
            Ok(ended) => {
                group.0 = None;
                ended.map_err(|e| Error::from_io(operation, e))
            }
            Err(_) => {
                drop(group);
                let _ = timeout(AFTER_KILL, child.wait()).await;
                Err(Error::new(Kind::Unavailable, operation).with_message(format!(
                    "it did not end within {:?} and was killed: it may have done part of its work; find out why it hangs, \
                     or give it longer",
                    self.within
                )))
            }
        }
    }

    fn spawn(&self, operation: &str) -> Result<Child> {
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err(Error::new(Kind::Invalid, "run a command").with_message("the argv is empty").without_effect());
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for name in self.without.iter().filter(|name| self.env.iter().all(|(set, _)| set != *name)) {
            command.env_remove(name);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.spawn().map_err(|e| {
            let failed = |kind, message: &str| Error::new(kind, operation).with_message(message).without_effect();
            match e.kind() {
                io::ErrorKind::NotFound => {
                    let message = "no such program (or its interpreter or working directory is gone)";
                    failed(Kind::NotFound, message).with_source(e)
                }
                io::ErrorKind::PermissionDenied => failed(Kind::Denied, "it is not executable").with_source(e),
                // Somebody still has the file open for writing: over in a moment.
                io::ErrorKind::ExecutableFileBusy | io::ErrorKind::WouldBlock => {
                    failed(Kind::Unavailable, "it cannot be started just now").with_source(e)
                }
                _ => Error::from_io(operation, e).without_effect(),
            }
        })
    }

    async fn drive(&self, child: &mut Child) -> io::Result<Output> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut out = Kept { bytes: vec![], limit: self.stdout_limit, last: false, more: false };
        let mut err = Kept { bytes: vec![], limit: STDERR_KEPT, last: true, more: false };
        let status = {
            let feed = async {
                if let (Some(mut pipe), Some(bytes)) = (stdin, &self.stdin) {
                    // A process may end without reading; that is its business.
                    let _ = pipe.write_all(bytes).await;
                }
            };
            let pipes = async { tokio::join!(feed, out.read(stdout), err.read(stderr)) };
            tokio::pin!(pipes);
            tokio::select! {
                status = child.wait() => {
                    let _ = timeout(AFTER_EXIT, pipes).await;
                    status?
                }
                _ = &mut pipes => child.wait().await?,
            }
        };
        Ok(Output {
            code: status.code(),
            signal: status.signal(),
            stdout: out.bytes,
            stderr: String::from_utf8_lossy(&err.bytes).into_owned(),
            truncated: out.more,
        })
    }
}

/// The program and the names of what was added to the environment: arguments and values may be secrets.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("program", &self.program())
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

/// Kills a process group when it is dropped, unless its leader has ended: what that left running is meant to run.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The first or the last bytes of a stream.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    last: bool,
    more: bool,
}

impl Kept {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; 8 << 10];
        while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
            self.keep(&chunk[..n]);
        }
    }
    fn keep(&mut self, chunk: &[u8]) {
        let room = if self.last { chunk.len() } else { chunk.len().min(self.limit - self.bytes.len()) };
        self.bytes.extend_from_slice(&chunk[..room]);
        let over = self.bytes.len().saturating_sub(self.limit);
        self.bytes.drain(..over);
        self.more |= over > 0 || room < chunk.len();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Effect;
    use std::path::Path;

    fn sh(script: &str) -> Process {
        Process::new(["sh", "-c", script])
    }
    /// Until a process is no more: neither running nor a zombie that nobody has reaped yet.
    async fn gone(pid: &str) {
        let stat = format!("/proc/{}/stat", pid.trim());
        let dead = || std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "));
        timeout(seconds(10), async {
            while !dead() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }
    async fn written(path: &Path) -> String {
        timeout(seconds(10), async {
            loop {
                match std::fs::read_to_string(path) {
                    Ok(text) if text.ends_with('\n') => return text,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn code_output_env_stdin_and_dir() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"cat; printf %s "$X"; pwd >&2; exit 3"#;
        let out = sh(script).env("X", "env").stdin("in ").dir(dir.path()).run().await.unwrap();
        assert_eq!((out.code, out.signal, out.truncated), (Some(3), None, false));
        assert_eq!(out.stdout, b"in env");
        assert_eq!(Path::new(out.stderr.trim()), dir.path().canonicalize().unwrap());
        assert_eq!(out.to_string(), "exit 3");
    }

    #[tokio::test]
    async fn what_is_taken_from_the_environment_is_not_inherited() {
        let inherited = sh(r#"printf %s "$PATH""#).run().await.unwrap();
        assert!(!inherited.stdout.is_empty());
        let out =
            Process::new(["/bin/sh", "-c", r#"printf %s "${HOME-none}""#]).without_env("HOME").run().await.unwrap();
        assert_eq!(out.stdout, b"none");
    }

    #[tokio::test]
    async fn a_signal_is_told_from_a_code() {
        let out = sh("kill -9 $$").run().await.unwrap();
        assert_eq!((out.code, out.signal), (None, Some(9)));
        assert_eq!(out.to_string(), "killed by signal 9");
    }

    #[tokio::test]
    async fn much_output_is_cut_and_blocks_nobody() {
        let script = "yes 0123456789 | head -c 300000; yes abcdefghi | head -c 300000 >&2; echo end >&2";
        let out = sh(script).stdout_limit(100).run().await.unwrap();
        assert!(out.is_success() && out.truncated);
        assert_eq!(out.stdout.len(), 100);
        assert_eq!(out.stderr.len(), STDERR_KEPT);
        assert!(out.stderr.ends_with("end\n"), "{}", out.stderr);
    }

    #[tokio::test]
    async fn what_cannot_start_has_no_effect() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "x").unwrap();
        for (argv, kind) in [
            (vec!["/no/such/program".to_string()], Kind::NotFound),
            (vec![plain.display().to_string()], Kind::Denied),
            (vec![], Kind::Invalid),
        ] {
            let e = Process::new(argv).run().await.unwrap_err();
            assert_eq!((e.kind(), e.effect()), (kind, Effect::None), "{e}");
        }
    }

    #[tokio::test]
    async fn over_time_the_whole_group_is_killed_and_the_effect_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! > {}; wait", pids.display());
        let e = sh(&script).within(Duration::from_millis(300)).run().await.unwrap_err();
        assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Unavailable, Effect::Unknown, true));
        gone(&written(&pids).await).await;
    }

    #[tokio::test]
    async fn dropped_it_is_killed_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! > {}; wait", pids.display());
        let pid = {
            let run = sh(&script).run();
            tokio::pin!(run);
            tokio::select! {
                ended = &mut run => unreachable!("{ended:?}"),
                pid = written(&pids) => pid,
            }
        };
        gone(&pid).await;
    }

    #[tokio::test]
    async fn what_it_leaves_running_is_neither_waited_for_nor_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (pids, go) = (dir.path().join("pids"), dir.path().join("go"));
        // It holds the pipes open, as a service does that was started by a restart hook.
        let script = format!(
            "(until [ -e {go} ]; do sleep 0.01; done; echo alive >> {pids}) & echo started",
            go = go.display(),
            pids = pids.display()
        );
        let out = sh(&script).run().await.unwrap();
        assert_eq!((out.code, out.stdout.as_slice()), (Some(0), &b"started\n"[..]));
        std::fs::write(&go, "").unwrap();
        assert_eq!(written(&pids).await, "alive\n");
    }

    #[test]
    fn debug_shows_no_arguments_and_no_values() {
        let shown = format!("{:?}", Process::new(["psql", "secret-argument"]).env("PGPASSWORD", "secret-value"));
        assert!(shown.contains("psql") && shown.contains("PGPASSWORD") && !shown.contains("secret"), "{shown}");
    }
}
