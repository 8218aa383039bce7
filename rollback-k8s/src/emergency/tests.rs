#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Cluster, ClusterOptions};
use kube::{Client, Config};
use rollback_core::{
    Change, ChangeKind, Identity, Observation, OnUnknown, PartState, Parts, Target as _, Token, Weights, When,
};

async fn checkout() -> Deployment {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    Cluster::unreachable(client, ClusterOptions::default().named("prod")).deployment("shop", "checkout")
}
fn named(plan: &Plan) -> Vec<(&str, Weight)> {
    plan.rungs.iter().map(|rung| (rung.name.as_str(), rung.floor)).collect()
}
fn percent(n: u16) -> Weight {
    Weight::percent(n)
}

#[tokio::test]
async fn the_rungs_of_a_deployment() {
    let checkout = checkout().await;
    let now =
        Observation::of_one(Identity::new("cluster", "uid"), PartState::of("bad").with_capacity(3, 0), Token::none());
    let capabilities = checkout.capabilities().with_verb(FAIL_OVER, When::Asked);
    let situation = Situation::new(checkout.id().clone(), capabilities, now, "bad", Release::new("good"));
    let ladder = EmergencyLadder::of(&checkout).with_floor(Undo, percent(60)).then_page("page payments");
    let plan = ladder.plan(&situation).unwrap();
    let none = Weight::NONE;
    assert_eq!(named(&plan), [("undo", percent(60)), (DELETE_BAD_PODS, none), ("restart", none), (FAIL_OVER, none)]);
    let left_out: Vec<&str> = plan.left_out.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(left_out, ["explicit image", "all to stable"]);
    assert!(plan.left_out[0].1.contains("no image was named"), "{:?}", plan.left_out);
    assert_eq!(plan.page, "page payments");
    assert_eq!((plan.suspect.as_str(), plan.wanted.as_str()), ("bad", "good"));
    let steps: Vec<&str> = plan.rungs[2].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["all to nothing", "all up to 3"]);
    assert!(plan.rungs[3].steps[0].gates.is_empty(), "where it serves then is not here");
    let fewer = ladder.without(DeletePods).without(FailOver).plan(&situation).unwrap();
    assert_eq!(named(&fewer), [("undo", percent(60)), ("restart", none)]);
}

#[tokio::test]
async fn a_pair_goes_to_its_stable_side() {
    let checkout = checkout().await;
    let capabilities = checkout
        .capabilities()
        .with_parts(Parts::Places, Weights::ByCapacity)
        .with_change(ChangeKind::Capacity, OnUnknown::Again);
    let (stable, canary) = (PartState::of("good").with_capacity(1, 1), PartState::of("bad").with_capacity(4, 4));
    let parts = [("stable".into(), stable), ("canary".into(), canary)];
    let now = Observation::new(Identity::new("cluster", "uid"), parts, Token::none());
    let situation = Situation::new(checkout.id().clone(), capabilities, now, "bad", Release::new("good"));
    let plan = EmergencyLadder::of(&checkout).without(Undo).without(DeletePods).plan(&situation).unwrap();
    let steps: Vec<&str> = plan.rungs[0].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!((plan.rungs[0].name.as_str(), steps), ("all to stable", vec!["stable up to 5", "canary down to 0"]));
    let last = &plan.rungs[1].steps[1].change;
    assert!(matches!(last, Change::Reach(shape) if shape.0["stable"].capacity.unwrap().count() == 5), "{plan}");
}
