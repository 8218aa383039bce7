//! How much of the past a journal keeps.

use crate::hours;
use std::time::Duration;

/// How much of the past is kept. What may go, goes a few runs at a time when a run begins, and all of it when
/// the journal is told to prune.
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

/// What was pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// So many runs.
    pub runs: u64,
    /// So many artifacts.
    pub artifacts: u64,
    /// So many bytes of artifacts.
    pub artifact_bytes: u64,
}
