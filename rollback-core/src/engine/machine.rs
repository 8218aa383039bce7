//! `step(state, answer, now) -> (state, effects)`: no clock, no ids, no I/O. State, answers and effects are serde, so the
//! same machine runs under the driver of this crate, under a durable workflow engine, and in the simulator.
//!
//! Durable state changes only by folding a [`Line`] whose append was acknowledged. What to do next is a function of the
//! state alone; a crash, a lost answer and a fresh start are one path.

use super::{
    ask::{Answer, Ask, Effects},
    bug::Bug,
    fold::{Doing, Fold},
    judge,
};
use crate::{
    Approved, At, Begun, Capabilities, Change, Chosen, Digest, Effect, Entry, EventKind, Extent, Fault, Gate, Health,
    Hold, Identity, Intent, Kind, Lease, LedgerEntry, Line, Look, NoChoice, Now, Observation, OnUnknown, OrderedBy,
    Ours, Outcome, Past, Policy, Running, Severity, Situation, Standing, Step, Support, Timestamp, Trace, Verdict,
    Weight, Window,
};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// An entry that is not durable yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    at: Timestamp,
    elapsed: Duration,
    acted: Duration,
    entry: Entry,
}

/// Is lost in a crash, and that is fine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Scratch {
    /// What the quick look at the beginning said.
    identity: Option<Identity>,
    /// The latest read.
    seen: Option<Arc<Observation>>,
    /// The latest read was a full one.
    full: bool,
    /// The suspect as history has it.
    suspect: Option<crate::Release>,
    preparing: Vec<Arc<Approved>>,
    findings: Vec<crate::Finding>,
    /// The intent of the write became durable in this process, and no answer was lost since.
    armed: bool,
    /// Since when the outcome of a write is unknown.
    unclear_since: Option<Duration>,
    gate: usize,
    gate_since: Option<Duration>,
    /// A gate was told that something is unhealthy.
    ill: bool,
    /// Since when what is sampled holds without a break.
    held_since: Option<Duration>,
    /// When the window of the trial began.
    trial_since: Option<Duration>,
    /// The sample of this tick was taken.
    sampled: bool,
    last_sample: Vec<crate::Evidence>,
    last_says: String,
    sleep: Option<Duration>,
    /// Before the same append is tried again.
    append_pause: Option<Duration>,
    /// What an approval is asked for.
    asking: Option<Digest>,
    /// The goal is that of a run that was taken over.
    goes_on: bool,
    /// Since when a `begin` may have happened without an answer.
    unanswered: Option<Duration>,
    /// Since when calls that may be repeated fail.
    failing_since: Option<Duration>,
    /// Since when the last look of the run says no.
    final_since: Option<Duration>,
    /// How many lines the append under way has.
    sent: usize,
}

/// All that is known of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    capabilities: Capabilities,
    intent: Option<Arc<Intent>>,
    lease: Option<Lease>,
    /// There is no journal to append to: entries are folded at once.
    unjournalled: bool,
    seq: u64,
    fold: Fold,
    scratch: Scratch,
    outbox: VecDeque<Pending>,
    /// When the last answer came, on the driver's monotonic clock.
    last: Option<Duration>,
    wall: Timestamp,
    elapsed: Duration,
    acted: Duration,
    /// The time until the next answer does not count against the deadline.
    idle: bool,
    events: Vec<EventKind>,
    bug: Option<Bug>,
}

/// One step of a run.
pub fn step(mut state: State, answer: Answer, now: Now) -> (State, Effects) {
    let passed = now.mono.saturating_sub(state.last.unwrap_or(now.mono));
    state.last = Some(now.mono);
    state.wall = now.wall;
    state.elapsed += passed;
    if !state.idle {
        state.acted += passed;
    }
    state.absorb(answer);
    let ask = state.next();
    state.idle = matches!(ask, Ask::Approve { .. } | Ask::Verify { .. })
        || (state.fold.reached.is_some() && matches!(ask, Ask::Sleep(_)));
    let effects = Effects { events: std::mem::take(&mut state.events), ask };
    (state, effects)
}

enum Flow {
    Ask(Ask),
    /// The state changed: look again from the top.
    Again,
}

impl State {
    /// Before a run.
    pub fn new(capabilities: Capabilities) -> Self {
        Self {
            capabilities,
            intent: None,
            lease: None,
            unjournalled: false,
            seq: 0,
            fold: Fold::default(),
            scratch: Scratch::default(),
            outbox: VecDeque::new(),
            last: None,
            wall: Timestamp::default(),
            elapsed: Duration::ZERO,
            acted: Duration::ZERO,
            idle: false,
            events: vec![],
            bug: None,
        }
    }
    #[cfg(feature = "planted-bugs")]
    #[doc(hidden)]
    pub fn plant(&mut self, bug: Option<Bug>) {
        self.bug = bug;
    }
    fn has(&self, bug: Bug) -> bool {
        cfg!(feature = "planted-bugs") && self.bug == Some(bug)
    }
    /// What it was asked to do; of an adopted run, what that was.
    pub fn intent(&self) -> Option<&Intent> {
        self.intent.as_deref()
    }
    /// Its lease, if it has one.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
    /// The release that was chosen.
    pub fn chosen(&self) -> Option<&Chosen> {
        self.fold.chosen.as_ref()
    }
    /// Every support that was lost.
    pub fn losses(&self) -> &[(String, String)] {
        &self.fold.lost
    }
    /// There is no journal: what happens is only kept in memory, and spooled.
    pub fn is_unjournalled(&self) -> bool {
        self.unjournalled
    }
    /// A write was sent, or was about to be.
    pub fn wrote(&self) -> bool {
        self.fold.wrote
    }

    /// The latest read, if what was decided last rests on one.
    pub(super) fn seen(&self) -> Option<&Observation> {
        self.scratch.seen.as_deref()
    }

    fn policy(&self) -> Policy {
        self.intent.as_ref().map(|i| i.policy.clone()).unwrap_or_default()
    }
    fn put(&mut self, entry: Entry) {
        self.outbox.push_back(Pending { at: self.wall, elapsed: self.elapsed, acted: self.acted, entry });
    }
    fn current(&self) -> Option<&Step> {
        let at = self.fold.at;
        self.fold.plan.as_ref()?.rungs.get(at.rung)?.steps.get(at.step)
    }
    fn is_ending(&self) -> bool {
        self.fold.outcome.is_some() || self.outbox.iter().any(|p| matches!(p.entry, Entry::Ended(_)))
    }

    // ---- ends -------------------------------------------------------------------------------------------------------

    fn end(&mut self, outcome: Outcome) {
        if self.is_ending() {
            return;
        }
        if let Some(chosen) = &self.fold.chosen {
            let (suspect, wanted) = (chosen.suspect.clone(), chosen.wanted.clone());
            let run = self.intent.as_ref().map(|i| i.run.clone());
            let mark = |release: crate::Release, standing, why: String, at| {
                let mut entry = LedgerEntry::new(release, standing, at, why);
                entry.run.clone_from(&run);
                Entry::Marked(entry)
            };
            let blamed = self.intent.as_ref().map(|i| i.why.clone()).unwrap_or_default();
            let left = self.suspect_release(&suspect);
            let at = self.wall;
            let failed = |left| mark(left, Standing::Failed, format!("blamed: {blamed}"), at);
            let marks = match &outcome {
                Outcome::Recovered => {
                    let (standing, why) = if self.earns_verified() {
                        (Standing::Verified, "recovered, and held through its windows".to_owned())
                    } else {
                        (Standing::Seen, "recovered, but nothing watched its health for a while".to_owned())
                    };
                    vec![failed(left), mark(wanted, standing, why, at)]
                }
                Outcome::NotRecovered { why } => {
                    vec![
                        failed(left),
                        mark(wanted, Standing::Seen, format!("rolled back to, and not recovered: {why}"), at),
                    ]
                }
                Outcome::Stuck { .. } if self.fold.may_have_touched() => {
                    vec![failed(left), mark(wanted, Standing::Seen, "a rollback to it got stuck".to_owned(), at)]
                }
                _ => vec![],
            };
            for entry in marks {
                self.put(entry);
            }
        }
        self.put(Entry::Ended(outcome));
    }

    /// The suspect as history has it, if it does.
    fn suspect_release(&self, suspect: &crate::ReleaseId) -> crate::Release {
        let known = self.scratch.suspect.as_ref().filter(|release| release.id == *suspect);
        known.cloned().unwrap_or_else(|| crate::Release::new(suspect))
    }

    fn earns_verified(&self) -> bool {
        self.intent.as_ref().is_some_and(|i| {
            !i.verifiers.is_empty() && (i.health.is_some() || i.verifiers.iter().any(|(_, w)| !w.hold.is_zero()))
        })
    }

    /// Before the first write: refused. After it: stuck.
    fn refuse(&mut self, why: impl Into<String>, lift: impl Into<String>) {
        let (why, lift) = (why.into(), lift.into());
        if self.fold.may_have_touched() {
            self.stuck(why, Some(lift))
        } else {
            self.end(Outcome::Refused { why, lift })
        }
    }

    fn stuck(&mut self, at: String, human: Option<String>) {
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
    fn fenced(&mut self) {
        if self.has(Bug::IgnoreFence) {
            return;
        }
        self.unjournalled = true;
        self.outbox.clear();
        self.scratch.sent = 0;
        self.end(Outcome::Superseded { by: "another run, which took the lock over".into() });
    }

    fn lose(&mut self, what: &str, fault: &Fault) {
        let (what, why) = (what.to_owned(), fault.to_string());
        self.events.push(EventKind::Lost { what: what.clone(), why: why.clone() });
        self.put(Entry::Lost { what, why });
    }

    /// A call that may be repeated failed: sleeps and tells, or, after too long, says that it is over.
    fn try_again(&mut self, fault: &Fault) -> bool {
        let policy = self.policy();
        let since = *self.scratch.failing_since.get_or_insert(self.elapsed);
        // Once something was written, a blind platform is waited for as long as the run may act.
        let patience = if self.fold.wrote { policy.deadline } else { policy.reply_within };
        if !fault.transient || self.elapsed.saturating_sub(since) >= patience {
            return false;
        }
        self.events.push(EventKind::Waiting { why: fault.to_string() });
        self.scratch.sleep = Some(policy.poll);
        true
    }

    fn fail_rung(&mut self, why: String) {
        self.fail_rung_having(self.fold.may_have_touched(), why);
    }

    /// Where the last rung fails and nothing was touched, there is nothing to be stuck in.
    fn fail_rung_having(&mut self, touched: bool, why: String) {
        let last = self.fold.plan.as_ref().is_none_or(|plan| self.fold.at.rung + 1 >= plan.rungs.len());
        if last && touched {
            self.stuck(why, None);
        } else if last {
            self.end(Outcome::Refused { why, lift: "mend what is said, and run the same call again".into() });
        } else {
            let rung = self.fold.at.rung;
            self.put(Entry::RungFailed { rung, why });
            self.fresh_step();
            self.scratch.preparing.clear();
            self.scratch.seen = None;
        }
    }

    fn fresh_step(&mut self) {
        let s = &mut self.scratch;
        (s.gate, s.gate_since, s.held_since, s.sampled) = (0, None, None, false);
        (s.armed, s.unclear_since) = (false, None);
        s.last_says.clear();
    }

    // ---- answers ----------------------------------------------------------------------------------------------------

    fn absorb(&mut self, answer: Answer) {
        if !matches!(&answer, Answer::Woke | Answer::Start(_)) && !is_failure(&answer) {
            self.scratch.failing_since = None;
        }
        match answer {
            Answer::Start(intent) => {
                if intent.policy.dry_run {
                    // It changes nothing, so it needs no lock; and nobody must adopt it as if it were the real thing.
                    self.unjournalled = true;
                }
                self.intent = Some(intent);
            }
            Answer::Identified(Ok(identity)) => self.scratch.identity = Some(identity),
            Answer::Identified(Err(fault)) => {
                if !self.try_again(&fault) {
                    self.unjournalled = true;
                    let lift = match fault.kind {
                        Kind::Unavailable => "make the target reachable, and check that it is the right one",
                        _ => "do what the first line says, and check that it is the right target",
                    };
                    self.refuse(fault.to_string(), lift);
                }
            }
            Answer::Begun(begun) => self.begun(begun),
            Answer::Appended(Ok(())) => self.appended(),
            Answer::Appended(Err(fault)) => self.not_appended(&fault),
            Answer::Fenced(_) => self.fenced(),
            Answer::Observed(Ok(seen)) => self.observed(Arc::new(seen)),
            Answer::Observed(Err(fault)) => {
                if !self.try_again(&fault) {
                    let lift = match fault.kind {
                        Kind::Unavailable => "make the target observable again",
                        _ => "do what the first line says, then run it again",
                    };
                    self.refuse(fault.to_string(), lift);
                }
            }
            Answer::Past(past, lost) => self.recall(past, &lost),
            Answer::Planned(plan) => self.planned(plan),
            Answer::Prepared(prepared) => self.prepared(prepared),
            Answer::Approval(approval) => self.approval(approval),
            Answer::Froze(was) => self.froze(was),
            Answer::Tried(verdict) => self.sampled("trial", verdict.map(said_verdict)),
            Answer::Evidence(Ok(kept)) => self.put(Entry::EvidenceKept(kept)),
            Answer::Evidence(Err(fault)) => {
                self.lose("evidence", &fault);
                self.put(Entry::EvidenceKept(vec![]));
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
                self.lose("journal and lock", &fault);
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
        self.outbox.clear();
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
        self.scratch = Scratch { identity, ..Scratch::default() };
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
        missing.extend(trial.map(|(name, _)| format!("trial {name}")));
        if !missing.is_empty() {
            self.unjournalled = true;
            return self.refuse(
                format!("run {} was left unfinished, and this program lacks its {}", began.run, missing.join(", ")),
                "run the program that began it; or give that run up (Journal::give_up); or break the glass",
            );
        }
        let verifiers = began.verifiers.iter().zip(&brought.verifiers).map(|(was, is)| ("verifier", &was.0, &is.0));
        let health = began.health.iter().zip(&brought.health).map(|(was, is)| ("health check", was, is));
        let strategy =
            [("strategy", &began.strategy, &brought.strategy)].into_iter().filter(|_| self.fold.plan.is_none());
        let others: Vec<(String, String)> = verifiers
            .chain(health)
            .chain(strategy)
            .filter(|(_, was, is)| was != is)
            .map(|(what, was, is)| {
                (format!("{what} {was}"), format!("this program has {is} in its place, and goes on with it"))
            })
            .collect();
        for (what, why) in others {
            self.events.push(EventKind::Lost { what: what.clone(), why: why.clone() });
            self.put(Entry::Lost { what, why });
        }
    }

    fn appended(&mut self) {
        let Some(lease) = self.lease.clone() else { return };
        for _ in 0..std::mem::take(&mut self.scratch.sent) {
            self.settle_line(lease.epoch);
        }
        self.outbox.shrink_to_fit();
    }

    /// The first entry of the outbox counts now.
    fn settle_line(&mut self, epoch: u64) {
        let Some(p) = self.outbox.pop_front() else { return };
        let line = Line::new(self.seq, epoch, p.at, p.elapsed, p.acted, p.entry);
        self.seq += 1;
        self.fold.take(&line);
        self.events.push(EventKind::Journalled(Box::new(line)));
    }

    fn not_appended(&mut self, fault: &Fault) {
        self.scratch.sent = 0;
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
        self.outbox.clear();
        let why = format!("{fault}; what has been done until now stands in the journal");
        let lift = "repair the journal and run the same call again, or break the glass";
        if self.fold.wrote {
            // Whoever adopted the run meanwhile may have changed something, even if nothing of ours had an effect.
            self.stuck(why, Some(lift.into()));
        } else {
            self.refuse(why, lift);
        }
    }

    fn observed(&mut self, seen: Arc<Observation>) {
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
                (None, Ours::Replaced { by }) => Some(by.clone()),
                _ => None,
            };
            if let Some(by) = by {
                self.scratch.seen = Some(seen);
                return self.end(Outcome::Superseded { by });
            }
        }
        self.scratch.seen = Some(seen);
    }

    fn recall(&mut self, past: Result<Past, Fault>, lost: &[(String, Fault)]) {
        let policy = self.policy();
        for (what, fault) in lost {
            if policy.journal == Support::Must {
                return self.refuse(fault.to_string(), "repair the journal, or break the glass");
            }
            self.lose(what, fault);
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
        let past = past.with_ledger_releases();
        if policy.ordered_by == OrderedBy::Machine && !self.has(Bug::IgnoreBudget) {
            let recent = past.recent.iter().filter(|at| self.wall.since(**at) < policy.budget.window).count();
            if recent >= policy.budget.allows() as usize {
                return self.refuse(
                    format!("{recent} rollbacks of this target in the last {:?} already", policy.budget.window),
                    "a person orders it",
                );
            }
        }
        let named = intent.suspect.as_ref();
        let goal = past.taken_over.clone().filter(|_| named.is_none());
        self.scratch.goes_on = goal.is_some();
        // Whoever breaks the glass while a rollback is going on, and blames nothing else, wants what that one wanted.
        let goes_on = |trace: Trace| {
            let chosen =
                past.choose(&crate::Choose::Exactly(trace.reached), &trace.left, policy.known_bad.is_some())?;
            Ok(Chosen { why: format!("where run {} was going, which was taken over", trace.run), ..chosen })
        };
        let anew = || {
            past.suspect(named, seen).and_then(|suspect| {
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
        match chosen {
            Err(NoChoice { why, lift }) => self.refuse(why, lift),
            Ok(chosen) => {
                // Of all that history there is, this is what the end needs: ten thousand runs must fit into memory.
                self.scratch.suspect = past.history.into_iter().find(|release| release.id == chosen.suspect);
                if !self.capabilities.reversible {
                    let why = "going back may lose data, and cannot be undone";
                    if policy.ordered_by == OrderedBy::Machine {
                        return self.refuse(why, "a person orders it, with Policy::with_irreversible");
                    }
                    if !policy.irreversible {
                        return self.refuse(why, "a word of its own: Policy::with_irreversible");
                    }
                }
                let known_bad = chosen.known_bad.then(|| chosen.wanted.id.clone());
                let Chosen { suspect, wanted, why, unverified, .. } = chosen;
                self.put(Entry::Chose { suspect, wanted, why, unverified });
                if let Some(release) = known_bad {
                    let why = policy.known_bad.clone().unwrap_or_default();
                    self.put(Entry::Overridden { release, why });
                }
            }
        }
    }

    fn planned(&mut self, plan: Result<crate::Plan, crate::Unplannable>) {
        let (Some(chosen), Some(intent)) = (&self.fold.chosen, &self.intent) else { return };
        let mut plan = match plan {
            Ok(plan) => plan,
            Err(no) => return self.refuse(no.to_string(), "another strategy, or a Ladder with one more rung"),
        };
        if plan.target != intent.target || plan.suspect != chosen.suspect || plan.wanted != chosen.wanted.id {
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
            return self.refuse(why, "another strategy, or a lower Policy::with_floor");
        }
        // What a run that was taken over has done already is still to be verified.
        if plan.is_nothing() && !self.scratch.goes_on {
            return self.end(Outcome::NothingToDo);
        }
        plan.shrink();
        self.put(Entry::Planned(Arc::new(plan)));
    }

    fn prepared(&mut self, prepared: Result<crate::Prepared, Fault>) {
        match prepared {
            Ok(prepared) => {
                let blocks = prepared.findings.iter().find(|f| f.severity == Severity::Blocks);
                if let Some(finding) = blocks {
                    let why = format!("{} ({})", finding.text, finding.code);
                    return self.unpreparable(why, "do what the first line says");
                }
                self.scratch.preparing.push(Arc::new(prepared.approved));
                self.scratch.findings.extend(prepared.findings);
                let rung = self.fold.at.rung;
                let steps = self.fold.plan.as_ref().and_then(|p| p.rungs.get(rung)).map_or(0, |r| r.steps.len());
                if self.scratch.preparing.len() >= steps {
                    let approved = std::mem::take(&mut self.scratch.preparing);
                    let findings = std::mem::take(&mut self.scratch.findings);
                    self.put(Entry::Prepared { rung, approved, findings });
                }
            }
            Err(fault) => {
                if !self.try_again(&fault) {
                    self.unpreparable(fault.to_string(), "do what the first line says, or name another release");
                }
            }
        }
    }

    fn unpreparable(&mut self, why: String, lift: &str) {
        self.scratch.preparing.clear();
        self.scratch.findings.clear();
        if self.fold.may_have_touched() { self.fail_rung(why) } else { self.refuse(why, lift) }
    }

    fn approval(&mut self, approval: Result<Option<crate::Approval>, Fault>) {
        let Some(digest) = self.scratch.asking.take() else { return };
        match approval {
            Ok(Some(approval)) if approval.digest == digest => {
                self.put(Entry::Approved { digest, by: approval.by });
            }
            Ok(Some(approval)) => {
                let why = format!("{} approved {}, and this is {digest}", approval.by, approval.digest);
                self.refuse(why, "an approval of this one");
            }
            Ok(None) => self.refuse("it was not approved", "an approval"),
            Err(fault) => {
                if !self.try_again(&fault) {
                    self.refuse(format!("nobody approved: {fault}"), "an approval");
                }
            }
        }
    }

    fn froze(&mut self, was: Result<crate::Payload, Fault>) {
        let Some(name) = self.next_freeze() else { return };
        let policy = self.policy();
        match was {
            Ok(was) => {
                let until = policy.freeze_for.map(|time| self.wall.after(time));
                self.put(Entry::Froze { name, was: Some(was), until });
            }
            Err(fault) if policy.freeze == Support::IfThere => {
                self.lose(&format!("freeze {name}"), &fault);
                self.put(Entry::Froze { name, was: None, until: None });
            }
            Err(fault) => {
                if !self.try_again(&fault) {
                    self.refuse(format!("{name} could not be frozen: {fault}"), "freeze it by hand, and leave it out");
                }
            }
        }
    }

    fn applied(&mut self, applied: Result<crate::Applied, Fault>) {
        let at = self.fold.at;
        let before = self.scratch.seen.take();
        self.scratch.armed = false;
        self.scratch.sampled = false;
        match applied {
            Ok(applied) => {
                self.scratch.unclear_since = None;
                let before = self.fold.doing.as_ref().and_then(|d| d.partial);
                let failed = match &applied.extent {
                    Extent::NotStarted { why } => Some(why.clone()),
                    Extent::Partial { done, of, reasons } if before.is_some_and(|b| *done <= b) => {
                        let why: Vec<_> = reasons.iter().map(|(why, n)| format!("{n} × {why}")).collect();
                        Some(format!("{done} of {of} done, and no further: {}", why.join(", ")))
                    }
                    Extent::Partial { .. } => {
                        // Goes on from its checkpoint, as long as it gets further.
                        self.scratch.armed = true;
                        None
                    }
                    Extent::Done | Extent::Submitted => None,
                };
                self.put(Entry::Did { at, applied });
                if let Some(why) = failed {
                    self.fail_rung(why);
                }
            }
            Err(fault) if fault.effect == Effect::None || self.has(Bug::LostIsNone) => {
                let since = self.fold.step_since.unwrap_or(self.elapsed);
                let patience = self.current().map_or(Duration::ZERO, |step| step.settle_within);
                // A stale read gives a stale token: conflicts are retried by time, not by count.
                let again =
                    fault.transient || matches!(fault.kind, Kind::Conflict | Kind::Stale) || self.has(Bug::LostIsNone);
                let give_up = !again || self.elapsed.saturating_sub(since) > patience;
                let why = fault.to_string();
                self.scratch.sleep = Some(self.policy().poll);
                self.scratch.unclear_since = None;
                self.put(Entry::NotDone { at, fault });
                if give_up {
                    // Nothing was changed, so it is as it was.
                    self.scratch.seen = before;
                    self.fail_rung_having(self.fold.touched, why);
                }
            }
            Err(fault) => {
                self.scratch.unclear_since = Some(self.elapsed);
                if self.has(Bug::LostIsDone) {
                    self.put(Entry::Did { at, applied: crate::Applied::done() });
                } else {
                    self.put(Entry::Unclear { at, fault });
                }
            }
        }
    }

    /// A sample: (does it hold, word, evidence).
    fn sampled(&mut self, of: &str, sample: Result<(bool, &'static str, Vec<crate::Evidence>), Fault>) {
        self.scratch.sampled = true;
        let (holds, says, evidence) =
            sample.unwrap_or_else(|fault| (false, "unknown", vec![crate::Evidence::new(of, fault.to_string())]));
        let holds = holds || (says == "unknown" && self.has(Bug::UnknownIsHealthy));
        if holds {
            self.scratch.held_since.get_or_insert(self.elapsed);
        } else {
            self.scratch.held_since = None;
        }
        self.scratch.ill |= of == "health" && says == "unhealthy";
        self.scratch.last_says = says.into();
        self.scratch.last_sample.clone_from(&evidence);
        self.events.push(EventKind::Sample { of: of.into(), says: says.into(), evidence });
    }

    fn last_sample(&self) -> String {
        let seen: Vec<_> = self.scratch.last_sample.iter().take(3).map(|e| format!("{}: {}", e.what, e.seen)).collect();
        match (self.scratch.last_says.as_str(), seen.is_empty()) {
            ("", _) => "no sample was taken".into(),
            (says, true) => says.into(),
            (says, false) => format!("{says} ({})", seen.join("; ")),
        }
    }

    // ---- next -------------------------------------------------------------------------------------------------------

    /// What to do is a function of the state alone, so a resumed run needs no path of its own.
    fn next(&mut self) -> Ask {
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
            while !self.outbox.is_empty() {
                self.settle_line(0);
            }
        } else if let Some(lease) = &self.lease
            && !self.outbox.is_empty()
        {
            return Flow::Ask(self.append(lease.clone(), reply));
        }
        if let Some(outcome) = &self.fold.outcome {
            return Flow::Ask(Ask::Finish(outcome.clone()));
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
                self.put(Entry::Identified(identity));
                return Flow::Again;
            }
            Some(was) if *was != identity && !self.has(Bug::IgnoreIdentity) => {
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
            let last = self.fold.unclear.as_ref().map(|why| format!("; the last write: {why}")).unwrap_or_default();
            self.refuse(format!("the deadline of {deadline:?} is over{last}"), "more time (Policy::with_deadline)");
            return Flow::Again;
        }
        if self.fold.chosen.is_none() {
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
        let line = |(i, p): (usize, &Pending)| {
            Line::new(self.seq + i as u64, lease.epoch, p.at, p.elapsed, p.acted, p.entry.clone())
        };
        let lines: Vec<Line> = self.outbox.iter().enumerate().map(line).collect();
        self.scratch.sent = lines.len();
        Ask::Append { lease, lines, within }
    }

    fn observe(&mut self, within: Duration) -> Ask {
        // Quick is enough to wait for what was sent; what a plan, a write or the end rests on is looked at in full.
        let waiting = self.fold.doing.as_ref().is_some_and(|d| d.done) || self.fold.reached.is_some();
        let quick = waiting && self.scratch.final_since.is_none();
        self.scratch.full = !quick;
        let run = self.intent.as_ref().map(|i| i.run.clone());
        let mark = run.and_then(|run| self.fold.mark(&run, self.elapsed));
        let look = if quick { Look::quick() } else { Look::full() };
        Ask::Observe { look: look.with_mark(mark), within }
    }

    fn plan(&self) -> Flow {
        let (Some(intent), Some(chosen), Some(seen)) = (&self.intent, &self.fold.chosen, &self.scratch.seen) else {
            return Flow::Again;
        };
        let mut situation = Situation::new(
            intent.target.clone(),
            self.capabilities.clone(),
            (**seen).clone(),
            chosen.suspect.clone(),
            chosen.wanted.clone(),
        );
        situation.floor = intent.policy.floor;
        Flow::Ask(Ask::Plan(Box::new(situation)))
    }

    /// All that comes before the first write of a rung: prepare, approve, freeze, try elsewhere, keep evidence.
    fn make_ready(&mut self) -> Option<Flow> {
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
        if let Some((digest, of)) = self.wants_approval() {
            let within = policy.approval_within;
            self.scratch.asking = Some(digest.clone());
            return Some(Flow::Ask(Ask::Approve { digest, of, within }));
        }
        if let Some(name) = self.next_freeze() {
            if !self.fold.freezing.contains(&name) {
                self.put(Entry::Freezing { name });
                return Some(Flow::Again);
            }
            let hold = Hold::new(intent.run.clone(), intent.target.clone(), intent.who.clone(), intent.why.clone())
                .with_until(policy.freeze_for.map(|time| self.wall.after(time)));
            return Some(Flow::Ask(Ask::Freeze { name, hold: Box::new(hold), within: policy.reply_within }));
        }
        if let Some((name, window)) = intent.trial.clone().filter(|_| !self.fold.tried) {
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

    fn wants_approval(&self) -> Option<(Digest, Vec<String>)> {
        let (intent, prepared) = (self.intent.as_ref()?, self.fold.prepared.as_ref()?);
        let mut of: Vec<String> = vec![];
        if intent.policy.approvals {
            of.extend(prepared.iter().filter_map(|a| a.needs_approval.clone()));
        }
        if self.fold.overridden
            && let Some(chosen) = &self.fold.chosen
        {
            let why = intent.policy.known_bad.as_deref().unwrap_or_default();
            of.push(format!("goes to {}, which is known bad: {why}", chosen.wanted.id));
        }
        if of.is_empty() {
            return None;
        }
        let all: Vec<String> = prepared.iter().map(|a| a.digest().to_string()).collect();
        let digest = Digest::of(all.join("\n").as_bytes());
        (!self.fold.approvals.contains(&digest)).then_some((digest, of))
    }

    fn next_freeze(&self) -> Option<String> {
        self.intent.as_ref()?.freezes.iter().find(|name| !self.fold.froze.contains_key(*name)).cloned()
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

    /// Where a window stands.
    fn window(&self, window: Window, since: Duration) -> Sampling {
        let passed = self.elapsed.saturating_sub(since);
        if passed < window.settle {
            return Sampling::Sleep(window.settle - passed);
        }
        if self.scratch.sampled
            && self.scratch.held_since.is_some_and(|held| self.elapsed.saturating_sub(held) >= window.hold)
        {
            return Sampling::Held;
        }
        if self.scratch.sampled && self.scratch.held_since.is_none() && passed >= window.settle + window.within {
            return Sampling::Over;
        }
        if self.scratch.sampled {
            Sampling::Sleep(window.every.max(Duration::from_millis(1)))
        } else {
            Sampling::Sample
        }
    }

    // ---- one step ---------------------------------------------------------------------------------------------------

    fn carry_out(&mut self) -> Flow {
        let (Some(step), Some(seen)) = (self.current().cloned(), self.scratch.seen.clone()) else { return Flow::Again };
        let satisfied = self.satisfied(&step.change, &seen);
        match self.fold.doing.clone() {
            None => {
                if !self.scratch.full {
                    self.scratch.seen = None;
                    return Flow::Again;
                }
                self.begin_step(self.fold.at, &step, &seen);
                Flow::Again
            }
            Some(doing) if !doing.done => self.write(&step, &seen, &doing, satisfied),
            Some(doing) => self.settle(&step, &seen, &doing, satisfied),
        }
    }

    fn satisfied(&self, change: &Change, seen: &Observation) -> bool {
        if self.has(Bug::TrustWanted) { judge::told(change, seen) } else { judge::satisfied(change, seen) }
    }

    /// The intent of a step, or that it needs no write. Judged on a full look; the write itself rests on a later one.
    fn begin_step(&mut self, at: At, step: &Step, seen: &Observation) {
        if self.satisfied(&step.change, seen) {
            return self.put(Entry::AlreadySo { at });
        }
        if let Some(why) = self.below_floor(&step.change, seen) {
            let since = *self.scratch.unclear_since.get_or_insert(self.elapsed);
            if self.elapsed.saturating_sub(since) > step.settle_within {
                return self.fail_rung(why);
            }
            self.events.push(EventKind::Waiting { why });
            self.scratch.sleep = Some(self.policy().poll);
            return;
        }
        let Some(approved) = self.fold.prepared.as_ref().and_then(|p| p.get(at.step)) else { return };
        let approved = approved.digest();
        let entry = Entry::Doing { at, approved };
        if self.has(Bug::SkipIntent) && !self.unjournalled {
            let line = Line::new(self.seq, 0, self.wall, self.elapsed, self.acted, entry);
            self.fold.take(&line);
        } else {
            self.put(entry);
        }
        // Read once more: what that read shows is judged, and its token guards the write.
        self.scratch.seen = None;
        self.scratch.armed = true;
        self.scratch.unclear_since = None;
    }

    /// Capacity is only taken away while enough of it is really ready.
    fn below_floor(&self, change: &Change, seen: &Observation) -> Option<String> {
        if self.has(Bug::SkipFloor) {
            return None;
        }
        let plan = self.fold.plan.as_ref()?;
        let floor = plan.rungs.get(self.fold.at.rung)?.floor;
        if floor == Weight::NONE {
            return None;
        }
        let needed = floor.of(plan.begins_at.serving_capacity()?);
        let left = judge::left_serving(change, seen)?;
        (left < needed).then(|| format!("only {left} ready instances would go on serving, and {needed} are the floor"))
    }

    /// The intent is durable, the outcome is not known.
    fn write(&mut self, step: &Step, seen: &Observation, doing: &Doing, satisfied: bool) -> Flow {
        let at = self.fold.at;
        if satisfied && doing.partial.is_none() {
            // Seen to have happened, before or behind a lost answer.
            self.put(Entry::Did { at, applied: crate::Applied::submitted() });
            self.scratch.armed = false;
            return Flow::Again;
        }
        if !self.scratch.armed && !self.has(Bug::BlindRetry) {
            let resumed = self.scratch.unclear_since.is_none();
            let since = *self.scratch.unclear_since.get_or_insert(self.elapsed);
            let patient = self.elapsed.saturating_sub(since) < self.policy().look_again_for;
            let told = judge::told(&step.change, seen);
            let on_unknown = self.capabilities.on_unknown(&step.change);
            let happened = match on_unknown {
                OnUnknown::Again => false,
                OnUnknown::FindByKey => matches!(seen.ours, Ours::Current | Ours::Complete),
                OnUnknown::Observe | OnUnknown::AskHuman => told || matches!(seen.ours, Ours::Current | Ours::Complete),
            };
            if happened {
                self.put(Entry::Did { at, applied: crate::Applied::submitted() });
                return Flow::Again;
            }
            // What fails at once must not be sent as fast as it fails.
            let hasty = !resumed && self.elapsed.saturating_sub(since) < self.policy().poll;
            if on_unknown == OnUnknown::Again && hasty && !self.patience_over(step) {
                return Flow::Ask(Ask::Sleep(self.policy().poll));
            }
            if on_unknown != OnUnknown::Again && (patient || seen.ours == Ours::Pending) && !self.patience_over(step) {
                return Flow::Ask(Ask::Sleep(self.policy().poll));
            }
            if on_unknown == OnUnknown::AskHuman {
                let at = format!("{}: its answer was lost, and nobody can tell whether it happened", step.name);
                self.stuck(at, Some("look on the platform whether it happened".into()));
                return Flow::Again;
            }
        }
        if self.patience_over(step) && !self.scratch.armed {
            let why = self.fold.unclear.clone().unwrap_or_else(|| "no answer".into());
            self.fail_rung(format!(
                "{} was tried for {:?}, and whether it happened is not known: {why}",
                step.name, step.settle_within
            ));
            return Flow::Again;
        }
        // The floor is judged on the very read whose token guards the write.
        if let Some(why) = self.below_floor(&step.change, seen) {
            if self.patience_over(step) {
                self.fail_rung(why);
                return Flow::Again;
            }
            self.events.push(EventKind::Waiting { why });
            return Flow::Ask(Ask::Sleep(self.policy().poll));
        }
        let approved = self.fold.prepared.as_ref().and_then(|p| p.get(at.step)).cloned();
        let (Some(approved), Some(intent), Some(chosen)) = (approved, &self.intent, &self.fold.chosen) else {
            self.stuck("what was prepared is missing in the journal".into(), None);
            return Flow::Again;
        };
        let trace = Trace {
            run: intent.run.clone(),
            left: chosen.suspect.clone(),
            reached: chosen.wanted.id.clone(),
            at: self.wall,
        };
        // Whatever the answer is, it is read anew afterwards: nothing is held meanwhile.
        self.scratch.seen = None;
        Flow::Ask(Ask::Apply {
            at,
            approved,
            token: seen.token.clone(),
            trace: Box::new(trace),
            within: step.settle_within,
        })
    }

    fn patience_over(&self, step: &Step) -> bool {
        let since = self.fold.step_since.unwrap_or(self.elapsed);
        self.elapsed.saturating_sub(since) > step.settle_within
    }

    /// The write is done: wait until it stands, then go through the gates.
    fn settle(&mut self, step: &Step, seen: &Observation, doing: &Doing, satisfied: bool) -> Flow {
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
            return Flow::Ask(Ask::Sleep(poll));
        }
        let gate = if self.has(Bug::SkipGate) { None } else { step.gates.get(self.scratch.gate).cloned() };
        let Some(gate) = gate else {
            self.step_done(seen);
            return Flow::Again;
        };
        self.gate(step, gate, seen, poll)
    }

    fn verb_stands(&self, doing: &Doing, seen: &Observation) -> bool {
        doing.stands || matches!(seen.ours, Ours::Complete)
    }

    fn gate(&mut self, step: &Step, gate: Gate, seen: &Observation, poll: Duration) -> Flow {
        let since = *self.scratch.gate_since.get_or_insert(self.elapsed);
        let passed = self.elapsed.saturating_sub(since);
        let over = passed > step.gates_within;
        let holds = match &gate {
            Gate::Ready { part, at_least } => {
                seen.parts.get(part).and_then(|p| p.ready).is_some_and(|n| n >= *at_least)
            }
            Gate::Pause(time) => {
                let since = *self.scratch.held_since.get_or_insert(self.elapsed);
                let left = time.saturating_sub(self.elapsed.saturating_sub(since));
                if !left.is_zero() {
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
                if self.intent.as_ref().is_none_or(|i| i.health.is_none()) {
                    true
                } else if self.scratch.sampled {
                    self.scratch.held_since.is_some_and(|held| self.elapsed.saturating_sub(held) >= *hold)
                } else {
                    let written = self.fold.last.as_ref().map_or(Duration::ZERO, |last| last.2);
                    let since = self.elapsed.saturating_sub(written);
                    return Flow::Ask(Ask::Check { part: part.clone(), since, within: self.policy().check_within });
                }
            }
        };
        // That nobody can tell does not keep a person at the glass from going on. That once it was unhealthy does.
        let blind = self.scratch.last_says == "unknown" && !self.scratch.ill && matches!(gate, Gate::Healthy { .. });
        let gone_on = blind && self.policy().take_over && passed >= self.policy().reply_within;
        if gone_on && let Gate::Healthy { part, .. } = &gate {
            let what = format!("health of {part} after {}", step.name);
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
        Flow::Ask(Ask::Sleep(poll))
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

    // ---- verification -----------------------------------------------------------------------------------------------

    fn verify(&mut self) -> Flow {
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
        match self.window(window, self.fold.verify_since) {
            Sampling::Held => {
                let evidence = std::mem::take(&mut self.scratch.last_sample);
                self.fresh_step();
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
                let within = intent.policy.check_within;
                let since = self.elapsed.saturating_sub(self.fold.verify_since);
                Flow::Ask(Ask::Verify { nth, since, within })
            }
        }
    }

    fn not_helped(&mut self, why: String) {
        let last = self.fold.plan.as_ref().is_none_or(|plan| self.fold.at.rung + 1 >= plan.rungs.len());
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
        let (Some(seen), Some(chosen)) = (&self.scratch.seen, &self.fold.chosen) else { return Flow::Again };
        let wrong = judge::still_serves(&chosen.suspect, seen).or_else(|| judge::serves_hopelessly(seen));
        if let Some(why) = wrong.filter(|_| !self.has(Bug::TrustWanted)) {
            // The read may be a stale one.
            if self.elapsed.saturating_sub(since) < self.policy().reply_within {
                return Flow::Ask(Ask::Sleep(self.policy().poll));
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

use crate::Settled;

enum Sampling {
    Sample,
    Sleep(Duration),
    Held,
    Over,
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

fn said_health(health: Health) -> (bool, &'static str, Vec<crate::Evidence>) {
    match health {
        Health::Healthy(e) => (true, "healthy", e),
        Health::Unhealthy(e) => (false, "unhealthy", e),
        Health::Unknown(e) => (false, "unknown", e),
    }
}

fn said_verdict(verdict: Verdict) -> (bool, &'static str, Vec<crate::Evidence>) {
    match verdict {
        Verdict::Holds(e) => (true, "holds", e),
        Verdict::Fails(e) => (false, "fails", e),
        Verdict::Unknown(e) => (false, "unknown", e),
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
    )
}
