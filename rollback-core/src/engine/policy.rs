//! What a run may do, and how long.

use crate::{Weight, hours, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Must a support be there, or is its loss said loudly and gone on without?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Support {
    /// Without it, nothing is touched.
    Must,
    /// Without it, the loss is reported and the run goes on.
    IfThere,
}

/// Who ordered the run. A budget and irreversibility stop a machine, not a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderedBy {
    /// A person, who sees what happens.
    Person,
    /// A watch, a controller.
    Machine,
}

/// How many rollbacks of one target a machine may begin in a window. Those of people count too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// So many, three at the most.
    pub runs: u32,
    /// In so long.
    pub window: Duration,
}

impl Budget {
    /// Nobody may set more.
    pub const MOST: u32 = 3;

    /// How many it really allows.
    pub fn allows(self) -> u32 {
        self.runs.min(Self::MOST)
    }
}

/// What a run may do, and how long. Break-glass and dry run are policies of the same engine; there is no second path.
///
/// ```
/// use rollback_core::{Policy, minutes};
/// let policy = Policy::default().with_deadline(minutes(10)).with_dry_run(true);
/// assert!(policy.dry_run);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Policy {
    /// Who ordered it. Default: a person.
    pub ordered_by: OrderedBy,
    /// The journal, and the lock in it. Default: must.
    pub journal: Support,
    /// The freezes. Default: must.
    pub freeze: Support,
    /// Whether what needs approval waits for one. Default: yes. Break-glass: no.
    pub approvals: bool,
    /// A word of its own: go back although it may lose data. Default: no.
    pub irreversible: bool,
    /// Go to a release that is known bad, for this reason; also takes an approval. Default: no.
    pub known_bad: Option<String>,
    /// Plan, prepare and say what would be done, and what would stand in the way ([`Report::findings`](crate::report::Report::findings));
    /// change nothing. Default: no.
    pub dry_run: bool,
    /// A fresh plan in place of a run that holds the lock; that one ends at its next append. Default: no.
    pub take_over: bool,
    /// How many a machine may begin. Default: 1 in an hour.
    pub budget: Budget,
    /// How long collecting evidence may take. Default: 60 s.
    pub evidence: Duration,
    /// How many bytes of evidence are kept. Default: 8 MiB.
    pub evidence_bytes: u64,
    /// How long the run may act. Waiting for an approval and the verifiers' windows have their own bounds. Default: 30 min.
    pub deadline: Duration,
    /// How long an approval is waited for. Default: 4 h.
    pub approval_within: Duration,
    /// How long preparing one change may take. Default: 5 min.
    pub prepare_within: Duration,
    /// How long any other call may take. Default: 30 s.
    pub reply_within: Duration,
    /// How long a health check or a sample of a verifier may take. Default: 10 s.
    pub check_within: Duration,
    /// Time between two looks. Default: 2 s.
    pub poll: Duration,
    /// How long a write with a lost answer is looked for before it is sent again. Default: 10 s.
    pub look_again_for: Duration,
    /// How long the lock outlives its holder; renewed at a third of it. Default: 30 s.
    pub lease: Duration,
    /// How long a freeze holds, unless lifted before. Default: 24 h.
    pub freeze_for: Option<Duration>,
    /// The share of the capacity found at the start that must go on serving. Default: 80 %.
    pub floor: Weight,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ordered_by: OrderedBy::Person,
            journal: Support::Must,
            freeze: Support::Must,
            approvals: true,
            irreversible: false,
            known_bad: None,
            dry_run: false,
            take_over: false,
            budget: Budget { runs: 1, window: hours(1) },
            evidence: seconds(60),
            evidence_bytes: 8 << 20,
            deadline: minutes(30),
            approval_within: hours(4),
            prepare_within: minutes(5),
            reply_within: seconds(30),
            check_within: seconds(10),
            poll: seconds(2),
            look_again_for: seconds(10),
            lease: seconds(30),
            freeze_for: Some(hours(24)),
            floor: Weight::percent(80),
        }
    }
}

impl Policy {
    /// A person who cannot wait: every support only if it is there and answers soon, no prompt, evidence for 5 s at the
    /// most, a held lock taken over. What is irreversible still needs [`with_irreversible`](Policy::with_irreversible), and a
    /// release known bad still needs an approval.
    pub fn break_glass() -> Self {
        Self {
            journal: Support::IfThere,
            freeze: Support::IfThere,
            approvals: false,
            take_over: true,
            evidence: seconds(5),
            reply_within: seconds(5),
            floor: Weight::NONE,
            ..Self::default()
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $setter:ident $field:ident: $kind:ty),* $(,)?) => {
        impl Policy { $(
            $(#[$doc])*
            pub fn $setter(mut self, $field: $kind) -> Self {
                self.$field = $field;
                self
            }
        )* }
    };
}
setters!(
    /// Who ordered it.
    with_ordered_by ordered_by: OrderedBy,
    /// Whether the journal must be there.
    with_journal journal: Support,
    /// Whether the freezes must succeed.
    with_freeze freeze: Support,
    /// Whether what needs approval waits for one.
    with_approvals approvals: bool,
    /// Go back although it may lose data.
    with_irreversible irreversible: bool,
    /// Go to a release that is known bad, for this reason.
    with_known_bad known_bad: Option<String>,
    /// Change nothing.
    with_dry_run dry_run: bool,
    /// Take over a held lock.
    with_take_over take_over: bool,
    /// How many a machine may begin.
    with_budget budget: Budget,
    /// How long collecting evidence may take.
    with_evidence evidence: Duration,
    /// How many bytes of evidence are kept.
    with_evidence_bytes evidence_bytes: u64,
    /// How long the run may act.
    with_deadline deadline: Duration,
    /// How long an approval is waited for.
    with_approval_within approval_within: Duration,
    /// How long preparing one change may take.
    with_prepare_within prepare_within: Duration,
    /// How long any other call may take.
    with_reply_within reply_within: Duration,
    /// How long a check may take.
    with_check_within check_within: Duration,
    /// Time between two looks.
    with_poll poll: Duration,
    /// How long a write with a lost answer is looked for.
    with_look_again_for look_again_for: Duration,
    /// How long the lock outlives its holder.
    with_lease lease: Duration,
    /// How long a freeze holds.
    with_freeze_for freeze_for: Option<Duration>,
    /// The share of the capacity that must go on serving.
    with_floor floor: Weight,
);
