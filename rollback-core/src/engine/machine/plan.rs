//! Answers that make a rung ready: the plan, what was prepared, approvals. Not here: freezes (see `freeze`).

use super::State;
use crate::{Approved, At, Change, Entry, Fault, Finding, Kind, Outcome, Severity, engine::bug::Bug};
use std::sync::Arc;

impl State {
    pub(super) fn planned(&mut self, plan: Result<crate::Plan, crate::Unplannable>) {
        let (Some(goal), Some(intent)) = (&self.fold.goal, &self.intent) else { return };
        let mut plan = match plan {
            Ok(plan) => plan,
            Err(no) => return self.refuse(no.to_string(), "another strategy, or a ladder with one more rung"),
        };
        if plan.target != intent.target || plan.suspect != goal.suspect || plan.wanted != goal.wanted.id {
            return self.refuse("the strategy planned something else than it was asked", "mend the strategy");
        }
        let unsupported = plan
            .rungs
            .iter()
            .flat_map(|r| &r.steps)
            .find(|s| !self.capabilities.supports(&s.change))
            .map(|s| s.name.clone());
        if let Some(name) = unsupported {
            return self.refuse(format!("the target cannot: {name}"), "another strategy");
        }
        if !self.has(Bug::SkipFloor)
            && let Some((step, left)) = plan.below_floor()
        {
            let why = format!("{} would leave {left} instances serving, below the floor", step.name);
            return self.refuse(why, "another strategy, or a lower floor");
        }
        // What a run that was taken over has done already is still to be verified.
        if plan.is_nothing() && !self.scratch.goes_on {
            return self.end(Outcome::NothingToDo);
        }
        plan.shrink();
        let only_verifies = plan.is_nothing();
        self.put(Entry::Planned(Arc::new(plan)));
        if only_verifies && self.policy().dry_run && !self.has(Bug::DryRunWrites) {
            self.end(Outcome::Rehearsed);
        }
    }

    pub(super) fn prepared(&mut self, prepared: Result<crate::Prepared, Fault>) {
        match prepared {
            Ok(prepared) => {
                let blocks = prepared.findings.iter().find(|f| f.severity == Severity::Blocks);
                if let Some(finding) = blocks {
                    let why = format!("{} ({})", finding.text, finding.code);
                    return self.unpreparable(why, "mend what the first line names, then order it again");
                }
                self.scratch.preparing.push(Arc::new(prepared.approved));
                for finding in prepared.findings {
                    // What holds of the target holds of each of its steps.
                    if !self.scratch.findings.contains(&finding) {
                        self.scratch.findings.push(finding);
                    }
                }
                let rung = self.fold.at.rung;
                let steps = self.fold.plan.as_ref().and_then(|p| p.rungs.get(rung)).map_or(0, |r| r.steps.len());
                if self.scratch.preparing.len() >= steps {
                    let approved = std::mem::take(&mut self.scratch.preparing);
                    let mut findings = std::mem::take(&mut self.scratch.findings);
                    findings.extend(self.in_the_way(&approved));
                    self.put(Entry::Prepared { rung, approved, findings: findings.into() });
                }
            }
            Err(fault) if fault.kind == Kind::NotFound && self.choose_another(&fault) => {}
            Err(mut fault) => {
                // Somebody was at it between two of its reads, or a late write of ours was: made ready again, it reads anew.
                fault.transient |= fault.kind == Kind::Conflict;
                if self.try_again(&fault) {
                    return;
                }
                // What is not there, or cannot be done here, keeps from this way only. What is not allowed keeps from all.
                if !self.is_last_rung() && matches!(fault.kind, Kind::NotFound | Kind::Unsupported) {
                    return self.fail_rung(fault.to_string());
                }
                self.unpreparable(fault.to_string(), "mend what the first line names, or name another release");
            }
        }
    }

    /// What a dry run does not meet, and the rollback itself would.
    fn in_the_way(&self, approved: &[Arc<Approved>]) -> Vec<Finding> {
        let policy = self.policy();
        let mut found = vec![];
        if !policy.dry_run {
            return found;
        }
        let of = self.needs(approved);
        if !of.is_empty() {
            found.push(Finding::new(Severity::Warning, "approval", format!("it takes an approval: {}", of.join("; "))));
        }
        if let Some(run) = &self.scratch.unfinished {
            let meets = match (policy.take_over, &run.driven_by) {
                (true, _) => "it would be taken over".to_owned(),
                (false, Some(who)) => format!("{who} is at it, and until it has ended this one would be refused"),
                (false, None) => "it would be gone on with as it was begun, in place of this one".to_owned(),
            };
            let run = format!("run {}, which {} ordered at {}, has not ended: {meets}", run.run, run.who, run.began);
            found.push(Finding::new(Severity::Warning, "unfinished", run));
        }
        found
    }

    /// What the ledger knows, or history showed, may be gone by now. Unless it was asked for by name, the next best is
    /// chosen, as long as nothing was touched.
    fn choose_another(&mut self, fault: &Fault) -> bool {
        let (Some(goal), Some(intent)) = (&self.fold.goal, &self.intent) else { return false };
        let named = matches!(intent.choose, crate::Choose::Exactly(_)) || self.scratch.goes_on;
        let gone = goal.wanted.id.clone();
        let at = At { step: self.scratch.preparing.len(), ..self.fold.at };
        // A rung may have a release of its own.
        let goes_there = match self.fold.change(at) {
            Some(Change::Reach(shape)) => shape.0.values().all(|wish| wish.release.as_ref().is_none_or(|r| *r == gone)),
            _ => false,
        };
        // A ladder has another way.
        let ladder = self.fold.plan.as_ref().is_some_and(|plan| plan.rungs.len() > 1);
        let known = self.scratch.gone.contains(&gone);
        if named || ladder || !goes_there || known || self.fold.may_have_touched() {
            return false;
        }
        self.scratch.preparing.clear();
        self.scratch.findings.clear();
        self.lose(&format!("release {gone}"), fault);
        self.scratch.gone.push(gone);
        self.scratch.choose_again = true;
        true
    }

    fn unpreparable(&mut self, why: String, lift: &str) {
        self.scratch.preparing.clear();
        self.scratch.findings.clear();
        if self.fold.may_have_touched() { self.fail_rung(why) } else { self.refuse(why, lift) }
    }

    pub(super) fn approval(&mut self, approval: Result<Option<crate::Approval>, Fault>) {
        let Some(digest) = self.scratch.asking.take() else { return };
        match approval {
            Ok(Some(approval)) if approval.digest == digest => {
                self.put(Entry::Approved { digest, by: approval.by });
            }
            Ok(Some(approval)) => {
                let why = format!("{} approved {}, and this is {digest}", approval.by, approval.digest);
                self.refuse(why, "an approval of this one");
            }
            Ok(None) => self.refuse("it was not approved", "an approval: ask whoever was asked why not"),
            Err(fault) => {
                if !self.try_again(&fault) {
                    self.refuse(format!("nobody approved: {fault}"), "an approval");
                }
            }
        }
    }
}
