//! What the engine costs, as ratios within one run, so that a slow or busy disk hits both sides alike.
//!
//! `cargo bench -p rollback-tests --bench engine` takes some seconds; with `-- --full` it has the full size: 10,000 targets
//! in flight at once. The journal and the bare file lie in the directory of `TMPDIR`: it must be on a real disk. Exits
//! with 1 if an aim is missed; `--only-print` never does.
//!
//! - *engine step*: one rollback of many steps on the SQLite journal, against two bare appends of 200 bytes with an fsync
//!   each for every step: its intent must be durable before the write, and its outcome before the next one. The bare
//!   appends are made within each write, so that both meet the same disk and the same neighbours.
//! - *fleet*: many rollbacks at once on one journal, against one at a time on the same journal. All of them are held in
//!   the middle of their write until the last one is there too. Peak memory is that of a process that does nothing else.

#![allow(missing_docs)]

use async_trait::async_trait;
use rollback_core::{
    Applied, Approved, Capabilities, Change, Choose, Fencing, Identity, Look, Observation, Outcome, PartId, PartState,
    Parts, Policy, Prepared, Release, ReleaseId, Result, Rollback, Target, TargetId, Token, Weight, Weights, Work,
    journal::SqliteJournal, report::Report, strategy::Direct,
};
use std::{
    error::Error,
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, ExitCode},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{sync::Barrier, task::JoinSet};

type Ended<T> = std::result::Result<T, Box<dyn Error>>;

/// How much is measured.
struct Size {
    steps: usize,
    rounds: usize,
    targets: usize,
    alone: usize,
}
const SMALL: Size = Size { steps: 50, rounds: 5, targets: 1_000, alone: 50 };
const FULL: Size = Size { steps: 200, rounds: 9, targets: 10_000, alone: 300 };

const STEP_AT_MOST: f64 = 1.5;
const FLEET_AT_LEAST: f64 = 8.0;
const MEMORY_BELOW: f64 = 100.0;

fn main() -> Ended<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, journal, name, count] = &arguments[..] {
        let (journal, count) = (Path::new(journal), count.parse()?);
        let measured = match word.as_str() {
            "at-once" => at_once(journal, name, count)?,
            _ => alone(journal, name, count)?,
        };
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(ExitCode::SUCCESS);
    }
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let size = if has("--full") { FULL } else { SMALL };
    let dir = tempfile::tempdir()?;
    let step = engine_step(dir.path(), &size)?;
    let fleet = fleet(dir.path(), &size)?;
    let good = step && fleet;
    Ok(if good || has("--only-print") { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

// ---- one rollback of many steps ---------------------------------------------------------------------------------------

/// Measures from within: in each write of a rollback, two bare appends, so that step and appends meet the same disk and the
/// same neighbours.
#[derive(Debug)]
struct Meter {
    file: File,
    /// When the write before this one returned.
    since: Option<Instant>,
    steps: Vec<f64>,
    bare: Vec<f64>,
}

impl Meter {
    /// From the return of one write to the next: its outcome and the intent of the next are made durable.
    fn write(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        self.steps.extend(self.since.map(|since| (now - since).as_secs_f64()));
        for _ in 0..2 {
            self.file.write_all(&[b'x'; 200])?;
            self.file.sync_all()?;
        }
        self.bare.push(now.elapsed().as_secs_f64());
        self.since = Some(Instant::now());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn engine_step(dir: &Path, size: &Size) -> Ended<bool> {
    let journal = SqliteJournal::open(dir.join("steps.db"))?;
    let (mut ratios, mut ours, mut theirs, mut lines, mut bytes) = (vec![], vec![], vec![], 0, 0);
    // The first round is for the caches.
    for round in 0..=size.rounds {
        let file = File::options().create(true).append(true).open(dir.join("bare"))?;
        let meter = Arc::new(Mutex::new(Meter { file, since: None, steps: vec![], bare: vec![] }));
        let mut rack = Rack::new(format!("bench:rack/{round}"), size.steps);
        rack.meter = Some(meter.clone());
        let report = back(rack, &journal).await?;
        let meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
        let (step, bare) = (median(&meter.steps), median(&meter.bare));
        if round > 0 {
            ratios.push(step / bare);
            ours.push(step * 1e6);
            theirs.push(bare * 1e6);
        }
        lines = report.lines().len();
        bytes = report.lines().iter().map(|l| serde_json::to_string(l).map_or(0, |json| json.len())).sum();
    }
    let ratio = median(&ratios);
    println!(
        "engine step: {ratio:.2}x of two fsync appends, aim at most {STEP_AT_MOST} (n={}, median of {}, {:.2} to {:.2}; \
         {:.0} µs against {:.0} µs; {lines} lines of {} bytes on average)",
        size.steps,
        size.rounds,
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
        median(&ours),
        median(&theirs),
        bytes / lines.max(1),
    );
    Ok(ratio <= STEP_AT_MOST)
}

// ---- many rollbacks at once -------------------------------------------------------------------------------------------

/// What a process found out about itself.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy)]
struct Measured {
    runs: usize,
    lines: usize,
    seconds: f64,
    before: u64,
    peak: u64,
}
impl Measured {
    fn steps_a_second(&self) -> f64 {
        self.runs as f64 / self.seconds
    }
}

fn fleet(dir: &Path, size: &Size) -> Ended<bool> {
    let journal = dir.join("fleet.db");
    let me = std::env::current_exe()?;
    let process = |how: &str, name: &str, count: usize| -> Ended<Measured> {
        let output = Command::new(&me).arg(how).arg(&journal).args([name, &count.to_string()]).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let first = process("alone", "first", size.alone)?;
    let fleet = process("at-once", "fleet", size.targets)?;
    let second = process("alone", "second", size.alone)?;
    let alone = (first.runs + second.runs) as f64 / (first.seconds + second.seconds);
    let ratio = fleet.steps_a_second() / alone;
    let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
    println!(
        "fleet: {ratio:.1}x the steps a second of one run at a time, aim at least {FLEET_AT_LEAST} (n={} at once, {:.0} a \
         second in {:.1} s, against {alone:.0}; {} lines each)",
        fleet.runs,
        fleet.steps_a_second(),
        fleet.seconds,
        fleet.lines / fleet.runs.max(1),
    );
    println!(
        "fleet memory: {:.1} MB at the most, aim below {MEMORY_BELOW} (n={} at once, {:.1} MB before, {:.1} KiB each)",
        mb(fleet.peak),
        fleet.runs,
        mb(fleet.before),
        fleet.peak.saturating_sub(fleet.before) as f64 / fleet.runs.max(1) as f64,
    );
    Ok(ratio >= FLEET_AT_LEAST && mb(fleet.peak) < MEMORY_BELOW)
}

#[tokio::main]
async fn at_once(journal: &Path, name: &str, count: usize) -> Ended<Measured> {
    let journal = SqliteJournal::open(journal)?;
    let all_there = Arc::new(Barrier::new(count));
    let before = peak();
    let began = Instant::now();
    let mut runs = JoinSet::new();
    for n in 0..count {
        let mut rack = Rack::new(format!("bench:{name}/{n}"), 1);
        rack.all_there = Some(all_there.clone());
        let journal = journal.clone();
        runs.spawn(async move { back(rack, &journal).await.map(|report| report.lines().len()) });
    }
    let mut lines = 0;
    while let Some(ended) = runs.join_next().await {
        lines += ended??;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Measured { runs: count, lines, seconds, before, peak: peak() })
}

#[tokio::main]
async fn alone(journal: &Path, name: &str, count: usize) -> Ended<Measured> {
    let journal = SqliteJournal::open(journal)?;
    let before = peak();
    let began = Instant::now();
    let mut lines = 0;
    for n in 0..count {
        let rack = Rack::new(format!("bench:{name}/{n}"), 1);
        lines += back(rack, &journal).await?.lines().len();
    }
    Ok(Measured { runs: count, lines, seconds: began.elapsed().as_secs_f64(), before, peak: peak() })
}

// ---- what is rolled back ----------------------------------------------------------------------------------------------

async fn back(rack: Rack, journal: &SqliteJournal) -> Result<Report> {
    let report = Rollback::of(rack)
        .because("500s since 2")
        .blaming("2")
        .to(Choose::verified().or_previous())
        .using(Direct::default().with_in_place(true))
        .journal(journal.clone())
        .policy(Policy::default().with_floor(Weight::NONE))
        .run()
        .await?;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    Ok(report)
}

/// Places in memory that cost nothing.
#[derive(Debug)]
struct Rack {
    id: TargetId,
    places: Mutex<Vec<(PartId, ReleaseId)>>,
    /// What is written waits until all others are writing, too.
    all_there: Option<Arc<Barrier>>,
    meter: Option<Arc<Mutex<Meter>>>,
}

impl Rack {
    fn new(id: String, places: usize) -> Self {
        let places = (0..places).map(|n| (PartId::new(format!("p{n:04}")), "2".into())).collect();
        Self { id: id.into(), places: Mutex::new(places), all_there: None, meter: None }
    }
}

#[async_trait]
impl Target for Rack {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::BestEffort).with_parts(Parts::Places, Weights::None)
    }
    async fn observe(&self, _: Look) -> Result<Observation> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = places.iter().map(|(place, release)| (place.clone(), PartState::of(release)));
        Ok(Observation::new(Identity::new("here", "1"), parts, Token::none()))
    }
    async fn history(&self, _: usize) -> Result<Vec<Release>> {
        Ok(vec![Release::new("2"), Release::new("1")])
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        Ok(Prepared::new(change))
    }
    async fn apply(&self, approved: &Approved, _: Token, _: &Work) -> Result<Applied> {
        if let Some(all_there) = &self.all_there {
            all_there.wait().await;
        }
        if let Change::Reach(shape) = &approved.change {
            for (place, release) in &mut *self.places.lock().unwrap_or_else(PoisonError::into_inner) {
                if let Some(wanted) = shape.0.get(place).and_then(|wish| wish.release.as_ref()) {
                    release.clone_from(wanted);
                }
            }
        }
        if let Some(meter) = &self.meter {
            let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
            meter.write().map_err(|e| rollback_core::Error::from_io("append to the bare file", e))?;
        }
        Ok(Applied::done())
    }
}

// ---- numbers ----------------------------------------------------------------------------------------------------------

fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The most memory that this process ever held, in KiB, as the kernel says.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
