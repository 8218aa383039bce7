//! How a journal in SQLite is opened, and how much of the past it keeps.

use crate::{hours, seconds};
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

/// How much of the past is kept. What may go, goes a few runs at a time when a run begins, and all of it in
/// [`SqliteJournal::prune`](super::SqliteJournal::prune).
///
/// An ended run goes, with its lines, checkpoints and artifacts, once it is older than [`age`](Retention::age) *and* its
/// target has [`runs_per_target`](Retention::runs_per_target) newer ones. Unfinished runs, runs with a hold on a freeze, and
/// the ledger never go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// So many ended runs of every target stay, however old. Default: 100.
    pub runs_per_target: usize,
    /// Ended runs stay for so long, however many. By the wall clock. Default: 30 days.
    pub age: Duration,
    /// So many bytes of artifacts (evidence, manifests) of ended runs stay; beyond it the oldest go, and their runs stay
    /// without them. Default: 1 GiB.
    pub artifact_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { runs_per_target: 100, age: hours(24 * 30), artifact_bytes: 1 << 30 }
    }
}

impl Retention {
    /// So many ended runs of every target stay.
    pub fn with_runs_per_target(mut self, runs_per_target: usize) -> Self {
        self.runs_per_target = runs_per_target;
        self
    }
    /// Ended runs stay for so long.
    pub fn with_age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
    /// So many bytes of artifacts of ended runs stay.
    pub fn with_artifact_bytes(mut self, artifact_bytes: u64) -> Self {
        self.artifact_bytes = artifact_bytes;
        self
    }
}
