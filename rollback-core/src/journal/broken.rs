//! A journal that could not be opened.

use crate::{
    Begun, Fault, HeldFreeze, Intent, Journal, Lease, LedgerEntry, Line, Result, RunId, RunQuery, RunSummary, Shelf,
    TargetId, journal::MemoryShelf,
};
use async_trait::async_trait;
use std::sync::Arc;

/// Answers every call with the failure to open the real journal, so that a run is refused with it, and break-glass goes on
/// without and says so. Checkpoints and artifacts are kept in memory.
///
/// ```
/// # use rollback_core::{Error, Kind, journal::BrokenJournal};
/// let error = Error::new(Kind::Unavailable, "open the journal").with_message("the disk is full");
/// let journal = BrokenJournal::new(error.into_fault());
/// # let _ = journal;
/// ```
#[derive(Clone, Debug)]
pub struct BrokenJournal {
    fault: Fault,
    shelf: Arc<MemoryShelf>,
}

impl BrokenJournal {
    /// With why. It is not tried again.
    pub fn new(mut fault: Fault) -> Self {
        fault.transient = false;
        Self { fault, shelf: Arc::default() }
    }
    fn no<T>(&self) -> Result<T> {
        Err(self.fault.clone().into())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Journal for BrokenJournal {
    async fn begin(&self, _: &Intent) -> Result<Begun> {
        self.no()
    }
    async fn append(&self, _: &Lease, _: &[Line]) -> Result<()> {
        self.no()
    }
    async fn renew(&self, _: &Lease) -> Result<()> {
        self.no()
    }
    fn let_go(&self, _: &Lease) {}
    async fn runs(&self, _: &RunQuery) -> Result<Vec<RunSummary>> {
        self.no()
    }
    async fn read(&self, _: &RunId) -> Result<(Intent, Vec<Line>)> {
        self.no()
    }
    async fn give_up(&self, _: &RunId, _: &str, _: &str) -> Result<()> {
        self.no()
    }
    async fn mark(&self, _: &TargetId, _: &LedgerEntry) -> Result<()> {
        self.no()
    }
    async fn ledger(&self, _: &TargetId) -> Result<Vec<LedgerEntry>> {
        self.no()
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        self.no()
    }
    async fn forget_hold(&self, _: &RunId, _: &str) -> Result<()> {
        self.no()
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        self.shelf.clone()
    }
}
