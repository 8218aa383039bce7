//! How a journal in SQLite is opened, and how much of the past it keeps.

use crate::{journal::Retention, seconds};
use std::time::Duration;

/// How a journal in SQLite is opened.
///
/// ```
/// use rollback_core::{hours, journal::{Retention, SqliteOptions}};
/// let options = SqliteOptions::default().with_retention(Retention::default().with_age(hours(24 * 90)));
/// assert_eq!(options.retention.runs_per_target, 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// How long to wait for another process that writes, before a call fails with a transient error. Default: 5 s.
    pub busy_timeout: Duration,
    /// How many bytes the file may have; then it counts as a full disk. Artifacts are not in it. Default: no bound.
    pub max_bytes: Option<u64>,
    /// How much of the past is kept.
    pub retention: Retention,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { busy_timeout: seconds(5), max_bytes: None, retention: Retention::default() }
    }
}

impl SqliteOptions {
    /// How long to wait for another process that writes.
    pub fn with_busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }
    /// How many bytes the file may have.
    pub fn with_max_bytes(mut self, max_bytes: Option<u64>) -> Self {
        self.max_bytes = max_bytes;
        self
    }
    /// How much of the past is kept.
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }
}
