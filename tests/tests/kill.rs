//! `kill -9` of a real rollback of a real service with the real journal, at random moments; two of them at once; and a
//! deploy that arrives in the middle. Effects are counted in the service's own log, which its supervisor keeps.
//!
//! `ROLLBACK_KILLS` says how many times it is killed (20), `ROLLBACK_SEED` where chance begins.
#![allow(clippy::unwrap_used)]

use rollback_core::{
    Look, Outcome, RunQuery, Target,
    journal::{Journal, SqliteJournal},
    local::{ReleaseDir, RunningSource},
};
use serde_json::Value;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const QUICKSTART: &str = env!("CARGO_BIN_EXE_quickstart");
/// A rollback of the fast profile takes about two seconds; one that takes this long hangs.
const WITHIN: Duration = Duration::from_secs(60);
/// So many services are killed at once.
const SIDE_BY_SIDE: u64 = 4;

/// A running service with its supervisor, its releases and its journal, all of its own.
struct Bed {
    folder: tempfile::TempDir,
    supervisor: Child,
    traffic: Traffic,
}

/// A hundred requests a second: without them nobody could say that it recovered.
struct Traffic {
    over: Arc<AtomicBool>,
}

impl Traffic {
    fn start(address: String) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let traffic = Self { over: over.clone() };
        let request = move || {
            let mut service = TcpStream::connect(&address)?;
            service.set_read_timeout(Some(Duration::from_secs(5)))?;
            service.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            service.read_to_string(&mut String::new())
        };
        thread::spawn(move || {
            let begun = Instant::now();
            while !over.load(Relaxed) && begun.elapsed() < 2 * WITHIN {
                let _ = request();
                thread::sleep(Duration::from_millis(10));
            }
        });
        traffic
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.traffic.over.store(true, Relaxed);
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

impl Bed {
    /// 2.3.9 is deployed, and then 2.4.0, which is bad.
    async fn with_bad_release() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut supervisor = Command::new(QUICKSTART)
            .args(["supervise", "--parent", &std::process::id().to_string(), "--work"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let address = folder.path().join("address");
        wait_for("the service", || address.exists() || supervisor.try_wait().unwrap().is_some());
        let traffic = Traffic::start(fs::read_to_string(address).unwrap());
        let bed = Self { folder, supervisor, traffic };
        for release in ["2.3.9", "2.4.0"] {
            bed.deploy(release).await;
        }
        bed
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn target(&self) -> ReleaseDir {
        let address = fs::read_to_string(self.path("address")).unwrap();
        ReleaseDir::open(self.path("checkout"))
            .unwrap()
            .restart_with([QUICKSTART, "hook", "--work", self.folder.path().to_str().unwrap()])
            .running_from(RunningSource::http(&format!("http://{address}/version"), "/version").unwrap())
    }
    fn journal(&self) -> SqliteJournal {
        SqliteJournal::open(self.path("rollback.db")).unwrap()
    }
    async fn deploy(&self, release: &str) {
        self.target().deploy(release).await.unwrap();
    }
    fn roll_back(&self) -> Child {
        Command::new(QUICKSTART)
            .args([
                "roll-back",
                "--fast",
                "--blame",
                "2.4.0",
                "--why",
                "checkout answers 500",
                "--parent",
                &std::process::id().to_string(),
            ])
            .arg("--work")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
    /// What really runs.
    async fn running(&self) -> String {
        let seen = self.target().observe(Look::full()).await.unwrap();
        seen.parts.values().next().unwrap().running.to_string()
    }
    fn log(&self) -> Log {
        let text = fs::read_to_string(self.path("service.log")).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        Log(whole.map(|line| serde_json::from_str(line).unwrap()).collect())
    }
    /// How each run ended, newest first.
    async fn ends(&self) -> Vec<Option<Outcome>> {
        let runs = self.journal().runs(&RunQuery::of_target(self.target().id())).await.unwrap();
        assert!(runs.iter().all(|run| run.driven_by.is_none()), "the lock is still held: {runs:#?}");
        runs.into_iter().map(|run| run.outcome).collect()
    }
}

/// The service's own log.
struct Log(Vec<Value>);

impl Log {
    fn swaps_to(&self, release: &str) -> usize {
        self.0.iter().filter(|line| line["event"] == "swapped" && line["to"] == release).count()
    }
    /// The keys with which the restart hook of rollbacks to a release called.
    fn hook_keys(&self, release: &str) -> Vec<String> {
        let orders = self.0.iter().filter(|line| line["event"] == "hook").map(|line| &line["order"]);
        let ours = orders.filter(|order| order["release"] == release && order["run"] != "deploy");
        ours.map(|order| order["key"].as_str().unwrap().to_string()).collect()
    }
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < WITHIN, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ended(mut child: Child) -> Output {
    wait_for("the end of the rollback", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What must be true in the end, however often it was killed: the wanted release runs, the link was swapped once, the
/// hook was called under one key, and nobody holds the lock.
async fn assert_rolled_back_once(bed: &Bed, told: &str) {
    assert_eq!(bed.running().await, "2.3.9", "{told}");
    let ends = bed.ends().await;
    assert_eq!(ends.iter().filter(|end| **end == Some(Outcome::Recovered)).count(), 1, "{ends:?}\n{told}");
    assert!(ends.iter().all(|end| matches!(end, Some(Outcome::Recovered | Outcome::NothingToDo))), "{ends:?}\n{told}");
    let log = bed.log();
    // One swap to it at the first deploy, one by the rollback.
    assert_eq!(log.swaps_to("2.3.9"), 2, "{told}");
    let mut keys = log.hook_keys("2.3.9");
    assert!(!keys.is_empty(), "the hook was not called\n{told}");
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}\n{told}");
}

#[tokio::test]
async fn without_a_kill() {
    let bed = Bed::with_bad_release().await;
    let told = said(&ended(bed.roll_back()));
    assert_rolled_back_once(&bed, &told).await;
}

/// What came of killing.
#[derive(Clone, Copy, Debug, Default)]
struct Killed {
    kills: u64,
    rollbacks: u64,
    hooks: usize,
    slowest: Duration,
}

/// One service; its rollback is killed at random moments, and resumed until it ends.
async fn kill_and_resume(takes: Duration, chance: &mut fastrand::Rng) -> Killed {
    let bed = Bed::with_bad_release().await;
    let (mut told, mut kills) = (String::new(), 0);
    loop {
        let mut child = bed.roll_back();
        // Most of what can go wrong is at the beginning; the end is waiting.
        thread::sleep(takes.mul_f64(chance.f64().powi(2)));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        told += &said(&child.wait_with_output().unwrap());
        kills += 1;
        // Now and then the one that resumes is killed too.
        if chance.u8(..3) > 0 {
            break;
        }
    }
    let begun = Instant::now();
    let output = ended(bed.roll_back());
    let slowest = begun.elapsed();
    told += &said(&output);
    assert!(output.status.success(), "{told}");
    assert_rolled_back_once(&bed, &told).await;
    Killed { kills, rollbacks: 1, hooks: bed.log().hook_keys("2.3.9").len(), slowest }
}

#[tokio::test]
#[ignore = "slow: 20 kills take 15 s"]
async fn killed_at_random_moments_it_ends_the_same() {
    let bed = Bed::with_bad_release().await;
    let begun = Instant::now();
    let told = said(&ended(bed.roll_back()));
    let takes = begun.elapsed();
    assert_rolled_back_once(&bed, &told).await;

    let (seed, most) = (from_env("ROLLBACK_SEED", 1), from_env("ROLLBACK_KILLS", 20));
    // Each of them waits most of the time.
    let all = thread::scope(|scope| {
        let side = |nth: u64| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut chance = fastrand::Rng::with_seed(seed.wrapping_add(nth));
            let mut sum = Killed::default();
            while sum.kills < most.div_ceil(SIDE_BY_SIDE) {
                let one = runtime.block_on(kill_and_resume(takes, &mut chance));
                sum = sum.and(one);
            }
            sum
        };
        let sides: Vec<_> = (0..SIDE_BY_SIDE).map(|nth| scope.spawn(move || side(nth))).collect();
        sides.into_iter().map(|side| side.join().unwrap()).fold(Killed::default(), Killed::and)
    });
    // The lease is 30 s: that nobody ever waited for it shows that a dead holder's lock is not held past its time.
    assert!(all.slowest < Duration::from_secs(25), "{all:?}");
    println!(
        "measured: {} kills (seed {seed}) in {} rollbacks of {takes:.1?}: {} swaps, {} hook calls; the slowest resume \
         took {:.1?}",
        all.kills, all.rollbacks, all.rollbacks, all.hooks, all.slowest
    );
}

impl Killed {
    fn and(self, other: Self) -> Self {
        Self {
            kills: self.kills + other.kills,
            rollbacks: self.rollbacks + other.rollbacks,
            hooks: self.hooks + other.hooks,
            slowest: self.slowest.max(other.slowest),
        }
    }
}

#[tokio::test]
async fn of_two_at_once_one_does_it_and_the_other_says_who() {
    let bed = Bed::with_bad_release().await;
    let first = bed.roll_back();
    let holder = first.id().to_string();
    let (target, journal) = (bed.target().id().clone(), bed.journal());
    let begun = Instant::now();
    while journal.runs(&RunQuery::of_target(&target)).await.unwrap().iter().all(|run| run.driven_by.is_none()) {
        assert!(begun.elapsed() < WITHIN, "the first one does not begin");
        thread::sleep(Duration::from_millis(5));
    }
    let second = ended(bed.roll_back());
    assert!(!second.status.success());
    let told = said(&second);
    assert!(told.contains(&holder) && told.contains("since"), "it does not say who holds it ({holder}):\n{told}");
    let told = said(&ended(first));
    assert_rolled_back_once(&bed, &told).await;
}

#[tokio::test]
async fn two_at_the_very_same_time_make_one_swap() {
    let bed = Bed::with_bad_release().await;
    let both = [bed.roll_back(), bed.roll_back()].map(ended);
    let told = both.iter().map(said).collect::<String>();
    assert!(both.iter().any(|one| one.status.success()), "{told}");
    assert_rolled_back_once(&bed, &told).await;
}

/// A newer release, 2.4.1, is deployed while the rollback runs. It must stay, whatever the run makes of it.
async fn deployed_in_the_middle(wait: impl FnOnce(&Bed)) -> (Vec<Option<Outcome>>, String) {
    let bed = Bed::with_bad_release().await;
    let newer = bed.path("checkout/releases/2.4.1");
    fs::create_dir_all(&newer).unwrap();
    let file = serde_json::json!({ "version": "2.4.1", "fails_percent": 0, "starts_in_ms": 0 });
    fs::write(newer.join("service.json"), file.to_string()).unwrap();
    let child = bed.roll_back();
    wait(&bed);
    bed.deploy("2.4.1").await;
    let swaps = bed.log().0.len();
    let told = said(&ended(child));
    assert_eq!(bed.running().await, "2.4.1", "{told}");
    assert_eq!(bed.log().swaps_to("2.4.1"), 1, "{told}");
    let after = &bed.log().0[swaps..];
    assert!(!after.iter().any(|line| line["event"] == "swapped" && line["to"] != "2.4.1"), "{after:?}\n{told}");
    (bed.ends().await, told)
}

#[tokio::test]
async fn a_deploy_after_the_swap_supersedes_it() {
    let swapped = |bed: &Bed| wait_for("the rollback's swap", || bed.log().swaps_to("2.3.9") == 2);
    let (ends, told) = deployed_in_the_middle(swapped).await;
    assert_eq!(ends, [Some(Outcome::superseded_by("2.4.1"))], "{told}");
}

#[tokio::test]
#[ignore = "slow: 12 rollbacks take 30 s"]
async fn a_deploy_at_any_moment_stays() {
    let mut chance = fastrand::Rng::with_seed(from_env("ROLLBACK_SEED", 1));
    let mut superseded = 0;
    for _ in 0..12 {
        let after = Duration::from_millis(chance.u64(..1_200));
        let (ends, told) = deployed_in_the_middle(|_| thread::sleep(after)).await;
        // Deployed before it looked, it has nothing to do; while the deploy restarts the service, it refuses to interfere.
        let fine = |end: &Option<Outcome>| match end {
            Some(Outcome::Superseded { by }) => by == "2.4.1",
            Some(Outcome::Refused { why, .. }) => why.contains("2.4.1"),
            end => *end == Some(Outcome::NothingToDo),
        };
        assert!(ends.iter().all(fine), "{ends:?} when deployed after {after:?}\n{told}");
        superseded += usize::from(matches!(ends[0], Some(Outcome::Superseded { .. })));
    }
    assert!(superseded > 0, "every deploy came too early to be in the middle");
    println!("measured: {superseded} of 12 deploys superseded a rollback, the others came before it had begun");
}
