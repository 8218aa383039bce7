//! How to get from the suspect to the wanted release: pure planners, situation in, [`Plan`] out.
//!
//! Not here: anything that does I/O, and anything that knows a platform. What a planner needs to know of one stands in
//! [`Capabilities`](crate::Capabilities).

mod blue_green;
mod canary;
mod diff;
mod direct;
mod ladder;
mod restart;
mod rolling;
mod verb;
mod view;

#[cfg(test)]
mod tests;

pub use blue_green::BlueGreen;
pub use canary::Canary;
pub use direct::Direct;
pub use ladder::Ladder;
pub use restart::Restart;
pub use rolling::{Batch, Rolling};
pub use verb::Verb;

use crate::{Plan, Situation};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Debug},
    sync::Arc,
};

/// A planner.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Strategy: Debug + Send + Sync + 'static {
    /// Its name, journalled with the run.
    fn name(&self) -> String;
    /// Plans. The same situation always gives the same plan.
    ///
    /// # Errors
    /// When there is no way from here that keeps what the strategy promises.
    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        impl<T: Strategy + ?Sized> Strategy for $pointer<T> {
            fn name(&self) -> String {
                (**self).name()
            }
            fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
                (**self).plan(situation)
            }
        }
    )* };
}
forward!(Arc, Box);

/// This strategy has no way from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplannable {
    /// Which strategy.
    pub strategy: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Unplannable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no way from here: {}", self.strategy, self.why)
    }
}
impl std::error::Error for Unplannable {}
