//! What cannot run beside anything else: the engine is restarted.

use crate::{
    project::{deployed, flow, open, slow, version},
    shop::{CHECK, Shop, port, published},
};
use rollback_core::{Outcome, Policy, journal::MemoryJournal};
use rollback_docker::ProjectOptions;
use rollback_tests::bed::docker::{Bed, wait_until};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_engine_that_restarts_in_the_middle_only_takes_longer() {
    for (what, more) in [("start first", String::new()), ("stop first", published(port()))] {
        let service = format!("    restart: always\n{more}");
        let shop = Shop::new("restart", &format!("{CHECK}\nENV WARM_UP=2s"), &service);
        let target = shop.target().await;
        let running = shop.rollback(target).await;
        let run = tokio::spawn(async move { running.run().await.unwrap() });
        let candidate = format!("{}-shop-1-rollback", shop.project.name);
        wait_until("a candidate is there", || shop.project.bed.try_docker(&["inspect", &candidate]).is_ok());
        shop.project.bed.script("restart");
        let report = run.await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{what}: {report}");
        let text = report.to_string();
        assert!(text.contains("the engine's events broke off") || text.contains("is not known yet"), "{what}: {text}");
        shop.serves("v1");
    }
}

/// Compose is at it when the engine goes away: its call fails, nobody knows how far it came, and the same is done again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_engine_that_restarts_in_the_middle_of_a_project_only_takes_longer() {
    let project = Bed::here().project("restarts");
    for tag in ["v1", "v2"] {
        project.image(tag, "");
    }
    let restarts = "    restart: always\n";
    deployed(&project, [&slow("v1", "4s", restarts), &slow("v2", "4s", restarts)]);
    let old = project.containers("db")[0]["Id"].clone();
    let target = open(&project, ProjectOptions::new().with_git()).await;
    let run = flow(&target, &MemoryJournal::new()).policy(Policy::default().with_poll(Duration::from_millis(200)));
    let run = tokio::spawn(async move { run.run().await.unwrap() });
    let ids = ["ps", "-q", "--no-trunc", "-f", &format!("name=^/{}-db-1$", project.name)];
    wait_until("the database is made again", || {
        project.bed.try_docker(&ids).is_ok_and(|id| !id.is_empty() && id != old.as_str().unwrap_or_default())
    });
    project.bed.script("restart");
    let report = run.await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "v1");
    assert_eq!(project.all_containers().len(), 2, "no leftovers");
}
