//! The engine, from end to end, on the fake platform and virtual time: what a caller is promised.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use rollback_core::{
    Applied, Approval, ApprovalRequest, Approved, Approver, Begun, Budget, Capabilities, Change, Context, Entry, Error,
    HeldFreeze, Intent, Landing, Lease, LedgerEntry, Line, Look, Nudger, Nudges, Observation, OnUnknown, Prepared,
    RunId, RunQuery, RunSummary, Shelf, Standing, Support, Token, Work,
    prelude::*,
    testing::{Bad, BeforeStep, FakeParts, FakePlatform, Good},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

fn shop() -> FakePlatform {
    FakePlatform::new().release("0", Good).release("1", Good).release("2", Bad).live("2")
}

fn flow(target: impl Target, journal: impl IntoJournal) -> Rollback {
    Rollback::of(target)
        .because("500s")
        .to(Choose::verified().or_previous())
        .recovered_when(Runs::wanted())
        .journal(journal)
}

#[tokio::test(start_paused = true)]
async fn recovers_and_says_why_this_release() {
    let shop = shop();
    let journal = MemoryJournal::new();
    let report = flow(shop.clone(), journal.clone())
        .healthy_when(shop.health())
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(minutes(2))))
        .run()
        .await
        .unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(shop.is_live("1"));
    assert_eq!(shop.effects().len(), 1);
    let choice = report.chosen().unwrap();
    assert_eq!(
        (choice.wanted.id.as_str(), choice.why.as_str(), choice.unverified),
        ("1", "previous, unverified", true)
    );
    assert!(report.took() >= minutes(2));
    let ledger = journal.ledger(report.target()).await.unwrap();
    let standing = |id: &str| ledger.iter().find(|e| e.release.id == id).map(|e| e.standing);
    assert_eq!((standing("1"), standing("2")), (Some(Standing::Verified), Some(Standing::Failed)));
    // The report read from the journal is the same one.
    let read = Report::of(&journal, report.run()).await.unwrap();
    assert_eq!(read.lines(), report.lines());
    assert_eq!(read.outcome(), report.outcome());
}

#[tokio::test(start_paused = true)]
async fn a_deploy_in_the_middle_is_left_alone() {
    let shop = shop().someone_deploys("3", BeforeStep(1));
    let report = flow(shop.clone(), MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::superseded_by("3"), "{report}");
    assert_eq!(shop.effects(), []);
    assert!(shop.is_live("3"));
}

/// Somebody came between, and the release that was blamed is blamed all the same: the next rollback does not go there.
#[tokio::test(start_paused = true)]
async fn what_was_blamed_stays_so_when_somebody_deploys_in_the_middle() {
    let (shop, journal) = (shop().someone_deploys("3", BeforeStep(1)), MemoryJournal::new());
    let first = flow(shop.clone(), journal.clone()).run().await.unwrap();
    assert_eq!(first.outcome(), &Outcome::superseded_by("3"), "{first}");
    let next = flow(shop.clone(), journal).run().await.unwrap();
    assert_eq!(next.outcome(), &Outcome::Recovered, "{next}");
    assert!(shop.is_live("1"), "2 is known bad: {next}");
}

/// An abort that did not say where it would land may land on anything; what comes after it has landed is not its doing.
#[tokio::test(start_paused = true)]
async fn a_deploy_behind_an_abort_that_has_landed_is_left_alone() {
    let flying = || shop().in_flight("0", "2", Landing::Unsaid);
    let back = |shop: &FakePlatform| flow(shop.clone(), MemoryJournal::new()).to(Choose::exactly("1"));
    let shop = flying();
    let report = back(&shop).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!((shop.effects().len(), shop.is_live("1")), (2, true));
    assert!(report.to_string().contains("the platform landed on 0 (all)"), "{report}");

    let shop = flying().someone_deploys("3", BeforeStep(2));
    let report = back(&shop).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::superseded_by("3"), "{report}");
    assert!(shop.is_live("3"));
}

/// Says these, one after the other, and the last for ever.
#[derive(Debug)]
struct Hears(Mutex<Vec<Health>>);
impl Hears {
    fn of(all: impl IntoIterator<Item = Health>) -> Self {
        Self(Mutex::new(all.into_iter().collect()))
    }
}
#[async_trait]
impl HealthCheck for Hears {
    fn name(&self) -> String {
        "clients".into()
    }
    async fn check(&self, _: &Context) -> Result<Health> {
        let mut all = self.0.lock().unwrap();
        Ok(if all.len() > 1 { all.remove(0) } else { all[0].clone() })
    }
}

/// Metrics that are out never block a rollback that a person ordered: when the time of the gate is over, it goes on, and
/// says so. What was not watched is not verified.
#[tokio::test(start_paused = true)]
async fn a_person_gets_past_a_gate_that_nobody_can_tell_and_a_machine_does_not() {
    let unknown = || Health::Unknown(vec![]);
    let through = async |by: OrderedBy, says: Vec<Health>| {
        let (shop, journal) = (shop(), MemoryJournal::new());
        let rollback = flow(shop.clone(), journal.clone())
            .using(Direct::default().with_settle_within(minutes(2)))
            .healthy_when(Hears::of(says))
            .policy(Policy::default().with_ordered_by(by));
        let report = rollback.run().await.unwrap();
        (report, journal)
    };
    let (report, journal) = through(OrderedBy::Person, vec![unknown()]).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(report.took() >= minutes(2), "not before its time is over: {report}");
    assert!(report.losses().iter().any(|(what, _)| what.starts_with("health of all")), "{report}");
    assert!(report.to_string().contains("LOST health of all"), "{report}");
    let ledger = journal.ledger(report.target()).await.unwrap();
    let standing = ledger.iter().find(|e| e.release.id == "1").map(|e| e.standing);
    assert_eq!(standing, Some(Standing::Seen), "nobody saw it healthy");

    let stuck = |report: &Report| matches!(report.outcome(), Outcome::Stuck { .. });
    let (report, _) = through(OrderedBy::Machine, vec![unknown()]).await;
    assert!(stuck(&report), "{report}");
    let (report, _) = through(OrderedBy::Person, vec![Health::Unhealthy(vec![]), unknown()]).await;
    assert!(stuck(&report), "it was seen unhealthy: {report}");
    let (report, _) = through(OrderedBy::Person, vec![unknown(), Health::Healthy(vec![])]).await;
    assert_eq!((report.outcome(), report.losses().len()), (&Outcome::Recovered, 0), "{report}");
}

/// What one process saw unhealthy, the next one does not go past because nobody can tell.
#[tokio::test(start_paused = true)]
async fn a_crash_does_not_forget_that_it_was_unhealthy() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    let run = |says: Vec<Health>| {
        let rollback = flow(shop.clone(), journal.clone()).run_id("r").healthy_when(Hears::of(says));
        rollback.using(Direct::default().with_settle_within(minutes(2)))
    };
    let ill = Health::unhealthy("GET /health", "503");
    let crashed = tokio::time::timeout(seconds(30), run(vec![ill]).run()).await;
    assert!(crashed.is_err(), "{crashed:?}");
    let report = run(vec![Health::Unknown(vec![])]).run().await.unwrap();
    assert!(report.was_adopted());
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    let said = report.lines().iter().filter(|line| matches!(line.entry, Entry::Unhealthy { .. })).count();
    assert_eq!(said, 1, "once: {report}");
    assert!(report.to_string().contains("is unhealthy; GET /health: 503"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_one_effect() {
    let shop = shop().loses_answers(1);
    let report = flow(shop.clone(), MemoryJournal::new()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(shop.effects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_gate_waits_for_is_said() {
    let (shop, heard) = (blue_green(), rollback_core::observe::Collect::new());
    let strategy = BlueGreen::default().with_hold(seconds(10)).with_drain(seconds(30));
    let rollback = flow(shop.clone(), MemoryJournal::new()).using(strategy).healthy_when(shop.health());
    let report = rollback.observer(heard.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let mut waits = vec![];
    for event in heard.events() {
        if let rollback_core::EventKind::Waiting { why } = event.kind
            && waits.last() != Some(&why)
        {
            waits.push(why);
        }
    }
    for says in ["is to stay healthy for 10s", "a pause of 30s"] {
        assert!(waits.iter().any(|why| why.contains(says)), "{says}: {waits:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_word_an_unverified_release_is_not_taken() {
    let shop = shop();
    let report = Rollback::of(shop.clone()).run().await.unwrap();
    assert!(
        matches!(report.outcome(), Outcome::Refused { lift, .. } if lift.contains("the previous one will do")),
        "{report}"
    );
    assert_eq!(shop.effects(), []);
}

#[tokio::test(start_paused = true)]
async fn where_the_blamed_release_serves_no_more_there_is_nothing_to_do_even_with_nowhere_to_go() {
    // The platform numbers anew what is rolled back to: in its history, nothing is before the bad one.
    let shop = FakePlatform::new().release("bad", Bad).release("good", Good).live("good");
    let journal = MemoryJournal::new();
    let report = flow(shop.clone(), journal.clone()).blaming("bad").run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::NothingToDo, "{report}");
    let report = flow(shop.clone().live("bad"), journal).blaming("bad").run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert_eq!(shop.effects(), []);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing_and_leaves_nothing_to_adopt() {
    let shop = shop();
    let journal = MemoryJournal::new();
    let dry = flow(shop.clone(), journal.clone()).policy(Policy::default().with_dry_run(true)).run().await.unwrap();
    assert_eq!(dry.outcome(), &Outcome::Rehearsed, "{dry}");
    assert!(dry.plan().is_some() && !dry.diff().is_empty());
    assert_eq!(shop.effects(), []);
    assert_eq!(journal.runs(&RunQuery::all()).await.unwrap(), []);
    let real = flow(shop.clone(), journal).run().await.unwrap();
    assert_eq!(real.outcome(), &Outcome::Recovered, "{real}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_shows_where_an_unfinished_run_was_going() {
    let (shop, journal) = (shop().settles_after(minutes(5)), MemoryJournal::new());
    let crashed = tokio::time::timeout(minutes(1), flow(shop.clone(), journal.clone()).run()).await;
    assert!(crashed.is_err() && shop.effects().len() == 1, "{crashed:?}");
    tokio::time::sleep(minutes(10)).await;
    let dry = flow(shop, journal).policy(Policy::default().with_dry_run(true)).run().await.unwrap();
    assert_eq!(dry.outcome(), &Outcome::Rehearsed, "{dry}");
    assert_eq!(dry.plan().map(|plan| (plan.suspect.as_str(), plan.wanted.as_str())), Some(("2", "1")), "{dry}");
}

/// Everything the engine does is a journal line away from a crash: cut the journal at every append, before and after it is
/// durable, and resume on the same world.
#[tokio::test(start_paused = true)]
async fn every_crash_point_ends_the_same() {
    cut_at_every_append(shop, |flow| flow).await;
    cut_at_every_append(blue_green, |flow| flow.using(at_once())).await;
}

fn at_once() -> BlueGreen {
    BlueGreen::default().with_drain(Duration::ZERO)
}

fn blue_green() -> FakePlatform {
    FakePlatform::new().release("1", Good).release("2", Bad).parts(FakeParts::BlueGreen).live("2")
}

async fn cut_at_every_append(shop: fn() -> FakePlatform, with: fn(Rollback) -> Rollback) {
    let flow = |shop: FakePlatform, journal: Arc<dyn Journal>| with(flow(shop, journal));
    let (all, effects) = {
        let shop = shop();
        let report = flow(shop.clone(), Arc::new(MemoryJournal::new())).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        (report.lines().len() as u64, shop.effects().len())
    };
    assert!(all >= 8);
    let mut points = 0;
    for n in 0..all {
        for durable in [false, true] {
            let (shop, journal) = (shop(), MemoryJournal::new());
            let crash = CrashAt { inner: journal.clone(), n, durable, silent: false, heard: Arc::default() };
            // Before the append is given up.
            let crashed = tokio::time::timeout(seconds(20), flow(shop.clone(), Arc::new(crash)).run()).await;
            if crashed.is_ok() {
                // The line went into the same append as one before it.
                continue;
            }
            if journal.runs(&RunQuery::unfinished()).await.unwrap().is_empty() && n > 0 && durable {
                // It was the end that had become durable: there is nothing to resume.
                assert!(shop.is_live("1"));
                continue;
            }
            let report = flow(shop.clone(), Arc::new(journal.clone())).run().await.unwrap();
            assert_eq!(report.outcome(), &Outcome::Recovered, "crash at {n}, durable {durable}: {report}");
            assert!(shop.is_live("1"));
            assert_eq!(shop.effects().len(), effects, "crash at {n}, durable {durable}");
            points += 1;
        }
    }
    assert!(points >= 12, "{points}");
}

/// Stops for ever at the append of line `n`.
#[derive(Debug)]
struct CrashAt {
    inner: MemoryJournal,
    n: u64,
    durable: bool,
    /// It takes nothing, and cannot say whose the lease is.
    silent: bool,
    /// What was appended, each append by itself.
    heard: Arc<Mutex<Vec<Vec<Line>>>>,
}
impl CrashAt {
    fn speaks(&self) -> Result<()> {
        let silent = || Err(Error::new(Kind::Unavailable, "use the journal").with_message("it does not answer"));
        if self.silent { silent() } else { Ok(()) }
    }
}
#[async_trait]
impl Journal for CrashAt {
    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        self.inner.begin(intent).await
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        self.speaks()?;
        if lines.iter().any(|line| line.seq == self.n) {
            if self.durable {
                self.inner.append(lease, lines).await?;
            }
            return std::future::pending().await;
        }
        self.heard.lock().unwrap().push(lines.to_vec());
        self.inner.append(lease, lines).await
    }
    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.speaks()?;
        self.inner.renew(lease).await
    }
    fn let_go(&self, lease: &Lease) {
        self.inner.let_go(lease);
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        self.inner.runs(query).await
    }
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        self.inner.read(run).await
    }
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        self.inner.give_up(run, who, why).await
    }
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        self.inner.mark(target, entry).await
    }
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
        self.inner.ledger(target).await
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        self.inner.holds().await
    }
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        self.inner.forget_hold(run, name).await
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        self.inner.shelf()
    }
}

/// Another process may have taken the run over meanwhile, and nobody can say so: when the lease has run out, or before that,
/// because breaking the glass does not wait for it.
#[tokio::test(start_paused = true)]
async fn a_write_waits_for_a_journal_that_is_out() {
    let whole = flow(shop(), MemoryJournal::new()).run().await.unwrap();
    let doing = whole.lines().iter().find(|line| matches!(line.entry, Entry::Doing { .. })).unwrap();
    for after in [seconds(40), seconds(5)] {
        let (shop, inner) = (shop().on_unknown(OnUnknown::Observe), MemoryJournal::new());
        let journal = |silent| {
            let (inner, heard) = (inner.clone(), Arc::default());
            CrashAt { inner, n: doing.seq, durable: true, silent, heard }
        };
        let patient = Policy::default().with_look_again_for(after).with_deadline(minutes(2));
        let begins = flow(shop.clone(), journal(false)).policy(patient);
        assert!(tokio::time::timeout(seconds(5), begins.run()).await.is_err());
        let report = flow(shop.clone(), journal(true)).run().await.unwrap();
        assert!(report.was_adopted() && matches!(report.outcome(), Outcome::Stuck { .. }), "{after:?}: {report}");
        assert_eq!(shop.effects(), [], "{after:?}");
    }
}

/// What stands at once costs one append: the outcome of a write, the end of its step and the intent of the next. What has
/// to be waited for has its outcome in the journal first.
#[tokio::test(start_paused = true)]
async fn an_outcome_goes_with_the_next_intent_only_where_nothing_is_waited_for() {
    let together = async |shop: FakePlatform| -> Vec<bool> {
        let heard = Arc::default();
        let inner = MemoryJournal::new();
        let journal = CrashAt { inner, n: u64::MAX, durable: true, silent: false, heard: Arc::clone(&heard) };
        let report = flow(shop, journal).using(at_once()).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        let appends: &[Vec<Line>] = &heard.lock().unwrap();
        let has = |lines: &[Line], what: fn(&Entry) -> bool| lines.iter().any(|line| what(&line.entry));
        appends
            .iter()
            .filter(|lines| has(lines, |entry| matches!(entry, Entry::Did { .. })))
            .map(|lines| has(lines, |entry| matches!(entry, Entry::Doing { .. } | Entry::Reached { .. })))
            .collect()
    };
    assert_eq!(together(blue_green()).await, [true, true]);
    assert_eq!(together(blue_green().settles_after(seconds(5))).await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_is_adopted_at_once_with_its_own_intent() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    let first = flow(shop.clone(), journal.clone()).recovered_when(never()).run_id("first").because("the first");
    assert!(tokio::time::timeout(seconds(30), first.run()).await.is_err());
    let report = flow(shop.clone(), journal).run_id("second").because("the second").run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!((report.run().as_str(), report.was_adopted()), ("first", true));
    assert_eq!(report.intent().why, "the first");
    assert_eq!(shop.effects().len(), 1);
}

fn never() -> impl Verifier {
    Verify::with("never", Window::default().with_within(hours(1)), |_: Context| async { Ok(Verdict::Unknown(vec![])) })
}
use rollback_core::Window;

#[tokio::test(start_paused = true)]
async fn only_one_at_a_time_and_the_other_says_who() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    let first = flow(shop.clone(), journal.clone()).recovered_when(never()).ordered_by("ann").run_id("first");
    let second = async {
        tokio::time::sleep(seconds(20)).await;
        flow(shop.clone(), journal.clone()).run().await.unwrap()
    };
    tokio::select! {
        _ = first.run() => panic!("it never ends"),
        report = second => {
            let Outcome::Refused { why, .. } = report.outcome() else { panic!("{report}") };
            assert!(why.contains("ann") && why.contains("first") && why.contains("since"), "{why}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn break_glass_takes_over_and_the_other_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, journal) = (shop(), MemoryJournal::new());
    let first = flow(shop.clone(), journal.clone()).recovered_when(never());
    let second = async {
        tokio::time::sleep(seconds(20)).await;
        Rollback::of(shop.clone())
            .journal(journal.clone())
            .blaming("1")
            .spool(dir.path())
            .break_glass("still down")
            .await
    };
    let (first, second) = tokio::join!(first.run(), second);
    let first = first.unwrap();
    assert!(matches!(first.outcome(), Outcome::Superseded { .. }), "{first}");
    assert_eq!(second.outcome(), &Outcome::Recovered, "{second}");
    assert!(shop.is_live("0"));
}

/// Two people press at once, and neither names a suspect: the second goes on with what the first was doing.
#[tokio::test(start_paused = true)]
async fn break_glass_during_a_rollback_goes_where_that_one_was_going() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, journal) = (shop(), MemoryJournal::new());
    let first = flow(shop.clone(), journal.clone()).recovered_when(never());
    let second = async {
        tokio::time::sleep(seconds(20)).await;
        Rollback::of(shop.clone()).journal(journal.clone()).spool(dir.path()).break_glass("still down").await
    };
    let (first, second) = tokio::join!(first.run(), second);
    assert!(matches!(first.unwrap().outcome(), Outcome::Superseded { .. }));
    assert_eq!(second.outcome(), &Outcome::Recovered, "{second}");
    assert!(shop.is_live("1"));
    assert_eq!(shop.effects().len(), 1);
    let ledger = journal.ledger(second.target()).await.unwrap();
    assert!(ledger.iter().any(|e| e.release.id == "2" && e.standing == Standing::Failed));
}

#[tokio::test(start_paused = true)]
async fn break_glass_pressed_twice_does_not_walk_on() {
    for renumbers in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let shop = if renumbers { shop().renumbers() } else { shop() };
        let press = || {
            let broken: Result<MemoryJournal> =
                Err(Error::new(Kind::Unavailable, "open the journal").with_message("disk full"));
            Rollback::of(shop.clone()).journal(broken).spool(dir.path())
        };
        let first = press().break_glass("down").await;
        assert_eq!(first.outcome(), &Outcome::Recovered, "{first}");
        assert!(first.losses().iter().any(|(what, why)| *what == "journal and lock" && why.contains("disk full")));
        assert!(first.spooled().unwrap().exists());
        let second = press().break_glass("down, again").await;
        assert!(matches!(second.outcome(), Outcome::Refused { lift, .. } if lift.contains("name it")), "{second}");
        assert!(shop.is_live("1"), "renumbers {renumbers}");
        let third = press().blaming("1").to(Choose::exactly("0")).break_glass("1 is bad too").await;
        assert_eq!(third.outcome(), &Outcome::Recovered, "{third}");
        assert!(shop.is_live("0"));
    }
}

#[tokio::test(start_paused = true)]
async fn no_journal_stops_a_program_but_not_a_person_at_the_glass() {
    let broken = || -> Result<MemoryJournal> {
        Err(Error::new(Kind::Invalid, "open the journal").with_message("the file is not a database"))
    };
    let dir = tempfile::tempdir().unwrap();
    let shop = shop();
    let report = flow(shop.clone(), broken()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("not a database")), "{report}");
    assert_eq!(shop.effects(), []);
    let report = Rollback::of(shop.clone()).journal(broken()).spool(dir.path()).break_glass("down").await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    // The spool has the whole record, and it can be read back.
    let text = std::fs::read_to_string(report.spooled().unwrap()).unwrap();
    let lines: Vec<Line> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, report.lines());
}

#[tokio::test(start_paused = true)]
async fn the_budget_stops_a_machine_and_not_a_person() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    let first = flow(shop.clone(), journal.clone()).by_machine().run().await.unwrap();
    assert_eq!(first.outcome(), &Outcome::Recovered, "{first}");
    shop.deploy("3");
    let second = flow(shop.clone(), journal.clone()).by_machine().run().await.unwrap();
    assert!(matches!(second.outcome(), Outcome::Refused { why, .. } if why.contains("already")), "{second}");
    assert!(shop.is_live("3"));
    let person = flow(shop.clone(), journal.clone()).run().await.unwrap();
    assert_eq!(person.outcome(), &Outcome::Recovered, "{person}");
    // Nobody may set more than three.
    assert_eq!(Budget { runs: 100, window: hours(1) }.allows(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_undone_needs_a_word() {
    let shop = shop().irreversible();
    let report = flow(shop.clone(), MemoryJournal::new()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("lose data")), "{report}");
    let dir = tempfile::tempdir().unwrap();
    let glass = Rollback::of(shop.clone()).spool(dir.path()).break_glass("down").await;
    assert!(matches!(glass.outcome(), Outcome::Refused { .. }), "{glass}");
    let machine =
        flow(shop.clone(), MemoryJournal::new()).policy(Policy::default().with_irreversible(true)).by_machine();
    assert!(matches!(machine.run().await.unwrap().outcome(), Outcome::Refused { .. }));
    assert_eq!(shop.effects(), []);
    let word = flow(shop.clone(), MemoryJournal::new()).policy(Policy::default().with_irreversible(true));
    assert_eq!(word.run().await.unwrap().outcome(), &Outcome::Recovered);
}

#[derive(Debug)]
struct Says(Option<&'static str>);
#[async_trait]
impl Approver for Says {
    async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>> {
        let digest = self.0.map_or(request.digest.clone(), Into::into);
        Ok(Some(Approval { by: "ann".into(), digest }))
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_binds_to_the_digest() {
    let shop = || shop().needs_approval("drops a column");
    let nobody = flow(shop(), MemoryJournal::new()).run().await.unwrap();
    assert!(matches!(nobody.outcome(), Outcome::Refused { .. }), "{nobody}");
    let other = flow(shop(), MemoryJournal::new()).approved_by(Says(Some("sha256:yesterday"))).run().await.unwrap();
    assert!(matches!(other.outcome(), Outcome::Refused { why, .. } if why.contains("yesterday")), "{other}");
    let yes = flow(shop(), MemoryJournal::new()).approved_by(Says(None)).run().await.unwrap();
    assert_eq!(yes.outcome(), &Outcome::Recovered, "{yes}");
}

#[tokio::test(start_paused = true)]
async fn undoing_a_rollback_takes_an_approval_and_an_override() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    assert_eq!(flow(shop.clone(), journal.clone()).run().await.unwrap().outcome(), &Outcome::Recovered);
    let undo = |policy: Policy| {
        flow(shop.clone(), journal.clone())
            .blaming("1")
            .to(Choose::exactly("2"))
            .policy(policy)
            .recovered_when(Runs::wanted())
    };
    let plain = undo(Policy::default()).run().await.unwrap();
    assert!(matches!(plain.outcome(), Outcome::Refused { why, .. } if why.contains("known bad")), "{plain}");
    let word = Policy::default().with_known_bad(Some("it was not the release".into()));
    let alone = undo(word.clone()).run().await.unwrap();
    assert!(matches!(alone.outcome(), Outcome::Refused { why, .. } if why.contains("nobody to ask")), "{alone}");
    let both = undo(word).approved_by(Says(None)).run().await.unwrap();
    assert_eq!(both.outcome(), &Outcome::Recovered, "{both}");
    assert!(
        both.lines()
            .iter()
            .any(|l| matches!(&l.entry, Entry::Overridden { why, .. } if why.contains("not the release")))
    );
}

#[tokio::test(start_paused = true)]
async fn still_failing_after_it_is_not_recovered() {
    let shop = FakePlatform::new().release("1", Bad).release("2", Bad).live("2");
    let report = flow(shop.clone(), MemoryJournal::new())
        .healthy_when(shop.health())
        .using(Direct::default())
        .recovered_when(StaysHealthy::for_at_least(seconds(30)))
        .run()
        .await
        .unwrap();
    assert!(matches!(report.outcome(), Outcome::NotRecovered { .. } | Outcome::Stuck { .. }), "{report}");
    assert!(!report.to_do().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_rung_begins_where_the_first_stopped() {
    let shop = shop().never_settles("CrashLoopBackOff");
    let ladder = Ladder::new()
        .rung(Direct::default(), Weight::NONE)
        .rung(Direct::default().with_in_place(true), Weight::NONE)
        .then_page("payments on call");
    let report = flow(shop.clone(), MemoryJournal::new()).using(ladder).run().await.unwrap();
    let Outcome::Stuck { human, at, .. } = report.outcome() else { panic!("{report}") };
    assert!(human.contains("payments on call"), "{human}");
    assert!(at.contains("CrashLoopBackOff"), "{at}");
    // Terminal reasons are said at once, not after a time-out.
    assert!(report.took() < seconds(30), "{:?}", report.took());
}

#[tokio::test(start_paused = true)]
async fn a_verifier_that_never_knows_is_no_recovery() {
    let shop = shop();
    let unknown = Verify::with("metrics", Window::default(), |_: Context| async { Ok(Verdict::Unknown(vec![])) });
    let report = flow(shop, MemoryJournal::new()).recovered_when(unknown).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::NotRecovered { why } if why.contains("metrics")), "{report}");
}

/// However often it looks while it waits, its lease does not run out.
#[tokio::test(start_paused = true)]
async fn a_long_wait_keeps_its_lease() {
    let (shop, journal) = (shop().settles_after(minutes(20)), MemoryJournal::new());
    let policy = || Policy::default().with_deadline(hours(1)).with_lease(seconds(30)).with_poll(seconds(2));
    let run =
        || flow(shop.clone(), journal.clone()).policy(policy()).using(Direct::default().with_settle_within(hours(1)));
    let (first, second) = (run(), run());
    let others = async {
        for _ in 0..15 {
            tokio::time::sleep(minutes(1)).await;
            let other = second.run().await.unwrap();
            assert!(matches!(other.outcome(), Outcome::Refused { .. }), "{other}");
        }
    };
    let (first, ()) = tokio::join!(first.run(), others);
    let first = first.unwrap();
    assert_eq!(first.outcome(), &Outcome::Recovered, "{first}");
}

/// What got stuck and came about all the same is proved by pressing once more; and nothing further is left.
#[tokio::test(start_paused = true)]
async fn pressed_again_a_run_that_got_stuck_is_gone_on_with() {
    let journal = MemoryJournal::new();
    let shop = shop().settles_after(hours(2));
    let press =
        async || flow(shop.clone(), journal.clone()).policy(Policy::default().with_deadline(minutes(5))).run().await;
    let first = press().await.unwrap();
    assert!(matches!(first.outcome(), Outcome::Stuck { .. }), "{first}");
    let again = press().await.unwrap();
    assert!(matches!(again.outcome(), Outcome::Stuck { .. }), "not there yet: {again}");
    tokio::time::sleep(hours(2)).await;
    let last = press().await.unwrap();
    assert_eq!(last.outcome(), &Outcome::Recovered, "{last}");
    assert!(last.to_string().contains(&format!("where run {} was going, which got stuck", again.run())), "{last}");
    assert!(last.lines().iter().all(|line| !matches!(line.entry, Entry::Doing { .. })), "it writes nothing: {last}");
    assert!(shop.is_live("1"));
    let more = press().await.unwrap();
    assert!(matches!(more.outcome(), Outcome::Refused { why, .. } if why.contains("already left 2 for 1")), "{more}");
}

/// A name is no guess: it needs nobody's leave, and goes before where an earlier run was going. Pressed twice it walks nowhere.
#[tokio::test(start_paused = true)]
async fn a_release_that_is_named_is_gone_to_after_a_rollback() {
    let journal = MemoryJournal::new();
    let shop = shop();
    let first = flow(shop.clone(), journal.clone()).run().await.unwrap();
    assert_eq!((first.outcome(), shop.is_live("1")), (&Outcome::Recovered, true), "{first}");
    let named = async || flow(shop.clone(), journal.clone()).to(Choose::exactly("0")).run().await.unwrap();
    let report = named().await;
    assert_eq!((report.outcome(), shop.is_live("0")), (&Outcome::Recovered, true), "{report}");
    let twice = named().await;
    assert!(matches!(twice.outcome(), Outcome::Refused { why, .. } if why.contains("serves already")), "{twice}");

    let (journal, shop) = (MemoryJournal::new(), self::shop().settles_after(hours(2)));
    let soon = || flow(shop.clone(), journal.clone()).policy(Policy::default().with_deadline(minutes(5)));
    let stuck = soon().run().await.unwrap();
    assert!(matches!(stuck.outcome(), Outcome::Stuck { .. }), "{stuck}");
    let report = soon().to(Choose::exactly("0")).run().await.unwrap();
    assert_eq!(report.chosen().unwrap().wanted.id, "0", "{report}");
}

/// However a run ends, and whoever ends it: what it has begun to leave is known bad, although it was verified once.
#[tokio::test(start_paused = true)]
async fn what_was_blamed_stays_so_whoever_ends_the_run() {
    for taken_over in [false, true] {
        let (shop, journal) = (shop(), MemoryJournal::new());
        let verified =
            LedgerEntry::new(Release::new("2"), Standing::Verified, Timestamp(1), "watched, before it leaked");
        journal.mark(shop.id(), &verified).await.unwrap();
        let first = flow(shop.clone(), journal.clone()).run_id("first").recovered_when(never());
        assert!(tokio::time::timeout(minutes(1), first.run()).await.is_err(), "it waits");
        assert!(shop.is_live("1"));
        if taken_over {
            let glass = flow(shop.clone(), journal.clone()).blaming("1").to(Choose::exactly("0"));
            assert_eq!(glass.break_glass("1 is bad too").await.outcome(), &Outcome::Recovered);
        } else {
            journal.give_up(&"first".into(), "someone", "it hangs").await.unwrap();
        }
        let ledger = journal.ledger(shop.id()).await.unwrap();
        let known = ledger.iter().find(|entry| entry.release.id == "2").unwrap();
        assert_eq!(
            (known.standing, known.why.as_str()),
            (Standing::Failed, "blamed: 500s"),
            "taken over: {taken_over}"
        );
    }
}

/// An order may call releases what people call them.
#[tokio::test(start_paused = true)]
async fn releases_go_by_their_labels() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    for (id, label) in [("2", "2.4.0"), ("0", "2.2.0")] {
        let noted = LedgerEntry::new(Release::new(id).with_label(label), Standing::Seen, Timestamp(1), "recorded");
        journal.mark(shop.id(), &noted).await.unwrap();
    }
    let report = flow(shop.clone(), journal.clone()).blaming("2.4.0").to(Choose::exactly("2.2.0")).run().await.unwrap();
    assert_eq!((report.outcome(), shop.is_live("0")), (&Outcome::Recovered, true), "{report}");
    assert_eq!(report.chosen().unwrap().suspect, "2", "{report}");
    let typo = flow(shop, journal).blaming("2.4.9").run().await.unwrap();
    assert!(matches!(typo.outcome(), Outcome::Refused { why, .. } if why.contains("2.4.9")), "{typo}");
}

/// What is verified stays so where something else kept it from being reached; not where it would not come up.
#[tokio::test(start_paused = true)]
async fn a_rollback_that_got_stuck_says_nothing_against_a_verified_release() {
    for (ill, standing) in [(false, Standing::Verified), (true, Standing::Seen)] {
        let journal = MemoryJournal::new();
        let shop = if ill { shop() } else { shop().settles_after(hours(2)) };
        let verified = LedgerEntry::new(Release::new("1"), Standing::Verified, Timestamp(1), "watched");
        journal.mark(shop.id(), &verified).await.unwrap();
        let answers = if ill { Health::unhealthy("GET /health", "503") } else { Health::Healthy(vec![]) };
        let report = flow(shop.clone(), journal.clone())
            .using(Direct::default().with_settle_within(minutes(2)))
            .healthy_when(Hears::of([answers]))
            .run()
            .await
            .unwrap();
        assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
        let ledger = journal.ledger(shop.id()).await.unwrap();
        let known = ledger.iter().find(|entry| entry.release.id == "1").unwrap();
        assert_eq!(known.standing, standing, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn elapsed_time_survives_a_resume() {
    let journal = MemoryJournal::new();
    let policy = || Policy::default().with_deadline(minutes(5));
    let shop = shop().settles_after(hours(2));
    let go = || flow(shop.clone(), journal.clone()).policy(policy());
    for _ in 0..3 {
        // Two minutes each: the third has one left.
        let _ = tokio::time::timeout(minutes(2), go().run()).await;
    }
    let runs = journal.runs(&RunQuery::all()).await.unwrap();
    let report = go().run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    assert_eq!(runs.len(), 1);
    assert!(report.took() < minutes(8), "{:?}", report.took());
}

#[tokio::test(start_paused = true)]
async fn bad_orders_are_refused_before_anything() {
    let shop = shop();
    for wrong in [
        flow(shop.clone(), MemoryJournal::new()).blaming("2").to(Choose::exactly("2")),
        flow(shop.clone(), MemoryJournal::new()).to(Choose::nth(0)),
        flow(shop.clone(), MemoryJournal::new()).to(Choose::exactly(" ")),
        flow(shop.clone(), MemoryJournal::new()).blaming(""),
        flow(shop.clone(), MemoryJournal::new()).policy(Policy::default().with_poll(Duration::ZERO)),
    ] {
        assert_eq!(wrong.run().await.unwrap_err().kind(), Kind::Invalid);
    }
    let unknown = flow(shop.clone(), MemoryJournal::new()).to(Choose::exactly("7")).run().await.unwrap();
    assert!(matches!(unknown.outcome(), Outcome::Refused { why, .. } if why.contains("does not know 7")), "{unknown}");
    assert_eq!(shop.effects(), []);
}

#[tokio::test(start_paused = true)]
async fn a_blind_platform_is_not_waited_for_forever() {
    let shop = shop().unavailable(10_000);
    let report = flow(shop.clone(), MemoryJournal::new()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert_eq!(shop.effects(), []);
    let shop = self::shop().unavailable(3);
    assert_eq!(flow(shop, MemoryJournal::new()).run().await.unwrap().outcome(), &Outcome::Recovered);
}

#[tokio::test(start_paused = true)]
async fn a_run_id_that_has_ended_is_not_run_again() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    let go = || flow(shop.clone(), journal.clone()).run_id("workflow-7");
    let first = go().run().await.unwrap();
    shop.deploy("3");
    let again = go().run().await.unwrap();
    assert_eq!(again.lines(), first.lines());
    assert!(shop.is_live("3"));
}

#[test]
fn policies_read() {
    assert_eq!(Policy::break_glass().journal, Support::IfThere);
    assert!(Policy::break_glass().evidence <= seconds(5));
}

#[tokio::test(start_paused = true)]
async fn a_breach_starts_the_rollback_and_silence_does_not() {
    use rollback_core::{metric::Metric, watch::Watch};
    let errors = |shop: &FakePlatform| {
        let shop = shop.clone();
        Metric::with("errors", move || {
            let bad = if shop.healthy() { 0.0 } else { 0.2 };
            async move { Ok(bad) }
        })
    };
    let rule = || rollback_core::watch::Rule::above("error rate", 0.05).with_hold(minutes(2));
    let shop = shop();
    let journal = MemoryJournal::new();
    let rollback = Rollback::of(shop.clone()).to(Choose::verified().or_previous()).journal(journal.clone());
    let watched = Watch::of(shop.clone()).rule(rule(), errors(&shop)).then_roll_back(rollback).run().await.unwrap();
    let report = watched.rollback.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(report.intent().why.contains("error rate"), "{}", report.intent().why);
    assert!(shop.is_live("1"));
    // The same flow on the release that works: nothing to roll back.
    let rollback = flow(shop.clone(), journal.clone());
    let watch = Watch::of(shop.clone()).rule(rule(), errors(&shop)).journal(journal.clone());
    let watched = watch.then_roll_back(rollback).run().await.unwrap();
    assert!(watched.rollback.is_none(), "{watched}");
    assert!(watched.watch.verified);
}

/// A platform with what a target may bring besides: its own strategy, and somebody who says when to look.
#[derive(Debug)]
struct Bringing {
    inner: FakePlatform,
    strategy: Option<Arc<dyn Strategy>>,
    nudger: Nudger,
    /// So often it is found changed while a change is made ready.
    unsteady: AtomicU32,
}
impl Bringing {
    fn of(inner: &FakePlatform) -> Self {
        Self { inner: inner.clone(), strategy: None, nudger: Nudger::new(), unsteady: AtomicU32::new(0) }
    }
}
#[async_trait]
impl Target for Bringing {
    fn id(&self) -> &TargetId {
        self.inner.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.inner.observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.inner.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let left = |n: u32| n.checked_sub(1);
        if self.unsteady.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
            let e = Error::new(Kind::Conflict, "try the change").with_message("it is not as it was when it was read");
            return Err(e.without_effect());
        }
        self.inner.prepare(change, work).await
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.inner.apply(approved, token, work).await
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        self.strategy.clone()
    }
    fn nudges(&self) -> Option<Nudges> {
        Some(self.nudger.nudges())
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_nudged_need_not_wait_for_the_next_poll() {
    let took = async |nudged: bool| {
        let shop = shop().settles_after(Duration::from_millis(500));
        let target = Bringing::of(&shop);
        let nudger = target.nudger.clone();
        let nudging = tokio::spawn(async move {
            // Also while nobody waits, and too early.
            if nudged {
                loop {
                    nudger.nudge();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        });
        let report = flow(target, MemoryJournal::new()).run().await.unwrap();
        nudging.abort();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        assert_eq!(shop.effects().len(), 1);
        report.took()
    };
    assert!(took(false).await >= seconds(2), "the next poll is the next look");
    assert!(took(true).await < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_it_is_made_ready_is_made_ready_again() {
    for (times, ends) in [(2, Outcome::Recovered.name()), (1000, "refused")] {
        let shop = shop();
        let target = Bringing { unsteady: AtomicU32::new(times), ..Bringing::of(&shop) };
        let report = flow(target, MemoryJournal::new()).run().await.unwrap();
        assert_eq!(report.outcome().name(), ends, "{report}");
        assert_eq!(shop.effects().len(), usize::from(ends != "refused"));
    }
}

/// Nothing to leave would be said of it, while the bad one serves.
#[tokio::test(start_paused = true)]
async fn a_suspect_that_nobody_knows_is_a_slip() {
    for choose in [Choose::exactly("1"), Choose::verified().or_previous()] {
        let shop = shop();
        let slip = || flow(shop.clone(), MemoryJournal::new()).blaming("22").to(choose.clone());
        let reports = [slip().run().await.unwrap(), slip().break_glass("500s").await];
        for report in reports {
            assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("22")), "{report}");
        }
        assert!(shop.is_live("2") && shop.effects().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_machine_orders_stays_so_whatever_else_it_may() {
    let (shop, journal) = (shop(), MemoryJournal::new());
    let ordered = || flow(shop.clone(), journal.clone()).by_machine().policy(Policy::default());
    let report = ordered().run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.deploy("2");
    let report = ordered().run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("already")), "{report}");
}

#[tokio::test(start_paused = true)]
async fn where_none_is_named_it_goes_the_targets_own_way() {
    let own = || Ladder::new().rung(Direct::default(), Weight::NONE);
    let strategy = || Some(Arc::new(own()) as Arc<dyn Strategy>);
    let target = || Bringing { strategy: strategy(), ..Bringing::of(&shop()) };
    let name = own().name();
    let named = |report: &Report| report.intent().strategy.clone();
    let report = flow(target(), MemoryJournal::new()).run().await.unwrap();
    assert_eq!((report.outcome(), named(&report)), (&Outcome::Recovered, name.clone()), "{report}");
    let report = Rollback::break_glass_on(&target(), "500s").await;
    assert_eq!((report.outcome(), named(&report)), (&Outcome::Recovered, name.clone()), "{report}");
    let report = flow(target(), MemoryJournal::new()).using(Direct::default()).run().await.unwrap();
    assert_eq!((report.outcome(), named(&report) == name), (&Outcome::Recovered, false), "{report}");
}
