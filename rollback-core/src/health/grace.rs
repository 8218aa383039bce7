//! Time to warm up.

use super::{Context, Evidence, Health, HealthCheck, ask::ask};
use crate::{Finding, Result};
use async_trait::async_trait;
use std::time::Duration;

/// Not unhealthy yet. Made by [`HealthCheckExt::with_grace`](super::HealthCheckExt::with_grace).
#[derive(Clone, Debug)]
pub struct WithGrace<A> {
    pub(super) check: A,
    pub(super) grace: Duration,
}

#[async_trait]
impl<A: HealthCheck> HealthCheck for WithGrace<A> {
    fn name(&self) -> String {
        format!("{}, after {:?} of grace", self.check.name(), self.grace)
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        self.check.preflight(context).await
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        Ok(match ask(&self.check, context).await {
            Health::Unhealthy(mut evidence) if context.since < self.grace => {
                let left = self.grace.saturating_sub(context.since);
                evidence.push(Evidence::new(self.check.name(), format!("counts in {left:?}: the grace lasts as long")));
                Health::Unknown(evidence)
            }
            other => other,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{HealthCheckExt as _, sample::*};
    use super::*;
    use crate::seconds;

    #[tokio::test]
    async fn unhealthy_counts_only_after_the_grace() {
        for (says_, since, want) in [('u', 4, '?'), ('u', 5, 'u'), ('h', 0, 'h'), ('?', 9, '?')] {
            let check = says(says_).with_grace(seconds(5));
            let seen = check.check(&context().with_since(seconds(since))).await.unwrap();
            assert_eq!(letter(&seen), want, "{says_} after {since} s");
            assert!(!seen.evidence().is_empty());
        }
    }
}
