//! A directory of releases and a link to the one that is current: the plainest way to deploy on one host.
//!
//! Not here: bringing a release to the host (that is the deploy's business), and a live tree without a link, which is
//! [`DirectorySync`](crate::local).

mod evidence;
mod layout;
mod running;
mod state;

pub use running::RunningSource;

use crate::{
    Applied, Approved, Capabilities, Change, DiffLine, Error, EvidenceSource, Extent, Fencing, Finding, Kind, Look,
    Observation, Ours, PartState, Prepared, Record, Release, ReleaseId, Result, RunId, Running, Settled, Severity,
    Target, TargetId, Timestamp, Token, Trace, Work,
    atomic_file::{self, Locked},
    blocking::blocking,
    local::{
        hook::{self, Argv, Hook, Signal, Told},
        own::{self, Recorded, Records, tree},
    },
    seconds,
};
use async_trait::async_trait;
use evidence::Saved;
use layout::{Layout, LinkSeen, Points, Read};
use state::Swap;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long another process that swaps here is waited for.
const LOCK_WITHIN: Duration = seconds(5);
/// How often a hook that fails is run for one change.
const HOOK_TRIES: u32 = 5;
/// How much of two releases is compared for the diff.
const COMPARED: (u64, u64) = (10_000, 64 << 20);

/// A root with `releases/<id>/` and a link `current` to one of them.
///
/// A change swaps the link in one step, then runs the hook that restarts the service.
///
/// - **The swap happens once.** It is compared with the read that was judged, under a lock in `<root>/.rollback` that every
///   user of this type takes, [`deploy`](ReleaseDir::deploy) too; a tool that swaps without that lock can slip into the
///   moment between comparing and renaming. A swap away and back is noticed.
/// - **The hook runs at least once**, each time with the same key: a crash in its middle, or a failure, makes it run again,
///   ever later; the fifth failure is the last, and the run is stuck.
///   It gets `ROLLBACK_KEY`, `ROLLBACK_RUN`, `ROLLBACK_EPOCH`, `ROLLBACK_RELEASE` and `ROLLBACK_ROOT` in its environment
///   and starts in the root. What hangs is killed, with all it started, at the limit.
/// - **What runs is asked of the process** if [`running_from`](ReleaseDir::running_from) says how. Without it nobody knows
///   better, and what the link says counts as running once the hook has ended well; preparing a change notes this.
/// - A release's id is the name of its directory. Names that begin with a dot are none. History is in the order in which
///   releases were deployed or recorded; one that never was comes by the time its directory was changed last, which a tool
///   that keeps times, or a service that writes there, makes wrong: record at each deploy. A digest of the content is recorded
///   by [`Target::recorder`] and by `deploy`, and preparing compares with it: a release that was edited by hand since
///   is found.
///
/// ```no_run
/// use rollback_core::local::{ReleaseDir, RunningSource};
/// let checkout = ReleaseDir::open("/srv/checkout")?
///     .restart_with(["systemctl", "restart", "checkout"])
///     .running_from(RunningSource::pid_cwd("/run/checkout.pid"))
///     .health_address("127.0.0.1:8080");
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReleaseDir {
    id: TargetId,
    layout: Layout,
    hook: Hook,
    within: Duration,
    running: Option<RunningSource>,
    addresses: Vec<String>,
    logs: Vec<PathBuf>,
    edited: Severity,
}

impl ReleaseDir {
    /// Opens the directory that holds `releases/` and `current`. Reads, changes nothing. There need not be a link yet; one
    /// that is something else is found by the first read.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the root or `releases/` is not there.
    ///
    /// ```
    /// use rollback_core::local::ReleaseDir;
    /// assert!(ReleaseDir::open("/nowhere").is_err());
    /// ```
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let layout = Layout::new(root.as_ref())?;
        Ok(Self {
            id: TargetId::new(format!("dir:{}", layout.root().display())),
            layout,
            hook: Hook::None,
            within: seconds(30),
            running: None,
            addresses: vec![],
            logs: vec![],
            edited: Severity::Warning,
        })
    }
    /// The command that restarts the service: a program and its arguments, no shell. Success is exit code 0. It may leave
    /// processes running.
    pub fn restart_with<S: Into<String>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        self.hook = Hook::Command(Argv(argv.into_iter().map(Into::into).collect()));
        self
    }
    /// A signal instead of a command, to the process whose id stands in this file.
    pub fn signal_with(mut self, signal: Signal, pid_file: impl Into<PathBuf>) -> Self {
        self.hook = Hook::Signal(signal, pid_file.into());
        self
    }
    /// How long the command may take. Default: 30 s. One that takes longer is killed, and the run is stuck: to run it again
    /// would not help.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
    /// Who tells what really runs.
    pub fn running_from(mut self, source: RunningSource) -> Self {
        self.running = Some(source);
        self
    }
    /// Where a health check reaches the service: `127.0.0.1:8080`. May be called again for more.
    pub fn health_address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }
    /// Log files whose ends are saved as evidence, what looks like a secret blanked out.
    pub fn with_logs<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.logs = paths.into_iter().map(Into::into).collect();
        self
    }
    /// A release that was edited since it was recorded is not gone back to. By default it is, with a warning, because
    /// services write caches where they run.
    pub fn refuse_edited(mut self) -> Self {
        self.edited = Severity::Blocks;
        self
    }

    /// Deploys a release the plain way, outside of a run: swaps the link, records the release, runs the hook. For deploy
    /// tools and tests. Removes the trace of an earlier rollback, because this is a new beginning.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a release that is not there, [`Kind::Invalid`] for a link that is none,
    /// [`Kind::Unavailable`] while another process swaps: all without effect. Where the hook fails, the link is swapped
    /// and the release recorded.
    ///
    /// # Cancel safety
    /// Dropped, it may have swapped; the same call again finishes it.
    pub async fn deploy(&self, id: impl Into<ReleaseId>) -> Result<Release> {
        let id = id.into();
        let layout = self.layout.clone();
        let wanted = id.clone();
        let digest = blocking(move || digest_of(&layout, &wanted)).await?;
        let lock = self.lock().await?;
        let layout = self.layout.clone();
        let recorded = Recorded { label: id.to_string(), id: id.clone(), digest, at: Timestamp::now() };
        let key = format!("deploy/{}/{}", id, recorded.at.0);
        let (lock, swap, release) = blocking(move || {
            let link = layout.link()?;
            layout.release(&recorded.id)?;
            own::remove_trace(&layout.own_dir())?;
            let swap = Swap {
                key,
                run: RunId::from("deploy"),
                epoch: 0,
                from: link.at().cloned(),
                to: recorded.id.clone(),
                inode: 0,
                done: false,
                at: recorded.at,
                hung: None,
                failed: 0,
            };
            let swap = point(&layout, swap)?;
            let release = record(&layout, recorded, true)?;
            Ok((lock, swap, release))
        })
        .await?;
        self.restart(lock, swap).await?;
        Ok(release)
    }

    async fn lock(&self) -> Result<Locked> {
        let layout = self.layout.clone();
        blocking(move || layout.make_own()).await?;
        atomic_file::lock(&self.layout.own("swap"), LOCK_WITHIN).await
    }

    /// Runs the hook and notes that it ended well. The lock is held meanwhile, so that no two hooks run at once.
    async fn restart(&self, lock: Locked, mut swap: Swap) -> Result<()> {
        let told = Told { root: self.layout.root(), key: &swap.key, run: &swap.run, epoch: swap.epoch, to: &swap.to };
        let ran = self.hook.run(told, self.within).await;
        let layout = self.layout.clone();
        if let Err(e) = ran {
            swap.failed += 1;
            if hook::hung(&e) {
                swap.hung = Some(e.message().to_owned());
            } else if swap.failed >= HOOK_TRIES {
                swap.hung = Some(format!("{}, {} times now", e.message(), swap.failed));
            }
            // Not noted down, it is run again until the time is over, nothing worse.
            let _ = blocking(move || swap.save(&layout)).await;
            drop(lock);
            return Err(e.with_target(&self.id));
        }
        blocking(move || {
            swap.done = true;
            let saved = swap.save(&layout);
            drop(lock);
            // The hook has run: that it could not be noted down makes it run again, nothing worse.
            saved.map_err(|e| Error::new(e.kind(), "note that the service was restarted").with_source(e))
        })
        .await
    }

    async fn ask(&self) -> Option<Result<Running>> {
        match &self.running {
            Some(source) => Some(source.running(&self.layout).await),
            None => None,
        }
    }
}

#[async_trait]
impl Target for ReleaseDir {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::Token).keeping_trace()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let layout = self.layout.clone();
        // The link first: what is judged must not be newer than its token.
        let read = blocking(move || layout.read()).await.map_err(|e| e.with_target(&self.id))?;
        let answer = self.ask().await;
        let mut seen = observation(read, answer, !self.hook.is_none(), &look)?;
        for part in seen.parts.values_mut() {
            part.addresses.clone_from(&self.addresses);
        }
        Ok(seen)
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let layout = self.layout.clone();
        blocking(move || history(&layout, limit)).await.map_err(|e| e.with_target(&self.id))
    }
    async fn prepare(&self, change: &Change, _work: &Work) -> Result<Prepared> {
        let wanted = change.only_release()?.clone();
        let (layout, change, edited) = (self.layout.clone(), change.clone(), self.edited);
        let mut prepared =
            blocking(move || prepare(&layout, &change, &wanted, edited)).await.map_err(|e| e.with_target(&self.id))?;
        if let Some(finding) = self.hook.finding() {
            prepared = prepared.with_finding(finding);
        }
        if self.running.is_none() {
            prepared = prepared.with_finding(Finding::new(
                Severity::Note,
                "running",
                "nobody tells what really runs, so what the link says counts: make sure by hand that the service runs it",
            ));
        }
        Ok(prepared)
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let wanted = approved.change.only_release()?.clone();
        let seen: LinkSeen = token.read()?;
        if work.is_cancelled() {
            let e = Error::new(Kind::Conflict, "swap the link").with_message("this run has lost its lease");
            return Err(e.with_target(&self.id).without_effect());
        }
        let lock = self.lock().await.map_err(|e| e.with_target(&self.id))?;
        // Only where the link is right already it matters whether the process has taken it up.
        let layout = self.layout.clone();
        let there = blocking(move || layout.link()).await.is_ok_and(|link| link.at() == Some(&wanted));
        let runs = match if there { self.ask().await } else { None } {
            None => there,
            Some(Ok(Running::Release(release))) => release == wanted,
            Some(_) => false,
        };
        let ask = Asked {
            key: work.key(),
            run: work.run().clone(),
            epoch: work.epoch(),
            trace: work.trace().cloned(),
            wanted,
            seen,
            runs,
            hook: !self.hook.is_none(),
        };
        let layout = self.layout.clone();
        let swapped = blocking(move || Ok((swap(&layout, &ask)?, lock))).await.map_err(|e| e.with_target(&self.id))?;
        if let (Some(swap), lock) = swapped {
            self.restart(lock, swap).await?;
        }
        // Where the process is asked, it may still be on its way up.
        Ok(Applied::new(if self.running.is_some() { Extent::Submitted } else { Extent::Done }))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(Saved { layout: self.layout.clone(), logs: self.logs.clone() }))
    }
}

#[async_trait]
impl Record for ReleaseDir {
    /// Records the release that the link names: the digest of its content, and its place in the order of deploys, which it
    /// keeps if it was recorded before and has not changed.
    async fn record(&self, label: &str) -> Result<Release> {
        let (layout, label) = (self.layout.clone(), label.to_owned());
        let lock = self.lock().await?;
        blocking(move || {
            let link = layout.link()?;
            let id = link.at().cloned().ok_or_else(|| {
                Error::new(Kind::NotFound, "record what runs")
                    .with_message("the link current names no release: deploy one first")
                    .without_effect()
            })?;
            let digest = digest_of(&layout, &id)?;
            let release = record(&layout, Recorded { id, label, digest, at: Timestamp::now() }, false);
            drop(lock);
            release
        })
        .await
        .map_err(|e| e.with_target(&self.id))
    }
}

impl layout::Link {
    fn at(&self) -> Option<&ReleaseId> {
        match &self.points {
            Points::At(id) => Some(id),
            Points::Nowhere | Points::Elsewhere(_) => None,
        }
    }
}

impl Read {
    /// The swap that made the link what it is, if it was one of ours.
    fn own_swap(&self) -> Option<&Swap> {
        self.swap.as_ref().filter(|swap| swap.inode == self.link.seen.inode && self.link.at() == Some(&swap.to))
    }
}

/// Judges one read and one answer of the process.
fn observation(read: Read, answer: Option<Result<Running>>, hook: bool, look: &Look) -> Result<Observation> {
    let wanted = read.link.at().cloned();
    let pending = read.own_swap().filter(|swap| hook && !swap.done);
    let between = |to: &ReleaseId, state: String| {
        let from = pending.and_then(|swap| swap.from.clone()).unwrap_or_else(|| to.clone());
        Running::Between { from, to: to.clone(), state }
    };
    let unasked = match &answer {
        Some(Err(e)) => Some(e.to_string()),
        _ => None,
    };
    let running = match (answer, &read.link.points) {
        (Some(Ok(running)), _) => running,
        // No answer is no proof of anything, least of all that somebody else deployed.
        (Some(Err(e)), Points::At(id)) => between(id, e.to_string()),
        (Some(Err(e)), _) => Running::Unknown { fingerprint: "no answer".into(), named: Some(e.to_string()) },
        (None, Points::At(id)) if pending.is_some() => between(id, "the restart hook has not ended well yet".into()),
        (None, Points::At(id)) => Running::Release(id.clone()),
        (None, Points::Nowhere) => Running::Nothing,
        (None, Points::Elsewhere(to)) => {
            Running::Unknown { fingerprint: format!("link:{to}"), named: Some(format!("current links to {to}")) }
        }
    };
    let runs_it = matches!((&running, &wanted), (Running::Release(runs), Some(wanted)) if runs == wanted);
    let settled = if read.gone {
        Settled::Never { why: "the release that current links to is gone from releases/".into() }
    } else if let Some(why) = pending.and_then(|swap| swap.hung.clone()) {
        Settled::Never { why }
    } else if pending.is_some() {
        Settled::NotYet { why: "the link is swapped, the restart hook has not ended well yet".into() }
    } else if let Some(why) = unasked {
        Settled::NotYet { why }
    } else if wanted.is_some() && !runs_it {
        Settled::NotYet { why: format!("what runs is {running}") }
    } else {
        Settled::Yes
    };
    let ours = match (&look.mark, &read.swap) {
        (None, _) => Ours::NotAsked,
        (Some(mark), Some(swap)) if swap.key == mark.key => match (wanted == Some(swap.to.clone()), pending) {
            (true, Some(_)) => Ours::Current,
            (true, None) => Ours::Complete,
            // The swap is noted before it is made.
            (false, _) if wanted == swap.from && !swap.done => Ours::CannotTell,
            (false, _) => {
                let by = wanted.as_ref().map_or_else(|| "a link that is no release's".into(), ReleaseId::to_string);
                Ours::Replaced { by }
            }
        },
        (Some(_), _) => Ours::CannotTell,
    };
    let part = PartState::new(wanted, running).with_settled(settled);
    let token = Token(Some(crate::Payload::of(&read.link.seen)?));
    Ok(Observation::of_one(read.identity, part, token).with_ours(ours).with_trace(read.trace))
}

/// A swap as it was asked for.
struct Asked {
    key: String,
    run: RunId,
    epoch: u64,
    trace: Option<Trace>,
    wanted: ReleaseId,
    seen: LinkSeen,
    /// The process says that it runs the wanted release, or there is nobody to ask.
    runs: bool,
    hook: bool,
}

/// Compares and swaps, under the lock. The swap whose hook is to run, if one is.
fn swap(layout: &Layout, ask: &Asked) -> Result<Option<Swap>> {
    let read = layout.read()?;
    if read.link.seen != ask.seen {
        let by = match &read.link.points {
            Points::At(id) => format!("current links to {id} now"),
            Points::Elsewhere(to) => format!("current links to {to} now"),
            Points::Nowhere => "current is gone".into(),
        };
        let e = Error::new(Kind::Conflict, "swap the link");
        return Err(e.with_message(format!("the link was changed since it was looked at: {by}")).without_effect());
    }
    layout.release(&ask.wanted)?;
    if let Some(trace) = &ask.trace {
        own::save_trace(&layout.own_dir(), trace)?;
    }
    let there = read.link.at() == Some(&ask.wanted);
    let pending = read.own_swap().filter(|swap| ask.hook && !swap.done);
    if there && pending.is_none() && ask.runs {
        return Ok(None);
    }
    let mut swap = Swap {
        key: ask.key.clone(),
        run: ask.run.clone(),
        epoch: ask.epoch,
        from: pending.map_or_else(|| read.link.at().cloned(), |swap| swap.from.clone()),
        to: ask.wanted.clone(),
        inode: read.link.seen.inode,
        done: false,
        at: Timestamp::now(),
        hung: None,
        failed: pending.filter(|swap| swap.key == ask.key).map_or(0, |swap| swap.failed),
    };
    if there {
        // A crash came between the swap and the end of the hook, or the process never took it up.
        swap.save(layout)?;
    } else {
        swap = point(layout, swap)?;
    }
    Ok(Some(swap))
}

/// Points the link, once what is about to happen is noted down.
fn point(layout: &Layout, mut swap: Swap) -> Result<Swap> {
    swap.inode = layout.make_link(&swap.to)?;
    swap.save(layout).map_err(Error::without_effect)?;
    layout.place()?;
    Ok(swap)
}

fn digest_of(layout: &Layout, id: &ReleaseId) -> Result<crate::Digest> {
    let digest = tree::digest(&layout.release(id)?, None)?;
    digest.ok_or_else(|| Error::new(Kind::Unexpected, "digest the release").without_effect())
}

fn record(layout: &Layout, recorded: Recorded, deployed: bool) -> Result<Release> {
    let mut records = Records::load(&layout.own_dir())?;
    let id = recorded.id.clone();
    records.record(recorded, deployed);
    records.prune(|id| layout.releases().join(id.as_str()).is_dir());
    records.save(&layout.own_dir())?;
    records.get(&id).map(Recorded::release).ok_or_else(|| Error::new(Kind::Unexpected, "record the release"))
}

fn history(layout: &Layout, limit: usize) -> Result<Vec<Release>> {
    let live = layout.link()?;
    Ok(Records::load(&layout.own_dir())?.history(own::names(&layout.releases())?, live.at(), limit))
}

fn prepare(layout: &Layout, change: &Change, wanted: &ReleaseId, edited: Severity) -> Result<Prepared> {
    let link = layout.link()?;
    let path = layout.release(wanted)?;
    let mut prepared = Prepared::new(change);
    let to = format!("releases/{wanted}");
    let mut diff = vec![match &link.points {
        Points::Nowhere => DiffLine { what: "current".into(), from: None, to: Some(to) },
        Points::At(id) => DiffLine::new("current", format!("releases/{id}"), to),
        Points::Elsewhere(elsewhere) => DiffLine::new("current", elsewhere, to),
    }];
    if let Some(from) = link.at().filter(|id| *id != wanted).and_then(|id| layout.release(id).ok()) {
        let (entries, bytes) = COMPARED;
        let to = match tree::difference(&from, &path, entries, bytes)? {
            Some(d) => format!("{} changed, {} more, {} fewer", d.changed, d.added, d.removed),
            None => "too many to compare".into(),
        };
        diff.push(DiffLine::new("files", "as they are", to));
    }
    prepared = prepared.with_diff(diff);
    // What it says of edits is no part of what is approved: it may change from look to look.
    let finding = Records::load(&layout.own_dir())?.edited(wanted, &path, edited)?;
    Ok(finding.into_iter().fold(prepared, Prepared::with_finding))
}

#[cfg(test)]
mod tests;
