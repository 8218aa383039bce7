//! The seeded simulator: the real engine on virtual time, in a world where everything that can go wrong does.
//!
//! A seed decides all: the platform and what it promises, the strategy, the policy, who orders what, and which faults hit
//! where. What happens is written down from the outside, and judged by the invariants, each as far as the platform's
//! capabilities and the policy promise. The same seed always gives the same trace.
//!
//! Not here: the journal's own durability (real files, `kill -9`), and real platforms.
//!
//! ```
//! use rollback_core::testing::simulator::{SimOptions, simulate};
//! let report = simulate(7, &SimOptions::default());
//! assert_eq!(report.violations, []);
//! assert_eq!(report.trace_hash, simulate(7, &SimOptions::default()).trace_hash);
//! ```

mod check;
mod fault;
mod freeze;
mod journal;
mod log;
mod process;
mod scenario;
mod sim;
mod target;

pub use fault::{Fault, Stage};

use crate::{
    Clock, Freeze, HeldFreeze, Journal as _, RunId, RunQuery, engine::Bug, freeze::unfreeze, hours, minutes, seconds,
};
use freeze::{SimFreeze, deploy_again};
use log::Life;
use process::{control, one_life};
use scenario::{Order, Scenario, Theme};
use sim::Sim;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};

/// How to simulate.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SimOptions {
    /// No faults: how it should go.
    pub without_faults: bool,
    /// Keep the trace as text.
    pub trace: bool,
    /// A bug to plant. Needs the feature `planted-bugs`.
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

impl SimOptions {
    /// No faults: how it should go.
    pub fn with_without_faults(mut self, without: bool) -> Self {
        self.without_faults = without;
        self
    }
    /// Keep the trace as text.
    pub fn with_trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }
    /// A bug to plant.
    #[doc(hidden)]
    pub fn with_bug(mut self, bug: Option<Bug>) -> Self {
        self.bug = bug;
        self
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which: `invariant 8`.
    pub invariant: String,
    /// When, on virtual time.
    pub at: Duration,
    /// What was seen.
    pub why: String,
}

/// What came of a seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimReport {
    /// Which.
    pub seed: u64,
    /// The invariants that did not hold.
    pub violations: Vec<Broken>,
    /// The same for the same seed.
    pub trace_hash: u64,
    /// How often each fault hit, and at what.
    pub faults: BTreeMap<(Fault, Stage), u64>,
    /// The ends of the runs, in order, one word each.
    pub outcomes: Vec<&'static str>,
    /// How many calls were made.
    pub calls: u64,
    /// How long it took, on virtual time.
    pub took: Duration,
    /// What happened, a line each, where it was asked for.
    pub trace: Vec<String>,
}

impl SimReport {
    /// How many faults hit.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// Simulates one seed.
///
/// # Panics
/// When the operating system gives no runtime.
pub fn simulate(seed: u64, options: &SimOptions) -> SimReport {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    #[allow(clippy::expect_used)]
    let runtime = runtime.expect("a runtime without threads and sockets needs nothing");
    runtime.block_on(one_world(seed, options))
}

async fn one_world(seed: u64, options: &SimOptions) -> SimReport {
    let seed_of = |salt| fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt);
    let (mut rng, mut of_theme) = (seed_of(0x5eed), seed_of(0x7e3e));
    let theme = Theme::of(&mut of_theme);
    let (mut scenario, platform) = Scenario::of(&mut rng, theme, &mut of_theme);
    let sim = Sim::new(platform, rng, scenario.secrets);
    scenario.remember(&sim).await;
    scenario.trouble(&sim, options, &mut of_theme);
    let mut late = vec![];
    if tokio::time::timeout(hours(12), everybody(&sim, &scenario, options)).await.is_err() {
        late.push(broken(&sim, 22, "something waits for ever: twelve hours were not enough".into()));
    }
    let mut violations = check::check(&sim, &scenario);
    violations.append(&mut late);
    let (trace_hash, took) = (sim.hash(), sim.now());
    let shared = sim.shared();
    let outcomes = shared.log.iter().filter_map(|r| match &r.what {
        log::What::Ended { outcome, .. } => Some(outcome.name()),
        _ => None,
    });
    let mut trace = vec![];
    if options.trace {
        trace.push(format!("seed {seed}: {scenario:?}"));
        trace.extend(shared.log.iter().map(ToString::to_string));
    }
    SimReport {
        seed,
        violations,
        trace_hash,
        faults: shared.injected.clone(),
        outcomes: outcomes.collect(),
        calls: shared.calls,
        took,
        trace,
    }
}

fn broken(sim: &Sim, invariant: u8, why: String) -> Broken {
    Broken { invariant: format!("invariant {invariant}"), at: sim.now(), why }
}

/// Everybody does what they do; then the faults stop, and what was left unfinished is gone on with.
async fn everybody(sim: &Sim, scenario: &Scenario, options: &SimOptions) {
    let mut all = JoinSet::new();
    let mut pipeline = JoinSet::new();
    if let Some(every) = scenario.deploys_again {
        pipeline.spawn(deploy_again(sim.clone(), every));
    }
    for (id, controller) in (0..).zip(scenario.controllers.clone()) {
        all.spawn(control(sim.clone(), scenario.clone(), options.clone(), id, controller));
    }
    while all.join_next().await.is_some() {}
    sim.shared().quiet = true;
    // Whoever was killed holds the lock no longer than its lease.
    sleep(scenario.policy.lease + seconds(1)).await;
    for nth in 0..3 {
        let unfinished = sim.journal.runs(&RunQuery::unfinished()).await.unwrap_or_default();
        if unfinished.is_empty() || sim.overran() {
            break;
        }
        let life = Life { controller: 9, nth };
        let run = RunId::new(format!("run-9-{nth}"));
        one_life(sim, scenario, options, life, Order::Person, &run).await;
    }
    sleep(minutes(5)).await;
    pipeline.abort_all();
    let life = Life { controller: 9, nth: 9 };
    sim.note(life, log::What::Died);
    clean_up(sim, life).await;
}

/// Somebody lifts every freeze that the journal knows of, and looks at what is kept.
async fn clean_up(sim: &Sim, life: Life) {
    let journal = &sim.journal;
    let holds = journal.holds().await.unwrap_or_default();
    let runs = |holds: &[HeldFreeze]| holds.iter().map(|held| held.hold.run.clone()).collect::<BTreeSet<_>>();
    let in_world = || sim.shared().pipeline.holds.keys().cloned().collect::<BTreeSet<_>>();
    let certain: Vec<_> = holds.iter().filter(|held| held.was.is_some()).cloned().collect();
    let held = [in_world(), runs(&holds), runs(&certain)];
    let freezes: Vec<Arc<dyn Freeze>> = vec![Arc::new(SimFreeze { sim: sim.clone(), life })];
    for run in &held[1] {
        let _ = unfreeze(journal, &freezes, run, "somebody", Clock::now(sim).wall).await;
    }
    let left = [in_world(), runs(&journal.holds().await.unwrap_or_default())];
    let setting = sim.shared().pipeline.setting;
    if !held.iter().all(BTreeSet::is_empty) {
        sim.note(life, log::What::Over { held, left, setting });
    }
    if sim.secrets {
        for run in journal.runs(&RunQuery::all()).await.unwrap_or_default() {
            let kept = journal.read(&run.run).await.ok();
            sim.leak(life, "the journal", &serde_json::to_string(&kept).unwrap_or_default());
        }
    }
}
