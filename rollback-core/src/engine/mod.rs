//! The only interpreter of plans: journalled, bounded, resumable, cancellable.
//!
//! It is a state machine without I/O, [`step`], and a thin driver around it, [`Rollback`](crate::Rollback). Durable state is
//! the fold of acknowledged journal lines; what to do next is a function of that state alone, so resuming is the normal
//! path. Under another durable engine, call [`step`] from its workflow, and the target from its activities.
//!
//! Not here: how to plan ([`strategy`](crate::strategy)), and any platform.

mod ask;
mod bug;
pub(crate) mod driver;
mod entry;
mod event;
mod fold;
mod intent;
mod judge;
mod machine;
mod outcome;
mod policy;
mod spool;

pub use ask::{Answer, Ask, Effects};
#[doc(hidden)]
pub use bug::Bug;
pub use entry::{At, Entry, Line};
pub use event::{Event, EventKind};
pub use intent::Intent;
pub use machine::{State, step};
pub use outcome::Outcome;
pub use policy::{Budget, OrderedBy, Policy, Support};
pub use spool::Spool;
