//! Evaluates one rule: readings and the time in, a verdict out. No clock, no I/O.

use super::Rule;
use crate::{
    Evidence, Now,
    metric::{Level, Measure, Reading, Samples, millis},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the sources gave for one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inputs {
    /// Of what is watched.
    pub current: Reading,
    /// Of what it runs beside: the old release, another region. `None` where there is none.
    pub concurrent: Option<Reading>,
}

impl Inputs {
    /// Of what is watched alone.
    pub fn new(current: Reading) -> Self {
        Self { current, concurrent: None }
    }
    /// With what it runs beside.
    pub fn with_concurrent(mut self, concurrent: Option<Reading>) -> Self {
        self.concurrent = concurrent;
        self
    }
}

/// What a rule says at one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Says {
    /// It is on the good side.
    Clear,
    /// It is on the bad side, not yet for long enough.
    Pending {
        /// For how long.
        held: Duration,
    },
    /// It is on the bad side, and was for as long as it takes.
    Breached {
        /// For how long.
        held: Duration,
    },
    /// It is on the bad side, and so is what it runs beside: not the deployment. The hold begins anew.
    Shared,
    /// There is no data. What was held is held on, and cannot fire.
    NoData {
        /// For how long.
        lasting: Duration,
    },
    /// There was no data for longer than the rule allows. What was held is forgotten.
    Blind {
        /// For how long.
        lasting: Duration,
    },
}

impl Says {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Says::Clear => "clear",
            Says::Pending { .. } => "pending",
            Says::Breached { .. } => "breached",
            Says::Shared => "shared",
            Says::NoData { .. } => "no data",
            Says::Blind { .. } => "blind",
        }
    }
}

/// One evaluation of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// What the rule says.
    pub says: Says,
    /// What the metric came to, if anything.
    pub level: Option<Level>,
    /// Where the bad side began, if that can be told.
    pub threshold: Option<f64>,
    /// What it runs beside came to.
    pub concurrent: Option<Level>,
    /// What was seen, in words.
    pub evidence: Vec<Evidence>,
}

/// What a rule remembers between evaluations. Data: store it, and hand it back in after a restart
/// ([`after_restart`](RuleState::after_restart)).
///
/// Its time is the monotonic clock's alone; [`Now::wall`] is never read, so a wall clock that jumps changes nothing.
///
/// ```
/// use rollback_core::{Now, metric::{Reading, Sample}, seconds, watch::{Inputs, Rule, RuleState, Says}};
///
/// let rule = Rule::above("queue", 100.0).with_hold(seconds(60));
/// let mut state = RuleState::default();
/// let mut at = |s, depth: f64| {
///     let now = Now { mono: seconds(s), ..Now::default() };
///     state.evaluate(&rule, &Inputs::new(Reading::of(now.mono, [Sample::now(depth)])), now).says
/// };
/// assert_eq!(at(0, 150.0), Says::Pending { held: seconds(0) });
/// assert_eq!(at(30, 150.0), Says::Pending { held: seconds(30) });
/// assert_eq!(at(60, 150.0), Says::Breached { held: seconds(60) });
/// assert_eq!(at(90, 100.0), Says::Clear);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleState {
    time: Line,
    /// When it was last evaluated; all moments are milliseconds on this state's own line of time.
    last: Option<i64>,
    pending_since: Option<i64>,
    no_data_since: Option<i64>,
    current: Samples,
    concurrent: Samples,
}

/// A line of time that goes on over restarts, where the monotonic clock begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Line {
    /// A moment of this process's monotonic clock and what it is here. Means nothing in another process, so not stored.
    #[serde(skip)]
    anchor: Option<(i64, i64)>,
    /// Where the line goes on after a restart.
    goes_on: Option<i64>,
}

impl Line {
    fn at(&self, mono: Duration) -> Option<i64> {
        self.anchor.map(|(mono_then, here)| here.saturating_add(millis(mono).saturating_sub(mono_then)))
    }
}

impl RuleState {
    /// The state was stored by another process, and is about to be used in this one. `away`: how long nobody evaluated,
    /// by a clock that does not jump (not the wall clock); `None` where that is not known. Then nothing is known of what
    /// the samples' and the hold's times are now, so both begin anew. A state that was read back and not told is treated
    /// like that.
    pub fn after_restart(&mut self, away: Option<Duration>) {
        self.time = Line { anchor: None, goes_on: away.and_then(|away| Some(self.last?.saturating_add(millis(away)))) };
    }

    /// For how long it has been held bad, as of the last evaluation.
    pub fn held(&self) -> Option<Duration> {
        Some(span(self.pending_since?, self.last?))
    }

    /// Evaluates, once.
    pub fn evaluate(&mut self, rule: &Rule, inputs: &Inputs, now: Now) -> Evaluation {
        let t = self.moment(now);
        if self.last.is_some_and(|last| t - last > millis(rule.every.saturating_mul(2))) {
            // Nobody looked meanwhile: what was held is not known to have gone on, nor is the lack of data.
            self.pending_since = None;
            self.no_data_since = None;
        }
        self.last = Some(t);

        let current = take(&mut self.current, &self.time, t, rule, Some(&inputs.current));
        let concurrent = take(&mut self.concurrent, &self.time, t, rule, inputs.concurrent.as_ref());
        let mut evidence = vec![];
        let said = |levels: &Result<Levels, String>| match levels {
            Ok(Levels { level, short: None }) => format!("{} of {} observations", level.value, level.of),
            Ok(Levels { level, short: Some(short) }) => {
                format!("{} of {} observations, lately {} of {}", level.value, level.of, short.value, short.of)
            }
            Err(why) => format!("no data: {why}"),
        };
        evidence.push(Evidence::new(&rule.metric, said(&current)));
        if inputs.concurrent.is_some() {
            evidence.push(Evidence::new(format!("{} (concurrent)", rule.metric), said(&concurrent)));
        }
        // What the deployment cannot have changed goes first.
        let baseline = rule.baseline.or(concurrent.as_ref().ok().map(|levels| levels.level));
        let threshold = rule.threshold.at(baseline, rule.min_samples);
        match &threshold {
            Ok(threshold) => evidence.push(Evidence::new(rule.to_string(), format!("threshold {threshold}"))),
            Err(why) => evidence.push(Evidence::new(rule.to_string(), format!("no threshold: {why}"))),
        }

        let says = match (&current, &threshold) {
            (Ok(levels), Ok(threshold)) => {
                self.no_data_since = None;
                let measured_by_it = rule.threshold.is_relative() && rule.baseline.is_none();
                let beside = concurrent.as_ref().ok().filter(|_| !measured_by_it);
                if !levels.breach(rule, *threshold) {
                    self.pending_since = None;
                    Says::Clear
                } else if beside.is_some_and(|beside| beside.breach(rule, *threshold)) {
                    self.pending_since = None;
                    Says::Shared
                } else {
                    let held = span(*self.pending_since.get_or_insert(t), t);
                    if held >= rule.hold { Says::Breached { held } } else { Says::Pending { held } }
                }
            }
            _ => {
                let lasting = span(*self.no_data_since.get_or_insert(t), t);
                if lasting > rule.max_gap {
                    self.pending_since = None;
                    Says::Blind { lasting }
                } else {
                    Says::NoData { lasting }
                }
            }
        };
        let long = |levels: Result<Levels, String>| levels.ok().map(|levels| levels.level);
        Evaluation { says, level: long(current), threshold: threshold.ok(), concurrent: long(concurrent), evidence }
    }

    /// Where now is on this state's line of time. Never before the last one.
    fn moment(&mut self, now: Now) -> i64 {
        if self.time.anchor.is_none() {
            if self.time.goes_on.is_none() {
                *self = Self::default();
            }
            self.time = Line { anchor: Some((millis(now.mono), self.time.goes_on.unwrap_or(0))), goes_on: None };
        }
        let t = self.time.at(now.mono).unwrap_or(0);
        self.last.map_or(t, |last| t.max(last))
    }
}

/// What a source came to, over the window and, where the rule has one, over the shorter one.
struct Levels {
    level: Level,
    short: Option<Level>,
}

impl Levels {
    fn breach(&self, rule: &Rule, threshold: f64) -> bool {
        [Some(self.level), self.short].iter().flatten().all(|level| rule.compare.breaches(level.value, threshold))
    }
}

/// The levels now, after this reading. A reading that failed is no data, whatever was read before.
fn take(samples: &mut Samples, time: &Line, t: i64, rule: &Rule, reading: Option<&Reading>) -> Result<Levels, String> {
    let reading = reading.ok_or("there is none")?;
    samples.take(time.at(reading.asked).unwrap_or(t).min(t), reading)?;
    samples.forget_before(t, rule.window);
    let level = |window| {
        let level = samples.level(t, window, rule.max_gap)?;
        if level.of < rule.min_samples as f64 {
            return Err(format!("{} of {} observations over {window:?}: too few", level.of, rule.min_samples));
        }
        Ok(level)
    };
    let long = level(rule.window)?;
    let Some(short) = rule.also_over else { return Ok(Levels { level: long, short: None }) };
    if reading.samples.iter().any(|sample| matches!(sample.measure, Measure::Value { .. })) {
        return Err(
            "a second window needs counters, and the source gives a value that it has worked out: let it hand \
                    on the counters, or work out the lesser of both windows itself"
                .into(),
        );
    }
    Ok(Levels { level: long, short: Some(level(short)?) })
}

fn span(from: i64, to: i64) -> Duration {
    Duration::from_millis(u64::try_from(to - from).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Timestamp, hours, metric::Sample, minutes, seconds, watch::Threshold};

    const BAD: Option<f64> = Some(9.0);
    const GOOD: Option<f64> = Some(1.0);
    const NONE: Option<f64> = None;

    fn now(s: u64) -> Now {
        Now { mono: seconds(s), wall: Timestamp(1_700_000_000_000 + 1000 * s) }
    }
    fn rule() -> Rule {
        Rule::above("m", 5.0).with_hold(seconds(60)).with_max_gap(seconds(90))
    }
    fn reading(at: u64, value: Option<f64>) -> Reading {
        match value {
            Some(value) => Reading::of(seconds(at), [Sample::now(value)]),
            None => Reading::failed(seconds(at), "down"),
        }
    }
    fn eval(state: &mut RuleState, at: u64, value: Option<f64>) -> Says {
        state.evaluate(&rule(), &Inputs::new(reading(at, value)), now(at)).says
    }
    fn run(values: &[Option<f64>]) -> Vec<Says> {
        let mut state = RuleState::default();
        values.iter().enumerate().map(|(i, v)| eval(&mut state, 30 * i as u64, *v)).collect()
    }
    fn pending(s: u64) -> Says {
        Says::Pending { held: seconds(s) }
    }
    fn breached(s: u64) -> Says {
        Says::Breached { held: seconds(s) }
    }
    fn no_data(s: u64) -> Says {
        Says::NoData { lasting: seconds(s) }
    }

    #[test]
    fn equal_is_not_a_breach() {
        assert_eq!(run(&[Some(5.0)]), [Says::Clear]);
        assert_eq!(run(&[Some(5.000_001)]), [pending(0)]);
        let below = Rule::below("m", 5.0).with_hold(Duration::ZERO);
        let mut state = RuleState::default();
        for (value, says) in [(5.0, Says::Clear), (4.9, breached(0))] {
            assert_eq!(state.evaluate(&below, &Inputs::new(reading(0, Some(value))), now(0)).says, says);
        }
    }

    #[test]
    fn it_fires_when_held_for_the_whole_time_inclusive_and_a_clear_one_begins_anew() {
        assert_eq!(run(&[BAD, BAD, BAD]), [pending(0), pending(30), breached(60)]);
        assert_eq!(
            run(&[BAD, BAD, GOOD, BAD, BAD, BAD]),
            [pending(0), pending(30), Says::Clear, pending(0), pending(30), breached(60)]
        );
    }

    #[test]
    fn no_data_holds_what_is_pending_and_cannot_fire() {
        assert_eq!(
            run(&[BAD, NONE, NONE, BAD, NONE, BAD]),
            [pending(0), no_data(0), no_data(30), breached(90), no_data(0), breached(150)]
        );
    }

    #[test]
    fn no_data_for_longer_than_the_gap_is_blind_and_forgets_what_was_held() {
        let blind = |s| Says::Blind { lasting: seconds(s) };
        assert_eq!(
            run(&[BAD, NONE, NONE, NONE, NONE, NONE, NONE, BAD, BAD, BAD]),
            [
                pending(0),
                no_data(0),
                no_data(30),
                no_data(60),
                no_data(90),
                blind(120),
                blind(150),
                pending(0),
                pending(30),
                breached(60)
            ]
        );
    }

    #[test]
    fn a_long_gap_between_evaluations_begins_anew() {
        let mut state = RuleState::default();
        eval(&mut state, 0, BAD);
        assert_eq!(eval(&mut state, 60, BAD), breached(60), "two intervals are no gap");
        let mut state = RuleState::default();
        eval(&mut state, 0, BAD);
        assert_eq!(eval(&mut state, 61, BAD), pending(0));
    }

    #[test]
    fn what_is_pending_survives_a_restart_whose_length_is_known() {
        let begun = || {
            let mut state = RuleState::default();
            eval(&mut state, 1000, BAD);
            eval(&mut state, 1030, BAD);
            let stored = serde_json::to_string(&state).unwrap();
            serde_json::from_str::<RuleState>(&stored).unwrap()
        };
        // The new process's monotonic clock begins at zero.
        for (away, says) in [
            (Some(seconds(40)), breached(70)),
            (Some(seconds(61)), pending(0)), // a gap of more than two intervals
            (None, pending(0)),              // nobody knows
        ] {
            let mut state = begun();
            state.after_restart(away);
            assert_eq!(eval(&mut state, 0, BAD), says, "{away:?}");
        }
        let mut not_told = begun();
        assert_eq!(eval(&mut not_told, 0, BAD), pending(0));
    }

    #[test]
    fn counters_go_on_over_a_restart() {
        let rule = Rule::above("m", 0.05).with_hold(Duration::ZERO);
        let counts =
            |at, bad: u32, all: u32| Inputs::new(Reading::of(seconds(at), [Sample::now(Measure::counts(bad, all))]));
        let mut state = RuleState::default();
        state.evaluate(&rule, &counts(500, 0, 1000), now(500));
        let mut state: RuleState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        state.after_restart(Some(seconds(20)));
        let evaluation = state.evaluate(&rule, &counts(3, 10, 1100), now(3));
        assert_eq!(evaluation.level, Some(Level::new(0.1, 100.0)));
        assert_eq!(evaluation.says, breached(0));
    }

    #[test]
    fn jumps_of_the_wall_clock_change_nothing() {
        // Every sequence of six, with jumps of an hour and a day either way before each of its evaluations.
        for sequence in 0..3usize.pow(6) {
            let values: Vec<_> = (0..6).map(|i| [BAD, GOOD, NONE][sequence / 3usize.pow(i) % 3]).collect();
            let calm = run(&values);
            for jump_at in 0..6 {
                for jump in [-3_600_000i64, 3_600_000, -86_400_000] {
                    let mut state = RuleState::default();
                    for (i, value) in values.iter().enumerate() {
                        let mut now = now(30 * i as u64);
                        if i >= jump_at {
                            now.wall = Timestamp(now.wall.0.saturating_add_signed(jump));
                        }
                        let inputs = Inputs::new(reading(30 * i as u64, *value));
                        assert_eq!(state.evaluate(&rule(), &inputs, now).says, calm[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_comes_it_fires_only_after_the_hold_and_never_without_data() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut state = RuleState::default();
            let (mut at, mut last) = (0, 0);
            // A model of its own: since when every evaluation with data was bad, none too far apart, none blind.
            let (mut bad_since, mut none_since) = (None, None);
            for _ in 0..30 {
                at += random.u64(10..80);
                let value = [BAD, BAD, BAD, GOOD, NONE][random.usize(..5)];
                if at - last > 60 {
                    (bad_since, none_since) = (None, None);
                }
                last = at;
                let says = eval(&mut state, at, value);
                match value {
                    None => {
                        if at - *none_since.get_or_insert(at) > 90 {
                            bad_since = None;
                        }
                        assert!(matches!(says, Says::NoData { .. } | Says::Blind { .. }), "{says:?}");
                    }
                    Some(v) => {
                        none_since = None;
                        bad_since = if v > 5.0 { bad_since.or(Some(at)) } else { None };
                        let fires = bad_since.is_some_and(|since| at - since >= 60);
                        assert_eq!(matches!(says, Says::Breached { .. }), fires, "at {at}: {says:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_few_stale_and_odd_numbers_are_no_data() {
        let few = Rule::above("m", 0.1).with_min_samples(10);
        let counts =
            |at, bad: u32, all: u32| Inputs::new(Reading::of(seconds(at), [Sample::now(Measure::counts(bad, all))]));
        let mut state = RuleState::default();
        state.evaluate(&few, &counts(0, 0, 0), now(0));
        assert_eq!(state.evaluate(&few, &counts(30, 9, 9), now(30)).says, no_data(30));
        assert_eq!(state.evaluate(&few, &counts(60, 10, 10), now(60)).says, pending(0));

        let mut state = RuleState::default();
        let stale = Reading::of(seconds(0), [Sample::now(9.0).with_age(seconds(91))]);
        assert_eq!(state.evaluate(&rule(), &Inputs::new(stale), now(0)).says, no_data(0));
        assert_eq!(eval(&mut state, 30, Some(f64::NAN)), no_data(30));
        assert_eq!(eval(&mut state, 60, Some(f64::INFINITY)), no_data(60));
    }

    #[test]
    fn a_relative_threshold_needs_a_baseline_that_means_something() {
        let twice = Rule::above("p95", Threshold::TimesBaseline(2.0)).with_hold(Duration::ZERO).with_min_samples(5);
        let value = |v| Reading::of(seconds(0), [Sample::now(Measure::value_of(v, 100.0))]);
        let says = |rule: &Rule, v, beside: Option<Reading>| {
            let inputs = Inputs::new(value(v)).with_concurrent(beside);
            RuleState::default().evaluate(rule, &inputs, now(0)).says
        };
        assert_eq!(says(&twice, 9.0, None), no_data(0));
        assert!(twice.check(false).is_err());
        for (baseline, v, expected) in [
            (Level::new(2.0, 5.0), 4.0, Says::Clear),
            (Level::new(2.0, 5.0), 4.1, breached(0)),
            (Level::new(0.0, 5.0), 4.1, no_data(0)),
            (Level::new(2.0, 4.0), 4.1, no_data(0)),
        ] {
            let frozen = twice.clone().with_baseline(baseline);
            assert_eq!(says(&frozen, v, None), expected, "{baseline:?}");
            assert_eq!(frozen.check(false).is_ok(), expected != no_data(0));
            let few = baseline.of;
            let beside = Reading::of(seconds(0), [Sample::now(Measure::value_of(baseline.value, few))]);
            assert_eq!(says(&twice, v, Some(beside)), expected, "concurrent {baseline:?}");
        }
        assert_eq!(says(&twice, 9.0, Some(Reading::failed(seconds(0), "down"))), no_data(0));
        let points = Rule::above("errors", Threshold::BaselinePlus(0.005)).with_hold(Duration::ZERO);
        let points = points.with_baseline(Level::new(0.0, 5.0));
        assert_eq!(says(&points, 0.006, None), breached(0), "half a point above nothing can be told");
    }

    #[test]
    fn when_the_old_one_breaches_too_the_deployment_is_not_blamed() {
        let rule = rule();
        let mut state = RuleState::default();
        let mut at = |s, new, old| {
            let inputs = Inputs::new(reading(s, new)).with_concurrent(Some(reading(s, old)));
            state.evaluate(&rule, &inputs, now(s)).says
        };
        assert_eq!(at(0, BAD, BAD), Says::Shared);
        assert_eq!(at(30, BAD, BAD), Says::Shared);
        assert_eq!(at(60, BAD, BAD), Says::Shared);
        // The old one is well again, the new one is not: only from here is it the new one's.
        assert_eq!(at(90, BAD, GOOD), pending(0));
        // Of the old one nothing is known: that excuses nothing.
        assert_eq!(at(120, BAD, NONE), pending(30));
        assert_eq!(at(150, BAD, GOOD), breached(60));
        // With a frozen baseline, both twice as slow is shared as well.
        let twice = Rule::above("p95", Threshold::TimesBaseline(2.0)).with_baseline(Level::new(1.0, 9.0));
        let both = Inputs::new(reading(0, BAD)).with_concurrent(Some(reading(0, BAD)));
        assert_eq!(RuleState::default().evaluate(&twice, &both, now(0)).says, Says::Shared);
    }

    #[test]
    fn a_monotonic_clock_that_falls_back_stands_still() {
        let mut state = RuleState::default();
        eval(&mut state, 5000, BAD);
        assert_eq!(eval(&mut state, 4000, BAD), pending(0));
    }

    /// The workbook's own: what share of a budget of 30 days is used up when a rule fires.
    #[test]
    fn burn_rates_are_the_workbooks() {
        const DAYS_30: f64 = 30.0 * 24.0 * 3600.0;
        let slo = 0.999;
        for (rule, burn, threshold, used) in [
            (Rule::burn_rate("m", slo, 14.4, hours(1), minutes(5)), 14.4, 0.0144, 0.02),
            (Rule::burn_rate("m", slo, 6.0, hours(6), minutes(30)), 6.0, 0.006, 0.05),
            (Rule::burn_rate("m", slo, 1.0, hours(72), hours(6)), 1.0, 0.001, 0.10),
        ] {
            rule.check(false).unwrap();
            let at = rule.threshold.at(None, 1).unwrap();
            assert!((at - threshold).abs() < 1e-12, "{rule}: {at}");
            assert!((at / (1.0 - slo) - burn).abs() < 1e-9, "burn = error / (1 − SLO)");
            assert!((burn * rule.window.as_secs_f64() / DAYS_30 - used).abs() < 1e-9, "{rule}");
        }
    }

    /// Counters that grow by so many bad ones of 100 requests in each half minute.
    fn burn(rule: &Rule, bad: impl IntoIterator<Item = u32>) -> Vec<Says> {
        let (mut state, mut total, mut says) = (RuleState::default(), 0, vec![]);
        for (i, bad) in (0u32..).zip(bad) {
            total += bad;
            let at = 30 * u64::from(i);
            let sample = Sample::now(Measure::counts(total, 100 * i));
            says.push(state.evaluate(rule, &Inputs::new(Reading::of(seconds(at), [sample])), now(at)).says);
        }
        says
    }

    #[test]
    fn both_windows_must_burn() {
        // 1.44 % over an hour and over five minutes.
        let rule = Rule::burn_rate("m", 0.999, 14.4, hours(1), minutes(5)).with_min_samples(20);
        let hour = |bad: u32| std::iter::repeat_n(bad, 121);
        let last = |says: Vec<Says>| *says.last().unwrap();
        assert_eq!(last(burn(&rule, hour(1))), Says::Clear, "10 times the budget is less than 14.4");
        assert_eq!(last(burn(&rule, hour(2))), Says::Breached { held: minutes(60) - seconds(30) });
        // Five minutes of 4 % are not yet an hour's worth of it; the whole hour comes to 0.33 %.
        assert_eq!(last(burn(&rule, hour(0).chain([4; 10]))), Says::Clear);
        // An hour's worth, which is over: the short window says so at once, the long one would for most of an hour.
        assert_eq!(last(burn(&rule, hour(2).chain([0; 9]))), Says::Clear);
        let long_alone = Rule { also_over: None, ..rule.clone() };
        assert!(matches!(last(burn(&long_alone, hour(2).chain([0; 9]))), Says::Breached { .. }));
        // Too little in the short window is no data, and no all-clear either.
        let choosy = rule.clone().with_min_samples(1001);
        assert!(matches!(last(burn(&choosy, hour(2))), Says::NoData { .. } | Says::Blind { .. }));
    }

    #[test]
    fn a_second_window_wants_counters_and_sense() {
        let rule = Rule::burn_rate("m", 0.999, 1.0, hours(1), minutes(5));
        let evaluation = RuleState::default().evaluate(&rule, &Inputs::new(reading(0, Some(0.5))), now(0));
        assert!(matches!(evaluation.says, Says::NoData { .. }));
        assert!(evaluation.evidence[0].seen.contains("needs counters"), "{evaluation:?}");
        for bad in [
            Rule::burn_rate("m", 1.0, 1.0, hours(1), minutes(5)),
            Rule::burn_rate("m", 99.9, 1.0, hours(1), minutes(5)),
            Rule::burn_rate("m", 0.9, 0.0, hours(1), minutes(5)),
            Rule::burn_rate("m", 0.9, f64::NAN, hours(1), minutes(5)),
            Rule::burn_rate("m", 0.9, 1.0, hours(1), hours(1)),
            Rule::above("m", 1.0).with_also_over(Duration::ZERO),
        ] {
            assert!(bad.check(false).is_err(), "{bad}");
        }
        // What was stored before there were second windows is read.
        let mut old = serde_json::to_value(Rule::above("m", 1.0)).unwrap();
        assert!(old.get("also_over").is_none());
        assert_eq!(serde_json::from_value::<Rule>(old.take()).unwrap(), Rule::above("m", 1.0));
    }
}
