//! Several rollbacks, in the order of what depends on what, with one report.
//!
//! [`Order`] is the pure half: which member may start next, given what runs and what has ended. [`Group`] drives the
//! [`Rollback`](crate::Rollback)s in one task: nothing is spawned, so dropping its future drops them all, each at a point
//! from which it can be resumed.
//!
//! Each member is a run of its own, with the id `group/member`, in its own journal. A group keeps nothing besides: the same
//! group with the same id, run again, goes on where it stopped, because the journal answers for the members that have ended.
//!
//! Not here: taking the members back that went well when another fails. That would go to releases known bad; a group holds
//! and reports, and a person decides.

mod drive;
mod order;
mod report;

pub use drive::Group;
pub use order::{Next, OnFailure, Order};
pub use report::{GroupReport, Member, MemberEnd};
