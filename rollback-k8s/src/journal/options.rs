//! How a journal in the cluster is opened.

use rollback_core::{journal::Retention, minutes};
use std::time::Duration;

/// How a journal in the cluster is opened, and how much of the past it keeps.
///
/// ```
/// use rollback_core::journal::Retention;
/// use rollback_k8s::ClusterJournalOptions;
/// let options = ClusterJournalOptions::default().with_retention(Retention::default().with_runs_per_target(5));
/// assert_eq!(options.artifact_bytes, 16 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterJournalOptions {
    /// How much of the past is kept. Default: 20 ended runs of every target, those of the last 7 days, 64 MiB of artifacts:
    /// etcd is small.
    pub retention: Retention,
    /// How many bytes one artifact may have. It is in memory once while it is written. Default: 16 MiB.
    pub artifact_bytes: u64,
    /// How long [`begin`](rollback_core::Journal::begin) looks at a lock whose holder gives no sign of life, before it
    /// answers with a transient error; a sign of life ends the wait with
    /// [`Busy`](rollback_core::Begun::Busy), and the end of the lease with the run. Nine tenths of the policy's
    /// `reply_within` bound it too. Default: 5 min.
    pub patience: Duration,
}

impl Default for ClusterJournalOptions {
    fn default() -> Self {
        let retention = Retention::default()
            .with_runs_per_target(20)
            .with_age(rollback_core::hours(24 * 7))
            .with_artifact_bytes(64 << 20);
        Self { retention, artifact_bytes: 16 << 20, patience: minutes(5) }
    }
}

impl ClusterJournalOptions {
    /// How much of the past is kept.
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }
    /// How many bytes one artifact may have.
    pub fn with_artifact_bytes(mut self, artifact_bytes: u64) -> Self {
        self.artifact_bytes = artifact_bytes;
        self
    }
    /// How long a silent holder is looked at in one call.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
