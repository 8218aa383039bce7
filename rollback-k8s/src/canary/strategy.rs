//! How it is rolled back where the caller names no strategy. Pure, but for the templates of releases, which the look and the
//! history before it have made known.

use crate::side::{self, Side};
use rollback_core::{
    Capacity, Change, Gate, PartId, PartState, Plan, ReleaseId, Situation, Step, Strategy, Unplannable, Weight,
    Weights, strategy::Direct,
};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// [`Direct`], and where the other side serves its copy of the suspect, that is left too. The copy has other labels, so by
/// its id it is a third release, and innocent.
#[derive(Debug)]
pub(super) struct CopiesToo {
    pub(super) sides: Vec<Side>,
}

impl Strategy for CopiesToo {
    fn name(&self) -> String {
        "direct, with copies".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        planned(situation, &side::templates(&self.sides))
    }
}

fn planned(situation: &Situation, templates: &BTreeMap<ReleaseId, Value>) -> Result<Plan, Unplannable> {
    let direct = Direct::default();
    let mut plan = direct.plan(situation)?;
    let copy = situation.now.parts.iter().find(|(_, part)| serves_a_copy(part, situation, templates));
    let Some((copy, part)) = copy.filter(|_| !plan.is_nothing()) else { return Ok(plan) };
    let Some((carrier, other)) = situation.now.parts.iter().find(|(id, _)| *id != copy) else { return Ok(plan) };
    // As many as both have, before the copy goes.
    let all = other.capacity.zip(part.capacity).map_or(0, |(one, other)| one.saturating_add(other));
    let steps = left(situation.capabilities.weights, carrier, copy, all, direct.settle_within);
    if let Some(rung) = plan.rungs.first_mut() {
        rung.steps.extend(steps);
    }
    Ok(plan)
}

/// It serves what differs from the suspect in nothing but the labels of its side.
fn serves_a_copy(part: &PartState, situation: &Situation, templates: &BTreeMap<ReleaseId, Value>) -> bool {
    let runs = |id: &ReleaseId| templates.get(id).and_then(side::software);
    let told = part.wanted.as_ref().filter(|told| **told != situation.suspect && **told != situation.wanted.id);
    let copy = told.and_then(runs).is_some_and(|software| Some(software) == runs(&situation.suspect));
    copy && part.serves()
}

fn left(weights: Weights, carrier: &PartId, copy: &PartId, all: u32, within: Duration) -> Vec<Step> {
    let healthy = Gate::Healthy { part: carrier.clone(), hold: Duration::ZERO };
    let mut steps = vec![];
    if all > 0 {
        let grow =
            Step::new(format!("{carrier} up to {all}"), Change::capacity(carrier, Capacity::AtLeast(all)), within);
        steps.push(grow.with_gates([Gate::Ready { part: carrier.clone(), at_least: all }, healthy.clone()], within));
    }
    let (name, change) = match weights {
        Weights::ByCapacity => ("to nothing", Change::capacity(copy, Capacity::Exactly(0))),
        _ => {
            let shares = [(carrier.clone(), Weight::ALL), (copy.clone(), Weight::NONE)];
            ("without traffic", Change::traffic(shares))
        }
    };
    let name = format!("{copy}, which has a copy of what is left, {name}");
    steps.push(Step::new(name, change, within).with_gates([healthy], within));
    steps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::{
        Capabilities, ChangeKind, Fencing, Identity, Observation, OnUnknown, Parts, Release, Running, Token,
    };
    use serde_json::json;

    fn planned_steps(weights: Weights, canary: PartState) -> Vec<String> {
        let capabilities = Capabilities::new(Fencing::Token)
            .with_parts(Parts::Places, weights)
            .with_change(ChangeKind::Traffic, OnUnknown::Again)
            .with_change(ChangeKind::Capacity, OnUnknown::Again);
        let stable = PartState::of("stable-2").with_capacity(3, 3).with_weight(Weight::percent(90));
        let parts = [("stable".into(), stable), ("canary".into(), canary.with_weight(Weight::percent(10)))];
        let now = Observation::new(Identity::new("cluster", "uid"), parts, Token::none());
        let situation = Situation::new("k8s:shop".into(), capabilities, now, "stable-2", Release::new("stable-1"));
        let templates = ["stable-1", "stable-2", "canary-1", "canary-2"].map(|id| {
            let (side, image) = id.split_once('-').unwrap();
            (ReleaseId::from(id), json!({"metadata": {"labels": {"side": side}}, "spec": {"image": image}}))
        });
        let plan = planned(&situation, &templates.into()).unwrap();
        assert!(plan.below_floor().is_none(), "{plan}");
        plan.rungs[0].steps.iter().map(|step| step.name.clone()).collect()
    }

    #[test]
    fn a_copy_that_serves_is_left_too() {
        let in_place = "stable back to stable-1";
        let serves = || PartState::of("canary-2").with_capacity(1, 1);
        let exact = Weights::Exact { grain: 100, at_once: 2 };
        for (weights, last) in [(Weights::ByCapacity, "to nothing"), (exact, "without traffic")] {
            let last = format!("canary, which has a copy of what is left, {last}");
            assert_eq!(planned_steps(weights, serves()), [in_place, "stable up to 4", &last]);
            // Another release is innocent, and what serves nothing may stay.
            let other = PartState::of("canary-1").with_capacity(1, 1);
            let idle = PartState::new(Some("canary-2".into()), Running::Nothing).with_capacity(0, 0);
            assert_eq!(planned_steps(weights, other)[..1], [in_place]);
            if weights == Weights::ByCapacity {
                assert_eq!(planned_steps(weights, idle), [in_place]);
            }
        }
    }
}
