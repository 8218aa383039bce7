//! A feature flag as a target: its releases are its rules, and *off* is one of them.
//!
//! [`FlagTarget`] goes between the rules a flag has had, over any [`FlagStore`]; [`FileFlagStore`] keeps flags in one JSON
//! file. A service that evaluates the flag can be asked what it really sees: [`FlagReader`].
//!
//! Not here: the evaluation of a flag for a user. That is the business of the service and its flag library.

mod file;
mod read_back;
mod rule;
mod store;
mod target;

pub use file::FileFlagStore;
pub use read_back::{FlagReader, SeenFlag};
pub use rule::FlagRule;
#[cfg(feature = "mock")]
pub use store::MockFlagStore;
pub use store::{FlagState, FlagStore, FlagWrite};
pub use target::FlagTarget;
