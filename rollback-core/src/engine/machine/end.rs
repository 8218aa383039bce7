//! How a run ends, and how a rung does: refused, stuck, superseded, or on to the next rung.
//!
//! Not here: the end of a run that reached its release (see `verify`).

use super::State;
use crate::{
    Entry, EventKind, Fault, LedgerEntry, Outcome, Release, Settled, Standing,
    engine::{bug::Bug, judge},
};

impl State {
    pub(super) fn end(&mut self, outcome: Outcome) {
        if self.is_ending() {
            return;
        }
        if let Some(goal) = &self.fold.goal {
            let (left, wanted) = (goal.leaves(), goal.wanted.clone());
            let mark = |release, standing, why| self.mark(release, standing, why);
            // With the first write it was blamed already.
            let blames = !self.fold.wrote
                && match &outcome {
                    Outcome::Recovered | Outcome::NotRecovered { .. } => true,
                    Outcome::Stuck { .. } => self.may_have_touched(),
                    // Somebody came between; the blame stands all the same. Who took the lock over goes on with it.
                    Outcome::Superseded { .. } => !self.unjournalled,
                    _ => false,
                };
            let mut marks: Vec<Entry> = blames.then(|| self.blames(left)).into_iter().collect();
            marks.extend(match &outcome {
                Outcome::Recovered => {
                    let (standing, why) = if self.earns_verified() {
                        (Standing::Verified, self.verified_by())
                    } else {
                        (Standing::Seen, "recovered, but nothing watched its health for a while".to_owned())
                    };
                    match &self.fold.other {
                        // What a later rung set has helped, not what was chosen.
                        Some(other) => vec![
                            mark(wanted, Standing::Seen, format!("rolled back to, and left for {other}")),
                            mark(Release::new(other), standing, why),
                        ],
                        None => vec![mark(wanted, standing, why)],
                    }
                }
                Outcome::NotRecovered { why } => {
                    vec![mark(wanted, Standing::Seen, format!("rolled back to, and not recovered: {why}"))]
                }
                Outcome::Stuck { .. } if self.may_have_touched() => {
                    // That something else kept it from being reached says nothing against it.
                    let blameless = !goal.unverified && !self.fold.ill && !self.never_settles();
                    let standing = if blameless { Standing::Verified } else { Standing::Seen };
                    vec![mark(wanted, standing, "a rollback to it got stuck".to_owned())]
                }
                _ => vec![],
            });
            for entry in marks {
                self.put(entry);
            }
        }
        self.put(Entry::Ended(Box::new(outcome)));
        // Ten thousand runs that end at once must fit into memory.
        (self.scratch.seen, self.scratch.identity) = (None, None);
        (self.scratch.last_sample, self.scratch.last_says) = (vec![], String::new());
        (self.fold.begun, self.fold.identity) = (vec![], None);
    }

    /// What is now known of a release.
    fn mark(&self, release: Release, standing: Standing, why: String) -> Entry {
        let mut entry = LedgerEntry::new(release, standing, self.wall, why);
        entry.run = self.intent.as_ref().map(|i| i.run.clone());
        Entry::Marked(Box::new(entry))
    }
    /// The release that is left is bad: so says whoever ordered it.
    pub(super) fn blames(&self, left: Release) -> Entry {
        let why = self.intent.as_ref().map(|i| i.why.as_str()).unwrap_or_default();
        self.mark(left, Standing::Failed, format!("blamed: {why}"))
    }

    /// Some part was told what it will not come to run.
    fn never_settles(&self) -> bool {
        let mut parts = self.scratch.seen.iter().flat_map(|seen| seen.parts.values());
        parts.any(|part| matches!(part.settled, Settled::Never { .. }))
    }

    /// A look or a window: whoever goes back to it one day must know which.
    fn verified_by(&self) -> String {
        let longest = self.intent.iter().flat_map(|i| &i.verifiers).map(|(_, window)| window.hold).max();
        match longest.filter(|hold| !hold.is_zero()) {
            Some(hold) => format!("recovered, and held for {hold:?}"),
            None => "recovered, and healthy when it was looked at; no window was asked for".to_owned(),
        }
    }

    fn earns_verified(&self) -> bool {
        self.intent.as_ref().is_some_and(|i| {
            let gates = i.health.is_some() && !self.fold.went_on_blind();
            !i.verifiers.is_empty() && (gates || i.verifiers.iter().any(|(_, w)| !w.hold.is_zero()))
        })
    }

    /// Before the first write: refused. After it: stuck.
    pub(super) fn refuse(&mut self, why: impl Into<String>, lift: impl Into<String>) {
        let (why, lift) = (why.into(), lift.into());
        if self.may_have_touched() { self.stuck(why, Some(lift)) } else { self.end(Outcome::Refused { why, lift }) }
    }

    /// By a write; or by a copy of one that was itself refused, because the copy had come first: then it shows what was asked
    /// for. As long as nobody has looked, a refusal because something had changed says nothing else.
    fn may_have_touched(&self) -> bool {
        let shows = || {
            let change = self.fold.change(self.fold.last.as_ref()?.at)?;
            Some(judge::told(change, self.scratch.seen.as_ref()?))
        };
        self.fold.may_have_touched() || shows().unwrap_or(self.fold.conflicted)
    }

    pub(super) fn stuck(&mut self, at: String, human: Option<String>) {
        let parts = self.scratch.seen.iter().flat_map(|seen| {
            seen.parts.iter().map(|(id, part)| {
                let told = part.wanted.as_ref().map(|w| format!(", told to run {w}")).unwrap_or_default();
                let settled = match &part.settled {
                    Settled::Yes => String::new(),
                    Settled::NotYet { why } => format!(", waiting: {why}"),
                    Settled::Never { why } => format!(", never: {why}"),
                };
                (id.clone(), format!("runs {}{told}{settled}", part.running))
            })
        });
        let parts = parts.collect();
        let page = self.fold.plan.as_ref().map(|plan| plan.page.clone());
        let human = [human, page].into_iter().flatten().collect::<Vec<_>>().join("; ");
        self.end(Outcome::Stuck { at, parts, human });
    }

    /// The lease is somebody else's: nothing more may be written, not even to the journal.
    pub(super) fn fenced(&mut self) {
        if self.has(Bug::IgnoreFence) {
            return;
        }
        self.unjournalled = true;
        self.unwritten();
        self.end(Outcome::Superseded { by: "another run, which took the lock over".into() });
    }

    pub(super) fn lose(&mut self, what: &str, fault: &Fault) {
        let (what, why) = (what.to_owned(), fault.to_string());
        self.events.push(EventKind::Lost { what: what.clone(), why: why.clone() });
        self.put(Entry::Lost { what, why });
    }

    /// What holds the ledger is lost, and with it what a choice rests on.
    pub(super) fn lose_ledger(&mut self, what: &str, fault: &Fault) {
        let mut fault = fault.clone();
        fault.message += "; which releases are known bad, and which were verified, is not known";
        self.lose(what, &fault);
    }

    /// A call that may be repeated failed: sleeps and tells, or, after too long, says that it is over.
    pub(super) fn try_again(&mut self, fault: &Fault) -> bool {
        let policy = self.policy();
        let since = *self.scratch.failing_since.get_or_insert(self.elapsed);
        // Once something was written, a blind platform is waited for as long as the run may act.
        let patience = if self.fold.wrote { policy.deadline } else { policy.reply_within };
        if !fault.transient || self.elapsed.saturating_sub(since) >= patience {
            return false;
        }
        let why = fault.to_string();
        self.scratch.waiting = Some(why.as_str().into());
        self.events.push(EventKind::Waiting { why });
        self.scratch.sleep = Some(policy.poll);
        true
    }

    pub(super) fn fail_rung(&mut self, why: String) {
        self.fail_rung_having(self.may_have_touched(), why);
    }

    /// Where the last rung fails and nothing was touched, there is nothing to be stuck in.
    pub(super) fn fail_rung_having(&mut self, touched: bool, why: String) {
        let last = self.is_last_rung();
        if last && touched {
            self.stuck(why, None);
        } else if last {
            self.end(Outcome::Refused { why, lift: "mend what is said, and run the same call again".into() });
        } else {
            let rung = self.fold.at.rung;
            // What was found out about a rung that is passed over is said with it, not with the next one.
            let found = std::mem::take(&mut self.scratch.findings);
            let found = found.iter().map(|f| format!("; {f}")).collect::<String>();
            self.put(Entry::RungFailed { rung, why: why + &found });
            self.fresh_step();
            self.scratch.preparing.clear();
            self.scratch.seen = None;
        }
    }

    pub(super) fn is_last_rung(&self) -> bool {
        self.fold.plan.as_ref().is_none_or(|plan| self.fold.at.rung + 1 >= plan.rungs.len())
    }

    pub(super) fn fresh_step(&mut self) {
        let s = &mut self.scratch;
        (s.gate, s.gate_since, s.held_since, s.sampled) = (0, None, None, false);
        (s.armed, s.unclear_since, s.given_up) = (false, None, None);
        s.last_says.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        At, Capabilities, Digest, Fencing, Identity, Kind, Line, Observation, PartState, Release, Running, Situation,
        Strategy as _, Timestamp, Token, strategy::Direct,
    };
    use std::{sync::Arc, time::Duration};

    fn seen(release: &str) -> Observation {
        let part = PartState::new(Some(release.into()), Running::Release(release.into()));
        Observation::new(Identity::new("s", "o"), [("all".into(), part)], Token::none())
    }

    /// What a run ends as that can do no more, where its one write was refused so, and this is seen; or nothing.
    fn ends_as(kind: Kind, release: Option<&str>) -> &'static str {
        let capabilities = Capabilities::new(Fencing::Token);
        let situation = Situation::new("t".into(), capabilities.clone(), seen("bad"), "bad", Release::new("good"));
        let plan = Direct::default().plan(&situation).unwrap();
        let at = At::default();
        let refused = crate::Error::new(kind, "write").without_effect().into_fault();
        let entries = [
            Entry::Planned(Arc::new(plan)),
            Entry::Doing { at, approved: Digest::of(b"") },
            Entry::NotDone { at, fault: Box::new(refused) },
        ];
        let mut state = State::new(capabilities);
        for (seq, entry) in (0..).zip(entries) {
            state.fold.take(&Line::new(seq, 1, Timestamp::default(), Duration::ZERO, Duration::ZERO, entry));
        }
        state.scratch.seen = release.map(|release| Arc::new(seen(release)));
        state.refuse("the deadline is over", "more time");
        let ended = state.outbox.iter().find_map(|line| match &line.entry {
            Entry::Ended(outcome) => Some(outcome.name()),
            _ => None,
        });
        ended.unwrap()
    }

    /// A copy of the write may have come first: the write itself is refused because of it.
    #[test]
    fn nothing_was_touched_only_where_it_does_not_show() {
        assert_eq!(ends_as(Kind::Conflict, Some("bad")), "refused");
        assert_eq!(ends_as(Kind::Conflict, Some("good")), "stuck");
        assert_eq!(ends_as(Kind::Conflict, None), "stuck", "nobody has looked since");
        assert_eq!(ends_as(Kind::Denied, None), "refused");
    }
}
