//! A named set: the smoke checks of a service.

use super::{Context, Evidence, Health, HealthCheck, ask::ask};
use crate::{Finding, Result, join::join_all};
use async_trait::async_trait;
use std::sync::Arc;

/// Named checks that must all be healthy; what they saw carries their names. All are asked at once.
///
/// ```
/// use rollback_core::health::{Checks, CommandCheck, Tcp};
/// let smoke = Checks::new()
///     .required("database", Tcp::connect("127.0.0.1:5432")?)
///     .required("payments", CommandCheck::new(["smoke", "payments"])?)
///     .optional("search", Tcp::connect("127.0.0.1:9200")?);
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Checks {
    checks: Vec<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    name: String,
    check: Arc<dyn HealthCheck>,
    counts: bool,
}

impl Checks {
    /// None yet. A set in which none counts is unknown.
    pub fn new() -> Self {
        Self::default()
    }
    /// One that must be healthy.
    pub fn required(self, name: impl Into<String>, check: impl HealthCheck) -> Self {
        self.with(name, check, true)
    }
    /// One that is reported, and does not count.
    pub fn optional(self, name: impl Into<String>, check: impl HealthCheck) -> Self {
        self.with(name, check, false)
    }
    fn with(mut self, name: impl Into<String>, check: impl HealthCheck, counts: bool) -> Self {
        self.checks.push(Named { name: name.into(), check: Arc::new(check), counts });
        self
    }
}

#[async_trait]
impl HealthCheck for Checks {
    fn name(&self) -> String {
        let name = |c: &Named| if c.counts { c.name.clone() } else { format!("{} (optional)", c.name) };
        self.checks.iter().map(name).collect::<Vec<_>>().join(", ")
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let answers = join_all(self.checks.iter().map(|named| ask(&named.check, context))).await;
        let (mut counting, mut failed, mut beside) = (vec![], vec![], vec![]);
        for (named, answer) in self.checks.iter().zip(answers) {
            let word = match &answer {
                Health::Healthy(_) => "healthy",
                Health::Unhealthy(_) => "unhealthy",
                Health::Unknown(_) => "unknown",
            };
            let (value, mut evidence) = answer.split();
            for e in &mut evidence {
                e.what = format!("{}: {}", named.name, e.what);
            }
            if evidence.is_empty() {
                evidence.push(Evidence::new(&named.name, word));
            }
            if named.counts {
                if word != "healthy" {
                    failed.push(format!("{} is {word}", named.name));
                }
                counting.push(value.with(evidence));
            } else {
                let optional = |mut e: Evidence| {
                    e.what = format!("{} (optional, {word})", e.what);
                    e
                };
                beside.extend(evidence.into_iter().map(optional));
            }
        }
        if counting.is_empty() {
            failed.push("no check in it counts".into());
        }
        let (value, evidence) = Health::all(counting).split();
        // First what failed: that is what people look for.
        let first = (!failed.is_empty()).then(|| Evidence::new("checks", failed.join(", ")));
        Ok(value.with(first.into_iter().chain(evidence).chain(beside).collect()))
    }
    /// Of those that count.
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        let counting = self.checks.iter().filter(|named| named.counts);
        let found = join_all(counting.map(|named| named.check.preflight(context))).await;
        Ok(found.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::*;
    use super::*;

    #[tokio::test]
    async fn names_what_failed_and_keeps_what_all_saw() {
        let set =
            Checks::new().required("database", says('h')).required("payments", says('u')).required("search", says('?'));
        let seen = set.check(&context()).await.unwrap();
        assert_eq!(letter(&seen), 'u');
        let lines: Vec<_> = seen.evidence().iter().map(|e| format!("{} = {}", e.what, e.seen)).collect();
        assert_eq!(
            lines,
            [
                "checks = payments is unhealthy, search is unknown",
                "database: h = h",
                "payments: u = u",
                "search: ? = ?"
            ]
        );
    }

    #[tokio::test]
    async fn optional_ones_are_reported_and_do_not_count() {
        let set = Checks::new().required("database", says('h')).optional("search", says('u'));
        let seen = set.check(&context()).await.unwrap();
        assert_eq!(letter(&seen), 'h');
        assert_eq!(seen.evidence()[1].what, "search: u (optional, unhealthy)");
        assert_eq!(set.name(), "database, search (optional)");
        let none = Checks::new().optional("search", says('h')).check(&context()).await.unwrap();
        assert_eq!(letter(&none), '?');
    }
}
