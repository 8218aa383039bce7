//! What happened in a run: JSON for machines, text for people. A pure reading of the run's lines, so that the report of a
//! run that ended long ago, in another process, is the same, but for what only the process knew: whether it went on with
//! the run of another one, and where it spooled to.
//!
//! Not here: what happens *while* it runs, which [`Observer`](crate::Observer)s hear.

mod text;

use crate::{
    Artifact, Chosen, DiffLine, Entry, Error, Extent, Finding, Intent, Journal, Kind, LedgerEntry, Line, Outcome, Plan,
    Result, RunId, Severity, Standing, TargetId, Timestamp,
    engine::{Detection, driver::Driven},
};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// The report of a run.
///
/// `Display` writes it for terminals; [`to_json`](Report::to_json) for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "a rollback that did not help, or was refused, is no error: look at its outcome"]
#[non_exhaustive]
pub struct Report {
    /// What it was asked to do. Of an adopted run: what *that* was asked to do.
    intent: Intent,
    /// It was begun by another process, or another call.
    adopted: bool,
    /// How it ended.
    outcome: Outcome,
    /// Everything that was journalled, or would have been.
    lines: Vec<Line>,
    /// Where the record lies, if the journal was lost.
    spooled: Option<PathBuf>,
}

impl Report {
    pub(crate) fn new(driven: Driven) -> Self {
        let Driven { intent, adopted, lines, outcome, spooled } = driven;
        Self { intent, adopted, outcome, lines, spooled }
    }
    pub(crate) fn refused(intent: Intent, error: &Error) -> Self {
        let outcome = Outcome::Refused { why: error.to_string(), lift: "mend what the first line names".into() };
        Self { intent, adopted: false, outcome, lines: vec![], spooled: None }
    }
    /// The report of a run that has ended, from its journal.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for an unknown run, [`Kind::Conflict`] for one that has not ended; otherwise as the journal.
    pub async fn of(journal: &dyn Journal, run: &RunId) -> Result<Self> {
        let (intent, lines) = journal.read(run).await?;
        let ended = lines.iter().rev().find_map(|line| match &line.entry {
            Entry::Ended(outcome) => Some((**outcome).clone()),
            _ => None,
        });
        let Some(outcome) = ended else {
            let error = Error::new(Kind::Conflict, "report on the run").with_target(&intent.target);
            return Err(error.with_message(format!("{run} has not ended: resume it, or give it up")));
        };
        Ok(Self { intent, adopted: false, outcome, lines, spooled: None })
    }
    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
    /// Which run.
    pub fn run(&self) -> &RunId {
        &self.intent.run
    }
    /// Of what.
    pub fn target(&self) -> &TargetId {
        &self.intent.target
    }
    /// What it was asked to do.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }
    /// What was seen before it was ordered, if that was told.
    pub fn detected(&self) -> Option<&Detection> {
        self.intent.detected.as_deref()
    }
    /// It was left unfinished by an earlier process or call, and this one went on with it.
    pub fn was_adopted(&self) -> bool {
        self.adopted
    }
    /// Everything that was journalled, or, without a journal, would have been.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
    /// Where the record lies, if the journal was lost.
    pub fn spooled(&self) -> Option<&std::path::Path> {
        self.spooled.as_deref()
    }
    fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.lines.iter().map(|line| &line.entry)
    }
    /// The release left and the release reached, if it came that far.
    pub fn chosen(&self) -> Option<&Chosen> {
        // Chosen again where the first one turned out to be gone.
        self.entries().rev().find_map(|entry| match entry {
            Entry::Chose(chosen) => Some(&**chosen),
            _ => None,
        })
    }
    /// What was planned, if it came that far.
    pub fn plan(&self) -> Option<&Plan> {
        self.entries().rev().find_map(|entry| match entry {
            Entry::Planned(plan) => Some(&**plan),
            _ => None,
        })
    }
    /// What would change, or has changed, as it was prepared.
    pub fn diff(&self) -> Vec<&DiffLine> {
        let prepared = self.entries().filter_map(|entry| match entry {
            Entry::Prepared { approved, .. } => Some(approved),
            _ => None,
        });
        prepared.flatten().flat_map(|approved| &approved.diff).collect()
    }
    /// What was found out while the changes were made ready; of a dry run also what would stand in the way of the rollback
    /// itself: an approval (`approval`), a run that has not ended (`unfinished`). What was found out about a rung that was
    /// passed over stands in its line of the timeline.
    pub fn findings(&self) -> Vec<&Finding> {
        let found = self.entries().filter_map(|entry| match entry {
            Entry::Prepared { findings, .. } => Some(findings),
            _ => None,
        });
        found.flatten().collect()
    }
    /// Every support that was lost, with why.
    pub fn losses(&self) -> Vec<(&str, &str)> {
        fn lost(entry: &Entry) -> Option<(&str, &str)> {
            match entry {
                Entry::Lost { what, why } => Some((what, why)),
                _ => None,
            }
        }
        self.entries().filter_map(lost).collect()
    }
    /// What was saved before the first change.
    pub fn evidence(&self) -> &[Artifact] {
        fn kept(entry: &Entry) -> Option<&[Artifact]> {
            match entry {
                Entry::EvidenceKept(kept) => Some(kept),
                _ => None,
            }
        }
        self.entries().find_map(kept).unwrap_or_default()
    }
    /// What was not as planned at the end.
    pub fn residue(&self) -> &[DiffLine] {
        fn left(entry: &Entry) -> Option<&[DiffLine]> {
            match entry {
                Entry::Residue(lines) => Some(lines),
                _ => None,
            }
        }
        self.entries().rev().find_map(left).unwrap_or_default()
    }
    /// How many writes were answered as done, as far as this run knows.
    pub fn writes(&self) -> usize {
        self.entries()
            .filter(|e| matches!(e, Entry::Did { applied, .. } if !matches!(applied.extent, Extent::NotStarted { .. })))
            .count()
    }
    /// Something watched the health of what was reached for a while: then it counts as verified.
    fn was_watched(&self) -> bool {
        let verified = |entry: &LedgerEntry| entry.standing == Standing::Verified;
        self.entries().any(|entry| matches!(entry, Entry::Marked(entry) if verified(entry)))
    }
    /// A write was sent, or was about to be.
    fn has_begun(&self) -> bool {
        self.entries().any(|entry| matches!(entry, Entry::Doing { .. }))
    }
    /// The freezes that still hold, with when they lapse: somebody must lift them.
    pub fn frozen(&self) -> Vec<(&str, Option<Timestamp>)> {
        self.freezes().into_iter().filter(|(.., certain)| *certain).map(|(name, until, _)| (name, until)).collect()
    }
    /// The freezes that were asked for, and of which it is not known whether they hold: somebody must look.
    /// [`unfreeze`](crate::freeze::unfreeze) does, and lifts them.
    pub fn maybe_frozen(&self) -> Vec<(&str, Option<Timestamp>)> {
        self.freezes().into_iter().filter(|(.., certain)| !*certain).map(|(name, until, _)| (name, until)).collect()
    }
    /// What was asked for and may hold, with when it lapses; and whether it is certain that it holds.
    fn freezes(&self) -> Vec<(&str, Option<Timestamp>, bool)> {
        let mut all: Vec<(&str, Option<Timestamp>, bool)> = vec![];
        for entry in self.entries() {
            match entry {
                Entry::Freezing { name, until } if all.iter().all(|(other, ..)| other != name) => {
                    all.push((name, *until, false));
                }
                Entry::Froze { name, was, until } => {
                    all.retain(|(other, ..)| other != name);
                    all.extend(was.as_ref().map(|_| (name.as_str(), *until, true)));
                }
                _ => {}
            }
        }
        all
    }
    /// The freezes that failed, and were gone on without: who would deploy the suspect again still can.
    pub fn unfrozen(&self) -> Vec<&str> {
        fn failed(entry: &Entry) -> Option<&str> {
            match entry {
                Entry::Froze { name, was: None, .. } => Some(name),
                _ => None,
            }
        }
        self.entries().filter_map(failed).collect()
    }
    /// How long the run was driven, over all processes.
    pub fn took(&self) -> Duration {
        self.lines.last().map_or(Duration::ZERO, |line| line.elapsed)
    }
    /// When it began.
    pub fn began(&self) -> Timestamp {
        self.lines.first().map_or(self.intent.at, |line| line.at)
    }
    /// Both the journal and the spool were lost.
    fn is_in_memory_alone(&self) -> bool {
        let lost = |what: &str| self.losses().iter().any(|(lost, _)| *lost == what);
        lost("spool") && (lost("journal") || lost("journal and lock"))
    }
    /// What a person must still do. Empty if nothing.
    pub fn to_do(&self) -> Vec<String> {
        let mut todo = vec![];
        match &self.outcome {
            Outcome::Recovered if !self.was_watched() => todo.push(
                "look whether it is healthy: what runs is the wanted release, and nothing checked its health for a while".into(),
            ),
            Outcome::Recovered | Outcome::NothingToDo | Outcome::Rehearsed => {}
            Outcome::NotRecovered { why } => {
                todo.push(format!(
                    "it was rolled back, and nothing shows that it recovered ({why}): page whoever owns the service"
                ));
                // What a ladder says of whom to page when all its rungs failed.
                todo.extend(self.plan().filter(|plan| plan.rungs.len() > 1).map(|plan| plan.page.clone()));
            }
            Outcome::Superseded { by } => {
                todo.push(format!("{by} came in between: check whether what runs now is wanted"));
                if self.was_adopted() {
                    todo.push(
                        "order it again if it is still wanted: this call went on with a run that was left unfinished, and what \
                         it ordered itself was not begun"
                            .into(),
                    );
                }
            }
            Outcome::Refused { lift, .. } => todo.push(lift.clone()),
            Outcome::Stuck { human, .. } => todo.push(human.clone()),
        }
        // What the target knew of beforehand, once its change is made.
        let is_made = |e: &Entry| match e {
            Entry::Did { applied, .. } => matches!(applied.extent, Extent::Done | Extent::Submitted),
            _ => false,
        };
        if self.entries().any(is_made) {
            let findings = self.findings();
            todo.extend(findings.iter().filter(|f| f.severity == Severity::ToDo).map(|f| f.text.clone()));
        }
        for (name, until) in self.frozen() {
            let until = until.map(|at| format!(", which lapses at {at}")).unwrap_or_default();
            todo.push(format!("lift the freeze {name}{until}, once the suspect cannot come back"));
        }
        for name in self.unfrozen() {
            todo.push(format!("stop {name} by hand, which is NOT frozen and may deploy the suspect again"));
        }
        for (name, until) in self.maybe_frozen() {
            let until = until.map(|at| format!(" (it would lapse at {at})")).unwrap_or_default();
            todo.push(format!("look whether the freeze {name} holds{until}, and lift it: its answer was lost"));
        }
        // Who did nothing has nothing to hand over.
        if let Some(path) = self.spooled().filter(|_| self.has_begun() || self.outcome.is_good()) {
            todo.push(format!(
                "keep the record, which is not in the journal, and hand it over to the journal once there is one again: {}",
                path.display()
            ));
        }
        if self.spooled.is_none() && self.is_in_memory_alone() {
            todo.push("keep this report: neither journal nor spool has the record, it is in memory alone".into());
        }
        if self.chosen().is_some_and(|c| c.unverified) && matches!(self.outcome, Outcome::Recovered) {
            todo.push("the release reached was not verified before: watch it".into());
        }
        todo
    }
    /// As JSON.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["to_do"] = self.to_do().into();
        value["writes"] = self.writes().into();
        format!("{value:#}")
    }
}
