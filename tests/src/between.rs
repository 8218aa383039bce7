//! A journal with something between it and its caller: a disk that fails, a file system that hangs.

use async_trait::async_trait;
use rollback_core::{
    Begun, Error, HeldFreeze, Intent, Journal, Kind, Lease, LedgerEntry, Line, Result, RunId, RunQuery, RunSummary,
    Shelf, TargetId,
};
use std::{fmt, sync::Arc};

/// What is asked of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A run begins.
    Begin,
    /// Lines up to this one.
    Append(u64),
    /// The lease is renewed.
    Renew,
    /// The ledger is read.
    Ledger,
    /// Anything else.
    Other,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes through.
    Goes,
    /// It fails.
    Fails,
    /// It is never answered.
    Hangs,
}

/// A journal whose calls do not all come through.
pub struct Between {
    inner: Arc<dyn Journal>,
    fate: Box<dyn Fn(Call) -> Fate + Send + Sync>,
}

impl Between {
    /// In front of this journal.
    pub fn new(inner: impl Journal, fate: impl Fn(Call) -> Fate + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(inner), fate: Box::new(fate) }
    }
    async fn pass(&self, call: Call) -> Result<&Arc<dyn Journal>> {
        match (self.fate)(call) {
            Fate::Goes => Ok(&self.inner),
            Fate::Fails => {
                let e = Error::new(Kind::Invalid, "use the journal").with_message("its disk is gone");
                Err(e.without_effect())
            }
            Fate::Hangs => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Journal for Between {
    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        self.pass(Call::Begin).await?.begin(intent).await
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        let last = lines.last().map_or(0, |line| line.seq);
        self.pass(Call::Append(last)).await?.append(lease, lines).await
    }
    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.pass(Call::Renew).await?.renew(lease).await
    }
    fn let_go(&self, lease: &Lease) {
        self.inner.let_go(lease);
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        self.pass(Call::Other).await?.runs(query).await
    }
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        self.pass(Call::Other).await?.read(run).await
    }
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        self.pass(Call::Other).await?.give_up(run, who, why).await
    }
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        self.pass(Call::Other).await?.mark(target, entry).await
    }
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
        self.pass(Call::Ledger).await?.ledger(target).await
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        self.pass(Call::Other).await?.holds().await
    }
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        self.pass(Call::Other).await?.forget_hold(run, name).await
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        self.inner.shelf()
    }
}
