//! Who would deploy the bad release again: freeze → roll back → hold → explicit unfreeze of exactly what was frozen.
//!
//! A run does not wait for the end of a freeze: the hold stands in the journal, and [`unfreeze`] is a call of its own.
//!
//! Not here: freezes of platforms (GitOps, autoscalers), which their back ends bring.

#[cfg(feature = "local")]
mod command;
#[cfg(feature = "local")]
mod file;
mod unfreeze;

#[cfg(feature = "local")]
pub use command::FreezeCommand;
#[cfg(feature = "local")]
pub use file::FreezeFile;
pub use unfreeze::{FreezeEnd, Unfrozen, unfreeze};

use crate::{Payload, Result, RunId, TargetId, Timestamp};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc};

/// A freeze that a run holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hold {
    /// The run that holds it.
    pub run: RunId,
    /// For which target.
    pub target: TargetId,
    /// Who ordered the run.
    pub owner: String,
    /// Why.
    pub why: String,
    /// When it lapses; whoever honours the freeze should not honour it any longer.
    pub until: Option<Timestamp>,
}

impl Hold {
    /// A hold that does not lapse.
    pub fn new(run: RunId, target: TargetId, owner: impl Into<String>, why: impl Into<String>) -> Self {
        Self { run, target, owner: owner.into(), why: why.into(), until: None }
    }
    /// When it lapses.
    pub fn with_until(mut self, until: Option<Timestamp>) -> Self {
        self.until = until;
        self
    }
    /// It has lapsed.
    pub fn has_lapsed(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Somebody who would deploy again: GitOps, a pipeline, an autoscaler.
///
/// # Contract
/// Every method is idempotent by [`Hold::run`]: a crash may repeat it, and a repeated `freeze` returns what the first did. A
/// `freeze` that fails says whether it may hold all the same ([`Error::effect`](crate::Error::effect)).
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Freeze: Debug + Send + Sync + 'static {
    /// Its name, unique within a run: the key under which the hold is journalled.
    fn name(&self) -> String;
    /// Stops them. Returns what was there before: only that is undone.
    ///
    /// # Errors
    /// As the platform. Where the answer was lost, a run looks whether it [holds](Freeze::held) and asks again. A run that
    /// must freeze is refused in the end; break-glass goes on at once and says so.
    async fn freeze(&self, hold: &Hold) -> Result<Payload>;
    /// Who holds it now, lapsed holds included. Whoever cannot tell answers an error that is not transient.
    ///
    /// # Errors
    /// As the platform.
    async fn held(&self) -> Result<Vec<Hold>>;
    /// Lets them go on. `was` is what [`freeze`](Freeze::freeze) returned.
    ///
    /// # Errors
    /// As the platform. Unfreezing what is not frozen is none.
    async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: Freeze + ?Sized> Freeze for $pointer<T> {
            fn name(&self) -> String {
                (**self).name()
            }
            async fn freeze(&self, hold: &Hold) -> Result<Payload> {
                (**self).freeze(hold).await
            }
            async fn held(&self) -> Result<Vec<Hold>> {
                (**self).held().await
            }
            async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()> {
                (**self).unfreeze(hold, was).await
            }
        }
    )* };
}
forward!(Arc, Box);
