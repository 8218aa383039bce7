//! What a watch may start.

use super::{Watch, WatchOutcome, WatchReport};
use crate::{Error, Kind, Report, Result, Rollback};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A watch that has been told that it may roll back.
///
/// Only a breach starts the rollback: a blind watch, or one that sees the same outside of the deployment, does not.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before run"]
pub struct WatchThenRollback {
    watch: Watch,
    rollback: Rollback,
}

/// What a watch saw, and what became of the rollback, if it started one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Watched {
    /// What was seen.
    pub watch: WatchReport,
    /// What was done. `None`: nothing had to be.
    pub rollback: Option<Report>,
}

impl Watch {
    /// Tells it that it may roll back: on a breach this rollback runs, blaming the watched release, as ordered by a machine
    /// (so the budget holds), and, if it has no reason of its own, because of the breach.
    ///
    /// ```no_run
    /// use rollback_core::{prelude::*, testing::FakePlatform, watch::{Rule, Watch}};
    /// # async fn example(shop: FakePlatform, errors: impl MetricSource, journal: MemoryJournal) -> Result<()> {
    /// let rollback = Rollback::of(shop.clone()).journal(journal.clone());
    /// let watched = Watch::of(shop)
    ///     .rule(Rule::above("error rate", 0.05).with_hold(minutes(2)), errors)
    ///     .journal(journal)
    ///     .then_roll_back(rollback)
    ///     .run()
    ///     .await?;
    /// println!("{watched}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn then_roll_back(self, rollback: Rollback) -> WatchThenRollback {
        WatchThenRollback { watch: self, rollback }
    }
}

impl WatchThenRollback {
    /// Watches; and, on a breach, rolls back.
    ///
    /// Cancel safe: a watch can be resumed from what was saved last, a rollback by the same call with the same journal.
    ///
    /// # Errors
    /// As [`Watch::run`] and [`Rollback::run`]; [`Kind::Invalid`] if the two are of different targets.
    pub async fn run(self) -> Result<Watched> {
        let Self { watch, rollback } = self;
        if watch.target_id() != rollback.target_id() {
            return Err(Error::new(Kind::Invalid, "watch the release").without_effect().with_message(format!(
                "the watch is of {}, and the rollback of {}",
                watch.target_id(),
                rollback.target_id()
            )));
        }
        let watch = watch.run().await?;
        let rollback = match &watch.outcome {
            outcome @ WatchOutcome::Breached { suspect, .. } => {
                let rollback = rollback.blaming(suspect).because_if_unsaid(outcome.to_string()).by_machine();
                Some(rollback.run().await?)
            }
            _ => None,
        };
        Ok(Watched { watch, rollback })
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.watch)?;
        match &self.rollback {
            Some(report) => write!(f, "\n{report}"),
            None => Ok(()),
        }
    }
}
