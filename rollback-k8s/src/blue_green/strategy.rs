//! How it is rolled back where the caller names no strategy. Pure.

use rollback_core::{
    Plan, Running, Situation, Strategy, Unplannable, Weight,
    strategy::{BlueGreen, Direct, Ladder},
};

/// The switch to the side that has the wanted release; where no idle side is told to run it, the serving side in place
/// besides. A release has the labels of its side in it, so one side only ever ran it: the other way is left before anything
/// was touched.
#[derive(Debug)]
pub(super) struct SwitchOrInPlace;

impl Strategy for SwitchOrInPlace {
    fn name(&self) -> String {
        "switch, else in place".into()
    }

    fn plan(&self, situation: &Situation) -> Result<Plan, Unplannable> {
        let switch = BlueGreen::default().with_empty_bad(true);
        let told = |wanted: &rollback_core::ReleaseId| {
            let mut idle = situation.now.parts.values().filter(|part| part.weight == Some(Weight::NONE));
            idle.any(|part| part.wanted.as_ref() == Some(wanted) || part.running == Running::Release(wanted.clone()))
        };
        if told(&situation.wanted.id) {
            return switch.plan(situation);
        }
        let in_place = Direct::default().with_in_place(true);
        Ladder::new().rung(switch, situation.floor).rung(in_place, situation.floor).plan(situation)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::{
        Capabilities, ChangeKind, Fencing, Identity, Observation, OnUnknown, PartState, Parts, Release, Token, Weights,
    };

    fn planned(blue: PartState, green: PartState) -> Result<Plan, Unplannable> {
        let capabilities = Capabilities::new(Fencing::Token)
            .with_parts(Parts::Places, Weights::Switch)
            .with_change(ChangeKind::Traffic, OnUnknown::Again)
            .with_change(ChangeKind::Capacity, OnUnknown::Again);
        let parts = [("blue".into(), blue.with_weight(Weight::NONE)), ("green".into(), green.with_weight(Weight::ALL))];
        let now = Observation::new(Identity::new("cluster", "uid"), parts, Token::none());
        SwitchOrInPlace.plan(&Situation::new("k8s:shop".into(), capabilities, now, "bad", Release::new("good")))
    }
    fn steps(plan: &Plan) -> Vec<Vec<&str>> {
        plan.rungs.iter().map(|rung| rung.steps.iter().map(|step| step.name.as_str()).collect()).collect()
    }

    #[test]
    fn the_situation_decides() {
        let of = |release: &str, n: u32| PartState::of(release).with_capacity(n, n);
        let no_pods = |told: &str| PartState::new(Some(told.into()), Running::Nothing).with_capacity(0, 0);
        let switched = ["traffic 100% to blue", "green to nothing"];

        let ready = planned(of("good", 3), of("bad", 3)).unwrap();
        assert_eq!(steps(&ready), [[&["blue up to 3"][..], &switched].concat()]);
        let asleep = planned(no_pods("good"), of("bad", 3)).unwrap();
        assert_eq!(steps(&asleep), [[&["good onto blue, up to 3"][..], &switched].concat()]);
        // Which side ran it, the plan cannot know: the idle one first.
        let in_place = vec!["green back to good", "traffic as it was found"];
        for idle in [of("other", 3), no_pods("other")] {
            let plan = planned(idle, of("bad", 3)).unwrap();
            assert_eq!(steps(&plan), [[&["good onto blue, up to 3"][..], &switched].concat(), in_place.clone()]);
        }
        // Half way through a deploy to the serving side.
        let mixed = PartState::new(Some("bad".into()), Running::Mixed([("bad".into(), 1), ("good".into(), 2)].into()));
        assert_eq!(steps(&planned(of("other", 1), mixed.with_capacity(3, 2)).unwrap()).len(), 2);
        assert!(planned(of("bad", 1), of("good", 3)).unwrap().is_nothing());
    }
}
