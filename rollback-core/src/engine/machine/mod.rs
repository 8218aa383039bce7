//! `step(state, answer, now) -> (state, effects)`: no clock, no ids, no I/O. State, answers and effects are serde, so the
//! same machine runs under the driver of this crate, under a durable workflow engine, and in the simulator.
//!
//! Durable state changes only by folding a `Line` whose append was acknowledged. What to do next is a function of the
//! state alone; a crash, a lost answer and a fresh start are one path.
//!
//! Here: the state, and one step of it. Its answers are taken in by `answers`, `choose` and `plan`; what is next is
//! found by `next`, in the order `ready`, `write`, `settle`, `verify`; `end` is how a run ends.

mod answers;
mod choose;
mod end;
mod freeze;
mod next;
mod plan;
mod ready;
mod sample;
mod settle;
mod verify;
mod write;

use super::{
    ask::{Answer, Ask, Effects},
    bug::Bug,
    fold::Fold,
};
use crate::{
    Approved, Capabilities, Chosen, Digest, Entry, EventKind, Identity, Intent, Lease, Line, Now, Observation, Policy,
    Release, ReleaseId, Step, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Is lost in a crash, and that is fine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Scratch {
    /// What the quick look at the beginning said.
    identity: Option<Box<Identity>>,
    /// The latest read.
    seen: Option<Arc<Observation>>,
    /// The latest read was a full one.
    full: bool,
    preparing: Vec<Arc<Approved>>,
    findings: Vec<crate::Finding>,
    /// For a dry run: the run of this target that has not ended.
    unfinished: Option<Box<crate::RunSummary>>,
    /// The intent of the write became durable in this process, and no answer was lost since.
    armed: bool,
    /// The last write said that it is done: one look, before that is journalled.
    look_first: bool,
    /// The time of the step is over, and its write was refused because something had changed: one look, and it has failed.
    given_up: Option<String>,
    /// Since when the outcome of a write is unknown.
    unclear_since: Option<Duration>,
    gate: usize,
    gate_since: Option<Duration>,
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
    freezing: Option<Box<freeze::Freezing>>,
    /// What an approval is asked for.
    asking: Option<Digest>,
    /// Another process, or an earlier call, has begun it.
    adopted: bool,
    /// The goal is that of a run that was taken over.
    goes_on: bool,
    /// Since when a `begin` may have happened without an answer.
    unanswered: Option<Duration>,
    /// Since when calls that may be repeated fail.
    failing_since: Option<Duration>,
    /// Since when the last look of the run says no.
    final_since: Option<Duration>,
    /// What was chosen and turned out to be gone.
    gone: Vec<ReleaseId>,
    /// Another one is to be chosen in its place.
    choose_again: bool,
    /// What is waited for.
    waiting: Option<Box<str>>,
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
    /// Lines of the append under way. They are shared with it, not copied: ten thousand runs must fit into memory.
    sent: Arc<Vec<Line>>,
    /// Lines that come after those, and are not durable either.
    outbox: Vec<Line>,
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
    let effects = state.step(answer, now);
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
            sent: Arc::default(),
            outbox: vec![],
            last: None,
            wall: Timestamp::default(),
            elapsed: Duration::ZERO,
            acted: Duration::ZERO,
            idle: false,
            events: vec![],
            bug: None,
        }
    }
    /// [`step`], in place.
    pub fn step(&mut self, answer: Answer, now: Now) -> Effects {
        let passed = now.mono.saturating_sub(self.last.unwrap_or(now.mono));
        self.last = Some(now.mono);
        self.wall = now.wall;
        self.elapsed += passed;
        if !self.idle {
            self.acted += passed;
        }
        self.absorb(answer);
        let ask = self.next();
        self.idle = matches!(ask, Ask::Approve { .. } | Ask::Verify { .. })
            || (self.fold.reached.is_some() && matches!(ask, Ask::Sleep(_) | Ask::Await(_)));
        Effects { events: std::mem::take(&mut self.events), ask }
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
    /// What the target can do.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    /// Which object it is.
    pub(super) fn identity(&self) -> Option<&crate::Identity> {
        self.fold.identity.as_ref()
    }
    /// Its lease, if it has one.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
    /// The release that is left, and the one that was chosen.
    pub fn chosen(&self) -> Option<(&ReleaseId, &Release)> {
        self.fold.goal.as_ref().map(|goal| (&goal.suspect, &goal.wanted))
    }
    pub(super) fn goal(&self) -> Option<&Chosen> {
        self.fold.goal.as_deref()
    }
    /// The release that is to serve now: the chosen one, unless a later rung has set another.
    pub fn bringing(&self) -> Option<&ReleaseId> {
        self.fold.other.as_ref().or_else(|| self.goal().map(|goal| &goal.wanted.id))
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

    fn policy(&self) -> Arc<Policy> {
        self.intent.as_ref().map(|i| i.policy.clone()).unwrap_or_default()
    }
    fn put(&mut self, entry: Entry) {
        let seq = self.seq + (self.sent.len() + self.outbox.len()) as u64;
        // They are few, and a vector that grows by itself has room for four.
        self.outbox.reserve_exact(1);
        self.outbox.push(Line::new(seq, 0, self.wall, self.elapsed, self.acted, entry));
    }
    /// Takes all lines that are not durable, in order.
    fn unwritten(&mut self) -> Vec<Line> {
        let mut lines = Arc::unwrap_or_clone(std::mem::take(&mut self.sent));
        if lines.is_empty() {
            return std::mem::take(&mut self.outbox);
        }
        lines.append(&mut self.outbox);
        lines
    }
    fn current(&self) -> Option<&Step> {
        let at = self.fold.at;
        self.fold.plan.as_ref()?.rungs.get(at.rung)?.steps.get(at.step)
    }
    /// Its end is written, or about to be.
    fn is_ending(&self) -> bool {
        let unwritten = self.sent.iter().chain(&self.outbox);
        self.fold.outcome.is_some() || unwritten.rev().any(|line| matches!(line.entry, Entry::Ended(_)))
    }
}
