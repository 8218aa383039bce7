//! The lines of a run in the journal.

use crate::{
    Applied, Approved, Artifact, Chosen, DiffLine, Digest, Evidence, Fault, Finding, Identity, LedgerEntry, Outcome,
    PartMap, Payload, Plan, ReleaseId, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// Which step: its rung and its place in it, both from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct At {
    /// The rung.
    pub rung: usize,
    /// The step.
    pub step: usize,
}

/// `rung.step`, from 0: the second half of [`Work::key`](crate::Work::key).
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.rung, self.step)
    }
}

/// What happened. The state of a run is the fold of its entries, so each says all that matters of it. What is large in one
/// is boxed: ten thousand runs at once hold all their lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Entry {
    /// Which object the run is about.
    Identified(Identity),
    /// Which release is left, which is reached, and why this one.
    Chose(Arc<Chosen>),
    /// A release known bad is gone to all the same.
    Overridden {
        /// Which.
        release: ReleaseId,
        /// Why.
        why: String,
    },
    /// What will be done.
    Planned(Arc<Plan>),
    /// The steps of a rung, made ready.
    Prepared {
        /// Which rung.
        rung: usize,
        /// In the order of its steps.
        approved: Vec<Arc<Approved>>,
        /// What was found out.
        findings: Box<[Finding]>,
    },
    /// Someone said yes.
    Approved {
        /// To what: the digest of all that was prepared, or the name of a gate.
        digest: Digest,
        /// Who.
        by: String,
    },
    /// A freeze is about to be asked for. From now on it may hold.
    Freezing {
        /// Its name.
        name: String,
        /// Until when it is asked to hold.
        #[serde(default)]
        until: Option<Timestamp>,
    },
    /// A freeze holds; or does not (`None`), for certain.
    Froze {
        /// Its name.
        name: String,
        /// What was there before.
        was: Option<Box<Payload>>,
        /// Until when it holds.
        until: Option<Timestamp>,
    },
    /// Whether a freeze holds could not be found out. It counts as held until it is lifted.
    FreezeUnclear {
        /// Its name.
        name: String,
        /// What went wrong.
        fault: Box<Fault>,
    },
    /// The release was tried elsewhere, and worked.
    Tried {
        /// By what.
        by: String,
        /// What was seen.
        evidence: Vec<Evidence>,
    },
    /// What was saved before the first change.
    EvidenceKept(Vec<Artifact>),
    /// Intent: durable before the write is sent.
    Doing {
        /// Which step.
        at: At,
        /// What was approved.
        approved: Digest,
    },
    /// The write answered.
    Did {
        /// Which step.
        at: At,
        /// What.
        applied: Box<Applied>,
    },
    /// The answer was lost: it is looked for before anything else.
    Unclear {
        /// Which step.
        at: At,
        /// What went wrong.
        fault: Box<Fault>,
    },
    /// The write had no effect.
    NotDone {
        /// Which step.
        at: At,
        /// Why not.
        fault: Box<Fault>,
    },
    /// There was nothing to write; the gates hold all the same.
    AlreadySo {
        /// Which step.
        at: At,
    },
    /// An abort that did not say where it would land has landed: what was first seen to stand after it. What shows up later
    /// is not its doing.
    Landed {
        /// Which step.
        at: At,
        /// On what, part by part.
        on: PartMap<ReleaseId>,
    },
    /// A gate was told that something is unhealthy: from now on none is passed because nobody can tell.
    Unhealthy {
        /// Which step.
        at: At,
        /// What was seen.
        evidence: Vec<Evidence>,
    },
    /// Settled, and through its gates.
    StepDone {
        /// Which step.
        at: At,
    },
    /// All steps of a rung are done; the verifiers begin.
    Reached {
        /// Which rung.
        rung: usize,
    },
    /// A verifier held through its window.
    Held {
        /// Which, from 0.
        nth: usize,
        /// What it saw last.
        evidence: Vec<Evidence>,
    },
    /// A rung failed; the next one begins where it stopped.
    RungFailed {
        /// Which rung.
        rung: usize,
        /// Why; and behind that, of one that was passed over, what was found out while it was prepared.
        why: String,
    },
    /// What is not as the plan said it would be.
    Residue(Vec<DiffLine>),
    /// What is now known of a release; the journal keeps it in its ledger.
    Marked(Box<LedgerEntry>),
    /// A support was lost, and gone on without.
    Lost {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// The end. The journal releases the lock with it.
    Ended(Box<Outcome>),
}

/// A line of a run in the journal: an entry with its place and its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Line {
    /// From 0, without a gap.
    pub seq: u64,
    /// Of the lease under which it was written.
    pub epoch: u64,
    /// On the wall clock of the writer.
    pub at: Timestamp,
    /// How long the run has been driven, over all processes.
    pub elapsed: Duration,
    /// How much of that counts against the deadline.
    pub acted: Duration,
    /// What happened.
    pub entry: Entry,
}

impl Line {
    /// A line.
    pub fn new(seq: u64, epoch: u64, at: Timestamp, elapsed: Duration, acted: Duration, entry: Entry) -> Self {
        Self { seq, epoch, at, elapsed, acted, entry }
    }
}
