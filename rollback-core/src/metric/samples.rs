//! Samples kept over a window, and the level that they come to.

use super::{Measure, Reading};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What a metric comes to over a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Level {
    /// The ratio, rate, quantile or number. Finite.
    pub value: f64,
    /// How many observations are behind it.
    pub of: f64,
}

impl Level {
    /// A level, with how many observations are behind it.
    pub fn new(value: f64, of: f64) -> Self {
        Self { value, of }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    /// In milliseconds on the line of time that the keeper of these samples has.
    at: i64,
    measure: Measure,
}

/// The latest samples of one source. Data: it can be stored, and its times are those that it was told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    series: BTreeMap<String, Vec<Point>>,
    /// When the source last answered.
    read: Option<i64>,
}

/// More series than anybody can mean.
const MOST_SERIES: usize = 10_000;

impl Samples {
    /// Takes in a reading that was asked for at `asked` (milliseconds on the keeper's line of time). What cannot be used
    /// is said, and leaves nothing behind.
    pub(crate) fn take(&mut self, asked: i64, reading: &Reading) -> Result<(), String> {
        if let Some(why) = &reading.failed {
            return Err(why.clone());
        }
        if reading.samples.is_empty() {
            return Err("no samples".into());
        }
        if reading.samples.len() > MOST_SERIES {
            return Err(format!("{} series, more than {MOST_SERIES}: let the source sum them", reading.samples.len()));
        }
        if let Some(odd) = reading.samples.iter().find(|s| !s.measure.is_usable()) {
            return Err(format!("{:?} is not a number that can be used", odd.measure));
        }
        for sample in &reading.samples {
            let point = Point { at: asked.saturating_sub(millis(sample.age)), measure: sample.measure.clone() };
            let points = self.series.entry(sample.series.clone()).or_default();
            // The source answered before and did not have this counter: it began at zero, not unseen.
            if points.is_empty()
                && let (Some(read), Some(zero)) = (self.read.filter(|read| *read < point.at), point.measure.zero())
            {
                points.push(Point { at: read, measure: zero });
            }
            let place = points.partition_point(|p| p.at < point.at);
            match points.get_mut(place) {
                Some(same) if same.at == point.at => *same = point,
                _ => points.insert(place, point),
            }
        }
        self.read = Some(self.read.map_or(asked, |read| read.max(asked)));
        Ok(())
    }

    /// Forgets what no window of this length can need any more at `now`: all but the last sample before it.
    pub(crate) fn forget_before(&mut self, now: i64, window: Duration) {
        let begin = now.saturating_sub(millis(window));
        self.series.retain(|_, points| {
            let old = points.partition_point(|p| p.at <= begin);
            points.drain(..old.saturating_sub(1));
            !points.is_empty()
        });
    }

    /// The level over `(now − window, now]` by the samples' own times. `gap`: how old the newest may be, and across how
    /// long a hole an increase still counts. The error says why there is none.
    pub(crate) fn level(&self, now: i64, window: Duration, gap: Duration) -> Result<Level, String> {
        let begin = now.saturating_sub(millis(window));
        let upto = |points: &Vec<Point>| points.partition_point(|p| p.at <= now);
        let newest =
            self.series.values().filter_map(|points| points.get(upto(points).checked_sub(1)?)).max_by_key(|p| p.at);
        let newest = newest.ok_or("no sample yet")?;
        let old = Duration::from_millis(u64::try_from(now - newest.at).unwrap_or(0));
        if old > gap {
            return Err(format!("the newest sample is {old:?} old, more than {gap:?}"));
        }
        let mut sum = Sum::default();
        for points in self.series.values() {
            let inside = points.partition_point(|p| p.at <= begin)..upto(points);
            for at in inside {
                let before = at.checked_sub(1).map(|b| &points[b]).filter(|b| points[at].at - b.at <= millis(gap));
                sum.add(before, &points[at]);
            }
            sum.end_series();
        }
        sum.level(&newest.measure)
    }
}

/// What was added up over a window.
#[derive(Default)]
struct Sum {
    bad: f64,
    all: f64,
    total: f64,
    /// Seconds over which `total` was seen, by the series that saw most.
    covered: f64,
    here: f64,
    buckets: Vec<(f64, f64)>,
    mixed: bool,
    values: Vec<(f64, f64)>,
    value: Option<(f64, f64)>,
}

impl Sum {
    fn add(&mut self, before: Option<&Point>, now: &Point) {
        if let Measure::Value { value, of } = now.measure {
            let seen = self.value.map_or(0.0, |(_, seen)| seen);
            self.value = Some((value, of.unwrap_or(seen + 1.0)));
            return;
        }
        let Some(before) = before else { return };
        match (&before.measure, &now.measure) {
            (Measure::Counts { bad: b0, all: a0 }, Measure::Counts { bad, all }) => {
                let again = bad < b0 || all < a0;
                self.bad += if again { *bad } else { bad - b0 };
                self.all += if again { *all } else { all - a0 };
            }
            (Measure::Total(t0), Measure::Total(t)) => {
                self.total += if t < t0 { *t } else { t - t0 };
                self.here += (now.at - before.at) as f64 / 1000.0;
            }
            (Measure::Buckets { buckets: b0, all: a0, .. }, Measure::Buckets { buckets, all, .. }) => {
                let edges = |b: &[(f64, f64)]| b.iter().map(|(edge, _)| *edge).collect::<Vec<_>>();
                let again = all < a0 || edges(b0) != edges(buckets) || b0.iter().zip(buckets).any(|(o, n)| n.1 < o.1);
                self.all += if again { *all } else { all - a0 };
                let old = |i: usize| if again { 0.0 } else { b0[i].1 };
                let more: Vec<_> = buckets.iter().enumerate().map(|(i, (edge, n))| (*edge, n - old(i))).collect();
                if self.buckets.is_empty() {
                    self.buckets = more;
                } else if edges(&self.buckets) == edges(&more) {
                    self.buckets.iter_mut().zip(more).for_each(|(sum, more)| sum.1 += more.1);
                } else {
                    self.mixed = true;
                }
            }
            _ => self.mixed = true,
        }
    }

    fn end_series(&mut self) {
        self.covered = self.covered.max(self.here);
        self.here = 0.0;
        self.values.extend(self.value.take());
    }

    fn level(self, newest: &Measure) -> Result<Level, String> {
        if self.mixed {
            return Err("its samples do not go together: other kinds, or histograms with other edges".into());
        }
        let (value, of) = match newest {
            Measure::Counts { .. } => (self.bad / self.all, self.all),
            Measure::Total(_) => (self.total / self.covered, self.total),
            Measure::Buckets { quantile, .. } => (quantile_of(*quantile, &self.buckets, self.all), self.all),
            Measure::Value { .. } => match self.values[..] {
                [one] => one,
                [] => return Err("no sample in the window".into()),
                _ => return Err(format!("{} series: let the source make one of them", self.values.len())),
            },
        };
        if value.is_finite() && of.is_finite() { Ok(Level { value, of }) } else { Err("nothing was counted".into()) }
    }
}

/// As Prometheus does it: linear inside the bucket, from zero in the first, the last edge beyond it.
fn quantile_of(quantile: f64, buckets: &[(f64, f64)], all: f64) -> f64 {
    let rank = quantile * all;
    let Some(&(last, _)) = buckets.last().filter(|_| all > 0.0) else { return f64::NAN };
    let (mut edge_before, mut count_before) = (0.0, 0.0f64);
    for (i, &(edge, count)) in buckets.iter().enumerate() {
        let count = count.max(count_before);
        if count >= rank {
            if i == 0 && edge <= 0.0 {
                return edge;
            }
            let inside = if count > count_before { (rank - count_before) / (count - count_before) } else { 0.0 };
            return edge_before + (edge - edge_before) * inside;
        }
        (edge_before, count_before) = (edge, count);
    }
    last
}

impl Measure {
    fn is_usable(&self) -> bool {
        let counter = |n: f64| n.is_finite() && n >= 0.0;
        match self {
            Measure::Counts { bad, all } => counter(*bad) && counter(*all),
            Measure::Total(n) => counter(*n),
            Measure::Buckets { quantile, buckets, all } => {
                (0.0..=1.0).contains(quantile)
                    && counter(*all)
                    && !buckets.is_empty()
                    && buckets.iter().all(|(edge, n)| edge.is_finite() && counter(*n))
                    && buckets.is_sorted_by(|a, b| a.0 < b.0)
            }
            Measure::Value { value, of } => value.is_finite() && of.is_none_or(counter),
        }
    }
    /// Where a counter begins; `None` for what is no counter.
    fn zero(&self) -> Option<Measure> {
        match self {
            Measure::Counts { .. } => Some(Measure::Counts { bad: 0.0, all: 0.0 }),
            Measure::Total(_) => Some(Measure::Total(0.0)),
            Measure::Buckets { quantile, buckets, .. } => Some(Measure::Buckets {
                quantile: *quantile,
                buckets: buckets.iter().map(|(edge, _)| (*edge, 0.0)).collect(),
                all: 0.0,
            }),
            Measure::Value { .. } => None,
        }
    }
}

pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{metric::Sample, minutes, seconds};

    fn fill(points: &[(i64, Measure)]) -> Samples {
        let mut samples = Samples::default();
        for (at, measure) in points {
            samples.take(at * 1000, &Reading::of(Duration::ZERO, [Sample::now(measure.clone())])).unwrap();
        }
        samples
    }
    fn counts(bad: u32, all: u32) -> Measure {
        Measure::counts(bad, all)
    }

    #[test]
    fn the_window_is_open_at_its_beginning_and_closed_at_its_end() {
        let samples = fill(&[(0, counts(0, 0)), (30, counts(9, 10)), (60, counts(10, 30)), (90, counts(10, 40))]);
        // (30, 90]: the increase seen at 30 is outside, that seen at 90 inside.
        assert_eq!(samples.level(90_000, seconds(60), minutes(5)), Ok(Level::new(1.0 / 30.0, 30.0)));
        // One millisecond earlier, what was seen at 30 is inside and what was seen at 90 is not known yet.
        assert_eq!(samples.level(89_999, seconds(60), minutes(5)), Ok(Level::new(10.0 / 30.0, 30.0)));
    }

    #[test]
    fn a_counter_that_fell_began_again() {
        let samples = fill(&[(0, counts(100, 5000)), (30, counts(110, 5100)), (60, counts(2, 40))]);
        assert_eq!(samples.level(60_000, minutes(2), minutes(5)), Ok(Level::new(12.0 / 140.0, 140.0)));
    }

    #[test]
    fn one_of_several_series_that_begins_again_does_not_count_the_others_twice() {
        let mut samples = Samples::default();
        for (at, a, b) in [(0, 1000u32, 500u32), (30, 1010, 510), (60, 1020, 3)] {
            let of = |s: &str, n: u32| Sample::now(Measure::counts(0u32, n)).with_series(s);
            samples.take(at * 1000, &Reading::of(Duration::ZERO, [of("a", a), of("b", b)])).unwrap();
        }
        assert_eq!(samples.level(60_000, minutes(2), minutes(5)).unwrap().of, 20.0 + 10.0 + 3.0);
    }

    #[test]
    fn a_series_that_appears_later_began_at_zero() {
        let mut samples = Samples::default();
        let ok = |n: u32| Sample::now(counts(0, n)).with_series("200");
        samples.take(0, &Reading::of(Duration::ZERO, [ok(1000)])).unwrap();
        let failed = Sample::now(counts(7, 7)).with_series("500");
        samples.take(30_000, &Reading::of(Duration::ZERO, [ok(1003), failed])).unwrap();
        assert_eq!(samples.level(30_000, minutes(2), minutes(5)), Ok(Level::new(0.7, 10.0)));
    }

    #[test]
    fn an_increase_across_a_hole_is_of_no_known_time() {
        let samples = fill(&[(0, counts(0, 0)), (600, counts(90, 100)), (630, counts(91, 200))]);
        assert_eq!(samples.level(630_000, minutes(5), minutes(5)), Ok(Level::new(0.01, 100.0)));
    }

    #[test]
    fn late_and_repeated_samples_change_nothing_but_their_own_place() {
        let mut samples = fill(&[(0, counts(0, 0)), (60, counts(4, 40))]);
        let late = Reading::of(Duration::ZERO, [Sample::now(counts(1, 10)).with_age(seconds(40))]);
        for _ in 0..3 {
            samples.take(70_000, &late).unwrap();
        }
        assert_eq!(samples.level(70_000, minutes(2), minutes(5)), Ok(Level::new(0.1, 40.0)));
    }

    #[test]
    fn no_sum_no_level() {
        assert!(Samples::default().level(0, minutes(1), minutes(1)).is_err());
        let still = fill(&[(0, counts(5, 50)), (30, counts(5, 50))]);
        assert_eq!(still.level(30_000, minutes(1), minutes(1)), Err("nothing was counted".into()));
        let old = fill(&[(0, Measure::value(3.0))]);
        assert!(old.level(61_000, minutes(9), minutes(1)).unwrap_err().contains("61s old"));
        assert!(old.level(60_000, minutes(9), minutes(1)).is_ok());
        let mut odd = Samples::default();
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(odd.take(0, &Reading::of(Duration::ZERO, [Sample::now(bad)])).is_err());
        }
        assert_eq!(odd, Samples::default());
    }

    #[test]
    fn a_quantile_is_that_of_the_increase_alone() {
        let histogram = |fast: f64, slow: f64| Measure::Buckets {
            quantile: 0.95,
            buckets: vec![(0.1, fast), (0.5, fast + slow), (1.0, fast + slow)],
            all: fast + slow,
        };
        // A million fast ones in the past do not hide that all of the last hundred were slow.
        let samples = fill(&[(0, histogram(1e6, 0.0)), (30, histogram(1e6, 100.0))]);
        let level = samples.level(30_000, minutes(1), minutes(1)).unwrap();
        assert!((level.value - (0.1 + 0.4 * 0.95)).abs() < 1e-9, "{level:?}");
        assert_eq!(level.of, 100.0);
        assert_eq!(quantile_of(0.5, &[(1.0, 0.0), (2.0, 0.0)], 10.0), 2.0, "beyond the last edge");
    }

    #[test]
    fn a_rate_is_over_the_time_that_was_seen() {
        let samples = fill(&[(0, Measure::Total(0.0)), (20, Measure::Total(40.0))]);
        assert_eq!(samples.level(20_000, minutes(5), minutes(5)), Ok(Level::new(2.0, 40.0)));
    }

    #[test]
    fn memory_is_bounded_and_the_sample_before_the_window_is_kept() {
        let mut samples = Samples::default();
        for at in 0..10_000u32 {
            samples.take(i64::from(at) * 1000, &Reading::of(Duration::ZERO, [Sample::now(counts(at, at))])).unwrap();
            samples.forget_before(i64::from(at) * 1000, minutes(1));
        }
        assert_eq!(samples.series[""].len(), 61);
        assert_eq!(samples.level(9_999_000, minutes(1), minutes(1)).unwrap().of, 60.0);
    }
}
