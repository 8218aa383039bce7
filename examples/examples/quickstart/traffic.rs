//! Real requests, counted. What the quickstart says of failures was seen here, not taken from the service.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle, time::MissedTickBehavior};

/// Never more than this at once.
const AT_ONCE: usize = 64;
/// It stops by itself after so many requests.
const AT_MOST: u64 = 60_000;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ok: u64,
    failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    phase: String,
    order: Vec<String>,
    all: BTreeMap<(String, String), Count>,
}

/// A steady stream of requests to one address on loopback.
#[derive(Debug)]
pub(crate) struct Traffic {
    counts: Arc<Mutex<Counts>>,
    task: JoinHandle<()>,
}

impl Traffic {
    pub(crate) fn start(address: &str, a_second: u32) -> Result<Self, reqwest::Error> {
        let counts = Arc::new(Mutex::new(Counts::default()));
        // A connection for each request: what is lost is then lost by the service, not by a connection it closed.
        let client =
            reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(2)).no_proxy().build()?;
        let url = format!("http://{address}/");
        let task = tokio::spawn({
            let counts = counts.clone();
            async move {
                let slots = Arc::new(Semaphore::new(AT_ONCE));
                let mut tick = tokio::time::interval(Duration::from_secs(1) / a_second.max(1));
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for _ in 0..AT_MOST {
                    tick.tick().await;
                    let Ok(slot) = slots.clone().acquire_owned().await else { return };
                    let (client, url, counts) = (client.clone(), url.clone(), counts.clone());
                    let phase = lock(&counts).phase.clone();
                    tokio::spawn(async move {
                        let answer = client.get(&url).send().await;
                        let (release, ok) = match &answer {
                            Ok(answer) => {
                                let release = answer.headers().get("x-release").and_then(|v| v.to_str().ok());
                                (release.unwrap_or("?").to_string(), answer.status().is_success())
                            }
                            Err(_) => ("no answer".to_string(), false),
                        };
                        lock(&counts).add(phase, release, ok);
                        drop(slot);
                    });
                }
            }
        });
        Ok(Self { counts, task })
    }
    /// What follows is counted under this name.
    pub(crate) fn phase(&self, name: &str) {
        let mut counts = lock(&self.counts);
        counts.phase = name.to_string();
        counts.order.push(name.to_string());
    }
    /// No more requests.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(counts: &Mutex<Counts>) -> std::sync::MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    fn add(&mut self, phase: String, release: String, ok: bool) {
        let count = self.all.entry((phase, release)).or_default();
        if ok { count.ok += 1 } else { count.failed += 1 }
    }
}

/// A table: phase, release that answered, requests, failures.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = lock(&self.counts);
        writeln!(f, "{:<36} {:<10} {:>9} {:>7}", "phase", "release", "requests", "failed")?;
        for phase in &counts.order {
            for ((_, release), count) in counts.all.iter().filter(|((p, _), _)| p == phase) {
                let all = count.ok + count.failed;
                let share = 100.0 * count.failed as f64 / all as f64;
                writeln!(f, "{phase:<36} {release:<10} {all:>9} {:>7}  {share:.1} %", count.failed)?;
            }
        }
        Ok(())
    }
}
