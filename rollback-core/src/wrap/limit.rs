//! Keeps a platform from being asked too much at once.

use super::{Call, Guard, guarded};
use crate::{Error, Kind, Result};
use async_trait::async_trait;
use std::{future::Future, sync::Arc};
use tokio::sync::Semaphore;

/// So many calls at once.
#[derive(Clone, Debug)]
struct Permits(Arc<Semaphore>);

#[async_trait]
impl Guard for Permits {
    async fn guard<R, F, Fut>(&self, call: Call, make: F) -> Result<R>
    where
        R: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<R>> + Send,
    {
        let _permit =
            self.0.acquire().await.map_err(|closed| {
                Error::new(Kind::Unexpected, call.operation()).without_effect().with_source(closed)
            })?;
        make().await
    }
}

/// Lets at most so many calls run at once; the others wait, first come first served. Several targets can share one limit,
/// where they share a platform.
///
/// The wait has no bound of its own: put a [`Timeout`](crate::wrap::Timeout) outside to bound wait and call together, or
/// inside to bound the call alone.
///
/// ```
/// use rollback_core::{Target, wrap::Limit};
/// fn at_most_eight(a: impl Target, b: impl Target) -> (impl Target, impl Target) {
///     let a = Limit::new(a, 8);
///     let b = Limit::shared_with(&a, b);
///     (a, b)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Limit<T> {
    inner: T,
    guard: Permits,
}

impl<T> Limit<T> {
    /// At most so many calls at once; 0 counts as 1.
    pub fn new(inner: T, calls: usize) -> Self {
        Self { inner, guard: Permits(Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)))) }
    }
    /// Under the limit of another one.
    pub fn shared_with<U>(other: &Limit<U>, inner: T) -> Self {
        Self { inner, guard: other.guard.clone() }
    }
}

guarded!(Limit);
