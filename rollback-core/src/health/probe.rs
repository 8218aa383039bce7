//! A closure is a check.

use super::{Context, Health, HealthCheck};
use crate::Result;
use async_trait::async_trait;
use std::{fmt, future::Future, pin::Pin, sync::Arc};

/// What a closure may answer: a [`Health`], or a result of one, whose error counts as unknown.
pub trait Answer: Send + 'static {
    /// The answer.
    ///
    /// # Errors
    /// As the closure.
    fn into_health(self) -> Result<Health>;
}
impl Answer for Health {
    fn into_health(self) -> Result<Health> {
        Ok(self)
    }
}
impl Answer for Result<Health> {
    fn into_health(self) -> Result<Health> {
        self
    }
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Health>> + Send + 'a>>;

/// A check made of a closure.
///
/// ```
/// use rollback_core::{Context, Health, health::Probe};
/// let queue = Probe::new("queue is short", |_: &Context| Health::healthy("queue", "3 waiting"));
/// let backend = Probe::new_async("backend answers", |context: Context| async move {
///     Health::unknown("backend", format!("{} was not asked yet", context.target))
/// });
/// ```
#[derive(Clone)]
pub struct Probe {
    name: String,
    ask: Arc<dyn for<'a> Fn(&'a Context) -> Asked<'a> + Send + Sync>,
}

impl Probe {
    /// From a closure that answers at once. It must not block.
    pub fn new<A: Answer>(name: impl Into<String>, ask: impl Fn(&Context) -> A + Send + Sync + 'static) -> Self {
        let ask = Arc::new(ask);
        Self {
            name: name.into(),
            ask: Arc::new(move |context| {
                let answer = ask(context).into_health();
                Box::pin(std::future::ready(answer))
            }),
        }
    }
    /// From a closure that gives a future. It is dropped after [`Context::within`].
    pub fn new_async<F>(name: impl Into<String>, ask: impl Fn(Context) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output: Answer> + Send + 'static,
    {
        Self {
            name: name.into(),
            ask: Arc::new(move |context| {
                let asked = ask(context.clone());
                Box::pin(async move { asked.await.into_health() })
            }),
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probe").field(&self.name).finish()
    }
}

#[async_trait]
impl HealthCheck for Probe {
    fn name(&self) -> String {
        self.name.clone()
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        (self.ask)(context).await
    }
}
