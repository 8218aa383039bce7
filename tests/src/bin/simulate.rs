//! Runs the simulator over many seeds and prints one summary line; exits with 1 if an invariant did not hold.
//!
//! ```text
//! simulate [--seeds 0..10000] [--bug NAME] [--coverage] [--trace SEED] [--first]
//! ```

use rollback_core::{
    engine::Bug,
    testing::simulator::{Fault, SimOptions, SimReport, Stage, simulate},
};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    calls: u64,
    faults: BTreeMap<(Fault, Stage), u64>,
    enough: u64,
    outcomes: BTreeMap<&'static str, u64>,
    broken: BTreeMap<String, (u64, u64, String)>,
    failed: u64,
    first: Option<u64>,
    hash: u64,
}

impl Sum {
    fn add(&mut self, report: SimReport) {
        self.seeds += 1;
        self.calls += report.calls;
        self.enough += u64::from(report.fault_count() >= 3);
        // In any order the same.
        self.hash ^= report.trace_hash.rotate_left((report.seed % 63) as u32);
        for (what, n) in &report.faults {
            *self.faults.entry(*what).or_default() += n;
        }
        for outcome in &report.outcomes {
            *self.outcomes.entry(outcome).or_default() += 1;
        }
        if !report.violations.is_empty() {
            self.failed += 1;
            self.first = Some(self.first.map_or(report.seed, |first| first.min(report.seed)));
        }
        for broken in &report.violations {
            let why = format!("at {:?}: {}", broken.at, broken.why);
            let entry = self.broken.entry(broken.invariant.clone()).or_insert((0, report.seed, why.clone()));
            entry.0 += 1;
            if report.seed < entry.1 {
                (entry.1, entry.2) = (report.seed, why);
            }
        }
    }
}

fn usage(why: &str) -> ExitCode {
    let bugs: Vec<String> = Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect();
    eprintln!(
        "{why}\nsimulate [--seeds 0..10000] [--bug NAME] [--coverage] [--trace SEED] [--first]\nbugs: {}",
        bugs.join(" ")
    );
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let (mut seeds, mut options, mut coverage, mut traced, mut first) =
        (0..10_000_u64, SimOptions::default(), false, None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--coverage" => coverage = true,
            "--first" => first = true,
            "--seeds" => {
                let range = arguments.next().unwrap_or_default();
                let Some((from, to)) =
                    range.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
                else {
                    return usage(&format!("{range:?} is no range of seeds"));
                };
                seeds = from..to;
            }
            "--bug" => {
                let name = arguments.next().unwrap_or_default();
                let Some(bug) = Bug::ALL.into_iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(&name)) else {
                    return usage(&format!("there is no bug {name:?}"));
                };
                options = options.with_bug(Some(bug));
            }
            "--trace" => match arguments.next().and_then(|seed| seed.parse().ok()) {
                Some(seed) => traced = Some(seed),
                None => return usage("--trace takes a seed"),
            },
            other => return usage(&format!("{other:?} is not known")),
        }
    }
    if let Some(seed) = traced {
        return trace(seed, &options);
    }
    let began = Instant::now();
    let sum = run(seeds, &options, first);
    print(&sum, began.elapsed().as_secs_f64(), coverage);
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn trace(seed: u64, options: &SimOptions) -> ExitCode {
    let report = simulate(seed, &options.clone().with_trace(true));
    for line in &report.trace {
        println!("{line}");
    }
    println!("\n{:?}, {} calls, {:?}, hash {:016x}", report.outcomes, report.calls, report.took, report.trace_hash);
    for broken in &report.violations {
        println!("{} at {:?}: {}", broken.invariant, broken.at, broken.why);
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All seeds, on all cores; or until the first that fails.
fn run(seeds: std::ops::Range<u64>, options: &SimOptions, first: bool) -> Sum {
    let (next, found, sum) = (AtomicU64::new(seeds.start), AtomicBool::new(false), Mutex::new(Sum::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !(first && found.load(Ordering::Relaxed)) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let report = simulate(seed, options);
                    found.fetch_or(!report.violations.is_empty(), Ordering::Relaxed);
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(report);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn print(sum: &Sum, took: f64, coverage: bool) {
    if coverage {
        print!("{:>16}", "");
        for stage in Stage::ALL {
            print!("{:>9}", format!("{stage:?}"));
        }
        println!();
        for fault in Fault::ALL {
            print!("{:>16}", format!("{fault:?}"));
            for stage in Stage::ALL {
                match sum.faults.get(&(fault, stage)) {
                    Some(n) => print!("{n:>9}"),
                    None => print!("{:>9}", "·"),
                }
            }
            println!();
        }
    }
    for (invariant, (times, seed, why)) in &sum.broken {
        println!("{invariant}: {times} times, first in seed {seed} {why}");
    }
    let faults: u64 = sum.faults.values().sum();
    let outcomes: Vec<String> = sum.outcomes.iter().map(|(name, n)| format!("{n} {name}")).collect();
    println!(
        "{} seeds in {took:.1} s: {} with violations{}; {} calls, {faults} faults ({:.0} % of the seeds with 3 or more); {}; hash {:016x}",
        sum.seeds,
        sum.failed,
        sum.first.map(|seed| format!(" (first: {seed})")).unwrap_or_default(),
        sum.calls,
        100.0 * sum.enough as f64 / sum.seeds.max(1) as f64,
        outcomes.join(", "),
        sum.hash,
    );
}
