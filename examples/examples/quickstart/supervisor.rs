//! Starts and stops the service, as an init system would, and keeps the log in which effects are counted.

use crate::layout::{Happened, Layout, LogLine, Order, Result};
use rollback_core::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::Write as _,
    net::TcpListener,
    os::fd::OwnedFd,
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    time::timeout,
};

/// A service that is not ready by then is taken for broken.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// A service that has not drained by then is killed.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Serving {
    release: String,
    pid: u32,
    child: Child,
}

#[derive(Debug)]
struct Supervisor {
    layout: Layout,
    listener: TcpListener,
    log: Log,
    serving: Option<Serving>,
    done: BTreeSet<String>,
}

/// Supervises until it is ended, or its parent is gone.
pub(crate) async fn supervise(layout: &Layout) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let log = Log(OpenOptions::new().create(true).append(true).open(layout.log())?);
    note_swaps(layout, log.another()?)?;
    let mut supervisor = Supervisor { layout: layout.clone(), listener, log, serving: None, done: BTreeSet::new() };
    // A socket that an earlier supervisor of this folder left behind.
    let _ = std::fs::remove_file(layout.socket());
    let control = UnixListener::bind(layout.socket())?;
    supervisor.restart(Order::default()).await?;
    layout.write_address(&address)?;
    loop {
        let (caller, _) = control.accept().await?;
        // One at a time: two restarts at once have no meaning. A caller that is gone changes nothing.
        let _ = supervisor.answer(caller).await;
    }
}

/// Each line is one write at the end of the file, so that two writers do not mix.
#[derive(Debug)]
struct Log(File);

impl Log {
    fn note(&mut self, what: Happened) -> Result<()> {
        let mut line = serde_json::to_vec(&LogLine { at: Timestamp::now(), what })?;
        line.push(b'\n');
        Ok(self.0.write_all(&line)?)
    }
    fn another(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

impl Supervisor {
    async fn answer(&mut self, mut caller: UnixStream) -> Result<()> {
        let (read, mut write) = caller.split();
        let mut line = String::new();
        timeout(Duration::from_secs(2), BufReader::new(read).read_line(&mut line)).await??;
        let order: Order = serde_json::from_str(&line)?;
        self.log.note(Happened::Hook { order: order.clone() })?;
        let answer = match self.restart(order).await {
            Ok(()) => "ok\n".to_string(),
            Err(error) => format!("{error}\n"),
        };
        Ok(write.write_all(answer.as_bytes()).await?)
    }

    /// The new process first, then the old one: at no moment does nobody serve. An order with a key that was carried
    /// out before is not carried out again; that is what the key is for.
    async fn restart(&mut self, order: Order) -> Result<()> {
        if !order.key.is_empty() && self.done.contains(&order.key) {
            return Ok(());
        }
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--parent", &std::process::id().to_string(), "--work"])
            .arg(self.layout.work())
            .stdin(Stdio::from(OwnedFd::from(self.listener.try_clone()?)))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or("the service ended at once")?;
        let mut release = String::new();
        let output = child.stdout.take().ok_or("the service has no output")?;
        timeout(READY_WITHIN, BufReader::new(output).read_line(&mut release)).await??;
        let release = release.trim().to_string();
        if release.is_empty() {
            return Err("the service ended before it was ready".into());
        }
        self.log.note(Happened::Started { release: release.clone(), pid, key: order.key.clone() })?;
        if let Some(mut old) = self.serving.replace(Serving { release, pid, child }) {
            let old_pid = i32::try_from(old.pid).ok().and_then(Pid::from_raw).ok_or("no such process id")?;
            let _ = kill_process(old_pid, Signal::TERM);
            if timeout(DRAIN_WITHIN, old.child.wait()).await.is_err() {
                old.child.kill().await?;
            }
            self.log.note(Happened::Stopped { release: old.release, pid: old.pid })?;
        }
        if !order.key.is_empty() {
            self.done.insert(order.key);
        }
        Ok(())
    }
}

/// The restart hook of the release directory: hands on what it was told, and waits until it is done.
pub(crate) async fn call(layout: &Layout, order: &Order) -> Result<()> {
    let mut supervisor = UnixStream::connect(layout.socket()).await?;
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    supervisor.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(supervisor).read_line(&mut answer).await?;
    if answer.trim() == "ok" { Ok(()) } else { Err(format!("the supervisor answered: {}", answer.trim()).into()) }
}

/// Notes each swap of `current`: a rename onto it, of which the kernel tells, whoever did it.
#[cfg(target_os = "linux")]
fn note_swaps(layout: &Layout, mut log: Log) -> Result<()> {
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    let inotify = init(CreateFlags::CLOEXEC)?;
    add_watch(&inotify, layout.root(), WatchFlags::MOVED_TO)?;
    let layout = layout.clone();
    std::thread::spawn(move || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            if event.file_name().is_some_and(|name| name.to_bytes() == b"current") {
                let to = layout.current().unwrap_or_else(|error| error.to_string());
                if log.note(Happened::Swapped { to }).is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

/// Only Linux tells of swaps; elsewhere the log goes without them.
#[cfg(not(target_os = "linux"))]
fn note_swaps(_: &Layout, _: Log) -> Result<()> {
    Ok(())
}
