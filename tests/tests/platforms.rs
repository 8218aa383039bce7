//! Nine platforms fit the one `Target` without a special case.

#![allow(clippy::unwrap_used)]

use rollback_core::{
    Capabilities, Change, Extent, Finding, Kind, Look, Observation, Payload, Prepared, Release, Running, Severity,
    Shelf, Situation, Strategy, Target, TargetId, Weight, Work,
    journal::MemoryShelf,
    minutes,
    strategy::{BlueGreen, Canary, Direct},
    wrap::Checked,
};
use rollback_tests::platforms::{self, Picture, Shown, blue_green, ecs, flag, lambda, prefix};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, sync::Arc};

fn situation(picture: &Picture) -> Situation {
    let wanted = Release::new(&picture.wanted);
    Situation::new(picture.id.clone(), picture.capabilities.clone(), picture.found.clone(), &picture.suspect, wanted)
}

fn names(strategy: &dyn Strategy, picture: &Picture) -> Vec<String> {
    let plan = strategy.plan(&situation(picture)).unwrap();
    plan.rungs[0].steps.iter().map(|step| step.name.clone()).collect()
}

#[track_caller]
fn round_trips<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(&serde_json::from_str::<T>(&serde_json::to_string(value).unwrap()).unwrap(), value);
}

#[test]
fn everything_can_be_stored_and_is_small() {
    for picture in platforms::all().unwrap() {
        round_trips::<TargetId>(&picture.id);
        round_trips::<Capabilities>(&picture.capabilities);
        round_trips::<Observation>(&picture.found);
        round_trips::<Observation>(&picture.half);
        round_trips::<Change>(&picture.change);
        round_trips::<Prepared>(&picture.prepared);
        round_trips(&picture.applied);
        let instructions = picture.prepared.approved.instructions.as_ref().unwrap();
        assert!(instructions.size() < 4096, "{}: bulk belongs into an artifact", picture.id);
        assert!(serde_json::to_vec(&picture.prepared).unwrap().len() < 4096, "{}", picture.id);
    }
}

#[test]
fn an_approval_stays_good_while_findings_come_and_go() {
    for picture in platforms::all().unwrap() {
        let before = picture.prepared.approved.digest();
        let later = picture.prepared.clone().with_finding(Finding::new(Severity::Note, "age", "3 pods are pending"));
        assert_eq!(later.approved.digest(), before, "{}", picture.id);
        let other = picture.prepared.with_needs_approval("something else");
        assert_ne!(other.approved.digest(), before, "{}", picture.id);
    }
}

#[test]
fn the_shortest_way_back_is_the_change_of_the_picture() {
    for picture in platforms::all().unwrap() {
        let plan = Direct::default().plan(&situation(&picture)).unwrap();
        let steps = &plan.rungs[0].steps;
        let main: Vec<_> = steps.iter().filter(|step| !matches!(step.change, Change::Verb { .. })).collect();
        let wanted = main.iter().filter(|step| step.change == picture.change).count();
        assert_eq!(wanted, 1, "{}: {plan}", picture.id);
        // Instances before traffic is the only thing that may come first.
        assert!(main.len() == 1 || main[0].name.contains(" up to "), "{}: {plan}", picture.id);
        assert!(steps.iter().all(|step| picture.capabilities.supports(&step.change)), "{}", picture.id);
    }
}

#[test]
fn gentler_ways_where_they_fit() {
    let fits = |strategy: &dyn Strategy| -> Vec<String> {
        let all = platforms::all().unwrap().into_iter();
        let planned = all.filter(|picture| strategy.plan(&situation(picture)).is_ok());
        planned.map(|picture| picture.id.as_str().split(':').next().unwrap().to_owned()).collect()
    };
    // An ECS deployment in flight is aborted whatever the strategy, because the platform says where it lands.
    assert_eq!(fits(&BlueGreen::default()), ["k8s", "ecs", "lambda"]);
    assert_eq!(fits(&Canary::default()), ["ecs", "lambda"]);
    let sides = blue_green::picture().unwrap();
    assert_eq!(
        names(&BlueGreen::default().with_empty_bad(true), &sides),
        ["blue up to 3", "traffic 100% to blue", "green to nothing"]
    );
    let alias = lambda::picture().unwrap();
    assert_eq!(names(&Canary::default(), &alias), ["traffic 50% to 41", "traffic 100% to 41"]);
    assert_eq!(names(&Canary::default(), &ecs::picture().unwrap()), ["abort what is in flight"]);
}

#[test]
fn half_way_of_ours_is_ours_and_a_strange_release_is_not() {
    for picture in platforms::all().unwrap() {
        let found = picture.found.found();
        let begun = [picture.change.clone()];
        assert_eq!(picture.found.foreign(&found, &[]), None, "{}: as it was found", picture.id);
        assert_eq!(picture.half.foreign(&found, &begun), None, "{}: half way", picture.id);
        let mut strange = picture.half.clone();
        for part in strange.parts.values_mut() {
            part.running = Running::Release("newer".into());
        }
        assert!(strange.foreign(&found, &begun).is_some(), "{}: a strange release runs", picture.id);
        let mut told = picture.half.clone();
        for part in told.parts.values_mut() {
            part.wanted = Some("newer".into());
        }
        assert!(told.foreign(&found, &begun).is_some(), "{}: a strange release was told", picture.id);
        let mut edited = picture.half.clone();
        for part in edited.parts.values_mut() {
            part.running = Running::Unknown { fingerprint: "a hand".into(), named: None };
        }
        assert!(edited.foreign(&found, &begun).is_some(), "{}: edited by hand", picture.id);
    }
}

/// Whoever drives a target needs to know nothing of it.
#[tokio::test]
async fn one_caller_for_all() {
    for picture in platforms::all().unwrap() {
        let target: Arc<dyn Target> = Arc::new(Checked::new(Shown::new(picture.clone())));
        let work = Work::new("run".into(), 1, "0.0", minutes(1), Arc::new(MemoryShelf::new()));
        let now = target.observe(Look::full()).await.unwrap();
        let wanted = target.history(10).await.unwrap().into_iter().find(|r| r.id == picture.wanted).unwrap();
        let situation = Situation::new(target.id().clone(), target.capabilities(), now, &picture.suspect, wanted);
        let plan = Direct::default().plan(&situation).unwrap();
        let step = plan.rungs[0].steps.iter().find(|step| step.change == picture.change).unwrap();
        let prepared = target.prepare(&step.change, &work).await.unwrap();
        let seen = target.observe(Look::full()).await.unwrap();
        let applied = target.apply(&prepared.approved, seen.token, &work).await.unwrap();
        assert!(!matches!(applied.extent, Extent::NotStarted { .. }), "{}", picture.id);
        let half = target.observe(Look::full()).await.unwrap();
        assert_eq!(half.foreign(&plan.found, std::slice::from_ref(&step.change)), None, "{}", picture.id);
        let refused = target.prepare(&Change::traffic([("nowhere".into(), Weight::ALL)]), &work).await.unwrap_err();
        assert!(matches!(refused.kind(), Kind::Unsupported | Kind::Invalid), "{}: {refused}", picture.id);
    }
}

#[tokio::test]
async fn a_copy_of_many_keys_goes_on_where_it_stopped() {
    let shelf = Arc::new(MemoryShelf::new());
    let mut manifest = shelf.write("s3-manifest/1").await.unwrap();
    for chunk in 0..10 {
        let lines: String = (0..500).map(|i| format!("key-{}\n", chunk * 500 + i)).collect();
        manifest.push(lines.as_bytes()).await.unwrap();
    }
    let artifact = manifest.seal().await.unwrap();
    let approved = prefix::picture().unwrap().prepared.with_artifact(artifact).approved;
    let work = Work::new("run".into(), 1, "0.0", minutes(1), shelf.clone());
    // The lease is lost after 2000 keys.
    let lost = work.clone();
    let first = work.clone().with_progress(move |done, _| {
        if done == 2000 {
            lost.cancel();
        }
    });
    let stopped = prefix::copy(&approved, &first).await.unwrap();
    assert!(matches!(stopped.extent, Extent::Partial { done: 2000, .. }), "{stopped:?}");
    let at = work.last_checkpoint::<prefix::Checkpoint>().await.unwrap().unwrap();
    assert_eq!((at.done, at.after_key.as_str()), (2000, "key-1999"));
    // Another process, with a higher epoch.
    let seen = Arc::new(std::sync::Mutex::new(vec![]));
    let hears = seen.clone();
    let again = Work::new("run".into(), 2, "0.0", minutes(1), shelf)
        .with_progress(move |done, _| hears.lock().unwrap().push(done));
    assert_eq!(prefix::copy(&approved, &again).await.unwrap().extent, Extent::Done);
    assert_eq!(*seen.lock().unwrap(), [3000, 4000, 5000]);
}

#[test]
fn a_payload_of_another_version_is_upgraded_or_refused() {
    let at = prefix::Checkpoint { phase: "assets".into(), after_key: "k".into(), done: 1, failed: 0 };
    let stored = Payload::of(&at).unwrap();
    assert_eq!(stored.read::<prefix::Checkpoint>().unwrap(), at);
    let of_version = |version: u32| -> Payload {
        let mut value = serde_json::to_value(&stored).unwrap();
        value["version"] = version.into();
        serde_json::from_value(value).unwrap()
    };
    let refused = |payload: Payload| payload.read::<prefix::Checkpoint>().unwrap_err();
    assert_eq!(refused(of_version(1)).kind(), Kind::Unsupported);
    assert!(refused(of_version(1)).message().contains("too old"));
    assert!(refused(of_version(3)).message().contains("newer release of this library"));
    assert_eq!(stored.read::<flag::Version>().unwrap_err().kind(), Kind::Invalid);
}
