//! What goes wrong while a rollback is under way has a name, and the old container serves wherever it can.

use crate::{
    project::{commit, flow, open, version, work, yaml},
    shop::{CHECK, Shop, port, published},
};
use rollback_core::{Change, Choose, Kind, Look, Outcome, Report, Severity, Target, journal::MemoryJournal};
use rollback_docker::{ComposeService, ConnectOptions, Engine, ProjectOptions};
use rollback_tests::bed::{
    docker::{Bed, Project, wait_until},
    proxy::Proxy,
};
use std::{net::TcpListener, sync::Arc};
use tokio::task::JoinHandle;

/// A rollback that has made its candidate, which warms up.
async fn midway(shop: &Arc<Shop>) -> (JoinHandle<Report>, String) {
    let target = shop.target().await;
    let running = shop.rollback(target).await;
    let run = tokio::spawn(async move { running.run().await.unwrap() });
    let candidate = format!("{}-shop-1-rollback", shop.project.name);
    let state = ["inspect", "-f", "{{.State.Running}}", &candidate];
    wait_until("the candidate runs", || shop.project.bed.try_docker(&state).as_deref() == Ok("true"));
    (run, candidate)
}

/// Whichever of the two containers somebody removes, the good image serves in the end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_container_that_is_removed_by_hand_in_the_middle_is_made_again_or_not_missed() {
    for the_new_one in [true, false] {
        let shop = Arc::new(Shop::new("removed", &format!("{CHECK}\nENV WARM_UP=3s"), ""));
        let (run, candidate) = midway(&shop).await;
        let gone = if the_new_one { candidate } else { format!("{}-shop-1", shop.project.name) };
        shop.project.bed.docker(&["rm", "-f", &gone]);
        let report = run.await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{gone}: {report}");
        assert!(report.to_string().contains(&format!("somebody else removed {gone}")), "{report}");
        shop.serves("v1");
        shop.accepted();
    }
}

/// For Compose the candidate is a second container of a service that is to have one: it keeps one of the two. It is the good
/// one in the end, and there is one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn compose_up_of_the_same_file_in_the_middle_changes_nothing_in_the_end() {
    let shop = Arc::new(Shop::new("same", &format!("{CHECK}\nENV WARM_UP=5s"), ""));
    let (run, _) = midway(&shop).await;
    shop.project.compose(&["up", "-d"]);
    let report = run.await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
    shop.accepted();
}

/// The old container does not run, and a program that is no container has its port.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_port_that_another_program_has_is_named_and_free_again_it_is_no_trouble() {
    let port = port();
    let shop = Shop::new("program", "", &published(port));
    shop.project.bed.docker(&["stop", "-t", "0", &format!("{}-shop-1", shop.project.name)]);
    let program = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let report = shop.roll_back().await;
    assert!(!report.outcome().is_good(), "{report}");
    let text = report.to_string();
    assert!(text.contains("another program has the port"), "{text}");
    // Nothing was lost: the one that was there is there.
    assert_eq!(shop.only()["Image"].as_str(), Some(shop.bad.as_str()));
    drop(program);
    let _ = std::fs::remove_file(shop.journal());
    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
}

/// A project whose earlier file publishes a port that somebody has by now, or whose earlier release is never healthy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_earlier_file_that_does_not_come_up_is_stuck_with_its_reason_and_the_newer_one_can_be_gone_to() {
    let never =
        "      NEVER_HEALTHY: 1\n    healthcheck: {test: [CMD, /bin/shop, health], interval: 200ms, retries: 1}\n";
    let port = port();
    for (what, more, why) in
        [("port", published(port), "another program has the port"), ("health", never.to_owned(), "is unhealthy")]
    {
        let project = Bed::here().project("stuck");
        project.image("v1", "");
        project.image("v2", "");
        project.file(&yaml("v1", &more));
        commit(&project, 1, "shop 1");
        project.file(&yaml("v2", ""));
        commit(&project, 2, "shop 2");
        project.compose(&["up", "-d"]);
        let program = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let target = open(&project, ProjectOptions::new().with_git()).await;
        let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
        let Outcome::Stuck { .. } = report.outcome() else { panic!("{what}: {report}") };
        assert!(report.to_string().contains(why), "{what}: {report}");
        drop(program);
        // The files that were replaced are kept: forward again by naming them.
        let history = target.history(10).await.unwrap();
        let of = |why: &str| history.iter().find(|r| r.why.as_deref() == Some(why)).unwrap().id.clone();
        let (newer, older) = (of("shop 2"), of("shop 1"));
        let forward = flow(&target, &MemoryJournal::new()).blaming(older).to(Choose::exactly(newer));
        let report = forward.run().await.unwrap();
        assert!(report.outcome().is_good(), "{what}: {report}");
        assert_eq!(version(&project), "v2");
    }
}

/// What is said of the engine's disk, by code.
async fn disk(target: &impl Target, good: &str) -> Vec<(Severity, String)> {
    let prepared = target.prepare(&Change::release(&"all".into(), &good.into()), &work()).await.unwrap();
    let disk = prepared.findings.into_iter().filter(|finding| finding.code.starts_with("disk"));
    disk.map(|finding| (finding.severity, finding.code)).collect()
}

/// The engine's disk is full: that is found out before anything is touched; where it fills up later nothing can be made, and
/// the old container goes on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_full_disk_is_named_and_the_old_container_serves() {
    let plenty = Shop::new("plenty", "", "");
    assert_eq!(disk(&plenty.target().await, &plenty.good).await, []);
    drop(plenty);

    let beside = Bed::here().beside(96);
    let shop = Shop::on(&beside.0, "full", "", "");
    let name = format!("{}-shop-1", shop.project.name);
    let before = shop.only()["Id"].clone();
    let serves = || beside.0.docker(&["exec", &name, "/bin/busybox", "wget", "-qO-", "http://127.0.0.1:8080/version"]);
    let fill = |project: &Project| {
        // It ends when there is no room for another byte.
        let fill = ["exec", &name, "/bin/busybox", "dd", "if=/dev/zero", "of=/tmp/fill", "bs=4k"];
        let said = project.bed.try_docker(&fill).unwrap_err();
        assert!(said.contains("No space left"), "{said}");
    };
    wait_until("it answers", || {
        beside.0.try_docker(&["exec", &name, "/bin/busybox", "wget", "-qO-", "http://127.0.0.1:8080/version"]).is_ok()
    });
    let target = shop.target().await;
    assert_eq!(disk(&target, &shop.good).await, [(Severity::Warning, "disk-low".into())]);
    // Behind a proxy the engine's directory cannot be told from another one.
    let proxy = Proxy::new(&shop.project);
    let engine = Engine::connect(ConnectOptions::new().with_host(&proxy.host)).await.unwrap();
    let far = ComposeService::new(engine, &shop.project.name, "shop");
    assert_eq!(disk(&far, &shop.good).await, [(Severity::Note, "disk-unknown".into())]);

    let change = Change::release(&"all".into(), &shop.good.as_str().into());
    let approved = target.prepare(&change, &work()).await.unwrap().approved;
    fill(&shop.project);
    let token = target.observe(Look::full()).await.unwrap().token;
    let e = target.apply(&approved, token, &work()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable, "{e}");
    assert!(e.to_string().contains("disk is full"), "{e}");
    assert_eq!((&shop.only()["Id"], serves().as_str()), (&before, "v2"));

    // The journal lies on this host, which has room.
    let policy = rollback_core::Policy::default()
        .with_poll(std::time::Duration::from_millis(200))
        .with_deadline(rollback_core::seconds(20));
    let report = shop.rollback(target).await.policy(policy).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("is left on the engine's disk"), "{report}");
    println!("measured: on a full disk: {}", report.outcome());
    assert_eq!((&shop.only()["Id"], serves().as_str()), (&before, "v2"));
    beside.0.docker(&["exec", &name, "/bin/busybox", "rm", "/tmp/fill"]);
    let _ = std::fs::remove_file(shop.journal());
    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(serves(), "v1");
}
