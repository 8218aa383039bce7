//! Calls again what failed for the moment.

use super::{Call, Guard, guarded};
use crate::{Effect, Error, Result, minutes, seconds};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{future::Future, time::Duration};

/// How often, and how far apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RetryOptions {
    /// How often it is called in all, at least once. Default: 4.
    pub attempts: u32,
    /// The wait before the second call; it doubles from call to call. Default: 200 ms.
    pub first_wait: Duration,
    /// No wait is longer. Default: 5 s.
    pub longest_wait: Duration,
    /// No call begins later than this after the first; nor after the caller's own limit, where there is one. Default:
    /// 1 min.
    pub within: Duration,
    /// Makes every wait up to a half shorter, differently for each seed, so that many processes do not call in step.
    /// Default: none.
    pub jitter_seed: Option<u64>,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_wait: Duration::from_millis(200),
            longest_wait: seconds(5),
            within: minutes(1),
            jitter_seed: None,
        }
    }
}

impl RetryOptions {
    /// How often it is called in all.
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }
    /// The wait before the second call.
    pub fn with_first_wait(mut self, wait: Duration) -> Self {
        self.first_wait = wait;
        self
    }
    /// No wait is longer.
    pub fn with_longest_wait(mut self, wait: Duration) -> Self {
        self.longest_wait = wait;
        self
    }
    /// No call begins later than this after the first.
    pub fn with_within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
    /// Makes every wait up to a half shorter, differently for each seed.
    pub fn with_jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = Some(seed);
        self
    }
    /// The wait after the n-th call, from 1.
    ///
    /// ```
    /// use rollback_core::{seconds, wrap::RetryOptions};
    /// let options = RetryOptions::default().with_first_wait(seconds(2));
    /// assert_eq!([1, 2, 9].map(|n| options.wait_after(n)), [seconds(2), seconds(4), seconds(5)]);
    /// ```
    pub fn wait_after(&self, attempt: u32) -> Duration {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1));
        let wait = self.first_wait.saturating_mul(doubled).min(self.longest_wait);
        match self.jitter_seed {
            Some(seed) => wait.mul_f64(1.0 - 0.5 * fastrand::Rng::with_seed(seed ^ u64::from(attempt)).f64()),
            None => wait,
        }
    }

    /// Worth another call? A read, whenever it failed for the moment only; a write, only if it certainly did nothing.
    fn again(call: Call, error: &Error) -> bool {
        error.is_transient() && (!call.writes() || error.effect() == Effect::None)
    }
}

#[async_trait]
impl Guard for RetryOptions {
    async fn guard<R, F, Fut>(&self, call: Call, make: F) -> Result<R>
    where
        R: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<R>> + Send,
    {
        let began = tokio::time::Instant::now();
        let within = call.within().map_or(self.within, |within| within.min(self.within));
        let mut attempt = 1;
        loop {
            let error = match make().await {
                Err(error) if Self::again(call, &error) => error,
                done => return done,
            };
            let wait = self.wait_after(attempt);
            if attempt >= self.attempts || began.elapsed() + wait >= within {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }
}

/// Calls again what failed for the moment: reads whenever the error is transient; writes only if the error also says that
/// they had no effect, because a write that may have happened must be looked for first.
///
/// A call that never answers is not called again: put a [`Timeout`](crate::wrap::Timeout) inside. Waits of no more than
/// [`RetryOptions`] say. Dropping a call at any point is as safe as with the target itself.
///
/// ```
/// use rollback_core::{Target, seconds, wrap::{Retry, RetryOptions}};
/// fn patient(target: impl Target) -> impl Target {
///     Retry::new(target).with_options(RetryOptions::default().with_attempts(6).with_longest_wait(seconds(2)))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Retry<T> {
    inner: T,
    guard: RetryOptions,
}

impl<T> Retry<T> {
    /// With the default options.
    pub fn new(inner: T) -> Self {
        Self { inner, guard: RetryOptions::default() }
    }
    /// How often, and how far apart.
    pub fn with_options(mut self, options: RetryOptions) -> Self {
        self.guard = options;
        self
    }
}

guarded!(Retry);
