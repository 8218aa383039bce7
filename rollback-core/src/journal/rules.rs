//! What every journal does the same: how lines must follow each other, what a line means besides itself, the lines that a
//! journal writes on its own, and the words in which it refuses. For who implements [`Journal`](crate::Journal).
//!
//! ```
//! use rollback_core::{Kind, Lease, RunId, journal::rules};
//! let lease = Lease { run: RunId::new("r1"), epoch: 1 };
//! assert_eq!(rules::overlap(&lease, 4, 3, 2)?, 1); // line 3 is there already, line 4 is new
//! assert_eq!(rules::overlap(&lease, 4, 5, 1).unwrap_err().kind(), Kind::Conflict);
//! # Ok::<(), rollback_core::Error>(())
//! ```

use crate::{
    Artifact, Entry, Error, HeldFreeze, Hold, Intent, Kind, Lease, LedgerEntry, Line, Outcome, Payload, Result, RunId,
    TargetId, Timestamp,
};
use std::time::Duration;

/// [`Journal::append`](crate::Journal::append), as errors call it.
pub const APPEND: &str = "append to the journal";
/// [`Journal::renew`](crate::Journal::renew), as errors call it.
pub const RENEW: &str = "renew the lease";
/// [`Journal::begin`](crate::Journal::begin), as errors call it.
pub const BEGIN: &str = "begin the run";
/// [`Journal::give_up`](crate::Journal::give_up), as errors call it.
pub const GIVE_UP: &str = "give up the run";
/// [`Journal::read`](crate::Journal::read), as errors call it.
pub const READ: &str = "read the run";
/// [`Shelf::read`](crate::Shelf::read), as errors call it.
pub const OPEN_ARTIFACT: &str = "open the artifact";
/// [`ArtifactReader::next`](crate::ArtifactReader::next), as errors call it.
pub const READ_ARTIFACT: &str = "read the artifact";
/// [`Shelf::save`](crate::Shelf::save), as errors call it.
pub const SAVE: &str = "save the checkpoint";

/// What a line does besides being there.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Effect<'a> {
    /// Nothing.
    Nothing,
    /// The first write is about to be sent.
    Writes,
    /// The ledger says so now.
    Marks(&'a LedgerEntry),
    /// This freeze may hold from now on, because it is about to be asked for. Where it is held already, it stays so.
    MayHold {
        /// Its name.
        name: &'a str,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// This freeze is held.
    Holds {
        /// Its name.
        name: &'a str,
        /// What was there before.
        was: &'a Payload,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// This freeze does not hold: there is nothing to lift.
    HoldsNot {
        /// Its name.
        name: &'a str,
    },
    /// The run is over, the lock free.
    Ends(&'a Outcome),
}

/// What a line does besides being there.
pub fn effect_of(line: &Line) -> Effect<'_> {
    match &line.entry {
        Entry::Doing { .. } => Effect::Writes,
        Entry::Marked(entry) => Effect::Marks(entry),
        Entry::Freezing { name, until } => Effect::MayHold { name, until: *until },
        Entry::Froze { name, was: Some(was), until } => Effect::Holds { name, was, until: *until },
        Entry::Froze { name, was: None, .. } => Effect::HoldsNot { name },
        Entry::Ended(outcome) => Effect::Ends(outcome),
        _ => Effect::Nothing,
    }
}

/// The hold of a run on a freeze; without `was`, one of which it is not known whether it holds.
pub fn held(intent: &Intent, name: &str, was: Option<&Payload>, until: Option<Timestamp>) -> HeldFreeze {
    let hold = Hold::new(intent.run.clone(), intent.target.clone(), intent.who.clone(), intent.why.clone());
    HeldFreeze { name: name.to_owned(), hold: hold.with_until(until), was: was.cloned() }
}

/// Lines of one append must follow each other, stand under its lease, and end with the end if there is one.
///
/// # Errors
/// [`Kind::Invalid`] otherwise.
pub fn check_lines(lease: &Lease, lines: &[Line]) -> Result<()> {
    let invalid = |message: String| Err(Error::new(Kind::Invalid, APPEND).with_message(message).without_effect());
    for pair in lines.windows(2) {
        if pair[0].seq.checked_add(1) != Some(pair[1].seq) {
            return invalid(format!("line {} follows line {} in one append: number them on", pair[1].seq, pair[0].seq));
        }
        if matches!(pair[0].entry, Entry::Ended(_)) {
            return invalid(format!("line {} comes after the end of the run", pair[1].seq));
        }
    }
    match lines.iter().find(|l| l.epoch != lease.epoch) {
        Some(l) => invalid(format!("line {} is of epoch {}, its lease of epoch {}", l.seq, l.epoch, lease.epoch)),
        None => Ok(()),
    }
}

/// How many of `count` lines from number `first` are there already, given how many lines the run has: those must be
/// compared. What is left is new.
///
/// # Errors
/// [`Kind::Conflict`] for a gap.
pub fn overlap(lease: &Lease, have: u64, first: u64, count: usize) -> Result<usize> {
    if first > have {
        let message = format!("run {} has {have} lines, so line {first} would leave a gap", lease.run);
        return Err(conflict(APPEND, message));
    }
    Ok(usize::try_from(have - first).unwrap_or(usize::MAX).min(count))
}

/// Somebody else was there first, and nothing happened.
pub fn conflict(operation: &str, message: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, operation).with_message(message).without_effect()
}
/// Another line stands there.
pub fn other_line(lease: &Lease, seq: u64) -> Error {
    conflict(APPEND, format!("line {seq} of run {} is there already, and says something else", lease.run))
}
/// The run is over.
pub fn ended(operation: &str, run: &RunId) -> Error {
    conflict(operation, format!("run {run} has ended"))
}
/// The lease is not the current one.
pub fn fenced(operation: &str, lease: &Lease, current: u64) -> Error {
    conflict(
        operation,
        format!("run {} is driven by somebody else since: its epoch is {current}, not {}", lease.run, lease.epoch),
    )
}
/// The journal does not know the run.
pub fn unknown(operation: &str, run: &RunId) -> Error {
    Error::new(Kind::NotFound, operation).with_message(format!("no run {run} in this journal")).without_effect()
}
/// The run's id is taken by a run of another target.
pub fn taken(intent: &Intent, target: &TargetId) -> Error {
    Error::new(Kind::Invalid, BEGIN)
        .with_message(format!("run {} is a run of {target}: every run needs an id of its own", intent.run))
        .with_target(&intent.target)
        .without_effect()
}
/// Somebody drives the run.
pub fn driven(run: &RunId, who: &str) -> Error {
    conflict(GIVE_UP, format!("run {run} is driven by {who}: stop that first"))
}
/// An artifact is gone.
pub fn gone(artifact: &Artifact) -> Error {
    Error::new(Kind::NotFound, OPEN_ARTIFACT)
        .with_message(format!("no {} {} on this shelf", artifact.kind, artifact.digest))
        .without_effect()
}
/// The bytes of an artifact are not those that were sealed.
pub fn damaged(artifact: &Artifact) -> Error {
    Error::new(Kind::Invalid, READ_ARTIFACT)
        .with_message(format!("the bytes of {} {} are not those that were sealed", artifact.kind, artifact.digest))
        .without_effect()
}
/// Somebody with a higher epoch has saved.
pub fn newer_checkpoint(key: &str, epoch: u64, theirs: u64) -> Error {
    conflict(SAVE, format!("epoch {theirs} has saved under {key} already, and this is epoch {epoch}"))
}

/// The end of a run that another one replaces.
pub fn superseded(by: &Intent) -> Outcome {
    Outcome::Superseded { by: format!("run {} of {}", by.run, by.who) }
}

/// The end of a run that somebody gave up.
pub fn given_up(who: &str, why: &str) -> Outcome {
    Outcome::Stuck {
        at: format!("given up by {who}: {why}"),
        parts: vec![],
        human: "look at the target: the run was ended where it stood, without touching it".into(),
    }
}

/// The line that ends a run from outside, as number `seq`. `times`: of the line before it.
pub fn last_line(seq: u64, epoch: u64, at: Timestamp, times: (Duration, Duration), outcome: Outcome) -> Line {
    Line::new(seq, epoch, at, times.0, times.1, Entry::Ended(Box::new(outcome)))
}

/// What lies on the shelf and belongs to the run since this line.
pub fn artifacts_of(line: &Line) -> Vec<&Artifact> {
    match &line.entry {
        Entry::EvidenceKept(kept) => kept.iter().collect(),
        Entry::Prepared { approved, .. } => approved.iter().filter_map(|a| a.artifact.as_deref()).collect(),
        _ => vec![],
    }
}
