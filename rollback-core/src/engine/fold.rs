//! The durable state of a run: a fold of the lines that the journal acknowledged.

use crate::{
    Applied, Approved, At, Change, Chosen, Digest, Entry, Extent, Handle, Identity, Kind, Landing, Line, Mark, Outcome,
    Payload, Plan, ReleaseId, Timestamp, Wish,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What is lost where a gate is passed blindly begins so.
pub(super) const HEALTH_OF: &str = "health of ";

/// The current step's write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doing {
    /// It answered, or was seen to have happened.
    pub(super) done: bool,
    /// A part of it was done: it goes on from its checkpoint.
    pub(super) partial: Option<u64>,
    /// All of it, said by the platform, and it stands: what a verb is judged by.
    pub(super) stands: bool,
    /// How often it failed, or gave no answer.
    pub(super) tries: u8,
    /// Under which its intent was journalled.
    pub(super) epoch: u64,
}

/// Our last write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Last {
    /// Its step, which is in its key.
    pub(super) at: At,
    pub(super) handle: Option<Box<Handle>>,
    /// When its intent was journalled.
    pub(super) since: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fold {
    pub(super) identity: Option<Identity>,
    /// Where the run goes.
    pub(super) goal: Option<Arc<Chosen>>,
    pub(super) overridden: bool,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) prepared: Option<Vec<Arc<Approved>>>,
    pub(super) approvals: Vec<Digest>,
    /// What was asked for, until when.
    pub(super) freezing: BTreeMap<String, Option<Timestamp>>,
    /// What was answered; nothing, where it was given up.
    pub(super) froze: BTreeMap<String, Option<Payload>>,
    pub(super) tried: bool,
    pub(super) evidence: bool,
    /// Every change that was begun, so that a half-done one is known as ours.
    pub(super) begun: Vec<Change>,
    /// The release that the last write set, where that is not the one that was chosen: rungs may set others.
    pub(super) other: Option<ReleaseId>,
    pub(super) at: At,
    pub(super) doing: Option<Doing>,
    /// When the current step was begun for the first time.
    pub(super) step_since: Option<Duration>,
    pub(super) last: Option<Last>,
    /// A write was about to be sent.
    pub(super) wrote: bool,
    /// A write has had an effect, or may have had one.
    pub(super) touched: bool,
    /// A write was refused because something had changed: that may have been a copy of it, which came first.
    pub(super) conflicted: bool,
    /// Why nobody knows whether the last write happened.
    pub(super) unclear: Option<String>,
    pub(super) reached: Option<Duration>,
    pub(super) verifier: usize,
    pub(super) verify_since: Duration,
    /// A gate was told that something is unhealthy.
    pub(super) ill: bool,
    pub(super) lost: Vec<(String, String)>,
    pub(super) elapsed: Duration,
    pub(super) acted: Duration,
    pub(super) outcome: Option<Box<Outcome>>,
}

impl Fold {
    pub(super) fn take(&mut self, line: &Line) {
        self.elapsed = line.elapsed;
        self.acted = line.acted;
        match &line.entry {
            Entry::Identified(identity) => self.identity = Some(identity.clone()),
            Entry::Chose(chosen) => {
                self.goal = Some(chosen.clone());
                // Chosen again, because the first one turned out to be gone: all that was planned was for that one.
                self.plan = None;
                self.overridden = false;
                self.unprepare();
            }
            Entry::Overridden { .. } => self.overridden = true,
            Entry::Planned(plan) => self.plan = Some(plan.clone()),
            Entry::Prepared { approved, .. } => self.prepared = Some(approved.clone()),
            Entry::Approved { digest, .. } => self.approvals.push(digest.clone()),
            Entry::Freezing { name, until } => {
                self.freezing.insert(name.clone(), *until);
                self.froze.remove(name);
            }
            Entry::Froze { name, was, .. } => {
                self.froze.insert(name.clone(), was.as_deref().cloned());
            }
            Entry::FreezeUnclear { name, .. } => {
                self.froze.insert(name.clone(), None);
            }
            Entry::Tried { .. } => self.tried = true,
            Entry::EvidenceKept(_) => self.evidence = true,
            Entry::Doing { at, .. } => {
                self.begin(*at, line.elapsed);
                if let Some(change) = self.change(*at).cloned() {
                    if self.begun.is_empty() {
                        self.begun.reserve_exact(1);
                    }
                    self.begun.push(change);
                }
                self.last = Some(Last { at: *at, handle: None, since: line.elapsed });
                self.wrote = true;
                self.unclear = None;
                self.doing = Some(Doing { done: false, partial: None, stands: false, tries: 0, epoch: line.epoch });
            }
            Entry::Did { at, applied } => {
                let not_started = matches!(applied.extent, Extent::NotStarted { .. });
                self.touched |= !not_started;
                if !not_started {
                    self.set(*at);
                }
                self.did(applied);
            }
            Entry::Unclear { at, fault } => {
                self.set(*at);
                self.touched = true;
                self.unclear = Some(fault.to_string());
                if let Some(doing) = &mut self.doing {
                    doing.tries = doing.tries.saturating_add(1);
                }
            }
            Entry::NotDone { fault, .. } => {
                self.touched |= self.sent_before(line.epoch);
                self.conflicted |= fault.kind == Kind::Conflict;
                self.doing = None;
                if fault.kind == Kind::Stale {
                    self.unprepare();
                }
            }
            Entry::AlreadySo { at } => {
                // Where it was sent before, it may be so because of a copy that arrived all the same.
                self.touched |= self.last.as_ref().is_some_and(|last| last.at == *at);
                self.begin(*at, line.elapsed);
                self.set(*at);
                self.doing = Some(Doing { done: true, partial: None, stands: true, tries: 0, epoch: line.epoch });
            }
            Entry::Landed { on, .. } => {
                // From now on it is as good as a change to where it landed.
                let landed =
                    Change::reach(on.iter().map(|(part, release)| {
                        (part.clone(), Wish { release: Some(release.clone()), ..Wish::default() })
                    }));
                for change in self.begun.iter_mut().filter(|change| lands_anywhere(change)) {
                    change.clone_from(&landed);
                }
            }
            Entry::Unhealthy { .. } => self.ill = true,
            Entry::StepDone { at } => {
                self.at = At { rung: at.rung, step: at.step + 1 };
                self.doing = None;
                self.step_since = None;
            }
            Entry::Reached { .. } => {
                self.reached = Some(line.elapsed);
                self.verifier = 0;
                self.verify_since = line.elapsed;
            }
            Entry::Held { nth, .. } => {
                self.verifier = nth + 1;
                self.verify_since = line.elapsed;
            }
            Entry::RungFailed { rung, .. } => {
                // Whether its last write happened is not found out any more.
                self.touched = self.may_have_touched();
                self.at = At { rung: rung + 1, step: 0 };
                self.doing = None;
                self.step_since = None;
                self.reached = None;
                self.verifier = 0;
                self.unprepare();
            }
            Entry::Residue(_) | Entry::Marked(_) => {}
            Entry::Lost { what, why } => self.lost.push((what.clone(), why.clone())),
            Entry::Ended(outcome) => self.outcome = Some(outcome.clone()),
        }
    }

    /// A gate was passed although nobody could tell whether it is healthy.
    pub(super) fn went_on_blind(&self) -> bool {
        self.lost.iter().any(|(what, _)| what.starts_with(HEALTH_OF))
    }

    /// A change of ours that may still land on anything but the suspect.
    pub(super) fn is_up_in_the_air(&self) -> bool {
        self.begun.iter().any(lands_anywhere)
    }

    /// A step has set a release, or may have: the one that was chosen, or another.
    fn set(&mut self, at: At) {
        let Some(release) = self.change(at).and_then(Change::sets) else { return };
        let chosen = self.goal.as_ref().is_some_and(|goal| goal.wanted.id == *release);
        self.other = (!chosen).then(|| release.clone());
    }

    fn begin(&mut self, at: At, now: Duration) {
        if self.at != at {
            self.at = at;
            self.step_since = None;
        }
        self.step_since.get_or_insert(now);
    }

    fn did(&mut self, applied: &Applied) {
        if let Some(last) = &mut self.last {
            last.handle = applied.handle.clone().map(Box::new);
        }
        if let Some(identity) = &applied.new_identity {
            self.identity = Some(identity.clone());
        }
        let Some(doing) = &mut self.doing else { return };
        match applied.extent {
            Extent::Done => (doing.done, doing.stands) = (true, true),
            Extent::Submitted => doing.done = true,
            Extent::Partial { done, .. } => doing.partial = Some(done),
            Extent::NotStarted { .. } => {}
        }
    }

    fn unprepare(&mut self) {
        self.prepared = None;
        self.approvals.clear();
    }

    pub(super) fn change(&self, at: At) -> Option<&Change> {
        self.plan.as_ref()?.rungs.get(at.rung)?.steps.get(at.step).map(|step| &step.change)
    }

    /// Something may have been changed: by a write that was answered, whose answer was lost, or that is under way.
    pub(super) fn may_have_touched(&self) -> bool {
        self.touched || self.doing.as_ref().is_some_and(|doing| !doing.stands && !doing.done)
    }

    /// The write under way may have been sent by an earlier process of this run: that it had no effect when it is sent once
    /// more says nothing of that one.
    pub(super) fn sent_before(&self, epoch: u64) -> bool {
        self.doing.as_ref().is_some_and(|doing| doing.epoch != epoch)
    }

    /// Our last write, for a look at what became of it.
    pub(super) fn mark(&self, run: &crate::RunId, now: Duration) -> Option<Mark> {
        let last = self.last.as_ref()?;
        let mut mark = Mark::new(format!("{run}/{}", last.at));
        mark.handle = last.handle.as_deref().cloned();
        mark.change = self.change(last.at).cloned();
        mark.age = now.saturating_sub(last.since);
        Some(mark)
    }
}

fn lands_anywhere(change: &Change) -> bool {
    matches!(change, Change::Abort { expect: Landing::Unsaid, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    const AT: At = At { rung: 0, step: 0 };

    fn touched(lines: impl IntoIterator<Item = (u64, Entry)>) -> bool {
        let mut fold = Fold::default();
        for (seq, (epoch, entry)) in (0..).zip(lines) {
            fold.take(&Line::new(seq, epoch, Timestamp::default(), Duration::ZERO, Duration::ZERO, entry));
        }
        fold.may_have_touched()
    }
    fn doing() -> Entry {
        Entry::Doing { at: AT, approved: Digest::of(b"") }
    }
    fn not_done() -> Entry {
        let denied = Error::new(Kind::Denied, "write").without_effect().into_fault();
        Entry::NotDone { at: AT, fault: Box::new(denied) }
    }
    fn rung_failed() -> Entry {
        Entry::RungFailed { rung: 0, why: "the image is gone".into() }
    }

    #[test]
    fn what_an_earlier_process_may_have_sent_counts_although_it_is_refused_now() {
        assert!(touched([(1, doing()), (2, not_done())]));
        assert!(!touched([(1, doing()), (1, not_done())]));
    }

    #[test]
    fn a_write_without_an_outcome_counts_when_its_rung_is_over() {
        assert!(touched([(1, doing()), (1, rung_failed())]));
        assert!(!touched([(1, doing()), (1, not_done()), (1, rung_failed())]));
    }
}
