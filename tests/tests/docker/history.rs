//! What there is to go back to: what was deployed, in the order in which it was, and nothing else.

use crate::{
    project::{flow, open, version, yaml},
    shop::{CHECK, Shop},
};
use rollback_core::{
    Choose, Entry, EventKind, Journal, Look, Outcome, Report, Rollback, Running, Standing, Target, Timestamp,
    journal::{MemoryJournal, SqliteJournal},
    observe::Observe,
    record::record,
    seconds,
    verify::StaysHealthy,
};
use rollback_docker::{ComposeService, Container, ProjectOptions};
use rollback_tests::bed::docker::Bed;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, task::JoinHandle};

async fn recorded(target: &impl Target, journal: &impl Journal, label: &str) -> String {
    record(target, journal, label, Timestamp::now()).await.unwrap().release.id.to_string()
}
fn journal(shop: &Shop) -> SqliteJournal {
    SqliteJournal::open(shop.journal()).unwrap()
}
/// To the release before, verified or not.
async fn back(shop: &Shop, target: &ComposeService) -> Report {
    shop.rollback(target.clone()).await.to(Choose::verified().or_previous()).run().await.unwrap()
}
#[track_caller]
fn reached(report: &Report, image: &str) {
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(report.chosen().unwrap().wanted.id, image, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_image_that_nobody_deployed_is_gone_to_only_by_its_name() {
    // The release candidate never gets up.
    let shop = Shop::new("candidate", "", "");
    let rc = shop.project.image("rc", "ENV CRASH_AFTER=50ms");
    let target = shop.target().await;
    // Nothing was ever recorded: nothing but what runs is known to have been deployed.
    for report in [back(&shop, &target).await, Rollback::break_glass_on(&target, "paged").await] {
        assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
        assert_eq!(report.writes(), 0, "{report}");
        for tag in ["rc", "v1"] {
            let named = shop.project.tag(tag);
            let id = if tag == "rc" { &rc } else { &shop.good };
            assert!(report.to_string().contains(&format!("{named} [{}], made at 20", &id[7..19])), "{tag}: {report}");
        }
    }
    shop.serves("v2");
    let journal = journal(&shop);
    shop.deploy("v1");
    recorded(&target, &journal, "1.0").await;
    shop.deploy("v2");
    recorded(&target, &journal, "2.0").await;
    let history = target.history(10).await.unwrap();
    let deployed: Vec<_> = history.iter().filter(|r| !r.undeployed).map(|r| r.label.as_str()).collect();
    assert_eq!(deployed, ["2.0", "1.0"], "{history:?}");
    // By name it is gone to, and gets stuck; that does not make it one that was deployed.
    let named = shop.rollback(target.clone()).await.to(Choose::exactly(shop.project.tag("rc")));
    let report = named.run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    assert_eq!(report.chosen().unwrap().wanted.id, rc.as_str());
    shop.serves("v2");
    // Both by what they are called.
    let named = shop.rollback(target.clone()).await.blaming("2.0").to(Choose::verified().or_previous());
    let report = named.run().await.unwrap();
    reached(&report, &shop.good);
    assert_eq!(report.chosen().unwrap().suspect, shop.bad.as_str());
    shop.serves("v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn break_glass_goes_to_what_was_deployed_and_not_to_what_was_pulled_since() {
    let shop = Shop::new("pulled", "", "");
    let target = shop.target().await;
    shop.deploy("v1");
    target.recorder().unwrap().record("1.0").await.unwrap();
    shop.deploy("v2");
    target.recorder().unwrap().record("2.0").await.unwrap();
    shop.project.image("rc", "");
    let report = Rollback::break_glass_on(&target, "paged").await;
    assert!(report.outcome().is_good(), "{report}");
    shop.serves("v1");
}

/// A, B, A again, C: before C there was A. A rebuilt 1.0 after 2.0, and 2.0 again: before that there was the rebuilt one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn the_last_one_deployed_before_is_the_previous_one_however_often_it_was_deployed() {
    let shop = Shop::new("order", "", "");
    let third = shop.project.image("v3", "");
    let target = shop.target().await;
    let ledger = MemoryJournal::new();
    for (tag, label) in [("v1", "A"), ("v2", "B"), ("v1", "A, once more"), ("v3", "C")] {
        shop.deploy(tag);
        recorded(&target, &ledger, label).await;
    }
    let labels: Vec<String> = target.history(10).await.unwrap().into_iter().map(|r| r.label).collect();
    assert_eq!(labels, ["C", "A__once_more", "B"], "the label that it was given last");
    let known = ledger.ledger(target.id()).await.unwrap();
    assert!(known.iter().any(|e| e.release.label == "A, once more" && e.release.id == shop.good.as_str()), "{known:?}");
    reached(&back(&shop, &target).await, &shop.good);
    // Somebody deploys C anew, and records nothing: it is the newest, and before it there was A.
    crate::shop::forget(&shop.journal());
    shop.deploy("v3");
    shop.project.compose(&["up", "-d", "--force-recreate"]);
    assert_eq!(shop.only()["Image"].as_str(), Some(third.as_str()));
    reached(&back(&shop, &target).await, &shop.good);
    drop(shop);

    let shop = Shop::new("rebuilt", "", "");
    let target = shop.target().await;
    shop.deploy("v1");
    recorded(&target, &ledger, "1.0").await;
    shop.deploy("v2");
    recorded(&target, &ledger, "2.0").await;
    let rebuilt = shop.project.image("v1", "ENV REBUILT=1");
    shop.deploy("v1");
    recorded(&target, &ledger, "1.0").await;
    shop.deploy("v2");
    recorded(&target, &ledger, "2.0").await;
    // Its label is that of two: neither is guessed.
    let report = shop.rollback(target.clone()).await.to(Choose::exactly("1.0")).run().await.unwrap();
    let Outcome::Refused { why, .. } = report.outcome() else { panic!("{report}") };
    assert!(why.contains(&rebuilt[7..19]) && why.contains(&shop.good[7..19]), "{report}");
    reached(&back(&shop, &target).await, &rebuilt);
}

/// What was left did run, though nobody recorded it: a prune leaves it, and it is gone forward to by its name. What every
/// rollback goes back to stays, however many releases come and go.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn what_was_left_and_what_is_gone_back_to_survive_a_prune() {
    let shop = Shop::new("kept", "", "");
    let bed = &shop.project.bed;
    let target = shop.target().await.with_kept_records(2);
    let journal = journal(&shop);
    let prune = || {
        let of = format!("label=bed.project={}", shop.project.name);
        bed.prune(&["image", "prune", "-af", "--filter", &of]);
    };
    shop.deploy("v1");
    recorded(&target, &journal, "1.0").await;
    shop.deploy("v2");
    reached(&back(&shop, &target).await, &shop.good);
    bed.docker(&["rmi", &shop.project.tag("v2")]);
    prune();
    let history = target.history(10).await.unwrap();
    let left = history.iter().find(|r| r.id == shop.bad.as_str()).unwrap_or_else(|| panic!("{history:?}"));
    assert!(!left.undeployed && left.available, "{left:?}");
    for n in 3..8 {
        let tag = format!("v{n}");
        shop.project.image(&tag, "");
        shop.deploy(&tag);
        if n % 2 == 0 {
            recorded(&target, &journal, &format!("{n}.0")).await;
        }
        let _ = bed.try_docker(&["rmi", &shop.project.tag("v1")]);
        prune();
        reached(&back(&shop, &target).await, &shop.good);
    }
    shop.serves("v1");
    let pinned = bed.docker(&["images", "-q", &format!("rollback/{}.shop", shop.project.name)]);
    assert!(pinned.lines().count() <= 4, "no more than were asked for of each: {pinned}");
}

async fn verified(target: &impl Target, journal: &SqliteJournal, good: &str) {
    let release = target.history(10).await.unwrap().into_iter().find(|r| r.id == good).unwrap();
    let entry = rollback_core::LedgerEntry::new(release, Standing::Verified, Timestamp::now(), "watched");
    journal.mark(target.id(), &entry).await.unwrap();
}
async fn standing(target: &impl Target, journal: &SqliteJournal, image: &str) -> Standing {
    let ledger = journal.ledger(target.id()).await.unwrap();
    ledger.into_iter().find(|e| e.release.id == image).unwrap().standing
}

/// While the rollback is being verified somebody replaces what it brought by the release that was left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn whoever_brings_the_bad_one_back_while_it_is_verified_supersedes_the_rollback() {
    let healthy = || StaysHealthy::for_at_least(seconds(60));
    let shop = Shop::new("recreated", CHECK, "");
    let journal = journal(&shop);
    let target = shop.target().await;
    shop.deploy("v1");
    recorded(&target, &journal, "1.0").await;
    verified(&target, &journal, &shop.good).await;
    shop.deploy("v2");
    let run = shop.rollback(target.clone()).await.recovered_when(healthy());
    let run = being_verified(run).await;
    shop.project.compose(&["up", "-d", "--force-recreate"]);
    let report = run.await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Superseded { .. }), "{report}");
    assert_eq!(standing(&target, &journal, &shop.good).await, Standing::Verified, "{report}");
    shop.serves("v2");
    drop(shop);

    let project = Bed::here().project("rerun");
    let (good, bad) = (project.image("v1", CHECK), project.image("v2", CHECK));
    let shop = Shop { project, good, bad, service: String::new() };
    let bed = &shop.project.bed;
    let name = format!("{}-till", shop.project.name);
    let target = Container::new(bed.engine().await, &name).with_drain(Duration::from_millis(100));
    let journal = self::journal(&shop);
    let deploy = |image: &str| {
        let _ = bed.try_docker(&["rm", "-f", &name]);
        bed.docker(&["run", "-d", "--name", &name, image]);
    };
    deploy(&shop.good);
    recorded(&target, &journal, "1.0").await;
    verified(&target, &journal, &shop.good).await;
    deploy(&shop.bad);
    let run = shop.rollback(target.clone()).await.recovered_when(healthy());
    let run = being_verified(run).await;
    deploy(&shop.bad);
    let report = run.await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Superseded { .. }), "{report}");
    assert_eq!(standing(&target, &journal, &shop.good).await, Standing::Verified, "{report}");
    let seen = target.observe(Look::full()).await.unwrap();
    assert_eq!(seen.parts.values().next().unwrap().running, Running::Release(shop.bad.as_str().into()));
}

/// Begins it, and waits until its release is reached.
async fn being_verified(run: Rollback) -> JoinHandle<Report> {
    let reached = Arc::new(Notify::new());
    let say = reached.clone();
    let observer = Observe::with(move |event| {
        if let EventKind::Journalled(line) = &event.kind
            && matches!(line.entry, Entry::Reached { .. })
        {
            say.notify_one();
        }
    });
    let run = run.observer(observer);
    let run = tokio::spawn(async move { run.run().await.unwrap() });
    reached.notified().await;
    run
}

/// The project's files of the bad release come back while the rollback is verified.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn whoever_brings_the_files_of_the_bad_one_back_supersedes_the_rollback_of_a_project() {
    let project = Bed::here().project("files-back");
    for tag in ["v1", "v2"] {
        project.image(tag, "");
    }
    let deploy = |tag: &str| {
        project.file(&yaml(tag, ""));
        project.compose(&["up", "-d", "--wait"]);
    };
    deploy("v1");
    let target = open(&project, ProjectOptions::new()).await;
    target.recorder().unwrap().record("1.0").await.unwrap();
    deploy("v2");
    let journal = MemoryJournal::new();
    let run = flow(&target, &journal).recovered_when(StaysHealthy::for_at_least(seconds(60)));
    let run = being_verified(run).await;
    deploy("v2");
    let report = run.await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Superseded { .. }), "{report}");
    assert_eq!(version(&project), "v2");
}

/// As of services: A, B, A again, C. And what was only edited, and never brought up, is gone to by its name alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_project_goes_back_to_what_was_deployed_last_before() {
    let project = Bed::here().project("project-order");
    for tag in ["v1", "v2", "v3", "v4"] {
        project.image(tag, "");
    }
    project.file(&yaml("v1", ""));
    let target = open(&project, ProjectOptions::new()).await;
    for (tag, label) in [("v1", "A"), ("v2", "B"), ("v1", "A2"), ("v3", "C")] {
        project.file(&yaml(tag, ""));
        project.compose(&["up", "-d", "--wait"]);
        target.recorder().unwrap().record(label).await.unwrap();
    }
    let edited = target.edit_images(&[("web", &project.tag("v4"))]).await.unwrap();
    let e = target.edit_images(&[("web", "bed/no-such:9")]).await.unwrap_err();
    assert!(e.to_string().contains("bed/no-such:9"), "{e}");
    let history = target.history(10).await.unwrap();
    let labels: Vec<_> = history.iter().filter(|r| !r.undeployed).map(|r| r.label.as_str()).collect();
    assert_eq!(labels, ["C", "A2", "B"], "{history:?}");
    assert!(history.iter().any(|r| r.id == edited.id && r.undeployed), "{history:?}");
    let report = flow(&target, &MemoryJournal::new()).to(Choose::exactly("A")).run().await.unwrap();
    assert_eq!(report.chosen().map(|c| c.wanted.label.clone()), Some("A2".into()), "by an earlier label: {report}");
    assert_eq!(version(&project), "v1");
    project.file(&yaml("v3", ""));
    project.compose(&["up", "-d", "--wait"]);
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    let ignored = std::fs::read_to_string(project.dir.join(".rollback/.gitignore")).unwrap();
    assert_eq!(ignored, "*\n");
}
