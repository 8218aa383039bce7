//! Asking a check that is part of another one: whatever goes wrong is an answer, never the end of the whole.

use super::{Context, Health, HealthCheck};
use std::time::Duration;

/// How long a part of a check may take: a little less than the whole, so that what the others saw is not lost with it.
pub(super) fn part_of(within: Duration) -> Duration {
    within.mul_f64(0.9)
}

/// Asks within nine tenths of the time. An error, or no answer, is [`Health::Unknown`] and says so.
pub(super) async fn ask(check: &dyn HealthCheck, context: &Context) -> Health {
    let within = part_of(context.within);
    let inner = context.clone().with_within(within);
    match tokio::time::timeout(within, check.check(&inner)).await {
        Ok(Ok(health)) => health,
        Ok(Err(e)) => Health::unknown(check.name(), e.to_string()),
        Err(_) => Health::unknown(check.name(), format!("no answer within {within:?}")),
    }
}
