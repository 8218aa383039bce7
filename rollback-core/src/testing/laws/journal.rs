//! The laws of [`Journal`] and its [`Shelf`](crate::Shelf).
//!
//! Every law uses targets and runs of its own, so that they can be tried on a journal that others use too. None waits longer
//! than a lease of a fraction of a second.
//!
//! ```
//! use rollback_core::{journal::MemoryJournal, testing::laws::journal::all};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! assert_eq!(all(&MemoryJournal::new()).await, []);
//! # }
//! ```

use super::{Ruling, Violation};
use crate::{
    Artifact, At, Begun, Digest, Entry, HeldFreeze, Intent, Journal, Kind, Lease, LedgerEntry, Line, Outcome, Payload,
    Policy, Release, Result, RunId, RunQuery, Standing, Stored, TargetId, Timestamp, minutes,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

type Law = std::result::Result<Ruling, Violation>;
/// The name of a law, and what came of it.
pub type Ruled = (&'static str, Law);

/// No call of a journal may take longer.
const WITHIN: Duration = Duration::from_secs(30);
/// A lease that a law waits out.
const SHORT: Duration = Duration::from_millis(200);

/// Tries every law and gives those that are broken.
pub async fn all(journal: &dyn Journal) -> Vec<Violation> {
    each(journal).await.into_iter().filter_map(|(_, ruling)| ruling.err()).collect()
}

/// Tries every law and gives what came of each.
pub async fn each(journal: &dyn Journal) -> Vec<Ruled> {
    let mut ruled = vec![];
    macro_rules! rule {
        ($($law:ident),* $(,)?) => { $(
            let ruling = tokio::time::timeout(WITHIN, $law(journal)).await.unwrap_or_else(|_| {
                Err(Violation { law: stringify!($law), why: format!("a call did not end within {WITHIN:?}") })
            });
            ruled.push((stringify!($law), ruling));
        )* };
    }
    rule!(
        busy_while_held,
        adopted_when_let_go,
        adopted_when_lapsed,
        renewing_keeps_the_lease,
        appending_keeps_the_lease,
        lower_epoch_is_refused,
        lost_lease_is_not_renewed,
        gap_is_refused,
        lines_of_one_append_follow_each_other,
        one_bad_line_refuses_all,
        same_append_twice_is_one,
        append_that_overlaps_adds_the_rest,
        other_line_is_refused,
        nothing_after_the_end,
        end_frees_the_lock,
        over_is_not_begun_again,
        id_of_another_target_is_refused,
        epochs_grow,
        take_over_fences_the_old,
        take_over_of_its_own_run_adopts,
        give_up_ends_what_nobody_drives,
        ledger_keeps_the_latest,
        marks_are_as_durable_as_their_line,
        holds_appear_and_are_forgotten,
        given_up_freeze_is_no_hold,
        asked_for_freeze_may_hold,
        runs_are_found,
        first_write_is_dated_once,
        unknown_run_is_not_found,
        lines_come_back_as_they_were,
        checkpoints_are_fenced,
        artifact_comes_back,
        unsealed_artifact_was_never_there,
        artifact_must_be_what_was_sealed,
    );
    ruled
}

/// What a law works with: a target and runs that no other law has.
struct Trial<'a> {
    law: &'static str,
    journal: &'a dyn Journal,
    unique: String,
    target: TargetId,
}

impl<'a> Trial<'a> {
    fn of(law: &'static str, journal: &'a dyn Journal) -> Self {
        let unique = format!("{law}-{:016x}", fastrand::u64(..));
        Self { law, journal, target: TargetId::new(format!("law:{unique}")), unique }
    }
    fn broken(&self, why: impl Into<String>) -> Violation {
        Violation { law: self.law, why: why.into() }
    }
    fn ok<T>(&self, done: Result<T>) -> std::result::Result<T, Violation> {
        done.map_err(|e| self.broken(e.to_string()))
    }
    fn must(&self, so: bool, why: impl Into<String>) -> std::result::Result<(), Violation> {
        if so { Ok(()) } else { Err(self.broken(why)) }
    }
    /// It must fail, and so that the caller knows that nothing happened.
    fn refused<T>(&self, done: Result<T>, kind: Kind, what: &str) -> std::result::Result<(), Violation> {
        match done {
            Ok(_) => Err(self.broken(format!("{what} was not refused"))),
            Err(e) if e.kind() != kind => Err(self.broken(format!("{what} is {:?}, not {kind:?}: {e}", e.kind()))),
            Err(e) if e.effect() != crate::Effect::None => {
                Err(self.broken(format!("{what} was refused, but the error does not say that it had no effect: {e}")))
            }
            Err(_) => Ok(()),
        }
    }
    fn run(&self, name: &str) -> RunId {
        RunId::new(format!("{}-{name}", self.unique))
    }
    fn intent(&self, name: &str) -> Intent {
        let mut intent = Intent::new(self.run(name), self.target.clone(), format!("who of {name}"), "a law");
        intent.at = Timestamp(1_000_000);
        intent.policy = Policy::default().with_lease(minutes(10)).into();
        intent
    }
    fn taking_over(&self, name: &str) -> Intent {
        let mut intent = self.intent(name);
        Arc::make_mut(&mut intent.policy).take_over = true;
        intent
    }
    async fn fresh(&self, intent: &Intent) -> std::result::Result<Lease, Violation> {
        match self.ok(self.journal.begin(intent).await)? {
            Begun::Fresh { lease, .. } if lease.run == intent.run => Ok(lease),
            other => Err(self.broken(format!("a fresh run was expected, not {}", said(&other)))),
        }
    }
    /// With the intent and the lines that came with it.
    async fn adopted(&self, intent: &Intent) -> std::result::Result<(Lease, Intent, Vec<Line>), Violation> {
        match self.ok(self.journal.begin(intent).await)? {
            Begun::Adopted { lease, intent, lines } => Ok((lease, *intent, lines)),
            other => Err(self.broken(format!("the run should have been adopted, not {}", said(&other)))),
        }
    }
    async fn busy(&self, intent: &Intent) -> std::result::Result<(RunId, String, Timestamp), Violation> {
        match self.ok(self.journal.begin(intent).await)? {
            Begun::Busy { run, who, since } => Ok((run, who, since)),
            other => Err(self.broken(format!("the lock is held, but begin answered {}", said(&other)))),
        }
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> std::result::Result<(), Violation> {
        self.ok(self.journal.append(lease, lines).await)
    }
    async fn lines(&self, run: &RunId) -> std::result::Result<Vec<Line>, Violation> {
        Ok(self.ok(self.journal.read(run).await)?.1)
    }
    /// `let_go` does not wait, so neither does this for long.
    async fn let_go(&self, lease: &Lease) -> std::result::Result<(), Violation> {
        self.journal.let_go(lease);
        for _ in 0..500 {
            let runs = self.ok(self.journal.runs(&RunQuery::of_run(&lease.run)).await)?;
            if runs.iter().all(|run| run.driven_by.is_none()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(self.broken("the run was let go, and 5 s later it still counts as driven"))
    }
    async fn end(&self, lease: &Lease, seq: u64) -> std::result::Result<(), Violation> {
        self.append(lease, &[line(seq, lease, Entry::Ended(Outcome::Recovered.into()))]).await
    }
    fn kept(&self) -> Law {
        Ok(Ruling::Kept)
    }
}

fn said(begun: &Begun) -> &'static str {
    match begun {
        Begun::Fresh { .. } => "fresh",
        Begun::Adopted { .. } => "adopted",
        Begun::Busy { .. } => "busy",
        Begun::Over { .. } => "over",
    }
}

fn line(seq: u64, lease: &Lease, entry: Entry) -> Line {
    Line::new(seq, lease.epoch, Timestamp(1_000_000 + seq), Duration::from_millis(seq), Duration::ZERO, entry)
}

fn note(seq: u64, lease: &Lease, what: &str) -> Line {
    line(seq, lease, Entry::Lost { what: what.into(), why: "a law says so".into() })
}

fn doing(seq: u64, lease: &Lease) -> Line {
    line(seq, lease, Entry::Doing { at: At::default(), approved: Digest::of(b"law") })
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Noted {
    at: u64,
}
impl Stored for Noted {
    const NAME: &'static str = "rollback-core/law";
    const VERSION: u32 = 1;
}

/// While somebody drives a run, nobody else gets the target, and hears who has it.
pub async fn busy_while_held(journal: &dyn Journal) -> Law {
    let trial = Trial::of("busy_while_held", journal);
    trial.fresh(&trial.intent("first")).await?;
    for name in ["second", "first"] {
        let (run, who, since) = trial.busy(&trial.intent(name)).await?;
        trial.must(run == trial.run("first"), format!("busy with {run}"))?;
        trial.must(who.contains("who of first"), format!("busy with somebody called {who:?}"))?;
        trial.must(since == Timestamp(1_000_000), format!("busy since {since}"))?;
    }
    let runs = trial.ok(journal.runs(&RunQuery::of_target(&trial.target)).await)?;
    trial.must(runs.len() == 1, format!("{} runs instead of one", runs.len()))?;
    trial.must(runs[0].driven_by.is_some(), "nobody is said to drive it")?;
    trial.kept()
}

/// A run that was let go is adopted at once, with its own intent, all its lines and a higher epoch.
pub async fn adopted_when_let_go(journal: &dyn Journal) -> Law {
    let trial = Trial::of("adopted_when_let_go", journal);
    let first = trial.intent("first");
    let lease = trial.fresh(&first).await?;
    let lines = [note(0, &lease, "a"), note(1, &lease, "b")];
    trial.append(&lease, &lines).await?;
    trial.let_go(&lease).await?;
    let (adopted, intent, theirs) = trial.adopted(&trial.intent("second")).await?;
    trial.must(adopted.run == first.run, format!("adopted as {}", adopted.run))?;
    trial.must(intent == first, "the adopted run has another intent")?;
    trial.must(theirs == lines, "the adopted run has other lines")?;
    trial.must(adopted.epoch > lease.epoch, format!("epoch {} after {}", adopted.epoch, lease.epoch))?;
    let (_, who, _) = trial.busy(&trial.intent("third")).await?;
    trial.must(who.contains("who of second"), format!("driven by {who:?}, not by the one who adopted it"))?;
    trial.append(&adopted, &[note(2, &adopted, "c")]).await?;
    trial.kept()
}

/// A run whose lease has run out is adopted.
pub async fn adopted_when_lapsed(journal: &dyn Journal) -> Law {
    let trial = Trial::of("adopted_when_lapsed", journal);
    let mut first = trial.intent("first");
    Arc::make_mut(&mut first.policy).lease = SHORT;
    let lease = trial.fresh(&first).await?;
    tokio::time::sleep(SHORT + SHORT / 4).await;
    let (adopted, ..) = trial.adopted(&trial.intent("second")).await?;
    trial.must(adopted.epoch > lease.epoch, format!("epoch {} after {}", adopted.epoch, lease.epoch))?;
    trial.kept()
}

/// Renewing makes a lease last again.
pub async fn renewing_keeps_the_lease(journal: &dyn Journal) -> Law {
    let trial = Trial::of("renewing_keeps_the_lease", journal);
    let mut first = trial.intent("first");
    Arc::make_mut(&mut first.policy).lease = SHORT * 5;
    let lease = trial.fresh(&first).await?;
    for _ in 0..4 {
        tokio::time::sleep(SHORT * 2).await;
        trial.ok(journal.renew(&lease).await)?;
    }
    trial.busy(&trial.intent("second")).await?;
    trial.kept()
}

/// So does appending.
pub async fn appending_keeps_the_lease(journal: &dyn Journal) -> Law {
    let trial = Trial::of("appending_keeps_the_lease", journal);
    let mut first = trial.intent("first");
    Arc::make_mut(&mut first.policy).lease = SHORT * 5;
    let lease = trial.fresh(&first).await?;
    for seq in 0..4 {
        tokio::time::sleep(SHORT * 2).await;
        trial.append(&lease, &[note(seq, &lease, "still here")]).await?;
    }
    trial.busy(&trial.intent("second")).await?;
    trial.kept()
}

/// Whoever has lost the lease writes nothing any more.
pub async fn lower_epoch_is_refused(journal: &dyn Journal) -> Law {
    let trial = Trial::of("lower_epoch_is_refused", journal);
    let old = trial.fresh(&trial.intent("first")).await?;
    trial.append(&old, &[note(0, &old, "a")]).await?;
    trial.let_go(&old).await?;
    let (new, ..) = trial.adopted(&trial.intent("second")).await?;
    let late = journal.append(&old, &[note(1, &old, "late")]).await;
    trial.refused(late, Kind::Conflict, "an append of a lower epoch")?;
    let repeated = journal.append(&old, &[note(0, &old, "a")]).await;
    trial.refused(repeated, Kind::Conflict, "a repeated append of a lower epoch")?;
    let ahead = Lease { run: new.run.clone(), epoch: new.epoch + 1 };
    let early = journal.append(&ahead, &[note(1, &ahead, "early")]).await;
    trial.refused(early, Kind::Conflict, "an append of an epoch that was never given")?;
    journal.let_go(&old);
    trial.append(&new, &[note(1, &new, "b")]).await?;
    trial.busy(&trial.intent("third")).await?;
    trial.must(trial.lines(&new.run).await?.len() == 2, "a refused line was written")?;
    trial.kept()
}

/// A lost lease cannot be renewed; nor one of a run that has ended.
pub async fn lost_lease_is_not_renewed(journal: &dyn Journal) -> Law {
    let trial = Trial::of("lost_lease_is_not_renewed", journal);
    let old = trial.fresh(&trial.intent("first")).await?;
    trial.let_go(&old).await?;
    let (new, ..) = trial.adopted(&trial.intent("second")).await?;
    trial.refused(journal.renew(&old).await, Kind::Conflict, "renewing a lost lease")?;
    trial.ok(journal.renew(&new).await)?;
    trial.end(&new, 0).await?;
    trial.refused(journal.renew(&new).await, Kind::Conflict, "renewing the lease of a run that has ended")?;
    trial.kept()
}

/// Line numbers leave no gap.
pub async fn gap_is_refused(journal: &dyn Journal) -> Law {
    let trial = Trial::of("gap_is_refused", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.refused(journal.append(&lease, &[note(1, &lease, "b")]).await, Kind::Conflict, "a gap at the start")?;
    trial.append(&lease, &[note(0, &lease, "a")]).await?;
    trial.refused(journal.append(&lease, &[note(2, &lease, "c")]).await, Kind::Conflict, "a gap")?;
    trial.append(&lease, &[note(1, &lease, "b")]).await?;
    trial.must(trial.lines(&lease.run).await?.len() == 2, "a refused line was written")?;
    trial.kept()
}

/// The lines of one append follow each other, stand under its lease, and end with the end.
pub async fn lines_of_one_append_follow_each_other(journal: &dyn Journal) -> Law {
    let trial = Trial::of("lines_of_one_append_follow_each_other", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    let elsewhere = Lease { epoch: lease.epoch + 1, ..lease.clone() };
    for (what, lines) in [
        ("a gap between lines", [note(0, &lease, "a"), note(2, &lease, "c")]),
        ("a number twice", [note(0, &lease, "a"), note(0, &lease, "a")]),
        ("a line of another epoch", [note(0, &lease, "a"), note(1, &elsewhere, "b")]),
        ("a line after the end", [line(0, &lease, Entry::Ended(Outcome::Recovered.into())), note(1, &lease, "b")]),
    ] {
        trial.refused(journal.append(&lease, &lines).await, Kind::Invalid, what)?;
    }
    trial.must(trial.lines(&lease.run).await?.is_empty(), "a refused line was written")?;
    trial.append(&lease, &[]).await?;
    trial.append(&lease, &[note(0, &lease, "a"), note(1, &lease, "b")]).await?;
    trial.kept()
}

/// An append is written whole or not at all.
pub async fn one_bad_line_refuses_all(journal: &dyn Journal) -> Law {
    let trial = Trial::of("one_bad_line_refuses_all", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.append(&lease, &[note(0, &lease, "a"), note(1, &lease, "b")]).await?;
    let mixed = [note(0, &lease, "a"), note(1, &lease, "other"), note(2, &lease, "c")];
    trial.refused(journal.append(&lease, &mixed).await, Kind::Conflict, "an append with a line that differs")?;
    trial.must(trial.lines(&lease.run).await?.len() == 2, "a part of a refused append was written")?;
    trial.kept()
}

/// A lost answer may be asked for again, also that of the end.
pub async fn same_append_twice_is_one(journal: &dyn Journal) -> Law {
    let trial = Trial::of("same_append_twice_is_one", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    let lines = [note(0, &lease, "a"), doing(1, &lease)];
    trial.append(&lease, &lines).await?;
    trial.append(&lease, &lines).await?;
    let end = [line(2, &lease, Entry::Ended(Outcome::Recovered.into()))];
    trial.append(&lease, &end).await?;
    trial.append(&lease, &end).await?;
    trial.append(&lease, &lines).await?;
    trial.must(trial.lines(&lease.run).await?.len() == 3, "a line was written twice")?;
    trial.kept()
}

/// An append of which a part is there already adds the rest.
pub async fn append_that_overlaps_adds_the_rest(journal: &dyn Journal) -> Law {
    let trial = Trial::of("append_that_overlaps_adds_the_rest", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    let lines = [note(0, &lease, "a"), note(1, &lease, "b"), note(2, &lease, "c")];
    trial.append(&lease, &lines[..2]).await?;
    trial.append(&lease, &lines[1..]).await?;
    trial.must(trial.lines(&lease.run).await? == lines, "the lines are not those that were appended")?;
    trial.kept()
}

/// No line is replaced by another one.
pub async fn other_line_is_refused(journal: &dyn Journal) -> Law {
    let trial = Trial::of("other_line_is_refused", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.append(&lease, &[note(0, &lease, "a")]).await?;
    let mut later = note(0, &lease, "a");
    later.at = later.at.after(Duration::from_millis(1));
    for (what, other) in [("another entry", note(0, &lease, "b")), ("another time", later)] {
        trial.refused(journal.append(&lease, &[other]).await, Kind::Conflict, what)?;
    }
    trial.must(trial.lines(&lease.run).await? == [note(0, &lease, "a")], "the line was replaced")?;
    trial.kept()
}

/// A run that has ended gets no more lines.
pub async fn nothing_after_the_end(journal: &dyn Journal) -> Law {
    let trial = Trial::of("nothing_after_the_end", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.end(&lease, 0).await?;
    trial.refused(journal.append(&lease, &[note(1, &lease, "b")]).await, Kind::Conflict, "a line after the end")?;
    trial.must(trial.lines(&lease.run).await?.len() == 1, "a line was written after the end")?;
    trial.kept()
}

/// The end frees the lock, and the run knows how it ended.
pub async fn end_frees_the_lock(journal: &dyn Journal) -> Law {
    let trial = Trial::of("end_frees_the_lock", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.end(&lease, 0).await?;
    let runs = trial.ok(journal.runs(&RunQuery::of_run(&lease.run)).await)?;
    trial.must(runs.len() == 1 && runs[0].outcome == Some(Outcome::Recovered), "the run does not know how it ended")?;
    trial.must(runs[0].driven_by.is_none(), "a run that has ended is said to be driven")?;
    trial.fresh(&trial.intent("second")).await?;
    trial.kept()
}

/// A run that has ended is not begun again, also while another one goes on.
pub async fn over_is_not_begun_again(journal: &dyn Journal) -> Law {
    let trial = Trial::of("over_is_not_begun_again", journal);
    let first = trial.intent("first");
    let lease = trial.fresh(&first).await?;
    trial.end(&lease, 0).await?;
    for take_over in [false, true] {
        let mut again = first.clone();
        Arc::make_mut(&mut again.policy).take_over = take_over;
        match trial.ok(journal.begin(&again).await)? {
            Begun::Over { intent, lines } => {
                trial.must(*intent == first && lines.len() == 1, "it is over with another intent or other lines")?;
            }
            other => return Err(trial.broken(format!("a run that has ended was begun again: {}", said(&other)))),
        }
        if !take_over {
            trial.fresh(&trial.intent("second")).await?;
        }
    }
    trial.busy(&trial.intent("third")).await?;
    trial.kept()
}

/// The id of a run of another target is refused.
pub async fn id_of_another_target_is_refused(journal: &dyn Journal) -> Law {
    let trial = Trial::of("id_of_another_target_is_refused", journal);
    trial.fresh(&trial.intent("first")).await?;
    let mut elsewhere = trial.intent("first");
    elsewhere.target = TargetId::new(format!("{}-elsewhere", trial.target));
    trial.refused(journal.begin(&elsewhere).await, Kind::Invalid, "a run id of another target")?;
    trial.kept()
}

/// Every lease of a target has a higher epoch than all before, over all runs.
pub async fn epochs_grow(journal: &dyn Journal) -> Law {
    let trial = Trial::of("epochs_grow", journal);
    let mut last = 0;
    for name in ["a", "b", "c"] {
        let mut lease = trial.fresh(&trial.intent(name)).await?;
        trial.must(lease.epoch > last, format!("epoch {} after {last}", lease.epoch))?;
        last = lease.epoch;
        trial.let_go(&lease).await?;
        (lease, ..) = trial.adopted(&trial.intent(name)).await?;
        trial.must(lease.epoch > last, format!("epoch {} after {last}", lease.epoch))?;
        last = lease.epoch;
        trial.end(&lease, 0).await?;
    }
    trial.kept()
}

/// Taking over ends the other run, whose holder learns it at its next append.
pub async fn take_over_fences_the_old(journal: &dyn Journal) -> Law {
    let trial = Trial::of("take_over_fences_the_old", journal);
    let old = trial.fresh(&trial.intent("first")).await?;
    trial.append(&old, &[note(0, &old, "a")]).await?;
    let new = match trial.ok(journal.begin(&trial.taking_over("second")).await)? {
        Begun::Fresh { lease, replaced } => {
            trial.must(replaced.as_ref() == Some(&old.run), format!("it replaced {replaced:?}"))?;
            lease
        }
        other => return Err(trial.broken(format!("taking over gave {}", said(&other)))),
    };
    trial.must(new.run == trial.run("second") && new.epoch > old.epoch, "the new run has no higher epoch")?;
    trial.refused(journal.append(&old, &[note(1, &old, "b")]).await, Kind::Conflict, "an append to a replaced run")?;
    trial.refused(journal.renew(&old).await, Kind::Conflict, "renewing the lease of a replaced run")?;
    journal.let_go(&old);
    let lines = trial.lines(&old.run).await?;
    let superseded = |outcome: &Outcome| matches!(outcome, Outcome::Superseded { .. });
    let ended = matches!(lines.last().map(|l| &l.entry), Some(Entry::Ended(outcome)) if superseded(outcome));
    trial.must(lines.len() == 2 && ended, "the replaced run does not end as superseded")?;
    trial.append(&new, &[note(0, &new, "a")]).await?;
    trial.busy(&trial.intent("third")).await?;
    trial.kept()
}

/// Taking over one's own unfinished run goes on with it.
pub async fn take_over_of_its_own_run_adopts(journal: &dyn Journal) -> Law {
    let trial = Trial::of("take_over_of_its_own_run_adopts", journal);
    let old = trial.fresh(&trial.taking_over("first")).await?;
    trial.append(&old, &[note(0, &old, "a")]).await?;
    let (new, _, lines) = trial.adopted(&trial.taking_over("first")).await?;
    trial.must(new.epoch > old.epoch && lines.len() == 1, "it was not adopted whole")?;
    trial.refused(journal.append(&old, &[note(1, &old, "b")]).await, Kind::Conflict, "an append of the old epoch")?;
    trial.kept()
}

/// A run is given up only where nobody drives it, and then ends as stuck.
pub async fn give_up_ends_what_nobody_drives(journal: &dyn Journal) -> Law {
    let trial = Trial::of("give_up_ends_what_nobody_drives", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.append(&lease, &[note(0, &lease, "a")]).await?;
    let give_up = || journal.give_up(&lease.run, "somebody", "the machine burned down");
    trial.refused(give_up().await, Kind::Conflict, "giving up a run that is driven")?;
    trial.let_go(&lease).await?;
    trial.ok(give_up().await)?;
    let last = trial.lines(&lease.run).await?.last().map(|l| l.entry.clone());
    let ended = if let Some(Entry::Ended(outcome)) = &last { Some(&**outcome) } else { None };
    let Some(Outcome::Stuck { at, .. }) = ended else {
        return Err(trial.broken(format!("it ends with {last:?}")));
    };
    trial.must(at.contains("somebody") && at.contains("burned"), format!("it does not say who and why: {at}"))?;
    trial.refused(give_up().await, Kind::Conflict, "giving up a run that has ended")?;
    let late = journal.append(&lease, &[note(1, &lease, "late")]).await;
    trial.refused(late, Kind::Conflict, "an append to a run that was given up")?;
    trial.refused(journal.give_up(&trial.run("none"), "a", "b").await, Kind::NotFound, "giving up an unknown run")?;
    trial.fresh(&trial.intent("second")).await?;
    trial.kept()
}

/// The ledger has the latest mark of every release, newest mark first, whatever the wall clock said.
pub async fn ledger_keeps_the_latest(journal: &dyn Journal) -> Law {
    let trial = Trial::of("ledger_keeps_the_latest", journal);
    let mark = |release: &str, standing, at| LedgerEntry::new(Release::new(release), standing, Timestamp(at), "a law");
    let marks = [mark("1", Standing::Verified, 30), mark("2", Standing::Seen, 20), mark("1", Standing::Failed, 10)];
    for entry in &marks {
        trial.ok(journal.mark(&trial.target, entry).await)?;
    }
    let elsewhere = TargetId::new(format!("{}-elsewhere", trial.target));
    trial.ok(journal.mark(&elsewhere, &mark("1", Standing::Verified, 40)).await)?;
    let ledger = trial.ok(journal.ledger(&trial.target).await)?;
    trial.must(ledger == [marks[2].clone(), marks[1].clone()], format!("the ledger is {ledger:?}"))?;
    trial.kept()
}

/// A mark in a line is in the ledger once the line is there, and only once.
pub async fn marks_are_as_durable_as_their_line(journal: &dyn Journal) -> Law {
    let trial = Trial::of("marks_are_as_durable_as_their_line", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    let mark = |release: &str, standing| LedgerEntry::new(Release::new(release), standing, Timestamp(1), "a law");
    let marked = |seq, entry: &LedgerEntry| line(seq, &lease, Entry::Marked(Box::new(entry.clone())));
    let failed = mark("2", Standing::Failed);
    trial.append(&lease, &[marked(0, &failed)]).await?;
    trial.must(trial.ok(journal.ledger(&trial.target).await)? == [failed.clone()], "the ledger lacks the mark")?;
    let refused = journal.append(&lease, &[marked(2, &mark("1", Standing::Verified))]).await;
    trial.refused(refused, Kind::Conflict, "a gap")?;
    trial.must(trial.ok(journal.ledger(&trial.target).await)? == [failed.clone()], "a refused line left a mark")?;
    let seen = mark("2", Standing::Seen);
    trial.ok(journal.mark(&trial.target, &seen).await)?;
    trial.append(&lease, &[marked(0, &failed)]).await?;
    trial.must(trial.ok(journal.ledger(&trial.target).await)? == [seen], "a repeated line marked twice")?;
    trial.kept()
}

fn froze(seq: u64, lease: &Lease, name: &str, was: Option<Payload>) -> Line {
    line(seq, lease, Entry::Froze { name: name.into(), was: was.map(Box::new), until: Some(Timestamp(77)) })
}

/// A freeze that holds is listed until it is forgotten, beyond the end of its run.
pub async fn holds_appear_and_are_forgotten(journal: &dyn Journal) -> Law {
    let trial = Trial::of("holds_appear_and_are_forgotten", journal);
    let first = trial.intent("first");
    let lease = trial.fresh(&first).await?;
    let was = trial.ok(Payload::of(&Noted { at: 1 }))?;
    let lines = [froze(0, &lease, "gitops", Some(was.clone())), froze(1, &lease, "ci", Some(was.clone()))];
    trial.append(&lease, &lines).await?;
    trial.end(&lease, 2).await?;
    let mine = || async {
        let mut holds = trial.ok(journal.holds().await)?;
        holds.retain(|h| h.hold.target == trial.target);
        Ok::<_, Violation>(holds)
    };
    let holds = mine().await?;
    trial.must(holds.len() == 2, format!("{} holds instead of two", holds.len()))?;
    for held in &holds {
        trial.must(
            held.was.as_ref() == Some(&was) && held.hold.until == Some(Timestamp(77)),
            "a hold has other contents",
        )?;
        trial.must(held.hold.run == first.run && held.hold.owner == first.who, "a hold is somebody else's")?;
        trial.must(held.hold.why == first.why, "a hold has another reason")?;
    }
    for _ in 0..2 {
        trial.ok(journal.forget_hold(&first.run, "gitops").await)?;
        let names: Vec<_> = mine().await?.into_iter().map(|h| h.name).collect();
        trial.must(names == ["ci"], format!("held is {names:?}"))?;
    }
    trial.ok(journal.forget_hold(&first.run, "ci").await)?;
    trial.kept()
}

/// A freeze that was given up holds nothing.
pub async fn given_up_freeze_is_no_hold(journal: &dyn Journal) -> Law {
    let trial = Trial::of("given_up_freeze_is_no_hold", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    trial.append(&lease, &[froze(0, &lease, "gitops", None)]).await?;
    let holds = trial.ok(journal.holds().await)?;
    trial.must(holds.iter().all(|h| h.hold.target != trial.target), "it is held")?;
    trial.kept()
}

/// A freeze that was asked for may hold, until it is known; what is known to hold does not become uncertain.
pub async fn asked_for_freeze_may_hold(journal: &dyn Journal) -> Law {
    let trial = Trial::of("asked_for_freeze_may_hold", journal);
    let first = trial.intent("first");
    let lease = trial.fresh(&first).await?;
    let was = trial.ok(Payload::of(&Noted { at: 1 }))?;
    let asked = |seq| line(seq, &lease, Entry::Freezing { name: "ci".into(), until: Some(Timestamp(77)) });
    let mine = || async {
        let mut holds = trial.ok(journal.holds().await)?;
        holds.retain(|h| h.hold.target == trial.target);
        Ok::<_, Violation>(holds)
    };
    trial.append(&lease, &[asked(0)]).await?;
    let holds = mine().await?;
    trial.must(holds.len() == 1, format!("{} holds of what was asked for", holds.len()))?;
    let held = |was: Option<&Payload>, held: &HeldFreeze| {
        let hold = &held.hold;
        held.was.as_ref() == was && held.name == "ci" && hold.run == first.run && hold.until == Some(Timestamp(77))
    };
    trial.must(holds.iter().all(|h| held(None, h)), format!("what may hold is {holds:?}"))?;
    trial.append(&lease, &[froze(1, &lease, "ci", Some(was.clone()))]).await?;
    trial.append(&lease, &[asked(2)]).await?;
    let holds = mine().await?;
    let known = holds.len() == 1 && holds.iter().all(|h| held(Some(&was), h));
    trial.must(known, format!("what is known to hold is {holds:?}"))?;
    trial.append(&lease, &[froze(3, &lease, "ci", None)]).await?;
    trial.must(mine().await?.is_empty(), "what does not hold is listed")?;
    trial.kept()
}

/// Runs are found by id, target, group, state and age, newest first.
pub async fn runs_are_found(journal: &dyn Journal) -> Law {
    let trial = Trial::of("runs_are_found", journal);
    let parent = trial.run("group");
    let mut older = trial.intent("older");
    older.parent = Some(parent.clone());
    let mut newer = trial.intent("newer");
    newer.at = Timestamp(2_000_000);
    let lease = trial.fresh(&older).await?;
    trial.append(&lease, &[note(0, &lease, "a")]).await?;
    trial.end(&lease, 1).await?;
    trial.fresh(&newer).await?;
    let of_target = || RunQuery::of_target(&trial.target);
    let mut unfinished = of_target();
    unfinished.unfinished = true;
    for (what, query, expected) in [
        ("of the target", of_target(), vec!["newer", "older"]),
        ("limited", of_target().with_limit(1), vec!["newer"]),
        ("since later", of_target().with_since(Timestamp(1_000_001)), vec!["newer"]),
        ("since its begin", of_target().with_since(Timestamp(1_000_000)), vec!["newer", "older"]),
        ("unfinished", unfinished, vec!["newer"]),
        ("of the group", RunQuery::of_parent(&parent), vec!["older"]),
        ("by id", RunQuery::of_run(&older.run), vec!["older"]),
        ("of an unknown id", RunQuery::of_run(&trial.run("none")), vec![]),
    ] {
        let found = trial.ok(journal.runs(&query).await)?;
        let expected: Vec<_> = expected.into_iter().map(|name| trial.run(name)).collect();
        let found: Vec<_> = found.into_iter().map(|run| run.run).collect();
        trial.must(found == expected, format!("{what}: found {found:?} instead of {expected:?}"))?;
    }
    let all = trial.ok(journal.runs(&RunQuery::all()).await)?;
    trial.must(all.iter().any(|run| run.run == older.run), "not among all runs")?;
    let summary = trial.ok(journal.runs(&RunQuery::of_run(&older.run)).await)?.remove(0);
    let told = (&summary.target, &summary.who, &summary.why, summary.lines, summary.began, summary.ordered_by);
    let expected = (&older.target, &older.who, &older.why, 2, older.at, older.policy.ordered_by);
    trial.must(told == expected, format!("the summary says {summary:?}"))?;
    trial.kept()
}

/// A run says when it first was about to write.
pub async fn first_write_is_dated_once(journal: &dyn Journal) -> Law {
    let trial = Trial::of("first_write_is_dated_once", journal);
    let lease = trial.fresh(&trial.intent("first")).await?;
    let wrote = || async {
        let runs = trial.ok(journal.runs(&RunQuery::of_run(&lease.run)).await)?;
        Ok::<_, Violation>(runs.first().and_then(|run| run.wrote))
    };
    trial.append(&lease, &[note(0, &lease, "a")]).await?;
    trial.must(wrote().await?.is_none(), "it wrote before it was about to")?;
    let (once, twice) = (doing(1, &lease), doing(2, &lease));
    let at = once.at;
    trial.append(&lease, &[once, twice]).await?;
    trial.must(wrote().await? == Some(at), "the first write has another date")?;
    trial.kept()
}

/// An unknown run is not found.
pub async fn unknown_run_is_not_found(journal: &dyn Journal) -> Law {
    let trial = Trial::of("unknown_run_is_not_found", journal);
    let run = trial.run("none");
    trial.refused(journal.read(&run).await, Kind::NotFound, "reading an unknown run")?;
    let ledger = trial.ok(journal.ledger(&trial.target).await)?;
    trial.must(ledger.is_empty(), "a target that nobody marked has a ledger")?;
    trial.kept()
}

/// What was written is read, to the letter.
pub async fn lines_come_back_as_they_were(journal: &dyn Journal) -> Law {
    let trial = Trial::of("lines_come_back_as_they_were", journal);
    let intent = trial.intent("first");
    let lease = trial.fresh(&intent).await?;
    let mut odd = note(1, &lease, "quotes \" and ' and \\, a nul \0, a line\nbreak, Ünïcödé 🙂");
    (odd.elapsed, odd.acted) = (Duration::new(86_400, 123_456_789), Duration::new(1, 1));
    let lines = [doing(0, &lease), odd, note(2, &lease, &"long ".repeat(20_000))];
    trial.append(&lease, &lines).await?;
    let (theirs, read) = trial.ok(journal.read(&lease.run).await)?;
    trial.must(theirs == intent, "the intent is another")?;
    trial.must(read == lines, "the lines are others")?;
    trial.kept()
}

/// Once a higher epoch has saved a checkpoint, a lower one cannot.
pub async fn checkpoints_are_fenced(journal: &dyn Journal) -> Law {
    let trial = Trial::of("checkpoints_are_fenced", journal);
    let shelf = journal.shelf();
    let key = format!("{}/0.1", trial.run("first"));
    let noted = |at| trial.ok(Payload::of(&Noted { at }));
    trial.must(trial.ok(shelf.load(&key).await)?.is_none(), "a checkpoint was there before it was saved")?;
    trial.ok(shelf.save(&key, 3, noted(1)?).await)?;
    trial.ok(shelf.save(&key, 3, noted(2)?).await)?;
    trial.ok(shelf.save(&key, 4, noted(3)?).await)?;
    trial.refused(shelf.save(&key, 3, noted(4)?).await, Kind::Conflict, "a checkpoint of a lower epoch")?;
    trial.must(trial.ok(shelf.load(&key).await)? == Some(noted(3)?), "the checkpoint is another one")?;
    let other = trial.ok(journal.shelf().load(&format!("{key}0")).await)?;
    trial.must(other.is_none(), "another key has the same checkpoint")?;
    trial.kept()
}

async fn sealed(trial: &Trial<'_>, chunks: &[&[u8]]) -> std::result::Result<Artifact, Violation> {
    let mut writer = trial.ok(trial.journal.shelf().write("law/1").await)?;
    for chunk in chunks {
        trial.ok(writer.push(chunk).await)?;
    }
    trial.ok(writer.seal().await)
}

async fn bytes_of(journal: &dyn Journal, artifact: &Artifact) -> Result<Vec<u8>> {
    let mut reader = journal.shelf().read(artifact).await?;
    let mut bytes = vec![];
    while let Some(chunk) = reader.next().await? {
        bytes.extend(chunk);
    }
    Ok(bytes)
}

/// An artifact comes back whole, by its digest.
pub async fn artifact_comes_back(journal: &dyn Journal) -> Law {
    let trial = Trial::of("artifact_comes_back", journal);
    let long: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    for chunks in [&[][..], &[&b""[..]][..], &[trial.unique.as_bytes()][..], &[&b"a"[..], &long, b"z"][..]] {
        let expected = chunks.concat();
        let artifact = sealed(&trial, chunks).await?;
        trial.must(artifact.digest == Digest::of(&expected), "the digest is that of other bytes")?;
        trial.must(artifact.bytes == expected.len() as u64, "the size is that of other bytes")?;
        trial.must(artifact.kind == "law/1", "it is of another kind")?;
        for _ in 0..2 {
            trial.must(trial.ok(bytes_of(journal, &artifact).await)? == expected, "the bytes are others")?;
        }
        trial.must(sealed(&trial, chunks).await? == artifact, "the same bytes are another artifact")?;
    }
    trial.kept()
}

/// An artifact that was not sealed was never there.
pub async fn unsealed_artifact_was_never_there(journal: &dyn Journal) -> Law {
    let trial = Trial::of("unsealed_artifact_was_never_there", journal);
    let bytes = trial.unique.as_bytes();
    let mut writer = trial.ok(journal.shelf().write("law/1").await)?;
    trial.ok(writer.push(bytes).await)?;
    drop(writer);
    let artifact = Artifact { digest: Digest::of(bytes), bytes: bytes.len() as u64, kind: "law/1".into() };
    trial.refused(bytes_of(journal, &artifact).await, Kind::NotFound, "an artifact that was not sealed")?;
    let elsewhere = Artifact { digest: "sha256:../../etc/passwd".into(), ..artifact };
    trial.refused(bytes_of(journal, &elsewhere).await, Kind::NotFound, "a digest that is none")?;
    trial.kept()
}

/// A reader says so where the bytes are not those that were asked for.
pub async fn artifact_must_be_what_was_sealed(journal: &dyn Journal) -> Law {
    let trial = Trial::of("artifact_must_be_what_was_sealed", journal);
    let artifact = sealed(&trial, &[trial.unique.as_bytes()]).await?;
    for bytes in [artifact.bytes - 1, artifact.bytes + 1] {
        let other = Artifact { bytes, ..artifact.clone() };
        trial.refused(bytes_of(journal, &other).await, Kind::Invalid, "an artifact of another size")?;
    }
    trial.kept()
}
