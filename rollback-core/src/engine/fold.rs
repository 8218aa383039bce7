//! The durable state of a run: a fold of the lines that the journal acknowledged.

use crate::{
    Applied, Approved, At, Change, Chosen, Digest, Entry, Extent, Handle, Identity, Kind, Line, Mark, Outcome, Payload,
    Plan,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The current step's write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doing {
    /// It answered, or was seen to have happened.
    pub(super) done: bool,
    /// A part of it was done: it goes on from its checkpoint.
    pub(super) partial: Option<u64>,
    /// All of it, said by the platform, and it stands: what a verb is judged by.
    pub(super) stands: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fold {
    pub(super) identity: Option<Identity>,
    pub(super) chosen: Option<Chosen>,
    pub(super) overridden: bool,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) prepared: Option<Vec<Arc<Approved>>>,
    pub(super) approvals: Vec<Digest>,
    pub(super) freezing: Vec<String>,
    pub(super) froze: BTreeMap<String, Option<Payload>>,
    pub(super) tried: bool,
    pub(super) evidence: bool,
    /// Every change that was begun, so that a half-done one is known as ours.
    pub(super) begun: Vec<Change>,
    pub(super) at: At,
    pub(super) doing: Option<Doing>,
    /// When the current step was begun for the first time.
    pub(super) step_since: Option<Duration>,
    /// Our last write: key's step, handle, when.
    pub(super) last: Option<(At, Option<Handle>, Duration)>,
    /// A write was about to be sent.
    pub(super) wrote: bool,
    /// A write has had an effect, or may have had one.
    pub(super) touched: bool,
    /// Why nobody knows whether the last write happened.
    pub(super) unclear: Option<String>,
    pub(super) reached: Option<Duration>,
    pub(super) verifier: usize,
    pub(super) verify_since: Duration,
    pub(super) lost: Vec<(String, String)>,
    pub(super) elapsed: Duration,
    pub(super) acted: Duration,
    pub(super) outcome: Option<Outcome>,
}

impl Fold {
    pub(super) fn take(&mut self, line: &Line) {
        self.elapsed = line.elapsed;
        self.acted = line.acted;
        match &line.entry {
            Entry::Identified(identity) => self.identity = Some(identity.clone()),
            Entry::Chose { suspect, wanted, why, unverified } => {
                self.chosen = Some(Chosen {
                    suspect: suspect.clone(),
                    wanted: wanted.clone(),
                    why: why.clone(),
                    unverified: *unverified,
                    known_bad: false,
                });
            }
            Entry::Overridden { .. } => {
                self.overridden = true;
                if let Some(chosen) = &mut self.chosen {
                    chosen.known_bad = true;
                }
            }
            Entry::Planned(plan) => self.plan = Some(plan.clone()),
            Entry::Prepared { approved, .. } => self.prepared = Some(approved.clone()),
            Entry::Approved { digest, .. } => self.approvals.push(digest.clone()),
            Entry::Freezing { name } => self.freezing.push(name.clone()),
            Entry::Froze { name, was, .. } => {
                self.froze.insert(name.clone(), was.clone());
            }
            Entry::Tried { .. } => self.tried = true,
            Entry::EvidenceKept(_) => self.evidence = true,
            Entry::Doing { at, .. } => {
                self.begin(*at, line.elapsed);
                if let Some(change) = self.change(*at).cloned() {
                    self.begun.push(change);
                }
                self.last = Some((*at, None, line.elapsed));
                self.wrote = true;
                self.unclear = None;
                self.doing = Some(Doing { done: false, partial: None, stands: false });
            }
            Entry::Did { applied, .. } => {
                self.touched |= !matches!(applied.extent, Extent::NotStarted { .. });
                self.did(applied);
            }
            Entry::Unclear { fault, .. } => {
                self.touched = true;
                self.unclear = Some(fault.to_string());
            }
            Entry::NotDone { fault, .. } => {
                self.doing = None;
                if fault.kind == Kind::Stale {
                    self.unprepare();
                }
            }
            Entry::AlreadySo { at } => {
                self.begin(*at, line.elapsed);
                self.doing = Some(Doing { done: true, partial: None, stands: true });
            }
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

    fn begin(&mut self, at: At, now: Duration) {
        if self.at != at {
            self.at = at;
            self.step_since = None;
        }
        self.step_since.get_or_insert(now);
    }

    fn did(&mut self, applied: &Applied) {
        if let Some(last) = &mut self.last {
            last.1.clone_from(&applied.handle);
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

    /// Our last write, for a look at what became of it.
    pub(super) fn mark(&self, run: &crate::RunId, now: Duration) -> Option<Mark> {
        let (at, handle, since) = self.last.as_ref()?;
        let mut mark = Mark::new(format!("{run}/{at}"));
        mark.handle.clone_from(handle);
        mark.change = self.change(*at).cloned();
        mark.age = now.saturating_sub(*since);
        Some(mark)
    }
}
