//! What a target can do, and what it promises. The same for the life of the value; the conformance laws read it, so
//! that they never pretend.

use crate::{Change, ChangeKind, VerbName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What keeps a late or concurrent write out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fencing {
    /// Nothing: read, compare, write, with a gap in between.
    BestEffort,
    /// Compare-and-set with the token of the read.
    Token,
    /// The platform also refuses writes of a lower epoch.
    Enforced,
}

/// Who brings a new release to the instances a few at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pacing {
    /// The platform.
    Platform,
    /// Whoever calls.
    Us,
}

/// How parts come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parts {
    /// There is one.
    One,
    /// Fixed places, with any release in each.
    Places,
    /// Every release is a part for as long as it exists (Lambda, Knative).
    PerRelease,
    /// A change may make a new one (a task set, a restored database).
    Made,
}

/// How traffic is shared among parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weights {
    /// It is not.
    None,
    /// One part has all of it.
    Switch,
    /// By numbers.
    Exact {
        /// Their step, in basis points.
        grain: u16,
        /// How many parts may serve at once.
        at_once: u8,
    },
    /// By how many instances each part has.
    ByCapacity,
}

/// How it is found out whether a write with a lost answer happened. From the easiest to the hardest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OnUnknown {
    /// Send it again: the same twice is the same once.
    Again,
    /// The platform knows the write by its key.
    FindByKey,
    /// Look until it shows, or long enough that it would have.
    Observe,
    /// Nobody can tell: a person must.
    AskHuman,
}

/// When a plan should use a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Before a release changes: a backup.
    BeforeRelease,
    /// After it has: an invalidation, a restart of consumers.
    AfterRelease,
    /// Only when asked for.
    Asked,
}

/// What a target can do.
///
/// ```
/// use rollback_core::{Capabilities, ChangeKind, Fencing, OnUnknown, Parts, Weights};
/// let blue_green = Capabilities::new(Fencing::Token)
///     .with_parts(Parts::Places, Weights::Switch)
///     .with_change(ChangeKind::Traffic, OnUnknown::Again)
///     .with_change(ChangeKind::Capacity, OnUnknown::Again);
/// assert!(blue_green.changes.contains_key(&ChangeKind::Release));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// What keeps other writes out.
    pub fencing: Fencing,
    /// Who paces.
    pub pacing: Pacing,
    /// How parts come and go.
    pub parts: Parts,
    /// How traffic is shared.
    pub weights: Weights,
    /// The changes it can make, each with how an unknown outcome is settled. What is absent is refused before any I/O.
    pub changes: BTreeMap<ChangeKind, OnUnknown>,
    /// What it does besides, and when a plan should ask for it.
    pub verbs: BTreeMap<VerbName, When>,
    /// Whether going back loses nothing. Where it does, a person must say so.
    pub reversible: bool,
    /// Whether it keeps the [`Trace`](crate::Trace) of a rollback, and drops it when somebody deploys: then one that is
    /// missing says that what serves was deployed since. Default: no.
    #[serde(default)]
    pub keeps_trace: bool,
}

impl Capabilities {
    /// The simplest target: one part, one release; the same call again has the same effect.
    pub fn new(fencing: Fencing) -> Self {
        Self {
            fencing,
            pacing: Pacing::Us,
            parts: Parts::One,
            weights: Weights::None,
            changes: [(ChangeKind::Release, OnUnknown::Again)].into(),
            verbs: BTreeMap::new(),
            reversible: true,
            keeps_trace: false,
        }
    }
    /// Who paces.
    pub fn with_pacing(mut self, pacing: Pacing) -> Self {
        self.pacing = pacing;
        self
    }
    /// How parts come and go, and how traffic is shared among them.
    pub fn with_parts(mut self, parts: Parts, weights: Weights) -> Self {
        self.parts = parts;
        self.weights = weights;
        self
    }
    /// It can make such changes.
    pub fn with_change(mut self, kind: ChangeKind, on_unknown: OnUnknown) -> Self {
        self.changes.insert(kind, on_unknown);
        self
    }
    /// It cannot make such changes.
    pub fn without_change(mut self, kind: ChangeKind) -> Self {
        self.changes.remove(&kind);
        self
    }
    /// It has such a verb.
    pub fn with_verb(mut self, name: impl Into<VerbName>, when: When) -> Self {
        self.verbs.insert(name.into(), when);
        self.changes.entry(ChangeKind::Verb).or_insert(OnUnknown::Again);
        self
    }
    /// Going back may lose something.
    pub fn irreversible(mut self) -> Self {
        self.reversible = false;
        self
    }
    /// It keeps the trace of a rollback until somebody deploys.
    pub fn keeping_trace(mut self) -> Self {
        self.keeps_trace = true;
        self
    }
    /// Can it make this change?
    pub fn supports(&self, change: &Change) -> bool {
        let verb = match change {
            Change::Verb { name, .. } => self.verbs.contains_key(name),
            _ => true,
        };
        verb && change.kinds().iter().all(|kind| self.changes.contains_key(kind))
    }
    /// How an unknown outcome of this change is settled: the hardest way of its kinds.
    pub fn on_unknown(&self, change: &Change) -> OnUnknown {
        change.kinds().iter().filter_map(|kind| self.changes.get(kind)).copied().max().unwrap_or(OnUnknown::AskHuman)
    }
}
