//! All that comes before the first write of a rung.

use super::{Flow, State, sample::Sampling};
use crate::{
    Approved, At, Digest, Entry, Kind, Outcome, Window,
    engine::{ask::Ask, bug::Bug},
};
use std::sync::Arc;

/// What is lost where nobody is asked.
const APPROVAL: &str = "approval";

impl State {
    /// All that comes before the first write of a rung: prepare, approve, freeze, try elsewhere, keep evidence.
    pub(super) fn make_ready(&mut self) -> Option<Flow> {
        let intent = self.intent.as_ref()?;
        let plan = self.fold.plan.as_ref()?;
        let policy = &intent.policy;
        let rung = self.fold.at.rung;
        if self.fold.prepared.is_none() {
            let step = self.scratch.preparing.len();
            let change = plan.rungs.get(rung)?.steps.get(step)?.change.clone();
            return Some(Flow::Ask(Ask::Prepare { at: At { rung, step }, change, within: policy.prepare_within }));
        }
        if policy.dry_run && !self.has(Bug::DryRunWrites) {
            self.end(Outcome::Rehearsed);
            return Some(Flow::Again);
        }
        if let Some(of) = self.unasked() {
            let nobody = crate::Error::new(Kind::Unsupported, "ask for approval");
            self.lose(APPROVAL, nobody.with_message(format!("nobody was asked: {of}")).fault());
            return Some(Flow::Again);
        }
        if let Some((digest, of)) = self.wants_approval() {
            let within = policy.approval_within;
            self.scratch.asking = Some(digest.clone());
            return Some(Flow::Ask(Ask::Approve { digest, of, within }));
        }
        if let Some(name) = self.next_freeze() {
            return self.freeze(name);
        }
        if let Some((name, window)) = intent.trial.as_deref().cloned().filter(|_| !self.fold.tried) {
            if policy.take_over {
                // Nobody at the glass can wait for a window.
                let what = format!("trial by {name}");
                if !self.fold.lost.iter().any(|(lost, _)| *lost == what) {
                    let skipped = crate::Error::new(Kind::Unsupported, "try the release elsewhere first");
                    self.lose(&what, skipped.with_message("break-glass does not wait for it").fault());
                    return Some(Flow::Again);
                }
            } else {
                return Some(self.trial(name, window));
            }
        }
        if !self.fold.evidence {
            return Some(Flow::Ask(Ask::Evidence { within: policy.evidence, bytes: policy.evidence_bytes }));
        }
        None
    }

    /// What a person would have had to say yes to, where the policy asks nobody, and it was not said yet.
    fn unasked(&self) -> Option<String> {
        let (intent, prepared) = (self.intent.as_ref()?, self.fold.prepared.as_ref()?);
        let said = self.fold.lost.iter().any(|(what, _)| what == APPROVAL);
        let of: Vec<&str> = prepared.iter().filter_map(|a| a.needs_approval.as_deref()).collect();
        (!intent.policy.approvals && !said && !of.is_empty()).then(|| of.join("; "))
    }

    /// What it takes an approval for.
    pub(super) fn needs(&self, prepared: &[Arc<Approved>]) -> Vec<String> {
        let policy = self.policy();
        let mut of: Vec<String> = vec![];
        if policy.approvals {
            of.extend(prepared.iter().filter_map(|a| a.needs_approval.clone()));
        }
        if self.fold.overridden
            && let Some(goal) = &self.fold.goal
        {
            let why = policy.known_bad.as_deref().unwrap_or_default();
            of.push(format!("goes to {}, which is known bad: {why}", goal.wanted));
        }
        of
    }

    fn wants_approval(&self) -> Option<(Digest, Vec<String>)> {
        let (intent, prepared) = (self.intent.as_ref()?, self.fold.prepared.as_ref()?);
        let mut of = self.needs(prepared);
        if of.is_empty() {
            return None;
        }
        // Whoever is asked must see what for.
        if let Some(goal) = &self.fold.goal {
            of.push(format!("leaves {} for {}, because: {}", goal.leaves(), goal.wanted, intent.why));
        }
        of.extend(prepared.iter().flat_map(|approved| &approved.diff).map(ToString::to_string));
        let all: Vec<String> = prepared.iter().map(|a| a.digest().to_string()).collect();
        let digest = Digest::of(all.join("\n").as_bytes());
        (!self.fold.approvals.contains(&digest)).then_some((digest, of))
    }

    fn trial(&mut self, name: String, window: Window) -> Flow {
        let since = *self.scratch.trial_since.get_or_insert(self.elapsed);
        match self.window(window, since) {
            Sampling::Held => {
                let evidence = std::mem::take(&mut self.scratch.last_sample);
                self.fresh_step();
                self.put(Entry::Tried { by: name, evidence });
                Flow::Again
            }
            Sampling::Over => {
                let why = format!("tried elsewhere first by {name}, and it did not work: {}", self.last_sample());
                self.refuse(why, "another release, or leave the trial out");
                Flow::Again
            }
            Sampling::Sleep(time) => Flow::Ask(Ask::Sleep(time)),
            Sampling::Sample => {
                let within = self.policy().check_within;
                Flow::Ask(Ask::Try { since: self.elapsed.saturating_sub(since), within })
            }
        }
    }
}
