//! The laws of [`Target`].
//!
//! ```
//! use async_trait::async_trait;
//! use rollback_core::{Change, Result, Target, testing::{*, laws::target::{Bench, all}}};
//! use std::sync::{Arc, Mutex};
//!
//! #[derive(Debug, Default)]
//! struct Fakes(Mutex<FakePlatform>);
//! #[async_trait]
//! impl Bench for Fakes {
//!     async fn fresh(&self) -> Result<Arc<dyn Target>> {
//!         let platform = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
//!         *self.0.lock().unwrap() = platform.clone();
//!         Ok(Arc::new(platform))
//!     }
//!     fn change(&self) -> Change {
//!         Change::release(&"all".into(), &"1".into())
//!     }
//!     async fn someone_deploys(&self) -> Option<Result<()>> {
//!         self.0.lock().unwrap().deploy("3");
//!         Some(Ok(()))
//!     }
//! }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! assert_eq!(all(&Fakes::default()).await, []);
//! # }
//! ```

use super::{Ruling, Violation};
use crate::{
    Applied, Approved, Capacity, Change, ChangeKind, Effect, Extent, Fencing, Identity, Kind, Landing, Look, Mark,
    Observation, Ours, PartId, Parts, ReleaseId, Result, RunId, Running, Settled, Shape, Target, VerbName, Weight,
    Work, journal::MemoryShelf,
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug},
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

type Law = std::result::Result<Ruling, Violation>;
/// The name of a law, and what came of it.
pub type Ruled = (&'static str, std::result::Result<Ruling, Violation>);

/// How the world of a target is made ready for the laws. What it cannot do, it says, and the laws that need it do not apply.
#[async_trait]
pub trait Bench: Debug + Send + Sync {
    /// A new world, with the target in it: some release runs, another one can be gone to. Nothing of an earlier world shows.
    ///
    /// # Errors
    /// When it cannot be made; every law is then violated.
    async fn fresh(&self) -> Result<Arc<dyn Target>>;
    /// A change that a fresh target can make, and that changes something.
    fn change(&self) -> Change;
    /// A change that can follow it, and changes something again.
    fn change_after(&self) -> Option<Change> {
        None
    }
    /// Somebody else deploys a new release now. `None`: cannot be arranged.
    async fn someone_deploys(&self) -> Option<Result<()>> {
        None
    }
    /// The target is deleted now. `None`: cannot be arranged.
    async fn vanish(&self) -> Option<Result<()>> {
        None
    }
    /// How many writes changed the target since it was fresh, counted by the platform. `None`: it does not count.
    fn effects(&self) -> Option<usize> {
        None
    }
    /// How long the platform may take to carry out a change, and to show it. Default: 30 s.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
    /// Time between two looks. Default: 50 ms.
    fn poll(&self) -> Duration {
        Duration::from_millis(50)
    }
}

/// Tries every law and gives those that are broken.
pub async fn all(bench: &dyn Bench) -> Vec<Violation> {
    each(bench).await.into_iter().filter_map(|(_, ruling)| ruling.err()).collect()
}

/// Tries every law and gives what came of each, so that a test can tell kept from not tried.
pub async fn each(bench: &dyn Bench) -> Vec<Ruled> {
    // A law has to wait for the platform a few times; one that takes longer than this hangs.
    let within = bench.patience() * 40;
    let mut ruled = vec![];
    macro_rules! rule {
        ($($law:ident),* $(,)?) => { $(
            let ruling = tokio::time::timeout(within, $law(bench)).await.unwrap_or_else(|_| {
                Err(Violation { law: stringify!($law), why: format!("a call did not end within {within:?}") })
            });
            ruled.push((stringify!($law), ruling));
        )* };
    }
    rule!(
        constant,
        reading_has_no_effect,
        has_parts,
        history_is_bounded,
        quick_agrees,
        stale_token_is_refused,
        lower_epoch_is_refused,
        writes_what_was_approved,
        idempotent,
        one_key_one_effect,
        unknown_release_is_refused,
        unsupported_is_refused,
        digest_is_stable,
        diff_says_something,
        knows_its_own_write,
        knows_anothers_write,
        gone_is_an_error,
        dropping_is_safe,
    );
    ruled
}

/// Its id and its capabilities are the same for the life of the value.
///
/// # Errors
/// The violation.
pub async fn constant(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("constant", bench).await?;
    let before = (trial.target.id().clone(), trial.target.capabilities());
    trial.carry_out(&bench.change(), "1").await?;
    let after = (trial.target.id().clone(), trial.target.capabilities());
    trial.check(before == after, || format!("{before:?} became {after:?} by a change"))
}

/// `observe`, `history` and `prepare` change nothing.
///
/// # Errors
/// The violation.
pub async fn reading_has_no_effect(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("reading_has_no_effect", bench).await?;
    let before = trial.picture().await?;
    trial.ok(trial.target.observe(Look::quick()).await)?;
    trial.ok(trial.target.observe(Look::full().with_mark(Some(Mark::new("law/none")))).await)?;
    trial.ok(trial.target.history(10).await)?;
    trial.ok(trial.target.prepare(&bench.change(), &trial.work("1", 1)).await)?;
    let after = trial.picture().await?;
    trial.check(before == after, || format!("reading and preparing changed\n{before}\ninto\n{after}"))?;
    trial.check(bench.effects().unwrap_or(0) == 0, || "the platform counted a write".into())
}

/// An observation has parts, and says twice the same of which object it is.
///
/// # Errors
/// The violation.
pub async fn has_parts(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("has_parts", bench).await?;
    let (first, second) = (trial.observe().await?, trial.observe().await?);
    trial.check(!first.parts.is_empty(), || "the observation has no part".into())?;
    trial.check(first.identity == second.identity, || format!("{} became {}", first.identity, second.identity))?;
    let says_one = trial.target.capabilities().parts == Parts::One;
    trial.check(!says_one || first.parts.len() == 1, || format!("it says one part and shows {}", first.parts.len()))
}

/// History is newest first, with what nobody is known to have deployed behind it, no longer than asked for, names each release
/// once, and knows what runs.
///
/// # Errors
/// The violation.
pub async fn history_is_bounded(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("history_is_bounded", bench).await?;
    let all = trial.ok(trial.target.history(50).await)?;
    for limit in [0, 1, 2] {
        let some = trial.ok(trial.target.history(limit).await)?;
        trial.check(some.len() <= limit, || format!("asked for {limit}, it gave {}", some.len()))?;
        trial.check(all.starts_with(&some), || format!("its first {limit} are not the first of more"))?;
    }
    let made: Vec<_> = all.iter().filter(|r| !r.undeployed).filter_map(|r| r.made_at).collect();
    trial.check(made.is_sorted_by(|newer, older| newer >= older), || format!("not newest first: {made:?}"))?;
    trial.check(all.is_sorted_by_key(|r| r.undeployed), || "what was never deployed stands before what was".into())?;
    let ids: BTreeSet<_> = all.iter().map(|r| &r.id).collect();
    trial.check(ids.len() == all.len(), || "it names a release twice".into())?;
    let now = trial.observe().await?;
    for (part, state) in now.serving() {
        if let Running::Release(release) = &state.running {
            trial.check(ids.contains(release), || format!("{part} runs {release}, which history does not know"))?;
            let deployed = all.iter().any(|r| r.id == *release && !r.undeployed);
            trial.check(deployed, || format!("{part} runs {release}, which history takes for never deployed"))?;
        }
    }
    Ok(Ruling::Kept)
}

/// A quick look agrees with a full one on which object it is and what each part was told to run.
///
/// # Errors
/// The violation.
pub async fn quick_agrees(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("quick_agrees", bench).await?;
    for step in ["before", "after"] {
        let full = trial.observe().await?;
        let quick = trial.ok(trial.target.observe(Look::quick()).await)?;
        let told = |o: &Observation| {
            let told: BTreeMap<_, _> = o.parts.iter().map(|(id, part)| (id.clone(), part.wanted.clone())).collect();
            (o.identity.clone(), told)
        };
        trial.check(told(&full) == told(&quick), || {
            format!("{step} a change: a full look says {:?}, a quick one {:?}", told(&full), told(&quick))
        })?;
        if step == "before" {
            trial.carry_out(&bench.change(), "1").await?;
        }
    }
    Ok(Ruling::Kept)
}

/// Where tokens fence, a write that was judged by a read from before another write is refused, as a conflict and without
/// effect.
///
/// # Errors
/// The violation.
pub async fn stale_token_is_refused(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("stale_token_is_refused", bench).await?;
    if trial.target.capabilities().fencing < Fencing::Token {
        return does_not_apply("its fencing is best effort: it says that such a write may get through");
    }
    let (approved, seen) = (trial.prepare(&bench.change(), "1").await?, trial.observe().await?);
    match bench.someone_deploys().await {
        None => return does_not_apply("nobody else can be made to deploy here"),
        Some(done) => trial.ok(done)?,
    }
    let before = trial.changed_from(&Picture::of(&seen)).await?;
    let answer = trial.target.apply(&approved, seen.token, &trial.work("1", 1)).await;
    trial.refused(answer, &[Kind::Conflict, Kind::Stale])?;
    let after = trial.picture().await?;
    trial.check(before == after, || format!("it was refused, and still\n{before}\nbecame\n{after}"))
}

/// Where the platform fences by epoch, a write of a lower one is refused, as a conflict and without effect.
///
/// # Errors
/// The violation.
pub async fn lower_epoch_is_refused(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("lower_epoch_is_refused", bench).await?;
    if trial.target.capabilities().fencing < Fencing::Enforced {
        return does_not_apply("it does not say that it fences by epoch");
    }
    let Some(next) = bench.change_after() else { return does_not_apply("the bench has no second change") };
    trial.carry_out_as(&bench.change(), &trial.work("1", 7)).await?;
    let before = trial.picture().await?;
    let (approved, seen) = (trial.prepare(&next, "2").await?, trial.observe().await?);
    let answer = trial.target.apply(&approved, seen.token, &trial.work("2", 6)).await;
    trial.refused(answer, &[Kind::Conflict])?;
    let after = trial.picture().await?;
    trial.check(before == after, || format!("it was refused, and still\n{before}\nbecame\n{after}"))
}

/// What was approved is what is so afterwards: in what really runs, in weights, in instances.
///
/// # Errors
/// The violation.
pub async fn writes_what_was_approved(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("writes_what_was_approved", bench).await?;
    let before = trial.picture().await?;
    let change = bench.change();
    let approved = trial.prepare(&change, "1").await?;
    trial.check(approved.change == change, || {
        format!("{change:?} was to be made ready, and became {:?}", approved.change)
    })?;
    trial.carry_out(&change, "1").await?;
    let after = trial.picture().await?;
    trial.check(before != after, || "the bench's change changed nothing, so the other laws say nothing".into())
}

/// The same change again, with a fresh token, has no further effect.
///
/// # Errors
/// The violation.
pub async fn idempotent(bench: &dyn Bench) -> Law {
    twice("idempotent", bench, "2").await
}

/// Two attempts with the same key are one effect.
///
/// # Errors
/// The violation.
pub async fn one_key_one_effect(bench: &dyn Bench) -> Law {
    twice("one_key_one_effect", bench, "1").await
}

async fn twice(law: &'static str, bench: &dyn Bench, second: &str) -> Law {
    let trial = Trial::begin(law, bench).await?;
    let change = bench.change();
    if matches!(change, Change::Verb { .. }) {
        return does_not_apply("a verb may be wished for twice");
    }
    trial.carry_out(&change, "1").await?;
    let (before, counted) = (trial.picture().await?, bench.effects());
    trial.carry_out(&change, second).await?;
    let after = trial.picture().await?;
    trial.check(before == after, || format!("made again, it turned\n{before}\ninto\n{after}"))?;
    trial.check(counted == bench.effects(), || {
        format!("the platform counted {counted:?} writes that changed it, and {:?} after the second", bench.effects())
    })
}

/// A release that is not there is refused while the change is made ready, without effect.
///
/// # Errors
/// The violation.
pub async fn unknown_release_is_refused(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("unknown_release_is_refused", bench).await?;
    let unknown = match bench.change() {
        Change::Reach(shape) if shape.0.values().any(|wish| wish.release.is_some()) => {
            let nowhere = Some(ReleaseId::from("no-such-release"));
            Change::reach(shape.0.into_iter().map(|(part, mut wish)| {
                wish.release = wish.release.and(nowhere.clone());
                (part, wish)
            }))
        }
        Change::Reach(shape) if trial.target.capabilities().parts == Parts::PerRelease => {
            Change::reach(shape.0.into_iter().map(|(_, wish)| (PartId::from("no-such-release"), wish)))
        }
        _ => return does_not_apply("the bench's change names no release"),
    };
    let before = trial.picture().await?;
    let answer = trial.target.prepare(&unknown, &trial.work("1", 1)).await;
    trial.refused(answer, &[Kind::NotFound, Kind::Invalid])?;
    let after = trial.picture().await?;
    trial.check(before == after, || format!("it was refused, and still\n{before}\nbecame\n{after}"))
}

/// What the capabilities deny is refused as unsupported while it is made ready, without effect.
///
/// # Errors
/// The violation.
pub async fn unsupported_is_refused(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("unsupported_is_refused", bench).await?;
    let capabilities = trial.target.capabilities();
    let now = trial.observe().await?;
    let Some((part, state)) = now.parts.iter().next() else {
        return Err(trial.broken("the observation has no part"));
    };
    let release = state.wanted.clone().unwrap_or_else(|| "1".into());
    let never = ReleaseId::from("no-such-release");
    let denied = [
        (ChangeKind::Release, Change::release(part, &release)),
        (ChangeKind::Traffic, Change::traffic([(part.clone(), Weight::ALL)])),
        (ChangeKind::Capacity, Change::capacity(part, Capacity::AtLeast(1))),
        (ChangeKind::Halt, Change::Halt),
        (ChangeKind::Abort, Change::Abort { expect: Landing::Unsaid, never }),
        (ChangeKind::Verb, Change::Verb { name: VerbName::from("no-such-verb"), arguments: BTreeMap::new() }),
    ];
    let before = trial.picture().await?;
    for (kind, change) in denied {
        if capabilities.supports(&change) {
            continue;
        }
        let answer = trial.target.prepare(&change, &trial.work("1", 1)).await;
        trial.refused(answer, &[Kind::Unsupported]).map_err(|v| trial.broken(format!("{kind:?}: {}", v.why)))?;
    }
    let after = trial.picture().await?;
    trial.check(before == after, || format!("all was refused, and still\n{before}\nbecame\n{after}"))
}

/// Made ready twice, a change has the same digest, unless an artifact was made for it: an approval binds to it.
///
/// # Errors
/// The violation.
pub async fn digest_is_stable(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("digest_is_stable", bench).await?;
    let first = trial.prepare(&bench.change(), "1").await?;
    let second = trial.prepare(&bench.change(), "1").await?;
    if first.artifact.is_some() {
        return does_not_apply("it makes an artifact, which may be another one each time");
    }
    trial.check(first.digest() == second.digest(), || format!("{first:?}\nand then\n{second:?}"))
}

/// The diff of a change that changes something is not empty: people approve by it.
///
/// # Errors
/// The violation.
pub async fn diff_says_something(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("diff_says_something", bench).await?;
    let approved = trial.prepare(&bench.change(), "1").await?;
    trial.check(!approved.diff.is_empty(), || format!("nothing is said of {:?}", approved.change))
}

/// Asked for our own last write, it never says that somebody came after.
///
/// # Errors
/// The violation.
pub async fn knows_its_own_write(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("knows_its_own_write", bench).await?;
    let (work, change) = (trial.work("1", 1), bench.change());
    let mark = |applied: Option<&Applied>| {
        let mut mark = Mark::new(work.key());
        mark.handle = applied.and_then(|a| a.handle.clone());
        Some(mark)
    };
    let not_replaced = |ours: Ours, when: &str| {
        trial.check(!matches!(ours, Ours::Replaced { .. }), || format!("{when} our own write it says {ours:?}"))
    };
    not_replaced(trial.look(Look::full().with_mark(mark(None))).await?.ours, "before")?;
    let applied = trial.carry_out_as(&change, &work).await?;
    for mark in [mark(None), mark(Some(&applied))] {
        not_replaced(trial.look(Look::full().with_mark(mark.clone())).await?.ours, "after")?;
        not_replaced(trial.look(Look::quick().with_mark(mark)).await?.ours, "after")?;
    }
    let without = trial.observe().await?.ours;
    trial.check(matches!(without, Ours::NotAsked | Ours::CannotTell), || format!("without a mark it says {without:?}"))
}

/// Once somebody else has deployed, our last write is not said to be current.
///
/// # Errors
/// The violation.
pub async fn knows_anothers_write(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("knows_anothers_write", bench).await?;
    let work = trial.work("1", 1);
    let applied = trial.carry_out_as(&bench.change(), &work).await?;
    let before = trial.picture().await?;
    match bench.someone_deploys().await {
        None => return does_not_apply("nobody else can be made to deploy here"),
        Some(done) => trial.ok(done)?,
    }
    trial.changed_from(&before).await?;
    let mut mark = Mark::new(work.key());
    mark.handle = applied.handle;
    let ours = trial.look(Look::full().with_mark(Some(mark))).await?.ours;
    trial.check(matches!(ours, Ours::Replaced { .. } | Ours::CannotTell), || {
        format!("somebody else deployed, and of our write it says {ours:?}")
    })
}

/// A target that is gone is an error, not an empty answer, and nothing is written.
///
/// # Errors
/// The violation.
pub async fn gone_is_an_error(bench: &dyn Bench) -> Law {
    let trial = Trial::begin("gone_is_an_error", bench).await?;
    let (approved, seen) = (trial.prepare(&bench.change(), "1").await?, trial.observe().await?);
    match bench.vanish().await {
        None => return does_not_apply("the target cannot be deleted here"),
        Some(done) => trial.ok(done)?,
    }
    let observed = trial.target.observe(Look::full()).await;
    trial.check(matches!(&observed, Err(e) if e.kind() == Kind::NotFound && !e.is_transient()), || {
        format!("of a target that is gone it says {observed:?}")
    })?;
    let history = trial.target.history(10).await;
    trial.check(history.as_ref().map_or(true, Vec::is_empty), || format!("history of what is gone: {history:?}"))?;
    let applied = trial.target.apply(&approved, seen.token, &trial.work("1", 1)).await;
    trial.check(applied.is_err(), || format!("a write to what is gone: {applied:?}"))
}

/// A future that is dropped at any await leaves a state from which the same call comes to the same end, once.
///
/// # Errors
/// The violation.
pub async fn dropping_is_safe(bench: &dyn Bench) -> Law {
    let law = "dropping_is_safe";
    let change = bench.change();
    let undisturbed = {
        let trial = Trial::begin(law, bench).await?;
        trial.carry_out(&change, "1").await?;
        (trial.picture().await?.without_object(), bench.effects())
    };
    for polls in [1, 2, 3, 4, 5, 8, 13, 21, 34] {
        let trial = Trial::begin(law, bench).await?;
        let work = trial.work("1", 1);
        let approved = trial.prepare(&change, "1").await?;
        let token = trial.observe().await?.token;
        let finished = PollAtMost { inner: trial.target.apply(&approved, token, &work), left: polls }.await.is_some();
        trial.carry_out_as(&change, &work).await?;
        let disturbed = (trial.picture().await?.without_object(), bench.effects());
        trial.check(undisturbed == disturbed, || {
            format!(
                "dropped after {polls} polls and called again, it ends as\n{}\n({:?} effects), not as\n{}\n({:?} effects)",
                disturbed.0, disturbed.1, undisturbed.0, undisturbed.1
            )
        })?;
        if finished {
            break;
        }
    }
    Ok(Ruling::Kept)
}

fn does_not_apply(why: &str) -> Law {
    Ok(Ruling::DoesNotApply(why.into()))
}

/// A law at work on a fresh target.
struct Trial<'a> {
    law: &'static str,
    bench: &'a dyn Bench,
    target: Arc<dyn Target>,
    shelf: Arc<MemoryShelf>,
}

impl<'a> Trial<'a> {
    async fn begin(law: &'static str, bench: &'a dyn Bench) -> std::result::Result<Trial<'a>, Violation> {
        match bench.fresh().await {
            Ok(target) => Ok(Self { law, bench, target, shelf: Arc::new(MemoryShelf::new()) }),
            Err(e) => Err(Violation { law, why: format!("the bench made no fresh target: {e}") }),
        }
    }
    fn broken(&self, why: impl Into<String>) -> Violation {
        Violation { law: self.law, why: why.into() }
    }
    fn check(&self, kept: bool, why: impl FnOnce() -> String) -> Law {
        if kept { Ok(Ruling::Kept) } else { Err(self.broken(why())) }
    }
    fn ok<T>(&self, result: Result<T>) -> std::result::Result<T, Violation> {
        result.map_err(|e| self.broken(format!("could not be tried: {e}")))
    }
    fn refused<T: Debug>(&self, answer: Result<T>, kinds: &[Kind]) -> std::result::Result<(), Violation> {
        match answer {
            Err(e) if kinds.contains(&e.kind()) && e.effect() == Effect::None => Ok(()),
            Err(e) => Err(self.broken(format!(
                "refused as {:?} (effect {:?}), where {kinds:?} without effect is due: {e}",
                e.kind(),
                e.effect()
            ))),
            Ok(answer) => Err(self.broken(format!("not refused: {answer:?}"))),
        }
    }
    fn work(&self, step: &str, epoch: u64) -> Work {
        Work::new(RunId::from("law"), epoch, step, self.bench.patience(), self.shelf.clone())
    }
    async fn look(&self, look: Look) -> std::result::Result<Observation, Violation> {
        self.ok(self.target.observe(look).await)
    }
    async fn observe(&self) -> std::result::Result<Observation, Violation> {
        self.look(Look::full()).await
    }
    async fn picture(&self) -> std::result::Result<Picture, Violation> {
        Ok(Picture::of(&self.observe().await?))
    }
    /// Reads may lag: looks until something else is seen, and until the platform has done with it. Before that it is the
    /// platform that changes what runs, and not the write that the law tries.
    async fn changed_from(&self, before: &Picture) -> std::result::Result<Picture, Violation> {
        let at_rest = |o: &Observation| o.parts.values().all(|part| !matches!(part.settled, Settled::NotYet { .. }));
        let is_so = |o: &Observation| Picture::of(o) != *before && at_rest(o);
        let seen = self.until(is_so, "what somebody else deployed never showed, or never came to rest").await?;
        Ok(Picture::of(&seen))
    }
    async fn until(
        &self,
        is_so: impl Fn(&Observation) -> bool,
        or: &str,
    ) -> std::result::Result<Observation, Violation> {
        let end = tokio::time::Instant::now() + self.bench.patience();
        loop {
            let seen = self.observe().await?;
            if is_so(&seen) {
                return Ok(seen);
            }
            if tokio::time::Instant::now() >= end {
                return Err(self.broken(format!("{or}; last seen:\n{}", Picture::of(&seen))));
            }
            tokio::time::sleep(self.bench.poll()).await;
        }
    }
    async fn prepare(&self, change: &Change, step: &str) -> std::result::Result<Approved, Violation> {
        Ok(self.ok(self.target.prepare(change, &self.work(step, 1)).await)?.approved)
    }
    async fn carry_out(&self, change: &Change, step: &str) -> std::result::Result<Applied, Violation> {
        self.carry_out_as(change, &self.work(step, 1)).await
    }
    /// Writes until it is all done, then waits until it is so.
    async fn carry_out_as(&self, change: &Change, work: &Work) -> std::result::Result<Applied, Violation> {
        let end = tokio::time::Instant::now() + self.bench.patience();
        let applied = loop {
            let approved = match self.target.prepare(change, work).await {
                // A write that was given up on may arrive meanwhile.
                Err(e) if e.kind() == Kind::Conflict && tokio::time::Instant::now() < end => {
                    tokio::time::sleep(self.bench.poll()).await;
                    continue;
                }
                prepared => self.ok(prepared)?.approved,
            };
            let token = self.observe().await?.token;
            match self.target.apply(&approved, token, work).await {
                Ok(Applied { extent: Extent::Partial { .. }, .. }) if tokio::time::Instant::now() < end => {}
                Ok(Applied { extent: extent @ (Extent::Partial { .. } | Extent::NotStarted { .. }), .. }) => {
                    return Err(self.broken(format!("the change was not carried out: {extent:?}")));
                }
                Ok(applied) => break applied,
                // A read that lags gives an old token.
                Err(e) if e.kind() == Kind::Conflict && tokio::time::Instant::now() < end => {
                    tokio::time::sleep(self.bench.poll()).await;
                }
                Err(e) => return Err(self.broken(format!("the change was not carried out: {e}"))),
            }
        };
        self.until(|o| is_so(change, o), "what was written never came to be").await?;
        Ok(applied)
    }
}

fn is_so(change: &Change, now: &Observation) -> bool {
    match change {
        Change::Reach(Shape(wishes)) => wishes.iter().all(|(id, wish)| {
            now.parts.get(id).is_some_and(|part| {
                part.settled == Settled::Yes
                    && wish.release.as_ref().is_none_or(|r| part.runs(r))
                    && (wish.weight.is_none() || part.weight == wish.weight)
                    && wish.capacity.is_none_or(|wish| match wish {
                        Capacity::Exactly(n) => part.capacity == Some(n) && part.ready == Some(n),
                        Capacity::AtLeast(n) => part.ready.is_some_and(|ready| ready >= n),
                    })
            })
        }),
        Change::Halt | Change::Abort { .. } => {
            now.in_flight.is_none() && now.parts.values().all(|part| part.settled == Settled::Yes)
        }
        Change::Verb { .. } => true,
    }
}

/// What it is told, what runs, its weight, its instances.
type Part = (Option<ReleaseId>, Running, Option<Weight>, Option<u32>);

/// What must not change unasked: what is told and what runs, weights, instances, whose it is.
#[derive(Clone, Debug, PartialEq)]
struct Picture {
    identity: Identity,
    parts: BTreeMap<PartId, Part>,
    owners: Vec<String>,
    in_flight: bool,
}

impl Picture {
    fn of(seen: &Observation) -> Self {
        let part = |p: &crate::PartState| (p.wanted.clone(), p.running.clone(), p.weight, p.capacity);
        Self {
            identity: seen.identity.clone(),
            parts: seen.parts.iter().map(|(id, state)| (id.clone(), part(state))).collect(),
            owners: seen.owners.clone(),
            in_flight: seen.in_flight.is_some(),
        }
    }
    /// A fresh world may have another object.
    fn without_object(mut self) -> Self {
        self.identity.object = None;
        self
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}", self.identity)?;
        for (id, (told, runs, weight, capacity)) in &self.parts {
            write!(f, "\n  {id}: runs {runs}")?;
            if let Some(told) = told {
                write!(f, ", told {told}")?;
            }
            if let Some(weight) = weight {
                write!(f, ", {weight}")?;
            }
            if let Some(capacity) = capacity {
                write!(f, ", {capacity} instances")?;
            }
        }
        Ok(())
    }
}

/// Polls a future so many times, then gives up and drops it.
struct PollAtMost<F> {
    inner: F,
    left: usize,
}

impl<F: Future + Unpin> Future for PollAtMost<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match pin!(&mut self.inner).poll(cx) {
            Poll::Ready(out) => Poll::Ready(Some(out)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
