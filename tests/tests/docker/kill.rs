//! `kill -9` of a real rollback at random moments, and then the same again: it ends as if nothing had happened.
//! `ROLLBACK_DOCKER_KILLS` says how often one of a service is killed (50); the others are a fifth of that.

use crate::{
    project::{deployed, slow, version},
    shop::{CHECK, Shop, forget, port, published},
};
use rollback_core::{
    Choose, Outcome, Policy, Report, Rollback, Target as _, journal::SqliteJournal, seconds, verify::Runs,
};
use rollback_docker::{ComposeProject, ProjectOptions};
use rollback_tests::bed::docker::{Bed, Project};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

fn kills() -> u32 {
    std::env::var("ROLLBACK_DOCKER_KILLS").map_or(50, |n| n.parse().unwrap())
}

/// What is killed: the test binary once more, as this one test.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn child() {
    let (Ok(what), Ok(name), Ok(dir)) =
        (std::env::var("KILL_WHAT"), std::env::var("KILL_PROJECT"), std::env::var("KILL_DIR"))
    else {
        return;
    };
    let project = Project { bed: Bed::here(), name, dir: dir.into() };
    if what == "project" {
        println!("{}", of_project(&project).await.run().await.unwrap());
        // Not dropped: it belongs to the parent.
        return std::mem::forget(project);
    }
    let (good, bad) = (std::env::var("KILL_GOOD").unwrap(), std::env::var("KILL_BAD").unwrap());
    let shop = Shop { project, good, bad, service: String::new() };
    let report = match what.as_str() {
        "gone" => of_gone(&shop).await.run().await.unwrap(),
        _ => shop.roll_back().await,
    };
    println!("{report}");
    std::mem::forget(shop);
}

fn spawn(what: &str, project: &Project, [good, bad]: [&str; 2]) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture"])
        .envs([("KILL_WHAT", what), ("KILL_PROJECT", &project.name), ("KILL_GOOD", good), ("KILL_BAD", bad)])
        .env("KILL_DIR", &project.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
/// How long one takes that is left alone.
fn takes(what: &str, project: &Project, images: [&str; 2]) -> Duration {
    let began = Instant::now();
    assert!(spawn(what, project, images).wait().unwrap().success());
    began.elapsed()
}
/// Kills one after so long. Was it still at it?
fn killed_after(time: Duration, what: &str, project: &Project, images: [&str; 2]) -> bool {
    let mut child = spawn(what, project, images);
    std::thread::sleep(time);
    let at_it = child.try_wait().unwrap().is_none();
    if at_it {
        child.kill().unwrap();
    }
    child.wait().unwrap();
    at_it
}
#[track_caller]
fn is_good(report: &Report) {
    assert!(matches!(report.outcome(), Outcome::Recovered | Outcome::NothingToDo), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn killed_at_any_moment_it_ends_with_one_container() {
    let kills = kills();
    let mut chance = fastrand::Rng::with_seed(7);
    let (mut killed, mut slowest) = (0, Duration::ZERO);
    let grace = "    stop_grace_period: 2s\n".to_owned();
    for (service, share) in [(grace, kills.div_ceil(2)), (published(port()), kills / 2)] {
        let shop = Shop::new("kill", &format!("{CHECK}\nENV WARM_UP=300ms"), &service);
        let images = [shop.good.as_str(), shop.bad.as_str()];
        let takes = takes("service", &shop.project, images);
        shop.serves("v1");
        let mut here = 0;
        while here < share {
            shop.project.compose(&["up", "-d", "--force-recreate", "-t", "0"]);
            shop.serves("v2");
            forget(&shop.journal());
            here += u32::from(killed_after(takes.mul_f64(chance.f64()), "service", &shop.project, images));
            let began = Instant::now();
            let unfinished = shop.rollback(shop.target().await).await.resume().await.unwrap();
            let report = match unfinished {
                Some(report) => Some(report),
                // It was through already: the same again would be a second press, and is refused.
                None if shop.only()["Image"].as_str() == Some(shop.good.as_str()) => None,
                // It had not begun.
                None => Some(shop.roll_back().await),
            };
            slowest = slowest.max(began.elapsed());
            report.iter().for_each(is_good);
            shop.serves("v1");
        }
        killed += here;
        shop.accepted();
    }
    println!("measured: {killed} kills; the slowest resume took {slowest:.1?}");
}

async fn of_gone(shop: &Shop) -> Rollback {
    shop.rollback(shop.target().await).await.blaming(shop.bad.as_str())
}

/// While it makes containers again that are gone: whether it is taken up again, or another rollback begins that knows nothing
/// of it, both are there in the end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn killed_while_it_makes_gone_containers_again_all_of_them_are_there_in_the_end() {
    let service =
        "    scale: 2\n    stop_grace_period: 1s\n    networks: [front, back]\nnetworks: {front: {}, back: {}}\n";
    let shop = Shop::new("kill-gone", &format!("{CHECK}\nENV WARM_UP=300ms"), service);
    let (project, images) = (&shop.project, [shop.good.as_str(), shop.bad.as_str()]);
    shop.deploy("v1");
    shop.target().await.recorder().unwrap().record("1.0").await.unwrap();
    shop.deploy("v2");
    let remove = || {
        for container in project.all_containers() {
            project.bed.docker(&["rm", "-f", container["Id"].as_str().unwrap()]);
        }
        forget(&shop.journal());
    };
    remove();
    let takes = takes("gone", project, images);
    shop.both_are_back();
    let mut chance = fastrand::Rng::with_seed(11);
    let (share, mut killed, mut resumed) = (kills().div_ceil(5), 0, 0);
    while killed < share {
        remove();
        let anew = killed % 2 == 1;
        killed += u32::from(killed_after(takes.mul_f64(chance.f64()), "gone", project, images));
        if anew {
            forget(&shop.journal());
        }
        let unfinished = of_gone(&shop).await.resume().await.unwrap();
        resumed += u32::from(unfinished.is_some());
        let report = match unfinished {
            Some(report) => report,
            None => of_gone(&shop).await.run().await.unwrap(),
        };
        is_good(&report);
        shop.both_are_back();
    }
    println!("measured: {killed} kills while containers were made again, {resumed} taken up again");
}

async fn of_project(project: &Project) -> Rollback {
    let options = ProjectOptions::new().with_git().with_name(&project.name);
    let target = ComposeProject::open(project.bed.engine().await, &project.dir, options).await.unwrap();
    let history = target.history(10).await.unwrap();
    let by = |why: &str| history.iter().find(|release| release.why.as_deref() == Some(why)).unwrap().id.clone();
    Rollback::of(target)
        .because("a test")
        .blaming(by("shop 2"))
        .to(Choose::exactly(by("shop 1")))
        .recovered_when(Runs::wanted())
        .journal(SqliteJournal::open(project.dir.join("journal.db")).unwrap())
        .policy(Policy::default().with_poll(Duration::from_millis(200)).with_lease(seconds(2)))
}

/// Compose, which it had begun, may still be at it when the next one comes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_project_killed_at_any_moment_ends_on_the_release_with_nothing_left_over() {
    let project = Bed::here().project("kill-project");
    for tag in ["v1", "v2"] {
        project.image(tag, "");
    }
    let [good, bad] = ["v1", "v2"].map(|tag| slow(tag, "500ms", "    stop_grace_period: 1s\n"));
    deployed(&project, [&good, &bad]);
    let takes = takes("project", &project, ["", ""]);
    assert_eq!(version(&project), "v1");
    let mut chance = fastrand::Rng::with_seed(13);
    let (share, mut killed, mut resumed, mut slowest) = (kills().div_ceil(5), 0, 0, Duration::ZERO);
    while killed < share {
        project.file(&bad);
        project.compose(&["up", "-d"]);
        assert_eq!(version(&project), "v2");
        forget(&project.dir.join("journal.db"));
        killed += u32::from(killed_after(takes.mul_f64(chance.f64()), "project", &project, ["", ""]));
        let began = Instant::now();
        let unfinished = of_project(&project).await.resume().await.unwrap();
        resumed += u32::from(unfinished.is_some());
        let report = match unfinished {
            Some(report) => report,
            None => of_project(&project).await.run().await.unwrap(),
        };
        slowest = slowest.max(began.elapsed());
        is_good(&report);
        assert_eq!(version(&project), "v1");
        let live = std::fs::read_to_string(project.dir.join("compose.yaml")).unwrap();
        assert!(live.contains("RELEASE: v1") && !live.contains("RELEASE: v2"), "{live}");
        let ids = || project.all_containers().iter().map(|c| c["Id"].clone()).collect::<Vec<_>>();
        let before = ids();
        assert_eq!(before.len(), 2, "no leftovers: {:?}", project.all_containers());
        project.compose(&["up", "-d"]);
        assert_eq!(ids(), before, "Compose leaves them");
    }
    println!("measured: {killed} kills of a project, {resumed} taken up again; the slowest took {slowest:.1?}");
}
