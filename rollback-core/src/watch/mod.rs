//! Is a new release bad? Rules, evaluated through a soak time, so that what is healthy is *shown* to be.
//!
//! A [`Rule`] and what it remembers ([`RuleState`]) are data, evaluated without a clock and without I/O. A [`Watch`] reads
//! the sources, evaluates, and ends with a [`WatchOutcome`]: stable, breached, shared, blind, superseded. Silence is
//! never healthy: only time in which every rule had data and was clear counts as soaked.
//!
//! Not here: rolling back. A watch names the suspect; [`Rollback`](crate#words) does the rest.

mod away;
mod driver;
mod outcome;
pub mod presets;
mod rule;
mod soak;
mod state;
mod then;

pub use driver::{Watch, WatchEvent};
pub use outcome::{WatchLine, WatchOutcome, WatchReport};
pub use rule::{Compare, OnNoData, Rule, Threshold};
pub use soak::WatchState;
pub use state::{Evaluation, Inputs, RuleState, Says};
pub use then::{WatchThenRollback, Watched};
