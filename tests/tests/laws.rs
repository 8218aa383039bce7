//! The laws hold on the fake platform in all its shapes, and each law finds the fault that it is there for.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use rollback_core::wrap::{Checked, DryRun, Limit, Retry, Timeout};
use rollback_core::{
    Applied, Approved, Capabilities, Capacity, Change, DiffLine, Error, EvidenceSource, Fencing, Identity, Kind,
    Landing, Look, Observation, OnUnknown, Ours, PartId, PartMap, Prepared, Record, Release, ReleaseId, Result, Target,
    TargetId, Token, Weight, Wish, Work, seconds,
    testing::{
        laws::{
            Ruling,
            target::{
                Bench, all, diff_says_something, digest_is_stable, each, has_parts, history_is_bounded,
                reading_has_no_effect, unknown_release_is_refused, unsupported_is_refused,
            },
        },
        *,
    },
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

type Wrap = fn(FakePlatform) -> Arc<dyn Target>;

/// A fake platform as a bench, perhaps with something around it.
struct Fakes {
    make: fn() -> FakePlatform,
    wrap: Wrap,
    change: Change,
    after: Option<Change>,
    now: Mutex<FakePlatform>,
}

impl std::fmt::Debug for Fakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fakes").finish_non_exhaustive()
    }
}

impl Fakes {
    fn new(make: fn() -> FakePlatform, change: Change, after: Change) -> Self {
        let wrap: Wrap = |platform| Arc::new(platform);
        Self { make, wrap, change, after: Some(after), now: Mutex::default() }
    }
    fn wrapped(mut self, wrap: Wrap) -> Self {
        self.wrap = wrap;
        self
    }
}

#[async_trait]
impl Bench for Fakes {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let platform = (self.make)();
        *self.now.lock().unwrap() = platform.clone();
        Ok((self.wrap)(platform))
    }
    fn change(&self) -> Change {
        self.change.clone()
    }
    fn change_after(&self) -> Option<Change> {
        self.after.clone()
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.now.lock().unwrap().deploy("3");
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.now.lock().unwrap().vanish();
        Some(Ok(()))
    }
    fn effects(&self) -> Option<usize> {
        Some(self.now.lock().unwrap().effects().len())
    }
}

fn two(parts: FakeParts) -> FakePlatform {
    FakePlatform::new().parts(parts).release("0", Good).release("1", Good).release("2", Bad).live("2")
}
fn to(part: &str, release: &str) -> Change {
    Change::release(&part.into(), &release.into())
}
fn traffic<const N: usize>(weights: [(&str, u16); N]) -> Change {
    Change::traffic(weights.map(|(part, percent)| (part.into(), Weight::percent(percent))))
}
fn one(make: fn() -> FakePlatform) -> Fakes {
    Fakes::new(make, to("all", "1"), to("all", "0"))
}

fn shapes() -> Vec<(&'static str, Fakes)> {
    let canary = |percent| traffic([("stable", 100 - percent), ("canary", percent)]);
    let up = Change::capacity(&"canary".into(), Capacity::AtLeast(2));
    let made = |weight| {
        let wish =
            Wish { release: Some("1".into()), weight: Some(Weight::NONE), capacity: Some(Capacity::AtLeast(weight)) };
        Change::reach([("with-1".into(), wish)])
    };
    let landing = || Landing::On("1".into());
    vec![
        ("one part", one(|| two(FakeParts::One))),
        ("no memory of keys", one(|| two(FakeParts::One).knows_keys(false))),
        ("cannot tell whose", one(|| two(FakeParts::One).can_tell(false).holds_trace(false))),
        ("best effort", one(|| two(FakeParts::One).fencing(Fencing::BestEffort).on_unknown(OnUnknown::Observe))),
        ("enforced", one(|| two(FakeParts::One).fencing(Fencing::Enforced))),
        ("takes its time", one(|| two(FakeParts::One).settles_after(seconds(5)).paces_itself())),
        ("late answers", one(|| two(FakeParts::One).late_answers(seconds(2)))),
        ("stale reads", one(|| two(FakeParts::One).stale_reads(3))),
        ("renumbers", one(|| two(FakeParts::One).renumbers())),
        ("needs approval", one(|| two(FakeParts::One).needs_approval("drops a column").irreversible())),
        ("in pieces", one(|| two(FakeParts::One).partial(4))),
        ("becomes another object", one(|| two(FakeParts::One).identity_changes())),
        (
            "blue and green",
            Fakes::new(|| two(FakeParts::BlueGreen), to("blue", "1"), traffic([("blue", 100), ("green", 0)])),
        ),
        ("canary pair", Fakes::new(|| two(FakeParts::CanaryPair).settles_after(seconds(3)), canary(10), canary(50))),
        ("by capacity", Fakes::new(|| two(FakeParts::ByCapacity), to("canary", "1"), up)),
        (
            "per release",
            Fakes::new(|| two(FakeParts::PerRelease), traffic([("1", 40), ("2", 60)]), traffic([("1", 100), ("2", 0)])),
        ),
        ("made parts", Fakes::new(|| two(FakeParts::Made), made(1), made(3))),
        (
            "in flight",
            Fakes::new(
                || two(FakeParts::One).in_flight("1", "2", Landing::On("1".into())),
                Change::Abort { expect: landing(), never: "2".into() },
                to("all", "0"),
            ),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn the_fake_platform_keeps_the_laws_in_every_shape() {
    for (name, bench) in shapes() {
        assert_eq!(all(&bench).await, [], "{name}");
    }
}

/// What a wrapper adds, it adds without breaking a law.
#[tokio::test(start_paused = true)]
async fn wrappers_keep_the_laws() {
    let wraps: [(&str, Wrap); 5] = [
        ("retry", |platform| Arc::new(Retry::new(platform))),
        ("timeout", |platform| Arc::new(Timeout::new(platform))),
        ("limit", |platform| Arc::new(Limit::new(platform, 2))),
        ("checked", |platform| Arc::new(Checked::new(platform))),
        ("all of them", |platform| Arc::new(Limit::new(Retry::new(Timeout::new(Checked::new(platform))), 2))),
    ];
    for (wrap, how) in wraps {
        for (shape, bench) in shapes() {
            assert_eq!(all(&bench.wrapped(how)).await, [], "{wrap} around {shape}");
        }
    }
}

/// A dry run keeps what it can keep: it reads as the target does, and writes nothing.
#[tokio::test(start_paused = true)]
async fn a_dry_run_keeps_the_laws_of_reading() {
    for (shape, bench) in shapes() {
        let bench = bench.wrapped(|platform| Arc::new(DryRun::new(platform)));
        for law in [
            has_parts(&bench).await,
            reading_has_no_effect(&bench).await,
            history_is_bounded(&bench).await,
            unknown_release_is_refused(&bench).await,
            unsupported_is_refused(&bench).await,
            digest_is_stable(&bench).await,
            diff_says_something(&bench).await,
        ] {
            assert!(law.is_ok(), "{shape}: {law:?}");
        }
        let broken = all(&bench).await;
        assert!(!broken.is_empty(), "{shape}: a dry run wrote");
        assert_eq!(bench.effects(), Some(0), "{shape}");
    }
}

/// A law that never applies says nothing.
#[tokio::test(start_paused = true)]
async fn every_law_is_tried_by_some_shape() {
    let mut tried = std::collections::BTreeMap::new();
    for (_, bench) in shapes() {
        for (law, ruling) in each(&bench).await {
            *tried.entry(law).or_insert(0) += u32::from(ruling == Ok(Ruling::Kept));
        }
    }
    assert!(tried.values().all(|n| *n > 0), "{tried:?}");
}

/// One way of being wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    ChangesItsMind,
    PreparingWrites,
    HasNoParts,
    ForgetsTheLimit,
    QuickLookLies,
    TakesAnyToken,
    TakesAnyEpoch,
    WritesSomethingElse,
    EveryWriteAnew,
    TakesAnyRelease,
    TakesAnyChange,
    DigestOfTheDay,
    SaysNothing,
    TakesItsOwnForAnothers,
    TakesAnothersForItsOwn,
    GoneIsEmpty,
    CountsOnItsFuture,
}

#[derive(Debug)]
struct Broken {
    how: Wrong,
    inner: FakePlatform,
    n: AtomicU32,
    begun: Mutex<bool>,
}

impl Broken {
    fn wrap(how: Wrong, inner: FakePlatform) -> Arc<dyn Target> {
        Arc::new(Self { how, inner, n: AtomicU32::new(0), begun: Mutex::default() })
    }
    fn count(&self) -> u32 {
        self.n.fetch_add(1, Ordering::Relaxed)
    }
    fn fresh(&self, work: &Work, epoch: u64) -> Work {
        Work::new(work.run().clone(), epoch, format!("again-{}", self.count()), work.within(), shelf())
    }
    async fn token(&self) -> Result<Token> {
        Ok(self.inner.observe(Look::full()).await?.token)
    }
}
fn shelf() -> Arc<dyn rollback_core::Shelf> {
    Arc::new(rollback_core::journal::MemoryShelf::new())
}

#[async_trait]
impl Target for Broken {
    fn id(&self) -> &TargetId {
        self.inner.id()
    }
    fn capabilities(&self) -> Capabilities {
        match self.how {
            Wrong::ChangesItsMind if !self.inner.effects().is_empty() => self.inner.capabilities().irreversible(),
            _ => self.inner.capabilities(),
        }
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let seen = self.inner.observe(look.clone()).await;
        let quick = look.quick;
        match self.how {
            Wrong::GoneIsEmpty if seen.is_err() => {
                let parts: [(PartId, _); 0] = [];
                Ok(Observation::new(Identity::new("fake", "uid-1"), parts, Token::none()))
            }
            Wrong::HasNoParts => seen.map(|mut o| {
                o.parts = PartMap::new();
                o
            }),
            Wrong::QuickLookLies if quick => seen.map(|mut o| {
                o.parts.values_mut().for_each(|part| part.wanted = Some("0".into()));
                o
            }),
            Wrong::TakesItsOwnForAnothers if look.mark.is_some() => {
                seen.map(|o| o.with_ours(Ours::Replaced { by: "somebody".into() }))
            }
            Wrong::TakesAnothersForItsOwn if look.mark.is_some() => seen.map(|o| o.with_ours(Ours::Complete)),
            _ => seen,
        }
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.inner.history(if self.how == Wrong::ForgetsTheLimit { 10 } else { limit }).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let release = |part: &str, release: &str| Change::release(&part.into(), &ReleaseId::from(release));
        let prepared = self.inner.prepare(change, work).await;
        match self.how {
            Wrong::PreparingWrites => {
                let prepared = prepared?;
                self.inner.apply(&prepared.approved, self.token().await?, &self.fresh(work, 1)).await?;
                Ok(prepared)
            }
            Wrong::TakesAnyRelease if matches!(&prepared, Err(e) if e.kind() == Kind::NotFound) => {
                Ok(Prepared::new(change))
            }
            Wrong::TakesAnyChange if matches!(&prepared, Err(e) if e.kind() == Kind::Unsupported) => {
                Ok(Prepared::new(change))
            }
            Wrong::WritesSomethingElse => Ok(Prepared::new(&release("all", "0"))),
            Wrong::DigestOfTheDay => Ok(prepared?.with_diff([DiffLine::new("day", "0", self.count().to_string())])),
            Wrong::SaysNothing => Ok(prepared?.with_diff([])),
            _ => prepared,
        }
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        match self.how {
            Wrong::TakesAnyToken => self.inner.apply(approved, self.token().await?, work).await,
            Wrong::TakesAnyEpoch => {
                let highest = Work::new(work.run().clone(), 99, work.key(), work.within(), shelf());
                self.inner.apply(approved, token, &highest).await
            }
            Wrong::EveryWriteAnew => {
                // As if each write were a new deployment: there, and back, and there again.
                if !self.inner.effects().is_empty() {
                    let back = self.inner.prepare(&Change::release(&"all".into(), &"2".into()), work).await?;
                    self.inner.apply(&back.approved, self.token().await?, &self.fresh(work, 1)).await?;
                }
                self.inner.apply(approved, self.token().await?, &self.fresh(work, 1)).await
            }
            Wrong::CountsOnItsFuture => {
                if std::mem::replace(&mut *self.begun.lock().unwrap(), true) {
                    return Err(Error::new(Kind::Unexpected, "write").with_message("one is under way"));
                }
                tokio::task::yield_now().await;
                let applied = self.inner.apply(approved, token, work).await;
                *self.begun.lock().unwrap() = false;
                applied
            }
            _ => self.inner.apply(approved, token, work).await,
        }
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        self.inner.recorder()
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        self.inner.evidence()
    }
}

macro_rules! each_law_finds {
    ($($law:ident: $wrong:ident;)*) => { $(
        #[tokio::test(start_paused = true)]
        async fn $law() {
            let make = || two(FakeParts::One).fencing(Fencing::Enforced);
            let bench = one(make).wrapped(|platform| Broken::wrap(Wrong::$wrong, platform));
            let found = all(&bench).await;
            assert!(found.iter().any(|v| v.law == stringify!($law)), "not found; what was found: {found:#?}");
        }
    )* };
}
mod each_law_finds_its_fault {
    use super::*;
    each_law_finds! {
        constant: ChangesItsMind;
        reading_has_no_effect: PreparingWrites;
        has_parts: HasNoParts;
        history_is_bounded: ForgetsTheLimit;
        quick_agrees: QuickLookLies;
        stale_token_is_refused: TakesAnyToken;
        lower_epoch_is_refused: TakesAnyEpoch;
        writes_what_was_approved: WritesSomethingElse;
        idempotent: EveryWriteAnew;
        one_key_one_effect: EveryWriteAnew;
        unknown_release_is_refused: TakesAnyRelease;
        unsupported_is_refused: TakesAnyChange;
        digest_is_stable: DigestOfTheDay;
        diff_says_something: SaysNothing;
        knows_its_own_write: TakesItsOwnForAnothers;
        knows_anothers_write: TakesAnothersForItsOwn;
        gone_is_an_error: GoneIsEmpty;
        dropping_is_safe: CountsOnItsFuture;
    }
}
