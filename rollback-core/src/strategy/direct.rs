//! The shortest way back.

use super::{
    Strategy, Unplannable,
    view::{Opening, View},
};
use crate::{Plan, Situation, minutes};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The shortest way back, in this order:
///
/// 1. What is in flight is aborted where the platform lands on the wanted release, or does not say where.
/// 2. Where the wanted release already serves, or is kept warm, the bad parts are cut off; instances before traffic.
/// 3. Every bad part is set back where it is, one after the other.
///
/// A part is bad if it is meant to serve and shows the suspect or something that nobody knows. A third release is left
/// alone.
///
/// ```
/// use rollback_core::{
///     Capabilities, Fencing, Identity, Observation, PartState, Release, Situation, Strategy, Token, strategy::Direct,
/// };
/// let now = Observation::of_one(Identity::new("host", "inode 7"), PartState::of("2.4.0"), Token::none());
/// let capabilities = Capabilities::new(Fencing::Token);
/// let situation = Situation::new("dir:/srv/shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
/// let plan = Direct::default().plan(&situation)?;
/// assert_eq!(plan.rungs[0].steps[0].name, "all back to 2.3.9");
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Direct {
    /// How long each step may take to settle. Default: 10 min.
    pub settle_within: Duration,
    /// How long the wanted release must be healthy after each step. Default: seen healthy once.
    pub hold: Duration,
    /// Set the bad part itself back, even where another part has the wanted release. Default: no.
    pub in_place: bool,
}

impl Default for Direct {
    fn default() -> Self {
        Self { settle_within: minutes(10), hold: Duration::ZERO, in_place: false }
    }
}

impl Direct {
    /// How long each step may take to settle.
    pub fn with_settle_within(mut self, time: Duration) -> Self {
        self.settle_within = time;
        self
    }
    /// How long the wanted release must be healthy after each step.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
    /// Set the bad part itself back, even where another part has the wanted release.
    pub fn with_in_place(mut self, in_place: bool) -> Self {
        self.in_place = in_place;
        self
    }
}

impl Strategy for Direct {
    fn name(&self) -> String {
        "direct".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let view = View::of(situation, "direct", self.settle_within, self.hold)?;
        let mut steps = match view.opening()? {
            Opening::Whole(plan) => return Ok(plan),
            Opening::First(steps) => steps,
        };
        if view.bad.is_empty() {
            return view.plan(steps);
        }
        match view.cut_off().filter(|_| !self.in_place) {
            Some(cut) => steps.extend(cut?),
            None => steps.extend(view.each_in_place()?),
        }
        view.plan(steps)
    }
}
