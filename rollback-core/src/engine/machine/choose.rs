//! A read is judged: is it the same object, and nobody else's work? And the release to go to is chosen.

use super::State;
use crate::{
    Chosen, Entry, Fault, NoChoice, Observation, OrderedBy, Ours, Outcome, PartState, Past, Policy, ReleaseId, Running,
    Support, Trace,
    engine::{ask::LEDGER, bug::Bug},
};
use std::sync::Arc;

/// A release that no part is told to run, runs or is on its way to, where all that runs is known.
fn serves_nowhere(release: &ReleaseId, seen: &Observation) -> bool {
    let part = |part: &PartState| {
        !matches!(part.running, Running::Unknown { .. } | Running::Between { .. })
            && part.wanted.as_ref() != Some(release)
            && !part.running.mentions().contains(&release)
    };
    seen.serving().next().is_some()
        && seen.parts.values().all(part)
        && seen.in_flight.as_ref().is_none_or(|flight| flight.to.as_ref() != Some(release))
}

/// The rollback that took all instances away to start them anew, and has not done so yet.
fn restart_of(seen: &Observation) -> Option<Trace> {
    let down = |trace: &Trace| {
        let mut parts = seen.parts.values();
        parts.any(|part| part.restarts_to.is_some() && part.wanted.as_ref() == Some(&trace.reached))
    };
    seen.trace.clone().filter(down)
}

impl State {
    pub(super) fn observed(&mut self, seen: Arc<Observation>) {
        if let Some(was) = &self.fold.identity
            && *was != seen.identity
            && !self.has(Bug::IgnoreIdentity)
        {
            let why = format!("this is {}, and the run began on {was}", seen.identity);
            return self.refuse(why, "look who made it anew, or point the run at the same object");
        }
        if let Some(plan) = &self.fold.plan
            && !self.has(Bug::IgnoreForeign)
        {
            // What is armed was not sent yet: nothing that shows is its doing.
            let begun = match (&self.fold.doing, self.fold.begun.split_last()) {
                (Some(doing), Some((_, before))) if self.scratch.armed && doing.partial.is_none() => before,
                _ => &self.fold.begun[..],
            };
            let by = match (seen.foreign(&plan.found, begun), &seen.ours) {
                (Some((_, Running::Release(release))), _) => Some(release.to_string()),
                (Some((part, other)), _) => Some(format!("{part} runs {other}")),
                (None, Ours::Replaced { by }) if !self.is_ours(by) => Some(by.clone()),
                _ => None,
            };
            if let Some(by) = by {
                self.scratch.seen = Some(seen);
                return self.end(Outcome::Superseded { by });
            }
        }
        let other = self.other_rollback(&seen);
        self.scratch.seen = Some(seen);
        if let Some(by) = other {
            self.end(Outcome::Superseded { by });
        }
    }

    /// Another run has left its trace since this one chose: somebody without a journal broke the glass, or its lock would
    /// have kept one of the two out. Whoever breaks the glass does not stop for another rollback.
    fn other_rollback(&self, seen: &Observation) -> Option<String> {
        let (intent, goal, trace) = (self.intent.as_ref()?, self.fold.goal.as_ref()?, seen.trace.as_ref()?);
        let known = trace.run == intent.run || goal.trace.as_ref() == Some(&trace.run);
        let other = !known && !intent.policy.take_over;
        other.then(|| format!("run {}, which left {} for {} at {}", trace.run, trace.left, trace.reached, trace.at))
    }

    /// A key of this run: an earlier write of ours, or a copy of one, that arrived late.
    fn is_ours(&self, by: &str) -> bool {
        let run = self.intent.as_ref().map(|intent| intent.run.as_str());
        run.and_then(|run| by.strip_prefix(run)).is_some_and(|step| step.starts_with('/'))
    }

    pub(super) fn recall(&mut self, past: Result<Past, Fault>, lost: &[(String, Fault)]) {
        let policy = self.policy();
        for (what, fault) in lost {
            if policy.journal == Support::Must {
                // One that is away for a moment is waited for, as the target is.
                if self.try_again(fault) {
                    return;
                }
                return self.refuse(fault.to_string(), "repair the journal, or break the glass");
            }
            if what == LEDGER { self.lose_ledger(what, fault) } else { self.lose(what, fault) }
        }
        match past {
            Ok(past) => self.choose(past, &policy),
            Err(fault) => {
                if !self.try_again(&fault) {
                    self.refuse(fault.to_string(), "make the history of the target readable");
                }
            }
        }
    }

    fn choose(&mut self, past: Past, policy: &Policy) {
        let (Some(intent), Some(seen)) = (self.intent.clone(), self.scratch.seen.as_ref()) else { return };
        let trace = seen.trace.as_ref().map(|trace| trace.run.clone());
        let mut past = past.with_ledger_releases();
        past.target_keeps_trace = self.capabilities.keeps_trace;
        self.scratch.choose_again = false;
        self.scratch.unfinished = past.unfinished.take();
        for release in past.history.iter_mut().filter(|release| self.scratch.gone.contains(&release.id)) {
            release.available = false;
        }
        if policy.ordered_by == OrderedBy::Machine && !self.has(Bug::IgnoreBudget) {
            let recent = past.recent.iter().filter(|at| self.wall.since(**at) < policy.budget.window).count();
            if recent >= policy.budget.allows() as usize {
                return self.refuse(
                    format!("{recent} rollbacks of this target in the last {:?} already", policy.budget.window),
                    "a person orders it",
                );
            }
        }
        // By its id, whatever it was called in the order.
        let meant = |name: &ReleaseId| Ok(past.named(name)?.map_or_else(|| name.clone(), |release| release.id.clone()));
        let named = match intent.suspect.as_ref().map(meant).transpose() {
            Ok(named) => named,
            Err(NoChoice { why, lift }) => return self.refuse(why, lift),
        };
        let named = named.as_ref();
        let elsewhere = |to: &ReleaseId| match &intent.choose {
            crate::Choose::Exactly(name) => meant(name).is_ok_and(|id| id != *to),
            _ => false,
        };
        // Where no journal tells, what the target remembers does.
        let half_way = restart_of(seen).filter(|_| policy.take_over);
        let taken_over = past
            .taken_over
            .clone()
            .or(half_way)
            .map(|trace| (trace, if policy.dry_run { "has not ended" } else { "was taken over" }));
        let stuck = || past.left_undone(seen).map(|trace| (trace, "got stuck"));
        let goal = taken_over.or_else(stuck).filter(|(trace, _)| named.is_none() && !elsewhere(&trace.reached));
        self.scratch.goes_on = goal.is_some();
        // Whoever breaks the glass while a rollback is going on, and blames nothing else, wants what that one wanted.
        let goes_on = |(trace, which): (Trace, &str)| {
            let chosen =
                past.choose(&crate::Choose::Exactly(trace.reached), &trace.left, policy.known_bad.is_some())?;
            Ok(Chosen { why: format!("where run {} was going, which {which}", trace.run), ..chosen })
        };
        let anew = || {
            // Going where the order says is no guess, and pressed twice it goes nowhere else; but who left that order behind may
            // not have known of a rollback since.
            let by_name =
                matches!(intent.choose, crate::Choose::Exactly(_)) && named.is_none() && !self.scratch.adopted;
            let suspect = if by_name { past.blamed(seen) } else { past.suspect(named, seen) };
            suspect.and_then(|suspect| {
                let mut choose = intent.choose.clone();
                if self.has(Bug::ChooseKnownBad) {
                    let newest = past.history.iter().find(|r| r.id != suspect && r.available);
                    choose = newest.map_or(choose, |r| crate::Choose::Exactly(r.id.clone()));
                }
                let will_do = policy.known_bad.is_some() || self.has(Bug::ChooseKnownBad);
                past.choose(&choose, &suspect, will_do)
            })
        };
        let chosen = goal.map_or_else(anew, goes_on);
        // A name that nobody knows may be a slip: it is refused, not left.
        let nowhere = named.filter(|named| serves_nowhere(named, seen));
        let known = |release: &ReleaseId| past.history.iter().any(|r| r.id == *release);
        let left_already = nowhere.is_some_and(known);
        let unknown = nowhere.is_some() && !left_already;
        match chosen {
            Ok(Chosen { suspect, .. }) if unknown => self.refuse(
                format!(
                    "nobody knows {suspect}, which is blamed: it is not in the history, and runs nowhere; the newest are {}",
                    past.newest(None)
                ),
                "name the suspect as history has it, or leave it out: then it is what serves",
            ),
            // There is nothing to leave, whether or not there would be somewhere to go.
            Err(_) if left_already => self.end(Outcome::NothingToDo),
            Err(NoChoice { why, lift }) => self.refuse(why, lift),
            Ok(chosen) => {
                if !self.capabilities.reversible {
                    let why = "going back may lose data, and cannot be undone";
                    if policy.ordered_by == OrderedBy::Machine {
                        return self.refuse(
                            why,
                            "a person orders it, and allows what cannot be undone",
                        );
                    }
                    if !policy.irreversible {
                        return self.refuse(
                            why,
                            "allow what cannot be undone, which takes a word of its own",
                        );
                    }
                }
                let known_bad = chosen.known_bad.then(|| chosen.wanted.id.clone());
                self.put(Entry::Chose(Arc::new(Chosen { trace, ..chosen })));
                if let Some(release) = known_bad {
                    let why = policy.known_bad.clone().unwrap_or_default();
                    self.put(Entry::Overridden { release, why });
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Capabilities, Fencing, Identity, Intent, Line, Release, RunId, Situation, Strategy as _, Timestamp, Token,
        strategy::Direct,
    };
    use std::time::Duration;

    fn seen(ours: Ours, trace: Option<&str>) -> Observation {
        let part = PartState::new(Some("bad".into()), Running::Release("bad".into()));
        let trace = trace.map(|run| Trace {
            run: run.into(),
            left: "bad".into(),
            reached: "good".into(),
            at: Timestamp::default(),
        });
        let now = Observation::new(Identity::new("s", "o"), [("all".into(), part)], Token::none());
        now.with_ours(ours).with_trace(trace)
    }

    /// By what run `r`, which had found the trace of `before`, is superseded when it sees this.
    fn superseded(policy: Policy, now: Observation) -> Option<String> {
        let capabilities = Capabilities::new(Fencing::Token);
        let then = seen(Ours::NotAsked, None);
        let situation = Situation::new("t".into(), capabilities.clone(), then, "bad", Release::new("good"));
        let plan = Direct::default().plan(&situation).unwrap();
        let mut chosen = Chosen::new("bad", Release::new("good"), "previous");
        chosen.trace = Some("before".into());
        let chose = Entry::Chose(Arc::new(chosen));
        let mut state = State::new(capabilities);
        let mut intent = Intent::new(RunId::new("r"), "t".into(), "me", "500s");
        intent.policy = Arc::new(policy);
        state.intent = Some(Arc::new(intent));
        for (seq, entry) in (0..).zip([chose, Entry::Planned(Arc::new(plan))]) {
            state.fold.take(&Line::new(seq, 1, Timestamp::default(), Duration::ZERO, Duration::ZERO, entry));
        }
        state.observed(Arc::new(now));
        state.outbox.iter().find_map(|line| match &line.entry {
            Entry::Ended(outcome) => match &**outcome {
                Outcome::Superseded { by } => Some(by.clone()),
                other => panic!("{other}"),
            },
            _ => None,
        })
    }

    #[test]
    fn a_late_write_of_its_own_is_nobody_elses() {
        let by = |by: &str| superseded(Policy::default(), seen(Ours::Replaced { by: by.into() }, None));
        assert_eq!(by("r/0.0"), None);
        for other in ["r2/0.0", "r", "a person"] {
            assert_eq!(by(other).as_deref(), Some(other));
        }
    }

    #[test]
    fn a_trace_that_was_not_there_is_of_who_broke_the_glass() {
        let by = |policy: Policy, run| superseded(policy, seen(Ours::CannotTell, run));
        for (run, other) in [(None, false), (Some("r"), false), (Some("before"), false), (Some("glass"), true)] {
            assert_eq!(by(Policy::default(), run).is_some(), other, "{run:?}");
            assert_eq!(by(Policy::break_glass(), run), None, "{run:?}");
        }
        assert!(by(Policy::default(), Some("glass")).unwrap().starts_with("run glass, which left bad for good"));
    }
}
