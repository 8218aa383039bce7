//! A journal that lives as long as the process: for tests, for simulations, and for a run whose own journal is lost.

use super::rules::{
    APPEND, Effect, GIVE_UP, READ, RENEW, check_lines, damaged, driven, effect_of, ended, fenced, given_up, gone, held,
    last_line, newer_checkpoint, other_line, overlap, superseded, taken, unknown,
};
use crate::{
    Artifact, ArtifactReader, ArtifactWriter, Begun, Digest, HeldFreeze, Intent, Journal, Lease, LedgerEntry, Line,
    Outcome, Payload, Result, RunId, RunQuery, RunSummary, Shelf, TargetId, Timestamp,
};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A journal in memory. Clones share it: the same runs, the same lock.
///
/// Leases are timed by tokio's clock, so a test that pauses the clock decides when they lapse. It reads no wall clock: a run
/// began when its intent says so.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> rollback_core::Result<()> {
/// use rollback_core::{Begun, Intent, Journal, RunId, TargetId, journal::MemoryJournal};
/// let journal = MemoryJournal::new();
/// let intent = |run| Intent::new(RunId::new(run), TargetId::new("dir:/srv/checkout"), "me", "500s since 2.4.0");
/// assert!(matches!(journal.begin(&intent("a")).await?, Begun::Fresh { .. }));
/// assert!(matches!(journal.begin(&intent("b")).await?, Begun::Busy { .. }));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct MemoryJournal {
    state: Arc<Mutex<State>>,
    shelf: MemoryShelf,
}

#[derive(Default)]
struct State {
    runs: Vec<Run>,
    by_id: HashMap<RunId, usize>,
    targets: HashMap<TargetId, PerTarget>,
    holds: Vec<HeldFreeze>,
    // The latest wall time that a caller told, and when: what is written from outside a run is dated by it.
    told: Option<(Timestamp, Instant)>,
}

#[derive(Default)]
struct PerTarget {
    epoch: u64,
    unfinished: Option<usize>,
    // Oldest mark first.
    ledger: Vec<LedgerEntry>,
}

struct Run {
    intent: Intent,
    lines: Vec<Line>,
    epoch: u64,
    driver: Option<Driver>,
    wrote: Option<Timestamp>,
    outcome: Option<Outcome>,
}

struct Driver {
    who: String,
    since: Timestamp,
    until: Instant,
}

impl Run {
    fn driver(&self) -> Option<&Driver> {
        self.driver.as_ref().filter(|d| self.outcome.is_none() && d.until > Instant::now())
    }
    fn extend(&mut self) {
        let until = Instant::now() + self.intent.policy.lease;
        if let Some(driver) = &mut self.driver {
            driver.until = until;
        }
    }
    fn summary(&self) -> RunSummary {
        let mut summary = RunSummary::new(&self.intent, self.intent.at);
        summary.wrote = self.wrote;
        summary.lines = self.lines.len() as u64;
        summary.outcome = self.outcome.clone();
        summary.driven_by = self.driver().map(|d| d.who.clone());
        summary
    }
}

impl State {
    fn told(&mut self, at: Timestamp) {
        self.told = Some((at, Instant::now()));
    }
    fn wall(&self) -> Timestamp {
        self.told.map_or(Timestamp::default(), |(at, when)| at.after(when.elapsed()))
    }
    fn next_epoch(&mut self, target: &TargetId) -> u64 {
        let target = self.targets.entry(target.clone()).or_default();
        target.epoch += 1;
        target.epoch
    }
    fn drive(&mut self, nth: usize, epoch: u64, by: &Intent) -> Lease {
        let run = &mut self.runs[nth];
        run.epoch = epoch;
        let who = format!("{} (process {})", by.who, std::process::id());
        run.driver = Some(Driver { who, since: by.at, until: Instant::now() });
        run.extend();
        Lease { run: run.intent.run.clone(), epoch }
    }
    fn mark(&mut self, target: &TargetId, entry: &LedgerEntry) {
        let ledger = &mut self.targets.entry(target.clone()).or_default().ledger;
        ledger.retain(|e| e.release.id != entry.release.id);
        ledger.push(entry.clone());
    }
    fn push(&mut self, nth: usize, line: Line) {
        let target = self.runs[nth].intent.target.clone();
        match effect_of(&line) {
            Effect::Nothing => {}
            Effect::Writes => self.runs[nth].wrote = self.runs[nth].wrote.or(Some(line.at)),
            Effect::Marks(entry) => self.mark(&target, entry),
            Effect::MayHold { name, until } => {
                let held = held(&self.runs[nth].intent, name, None, until);
                if !self.holds.iter().any(|h| h.hold.run == held.hold.run && h.name == held.name) {
                    self.holds.push(held);
                }
            }
            Effect::Holds { name, was, until } => {
                let held = held(&self.runs[nth].intent, name, Some(was), until);
                self.forget_hold(&held.hold.run, name);
                self.holds.push(held);
            }
            Effect::HoldsNot { name } => {
                let run = self.runs[nth].intent.run.clone();
                self.forget_hold(&run, name);
            }
            Effect::Ends(outcome) => {
                self.runs[nth].outcome = Some(outcome.clone());
                self.runs[nth].driver = None;
                self.targets.entry(target).or_default().unfinished = None;
            }
        }
        self.runs[nth].lines.push(line);
    }
    fn forget_hold(&mut self, run: &RunId, name: &str) {
        self.holds.retain(|h| h.hold.run != *run || h.name != name);
    }
    /// Ends a run from outside.
    fn end(&mut self, nth: usize, epoch: u64, at: Timestamp, outcome: Outcome) {
        let run = &mut self.runs[nth];
        run.epoch = epoch;
        let times = run.lines.last().map_or((Duration::ZERO, Duration::ZERO), |l| (l.elapsed, l.acted));
        let line = last_line(run.lines.len() as u64, epoch, at, times, outcome);
        self.push(nth, line);
    }
    fn begin(&mut self, intent: &Intent) -> Result<Begun> {
        self.told(intent.at);
        let known = self.by_id.get(&intent.run).copied();
        if let Some(run) = known.map(|nth| &self.runs[nth]) {
            if run.intent.target != intent.target {
                return Err(taken(intent, &run.intent.target));
            }
            if run.outcome.is_some() {
                return Ok(Begun::Over { intent: Box::new(run.intent.clone()), lines: run.lines.clone() });
            }
        }
        let mut replaced = None;
        if let Some(nth) = self.targets.get(&intent.target).and_then(|t| t.unfinished) {
            let run = &self.runs[nth];
            if let Some(driver) = run.driver().filter(|_| !intent.policy.take_over) {
                let (run, who, since) = (run.intent.run.clone(), driver.who.clone(), driver.since);
                return Ok(Begun::Busy { run, who, since });
            }
            let epoch = self.next_epoch(&intent.target);
            if !intent.policy.take_over || known == Some(nth) {
                let lease = self.drive(nth, epoch, intent);
                let run = &self.runs[nth];
                return Ok(Begun::Adopted { lease, intent: Box::new(run.intent.clone()), lines: run.lines.clone() });
            }
            self.end(nth, epoch, intent.at, superseded(intent));
            replaced = Some(self.runs[nth].intent.run.clone());
        }
        let epoch = self.next_epoch(&intent.target);
        let nth = self.runs.len();
        self.runs.push(Run { intent: intent.clone(), lines: vec![], epoch, driver: None, wrote: None, outcome: None });
        self.by_id.insert(intent.run.clone(), nth);
        self.targets.entry(intent.target.clone()).or_default().unfinished = Some(nth);
        Ok(Begun::Fresh { lease: self.drive(nth, epoch, intent), replaced })
    }
    fn append(&mut self, lease: &Lease, lines: &[Line]) -> Result<()> {
        check_lines(lease, lines)?;
        let nth = self.holder(APPEND, lease)?;
        let run = &self.runs[nth];
        let first = lines.first().map_or(0, |l| l.seq);
        let there = overlap(lease, run.lines.len() as u64, first, lines.len())?;
        for line in &lines[..there] {
            if usize::try_from(line.seq).ok().and_then(|n| run.lines.get(n)) != Some(line) {
                return Err(other_line(lease, line.seq));
            }
        }
        if run.outcome.is_some() && there < lines.len() {
            return Err(ended(APPEND, &lease.run));
        }
        for line in &lines[there..] {
            self.told(line.at);
            self.push(nth, line.clone());
        }
        self.runs[nth].extend();
        Ok(())
    }
    /// The run of a lease, if it is the current one.
    fn holder(&self, operation: &str, lease: &Lease) -> Result<usize> {
        let nth = *self.by_id.get(&lease.run).ok_or_else(|| unknown(operation, &lease.run))?;
        let current = self.runs[nth].epoch;
        if current == lease.epoch { Ok(nth) } else { Err(fenced(operation, lease, current)) }
    }
    fn give_up(&mut self, run: &RunId, who: &str, why: &str) -> Result<()> {
        let nth = *self.by_id.get(run).ok_or_else(|| unknown(GIVE_UP, run))?;
        if self.runs[nth].outcome.is_some() {
            return Err(ended(GIVE_UP, run));
        }
        if let Some(driver) = self.runs[nth].driver() {
            return Err(driven(run, &driver.who));
        }
        let target = self.runs[nth].intent.target.clone();
        let epoch = self.next_epoch(&target);
        self.end(nth, epoch, self.wall(), given_up(who, why));
        Ok(())
    }
}

impl MemoryJournal {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    // Nothing panics while it holds the lock, so what a poisoned lock guards is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJournal").field("runs", &self.state().runs.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        self.state().begin(intent)
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        self.state().append(lease, lines)
    }
    async fn renew(&self, lease: &Lease) -> Result<()> {
        let mut state = self.state();
        let nth = state.holder(RENEW, lease)?;
        let run = &mut state.runs[nth];
        if run.outcome.is_some() {
            return Err(ended(RENEW, &lease.run));
        }
        run.extend();
        Ok(())
    }
    fn let_go(&self, lease: &Lease) {
        let mut state = self.state();
        if let Ok(nth) = state.holder("let go", lease)
            && let Some(driver) = &mut state.runs[nth].driver
        {
            driver.until = Instant::now();
        }
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        let state = self.state();
        let wanted = |run: &&Run| {
            let intent = &run.intent;
            query.run.as_ref().is_none_or(|id| intent.run == *id)
                && query.target.as_ref().is_none_or(|target| intent.target == *target)
                && query.parent.as_ref().is_none_or(|parent| intent.parent.as_ref() == Some(parent))
                && (!query.unfinished || run.outcome.is_none())
                && query.since.is_none_or(|since| intent.at >= since)
        };
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        Ok(state.runs.iter().rev().filter(wanted).take(limit).map(Run::summary).collect())
    }
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        let state = self.state();
        let nth = *state.by_id.get(run).ok_or_else(|| unknown(READ, run))?;
        Ok((state.runs[nth].intent.clone(), state.runs[nth].lines.clone()))
    }
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        self.state().give_up(run, who, why)
    }
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        self.state().mark(target, entry);
        Ok(())
    }
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
        let state = self.state();
        Ok(state.targets.get(target).map_or(vec![], |t| t.ledger.iter().rev().cloned().collect()))
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        Ok(self.state().holds.clone())
    }
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        self.state().forget_hold(run, name);
        Ok(())
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        Arc::new(self.shelf.clone())
    }
}

/// A shelf in memory. Clones share it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> rollback_core::Result<()> {
/// use rollback_core::{Shelf, journal::MemoryShelf};
/// let shelf = MemoryShelf::new();
/// let mut writer = shelf.write("manifest/1").await?;
/// writer.push(b"index.html").await?;
/// let artifact = writer.seal().await?;
/// assert_eq!(shelf.read(&artifact).await?.next().await?.as_deref(), Some(&b"index.html"[..]));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct MemoryShelf(Arc<Mutex<OnShelf>>);

#[derive(Default)]
struct OnShelf {
    artifacts: HashMap<Digest, Arc<Vec<u8>>>,
    checkpoints: HashMap<String, (u64, Payload)>,
}

impl MemoryShelf {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    fn shelf(&self) -> MutexGuard<'_, OnShelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryShelf").field("artifacts", &self.shelf().artifacts.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shelf for MemoryShelf {
    async fn write(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>> {
        Ok(Box::new(Writer { shelf: self.clone(), kind: kind.to_owned(), bytes: vec![] }))
    }
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        let bytes = self.shelf().artifacts.get(&artifact.digest).cloned().ok_or_else(|| gone(artifact))?;
        if bytes.len() as u64 != artifact.bytes {
            return Err(damaged(artifact));
        }
        Ok(Box::new(Reader { bytes, at: 0 }))
    }
    async fn save(&self, key: &str, epoch: u64, checkpoint: Payload) -> Result<()> {
        let mut shelf = self.shelf();
        match shelf.checkpoints.get(key) {
            Some((theirs, _)) if *theirs > epoch => Err(newer_checkpoint(key, epoch, *theirs)),
            _ => {
                shelf.checkpoints.insert(key.to_owned(), (epoch, checkpoint));
                Ok(())
            }
        }
    }
    async fn load(&self, key: &str) -> Result<Option<Payload>> {
        Ok(self.shelf().checkpoints.get(key).map(|(_, checkpoint)| checkpoint.clone()))
    }
}

struct Writer {
    shelf: MemoryShelf,
    kind: String,
    bytes: Vec<u8>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("kind", &self.kind).field("bytes", &self.bytes.len()).finish()
    }
}

#[async_trait]
impl ArtifactWriter for Writer {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    async fn seal(self: Box<Self>) -> Result<Artifact> {
        let artifact =
            Artifact { digest: Digest::of(&self.bytes), bytes: self.bytes.len() as u64, kind: self.kind.clone() };
        self.shelf.shelf().artifacts.insert(artifact.digest.clone(), Arc::new(self.bytes));
        Ok(artifact)
    }
}

struct Reader {
    // Cannot be another's: the key is their digest, and nothing writes to them.
    bytes: Arc<Vec<u8>>,
    at: usize,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("at", &self.at).field("of", &self.bytes.len()).finish()
    }
}

#[async_trait]
impl ArtifactReader for Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let chunk = rest[..rest.len().min(super::CHUNK)].to_vec();
        self.at += chunk.len();
        Ok(Some(chunk))
    }
}
