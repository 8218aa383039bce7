//! The judge: goes through the record once, and holds it against the invariants. It knows what was written, read, sent and
//! answered, and what the world did; of the engine it knows what was journalled and reported, and believes neither.
//!
//! Waived, and only so far: where the journal is optional and was lost, 1 to 4 (the loss must be reported); where fencing is
//! best effort, writes that were on their way before somebody else's; where the wall clock jumped, the budget, which has no
//! other clock across processes.

use super::{
    Broken,
    log::{Life, PartStates, Record, What},
    scenario::{Order, Scenario},
    sim::Sim,
    target::STALE_FOR,
};
use crate::{
    At, Capacity, Change, Effect, Entry, Extent, Fencing, Gate, Identity, Line, OnUnknown, OrderedBy, Outcome, PartId,
    PartMap, PartState, Plan, Policy, ReleaseId, RunId, Running, Settled, Standing, Step, Support, Weight,
    testing::fake::{Action, Happened, Landed, Scene},
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
    /// It aborted what does not say where it lands: anything but the suspect may be its doing.
    lands_anywhere: bool,
    /// What ran at the start, where history does not know it.
    found: Vec<Running>,
    /// The durable intents, by key.
    doing: BTreeMap<String, Duration>,
    /// Writes that were confirmed.
    did: BTreeSet<String>,
    /// Writes that were sent, by key.
    sent: BTreeMap<String, Vec<Sent>>,
    /// Effects, by key.
    effects: BTreeMap<String, u32>,
    lost: Vec<String>,
    approved: bool,
    needs_approval: bool,
    held: usize,
    wrote: Option<Duration>,
    reached: bool,
    journal_lost: bool,
    ended: bool,
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
                self.process().journal_failed = true;
                self.run(run).journal_lost = true;
            }
            What::Appended { run, epoch, lines } => self.appended(run, *epoch, lines),
            What::AppendFailed { run, fenced } => {
                let process = self.process();
                process.fenced |= *fenced;
                process.journal_failed = true;
                self.run(run).journal_lost = true;
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
            }
            What::Send { run, key, change, .. } => self.send(run, key, change),
            What::Answered { key, answer } => self.answered(key, answer),
            What::World(happened) => self.happened(happened),
            What::Health { part, says } => {
                let process = self.process();
                process.health.entry(part.clone()).or_default().push((now, says));
            }
            What::Sample { verifier, says } => {
                self.process().samples.entry(verifier.clone()).or_default().push((now, says));
            }
            What::Approved { .. } => {
                if let Some(run) = self.process().run.clone() {
                    self.run(&run).approved = true;
                }
            }
            What::Ended { outcome, lines, scene } => self.ended(outcome, lines, scene),
            What::Fault { .. } => {}
        }
    }

    // ---- the lock ---------------------------------------------------------------------------------------------------

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
        let process = self.process();
        process.run = Some(run.clone());
        process.drives = true;
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

    // ---- the journal ------------------------------------------------------------------------------------------------

    fn appended(&mut self, run: &RunId, epoch: u64, lines: &[Line]) {
        if lines.is_empty() {
            // The same lines again: of a run that has ended, that is no matter of the lock.
            if self.lock.as_ref().is_some_and(|lock| lock.epoch == epoch) {
                self.kept(run);
            }
            return;
        }
        self.kept(run);
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
            Entry::Chose { suspect, wanted, .. } => {
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
                let key = format!("{id}/{at}");
                let run = self.run(id);
                let last = run.sent.get(&key).and_then(|sent| sent.last()).cloned();
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
            Entry::StepDone { at } => self.step_done(id, *at),
            Entry::Lost { what, .. } => self.run(id).lost.push(what.clone()),
            Entry::Reached { .. } => self.run(id).reached = true,
            Entry::RungFailed { .. } => {
                let run = self.run(id);
                (run.reached, run.held, run.needs_approval) = (false, 0, false);
            }
            Entry::Held { nth, .. } => self.held(id, *nth),
            Entry::Marked(entry) => {
                self.ledger.insert(entry.release.id.clone(), entry.standing);
                let looked_at = self.scenario.checks_health() || self.scenario.hold.is_some();
                if entry.standing == Standing::Verified && !looked_at {
                    self.broke(12, format!("{} counts as verified, and nobody looked at its health", entry.release.id));
                }
            }
            Entry::Ended(outcome) => {
                if let Outcome::Recovered = outcome {
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
                    // Who breaks the glass does not wait for what cannot be found out, if it is said.
                    let lost = format!("health of {part}");
                    let run = self.run(id);
                    let said = run.lost.iter().any(|what| what.starts_with(&lost));
                    if run.policy.journal == Support::IfThere && said && all.last().is_none_or(|(_, s)| *s == "unknown")
                    {
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

    // ---- writes -----------------------------------------------------------------------------------------------------

    fn send(&mut self, id: &RunId, key: &str, change: &Change) {
        let now = self.now;
        let scenario = self.scenario;
        let process = self.process();
        let (order, fenced, damaged, reads) = (process.order, process.fenced, process.damaged, process.reads);
        let last_read = process.last_read.clone();
        if order == Some(Order::Rehearsal) {
            self.broke(18, format!("{key} was sent in a rehearsal"));
        }
        if fenced {
            self.broke(2, format!("{key} was sent after the process was told that its lease is lost"));
        }
        if damaged {
            self.broke(16, format!("{key} was sent on a journal with a line missing"));
        }
        let policy = self.run(id).policy.clone();
        let has_the_word = policy.ordered_by == OrderedBy::Person && policy.irreversible;
        if !scenario.reversible && !has_the_word {
            self.broke(7, format!("{key} was sent, and going back may lose data"));
        }
        let run = self.run(id);
        if run.needs_approval && policy.approvals && !run.approved {
            self.broke(7, format!("{key} was sent without the approval that it needs"));
        }
        self.again(id, key, reads);
        self.floor(id, key, change, last_read.as_ref());
        self.strangers_were_read(id, key, last_read.as_ref());
        let life = self.life;
        let forgot = self.process().journal_failed;
        let run = self.run(id);
        run.known.extend(mentions(change));
        run.lands_anywhere |= matches!(change, Change::Abort { expect: crate::Landing::Unsaid, .. });
        let unjournalled = !run.doing.contains_key(key) || (forgot && run.policy.journal == Support::IfThere);
        run.sent.entry(key.to_owned()).or_default().push(Sent { life, at: now, reads, unjournalled, answer: None });
    }

    /// The same write once more.
    fn again(&mut self, id: &RunId, key: &str, reads: u64) {
        let (now, life) = (self.now, self.life);
        let on_unknown = self.scenario.on_unknown;
        let (forgot, began) = (self.process().journal_failed, self.process().started);
        let run = self.run(id);
        let confirmed = run.did.contains(key);
        let look = run.policy.look_again_for;
        let Some(last) = run.sent.get(key).and_then(|sent| sent.last()).cloned() else { return };
        // Without a journal, a process knows nothing of those before it.
        // One that is still at it although its lease is lost is a matter of invariant 2.
        let forgot = forgot && run.policy.journal == Support::IfThere;
        if last.life != life && (last.at >= began || last.unjournalled || forgot) {
            return;
        }
        if confirmed && !forgot {
            self.broke(9, format!("{key} was confirmed, and is sent again"));
        }
        if last.life == life && reads <= last.reads {
            self.broke(8, format!("{key} is sent again without a look in between"));
        }
        let lost = match last.answer {
            Some((_, Answer::Ok | Answer::NoEffect)) => return,
            Some((at, Answer::Unknown)) => at,
            None => last.at,
        };
        match on_unknown {
            OnUnknown::Again => {}
            OnUnknown::FindByKey | OnUnknown::Observe => {
                if now.saturating_sub(lost) < look {
                    self.broke(
                        8,
                        format!("{key} is sent again {:?} after its answer was lost", now.saturating_sub(lost)),
                    );
                }
            }
            OnUnknown::AskHuman => {
                self.broke(8, format!("{key} is sent again, and nobody can tell whether it happened"))
            }
        }
    }

    fn floor(&mut self, id: &RunId, key: &str, change: &Change, read: Option<&(Duration, PartStates, bool)>) {
        if self.process().journal_failed && self.run(id).policy.journal == Support::IfThere {
            // Its plan is in no journal.
            return;
        }
        let rung = key.rsplit('/').next().and_then(|at| at.split('.').next()?.parse::<usize>().ok()).unwrap_or(0);
        let Some(plan) = self.run(id).plan.clone() else { return };
        let (Some(total), Some(rung)) = (plan.begins_at.serving_capacity(), plan.rungs.get(rung)) else { return };
        let needed = rung.floor.of(total);
        let (Some((_, parts, _)), Change::Reach(wishes)) = (read, change) else { return };
        let (before, mut after) = (serving(parts), (**parts).clone());
        for (part, wish) in &wishes.0 {
            let Some(state) = after.get_mut(part) else { continue };
            if wish.weight.is_some() {
                state.weight = wish.weight;
            }
            if let Some(Capacity::Exactly(n)) = wish.capacity {
                state.ready = state.ready.map(|ready| ready.min(n));
                state.capacity = Some(n);
            }
        }
        let left = serving(&after);
        if left < needed && left < before {
            self.broke(11, format!("{key} leaves {left} of {before} instances serving, and {needed} are the floor"));
        }
    }

    /// Where nothing fences, what somebody else did must at least not be written over once it was read.
    fn strangers_were_read(&mut self, id: &RunId, key: &str, read: Option<&(Duration, PartStates, bool)>) {
        let Some((_, parts, _)) = read else { return };
        if let Some(stranger) = self.stranger(id, parts) {
            self.broke(6, format!("{key} was sent although {stranger} was read"));
        }
    }

    fn stranger(&mut self, id: &RunId, parts: &PartMap<PartState>) -> Option<String> {
        let forgot = self.process().journal_failed;
        let run = self.run(id);
        run.plan.as_ref()?;
        if forgot && run.policy.journal == Support::IfThere {
            // Without a journal a process plans anew, and nobody sees the plan.
            return None;
        }
        parts.iter().find_map(|(part, state)| {
            let unknown = matches!(&state.running, Running::Unknown { .. }) && !run.found.contains(&state.running);
            let strange = |r: &&ReleaseId| !run.known.contains(*r) && !run.lands_anywhere;
            let other = state.wanted.iter().chain(state.running.mentions()).find(strange);
            match (unknown, other) {
                (true, _) => Some(format!("{part} with {}", state.running)),
                (false, Some(release)) => Some(format!("{part} with {release}")),
                (false, None) => None,
            }
        })
    }

    fn answered(&mut self, key: &str, answer: &Result<crate::Applied, (crate::Kind, Effect)>) {
        let (now, life) = (self.now, self.life);
        let Some((run, _)) = key.rsplit_once('/') else { return };
        let answer = match answer {
            Ok(_) => Answer::Ok,
            Err((_, Effect::None)) => Answer::NoEffect,
            Err(_) => Answer::Unknown,
        };
        if let Some(sent) = self.run(&RunId::new(run)).sent.get_mut(key)
            && let Some(last) = sent.iter_mut().rev().find(|s| s.life == life)
        {
            last.answer = Some((now, answer));
        }
    }

    // ---- the world --------------------------------------------------------------------------------------------------

    fn happened(&mut self, happened: &Happened) {
        match happened {
            Happened::Wrote { run, key, epoch, landed, before, after } => {
                self.scene = Some(after.clone());
                if *landed == Landed::Changed {
                    self.effect(run, key, *epoch, before, after);
                } else {
                    self.run(run).effects.entry(key.clone()).or_default();
                }
            }
            Happened::Refused { .. } => {}
            Happened::Else(action, after) => {
                self.scene = Some(after.clone());
                self.others.push((self.now, action.clone()));
            }
        }
    }

    fn effect(&mut self, id: &RunId, key: &str, epoch: u64, before: &Scene, after: &Scene) {
        let now = self.now;
        self.last_effect = now;
        let tokens = self.tokens();
        let waived = {
            let run = self.run(id);
            run.policy.journal == Support::IfThere && run.journal_lost
        };
        if !waived && !self.run(id).doing.contains_key(key) {
            self.broke(1, format!("{key} had an effect without a durable intent"));
        }
        if epoch > 0 && epoch < self.highest_effect && tokens && !waived {
            let highest = self.highest_effect;
            self.broke(2, format!("{key} had an effect under epoch {epoch}, after one under {highest}"));
        }
        self.highest_effect = self.highest_effect.max(epoch);
        if tokens {
            let run = self.run(id);
            // Without a journal a process identifies anew.
            if !waived && !run.identities.is_empty() && !run.identities.contains(&before.identity) {
                let (is, was) = (before.identity.clone(), run.identities.clone());
                self.broke(4, format!("{key} changed {is}, and the run is about {was:?}"));
            }
            if let Some(stranger) = self.stranger(id, &before.parts) {
                self.broke(6, format!("{key} changed what shows {stranger}"));
            }
        }
        let run = self.run(id);
        if !run.identities.is_empty() && before.identity != after.identity {
            run.identities.push(after.identity.clone());
        }
        let times = run.effects.entry(key.to_owned()).or_default();
        *times += 1;
        let times = *times;
        let first = run.sent.get(key).and_then(|s| s.first()).map_or(Duration::ZERO, |s| s.at);
        let disturbed = self.others.iter().any(|(at, _)| *at >= first);
        if times > 1 && !self.scenario.pieces && !disturbed && !waived && (tokens || self.scenario.knows_keys) {
            self.broke(8, format!("{key} had {times} effects"));
        }
    }

    // ---- ends -------------------------------------------------------------------------------------------------------

    fn ended(&mut self, outcome: &Outcome, lines: &[Line], scene: &Scene) {
        let process = self.process();
        let (read, began, fenced) = (process.last_read.clone(), process.began, process.fenced);
        let (drives, damaged) = (process.drives && !process.journal_failed, process.damaged);
        let Some(id) = process.run.clone() else { return };
        let report: BTreeSet<String> = lines
            .iter()
            .filter_map(|line| match &line.entry {
                Entry::Doing { at, .. } => Some(format!("{id}/{at}")),
                _ => None,
            })
            .collect();
        // What another process of the run did without a journal, this one cannot know.
        let life = self.life;
        let run = self.run(&id);
        let waived = run.policy.journal == Support::IfThere && run.journal_lost;
        let mine = |key: &String| run.sent.get(key).is_some_and(|sent| sent.iter().any(|s| s.life == life));
        let effects: Vec<String> =
            run.effects.keys().filter(|key| (drives && !waived && !fenced) || mine(key)).cloned().collect();
        for key in &effects {
            if !report.contains(key) && !damaged {
                self.broke(20, format!("{key} had an effect, and the report of {id} does not know it"));
            }
        }
        let untouched = matches!(outcome, Outcome::Refused { .. } | Outcome::NothingToDo | Outcome::Rehearsed);
        // Of a damaged journal it can only be said that nothing more was touched.
        if untouched && !effects.is_empty() && !damaged {
            self.broke(20, format!("{id} ended as {}, and had {effects:?}", outcome.name()));
        }
        let lost = lines.iter().any(|line| matches!(line.entry, Entry::Lost { .. }));
        if waived
            && !lost
            && self.process().journal_failed
            && effects.iter().any(|key| !self.run(&id).doing.contains_key(key))
        {
            self.broke(20, format!("{id} wrote without a journal, and its report says nothing of it"));
        }
        match outcome {
            Outcome::Recovered => self.recovered(&id, lines, scene, read.as_ref()),
            Outcome::Superseded { by } => {
                let somebody = self.others.iter().any(|(_, a)| !matches!(a, Action::Collect(_) | Action::Ail(..)));
                let fenced = fenced && self.takeovers.iter().any(|at| *at > began);
                let replaced = self.replaced.contains(&id);
                let somebody = somebody || self.runs.iter().any(|(other, run)| *other != id && !run.effects.is_empty());
                // A run that lost its journal may meet its own writes.
                if !somebody && !fenced && !replaced && !waived {
                    self.broke(6, format!("{id} is superseded by {by}, and nobody was there"));
                }
            }
            Outcome::Stuck { parts, .. } => {
                if let Some((_, seen, _)) = read
                    && parts.len() < seen.len()
                    && !parts.is_empty()
                {
                    self.broke(14, format!("{id} is stuck, and tells of {} of {} parts", parts.len(), seen.len()));
                }
            }
            _ => {}
        }
    }

    fn recovered(&mut self, id: &RunId, lines: &[Line], scene: &Scene, read: Option<&(Duration, PartStates, bool)>) {
        let chosen = lines.iter().find_map(|line| match &line.entry {
            Entry::Chose { suspect, wanted, .. } => Some((suspect.clone(), wanted.id.clone())),
            _ => None,
        });
        let Some((suspect, wanted)) = chosen else {
            return self.broke(13, format!("{id} recovered without having chosen"));
        };
        let lately = read.map_or(Duration::ZERO, |(at, ..)| at.saturating_sub(STALE_FOR));
        if self.others.iter().any(|(at, _)| *at >= lately) {
            return;
        }
        let serving: Vec<_> = scene.parts.iter().filter(|(_, part)| part.serves()).collect();
        if let Some((part, state)) = serving.iter().find(|(_, part)| part.running.mentions().contains(&&suspect)) {
            self.broke(13, format!("{id} recovered, and {part} still runs {}", state.running));
        }
        if !serving.iter().any(|(_, part)| part.runs(&wanted)) {
            self.broke(13, format!("{id} recovered, and {wanted} serves nowhere"));
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
