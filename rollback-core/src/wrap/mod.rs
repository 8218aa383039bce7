//! Wrappers around a target, named by what they do. They nest: `Retry::new(Timeout::new(Limit::new(target, 8)))`.
//!
//! Not here: what to do about a failure that stays. That is the engine's business, which looks before it writes again.

mod checked;
mod dry_run;
mod limit;
mod retry;
mod timeout;
#[cfg(feature = "host")]
mod with_verb;

pub use checked::Checked;
pub use dry_run::DryRun;
pub use limit::Limit;
pub use retry::{Retry, RetryOptions};
pub use timeout::{Timeout, TimeoutOptions};
#[cfg(feature = "host")]
pub use with_verb::WithVerb;

use crate::{Artifact, Bounds, EvidenceSource, Record, Release, Result, Work};
use async_trait::async_trait;
use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

/// What is being called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Observe,
    History,
    Prepare { within: Duration },
    Apply { within: Duration },
    Record,
    Collect { within: Duration },
}

impl Call {
    fn writes(self) -> bool {
        matches!(self, Call::Apply { .. } | Call::Record)
    }
    /// How long the caller gives it.
    fn within(self) -> Option<Duration> {
        match self {
            Call::Prepare { within } | Call::Apply { within } | Call::Collect { within } => Some(within),
            Call::Observe | Call::History | Call::Record => None,
        }
    }
    /// For errors.
    fn operation(self) -> &'static str {
        match self {
            Call::Observe => "observe the target",
            Call::History => "list the releases",
            Call::Prepare { .. } => "prepare the change",
            Call::Apply { .. } => "make the change",
            Call::Record => "record the release",
            Call::Collect { .. } => "collect evidence",
        }
    }
}

/// What a wrapper does around every call that may take time.
#[async_trait]
trait Guard: Clone + Debug + Send + Sync + 'static {
    /// Calls, perhaps more than once.
    async fn guard<R, F, Fut>(&self, call: Call, make: F) -> Result<R>
    where
        R: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<R>> + Send;
}

/// What a guarded target lends is guarded, too.
#[derive(Debug)]
struct Lent<T: ?Sized, G> {
    inner: Arc<T>,
    guard: G,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<G: Guard> Record for Lent<dyn Record, G> {
    async fn record(&self, label: &str) -> Result<Release> {
        self.guard.guard(Call::Record, || self.inner.record(label)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<G: Guard> EvidenceSource for Lent<dyn EvidenceSource, G> {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        self.guard.guard(Call::Collect { within: bounds.time }, || self.inner.collect(bounds, work)).await
    }
}

/// `Target` for a wrapper with the fields `inner` and `guard`.
macro_rules! guarded {
    ($wrapper:ident) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait::async_trait]
        impl<T: $crate::Target> $crate::Target for $wrapper<T> {
            fn id(&self) -> &$crate::TargetId {
                self.inner.id()
            }
            fn capabilities(&self) -> $crate::Capabilities {
                self.inner.capabilities()
            }
            async fn observe(&self, look: $crate::Look) -> $crate::Result<$crate::Observation> {
                self.guard.guard(Call::Observe, || self.inner.observe(look.clone())).await
            }
            async fn history(&self, limit: usize) -> $crate::Result<Vec<$crate::Release>> {
                self.guard.guard(Call::History, || self.inner.history(limit)).await
            }
            async fn prepare(&self, change: &$crate::Change, work: &$crate::Work) -> $crate::Result<$crate::Prepared> {
                self.guard.guard(Call::Prepare { within: work.within() }, || self.inner.prepare(change, work)).await
            }
            async fn apply(
                &self,
                approved: &$crate::Approved,
                token: $crate::Token,
                work: &$crate::Work,
            ) -> $crate::Result<$crate::Applied> {
                let call = Call::Apply { within: work.within() };
                self.guard.guard(call, || self.inner.apply(approved, token.clone(), work)).await
            }
            fn recorder(&self) -> Option<std::sync::Arc<dyn $crate::Record>> {
                let inner = self.inner.recorder()?;
                Some(std::sync::Arc::new($crate::wrap::Lent { inner, guard: self.guard.clone() }))
            }
            fn evidence(&self) -> Option<std::sync::Arc<dyn $crate::EvidenceSource>> {
                let inner = self.inner.evidence()?;
                Some(std::sync::Arc::new($crate::wrap::Lent { inner, guard: self.guard.clone() }))
            }
            fn strategy(&self) -> Option<std::sync::Arc<dyn $crate::Strategy>> {
                self.inner.strategy()
            }
            fn nudges(&self) -> Option<$crate::Nudges> {
                self.inner.nudges()
            }
        }
    };
}
use guarded;

#[cfg(test)]
mod tests;
