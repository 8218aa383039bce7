//! How a run ends. Every end has a name, and none is silent.

use crate::PartId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The wanted release runs, and every verifier held through its window.
    Recovered,
    /// The wanted release was reached, and it still fails: page someone.
    NotRecovered {
        /// Which verifier, and what it saw last.
        why: String,
    },
    /// The suspect serves nowhere.
    NothingToDo,
    /// A dry run: what it would have done stands in the report.
    Rehearsed,
    /// Someone deployed meanwhile, or took the run over. Their work was left alone.
    Superseded {
        /// Who or what.
        by: String,
    },
    /// Nothing was touched.
    Refused {
        /// Why.
        why: String,
        /// What would lift it.
        lift: String,
    },
    /// It was begun, and did not come to its end. Mended, or given more time, the same order goes on with it.
    Stuck {
        /// Where, and why.
        at: String,
        /// How each part is.
        parts: Vec<(PartId, String)>,
        /// What a person can do.
        human: String,
    },
}

impl Outcome {
    /// For tests.
    pub fn superseded_by(by: impl Into<String>) -> Self {
        Outcome::Superseded { by: by.into() }
    }
    /// The service is as it was asked to be.
    pub fn is_good(&self) -> bool {
        matches!(self, Outcome::Recovered | Outcome::NothingToDo | Outcome::Rehearsed)
    }
    /// One word: `recovered`, `stuck`.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Recovered => "recovered",
            Outcome::NotRecovered { .. } => "not recovered",
            Outcome::NothingToDo => "nothing to do",
            Outcome::Rehearsed => "rehearsed",
            Outcome::Superseded { .. } => "superseded",
            Outcome::Refused { .. } => "refused",
            Outcome::Stuck { .. } => "stuck",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Outcome::Recovered | Outcome::NothingToDo | Outcome::Rehearsed => Ok(()),
            Outcome::NotRecovered { why } => write!(f, ": {why}"),
            Outcome::Superseded { by } => write!(f, " by {by}"),
            Outcome::Refused { why, lift } => write!(f, ": {why} (what would lift it: {lift})"),
            Outcome::Stuck { at, human, .. } => write!(f, ": {at} ({human})"),
        }
    }
}
