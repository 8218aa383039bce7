//! Is it OK now, asked through the API server: a program in the pods, and any other check through a port-forward.
//!
//! Not here: what needs no API server, which core's health checks do ([`Http`](rollback_core::health::Http) at each part).

mod exec;
mod tunnel;

pub use exec::ExecCheck;
pub use tunnel::ThroughApi;
