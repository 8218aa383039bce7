//! Tables of situations, and what must hold of every plan in situations that nobody thought of.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    Capabilities, Capacity, Change, ChangeKind, Fencing, Gate, Identity, InFlight, Landing, Observation, OnUnknown,
    Pacing, PartId, PartState, Parts, Payload, Release, Running, Settled, Step, Stored, Token, Weight, Weights, When,
    minutes, seconds,
};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
struct Note;
impl Stored for Note {
    const NAME: &'static str = "test/note";
    const VERSION: u32 = 1;
}

fn part(release: &str) -> PartState {
    PartState::of(release)
}
fn sized(release: &str, n: u32) -> PartState {
    part(release).with_capacity(n, n)
}
fn weighed(release: &str, percent: u16, n: u32) -> PartState {
    sized(release, n).with_weight(Weight::percent(percent))
}
fn empty() -> PartState {
    PartState::new(None, Running::Nothing).with_capacity(0, 0)
}
fn told(wanted: &str, running: Running) -> PartState {
    PartState::new(Some(wanted.into()), running)
}
fn mixed(counts: &[(&str, u32)]) -> Running {
    Running::Mixed(counts.iter().map(|(release, n)| ((*release).into(), *n)).collect())
}
fn unknown() -> Running {
    Running::Unknown { fingerprint: "f".into(), named: None }
}

fn at(capabilities: Capabilities, parts: &[(&str, PartState)]) -> Situation {
    let parts = parts.iter().map(|(id, part)| (PartId::from(*id), part.clone()));
    let now = Observation::new(Identity::new("scope", "object"), parts, Token::none());
    Situation::new("t".into(), capabilities, now, "bad", Release::new("good")).with_floor(Weight::percent(80))
}
fn flying(mut situation: Situation, to: &str, abort: Option<Landing>) -> Situation {
    let mut flight = InFlight::new(Payload::of(&Note).unwrap()).with_releases(Some("good".into()), Some(to.into()));
    flight.abort = abort;
    situation.now.in_flight = Some(flight);
    situation
}
fn on(release: &str) -> Option<Landing> {
    Some(Landing::On(release.into()))
}

fn deployment() -> Capabilities {
    Capabilities::new(Fencing::Token).with_pacing(Pacing::Platform)
}
fn ecs() -> Capabilities {
    deployment().with_change(ChangeKind::Abort, OnUnknown::Observe)
}
fn places(weights: Weights) -> Capabilities {
    let capabilities = Capabilities::new(Fencing::Token).with_parts(Parts::Places, weights);
    match weights {
        Weights::None | Weights::ByCapacity => capabilities,
        _ => capabilities.with_change(ChangeKind::Traffic, OnUnknown::Again),
    }
}
fn sizable(capabilities: Capabilities) -> Capabilities {
    capabilities.with_change(ChangeKind::Capacity, OnUnknown::Again)
}
fn switch() -> Capabilities {
    sizable(places(Weights::Switch))
}
fn exact() -> Capabilities {
    places(Weights::Exact { grain: 100, at_once: 8 })
}
fn pair() -> Capabilities {
    sizable(places(Weights::ByCapacity))
}
fn lambda() -> Capabilities {
    Capabilities::new(Fencing::Token)
        .with_parts(Parts::PerRelease, Weights::Exact { grain: 1, at_once: 2 })
        .with_change(ChangeKind::Traffic, OnUnknown::Observe)
        .without_change(ChangeKind::Release)
}
fn task_sets() -> Capabilities {
    sizable(
        Capabilities::new(Fencing::BestEffort)
            .with_parts(Parts::Made, Weights::Exact { grain: 100, at_once: 2 })
            .with_change(ChangeKind::Traffic, OnUnknown::Again),
    )
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.rungs.iter().flat_map(|rung| rung.steps.iter().map(|step| step.name.as_str())).collect()
}
fn steps(plan: &Plan) -> &[Step] {
    &plan.rungs[0].steps
}
fn direct() -> Direct {
    Direct::default()
}
/// The steps of a plan, or why there is none.
#[track_caller]
fn says(strategy: &dyn Strategy, situation: &Situation, expected: Result<&[&str], &str>) {
    match (strategy.plan(situation), expected) {
        (Ok(plan), Ok(expected)) => assert_eq!(names(&plan), expected),
        (Err(none), Err(why)) => assert!(none.why.contains(why), "{}", none.why),
        (Ok(plan), Err(why)) => panic!("not refused ({why}): {plan}"),
        (Err(none), Ok(_)) => panic!("{none}"),
    }
}

#[test]
fn one_part_is_set_back() {
    let situation = at(deployment(), &[("all", sized("bad", 4))]);
    let plan = direct().plan(&situation).unwrap();
    assert_eq!(names(&plan), ["all back to good"]);
    let gates = &steps(&plan)[0].gates;
    assert_eq!(
        gates[..],
        [Gate::Ready { part: "all".into(), at_least: 4 }, Gate::Healthy { part: "all".into(), hold: seconds(0) }]
    );
    says(&Rolling::default(), &situation, Ok(&["all back to good"]));
}

#[test]
fn what_counts_as_bad() {
    let one = |part: PartState| at(deployment(), &[("all", part)]);
    let back: Result<&[&str], &str> = Ok(&["all back to good"]);
    let nothing: Result<&[&str], &str> = Ok(&[]);
    for (what, state, expected) in [
        ("runs the good one", part("good"), nothing),
        ("runs a third one", part("third"), nothing),
        ("half way to the bad one", told("bad", mixed(&[("good", 2), ("bad", 1)])), back),
        ("half way back already", told("good", mixed(&[("good", 2), ("bad", 1)])), back),
        ("told the bad one, nothing begun", told("bad", Running::Release("good".into())), back),
        ("crashed at the start", told("bad", Running::Nothing), back),
        ("nothing there at all", PartState::new(None, Running::Nothing), back),
        ("a third one, crashed", told("third", Running::Nothing), nothing),
        ("stopped on purpose", told("bad", Running::Nothing).with_capacity(0, 0), nothing),
        ("edited by hand", told("bad", unknown()), back),
        ("unknown, and told nothing", PartState::new(None, unknown()), back),
        ("a third one, edited by hand", told("third", unknown()), nothing),
        (
            "a migration that stopped in the middle",
            told("bad", Running::Between { from: "good".into(), to: "bad".into(), state: "2 of 3".into() }),
            back,
        ),
        (
            "left half way to the good one by somebody who is gone",
            told("good", Running::Between { from: "good".into(), to: "good".into(), state: "not in its place".into() }),
            back,
        ),
        ("from a third to the good one", told("good", mixed(&[("good", 2), ("third", 1)])), nothing),
        ("mixed, and told nothing", PartState::new(None, mixed(&[("bad", 1), ("third", 1)])), back),
        ("fixed forward by somebody else", told("third", mixed(&[("bad", 1), ("third", 1)])), Err("wait for it")),
        ("somebody else told it", told("third", Running::Release("bad".into())), Err("wait for it")),
    ] {
        eprintln!("{what}");
        says(&direct(), &one(state.clone()), expected);
        says(&Rolling::default(), &one(state), expected);
    }
}

#[test]
fn nothing_to_do_is_so_for_all() {
    for strategy in strategies() {
        for capabilities in [deployment(), switch(), exact(), pair(), lambda()] {
            let situation = at(capabilities, &[("good", weighed("good", 100, 4))]);
            assert!(strategy.plan(&situation).unwrap().is_nothing());
        }
    }
}

#[test]
fn the_suspect_is_nowhere_to_go_to() {
    let mut situation = at(deployment(), &[("all", part("bad"))]);
    situation.wanted = Release::new("bad");
    says(&direct(), &situation, Err("is the suspect"));
}

#[test]
fn half_way_through_a_canary_only_the_bad_part_is_cut_off() {
    let situation = at(sizable(exact()), &[("stable", weighed("good", 70, 2)), ("canary", weighed("bad", 30, 3))]);
    let plan = direct().plan(&situation).unwrap();
    assert_eq!(names(&plan), ["stable up to 5", "traffic 100% to stable"]);
    assert_eq!(
        steps(&plan)[1].change,
        Change::traffic([("stable".into(), Weight::ALL), ("canary".into(), Weight::NONE)])
    );
    says(&direct().with_in_place(true), &situation, Ok(&["canary back to good"]));
    says(&Canary::default(), &situation, Ok(&["stable up to 5", "traffic 100% to stable"]));
    says(
        &Canary::default().with_steps([80, 90]),
        &situation,
        Ok(&[
            "stable up to 4",
            "traffic 80% to stable",
            "stable up to 5",
            "traffic 90% to stable",
            "stable up to 5",
            "traffic 100% to stable",
        ]),
    );
}

#[test]
fn too_small_and_fixed_is_refused() {
    let small = [("stable", weighed("good", 70, 2)), ("canary", weighed("bad", 30, 3))];
    says(&direct(), &at(exact(), &small), Err("too small: 2 of 5"));
    says(&direct(), &at(exact(), &small).with_floor(Weight::percent(40)), Ok(&["traffic 100% to stable"]));
    says(&Canary::default(), &at(exact(), &small), Err("too small"));
    let not_ready = weighed("good", 70, 5).with_capacity(5, 1);
    says(&direct(), &at(exact(), &[("stable", not_ready), small[1].clone()]), Err("too small: 1 of 8"));
    // Of unknown numbers nothing can be said.
    let unsized_part = part("good").with_weight(Weight::percent(70));
    says(&direct(), &at(exact(), &[("stable", unsized_part), small[1].clone()]), Ok(&["traffic 100% to stable"]));
    // Except that nobody can be nobody.
    let none = [("a", empty().with_weight(Weight::NONE)), ("b", part("bad").with_weight(Weight::ALL))];
    says(&BlueGreen::default(), &at(switch(), &none), Err("no instances"));
}

#[test]
fn a_third_release_keeps_its_share() {
    let situation = at(
        sizable(exact()),
        &[("a", weighed("good", 20, 2)), ("b", weighed("bad", 30, 3)), ("c", weighed("third", 50, 5))],
    );
    let plan = direct().plan(&situation).unwrap();
    assert_eq!(names(&plan), ["a up to 5", "traffic 50% to a"]);
    assert_eq!(
        steps(&plan)[1].change,
        Change::traffic([("a".into(), Weight::percent(50)), ("b".into(), Weight::NONE)])
    );
    says(
        &Canary::default().with_steps([30, 60]),
        &situation,
        Ok(&["a up to 3", "traffic 30% to a", "a up to 5", "traffic 50% to a"]),
    );
    let switched =
        at(switch(), &[("a", weighed("good", 0, 3)), ("b", weighed("bad", 100, 3)), ("c", sized("third", 1))]);
    says(&direct(), &switched, Err("c serves too"));
}

#[test]
fn several_bad_parts() {
    let three = [("a", weighed("bad", 40, 2)), ("b", weighed("bad", 40, 2)), ("c", weighed("good", 20, 6))];
    let plan = Canary::default().plan(&at(exact(), &three).with_floor(Weight::percent(60))).unwrap();
    assert_eq!(names(&plan), ["traffic 50% to c", "traffic 100% to c"]);
    let of = |a, b, c| {
        Change::traffic([
            ("a".into(), Weight::percent(a)),
            ("b".into(), Weight::percent(b)),
            ("c".into(), Weight::percent(c)),
        ])
    };
    assert_eq!(steps(&plan)[0].change, of(40, 10, 50));
    assert_eq!(steps(&plan)[1].change, of(0, 0, 100));
    says(&direct(), &at(places(Weights::None), &three), Ok(&["a back to good", "b back to good"]));
    let unweighed = [("a", part("bad")), ("b", part("bad")), ("c", part("good").with_weight(Weight::NONE))];
    says(&direct(), &at(exact(), &unweighed), Ok(&["traffic 100% to c"]));
    says(&Canary::default(), &at(exact(), &unweighed), Err("not known"));
}

#[test]
fn blue_green_idle_side_first() {
    let situation = at(switch(), &[("blue", weighed("old", 0, 0)), ("green", weighed("bad", 100, 3))]);
    let strategy = BlueGreen::default().with_empty_bad(true).with_drain(minutes(20));
    let plan = strategy.plan(&situation).unwrap();
    assert_eq!(names(&plan), ["good onto blue, up to 3", "traffic 100% to blue", "green to nothing"]);
    let [up, switched, _] = steps(&plan) else { panic!() };
    assert_eq!(up.gates.len(), 2);
    assert_eq!(switched.gates.last(), Some(&Gate::Pause(minutes(20))));
    assert!(switched.gates_within > minutes(20), "the gates have time for the drain");

    let kept = at(switch(), &[("blue", weighed("good", 0, 3)), ("green", weighed("bad", 100, 3))]);
    says(&BlueGreen::default(), &kept, Ok(&["blue up to 3", "traffic 100% to blue"]));
    says(&direct(), &kept, Ok(&["blue up to 3", "traffic 100% to blue"]));

    says(&BlueGreen::default(), &at(deployment(), &[("all", sized("bad", 3))]), Err("only one part"));
    let both = [("a", weighed("bad", 50, 3)), ("b", weighed("bad", 50, 3))];
    says(&BlueGreen::default(), &at(exact(), &both), Err("no part is idle"));
    says(&BlueGreen::default(), &at(places(Weights::None), &[("a", part("bad")), ("b", empty())]), Err("cannot share"));
}

#[test]
fn of_several_idle_places_the_one_that_was_told() {
    let idle = |release: &str| told(release, Running::Nothing).with_capacity(0, 0).with_weight(Weight::NONE);
    let parts = [("blue", idle("other")), ("green", weighed("bad", 100, 2)), ("red", idle("good"))];
    says(&BlueGreen::default(), &at(switch(), &parts), Ok(&["good onto red, up to 2", "traffic 100% to red"]));
}

/// A restart took all instances away, and did not get to starting them anew.
#[test]
fn what_a_restart_left_is_brought_up_again() {
    let down = |release: &str| told(release, Running::Nothing).with_capacity(0, 0).with_restarts_to(Some(3));
    let restarts = |release: &str| at(sizable(deployment()), &[("all", down(release))]);
    says(&direct(), &restarts("good"), Ok(&["all up to 3"]));
    says(&direct(), &restarts("bad"), Ok(&["all back to good"]));
    let plan = direct().plan(&restarts("bad")).unwrap();
    let Change::Reach(shape) = &steps(&plan)[0].change else { panic!("{plan}") };
    assert_eq!(shape.0["all"].capacity, Some(Capacity::AtLeast(3)));
    assert!(steps(&plan)[0].gates.contains(&Gate::Ready { part: "all".into(), at_least: 3 }), "{plan}");
    says(&Restart::default(), &restarts("bad").with_floor(Weight::NONE), Ok(&["all to nothing", "all up to 3"]));
    // Told something else since, it is somebody else's.
    says(&direct(), &restarts("other"), Ok(&[]));
    let asleep = told("bad", Running::Nothing).with_capacity(0, 0);
    says(&direct(), &at(sizable(deployment()), &[("all", asleep)]), Ok(&[]));
}

#[test]
fn a_release_that_is_a_part() {
    let alias = |percents: &[(&'static str, u16)]| {
        let parts: Vec<_> =
            percents.iter().map(|(r, percent)| (*r, part(r).with_weight(Weight::percent(*percent)))).collect();
        at(lambda(), &parts)
    };
    let all = alias(&[("bad", 100)]);
    says(&direct(), &all, Ok(&["traffic 100% to good"]));
    says(&BlueGreen::default(), &all, Ok(&["traffic 100% to good"]));
    says(&Canary::default(), &all, Ok(&["traffic 10% to good", "traffic 50% to good", "traffic 100% to good"]));
    says(&Rolling::default(), &all, Err("only traffic can be moved"));
    let mid = alias(&[("bad", 60), ("good", 40)]);
    says(&Canary::default(), &mid, Ok(&["traffic 50% to good", "traffic 100% to good"]));
    let third = alias(&[("bad", 60), ("third", 40)]);
    says(&Canary::default(), &third, Err("3 parts would serve at once"));
    says(&direct(), &third, Ok(&["traffic 60% to good"]));
    let coarse = lambda().with_parts(Parts::PerRelease, Weights::Exact { grain: 2500, at_once: 2 });
    let mut situation = all.clone();
    situation.capabilities = coarse;
    says(&Canary::default(), &situation, Err("not a multiple of 25%"));
}

#[test]
fn a_part_that_a_change_makes() {
    let situation = at(task_sets(), &[("primary", weighed("bad", 100, 4))]);
    let plan = BlueGreen::default().plan(&situation).unwrap();
    assert_eq!(names(&plan), ["good onto with-good, up to 4", "traffic 100% to with-good"]);
    let Change::Reach(shape) = &steps(&plan)[0].change else { panic!() };
    let made = &shape.0["with-good"];
    assert_eq!((made.weight, made.capacity), (Some(Weight::NONE), Some(Capacity::AtLeast(4))));
    says(
        &Canary::default(),
        &situation,
        Ok(&[
            "good onto with-good, up to 1",
            "traffic 10% to with-good",
            "with-good up to 2",
            "traffic 50% to with-good",
            "with-good up to 4",
            "traffic 100% to with-good",
        ]),
    );
}

#[test]
fn weights_by_capacity() {
    let fresh = at(pair(), &[("a", empty()), ("b", sized("bad", 10))]);
    says(
        &Canary::default(),
        &fresh,
        Ok(&["good onto a, up to 1", "b down to 9", "a up to 5", "b down to 5", "a up to 10", "b down to 0"]),
    );
    says(&BlueGreen::default(), &fresh, Ok(&["good onto a, up to 10", "b down to 0"]));
    let mid = at(pair(), &[("a", sized("good", 4)), ("b", sized("bad", 6))]);
    says(&direct(), &mid, Ok(&["a up to 10", "b down to 0"]));
    says(&Canary::default(), &mid, Ok(&["a up to 5", "b down to 5", "a up to 10", "b down to 0"]));
    let not_counted = at(pair(), &[("a", sized("good", 4)), ("b", part("bad"))]);
    says(&direct(), &not_counted, Err("not known"));
    let fixed = at(places(Weights::ByCapacity), &[("a", sized("good", 4)), ("b", sized("bad", 6))]);
    says(&direct(), &fixed, Err("this target cannot do it: a up to 10"));
}

#[test]
fn in_flight_the_platform_picks() {
    let one = at(ecs(), &[("primary", sized("bad", 4))]);
    let abort = |landing| flying(one.clone(), "bad", landing);
    let alone: Result<&[&str], &str> = Ok(&["abort what is in flight"]);
    for strategy in [&direct() as &dyn Strategy, &Rolling::default(), &Canary::default(), &BlueGreen::default()] {
        says(strategy, &abort(on("good")), alone);
    }
    let plan = direct().plan(&abort(on("good"))).unwrap();
    assert_eq!(steps(&plan)[0].change, Change::Abort { expect: Landing::On("good".into()), never: "bad".into() });
    assert!(steps(&plan)[0].gates.contains(&Gate::Ready { part: "primary".into(), at_least: 4 }));

    let then_reach: Result<&[&str], &str> = Ok(&["abort what is in flight", "primary back to good"]);
    let reach: Result<&[&str], &str> = Ok(&["primary back to good"]);
    says(&direct(), &abort(Some(Landing::Unsaid)), then_reach);
    says(&direct(), &abort(on("older")), reach);
    says(&direct(), &abort(on("bad")), reach);
    says(&direct(), &abort(None), reach);
    // Somebody is going back already: what is in flight is not aborted.
    says(&direct(), &flying(one.clone(), "good", on("bad")), reach);
    // Somebody deploys a third release.
    says(&direct(), &flying(one, "third", on("good")), Err("a deployment of third is in flight"));
    // It has only just begun, and shows nowhere yet.
    let begun = at(ecs(), &[("primary", sized("good", 4))]);
    says(&direct(), &flying(begun.clone(), "bad", on("good")), alone);
    says(&direct(), &flying(begun, "third", on("good")), Ok(&[]));
    // The platform says nothing of the other parts.
    let both = at(ecs().with_parts(Parts::Places, Weights::None), &[("a", part("bad")), ("b", part("bad"))]);
    let steps: &[&str] = &["a back to good", "b back to good"];
    says(&direct(), &flying(both, "bad", on("good")), Ok(steps));
    // Under a traffic plan nobody else must move traffic.
    let warm = at(switch(), &[("blue", weighed("good", 0, 3)), ("green", weighed("bad", 100, 3))]);
    says(&BlueGreen::default(), &flying(warm.clone(), "bad", Some(Landing::Unsaid)), Err("in flight"));
    says(&direct(), &flying(warm, "bad", None), Ok(&["blue up to 3", "traffic 100% to blue"]));
}

#[test]
fn rolling_goes_through_places() {
    let hosts = |states: &[PartState]| -> Vec<(&'static str, PartState)> {
        ["a", "b", "c", "d", "e"].into_iter().zip(states.iter().cloned()).collect()
    };
    let five = hosts(&vec![part("bad"); 5]);
    let situation = |parts: &[(&str, PartState)]| at(places(Weights::None), parts);
    says(
        &Rolling::default(),
        &situation(&five),
        Ok(&["a back to good", "b back to good", "c back to good", "d back to good", "e back to good"]),
    );
    let two = Rolling::default().with_batch(Batch::Count(2)).with_pause(seconds(5));
    says(
        &two,
        &situation(&five).with_floor(Weight::percent(60)),
        Ok(&["a back to good", "b back to good", "c back to good", "d back to good", "e back to good"]),
    );
    let two = two.with_max_unavailable(Batch::Count(2));
    let plan = two.plan(&situation(&five).with_floor(Weight::percent(60))).unwrap();
    assert_eq!(names(&plan), ["a, b back to good", "c, d back to good", "e back to good"]);
    assert_eq!(steps(&plan)[0].gates.iter().filter(|gate| matches!(gate, Gate::Healthy { .. })).count(), 2);
    let paused = |step: &Step| step.gates.contains(&Gate::Pause(seconds(5)));
    assert_eq!(steps(&plan).iter().map(paused).collect::<Vec<_>>(), [true, true, false]);
    // The floor wins over the batch.
    says(
        &two,
        &situation(&five),
        Ok(&["a back to good", "b back to good", "c back to good", "d back to good", "e back to good"]),
    );
    says(&two, &situation(&five).with_floor(Weight::percent(81)), Err("5 of 5 must go on serving"));
    says(&two.clone().with_max_unavailable(Batch::Count(0)), &situation(&five), Err("at most 0 may be"));
    says(&two.clone().with_batch(Batch::Count(0)), &situation(&five), Err("batches of 0"));
    // What is down costs nothing, comes first, and counts as out.
    let mut some_down = five.clone();
    some_down[3].1 = told("bad", Running::Nothing);
    says(
        &Rolling::default(),
        &situation(&some_down),
        Ok(&["d back to good", "a back to good", "b back to good", "c back to good", "e back to good"]),
    );
    // Instances, where they are known: the big one is too big.
    let big = hosts(&[sized("bad", 1), sized("bad", 1), sized("bad", 8)]);
    says(&Rolling::default(), &situation(&big), Err("8 of 10 must go on serving"));
    says(
        &Rolling::default(),
        &situation(&big).with_floor(Weight::percent(20)),
        Ok(&["a back to good", "b back to good", "c back to good"]),
    );
    // An innocent and a good place are left alone.
    let others = hosts(&[part("bad"), part("good"), part("third"), part("bad"), part("good")]);
    says(&Rolling::default(), &situation(&others), Ok(&["a back to good", "d back to good"]));
    // Where it does not fit.
    let alone = at(Capabilities::new(Fencing::Token), &[("all", part("bad"))]);
    says(&Rolling::default(), &alone, Err("no places to go through"));
}

#[test]
fn batches_are_counted() {
    for (batch, places, expected) in [
        (Batch::Count(3), 10, 3),
        (Batch::Percent(25), 10, 2),
        (Batch::Percent(25), 3, 1),
        (Batch::Percent(0), 3, 1),
        (Batch::Percent(900), 3, 3),
    ] {
        assert_eq!(batch.of(places), expected, "{batch:?} of {places}");
    }
}

#[test]
fn verbs_stand_around_release_changes() {
    let with_verbs = |capabilities: Capabilities| {
        capabilities
            .with_verb("backup", When::BeforeRelease)
            .with_verb("invalidate", When::AfterRelease)
            .with_verb("swap", When::Asked)
    };
    let plan = direct().plan(&at(with_verbs(ecs()), &[("all", part("bad"))])).unwrap();
    assert_eq!(names(&plan), ["backup", "all back to good", "invalidate"]);
    let arguments = BTreeMap::from([("release".to_string(), "good".to_string())]);
    assert_eq!(steps(&plan)[0].change, Change::Verb { name: "backup".into(), arguments });
    // Cutting off waits for no backup, but what is cached is stale all the same.
    let kept = at(with_verbs(switch()), &[("blue", weighed("good", 0, 3)), ("green", weighed("bad", 100, 3))]);
    says(&direct(), &kept, Ok(&["blue up to 3", "traffic 100% to blue", "invalidate"]));
    says(&direct(), &at(with_verbs(ecs()), &[("all", part("good"))]), Ok(&[]));
}

#[test]
fn the_ladder_keeps_what_fits_and_says_what_does_not() {
    let ladder = Ladder::new()
        .rung(Canary::default(), Weight::ALL)
        .rung(BlueGreen::default(), Weight::percent(80))
        .rung(direct(), Weight::NONE)
        .rung(direct().with_in_place(true), Weight::percent(10))
        .rung(direct(), Weight::NONE)
        .then_page("payments on call");
    let situation = at(switch(), &[("blue", weighed("good", 0, 3)), ("green", weighed("bad", 100, 3))]);
    let plan = ladder.plan(&situation).unwrap();
    let rungs: Vec<_> = plan.rungs.iter().map(|rung| (rung.name.as_str(), rung.floor)).collect();
    assert_eq!(rungs, [("blue-green", Weight::percent(80)), ("direct", Weight::percent(10))]);
    let same = || ("direct".to_string(), "the same changes as a rung before".to_string());
    let whole = ("canary".to_string(), "traffic can only be switched whole".to_string());
    assert_eq!(plan.left_out, [whole, same(), same()]);
    assert_eq!(plan.page, "payments on call");
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    assert!(plan.to_string().contains("1.2 traffic 100% to blue; blue healthy for 10s; pause 30s"), "{plan}");
    let hopeless = Ladder::new().rung(Canary::default(), Weight::ALL);
    says(&hopeless, &at(deployment(), &[("all", part("bad"))]), Err("canary: there is only one part"));
    says(&Ladder::new(), &situation, Err("no rungs"));
}

/// The second rung begins where the first stopped, not where it was planned from.
#[test]
fn a_rung_in_place_gives_back_what_the_one_before_took() {
    let ladder =
        |first: Canary| Ladder::new().rung(first, Weight::NONE).rung(direct().with_in_place(true), Weight::NONE);
    let plan = ladder(Canary::default()).plan(&at(pair(), &[("a", empty()), ("b", sized("bad", 10))])).unwrap();
    let [back] = &plan.rungs[1].steps[..] else { panic!("{plan}") };
    let Change::Reach(shape) = &back.change else { panic!() };
    assert_eq!(shape.0["b"].capacity, Some(Capacity::AtLeast(10)));
    let situation = at(sizable(exact()), &[("a", weighed("old", 0, 0)), ("b", weighed("bad", 100, 3))]);
    let plan = ladder(Canary::default()).plan(&situation).unwrap();
    let [_, last] = &plan.rungs[1].steps[..] else { panic!("{plan}") };
    assert_eq!(last.change, Change::traffic([("a".into(), Weight::NONE), ("b".into(), Weight::ALL)]));
    assert_eq!(last.gates, [Gate::Healthy { part: "b".into(), hold: seconds(0) }]);
    // Alone it needs none of that.
    says(&direct().with_in_place(true), &situation, Ok(&["b back to good"]));
}

#[test]
fn plans_are_compared() {
    let situation = at(switch(), &[("blue", weighed("old", 0, 3)), ("green", weighed("bad", 100, 3))]);
    let plan = |strategy: &dyn Strategy| strategy.plan(&situation).unwrap();
    let one = plan(&BlueGreen::default());
    assert_eq!(one.diff(&one), []);
    let shown = |other: &Plan| {
        let lines = one.diff(other).into_iter();
        lines
            .map(|l| format!("{}: {} -> {}", l.what, l.from.unwrap_or_default(), l.to.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&plan(&BlueGreen::default().with_empty_bad(true))), ["rung 1, step 3:  -> green to nothing"]);
    let slower = shown(&plan(&BlueGreen::default().with_settle_within(minutes(20))));
    assert!(slower.len() == 2 && slower[0].contains("settle_within: 600s"), "{slower:?}");
    let mut later = one.clone();
    later.begins_at = situation.now.shape().after(&Change::capacity(&"blue".into(), Capacity::Exactly(9)));
    assert_eq!(
        shown(&later),
        ["blue at the start: old, 0% of the traffic, 3 instances -> old, 0% of the traffic, 9 instances"]
    );
    let two = Ladder::new().rung(BlueGreen::default(), Weight::percent(80)).rung(direct(), Weight::NONE);
    assert_eq!(
        shown(&plan(&two)),
        [
            "rung 2:  -> direct (at least 0% of the capacity serves)",
            "rung 2, step 1:  -> green back to good; 3 of green ready; green healthy",
            "rung 2, step 2:  -> traffic as it was found; green healthy",
        ]
    );
}

#[test]
fn strategies_are_data() {
    let json = serde_json::to_string(&Rolling::default().with_batch(Batch::Count(3))).unwrap();
    assert_eq!(serde_json::from_str::<Rolling>(&json).unwrap().batch, Batch::Count(3));
    let canary: Canary = serde_json::from_str(r#"{"steps": [5]}"#).unwrap();
    assert_eq!(canary, Canary::default().with_steps([5]));
    let direct: Direct = serde_json::from_str("{}").unwrap();
    assert_eq!(direct, Direct::default());
}

fn strategies() -> Vec<Box<dyn Strategy>> {
    vec![
        Box::new(direct()),
        Box::new(direct().with_in_place(true)),
        Box::new(Rolling::default()),
        Box::new(Rolling::default().with_batch(Batch::Count(3)).with_max_unavailable(Batch::Percent(50))),
        Box::new(BlueGreen::default()),
        Box::new(BlueGreen::default().with_empty_bad(true)),
        Box::new(Canary::default()),
        Box::new(Canary::default().with_steps([25, 75, 5]).with_pause(seconds(1))),
        Box::new(
            Ladder::new()
                .rung(Canary::default(), Weight::percent(50))
                .rung(BlueGreen::default(), Weight::NONE)
                .rung(direct().with_in_place(true), Weight::NONE),
        ),
    ]
}

/// Any situation, most of them odd.
fn anything(random: &mut fastrand::Rng) -> Situation {
    let kind = [Parts::One, Parts::Places, Parts::Places, Parts::PerRelease, Parts::Made][random.usize(..5)];
    let weights = match kind {
        Parts::One => Weights::None,
        Parts::PerRelease => Weights::Exact { grain: 1, at_once: random.u8(2..4) },
        _ => [
            Weights::None,
            Weights::Switch,
            Weights::ByCapacity,
            Weights::Exact { grain: [1, 100, 500][random.usize(..3)], at_once: random.u8(2..6) },
        ][random.usize(..4)],
    };
    let mut capabilities = Capabilities::new(Fencing::Token).with_parts(kind, weights);
    if kind == Parts::PerRelease {
        capabilities = capabilities.without_change(ChangeKind::Release);
    }
    for (kind, often) in [(ChangeKind::Traffic, 9), (ChangeKind::Capacity, 6), (ChangeKind::Abort, 6)] {
        if random.u8(..10) < often {
            capabilities = capabilities.with_change(kind, OnUnknown::Again);
        }
    }
    if random.u8(..4) == 0 {
        capabilities = capabilities.with_pacing(Pacing::Platform);
    }
    if random.u8(..4) == 0 {
        capabilities = capabilities.with_verb("backup", When::BeforeRelease).with_verb("clear", When::AfterRelease);
    }
    let releases = ["good", "bad", "bad", "third"];
    let any = |random: &mut fastrand::Rng| releases[random.usize(..4)];
    let ids: Vec<&str> = match kind {
        Parts::One => vec!["all"],
        Parts::PerRelease => ["good", "bad", "third"].into_iter().filter(|_| random.u8(..3) > 0).collect(),
        _ => ["a", "b", "c", "d", "e"][..random.usize(1..6)].to_vec(),
    };
    let counted = random.u8(..4) > 0;
    let mut parts = vec![];
    for id in &ids {
        let release = if kind == Parts::PerRelease { id } else { any(random) };
        let running = match random.u8(..10) {
            _ if kind == Parts::PerRelease => Running::Release(release.into()),
            0 => mixed(&[(release, 2), (any(random), 1)]),
            1 => Running::Between { from: any(random).into(), to: release.into(), state: "half".into() },
            2 if random.bool() => unknown(),
            3 => Running::Nothing,
            _ => Running::Release(release.into()),
        };
        let wanted = match random.u8(..10) {
            0 if kind != Parts::PerRelease => None,
            1 if kind != Parts::PerRelease => Some(any(random).into()),
            _ => Some(release.into()),
        };
        let mut part = PartState::new(wanted, running);
        if counted || random.u8(..10) == 0 {
            let capacity = random.u32(..7);
            part = part.with_capacity(capacity, random.u32(..=capacity));
            if capacity == 0 {
                part.running = Running::Nothing;
            }
        }
        if random.u8(..10) == 0 {
            part = part.with_settled(Settled::NotYet { why: "young".into() });
        }
        parts.push((*id, part));
    }
    let n = parts.len();
    match weights {
        Weights::Switch if n > 0 => {
            let all = random.usize(..n);
            for (i, (_, part)) in parts.iter_mut().enumerate() {
                part.weight = Some(if i == all { Weight::ALL } else { Weight::NONE });
            }
        }
        Weights::Exact { grain, .. } => {
            let mut left = 10_000 / grain;
            for (i, (_, part)) in parts.iter_mut().enumerate() {
                let points = if i + 1 == n { left } else { random.u16(..=left) };
                left -= points;
                part.weight = Some(Weight::basis_points(points * grain)).filter(|_| random.u8(..15) > 0);
            }
        }
        _ => {}
    }
    let floor = [0, 50, 80, 100][random.usize(..4)];
    let situation = at(capabilities, &parts).with_floor(Weight::percent(floor));
    if random.u8(..5) > 0 {
        return situation;
    }
    let landing = [None, Some(Landing::Unsaid), on("good"), on("third")][random.usize(..4)].clone();
    flying(situation, any(random), landing)
}

/// What the platform would show after a change that went well.
fn after(now: &Observation, change: &Change) -> Observation {
    let mut now = now.clone();
    match change {
        Change::Reach(shape) => {
            for (id, wish) in &shape.0 {
                let new = || PartState::new(Some(id.as_str().into()), Running::Release(id.as_str().into()));
                let part = now.parts.or_insert_with(id, new);
                if let Some(weight) = wish.weight {
                    part.weight = Some(weight);
                }
                let had = part.capacity;
                let count = match (wish.capacity, had) {
                    (Some(Capacity::AtLeast(n)), Some(had)) => Some(n.max(had)),
                    (Some(capacity), _) => Some(capacity.count()),
                    (None, had) => had,
                };
                part.capacity = count;
                if wish.capacity.is_some() || wish.release.is_some() {
                    part.ready = count;
                }
                if wish.release.is_some() {
                    part.wanted.clone_from(&wish.release);
                    // What was in flight there is replaced.
                    now.in_flight = None;
                }
                let turned_on = had == Some(0) && count != Some(0);
                if let Some(told) = part.wanted.clone().filter(|_| wish.release.is_some() || turned_on) {
                    part.running = Running::Release(told);
                }
                if count == Some(0) {
                    part.running = Running::Nothing;
                }
            }
        }
        Change::Abort { expect, never } => {
            now.in_flight = None;
            if let Landing::On(release) = expect {
                for part in now.parts.values_mut().filter(|part| involves(part, never)) {
                    part.wanted = Some(release.clone());
                    part.running = Running::Release(release.clone());
                }
            }
        }
        Change::Halt | Change::Verb { .. } => {}
    }
    now
}

fn gets_traffic(part: &PartState) -> bool {
    part.weight != Some(Weight::NONE) && (part.capacity != Some(0) || part.weight.is_some())
}
fn involves(part: &PartState, release: &crate::ReleaseId) -> bool {
    part.wanted.as_ref() == Some(release) || part.running.mentions().contains(&release)
}
fn serving(now: &Observation) -> Option<u32> {
    now.parts.values().filter(|part| gets_traffic(part)).map(|part| part.capacity).sum()
}

/// Of all parts together; a part that a change made has none until it is given some.
fn weights(before: &Observation, now: &Observation) -> Option<u32> {
    let old = |id: &PartId| before.parts.contains_key(id);
    let points = |(id, part): (&PartId, &PartState)| match part.weight {
        Some(weight) => Some(u32::from(weight.points())),
        None => (!old(id)).then_some(0),
    };
    now.parts.iter().map(points).sum()
}

#[test]
fn whatever_the_situation() {
    let mut random = fastrand::Rng::with_seed(7);
    let all = strategies();
    let mut planned = vec![0; all.len()];
    for case in 0..2_000 {
        let situation = anything(&mut random);
        for (i, strategy) in all.iter().enumerate() {
            let plan = match strategy.plan(&situation) {
                Ok(plan) => plan,
                Err(none) => {
                    assert!(!none.why.is_empty());
                    continue;
                }
            };
            planned[i] += usize::from(!plan.is_nothing());
            let explain = || format!("case {case}: {plan}\n{:#?}\n{:?}", situation.now.parts, situation.capabilities);
            assert_eq!(strategy.plan(&situation).as_ref(), Ok(&plan), "another plan for the same situation");
            assert_eq!(plan.diff(&plan), []);
            for rung in &plan.rungs {
                check(strategy.as_ref(), &situation, rung, &explain);
            }
            let json = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
        }
    }
    for (n, strategy) in planned.iter().zip(&all) {
        assert!(*n > 100, "{} planned only {n} times: the property says nothing of it", strategy.name());
    }
}

fn check(strategy: &dyn Strategy, situation: &Situation, rung: &crate::Rung, explain: &dyn Fn() -> String) {
    let before = &situation.now;
    let total = serving(before);
    let mut now = before.clone();
    for step in &rung.steps {
        assert!(situation.capabilities.supports(&step.change), "not supported: {}\n{}", step.name, explain());
        if let Change::Reach(shape) = &step.change {
            for (id, wish) in &shape.0 {
                let Some(part) = before.parts.get(id) else { continue };
                let innocent = |release: &crate::ReleaseId| *release != situation.suspect;
                let third = part.wanted.as_ref().is_some_and(|told| innocent(told) && *told != situation.wanted.id)
                    && part.running.mentions().into_iter().all(innocent);
                assert!(!third || !gets_traffic(part), "{} touches an innocent release\n{}", step.name, explain());
                let empties = wish.capacity == Some(Capacity::Exactly(0))
                    || wish.weight.is_some_and(|weight| Some(weight) < part.weight);
                assert!(!empties || !part.runs(&situation.wanted.id), "takes the good one away\n{}", explain());
            }
        }
        now = after(&now, &step.change);
        if let Some((left, total)) = serving(&now).zip(total) {
            assert!(left >= rung.floor.of(total), "{} leaves {left} of {total}\n{}", step.name, explain());
        }
        if weights(before, before) == Some(10_000) {
            assert_eq!(weights(before, &now), Some(10_000), "after {}\n{}", step.name, explain());
        }
    }
    for (id, part) in &now.parts {
        let bad = gets_traffic(part) && involves(part, &situation.suspect);
        assert!(!bad, "{id} still shows the suspect\n{}", explain());
    }
    if before.parts.values().any(|part| gets_traffic(part) && involves(part, &situation.suspect)) {
        let good = now.parts.values().any(|part| gets_traffic(part) && part.runs(&situation.wanted.id));
        assert!(good, "the wanted release serves nowhere\n{}", explain());
    }
    let again = Situation { now, ..situation.clone() };
    match strategy.plan(&again) {
        // A deployment that went on beside is aborted once that is about it alone; nothing else is left.
        Ok(plan) => {
            let left = |step: &Step| matches!(step.change, Change::Abort { .. } | Change::Verb { .. });
            let all = plan.rungs.iter().flat_map(|rung| &rung.steps).all(left);
            assert!(
                plan.is_nothing() || (all && again.now.in_flight.is_some()),
                "not idempotent: {plan}\n{}",
                explain()
            );
        }
        Err(none) => panic!("from the end of its own plan: {none}\n{}", explain()),
    }
}
