//! Time, as data. Nothing that decides reads a clock: it is handed a [`Now`].

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// A moment on the wall clock, in milliseconds since 1970. For reports, and for ages of hours or days; never for a
/// deadline, because wall clocks jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// What the system's wall clock says.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64))
    }
    /// How long after `earlier`; zero if it is not after.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
    /// This much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time.as_millis() as u64))
    }
    /// Reads RFC 3339, such as `2026-11-22T03:04:05Z`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if it is not one.
    pub fn parse(text: &str) -> crate::Result<Self> {
        let stamp: jiff::Timestamp = text.parse().map_err(|e| {
            crate::Error::new(crate::Kind::Invalid, "read a time")
                .with_message(format!("{text:?} is not RFC 3339: {e}"))
        })?;
        Ok(Self(u64::try_from(stamp.as_millisecond()).unwrap_or(0)))
    }
}

/// RFC 3339 in UTC, to the millisecond.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
            Some(stamp) => write!(f, "{stamp:.3}"),
            None => write!(f, "{} ms", self.0),
        }
    }
}

/// Both clocks, read by whoever drives a decision and handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Monotonic, since any fixed moment of this process; only differences count.
    pub mono: Duration,
    /// For reports.
    pub wall: Timestamp,
}

/// Where the driver reads the time. [`SystemClock`] outside of tests.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Both clocks, now.
    fn now(&self) -> Now;
}

/// Tokio's monotonic clock (which tests can pause) and the system's wall clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    began: tokio::time::Instant,
}

impl SystemClock {
    /// Starts at zero.
    pub fn new() -> Self {
        Self { began: tokio::time::Instant::now() }
    }
}
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}
impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now { mono: self.began.elapsed(), wall: Timestamp::now() }
    }
}

/// So many seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
/// So many minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}
/// So many hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(3600 * n)
}
