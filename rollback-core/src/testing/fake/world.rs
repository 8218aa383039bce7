//! What the fake platform is made of: parts, releases, a version, and what was written to it. No waiting: what takes time
//! is a function of the moment at which it is looked at.

use crate::{
    Approved, Capacity, Change, ChangeKind, Error, Identity, Kind, Landing, Observation, Ours, PartId, PartMap,
    PartState, Payload, Release, ReleaseId, Result, RunId, Running, Settled, Shape, Stored, Timestamp, Token, Trace,
    Weight, Wish,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Deref,
    time::Duration,
};
use tokio::time::Instant;

/// Does a release of the fake platform work?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// Clients get answers.
    Good,
    /// Clients get errors.
    Bad,
}

/// When something scripted happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Just before the n-th write arrives, from 1.
    BeforeStep(usize),
    /// Just after the n-th write arrived, from 1.
    AfterStep(usize),
    /// Just before the n-th read, from 1.
    BeforeRead(usize),
    /// So long after the platform was made, on tokio's clock.
    After(Duration),
}

/// How the fake platform is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FakeParts {
    /// One part, `all`, without weights.
    #[default]
    One,
    /// `blue` and `green`; one of them has all the traffic. A release starts on green.
    BlueGreen,
    /// `stable` and `canary`, with weights in steps of 1 %.
    CanaryPair,
    /// `stable` and `canary`, each with as much traffic as it has instances.
    ByCapacity,
    /// Every release is a part, with weights in steps of 0.01 %, two at once.
    PerRelease,
    /// One part at first; a change may make more. Weights in steps of 1 %.
    Made,
}

/// One write that changed the fake platform.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FakeEffect {
    /// The key it came with: the run and the step.
    pub key: String,
    /// The fencing epoch it came with.
    pub epoch: u64,
    /// What was written.
    pub change: Change,
}

/// The writes that changed the fake platform, in order. Compares with a list of keys, so that nothing is `[]`.
///
/// ```
/// # use rollback_core::testing::*;
/// let platform = FakePlatform::new().release("1", Good).live("1");
/// assert_eq!(platform.effects(), []);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Effects(pub(crate) Vec<FakeEffect>);

impl Deref for Effects {
    type Target = [FakeEffect];
    fn deref(&self) -> &[FakeEffect] {
        &self.0
    }
}
impl<const N: usize> PartialEq<[&str; N]> for Effects {
    fn eq(&self, keys: &[&str; N]) -> bool {
        self.0.iter().map(|e| e.key.as_str()).eq(keys.iter().copied())
    }
}
impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|e| (&e.key, &e.change))).finish()
    }
}

/// The version of the fake platform that a read saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version(pub(crate) u64);
impl Stored for Version {
    const NAME: &'static str = "rollback-core/fake-version";
    const VERSION: u32 = 1;
}

/// How many pieces of a long write are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pieces(pub(crate) u64);
impl Stored for Pieces {
    const NAME: &'static str = "rollback-core/fake-pieces";
    const VERSION: u32 = 1;
}

/// What the fake platform calls a deployment or a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Called(pub(crate) String);
impl Stored for Called {
    const NAME: &'static str = "rollback-core/fake-called";
    const VERSION: u32 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settles {
    At(Instant),
    /// A long write is between two calls: nothing goes on by itself.
    Waits,
    Never(String),
}

/// One part, with what it was before the last write, so that the way between can be shown.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) wanted: Option<ReleaseId>,
    was: Running,
    is: Running,
    pub(crate) weight: Option<Weight>,
    pub(crate) capacity: Option<u32>,
    ready_before: Option<u32>,
    since: Instant,
    settles: Settles,
    /// Only so many are ready, until then.
    ails: Option<(u32, Instant)>,
}

impl Place {
    pub(crate) fn new(running: Running, weight: Option<Weight>, capacity: Option<u32>) -> Self {
        let wanted = match &running {
            Running::Release(release) => Some(release.clone()),
            _ => None,
        };
        let now = Instant::now();
        Self {
            wanted,
            was: running.clone(),
            is: running,
            weight,
            capacity,
            ready_before: capacity,
            since: now,
            settles: Settles::At(now),
            ails: None,
        }
    }
    fn running(&self, now: Instant) -> Running {
        match &self.settles {
            Settles::At(at) if now >= *at => self.is.clone(),
            _ if self.was == self.is => self.is.clone(),
            Settles::At(at) => match (&self.was, &self.is, self.capacity) {
                (Running::Release(was), Running::Release(is), Some(n))
                    if n > 1 && now.duration_since(self.since) * 2 >= at.duration_since(self.since) =>
                {
                    Running::Mixed([(was.clone(), 1), (is.clone(), n - 1)].into())
                }
                (was, _, _) => was.clone(),
            },
            Settles::Waits | Settles::Never(_) => self.was.clone(),
        }
    }
    pub(crate) fn state(&self, now: Instant) -> PartState {
        let settled = match &self.settles {
            Settles::At(at) if now >= *at => Settled::Yes,
            Settles::At(at) => {
                Settled::NotYet { why: format!("ready in {} s", at.duration_since(now).as_secs_f32().ceil()) }
            }
            Settles::Waits => Settled::NotYet { why: "the rest of it has not been written".into() },
            Settles::Never(why) => Settled::Never { why: why.clone() },
        };
        let ready = match settled {
            Settled::Yes => self.capacity,
            _ => self.ready_before.min(self.capacity),
        };
        let ready = match self.ails {
            Some((few, until)) if now < until => ready.map(|n| n.min(few)),
            _ => ready,
        };
        let mut part = PartState::new(self.wanted.clone(), self.running(now)).with_settled(settled);
        part.weight = self.weight;
        part.capacity = self.capacity;
        part.ready = ready;
        part
    }
    /// Does not get on by itself.
    pub(crate) fn wait(&mut self) {
        self.settles = Settles::Waits;
    }
    /// Stays as it is.
    fn halt(&mut self, now: Instant) {
        self.begin(now, Settles::At(now));
        self.is = self.was.clone();
    }
    fn begin(&mut self, now: Instant, settles: Settles) {
        let state = self.state(now);
        self.was = state.running;
        self.ready_before = state.ready;
        self.since = now;
        self.settles = settles;
    }
}

/// A write as it arrives.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) run: RunId,
    pub(crate) key: String,
    pub(crate) epoch: u64,
    pub(crate) trace: Option<Trace>,
    pub(crate) approved: Approved,
    /// The version it was judged for, where there is compare-and-set.
    pub(crate) version: Option<u64>,
    /// For a long write: how many pieces are to be done after this call.
    pub(crate) pieces: Option<u64>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landed {
    /// It changed something.
    Changed,
    /// All was so already.
    Nothing,
    /// Its key has been seen: what it asks for was done before.
    Seen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Deploy(ReleaseId),
    Edit,
    Recreate,
    Collect(ReleaseId),
    Vanish,
    /// Instances of a part stop being ready, for so long.
    Ail(PartId, u32, Duration),
}

/// How all is, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scene {
    pub(crate) version: u64,
    pub(crate) identity: Identity,
    pub(crate) parts: PartMap<PartState>,
}

/// What happened to the world, as the world itself saw it. The simulator judges by this, not by what an engine claims.
#[derive(Clone, Debug)]
#[allow(dead_code)] // The trace of the simulator shows all of it.
pub(crate) enum Happened {
    /// A write of a run arrived.
    Wrote { run: RunId, key: String, epoch: u64, landed: Landed, before: Scene, after: Scene },
    /// A write of a run arrived and was refused.
    Refused { run: RunId, key: String, epoch: u64, kind: Kind },
    /// Somebody else did something.
    Else(Action, Scene),
}

#[derive(Clone, Debug)]
pub(crate) struct Fakes {
    pub(crate) parts: FakeParts,
    pub(crate) renumbers: bool,
    pub(crate) holds_trace: bool,
    pub(crate) knows_keys: bool,
    pub(crate) can_tell: bool,
    pub(crate) needs_approval: Option<String>,
    pub(crate) fenced: bool,
    pub(crate) enforces_epoch: bool,
    pub(crate) settles_after: Duration,
    pub(crate) never_settles: Option<String>,
    pub(crate) pieces: Option<u64>,
    pub(crate) identity_changes: bool,
    pub(crate) aborts: bool,
    pub(crate) loses_answers: u32,
    pub(crate) late_answers: Duration,
    pub(crate) late_effects: (u32, Duration),
    pub(crate) conflicts: u32,
    pub(crate) stale_reads: u32,
    pub(crate) unavailable: u32,
    pub(crate) unknown_health: u32,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) born: Instant,
    /// Newest first.
    pub(crate) releases: Vec<(Release, Quality)>,
    pub(crate) identity: Identity,
    pub(crate) gone: bool,
    pub(crate) places: BTreeMap<PartId, Place>,
    pub(crate) in_flight: Option<(Option<ReleaseId>, Option<ReleaseId>, Landing)>,
    pub(crate) version: u64,
    pub(crate) highest_epoch: u64,
    pub(crate) trace: Option<Trace>,
    pub(crate) effects: Vec<FakeEffect>,
    /// Keys in the order in which they came, with the version each made.
    pub(crate) keys: Vec<(String, u64)>,
    /// Who wrote last: a key, or somebody.
    pub(crate) last_writer: Option<Result<String, String>>,
    pub(crate) pieces_done: Option<(String, u64, u64)>,
    pub(crate) fakes: Fakes,
    pub(crate) script: Vec<(Moment, Action)>,
    pub(crate) reads: usize,
    pub(crate) steps: usize,
    /// How the last versions looked, newest first, for stale reads.
    pub(crate) before: VecDeque<(Instant, Observation)>,
    pub(crate) stale_left: u32,
    /// Writes that are on their way.
    pub(crate) late: Vec<(Instant, Write)>,
    /// What happened, with when, in the world's own order.
    pub(crate) log: Vec<(Duration, Happened)>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            releases: vec![],
            identity: Identity::new("fake", "uid-1"),
            gone: false,
            places: BTreeMap::new(),
            in_flight: None,
            version: 1,
            highest_epoch: 0,
            trace: None,
            effects: vec![],
            keys: vec![],
            last_writer: None,
            pieces_done: None,
            fakes: Fakes {
                parts: FakeParts::One,
                renumbers: false,
                holds_trace: true,
                knows_keys: true,
                can_tell: true,
                needs_approval: None,
                fenced: true,
                enforces_epoch: false,
                settles_after: Duration::ZERO,
                never_settles: None,
                pieces: None,
                identity_changes: false,
                aborts: false,
                loses_answers: 0,
                late_answers: Duration::ZERO,
                late_effects: (0, Duration::ZERO),
                conflicts: 0,
                stale_reads: 0,
                unavailable: 0,
                unknown_health: 0,
            },
            script: vec![],
            reads: 0,
            steps: 0,
            before: VecDeque::new(),
            stale_left: 0,
            late: vec![],
            log: vec![],
        }
    }

    pub(crate) fn note(&mut self, happened: Happened) {
        let at = Instant::now().duration_since(self.born);
        self.log.push((at, happened));
    }

    pub(crate) fn quality(&self, release: &ReleaseId) -> Option<Quality> {
        self.releases.iter().find(|(r, _)| r.id == *release).map(|(_, quality)| *quality)
    }

    /// Lets everything happen that is due: writes on their way, what was scripted for a time.
    pub(crate) fn catch_up(&mut self) {
        let now = Instant::now();
        loop {
            let due = self.late.iter().enumerate().filter(|(_, (at, _))| *at <= now).min_by_key(|(_, (at, _))| *at);
            let Some(i) = due.map(|(i, _)| i) else { break };
            let (_, write) = self.late.remove(i);
            // Nobody waits for this answer any more.
            let _ = self.land(&write);
        }
        let age = now.duration_since(self.born);
        self.run_script(|moment| matches!(moment, Moment::After(time) if time <= age));
    }

    pub(crate) fn run_script(&mut self, due: impl Fn(Moment) -> bool) {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.script).into_iter().partition(|(m, _)| due(*m));
        self.script = later;
        for (_, action) in now {
            self.act(&action);
        }
    }

    /// Somebody else does something.
    pub(crate) fn act(&mut self, action: &Action) {
        if !matches!(action, Action::Collect(_) | Action::Ail(..)) {
            self.remember();
        }
        let now = Instant::now();
        match action {
            Action::Deploy(release) => {
                let quality = self.quality(release).unwrap_or(Quality::Good);
                self.releases.retain(|(r, _)| r.id != *release);
                let mut made = Release::new(release);
                made.made_at = self.next_made_at();
                self.releases.insert(0, (made, quality));
                self.in_flight = None;
                if self.fakes.parts == FakeParts::PerRelease {
                    for place in self.places.values_mut() {
                        place.weight = Some(Weight::NONE);
                    }
                    let place = Place::new(Running::Release(release.clone()), Some(Weight::ALL), None);
                    self.places.insert(PartId::new(release.as_str()), place);
                } else if let Some(place) = self.main_place() {
                    place.begin(now, Settles::At(now));
                    place.wanted = Some(release.clone());
                    place.is = Running::Release(release.clone());
                }
                self.last_writer = Some(Err(release.to_string()));
            }
            Action::Edit => {
                let fingerprint = format!("edit-{}", self.version);
                if let Some(place) = self.main_place() {
                    place.begin(now, Settles::At(now));
                    place.wanted = None;
                    place.is = Running::Unknown { fingerprint, named: Some("edited by hand".into()) };
                }
                self.last_writer = Some(Err("a hand edit".into()));
            }
            Action::Recreate => {
                self.identity.object = Some(format!("uid-{}", self.version + 1));
                self.trace = None;
                self.keys.clear();
                self.last_writer = Some(Err("whoever made it anew".into()));
            }
            Action::Collect(release) => {
                for (r, _) in &mut self.releases {
                    if r.id == *release {
                        r.available = false;
                    }
                }
            }
            Action::Vanish => self.gone = true,
            Action::Ail(part, ready, time) => {
                if let Some(place) = self.places.get_mut(part) {
                    place.ails = Some((*ready, now + *time));
                }
            }
        }
        // A release that is collected, or an instance that dies, does not change the object itself.
        if !matches!(action, Action::Collect(_) | Action::Ail(..)) {
            self.version += 1;
        }
        let scene = self.scene();
        self.note(Happened::Else(action.clone(), scene));
    }

    pub(crate) fn scene(&self) -> Scene {
        let now = Instant::now();
        let parts = self.places.iter().map(|(id, place)| (id.clone(), place.state(now))).collect();
        Scene { version: self.version, identity: self.identity.clone(), parts }
    }

    fn next_made_at(&self) -> Option<Timestamp> {
        let newest = self.releases.iter().filter_map(|(r, _)| r.made_at).max().unwrap_or_default();
        Some(newest.after(Duration::from_secs(3600)))
    }

    pub(crate) fn add(&mut self, release: Release, quality: Quality) {
        let mut release = release;
        if release.made_at.is_none() {
            release.made_at = self.next_made_at();
        }
        self.releases.insert(0, (release, quality));
    }

    /// The part with the most traffic.
    fn main_place(&mut self) -> Option<&mut Place> {
        self.places.values_mut().max_by_key(|place| (place.weight, place.capacity))
    }

    fn remember(&mut self) {
        let seen = self.observation();
        self.before.push_front((Instant::now(), seen));
        self.before.truncate(4);
        self.stale_left = self.fakes.stale_reads;
    }

    /// As it is, without marks.
    pub(crate) fn observation(&self) -> Observation {
        let now = Instant::now();
        let token = match Payload::of(&Version(self.version)) {
            Ok(version) if self.fakes.fenced => Token(Some(version)),
            _ => Token::none(),
        };
        let parts = self.places.iter().map(|(id, place)| (id.clone(), place.state(now)));
        let mut seen = Observation::new(self.identity.clone(), parts, token)
            .with_trace(self.trace.clone().filter(|_| self.fakes.holds_trace));
        if let Some((from, to, landing)) = &self.in_flight
            && let Ok(handle) = Payload::of(&Called("d-1".into()))
        {
            seen = seen.with_in_flight(
                crate::InFlight::new(handle).with_releases(from.clone(), to.clone()).with_abort(landing.clone()),
            );
        }
        if let Some((_, done, of)) = &self.pieces_done {
            seen = seen.with_progress(*done, *of);
        }
        seen
    }

    /// What became of the write with this key.
    pub(crate) fn ours(&self, key: &str) -> Ours {
        if !self.fakes.can_tell {
            return Ours::CannotTell;
        }
        if !self.keys.iter().any(|(k, _)| k == key) {
            return Ours::CannotTell;
        }
        match &self.last_writer {
            Some(Ok(last)) if last == key => {
                let now = Instant::now();
                let all = self.places.values().all(|place| place.state(now).settled == Settled::Yes);
                if all { Ours::Complete } else { Ours::Current }
            }
            Some(Ok(other) | Err(other)) => Ours::Replaced { by: other.clone() },
            None => Ours::CannotTell,
        }
    }

    /// A write arrives.
    pub(crate) fn land(&mut self, write: &Write) -> Result<Landed> {
        let before = self.scene();
        let result = self.try_land(write);
        let (run, key, epoch) = (write.run.clone(), write.key.clone(), write.epoch);
        match &result {
            Ok(landed) => {
                let (landed, after) = (*landed, self.scene());
                self.note(Happened::Wrote { run, key, epoch, landed, before, after });
            }
            Err(error) => self.note(Happened::Refused { run, key, epoch, kind: error.kind() }),
        }
        result
    }

    fn try_land(&mut self, write: &Write) -> Result<Landed> {
        let refuse = |kind, why: String| Err(Error::new(kind, "write").with_message(why).without_effect());
        if self.gone {
            return refuse(Kind::NotFound, "the target is gone".into());
        }
        let unfinished = self.pieces_done.as_ref().is_some_and(|(key, ..)| *key == write.key);
        if self.fakes.knows_keys && !unfinished && self.keys.iter().any(|(key, _)| *key == write.key) {
            return Ok(Landed::Seen);
        }
        if self.fakes.enforces_epoch && write.epoch < self.highest_epoch {
            return refuse(Kind::Conflict, format!("epoch {} is over, this is {}", write.epoch, self.highest_epoch));
        }
        if self.fakes.fenced && write.version != Some(self.version) {
            return refuse(Kind::Conflict, "it changed since it was read".into());
        }
        let changed = match &write.approved.change {
            Change::Reach(shape) => self.reach(shape, write)?,
            Change::Abort { expect, never } => self.abort(expect, never)?,
            Change::Halt => {
                let was = self.in_flight.is_some();
                if was {
                    self.remember();
                    self.in_flight = None;
                    let now = Instant::now();
                    self.places.values_mut().for_each(|place| place.halt(now));
                }
                was
            }
            Change::Verb { .. } => {
                self.remember();
                true
            }
        };
        self.highest_epoch = self.highest_epoch.max(write.epoch);
        if !changed {
            return Ok(Landed::Nothing);
        }
        self.version += 1;
        if !self.keys.iter().any(|(key, _)| *key == write.key) {
            self.keys.push((write.key.clone(), self.version));
        }
        if !unfinished {
            let (key, epoch, change) = (write.key.clone(), write.epoch, write.approved.change.clone());
            self.effects.push(FakeEffect { key, epoch, change });
        }
        self.last_writer = Some(Ok(write.key.clone()));
        if self.fakes.holds_trace && write.trace.is_some() {
            self.trace.clone_from(&write.trace);
        }
        Ok(Landed::Changed)
    }

    fn settles(&self, now: Instant) -> Settles {
        match &self.fakes.never_settles {
            Some(why) => Settles::Never(why.clone()),
            None => Settles::At(now + self.fakes.settles_after),
        }
    }

    fn reach(&mut self, shape: &Shape, write: &Write) -> Result<bool> {
        self.check(shape, false)?;
        let differs = |place: Option<&Place>, wish: &Wish| match place {
            None => {
                wish.release.is_some()
                    || wish.weight.is_some_and(|w| w != Weight::NONE)
                    || wish.capacity.is_some_and(|c| c.count() > 0)
            }
            Some(place) => {
                wish.release.is_some() && (place.wanted != wish.release || place.settles == Settles::Waits)
                    || wish.weight.is_some() && place.weight != wish.weight
                    || wish.capacity.is_some_and(|c| reached(place.capacity, c) != place.capacity)
            }
        };
        let unfinished = self.pieces_done.as_ref().is_some_and(|(key, ..)| *key == write.key);
        let wishes: Vec<(PartId, Wish)> = shape.0.iter().map(|(id, wish)| (id.clone(), wish.clone())).collect();
        if !unfinished && !wishes.iter().any(|(id, wish)| differs(self.places.get(id), wish)) {
            return Ok(false);
        }
        self.check_weights(shape)?;
        self.remember();
        let now = Instant::now();
        let settles = self.settles(now);
        let long = self.fakes.pieces.zip(write.pieces).map(|(of, done)| (done.min(of), of));
        for (id, wish) in &wishes {
            if !differs(self.places.get(id), wish) && !unfinished {
                continue;
            }
            let starts_empty = self.starting_weight();
            let place = self
                .places
                .entry(id.clone())
                .or_insert_with(|| Place::new(Running::Nothing, starts_empty, wish.capacity.map(Capacity::count)));
            if wish.weight.is_some() {
                place.weight = wish.weight;
            }
            if wish.release.is_none() && wish.capacity.is_none() {
                continue;
            }
            let settles = match long {
                Some((done, of)) if done < of && wish.release.is_some() => Settles::Waits,
                _ => settles.clone(),
            };
            let waits = settles == Settles::Waits;
            place.begin(now, settles);
            if let Some(capacity) = wish.capacity {
                place.capacity = reached(place.capacity, capacity);
            }
            if let Some(release) = &wish.release {
                place.wanted = Some(release.clone());
                place.is = Running::Release(release.clone());
                if waits && let Some((done, of)) = long {
                    let from = match &place.was {
                        Running::Between { from, .. } | Running::Release(from) => from.clone(),
                        _ => release.clone(),
                    };
                    let state = format!("{done} of {of} pieces");
                    place.was = Running::Between { from, to: release.clone(), state };
                }
            }
        }
        if let Some((done, of)) = long {
            self.pieces_done = (done < of).then(|| (write.key.clone(), done, of));
        }
        if self.fakes.renumbers {
            for release in wishes.iter().filter_map(|(_, wish)| wish.release.as_ref()) {
                if let Some(i) = self.releases.iter().position(|(r, _)| r.id == *release) {
                    let back = self.releases.remove(i);
                    self.releases.insert(0, back);
                }
            }
        }
        let releases = wishes.iter().any(|(_, wish)| wish.release.is_some());
        if releases {
            self.in_flight = None;
        }
        if self.fakes.identity_changes && releases && self.pieces_done.is_none() {
            self.identity.object = Some(format!("uid-{}", self.version + 1));
        }
        Ok(true)
    }

    fn starting_weight(&self) -> Option<Weight> {
        match self.fakes.parts {
            FakeParts::One | FakeParts::ByCapacity => None,
            _ => Some(Weight::NONE),
        }
    }

    /// Can these wishes be asked for at all? `ahead`: a step before it may make the part.
    pub(crate) fn check(&self, shape: &Shape, ahead: bool) -> Result<()> {
        let refuse =
            |kind, why: String| Err(Error::new(kind, "make the change ready").with_message(why).without_effect());
        for (id, wish) in &shape.0 {
            let makes_parts = self.fakes.parts == FakeParts::Made && (ahead || wish.release.is_some());
            if !self.places.contains_key(id) && !makes_parts {
                let known: Vec<_> = self.places.keys().map(PartId::as_str).collect();
                return refuse(Kind::NotFound, format!("there is no part {id}; there is {}", known.join(", ")));
            }
            if let Some(release) = &wish.release {
                match self.releases.iter().find(|(r, _)| r.id == *release) {
                    None => return refuse(Kind::NotFound, format!("there is no release {release}")),
                    Some((r, _)) if !r.available => {
                        return refuse(Kind::NotFound, format!("release {release} is gone: build it again"));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    fn check_weights(&self, shape: &Shape) -> Result<()> {
        if !shape.0.values().any(|wish| wish.weight.is_some()) {
            return Ok(());
        }
        let mut weights: BTreeMap<&PartId, Weight> =
            self.places.iter().filter_map(|(id, place)| Some((id, place.weight?))).collect();
        weights.extend(shape.0.iter().filter_map(|(id, wish)| Some((id, wish.weight?))));
        let all: u32 = weights.values().map(|w| u32::from(w.points())).sum();
        if all == u32::from(Weight::ALL.points()) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, "write the weights")
            .with_message(format!("they make {all} basis points, not 10000"))
            .without_effect())
    }

    fn abort(&mut self, expect: &Landing, never: &ReleaseId) -> Result<bool> {
        let refuse = |why: String| Err(Error::new(Kind::Conflict, "abort").with_message(why).without_effect());
        let Some((from, _, landing)) = self.in_flight.clone() else { return Ok(false) };
        if landing != *expect {
            return refuse(format!("it would land on {landing}, not on {expect}"));
        }
        let lands = match &landing {
            Landing::On(release) => Some(release.clone()),
            Landing::Unsaid => from,
        };
        if lands.as_ref() == Some(never) {
            return refuse(format!("it would land on {never}"));
        }
        self.remember();
        self.in_flight = None;
        let now = Instant::now();
        let settles = self.settles(now);
        if let (Some(place), Some(release)) = (self.main_place(), lands) {
            place.begin(now, settles);
            place.wanted = Some(release.clone());
            place.is = Running::Release(release);
        }
        Ok(true)
    }

    /// What clients get: `None` where nothing serves.
    pub(crate) fn healthy(&self, part: Option<&PartId>) -> Option<bool> {
        let now = Instant::now();
        let mut any = false;
        for (id, place) in &self.places {
            let state = place.state(now);
            let asked = part.map_or_else(|| state.serves(), |p| p == id);
            if !asked {
                continue;
            }
            let enough = state.ready != Some(0);
            let releases = state.running.mentions();
            let good = !releases.is_empty()
                && matches!(state.running, Running::Release(_) | Running::Mixed(_))
                && releases.iter().all(|r| self.quality(r) == Some(Quality::Good));
            if !(enough && good) {
                return Some(false);
            }
            any = true;
        }
        any.then_some(true)
    }

    pub(crate) fn kinds(&self) -> Vec<ChangeKind> {
        let mut kinds = match self.fakes.parts {
            FakeParts::One => vec![ChangeKind::Release],
            FakeParts::PerRelease => vec![ChangeKind::Traffic],
            FakeParts::ByCapacity => vec![ChangeKind::Release, ChangeKind::Capacity],
            FakeParts::BlueGreen | FakeParts::CanaryPair | FakeParts::Made => {
                vec![ChangeKind::Release, ChangeKind::Traffic, ChangeKind::Capacity]
            }
        };
        if self.fakes.aborts {
            kinds.extend([ChangeKind::Abort, ChangeKind::Halt]);
        }
        kinds
    }
}

fn reached(has: Option<u32>, wish: Capacity) -> Option<u32> {
    match (has, wish) {
        (Some(has), Capacity::AtLeast(n)) if has >= n => Some(has),
        (_, wish) => Some(wish.count()),
    }
}
