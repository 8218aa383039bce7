//! What a prune takes, and what it leaves. Each is limited to the images of one test, and to what has their labels.

use crate::{
    project::{flow, open, version, work, yaml},
    shop::Shop,
};
use rollback_core::{Change, Look, Outcome, Running, Target, journal::MemoryJournal, record::record};
use rollback_docker::ProjectOptions;
use rollback_tests::bed::docker::{Bed, Project};

fn of(project: &Project) -> String {
    format!("label=bed.project={}", project.name)
}

/// kamal#1658: a prune takes what nobody recorded, and leaves what somebody did. One that takes that too leaves a rollback
/// that is refused before anything is touched.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_recorded_release_survives_a_prune_of_all_images_and_a_pruned_one_is_refused() {
    let shop = Shop::new("prune", "", "");
    let bed = &shop.project.bed;
    let there = |image: &str| bed.try_docker(&["inspect", image]).is_ok();
    let nobodys = shop.project.image("v0", "");
    shop.deploy("v1");
    let journal = rollback_core::journal::SqliteJournal::open(shop.journal()).unwrap();
    let entry = record(&shop.target().await, &journal, "1.0", rollback_core::Timestamp::now()).await.unwrap();
    assert_eq!((entry.release.id.as_str(), entry.release.label.as_str()), (shop.good.as_str(), "1.0"));
    shop.deploy("v2");
    // Its tag moves on, as `latest` does.
    bed.docker(&["rmi", &shop.project.tag("v1")]);
    bed.prune(&["image", "prune", "-af", "--filter", &of(&shop.project)]);
    assert_eq!((there(&nobodys), there(&shop.good)), (false, true));
    let history = shop.target().await.history(10).await.unwrap();
    assert!(history.iter().any(|r| r.id == shop.good.as_str() && r.label == "1.0"), "{history:?}");
    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
    // What holds the image is none of the project's.
    shop.accepted();

    shop.deploy("v2");
    shop.project.compose(&["up", "-d", "--force-recreate"]);
    shop.serves("v2");
    let before = shop.only()["Id"].clone();
    // Containers that do not run go first, and then nobody uses the image.
    bed.prune(&["system", "prune", "-af", "--filter", &of(&shop.project)]);
    assert_eq!((there(&shop.bad), there(&shop.good)), (true, false));
    let report = shop.roll_back().await;
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("does not have this image any more"), "{report}");
    assert_eq!(shop.only()["Id"], before);
    shop.serves("v2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_tag_that_moved_means_again_what_it_meant_when_the_release_was_recorded() {
    let project = Bed::here().project("moved");
    let good = project.image("latest", "ENV VERSION=good");
    project.file(&yaml("latest", "      SIDE: one\n"));
    project.compose(&["up", "-d"]);
    let target = open(&project, ProjectOptions::new()).await;
    let recorded = target.recorder().unwrap().record("2.3.9").await.unwrap();
    // The next build takes the tag.
    let bad = project.image("latest", "ENV VERSION=bad");
    assert_ne!(good, bad);
    project.file(&yaml("latest", "      SIDE: two\n"));
    project.compose(&["up", "-d"]);
    assert_eq!(version(&project), "bad");
    project.bed.prune(&["image", "prune", "-af", "--filter", &of(&project)]);

    let prepared = target.prepare(&Change::release(&"project".into(), &recorded.id), &work()).await.unwrap();
    assert!(prepared.findings.iter().any(|finding| finding.code == "mutable-tag"), "{prepared:?}");
    let report = flow(&target, &MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(version(&project), "good");
    assert_eq!(project.containers("web")[0]["Image"].as_str().unwrap(), good);
    // drydock#1023: the same settings on another image are not the release.
    project.bed.docker(&["tag", &bad, &project.tag("latest")]);
    project.compose(&["up", "-d"]);
    let seen = target.observe(Look::full()).await.unwrap();
    let running = &seen.parts.values().next().unwrap().running;
    assert!(matches!(running, Running::Unknown { .. }), "{running}");
}
