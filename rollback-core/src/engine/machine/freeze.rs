//! Freezes, before the first write: intent, question, and what to do about a lost answer.
//!
//! Freezing is idempotent by run, so asking once more is safe, and the only way to learn what was there before. But it is
//! looked first whether it holds: where asking goes on failing, that is what the run ends with.

use super::{Flow, State};
use crate::{
    Effect, Entry, EventKind, Fault, Hold, Line, Payload, Support,
    engine::{ask::Ask, bug::Bug},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// As long as there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Freezing {
    /// Freezes that this process asked for, or went on asking for.
    own: Vec<String>,
    /// The last of them, as long as it has no answer.
    asking: Asking,
}

/// Of the freeze that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Asking {
    /// Look whether it holds before asking (again).
    look: bool,
    /// When an answer was lost the last time.
    unclear_at: Option<Duration>,
    /// Since when it fails.
    failing_since: Option<Duration>,
    /// How it failed the last time.
    fault: Option<Box<Fault>>,
    /// It was seen to hold when the time was over: asked once more, for what was there before.
    last: bool,
}

impl State {
    /// The next that is to be asked for: without an answer; or frozen by an earlier process and lapsed since, as long as
    /// nothing was written.
    pub(super) fn next_freeze(&self) -> Option<String> {
        let due = |name: &&String| match self.fold.froze.get(*name) {
            None => true,
            Some(None) => false,
            Some(Some(_)) => !self.fold.wrote && self.has_lapsed(name),
        };
        self.intent.as_ref()?.freezes.iter().find(due).cloned()
    }

    fn freezing(&mut self) -> &mut Freezing {
        self.scratch.freezing.get_or_insert_default()
    }
    fn asking(&mut self) -> &mut Asking {
        &mut self.freezing().asking
    }
    /// This process has.
    fn has_asked(&self, name: &str) -> bool {
        self.scratch.freezing.as_ref().is_some_and(|freezing| freezing.own.iter().any(|own| own == name))
    }

    /// It ran out while nobody drove the run.
    fn has_lapsed(&self, name: &str) -> bool {
        let until = self.fold.freezing.get(name).copied().flatten();
        !self.has_asked(name) && until.is_some_and(|until| until <= self.wall)
    }

    /// Its intent, a look whether it holds, or the question itself.
    pub(super) fn freeze(&mut self, name: String) -> Option<Flow> {
        let intent = self.intent.clone()?;
        let known = self.fold.freezing.get(&name).copied();
        let again = known.is_none() || self.has_lapsed(&name);
        if !self.has_asked(&name) {
            // An earlier process may have asked. Nobody at the glass can wait for a look.
            let unclear_at = known.map(|_| self.elapsed);
            let look = known.is_some() && intent.policy.freeze == Support::Must;
            *self.asking() = Asking { look, unclear_at, ..Asking::default() };
            self.freezing().own.push(name.clone());
        }
        if again {
            // Every attempt is told the same end, and it is what is journalled.
            let until = intent.policy.freeze_for.map(|time| self.wall.after(time));
            let intent = Entry::Freezing { name, until };
            if self.has(Bug::FreezeWithoutIntent) && !self.unjournalled {
                self.fold.take(&Line::new(self.seq, 0, self.wall, self.elapsed, self.acted, intent));
            } else {
                self.put(intent);
            }
            return Some(Flow::Again);
        }
        let within = intent.policy.reply_within;
        if self.asking().look {
            return Some(Flow::Ask(Ask::Held { name, within }));
        }
        let hold = Hold::new(intent.run.clone(), intent.target.clone(), intent.who.clone(), intent.why.clone());
        let hold = Box::new(hold.with_until(known.flatten()));
        Some(Flow::Ask(Ask::Freeze { name, hold, within }))
    }

    pub(super) fn froze(&mut self, was: Result<Payload, Fault>) {
        let Some(name) = self.next_freeze() else { return };
        let fault = match was {
            Ok(was) => {
                let until = self.fold.freezing.get(&name).copied().flatten();
                *self.asking() = Asking::default();
                return self.put(Entry::Froze { name, was: Some(Box::new(was)), until });
            }
            Err(fault) => fault,
        };
        let (now, lost) = (self.elapsed, fault.effect == Effect::Unknown && !self.has(Bug::LostFreezeIsNone));
        let asking = self.asking();
        asking.failing_since.get_or_insert(now);
        asking.fault = Some(Box::new(fault.clone()));
        if lost {
            asking.unclear_at = Some(now);
        }
        let unclear = asking.unclear_at.is_some();
        asking.look = unclear;
        match self.policy().freeze {
            Support::IfThere if unclear => self.unclear_freeze(name, fault),
            Support::IfThere => self.not_frozen(name, &fault),
            Support::Must if unclear || self.wants_to_freeze_again() => self.freeze_later(&fault),
            Support::Must => self.not_frozen(name, &fault),
        }
    }

    /// Who holds it: does this run?
    pub(super) fn held(&mut self, holds: Result<Vec<Hold>, Fault>) {
        let (Some(name), Some(run)) = (self.next_freeze(), self.intent.as_ref().map(|i| i.run.clone())) else { return };
        let (again, late) = (self.wants_to_freeze_again(), self.freezing_takes_long());
        let (now, patience) = (self.elapsed, self.policy().look_again_for);
        let asking = self.asking();
        let failed = asking.fault.as_deref().cloned();
        match (holds, failed) {
            (Ok(holds), Some(fault)) if holds.iter().any(|hold| hold.run == run) && asking.last => {
                let message = format!("{}; it holds, and what was there before is not known", fault.message);
                self.unclear_freeze(name, Fault { message, ..fault });
            }
            (Ok(holds), _) if again || holds.iter().any(|hold| hold.run == run) => {
                (asking.look, asking.last) = (false, !again);
            }
            // What was sent may still be on its way.
            (Ok(_), Some(fault))
                if fault.transient && asking.unclear_at.is_some_and(|at| now.saturating_sub(at) < patience) =>
            {
                self.freeze_later(&fault);
            }
            (Ok(_), Some(fault)) => self.not_frozen(name, &fault),
            (Err(fault), _) if fault.transient && !late => {
                asking.failing_since.get_or_insert(now);
                self.freeze_later(&fault);
            }
            // Whoever cannot tell who holds it may still be asked once more.
            (_, failed) if again => {
                asking.look = false;
                asking.fault = failed.map(Box::new);
            }
            (Err(fault), failed) => self.unclear_freeze(name, failed.unwrap_or(fault)),
            (Ok(_), None) => asking.look = false,
        }
    }

    /// It was not asked yet by this process, or not for long.
    fn wants_to_freeze_again(&self) -> bool {
        let fault = self.scratch.freezing.as_ref().and_then(|freezing| freezing.asking.fault.as_ref());
        fault.is_none_or(|fault| fault.transient && !self.freezing_takes_long())
    }

    fn freezing_takes_long(&self) -> bool {
        let since = self.scratch.freezing.as_ref().and_then(|freezing| freezing.asking.failing_since);
        since.is_some_and(|since| self.elapsed.saturating_sub(since) >= self.policy().reply_within)
    }

    fn freeze_later(&mut self, fault: &Fault) {
        self.events.push(EventKind::Waiting { why: fault.to_string() });
        self.scratch.sleep = Some(self.policy().poll);
    }

    /// For certain: there is nothing to lift.
    fn not_frozen(&mut self, name: String, fault: &Fault) {
        *self.asking() = Asking::default();
        if self.policy().freeze == Support::IfThere {
            self.lose(&format!("freeze {name}"), fault);
            return self.put(Entry::Froze { name, was: None, until: None });
        }
        let why = format!("{name} could not be frozen: {fault}");
        self.put(Entry::Froze { name, was: None, until: None });
        self.refuse(why, "freeze it by hand, and leave it out");
    }

    /// It may hold, and nobody knows: it counts as held until it is lifted.
    fn unclear_freeze(&mut self, name: String, fault: Fault) {
        *self.asking() = Asking::default();
        let why = format!("whether {name} is frozen is not known: {fault}");
        if self.policy().freeze == Support::IfThere {
            self.lose(&format!("freeze {name}"), &fault);
            return self.put(Entry::FreezeUnclear { name, fault: Box::new(fault) });
        }
        self.put(Entry::FreezeUnclear { name, fault: Box::new(fault) });
        self.refuse(
            why,
            "look whether it holds, and lift it (unfreeze does both); then freeze it by hand, and leave it out",
        );
    }
}
