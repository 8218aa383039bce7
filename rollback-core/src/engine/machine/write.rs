//! One step, until its write is done: intent, floor, and what to do about a lost answer.

use super::{Flow, State};
use crate::{
    Applied, At, Change, Effect, Entry, EventKind, Extent, Fault, Kind, Line, Observation, OnUnknown, Ours, Step,
    Trace, Weight,
    engine::{ask::Ask, bug::Bug, fold::Doing, judge},
};
use std::time::Duration;

impl State {
    pub(super) fn carry_out(&mut self) -> Flow {
        let (Some(step), Some(seen)) = (self.current().cloned(), self.scratch.seen.clone()) else { return Flow::Again };
        let satisfied = self.satisfied(&step.change, &seen);
        match self.fold.doing.clone() {
            None => {
                if !self.scratch.full {
                    self.scratch.seen = None;
                    return Flow::Again;
                }
                self.begin_step(self.fold.at, &step, &seen);
                Flow::Again
            }
            Some(doing) if !doing.done => self.write(&step, &seen, &doing, satisfied),
            Some(doing) => self.settle(&step, &seen, &doing, satisfied),
        }
    }

    pub(super) fn satisfied(&self, change: &Change, seen: &Observation) -> bool {
        if self.has(Bug::TrustWanted) { judge::told(change, seen) } else { judge::satisfied(change, seen) }
    }

    /// The intent of a step, or that it needs no write. Judged on a full look; the write itself rests on a later one.
    pub(super) fn begin_step(&mut self, at: At, step: &Step, seen: &Observation) {
        let given_up = self.scratch.given_up.take();
        if self.satisfied(&step.change, seen) {
            return self.put(Entry::AlreadySo { at });
        }
        if let Some(why) = given_up {
            return self.fail_rung(why);
        }
        if let Some(why) = self.below_floor(&step.change, seen) {
            let since = *self.scratch.unclear_since.get_or_insert(self.elapsed);
            if self.elapsed.saturating_sub(since) > step.settle_within {
                return self.fail_rung(why);
            }
            self.events.push(EventKind::Waiting { why });
            self.scratch.sleep = Some(self.policy().poll);
            return;
        }
        let Some(approved) = self.fold.prepared.as_ref().and_then(|p| p.get(at.step)) else { return };
        let approved = approved.digest();
        // However this run ends, and whoever ends it: with the first write the blame stands.
        if !self.fold.wrote
            && let Some(goal) = self.fold.goal.clone()
        {
            let blames = self.blames(goal.leaves());
            self.put(blames);
        }
        let entry = Entry::Doing { at, approved };
        if self.has(Bug::SkipIntent) && !self.unjournalled {
            let line = Line::new(self.seq, 0, self.wall, self.elapsed, self.acted, entry);
            self.fold.take(&line);
        } else {
            self.put(entry);
        }
        // Read once more: what that read shows is judged, and its token guards the write.
        self.scratch.seen = None;
        self.scratch.armed = true;
        self.scratch.unclear_since = None;
    }

    /// Capacity is only taken away while enough of it is really ready.
    pub(super) fn below_floor(&self, change: &Change, seen: &Observation) -> Option<String> {
        if self.has(Bug::SkipFloor) {
            return None;
        }
        let plan = self.fold.plan.as_ref()?;
        let floor = plan.rungs.get(self.fold.at.rung)?.floor;
        if floor == Weight::NONE {
            return None;
        }
        let needed = floor.of(plan.begins_at.serving_capacity()?);
        let left = judge::left_serving(change, seen)?;
        (left < needed).then(|| format!("only {left} ready instances would go on serving, and {needed} are the floor"))
    }

    /// The intent is durable, the outcome is not known.
    fn write(&mut self, step: &Step, seen: &Observation, doing: &Doing, satisfied: bool) -> Flow {
        let at = self.fold.at;
        if satisfied && doing.partial.is_none() {
            // Seen to have happened, before or behind a lost answer.
            self.put(Entry::Did { at, applied: Box::new(Applied::submitted()) });
            self.scratch.armed = false;
            return Flow::Again;
        }
        if !self.scratch.armed
            && seen.ours != Ours::Pending
            && let Some(why) = judge::hopeless(&step.change, seen)
        {
            // It was told to, and to tell it once more will not help.
            self.fail_rung(why);
            return Flow::Again;
        }
        if !self.scratch.armed && !self.has(Bug::BlindRetry) {
            let resumed = self.scratch.unclear_since.is_none();
            let since = *self.scratch.unclear_since.get_or_insert(self.elapsed);
            let patient = self.elapsed.saturating_sub(since) < self.policy().look_again_for;
            let told = judge::told(&step.change, seen);
            let on_unknown = self.capabilities.on_unknown(&step.change);
            let happened = match on_unknown {
                OnUnknown::Again => false,
                OnUnknown::FindByKey => matches!(seen.ours, Ours::Current | Ours::Complete),
                OnUnknown::Observe | OnUnknown::AskHuman => told || matches!(seen.ours, Ours::Current | Ours::Complete),
            };
            if happened {
                self.put(Entry::Did { at, applied: Box::new(Applied::submitted()) });
                return Flow::Again;
            }
            // What fails at once must not be sent as fast as it fails, and what goes on failing ever less often.
            let pause = self.policy().poll * (1 << doing.tries.saturating_sub(1).min(5));
            let passed = self.elapsed.saturating_sub(since);
            if on_unknown == OnUnknown::Again && !resumed && passed < pause && !self.patience_over(step) {
                return Flow::Ask(Ask::Sleep(self.policy().poll.min(pause - passed)));
            }
            if on_unknown != OnUnknown::Again && (patient || seen.ours == Ours::Pending) && !self.patience_over(step) {
                return Flow::Ask(Ask::Await(self.policy().poll));
            }
            if on_unknown == OnUnknown::AskHuman {
                let at = format!("{}: its answer was lost, and nobody can tell whether it happened", step.name);
                self.stuck(at, Some("look on the platform whether it happened".into()));
                return Flow::Again;
            }
        }
        if self.patience_over(step) && !self.scratch.armed {
            let why = self.fold.unclear.clone().unwrap_or_else(|| "no answer".into());
            self.fail_rung(format!(
                "{} was tried for {:?}, and whether it happened is not known: {why}",
                step.name, step.settle_within
            ));
            return Flow::Again;
        }
        // The floor is judged on the very read whose token guards the write.
        if let Some(why) = self.below_floor(&step.change, seen) {
            if self.patience_over(step) {
                self.fail_rung(why);
                return Flow::Again;
            }
            self.events.push(EventKind::Waiting { why });
            return Flow::Ask(Ask::Await(self.policy().poll));
        }
        let approved = self.fold.prepared.as_ref().and_then(|p| p.get(at.step)).cloned();
        let (Some(approved), Some(intent), Some(goal)) = (approved, &self.intent, &self.fold.goal) else {
            self.stuck("what was prepared is missing in the journal".into(), None);
            return Flow::Again;
        };
        let trace = Trace {
            run: intent.run.clone(),
            left: goal.suspect.clone(),
            reached: step.change.sets().or(self.fold.other.as_ref()).unwrap_or(&goal.wanted.id).clone(),
            at: self.wall,
        };
        // Whatever the answer is, it is read anew afterwards: nothing is held meanwhile.
        self.scratch.seen = None;
        Flow::Ask(Ask::Apply {
            at,
            approved,
            token: seen.token.clone(),
            trace: Box::new(trace),
            within: step.settle_within,
        })
    }

    /// Where the write says that it is done, and a look tells no less: then one look goes before the append, so that a step
    /// that stands at once costs one append, not two. A crash meanwhile is a crash before the outcome was durable; what a
    /// look could not bring back (a handle, an identity, that a verb was carried out) is never held back for it.
    fn may_look_first(&self, applied: &Applied) -> bool {
        let Some(step) = self.current() else { return false };
        applied.extent == Extent::Done
            && applied.handle.is_none()
            && applied.new_identity.is_none()
            && matches!(step.change, Change::Reach(_))
            && step.gates.iter().all(|gate| self.opens(gate, None))
            && self.capabilities.on_unknown(&step.change) != OnUnknown::AskHuman
            && !self.unjournalled
    }

    pub(super) fn patience_over(&self, step: &Step) -> bool {
        let since = self.fold.step_since.unwrap_or(self.elapsed);
        self.elapsed.saturating_sub(since) > step.settle_within
    }

    pub(super) fn applied(&mut self, applied: Result<Applied, Fault>) {
        let at = self.fold.at;
        self.scratch.armed = false;
        self.scratch.sampled = false;
        match applied {
            Ok(applied) => {
                self.scratch.unclear_since = None;
                let before = self.fold.doing.as_ref().and_then(|d| d.partial);
                let failed = match &applied.extent {
                    Extent::NotStarted { why } => Some(why.clone()),
                    Extent::Partial { done, of, reasons } if before.is_some_and(|b| *done <= b) => {
                        let why: Vec<_> = reasons.iter().map(|(why, n)| format!("{n} × {why}")).collect();
                        Some(format!("{done} of {of} done, and no further: {}", why.join(", ")))
                    }
                    Extent::Partial { .. } => {
                        // Goes on from its checkpoint, as long as it gets further.
                        self.scratch.armed = true;
                        None
                    }
                    Extent::Done | Extent::Submitted => None,
                };
                self.scratch.look_first = self.may_look_first(&applied);
                self.put(Entry::Did { at, applied: Box::new(applied) });
                if let Some(why) = failed {
                    self.fail_rung(why);
                }
            }
            Err(fault) if fault.effect == Effect::None || self.has(Bug::LostIsNone) => {
                let since = self.fold.step_since.unwrap_or(self.elapsed);
                let patience = self.current().map_or(Duration::ZERO, |step| step.settle_within);
                // A stale read gives a stale token: conflicts are retried by time, not by count.
                let again =
                    fault.transient || matches!(fault.kind, Kind::Conflict | Kind::Stale) || self.has(Bug::LostIsNone);
                let give_up = !again || self.elapsed.saturating_sub(since) > patience;
                let why = fault.to_string();
                // What had changed may be the doing of a copy that came first: that is looked for before it is said that nothing
                // was touched.
                let looks = give_up && fault.kind == Kind::Conflict;
                self.scratch.sleep = Some(self.policy().poll);
                self.scratch.unclear_since = None;
                self.put(Entry::NotDone { at, fault: Box::new(fault) });
                if looks {
                    self.scratch.given_up = Some(why);
                } else if give_up {
                    let epoch = self.lease.as_ref().filter(|_| !self.unjournalled).map_or(0, |lease| lease.epoch);
                    self.fail_rung_having(self.fold.touched || self.fold.sent_before(epoch), why);
                }
            }
            Err(fault) => {
                self.scratch.unclear_since = Some(self.elapsed);
                if self.has(Bug::LostIsDone) {
                    self.put(Entry::Did { at, applied: Box::new(Applied::done()) });
                } else {
                    self.put(Entry::Unclear { at, fault: Box::new(fault) });
                }
            }
        }
    }
}
