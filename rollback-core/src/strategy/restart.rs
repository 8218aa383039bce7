//! All of it off, and on again.

use super::{Strategy, Unplannable, view::View};
use crate::{Capacity, Change, ChangeKind, Gate, Plan, Situation, minutes};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is to serve goes down to no instances, all of them gone, and up again to as many as were found: two steps, each
/// journalled, so that a run that is killed in between goes on with the second. Nothing serves meanwhile. It sets no release: a rung of a
/// [`Ladder`](super::Ladder), where others have set it.
///
/// It has no way where the target cannot change its number of instances, where nobody knows how many there were, or where
/// something must go on serving.
///
/// ```
/// use rollback_core::{
///     Capabilities, ChangeKind, Fencing, Identity, Observation, OnUnknown, PartState, Release, Situation, Strategy, Token,
///     strategy::Restart,
/// };
/// let serves = PartState::of("2.4.0").with_capacity(3, 0);
/// let now = Observation::of_one(Identity::new("cluster", "uid"), serves, Token::none());
/// let capabilities = Capabilities::new(Fencing::Token).with_change(ChangeKind::Capacity, OnUnknown::Again);
/// let situation = Situation::new("k8s:shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
/// let plan = Restart::default().plan(&situation)?;
/// let names: Vec<_> = plan.rungs[0].steps.iter().map(|step| step.name.as_str()).collect();
/// assert_eq!(names, ["all to nothing", "all up to 3"]);
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Restart {
    /// How long each step may take to settle. Default: 10 min.
    pub settle_within: Duration,
    /// How long what serves must be healthy afterwards. Default: seen healthy once.
    pub hold: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { settle_within: minutes(10), hold: Duration::ZERO }
    }
}

impl Restart {
    /// How long each step may take to settle.
    pub fn with_settle_within(mut self, time: Duration) -> Self {
        self.settle_within = time;
        self
    }
    /// How long what serves must be healthy afterwards.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
}

impl Strategy for Restart {
    fn name(&self) -> String {
        "restart".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let view = View::of(situation, "restart", self.settle_within, self.hold)?;
        if view.nothing_to_do() {
            return view.plan(vec![]);
        }
        if !view.can(ChangeKind::Capacity) {
            return view.refuse("this target cannot change its number of instances");
        }
        let mut steps = vec![];
        for id in view.to_serve() {
            let Some(had) = view.restart_to(id) else {
                return view.refuse(format!("how many instances {id} needs is not known"));
            };
            steps.push(view.step(format!("{id} to nothing"), Change::capacity(id, Capacity::Exactly(0)), vec![]));
            let gates = vec![
                Gate::Ready { part: id.clone(), at_least: had },
                Gate::Healthy { part: id.clone(), hold: self.hold },
            ];
            steps.push(view.step(format!("{id} up to {had}"), Change::capacity(id, Capacity::AtLeast(had)), gates));
        }
        if steps.is_empty() {
            return view.refuse("no part is known that is to serve");
        }
        view.plan(steps)
    }
}
