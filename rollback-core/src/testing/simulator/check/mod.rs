//! The judge: goes through the record once, and holds it against the invariants. It knows what was written, read, sent and
//! answered, and what the world did; of the engine it knows what was journalled and reported, and believes neither.
//!
//! Waived, and only so far: where the journal is optional and was lost, 1 to 4 (the loss must be reported); where fencing is
//! best effort, writes that were on their way before somebody else's; where the wall clock jumped, the budget, which has no
//! other clock across processes.

mod effects;
mod ends;
mod freezes;
mod writes;

use super::{
    Broken,
    log::{Life, PartStates, Record, What},
    scenario::{Order, Scenario},
    sim::Sim,
};
use crate::{
    At, Capacity, Change, Entry, Extent, Fencing, Gate, Identity, Line, OrderedBy, Outcome, PartId, PartMap, PartState,
    Plan, Policy, ReleaseId, RunId, Running, Settled, Standing, Step, Support, Timestamp, Weight,
    testing::fake::{Action, Scene},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A write that is on its way arrives no later than this.
const LATEST: Duration = Duration::from_secs(10);
/// What a run may act beyond its deadline: the call that is under way when it is over.
const LAST_CALL: Duration = Duration::from_secs(240);

/// What is known of a run.
#[derive(Debug, Default)]
struct Run {
    policy: Policy,
    seq: u64,
    elapsed: Duration,
    identities: Vec<Identity>,
    suspect: Option<ReleaseId>,
    wanted: Option<ReleaseId>,
    plan: Option<Plan>,
    /// Releases that may be seen without somebody else having been there.
    known: BTreeSet<ReleaseId>,
    /// It aborted what does not say where it lands: anything but the suspect may be its doing, until it is journalled where
    /// it landed.
    lands_anywhere: bool,
    /// What ran at the start, where history does not know it.
    found: Vec<Running>,
    /// The durable intents, by key.
    doing: BTreeMap<String, Duration>,
    /// Writes that were confirmed.
    did: BTreeSet<String>,
    freezes: Freezes,
    /// A gate was told that something is unhealthy, and the process could write it down.
    ill: bool,
    /// Writes that were sent, by key.
    sent: BTreeMap<String, Vec<Sent>>,
    /// Effects, by key.
    effects: BTreeMap<String, u32>,
    last_effect: Duration,
    lost: Vec<String>,
    approved: bool,
    needs_approval: bool,
    held: usize,
    wrote: Option<Duration>,
    reached: bool,
    journal_lost: bool,
    ended: bool,
}

/// What is known of a run's freeze of the pipeline.
#[derive(Debug, Default)]
struct Freezes {
    /// The durable intents, oldest first: until when.
    intents: Vec<Option<Timestamp>>,
    /// When it first arrived behind a durable intent.
    landed: Option<Duration>,
    /// From these processes.
    by: BTreeSet<Life>,
    /// What those said that were answered.
    answers: Vec<u32>,
    /// The journal says that it holds.
    known: bool,
    /// The journal says that it does not.
    given_up: bool,
}

#[derive(Clone, Debug)]
struct Sent {
    life: Life,
    at: Duration,
    /// How many reads this process had got when it was sent.
    reads: u64,
    /// No other process can know of it.
    unjournalled: bool,
    answer: Option<(Duration, Answer)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Ok,
    NoEffect,
    Unknown,
}

/// What is known of a process.
#[derive(Debug, Default)]
struct Process {
    order: Option<Order>,
    run: Option<RunId>,
    started: Duration,
    began: Duration,
    /// The run's elapsed time when it was adopted.
    base: Duration,
    /// It has begun or adopted its run.
    drives: bool,
    fenced: bool,
    damaged: bool,
    reads: u64,
    last_read: Option<(Duration, PartStates, bool)>,
    all_reads: Vec<(Duration, PartStates)>,
    health: BTreeMap<Option<PartId>, Vec<(Duration, &'static str)>>,
    samples: BTreeMap<String, Vec<(Duration, &'static str)>>,
    journal_failed: bool,
    /// Since when it hears nothing of what others do in its run: it goes on without a journal, or one of them took over.
    apart: Option<Duration>,
    /// A gate was told that something is unhealthy.
    ill: bool,
    /// Where it first saw such an abort stand: from then on it knows, journalled or not.
    landed: Option<BTreeSet<ReleaseId>>,
}

/// Who holds the target's lock, seen from outside.
#[derive(Debug)]
struct Lock {
    run: RunId,
    epoch: u64,
    kept: Duration,
    lease: Duration,
    free: bool,
}

struct Judge<'a> {
    scenario: &'a Scenario,
    now: Duration,
    life: Life,
    runs: BTreeMap<RunId, Run>,
    processes: BTreeMap<Life, Process>,
    lock: Option<Lock>,
    /// Effects with their epoch.
    highest_effect: u64,
    ledger: BTreeMap<ReleaseId, Standing>,
    scene: Option<Scene>,
    /// When somebody else did something.
    others: Vec<(Duration, Action)>,
    takeovers: Vec<Duration>,
    replaced: Vec<RunId>,
    broken: Vec<Broken>,
    last_effect: Duration,
}

/// Holds the record against the invariants.
pub(super) fn check(sim: &Sim, scenario: &Scenario) -> Vec<Broken> {
    let shared = sim.shared();
    let mut judge = Judge {
        scenario,
        now: Duration::ZERO,
        life: Life { controller: 0, nth: 0 },
        runs: BTreeMap::new(),
        processes: BTreeMap::new(),
        lock: None,
        highest_effect: 0,
        ledger: scenario.ledger_at_start().into_iter().collect(),
        scene: None,
        others: vec![],
        takeovers: vec![],
        replaced: vec![],
        broken: vec![],
        last_effect: Duration::ZERO,
    };
    for record in &shared.log {
        judge.judge(record);
    }
    let ended_at = shared.log.iter().rev().find(|r| matches!(r.what, What::Ended { .. })).map(|r| r.at);
    if let Some(ended_at) = ended_at
        && judge.last_effect > ended_at + LATEST
    {
        judge.broke(
            21,
            format!("after the last run ended at {ended_at:?}, there was an effect at {:?}", judge.last_effect),
        );
    }
    let unfinished: Vec<_> =
        judge.runs.iter().filter(|(_, run)| run.seq > 0 && !run.ended).map(|(id, _)| id.to_string()).collect();
    if !unfinished.is_empty() {
        judge.broke(22, format!("{} did not end, although the faults were over", unfinished.join(", ")));
    }
    if shared.calls > super::sim::MOST_CALLS {
        judge.broke(22, format!("{} calls: something turns in circles", shared.calls));
    }
    judge.broken
}

impl Judge<'_> {
    fn broke(&mut self, invariant: u8, why: String) {
        let why = format!("{why} (process {}.{})", self.life.controller, self.life.nth);
        self.broken.push(Broken { invariant: format!("invariant {invariant}"), at: self.now, why });
    }
    fn process(&mut self) -> &mut Process {
        self.processes.entry(self.life).or_default()
    }
    fn run(&mut self, id: &RunId) -> &mut Run {
        self.runs.entry(id.clone()).or_default()
    }
    fn tokens(&self) -> bool {
        self.scenario.fencing >= Fencing::Token
    }

    fn judge(&mut self, record: &Record) {
        self.now = record.at;
        self.life = record.life;
        let now = self.now;
        match &record.what {
            What::Started { run, order, policy } => {
                let process = self.process();
                process.order = Some(*order);
                (process.started, process.began) = (now, now);
                process.run = Some(run.clone());
                self.runs.entry(run.clone()).or_insert_with(|| Run { policy: (**policy).clone(), ..Run::default() });
            }
            What::Died => {}
            What::Begun { run, epoch, intent, lines, took_over, replaced, damaged } => {
                if let Some(replaced) = replaced {
                    self.run(replaced).ended = true;
                    self.replaced.push(replaced.clone());
                }
                self.begun(run, *epoch, &intent.policy, *took_over, *damaged);
                if *lines > 0 {
                    // Time goes on from what was journalled.
                    let elapsed = self.run(run).elapsed;
                    let process = self.process();
                    (process.base, process.began) = (elapsed, now);
                }
            }
            What::Busy { run } => self.busy(run),
            What::BeginFailed { run } => {
                // Where it happened all the same, this process did not hear of it: neither which run it is, nor its lines.
                let process = self.process();
                process.run = Some(run.clone());
                (process.drives, process.damaged) = (false, false);
                // Nor how long that one had run.
                (process.base, process.began) = (Duration::ZERO, process.started);
                self.journal_lost(run);
            }
            What::Appended { run, epoch, lines } => self.appended(run, *epoch, lines),
            What::AppendFailed { run, fenced } => {
                self.process().fenced |= *fenced;
                self.journal_lost(run);
            }
            What::Renewed { run } => self.kept(run),
            What::LetGo { run, epoch } => {
                if let Some(lock) = &mut self.lock
                    && (&lock.run, lock.epoch) == (run, *epoch)
                {
                    lock.free = true;
                }
            }
            What::Read { parts, stale, .. } => {
                let process = self.process();
                process.reads += 1;
                process.last_read = Some((now, parts.clone(), *stale));
                process.all_reads.push((now, parts.clone()));
                if !*stale {
                    self.lands(parts);
                }
            }
            What::Send { run, key, change, .. } => self.send(run, key, change),
            What::Answered { key, answer } => self.answered(key, answer),
            What::World(happened) => self.happened(happened),
            What::Health { part, says } => {
                let process = self.process();
                process.health.entry(part.clone()).or_default().push((now, says));
                process.ill |= *says == "unhealthy";
            }
            What::Sample { verifier, says } => {
                self.process().samples.entry(verifier.clone()).or_default().push((now, says));
            }
            What::Freeze { run, until } => self.freeze(run, *until),
            What::Frozen { run, until } => self.frozen(run, *until),
            What::FreezeAnswered { run, was } => self.run(run).freezes.answers.extend(was),
            What::Unfrozen { run } => self.unfrozen(run),
            What::DeployedAgain => {}
            What::Leak { place, before } => self.broke(17, format!("a secret is in {place}, behind {before:?}")),
            What::Over { held, left, setting } => self.over(held, left, *setting),
            What::Approved { .. } => {
                if let Some(run) = self.process().run.clone() {
                    self.run(&run).approved = true;
                }
            }
            What::Ended { outcome, lines, scene, frozen } => {
                self.ended(outcome, lines, scene);
                self.named(*frozen);
            }
            What::Fault { .. } => {}
        }
    }

    // ---- the lock --------------------------------------------------------------------------------------------------------

    fn begun(&mut self, run: &RunId, epoch: u64, policy: &Policy, took_over: bool, damaged: bool) {
        let now = self.now;
        if let Some(lock) = &self.lock {
            let live = !lock.free && now < lock.kept + lock.lease;
            let (other, before) = (lock.run.clone(), lock.epoch);
            if live && !took_over {
                self.broke(3, format!("{run} began while {other} held the lock"));
            }
            if epoch <= before {
                self.broke(2, format!("{run} got epoch {epoch} after epoch {before}"));
            }
        }
        self.takeovers.push(now);
        self.lock = Some(Lock { run: run.clone(), epoch, kept: now, lease: policy.lease, free: false });
        self.run(run).policy = policy.clone();
        for other in self.processes.values_mut().filter(|other| other.run.as_ref() == Some(run) && other.drives) {
            other.apart.get_or_insert(now);
        }
        let process = self.process();
        process.run = Some(run.clone());
        // A journal that did not answer at first, and then did, is not lost.
        (process.drives, process.apart, process.journal_failed) = (true, None, false);
        process.damaged = damaged;
    }

    fn busy(&mut self, run: &RunId) {
        let now = self.now;
        // It drives nothing.
        self.process().run = None;
        let Some(lock) = &self.lock else {
            return self.broke(23, format!("{run} is said to hold a lock that nobody took"));
        };
        if lock.free || now > lock.kept + lock.lease {
            let why = format!("{run} is said to hold the lock, last kept at {:?} for {:?}", lock.kept, lock.lease);
            self.broke(23, why);
        }
    }

    fn kept(&mut self, run: &RunId) {
        let now = self.now;
        if let Some(lock) = &mut self.lock
            && lock.run == *run
        {
            lock.kept = now;
        }
    }

    // ---- the journal -----------------------------------------------------------------------------------------------------

    fn appended(&mut self, run: &RunId, epoch: u64, lines: &[Line]) {
        if lines.is_empty() {
            // The same lines again: of a run that has ended, that is no matter of the lock.
            if self.lock.as_ref().is_some_and(|lock| lock.epoch == epoch) {
                self.kept(run);
            }
            return;
        }
        self.kept(run);
        let ill = self.process().ill;
        self.run(run).ill |= ill;
        if let Some(lock) = &self.lock
            && (lock.epoch != epoch || lock.run != *run)
        {
            let why = format!("{run} appended under epoch {epoch}, and {} holds epoch {}", lock.run, lock.epoch);
            self.broke(2, why);
        }
        for line in lines {
            self.line(run, line);
        }
    }

    fn journal_lost(&mut self, id: &RunId) {
        let now = self.now;
        let run = self.run(id);
        run.journal_lost = true;
        let optional = run.policy.journal == Support::IfThere;
        let process = self.process();
        process.journal_failed = true;
        if optional {
            process.apart.get_or_insert(now);
        }
    }

    fn line(&mut self, id: &RunId, line: &Line) {
        let now = self.now;
        let (seq, elapsed) = (self.run(id).seq, self.run(id).elapsed);
        if line.seq != seq {
            self.broke(16, format!("line {} of {id} was written where {seq} was due", line.seq));
        }
        if line.elapsed < elapsed {
            self.broke(
                22,
                format!("{id} had run for {elapsed:?}, and now for {:?}: its bounds begin anew", line.elapsed),
            );
        }
        let process = self.process();
        let (base, began) = (process.base, process.began);
        if line.elapsed > base + now.saturating_sub(began) {
            let why =
                format!("{id} counts {:?}, and had {base:?} at {began:?}: not by a clock that is right", line.elapsed);
            self.broke(15, why);
        }
        let run = self.run(id);
        run.seq = line.seq + 1;
        run.elapsed = line.elapsed;
        if !run.reached && line.acted > run.policy.deadline + LAST_CALL {
            let why = format!("{id} acts since {:?}, and had {:?}", line.acted, run.policy.deadline);
            self.broke(22, why);
        }
        self.entry(id, &line.entry);
    }

    fn entry(&mut self, id: &RunId, entry: &Entry) {
        match entry {
            Entry::Identified(identity) => self.run(id).identities.push(identity.clone()),
            Entry::Chose(chosen) => {
                let (suspect, wanted) = (&chosen.suspect, &chosen.wanted);
                let failed = self.ledger.get(&wanted.id) == Some(&Standing::Failed);
                let allowed = self.run(id).policy.known_bad.is_some();
                let unknown = self.run(id).lost.iter().any(|what| what == "ledger");
                if failed && !allowed && !unknown {
                    self.broke(5, format!("{id} goes to {}, which is known bad", wanted.id));
                }
                if wanted.id == *suspect {
                    self.broke(5, format!("{id} goes to the suspect {suspect}"));
                }
                let run = self.run(id);
                run.suspect = Some(suspect.clone());
                run.wanted = Some(wanted.id.clone());
            }
            Entry::Planned(plan) => self.planned(id, plan),
            Entry::Freezing { .. } | Entry::Froze { .. } | Entry::FreezeUnclear { .. } => self.freeze_line(id, entry),
            Entry::Prepared { approved, .. } => {
                let run = self.run(id);
                run.needs_approval = approved.iter().any(|a| a.needs_approval.is_some());
                run.approved = false;
            }
            Entry::Doing { at, .. } => self.doing(id, *at),
            Entry::Did { at, applied } => {
                let key = format!("{id}/{at}");
                if !matches!(applied.extent, Extent::NotStarted { .. }) {
                    self.claimed_done(id, &key, *at);
                }
                if matches!(applied.extent, Extent::Done | Extent::Submitted) {
                    self.run(id).did.insert(key);
                }
            }
            Entry::NotDone { at, .. } => {
                let (key, life) = (format!("{id}/{at}"), self.life);
                let run = self.run(id);
                // Its own: what another process sends meanwhile, without its journal, nobody can know.
                let last = run.sent.get(&key).and_then(|sent| sent.iter().rev().find(|s| s.life == life)).cloned();
                if last.is_some_and(|s| s.answer.is_some_and(|(_, a)| a == Answer::Unknown)) {
                    self.broke(8, format!("{key} is said not to have happened, and its answer was lost"));
                }
            }
            Entry::AlreadySo { at } => {
                if let Some(step) = self.step(id, *at)
                    && !self.seen_to_stand(&step.change)
                {
                    self.broke(13, format!("{id}/{at} is said to be so already, and was not read so"));
                }
            }
            Entry::Landed { on, .. } => {
                let run = self.run(id);
                run.known.extend(on.values().cloned());
                run.lands_anywhere = false;
            }
            Entry::StepDone { at } => self.step_done(id, *at),
            Entry::Lost { what, .. } => self.run(id).lost.push(what.clone()),
            Entry::Reached { .. } => self.run(id).reached = true,
            Entry::RungFailed { .. } => {
                let run = self.run(id);
                (run.reached, run.held, run.needs_approval) = (false, 0, false);
            }
            Entry::Held { nth, .. } => self.held(id, *nth),
            Entry::Marked(entry) => {
                let was = self.ledger.insert(entry.release.id.clone(), entry.standing);
                let looked_at = self.scenario.checks_health() || self.scenario.hold.is_some();
                if entry.standing == Standing::Verified && was != Some(Standing::Verified) && !looked_at {
                    self.broke(12, format!("{} counts as verified, and nobody looked at its health", entry.release.id));
                }
            }
            Entry::Ended(outcome) => {
                if let Outcome::Recovered = **outcome {
                    let (held, due) = (self.run(id).held, self.scenario.verifiers());
                    if held < due {
                        self.broke(13, format!("{id} recovered with {held} of {due} verifiers"));
                    }
                }
                self.run(id).ended = true;
                if let Some(lock) = &mut self.lock
                    && lock.run == *id
                {
                    lock.free = true;
                }
            }
            _ => {}
        }
    }

    fn planned(&mut self, id: &RunId, plan: &Plan) {
        let run = self.run(id);
        run.known.extend([plan.suspect.clone(), plan.wanted.clone()]);
        for was in plan.found.0.values().flatten() {
            run.known.extend(was.mentions().into_iter().cloned());
            if matches!(was, Running::Unknown { .. }) {
                run.found.push(was.clone());
            }
        }
        run.plan = Some(plan.clone());
    }

    fn doing(&mut self, id: &RunId, at: At) {
        let now = self.now;
        let first = self.run(id).wrote.is_none();
        if first {
            let policy = self.run(id).policy.clone();
            let begun: Vec<Duration> =
                self.runs.iter().filter(|(other, _)| *other != id).filter_map(|(_, r)| r.wrote).collect();
            let recent = begun.iter().filter(|at| now.saturating_sub(**at) < policy.budget.window).count();
            if policy.ordered_by == OrderedBy::Machine
                && recent >= policy.budget.allows() as usize
                && !self.scenario.jumps
            {
                self.broke(10, format!("{id} is ordered by a machine, and {recent} rollbacks began in the window"));
            }
        }
        let run = self.run(id);
        run.wrote.get_or_insert(now);
        run.doing.entry(format!("{id}/{at}")).or_insert(now);
    }

    fn step(&mut self, id: &RunId, at: At) -> Option<Step> {
        self.run(id).plan.as_ref()?.rungs.get(at.rung)?.steps.get(at.step).cloned()
    }

    /// A write is claimed to have happened: it must have arrived, or must have been read to be so.
    fn claimed_done(&mut self, id: &RunId, key: &str, at: At) {
        let Some(step) = self.step(id, at) else { return };
        let run = self.run(id);
        let answered =
            run.sent.get(key).is_some_and(|sent| sent.iter().any(|s| matches!(s.answer, Some((_, Answer::Ok)))));
        let landed = run.effects.contains_key(key);
        if !answered && !landed && !self.seen_told(&step.change) {
            self.broke(20, format!("{key} is said to have happened; it did not, and was not read so"));
        }
    }

    fn seen_to_stand(&mut self, change: &Change) -> bool {
        self.process().last_read.clone().is_some_and(|(_, parts, _)| stands(change, &parts))
    }
    fn seen_told(&mut self, change: &Change) -> bool {
        self.process().last_read.clone().is_some_and(|(_, parts, _)| told(change, &parts))
    }

    fn step_done(&mut self, id: &RunId, at: At) {
        let Some(step) = self.step(id, at) else { return };
        if !self.seen_to_stand(&step.change) {
            self.broke(13, format!("{id}/{at} is said to be done, and what was read last is not so"));
        }
        for gate in &step.gates {
            match gate {
                Gate::Healthy { part, hold } if self.scenario.checks_health() => {
                    let all = self.process().health.get(&Some(part.clone())).cloned().unwrap_or_default();
                    // A person does not wait for ever for what cannot be found out, if it is said.
                    let lost = format!("health of {part}");
                    let was_ill = self.process().ill;
                    let run = self.run(id);
                    let was_ill = was_ill || run.ill;
                    let said = run.lost.iter().any(|what| what.starts_with(&lost));
                    let person = run.policy.ordered_by == OrderedBy::Person;
                    if person && said && all.last().is_none_or(|(_, s)| *s == "unknown") {
                        if was_ill {
                            let why = "was gone past because nobody could tell, and it was unhealthy before";
                            self.broke(12, format!("{id}/{at}: {part} {why}"));
                        }
                        continue;
                    }
                    self.held_for(&all, "healthy", *hold, &format!("{id}/{at}: {part}"));
                }
                Gate::Ready { part, at_least } => {
                    let since = self.run(id).doing.get(&format!("{id}/{at}")).copied().unwrap_or_default();
                    let reads = self.process().all_reads.iter().rev().take_while(|(at, _)| *at >= since);
                    let most = reads.filter_map(|(_, parts)| parts.get(part)?.ready).max();
                    if most.is_none_or(|n| n < *at_least) {
                        self.broke(
                            13,
                            format!("{id}/{at}: {part} was read with {most:?} ready, and {at_least} are due"),
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn held(&mut self, id: &RunId, nth: usize) {
        let (name, hold) = match nth {
            0 => ("runs", Duration::ZERO),
            _ => ("healthy", self.scenario.hold.unwrap_or_default()),
        };
        let all = self.process().samples.get(name).cloned().unwrap_or_default();
        self.held_for(&all, "holds", hold, &format!("{id}: verifier {name}"));
        let run = self.run(id);
        run.held = run.held.max(nth + 1);
    }

    /// The last samples said so, without a break, for so long.
    fn held_for(&mut self, samples: &[(Duration, &'static str)], says: &str, hold: Duration, of: &str) {
        let now = self.now;
        let since = samples.iter().rev().take_while(|(_, s)| *s == says).last().map(|(at, _)| *at);
        match since {
            None => self.broke(12, format!("{of} counts as {says}, and the last sample was {:?}", samples.last())),
            Some(since) if now.saturating_sub(since) < hold => {
                self.broke(12, format!("{of} counts as {says} for {hold:?}, and was so since {since:?} only"));
            }
            Some(_) => {}
        }
    }
}

fn mentions(change: &Change) -> Vec<ReleaseId> {
    match change {
        Change::Reach(shape) => shape.0.values().filter_map(|wish| wish.release.clone()).collect(),
        Change::Abort { expect: crate::Landing::On(release), .. } => vec![release.clone()],
        _ => vec![],
    }
}

/// Ready instances of the parts with traffic.
fn serving(parts: &PartMap<PartState>) -> u32 {
    parts.values().filter(|p| p.weight != Some(Weight::NONE)).filter_map(|p| p.ready.or(p.capacity)).sum()
}

/// The change was told.
fn told(change: &Change, parts: &PartMap<PartState>) -> bool {
    let Change::Reach(shape) = change else { return true };
    shape.0.iter().all(|(id, wish)| match parts.get(id) {
        None => wish.release.is_none() && wish.weight.is_none_or(|w| w == Weight::NONE),
        Some(part) => {
            (wish.release.is_none() || part.wanted == wish.release)
                && (wish.weight.is_none() || part.weight == wish.weight)
                && wish.capacity.is_none_or(|c| {
                    part.capacity.is_some_and(|n| match c {
                        Capacity::Exactly(wished) => n == wished,
                        Capacity::AtLeast(wished) => n >= wished,
                    })
                })
        }
    })
}

/// The change was told, and what runs is what was told.
fn stands(change: &Change, parts: &PartMap<PartState>) -> bool {
    let Change::Reach(shape) = change else { return true };
    told(change, parts)
        && shape.0.iter().all(|(id, wish)| {
            parts.get(id).is_none_or(|part| {
                let runs = match &part.running {
                    Running::Release(release) => wish.release.as_ref().is_none_or(|w| w == release),
                    Running::Nothing => part.capacity == Some(0) || wish.release.is_none(),
                    _ => wish.release.is_none(),
                };
                part.settled == Settled::Yes && runs
            })
        })
}
