//! A metric is back: under a threshold, or near its baseline.

use super::{Verdict, Verifier, Window};
use crate::{
    Clock, Context, Evidence, Now, Result, SystemClock,
    metric::{Ask, Level, MetricSource, Reading, Samples, millis},
    minutes, seconds,
};
use async_trait::async_trait;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Holds while a metric is where it should be. No data is [`Verdict::Unknown`]: it never counts as recovery.
///
/// A level is taken over a window that begins after the last write of the run, so that what was bad before does not count
/// against it, nor what was good for it. Counters need two samples, so the first one is always unknown. What was read is
/// kept in memory: in a resumed run the window begins anew.
///
/// ```
/// use rollback_core::{metric::{Level, Metric}, minutes, verify::{MetricBack, Window}};
/// let errors = Metric::with("error rate", || async { Ok(0.002) });
/// let p95 = Metric::with("p95", || async { Ok(0.180) });
/// let back = MetricBack::under("error rate", 0.01, errors).with_window(Window::default().with_hold(minutes(1)));
/// let near = MetricBack::within("p95", 0.10, Level::new(0.175, 5000.0), p95);
/// ```
#[derive(Debug)]
pub struct MetricBack {
    name: String,
    good: Good,
    source: Arc<dyn MetricSource>,
    window: Window,
    over: Duration,
    min_samples: u64,
    max_gap: Duration,
    clock: Arc<dyn Clock>,
    samples: Mutex<Samples>,
}

#[derive(Clone, Copy, Debug)]
enum Good {
    Under(f64),
    Over(f64),
    Within { share: f64, of: Level },
}

impl fmt::Display for Good {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Good::Under(n) => write!(f, "under {n}"),
            Good::Over(n) => write!(f, "over {n}"),
            Good::Within { share, of } => write!(f, "within {}% of {}", share * 100.0, of.value),
        }
    }
}

impl MetricBack {
    fn new(name: impl Into<String>, good: Good, source: impl MetricSource) -> Self {
        Self {
            name: name.into(),
            good,
            source: Arc::new(source),
            window: Window::default().with_every(seconds(10)),
            over: seconds(60),
            min_samples: 1,
            max_gap: minutes(2),
            clock: Arc::new(SystemClock::new()),
            samples: Mutex::default(),
        }
    }
    /// Holds under the threshold; at it, it does not.
    pub fn under(name: impl Into<String>, threshold: f64, source: impl MetricSource) -> Self {
        Self::new(name, Good::Under(threshold), source)
    }
    /// Holds over the threshold; at it, it does not.
    pub fn over(name: impl Into<String>, threshold: f64, source: impl MetricSource) -> Self {
        Self::new(name, Good::Over(threshold), source)
    }
    /// Holds no further from the baseline, either way, than this share of it: 0.1 is 10 %. A baseline of zero, or of fewer
    /// observations than [`with_min_samples`](Self::with_min_samples), tells nothing: always unknown.
    pub fn within(name: impl Into<String>, share: f64, of: Level, source: impl MetricSource) -> Self {
        Self::new(name, Good::Within { share, of }, source)
    }
    /// 001: errors under 1 % within 5 min. 20 observations at least.
    pub fn runbook_001_errors(source: impl MetricSource) -> Self {
        let window = Window::default().with_within(minutes(5)).with_every(seconds(10));
        Self::under("error rate", 0.01, source).with_min_samples(20).with_window(window)
    }
    /// 001: p95 within 10 % of its baseline within 3 min. 20 observations at least.
    pub fn runbook_001_p95(baseline: Level, source: impl MetricSource) -> Self {
        let window = Window::default().with_within(minutes(3)).with_every(seconds(10));
        Self::within("p95 latency", 0.10, baseline, source).with_min_samples(20).with_window(window)
    }
    /// 001: the request rate is stable within 2 min: here, within 10 % of its baseline.
    pub fn runbook_001_request_rate(baseline: Level, source: impl MetricSource) -> Self {
        let window = Window::default().with_within(minutes(2)).with_every(seconds(10));
        Self::within("request rate", 0.10, baseline, source).with_window(window)
    }
    /// 003: after 2 min to settle, at least 95 % succeed, five checks in a row (30 s apart). Over a ratio of successes, 20
    /// observations at least.
    pub fn runbook_003_success(source: impl MetricSource) -> Self {
        Self::over("success rate", 0.95 - f64::EPSILON, source).with_min_samples(20).with_window(five_checks())
    }
    /// 003: after 2 min to settle, p95 at most 500 ms, five checks in a row (30 s apart). In seconds.
    pub fn runbook_003_p95(source: impl MetricSource) -> Self {
        Self::under("p95 latency", 0.5 + f64::EPSILON, source).with_min_samples(20).with_window(five_checks())
    }
    /// When samples are taken and what makes them enough. Default: at once, every 10 s for 5 min, one is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
    /// Over how long a level is taken, at most since the last write. Default: 60 s.
    pub fn with_over(mut self, over: Duration) -> Self {
        self.over = over;
        self
    }
    /// How many observations a level needs; fewer are unknown. Default: 1.
    pub fn with_min_samples(mut self, min_samples: u64) -> Self {
        self.min_samples = min_samples;
        self
    }
    /// How old the newest sample may be. Default: 2 min.
    pub fn with_max_gap(mut self, max_gap: Duration) -> Self {
        self.max_gap = max_gap;
        self
    }
    /// Where the time is read.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The level, or why there is none.
    fn level(&self, reading: &Reading, now: Now, since: Duration) -> Result<Level, String> {
        if let Good::Within { of, .. } = self.good
            && (of.value == 0.0 || !of.value.is_finite() || of.of < self.min_samples as f64)
        {
            return Err(format!("the baseline of {} from {} observations tells nothing", of.value, of.of));
        }
        let (now, asked) = (millis(now.mono), millis(reading.asked));
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.take(asked, reading)?;
        let over = self.over.min(since);
        samples.forget_before(now, self.over);
        let level = samples.level(now, over, self.max_gap)?;
        if level.of < self.min_samples as f64 {
            return Err(format!("{} of {} observations: too few", level.of, self.min_samples));
        }
        Ok(level)
    }
}

/// 2 min to settle, then five samples 30 s apart, all of which hold.
fn five_checks() -> Window {
    Window::default().with_settle(minutes(2)).with_every(seconds(30)).with_hold(minutes(2))
}

#[async_trait]
impl Verifier for MetricBack {
    fn name(&self) -> String {
        format!("{} {}", self.name, self.good)
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let asked = self.clock.now().mono;
        let ask = Ask::over(self.over.min(context.since)).with_within(context.within);
        let reading = Reading::ask(&*self.source, ask, asked).await;
        let now = self.clock.now();
        let evidence = |seen| vec![Evidence::new(self.source.name(), seen)];
        // The call itself took a while, which is since the write as well.
        let since = context.since + now.mono.saturating_sub(asked);
        let level = match self.level(&reading, now, since) {
            Ok(level) => level,
            Err(why) => return Ok(Verdict::Unknown(evidence(format!("no data: {why}")))),
        };
        let good = match self.good {
            Good::Under(threshold) => level.value < threshold,
            Good::Over(threshold) => level.value > threshold,
            Good::Within { share, of } => (level.value - of.value).abs() <= share * of.value.abs(),
        };
        let seen = evidence(format!("{} of {} observations, wanted {}", level.value, level.of, self.good));
        Ok(if good { Verdict::Holds(seen) } else { Verdict::Fails(seen) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Error, Identity, Kind, Observation, PartState, Token,
        metric::{Measure, Metric},
    };
    use std::collections::VecDeque;

    fn context(since: u64) -> Context {
        let now = Observation::of_one(Identity::new("here", "it"), PartState::of("1"), Token::none());
        Context::new("dir:/srv/it".into(), "2", "1", now).with_since(seconds(since))
    }
    fn source(gives: impl IntoIterator<Item = Option<Measure>>) -> Metric {
        let gives = Mutex::new(gives.into_iter().collect::<VecDeque<_>>());
        Metric::with("m", move || {
            let next = gives.lock().unwrap().pop_front().flatten();
            async move { next.ok_or_else(|| Error::new(Kind::Unavailable, "read it")) }
        })
    }
    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Holds(_) => "holds",
            Verdict::Fails(_) => "fails",
            Verdict::Unknown(_) => "unknown",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_data_is_neither_recovery_nor_failure() {
        let back = MetricBack::under("m", 0.01, source([Some(0.001.into()), None, Some(f64::NAN.into())]));
        let mut says = vec![];
        for _ in 0..3 {
            says.push(word(&back.verify(&context(60)).await.unwrap()));
        }
        assert_eq!(says, ["holds", "unknown", "unknown"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_before_the_write_does_not_count_against_it() {
        let counts = |bad: u32, all: u32| Some(Measure::counts(bad, all));
        let gives = [counts(500, 1000), counts(600, 1100), counts(600, 1200), counts(600, 1300)];
        let back = MetricBack::under("m", 0.01, source(gives));
        let mut says = vec![];
        // The last write was at 11 s: the increase seen at 10 was before it.
        for since in [0, 0, 9, 19] {
            says.push(word(&back.verify(&context(since)).await.unwrap()));
            tokio::time::advance(seconds(10)).await;
        }
        assert_eq!(says, ["unknown", "unknown", "holds", "holds"]);
    }

    #[tokio::test(start_paused = true)]
    async fn near_the_baseline_either_way() {
        let base = Level::new(100.0, 50.0);
        for (value, says) in [(110.0, "holds"), (110.1, "fails"), (90.0, "holds"), (89.9, "fails")] {
            let back = MetricBack::within("m", 0.1, base, source([Some(value.into())]));
            assert_eq!(word(&back.verify(&context(60)).await.unwrap()), says, "{value}");
        }
        let nothing = MetricBack::within("m", 0.1, Level::new(0.0, 50.0), source([Some(0.0.into())]));
        assert_eq!(word(&nothing.verify(&context(60)).await.unwrap()), "unknown");
    }
}
