//! The next way when one fails.

use super::{Strategy, Unplannable};
use crate::{Capacity, Change, Expected, Gate, PartId, Plan, Rung, Situation, Step, Weight, Wish, change::Shape};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Several strategies, tried in order: the next when one fails. The last rung is always a person.
///
/// Each rung has a floor of its own, in place of the run's: gentle first, then with less to lose. A rung that has no way
/// from here, or makes the same changes as one before, is left out, and the plan says why. A rung that sets parts back
/// where they are gives them back the instances and the traffic that an earlier rung took from them.
///
/// ```
/// use rollback_core::{
///     Capabilities, Fencing, Identity, Observation, PartState, Release, Situation, Strategy, Token, Weight,
///     strategy::{Canary, Direct, Ladder},
/// };
/// let ladder = Ladder::new()
///     .rung(Canary::default(), Weight::ALL)
///     .rung(Direct::default(), Weight::NONE)
///     .then_page("page payments on call: runbook 7");
/// let now = Observation::of_one(Identity::new("host", "inode 7"), PartState::of("2.4.0"), Token::none());
/// let capabilities = Capabilities::new(Fencing::Token);
/// let situation = Situation::new("dir:/srv/shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
/// let plan = ladder.plan(&situation)?;
/// assert_eq!(plan.rungs[0].name, "direct");
/// assert_eq!(plan.left_out, [("canary".into(), "there is only one part".into())]);
/// assert!(plan.page.starts_with("page payments"));
/// # Ok::<(), rollback_core::Unplannable>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ladder {
    rungs: Vec<(Arc<dyn Strategy>, Weight)>,
    page: Option<String>,
}

impl Ladder {
    /// Without a rung it plans nothing.
    pub fn new() -> Self {
        Self::default()
    }
    /// The next rung, and the share of the capacity found at the start that it keeps serving.
    pub fn rung(mut self, strategy: impl Strategy, floor: Weight) -> Self {
        self.rungs.push((Arc::new(strategy), floor));
        self
    }
    /// Whom to page when all rungs failed, and what to tell them.
    pub fn then_page(mut self, page: impl Into<String>) -> Self {
        self.page = Some(page.into());
        self
    }
}

impl Strategy for Ladder {
    fn name(&self) -> String {
        let names: Vec<_> = self.rungs.iter().map(|(strategy, _)| strategy.name()).collect();
        format!("ladder({})", names.join(", "))
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let mut whole: Option<Plan> = None;
        let mut left_out = vec![];
        for (strategy, floor) in &self.rungs {
            let plan = match strategy.plan(&situation.clone().with_floor(*floor)) {
                Ok(plan) => plan,
                Err(none) => {
                    left_out.push((strategy.name(), none.why));
                    continue;
                }
            };
            // Whether there is anything to do does not depend on the way.
            if plan.is_nothing() {
                return Ok(plan);
            }
            left_out.extend(plan.left_out.clone());
            let whole = whole.get_or_insert_with(|| Plan { rungs: vec![], ..plan.clone() });
            for rung in plan.rungs {
                if whole.rungs.iter().any(|before| same_changes(before, &rung)) {
                    left_out.push((rung.name, "the same changes as a rung before".into()));
                } else {
                    whole.rungs.push(rung);
                }
            }
        }
        let Some(mut plan) = whole else {
            let reasons: Vec<_> = left_out.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            let why = if reasons.is_empty() { "it has no rungs".into() } else { reasons.join("; ") };
            return Err(Unplannable { strategy: "ladder".into(), why });
        };
        let mut rungs: Vec<Rung> = vec![];
        for mut rung in std::mem::take(&mut plan.rungs) {
            match give_back(&plan.begins_at, &rungs, &mut rung) {
                Ok(()) => rungs.push(rung),
                Err(why) => left_out.push((rung.name, why)),
            }
        }
        plan.rungs = rungs;
        plan.left_out = left_out;
        if let Some(page) = &self.page {
            plan.page.clone_from(page);
        }
        Ok(plan)
    }
}

fn same_changes(one: &Rung, other: &Rung) -> bool {
    one.steps.iter().map(|step| &step.change).eq(other.steps.iter().map(|step| &step.change))
}

fn wishes(rungs: &[Rung]) -> impl Iterator<Item = (&PartId, &Wish)> {
    rungs.iter().flat_map(|rung| &rung.steps).flat_map(|step| match &step.change {
        Change::Reach(shape) => shape.0.iter().collect::<Vec<_>>(),
        _ => vec![],
    })
}

/// Every rung is planned from the start, but runs where the one before stopped. One that moves traffic or counts says how
/// all of them are to be; one that sets parts back where they are would leave them without traffic and instances.
///
/// # Errors
/// Why not, where what they had is not known.
fn give_back(start: &Shape, before: &[Rung], rung: &mut Rung) -> Result<(), String> {
    let found = |id: &PartId| start.0.get(id).cloned().unwrap_or_default();
    let shrunk: BTreeSet<PartId> = wishes(before)
        .filter(|(id, wish)| match (wish.capacity, found(id).capacity) {
            (Some(Capacity::Exactly(n)), Some(had)) => n < had.count(),
            _ => false,
        })
        .map(|(id, _)| id.clone())
        .collect();
    let moved: BTreeSet<PartId> = wishes(before)
        .filter(|(id, wish)| wish.weight.is_some_and(|weight| Some(weight) != found(id).weight))
        .map(|(id, _)| id.clone())
        .collect();
    for step in &mut rung.steps {
        let Change::Reach(shape) = &mut step.change else { continue };
        for (id, wish) in &mut shape.0 {
            let had = found(id).capacity.map(|had| Capacity::AtLeast(had.count()));
            if wish.release.is_some() && wish.capacity.is_none() && shrunk.contains(id) {
                wish.capacity = had;
            }
        }
        step.expected = Expected::Known(shape.clone());
    }
    let alone = std::slice::from_ref(rung);
    let set_back = wishes(alone).any(|(id, wish)| wish.release.is_some() && moved.contains(id));
    if !set_back || wishes(alone).any(|(_, wish)| wish.weight.is_some()) {
        return Ok(());
    }
    let mut weights = vec![];
    for id in moved {
        let had = match start.0.get(&id) {
            Some(part) => part.weight.ok_or_else(|| format!("the traffic that {id} had is not known"))?,
            None => Weight::NONE,
        };
        weights.push((had, id));
    }
    let gates: Vec<_> = weights
        .iter()
        .filter(|(weight, _)| *weight > Weight::NONE)
        .map(|(_, id)| Gate::Healthy { part: id.clone(), hold: Duration::ZERO })
        .collect();
    let within = rung.steps.iter().map(|step| step.settle_within).max().unwrap_or_default();
    let change = Change::traffic(weights.into_iter().map(|(weight, id)| (id, weight)));
    let step = Step::new("traffic as it was found", change, within).with_gates(gates, within);
    // What comes after a release changes comes after this, too.
    let behind = rung.steps.iter().rposition(|step| !matches!(step.change, Change::Verb { .. })).map_or(0, |i| i + 1);
    rung.steps.insert(behind, step);
    Ok(())
}
