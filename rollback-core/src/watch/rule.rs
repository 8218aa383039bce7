//! What a metric may not do: data, written down and shown.

use crate::{Error, Kind, Result, metric::Level, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// On which side of the threshold it is bad. Equal is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// More is bad: errors, latency.
    Above,
    /// Less is bad: orders, availability.
    Below,
}

impl Compare {
    /// Whether a value is on the bad side. Equal is not, nor is what is not a number.
    pub fn breaches(self, value: f64, threshold: f64) -> bool {
        match self {
            Compare::Above => value > threshold,
            Compare::Below => value < threshold,
        }
    }
}

/// Where the bad side begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Threshold {
    /// Here.
    Absolute(f64),
    /// At so many times the baseline: 2.0 is twice, 1.25 is 25 % more, 0.9 is 10 % less. The baseline must not be zero.
    TimesBaseline(f64),
    /// So much above the baseline (below it, if negative), in the metric's own unit: 0.005 is half a point of a ratio.
    BaselinePlus(f64),
    /// At so many times the rate of errors that would just use up the budget of a service level objective over its whole
    /// period: `times × (1 − slo)`. An objective of 0.999 burnt at 14.4 is 1.44 % of errors. For ratios of errors.
    /// (Google's SRE workbook, chapter 5.)
    BurnRate {
        /// The objective: 0.999 is 99.9 % good.
        slo: f64,
        /// How many times as fast as it may.
        times: f64,
    },
}

impl From<f64> for Threshold {
    fn from(value: f64) -> Self {
        Threshold::Absolute(value)
    }
}

impl Threshold {
    pub(crate) fn is_relative(self) -> bool {
        matches!(self, Threshold::TimesBaseline(_) | Threshold::BaselinePlus(_))
    }
    /// Where it is, with this baseline. The error says why it cannot be told.
    pub(crate) fn at(self, baseline: Option<Level>, min_samples: u64) -> Result<f64, String> {
        let baseline = match self {
            Threshold::Absolute(threshold) => return Ok(threshold),
            Threshold::BurnRate { slo, times } => return Ok(times * (1.0 - slo)),
            _ => baseline.ok_or("there is no baseline")?,
        };
        if baseline.of < min_samples as f64 {
            return Err(format!("the baseline has {} of {min_samples} observations", baseline.of));
        }
        match self {
            Threshold::TimesBaseline(_) if baseline.value <= 0.0 => Err(format!("the baseline is {}", baseline.value)),
            Threshold::TimesBaseline(times) => Ok(times * baseline.value),
            Threshold::BaselinePlus(more) => Ok(baseline.value + more),
            Threshold::Absolute(threshold) => Ok(threshold),
            Threshold::BurnRate { slo, times } => Ok(times * (1.0 - slo)),
        }
    }
}

/// What to do when there was no data for longer than [`Rule::max_gap`]. Never: to go on as if it were healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OnNoData {
    /// The watch ends blind: someone must look.
    #[default]
    Escalate,
    /// The soak stands still until there is data again, at most as long as the watch may take.
    Pause,
}

/// A metric against a threshold, held for a duration.
///
/// - The level is taken over the last `window`, by the samples' own times.
/// - Fewer than `min_samples` observations, a newest sample older than `max_gap`, a source that fails: *no data*. It
///   neither breaches nor clears; a breach goes on being held, and cannot fire.
/// - It is breached when it is on the bad side now, and has been at every evaluation with data for `hold` (inclusive).
/// - With a second window ([`with_also_over`](Rule::with_also_over)), the level over each must be on the bad side: the long
///   one says that it matters, the short one that it still goes on.
/// - Evaluated less often than every other time (`every`), it begins anew.
///
/// ```
/// use rollback_core::{minutes, seconds, watch::{Rule, Threshold}};
/// let errors = Rule::above("error rate", 0.05).with_hold(minutes(2)).with_min_samples(20);
/// let slow = Rule::above("p95", Threshold::TimesBaseline(2.0)).with_hold(minutes(5));
/// assert_eq!(errors.to_string(), "error rate > 0.05 for 120s");
/// assert_eq!(slow.to_string(), "p95 > 2 × baseline for 300s");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rule {
    /// Of what, for people; unique in a watch.
    pub metric: String,
    /// On which side it is bad.
    pub compare: Compare,
    /// Where that begins.
    pub threshold: Threshold,
    /// What it was before the deployment, frozen. Without it, a relative threshold needs a concurrent baseline.
    pub baseline: Option<Level>,
    /// Over how long a level is taken. Default: 60 s.
    pub window: Duration,
    /// A shorter window whose level must be on the bad side too. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_over: Option<Duration>,
    /// How long it must be bad. Default: 2 min.
    pub hold: Duration,
    /// How many observations a level, and a baseline, needs. Default: 1.
    pub min_samples: u64,
    /// How long there may be no data. Default: 2 min.
    pub max_gap: Duration,
    /// What then. Default: the watch ends blind.
    pub on_no_data: OnNoData,
    /// How often it is evaluated. A [`Watch`](super::Watch) sets its own. Default: 30 s.
    pub every: Duration,
}

impl Rule {
    fn new(metric: impl Into<String>, compare: Compare, threshold: impl Into<Threshold>) -> Self {
        Self {
            metric: metric.into(),
            compare,
            threshold: threshold.into(),
            baseline: None,
            window: seconds(60),
            also_over: None,
            hold: minutes(2),
            min_samples: 1,
            max_gap: minutes(2),
            on_no_data: OnNoData::Escalate,
            every: seconds(30),
        }
    }
    /// Bad is more than this.
    pub fn above(metric: impl Into<String>, threshold: impl Into<Threshold>) -> Self {
        Self::new(metric, Compare::Above, threshold)
    }
    /// Bad is less than this.
    pub fn below(metric: impl Into<String>, threshold: impl Into<Threshold>) -> Self {
        Self::new(metric, Compare::Below, threshold)
    }
    /// Errors burn the budget of this objective more than `times` as fast as it lasts, over the long window and over the
    /// short one: fires at once, and stops soon after the errors do. The metric is a ratio of errors, from counters.
    ///
    /// ```
    /// use rollback_core::{hours, minutes, watch::Rule};
    /// let page = Rule::burn_rate("error rate", 0.999, 14.4, hours(1), minutes(5));
    /// assert_eq!(page.to_string(), "error rate > 14.4 × the budget of 0.999 over 3600s and 300s for 0ns");
    /// ```
    pub fn burn_rate(metric: impl Into<String>, slo: f64, times: f64, long: Duration, short: Duration) -> Self {
        Self::new(metric, Compare::Above, Threshold::BurnRate { slo, times })
            .with_window(long)
            .with_also_over(short)
            .with_hold(Duration::ZERO)
    }
    /// A shorter window whose level must be on the bad side too. The source must hand on counters: what a server has worked
    /// out over one window tells nothing of another, and is no data.
    pub fn with_also_over(mut self, short: Duration) -> Self {
        self.also_over = Some(short);
        self
    }
    /// What a kept [`Baseline`](crate::metric::Baseline) has under the name of this metric, if it has it.
    pub fn with_baseline_of(mut self, baseline: &crate::metric::Baseline) -> Self {
        self.baseline = baseline.level(&self.metric);
        self
    }
    /// What it was before the deployment, with how many observations are behind that. Without, the rule needs a concurrent
    /// baseline if its threshold is relative.
    pub fn with_baseline(mut self, baseline: Level) -> Self {
        self.baseline = Some(baseline);
        self
    }
    /// Over how long a level is taken.
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
    /// How long it must be bad.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
    /// How many observations a level, and a baseline, needs.
    pub fn with_min_samples(mut self, min_samples: u64) -> Self {
        self.min_samples = min_samples;
        self
    }
    /// How long there may be no data.
    pub fn with_max_gap(mut self, max_gap: Duration) -> Self {
        self.max_gap = max_gap;
        self
    }
    /// What to do when there was no data for longer than that.
    pub fn with_on_no_data(mut self, on_no_data: OnNoData) -> Self {
        self.on_no_data = on_no_data;
        self
    }
    /// How often it is evaluated.
    pub fn with_every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Whether it can be evaluated at all. `concurrent`: there is a concurrent baseline.
    ///
    /// # Errors
    /// [`Kind::Invalid`] that says what to change.
    pub fn check(&self, concurrent: bool) -> Result<()> {
        let (Threshold::Absolute(n)
        | Threshold::TimesBaseline(n)
        | Threshold::BaselinePlus(n)
        | Threshold::BurnRate { times: n, .. }) = self.threshold;
        let why = if !n.is_finite() {
            "its threshold is not a number".into()
        } else if let Threshold::BurnRate { slo, times } = self.threshold
            && !(slo > 0.0 && slo < 1.0 && times > 0.0)
        {
            "its objective must be between 0 and 1 (0.999 is 99.9 %), and its burn rate more than nothing".into()
        } else if self.also_over.is_some_and(|short| short.is_zero() || short >= self.window) {
            "its second window must be longer than nothing and shorter than its window".into()
        } else if matches!(self.threshold, Threshold::TimesBaseline(times) if times <= 0.0) {
            "its threshold is no times of a baseline: 2.0 is twice".into()
        } else if self.window.is_zero() || self.every.is_zero() || self.max_gap.is_zero() {
            "its window, interval and gap must be longer than nothing".into()
        } else if self.threshold.is_relative() && self.baseline.is_none() && !concurrent {
            "its threshold is relative: give it with_baseline, or a concurrent baseline (rule_against)".into()
        } else if let Some(baseline) = self.baseline
            && let Err(why) = self.threshold.at(Some(baseline), self.min_samples)
        {
            // A frozen baseline never changes, so it would be blind for ever.
            format!("its frozen baseline cannot be used: {why}")
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::Invalid, format!("use the rule {:?}", self.metric)).with_message(why).without_effect())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.compare {
            Compare::Above => '>',
            Compare::Below => '<',
        };
        write!(f, "{} {sign} ", self.metric)?;
        match self.threshold {
            Threshold::Absolute(n) => write!(f, "{n}")?,
            Threshold::TimesBaseline(n) => write!(f, "{n} × baseline")?,
            Threshold::BaselinePlus(n) if n < 0.0 => write!(f, "baseline − {}", -n)?,
            Threshold::BaselinePlus(n) => write!(f, "baseline + {n}")?,
            Threshold::BurnRate { slo, times } => write!(f, "{times} × the budget of {slo}")?,
        }
        if let Some(short) = self.also_over {
            write!(f, " over {:?} and {short:?}", self.window)?;
        }
        write!(f, " for {:?}", self.hold)
    }
}
