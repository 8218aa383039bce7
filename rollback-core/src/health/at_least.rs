//! k of n.

use super::{Context, Health, HealthCheck, ask::ask, logic::enough};
use crate::{Error, Finding, Kind, Result, join::join_all};
use async_trait::async_trait;
use std::sync::Arc;

/// So many of several checks must be healthy. Made by [`at_least`].
#[derive(Clone, Debug)]
pub struct AtLeast {
    k: usize,
    checks: Vec<Arc<dyn HealthCheck>>,
}

/// At least `k` of these must be healthy. Unhealthy when those that are healthy or unknown are too few, unknown in between.
/// All are asked at once.
///
/// ```
/// use rollback_core::health::{Tcp, at_least};
/// let replicas = at_least(2, [Tcp::connect("db-1:5432")?, Tcp::connect("db-2:5432")?, Tcp::connect("db-3:5432")?])?;
/// # Ok::<(), rollback_core::Error>(())
/// ```
///
/// # Errors
/// [`Kind::Invalid`] if `k` is 0 or more than there are checks: it would always say the same.
pub fn at_least(k: usize, checks: impl IntoIterator<Item = impl HealthCheck>) -> Result<AtLeast> {
    let checks: Vec<Arc<dyn HealthCheck>> = checks.into_iter().map(|check| Arc::new(check) as _).collect();
    if k == 0 || k > checks.len() {
        let message = format!("{k} of {} checks: the number must be between 1 and how many there are", checks.len());
        return Err(Error::new(Kind::Invalid, "combine health checks").with_message(message).without_effect());
    }
    Ok(AtLeast { k, checks })
}

#[async_trait]
impl HealthCheck for AtLeast {
    fn name(&self) -> String {
        let names: Vec<_> = self.checks.iter().map(|check| check.name()).collect();
        format!("{} of ({})", self.k, names.join(", "))
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let answers = join_all(self.checks.iter().map(|check| ask(check, context))).await;
        Ok(Health::at_least(self.k, answers))
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        let found = join_all(self.checks.iter().map(|check| check.preflight(context))).await;
        Ok(enough(self.k, found.into_iter().collect::<Result<_>>()?))
    }
}
