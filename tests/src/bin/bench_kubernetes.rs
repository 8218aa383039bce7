//! A fleet of Deployments rolled back and verified, against `kubectl rollout undo` and `rollout status`, eight at a time,
//! and against the floor: all patches sent blindly, then waiting for the control plane. In one run, in turn, each from the
//! release where the one before stopped to the other one; medians; and the requests of each, from the API server's audit log.
//!
//! ```sh
//! tests/beds/kubernetes.sh x test cargo run --release -p rollback-tests --bin bench_kubernetes -- 1000 3
//! ```
//!
//! inside a bed (`tests/beds/kubernetes.sh up test`), with so many Deployments of three pods on pretend nodes and so many
//! rounds; 50 and 1 if not said. `-- memory 100 1000 5000` rolls back that many instead, each once, and says what memory
//! the process that did it took. It says how we stand, and exits with 1 where an aim is missed.

use rollback_core::{Entry, Outcome};
use rollback_k8s::{Cluster, ClusterOptions, SharedWatches};
use rollback_tests::bed::{
    fleet::{Fleet, IMAGES, With, rollbacks},
    kubernetes::{Bed, Mark},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

type Ended<T> = std::result::Result<T, Box<dyn Error>>;

/// Anything of the control plane may take so long.
const PATIENCE: Duration = Duration::from_secs(3600);
/// As many kubectl run at a time.
const KUBECTL: usize = 8;
/// How our requests are told from others.
const OURS: &str = "rollback-bench/1";
const FLOOR: &str = "floor-bench/1";

#[tokio::main]
async fn main() -> Ended<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ours", namespace, count, image, surge] => {
            let measured = ours(namespace, count.parse()?, image, surge == "surge").await?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(ExitCode::SUCCESS)
        }
        ["memory", ref sizes @ ..] => memory(sizes).await,
        [] => compare(50, 1).await,
        [count] => compare(count.parse()?, 1).await,
        [count, rounds] => compare(count.parse()?, rounds.parse()?).await,
        _ => Err("see the top of bench_kubernetes.rs".into()),
    }
}

/// What the process that rolled back found out about itself.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    seconds: f64,
    /// When all was listed and watched; when the last write was answered; when the last one had settled.
    stages: [f64; 3],
    /// KiB, once all is listed and watched.
    watching: u64,
    /// KiB at the most.
    peak: u64,
    recovered: usize,
    /// The first end that is another one.
    other: Option<String>,
}

/// All of them at once, in this process, which does nothing else.
async fn ours(namespace: &str, count: usize, image: &str, surge: bool) -> Ended<Measured> {
    let began = Instant::now();
    let bed = Bed::here().await;
    let cluster = Cluster::from_client(bed.client_called(OURS), ClusterOptions::default()).await?;
    let cluster = cluster.with_shared_watches(SharedWatches::of_namespaces([namespace])).await?;
    let (watching, watched) = (memory_of("VmRSS:"), began.elapsed());
    let folder = tempfile::tempdir()?;
    let with = With { surge, everything: false };
    let mut running = JoinSet::new();
    for rollback in rollbacks(&cluster, namespace, count, image, &folder.path().join("journal.db"), with) {
        running.spawn(async move { rollback.run().await });
    }
    let (mut recovered, mut other) = (0, None);
    let (mut written, mut settled) = (Duration::ZERO, Duration::ZERO);
    while let Some(report) = running.join_next().await {
        let report = report??;
        for line in report.lines() {
            match line.entry {
                Entry::Did { .. } => written = written.max(line.elapsed),
                Entry::Reached { .. } => settled = settled.max(line.elapsed),
                _ => {}
            }
        }
        match report.outcome() {
            Outcome::Recovered => recovered += 1,
            _ => drop(other.get_or_insert_with(|| report.to_string())),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let stages = [watched, watched + written, watched + settled].map(|stage| stage.as_secs_f64());
    Ok(Measured { seconds, stages, watching, peak: memory_of("VmHWM:"), recovered, other })
}

fn memory_of(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The same, in a process of its own.
async fn apart(fleet: &Fleet, image: &str, surge: bool) -> Ended<Measured> {
    let (namespace, count) = (fleet.namespace().name().to_owned(), fleet.count().to_string());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["ours", &namespace, &count, image, if surge { "surge" } else { "plain" }]).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        return Err(format!("ours: {}", output.status).into());
    }
    let measured: Measured = serde_json::from_slice(&output.stdout)?;
    if measured.recovered != fleet.count() {
        let other = measured.other.unwrap_or_default();
        return Err(format!("{} of {count} recovered; of the others the first: {other}", measured.recovered).into());
    }
    let wrong = fleet.images().await.iter().filter(|is| *is != image).count();
    if wrong > 0 {
        return Err(format!("{wrong} of {count} are not on {image}").into());
    }
    Ok(measured)
}

/// Requests by verb, of who calls itself so.
fn requests(bed: &Bed, since: Mark, called: &str) -> BTreeMap<String, usize> {
    let mut verbs = BTreeMap::new();
    for asked in bed.requests_where(since, |agent| agent.starts_with(called)) {
        *verbs.entry(asked.verb).or_default() += 1;
    }
    verbs
}

fn said(requests: &BTreeMap<String, usize>) -> String {
    let each: Vec<String> = requests.iter().map(|(verb, n)| format!("{n} {verb}")).collect();
    format!("{} requests ({})", requests.values().sum::<usize>(), each.join(", "))
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn compare(count: usize, rounds: usize) -> Ended<ExitCode> {
    let bed = Bed::here().await;
    let began = Instant::now();
    let fleet = Fleet::new(&bed, count, PATIENCE).await;
    println!("{count} Deployments of 3 pods, two releases: made in {:.1} s", began.elapsed().as_secs_f64());
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let (mut per_rollback, mut turn) = (f64::NAN, 0);
    for round in 1..=rounds {
        for arm in ["floor", "kubectl", "ours", "ours, raised surge"] {
            let image = IMAGES[turn % 2];
            turn += 1;
            let (since, began) = (bed.mark(), Instant::now());
            let mut seconds = None;
            let asked = match arm {
                "floor" => {
                    fleet.patch(bed.client_called(FLOOR), image).await;
                    let sent = began.elapsed().as_secs_f64();
                    fleet.settled(image, PATIENCE).await;
                    format!("{}, sent in {sent:.1} s", said(&requests(&bed, since, FLOOR)))
                }
                "kubectl" => {
                    fleet.kubectl_undo(KUBECTL).await;
                    said(&requests(&bed, since, "kubectl/"))
                }
                _ => {
                    let measured = apart(&fleet, image, arm != "ours").await?;
                    seconds = Some(measured.seconds);
                    let asked = requests(&bed, since, OURS);
                    if arm == "ours" {
                        per_rollback = asked.values().sum::<usize>() as f64 / count as f64;
                    }
                    let [watched, written, settled] = measured.stages;
                    let stages = format!("watched {watched:.1} s, written {written:.1} s, settled {settled:.1} s");
                    format!("{}, {} MiB at the most, {stages}", said(&asked), measured.peak / 1024)
                }
            };
            let seconds = seconds.unwrap_or_else(|| began.elapsed().as_secs_f64());
            println!("round {round}: {arm:<20} {seconds:7.1} s  {asked}");
            times.entry(arm).or_default().push(seconds);
            // What an arm has left to the control plane is not counted to the next.
            fleet.forget().await;
            fleet.settled(image, PATIENCE).await;
        }
    }
    let of = |arm: &str| times.get(arm).map_or(f64::NAN, |all| median(all));
    let (floor, kubectl, plain, surge) = (of("floor"), of("kubectl"), of("ours"), of("ours, raised surge"));
    println!(
        "medians of {rounds}: floor {floor:.1} s, kubectl {kubectl:.1} s, ours {plain:.1} s, raised surge {surge:.1} s"
    );
    let mut good = true;
    for (what, is, aim, holds) in [
        ("ours / floor", plain / floor, "at most 1.15", plain <= 1.15 * floor),
        ("kubectl / ours", kubectl / plain, "at least 4 on a quiet machine", kubectl >= 4.0 * plain),
        ("raised surge / floor", surge / floor, "at most 0.6", surge <= 0.6 * floor),
        ("requests of ours per rollback", per_rollback, "at most 1.1 beyond a constant", per_rollback <= 1.1),
    ] {
        good &= holds;
        println!("{what:<30} {is:.3} (aim: {aim}){}", if holds { "" } else { ": missed" });
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn memory(sizes: &[&str]) -> Ended<ExitCode> {
    let bed = Bed::here().await;
    for size in sizes {
        let fleet = Fleet::new(&bed, size.parse()?, PATIENCE).await;
        let since = bed.mark();
        let measured = apart(&fleet, IMAGES[0], false).await?;
        println!(
            "{size:>6} at once: {} MiB watching, {} MiB at the most; {:.1} s, {}",
            measured.watching / 1024,
            measured.peak / 1024,
            measured.seconds,
            said(&requests(&bed, since, OURS))
        );
    }
    Ok(ExitCode::SUCCESS)
}
