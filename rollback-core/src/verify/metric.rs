//! A metric is back: under a threshold, or near its baseline.

use super::{
    Verdict, Verifier, Window,
    recovery::{Must, Preset},
};
use crate::{
    Clock, Context, Evidence, Journal, Now, Result, SystemClock,
    metric::{Ask, Baseline, Level, MetricSource, Reading, Samples, millis},
    minutes, seconds,
};
use async_trait::async_trait;
use std::{
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
    must: Must,
    baseline: Option<Level>,
    kept: Option<Arc<dyn Journal>>,
    source: Arc<dyn MetricSource>,
    window: Window,
    over: Duration,
    min_samples: u64,
    max_gap: Duration,
    clock: Arc<dyn Clock>,
    samples: Mutex<Samples>,
}

impl MetricBack {
    fn new(name: impl Into<String>, must: Must, source: impl MetricSource) -> Self {
        Self {
            name: name.into(),
            must,
            baseline: None,
            kept: None,
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
        Self::new(name, Must::BeLess(threshold), source)
    }
    /// Holds no further from the baseline, either way, than this share of it: 0.1 is 10 %. A baseline of zero, or of fewer
    /// observations than [`with_min_samples`](Self::with_min_samples), tells nothing: always unknown.
    pub fn within(name: impl Into<String>, share: f64, of: Level, source: impl MetricSource) -> Self {
        Self::new(name, Must::StayWithinShareOfBaseline(share), source).with_baseline(of)
    }
    /// As [`within`](Self::within), of the [`Baseline`] that was kept in this journal for the release that is gone back to,
    /// under this name. Where none was kept, or it cannot be read: unknown, and it says so.
    ///
    /// ```
    /// use rollback_core::{journal::MemoryJournal, metric::Metric, verify::MetricBack};
    /// let p95 = Metric::with("p95", || async { Ok(0.180) });
    /// let back = MetricBack::within_kept("p95", 0.10, MemoryJournal::new(), p95).with_min_samples(20);
    /// ```
    pub fn within_kept(name: impl Into<String>, share: f64, journal: impl Journal, source: impl MetricSource) -> Self {
        let mut back = Self::new(name, Must::StayWithinShareOfBaseline(share), source);
        back.kept = Some(Arc::new(journal));
        back
    }
    /// What a kept baseline has under the name of this metric, if it has it.
    pub fn with_baseline_of(mut self, baseline: &Baseline) -> Self {
        self.baseline = baseline.level(&self.name);
        self
    }
    /// A runbook's condition, with its window. One that [needs a baseline](Must::needs_baseline) is unknown without.
    /// Ratios and quantiles want [`with_min_samples`](Self::with_min_samples): 20 is a good number.
    pub fn preset(preset: Preset, source: impl MetricSource) -> Self {
        Self::new(preset.name, preset.must, source).with_window(preset.window)
    }
    /// What it was before the deployment.
    pub fn with_baseline(mut self, baseline: Level) -> Self {
        self.baseline = Some(baseline);
        self
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

    /// What it was like, or why that is not known.
    async fn before(&self, context: &Context) -> Result<Option<Level>, String> {
        let Some(journal) = &self.kept else { return Ok(self.baseline) };
        let kept = Baseline::kept(journal, &context.target, &context.wanted);
        let kept = tokio::time::timeout(context.within, kept).await;
        let kept = kept.map_err(|_| format!("the journal did not answer within {:?}", context.within))?;
        let kept = kept.map_err(|e| e.to_string())?;
        let kept = kept.ok_or_else(|| format!("no baseline was kept of {}", context.wanted))?;
        let missing = || kept.missing.get(&self.name).map_or("it was not taken", String::as_str);
        kept.level(&self.name)
            .map(Some)
            .ok_or_else(|| format!("the baseline of {} has no {}: {}", context.wanted, self.name, missing()))
    }

    /// The level, or why there is none.
    fn level(&self, reading: &Reading, now: Now, since: Duration) -> Result<Level, String> {
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

#[async_trait]
impl Verifier for MetricBack {
    fn name(&self) -> String {
        format!("{} to {}", self.name, self.must)
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
        let seen =
            |more: &str| evidence(format!("{} of {} observations, must {}{more}", level.value, level.of, self.must));
        let before = match self.before(context).await {
            Ok(before) => before,
            Err(why) => {
                return Ok(Verdict::Unknown(evidence(format!("{} of {} observations; {why}", level.value, level.of))));
            }
        };
        let baseline = before.filter(|b| b.of >= self.min_samples as f64).map(|b| b.value);
        Ok(match self.must.holds(level.value, baseline) {
            Some(true) => Verdict::Holds(seen("")),
            Some(false) => Verdict::Fails(seen("")),
            None => Verdict::Unknown(seen("; there is no baseline that tells")),
        })
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

    #[tokio::test(start_paused = true)]
    async fn a_runbooks_condition() {
        let latency =
            || MetricBack::preset(crate::verify::recovery::runbook_001::latency(), source([Some(0.109.into())]));
        assert_eq!(word(&latency().verify(&context(60)).await.unwrap()), "unknown", "there is no baseline");
        let with_one = latency().with_baseline(Level::new(0.1, 50.0));
        assert_eq!(word(&with_one.verify(&context(60)).await.unwrap()), "holds");
        assert_eq!(with_one.window().within, minutes(3));
    }

    #[tokio::test(start_paused = true)]
    async fn as_it_was_when_the_wanted_release_was_deployed() {
        let journal = crate::journal::MemoryJournal::new();
        let back = |value: f64, gives: usize| {
            MetricBack::within_kept("p95", 0.1, journal.clone(), source(vec![Some(value.into()); gives]))
        };
        let none = back(100.0, 1).verify(&context(60)).await.unwrap();
        assert!(matches!(&none, Verdict::Unknown(e) if e[0].seen.contains("no baseline was kept of 1")), "{none:?}");
        // The context goes from 2 to 1.
        let took = source(vec![Some(100.0.into()); 3]);
        let baseline = Baseline::of("p95", took).over(seconds(10)).every(seconds(10)).take().await;
        for (release, baseline) in [("1", baseline.clone()), ("2", Baseline { levels: Default::default(), ..baseline })]
        {
            baseline.keep(&journal, &"dir:/srv/it".into(), &release.into()).await.unwrap();
        }
        for (value, says) in [(109.0, "holds"), (111.0, "fails"), (89.0, "fails")] {
            assert_eq!(word(&back(value, 1).verify(&context(60)).await.unwrap()), says, "{value}");
        }
        let other = MetricBack::within_kept("p99", 0.1, journal.clone(), source([Some(1.0.into())]));
        assert!(format!("{:?}", other.verify(&context(60)).await.unwrap()).contains("has no p99"));
    }
}
