//! Gives up on what does not answer.

use super::{Call, Guard, guarded};
use crate::{Error, Kind, Result, minutes, seconds};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{future::Future, time::Duration};

/// How long each kind of call may take. A call that brings its own limit gets the shorter of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TimeoutOptions {
    /// `observe` and `history`. Default: 30 s.
    pub read: Duration,
    /// `prepare`. Default: 5 min.
    pub prepare: Duration,
    /// `apply` and `record`. Default: 30 min, because an apply may copy a million keys.
    pub write: Duration,
    /// Collecting evidence. Default: 1 min.
    pub evidence: Duration,
}

impl Default for TimeoutOptions {
    fn default() -> Self {
        Self { read: seconds(30), prepare: minutes(5), write: minutes(30), evidence: minutes(1) }
    }
}

impl TimeoutOptions {
    /// `observe` and `history`.
    pub fn with_read(mut self, time: Duration) -> Self {
        self.read = time;
        self
    }
    /// `prepare`.
    pub fn with_prepare(mut self, time: Duration) -> Self {
        self.prepare = time;
        self
    }
    /// `apply` and `record`.
    pub fn with_write(mut self, time: Duration) -> Self {
        self.write = time;
        self
    }
    /// Collecting evidence.
    pub fn with_evidence(mut self, time: Duration) -> Self {
        self.evidence = time;
        self
    }
    fn limit(&self, call: Call) -> Duration {
        let own = match call {
            Call::Observe | Call::History => self.read,
            Call::Prepare { .. } => self.prepare,
            Call::Apply { .. } | Call::Record => self.write,
            Call::Collect { .. } => self.evidence,
        };
        call.within().map_or(own, |within| within.min(own))
    }
}

#[async_trait]
impl Guard for TimeoutOptions {
    async fn guard<R, F, Fut>(&self, call: Call, make: F) -> Result<R>
    where
        R: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<R>> + Send,
    {
        let limit = self.limit(call);
        let Ok(answer) = tokio::time::timeout(limit, make()).await else {
            let error = Error::new(Kind::Unavailable, call.operation()).with_message(format!(
                "no answer within {limit:?}: is the platform reachable, and the limit long enough?"
            ));
            return Err(if call.writes() { error } else { error.without_effect() });
        };
        answer
    }
}

/// Drops a call that takes too long, and answers [`Kind::Unavailable`](crate::Kind::Unavailable) in its place, which is
/// transient. A write that was dropped may have happened: its effect is unknown.
///
/// ```
/// use rollback_core::{Target, seconds, wrap::{Timeout, TimeoutOptions}};
/// fn impatient(target: impl Target) -> impl Target {
///     Timeout::new(target).with_options(TimeoutOptions::default().with_read(seconds(5)))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Timeout<T> {
    inner: T,
    guard: TimeoutOptions,
}

impl<T> Timeout<T> {
    /// With the default limits.
    pub fn new(inner: T) -> Self {
        Self { inner, guard: TimeoutOptions::default() }
    }
    /// How long each kind of call may take.
    pub fn with_options(mut self, options: TimeoutOptions) -> Self {
        self.guard = options;
        self
    }
}

guarded!(Timeout);
