//! Where the record goes when there is no journal: a folder of plain files. Best effort, and said so.

use crate::{
    Artifact, Begun, Entry, Error, Identity, Intent, Journal, Kind, Lease, Line, Outcome, Result, RunId, RunQuery,
    TargetId, Timestamp, Trace, journal::rules::last_line,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const READ: &str = "read the record in the spool";
const HAND_OVER: &str = "hand the record over to the journal";

/// A folder that takes the record of a run that has no journal, and the trace that keeps break-glass from walking on.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let spool = rollback_core::engine::Spool::new(dir.path());
/// assert!(spool.trace(&"dir:/srv/checkout".into(), None)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
}

/// A trace, and of which object it is.
#[derive(Serialize, Deserialize)]
struct Left {
    #[serde(default)]
    object: Option<Identity>,
    #[serde(flatten)]
    trace: Trace,
}

impl Spool {
    /// In this folder, which is made when it is first needed, readable by its owner alone.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    /// In the user's state folder: `$XDG_STATE_HOME/rollback`, `~/.local/state/rollback`, or the system's temporary folder.
    pub fn default_dir() -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(std::env::temp_dir)
            .join("rollback")
    }
    /// Which folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// Where the lines of a run go.
    pub fn file_of(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{}.jsonl", plain(run.as_str())))
    }
    fn intent_of(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{}.intent.json", plain(run.as_str())))
    }
    fn trace_of(&self, target: &TargetId) -> PathBuf {
        // The digest tells apart what looks the same once it is a plain file name.
        let digest = crate::Digest::of(target.as_str().as_bytes());
        let short = digest.as_str().get(7..23).unwrap_or_default();
        let name: String = plain(target.as_str()).chars().take(64).collect();
        self.dir.join(format!("{name}-{short}.trace.json"))
    }
    fn ready(&self) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.dir).map_err(|e| Error::from_io(format!("make the spool {}", self.dir.display()), e))
    }
    /// Adds lines to the record of a run.
    ///
    /// # Errors
    /// As the file system. The run goes on, and says that this, too, is lost.
    pub fn append(&self, intent: &Intent, lines: &[&Line]) -> Result<()> {
        self.ready()?;
        let (path, ordered) = (self.file_of(&intent.run), self.intent_of(&intent.run));
        if !ordered.exists() {
            replace(&ordered, &serde_json::to_vec(intent).map_err(|e| cannot("write", &ordered, e.into()))?)?;
        }
        let failed = |e| Error::from_io(format!("write {}", path.display()), e);
        let mut text = vec![];
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|e| failed(e.into()))?;
            text.push(b'\n');
        }
        let mut options = fs::OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_data().map_err(failed)
    }
    /// Where a piece of evidence of a run goes.
    pub fn evidence_of(&self, run: &RunId, artifact: &Artifact) -> PathBuf {
        let short = artifact.digest.as_str().get(7..23).unwrap_or_default();
        self.dir.join(format!("{}-{}-{short}.evidence", plain(run.as_str()), plain(&artifact.kind)))
    }
    /// Keeps a piece of evidence beside the record of its run.
    ///
    /// # Errors
    /// As the file system.
    pub fn keep(&self, run: &RunId, artifact: &Artifact, bytes: &[u8]) -> Result<()> {
        self.ready()?;
        let path = self.evidence_of(run, artifact);
        let failed = |e| Error::from_io(format!("write {}", path.display()), e);
        let mut options = fs::OpenOptions::new();
        options.create(true).write(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.sync_data()).map_err(failed)
    }
    /// Leaves a trace of a rollback of this object, in place of the one before.
    ///
    /// # Errors
    /// As the file system.
    pub fn leave(&self, target: &TargetId, object: Option<&Identity>, trace: &Trace) -> Result<()> {
        self.ready()?;
        let path = self.trace_of(target);
        let left = Left { object: object.cloned(), trace: trace.clone() };
        replace(&path, &serde_json::to_vec(&left).map_err(|e| cannot("write", &path, e.into()))?)
    }
    /// The trace that the last rollback of a target left here. None if it was of another object of the same name: one that
    /// was made anew since has nothing to do with it.
    ///
    /// # Errors
    /// As the file system, and for a file that cannot be read.
    pub fn trace(&self, target: &TargetId, object: Option<&Identity>) -> Result<Option<Trace>> {
        let path = self.trace_of(target);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Left>(&text)
                .map(|left| {
                    let another = left.object.as_ref().zip(object).is_some_and(|(was, is)| was != is);
                    (!another).then_some(left.trace)
                })
                .map_err(|e| Error::from_io(format!("read {}", path.display()), e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_io(format!("read {}", path.display()), e)),
        }
    }
}

/// Reading it, and taking it back.
impl Spool {
    /// The record of a run: what it was asked to do, and its lines. The lines that no journal took are of epoch 0.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a run without a record here; [`Kind::Invalid`] for a record that is torn, edited or has a gap;
    /// otherwise as the file system.
    pub fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        let (path, ordered) = (self.file_of(run), self.intent_of(run));
        let text = |path: &Path| {
            fs::read_to_string(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::InvalidData => corrupt(path, "it is no text"),
                _ => cannot("read", path, e),
            })
        };
        let (text, order) = (text(&path)?, text(&ordered)?);
        let intent: Intent = serde_json::from_str(&order).map_err(|e| corrupt(&ordered, &e.to_string()))?;
        if intent.run != *run {
            return Err(corrupt(&ordered, &format!("it is of run {}", intent.run)));
        }
        let mut lines: Vec<Line> = vec![];
        for (nth, line) in text.lines().enumerate() {
            let line: Line =
                serde_json::from_str(line).map_err(|e| corrupt(&path, &format!("line {}: {e}", nth + 1)))?;
            if line.seq != nth as u64 {
                return Err(corrupt(&path, &format!("line {nth} of the run is missing before line {}", line.seq)));
            }
            lines.push(line);
        }
        if !text.ends_with('\n') {
            return Err(corrupt(&path, "its last line is torn"));
        }
        Ok((intent, lines))
    }

    /// Hands the record of a run over to a journal that is there again: the run with its lines, what they say of releases and
    /// freezes (so that [`unfreeze`](crate::freeze::unfreeze) knows them), and its evidence. What the journal has heard of a
    /// release since then stands. A run whose process died before its end is ended, as stuck: its last writes may not be in
    /// the record. Again, it changes nothing. The files stay.
    ///
    /// ```
    /// # use rollback_core::{engine::Spool, prelude::*, testing::{Bad, FakePlatform, Good}, Error};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let full: Result<MemoryJournal> = Err(Error::new(Kind::Unavailable, "open the journal").with_message("disk full"));
    /// let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
    /// let report = Rollback::of(shop).journal(full).spool(dir.path()).break_glass("all of it is down").await;
    /// // The day after, when the journal is there again.
    /// let journal = MemoryJournal::new();
    /// Spool::new(dir.path()).hand_over(report.run(), &journal).await?;
    /// assert_eq!(Report::of(&journal, report.run()).await?.outcome(), report.outcome());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Spool::read); [`Kind::Conflict`] if the target has a run that has not ended, or the journal has another end
    /// of this one; otherwise as the journal. The journal is as it was then, but for an empty run that the next call fills.
    ///
    /// # Cancel safety
    /// Dropped, the same call goes on.
    pub async fn hand_over(&self, run: &RunId, journal: &dyn Journal) -> Result<()> {
        let (intent, lines) = self.read(run)?;
        let conflict = |message: String| {
            Err(Error::new(Kind::Conflict, HAND_OVER)
                .with_message(message)
                .with_target(&intent.target)
                .without_effect())
        };
        let unfinished = |other: &RunId| {
            conflict(format!("run {other} has not ended: resume it, or give it up, then hand over again"))
        };
        let other_record = || conflict(format!("the journal has another record of run {run}: compare the two by hand"));
        let query = RunQuery { unfinished: true, ..RunQuery::of_target(&intent.target) };
        if let Some(other) = journal.runs(&query).await?.iter().find(|other| other.run != *run) {
            return unfinished(&other.run);
        }
        // Nobody is taken over for a record.
        let mut begins = intent.clone();
        Arc::make_mut(&mut begins.policy).take_over = false;
        let (lease, there) = match journal.begin(&begins).await? {
            Begun::Fresh { lease, .. } => (lease, vec![]),
            Begun::Adopted { lease, lines, .. } if lease.run == *run => (lease, lines),
            Begun::Adopted { lease, .. } => {
                journal.let_go(&lease);
                return unfinished(&lease.run);
            }
            Begun::Busy { run, who, .. } => {
                return conflict(format!("{who} is at it (run {run}): hand over once it has ended"));
            }
            Begun::Over { lines: there, .. } => {
                return if follows(&there, &lines) { Ok(()) } else { other_record() };
            }
        };
        let handed_over = match follows(&lines, &there) {
            true => self.fill(&intent, &lease, &lines, there.len(), journal).await,
            false => other_record(),
        };
        if handed_over.is_err() {
            journal.let_go(&lease);
        }
        handed_over
    }

    /// All lines from this one on, in one append.
    async fn fill(
        &self,
        intent: &Intent,
        lease: &Lease,
        lines: &[Line],
        there: usize,
        journal: &dyn Journal,
    ) -> Result<()> {
        let known = journal.ledger(&intent.target).await?;
        let outdated = |entry: &Entry| match entry {
            Entry::Marked(mark) => known.iter().any(|e| e.release.id == mark.release.id && e.at > mark.at),
            _ => false,
        };
        let mut new: Vec<Line> = lines[there..].iter().filter(|line| !outdated(&line.entry)).cloned().collect();
        if !lines.iter().any(|line| matches!(line.entry, Entry::Ended(_))) {
            let last =
                lines.last().map_or((intent.at, (Duration::ZERO, Duration::ZERO)), |l| (l.at, (l.elapsed, l.acted)));
            new.push(last_line(0, 0, last.0, last.1, died()));
        }
        for (seq, line) in (there as u64..).zip(&mut new) {
            (line.seq, line.epoch) = (seq, lease.epoch);
        }
        let kept = new.iter().flat_map(|line| match &line.entry {
            Entry::EvidenceKept(kept) => &kept[..],
            _ => &[],
        });
        for artifact in kept {
            // What could not be kept beside is lost, and the record says so.
            let Ok(bytes) = fs::read(self.evidence_of(&intent.run, artifact)) else { continue };
            let mut writer = journal.shelf().write(&artifact.kind).await?;
            writer.push(&bytes).await?;
            writer.seal().await?;
        }
        journal.append(lease, &new).await
    }
}

/// One record begins as the other, whatever epochs their lines are of, and whichever marks were left out as outdated.
fn follows(long: &[Line], short: &[Line]) -> bool {
    fn bare(lines: &[Line]) -> impl Iterator<Item = (Timestamp, Duration, &Entry)> {
        lines.iter().filter(|l| !matches!(l.entry, Entry::Marked(_))).map(|l| (l.at, l.elapsed, &l.entry))
    }
    let mut long = bare(long);
    bare(short).all(|line| long.next() == Some(line))
}

fn died() -> Outcome {
    Outcome::Stuck {
        at: "its process died without a journal, and the record in the spool ends here".into(),
        parts: vec![],
        human: "look at the target: what was done last may not be in the record".into(),
    }
}

fn cannot(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::from_io(format!("{what} {}", path.display()), e)
}

fn corrupt(path: &Path, why: &str) -> Error {
    let message = format!("{} is damaged, and was left as it is: {why}", path.display());
    Error::new(Kind::Invalid, READ).with_message(message).with_transient(false).without_effect()
}

/// All of it or what was there before.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| cannot("write", path, e);
    let next = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&next).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_data()).map_err(failed)?;
    fs::rename(&next, path).map_err(failed)
}

fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}
