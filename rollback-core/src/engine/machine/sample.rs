//! Samples of checks and verifiers, and where a window stands.

use super::State;
use crate::{Entry, EventKind, Fault, Health, Verdict, Window, engine::bug::Bug};
use std::time::Duration;

/// Where a window stands.
pub(super) enum Sampling {
    Sample,
    Sleep(Duration),
    Held,
    Over,
}

impl State {
    /// A sample: (does it hold, word, evidence).
    pub(super) fn sampled(&mut self, of: &str, sample: Result<(bool, &'static str, Vec<crate::Evidence>), Fault>) {
        self.scratch.sampled = true;
        let (holds, says, evidence) =
            sample.unwrap_or_else(|fault| (false, "unknown", vec![crate::Evidence::new(of, fault.to_string())]));
        let holds = holds || (says == "unknown" && self.has(Bug::UnknownIsHealthy));
        if holds {
            self.scratch.held_since.get_or_insert(self.elapsed);
        } else {
            self.scratch.held_since = None;
        }
        if of == "health" && says == "unhealthy" && !self.fold.ill && !self.has(Bug::ForgetIll) {
            self.put(Entry::Unhealthy { at: self.fold.at, evidence: evidence.clone() });
        }
        self.scratch.last_says = says.into();
        // With room for no more than there is: it becomes a line.
        self.scratch.last_sample = evidence.clone();
        self.events.push(EventKind::Sample { of: of.into(), says: says.into(), evidence });
    }

    pub(super) fn last_sample(&self) -> String {
        let seen: Vec<_> = self.scratch.last_sample.iter().take(3).map(|e| format!("{}: {}", e.what, e.seen)).collect();
        match (self.scratch.last_says.as_str(), seen.is_empty()) {
            ("", _) => "no sample was taken".into(),
            (says, true) => says.into(),
            (says, false) => format!("{says} ({})", seen.join("; ")),
        }
    }

    /// Where a window stands.
    pub(super) fn window(&self, window: Window, since: Duration) -> Sampling {
        let passed = self.elapsed.saturating_sub(since);
        if passed < window.settle {
            return Sampling::Sleep(window.settle - passed);
        }
        if self.scratch.sampled
            && self.scratch.held_since.is_some_and(|held| self.elapsed.saturating_sub(held) >= window.hold)
        {
            return Sampling::Held;
        }
        if self.scratch.sampled && self.scratch.held_since.is_none() && passed >= window.settle + window.within {
            return Sampling::Over;
        }
        if self.scratch.sampled {
            Sampling::Sleep(window.every.max(Duration::from_millis(1)))
        } else {
            Sampling::Sample
        }
    }
}

pub(super) fn said_health(health: Health) -> (bool, &'static str, Vec<crate::Evidence>) {
    match health {
        Health::Healthy(e) => (true, "healthy", e),
        Health::Unhealthy(e) => (false, "unhealthy", e),
        Health::Unknown(e) => (false, "unknown", e),
    }
}

pub(super) fn said_verdict(verdict: Verdict) -> (bool, &'static str, Vec<crate::Evidence>) {
    match verdict {
        Verdict::Holds(e) => (true, "holds", e),
        Verdict::Fails(e) => (false, "fails", e),
        Verdict::Unknown(e) => (false, "unknown", e),
    }
}
