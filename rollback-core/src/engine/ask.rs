//! What the machine asks for, and what it is answered: the whole of its contact with the world.

use crate::{
    Applied, Approval, Approved, Artifact, At, Begun, Change, Digest, EventKind, Fault, Health, Hold, Identity, Intent,
    Lease, Line, Look, Observation, Outcome, PartId, Past, Payload, Plan, Prepared, Situation, Token, Trace,
    Unplannable, Verdict,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// What is lost where the ledger could not be read.
pub(super) const LEDGER: &str = "ledger";

type Answered<T> = Result<T, Fault>;

/// Something happened: an answer to the last [`Ask`], or a beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Answer {
    /// The first one.
    Start(Arc<Intent>),
    /// To [`Ask::Identify`].
    Identified(Answered<Identity>),
    /// To [`Ask::Begin`].
    Begun(Answered<Begun>),
    /// To [`Ask::Append`]. A failure also in place of any answer to a write or a freeze that was not sent, because the journal
    /// did not say that the lease is still held.
    Appended(Answered<()>),
    /// To [`Ask::Observe`].
    Observed(Answered<Observation>),
    /// To [`Ask::Past`], with what was lost on the way.
    Past(Answered<Past>, Vec<(String, Fault)>),
    /// To [`Ask::Plan`].
    Planned(Result<Plan, Unplannable>),
    /// To [`Ask::Prepare`].
    Prepared(Answered<Prepared>),
    /// To [`Ask::Approve`].
    Approval(Answered<Option<Approval>>),
    /// To [`Ask::Freeze`].
    Froze(Answered<Payload>),
    /// To [`Ask::Held`].
    Held(Answered<Vec<Hold>>),
    /// To [`Ask::Try`].
    Tried(Answered<Verdict>),
    /// To [`Ask::Evidence`]: what was kept, and why that is not all.
    Evidence(Vec<Artifact>, Option<Fault>),
    /// To [`Ask::Apply`].
    Applied(Answered<Applied>),
    /// To [`Ask::Check`].
    Checked(Answered<Health>),
    /// To [`Ask::Verify`].
    Verified(Answered<Verdict>),
    /// To [`Ask::Sleep`] and [`Ask::Await`].
    Woke,
    /// Instead of any answer: the lease is lost.
    Fenced(Fault),
}

/// What is wanted next. `within` bounds every call; when it is over, the answer is a transient fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ask {
    /// Which object is it? A quick look.
    Identify {
        /// How long it may take.
        within: Duration,
    },
    /// [`Journal::begin`](crate::Journal::begin).
    Begin {
        /// With this.
        intent: Arc<Intent>,
        /// How long it may take.
        within: Duration,
    },
    /// [`Journal::append`](crate::Journal::append).
    Append {
        /// Under this lease.
        lease: Lease,
        /// All of them or none.
        lines: Arc<Vec<Line>>,
        /// How long it may take.
        within: Duration,
    },
    /// [`Target::observe`](crate::Target::observe).
    Observe {
        /// How.
        look: Look,
        /// How long it may take.
        within: Duration,
    },
    /// History, ledger, trace and recent runs.
    Past {
        /// How long it may take.
        within: Duration,
    },
    /// [`Strategy::plan`](crate::Strategy::plan).
    Plan(Box<Situation>),
    /// [`Target::prepare`](crate::Target::prepare).
    Prepare {
        /// Which step.
        at: At,
        /// What.
        change: Change,
        /// How long it may take.
        within: Duration,
    },
    /// [`Approver::ask`](crate::Approver::ask).
    Approve {
        /// What the approval must name.
        digest: Digest,
        /// What for.
        of: Vec<String>,
        /// How long it may take.
        within: Duration,
    },
    /// [`Freeze::freeze`](crate::Freeze::freeze).
    Freeze {
        /// Which.
        name: String,
        /// With this.
        hold: Box<Hold>,
        /// How long it may take.
        within: Duration,
    },
    /// [`Freeze::held`](crate::Freeze::held): after a lost answer, or a crash.
    Held {
        /// Which.
        name: String,
        /// How long it may take.
        within: Duration,
    },
    /// A sample of what tries the release elsewhere first.
    Try {
        /// Since when it is tried.
        since: Duration,
        /// How long it may take.
        within: Duration,
    },
    /// [`EvidenceSource::collect`](crate::EvidenceSource::collect).
    Evidence {
        /// How long it may take.
        within: Duration,
        /// How much it may be.
        bytes: u64,
    },
    /// [`Target::apply`](crate::Target::apply).
    Apply {
        /// Which step.
        at: At,
        /// What.
        approved: Arc<Approved>,
        /// Of the read that was judged.
        token: Token,
        /// What to leave on the target.
        trace: Box<Trace>,
        /// How long it may take.
        within: Duration,
    },
    /// [`HealthCheck::check`](crate::HealthCheck::check).
    Check {
        /// Of which part.
        part: PartId,
        /// Since the last write.
        since: Duration,
        /// How long it may take.
        within: Duration,
    },
    /// [`Verifier::verify`](crate::Verifier::verify).
    Verify {
        /// Which, from 0.
        nth: usize,
        /// Since its window began.
        since: Duration,
        /// How long it may take.
        within: Duration,
    },
    /// Nothing, for so long.
    Sleep(Duration),
    /// Nothing, until a look may show something new ([`Target::nudges`](crate::Target::nudges)), for so long at most.
    Await(Duration),
    /// Nothing more.
    Finish(Outcome),
}

/// What a step of the machine gives: what observers hear, and one thing to do. At most one asks for an answer, so that no
/// write can slip past a failed append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// For observers, in order; and for the spool, where there is no journal.
    pub events: Vec<EventKind>,
    /// What is wanted next.
    pub ask: Ask,
}
