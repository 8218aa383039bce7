//! What a watch may start.

use super::{Watch, WatchOutcome, WatchReport};
use crate::{Error, Kind, Report, Result, Rollback, engine::Detection};
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
            outcome @ WatchOutcome::Breached { suspect, rule, evidence } => {
                let detection = Detection::new(rule.to_string(), watch.decided)
                    .with_first_seen(watch.first_breach)
                    .with_evidence(evidence.clone());
                let rollback = rollback.detected(detection);
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

#[cfg(all(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::{
        Choose, Outcome, Result, Rollback, Timestamp,
        engine::Detection,
        metric::Metric,
        minutes, seconds,
        testing::{Bad, FakePlatform, Good},
        watch::{Rule, Watch},
    };

    fn shop() -> FakePlatform {
        FakePlatform::new().release("1", Good).release("2", Bad).live("2")
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_begins_with_what_was_detected() {
        let shop = shop();
        let sick = shop.clone();
        let errors = Metric::with("errors", move || {
            let bad = if sick.healthy() { 0.0 } else { 0.2 };
            async move { Result::Ok(bad) }
        });
        let watched = Watch::of(shop.clone())
            .rule(Rule::above("error rate", 0.05).with_hold(minutes(2)), errors)
            .then_roll_back(Rollback::of(shop).to(Choose::verified().or_previous()))
            .run()
            .await
            .unwrap();
        let report = watched.rollback.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        let detected = report.detected().unwrap();
        assert_eq!((detected.first_seen, detected.decided), (watched.watch.first_breach, watched.watch.decided));
        assert!(detected.first_seen.is_some() && !detected.evidence.is_empty(), "{detected:?}");
        assert!(detected.what.contains("error rate"), "{detected:?}");
        let text = report.to_string();
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what:?} in {text}"));
        assert!(at("timeline") < at("first seen: error rate"), "{text}");
        assert!(at("first seen: error rate") < at("decided to roll back: error rate"), "{text}");
        assert!(at("decided to roll back") < at("leaves 2 for 1"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["intent"]["detected"]["decided"], detected.decided.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_elsewhere_stands_before_the_run_and_nothing_is_made_up() {
        let order = || Rollback::of(shop()).to(Choose::verified().or_previous());
        let alert = Timestamp(Timestamp::now().0 - 90_000);
        let detection = Detection::new("CheckoutErrors fires", alert.after(seconds(30))).with_first_seen(Some(alert));
        let report = order().detected(detection).run().await.unwrap().to_string();
        assert!(report.contains("-9") && report.contains(" s  first seen: CheckoutErrors fires"), "{report}");
        let unsaid = order().run().await.unwrap();
        assert!(unsaid.detected().is_none() && !unsaid.to_string().contains("decided to roll back"), "{unsaid}");
        assert!(!unsaid.to_json().contains("detected"), "what was stored before reads the same");
    }
}
