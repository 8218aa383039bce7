//! Healthy several times in a row.

use super::{Context, Evidence, Health, HealthCheck, ask::part_of};
use crate::{Finding, Result, seconds};
use async_trait::async_trait;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Healthy so many times in a row, within one check. Made by
/// [`HealthCheckExt::consecutive`](super::HealthCheckExt::consecutive).
#[derive(Clone, Debug)]
pub struct Consecutive<A> {
    check: A,
    times: u32,
    pause: Duration,
}

impl<A> Consecutive<A> {
    pub(super) fn new(check: A, times: u32) -> Self {
        Self { check, times: times.max(1), pause: seconds(1) }
    }
    /// The pause between two looks. Default: 1 s.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

#[async_trait]
impl<A: HealthCheck> HealthCheck for Consecutive<A> {
    fn name(&self) -> String {
        format!("{}, {} times in a row", self.check.name(), self.times)
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        self.check.preflight(context).await
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let until = Instant::now() + part_of(context.within);
        let mut seen: Vec<Evidence> = vec![];
        let broken = |mut seen: Vec<Evidence>, n: u32, why: String| {
            seen.push(Evidence::new(
                self.check.name(),
                format!("healthy {n} times of {} in a row, then {why}", self.times),
            ));
            seen
        };
        for n in 0..self.times {
            if n > 0 && timeout_at(until, sleep(self.pause)).await.is_err() {
                return Ok(Health::Unknown(broken(seen, n, "no time was left for the rest".into())));
            }
            let inner = context.clone().with_within(until.saturating_duration_since(Instant::now()));
            let answer = match timeout_at(until, self.check.check(&inner)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => return Ok(Health::Unknown(broken(seen, n, e.to_string()))),
                Err(_) => return Ok(Health::Unknown(broken(seen, n, "no answer in time".into()))),
            };
            let (value, evidence) = answer.split();
            for e in evidence {
                if !seen.contains(&e) {
                    seen.push(e);
                }
            }
            if value != super::logic::Value::Yes {
                return Ok(value.with(seen));
            }
        }
        Ok(Health::Healthy(seen))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{HealthCheckExt as _, sample::*};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn any_break_ends_it_and_nothing_seen_is_lost() {
        for (answers, want, asked) in [("hhhhh", 'h', 3), ("hhuhh", 'u', 3), ("h?hhh", '?', 2), ("uhhhh", 'u', 1)] {
            let (script, left) = scripted(answers);
            let seen = script.consecutive(3).check(&context()).await.unwrap();
            assert_eq!(letter(&seen), want, "{answers}");
            assert_eq!(answers.len() - left(), asked, "{answers}");
            assert_eq!(seen.evidence().len(), asked, "{answers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_into_the_time_is_unknown() {
        let began = Instant::now();
        let (script, _) = scripted("hhhhhhhhh");
        let slow = script.consecutive(5).with_pause(seconds(4));
        let seen = slow.check(&context().with_within(seconds(10))).await.unwrap();
        assert_eq!(letter(&seen), '?');
        assert!(seen.evidence().last().unwrap().seen.contains("healthy 3 times of 5"), "{seen:?}");
        assert!(began.elapsed() < seconds(10));
    }
}
