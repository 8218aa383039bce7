//! Is it OK *now*? Three-valued: what could not be found out is neither healthy nor unhealthy.
//!
//! Not here: whether a rollback helped, which takes time and is a [`Verifier`](crate::Verifier)'s business.

mod ask;
mod at_least;
mod checks;
#[cfg(feature = "local")]
mod command;
mod consecutive;
mod ext;
mod grace;
#[cfg(feature = "http")]
mod http;
mod logic;
mod probe;
#[cfg(any(feature = "http", feature = "local"))]
mod reach;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(feature = "local")]
mod tcp;

pub use at_least::{AtLeast, at_least};
pub use checks::Checks;
#[cfg(feature = "local")]
pub use command::CommandCheck;
pub use consecutive::Consecutive;
pub use ext::HealthCheckExt;
pub use grace::WithGrace;
#[cfg(feature = "http")]
pub use http::Http;
pub use logic::{And, Not, Or};
pub use probe::{Answer, Probe};
#[cfg(feature = "local")]
pub use tcp::Tcp;

use crate::{Finding, Observation, PartId, ReleaseId, Result, TargetId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc, time::Duration};

/// Something that was seen, for the report. No secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was looked at: `GET http://127.0.0.1:8080/health`.
    pub what: String,
    /// What it said: `503 in 12 ms`.
    pub seen: String,
}

impl Evidence {
    /// Something that was seen.
    pub fn new(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { what: what.into(), seen: seen.into() }
    }
}

/// The answer of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It is OK.
    Healthy(Vec<Evidence>),
    /// It is not.
    Unhealthy(Vec<Evidence>),
    /// Could not be found out. Never counts as unhealthy, nor as recovery.
    Unknown(Vec<Evidence>),
}

impl Health {
    /// It is OK, and this was seen.
    pub fn healthy(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Health::Healthy(vec![Evidence::new(what, seen)])
    }
    /// It is not, and this was seen.
    pub fn unhealthy(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Health::Unhealthy(vec![Evidence::new(what, seen)])
    }
    /// Could not be found out, for this reason.
    pub fn unknown(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Health::Unknown(vec![Evidence::new(what, seen)])
    }
    /// It is OK.
    pub fn is_healthy(&self) -> bool {
        matches!(self, Health::Healthy(_))
    }
    /// What was seen.
    pub fn evidence(&self) -> &[Evidence] {
        match self {
            Health::Healthy(e) | Health::Unhealthy(e) | Health::Unknown(e) => e,
        }
    }
}

/// What a check or a verifier is told. Owned, and growing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// Of what.
    pub target: TargetId,
    /// What is to be reached.
    pub wanted: ReleaseId,
    /// What is left.
    pub suspect: ReleaseId,
    /// The part that is asked about; `None`: all that serve.
    pub part: Option<PartId>,
    /// The latest read.
    pub now: Observation,
    /// How long ago the last write of the run was, or the window began.
    pub since: Duration,
    /// How long this call may take; then its future is dropped, and the answer counts as unknown.
    pub within: Duration,
    /// The run's health check, for verifiers that hold it for a while.
    pub health: Option<Arc<dyn HealthCheck>>,
}

impl Context {
    /// A context of the whole target.
    pub fn new(
        target: TargetId,
        suspect: impl Into<ReleaseId>,
        wanted: impl Into<ReleaseId>,
        now: Observation,
    ) -> Self {
        Self {
            target,
            wanted: wanted.into(),
            suspect: suspect.into(),
            part: None,
            now,
            since: Duration::ZERO,
            within: Duration::from_secs(10),
            health: None,
        }
    }
    /// Of one part.
    pub fn with_part(mut self, part: Option<PartId>) -> Self {
        self.part = part;
        self
    }
    /// Since when.
    pub fn with_since(mut self, since: Duration) -> Self {
        self.since = since;
        self
    }
    /// How long it may take.
    pub fn with_within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
    /// With the run's health check.
    pub fn with_health(mut self, health: Option<Arc<dyn HealthCheck>>) -> Self {
        self.health = health;
        self
    }
}

/// Is it OK now?
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait HealthCheck: Debug + Send + Sync + 'static {
    /// Its name, journalled with the run and shown in reports. No secrets.
    fn name(&self) -> String;
    /// Looks, once.
    ///
    /// # Errors
    /// Count as [`Health::Unknown`].
    async fn check(&self, context: &Context) -> Result<Health>;
    /// What keeps it from ever telling how the wanted release is, as far as that can be known before anything is touched: no
    /// port to ask at, say. Asked once of the run's health check, while the first change is made ready; what
    /// [blocks](crate::Severity::Blocks) refuses the run. Break-glass goes on all the same, and says so.
    ///
    /// # Errors
    /// Count as not known: they are noted, and refuse nothing.
    async fn preflight(&self, _context: &Context) -> Result<Vec<Finding>> {
        Ok(vec![])
    }
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: HealthCheck + ?Sized> HealthCheck for $pointer<T> {
            fn name(&self) -> String {
                (**self).name()
            }
            async fn check(&self, context: &Context) -> Result<Health> {
                (**self).check(context).await
            }
            async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
                (**self).preflight(context).await
            }
        }
    )* };
}
forward!(Arc, Box);
