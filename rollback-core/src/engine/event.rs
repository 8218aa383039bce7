//! What observers hear.

use crate::{Evidence, Intent, Line, Outcome, RunId, TargetId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Something happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// In which.
    pub run: RunId,
    /// Of what.
    pub target: TargetId,
    /// When, on the wall clock.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

impl Event {
    /// An event.
    pub fn new(run: RunId, target: TargetId, at: Timestamp, kind: EventKind) -> Self {
        Self { run, target, at, kind }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// A run began, or was adopted from where an earlier process left it.
    Began {
        /// What it was asked to do: the journalled intent, if it was adopted.
        intent: Arc<Intent>,
        /// How many lines it had already.
        adopted: Option<u64>,
    },
    /// A line is durable; or, where the journal is lost, kept in memory and spooled.
    Journalled(Box<Line>),
    /// A support was lost.
    Lost {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// Something is waited for.
    Waiting {
        /// What for.
        why: String,
    },
    /// A check, or a sample of a verifier.
    Sample {
        /// Which.
        of: String,
        /// `healthy`, `unhealthy`, `unknown`, `holds`, `fails`.
        says: String,
        /// What was seen.
        evidence: Vec<Evidence>,
    },
    /// A long write goes on.
    Progress {
        /// So much is done.
        done: u64,
        /// Of so much.
        of: u64,
    },
    /// The end.
    Ended(Outcome),
}
