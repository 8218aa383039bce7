//! A health check, as a verifier: now, or for a while.

use super::{Verdict, Verifier, Window};
use crate::{Context, Evidence, HealthCheck, Result};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

/// Healthy for so long without a break: by the run's health check, or by one of its own.
///
/// ```
/// use rollback_core::{health::Tcp, minutes, verify::StaysHealthy};
/// let by_the_run = StaysHealthy::for_at_least(minutes(2));
/// let by_itself = StaysHealthy::for_at_least(minutes(2)).of(Tcp::connect("127.0.0.1:5432")?);
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StaysHealthy {
    check: Option<Arc<dyn HealthCheck>>,
    window: Window,
}

impl StaysHealthy {
    /// For so long.
    pub fn for_at_least(hold: Duration) -> Self {
        Self { check: None, window: Window::default().with_hold(hold) }
    }
    /// By this check instead of the run's.
    pub fn of(mut self, check: impl HealthCheck) -> Self {
        self.check = Some(Arc::new(check));
        self
    }
    /// When samples are taken; its hold replaces the one given before.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for StaysHealthy {
    fn name(&self) -> String {
        format!("{} for {:?}", name_of(self.check.as_ref()), self.window.hold)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        sample(self.check.as_ref(), context).await
    }
}

/// Healthy once: by the run's health check, or by one of its own.
///
/// ```
/// use rollback_core::verify::HealthyNow;
/// let once = HealthyNow::new();
/// ```
#[derive(Clone, Debug, Default)]
pub struct HealthyNow {
    check: Option<Arc<dyn HealthCheck>>,
    window: Window,
}

impl HealthyNow {
    /// By the run's health check.
    pub fn new() -> Self {
        Self::default()
    }
    /// By this one.
    pub fn of(check: impl HealthCheck) -> Self {
        Self { check: Some(Arc::new(check)), window: Window::default() }
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[async_trait]
impl Verifier for HealthyNow {
    fn name(&self) -> String {
        name_of(self.check.as_ref())
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        sample(self.check.as_ref(), context).await
    }
}

fn name_of(check: Option<&Arc<dyn HealthCheck>>) -> String {
    check.map_or_else(|| "healthy".into(), |check| format!("healthy ({})", check.name()))
}

async fn sample(own: Option<&Arc<dyn HealthCheck>>, context: &Context) -> Result<Verdict> {
    match own.or(context.health.as_ref()) {
        Some(check) => Ok(check.check(context).await?.into()),
        None => Ok(Verdict::Unknown(vec![Evidence::new(
            "health check",
            "the run has none, nor has this verifier: whoever built this program must give it one",
        )])),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::word;
    use super::*;
    use crate::{health::sample::*, seconds};

    #[tokio::test]
    async fn its_own_check_comes_before_that_of_the_run_and_none_is_unknown() {
        let with = context().with_health(Some(Arc::new(says('u'))));
        for (own, context, want) in [
            (None, &context(), "unknown"),
            (None, &with, "fails"),
            (Some('h'), &with, "holds"),
            (Some('?'), &with, "unknown"),
        ] {
            let (mut stays, mut now) = (StaysHealthy::for_at_least(seconds(5)), HealthyNow::new());
            if let Some(own) = own {
                (stays, now) = (stays.of(says(own)), HealthyNow::of(says(own)));
            }
            assert_eq!(word(&stays.verify(context).await.unwrap()), want);
            assert_eq!(word(&now.verify(context).await.unwrap()), want);
        }
        assert_eq!(StaysHealthy::for_at_least(seconds(5)).window().hold, seconds(5));
        assert_eq!(HealthyNow::new().window().hold, seconds(0));
    }
}
