//! The record of a simulation: what was seen from the outside, in the order in which it happened. Nothing in it is what an
//! engine claims, but for the lines that it journals and the end that it reports, which are judged by the rest.

use super::{
    fault::{Fault, Stage},
    scenario::Order,
};
use crate::{
    Applied, Change, Digest, Effect, Entry, Identity, Intent, Kind, Line, Ours, Outcome, PartId, PartMap, PartState,
    Policy, RunId, Timestamp,
    testing::fake::{Happened, Scene},
};
use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

/// Which process: of which controller, and its how many-eth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    pub(super) controller: u8,
    pub(super) nth: u16,
}

pub(super) type PartStates = Arc<PartMap<PartState>>;

/// What was seen. What the judge does not read, the trace and its hash do.
#[derive(Clone, Debug)]
#[allow(dead_code)]
pub(super) enum What {
    Started {
        run: RunId,
        order: Order,
        policy: Box<Policy>,
    },
    Died,
    Begun {
        run: RunId,
        epoch: u64,
        intent: Box<Intent>,
        lines: u64,
        took_over: bool,
        replaced: Option<RunId>,
        damaged: bool,
    },
    Busy {
        run: RunId,
    },
    BeginFailed {
        run: RunId,
    },
    Appended {
        run: RunId,
        epoch: u64,
        lines: Vec<Line>,
    },
    AppendFailed {
        run: RunId,
        fenced: bool,
    },
    Renewed {
        run: RunId,
    },
    LetGo {
        run: RunId,
        epoch: u64,
    },
    Read {
        quick: bool,
        stale: bool,
        parts: PartStates,
        identity: Identity,
        ours: Ours,
    },
    Send {
        run: RunId,
        key: String,
        epoch: u64,
        change: Box<Change>,
    },
    Answered {
        key: String,
        answer: Result<Applied, (Kind, Effect)>,
    },
    World(Box<Happened>),
    Health {
        part: Option<PartId>,
        says: &'static str,
    },
    Sample {
        verifier: String,
        says: &'static str,
    },
    Approved {
        digest: Digest,
    },
    /// A freeze was sent.
    Freeze {
        run: RunId,
        until: Option<Timestamp>,
    },
    /// It arrived.
    Frozen {
        run: RunId,
        until: Option<Timestamp>,
    },
    /// It was answered with what was there before, or failed.
    FreezeAnswered {
        run: RunId,
        was: Option<u32>,
    },
    Unfrozen {
        run: RunId,
    },
    /// The pipeline did what it does unless it is frozen.
    DeployedAgain,
    /// A secret stands where it must not.
    Leak {
        place: &'static str,
        before: String,
    },
    Ended {
        outcome: Outcome,
        lines: Vec<Line>,
        scene: Box<Scene>,
        /// What the report names as frozen, and as perhaps frozen.
        frozen: [bool; 2],
    },
    /// All is over, and everything that the journal knows was unfrozen.
    Over {
        /// What was held before that: by the pipeline itself, by the journal, and for certain by it.
        held: [BTreeSet<RunId>; 3],
        /// What is still held after it: by the pipeline itself, and by the journal.
        left: [BTreeSet<RunId>; 2],
        /// How the pipeline is set.
        setting: u32,
    },
    Fault {
        fault: Fault,
        stage: Stage,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) at: Duration,
    pub(super) life: Life,
    pub(super) what: What,
}

/// FNV-1a over what is written into it.
#[derive(Debug)]
pub(super) struct Hasher(pub(super) u64);

impl Hasher {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    /// Takes a record in.
    pub(super) fn take(&mut self, record: &Record) {
        // How an end is worded may name the process.
        let _ = match &record.what {
            What::Ended { outcome, scene, .. } => {
                write!(self, "{:?}{:?}{}{:?}", record.at, record.life, outcome.name(), scene)
            }
            other => write!(self, "{:?}{:?}{:?}", record.at, record.life, other),
        };
    }
}

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// One line of a trace, for people.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} s  {}.{}  ", self.at.as_secs_f64(), self.life.controller, self.life.nth)?;
        match &self.what {
            What::Started { run, order, .. } => write!(f, "started {run} ({order:?})"),
            What::Begun { run, epoch, lines, took_over, damaged, .. } => {
                write!(f, "begun {run} epoch {epoch}, {lines} lines there")?;
                if *took_over {
                    f.write_str(", took over")?;
                }
                if *damaged {
                    f.write_str(", DAMAGED")?;
                }
                Ok(())
            }
            What::Appended { run, epoch, lines } => {
                write!(f, "appended {run} epoch {epoch}:")?;
                for line in lines {
                    match &line.entry {
                        Entry::Planned(plan) => write!(f, "\n{plan}\n")?,
                        Entry::Prepared { rung, approved, .. } => {
                            write!(f, " [{} prepared {rung}: {}]", line.seq, approved.len())?
                        }
                        entry => write!(f, " [{} {:?} {entry:?}]", line.seq, line.elapsed)?,
                    }
                }
                Ok(())
            }
            What::Read { quick, stale, parts, ours, .. } => {
                write!(f, "read{}{}:", if *quick { " quick" } else { "" }, if *stale { " STALE" } else { "" })?;
                write_parts(f, parts)?;
                write!(f, " ours {ours:?}")
            }
            What::World(happened) => match &**happened {
                Happened::Wrote { key, epoch, landed, after, .. } => {
                    write!(f, "world: {key} epoch {epoch} {landed:?}; now")?;
                    write_parts(f, &after.parts)
                }
                other @ Happened::Refused { .. } => write!(f, "world: {other:?}"),
                Happened::Else(action, after) => {
                    write!(f, "world: somebody {action:?}; now")?;
                    write_parts(f, &after.parts)
                }
            },
            What::Ended { outcome, scene, .. } => {
                write!(f, "ended: {outcome}; the world:")?;
                write_parts(f, &scene.parts)
            }
            other => write!(f, "{other:?}"),
        }
    }
}

fn write_parts(f: &mut fmt::Formatter<'_>, parts: &PartMap<PartState>) -> fmt::Result {
    for (id, part) in parts {
        write!(f, " {id}({}", part.running)?;
        if let Some(told) = &part.wanted {
            write!(f, " told {told}")?;
        }
        if let Some(weight) = part.weight {
            write!(f, " {weight}")?;
        }
        if let (Some(capacity), Some(ready)) = (part.capacity, part.ready) {
            write!(f, " {ready}/{capacity}")?;
        }
        if part.settled != crate::Settled::Yes {
            write!(f, " …")?;
        }
        write!(f, ")")?;
    }
    Ok(())
}
