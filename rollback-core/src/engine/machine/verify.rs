//! All steps are done: did it help? The last look, and the end of a run that reached its release.

use super::{Flow, State, sample::Sampling};
use crate::{
    Entry, Outcome,
    engine::{ask::Ask, bug::Bug, judge},
};

impl State {
    pub(super) fn verify(&mut self) -> Flow {
        let Some(intent) = &self.intent else { return Flow::Again };
        if self.fold.reached.is_none() {
            let rung = self.fold.at.rung;
            self.put(Entry::Reached { rung });
            return Flow::Again;
        }
        let nth = self.fold.verifier;
        let Some((name, window)) = intent.verifiers.get(nth).cloned().filter(|_| !self.has(Bug::SkipVerify)) else {
            return self.finish();
        };
        let verifiers = intent.verifiers.len();
        match self.window(window, self.fold.verify_since) {
            Sampling::Held => {
                let evidence = std::mem::take(&mut self.scratch.last_sample);
                self.fresh_step();
                // What comes next looks anew: the next sample, or the last look.
                self.scratch.seen = None;
                if nth + 1 >= verifiers {
                    self.scratch.final_since = Some(self.elapsed);
                }
                self.put(Entry::Held { nth, evidence });
                Flow::Again
            }
            Sampling::Over => {
                let why = format!("{name}: {}", self.last_sample());
                self.not_helped(why);
                Flow::Again
            }
            Sampling::Sleep(time) => Flow::Ask(Ask::Sleep(time)),
            Sampling::Sample => {
                let within = self.policy().check_within;
                let since = self.elapsed.saturating_sub(self.fold.verify_since);
                Flow::Ask(Ask::Verify { nth, since, within })
            }
        }
    }

    fn not_helped(&mut self, why: String) {
        let last = self.is_last_rung();
        if last {
            self.leave_residue();
            self.end(Outcome::NotRecovered { why });
        } else {
            self.fail_rung(why);
        }
    }

    /// One full look at the end: whatever the verifiers said, a suspect that still serves is no recovery.
    fn finish(&mut self) -> Flow {
        let since = *self.scratch.final_since.get_or_insert(self.elapsed);
        if !self.scratch.full {
            self.scratch.seen = None;
            return Flow::Again;
        }
        let (Some(seen), Some(goal)) = (&self.scratch.seen, &self.fold.goal) else { return Flow::Again };
        let wrong = judge::still_serves(&goal.suspect, seen)
            .or_else(|| judge::serves_elsewhere(&goal.wanted.id, &self.fold.begun, seen))
            .or_else(|| judge::serves_hopelessly(seen));
        if let Some(why) = wrong.filter(|_| !self.has(Bug::TrustWanted)) {
            // The read may be a stale one.
            if self.elapsed.saturating_sub(since) < self.policy().reply_within {
                return Flow::Ask(Ask::Await(self.policy().poll));
            }
            self.scratch.final_since = None;
            self.not_helped(why);
            return Flow::Again;
        }
        self.leave_residue();
        self.end(Outcome::Recovered);
        Flow::Again
    }

    fn leave_residue(&mut self) {
        let (Some(plan), Some(seen)) = (&self.fold.plan, &self.scratch.seen) else { return };
        let residue = judge::residue(plan, self.fold.at.rung, seen);
        if !residue.is_empty() {
            self.put(Entry::Residue(residue));
        }
    }
}
