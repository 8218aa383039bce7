//! Traffic back in steps.

use super::{Strategy, Unplannable, view::View};
use crate::{Plan, Situation, Weight, minutes, seconds};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Traffic back to the wanted release in steps, each with instances before traffic, a gate, and a pause. From wherever a
/// deployment stopped: steps that are behind already are left out.
///
/// ```
/// use rollback_core::{
///     Capabilities, ChangeKind, Fencing, Identity, Observation, OnUnknown, PartState, Parts, Release, Situation, Strategy,
///     Token, Weight, Weights, strategy::Canary,
/// };
/// let alias = Capabilities::new(Fencing::Token)
///     .with_parts(Parts::PerRelease, Weights::Exact { grain: 1, at_once: 2 })
///     .with_change(ChangeKind::Traffic, OnUnknown::Observe)
///     .without_change(ChangeKind::Release);
/// let now = Observation::new(
///     Identity::new("account", "alias"),
///     [("42".into(), PartState::of("42").with_weight(Weight::ALL))],
///     Token::none(),
/// );
/// let situation = Situation::new("lambda:shop:live".into(), alias, now, "42", Release::new("41"));
/// let plan = Canary::default().with_steps([25]).plan(&situation)?;
/// let names: Vec<_> = plan.rungs[0].steps.iter().map(|step| step.name.as_str()).collect();
/// assert_eq!(names, ["traffic 25% to 41", "traffic 100% to 41"]);
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Canary {
    /// The shares that the wanted release is to have, one after the other, in per cent. All of it comes last by itself.
    /// Default: 10, 50.
    pub steps: Vec<u16>,
    /// How long each step may take to settle. Default: 10 min.
    pub settle_within: Duration,
    /// How long the wanted release must be healthy after each step. Default: 30 s.
    pub hold: Duration,
    /// How long to wait after that, before the next step. Default: not at all.
    pub pause: Duration,
}

impl Default for Canary {
    fn default() -> Self {
        Self { steps: vec![10, 50], settle_within: minutes(10), hold: seconds(30), pause: Duration::ZERO }
    }
}

impl Canary {
    /// The shares that the wanted release is to have, in per cent. Their order does not matter.
    pub fn with_steps(mut self, steps: impl IntoIterator<Item = u16>) -> Self {
        self.steps = steps.into_iter().collect();
        self
    }
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
    /// How long to wait before the next step.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

impl Strategy for Canary {
    fn name(&self) -> String {
        "canary".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let view = View::of(situation, "canary", self.settle_within, self.hold)?;
        if let Some(plan) = view.moving_nothing()? {
            return Ok(plan);
        }
        let mut good = view.candidate()?;
        let (has, all) = view.shares(&good.part)?;
        let mut shares: Vec<Weight> = self.steps.iter().map(|percent| Weight::percent(*percent)).collect();
        shares.sort_unstable();
        shares.dedup();
        shares.retain(|share| *share > has && *share < all);
        shares.push(Weight::ALL);
        let mut steps: Vec<_> = view.made_ready(&mut good, shares[0])?.into_iter().collect();
        for share in shares {
            steps.extend(view.missing_room(&good, share)?);
            let mut moved = view.shift(&good, share)?;
            if share != Weight::ALL {
                view.pause_after(&mut moved, self.pause);
            }
            steps.extend(moved);
        }
        view.plan(steps)
    }
}
