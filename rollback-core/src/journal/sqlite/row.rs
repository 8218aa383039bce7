//! A line as a row, made by the caller's task so that the writer has less to do.

use super::{
    db::{FORMAT, Sealed, int, nanos, nat, parse, to_json},
    fault::damaged,
    sealed::{Field, Sum, sum},
};
use crate::{
    Intent, Line, Payload, Result, RunId, Timestamp,
    journal::rules::{APPEND, Effect, artifacts_of, effect_of, held},
};
use std::time::Duration;

/// A line as a row, with what it does besides.
pub(super) struct LineRow {
    pub(super) seq: i64,
    pub(super) epoch: i64,
    pub(super) at: i64,
    pub(super) elapsed: i64,
    pub(super) acted: i64,
    pub(super) entry: String,
    pub(super) sum: Sum,
    pub(super) also: Vec<Also>,
}

/// What a line does besides being there.
pub(super) enum Also {
    /// The first write is about to be sent.
    Writes,
    /// The ledger says so now. Its key needs the run's target, so the writer seals it.
    Marks(Box<crate::LedgerEntry>),
    /// This freeze is held; without `was`, it may be.
    Holds { name: String, was: Option<Payload>, until: Option<Timestamp> },
    /// This freeze is not held.
    HoldsNot { name: String },
    /// The run is over.
    Ends { outcome: String },
    /// This artifact is the run's.
    Keeps { digest: String },
}

impl LineRow {
    pub(super) fn new(run: &RunId, line: &Line) -> Result<Self> {
        let mut also = match effect_of(line) {
            Effect::Nothing => vec![],
            Effect::Writes => vec![Also::Writes],
            Effect::Marks(entry) => vec![Also::Marks(Box::new(entry.clone()))],
            Effect::MayHold { name, until } => vec![Also::Holds { name: name.to_owned(), was: None, until }],
            Effect::Holds { name, was, until } => {
                vec![Also::Holds { name: name.to_owned(), was: Some(was.clone()), until }]
            }
            Effect::HoldsNot { name } => vec![Also::HoldsNot { name: name.to_owned() }],
            Effect::Ends(outcome) => vec![Also::Ends { outcome: to_json(APPEND, outcome)? }],
        };
        also.extend(artifacts_of(line).into_iter().map(|a| Also::Keeps { digest: a.digest.to_string() }));
        let mut row = Self {
            seq: int(line.seq),
            epoch: int(line.epoch),
            at: int(line.at.0),
            elapsed: nanos(line.elapsed),
            acted: nanos(line.acted),
            entry: to_json(APPEND, &line.entry)?,
            sum: Sum::default(),
            also,
        };
        row.sum = row.seal(run.as_str(), FORMAT);
        Ok(row)
    }
    fn seal(&self, run: &str, v: i64) -> Sum {
        let numbers = [self.seq, v, self.epoch, self.at, self.elapsed, self.acted].map(Field::Int);
        let [seq, v, epoch, at, elapsed, acted] = numbers;
        sum("line", &[Field::Text(run), seq, v, epoch, at, elapsed, acted, Field::Text(&self.entry)])
    }
}

/// A line as it was read: its row, its format and its checksum.
pub(super) struct StoredLine {
    row: LineRow,
    v: i64,
    sum: Vec<u8>,
}

impl StoredLine {
    /// Columns: seq, v, epoch, at, elapsed, acted, entry, sum.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            row: LineRow {
                seq: row.get(0)?,
                epoch: row.get(2)?,
                at: row.get(3)?,
                elapsed: row.get(4)?,
                acted: row.get(5)?,
                entry: row.get(6)?,
                sum: Sum::default(),
                also: vec![],
            },
            v: row.get(1)?,
            sum: row.get(7)?,
        })
    }
    /// The line, if it is the one that was written as number `seq`.
    pub(super) fn open(self, operation: &str, run: &str, seq: u64) -> Result<Line> {
        if nat(self.row.seq) != seq {
            return Err(damaged(operation, format!("line {seq} of run {run} is missing")));
        }
        if self.row.seal(run, self.v)[..] != self.sum {
            return Err(damaged(operation, format!("the checksum of line {seq} of run {run} is wrong")));
        }
        let entry = parse(operation, self.v, &self.row.entry, || format!("line {seq} of run {run}"))?;
        let time = |n: i64| Duration::from_nanos(nat(n));
        let (elapsed, acted) = (time(self.row.elapsed), time(self.row.acted));
        Ok(Line::new(seq, nat(self.row.epoch), Timestamp(nat(self.row.at)), elapsed, acted, entry))
    }
}

/// A hold of a run, sealed.
pub(super) fn sealed_hold(
    intent: &Intent,
    name: &str,
    was: Option<&Payload>,
    until: Option<Timestamp>,
) -> Result<Sealed> {
    Sealed::new(APPEND, "hold", &[intent.run.as_str(), name], &held(intent, name, was, until))
}
