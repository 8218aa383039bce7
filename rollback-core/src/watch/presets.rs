//! Rules with the numbers of the runbooks, each named after its own, so that two that differ stay two.
//!
//! Windows and holds are the runbook's where it names them; else they are said here. Rules over ratios and quantiles want
//! 20 observations: with fewer, one failure is a percentage. Ratios are 0 to 1.
//!
//! ```
//! use rollback_core::{minutes, watch::presets};
//! assert_eq!(presets::runbook_001_errors().hold, minutes(2));
//! assert_eq!(presets::runbook_004_errors().band(0.03).map(|band| band.then), Some(presets::Then::Monitor));
//! ```

use super::{Compare, Rule, Threshold};
use crate::{Error, Kind, Result, hours, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const ENOUGH: u64 = 20;

fn above(metric: &str, threshold: impl Into<Threshold>, hold: Duration) -> Rule {
    Rule::above(metric, threshold).with_hold(hold).with_min_samples(ENOUGH)
}

/// 000: every answer is a 5xx: roll back within a minute. Held 30 s over a window of 30 s.
pub fn runbook_000_all_5xx() -> Rule {
    above("5xx rate (all)", 0.99, seconds(30)).with_window(seconds(30))
}
/// 000: more than 10 % 5xx: roll back within 5 minutes. Held 3 min over a window of one.
pub fn runbook_000_5xx() -> Rule {
    above("5xx rate", 0.10, minutes(3))
}
/// 000: no endpoint is ready: roll back within a minute. Over a gauge of ready endpoints, held 30 s. (One failing instance
/// of several is no reason.)
pub fn runbook_000_no_endpoint() -> Rule {
    Rule::below("ready endpoints", 1.0).with_hold(seconds(30)).with_window(seconds(30))
}
/// 001: more than 5 % errors for 2 min.
pub fn runbook_001_errors() -> Rule {
    above("error rate", 0.05, minutes(2))
}
/// 001: p95 more than twice its baseline for 5 min.
pub fn runbook_001_p95() -> Rule {
    above("p95 latency", Threshold::TimesBaseline(2.0), minutes(5))
}
/// 001: more than half of the health checks fail for 1 min. Over a ratio of failed ones.
pub fn runbook_001_health_failures() -> Rule {
    above("health check failures", 0.50, minutes(1)).with_min_samples(2)
}
/// 002, its scenario: errors half a point above the baseline. Held 2 min.
pub fn runbook_002_errors() -> Rule {
    above("error rate over baseline", Threshold::BaselinePlus(0.005), minutes(2))
}
/// 002, its script, which tests something else: errors above 0.5 %, whatever the baseline. Held 2 min.
pub fn runbook_002_script_errors() -> Rule {
    above("error rate (script)", 0.005, minutes(2))
}
/// 002: p95 25 % above its baseline. Held 2 min.
pub fn runbook_002_p95() -> Rule {
    above("p95 latency", Threshold::TimesBaseline(1.25), minutes(2))
}
/// 002: a business metric (search conversion, completed bookings, successful payments) 10 % below its baseline. Over a
/// window of 5 min, held 5.
pub fn runbook_002_business(metric: &str) -> Rule {
    Rule::below(metric, Threshold::TimesBaseline(0.9)).with_hold(minutes(5)).with_window(minutes(5))
}
/// 003: more than 5 % errors. Held 2 min.
pub fn runbook_003_errors() -> Rule {
    above("error rate", 0.05, minutes(2))
}
/// 003: p95 more than twice its baseline. Held 2 min.
pub fn runbook_003_p95() -> Rule {
    above("p95 latency", Threshold::TimesBaseline(2.0), minutes(2))
}
/// 003: more than half of the instances crash. Held 1 min.
pub fn runbook_003_crashes() -> Rule {
    Rule::above("crash rate", 0.50).with_hold(minutes(1))
}
/// 003: conversion below 80 % of its baseline (002 says −10 %). Over a window of 5 min, held 5.
pub fn runbook_003_conversion() -> Rule {
    Rule::below("conversion", Threshold::TimesBaseline(0.8)).with_hold(minutes(5)).with_window(minutes(5))
}

/// The SRE workbook's burn rates for an objective (0.999), the fastest first: 2 % of a 30 days' budget within an hour, 5 %
/// within six, 10 % within three days; each also over a twelfth of it. Two page someone, the last is a ticket. A watch that
/// soaks 15 min sees no more than that of the longer windows; a controller that watches on does.
pub fn burn_rates(slo: f64) -> [Rule; 3] {
    let rule = |name: &str, times, long, short| Rule::burn_rate(name, slo, times, long, short).with_min_samples(ENOUGH);
    [
        rule("burn rate 1h/5m", 14.4, hours(1), minutes(5)),
        rule("burn rate 6h/30m", 6.0, hours(6), minutes(30)),
        rule("burn rate 3d/6h", 1.0, hours(72), hours(6)),
    ]
}

/// How often and for how long a runbook watches: `(every, for at least)`.
pub const RUNBOOK_003_WATCH: (Duration, Duration) = (seconds(30), minutes(15));
/// 002 and 004 watch for 30 min.
pub const RUNBOOK_002_WATCH: (Duration, Duration) = (seconds(30), minutes(30));

/// What to do with a value in a band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Then {
    /// Look again, for so long as the runbook says.
    Monitor,
    /// A person looks into it.
    Investigate,
    /// Roll back.
    RollBack,
}

/// Values beyond `beyond`, up to where the next worse band begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Band {
    /// Where it begins. Not in it itself.
    pub beyond: f64,
    /// What to do.
    pub then: Then,
    /// For how long it is to be in it.
    pub hold: Duration,
}

impl Band {
    /// Beyond this value.
    pub fn beyond(beyond: f64, then: Then, hold: Duration) -> Self {
        Self { beyond, then, hold }
    }
}

/// Bands of one metric. They cannot overlap: each begins where the one before it ends, and its end belongs to that one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bands {
    metric: String,
    compare: Compare,
    relative: bool,
    bands: Vec<Band>,
}

impl Bands {
    /// Bands from the mildest to the worst. `relative`: their numbers are times a baseline.
    ///
    /// # Errors
    /// [`Kind::Invalid`] where there is none, or one is not worse than the one before.
    pub fn new(
        metric: impl Into<String>,
        compare: Compare,
        relative: bool,
        bands: impl IntoIterator<Item = Band>,
    ) -> Result<Self> {
        let made = Self { metric: metric.into(), compare, relative, bands: bands.into_iter().collect() };
        let apart = made.bands.windows(2).all(|two| compare.breaches(two[1].beyond, two[0].beyond));
        if made.bands.is_empty() || !apart || made.bands.iter().any(|band| !band.beyond.is_finite()) {
            return Err(Error::new(Kind::Invalid, format!("make bands of {}", made.metric))
                .with_message("give them from the mildest to the worst, each beginning where the one before ends")
                .without_effect());
        }
        Ok(made)
    }
    /// The band a value is in; `None`: it is good.
    pub fn band(&self, value: f64) -> Option<&Band> {
        self.bands.iter().rev().find(|band| self.compare.breaches(value, band.beyond))
    }
    /// A rule for each band, from the mildest to the worst.
    pub fn rules(&self) -> impl Iterator<Item = (Then, Rule)> + '_ {
        self.bands.iter().map(|band| {
            let threshold =
                if self.relative { Threshold::TimesBaseline(band.beyond) } else { Threshold::Absolute(band.beyond) };
            let name = format!("{} ({:?})", self.metric, band.then);
            let rule = match self.compare {
                Compare::Above => Rule::above(name, threshold),
                Compare::Below => Rule::below(name, threshold),
            };
            (band.then, rule.with_hold(band.hold).with_min_samples(ENOUGH))
        })
    }
}

fn bands(metric: &str, compare: Compare, relative: bool, all: [Band; 2]) -> Bands {
    Bands { metric: metric.into(), compare, relative, bands: all.into() }
}

/// 004: above 1 % errors monitor for 5 min, above 5 % roll back (held 2 min).
pub fn runbook_004_errors() -> Bands {
    let all = [Band::beyond(0.01, Then::Monitor, minutes(5)), Band::beyond(0.05, Then::RollBack, minutes(2))];
    bands("error rate", Compare::Above, false, all)
}
/// 004: p95 above twice its baseline investigate, above three times roll back (held 2 min). The runbook has 2× to 3× in
/// both of its bands; the milder one is meant.
pub fn runbook_004_p95() -> Bands {
    let all = [Band::beyond(2.0, Then::Investigate, minutes(2)), Band::beyond(3.0, Then::RollBack, minutes(2))];
    bands("p95 latency", Compare::Above, true, all)
}
/// 004: availability below 99.9 % investigate, below 99 % roll back (held 2 min).
pub fn runbook_004_availability() -> Bands {
    let all = [Band::beyond(0.999, Then::Investigate, minutes(2)), Band::beyond(0.99, Then::RollBack, minutes(2))];
    bands("availability", Compare::Below, false, all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metric::Level;

    #[test]
    fn every_value_is_in_one_band_at_most_and_borders_belong_to_the_milder_one() {
        let errors = runbook_004_errors();
        let then = |v| errors.band(v).map(|band| band.then);
        assert_eq!(
            [0.0, 0.01, 0.011, 0.05, 0.051, f64::NAN].map(then),
            [None, None, Some(Then::Monitor), Some(Then::Monitor), Some(Then::RollBack), None]
        );
        let availability = runbook_004_availability();
        let then = |v| availability.band(v).map(|band| band.then);
        assert_eq!(
            [1.0, 0.999, 0.995, 0.99, 0.98].map(then),
            [None, None, Some(Then::Investigate), Some(Then::Investigate), Some(Then::RollBack)]
        );
    }

    #[test]
    fn bands_that_overlap_cannot_be_made() {
        let band = |beyond| Band::beyond(beyond, Then::Monitor, seconds(1));
        assert!(Bands::new("m", Compare::Above, false, [band(2.0), band(2.0)]).is_err());
        assert!(Bands::new("m", Compare::Below, false, [band(1.0), band(2.0)]).is_err());
        assert!(Bands::new("m", Compare::Above, false, []).is_err());
        for bands in [runbook_004_errors(), runbook_004_p95(), runbook_004_availability()] {
            let again = Bands::new("m", bands.compare, bands.relative, bands.bands.clone());
            assert!(again.is_ok(), "{bands:?}");
        }
    }

    #[test]
    fn every_preset_can_be_used() {
        let all = [
            runbook_000_all_5xx(),
            runbook_000_5xx(),
            runbook_000_no_endpoint(),
            runbook_001_errors(),
            runbook_001_p95(),
            runbook_001_health_failures(),
            runbook_002_errors(),
            runbook_002_script_errors(),
            runbook_002_p95(),
            runbook_002_business("bookings"),
            runbook_003_errors(),
            runbook_003_p95(),
            runbook_003_crashes(),
            runbook_003_conversion(),
        ];
        let bands = [runbook_004_errors(), runbook_004_p95(), runbook_004_availability()];
        for rule in
            all.into_iter().chain(burn_rates(0.999)).chain(bands.iter().flat_map(Bands::rules).map(|(_, rule)| rule))
        {
            rule.clone().with_baseline(Level::new(0.2, 1000.0)).check(false).unwrap();
            assert_eq!(rule.check(false).is_err(), rule.threshold.is_relative(), "{rule}");
        }
    }
}
