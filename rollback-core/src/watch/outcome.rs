//! How a watch ends, and what it tells of it.

use super::{Rule, Says};
use crate::{Evidence, ReleaseId, TargetId, Timestamp, metric::Level};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// How a watch ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WatchOutcome {
    /// Every rule had data and was clear for the whole soak time.
    Stable {
        /// For so long.
        soaked: Duration,
    },
    /// A rule was breached, and what it runs beside was not.
    Breached {
        /// Which.
        rule: Box<Rule>,
        /// The release to leave.
        suspect: ReleaseId,
        /// What was seen.
        evidence: Vec<Evidence>,
    },
    /// A rule was breached here and in what it runs beside until the time was up: not the deployment. Page someone.
    Shared {
        /// Which.
        rule: Box<Rule>,
        /// What was seen.
        evidence: Vec<Evidence>,
    },
    /// It could not be told: pause, or look. Never to be taken for healthy.
    Blind {
        /// Why.
        why: String,
    },
    /// The release that was watched does not run there any more.
    Superseded {
        /// What does.
        by: String,
    },
}

impl WatchOutcome {
    /// One word.
    pub fn name(&self) -> &'static str {
        match self {
            WatchOutcome::Stable { .. } => "stable",
            WatchOutcome::Breached { .. } => "breached",
            WatchOutcome::Shared { .. } => "shared",
            WatchOutcome::Blind { .. } => "blind",
            WatchOutcome::Superseded { .. } => "superseded",
        }
    }
}

impl fmt::Display for WatchOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            WatchOutcome::Stable { soaked } => write!(f, " for {soaked:?}"),
            WatchOutcome::Breached { rule, suspect, .. } => write!(f, ": {rule}; the suspect is {suspect}"),
            WatchOutcome::Shared { rule, .. } => write!(f, ": {rule}, here and beside: not this deployment"),
            WatchOutcome::Blind { why } => write!(f, ": {why}"),
            WatchOutcome::Superseded { by } => write!(f, " by {by}"),
        }
    }
}

/// A rule began to say something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WatchLine {
    /// When, on the wall clock.
    pub at: Timestamp,
    /// Which rule.
    pub rule: String,
    /// What it says.
    pub says: Says,
    /// What the metric came to.
    pub level: Option<Level>,
    /// Where the bad side began.
    pub threshold: Option<f64>,
}

impl WatchLine {
    pub(super) fn new(at: Timestamp, rule: &Rule, evaluation: &super::Evaluation) -> Self {
        let super::Evaluation { says, level, threshold, .. } = *evaluation;
        Self { at, rule: rule.metric.clone(), says, level, threshold }
    }
}

impl fmt::Display for WatchLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.at, self.rule, self.says.name())?;
        if let Some(level) = self.level {
            write!(f, " at {} of {} observations", level.value, level.of)?;
        }
        match self.threshold {
            Some(threshold) => write!(f, ", threshold {threshold}"),
            None => Ok(()),
        }
    }
}

/// What a watch saw and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WatchReport {
    /// Of what.
    pub target: TargetId,
    /// The release that was watched.
    pub release: ReleaseId,
    /// How it ended.
    pub outcome: WatchOutcome,
    /// When it began.
    pub began: Timestamp,
    /// When a rule was on the bad side for the first time.
    pub first_breach: Option<Timestamp>,
    /// When it was decided.
    pub decided: Timestamp,
    /// How long was watched, time without a process left out.
    pub watched: Duration,
    /// How many evaluations there were.
    pub evaluations: u64,
    /// Whenever a rule began to say something else, oldest first; the last 1000.
    pub lines: Vec<WatchLine>,
    /// The release stands as verified in the ledger now.
    pub verified: bool,
    /// Why not, where it might have been.
    pub not_verified: Option<String>,
}

/// As people read it.
impl fmt::Display for WatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "watch of {} running {}: {}", self.target, self.release, self.outcome)?;
        for line in &self.lines {
            writeln!(f, "  {line}")?;
        }
        write!(f, "  decided {} after {:?}, {} evaluations", self.decided, self.watched, self.evaluations)?;
        match &self.not_verified {
            _ if self.verified => write!(f, "\n  {} is verified healthy", self.release),
            Some(why) => write!(f, "\n  {} was not marked verified: {why}", self.release),
            None => Ok(()),
        }
    }
}
