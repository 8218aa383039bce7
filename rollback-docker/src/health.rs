//! How long a health check of the engine's may take until it has said what it thinks.

use bollard::models::HealthConfig;
use rollback_core::seconds;
use std::time::Duration;

/// The engine's defaults.
const INTERVAL: Duration = seconds(30);
const TIMEOUT: Duration = seconds(30);
const RETRIES: u32 = 3;

/// Until then it has passed, or failed for good: the start period, and after it all retries, each with its interval and its
/// time limit. To give up sooner is to call a service failed that is still on its way up. `None` without a health check.
pub(crate) fn deadline(check: &HealthConfig) -> Option<Duration> {
    let test = check.test.as_deref()?;
    if test.is_empty() || test[0] == "NONE" {
        return None;
    }
    let nanoseconds =
        |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Duration::from_nanos);
    let start = nanoseconds(check.start_period).unwrap_or_default();
    let each = nanoseconds(check.interval).unwrap_or(INTERVAL) + nanoseconds(check.timeout).unwrap_or(TIMEOUT);
    let retries = check.retries.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(RETRIES);
    // The first check runs one interval after the start.
    Some(start + each * (retries + 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_shorter_than_its_own_grace() {
        let check = |test: &[&str], start: i64, interval: i64, retries: i64| HealthConfig {
            test: Some(test.iter().map(ToString::to_string).collect()),
            start_period: Some(start * 1_000_000_000),
            interval: Some(interval * 1_000_000_000),
            timeout: Some(1_000_000_000),
            retries: Some(retries),
            ..HealthConfig::default()
        };
        assert_eq!(deadline(&check(&["CMD", "x"], 10, 2, 3)), Some(seconds(10 + 4 * 3)));
        // Zero means the engine's default, and not "at once".
        assert_eq!(deadline(&check(&["CMD", "x"], 0, 0, 0)), Some(seconds(4 * 31)));
        assert_eq!(deadline(&check(&["NONE"], 10, 2, 3)), None);
        assert_eq!(deadline(&HealthConfig::default()), None);
    }
}
