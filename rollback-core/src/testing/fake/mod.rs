//! An in-memory platform with scripted faults, for unit tests of whatever rolls something back.
//!
//! Not here: chance. What goes wrong is said beforehand; faults by chance are the simulator's.

mod health;
#[cfg(test)]
mod tests;
mod world;

pub use health::FakeHealth;
pub use world::{
    Effects, FakeEffect, FakeParts, Moment,
    Quality::{self, Bad, Good},
};

use crate::{
    Applied, Approved, Capabilities, Change, ChangeKind, DiffLine, Error, Extent, Fencing, Kind, Landing, Look,
    Observation, OnUnknown, Ours, Pacing, PartId, Parts, Payload, Prepared, Release, ReleaseId, Result, Running,
    Target, TargetId, Token, Weight, Weights, Work,
};
use async_trait::async_trait;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
pub(crate) use world::{Action, Happened, Landed, Scene, Version, World, Write};
use world::{Called, Pieces, Place};

/// An in-memory platform with scripted faults. A clone shares its world, so that a test can look at what its subject did.
///
/// Time is tokio's: under a paused clock nothing waits really.
///
/// ```
/// use rollback_core::{Look, Target, testing::*};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> rollback_core::Result<()> {
/// let platform = FakePlatform::new().release("1", Good).release("2", Bad).live("2").someone_deploys("3", BeforeStep(1));
/// assert!(platform.is_live("2") && !platform.healthy());
/// assert_eq!(platform.history(10).await?[0].id, "2");
/// assert_eq!(platform.observe(Look::full()).await?.parts.len(), 1);
/// assert_eq!(platform.effects(), []);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FakePlatform {
    id: TargetId,
    capabilities: Arc<Mutex<Capabilities>>,
    world: Arc<Mutex<World>>,
}

impl Default for FakePlatform {
    fn default() -> Self {
        Self::new()
    }
}

/// Making one, in the order of time: releases from old to new, then what runs, then what goes wrong.
impl FakePlatform {
    /// A platform with nothing on it, called `fake:app`, another object than any made before: what a rollback of one left
    /// in the spool says nothing of the next.
    pub fn new() -> Self {
        Self {
            id: "fake:app".into(),
            capabilities: Arc::new(Mutex::new(Capabilities::new(Fencing::Token))),
            world: Arc::new(Mutex::new(World::new())),
        }
        .with_object(format!("uid-{:016x}", fastrand::u64(..)))
    }
    /// With this id of the object. Default: one by chance.
    pub fn with_object(self, object: impl Into<String>) -> Self {
        let object = object.into();
        self.with(|world| world.identity = crate::Identity::new("fake", object))
    }
    /// Under another id.
    pub fn called(mut self, id: impl Into<TargetId>) -> Self {
        self.id = id.into();
        self
    }
    /// One more release, the newest so far.
    pub fn release(self, id: impl Into<ReleaseId>, quality: Quality) -> Self {
        self.releases(Release::new(id), quality)
    }
    /// One more release, the newest so far, as it stands in history.
    pub fn releases(self, release: Release, quality: Quality) -> Self {
        self.with(|world| world.add(release, quality))
    }
    /// This release has all the traffic: on `all`, `green`, `stable`, or on its own part. The other place is empty.
    pub fn live(self, release: impl Into<ReleaseId>) -> Self {
        let release = release.into();
        self.with(|world| {
            let runs = Running::Release(release.clone());
            let places: Vec<(&str, Running, Option<Weight>, Option<u32>)> = match world.fakes.parts {
                FakeParts::One => vec![("all", runs, None, None)],
                FakeParts::BlueGreen => vec![
                    ("blue", Running::Nothing, Some(Weight::NONE), Some(0)),
                    ("green", runs, Some(Weight::ALL), Some(3)),
                ],
                FakeParts::CanaryPair => vec![
                    ("canary", Running::Nothing, Some(Weight::NONE), Some(0)),
                    ("stable", runs, Some(Weight::ALL), Some(4)),
                ],
                FakeParts::ByCapacity => {
                    vec![("canary", Running::Nothing, None, Some(0)), ("stable", runs, None, Some(4))]
                }
                FakeParts::Made => vec![("first", runs, Some(Weight::ALL), Some(3))],
                FakeParts::PerRelease => vec![],
            };
            world.places =
                places.into_iter().map(|(id, runs, w, n)| (PartId::from(id), Place::new(runs, w, n))).collect();
            if world.fakes.parts == FakeParts::PerRelease {
                for (r, _) in &world.releases {
                    let weight = if r.id == release { Weight::ALL } else { Weight::NONE };
                    let place = Place::new(Running::Release(r.id.clone()), Some(weight), None);
                    world.places.insert(PartId::new(r.id.as_str()), place);
                }
            }
        })
    }
    /// How it is divided. Before [`live`](FakePlatform::live).
    pub fn parts(self, parts: FakeParts) -> Self {
        self.with(|world| world.fakes.parts = parts)
    }
    /// What one part runs, with how much traffic and how many instances. After [`live`](FakePlatform::live).
    pub fn on(
        self,
        part: impl Into<PartId>,
        release: impl Into<ReleaseId>,
        weight: Option<Weight>,
        capacity: Option<u32>,
    ) -> Self {
        let place = Place::new(Running::Release(release.into()), weight, capacity);
        self.with(|world| {
            world.places.insert(part.into(), place);
        })
    }
    /// A deployment is under way; aborted, it would land there. It can be aborted and halted.
    pub fn in_flight(self, from: impl Into<ReleaseId>, to: impl Into<ReleaseId>, landing: Landing) -> Self {
        let (from, to) = (from.into(), to.into());
        self.with(|world| {
            world.fakes.aborts = true;
            let capacity = world.places.values().find_map(|p| p.capacity);
            for place in world.places.values_mut() {
                *place =
                    Place::new(Running::Mixed([(from.clone(), 1), (to.clone(), 1)].into()), place.weight, capacity);
                place.wanted = Some(to.clone());
                place.wait();
            }
            world.in_flight = Some((Some(from), Some(to), landing));
        })
    }

    /// Somebody deploys this release, on the part with the most traffic. Good, unless it was named before.
    pub fn someone_deploys(self, release: impl Into<ReleaseId>, when: Moment) -> Self {
        self.script(when, Action::Deploy(release.into()))
    }
    /// Somebody edits by hand what runs: history does not know it.
    pub fn someone_edits(self, when: Moment) -> Self {
        self.script(when, Action::Edit)
    }
    /// The object is deleted and made anew under the same name.
    pub fn recreated(self, when: Moment) -> Self {
        self.script(when, Action::Recreate)
    }
    /// What a release is made of is garbage-collected.
    pub fn collected(self, release: impl Into<ReleaseId>, when: Moment) -> Self {
        self.script(when, Action::Collect(release.into()))
    }
    /// The object is deleted.
    pub fn vanishes(self, when: Moment) -> Self {
        self.script(when, Action::Vanish)
    }

    /// What is gone back to becomes the newest in history, as on Kubernetes.
    pub fn renumbers(self) -> Self {
        self.with(|world| world.fakes.renumbers = true)
    }
    /// Can it hold the trace of a rollback? Default: yes.
    pub fn holds_trace(self, holds: bool) -> Self {
        self.with(|world| world.fakes.holds_trace = holds)
    }
    /// Does it recognise a write by its key? Default: yes.
    pub fn knows_keys(self, knows: bool) -> Self {
        self.with(|world| world.fakes.knows_keys = knows)
    }
    /// Can it say whose the last write was? Default: yes.
    pub fn can_tell(self, can: bool) -> Self {
        self.with(|world| world.fakes.can_tell = can)
    }
    /// Every change needs an approval, for this reason.
    pub fn needs_approval(self, why: impl Into<String>) -> Self {
        self.with(|world| world.fakes.needs_approval = Some(why.into()))
    }
    /// The next n writes happen, and their answers are lost.
    pub fn loses_answers(self, n: u32) -> Self {
        self.with(|world| world.fakes.loses_answers = n)
    }
    /// Writes happen at once, and are answered so much later.
    pub fn late_answers(self, after: Duration) -> Self {
        self.with(|world| world.fakes.late_answers = after)
    }
    /// The next n writes fail at once, and happen so much later all the same.
    pub fn late_effects(self, n: u32, after: Duration) -> Self {
        self.with(|world| world.fakes.late_effects = (n, after))
    }
    /// The next n writes are refused as if somebody had been there first.
    pub fn conflicts(self, n: u32) -> Self {
        self.with(|world| world.fakes.conflicts = n)
    }
    /// After each write, the next n reads still show how it was before.
    pub fn stale_reads(self, n: u32) -> Self {
        self.with(|world| world.fakes.stale_reads = n)
    }
    /// The next n calls are not answered, and have no effect.
    pub fn unavailable(self, n: u32) -> Self {
        self.with(|world| world.fakes.unavailable = n)
    }
    /// The next n health checks find nothing out.
    pub fn unknown_health(self, n: u32) -> Self {
        self.with(|world| world.fakes.unknown_health = n)
    }
    /// What keeps other writes out. Default: the token.
    pub fn fencing(self, fencing: Fencing) -> Self {
        self.with(|world| {
            world.fakes.fenced = fencing >= Fencing::Token;
            world.fakes.enforces_epoch = fencing == Fencing::Enforced;
        })
        .declares(|c| c.fencing = fencing)
    }
    /// How an unknown outcome is settled, for every kind of change. Default: send it again.
    pub fn on_unknown(self, how: OnUnknown) -> Self {
        self.declares(|c| c.changes.values_mut().for_each(|on_unknown| *on_unknown = how))
    }
    /// What was written runs so much later. Default: at once.
    pub fn settles_after(self, time: Duration) -> Self {
        self.with(|world| world.fakes.settles_after = time)
    }
    /// What is written never comes to run, for this reason.
    pub fn never_settles(self, why: impl Into<String>) -> Self {
        self.with(|world| world.fakes.never_settles = Some(why.into()))
    }
    /// The platform carries out what it was told by itself.
    pub fn paces_itself(self) -> Self {
        self.declares(|c| c.pacing = Pacing::Platform)
    }
    /// Going back loses something.
    pub fn irreversible(self) -> Self {
        self.declares(|c| c.reversible = false)
    }
    /// A write that changes a release is made of n pieces, one a call, with a checkpoint after each.
    pub fn partial(self, n: u64) -> Self {
        self.with(|world| world.fakes.pieces = Some(n.max(1)))
    }
    /// A write that changes a release makes a new object, as restoring a database does.
    pub fn identity_changes(self) -> Self {
        self.with(|world| world.fakes.identity_changes = true)
    }

    fn with(self, change: impl FnOnce(&mut World)) -> Self {
        {
            let mut world = self.world();
            change(&mut world);
            // What is set up is how it always was.
            world.before.clear();
            let mut capabilities = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
            let how = capabilities.changes.values().next().copied().unwrap_or(OnUnknown::Again);
            capabilities.changes = world.kinds().into_iter().map(|kind| (kind, how)).collect();
            (capabilities.parts, capabilities.weights) = match world.fakes.parts {
                FakeParts::One => (Parts::One, Weights::None),
                FakeParts::BlueGreen => (Parts::Places, Weights::Switch),
                FakeParts::CanaryPair => (Parts::Places, Weights::Exact { grain: 100, at_once: 2 }),
                FakeParts::ByCapacity => (Parts::Places, Weights::ByCapacity),
                FakeParts::PerRelease => (Parts::PerRelease, Weights::Exact { grain: 1, at_once: 2 }),
                FakeParts::Made => (Parts::Made, Weights::Exact { grain: 100, at_once: 2 }),
            };
        }
        self
    }
    fn declares(self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities.lock().unwrap_or_else(PoisonError::into_inner));
        self
    }
    fn script(self, when: Moment, action: Action) -> Self {
        self.with(|world| world.script.push((when, action)))
    }
}

/// Looking at it, and doing something to it midway.
impl FakePlatform {
    /// The writes of runs that changed it, in order. What others did is not in here.
    pub fn effects(&self) -> Effects {
        let mut world = self.world();
        world.catch_up();
        Effects(world.effects.clone())
    }
    /// This release and no other has the traffic.
    pub fn is_live(&self, release: impl Into<ReleaseId>) -> bool {
        let release = release.into();
        let mut world = self.world();
        world.catch_up();
        let seen = world.observation();
        let mut serving = seen.serving().peekable();
        serving.peek().is_some() && serving.all(|(_, part)| part.runs(&release))
    }
    /// Every client gets an answer.
    pub fn healthy(&self) -> bool {
        let mut world = self.world();
        world.catch_up();
        world.healthy(None) == Some(true)
    }
    /// A health check that says what clients get.
    pub fn health(&self) -> FakeHealth {
        FakeHealth::new(self.clone())
    }
    /// Somebody deploys this release now.
    pub fn deploy(&self, release: impl Into<ReleaseId>) {
        self.world().act(&Action::Deploy(release.into()));
    }
    /// Somebody edits it by hand now.
    pub fn edit(&self) {
        self.world().act(&Action::Edit);
    }
    /// The object is deleted now.
    pub fn vanish(&self) {
        self.world().act(&Action::Vanish);
    }
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn answers(&self, world: &mut World, operation: &str) -> Result<()> {
        if world.fakes.unavailable > 0 {
            world.fakes.unavailable -= 1;
            return Err(Error::new(Kind::Unavailable, operation)
                .with_message("the fake platform was told not to answer")
                .with_target(&self.id)
                .without_effect());
        }
        if world.gone {
            return Err(Error::new(Kind::NotFound, operation)
                .with_message("the target is gone")
                .with_target(&self.id)
                .without_effect());
        }
        Ok(())
    }
    /// One read, for `observe`.
    fn read(&self, look: &Look) -> Result<Observation> {
        let mut world = self.world();
        world.catch_up();
        world.reads += 1;
        let reads = world.reads;
        world.run_script(|moment| matches!(moment, Moment::BeforeRead(n) if n <= reads));
        self.answers(&mut world, "read the fake platform")?;
        let stale = world.stale_left > 0;
        if stale {
            world.stale_left -= 1;
            if let Some((_, before)) = world.before.front() {
                return Ok(before.clone().with_ours(ours_when_stale(look)));
            }
        }
        let ours = look.mark.as_ref().map_or(Ours::NotAsked, |mark| world.ours(&mark.key));
        Ok(world.observation().with_ours(ours))
    }
    /// A write on its way.
    pub(crate) async fn write_of(&self, approved: &Approved, token: &Token, work: &Work) -> Result<Write> {
        let long = self.long(approved);
        let done = match long {
            Some(_) => Some(work.last_checkpoint::<Pieces>().await?.map_or(0, |at| at.0) + 1),
            None => None,
        };
        let version = token.0.as_ref().map(Payload::read::<Version>).transpose()?.map(|v| v.0);
        Ok(Write {
            run: work.run().clone(),
            key: work.key(),
            epoch: work.epoch(),
            trace: work.trace().cloned(),
            approved: approved.clone(),
            version,
            pieces: done,
        })
    }
    fn long(&self, approved: &Approved) -> Option<u64> {
        self.world().fakes.pieces.filter(|_| approved.change.kinds().contains(&ChangeKind::Release))
    }
    /// One write arrives: what it answers, and how much later.
    fn write(&self, write: &Write) -> (Result<Applied>, Duration) {
        let mut world = self.world();
        world.catch_up();
        world.steps += 1;
        let step = world.steps;
        world.run_script(|moment| matches!(moment, Moment::BeforeStep(n) if n <= step));
        let answer = self.arrive(&mut world, write);
        world.run_script(|moment| matches!(moment, Moment::AfterStep(n) if n <= step));
        (answer, world.fakes.late_answers)
    }
    fn arrive(&self, world: &mut World, write: &Write) -> Result<Applied> {
        self.answers(world, "write to the fake platform")?;
        let lost = || {
            Error::new(Kind::Unavailable, "write to the fake platform")
                .with_message("the answer was lost, as the fake platform was told")
                .with_target(&self.id)
        };
        if world.fakes.conflicts > 0 {
            world.fakes.conflicts -= 1;
            return Err(Error::new(Kind::Conflict, "write to the fake platform")
                .with_message("the fake platform was told to refuse")
                .with_target(&self.id)
                .without_effect());
        }
        if world.fakes.late_effects.0 > 0 {
            world.fakes.late_effects.0 -= 1;
            let at = Instant::now() + world.fakes.late_effects.1;
            world.late.push((at, write.clone()));
            return Err(lost());
        }
        let landed = world.land(write).map_err(|e| Error::from(e.into_fault()).with_target(&self.id))?;
        if world.fakes.loses_answers > 0 {
            world.fakes.loses_answers -= 1;
            return Err(lost());
        }
        let extent = match (&world.pieces_done, self.paces()) {
            (Some((key, done, of)), _) if *key == write.key => {
                Extent::Partial { done: *done, of: *of, reasons: [("not yet".to_string(), of - done)].into() }
            }
            (_, Pacing::Platform) => Extent::Submitted,
            (_, Pacing::Us) if landed == Landed::Changed && !world.fakes.settles_after.is_zero() => Extent::Submitted,
            _ => Extent::Done,
        };
        // What is done needs no name to ask for it by.
        let under_way = extent != Extent::Done;
        let mut applied = Applied::new(extent);
        if under_way {
            applied = applied.with_handle(Payload::of(&Called(write.key.clone()))?);
        }
        if world.fakes.identity_changes && write.approved.change.kinds().contains(&ChangeKind::Release) {
            applied = applied.with_new_identity(world.identity.clone());
        }
        Ok(applied)
    }
    fn paces(&self) -> Pacing {
        self.capabilities.lock().unwrap_or_else(PoisonError::into_inner).pacing
    }
}

#[async_trait]
impl Target for FakePlatform {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        let keeps_trace = self.world().fakes.holds_trace;
        let capabilities = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Capabilities { keeps_trace, ..capabilities }
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        // A real platform takes at least one turn of the runtime.
        tokio::task::yield_now().await;
        self.read(&look)
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        tokio::task::yield_now().await;
        let mut world = self.world();
        world.catch_up();
        self.answers(&mut world, "read the history of the fake platform")?;
        Ok(world.releases.iter().take(limit).map(|(release, _)| release.clone()).collect())
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        tokio::task::yield_now().await;
        let supported = self.capabilities().supports(change);
        let mut world = self.world();
        world.catch_up();
        self.answers(&mut world, "make the change ready")?;
        if !supported {
            return Err(Error::new(Kind::Unsupported, "make the change ready")
                .with_message("the fake platform was not set up for such a change")
                .with_target(&self.id)
                .without_effect());
        }
        let mut diff = vec![];
        if let Change::Reach(shape) = change {
            world.check(shape, true).map_err(|e| e.with_target(&self.id))?;
            let seen = world.observation();
            for (id, wish) in &shape.0 {
                let part = seen.parts.get(id);
                if let Some(release) = &wish.release {
                    let from = part.map_or(Running::Nothing, |p| p.running.clone());
                    diff.push(DiffLine::new(format!("{id}: release"), from.to_string(), release.as_str()));
                }
                if let Some(weight) = wish.weight {
                    let from = part.and_then(|p| p.weight).unwrap_or_default();
                    diff.push(DiffLine::new(format!("{id}: traffic"), from.to_string(), weight.to_string()));
                }
                if let Some(capacity) = wish.capacity {
                    let from = part.and_then(|p| p.capacity).unwrap_or_default();
                    diff.push(DiffLine::new(
                        format!("{id}: instances"),
                        from.to_string(),
                        capacity.count().to_string(),
                    ));
                }
            }
        } else {
            diff.push(DiffLine { what: "in flight".into(), from: Some("under way".into()), to: None });
        }
        let prepared = Prepared::new(change).with_diff(diff);
        Ok(match &world.fakes.needs_approval {
            Some(why) => prepared.with_needs_approval(why.clone()),
            None => prepared,
        })
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        tokio::task::yield_now().await;
        let long = self.long(approved);
        let write = self.write_of(approved, &token, work).await?;
        let done = write.pieces;
        let (answer, later) = self.write(&write);
        if let (Ok(_), Some(done), Some(of)) = (&answer, done, long) {
            work.checkpoint(&Pieces(done.min(of))).await?;
            work.progress(done.min(of), of);
        }
        if !later.is_zero() {
            tokio::time::sleep(later).await;
        }
        answer
    }
}

/// A read that lags does not show our write yet, if it is young.
pub(crate) fn ours_when_stale(look: &Look) -> Ours {
    match &look.mark {
        None => Ours::NotAsked,
        Some(mark) if mark.age < Duration::from_secs(10) => Ours::Pending,
        Some(_) => Ours::CannotTell,
    }
}
