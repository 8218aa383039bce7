//! Numbers over time, and where they come from.
//!
//! # Time
//! A rule sums over a window of *sample* time, so every sample has a moment of its own. Wall clocks jump, and those of two
//! hosts differ, so no moment is ever taken from a wall clock alone: a source says how **old** a sample is, and whoever
//! evaluates puts it at `moment it was asked − age` on its own monotonic clock.
//! - A source without stamps (a closure, a text page without times) reads *now*: age zero.
//! - A source with stamps takes the age as the difference of two readings of **one** clock, the one that made the stamp: a
//!   Prometheus server's own time minus the sample's; the `Date` of an HTTP answer minus the stamp on the page. Where there
//!   is nothing to compare a stamp with, it is not used.
//!
//! So a wall clock that jumps, here or there, moves no sample: see [`Sample::age`].
//!
//! # Counters
//! Sources hand on counters as they are, one [`Sample`] per series; increases are taken here, per series and then summed,
//! because a sum of counters of which one began again looks like a fall of all. A counter that fell began again from zero.
//! A series that was not there at the reading before began at zero; one that is there at the first reading is where
//! counting starts. An increase belongs to the sample that showed it; one across a gap longer than the rule allows is
//! not counted, since nobody knows when it was.
//!
//! Not here: what a number means. That is a [`Rule`](crate::watch::Rule)'s business.

use crate::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc, time::Duration};

mod baseline;
mod closure;
#[cfg(feature = "prometheus")]
mod endpoint;
#[cfg(feature = "prometheus")]
mod query;
mod samples;
#[cfg(feature = "prometheus")]
mod text;

pub use baseline::{Baseline, TakeBaseline};
pub use closure::Metric;
#[cfg(feature = "prometheus")]
pub use query::PrometheusQuery;
pub(crate) use samples::millis;
pub use samples::{Level, Samples};
#[cfg(feature = "prometheus")]
pub use text::{PrometheusText, Series};

/// What a sample says. Numbers must be finite; a sample with one that is not counts as none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Measure {
    /// Two counters since the process began: how many were bad, of how many. The level over a window is their ratio.
    Counts {
        /// So many bad ones.
        bad: f64,
        /// Of so many.
        all: f64,
    },
    /// One counter since the process began. The level over a window is its increase per second.
    Total(f64),
    /// A histogram's counters since the process began. The level over a window is the quantile, interpolated inside a
    /// bucket; beyond the last edge it is that edge, so choose a threshold below it.
    Buckets {
        /// Which: 0.95.
        quantile: f64,
        /// Upper edge, and how many were not above it. Edges are finite and ascending.
        buckets: Vec<(f64, f64)>,
        /// How many there were.
        all: f64,
    },
    /// A number that stands by itself: a gauge, or what a server has worked out over a window of its own. The level is the
    /// newest one.
    Value {
        /// The number.
        value: f64,
        /// How many observations are behind it, where that is known; else each sample counts as one.
        of: Option<f64>,
    },
}

impl Measure {
    /// A number that stands by itself.
    pub fn value(value: f64) -> Self {
        Measure::Value { value, of: None }
    }
    /// A number that stands by itself, with how many observations are behind it.
    pub fn value_of(value: f64, of: f64) -> Self {
        Measure::Value { value, of: Some(of) }
    }
    /// Two counters since the process began: how many were bad, of how many.
    pub fn counts(bad: impl Into<f64>, all: impl Into<f64>) -> Self {
        Measure::Counts { bad: bad.into(), all: all.into() }
    }
}

impl From<f64> for Measure {
    fn from(value: f64) -> Self {
        Measure::value(value)
    }
}

/// One sample of one series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sample {
    /// Which series of the source: its labels, or nothing where there is only one. No secrets.
    pub series: String,
    /// How old it was when the source was asked, by the clock that stamped it; zero where there is no stamp.
    pub age: Duration,
    /// What it says.
    pub measure: Measure,
}

impl Sample {
    /// A sample of a source's only series, taken now.
    pub fn now(measure: impl Into<Measure>) -> Self {
        Self { series: String::new(), age: Duration::ZERO, measure: measure.into() }
    }
    /// Of this series.
    pub fn with_series(mut self, series: impl Into<String>) -> Self {
        self.series = series.into();
        self
    }
    /// So old.
    pub fn with_age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
}

/// What a source is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ask {
    /// Over which window, for sources that work it out themselves.
    pub window: Duration,
    /// How long the answer may take. Then the future is dropped, and it counts as no data.
    pub within: Duration,
}

impl Ask {
    /// Over this window, within 10 s.
    pub fn over(window: Duration) -> Self {
        Self { window, within: Duration::from_secs(10) }
    }
    /// How long the answer may take.
    pub fn with_within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// Where numbers come from.
///
/// # Contract
/// - Each reading gives what there is now; a source keeps no state between two.
/// - Counters come as they are, per series, always under the same series name. Read one process, not a load balancer in
///   front of several: their counters would seem to begin again at each reading.
/// - Nothing to say (no such series, not a number) is an error, never a zero: it counts as *no data*, neither good nor bad.
/// - Cancel safe: a dropped reading never was.
///
/// ```
/// use async_trait::async_trait;
/// use rollback_core::{Result, metric::{Ask, Measure, MetricSource, Sample}};
///
/// /// Failures counted in this very process.
/// #[derive(Debug)]
/// struct Failures;
///
/// #[async_trait]
/// impl MetricSource for Failures {
///     fn name(&self) -> String {
///         "failures".into()
///     }
///     async fn read(&self, _: Ask) -> Result<Vec<Sample>> {
///         Ok(vec![Sample::now(Measure::counts(3u32, 1200u32))])
///     }
/// }
/// ```
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait MetricSource: Debug + Send + Sync + 'static {
    /// Its name, shown in reports. No secrets.
    fn name(&self) -> String;
    /// Reads.
    ///
    /// # Errors
    /// Count as no data, never as a breach; transient or not makes no difference here.
    async fn read(&self, ask: Ask) -> Result<Vec<Sample>>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: MetricSource + ?Sized> MetricSource for $pointer<T> {
            fn name(&self) -> String {
                (**self).name()
            }
            async fn read(&self, ask: Ask) -> Result<Vec<Sample>> {
                (**self).read(ask).await
            }
        }
    )* };
}
forward!(Arc, Box);

/// What came of asking a source: data for the rules, which do no I/O themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reading {
    /// When it was asked, on the monotonic clock of whoever evaluates.
    pub asked: Duration,
    /// What it gave.
    pub samples: Vec<Sample>,
    /// Why it gave nothing.
    pub failed: Option<String>,
}

impl Reading {
    /// Samples of a source that was asked at this moment ([`Now::mono`](crate::Now)).
    pub fn of(asked: Duration, samples: impl IntoIterator<Item = Sample>) -> Self {
        Self { asked, samples: samples.into_iter().collect(), failed: None }
    }
    /// No answer.
    pub fn failed(asked: Duration, why: impl Into<String>) -> Self {
        Self { asked, samples: vec![], failed: Some(why.into()) }
    }
    /// Asks a source, bounded by [`Ask::within`]. Never fails: an error, too long a wait and an empty answer are readings
    /// that give nothing, and say why.
    pub async fn ask(source: &dyn MetricSource, ask: Ask, asked: Duration) -> Self {
        match tokio::time::timeout(ask.within, source.read(ask)).await {
            Ok(Ok(samples)) if samples.is_empty() => Self::failed(asked, format!("{}: no samples", source.name())),
            Ok(Ok(samples)) => Self::of(asked, samples),
            Ok(Err(error)) => Self::failed(asked, format!("{}: {error}", source.name())),
            Err(_) => Self::failed(asked, format!("{}: no answer within {:?}", source.name(), ask.within)),
        }
    }
}

// Dyn compatible: checked by the compiler.
#[allow(dead_code)]
fn dyn_compatible(_: &dyn MetricSource) {}
