//! Did the rollback land, and did it help? A verifier gives samples; its [`Window`] is data, and the engine owns the time.
//!
//! Not here: whether it is OK just now, which a [`HealthCheck`](crate::HealthCheck) says, and when to roll back.

mod alerts;
mod closure;
mod healthy;
mod instances_ready;
mod log_scan;
#[cfg(feature = "watch")]
pub mod recovery;
mod runs;
#[cfg(test)]
pub(crate) mod sample;

pub use alerts::{Alert, AlertSource, AlertsQuiet};
pub use closure::Verify;
pub use healthy::{HealthyNow, StaysHealthy};
pub use instances_ready::InstancesReady;
pub use log_scan::LogScan;
pub use runs::Runs;

#[cfg(feature = "watch")]
mod metric;
#[cfg(feature = "watch")]
pub use metric::MetricBack;

use crate::{Context, Evidence, Health, Result, minutes, seconds};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc, time::Duration};

/// One sample of a verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It holds.
    Holds(Vec<Evidence>),
    /// It does not.
    Fails(Vec<Evidence>),
    /// Could not be found out. Never counts as recovery.
    Unknown(Vec<Evidence>),
}

impl Verdict {
    /// It holds.
    pub fn holds(&self) -> bool {
        matches!(self, Verdict::Holds(_))
    }
    /// What was seen.
    pub fn evidence(&self) -> &[Evidence] {
        match self {
            Verdict::Holds(e) | Verdict::Fails(e) | Verdict::Unknown(e) => e,
        }
    }
}

impl From<Health> for Verdict {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy(e) => Verdict::Holds(e),
            Health::Unhealthy(e) => Verdict::Fails(e),
            Health::Unknown(e) => Verdict::Unknown(e),
        }
    }
}

/// When samples are taken, and what makes them enough: after `settle`, every `every`, until they held for `hold` without a
/// break; if they have not begun to hold within `within` after `settle`, the rollback has not helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Nothing is looked at for so long.
    pub settle: Duration,
    /// It must hold for so long.
    pub hold: Duration,
    /// It must have begun to hold within so long (so that a hold can begin late and still end).
    pub within: Duration,
    /// Time between samples.
    pub every: Duration,
}

impl Default for Window {
    /// At once, one sample is enough, every 2 s for 5 min.
    fn default() -> Self {
        Self { settle: Duration::ZERO, hold: Duration::ZERO, within: minutes(5), every: seconds(2) }
    }
}

impl Window {
    /// It must hold for so long.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
    /// It must have begun to hold within so long.
    pub fn with_within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
    /// Time between samples.
    pub fn with_every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }
    /// Nothing is looked at for so long.
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }
}

/// Did the rollback land, and did it help?
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Verifier: Debug + Send + Sync + 'static {
    /// Its name, journalled with the run and shown in reports. No secrets.
    fn name(&self) -> String;
    /// When samples are taken and what makes them enough. Journalled: a resumed run keeps it.
    fn window(&self) -> Window;
    /// One sample.
    ///
    /// # Errors
    /// Count as [`Verdict::Unknown`].
    async fn verify(&self, context: &Context) -> Result<Verdict>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: Verifier + ?Sized> Verifier for $pointer<T> {
            fn name(&self) -> String {
                (**self).name()
            }
            fn window(&self) -> Window {
                (**self).window()
            }
            async fn verify(&self, context: &Context) -> Result<Verdict> {
                (**self).verify(context).await
            }
        }
    )* };
}
forward!(Arc, Box);

/// Several verifiers: all must hold, one after the other, each through its own window. (`or` over windows has no clear
/// meaning: use it inside a health check.)
#[derive(Clone, Debug, Default)]
pub struct Verifiers(pub(crate) Vec<Arc<dyn Verifier>>);

impl Verifiers {
    /// And these.
    pub fn and(mut self, more: impl Into<Verifiers>) -> Self {
        self.0.extend(more.into().0);
        self
    }
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Verifier>> {
        self.0.iter()
    }
}

impl<V: Verifier> From<V> for Verifiers {
    fn from(verifier: V) -> Self {
        Verifiers(vec![Arc::new(verifier)])
    }
}

/// `and`, for every verifier.
pub trait VerifierExt: Verifier + Sized {
    /// This one, then those.
    fn and(self, more: impl Into<Verifiers>) -> Verifiers {
        Verifiers::from(self).and(more)
    }
}
impl<V: Verifier> VerifierExt for V {}

/// A text from elsewhere, as much of it as evidence should show: 200 characters.
fn short(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
