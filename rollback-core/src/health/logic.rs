//! And, or, not, with three values: an unknown side decides only where the known one cannot.

use super::{Context, Evidence, Health, HealthCheck, ask::ask};
use crate::{Finding, Result, Severity};
use async_trait::async_trait;

/// Which of the three it is; what was seen is kept apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Yes,
    No,
    Unknown,
}

impl Value {
    pub(super) fn with(self, evidence: Vec<Evidence>) -> Health {
        match self {
            Value::Yes => Health::Healthy(evidence),
            Value::No => Health::Unhealthy(evidence),
            Value::Unknown => Health::Unknown(evidence),
        }
    }
}

impl Health {
    pub(super) fn split(self) -> (Value, Vec<Evidence>) {
        match self {
            Health::Healthy(e) => (Value::Yes, e),
            Health::Unhealthy(e) => (Value::No, e),
            Health::Unknown(e) => (Value::Unknown, e),
        }
    }
    /// All are healthy: unhealthy if one is, else unknown if one is. Of none, nothing is known.
    pub(super) fn all(answers: impl IntoIterator<Item = Health>) -> Health {
        let (values, evidence) = unzip(answers);
        let value = match &values[..] {
            [] => Value::Unknown,
            v if v.contains(&Value::No) => Value::No,
            v if v.contains(&Value::Unknown) => Value::Unknown,
            _ => Value::Yes,
        };
        value.with(evidence)
    }
    /// At least `k` are healthy; unhealthy as soon as those that might be are too few.
    pub(super) fn at_least(k: usize, answers: impl IntoIterator<Item = Health>) -> Health {
        let (values, evidence) = unzip(answers);
        let count = |value| values.iter().filter(|v| **v == value).count();
        let value = match (count(Value::Yes), count(Value::Unknown)) {
            (healthy, _) if healthy >= k => Value::Yes,
            (healthy, unknown) if healthy + unknown < k => Value::No,
            _ => Value::Unknown,
        };
        value.with(evidence)
    }
}

fn unzip(answers: impl IntoIterator<Item = Health>) -> (Vec<Value>, Vec<Evidence>) {
    let (values, evidence): (Vec<_>, Vec<_>) = answers.into_iter().map(Health::split).unzip();
    (values, evidence.into_iter().flatten().collect())
}

/// What is found of several checks of which so many must be healthy: what blocks one of them blocks the whole only where too
/// few are left.
pub(super) fn enough(k: usize, found: Vec<Vec<Finding>>) -> Vec<Finding> {
    let blocked = |of: &Vec<Finding>| of.iter().any(|finding| finding.severity == Severity::Blocks);
    let left = found.iter().filter(|of| !blocked(of)).count();
    let mut all = found.concat();
    if left >= k {
        for finding in all.iter_mut().filter(|finding| finding.severity == Severity::Blocks) {
            finding.severity = Severity::Warning;
        }
    }
    all
}

/// Both must be healthy. Made by [`HealthCheckExt::and`](super::HealthCheckExt::and).
#[derive(Clone, Debug)]
pub struct And<A, B>(pub(super) A, pub(super) B);

#[async_trait]
impl<A: HealthCheck, B: HealthCheck> HealthCheck for And<A, B> {
    fn name(&self) -> String {
        format!("({} and {})", self.0.name(), self.1.name())
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let (one, other) = tokio::join!(ask(&self.0, context), ask(&self.1, context));
        Ok(Health::all([one, other]))
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        let (one, other) = tokio::join!(self.0.preflight(context), self.1.preflight(context));
        Ok([one?, other?].concat())
    }
}

/// One of the two must be healthy. Made by [`HealthCheckExt::or`](super::HealthCheckExt::or).
#[derive(Clone, Debug)]
pub struct Or<A, B>(pub(super) A, pub(super) B);

#[async_trait]
impl<A: HealthCheck, B: HealthCheck> HealthCheck for Or<A, B> {
    fn name(&self) -> String {
        format!("({} or {})", self.0.name(), self.1.name())
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let (one, other) = tokio::join!(ask(&self.0, context), ask(&self.1, context));
        Ok(Health::at_least(1, [one, other]))
    }
    /// One side that can tell is enough.
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        let (one, other) = tokio::join!(self.0.preflight(context), self.1.preflight(context));
        Ok(enough(1, vec![one?, other?]))
    }
}

/// It must not be healthy; unknown stays unknown. Made by [`HealthCheckExt::not`](super::HealthCheckExt::not).
#[derive(Clone, Debug)]
pub struct Not<A>(pub(super) A);

#[async_trait]
impl<A: HealthCheck> HealthCheck for Not<A> {
    fn name(&self) -> String {
        format!("not {}", self.0.name())
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        Ok(match ask(&self.0, context).await {
            Health::Healthy(e) => Health::Unhealthy(e),
            Health::Unhealthy(e) => Health::Healthy(e),
            unknown => unknown,
        })
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        self.0.preflight(context).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{HealthCheckExt as _, Probe, at_least, sample::*};
    use super::*;
    use crate::{Error, Kind, Result};

    const ALL: [char; 3] = ['h', 'u', '?'];

    /// The tables of Kleene, one line a row.
    #[tokio::test]
    async fn three_values() {
        let (mut and, mut or) = (String::new(), String::new());
        for a in ALL {
            for b in ALL {
                and.push(letter(&says(a).and(says(b)).check(&context()).await.unwrap()));
                or.push(letter(&says(a).or(says(b)).check(&context()).await.unwrap()));
            }
        }
        assert_eq!(and, "hu?uuu?u?");
        assert_eq!(or, "hhhhu?h??");
        for (a, not) in [('h', 'u'), ('u', 'h'), ('?', '?')] {
            assert_eq!(letter(&says(a).not().check(&context()).await.unwrap()), not);
        }
    }

    #[tokio::test]
    async fn no_side_loses_its_evidence() {
        for a in ALL {
            for b in ALL {
                let seen = says(a).and(says(b).or(says('h').not())).check(&context()).await.unwrap();
                assert_eq!(seen.evidence().len(), 3);
            }
        }
    }

    #[tokio::test]
    async fn an_error_is_unknown_and_says_why() {
        let broken = Probe::new("probe", |_: &Context| -> Result<Health> { Err(Error::new(Kind::Denied, "ask")) });
        let seen = broken.and(says('h')).check(&context()).await.unwrap();
        assert_eq!(letter(&seen), '?');
        assert_eq!(seen.evidence()[0], Evidence::new("probe", "could not ask: not allowed"));
        assert_eq!(seen.evidence().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_hangs_does_not_take_the_other_ones_evidence_along() {
        let hangs = Probe::new_async("hangs", |_| std::future::pending::<Health>());
        let seen = says('u').and(says('h').and(hangs)).check(&context()).await.unwrap();
        assert_eq!(letter(&seen), 'u');
        assert_eq!(seen.evidence().len(), 3);
        assert!(seen.evidence()[2].seen.starts_with("no answer within"));
    }

    #[tokio::test]
    async fn k_of_n() {
        for (checks, k, want) in
            [("hhu", 2, 'h'), ("huu", 2, 'u'), ("hu?", 2, '?'), ("h??", 1, 'h'), ("u??", 3, 'u'), ("hhh", 3, 'h')]
        {
            let check = at_least(k, checks.chars().map(says)).unwrap();
            let seen = check.check(&context()).await.unwrap();
            assert_eq!((letter(&seen), seen.evidence().len()), (want, 3), "{k} of {checks}");
        }
        for k in [0, 3] {
            assert_eq!(at_least(k, "hh".chars().map(says)).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
