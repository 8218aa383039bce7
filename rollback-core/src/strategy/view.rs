//! What all planners read in a situation, and the steps that several of them need.
//!
//! Not here: the order of steps, which is what makes a strategy.

use super::Unplannable;
use crate::{
    Capacity, Change, ChangeKind, Gate, Landing, PartId, PartState, Parts, Plan, ReleaseId, Rung, Running, Situation,
    Step, Weight, Weights, When, Wish,
};
use std::time::Duration;

/// A situation, read for one strategy.
pub(super) struct View<'a> {
    pub(super) situation: &'a Situation,
    /// The strategy that asks, for reasons.
    pub(super) strategy: &'static str,
    pub(super) settle_within: Duration,
    pub(super) hold: Duration,
    /// The parts that must be left; see [`View::bad_parts`].
    pub(super) bad: Vec<&'a PartId>,
}

/// Where the good release is to serve.
pub(super) struct Candidate {
    pub(super) part: PartId,
    /// It runs the good release already.
    pub(super) runs: bool,
    /// How many instances an earlier step of the plan gave it.
    pub(super) grown: u32,
}

/// What is in flight, where it brings the suspect.
enum Flight {
    /// Nothing that matters here.
    None,
    /// It can be aborted.
    Abort {
        step: Step,
        /// It lands on the good release: there is nothing else to do.
        enough: bool,
    },
    /// It cannot be aborted, or not to a place where anybody wants to be.
    Fixed,
}

/// How a plan opens that sets releases.
pub(super) enum Opening {
    /// This is all of it.
    Whole(Plan),
    /// This comes first.
    First(Vec<Step>),
}

impl<'a> View<'a> {
    /// Reads.
    ///
    /// # Errors
    /// Where somebody else is replacing the suspect already, or the suspect is the release to go to.
    pub(super) fn of(
        situation: &'a Situation,
        strategy: &'static str,
        settle_within: Duration,
        hold: Duration,
    ) -> Result<Self, Unplannable> {
        let mut view = View { situation, strategy, settle_within, hold, bad: vec![] };
        if situation.suspect == situation.wanted.id {
            return view.refuse(format!("the release to go to is the suspect, {}", situation.suspect));
        }
        view.bad = view.bad_parts();
        view.nobody_else_replaces_it()?;
        Ok(view)
    }

    pub(super) fn refuse<T>(&self, why: impl Into<String>) -> Result<T, Unplannable> {
        Err(Unplannable { strategy: self.strategy.into(), why: why.into() })
    }

    pub(super) fn good(&self) -> &'a ReleaseId {
        &self.situation.wanted.id
    }

    pub(super) fn part(&self, id: &PartId) -> Option<&'a PartState> {
        self.situation.now.parts.get(id)
    }

    pub(super) fn can(&self, kind: ChangeKind) -> bool {
        self.situation.capabilities.changes.contains_key(&kind)
    }

    pub(super) fn weights(&self) -> Weights {
        self.situation.capabilities.weights
    }

    /// Neither a part to leave nor a deployment that brings the suspect.
    pub(super) fn nothing_to_do(&self) -> bool {
        self.bad.is_empty() && !self.suspect_in_flight()
    }

    /// Instances of all parts that are meant to serve; `None` where one is not known, or where there are none: that says
    /// nothing of how many there should be.
    pub(super) fn total(&self) -> Option<u32> {
        self.situation.now.shape().serving_capacity().filter(|total| *total > 0)
    }

    /// Parts that are meant to serve, and show the suspect or something that nobody knows, or are half way to the good release.
    /// A crashed part counts: that nothing runs there is the suspect's doing. A third, innocent release does not.
    fn bad_parts(&self) -> Vec<&'a PartId> {
        let bad = |part: &PartState| {
            let told = part.wanted.as_ref();
            meant_to_serve(part)
                && !part.runs(self.good())
                && (self.shows_suspect(part)
                    || match &part.running {
                        Running::Unknown { .. } => told.is_none_or(|told| told == self.good()),
                        Running::Nothing if part.restarts_to.is_some() => told == Some(self.good()),
                        Running::Nothing => told.is_none() && self.situation.capabilities.parts == Parts::One,
                        // Whoever was bringing it there may be gone.
                        Running::Between { to, .. } => to == self.good(),
                        Running::Release(_) | Running::Mixed(_) => false,
                    })
        };
        self.situation.now.parts.iter().filter(|(_, part)| bad(part)).map(|(id, _)| id).collect()
    }

    fn shows_suspect(&self, part: &PartState) -> bool {
        let suspect = &self.situation.suspect;
        part.wanted.as_ref() == Some(suspect) || part.running.mentions().contains(&suspect)
    }

    fn nobody_else_replaces_it(&self) -> Result<(), Unplannable> {
        let third = |release: &&ReleaseId| **release != self.situation.suspect && *release != self.good();
        let told = self.bad.iter().find_map(|id| {
            let by = self.part(id)?.wanted.as_ref().filter(third)?;
            Some(format!("{id} is being brought to {by} already: wait for it, or name {by} as the suspect"))
        });
        let coming = || {
            let by = self.situation.now.in_flight.as_ref()?.to.as_ref().filter(third)?;
            Some(format!("a deployment of {by} is in flight: wait for it, or name {by} as the suspect"))
        };
        match told.or_else(|| coming().filter(|_| !self.bad.is_empty())) {
            Some(why) => self.refuse(why),
            None => Ok(()),
        }
    }

    /// A deployment of the suspect; or one that does not say of what, while the suspect serves.
    fn suspect_in_flight(&self) -> bool {
        let Some(flight) = &self.situation.now.in_flight else { return false };
        match &flight.to {
            Some(to) => *to == self.situation.suspect,
            None => self.bad.iter().any(|id| flight.is_about(id)),
        }
    }

    /// The platform may take back what is in flight faster than anybody else can. Only where that is about the one bad part:
    /// an abort is done when all that serves is where it lands.
    fn flight(&self) -> Flight {
        if !self.suspect_in_flight() {
            return Flight::None;
        }
        let known = |id: &&PartId| self.part(id).is_some_and(|part| self.shows_suspect(part));
        let elsewhere = |(id, part): (&PartId, &PartState)| !self.bad.contains(&id) && !part.runs(self.good());
        let alone = self.bad.len() <= 1 && self.bad.iter().all(known) && !self.situation.now.serving().any(elsewhere);
        let landing = self.situation.now.in_flight.as_ref().and_then(|flight| flight.abort.clone());
        match landing.filter(|_| alone && self.can(ChangeKind::Abort)) {
            Some(landing) if landing == Landing::Unsaid || landing == Landing::On(self.good().clone()) => {
                let enough = landing != Landing::Unsaid;
                let change = Change::Abort { expect: landing, never: self.situation.suspect.clone() };
                let gates =
                    if enough { self.bad.iter().flat_map(|id| self.serving_gates(id)).collect() } else { vec![] };
                Flight::Abort { step: self.step("abort what is in flight", change, gates), enough }
            }
            _ => Flight::Fixed,
        }
    }

    /// All its instances are ready, and it is healthy for the hold.
    pub(super) fn serving_gates(&self, id: &PartId) -> Vec<Gate> {
        let ready = self.part(id).and_then(|part| part.restarts_to.or(part.capacity)).filter(|n| *n > 0);
        let ready = ready.map(|at_least| Gate::Ready { part: id.clone(), at_least });
        ready.into_iter().chain([Gate::Healthy { part: id.clone(), hold: self.hold }]).collect()
    }

    /// A step whose gates have time enough for their own holds and pauses.
    pub(super) fn step(&self, name: impl Into<String>, change: Change, gates: Vec<Gate>) -> Step {
        let waits: Duration = gates
            .iter()
            .map(|gate| match gate {
                Gate::Healthy { hold, .. } => *hold,
                Gate::Pause(time) => *time,
                Gate::Ready { .. } | Gate::Approval { .. } => Duration::ZERO,
            })
            .sum();
        Step::new(name, change, self.settle_within).with_gates(gates, self.settle_within + waits)
    }

    /// A pause after the last step.
    pub(super) fn pause_after(&self, steps: &mut [Step], time: Duration) {
        if let Some(last) = steps.last_mut().filter(|_| !time.is_zero()) {
            last.gates.push(Gate::Pause(time));
            last.gates_within += time;
        }
    }

    /// Parts back onto the good release, where they are, in one write.
    ///
    /// # Errors
    /// Where one has no instances, and it is not known how many a restart took away: then it would not serve afterwards
    /// either.
    pub(super) fn in_place(&self, ids: &[&PartId]) -> Result<Step, Unplannable> {
        let down = |part: &PartState| part.capacity == Some(0) && part.restarts_to.is_none();
        if let Some(id) = ids.iter().find(|id| self.part(id).is_some_and(down)) {
            return self.refuse(format!("{id} has no instances, and how many it needs is not known"));
        }
        let names = match ids {
            [a, b, c, _, ..] => format!("{a}, {b}, {c} and {} more", ids.len() - 3),
            few => few.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", "),
        };
        let wish = |id: &&PartId| {
            let capacity = self.part(id).and_then(|part| part.restarts_to).map(Capacity::AtLeast);
            ((*id).clone(), Wish { release: Some(self.good().clone()), capacity, ..Wish::default() })
        };
        let gates = ids.iter().flat_map(|id| self.serving_gates(id)).collect();
        Ok(self.step(format!("{names} back to {}", self.good()), Change::reach(ids.iter().map(wish)), gates))
    }

    /// All bad parts set back where they are, one after the other.
    pub(super) fn each_in_place(&self) -> Result<Vec<Step>, Unplannable> {
        let step = |id: &&PartId| match self.part(id) {
            // Only its instances are missing.
            Some(PartState { wanted: Some(told), restarts_to: Some(n), .. }) if told == self.good() => {
                Ok(self.grow(id, *n))
            }
            _ => self.in_place(&[id]),
        };
        self.bad.iter().map(step).collect()
    }

    /// A part that runs the good release, the one that serves with the most instances first.
    pub(super) fn good_part(&self) -> Option<&'a PartId> {
        let best = |part: &PartState| (part.serves(), part.ready.or(part.capacity));
        let mut found: Option<(&PartId, &PartState)> = None;
        for (id, part) in self.situation.now.parts.iter().filter(|(_, part)| part.runs(self.good())) {
            if found.is_none_or(|(_, other)| best(part) > best(other)) {
                found = Some((id, part));
            }
        }
        found.map(|(id, _)| id)
    }

    /// The parts that are to serve once it is over: the one that has the good release, else the bad ones, which get it.
    pub(super) fn to_serve(&self) -> impl Iterator<Item = &'a PartId> {
        let good = self.good_part();
        let bad = if good.is_some() { vec![] } else { self.bad.clone() };
        good.into_iter().chain(bad)
    }

    /// How many instances a part is to have that is started anew: what it had; where it is to carry all, what all had.
    pub(super) fn restart_to(&self, id: &PartId) -> Option<u32> {
        let had = self.part(id).and_then(|part| part.restarts_to.or(part.capacity));
        let all = if self.good_part().is_some() { self.total() } else { None };
        had.max(all).filter(|n| *n > 0)
    }

    /// The part that is to carry the good release.
    pub(super) fn candidate(&self) -> Result<Candidate, Unplannable> {
        if let Some(id) = self.good_part() {
            return Ok(Candidate { part: id.clone(), runs: true, grown: 0 });
        }
        match self.situation.capabilities.parts {
            Parts::One => self.refuse("there is only one part"),
            Parts::PerRelease => {
                let part = PartId::new(self.good().as_str());
                match self.part(&part) {
                    Some(state) if state.running != Running::Nothing => {
                        self.refuse(format!("{part} runs {}, not what it is called", state.running))
                    }
                    _ => Ok(Candidate { part, runs: true, grown: 0 }),
                }
            }
            Parts::Made => Ok(Candidate { part: PartId::new(format!("with-{}", self.good())), runs: false, grown: 0 }),
            Parts::Places => {
                let mut idle: Vec<_> =
                    self.situation.now.parts.iter().filter(|(_, part)| !meant_to_serve(part)).collect();
                // What was told to run it can: another place may never have had it.
                idle.sort_by_key(|(_, part)| part.wanted.as_ref() != Some(self.good()));
                match idle.first() {
                    Some((id, _)) => Ok(Candidate { part: (*id).clone(), runs: false, grown: 0 }),
                    None => self.refuse("no part is idle: all are meant to serve, and none runs the wanted release"),
                }
            }
        }
    }

    /// Instances before traffic: a step that makes room on the good part for this share of the traffic, where one can be
    /// made.
    ///
    /// # Errors
    /// Where there is too little room and no way to make more.
    pub(super) fn room(&self, good: &PartId, share: Weight) -> Result<Option<Step>, Unplannable> {
        let part = self.part(good);
        let share = match self.weights() {
            Weights::Exact { .. } => share.min(self.shares(good)?.1),
            _ => share,
        };
        let Some(needed) = self.total().map(|total| share.of(total)) else {
            return match part.map(|part| part.capacity) {
                Some(Some(0)) => self.refuse(format!("{good} has no instances, and how many it needs is not known")),
                _ => Ok(None),
            };
        };
        if self.can(ChangeKind::Capacity) {
            return Ok(Some(self.grow(good, needed)));
        }
        match part.and_then(|part| part.ready.or(part.capacity)) {
            Some(has) if has < self.situation.floor.of(needed).max(needed.min(1)) => self.refuse(format!(
                "{good} is too small: {has} of {needed} instances are ready, and this target cannot make more of them"
            )),
            _ => Ok(None),
        }
    }

    /// The good release on its part, with instances enough for this share, ready and healthy; nothing of the traffic yet,
    /// where traffic is not shared by instances.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub(super) fn made_ready(&self, good: &mut Candidate, share: Weight) -> Result<Option<Step>, Unplannable> {
        if good.runs {
            return Ok(None);
        }
        let needed = match self.weights() {
            Weights::ByCapacity => Some(share.of(self.instances(&good.part)?.1)),
            _ => self.total().map(|total| share.of(total)),
        };
        let grows = needed.filter(|_| self.can(ChangeKind::Capacity));
        if grows.is_none() {
            self.room(&good.part, share)?;
        }
        let moves = !matches!(self.weights(), Weights::None | Weights::ByCapacity) && self.can(ChangeKind::Traffic);
        let made = self.situation.capabilities.parts == Parts::Made;
        // One write: without instances, a release that was set can be neither seen running nor healthy.
        let wish = Wish {
            release: Some(self.good().clone()),
            weight: (moves && made).then_some(Weight::NONE),
            capacity: grows.map(Capacity::AtLeast),
        };
        let part = &good.part;
        let mut name = format!("{} onto {part}", self.good());
        let mut gates = vec![];
        if let Some(n) = grows {
            name = format!("{name}, up to {n}");
            gates.push(Gate::Ready { part: part.clone(), at_least: n });
            good.grown = n;
        }
        gates.push(Gate::Healthy { part: part.clone(), hold: Duration::ZERO });
        Ok(Some(self.step(name, Change::reach([(part.clone(), wish)]), gates)))
    }

    /// At least so many instances, ready and healthy. Also where they are there: it pins an autoscaler's minimum.
    pub(super) fn grow(&self, part: &PartId, n: u32) -> Step {
        let gates = vec![
            Gate::Ready { part: part.clone(), at_least: n },
            Gate::Healthy { part: part.clone(), hold: Duration::ZERO },
        ];
        self.step(format!("{part} up to {n}"), Change::capacity(part, Capacity::AtLeast(n)), gates)
    }

    /// Brings this share of the traffic to the good part, from the bad ones; however this target makes shares. A third,
    /// innocent release keeps what it has.
    pub(super) fn shift(&self, good: &Candidate, share: Weight) -> Result<Vec<Step>, Unplannable> {
        match self.weights() {
            Weights::None => self.refuse("this target cannot share traffic among parts"),
            Weights::ByCapacity => self.shift_instances(good, share),
            Weights::Switch if share != Weight::ALL => self.refuse("traffic can only be switched whole"),
            Weights::Switch => match self.innocent(&good.part)[..] {
                [] => Ok(vec![self.traffic(&good.part, Weight::ALL, self.bad.iter().map(|id| (*id, Weight::NONE)))]),
                [other, ..] => self.refuse(format!("{other} serves too, and is not to be touched")),
            },
            Weights::Exact { grain, at_once } => self.shift_weights(&good.part, share, grain, at_once),
        }
    }

    fn traffic<'b>(&self, good: &PartId, share: Weight, bad: impl Iterator<Item = (&'b PartId, Weight)>) -> Step {
        let weights = bad.map(|(id, weight)| (id.clone(), weight)).chain([(good.clone(), share)]);
        let gates = vec![Gate::Healthy { part: good.clone(), hold: self.hold }];
        self.step(format!("traffic {share} to {good}"), Change::traffic(weights), gates)
    }

    /// Other parts that have traffic: theirs is not to be touched.
    fn innocent(&self, good: &PartId) -> Vec<&'a PartId> {
        let parts = self.situation.now.parts.iter();
        let others = parts.filter(|(_, part)| meant_to_serve(part) && (part.weight.is_some() || part.serves()));
        others.map(|(id, _)| id).filter(|id| *id != good && !self.bad.contains(id)).collect()
    }

    fn weight(&self, id: &PartId) -> Option<Weight> {
        self.part(id).and_then(|part| part.weight)
    }

    /// What the good part has of the traffic, and what it can have at the most: all but the share of innocent releases.
    ///
    /// # Errors
    /// Where a share is not known.
    pub(super) fn shares(&self, good: &PartId) -> Result<(Weight, Weight), Unplannable> {
        if self.weights() == Weights::ByCapacity {
            let (own, all) = self.instances(good)?;
            return Ok((Weight::ratio(own.into(), all.into()), Weight::ALL));
        }
        let serves = self.part(good).is_some_and(PartState::serves);
        let own = match self.weight(good) {
            Some(own) => own,
            None if serves => return self.refuse(format!("what share {good} has is not known")),
            None => Weight::NONE,
        };
        if self.innocent(good).is_empty() {
            return Ok((own, Weight::ALL));
        }
        let Some(bad) = self.bad.iter().map(|id| Some(u32::from(self.weight(id)?.points()))).sum::<Option<u32>>()
        else {
            return self.refuse("another release serves too, and what share the bad one has is not known");
        };
        let all = (u32::from(own.points()) + bad).min(u32::from(Weight::ALL.points()));
        Ok((own, Weight::basis_points(all as u16)))
    }

    fn shift_weights(&self, good: &PartId, share: Weight, grain: u16, at_once: u8) -> Result<Vec<Step>, Unplannable> {
        let (_, all) = self.shares(good)?;
        let share = share.min(all);
        if share != all && share.points() % grain.max(1) != 0 {
            return self.refuse(format!("a share of {share} is not a multiple of {}", Weight::basis_points(grain)));
        }
        // What is left stays with the bad parts, the first ones first: none ever gets more than it has.
        let mut rest = all.points() - share.points();
        let mut kept = vec![];
        for id in &self.bad {
            let keeps = match self.weight(id) {
                _ if rest == 0 => 0,
                None if self.bad.len() > 1 => return self.refuse(format!("what share {id} has is not known")),
                Some(has) if self.bad.len() > 1 => has.points().min(rest),
                _ => rest,
            };
            rest -= keeps;
            kept.push((*id, Weight::basis_points(keeps)));
        }
        let serving = 1 + kept.iter().filter(|(_, weight)| *weight > Weight::NONE).count() + self.innocent(good).len();
        if serving > usize::from(at_once) {
            return self.refuse(format!("{serving} parts would serve at once, and this target allows {at_once}"));
        }
        Ok(vec![self.traffic(good, share, kept.into_iter())])
    }

    /// Instances of the good part, and of it and the bad ones together.
    fn instances(&self, good: &PartId) -> Result<(u32, u32), Unplannable> {
        let count = |id: &PartId| self.part(id).map_or(Some(0), |part| part.capacity);
        let Some((own, bad)) = count(good).zip(self.bad.iter().map(|id| count(id)).sum::<Option<u32>>()) else {
            return self.refuse("traffic is shared by instances, and how many there are is not known");
        };
        Ok((own, own.saturating_add(bad)))
    }

    fn shift_instances(&self, good: &Candidate, share: Weight) -> Result<Vec<Step>, Unplannable> {
        let (grown, good) = (good.grown, &good.part);
        let (own, all) = self.instances(good)?;
        let wanted = share.of(all);
        if wanted <= own && share != Weight::ALL {
            return Ok(vec![]);
        }
        let mut steps = vec![];
        if wanted > grown {
            steps.push(self.grow(good, wanted));
        }
        let mut rest = all - wanted;
        for id in &self.bad {
            let keeps = self.part(id).and_then(|part| part.capacity).unwrap_or(0).min(rest);
            rest -= keeps;
            steps.push(self.step(
                format!("{id} down to {keeps}"),
                Change::capacity(id, Capacity::Exactly(keeps)),
                vec![],
            ));
        }
        if let Some(last) = steps.pop() {
            let gates = vec![Gate::Healthy { part: good.clone(), hold: self.hold }];
            let gates = last.gates.into_iter().chain(gates).collect();
            steps.push(self.step(last.name, last.change, gates));
        }
        Ok(steps)
    }

    /// The good release is there already, serving or kept warm: room on it, then all of the traffic. `None` where it is
    /// not, or where traffic cannot be moved.
    pub(super) fn cut_off(&self) -> Option<Result<Vec<Step>, Unplannable>> {
        let there = match self.situation.capabilities.parts {
            Parts::PerRelease => true,
            _ => self.weights() != Weights::None && self.good_part().is_some(),
        };
        there.then(|| self.all_to(&self.candidate()?))
    }

    /// Room, then all of the traffic.
    pub(super) fn all_to(&self, good: &Candidate) -> Result<Vec<Step>, Unplannable> {
        let has_room = self.shares_by_instances() || good.grown > 0;
        let room = if has_room { None } else { self.room(&good.part, Weight::ALL)? };
        Ok(room.into_iter().chain(self.shift(good, Weight::ALL)?).collect())
    }

    /// As [`View::room`], only where the part has fewer instances ready, and none are being made.
    pub(super) fn missing_room(&self, good: &Candidate, share: Weight) -> Result<Option<Step>, Unplannable> {
        let ready = self.part(&good.part).filter(|_| good.runs).and_then(|part| part.ready);
        let has = ready.into_iter().chain([good.grown]).max();
        let enough = self.total().is_some_and(|total| has >= Some(share.of(total)));
        if enough || self.shares_by_instances() { Ok(None) } else { self.room(&good.part, share) }
    }

    pub(super) fn shares_by_instances(&self) -> bool {
        self.weights() == Weights::ByCapacity
    }

    /// For strategies that set releases: the whole plan where nothing is to be done or an abort is enough, else what comes
    /// first.
    ///
    /// # Errors
    /// As [`View::plan`].
    pub(super) fn opening(&self) -> Result<Opening, Unplannable> {
        if self.nothing_to_do() {
            return self.plan(vec![]).map(Opening::Whole);
        }
        match self.flight() {
            Flight::Abort { step, enough: true } => self.plan(vec![step]).map(Opening::Whole),
            Flight::Abort { step, enough: false } => Ok(Opening::First(vec![step])),
            Flight::None | Flight::Fixed => Ok(Opening::First(vec![])),
        }
    }

    /// For strategies that move traffic: the whole plan where nothing is to be done or an abort is enough. Otherwise it can
    /// be moved, and nobody else moves it at the same time.
    ///
    /// # Errors
    /// Where there is no traffic to move, or a deployment would go on under the plan; and as [`View::plan`].
    pub(super) fn moving_nothing(&self) -> Result<Option<Plan>, Unplannable> {
        if self.nothing_to_do() {
            return self.plan(vec![]).map(Some);
        }
        match self.flight() {
            Flight::Abort { step, enough: true } => self.plan(vec![step]).map(Some),
            Flight::None if self.situation.now.in_flight.is_none() => match self.weights() {
                Weights::None if self.situation.capabilities.parts == Parts::One => {
                    self.refuse("there is only one part")
                }
                Weights::None => self.refuse("this target cannot share traffic among parts"),
                _ => Ok(None),
            },
            _ => self.refuse("a deployment is in flight, and would move traffic under this plan"),
        }
    }

    /// The rung, with the target's verbs around what changes, if the target can do all of it and keeps its floor.
    ///
    /// # Errors
    /// Otherwise.
    pub(super) fn plan(&self, steps: Vec<Step>) -> Result<Plan, Unplannable> {
        let steps = self.with_verbs(steps);
        if let Some(step) = steps.iter().find(|step| !self.situation.capabilities.supports(&step.change)) {
            return self.refuse(format!("this target cannot do it: {}", step.name));
        }
        let plan = Plan::new(self.situation, Rung::new(self.strategy, self.situation.floor, steps));
        if let Some((step, left)) = plan.below_floor() {
            let why = format!("{} would leave {left} instances serving, less than {}", step.name, self.situation.floor);
            return self.refuse(why);
        }
        Ok(plan)
    }

    /// What comes before a release changes is placed right before the first such step: a backup must not delay cutting
    /// the bad side off. What comes after stands at the end of every plan that does anything: what was cached of the bad
    /// release is there however that was left.
    fn with_verbs(&self, steps: Vec<Step>) -> Vec<Step> {
        let verbs = |when: When| {
            let asked = self.situation.capabilities.verbs.iter().filter(move |(_, w)| **w == when);
            asked.map(|(name, _)| {
                let arguments = [("release".to_string(), self.good().to_string())].into();
                self.step(name.to_string(), Change::Verb { name: name.clone(), arguments }, vec![])
            })
        };
        if steps.is_empty() {
            return steps;
        }
        let releases = |step: &Step| step.change.kinds().contains(&ChangeKind::Release);
        let first = steps.iter().position(releases);
        let mut all = vec![];
        for (i, step) in steps.into_iter().enumerate() {
            if first == Some(i) {
                all.extend(verbs(When::BeforeRelease));
            }
            all.push(step);
        }
        all.extend(verbs(When::AfterRelease));
        all
    }
}

/// It has a share of the traffic, whether or not something runs there; where shares are not known, it may have one.
pub(super) fn meant_to_serve(part: &PartState) -> bool {
    match part.weight {
        Some(weight) => weight > Weight::NONE,
        None => part.capacity != Some(0) || part.restarts_to.is_some(),
    }
}
