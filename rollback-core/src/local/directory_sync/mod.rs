//! A live directory tree brought back to the tree of a release, file by file: the local twin of a prefix in a bucket.
//!
//! Not here: a tree behind a link, which one rename swaps: that is [`ReleaseDir`](crate::local::ReleaseDir).

mod batch;
mod deploy;
mod entry;
mod evidence;
mod listing;
mod marker;
mod walk;

use crate::{
    Applied, Approved, ArtifactReader, Capabilities, Change, DiffLine, Digest, Error, EvidenceSource, Extent, Fencing,
    Finding, Identity, Kind, Look, Observation, Ours, PartState, Payload, Prepared, Record, Release, ReleaseId, Result,
    Running, Settled, Severity, Stored, Target, TargetId, Timestamp, Token, Work,
    atomic_file::{self, Locked},
    blocking::blocking,
    local::{
        hook::{self, Argv, Hook, Signal, Told},
        host,
        own::{self, Recorded, Records, tree},
    },
    seconds,
};
use async_trait::async_trait;
use batch::{Outcome, Sides};
use entry::{Do, MANIFEST, Op, What};
use marker::{Going, Marker, MarkerSeen, Progress, Restart};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use walk::{Compare, HALF_MADE, Seen};

/// How long another process that writes here is waited for.
const LOCK_WITHIN: Duration = seconds(5);
/// So many entries are carried out at a time: as many files are open at once.
const BATCH: usize = 256;
/// So many lines are read at a time, so that a pass that has little to do can still be stopped.
const LINES: u64 = 4096;
/// So many entries are done again after a crash, at the most.
const CHECKPOINT_EVERY: u64 = 2048;
/// How many examples a diff names.
const EXAMPLES: usize = 5;
/// How many releases the tree is compared with to find out which it is.
const COMPARED: usize = 10;

/// A live tree, and the trees of its releases.
///
/// A change compares the two trees and copies what differs; what the release does not have is removed last. Files are
/// written under a name of their own, made durable and renamed over, so that a reader sees the old or the new content;
/// *the tree as a whole* is mixed while it goes on, and [`Running`] says so. After a crash it goes on from its checkpoint.
/// Memory does not grow with the number of files.
///
/// - What is compared: kind, size, time of the last change, mode, the targets of links; owners if run as root. With
///   [`with_checksums`](DirectorySync::with_checksums) contents too: needed where a build gives all files the same time
///   (`SOURCE_DATE_EPOCH`), or two files of one size that were written in the same moment would be taken for one. Not:
///   times of directories, extended attributes, access lists, hard links among files.
/// - What somebody else changed since the comparison is not overwritten; it is counted as a reason why the write is
///   partial. The look is taken right before each entry, so only a change in that very moment is lost.
/// - Links are never followed, below the live root and below the release's. Sockets, pipes and devices are left alone.
/// - Which release is live is told by a marker in `<live>/.rollback` (or
///   [elsewhere](DirectorySync::with_state_dir)); a full look also compares the trees. What the service itself writes
///   into the tree must be [excluded](DirectorySync::excluding), or it counts as somebody's edit.
/// - The write holds a lock in that directory; the token is the marker.
/// - When the tree is brought there, a hook may tell the service ([`restart_with`](DirectorySync::restart_with)): it runs
///   at least once, each time with the same key, also when a crash comes in between; it gets `ROLLBACK_KEY`,
///   `ROLLBACK_RUN`, `ROLLBACK_EPOCH`, `ROLLBACK_RELEASE` and `ROLLBACK_ROOT` in its environment and starts in the tree.
///   Until it has ended well the release does not count as running.
/// - Evidence is the marker, the releases, what differs from the release that is marked, and the ends of logs
///   ([`with_logs`](DirectorySync::with_logs)).
///
/// ```no_run
/// use rollback_core::local::DirectorySync;
/// let site = DirectorySync::open("/srv/www", "/srv/www-releases")?.excluding(["uploads"]);
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DirectorySync {
    id: TargetId,
    live: PathBuf,
    releases: PathBuf,
    own: PathBuf,
    excluded: BTreeSet<Vec<u8>>,
    checksums: bool,
    fsync: bool,
    owners: bool,
    threads: usize,
    edited: Severity,
    hook: Hook,
    restart_within: Duration,
    logs: Vec<PathBuf>,
}

impl DirectorySync {
    /// Opens a live tree, and the directory that holds one tree for each release, by its id. Reads, changes nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if one is not there, [`Kind::Invalid`] if one is inside the other.
    ///
    /// ```
    /// # use rollback_core::{Kind, local::DirectorySync};
    /// assert_eq!(DirectorySync::open("/nowhere", "/tmp").unwrap_err().kind(), Kind::NotFound);
    /// ```
    pub fn open(live: impl AsRef<Path>, releases: impl AsRef<Path>) -> Result<Self> {
        let open = |path: &Path| {
            let operation = || format!("open the tree {}", path.display());
            let real = path.canonicalize().map_err(|e| Error::from_io(operation(), e).without_effect())?;
            let fault = |message: &str| Error::new(Kind::Invalid, operation()).with_message(message).without_effect();
            if !real.is_dir() {
                return Err(fault("it is no directory"));
            }
            if real.to_str().is_none() {
                return Err(fault("its path is not UTF-8, and it could not be named in a journal: move it"));
            }
            Ok(real)
        };
        let (live, releases) = (open(live.as_ref())?, open(releases.as_ref())?);
        if live.starts_with(&releases) || releases.starts_with(&live) {
            let message = format!(
                "{} and {} are one inside the other, and what is not in a release is removed: keep them apart",
                live.display(),
                releases.display()
            );
            return Err(Error::new(Kind::Invalid, "open the trees").with_message(message).without_effect());
        }
        Ok(Self {
            id: TargetId::new(format!("tree:{}", live.display())),
            own: live.join(".rollback"),
            live,
            releases,
            excluded: [b".rollback".to_vec()].into(),
            checksums: false,
            fsync: true,
            owners: rustix::process::geteuid().is_root(),
            threads: 4,
            edited: Severity::Warning,
            hook: Hook::None,
            restart_within: seconds(30),
            logs: vec![],
        })
    }
    /// Contents are read and compared, not only sizes and times: slow, and sure. Default: no.
    pub fn with_checksums(mut self, checksums: bool) -> Self {
        self.checksums = checksums;
        self
    }
    /// Whether each file is made durable before it takes its place. Without, a crash of the machine may leave empty files
    /// behind a marker that says otherwise. Default: yes.
    pub fn with_fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }
    /// How many files are written at once, 1 to 64. Default: 4.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, 64);
        self
    }
    /// Paths, as seen from the root, that are left alone with all that is in them, in the live tree and in releases.
    pub fn excluding<P: AsRef<Path>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.excluded.extend(paths.into_iter().map(|path| path_bytes(path.as_ref())));
        self
    }
    /// Where the marker and the lock are kept instead of `<live>/.rollback`. It is made if it is not there. Everybody who
    /// brings releases here must name the same.
    pub fn with_state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.own = dir.into();
        if let Ok(inside) = self.own.strip_prefix(&self.live) {
            self.excluded.insert(path_bytes(inside));
        }
        self
    }
    /// A release that was edited since it was recorded is not gone back to. By default it is, with a warning.
    pub fn refuse_edited(mut self) -> Self {
        self.edited = Severity::Blocks;
        self
    }
    /// The command that tells the service that its files were changed: a program and its arguments, no shell. Success is
    /// exit code 0. It may leave processes running.
    pub fn restart_with<S: Into<String>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        self.hook = Hook::Command(Argv(argv.into_iter().map(Into::into).collect()));
        self
    }
    /// A signal instead of a command, to the process whose id stands in this file.
    pub fn signal_with(mut self, signal: Signal, pid_file: impl Into<PathBuf>) -> Self {
        self.hook = Hook::Signal(signal, pid_file.into());
        self
    }
    /// How long the command may take; then it is killed, with all that it started. Default: 30 s. Keep it well below the
    /// time of a step, at whose end the call is dropped, and the command killed too.
    pub fn restart_within(mut self, within: Duration) -> Self {
        self.restart_within = within;
        self
    }
    /// Log files whose ends are saved as evidence, what looks like a secret blanked out.
    pub fn with_logs<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.logs = paths.into_iter().map(Into::into).collect();
        self
    }

    async fn lock(&self) -> Result<Locked> {
        let own = self.own.clone();
        blocking(move || {
            std::fs::create_dir_all(&own)
                .map_err(|e| Error::from_io(format!("make {}", own.display()), e).without_effect())
        })
        .await?;
        atomic_file::lock(&self.own.join(marker::FILE), LOCK_WITHIN).await
    }

    fn root(path: &Path) -> Result<File> {
        File::open(path).map_err(|e| Error::from_io(format!("open {}", path.display()), e).without_effect())
    }

    /// Compares a release with the live tree.
    fn compare(&self, release: &ReleaseId, tell: &mut dyn FnMut(Op) -> Result<bool>) -> Result<(bool, Seen)> {
        let ours = Self::root(&own::release(&self.releases, release)?)?;
        let theirs = Self::root(&self.live)?;
        let compare = Compare {
            release: ours.as_fd(),
            live: theirs.as_fd(),
            excluded: &self.excluded,
            checksums: self.checksums,
            owners: self.owners,
        };
        compare.walk(tell)
    }
    /// Does the live tree stand as the release has it? Ends at the first difference.
    fn is(&self, release: &ReleaseId) -> Result<bool> {
        Ok(self.compare(release, &mut |op| Ok(is_half_made(&op)))?.0)
    }
    /// The newest release that the live tree is, other than one.
    fn find(&self, but: Option<&ReleaseId>) -> Result<Option<ReleaseId>> {
        for release in self.past(COMPARED)?.into_iter().filter(|r| r.available && Some(&r.id) != but) {
            if self.is(&release.id)? {
                return Ok(Some(release.id));
            }
        }
        Ok(None)
    }
    fn past(&self, limit: usize) -> Result<Vec<Release>> {
        // A marker that cannot be read keeps nobody from what there is to go back to.
        let live = Marker::load(&self.own).ok().and_then(|(marker, _)| marker.release);
        Ok(Records::load(&self.own)?.history(own::names(&self.releases)?, live.as_ref(), limit))
    }

    /// What really is in the tree.
    fn running(&self, marker: &Marker, quick: bool) -> Result<Running> {
        let there = |id: &ReleaseId| self.releases.join(id.as_str()).is_dir();
        Ok(match (&marker.going, &marker.release) {
            (Some(going), from) => {
                let (from, to) = (from.clone().unwrap_or_else(|| going.to.clone()), going.to.clone());
                let seen = match quick || from == to || !there(&to) {
                    true => Seen::default(),
                    false => self.compare(&to, &mut |_| Ok(true))?.1,
                };
                let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                match (count(seen.entries - seen.same), count(seen.same)) {
                    // Not counted, or nothing but removals left.
                    (0, _) | (_, 0) => {
                        Running::Between { from, to, state: format!("half copied, since {}", marker.at) }
                    }
                    (old, new) => Running::Mixed([(from, old), (to, new)].into()),
                }
            }
            (None, Some(release)) if quick => Running::Release(release.clone()),
            (None, Some(release)) if !there(release) => Running::Unknown {
                fingerprint: format!("gone:{release}"),
                named: Some(format!("marked as {release}, which is gone and cannot be compared with")),
            },
            (None, Some(release)) => {
                let mut differs = Differs::default();
                self.compare(release, &mut |op| differs.take(&op))?;
                match (differs.count, self.find(Some(release)).ok().flatten()) {
                    (0, _) => Running::Release(release.clone()),
                    (_, Some(other)) => Running::Release(other),
                    (_, None) => differs.unknown(release),
                }
            }
            (None, None) => match if quick { None } else { self.find(None)? } {
                Some(release) => Running::Release(release),
                None => Running::Unknown {
                    fingerprint: "unmarked".into(),
                    named: Some("a tree that no marker tells of: record it while it is a release".into()),
                },
            },
        })
    }

    fn read(&self, look: &Look) -> Result<Observation> {
        let meta = std::fs::metadata(&self.live)
            .map_err(|e| Error::from_io(format!("look at {}", self.live.display()), e).without_effect())?;
        let identity = Identity::new(host::scope(), format!("{}:{}", meta.dev(), meta.ino()));
        let (marker, seen) = Marker::load(&self.own)?;
        let untold = marker.restart.as_ref().filter(|_| !self.hook.is_none());
        let running = match (self.running(&marker, look.quick)?, untold) {
            (Running::Release(to), Some(restart)) if marker.release.as_ref() == Some(&to) => {
                let from = restart.from.clone().unwrap_or_else(|| to.clone());
                Running::Between { from, to, state: "the restart hook has not ended well yet".into() }
            }
            (running, _) => running,
        };
        let settled = match (&marker.going, untold) {
            (Some(going), _) => Settled::NotYet { why: format!("the tree is half copied to {}", going.to) },
            (None, Some(Restart { hung: Some(why), .. })) => Settled::Never { why: why.clone() },
            (None, Some(_)) => {
                Settled::NotYet { why: "the tree is copied, the restart hook has not ended well yet".into() }
            }
            (None, None) => Settled::Yes,
        };
        let ours = match &look.mark {
            None => Ours::NotAsked,
            Some(mark) if marker.key.as_ref() != Some(&mark.key) => Ours::CannotTell,
            Some(_) if marker.going.is_some() || untold.is_some() => Ours::Current,
            Some(_) => Ours::Complete,
        };
        let wanted = marker.going.as_ref().map(|going| going.to.clone()).or_else(|| marker.release.clone());
        let part = PartState::new(wanted, running).with_settled(settled);
        let token = Token(Some(Payload::of(&seen)?));
        let seen = Observation::of_one(identity, part, token).with_ours(ours);
        let seen = match marker.going.and_then(|_| Progress::load(&self.own)) {
            Some(progress) => seen.with_progress(progress.done, progress.of),
            None => seen,
        };
        Ok(seen.with_trace(own::load_trace(&self.own)?))
    }

    /// Makes the manifest, chunk by chunk.
    fn manifest(&self, release: &ReleaseId, send: &tokio::sync::mpsc::Sender<Vec<u8>>) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut chunk = Vec::with_capacity(64 << 10);
        let gone = || {
            let e = Error::new(Kind::Unexpected, "prepare the manifest").with_message("nobody waits for it any more");
            e.without_effect()
        };
        let (_, seen) = self.compare(release, &mut |op| {
            tally.take(&op);
            op.write(&mut chunk)?;
            if chunk.len() >= 60 << 10 {
                let full = std::mem::replace(&mut chunk, Vec::with_capacity(64 << 10));
                send.blocking_send(full).map_err(|_| gone())?;
            }
            Ok(true)
        })?;
        if !chunk.is_empty() {
            send.blocking_send(chunk).map_err(|_| gone())?;
        }
        tally.special = seen.special;
        Ok(tally)
    }

    /// Carries out a batch on a thread that may block. The lock stays until the batch has ended, even if nobody waits for
    /// it any more.
    async fn batch(&self, release: &Path, lock: &Arc<Locked>, ops: Vec<Op>) -> Result<Outcome> {
        self.with_sides(release, lock, move |sides| sides.run(&ops)).await
    }
    async fn sync(&self, release: &Path, lock: &Arc<Locked>, touched: &mut BTreeSet<Vec<u8>>) -> Result<()> {
        let mut dirs = std::mem::take(touched);
        self.with_sides(release, lock, move |sides| sides.sync(&mut dirs)).await
    }
    async fn with_sides<T: Send + 'static>(
        &self,
        release: &Path,
        lock: &Arc<Locked>,
        act: impl FnOnce(&Sides<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, release, lock) = (self.clone(), release.to_owned(), lock.clone());
        blocking(move || {
            let (ours, theirs) = (Self::root(&release)?, Self::root(&this.live)?);
            let sides = Sides {
                release: ours.as_fd(),
                live: theirs.as_fd(),
                fsync: this.fsync,
                owners: this.owners,
                threads: this.threads,
            };
            let acted = act(&sides);
            drop(lock);
            acted
        })
        .await
    }

    /// Runs the hook and notes that it ended well. The lock is held meanwhile, so that no two hooks run at once.
    async fn restart(&self, lock: Arc<Locked>, mut marker: Marker) -> Result<()> {
        let (Some(restart), Some(to)) = (marker.restart.clone(), marker.release.clone()) else { return Ok(()) };
        let key = marker.key.clone().unwrap_or_default();
        let told = Told { root: &self.live, key: &key, run: &restart.run, epoch: restart.epoch, to: &to };
        let ran = self.hook.run(told, self.restart_within).await;
        let own = self.own.clone();
        if let Err(e) = ran {
            if hook::hung(&e) {
                marker.restart = Some(Restart { hung: Some(e.message().to_owned()), ..restart });
                // Not noted down, it is run again until the time is over, nothing worse.
                let _ = blocking(move || marker.save(&own)).await;
            }
            drop(lock);
            return Err(e);
        }
        blocking(move || {
            let saved = Marker { restart: None, at: Timestamp::now(), ..marker }.save(&own);
            drop(lock);
            // The hook has run: that it could not be noted down makes it run again, nothing worse.
            saved.map_err(|e| Error::new(e.kind(), "note that the service was restarted").with_source(e))
        })
        .await
    }

    async fn carry_out(&self, approved: &Approved, plan: &SyncPlan, lock: &Arc<Locked>, work: &Work) -> Result<Extent> {
        let release = own::release(&self.releases, &plan.release)?;
        let Some(artifact) = &approved.artifact else {
            let e = Error::new(Kind::Invalid, "read the manifest").with_message("there is none");
            return Err(e.without_effect());
        };
        let from = work.last_checkpoint::<Reached>().await?.filter(|reached| reached.manifest == artifact.digest);
        let mut reached = from.unwrap_or_else(|| Reached::new(artifact.digest.clone()));
        // Some time is left to save where it is before the call is dropped.
        let until = tokio::time::Instant::now() + work.within().mul_f64(0.8);
        let mut touched = BTreeSet::new();
        let mut saved = reached.done;
        let mut progressed = false;
        while reached.pass < 2 {
            let mut lines = Lines::new(work.open(artifact).await?);
            lines.skip(reached.line).await?;
            loop {
                let why = if work.is_cancelled() {
                    Some("cancelled")
                } else if progressed && tokio::time::Instant::now() >= until {
                    Some("out of time")
                } else {
                    None
                };
                if let Some(why) = why {
                    self.save(&release, lock, &mut touched, &reached, plan, work).await?;
                    let rest = plan.of.saturating_sub(reached.done);
                    return Ok(partial(&reached, plan, BTreeMap::from([(why.into(), rest)])));
                }
                let (ops, read) = lines.batch(reached.pass).await?;
                if read == 0 {
                    break;
                }
                let outcome = self.batch(&release, lock, ops).await?;
                reached.line += read;
                reached.done += outcome.done;
                for (why, n) in outcome.left {
                    *reached.left.entry(why).or_default() += n;
                }
                touched.extend(outcome.touched);
                progressed = true;
                work.progress(reached.done, plan.of);
                if reached.done - saved >= CHECKPOINT_EVERY {
                    self.save(&release, lock, &mut touched, &reached, plan, work).await?;
                    saved = reached.done;
                }
            }
            reached.pass += 1;
            reached.line = 0;
        }
        self.sync(&release, lock, &mut touched).await?;
        if !reached.left.is_empty() {
            // The next attempt looks at all of it again; what is done is only looked at.
            work.checkpoint(&Reached::new(artifact.digest.clone())).await?;
            let left = reached.left.clone();
            return Ok(partial(&reached, plan, left));
        }
        Ok(Extent::Done)
    }

    /// Makes what is done durable, then says so.
    async fn save(
        &self,
        release: &Path,
        lock: &Arc<Locked>,
        touched: &mut BTreeSet<Vec<u8>>,
        reached: &Reached,
        plan: &SyncPlan,
        work: &Work,
    ) -> Result<()> {
        self.sync(release, lock, touched).await?;
        work.checkpoint(reached).await?;
        let (own, progress) = (self.own.clone(), Progress { done: reached.done, of: plan.of });
        blocking(move || progress.save(&own)).await
    }
}

#[async_trait]
impl Target for DirectorySync {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::Token).keeping_trace()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let this = self.clone();
        blocking(move || this.read(&look)).await.map_err(|e| e.with_target(&self.id))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let this = self.clone();
        blocking(move || this.past(limit)).await.map_err(|e| e.with_target(&self.id))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let wanted = change.only_release()?.clone();
        let (send, mut receive) = tokio::sync::mpsc::channel(4);
        let (this, release) = (self.clone(), wanted.clone());
        let made = async {
            let made = blocking(move || {
                let (marker, _) = Marker::load(&this.own)?;
                let path = own::release(&this.releases, &release)?;
                let tally = this.manifest(&release, &send)?;
                let edited = Records::load(&this.own)?.edited(&release, &path, this.edited)?;
                Ok((marker, tally, edited))
            });
            let mut writer = work.keep(MANIFEST).await?;
            let written = async {
                while let Some(chunk) = receive.recv().await {
                    writer.push(&chunk).await?;
                }
                Ok(())
            };
            let ((marker, tally, edited), ()) = tokio::try_join!(made, written)?;
            Ok((marker, tally, edited, writer.seal().await?))
        };
        let (marker, tally, edited, artifact) = made.await.map_err(|e: Error| e.with_target(&self.id))?;
        let plan = SyncPlan { release: wanted, of: tally.of(), bytes: tally.bytes };
        let mut prepared = Prepared::new(change)
            .with_instructions(Payload::of(&plan)?)
            .with_diff(tally.diff(&marker, &plan.release))
            .with_artifact(artifact);
        if tally.special > 0 {
            let text = format!("{} sockets, pipes or devices are left alone", tally.special);
            prepared = prepared.with_finding(Finding::new(Severity::Note, "special", text));
        }
        Ok(edited.into_iter().chain(self.hook.finding()).fold(prepared, Prepared::with_finding))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let wanted = approved.change.only_release()?.clone();
        let plan: SyncPlan = approved.read()?;
        let expected: MarkerSeen = token.read()?;
        let lock = self.lock().await.map_err(|e| e.with_target(&self.id))?;
        let began = tokio::time::Instant::now();
        let (this, key, epoch, trace) = (self.clone(), work.key(), work.epoch(), work.trace().cloned());
        let (to, nothing) = (wanted.clone(), plan.of == 0);
        // The lock goes along: dropped, this call must not leave a write behind that nothing guards.
        let begun = blocking(move || {
            own::release(&this.releases, &to)?;
            let (was, seen) = Marker::load(&this.own)?;
            if seen != expected {
                let message = "the marker was changed since it was looked at: somebody else brings a release here";
                return Err(Error::new(Kind::Conflict, "begin to copy").with_message(message).without_effect());
            }
            if let Some(trace) = &trace {
                own::save_trace(&this.own, trace)?;
            }
            let there = nothing && was.going.is_none() && was.restart.is_none() && was.release.as_ref() == Some(&to);
            let from = was.restart.as_ref().and_then(|restart| restart.from.clone()).or(was.release.clone());
            let going = Some(Going { to, epoch });
            let marker = Marker { going, key: Some(key), at: Timestamp::now(), restart: None, ..was };
            marker.save(&this.own)?;
            Ok((lock, marker, from, there))
        });
        let (lock, marker, from, there) = begun.await.map_err(|e| e.with_target(&self.id))?;
        let lock = Arc::new(lock);
        let extent = self.carry_out(approved, &plan, &lock, work).await.map_err(|e| e.with_target(&self.id))?;
        if extent != Extent::Done {
            return Ok(Applied::new(extent));
        }
        let untold = !there && !self.hook.is_none();
        let restart = Restart { from, run: work.run().clone(), epoch, hung: None };
        let this = self.clone();
        let copied = blocking(move || {
            let restart = untold.then_some(restart);
            let marker = Marker { release: Some(wanted), going: None, restart, at: Timestamp::now(), ..marker };
            marker.save(&this.own)?;
            Progress::remove(&this.own)?;
            Ok((lock, marker))
        });
        let (lock, marker) = copied.await.map_err(|e| e.with_target(&self.id))?;
        if untold {
            let (taken, needs) = (began.elapsed(), self.restart_within);
            if taken + needs > work.within() && needs < work.within() / 2 {
                // The next attempt has nothing to copy, and time enough not to be cut off in the middle of the hook.
                let reasons = BTreeMap::from([("no time left for the restart hook".into(), 1)]);
                return Ok(Applied::new(Extent::Partial { done: plan.of, of: plan.of, reasons }));
            }
            self.restart(lock, marker).await.map_err(|e| e.with_target(&self.id))?;
        }
        Ok(Applied::done())
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(evidence::Saved(self.clone())))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Record for DirectorySync {
    /// Finds out which release the live tree is, marks it and records the digest of the release's content.
    async fn record(&self, label: &str) -> Result<Release> {
        let lock = self.lock().await?;
        let (this, label) = (self.clone(), label.to_owned());
        blocking(move || {
            let (marker, _) = Marker::load(&this.own)?;
            let refused = |kind, message: String| {
                Err(Error::new(kind, "record what is live").with_message(message).without_effect())
            };
            if let Some(going) = &marker.going {
                return refused(Kind::Conflict, format!("it is half copied to {}: finish that first", going.to));
            }
            let marked = match &marker.release {
                Some(id) if this.is(id)? => Some(id.clone()),
                _ => this.find(None)?,
            };
            let Some(id) = marked else {
                return refused(
                    Kind::NotFound,
                    "the live tree is none of the newest releases, by kinds, sizes, modes and times: copy one with its times (cp -a), or exclude what the service writes".into(),
                );
            };
            let path = own::release(&this.releases, &id)?;
            let digest = tree::digest(&path, None)?
                .ok_or_else(|| Error::new(Kind::Unexpected, "digest the release").without_effect())?;
            let recorded = Recorded { id: id.clone(), label, digest, at: Timestamp::now() };
            let release = recorded.release();
            this.save_record(recorded, false)?;
            if marker.release.as_ref() != Some(&id) {
                Marker { release: Some(id), at: Timestamp::now(), ..marker }.save(&this.own)?;
            }
            drop(lock);
            Ok(release)
        })
        .await
        .map_err(|e| e.with_target(&self.id))
    }
}

fn path_bytes(path: &Path) -> Vec<u8> {
    let names: Vec<&[u8]> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    names.join(&b'/')
}

fn is_half_made(op: &Op) -> bool {
    op.what == Do::Remove && op.split().1.starts_with(HALF_MADE)
}

fn partial(reached: &Reached, plan: &SyncPlan, reasons: BTreeMap<String, u64>) -> Extent {
    Extent::Partial { done: reached.done, of: plan.of, reasons }
}

/// What is to be done, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SyncPlan {
    release: ReleaseId,
    /// Entries in the manifest.
    of: u64,
    /// Bytes to copy.
    bytes: u64,
}

impl Stored for SyncPlan {
    const NAME: &'static str = "rollback-core/directory-sync";
    const VERSION: u32 = 1;
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    manifest: Digest,
    /// 0: copies. 1: removals.
    pass: u8,
    /// Lines of the manifest that are behind it, in this pass.
    line: u64,
    done: u64,
    left: BTreeMap<String, u64>,
}

impl Reached {
    fn new(manifest: Digest) -> Self {
        Self { manifest, pass: 0, line: 0, done: 0, left: BTreeMap::new() }
    }
}

impl Stored for Reached {
    const NAME: &'static str = "rollback-core/directory-sync-reached";
    const VERSION: u32 = 1;
}

/// What a manifest comes to.
#[derive(Debug, Default)]
struct Tally {
    copied: Few,
    new: Few,
    removed: Few,
    meta: Few,
    bytes: u64,
    special: u64,
}

#[derive(Debug, Default)]
struct Few {
    count: u64,
    examples: Vec<String>,
}

impl Few {
    fn take(&mut self, op: &Op) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(op.path.to_string());
        }
    }
}

impl std::fmt::Display for Few {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = if self.count > self.examples.len() as u64 { ", …" } else { "" };
        write!(f, "{}: {}{more}", self.count, self.examples.join(", "))
    }
}

impl Tally {
    fn take(&mut self, op: &Op) {
        match (op.what, &op.had) {
            (Do::Copy, Some(_)) => self.copied.take(op),
            (Do::Copy, None) | (Do::Mkdir, _) => self.new.take(op),
            (Do::Meta, _) => self.meta.take(op),
            (Do::Clear | Do::Remove, _) => self.removed.take(op),
        }
        if let (Do::Copy, Some(want)) = (op.what, op.want.as_ref().filter(|want| want.what == What::File)) {
            self.bytes += want.size;
        }
    }
    fn of(&self) -> u64 {
        self.copied.count + self.new.count + self.removed.count + self.meta.count
    }
    fn diff(&self, marker: &Marker, to: &ReleaseId) -> Vec<DiffLine> {
        let from = marker.release.as_ref().map(ReleaseId::to_string);
        let mut lines = vec![DiffLine { what: "release".into(), from, to: Some(to.to_string()) }];
        let of = [
            ("to change", &self.copied),
            ("to add", &self.new),
            ("to remove", &self.removed),
            ("mode or time", &self.meta),
        ];
        for (what, few) in of.into_iter().filter(|(_, few)| few.count > 0) {
            lines.push(DiffLine { what: what.into(), from: None, to: Some(few.to_string()) });
        }
        lines.push(DiffLine { what: "bytes to copy".into(), from: None, to: Some(self.bytes.to_string()) });
        lines
    }
}

/// What differs, as a fingerprint.
#[derive(Default)]
struct Differs {
    count: u64,
    few: Few,
    hash: sha2::Sha256,
}

impl Differs {
    fn take(&mut self, op: &Op) -> Result<bool> {
        use sha2::Digest as _;
        if !is_half_made(op) {
            let mut line = vec![];
            op.write(&mut line)?;
            self.hash.update(&line);
            self.count += 1;
            self.few.take(op);
        }
        Ok(true)
    }
    fn unknown(self, release: &ReleaseId) -> Running {
        use sha2::Digest as _;
        let digest = Digest::from_sha256(&self.hash.finalize());
        let named = Some(format!("{release}, but for {}", self.few));
        Running::Unknown { fingerprint: digest.as_str().into(), named }
    }
}

/// The lines of a manifest, as they come.
struct Lines {
    reader: Box<dyn ArtifactReader>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Lines {
    fn new(reader: Box<dyn ArtifactReader>) -> Self {
        Self { reader, chunk: vec![], at: 0, ended: false }
    }
    /// The next line, as a range of the chunk.
    async fn next(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        let mut searched = self.at;
        loop {
            if let Some(end) = self.chunk[searched..].iter().position(|b| *b == b'\n').map(|i| searched + i) {
                let line = self.at..end;
                self.at = end + 1;
                return Ok(Some(line));
            }
            if self.ended {
                return match self.at == self.chunk.len() {
                    true => Ok(None),
                    false => Err(Error::new(Kind::Invalid, "read the manifest").with_message("its end is missing")),
                };
            }
            self.chunk.drain(..self.at);
            self.at = 0;
            searched = self.chunk.len();
            match self.reader.next().await? {
                Some(more) => self.chunk.extend_from_slice(&more),
                None => self.ended = true,
            }
        }
    }
    async fn skip(&mut self, lines: u64) -> Result<()> {
        for _ in 0..lines {
            self.next().await?;
        }
        Ok(())
    }
    /// The next entries of a pass, and how many lines they took.
    async fn batch(&mut self, pass: u8) -> Result<(Vec<Op>, u64)> {
        let (mut ops, mut read) = (vec![], 0);
        while ops.len() < BATCH && read < LINES {
            let Some(line) = self.next().await? else { break };
            read += 1;
            let op = Op::read(&self.chunk[line])?;
            if (op.what == Do::Remove) == (pass == 1) {
                ops.push(op);
            }
        }
        Ok((ops, read))
    }
}

#[cfg(test)]
mod tests;
