//! What answers mean: each is taken into the state. The answers of the journal are here; the others are handed on.

use super::{
    Scratch, State,
    sample::{said_health, said_verdict},
};
use crate::{
    Begun, Entry, EventKind, Fault, Intent, Kind, Lease, Line, Support,
    engine::{ask::Answer, bug::Bug, fold::Fold, scrub::scrub},
};
use std::sync::Arc;

impl State {
    pub(super) fn absorb(&mut self, mut answer: Answer) {
        if !self.has(Bug::KeepSecrets) {
            scrub(&mut answer);
        }
        if !matches!(&answer, Answer::Woke | Answer::Start(_)) && !is_failure(&answer) {
            (self.scratch.failing_since, self.scratch.waiting) = (None, None);
        }
        let looked_first = std::mem::take(&mut self.scratch.look_first);
        match answer {
            Answer::Start(intent) => {
                if intent.policy.dry_run {
                    // It changes nothing, so it needs no lock; and nobody must adopt it as if it were the real thing.
                    self.unjournalled = true;
                }
                self.intent = Some(intent);
            }
            Answer::Identified(Ok(identity)) => self.scratch.identity = Some(Box::new(identity)),
            Answer::Identified(Err(fault)) => {
                if !self.try_again(&fault) {
                    self.unjournalled = true;
                    let lift = match fault.kind {
                        Kind::Unavailable => "make the target reachable, and check that it is the right one",
                        _ => "mend what the first line names, and check that it is the right target",
                    };
                    self.refuse(fault.to_string(), lift);
                }
            }
            Answer::Begun(begun) => self.begun(begun),
            Answer::Appended(Ok(())) => self.appended(),
            Answer::Appended(Err(fault)) => self.not_appended(&fault),
            // A run whose end was taken down has no lease any more: the append that is tried again tells.
            Answer::Fenced(_) if self.is_ending() => {}
            Answer::Fenced(_) => self.fenced(),
            Answer::Observed(Ok(seen)) => {
                self.observed(Arc::new(seen));
                if looked_first {
                    self.settle_at_once();
                }
            }
            Answer::Observed(Err(fault)) => {
                // The outcome of the write comes first; the next look will tell.
                if !looked_first && !self.try_again(&fault) {
                    let lift = match fault.kind {
                        Kind::Unavailable => "make the target observable again",
                        _ => "mend what the first line names, then run it again",
                    };
                    self.refuse(fault.to_string(), lift);
                }
            }
            Answer::Past(past, lost) => self.recall(past, &lost),
            Answer::Planned(plan) => self.planned(plan),
            Answer::Prepared(prepared) => self.prepared(prepared),
            Answer::Approval(approval) => self.approval(approval),
            Answer::Froze(was) => self.froze(was),
            Answer::Held(holds) => self.held(holds),
            Answer::Tried(verdict) => self.sampled("trial", verdict.map(said_verdict)),
            Answer::Evidence(kept, lost) => {
                if let Some(fault) = lost {
                    self.lose("evidence", &fault);
                }
                self.put(Entry::EvidenceKept(kept));
            }
            Answer::Applied(applied) => self.applied(applied),
            Answer::Checked(health) => self.sampled("health", health.map(said_health)),
            Answer::Verified(verdict) => {
                let name = self.intent.as_ref().and_then(|i| i.verifiers.get(self.fold.verifier)).map(|v| v.0.clone());
                self.sampled(&name.unwrap_or_default(), verdict.map(said_verdict));
            }
            Answer::Woke => {
                if self.scratch.append_pause.take().is_none() {
                    self.scratch.sleep = None;
                    self.scratch.sampled = false;
                    self.scratch.seen = None;
                }
            }
        }
    }

    fn begun(&mut self, begun: Result<Begun, Fault>) {
        let policy = self.policy();
        match begun {
            Ok(Begun::Fresh { lease, .. }) => {
                self.lease = Some(lease);
                if let Some(intent) = self.intent.clone() {
                    self.events.push(EventKind::Began { intent, adopted: None });
                }
            }
            Ok(Begun::Adopted { lease, intent, lines }) => {
                if !self.has(Bug::AdoptWithoutEpoch) {
                    self.lease = Some(lease);
                } else {
                    let epoch = lines.last().map_or(lease.epoch, |line| line.epoch);
                    self.lease = Some(Lease { epoch, ..lease });
                }
                self.adopt(Arc::from(intent), &lines);
            }
            Ok(Begun::Over { intent, lines }) => {
                self.unjournalled = true;
                self.adopt(Arc::from(intent), &lines);
            }
            Ok(Begun::Busy { run, .. }) if self.began_unanswered(&run) => self.scratch.sleep = Some(policy.poll),
            Ok(Begun::Busy { run, who, since }) => {
                self.unjournalled = true;
                self.refuse(
                    format!("{who} is at it since {since} (run {run})"),
                    "wait for that run, or break the glass to take it over",
                );
            }
            Err(fault) if policy.journal == Support::IfThere => {
                self.unjournalled = true;
                self.lose_ledger("journal and lock", &fault);
                if let Some(intent) = self.intent.clone() {
                    self.events.push(EventKind::Began { intent, adopted: None });
                }
            }
            Err(fault) => {
                self.scratch.unanswered.get_or_insert(self.elapsed);
                if !self.try_again(&fault) {
                    self.unjournalled = true;
                    self.refuse(fault.to_string(), "repair the journal, or break the glass");
                }
            }
        }
    }

    /// Whoever holds the lock may be we ourselves, by a `begin` whose answer was lost: its lease runs out.
    fn began_unanswered(&self, run: &crate::RunId) -> bool {
        let Some(intent) = self.intent.as_ref().filter(|intent| intent.run == *run) else { return false };
        let patience = intent.policy.lease + intent.policy.reply_within;
        self.scratch.unanswered.is_some_and(|since| self.elapsed.saturating_sub(since) < patience)
    }

    fn adopt(&mut self, intent: Arc<Intent>, lines: &[Line]) {
        self.unwritten();
        self.fold = Fold::default();
        for (i, line) in lines.iter().enumerate() {
            if line.seq != i as u64 {
                self.unjournalled = true;
                self.refuse(
                    format!("the journal of run {} has a gap before line {}", intent.run, line.seq),
                    "repair the journal, or break the glass",
                );
                return;
            }
            self.fold.take(line);
        }
        self.seq = lines.len() as u64;
        if !self.has(Bug::ForgetSpent) {
            self.elapsed = self.fold.elapsed;
            self.acted = self.fold.acted;
        }
        self.events.push(EventKind::Began { intent: intent.clone(), adopted: Some(self.seq) });
        let brought = self.intent.replace(intent);
        let identity = self.scratch.identity.take();
        self.scratch = Scratch { identity, adopted: true, ..Scratch::default() };
        if let Some(brought) = brought.filter(|_| self.fold.outcome.is_none()) {
            self.compare(&brought);
        }
    }

    /// What this program brought, against what the adopted run was begun with. What is missing keeps it from going on, and
    /// leaves it unfinished; what is only called otherwise is said.
    fn compare(&mut self, brought: &Intent) {
        let Some(began) = self.intent.clone() else { return };
        let frozen = |name: &String| self.fold.froze.contains_key(name);
        let mut missing: Vec<String> = began
            .freezes
            .iter()
            .filter(|f| !frozen(f) && !brought.freezes.contains(f))
            .map(|f| format!("freeze {f}"))
            .collect();
        missing.extend(
            began
                .verifiers
                .iter()
                .enumerate()
                .filter(|(nth, _)| *nth >= self.fold.verifier.max(brought.verifiers.len()))
                .map(|(_, (name, _))| format!("verifier {name}")),
        );
        missing.extend(
            began.health.iter().filter(|_| brought.health.is_none()).map(|name| format!("health check {name}")),
        );
        let trial = began.trial.iter().filter(|_| brought.trial.is_none() && !self.fold.tried);
        missing.extend(trial.map(|trial| format!("trial {}", trial.0)));
        if !missing.is_empty() {
            self.unjournalled = true;
            return self.refuse(
                format!("run {} was left unfinished, and this program lacks its {}", began.run, missing.join(", ")),
                "run the program that began it; or give that run up; or break the glass",
            );
        }
        let verifiers = began.verifiers.iter().zip(&brought.verifiers).map(|(was, is)| ("verifier", &was.0, &is.0));
        let health = began.health.iter().zip(&brought.health).map(|(was, is)| ("health check", was, is));
        let strategy =
            [("strategy", &began.strategy, &brought.strategy)].into_iter().filter(|_| self.fold.plan.is_none());
        // Whoever asks for this run by its id knows what it was begun with.
        let anew = brought.run != began.run;
        let blames = |intent: &Intent| intent.suspect.as_ref().map_or("whatever serves".into(), ToString::to_string);
        let orders = [
            ("leave", blames(&began), blames(brought)),
            ("go back to", format!("{:?}", began.choose), format!("{:?}", brought.choose)),
        ];
        let orders = orders.into_iter().filter(|(_, was, is)| anew && was != is).map(|(what, was, is)| {
            let why = format!(
                "run {} was left unfinished, and it is gone on with as it was begun, to {what} {was}. Once it has ended, \
                 or is given up, order it again",
                began.run
            );
            (format!("order to {what} {is}"), why)
        });
        let others: Vec<(String, String)> = verifiers
            .chain(health)
            .chain(strategy)
            .filter(|(_, was, is)| was != is)
            .map(|(what, was, is)| {
                (format!("{what} {was}"), format!("this program has {is} in its place, and goes on with it"))
            })
            .chain(orders)
            .collect();
        for (what, why) in others {
            self.events.push(EventKind::Lost { what: what.clone(), why: why.clone() });
            self.put(Entry::Lost { what, why });
        }
    }

    fn appended(&mut self) {
        let lines = Arc::unwrap_or_clone(std::mem::take(&mut self.sent));
        self.count(lines);
    }

    /// These lines count now.
    pub(super) fn count(&mut self, lines: Vec<Line>) {
        self.seq += lines.len() as u64;
        for line in lines {
            self.fold.take(&line);
            self.events.push(EventKind::Journalled(Box::new(line)));
        }
    }

    fn not_appended(&mut self, fault: &Fault) {
        self.outbox = self.unwritten();
        if fault.kind == Kind::Conflict {
            return self.fenced();
        }
        if self.policy().journal == Support::IfThere {
            self.unjournalled = true;
            return self.lose("journal", fault);
        }
        let policy = self.policy();
        let since = *self.scratch.failing_since.get_or_insert(self.elapsed);
        if fault.transient && self.elapsed.saturating_sub(since) < policy.reply_within {
            self.events.push(EventKind::Waiting { why: fault.to_string() });
            self.scratch.append_pause = Some(policy.poll);
            return;
        }
        // The run stays unfinished in the journal, so the same call goes on where it stopped.
        self.unjournalled = true;
        self.unwritten();
        let why = format!("{fault}; what has been done until now stands in the journal");
        let lift = "repair the journal and run the same call again, or break the glass";
        if self.fold.wrote {
            // Whoever adopted the run meanwhile may have changed something, even if nothing of ours had an effect.
            self.stuck(why, Some(lift.into()));
        } else {
            self.refuse(why, lift);
        }
    }
}

fn is_failure(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Identified(Err(_))
            | Answer::Begun(Err(_))
            | Answer::Appended(Err(_))
            | Answer::Observed(Err(_))
            | Answer::Past(Err(_), _)
            | Answer::Prepared(Err(_))
            | Answer::Approval(Err(_))
            | Answer::Froze(Err(_))
            | Answer::Held(Err(_))
    )
}
