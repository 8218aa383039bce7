//! What tells the service that its files were changed: a command, or a signal.

use crate::{Effect, Error, Finding, Kind, ReleaseId, Result, RunId, Severity, process::Process, redact::shortened};
use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// A signal that makes a service read its files anew, or end so that its supervisor starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// `SIGHUP`
    Hup,
    /// `SIGINT`
    Int,
    /// `SIGQUIT`
    Quit,
    /// `SIGTERM`
    Term,
    /// `SIGUSR1`
    Usr1,
    /// `SIGUSR2`
    Usr2,
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hup => Self::HUP,
            Signal::Int => Self::INT,
            Signal::Quit => Self::QUIT,
            Signal::Term => Self::TERM,
            Signal::Usr1 => Self::USR1,
            Signal::Usr2 => Self::USR2,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Hook {
    None,
    Command(Argv),
    Signal(Signal, PathBuf),
}

/// Arguments may be secrets, and stay out of `Debug`.
#[derive(Clone)]
pub(super) struct Argv(pub(super) Vec<String>);

impl std::fmt::Debug for Argv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} with {} arguments", self.0.first(), self.0.len().saturating_sub(1))
    }
}

/// What it is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) root: &'a Path,
    pub(super) key: &'a str,
    pub(super) run: &'a RunId,
    pub(super) epoch: u64,
    pub(super) to: &'a ReleaseId,
}

impl Hook {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Hook::None)
    }
    /// Runs it. At least once a change, with the same key.
    pub(super) async fn run(&self, told: Told<'_>, within: Duration) -> Result<()> {
        match self {
            Hook::None => Ok(()),
            Hook::Signal(signal, file) => send(*signal, file),
            Hook::Command(argv) => {
                let program = argv.0.first().map_or("", String::as_str);
                let output = Process::new(argv.0.clone())
                    .env("ROLLBACK_KEY", told.key)
                    .env("ROLLBACK_RUN", told.run.as_str())
                    .env("ROLLBACK_EPOCH", told.epoch.to_string())
                    .env("ROLLBACK_RELEASE", told.to.as_str())
                    .env("ROLLBACK_ROOT", told.root.display().to_string())
                    .dir(told.root)
                    .within(within)
                    .stdout_limit(0)
                    .run()
                    .await
                    // The files are changed already: whatever the hook did or not, look before the next write.
                    .map_err(|e| match (e.kind(), e.effect()) {
                        (Kind::Unavailable, Effect::Unknown) => failed(
                            Kind::Unavailable,
                            format!(
                                "the restart hook {program} did not end within {within:?} and was killed, so the service \
                                 may or may not have been restarted: find out why it hangs, or give it longer"
                            ),
                        )
                        .with_transient(false),
                        _ => failed(e.kind(), format!("the restart hook {program}")).with_source(e),
                    })?;
                if output.is_success() {
                    return Ok(());
                }
                let message = format!("the restart hook {program} failed ({output})");
                let last = shortened(output.stderr.lines().next_back().unwrap_or_default(), 200);
                Err(failed(Kind::Unexpected, if last.is_empty() { message } else { format!("{message}: {last}") }))
            }
        }
    }
    /// What would keep it from running.
    pub(super) fn finding(&self) -> Option<Finding> {
        let blocks = |text: String| Some(Finding::new(Severity::Blocks, "hook", text));
        match self {
            Hook::None => None,
            Hook::Command(argv) => {
                let program = argv.0.first().map_or("", String::as_str);
                match runnable(program) {
                    Ok(()) => None,
                    Err(why) => blocks(format!("the restart hook {program:?} {why}: install it or name another")),
                }
            }
            Hook::Signal(_, file) => match read_pid(file) {
                Ok(Some(_)) => None,
                Ok(None) => Some(Finding::new(
                    Severity::Warning,
                    "hook",
                    format!("nobody is there to be signalled: there is no {}", file.display()),
                )),
                Err(e) => blocks(e.to_string()),
            },
        }
    }
}

/// It was killed because it did not end: once more will take as long.
pub(super) fn hung(e: &Error) -> bool {
    e.kind() == Kind::Unavailable && !e.is_transient() && e.effect() == Effect::Unknown
}

fn failed(kind: Kind, message: String) -> Error {
    Error::new(kind, "restart the service").with_message(message)
}

fn send(signal: Signal, file: &Path) -> Result<()> {
    let pid = read_pid(file)?.ok_or_else(|| {
        let message = format!("there is no {}: start the service, or see where it writes its pid", file.display());
        failed(Kind::NotFound, message)
    })?;
    rustix::process::kill_process(pid, signal.into()).map_err(|e| {
        let e = Error::from_io("", e.into());
        let message = format!("process {} ({}) could not be signalled", pid.as_raw_nonzero(), file.display());
        failed(e.kind(), message).with_source(e)
    })
}

/// The number in a pid file; `None` if there is no such file.
pub(super) fn read_pid(file: &Path) -> Result<Option<rustix::process::Pid>> {
    let operation = || format!("read the pid in {}", file.display());
    let Some(bytes) = crate::atomic_file::read(file, 64)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().parse().ok().filter(|n| *n > 1).and_then(rustix::process::Pid::from_raw) {
        Some(pid) => Ok(Some(pid)),
        None => {
            let message = "it holds no process id: see who writes it";
            Err(Error::new(Kind::Invalid, operation()).with_message(message).without_effect())
        }
    }
}

/// Would the kernel find and run it?
fn runnable(program: &str) -> std::result::Result<(), &'static str> {
    let is_runnable = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.is_empty() {
        return Err("is empty");
    }
    if program.contains('/') {
        let path = Path::new(program);
        return match path.exists() {
            false => Err("is not there"),
            true if is_runnable(path) => Ok(()),
            true => Err("is not executable"),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| is_runnable(&dir.join(program))) { Ok(()) } else { Err("is not in PATH") }
}
