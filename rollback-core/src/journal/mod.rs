//! The durable record of runs; and, because all of it must agree, the lock, the ledger of releases, the holds of freezes and
//! the shelf for bulk.
//!
//! Not here: what a run decides. A journal stores lines and keeps others out.

mod broken;
mod holder;
mod memory;
mod retention;
pub mod rules;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use broken::BrokenJournal;
pub use holder::Holder;
pub use memory::{MemoryJournal, MemoryShelf};
pub use retention::{Pruned, Retention};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteJournal, SqliteOptions};

use crate::{
    Artifact, Hold, Intent, LedgerEntry, Line, Outcome, Payload, Result, RunId, TargetId, Timestamp, engine::OrderedBy,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc};

/// How much of an artifact is read at once.
const CHUNK: usize = 64 << 10;

/// The right to write lines of a run, and to act on its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Of which run.
    pub run: RunId,
    /// Grows with every holder of the target's lock, over all runs: the fencing epoch.
    pub epoch: u64,
}

/// What [`Journal::begin`] answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Begun {
    /// A new run.
    Fresh {
        /// Its lease.
        lease: Lease,
        /// The run that was taken over, and is ended with it.
        replaced: Option<RunId>,
    },
    /// A run of this target was left unfinished and nobody drives it: it is adopted, with its own intent.
    Adopted {
        /// Its lease, with a new epoch.
        lease: Lease,
        /// What it was asked to do.
        intent: Box<Intent>,
        /// All its lines.
        lines: Vec<Line>,
    },
    /// Somebody drives a run of this target.
    Busy {
        /// Which run.
        run: RunId,
        /// Who drives it: person, host, process.
        who: String,
        /// Since when.
        since: Timestamp,
    },
    /// The run with this very id has ended. It is not begun again.
    Over {
        /// What it was asked to do.
        intent: Box<Intent>,
        /// All its lines.
        lines: Vec<Line>,
    },
}

/// Which runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunQuery {
    /// This one.
    pub run: Option<RunId>,
    /// Of this target.
    pub target: Option<TargetId>,
    /// Of this group.
    pub parent: Option<RunId>,
    /// Only those that have not ended.
    pub unfinished: bool,
    /// Only those begun at or after this moment.
    pub since: Option<Timestamp>,
    /// At most so many; 0: all.
    pub limit: usize,
}

impl RunQuery {
    /// All of them.
    pub fn all() -> Self {
        Self::default()
    }
    /// This one.
    pub fn of_run(run: &RunId) -> Self {
        Self { run: Some(run.clone()), ..Self::default() }
    }
    /// Of this target.
    pub fn of_target(target: &TargetId) -> Self {
        Self { target: Some(target.clone()), ..Self::default() }
    }
    /// Of this group.
    pub fn of_parent(parent: &RunId) -> Self {
        Self { parent: Some(parent.clone()), ..Self::default() }
    }
    /// Only those that have not ended.
    pub fn unfinished() -> Self {
        Self { unfinished: true, ..Self::default() }
    }
    /// Only those begun at or after this moment.
    pub fn with_since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }
    /// At most so many, the newest.
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

/// A run, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunSummary {
    /// Which.
    pub run: RunId,
    /// The group it is part of.
    pub parent: Option<RunId>,
    /// Of what.
    pub target: TargetId,
    /// Who ordered it.
    pub who: String,
    /// Why.
    pub why: String,
    /// A person or a machine.
    pub ordered_by: OrderedBy,
    /// When it began.
    pub began: Timestamp,
    /// When its first write was about to be sent, if it came that far.
    pub wrote: Option<Timestamp>,
    /// How many lines it has.
    pub lines: u64,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// Who drives it now, if anybody does.
    pub driven_by: Option<String>,
}

impl RunSummary {
    /// A run that has just begun.
    pub fn new(intent: &Intent, began: Timestamp) -> Self {
        Self {
            run: intent.run.clone(),
            parent: intent.parent.clone(),
            target: intent.target.clone(),
            who: intent.who.clone(),
            why: intent.why.clone(),
            ordered_by: intent.policy.ordered_by,
            began,
            wrote: None,
            lines: 0,
            outcome: None,
            driven_by: None,
        }
    }
}

/// A freeze that is held, or may be, with what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFreeze {
    /// The freeze's name.
    pub name: String,
    /// Who holds it, for what, until when.
    pub hold: Hold,
    /// What was there before. `None`: it was asked for, and whether it holds is not known; [`unfreeze`](crate::freeze::unfreeze)
    /// looks.
    pub was: Option<Payload>,
}

/// The durable record of runs.
///
/// # Contract
/// - One run of a target is driven at a time: `begin` gives a lease, or says who has it. A lease lasts
///   [`Policy::lease`](crate::Policy) beyond its last `begin`, `append` or `renew`; a holder that is known to be dead loses
///   it at once. Every lease of a target has a higher epoch than all before.
/// - `append` is durable when it returns, all lines of it or none. It is refused with
///   [`Kind::Conflict`](crate::Kind::Conflict), without effect, for an epoch that is not the current one, for a sequence
///   number that leaves a gap, and after the run has ended. The same lines at the same numbers again are no error: a lost
///   answer may be asked for again.
/// - [`Entry::Marked`](crate::Entry) lines update the ledger, [`Entry::Freezing`](crate::Entry) and
///   [`Entry::Froze`](crate::Entry) lines the holds (what was asked for may hold until the answer is there), and
///   [`Entry::Ended`](crate::Entry) ends the run and frees the lock: each in the same transaction as the line.
/// - A line that cannot be read (torn, of an unknown version, with a gap before it) is an error, never guessed over.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Journal: Debug + Send + Sync + 'static {
    /// Begins a run; or adopts the one that was left unfinished on this target; or, where the intent's policy says
    /// `take_over`, ends whatever run the target has ([`Outcome::Superseded`](crate::Outcome)) and begins a fresh one.
    ///
    /// # Errors
    /// As the storage. Not for a held lock: that is [`Begun::Busy`].
    async fn begin(&self, intent: &Intent) -> Result<Begun>;
    /// Appends lines, whose numbers follow each other.
    ///
    /// # Errors
    /// See the contract; otherwise as the storage.
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()>;
    /// Makes the lease last again.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict) if it is lost: stop.
    async fn renew(&self, lease: &Lease) -> Result<()>;
    /// The future that drove the run was dropped: whoever comes next may adopt it at once. Best effort, does not block.
    fn let_go(&self, lease: &Lease);
    /// Runs, newest first.
    ///
    /// # Errors
    /// As the storage.
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>>;
    /// The intent of a run and all its lines.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) for an unknown run.
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)>;
    /// Ends an unfinished run that nobody drives, as [`Outcome::Stuck`](crate::Outcome), without touching its target.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict) if somebody drives it or it has ended.
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()>;
    /// Notes what is known of a release, outside of a run.
    ///
    /// # Errors
    /// As the storage.
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()>;
    /// The latest standing of every release of a target that was ever marked, newest mark first.
    ///
    /// # Errors
    /// As the storage.
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>>;
    /// Freezes that are held or may be, of all targets, lapsed ones included.
    ///
    /// # Errors
    /// As the storage.
    async fn holds(&self) -> Result<Vec<HeldFreeze>>;
    /// Forgets a hold that was unfrozen. Forgetting it twice is no error.
    ///
    /// # Errors
    /// As the storage.
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()>;
    /// Where bulk lies.
    fn shelf(&self) -> Arc<dyn Shelf>;
}

/// Where artifacts and checkpoints lie. It comes with the journal; back ends see it through [`Work`](crate::Work) alone.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Shelf: Debug + Send + Sync + 'static {
    /// Begins an artifact.
    ///
    /// # Errors
    /// As the storage.
    async fn write(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>>;
    /// Opens an artifact.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if it is gone.
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>>;
    /// Saves a checkpoint under a key, durably.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict) once a higher epoch has saved under it.
    async fn save(&self, key: &str, epoch: u64, checkpoint: Payload) -> Result<()>;
    /// The latest checkpoint under a key.
    ///
    /// # Errors
    /// As the storage.
    async fn load(&self, key: &str) -> Result<Option<Payload>>;
}

/// An artifact being written. Dropped before it is sealed, it was never there.
#[async_trait]
pub trait ArtifactWriter: Send + Debug {
    /// More of it.
    ///
    /// # Errors
    /// As the storage.
    async fn push(&mut self, bytes: &[u8]) -> Result<()>;
    /// All of it: durable when this returns.
    ///
    /// # Errors
    /// As the storage.
    async fn seal(self: Box<Self>) -> Result<Artifact>;
}

/// An artifact being read, in chunks of any size.
#[async_trait]
pub trait ArtifactReader: Send + Debug {
    /// The next chunk; `None` at the end, where the digest has been checked.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if the bytes are not those that were sealed.
    async fn next(&mut self) -> Result<Option<Vec<u8>>>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: Journal + ?Sized> Journal for $pointer<T> {
            async fn begin(&self, intent: &Intent) -> Result<Begun> {
                (**self).begin(intent).await
            }
            async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
                (**self).append(lease, lines).await
            }
            async fn renew(&self, lease: &Lease) -> Result<()> {
                (**self).renew(lease).await
            }
            fn let_go(&self, lease: &Lease) {
                (**self).let_go(lease);
            }
            async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
                (**self).runs(query).await
            }
            async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
                (**self).read(run).await
            }
            async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
                (**self).give_up(run, who, why).await
            }
            async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
                (**self).mark(target, entry).await
            }
            async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
                (**self).ledger(target).await
            }
            async fn holds(&self) -> Result<Vec<HeldFreeze>> {
                (**self).holds().await
            }
            async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
                (**self).forget_hold(run, name).await
            }
            fn shelf(&self) -> Arc<dyn Shelf> {
                (**self).shelf()
            }
        }
    )* };
}
forward!(Arc, Box);
