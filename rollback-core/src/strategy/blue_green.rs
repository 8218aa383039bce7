//! The idle side first, then the switch.

use super::{Strategy, Unplannable, view::View};
use crate::{Capacity, Change, ChangeKind, Plan, Situation, Weight, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The wanted release up, ready and healthy on a part that gets no traffic, then all of the traffic at once, then time for
/// old connections to end. Where a part has the wanted release already, it is used as it is.
///
/// ```
/// use rollback_core::{
///     Capabilities, ChangeKind, Fencing, Identity, Observation, OnUnknown, PartState, Parts, Release, Situation, Strategy,
///     Token, Weight, Weights, strategy::BlueGreen,
/// };
/// let capabilities = Capabilities::new(Fencing::Token)
///     .with_parts(Parts::Places, Weights::Switch)
///     .with_change(ChangeKind::Traffic, OnUnknown::Again)
///     .with_change(ChangeKind::Capacity, OnUnknown::Again);
/// let blue = PartState::of("2.2.0").with_weight(Weight::NONE).with_capacity(0, 0);
/// let green = PartState::of("2.4.0").with_weight(Weight::ALL).with_capacity(3, 3);
/// let now =
///     Observation::new(Identity::new("cluster", "uid"), [("blue".into(), blue), ("green".into(), green)], Token::none());
/// let situation = Situation::new("k8s:shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
/// let plan = BlueGreen::default().plan(&situation)?;
/// let names: Vec<_> = plan.rungs[0].steps.iter().map(|step| step.name.as_str()).collect();
/// assert_eq!(names, ["2.3.9 onto blue, up to 3", "traffic 100% to blue"]);
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BlueGreen {
    /// How long each step may take to settle. Default: 10 min.
    pub settle_within: Duration,
    /// How long the wanted release must be healthy after the switch. Default: 10 s.
    pub hold: Duration,
    /// Time for old connections to end. Default: 30 s.
    pub drain: Duration,
    /// Bring the bad parts to no instances after that, where the target can. Default: no.
    pub empty_bad: bool,
}

impl Default for BlueGreen {
    fn default() -> Self {
        Self { settle_within: minutes(10), hold: seconds(10), drain: seconds(30), empty_bad: false }
    }
}

impl BlueGreen {
    /// How long each step may take to settle.
    pub fn with_settle_within(mut self, time: Duration) -> Self {
        self.settle_within = time;
        self
    }
    /// How long the wanted release must be healthy after the switch.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
    /// Time for old connections to end.
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }
    /// Bring the bad parts to no instances after the drain.
    pub fn with_empty_bad(mut self, empty_bad: bool) -> Self {
        self.empty_bad = empty_bad;
        self
    }
}

impl Strategy for BlueGreen {
    fn name(&self) -> String {
        "blue-green".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let view = View::of(situation, "blue-green", self.settle_within, self.hold)?;
        if let Some(plan) = view.moving_nothing()? {
            return Ok(plan);
        }
        let mut good = view.candidate()?;
        let mut steps: Vec<_> = view.made_ready(&mut good, Weight::ALL)?.into_iter().collect();
        steps.extend(view.all_to(&good)?);
        view.pause_after(&mut steps, self.drain);
        if self.empty_bad && view.can(ChangeKind::Capacity) && !view.shares_by_instances() {
            steps.extend(
                view.bad.iter().map(|id| {
                    view.step(format!("{id} to nothing"), Change::capacity(id, Capacity::Exactly(0)), vec![])
                }),
            );
        }
        view.plan(steps)
    }
}
