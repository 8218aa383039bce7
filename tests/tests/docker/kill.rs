//! `kill -9` of a real rollback at random moments, and then the same again: it ends as if nothing had happened.
//! `ROLLBACK_DOCKER_KILLS` says how often (50).

use crate::shop::{CHECK, Shop, port, published};
use rollback_core::Outcome;
use rollback_tests::bed::docker::Bed;
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What is killed: the test binary once more, as this one test.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn child() {
    let (Ok(name), Ok(dir)) = (std::env::var("KILL_PROJECT"), std::env::var("KILL_DIR")) else { return };
    let (good, bad) = (std::env::var("KILL_GOOD").unwrap(), std::env::var("KILL_BAD").unwrap());
    let project = rollback_tests::bed::docker::Project { bed: Bed::here(), name, dir: dir.into() };
    let shop = Shop { project, good, bad, service: String::new() };
    let report = shop.roll_back().await;
    println!("{report}");
    // Not dropped: it belongs to the parent.
    std::mem::forget(shop);
}

fn spawn(shop: &Shop) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture"])
        .env("KILL_PROJECT", &shop.project.name)
        .env("KILL_DIR", &shop.project.dir)
        .env("KILL_GOOD", &shop.good)
        .env("KILL_BAD", &shop.bad)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn killed_at_any_moment_it_ends_with_one_container() {
    let kills: u32 = std::env::var("ROLLBACK_DOCKER_KILLS").map_or(50, |n| n.parse().unwrap());
    let mut chance = fastrand::Rng::with_seed(7);
    let (mut killed, mut slowest) = (0, Duration::ZERO);
    let grace = "    stop_grace_period: 2s\n".to_owned();
    for (service, share) in [(grace, kills.div_ceil(2)), (published(port()), kills / 2)] {
        let shop = Shop::new("kill", &format!("{CHECK}\nENV WARM_UP=300ms"), &service);
        // How long one takes that is left alone.
        let began = Instant::now();
        assert!(spawn(&shop).wait().unwrap().success());
        let takes = began.elapsed();
        shop.serves("v1");
        let mut here = 0;
        while here < share {
            shop.project.compose(&["up", "-d", "--force-recreate", "-t", "0"]);
            shop.serves("v2");
            let _ = std::fs::remove_dir_all(shop.journal());
            let mut child = spawn(&shop);
            std::thread::sleep(takes.mul_f64(chance.f64()));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                here += 1;
            }
            child.wait().unwrap();
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
            if let Some(report) = report {
                let good = matches!(report.outcome(), Outcome::Recovered | Outcome::NothingToDo);
                assert!(good, "{report}");
            }
            shop.serves("v1");
        }
        killed += here;
        shop.accepted();
    }
    println!("measured: {killed} kills; the slowest resume took {slowest:.1?}");
}
