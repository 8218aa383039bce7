//! The only interpreter of plans: journalled, bounded, resumable, cancellable.
//!
//! It is a state machine without I/O, [`step`], and a thin driver around it, [`Rollback`](crate::Rollback). Durable state is
//! the fold of acknowledged journal lines; what to do next is a function of that state alone, so resuming is the normal
//! path. Under another durable engine, call [`step`] from its workflow, and the target from its activities.
//!
//! The intent of a write is durable before the write, its outcome before the next one. Where a write says that it is
//! [done](crate::Extent::Done), one look comes first: a step that stands by then costs one append, which takes its outcome,
//! its end and the intent of the next step together. A crash in between is the crash before the outcome was durable.
//!
//! Not here: how to plan ([`strategy`](crate::strategy)), and any platform.

mod ask;
mod bug;
mod detection;
pub(crate) mod driver;
mod entry;
mod event;
mod fold;
mod intent;
mod judge;
mod machine;
mod outcome;
mod policy;
mod scrub;
mod spool;

pub use ask::{Answer, Ask, Effects};
#[doc(hidden)]
pub use bug::Bug;
pub use detection::Detection;
pub use entry::{At, Entry, Line};
pub use event::{Event, EventKind};
pub use intent::Intent;
pub use machine::{State, step};
pub use outcome::Outcome;
pub use policy::{Budget, OrderedBy, Policy, Support};
pub use spool::Spool;
