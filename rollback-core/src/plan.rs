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
                "{} could not be brought from {} to {}: look at each part's state in the report and finish by hand",
                situation.target, situation.suspect, situation.wanted.id
            ),
        }
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
