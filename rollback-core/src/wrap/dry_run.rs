//! Reads and never writes.

use crate::{
    Applied, Approved, Capabilities, Change, EvidenceSource, Extent, Look, Nudges, Observation, Prepared, Record,
    Release, Result, Strategy, Target, TargetId, Token, Work,
};
use async_trait::async_trait;
use std::sync::Arc;

/// Reads, prepares, and never writes: `apply` answers [`Extent::NotStarted`]; nothing is recorded and no evidence saved.
///
/// A run that only rehearses needs no wrapper: [`Policy::with_dry_run`](crate::Policy::with_dry_run) does it better,
/// because it ends as rehearsed. This one is for programs that call a target by themselves, and to be certain.
///
/// ```
/// use rollback_core::{Target, wrap::DryRun};
/// fn harmless(target: impl Target) -> impl Target {
///     DryRun::new(target)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct DryRun<T> {
    inner: T,
}

impl<T> DryRun<T> {
    /// Around a target.
    pub fn new(inner: T) -> Self {
        Self { inner }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Target> Target for DryRun<T> {
    fn id(&self) -> &TargetId {
        self.inner.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.inner.observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.inner.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.inner.prepare(change, work).await
    }
    async fn apply(&self, _: &Approved, _: Token, _: &Work) -> Result<Applied> {
        Ok(Applied::new(Extent::NotStarted { why: "this is a dry run: nothing is written".into() }))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        None
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        None
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        self.inner.strategy()
    }
    fn nudges(&self) -> Option<Nudges> {
        self.inner.nudges()
    }
}
