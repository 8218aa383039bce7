//! `kill -9` of a controller that rolls real Deployments back, with its journal in the cluster. What was written is counted in
//! the API server's own audit log.
//!
//! `ROLLBACK_KILLS` says how many times one is killed (10), `ROLLBACK_SEED` where chance begins.

use kube::Client;
use rollback_core::{journal::Journal, *};
use rollback_k8s::{Cluster, ClusterJournal, ClusterOptions};
use rollback_tests::bed::kubernetes::{Bed, Namespace, deployment, server_pod_spec};
use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A rollback of one pod takes a few seconds; one that takes this long hangs.
const WITHIN: Duration = Duration::from_secs(120);

async fn cluster(client: Client) -> Cluster {
    Cluster::from_client(client, ClusterOptions::default().named("bed")).await.unwrap()
}

/// Deployments that went from v1 to v2, each with what its v2 is called.
async fn with_bad_release(namespace: &Namespace, names: &[String]) -> Vec<String> {
    for image in ["bed/server:v1", "bed/server:v2"] {
        for name in names {
            namespace.apply(deployment(name, 1, server_pod_spec(image))).await;
        }
        for name in names {
            namespace.settled(name, WITHIN).await;
        }
    }
    let cluster = cluster(namespace.bed().client()).await;
    let mut blamed = vec![];
    for name in names {
        let seen = cluster.deployment(namespace.name(), name).observe(Look::full()).await.unwrap();
        let release = seen.parts.values().next().unwrap().wanted.clone().unwrap();
        blamed.push(format!("{name}={release}"));
    }
    blamed
}

struct Controller {
    called: String,
    child: Child,
    began: Instant,
}

impl Controller {
    /// `apart`: in a pid namespace of its own, as in another pod: nobody sees whether it lives.
    fn start(namespace: &Namespace, called: &str, deployments: &[String], lease: Duration, apart: bool) -> Self {
        // Apart, it is a controller of many; else one rollback.
        let at_once = if apart { deployments.len() } else { 1 };
        let exe = env!("CARGO_BIN_EXE_k8s_controller");
        let mut command = match apart {
            true => {
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork", "--kill-child=KILL", exe]);
                command
            }
            false => Command::new(exe),
        };
        let child = command
            .args(["--called", called, "--namespace", namespace.name(), "--journal", namespace.name()])
            .args(["--lease-ms", &lease.as_millis().to_string(), "--deployments", &deployments.join(",")])
            .args(["--at-once", &at_once.to_string()])
            .env("KUBECONFIG", namespace.bed().folder().join("pki/admin.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { called: called.into(), child, began: Instant::now() }
    }
    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
    /// SIGKILL.
    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.said()
    }
    fn said(&mut self) -> String {
        let mut told = String::new();
        let _ = self.child.stdout.take().unwrap().read_to_string(&mut told);
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut told);
        told
    }
    /// Waits for its end, which must be a good one.
    async fn ends(mut self, namespace: &Namespace) -> (Duration, String) {
        while !self.is_over() {
            if self.began.elapsed() > WITHIN {
                let called = self.called.clone();
                panic!("{called} hangs:\n{}\n{}", self.kill(), recorded(namespace).await);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = self.began.elapsed();
        let good = self.child.wait().unwrap().success();
        let told = self.said();
        assert!(good, "{} failed:\n{told}\n{}", self.called, recorded(namespace).await);
        (took, told)
    }
}

/// The newest runs of the journal, with their lines.
async fn recorded(namespace: &Namespace) -> String {
    let journal = ClusterJournal::open(&cluster(namespace.bed().client()).await, namespace.name());
    let mut text = String::new();
    for run in journal.runs(&RunQuery::all().with_limit(3)).await.unwrap() {
        text += &format!("{run:?}\n");
        for line in journal.read(&run.run).await.unwrap().1 {
            text += &format!("  {line:?}\n");
        }
    }
    text
}

/// In the end: v1 is told, one run recovered, the others found nothing to do, nobody holds the lock.
async fn assert_rolled_back_once(namespace: &Namespace, name: &str, told: &str) {
    let bed = namespace.bed();
    let object: k8s_openapi::api::apps::v1::Deployment = namespace.api().get(name).await.unwrap();
    let generation = object.metadata.generation;
    let image = object.spec.unwrap().template.spec.unwrap().containers.remove(0).image;
    assert_eq!(image.as_deref(), Some("bed/server:v1"), "{name}\n{told}");
    // The good release, the bad one, and one write that went back: the server counts those that change something. What it
    // notes of a request says less: of one whose sender was killed before the answer, not that it was done.
    assert_eq!(generation, Some(3), "{name}\n{told}");
    let cluster = cluster(bed.client()).await;
    let journal = ClusterJournal::open(&cluster, namespace.name());
    let target = cluster.deployment(namespace.name(), name);
    let runs = journal.runs(&RunQuery::of_target(target.id())).await.unwrap();
    assert!(runs.iter().all(|run| run.driven_by.is_none()), "the lock is still held: {runs:#?}\n{told}");
    let ends: Vec<_> = runs.iter().map(|run| run.outcome.clone()).collect();
    let recovered = ends.iter().filter(|end| **end == Some(Outcome::Recovered)).count();
    assert_eq!(recovered, 1, "{name}: {ends:?}\n{told}");
    assert!(ends.iter().all(|end| matches!(end, Some(Outcome::Recovered | Outcome::NothingToDo))), "{ends:?}\n{told}");
    for run in runs {
        let (_, lines) = journal.read(&run.run).await.unwrap();
        assert!(lines.iter().zip(0..).all(|(line, seq)| line.seq == seq), "{lines:#?}");
        assert!(lines.is_sorted_by_key(|line| line.epoch), "a line of a lower epoch came after: {lines:#?}");
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn killed_at_random_moments_each_rollback_ends_the_same_with_one_write() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("kills").await;
    let (most, seed) = (from_env("ROLLBACK_KILLS", 10), from_env("ROLLBACK_SEED", 1));
    let mut chance = fastrand::Rng::with_seed(seed);
    // A dead holder of this host is succeeded at once: nobody ever waits for this.
    let lease = minutes(10);
    let names = vec!["calm".to_owned()];
    let blamed = with_bad_release(&namespace, &names).await;
    let (takes, told) = Controller::start(&namespace, "calm/1", &blamed, lease, false).ends(&namespace).await;
    assert_rolled_back_once(&namespace, "calm", &told).await;

    let (mut kills, mut rollbacks, mut slowest) = (0, 0, Duration::ZERO);
    while kills < most {
        // Made side by side, rolled back one by one: so few pods.
        let names: Vec<String> = (0..5).map(|n| format!("web-{rollbacks}-{n}")).collect();
        let blamed = with_bad_release(&namespace, &names).await;
        for (name, blamed) in names.iter().zip(&blamed) {
            let called = format!("{name}/1");
            let mut told = String::new();
            loop {
                let mut controller = Controller::start(&namespace, &called, std::slice::from_ref(blamed), lease, false);
                // Most of what can go wrong is at the beginning; the end is waiting.
                tokio::time::sleep(takes.mul_f64(chance.f64().powf(1.5))).await;
                if controller.is_over() {
                    break;
                }
                told += &controller.kill();
                kills += 1;
                // Now and then the one that resumes is killed too.
                if chance.u8(..3) > 0 {
                    break;
                }
            }
            let (took, said) = Controller::start(&namespace, &called, std::slice::from_ref(blamed), lease, false)
                .ends(&namespace)
                .await;
            slowest = slowest.max(took);
            told += &said;
            assert_rolled_back_once(&namespace, name, &told).await;
            rollbacks += 1;
            namespace.kubectl(&["delete", "deployment", name, "--wait=false"]).await;
        }
    }
    // The lock of a dead holder would have held for ten minutes.
    assert!(slowest < WITHIN, "{slowest:?}");
    println!(
        "measured: {kills} kills (seed {seed}) in {rollbacks} rollbacks of {takes:.1?}: {rollbacks} writes; the slowest \
         resume took {slowest:.1?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn of_two_controllers_on_one_fleet_one_is_killed_and_the_other_repeats_nothing() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("controllers").await;
    let names: Vec<String> = (0..6).map(|n| format!("web-{n}")).collect();
    let blamed = with_bad_release(&namespace, &names).await;
    let lease = Duration::from_secs(6);
    let both = ["one/1", "other/1"];
    // Apart, so that only the lease tells that one is dead. It begins with all, and is killed in the middle of a run: it
    // was about to write, and has not ended.
    let one = Controller::start(&namespace, both[0], &blamed, lease, true);
    let journal = ClusterJournal::open(&cluster(bed.client()).await, namespace.name());
    let began = Instant::now();
    let mut other = None;
    let orphan = loop {
        let runs = journal.runs(&RunQuery::unfinished()).await.unwrap();
        if other.is_none() && !runs.is_empty() {
            other = Some(Controller::start(&namespace, both[1], &blamed, lease, true));
        }
        let in_the_middle = |run: &&RunSummary| run.wrote.is_some() && run.who == both[0];
        if let Some(run) = runs.iter().find(in_the_middle) {
            break run.clone();
        }
        assert!(began.elapsed() < WITHIN, "it never writes: {runs:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut told = one.kill();
    let killed = Instant::now();
    let taken = loop {
        let run = journal.runs(&RunQuery::of_run(&orphan.run)).await.unwrap().remove(0);
        let other_drives = run.driven_by.as_ref().is_some_and(|who| who.starts_with(both[1]));
        if other_drives || run.outcome.is_some() {
            break run;
        }
        assert!(killed.elapsed() < WITHIN, "nobody goes on with it: {run:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let after = killed.elapsed();
    let other = other.unwrap_or_else(|| Controller::start(&namespace, both[1], &blamed, lease, true));
    let (_, said) = other.ends(&namespace).await;
    told += &said;
    for name in &names {
        assert_rolled_back_once(&namespace, name, &told).await;
    }
    let (_, lines) = journal.read(&orphan.run).await.unwrap();
    let epochs: std::collections::BTreeSet<u64> = lines.iter().map(|line| line.epoch).collect();
    println!(
        "measured: 6 Deployments, one of two controllers killed; the other went on with its run after {after:.1?} (lease \
         {lease:?}), epochs {epochs:?}, {} lines, {}",
        lines.len(),
        if taken.outcome.is_some() { "which had ended by then" } else { "unfinished" },
    );
    assert_eq!(epochs.len(), 2, "{lines:#?}");
    // It looks for as long as the lease; the rest is this machine.
    assert!(after < lease * 2, "{after:?}");
}
