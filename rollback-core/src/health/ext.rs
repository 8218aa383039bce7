//! How checks are put together.

use super::{And, Consecutive, HealthCheck, Not, Or, WithGrace};
use std::time::Duration;

/// Combinators, for every check. All are three-valued (what is unknown decides nothing that the rest does not decide), turn
/// errors into unknown, keep the evidence of every side, and ask their sides at once.
///
/// ```
/// use rollback_core::{health::{HealthCheckExt, Tcp}, seconds};
/// let check = Tcp::connect("127.0.0.1:5432")?
///     .and(Tcp::connect("127.0.0.1:6379")?.or(Tcp::connect("127.0.0.1:6380")?))
///     .and(Tcp::connect("127.0.0.1:9999")?.not())
///     .consecutive(3)
///     .with_grace(seconds(20));
/// # Ok::<(), rollback_core::Error>(())
/// ```
pub trait HealthCheckExt: HealthCheck + Sized {
    /// Both must be healthy.
    fn and<B: HealthCheck>(self, other: B) -> And<Self, B> {
        And(self, other)
    }
    /// One must be healthy.
    fn or<B: HealthCheck>(self, other: B) -> Or<Self, B> {
        Or(self, other)
    }
    /// It must not be healthy.
    fn not(self) -> Not<Self> {
        Not(self)
    }
    /// Healthy so many times in a row (at least once), within one check, with a pause of 1 s between
    /// ([`Consecutive::with_pause`]). Any other answer ends it and is the answer. All must fit into
    /// [`Context::within`](super::Context::within), 10 s unless the policy says otherwise; else it is unknown.
    fn consecutive(self, times: u32) -> Consecutive<Self> {
        Consecutive::new(self, times)
    }
    /// Unhealthy counts as unknown until so long after the last write, or after the window began.
    fn with_grace(self, grace: Duration) -> WithGrace<Self> {
        WithGrace { check: self, grace }
    }
}
impl<T: HealthCheck> HealthCheckExt for T {}
