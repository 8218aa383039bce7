//! The watch as a state machine: what was read in, an outcome out. No clock, no I/O.

use super::{Evaluation, Inputs, OnNoData, Rule, RuleState, Says, WatchLine, WatchOutcome, away::SinceBoot};
use crate::{Identity, Now, Observation, ReleaseId, Running, TargetId, Timestamp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// What a watch remembers. Data: store it (see [`Watch::saving`](super::Watch::saving)) and hand it to
/// [`Watch::resume`](super::Watch::resume) in the next process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchState {
    pub(super) target: TargetId,
    pub(super) release: ReleaseId,
    pub(super) began: Timestamp,
    pub(super) first_breach: Option<Timestamp>,
    pub(super) watched: Duration,
    pub(super) evaluations: u64,
    pub(super) lines: Vec<WatchLine>,
    pub(super) boot: Option<SinceBoot>,
    pub(super) rules: Vec<(Rule, RuleState)>,
    identity: Identity,
    known: BTreeSet<ReleaseId>,
    strange: Vec<Running>,
    /// Time in which everything was clear.
    soaked: Duration,
    /// The monotonic clock at the last evaluation; means nothing in another process.
    #[serde(skip)]
    last: Option<Duration>,
}

const MOST_LINES: usize = 1000;

/// What the target showed.
pub(super) enum Shown {
    /// The release that is watched, and nothing that was not there before.
    Same,
    /// Something else.
    Other(String),
    /// It could not be read.
    Unread,
}

/// How long a watch lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasts {
    pub(super) soak: Duration,
    pub(super) at_most: Duration,
}

impl WatchState {
    pub(super) fn new(
        target: &TargetId,
        release: ReleaseId,
        found: &Observation,
        rules: &[Rule],
        began: Timestamp,
    ) -> Self {
        let coming = found.in_flight.iter().flat_map(|f| [&f.from, &f.to]).flatten();
        let told = found.parts.values().flat_map(|p| p.wanted.iter().chain(p.running.mentions()));
        let unknown = |p: &&Running| matches!(p, Running::Unknown { .. });
        Self {
            target: target.clone(),
            began,
            first_breach: None,
            watched: Duration::ZERO,
            evaluations: 0,
            lines: vec![],
            boot: None,
            rules: rules.iter().map(|rule| (rule.clone(), RuleState::default())).collect(),
            identity: found.identity.clone(),
            known: told.chain(coming).chain([&release]).cloned().collect(),
            strange: found.parts.values().map(|p| &p.running).filter(unknown).cloned().collect(),
            soaked: Duration::ZERO,
            last: None,
            release,
        }
    }

    /// The release that is watched.
    pub fn release(&self) -> &ReleaseId {
        &self.release
    }
    /// How much of the soak time is over.
    pub fn soaked(&self) -> Duration {
        self.soaked
    }

    /// Another process goes on: see [`RuleState::after_restart`].
    pub(super) fn after_restart(&mut self, away: Option<Duration>) {
        self.last = None;
        self.rules.iter_mut().for_each(|(_, state)| state.after_restart(away));
    }

    /// Whether the target still shows what is watched.
    pub(super) fn shows(&self, now: &Observation) -> Shown {
        if now.identity != self.identity {
            return Shown::Other(format!("another object: {}", now.identity));
        }
        let mut runs = false;
        for (_, part) in now.serving() {
            let stranger = match &part.running {
                unknown @ Running::Unknown { .. } => !self.strange.contains(unknown),
                running => running.mentions().iter().any(|r| !self.known.contains(*r)),
            };
            if stranger {
                return Shown::Other(part.running.to_string());
            }
            if let Some(told) = part.wanted.as_ref().filter(|told| !self.known.contains(*told)) {
                return Shown::Other(told.to_string());
            }
            runs |= part.running.mentions().contains(&&self.release);
        }
        match now.serving().next() {
            // Nothing serves: the rules will have an opinion of that, and it is no other release.
            None => Shown::Unread,
            Some((_, part)) if !runs => Shown::Other(part.running.to_string()),
            Some(_) => Shown::Same,
        }
    }

    /// One evaluation of all rules.
    pub(super) fn step(
        &mut self,
        inputs: &[Inputs],
        shown: &Shown,
        lasts: Lasts,
        now: Now,
    ) -> (Vec<Evaluation>, Option<WatchOutcome>) {
        let every = self.rules.first().map_or(Duration::ZERO, |(rule, _)| rule.every);
        // Time in which nobody looked is not time that was seen.
        let passed =
            self.last.map_or(Duration::ZERO, |last| now.mono.saturating_sub(last)).min(every.saturating_mul(2));
        let fresh = self.last.is_none();
        self.last = Some(now.mono);
        self.watched += passed;
        if let Shown::Other(by) = shown {
            return (vec![], Some(WatchOutcome::Superseded { by: by.clone() }));
        }
        self.evaluations += 1;
        let mut evaluations = vec![];
        for ((rule, state), inputs) in self.rules.iter_mut().zip(inputs) {
            let evaluation = state.evaluate(rule, inputs, now);
            let bad = matches!(evaluation.says, Says::Pending { .. } | Says::Breached { .. } | Says::Shared);
            if bad {
                self.first_breach.get_or_insert(now.wall);
            }
            let before = self.lines.iter().rev().find(|line| line.rule == rule.metric).map(|line| line.says.name());
            if before != Some(evaluation.says.name()) {
                self.lines.push(WatchLine::new(now.wall, rule, &evaluation));
            }
            evaluations.push(evaluation);
        }
        let too_many = self.lines.len().saturating_sub(MOST_LINES);
        self.lines.drain(..too_many);

        let clear = evaluations.iter().all(|e| e.says == Says::Clear) && matches!(shown, Shown::Same);
        if clear && !fresh {
            self.soaked += passed;
        }
        let outcome = self.outcome(&evaluations, clear, shown, lasts);
        (evaluations, outcome)
    }

    fn outcome(&self, evaluations: &[Evaluation], clear: bool, shown: &Shown, lasts: Lasts) -> Option<WatchOutcome> {
        let all = || self.rules.iter().map(|(rule, _)| rule).zip(evaluations);
        let suspect = || self.release.clone();
        if let Some((rule, e)) = all().find(|(_, e)| matches!(e.says, Says::Breached { .. })) {
            let (rule, evidence) = (Box::new(rule.clone()), e.evidence.clone());
            return Some(WatchOutcome::Breached { rule, suspect: suspect(), evidence });
        }
        let seen = |e: &Evaluation| e.evidence.iter().map(|e| e.seen.as_str()).collect::<Vec<_>>().join("; ");
        let blind = |(rule, e): &(&Rule, &Evaluation)| {
            matches!(e.says, Says::Blind { .. }) && rule.on_no_data == OnNoData::Escalate
        };
        if let Some((rule, e)) = all().find(blind) {
            let why = format!("no data of {} for longer than {:?}: {}", rule.metric, rule.max_gap, seen(e));
            return Some(WatchOutcome::Blind { why });
        }
        if clear && self.soaked >= lasts.soak {
            return Some(WatchOutcome::Stable { soaked: self.soaked });
        }
        if self.watched < lasts.at_most {
            return None;
        }
        if let Some((rule, e)) = all().find(|(_, e)| e.says == Says::Shared) {
            return Some(WatchOutcome::Shared { rule: Box::new(rule.clone()), evidence: e.evidence.clone() });
        }
        let last = match all().find(|(_, e)| e.says != Says::Clear) {
            Some((rule, e)) => format!("{} is {}: {}", rule.metric, e.says.name(), seen(e)),
            None if matches!(shown, Shown::Unread) => "the target cannot be read, or serves nothing".into(),
            None => "it was not clear for long enough".into(),
        };
        let why = format!(
            "only {:?} of {:?} were seen clear within {:?}; at the end {last}",
            self.soaked, lasts.soak, lasts.at_most
        );
        Some(WatchOutcome::Blind { why })
    }
}
