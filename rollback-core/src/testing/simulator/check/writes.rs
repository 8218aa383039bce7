//! What was written: with an intent, a look before each attempt, above the floor, and never over a stranger.

use super::super::{log::PartStates, scenario::Order};
use super::{Answer, Judge, Sent, mentions, serving};
use crate::{
    Capacity, Change, Effect, OnUnknown, OrderedBy, PartMap, PartState, ReleaseId, RunId, Running, Settled, Support,
};
use std::time::Duration;

impl Judge<'_> {
    pub(super) fn send(&mut self, id: &RunId, key: &str, change: &Change) {
        let now = self.now;
        let scenario = self.scenario;
        let process = self.process();
        let (order, fenced, damaged, reads) = (process.order, process.fenced, process.damaged, process.reads);
        let last_read = process.last_read.clone();
        if order == Some(Order::Rehearsal) {
            self.broke(18, format!("{key} was sent in a rehearsal"));
        }
        if fenced {
            self.broke(2, format!("{key} was sent after the process was told that its lease is lost"));
        }
        if damaged {
            self.broke(16, format!("{key} was sent on a journal with a line missing"));
        }
        let policy = self.run(id).policy.clone();
        let has_the_word = policy.ordered_by == OrderedBy::Person && policy.irreversible;
        if !scenario.reversible && !has_the_word {
            self.broke(7, format!("{key} was sent, and going back may lose data"));
        }
        let run = self.run(id);
        if run.needs_approval && policy.approvals && !run.approved {
            self.broke(7, format!("{key} was sent without the approval that it needs"));
        }
        self.again(id, key, reads);
        self.frozen_before(id, key);
        self.floor(id, key, change, last_read.as_ref());
        self.strangers_were_read(id, key, last_read.as_ref());
        let life = self.life;
        let forgot = self.process().journal_failed;
        let run = self.run(id);
        run.known.extend(mentions(change));
        let unsaid = matches!(change, Change::Abort { expect: crate::Landing::Unsaid, .. });
        run.lands_anywhere |= unsaid;
        let unjournalled = !run.doing.contains_key(key) || (forgot && run.policy.journal == Support::IfThere);
        run.sent.entry(key.to_owned()).or_default().push(Sent { life, at: now, reads, unjournalled, answer: None });
        if unsaid {
            self.process().landed = None;
        }
    }

    /// The same write once more.
    pub(super) fn again(&mut self, id: &RunId, key: &str, reads: u64) {
        let (now, life) = (self.now, self.life);
        let on_unknown = self.scenario.on_unknown;
        let (forgot, began, adopted) = (self.process().journal_failed, self.process().started, self.process().began);
        let run = self.run(id);
        let confirmed = run.did.contains(key);
        let look = run.policy.look_again_for;
        let Some(last) = run.sent.get(key).and_then(|sent| sent.last()).cloned() else { return };
        // Without a journal, a process knows nothing of those before it.
        // One that is still at it although its lease is lost is a matter of invariant 2.
        let forgot = forgot && run.policy.journal == Support::IfThere;
        if last.life != life && (last.at >= began || last.unjournalled || forgot) {
            return;
        }
        if confirmed && !forgot {
            self.broke(9, format!("{key} was confirmed, and is sent again"));
        }
        if last.life == life && reads <= last.reads {
            self.broke(8, format!("{key} is sent again without a look in between"));
        }
        let lost = match last.answer {
            Some((_, Answer::Ok | Answer::NoEffect)) => return,
            // When another process that is still at it loses its answer, nobody hears. Whoever took over from it must have
            // looked since then for as long; that one's write has the token of an older read.
            Some((at, Answer::Unknown)) if last.life != life => at.min(adopted),
            Some((at, Answer::Unknown)) => at,
            None => last.at,
        };
        match on_unknown {
            OnUnknown::Again => {}
            OnUnknown::FindByKey | OnUnknown::Observe => {
                if now.saturating_sub(lost) < look {
                    self.broke(
                        8,
                        format!("{key} is sent again {:?} after its answer was lost", now.saturating_sub(lost)),
                    );
                }
            }
            OnUnknown::AskHuman => {
                self.broke(8, format!("{key} is sent again, and nobody can tell whether it happened"))
            }
        }
    }

    pub(super) fn floor(
        &mut self,
        id: &RunId,
        key: &str,
        change: &Change,
        read: Option<&(Duration, PartStates, bool)>,
    ) {
        if self.process().journal_failed && self.run(id).policy.journal == Support::IfThere {
            // Its plan is in no journal.
            return;
        }
        let rung = key.rsplit('/').next().and_then(|at| at.split('.').next()?.parse::<usize>().ok()).unwrap_or(0);
        let Some(plan) = self.run(id).plan.clone() else { return };
        let (Some(total), Some(rung)) = (plan.begins_at.serving_capacity(), plan.rungs.get(rung)) else { return };
        let needed = rung.floor.of(total);
        let (Some((_, parts, _)), Change::Reach(wishes)) = (read, change) else { return };
        let (before, mut after) = (serving(parts), (**parts).clone());
        for (part, wish) in &wishes.0 {
            let Some(state) = after.get_mut(part) else { continue };
            if wish.weight.is_some() {
                state.weight = wish.weight;
            }
            if let Some(Capacity::Exactly(n)) = wish.capacity {
                state.ready = state.ready.map(|ready| ready.min(n));
                state.capacity = Some(n);
            }
        }
        let left = serving(&after);
        if left < needed && left < before {
            self.broke(11, format!("{key} leaves {left} of {before} instances serving, and {needed} are the floor"));
        }
    }

    /// Where nothing fences, what somebody else did must at least not be written over once it was read.
    pub(super) fn strangers_were_read(&mut self, id: &RunId, key: &str, read: Option<&(Duration, PartStates, bool)>) {
        let Some((_, parts, _)) = read else { return };
        if let Some(stranger) = self.stranger(id, parts) {
            self.broke(6, format!("{key} was sent although {stranger} was read"));
        }
    }

    /// An abort that may land anywhere was seen to stand.
    pub(super) fn lands(&mut self, parts: &PartStates) {
        let Some(id) = self.process().run.clone() else { return };
        let run = self.run(&id);
        let suspect = run.suspect.clone();
        let stands = |part: &PartState| {
            part.settled == Settled::Yes && matches!(&part.running, Running::Release(r) if Some(r) != suspect.as_ref())
        };
        if run.lands_anywhere && parts.values().filter(|part| part.serves()).all(stands) {
            let on = parts.values().flat_map(|part| part.wanted.iter().chain(part.running.mentions())).cloned();
            self.process().landed.get_or_insert(on.collect());
        }
    }

    pub(super) fn stranger(&mut self, id: &RunId, parts: &PartMap<PartState>) -> Option<String> {
        let forgot = self.process().journal_failed;
        let landed = self.process().landed.clone();
        let run = self.run(id);
        run.plan.as_ref()?;
        if forgot && run.policy.journal == Support::IfThere {
            // Without a journal a process plans anew, and nobody sees the plan.
            return None;
        }
        parts.iter().find_map(|(part, state)| {
            let unknown = matches!(&state.running, Running::Unknown { .. }) && !run.found.contains(&state.running);
            let landing = |r: &ReleaseId| run.lands_anywhere && landed.as_ref().is_none_or(|on| on.contains(r));
            let strange = |r: &&ReleaseId| !run.known.contains(*r) && !landing(r);
            let other = state.wanted.iter().chain(state.running.mentions()).find(strange);
            match (unknown, other) {
                (true, _) => Some(format!("{part} with {}", state.running)),
                (false, Some(release)) => Some(format!("{part} with {release}")),
                (false, None) => None,
            }
        })
    }

    pub(super) fn answered(&mut self, key: &str, answer: &Result<crate::Applied, (crate::Kind, Effect)>) {
        let (now, life) = (self.now, self.life);
        let Some((run, _)) = key.rsplit_once('/') else { return };
        let answer = match answer {
            Ok(_) => Answer::Ok,
            Err((_, Effect::None)) => Answer::NoEffect,
            Err(_) => Answer::Unknown,
        };
        if let Some(sent) = self.run(&RunId::new(run)).sent.get_mut(key)
            && let Some(last) = sent.iter_mut().rev().find(|s| s.life == life)
        {
            last.answer = Some((now, answer));
        }
    }
}
