//! One step, once its write is done: it stands, and goes through its gates.

use super::{Flow, State};
use crate::{
    At, Change, Digest, Entry, EventKind, Gate, Kind, Observation, OrderedBy, Ours, Settled, Step,
    engine::{
        ask::Ask,
        bug::Bug,
        fold::{Doing, HEALTH_OF},
        judge,
    },
};
use std::time::Duration;

impl State {
    /// The write is done: wait until it stands, then go through the gates.
    pub(super) fn settle(&mut self, step: &Step, seen: &Observation, doing: &Doing, satisfied: bool) -> Flow {
        let satisfied = satisfied || (matches!(step.change, Change::Verb { .. }) && self.verb_stands(doing, seen));
        if seen.ours != Ours::Pending
            && let Some(why) = judge::hopeless(&step.change, seen)
        {
            self.fail_rung(why);
            return Flow::Again;
        }
        let poll = self.policy().poll;
        if !satisfied {
            self.scratch.held_since = None;
            if self.patience_over(step) {
                self.fail_rung(format!("{} did not settle within {:?}", step.name, step.settle_within));
                return Flow::Again;
            }
            self.events.push(EventKind::Waiting { why: waiting_for(step, seen) });
            return Flow::Ask(Ask::Await(poll));
        }
        if matches!(step.change, Change::Abort { .. }) && self.fold.is_up_in_the_air() && !self.has(Bug::ForgetLanding)
        {
            let on = judge::landed(seen);
            self.put(Entry::Landed { at: self.fold.at, on });
            return Flow::Again;
        }
        let gate = if self.has(Bug::SkipGate) { None } else { step.gates.get(self.scratch.gate).cloned() };
        let Some(gate) = gate else {
            self.step_done(seen);
            return Flow::Again;
        };
        self.gate(step, gate, seen, poll)
    }

    /// What the look shows that was taken before the outcome of the write was journalled: if the step stands, its outcome,
    /// its end and the intent of the next step are one append.
    pub(super) fn settle_at_once(&mut self) {
        let (Some(step), Some(seen)) = (self.current().cloned(), self.scratch.seen.clone()) else { return };
        let open = step.gates.iter().all(|gate| self.opens(gate, Some(&seen)));
        if open && !self.is_ending() && self.satisfied(&step.change, &seen) {
            self.step_done(&seen);
        }
    }

    /// It opens by this look, or, before there is one, may do so: nothing else is to be asked or waited for.
    pub(super) fn opens(&self, gate: &Gate, seen: Option<&Observation>) -> bool {
        match gate {
            Gate::Ready { part, at_least } => {
                seen.is_none_or(|seen| seen.parts.get(part).and_then(|p| p.ready).is_some_and(|n| n >= *at_least))
            }
            Gate::Healthy { .. } => self.intent.as_ref().is_none_or(|i| i.health.is_none()),
            Gate::Pause(_) | Gate::Approval { .. } => false,
        }
    }

    fn verb_stands(&self, doing: &Doing, seen: &Observation) -> bool {
        doing.stands || matches!(seen.ours, Ours::Complete)
    }

    fn gate(&mut self, step: &Step, gate: Gate, seen: &Observation, poll: Duration) -> Flow {
        let since = *self.scratch.gate_since.get_or_insert(self.elapsed);
        let passed = self.elapsed.saturating_sub(since);
        let over = passed > step.gates_within;
        let holds = match &gate {
            Gate::Ready { .. } => self.opens(&gate, Some(seen)),
            Gate::Pause(time) => {
                let since = *self.scratch.held_since.get_or_insert(self.elapsed);
                let left = time.saturating_sub(self.elapsed.saturating_sub(since));
                if !left.is_zero() {
                    self.events.push(EventKind::Waiting { why: format!("{}: a pause of {time:?}", step.name) });
                    return Flow::Ask(Ask::Sleep(left));
                }
                true
            }
            Gate::Approval { of } => {
                let run = self.intent.as_ref().map(|i| i.run.to_string()).unwrap_or_default();
                let digest = Digest::of(format!("{run}/{}/{of}", self.fold.at).as_bytes());
                if !self.fold.approvals.contains(&digest) {
                    self.scratch.asking = Some(digest.clone());
                    let (of, within) = (vec![of.clone()], self.policy().approval_within);
                    return Flow::Ask(Ask::Approve { digest, of, within });
                }
                true
            }
            Gate::Healthy { part, hold } => {
                if self.opens(&gate, Some(seen)) {
                    true
                } else if self.scratch.sampled {
                    self.scratch.held_since.is_some_and(|held| self.elapsed.saturating_sub(held) >= *hold)
                } else {
                    let written = self.fold.last.as_ref().map_or(Duration::ZERO, |last| last.since);
                    let since = self.elapsed.saturating_sub(written);
                    return Flow::Ask(Ask::Check { part: part.clone(), since, within: self.policy().check_within });
                }
            }
        };
        // That nobody can tell does not keep a person from going on: not long at the glass, nor where it was said before in
        // this run; else when the time of the gate is over. That once it was unhealthy does.
        let blind = self.scratch.last_says == "unknown" && !self.fold.ill && matches!(gate, Gate::Healthy { .. });
        let policy = self.policy();
        let soon = policy.take_over || self.fold.went_on_blind();
        let waited = if soon { passed >= policy.reply_within.min(step.gates_within) } else { over };
        let gone_on = blind && waited && policy.ordered_by == OrderedBy::Person;
        if gone_on && let Gate::Healthy { part, .. } = &gate {
            let what = format!("{HEALTH_OF}{part} after {}", step.name);
            let unknown = crate::Error::new(Kind::Unavailable, "tell whether it is healthy");
            self.lose(&what, unknown.with_message(self.last_sample()).fault());
        }
        if holds || gone_on {
            self.scratch.gate += 1;
            (self.scratch.held_since, self.scratch.sampled) = (None, false);
            self.scratch.last_says.clear();
            return Flow::Again;
        }
        // A hold that began in time may end late.
        let holding = matches!(gate, Gate::Healthy { .. }) && self.scratch.held_since.is_some();
        if over && !holding {
            let why = match &gate {
                Gate::Ready { part, at_least } => format!("{part} did not get {at_least} instances ready"),
                Gate::Healthy { part, .. } => format!("{part} did not get healthy: {}", self.last_sample()),
                _ => "a gate did not open".into(),
            };
            self.fail_rung(format!("{}: {why} within {:?}", step.name, step.gates_within));
            return Flow::Again;
        }
        let why = match &gate {
            Gate::Ready { part, at_least } => {
                let state = seen.parts.get(part);
                let ready = state.and_then(|state| state.ready).unwrap_or_default();
                let why = match state.map(|state| &state.settled) {
                    Some(Settled::NotYet { why } | Settled::Never { why }) => format!(": {why}"),
                    Some(Settled::Yes) | None => String::new(),
                };
                Some(format!("{ready} of {at_least} instances of {part} are ready{why}"))
            }
            Gate::Healthy { part, hold } if holding => Some(format!("{part} is to stay healthy for {hold:?}")),
            // What keeps it from being healthy, its samples say.
            _ => None,
        };
        self.events.extend(why.map(|why| EventKind::Waiting { why: format!("{}: {why}", step.name) }));
        let ask = if matches!(gate, Gate::Ready { .. }) { Ask::Await } else { Ask::Sleep };
        Flow::Ask(ask(poll))
    }

    /// Where it can, the intent of the next step goes into the same append.
    fn step_done(&mut self, seen: &Observation) {
        let at = self.fold.at;
        self.fresh_step();
        self.put(Entry::StepDone { at });
        let next = At { rung: at.rung, step: at.step + 1 };
        let step = self.fold.plan.as_ref().and_then(|p| p.rungs.get(next.rung)?.steps.get(next.step)).cloned();
        match step {
            None => {
                self.put(Entry::Reached { rung: at.rung });
                self.scratch.seen = None;
            }
            Some(step) if self.below_floor(&step.change, seen).is_none() => self.begin_step(next, &step, seen),
            Some(_) => self.scratch.seen = None,
        }
    }
}

fn waiting_for(step: &Step, seen: &Observation) -> String {
    let why = seen.parts.iter().find_map(|(id, part)| match &part.settled {
        Settled::NotYet { why } => Some(format!("{id}: {why}")),
        _ => None,
    });
    let progress = seen.progress.map(|p| format!(", {p} done")).unwrap_or_default();
    match why {
        Some(why) => format!("{}: {why}{progress}", step.name),
        None => format!("{} to settle{progress}", step.name),
    }
}
