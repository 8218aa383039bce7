//! What to do next: a function of the state alone, so a resumed run needs no path of its own.

use super::{Flow, State};
use crate::{
    Entry, Lease, Look, Situation,
    engine::{ask::Ask, bug::Bug},
};
use std::{sync::Arc, time::Duration};

impl State {
    /// What to do is a function of the state alone, so a resumed run needs no path of its own.
    pub(super) fn next(&mut self) -> Ask {
        loop {
            match self.advance() {
                Flow::Ask(ask) => return ask,
                Flow::Again => {}
            }
        }
    }

    fn advance(&mut self) -> Flow {
        let Some(intent) = &self.intent else { return Flow::Ask(Ask::Sleep(Duration::ZERO)) };
        let (reply, deadline) = (intent.policy.reply_within, intent.policy.deadline);
        if let Some(time) = self.scratch.append_pause {
            return Flow::Ask(Ask::Sleep(time));
        }
        if self.unjournalled {
            let mut lines = self.unwritten();
            lines.iter_mut().for_each(|line| line.epoch = 0);
            self.count(lines);
        } else if self.scratch.look_first {
            return Flow::Ask(self.observe(reply));
        } else if let Some(lease) = &self.lease
            && !(self.outbox.is_empty() && self.sent.is_empty())
        {
            return Flow::Ask(self.append(lease.clone(), reply));
        }
        if let Some(outcome) = &self.fold.outcome {
            return Flow::Ask(Ask::Finish((**outcome).clone()));
        }
        if let Some(time) = self.scratch.sleep {
            return Flow::Ask(Ask::Sleep(time));
        }
        let Some(identity) = self.scratch.identity.clone() else { return Flow::Ask(Ask::Identify { within: reply }) };
        if self.lease.is_none()
            && !self.unjournalled
            && let Some(intent) = self.intent.clone()
        {
            return Flow::Ask(Ask::Begin { intent, within: reply });
        }
        match &self.fold.identity {
            None => {
                self.put(Entry::Identified(*identity));
                return Flow::Again;
            }
            Some(was) if *was != *identity && !self.has(Bug::IgnoreIdentity) => {
                let why = format!("this is {identity}, and the run began on {was}");
                self.refuse(why, "point the run at the same object, or give it up");
                return Flow::Again;
            }
            Some(_) => {}
        }
        if self.scratch.seen.is_none() {
            return Flow::Ask(self.observe(reply));
        }
        // After the look, so that whoever is told to finish by hand is also told how it is.
        if self.acted > deadline && self.fold.reached.is_none() {
            let mut why = format!("the deadline of {deadline:?} is over");
            for (what, last) in [
                ("the last write", self.fold.unclear.clone()),
                ("the last check", (!self.scratch.last_says.is_empty()).then(|| self.last_sample())),
                ("waited for", self.scratch.waiting.take().map(String::from)),
            ] {
                why.extend(last.map(|last| format!("; {what}: {last}")));
            }
            self.refuse(why, "mend what it waited for, or give it more time");
            return Flow::Again;
        }
        if self.fold.goal.is_none() || self.scratch.choose_again {
            return Flow::Ask(Ask::Past { within: reply });
        }
        let Some(plan) = &self.fold.plan else { return self.plan() };
        if self.fold.at.step >= plan.rungs.get(self.fold.at.rung).map_or(0, |r| r.steps.len()) {
            return self.verify();
        }
        if let Some(flow) = self.make_ready() {
            return flow;
        }
        self.carry_out()
    }

    fn append(&mut self, lease: Lease, within: Duration) -> Ask {
        let mut lines = self.unwritten();
        lines.iter_mut().for_each(|line| line.epoch = lease.epoch);
        self.sent = Arc::new(lines);
        Ask::Append { lease, lines: self.sent.clone(), within }
    }

    fn observe(&mut self, within: Duration) -> Ask {
        // Quick is enough to wait for what was sent; what a plan, a write or the end rests on is looked at in full.
        let done = self.scratch.look_first || self.fold.doing.as_ref().is_some_and(|d| d.done);
        let waiting = done || self.fold.reached.is_some();
        let quick = waiting && self.scratch.final_since.is_none();
        self.scratch.full = !quick;
        let run = self.intent.as_ref().map(|i| i.run.clone());
        let mark = run.and_then(|run| self.fold.mark(&run, self.elapsed));
        let look = if quick { Look::quick() } else { Look::full() };
        Ask::Observe { look: look.with_mark(mark), within }
    }

    fn plan(&self) -> Flow {
        let (Some(intent), Some(goal), Some(seen)) = (&self.intent, &self.fold.goal, &self.scratch.seen) else {
            return Flow::Again;
        };
        let mut situation = Situation::new(
            intent.target.clone(),
            self.capabilities.clone(),
            (**seen).clone(),
            goal.suspect.clone(),
            goal.wanted.clone(),
        );
        situation.floor = intent.policy.floor;
        Flow::Ask(Ask::Plan(Box::new(situation)))
    }
}
