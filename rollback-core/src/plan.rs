//! What is going to be done: data, shown before and journalled before the first effect, never recomputed.

use crate::{
    Capabilities, Change, Expected, Landing, Observation, PartId, Release, ReleaseId, TargetId, Weight, change::Shape,
    observation::Found,
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// All that a [`Strategy`](crate::Strategy) knows. It knows no platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Situation {
    /// Of what.
    pub target: TargetId,
    /// What it can do.
    pub capabilities: Capabilities,
    /// How it is.
    pub now: Observation,
    /// What must be left.
    pub suspect: ReleaseId,
    /// What is to be reached.
    pub wanted: Release,
    /// The share of the capacity found at the start that must go on serving.
    pub floor: Weight,
}

impl Situation {
    /// A situation with no floor.
    pub fn new(
        target: TargetId,
        capabilities: Capabilities,
        now: Observation,
        suspect: impl Into<ReleaseId>,
        wanted: Release,
    ) -> Self {
        Self { target, capabilities, now, suspect: suspect.into(), wanted, floor: Weight::NONE }
    }
    /// The share of the capacity that must go on serving.
    pub fn with_floor(mut self, floor: Weight) -> Self {
        self.floor = floor;
        self
    }
}

/// What must hold before the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Gate {
    /// The run's health check says so of this part, for so long without a break. Holds at once where the run has none.
    Healthy {
        /// Of which part.
        part: PartId,
        /// For how long.
        hold: Duration,
    },
    /// So many instances of this part are ready.
    Ready {
        /// Of which part.
        part: PartId,
        /// How many.
        at_least: u32,
    },
    /// A person says go on.
    Approval {
        /// With what.
        of: String,
    },
    /// So much time has passed.
    Pause(Duration),
}

/// One change, waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// For people: `blue up to 3`.
    pub name: String,
    /// What.
    pub change: Change,
    /// How it is to be afterwards.
    pub expected: Expected,
    /// How long it may take to get there.
    pub settle_within: Duration,
    /// All must hold before the next step, in order.
    pub gates: Vec<Gate>,
    /// How long all of them may take together.
    pub gates_within: Duration,
}

impl Step {
    /// A step without gates.
    pub fn new(name: impl Into<String>, change: Change, settle_within: Duration) -> Self {
        let expected = match &change {
            Change::Reach(shape) => Expected::Known(shape.clone()),
            Change::Abort { expect, never } => Expected::Platform { landing: expect.clone(), never: never.clone() },
            Change::Halt | Change::Verb { .. } => Expected::Known(Shape::default()),
        };
        Self { name: name.into(), change, expected, settle_within, gates: vec![], gates_within: settle_within }
    }
    /// What must hold before the next step, and how long that may take.
    pub fn with_gates(mut self, gates: impl IntoIterator<Item = Gate>, within: Duration) -> Self {
        self.gates = gates.into_iter().collect();
        self.gates_within = within;
        self
    }
}

/// One way to get there. Planned from the start and absolute, so that it holds wherever the one before stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rung {
    /// The strategy's name.
    pub name: String,
    /// The share of the capacity found at the start that it keeps serving.
    pub floor: Weight,
    /// In order.
    pub steps: Vec<Step>,
}

impl Rung {
    /// Steps with a floor.
    pub fn new(name: impl Into<String>, floor: Weight, steps: Vec<Step>) -> Self {
        Self { name: name.into(), floor, steps }
    }
}

/// The rungs, tried in order until one is verified. The last rung of every plan is a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Of what.
    pub target: TargetId,
    /// What is left.
    pub suspect: ReleaseId,
    /// What is reached.
    pub wanted: ReleaseId,
    /// How it was.
    pub begins_at: Shape,
    /// Everything that was there, to tell later what came from elsewhere.
    pub found: Found,
    /// In order.
    pub rungs: Vec<Rung>,
    /// Strategies that had no way here, with why.
    pub left_out: Vec<(String, String)>,
    /// What a person is told when all rungs failed.
    pub page: String,
}

impl Plan {
    /// A plan with one rung.
    pub fn new(situation: &Situation, rung: Rung) -> Self {
        Self {
            target: situation.target.clone(),
            suspect: situation.suspect.clone(),
            wanted: situation.wanted.id.clone(),
            begins_at: situation.now.shape(),
            found: situation.now.found(),
            rungs: vec![rung],
            left_out: vec![],
            page: format!(
                "{} was to be taken from {} to {}: mend what the first line names, and the same order goes on; as long as that \
                 stands in the way it ends in the same way, so otherwise name another release to go to",
                situation.target, situation.suspect, situation.wanted.id
            ),
        }
    }
    /// Gives back the room that was only needed to grow: a plan is held as long as its run.
    pub(crate) fn shrink(&mut self) {
        for rung in &mut self.rungs {
            rung.steps.iter_mut().for_each(|step| step.gates.shrink_to_fit());
            rung.steps.shrink_to_fit();
        }
        self.found.0.values_mut().for_each(Vec::shrink_to_fit);
    }
    /// There is no step in it.
    pub fn is_nothing(&self) -> bool {
        self.rungs.iter().all(|rung| rung.steps.is_empty())
    }
    /// The first step that would take the serving capacity below its rung's floor, with what would be left. Only what the
    /// plan itself takes away counts; where a capacity is not known, nothing can be said.
    pub fn below_floor(&self) -> Option<(&Step, u32)> {
        let total = self.begins_at.serving_capacity()?;
        self.rungs.iter().find_map(|rung| {
            let mut shape = self.begins_at.clone();
            rung.steps.iter().find_map(|step| {
                shape = shape.after(&step.change);
                let left = shape.serving_capacity()?;
                (left < rung.floor.of(total)).then_some((step, left))
            })
        })
    }
}

/// The plan as people read it, one step a line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} → {}", self.target, self.suspect, self.wanted)?;
        for (i, rung) in self.rungs.iter().enumerate() {
            writeln!(f, "  rung {}: {} (at least {} of the capacity serves)", i + 1, rung.name, rung.floor)?;
            for (j, step) in rung.steps.iter().enumerate() {
                writeln!(f, "    {}.{} {step}", i + 1, j + 1)?;
            }
        }
        for (name, why) in &self.left_out {
            writeln!(f, "  left out: {name}: {why}")?;
        }
        write!(f, "  last: {}", self.page)
    }
}

/// `blue up to 3; 3 of blue ready; blue healthy`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.gates.iter().try_for_each(|gate| write!(f, "; {gate}"))
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gate::Healthy { part, hold } if hold.is_zero() => write!(f, "{part} healthy"),
            Gate::Healthy { part, hold } => write!(f, "{part} healthy for {hold:?}"),
            Gate::Ready { part, at_least } => write!(f, "{at_least} of {part} ready"),
            Gate::Approval { of } => write!(f, "approval of {of}"),
            Gate::Pause(time) => write!(f, "pause {time:?}"),
        }
    }
}

impl fmt::Display for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Landing::On(release) => write!(f, "{release}"),
            Landing::Unsaid => f.write_str("where the platform lands"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Capacity, Fencing, Identity, PartState, Token, seconds};

    fn weighed(release: &str, percent: u16, n: u32) -> PartState {
        PartState::of(release).with_weight(Weight::percent(percent)).with_capacity(n, n)
    }
    fn plan(parts: &[(&str, PartState)], floor: u16, changes: &[Change]) -> Plan {
        let parts = parts.iter().map(|(id, part)| (PartId::from(*id), part.clone()));
        let now = Observation::new(Identity::new("s", "o"), parts, Token::none());
        let situation = Situation::new("t".into(), Capabilities::new(Fencing::Token), now, "bad", Release::new("good"));
        let steps = changes.iter().enumerate().map(|(i, change)| Step::new(i.to_string(), change.clone(), seconds(1)));
        Plan::new(&situation, Rung::new("test", Weight::percent(floor), steps.collect()))
    }

    #[test]
    fn what_a_plan_takes_away() {
        let sides = [("a", weighed("good", 0, 2)), ("b", weighed("bad", 100, 10))];
        let switch = Change::traffic([("a".into(), Weight::ALL), ("b".into(), Weight::NONE)]);
        let size = |part: &str, n| Change::capacity(&part.into(), n);
        let grow = size("a", Capacity::AtLeast(8));
        for (what, floor, changes, expected) in [
            ("nothing", 100, vec![], None),
            ("a switch to a side that is too small", 80, vec![switch.clone()], Some(("0", 2))),
            ("instances before traffic", 80, vec![grow.clone(), switch.clone()], None),
            ("traffic before instances", 80, vec![switch.clone(), grow.clone()], Some(("0", 2))),
            ("not quite enough", 81, vec![grow.clone(), switch.clone()], Some(("1", 8))),
            ("no floor", 0, vec![switch.clone()], None),
            ("down", 80, vec![size("b", Capacity::Exactly(7))], Some(("0", 7))),
            ("at least takes nothing away", 100, vec![size("b", Capacity::AtLeast(3))], None),
            ("the idle side down", 100, vec![size("a", Capacity::Exactly(0))], None),
            ("in place", 100, vec![Change::release(&"b".into(), &"good".into())], None),
            ("behind the switch", 80, vec![grow, switch, size("b", Capacity::Exactly(0))], None),
        ] {
            let plan = plan(&sides, floor, &changes);
            let below = plan.below_floor().map(|(step, left)| (step.name.as_str(), left));
            assert_eq!(below, expected, "{what}");
        }
        let uncounted = [("a", PartState::of("good").with_weight(Weight::NONE)), sides[1].clone()];
        let switch = Change::traffic([("a".into(), Weight::ALL), ("b".into(), Weight::NONE)]);
        assert_eq!(plan(&uncounted, 100, &[switch]).below_floor(), None, "not known");
    }

    #[test]
    fn every_rung_is_judged_by_its_own_floor_from_the_start() {
        let parts = [("b", weighed("bad", 100, 10))];
        let mut plan = plan(&parts, 0, &[Change::capacity(&"b".into(), Capacity::Exactly(1))]);
        assert_eq!(plan.below_floor(), None);
        let again = Step::new("again", Change::capacity(&"b".into(), Capacity::Exactly(9)), seconds(1));
        plan.rungs.push(Rung::new("second", Weight::percent(90), vec![again]));
        assert_eq!(plan.below_floor(), None, "9 of 10, whatever the first rung did");
        plan.rungs[1].floor = Weight::ALL;
        assert_eq!(plan.below_floor().map(|(step, left)| (step.name.as_str(), left)), Some(("again", 9)));
    }

    #[test]
    fn a_plan_as_people_read_it() {
        let parts = [("b", weighed("bad", 100, 10))];
        let mut plan = plan(&parts, 80, &[Change::release(&"b".into(), &"good".into())]);
        plan.rungs[0].steps[0].gates = vec![
            Gate::Ready { part: "b".into(), at_least: 10 },
            Gate::Healthy { part: "b".into(), hold: Duration::ZERO },
            Gate::Healthy { part: "b".into(), hold: seconds(30) },
            Gate::Approval { of: "the switch".into() },
            Gate::Pause(seconds(5)),
        ];
        plan.left_out = vec![("canary".into(), "no weights".into())];
        plan.page = "call payments".into();
        assert_eq!(
            plan.to_string(),
            "t: bad → good\n  rung 1: test (at least 80% of the capacity serves)\n    1.1 0; 10 of b ready; b healthy; \
             b healthy for 30s; approval of the switch; pause 5s\n  left out: canary: no weights\n  last: call payments"
        );
    }
}
