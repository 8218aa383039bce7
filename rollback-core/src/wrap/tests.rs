#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    Applied, Approved, ArtifactReader, ArtifactWriter, Capabilities, Capacity, Change, ChangeKind, Effect, Error,
    Extent, Fencing, Identity, Kind, Landing, Look, Observation, OnUnknown, PartState, Parts, Payload, Prepared, Shelf,
    Target, TargetId, Token, Weight, Weights, When, Wish, minutes, seconds,
};
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

#[derive(Debug)]
struct NoShelf;
#[async_trait]
impl Shelf for NoShelf {
    async fn write(&self, _: &str) -> Result<Box<dyn ArtifactWriter>> {
        Err(Error::new(Kind::Unsupported, "write"))
    }
    async fn read(&self, _: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        Err(Error::new(Kind::Unsupported, "read"))
    }
    async fn save(&self, _: &str, _: u64, _: Payload) -> Result<()> {
        Ok(())
    }
    async fn load(&self, _: &str) -> Result<Option<Payload>> {
        Ok(None)
    }
}
fn work(within: Duration) -> Work {
    Work::new("run".into(), 1, "0.0", within, Arc::new(NoShelf))
}

/// What becomes of the next calls, the first first; then all go well.
#[derive(Debug)]
enum Next {
    Fails(Kind, Effect),
    Hangs,
    Takes(Duration),
}
#[derive(Debug, Default)]
struct Inner {
    next: Mutex<Vec<Next>>,
    calls: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
}
impl Inner {
    async fn call<R>(&self, answer: R) -> Result<R> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let next = { self.next.lock().unwrap().pop() };
        let result = match next {
            None => Ok(answer),
            Some(Next::Hangs) => std::future::pending().await,
            Some(Next::Takes(time)) => {
                tokio::time::sleep(time).await;
                Ok(answer)
            }
            Some(Next::Fails(kind, effect)) => {
                let error = Error::new(kind, "do it");
                Err(if effect == Effect::None { error.without_effect() } else { error })
            }
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

#[derive(Clone, Debug)]
struct Fake {
    id: TargetId,
    capabilities: Capabilities,
    inner: Arc<Inner>,
}
impl Fake {
    fn new(mut next: Vec<Next>) -> Self {
        next.reverse();
        let inner = Inner { next: Mutex::new(next), ..Inner::default() };
        Self { id: "fake:1".into(), capabilities: Capabilities::new(Fencing::Token), inner: Arc::new(inner) }
    }
    fn able(capabilities: Capabilities) -> Self {
        Self { capabilities, ..Self::new(vec![]) }
    }
    fn calls(&self) -> usize {
        self.inner.calls.load(Ordering::SeqCst)
    }
}
#[async_trait]
impl Target for Fake {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }
    async fn observe(&self, _: Look) -> Result<Observation> {
        let parts = ["a", "b"].map(|id| (id.into(), PartState::of("2")));
        self.inner.call(Observation::new(Identity::new("s", "o"), parts, Token::none())).await
    }
    async fn history(&self, _: usize) -> Result<Vec<Release>> {
        self.inner.call(vec![Release::new("1")]).await
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        self.inner.call(Prepared::new(change)).await
    }
    async fn apply(&self, _: &Approved, _: Token, _: &Work) -> Result<Applied> {
        self.inner.call(Applied::done()).await
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(self.clone()))
    }
}
#[async_trait]
impl Record for Fake {
    async fn record(&self, label: &str) -> Result<Release> {
        self.inner.call(Release::new(label)).await
    }
}
#[async_trait]
impl EvidenceSource for Fake {
    async fn collect(&self, _: Bounds, _: &Work) -> Result<Vec<Artifact>> {
        self.inner.call(vec![]).await
    }
}

fn change() -> Change {
    Change::release(&"a".into(), &"1".into())
}
fn approved() -> Approved {
    Prepared::new(&change()).approved
}
async fn apply(target: &dyn Target) -> Result<Applied> {
    target.apply(&approved(), Token::none(), &work(minutes(10))).await
}
fn for_now() -> Next {
    Next::Fails(Kind::Unavailable, Effect::Unknown)
}

#[tokio::test(start_paused = true)]
async fn no_wrapper_swallows_what_a_target_lends() {
    let fake = Fake::new(vec![]);
    let wrapped: Vec<(&str, Box<dyn Target>)> = vec![
        ("retry", Box::new(Retry::new(fake.clone()))),
        ("timeout", Box::new(Timeout::new(fake.clone()))),
        ("limit", Box::new(Limit::new(fake.clone(), 1))),
        ("checked", Box::new(Checked::new(fake.clone()))),
        ("all", Box::new(Checked::new(Retry::new(Timeout::new(Limit::new(fake.clone(), 1)))))),
    ];
    for (name, target) in wrapped {
        assert_eq!(target.id(), fake.id(), "{name}");
        assert_eq!(target.capabilities(), fake.capabilities, "{name}");
        assert_eq!(target.observe(Look::full()).await.unwrap().parts.len(), 2, "{name}");
        assert_eq!(target.history(9).await.unwrap(), [Release::new("1")], "{name}");
        assert_eq!(target.prepare(&change(), &work(minutes(1))).await.unwrap().approved, approved(), "{name}");
        assert_eq!(apply(&target).await.unwrap(), Applied::done(), "{name}");
        assert_eq!(target.recorder().unwrap().record("9").await.unwrap(), Release::new("9"), "{name}");
        let bounds = Bounds { time: seconds(1), bytes: 1 };
        assert_eq!(target.evidence().unwrap().collect(bounds, &work(seconds(1))).await.unwrap(), [], "{name}");
    }
}

#[cfg(feature = "host")]
#[tokio::test]
async fn a_verb_more_is_a_command_and_all_else_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let script = format!("echo $ROLLBACK_KEY $ROLLBACK_RELEASE $ROLLBACK_SUSPECT >{}; exit $CODE", said.display());
    let with = |code: u8| {
        let script = format!("CODE={code}; {script}");
        WithVerb::new(Fake::new(vec![]), "fail-over", ["sh", "-c", &script, "s3cret"])
    };
    let arguments = [("release".to_owned(), "1".to_owned()), ("suspect".into(), "2".into())].into();
    let verb = Change::Verb { name: "fail-over".into(), arguments };
    let target = with(0);
    assert_eq!(target.capabilities(), Fake::new(vec![]).capabilities.with_verb("fail-over", When::Asked));
    assert!(!format!("{target:?}").contains("s3cret"));
    assert_eq!(apply(&target).await.unwrap(), Applied::done());
    assert!(!said.exists(), "another change is none of its business");
    let asked = target.prepare(&verb, &work(minutes(1))).await.unwrap().approved;
    assert!(!said.exists(), "nothing is run to prepare it");
    assert_eq!(target.apply(&asked, Token::none(), &work(minutes(1))).await.unwrap(), Applied::done());
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "run/0.0 1 2\n");
    let failed = with(3).apply(&asked, Token::none(), &work(minutes(1))).await.unwrap_err();
    assert!(failed.effect() == Effect::Unknown && failed.to_string().contains("exit 3"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_reads_and_never_writes() {
    let fake = Fake::new(vec![]);
    let target = DryRun::new(fake.clone());
    assert_eq!(target.history(9).await.unwrap().len(), 1);
    assert_eq!(target.prepare(&change(), &work(minutes(1))).await.unwrap().approved, approved());
    let before = fake.calls();
    assert!(matches!(apply(&target).await.unwrap().extent, Extent::NotStarted { .. }));
    assert!(target.recorder().is_none() && target.evidence().is_none());
    assert_eq!(fake.calls(), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_called_again() {
    let transient = |effect| Next::Fails(Kind::Unavailable, effect);
    let lasting = || Next::Fails(Kind::Denied, Effect::None);
    // (what the first call answers, does a read go well in the end, does a write)
    for (next, read, write) in [
        (transient(Effect::Unknown), true, false),
        (transient(Effect::None), true, true),
        (lasting(), false, false),
        (Next::Fails(Kind::Conflict, Effect::None), false, false),
    ] {
        let again = match &next {
            Next::Fails(kind, effect) => Next::Fails(*kind, *effect),
            _ => unreachable!(),
        };
        let what = format!("{next:?}");
        let fake = Fake::new(vec![next]);
        assert_eq!(Retry::new(fake.clone()).observe(Look::full()).await.is_ok(), read, "read after {what}");
        assert_eq!(fake.calls(), 1 + usize::from(read));
        let fake = Fake::new(vec![again]);
        assert_eq!(apply(&Retry::new(fake.clone())).await.is_ok(), write, "write after {what}");
        assert_eq!(fake.calls(), 1 + usize::from(write));
    }
    let fake = Fake::new(vec![for_now()]);
    assert!(Retry::new(fake.clone()).prepare(&change(), &work(minutes(1))).await.is_ok());
    let fake = Fake::new(vec![for_now()]);
    assert!(Retry::new(fake).recorder().unwrap().record("9").await.is_err(), "recording is a write");
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_bounded_in_number_and_time() {
    let endless = || Fake::new((0..99).map(|_| for_now()).collect());
    let fake = endless();
    let began = tokio::time::Instant::now();
    let error = Retry::new(fake.clone()).history(1).await.unwrap_err();
    assert_eq!((error.kind(), fake.calls()), (Kind::Unavailable, 4));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(1400) && waited < Duration::from_millis(1500), "{waited:?}");
    // No call begins after the limit: 2 + 4 + 8 s fit, the next wait would not.
    let options = RetryOptions::default().with_attempts(99).with_first_wait(seconds(2)).with_longest_wait(seconds(60));
    let fake = endless();
    let began = tokio::time::Instant::now();
    let short = Retry::new(fake.clone()).with_options(options.clone().with_within(seconds(20)));
    short.history(1).await.unwrap_err();
    assert!(began.elapsed() < seconds(20));
    assert_eq!(fake.calls(), 4);
    // The caller's own limit counts, too.
    let fake = endless();
    let began = tokio::time::Instant::now();
    Retry::new(fake.clone()).with_options(options).prepare(&change(), &work(seconds(3))).await.unwrap_err();
    assert_eq!((fake.calls(), began.elapsed() < seconds(3)), (2, true));
    // None at all is one.
    let fake = endless();
    let once = Retry::new(fake.clone()).with_options(RetryOptions::default().with_attempts(0));
    once.history(1).await.unwrap_err();
    assert_eq!(fake.calls(), 1);
}

#[test]
fn waits_double_up_to_a_bound_and_jitter_only_shortens() {
    let plain = RetryOptions::default().with_first_wait(seconds(1)).with_longest_wait(seconds(10));
    assert_eq!([1, 2, 3, 4, 5, 99].map(|n| plain.wait_after(n).as_secs()), [1, 2, 4, 8, 10, 10]);
    let one = plain.clone().with_jitter_seed(1);
    for n in 1..40 {
        let (with, without) = (one.wait_after(n), plain.wait_after(n));
        assert!(with <= without && with >= without / 2, "{with:?} of {without:?}");
        assert_eq!(with, one.wait_after(n), "the same seed, the same waits");
    }
    assert_ne!(one.wait_after(3), plain.clone().with_jitter_seed(2).wait_after(3));
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_given_up() {
    let target = Timeout::new(Fake::new(vec![Next::Hangs, Next::Hangs, Next::Hangs, Next::Hangs]))
        .with_options(TimeoutOptions::default().with_read(seconds(5)).with_write(seconds(60)));
    let timed = async |target: &dyn Target, read: bool| {
        let began = tokio::time::Instant::now();
        let error = if read { target.history(1).await.unwrap_err() } else { apply(target).await.unwrap_err() };
        (error.kind(), error.is_transient(), error.effect(), began.elapsed().as_secs())
    };
    assert_eq!(timed(&target, true).await, (Kind::Unavailable, true, Effect::None, 5));
    assert_eq!(timed(&target, false).await, (Kind::Unavailable, true, Effect::Unknown, 60));
    // The caller's own limit, where it is shorter.
    let began = tokio::time::Instant::now();
    target.prepare(&change(), &work(seconds(2))).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 2);
    let bounds = Bounds { time: seconds(3), bytes: 1 };
    target.evidence().unwrap().collect(bounds, &work(seconds(9))).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 5);
    // A write that was dropped is not sent again by a retry around it.
    let fake = Fake::new(vec![Next::Hangs]);
    let patient = Retry::new(Timeout::new(fake.clone()));
    assert_eq!(apply(&patient).await.unwrap_err().effect(), Effect::Unknown);
    assert_eq!(fake.calls(), 1);
    let fake = Fake::new(vec![Next::Hangs]);
    assert!(Retry::new(Timeout::new(fake.clone())).with_options(RetryOptions::default()).history(1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn so_many_at_once_and_no_more() {
    for (limit, most) in [(0, 1), (1, 1), (3, 3)] {
        let fake = Fake::new((0..9).map(|_| Next::Takes(seconds(1))).collect());
        let one = Limit::new(fake.clone(), limit);
        let other = Limit::shared_with(&one, fake.clone());
        let began = tokio::time::Instant::now();
        let mut all = tokio::task::JoinSet::new();
        for i in 0..9 {
            let target: Limit<Fake> = if i % 2 == 0 { one.clone() } else { other.clone() };
            all.spawn(async move { target.history(1).await.unwrap() });
        }
        all.join_all().await;
        assert_eq!(fake.inner.most.load(Ordering::SeqCst), most);
        assert_eq!(began.elapsed().as_secs(), 9 / most as u64);
    }
    // A dropped call gives its place back.
    let fake = Fake::new(vec![Next::Hangs]);
    let target = Limit::new(fake, 1);
    assert!(tokio::time::timeout(seconds(1), target.history(1)).await.is_err());
    assert!(target.history(1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_meant_is_refused_before_anything_is_touched() {
    let plain = Capabilities::new(Fencing::Token);
    let places = |weights| {
        plain
            .clone()
            .with_parts(Parts::Places, weights)
            .with_change(ChangeKind::Traffic, OnUnknown::Again)
            .with_change(ChangeKind::Capacity, OnUnknown::Again)
            .with_change(ChangeKind::Abort, OnUnknown::Again)
            .with_verb("clear", When::AfterRelease)
    };
    let switch = places(Weights::Switch);
    let exact = places(Weights::Exact { grain: 500, at_once: 2 });
    let traffic = |shares: &[(&str, u16)]| {
        Change::traffic(shares.iter().map(|(part, percent)| ((*part).into(), Weight::percent(*percent))))
    };
    let verb = |name: &str, arguments: &[(&str, &str)]| Change::Verb {
        name: name.into(),
        arguments: arguments.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
    };
    let abort = |on: &str| Change::Abort { expect: Landing::On(on.into()), never: "2".into() };
    let both =
        Change::reach(["a", "b"].map(|part| (part.into(), Wish { release: Some("1".into()), ..Wish::default() })));
    let made = Change::reach([(
        "a".into(),
        Wish { release: Some("1".into()), weight: Some(Weight::NONE), capacity: Some(Capacity::AtLeast(3)) },
    )]);
    for (capabilities, change, expected) in [
        (&plain, change(), Ok(())),
        (&plain, traffic(&[("a", 100)]), Err((Kind::Unsupported, "can only change: Release"))),
        (&plain, Change::Halt, Err((Kind::Unsupported, "can only"))),
        (&plain, abort("1"), Err((Kind::Unsupported, "can only"))),
        (&plain, both.clone(), Err((Kind::Invalid, "there is one part"))),
        (&plain, Change::reach([]), Err((Kind::Invalid, "nothing is wished"))),
        (&plain, Change::reach([("a".into(), Wish::default())]), Err((Kind::Invalid, "nothing is wished of a"))),
        (&switch, both, Ok(())),
        (&switch, made, Ok(())),
        (&switch, traffic(&[("a", 100), ("b", 0)]), Ok(())),
        (&switch, traffic(&[("a", 0), ("b", 0)]), Err((Kind::Invalid, "nobody would get"))),
        (&switch, traffic(&[("a", 50), ("b", 50)]), Err((Kind::Invalid, "one part has all"))),
        (&switch, traffic(&[("a", 30)]), Err((Kind::Invalid, "one part has all"))),
        (&exact, traffic(&[("a", 30), ("b", 70)]), Ok(())),
        (&exact, traffic(&[("a", 80), ("b", 70)]), Err((Kind::Invalid, "more than all"))),
        (&exact, traffic(&[("a", 33), ("b", 67)]), Err((Kind::Invalid, "multiples of 5%"))),
        (&exact, traffic(&[("a", 30), ("b", 30), ("c", 40)]), Err((Kind::Invalid, "3 parts would serve"))),
        (&exact, abort("1"), Ok(())),
        (&exact, abort("2"), Err((Kind::Invalid, "lands on the suspect"))),
        (&exact, verb("clear", &[("release", "1")]), Ok(())),
        (&exact, verb("clear", &[]), Err((Kind::Invalid, "needs the argument `release`"))),
        (&exact, verb("wipe", &[("release", "1")]), Err((Kind::Unsupported, "(clear)"))),
    ] {
        let fake = Fake::able(capabilities.clone());
        let target = Checked::new(fake.clone());
        let prepared = target.prepare(&change, &work(minutes(1))).await;
        let approved = Prepared::new(&change).approved;
        let applied = target.apply(&approved, Token::none(), &work(minutes(1))).await;
        match expected {
            Ok(()) => assert!(prepared.is_ok() && applied.is_ok(), "{change:?}: {prepared:?} {applied:?}"),
            Err((kind, why)) => {
                assert_eq!(fake.calls(), 0, "{change:?} reached the target");
                for error in [prepared.unwrap_err(), applied.unwrap_err()] {
                    assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{change:?}");
                    assert!(error.message().contains(why), "{change:?}: {error}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_not_there_is_refused_where_parts_are_fixed() {
    let prepare = async |capabilities: Capabilities, part: &str| {
        let fake = Fake::able(capabilities);
        let change = Change::release(&part.into(), &"1".into());
        (Checked::new(fake.clone()).prepare(&change, &work(minutes(1))).await, fake.calls())
    };
    let places = |parts| Capabilities::new(Fencing::Token).with_parts(parts, Weights::None);
    let (refused, looks) = prepare(places(Parts::Places), "z").await;
    let error = refused.unwrap_err();
    assert_eq!((error.kind(), looks), (Kind::Invalid, 1));
    assert!(error.message().contains("there is no part z; there are: a, b"), "{error}");
    assert!(prepare(places(Parts::Places), "b").await.0.is_ok());
    assert!(prepare(places(Parts::Made), "z").await.0.is_ok());
    // What was seen once is not looked for again.
    let fake = Fake::able(places(Parts::Places));
    let target = Checked::new(fake.clone());
    target.observe(Look::full()).await.unwrap();
    target.prepare(&change(), &work(minutes(1))).await.unwrap();
    assert_eq!(fake.calls(), 2);
}
