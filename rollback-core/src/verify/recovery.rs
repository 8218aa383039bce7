//! What runbooks ask for before they call a service recovered, as data: thresholds and windows, each named after its
//! runbook. A verifier of metrics takes both from here; where two runbooks differ, both stand here.
//!
//! Not here: when to roll back, which is the business of rules and watches.

use super::Window;
use crate::{minutes, seconds};
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Signal {
    /// Failed requests of all requests, 0 to 1.
    ErrorRate,
    /// Requests that were answered well of all requests, 0 to 1.
    SuccessRate,
    /// The 95th percentile of the time to answer, in seconds.
    LatencyP95,
    /// Requests a second.
    RequestRate,
    /// A business metric, such as orders a minute.
    Business,
}

/// What a signal must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Must {
    /// Less than this.
    BeLess(f64),
    /// This, or less.
    BeAtMost(f64),
    /// This, or more.
    BeAtLeast(f64),
    /// Above its baseline by at most this much, in the signal's own unit.
    ExceedBaselineByAtMost(f64),
    /// Above its baseline by at most this share of it: 0.1 is 10 %.
    ExceedBaselineByShare(f64),
    /// Below its baseline by at most this share of it.
    FallShortOfBaselineByShare(f64),
    /// Away from its baseline, up or down, by at most this share of it.
    StayWithinShareOfBaseline(f64),
}

impl Must {
    /// Whether a value is as it must be. `None` where that cannot be told: a value or a baseline that is missing or no
    /// number, or a share of a baseline that is not above zero.
    ///
    /// ```
    /// use rollback_core::verify::recovery::Must;
    /// assert_eq!(Must::ExceedBaselineByShare(0.1).holds(0.109, Some(0.1)), Some(true));
    /// assert_eq!(Must::ExceedBaselineByShare(0.1).holds(0.109, None), None);
    /// ```
    pub fn holds(self, value: f64, baseline: Option<f64>) -> Option<bool> {
        let base = || baseline.filter(|b| b.is_finite());
        let above_zero = || base().filter(|b| *b > 0.0);
        if !value.is_finite() {
            return None;
        }
        Some(match self {
            Must::BeLess(limit) => value < limit,
            Must::BeAtMost(limit) => value <= limit,
            Must::BeAtLeast(limit) => value >= limit,
            Must::ExceedBaselineByAtMost(by) => value <= base()? + by,
            Must::ExceedBaselineByShare(share) => value <= above_zero()? * (1.0 + share),
            Must::FallShortOfBaselineByShare(share) => value >= above_zero()? * (1.0 - share),
            Must::StayWithinShareOfBaseline(share) => (value - above_zero()?).abs() <= base()? * share,
        })
    }
    /// It is compared with a baseline.
    pub fn needs_baseline(self) -> bool {
        !matches!(self, Must::BeLess(_) | Must::BeAtMost(_) | Must::BeAtLeast(_))
    }
}

/// `be less than 0.01`, `exceed the baseline by at most 10 %`.
impl std::fmt::Display for Must {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |share: f64| format!("{} %", (share * 10_000.0).round() / 100.0);
        match *self {
            Must::BeLess(limit) => write!(f, "be less than {limit}"),
            Must::BeAtMost(limit) => write!(f, "be at most {limit}"),
            Must::BeAtLeast(limit) => write!(f, "be at least {limit}"),
            Must::ExceedBaselineByAtMost(by) => write!(f, "exceed the baseline by at most {by}"),
            Must::ExceedBaselineByShare(share) => write!(f, "exceed the baseline by at most {}", percent(share)),
            Must::FallShortOfBaselineByShare(share) => {
                write!(f, "fall short of the baseline by at most {}", percent(share))
            }
            Must::StayWithinShareOfBaseline(share) => write!(f, "stay within {} of the baseline", percent(share)),
        }
    }
}

/// One condition of a runbook.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Preset {
    /// Its name, with the runbook's number: `001 error rate`.
    pub name: &'static str,
    /// What is measured.
    pub signal: Signal,
    /// What it must be.
    pub must: Must,
    /// When samples are taken, and what makes them enough.
    pub window: Window,
}

impl Preset {
    /// With another window.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

/// Runbook 001: the service counts as recovered when all of these hold.
pub mod runbook_001 {
    use super::*;

    /// Less than 1 % errors, within 5 min.
    pub fn error_rate() -> Preset {
        Preset {
            name: "001 error rate",
            signal: Signal::ErrorRate,
            must: Must::BeLess(0.01),
            window: Window::default().with_within(minutes(5)),
        }
    }
    /// The 95th percentile is back at its baseline, or at most 10 % above, within 3 min.
    pub fn latency() -> Preset {
        Preset {
            name: "001 latency",
            signal: Signal::LatencyP95,
            must: Must::ExceedBaselineByShare(0.1),
            window: Window::default().with_within(minutes(3)),
        }
    }
    /// The request rate is stable within 2 min. The runbook does not say what stable is: within 10 % of the baseline, as for
    /// latency, for 30 s.
    pub fn request_rate() -> Preset {
        Preset {
            name: "001 request rate",
            signal: Signal::RequestRate,
            must: Must::StayWithinShareOfBaseline(0.1),
            window: Window::default().with_within(minutes(2)).with_hold(seconds(30)),
        }
    }
    /// All of them.
    pub fn all() -> [Preset; 3] {
        [error_rate(), latency(), request_rate()]
    }
}

/// Runbook 002: what must hold while the service is watched for 30 min after the rollback.
pub mod runbook_002 {
    use super::*;

    /// For 30 min without a break; it may begin to hold within 5 min.
    pub fn observe() -> Window {
        Window::default().with_hold(minutes(30)).with_every(seconds(30))
    }
    /// At most half a percentage point above the baseline.
    pub fn error_rate() -> Preset {
        Preset {
            name: "002 error rate",
            signal: Signal::ErrorRate,
            must: Must::ExceedBaselineByAtMost(0.005),
            window: observe(),
        }
    }
    /// At most a quarter above the baseline.
    pub fn latency() -> Preset {
        Preset {
            name: "002 latency",
            signal: Signal::LatencyP95,
            must: Must::ExceedBaselineByShare(0.25),
            window: observe(),
        }
    }
    /// At most 10 % below the baseline.
    pub fn business() -> Preset {
        Preset {
            name: "002 business",
            signal: Signal::Business,
            must: Must::FallShortOfBaselineByShare(0.1),
            window: observe(),
        }
    }
    /// All of them.
    pub fn all() -> [Preset; 3] {
        [error_rate(), latency(), business()]
    }
}

/// Runbook 003: two minutes to settle, then five checks in a row.
pub mod runbook_003 {
    use super::*;

    /// How many checks in a row.
    pub const CHECKS: u32 = 5;

    /// After 2 min, five checks in a row, 30 s apart.
    pub fn five_checks() -> Window {
        let every = seconds(30);
        Window::default().with_settle(minutes(2)).with_every(every).with_hold(every * (CHECKS - 1))
    }
    /// At least 95 % of requests succeed.
    pub fn success_rate() -> Preset {
        Preset {
            name: "003 success rate",
            signal: Signal::SuccessRate,
            must: Must::BeAtLeast(0.95),
            window: five_checks(),
        }
    }
    /// The 95th percentile is at most 500 ms.
    pub fn latency() -> Preset {
        Preset { name: "003 latency", signal: Signal::LatencyP95, must: Must::BeAtMost(0.5), window: five_checks() }
    }
    /// The business metric is at least 80 % of its baseline.
    pub fn business() -> Preset {
        Preset {
            name: "003 business",
            signal: Signal::Business,
            must: Must::FallShortOfBaselineByShare(0.2),
            window: five_checks(),
        }
    }
    /// Success and latency; the business metric only where there is one.
    pub fn all() -> [Preset; 2] {
        [success_rate(), latency()]
    }
}

/// Runbook 004: watch for 30 min.
pub mod runbook_004 {
    use super::*;

    /// For 30 min without a break; it may begin to hold within 5 min.
    pub fn watch() -> Window {
        Window::default().with_hold(minutes(30)).with_every(seconds(30))
    }
    /// Less than 1 % errors: below the band that the runbook keeps an eye on.
    pub fn error_rate() -> Preset {
        Preset { name: "004 error rate", signal: Signal::ErrorRate, must: Must::BeLess(0.01), window: watch() }
    }
    /// The 95th percentile is at most twice the baseline: below the band that the runbook investigates.
    pub fn latency() -> Preset {
        Preset {
            name: "004 latency",
            signal: Signal::LatencyP95,
            must: Must::ExceedBaselineByShare(1.0),
            window: watch(),
        }
    }
    /// At least 99.9 % are answered: above the band that the runbook investigates.
    pub fn availability() -> Preset {
        Preset { name: "004 availability", signal: Signal::SuccessRate, must: Must::BeAtLeast(0.999), window: watch() }
    }
    /// All of them.
    pub fn all() -> [Preset; 3] {
        [error_rate(), latency(), availability()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_belong_to_the_side_that_is_said() {
        let b = Some(10.0);
        for (must, good, bad) in [
            (Must::BeLess(0.01), 0.0099, 0.01),
            (Must::BeAtMost(0.5), 0.5, 0.51),
            (Must::BeAtLeast(0.95), 0.95, 0.94),
            (Must::ExceedBaselineByAtMost(0.5), 10.5, 10.6),
            (Must::ExceedBaselineByShare(0.25), 12.5, 12.6),
            (Must::FallShortOfBaselineByShare(0.2), 8.0, 7.9),
            (Must::StayWithinShareOfBaseline(0.1), 9.0, 8.9),
            (Must::StayWithinShareOfBaseline(0.1), 11.0, 11.1),
        ] {
            assert_eq!((must.holds(good, b), must.holds(bad, b)), (Some(true), Some(false)), "{must:?}");
            assert_eq!(must.holds(good, None).is_none(), must.needs_baseline(), "{must:?}");
            assert_eq!(must.holds(f64::NAN, b), None);
        }
        assert_eq!(Must::ExceedBaselineByShare(0.1).holds(0.0, Some(0.0)), None, "a share of nothing says nothing");
    }

    #[test]
    fn windows_can_be_met() {
        let all = runbook_001::all().into_iter().chain(runbook_002::all()).chain(runbook_003::all());
        for preset in all.chain(runbook_004::all()) {
            assert!(!preset.window.every.is_zero() && !preset.window.within.is_zero(), "{preset:?}");
        }
        assert_eq!(runbook_003::five_checks().hold, minutes(2));
    }
}
