//! Something that the target does when it is asked to.

use super::{Strategy, Unplannable, view::View};
use crate::{Change, Plan, Situation, VerbName, minutes};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// One verb that the target declares ([`When::Asked`](crate::When::Asked)): a rung of a [`Ladder`](super::Ladder), where
/// other rungs have set the release. It is given `release` and `suspect` besides its own arguments. Its gates are those of
/// the parts that are to serve: ready and healthy.
///
/// Where the target has no such verb, it has no way.
///
/// ```
/// use rollback_core::{
///     Capabilities, Fencing, Identity, Observation, PartState, Release, Situation, Strategy, Token, When, strategy::Verb,
/// };
/// let now = Observation::of_one(Identity::new("host", "inode 7"), PartState::of("2.4.0"), Token::none());
/// let capabilities = Capabilities::new(Fencing::Token).with_verb("fail-over", When::Asked);
/// let situation = Situation::new("dir:/srv/shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
/// let plan = Verb::named("fail-over").with_argument("to", "eu-2").plan(&situation)?;
/// assert_eq!(plan.rungs[0].steps[0].name, "fail-over");
/// assert!(Verb::named("swap").plan(&situation).is_err());
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verb {
    /// Which.
    pub name: VerbName,
    /// With what, besides `release` and `suspect`.
    pub arguments: BTreeMap<String, String>,
    /// How long it may take, and how long its gates may. Default: 10 min each.
    pub settle_within: Duration,
    /// How long what serves must be healthy afterwards. Default: seen healthy once.
    pub hold: Duration,
    /// Whether what serves must be ready and healthy afterwards, or the verifiers alone judge. Default: yes.
    pub gated: bool,
}

impl Verb {
    /// By its name.
    pub fn named(name: impl Into<VerbName>) -> Self {
        Self {
            name: name.into(),
            arguments: BTreeMap::new(),
            settle_within: minutes(10),
            hold: Duration::ZERO,
            gated: true,
        }
    }
    /// One more argument.
    pub fn with_argument(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.arguments.insert(name.into(), value.into());
        self
    }
    /// How long it may take, and how long its gates may.
    pub fn with_settle_within(mut self, time: Duration) -> Self {
        self.settle_within = time;
        self
    }
    /// How long what serves must be healthy afterwards.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
    /// Whether what serves must be ready and healthy afterwards: not, where it serves elsewhere then.
    pub fn with_gated(mut self, gated: bool) -> Self {
        self.gated = gated;
        self
    }
}

impl Strategy for Verb {
    fn name(&self) -> String {
        self.name.to_string()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let no = |why: String| Unplannable { strategy: self.name.to_string(), why };
        let view = View::of(situation, "verb", self.settle_within, self.hold).map_err(|e| no(e.why))?;
        if !situation.capabilities.verbs.contains_key(&self.name) {
            return Err(no("the target has no such verb".into()));
        }
        if view.nothing_to_do() {
            return view.plan(vec![]);
        }
        let mut arguments = self.arguments.clone();
        arguments.insert("release".into(), view.good().to_string());
        arguments.insert("suspect".into(), situation.suspect.to_string());
        let gates = if self.gated { view.to_serve().flat_map(|id| view.serving_gates(id)).collect() } else { vec![] };
        let change = Change::Verb { name: self.name.clone(), arguments };
        let mut plan = view.plan(vec![view.step(self.name.to_string(), change, gates)]).map_err(|e| no(e.why))?;
        plan.rungs.iter_mut().for_each(|rung| rung.name = self.name.to_string());
        Ok(plan)
    }
}
