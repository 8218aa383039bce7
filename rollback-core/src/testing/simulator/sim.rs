//! What the parts of one simulation share: chance, the record, the world, the clocks.

use super::{
    fault::{Fault, Stage},
    freeze::Pipeline,
    log::{Hasher, Life, Record, What},
};
use crate::{
    Change, ChangeKind, Clock, Error, Kind, Now, Result, Timestamp,
    journal::MemoryJournal,
    testing::fake::{Action, FakePlatform, Write},
};
use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

/// What must not be found anywhere.
const SECRET: &str = "hunter2-of-the-simulator";

/// After so many calls in one simulation something turns in circles.
pub(super) const MOST_CALLS: u64 = 30_000;

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// When the n-th call is made.
    Call(u64),
    /// When the n-th write is sent.
    Write(u64),
}

/// Something that happens then.
#[derive(Clone, Debug)]
pub(super) enum Event {
    World(Fault, Action),
    Outage(Fault, Duration),
    Jump(i64),
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) rng: fastrand::Rng,
    /// In a thousand calls.
    pub(super) rates: BTreeMap<Fault, u16>,
    /// So many more faults by chance.
    pub(super) left: u32,
    /// The faults are over.
    pub(super) quiet: bool,
    pub(super) events: Vec<(Trigger, Event)>,
    outages: Vec<(Fault, Instant)>,
    wall_offset: i64,
    pub(super) injected: BTreeMap<(Fault, Stage), u64>,
    pub(super) log: Vec<Record>,
    pub(super) calls: u64,
    writes: u64,
    stages: BTreeMap<u8, Stage>,
    /// Processes that were killed: nothing of them runs any more.
    pub(super) killed: Vec<Life>,
    pub(super) pipeline: Pipeline,
}

/// One simulation.
#[derive(Clone, Debug)]
pub(super) struct Sim {
    pub(super) platform: FakePlatform,
    pub(super) journal: MemoryJournal,
    /// What is said in this world holds secrets.
    pub(super) secrets: bool,
    born: Instant,
    shared: Arc<Mutex<Shared>>,
}

impl Sim {
    pub(super) fn new(platform: FakePlatform, rng: fastrand::Rng, secrets: bool) -> Self {
        let shared = Shared {
            rng,
            rates: BTreeMap::new(),
            left: 0,
            quiet: false,
            events: vec![],
            outages: vec![],
            wall_offset: 0,
            injected: BTreeMap::new(),
            log: vec![],
            calls: 0,
            writes: 0,
            stages: BTreeMap::new(),
            killed: vec![],
            pipeline: Pipeline::default(),
        };
        Self {
            platform,
            journal: MemoryJournal::new(),
            secrets,
            born: Instant::now(),
            shared: Arc::new(Mutex::new(shared)),
        }
    }
    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn now(&self) -> Duration {
        self.born.elapsed()
    }
    pub(super) fn note(&self, life: Life, what: What) {
        self.drain(life);
        let at = self.now();
        self.shared().log.push(Record { at, life, what });
    }
    /// What happened in the world until now.
    fn drain(&self, life: Life) {
        let happened = {
            let mut world = self.platform.world();
            world.catch_up();
            std::mem::take(&mut world.log)
        };
        if happened.is_empty() {
            return;
        }
        let at = self.now();
        let records = happened.into_iter().map(|(_, h)| Record { at, life, what: What::World(Box::new(h)) });
        self.shared().log.extend(records);
    }
    /// A call begins: what is due happens.
    pub(super) fn call(&self, life: Life, stage: Stage) {
        let due = {
            let mut shared = self.shared();
            shared.calls += 1;
            shared.stages.insert(life.controller, stage);
            shared.writes += u64::from(stage.writes() && stage != Stage::Freeze);
            let (calls, writes) = (shared.calls, shared.writes);
            let is_due = |(trigger, _): &(Trigger, Event)| match trigger {
                Trigger::Call(n) => *n <= calls,
                Trigger::Write(n) => *n <= writes,
            };
            let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut shared.events).into_iter().partition(is_due);
            shared.events = later;
            if shared.quiet { vec![] } else { due }
        };
        for (_, event) in due {
            let fault = match &event {
                Event::World(fault, _) | Event::Outage(fault, _) => *fault,
                Event::Jump(_) => Fault::ClockJump,
            };
            self.injected(life, fault, stage);
            match event {
                Event::World(_, action) => self.platform.world().act(&action),
                Event::Outage(fault, time) => self.shared().outages.push((fault, Instant::now() + time)),
                Event::Jump(by) => self.shared().wall_offset += by,
            }
        }
        self.drain(life);
    }
    /// A write that is on its way, and that nobody waits for.
    pub(super) fn late(&self, life: Life, write: Write, after: Duration) {
        self.platform.world().late.push((Instant::now() + after, write));
        let sim = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            sim.drain(life);
        });
    }
    pub(super) fn injected(&self, life: Life, fault: Fault, stage: Stage) {
        *self.shared().injected.entry((fault, stage)).or_default() += 1;
        self.note(life, What::Fault { fault, stage });
    }
    /// By chance: does this fault hit now?
    pub(super) fn hits(&self, life: Life, fault: Fault, stage: Stage) -> bool {
        {
            let mut shared = self.shared();
            // Writes are few, and what matters most.
            let times = if stage.writes() { 3 } else { 1 };
            let rate = (shared.rates.get(&fault).copied().unwrap_or(0) * times).min(600);
            if rate == 0 || shared.quiet || shared.left == 0 || shared.rng.u16(..1000) >= rate {
                return false;
            }
            shared.left -= 1;
        }
        self.injected(life, fault, stage);
        true
    }
    /// Is this outage on? It counts once a call.
    pub(super) fn is_out(&self, fault: Fault, stage: Stage) -> bool {
        let now = Instant::now();
        let out = {
            let shared = self.shared();
            !shared.quiet && shared.outages.iter().any(|(f, until)| *f == fault && *until > now)
        };
        if out {
            *self.shared().injected.entry((fault, stage)).or_default() += 1;
        }
        out
    }
    pub(super) fn stage(&self, life: Life) -> Stage {
        self.shared().stages.get(&life.controller).copied().unwrap_or(Stage::Begin)
    }
    /// What may happen to any call on its way.
    pub(super) async fn way(&self, life: Life, stage: Stage, doing: &str) -> Result<()> {
        self.call(life, stage);
        yield_now().await;
        sleep(self.millis(1..40)).await;
        if self.is_out(Fault::PlatformDown, stage) {
            if self.chance(4) {
                pending::<()>().await;
            }
            return Err(self.unavailable(doing, "the platform is down").without_effect());
        }
        if self.is_out(Fault::Denied, stage) {
            let denied = Error::new(Kind::Denied, doing).with_message(self.says("the credentials are gone"));
            return Err(denied.without_effect());
        }
        if self.hits(life, Fault::Transient, stage) {
            return Err(self.unavailable(doing, "503: not now").without_effect());
        }
        if !stage.writes() {
            if self.hits(life, Fault::NoAnswer, stage) {
                pending::<()>().await;
            }
            if self.hits(life, Fault::LateAnswer, stage) {
                sleep(self.millis(1000..15_000)).await;
            }
        }
        Ok(())
    }
    pub(super) fn unavailable(&self, doing: &str, why: &str) -> Error {
        Error::new(Kind::Unavailable, doing).with_message(self.says(why))
    }
    /// What somebody says who does not watch his words, where the world is such a one.
    pub(super) fn says(&self, text: &str) -> String {
        match (self.secrets, self.shared().calls % 3) {
            (false, _) => text.to_owned(),
            (true, 0) => format!("{text}; DB_PASSWORD={SECRET}"),
            (true, 1) => format!("{text}\nAuthorization: Bearer {SECRET}\nand so on"),
            (true, _) => format!("{text} at amqp://shop:{SECRET}@mq/shop"),
        }
    }
    /// A secret in what is kept or told.
    pub(super) fn leak(&self, life: Life, place: &'static str, text: &str) {
        if self.secrets && text.contains(SECRET) {
            let at = text.find(SECRET).unwrap_or_default();
            let before: String = text[..at].chars().rev().take(80).collect::<Vec<_>>().into_iter().rev().collect();
            self.note(life, What::Leak { place, before });
        }
    }
    pub(super) fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.shared().rng.u64(range))
    }
    pub(super) fn chance(&self, of: u32) -> bool {
        self.shared().rng.u32(..of) == 0
    }
    /// It turns in circles.
    pub(super) fn overran(&self) -> bool {
        self.shared().calls > MOST_CALLS
    }
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = Hasher::new();
        self.shared().log.iter().for_each(|record| hasher.take(record));
        hasher.0
    }
}

/// A monotonic clock that is right and a wall clock that jumps.
impl Clock for Sim {
    fn now(&self) -> Now {
        let mono = self.born.elapsed();
        let offset = self.shared().wall_offset;
        let wall = 1_760_000_000_000_i64 + offset + i64::try_from(mono.as_millis()).unwrap_or(0);
        Now { mono, wall: Timestamp(wall.unsigned_abs()) }
    }
}

pub(super) fn stage_of(change: &Change) -> Stage {
    let kinds = change.kinds();
    if kinds.contains(&ChangeKind::Release) {
        Stage::Release
    } else if kinds.contains(&ChangeKind::Traffic) {
        Stage::Traffic
    } else if kinds.contains(&ChangeKind::Capacity) {
        Stage::Capacity
    } else {
        Stage::Abort
    }
}
