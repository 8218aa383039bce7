//! The only interpreter of plans: journalled, bounded, resumable, cancellable.
//!
//! It is a state machine without I/O, [`step`](machine::step), and a thin driver around it. Durable state is the fold of
//! acknowledged journal lines; what to do next is a function of that state alone, so resuming is the normal path.
//!
//! Not here: how to plan ([`strategy`](crate::strategy)), and any platform.

mod entry;
mod event;
mod intent;
mod outcome;
mod policy;

pub use entry::{At, Entry, Line};
pub use event::{Event, EventKind};
pub use intent::Intent;
pub use outcome::Outcome;
pub use policy::{Budget, OrderedBy, Policy, Support};
