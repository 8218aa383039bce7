//! Break-glass on a real release directory with a real process and the real journal, each of its supports taken away in
//! turn, and all at once. What must hold each time: the release before is live, every loss is said, the record is kept.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use rollback_core::{
    Applied, Approved, Artifact, Bounds, Capabilities, Change, Event, EvidenceSource, Freeze, Hold, LedgerEntry, Line,
    Look, Nudges, Observation, Payload, Prepared, Record, Release, RunQuery, Standing, Strategy, Token, Verifiers,
    Work,
    engine::Spool,
    freeze::{FreezeEnd, FreezeFile, unfreeze},
    health::{Http, Probe, Tcp},
    local::ReleaseDir,
    prelude::*,
    testing::{Bad, FakeParts, FakePlatform, Good},
};
use rollback_tests::{
    between::{Between, Call, Fate},
    place::{Place, tamper},
};
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// As fast as a test wants it; break-glass keeps what is shorter than its own.
fn fast() -> Policy {
    Policy::default().with_poll(Duration::from_millis(20)).with_reply_within(seconds(1)).with_evidence(seconds(1))
}

fn glass(place: &Place, journal: impl IntoJournal) -> Rollback {
    Rollback::of(place.service()).journal(journal).spool(place.spool()).policy(fast())
}

/// Hears everything, and does nothing.
#[derive(Debug)]
struct Deaf;
impl Observer for Deaf {
    fn on_event(&self, _: &Event) {}
}

/// It recovered on the release before, and says so.
fn recovered(place: &Place, report: &Report) {
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(place.live(), "2");
    assert_eq!(report.chosen().unwrap().wanted.id, "2");
}

/// A loss is in the data and in the text.
fn lost(report: &Report, what: &str, why: &str) {
    let found = report.losses().into_iter().any(|(lost, because)| lost.contains(what) && because.contains(why));
    assert!(found, "{what} … {why}: {report}");
    let text = report.to_string();
    assert!(text.contains("LOST") && text.contains(why), "{text}");
}

/// The whole record is in memory and in the spool.
fn spooled(report: &Report) {
    let path = report.spooled().unwrap_or_else(|| panic!("nothing was spooled: {report}"));
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, report.lines());
    assert!(report.to_string().contains(path.to_str().unwrap()));
}

#[tokio::test]
async fn with_all_its_supports_nothing_is_lost() {
    let place = Place::new().await;
    let report = glass(&place, place.journal()).break_glass("down").await;
    recovered(&place, &report);
    assert_eq!(report.losses(), []);
    assert_eq!(report.spooled(), None);
    assert_eq!(Report::of(&place.journal(), report.run()).await.unwrap().lines(), report.lines());
}

#[tokio::test]
async fn the_journal_cannot_be_opened() {
    let place = Place::new().await;
    drop(place.journal());
    let good = fs::read(place.journal_path()).unwrap();
    let newer = [&good[..60], &2u32.to_be_bytes(), &good[64..]].concat();
    for (what, bytes, why) in [
        ("corrupt", b"this is no journal at all, but long enough to be taken for one".repeat(100), "not a journal"),
        ("torn", good[..good.len() - 100].to_vec(), "damaged"),
        ("of a newer schema", newer, "newer release"),
    ] {
        let place = Place::new().await;
        fs::write(place.journal_path(), &bytes).unwrap();
        let journal = SqliteJournal::open(place.journal_path());
        let report = glass(&place, journal).break_glass("down").await;
        recovered(&place, &report);
        lost(&report, "journal and lock", why);
        spooled(&report);
        // Its evidence, too, outlives the process.
        let spool = Spool::new(place.spool());
        let [kept] = report.evidence() else { panic!("{report}") };
        let saved = fs::read(spool.evidence_of(report.run(), kept)).unwrap();
        assert_eq!(rollback_core::Digest::of(&saved), kept.digest);
        assert!(fs::read(place.journal_path()).unwrap() == bytes, "{what}: it was touched");
    }
    // Its directory is not there.
    let place = Place::new().await;
    let report = glass(&place, SqliteJournal::open(place.path("no/journal.db"))).break_glass("down").await;
    recovered(&place, &report);
    lost(&report, "journal and lock", "directory");
    spooled(&report);
}

#[tokio::test]
async fn the_journals_disk_is_full() {
    let place = Place::new().await;
    let journal = place.journal_of(150_000);
    // Another run fills it.
    let other = rollback_core::Intent::new("other".into(), "dir:/other".into(), "me", "fills the disk");
    let rollback_core::Begun::Fresh { lease, .. } = journal.begin(&other).await.unwrap() else { panic!() };
    let full = async || {
        for size in [4_000, 400, 40] {
            for seq in journal.read(&lease.run).await.unwrap().1.len() as u64.. {
                let entry = rollback_core::Entry::Lost { what: "x".repeat(size), why: String::new() };
                let line =
                    Line::new(seq, lease.epoch, rollback_core::Timestamp(0), Duration::ZERO, Duration::ZERO, entry);
                if journal.append(&lease, &[line]).await.is_err() {
                    break;
                }
            }
        }
    };
    full().await;
    let report = glass(&place, journal.clone()).break_glass("down").await;
    recovered(&place, &report);
    lost(&report, "journal", "full");
    spooled(&report);
}

#[tokio::test]
async fn the_journal_is_lost_in_the_middle() {
    // Every append in turn is the first that fails; and all that come after it.
    let mut appends = 0;
    for n in 0..40 {
        let place = Place::new().await;
        let journal = Between::new(place.journal(), move |call| match call {
            Call::Append(last) if last >= n => Fate::Fails,
            _ => Fate::Goes,
        });
        let report = glass(&place, journal).break_glass("down").await;
        recovered(&place, &report);
        assert_eq!(place.hooks().len(), 2, "one restart beyond that of the deploy");
        if report.losses().is_empty() {
            break;
        }
        lost(&report, "journal", "its disk is gone");
        spooled(&report);
        appends += 1;
    }
    assert!(appends >= 8, "{appends}");
}

#[tokio::test]
async fn a_journal_that_hangs_costs_seconds() {
    type Fates = fn(Call) -> Fate;
    let fates: [(&str, Fates); 4] = [
        ("begin", |_| Fate::Hangs),
        ("append", |call| if call == Call::Begin { Fate::Goes } else { Fate::Hangs }),
        ("renew", |call| if call == Call::Renew { Fate::Hangs } else { Fate::Goes }),
        ("ledger", |call| if call == Call::Ledger { Fate::Hangs } else { Fate::Goes }),
    ];
    for (what, fate) in fates {
        let place = Place::new().await;
        let began = Instant::now();
        let report = glass(&place, Between::new(place.journal(), fate)).break_glass("down").await;
        recovered(&place, &report);
        // Two calls at the most that get no answer, a second each; the rest is a slow machine.
        assert!(began.elapsed() < seconds(10), "{what}: {:?}", began.elapsed());
        match what {
            "renew" => assert_eq!(report.losses(), []),
            "ledger" => lost(&report, "ledger", "no answer"),
            _ => {
                lost(&report, "journal", "no answer");
                spooled(&report);
            }
        }
    }
}

/// How long it takes to the first write, by the numbers of the policy alone.
#[tokio::test(start_paused = true)]
async fn the_first_write_comes_within_seconds_whatever_hangs() {
    let after = |report: &Report| {
        let doing = |l: &&Line| matches!(l.entry, rollback_core::Entry::Doing { .. });
        report.lines().iter().find(doing).unwrap().elapsed
    };
    type Fates = fn(Call) -> Fate;
    let fates: [Fates; 2] = [|_| Fate::Hangs, |call| if call == Call::Begin { Fate::Goes } else { Fate::Hangs }];
    for fate in fates {
        let dir = tempfile::tempdir().unwrap();
        let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
        let journal = Between::new(MemoryJournal::new(), fate);
        let report = Rollback::of(shop.clone())
            .journal(journal)
            .freezing(Stuck("gitops"))
            .spool(dir.path())
            .break_glass("down")
            .await;
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        assert!(after(&report) <= seconds(11), "{:?}: {report}", after(&report));
        lost(&report, "freeze gitops", "no answer");
    }
}

/// A freeze that never answers.
#[derive(Debug)]
struct Stuck(&'static str);
#[async_trait]
impl Freeze for Stuck {
    fn name(&self) -> String {
        self.0.into()
    }
    async fn freeze(&self, _: &Hold) -> Result<Payload> {
        std::future::pending().await
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        Ok(vec![])
    }
    async fn unfreeze(&self, _: &Hold, _: Payload) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_ledger_cannot_be_read() {
    let place = Place::new().await;
    let target = place.service();
    let journal = place.journal();
    let entry = LedgerEntry::new(Release::new("1"), Standing::Verified, Timestamp(1), "long ago in a watch");
    journal.mark(target.id(), &entry).await.unwrap();
    drop(journal);
    tamper(&place.journal_path(), "ledger", "json", "long ago in a watch", "long ago in a WATCH");
    let report = glass(&place, place.journal()).break_glass("down").await;
    recovered(&place, &report);
    lost(&report, "ledger", "checksum");
    lost(&report, "ledger", "which releases are known bad");
    // The rest of the journal is there.
    assert_eq!(report.spooled(), None);
    assert_eq!(Report::of(&place.journal(), report.run()).await.unwrap().lines(), report.lines());
}

/// An address where nobody listens.
fn dead() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn health_and_metrics_are_down() {
    // What watches is dead: the release is taken back all the same, and nothing claims that it helped.
    let place = Place::new().await;
    let window = Window::default().with_within(Duration::from_millis(300)).with_every(Duration::from_millis(50));
    let report = glass(&place, place.journal())
        .healthy_when(Http::get(&format!("http://{}/health", dead())).unwrap())
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(seconds(1)).with_window(window)))
        .using(Direct::default().with_settle_within(seconds(2)))
        .break_glass("down")
        .await;
    assert_eq!(place.live(), "2", "{report}");
    assert!(matches!(report.outcome(), Outcome::NotRecovered { .. } | Outcome::Stuck { .. }), "{report}");
    assert!(!report.to_do().is_empty());
    let ledger = place.journal().ledger(report.target()).await.unwrap();
    assert!(ledger.iter().all(|e| e.standing != Standing::Verified), "{ledger:?}");
}

/// Where there is more than one step, nobody who can tell must not keep the traffic on the bad side.
#[tokio::test(start_paused = true)]
async fn metrics_that_are_down_do_not_stop_it_between_two_steps() {
    let blue_green = || FakePlatform::new().release("1", Good).release("2", Bad).parts(FakeParts::BlueGreen).live("2");
    let blind = || Probe::new("metrics", |_: &Context| Health::Unknown(vec![]));
    let dir = tempfile::tempdir().unwrap();
    let shop = blue_green();
    let press = Rollback::of(shop.clone()).healthy_when(blind()).using(BlueGreen::default()).spool(dir.path());
    let report = press.break_glass("down").await;
    assert!(shop.is_live("1"), "{report}");
    lost(&report, "health of", "unknown");
    // Unhealthy is another matter.
    let shop = blue_green();
    let ill = Probe::new("smoke", |_: &Context| Health::Unhealthy(vec![]));
    let press = Rollback::of(shop.clone()).healthy_when(ill).using(BlueGreen::default()).spool(dir.path());
    let report = press.break_glass("down").await;
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    assert!(shop.is_live("2"));
}

#[tokio::test]
async fn freezes_fail_and_hang() {
    let place = Place::new().await;
    let report = glass(&place, place.journal())
        .freezing(FreezeFile::new(place.path("no/such/folder/frozen.json")))
        .freezing(Stuck("gitops"))
        .freezing(FreezeFile::new(place.path("frozen.json")))
        .break_glass("down")
        .await;
    recovered(&place, &report);
    lost(&report, "freeze file", "No such file");
    lost(&report, "freeze gitops", "no answer");
    // The one that could be is held, and said to be.
    assert_eq!(report.frozen().len(), 1);
    assert_eq!(FreezeFile::new(place.path("frozen.json")).held().await.unwrap().len(), 1);
    let text = report.to_string();
    assert!(text.contains("NOT frozen"), "{report}");
    // Of the one that did not answer nobody knows.
    assert_eq!(report.maybe_frozen().len(), 1);
    assert!(text.contains("whether gitops is frozen is not known"), "{report}");
    assert!(report.to_do().iter().any(|what| what.starts_with("look whether the freeze gitops holds")), "{report}");
}

#[tokio::test]
async fn nobody_is_there_to_approve_and_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2").needs_approval("drops a column");
    let report = Rollback::of(shop.clone())
        .journal(MemoryJournal::new())
        .spool(dir.path())
        .policy(fast())
        .observer(Deaf)
        .break_glass("down")
        .await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(shop.is_live("1"));
}

#[tokio::test]
async fn a_trial_is_not_waited_for() {
    let place = Place::new().await;
    let report = glass(&place, place.journal()).tried_first_by(never()).break_glass("down").await;
    recovered(&place, &report);
    lost(&report, "trial by staging", "does not wait");
}

/// Never knows.
fn never() -> impl Verifier {
    let unknown = |_: Context| async { Ok(Verdict::Unknown(vec![])) };
    Verify::with("staging", Window::default().with_within(hours(1)), unknown)
}

/// The release directory, but for its evidence.
#[derive(Debug)]
struct Silent(ReleaseDir);
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Target for Silent {
    fn id(&self) -> &TargetId {
        self.0.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.0.observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.0.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.0.prepare(change, work).await
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.0.apply(approved, token, work).await
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        self.0.recorder()
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(NoEnd))
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        self.0.strategy()
    }
    fn nudges(&self) -> Option<Nudges> {
        self.0.nudges()
    }
}
#[derive(Debug)]
struct NoEnd;
#[async_trait]
impl EvidenceSource for NoEnd {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        assert!(bounds.time <= seconds(5), "{bounds:?}");
        let mut log = work.keep("log").await?;
        log.push(b"the first of many").await?;
        log.seal().await?;
        std::future::pending().await
    }
}

#[tokio::test]
async fn evidence_that_does_not_end() {
    let place = Place::new().await;
    let began = Instant::now();
    let report = Rollback::of(Silent(place.service()))
        .journal(place.journal())
        .spool(place.spool())
        .policy(fast())
        .break_glass("down")
        .await;
    recovered(&place, &report);
    lost(&report, "evidence", "no answer");
    // What was sealed until then is kept.
    let [kept] = report.evidence() else { panic!("{report}") };
    assert_eq!(kept.digest, rollback_core::Digest::of(b"the first of many"));
    assert!(began.elapsed() < seconds(10), "{:?}", began.elapsed());
    assert!(Policy::break_glass().evidence <= seconds(5));
}

/// A folder that cannot be made.
fn no_folder(place: &Place) -> std::path::PathBuf {
    fs::write(place.path("file"), "").unwrap();
    place.path("file/spool")
}

#[tokio::test]
async fn the_spool_cannot_be_written() {
    // With a journal the spool is only missed for its trace.
    let place = Place::new().await;
    let report = glass(&place, place.journal()).spool(no_folder(&place)).break_glass("down").await;
    recovered(&place, &report);
    lost(&report, "spool", "could not");
    assert_eq!(Report::of(&place.journal(), report.run()).await.unwrap().outcome(), &Outcome::Recovered);
    // Without either, the record is in memory, and it says so.
    let place = Place::new().await;
    let journal = SqliteJournal::open(place.path("no/journal.db"));
    let report = glass(&place, journal).spool(no_folder(&place)).break_glass("down").await;
    recovered(&place, &report);
    lost(&report, "journal and lock", "directory");
    lost(&report, "spool", "could not");
    assert_eq!(report.spooled(), None);
    assert!(report.to_do().iter().any(|what| what.contains("memory")), "{report}");
}

#[tokio::test]
async fn everything_at_once() {
    let place = Place::new().await;
    fs::write(place.journal_path(), "this is no journal").unwrap();
    let began = Instant::now();
    let report = Rollback::of(Silent(place.service()))
        .journal(SqliteJournal::open(place.journal_path()))
        .freezing(Stuck("gitops"))
        .freezing(FreezeFile::new(place.path("no/frozen.json")))
        .tried_first_by(never())
        .healthy_when(Tcp::connect(dead()).unwrap())
        .recovered_when(Verifiers::from(Runs::wanted()))
        .using(Direct::default().with_settle_within(seconds(2)))
        .observer(Deaf)
        .spool(no_folder(&place))
        .policy(fast())
        .break_glass("all of it is down")
        .await;
    assert_eq!(place.live(), "2", "{report}");
    for (what, why) in [
        ("journal and lock", "not a journal"),
        ("freeze gitops", "no answer"),
        ("freeze file", "No such file"),
        ("evidence", "no answer"),
        ("spool", "could not"),
        ("trial by staging", "does not wait"),
    ] {
        lost(&report, what, why);
    }
    // Nobody knows whether it helped.
    assert!(matches!(report.outcome(), Outcome::NotRecovered { .. } | Outcome::Stuck { .. }), "{report}");
    assert!(began.elapsed() < seconds(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn with_neither_lock_nor_ledger_it_says_so() {
    let place = Place::new().await;
    // Its spool is in the user's state folder: here, one of its own.
    if std::env::var_os("XDG_STATE_HOME").is_none_or(|dir| !Path::new(&dir).ends_with("of-a-test")) {
        let name = "with_neither_lock_nor_ledger_it_says_so";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let out = again.args([name, "--exact", "--nocapture"]).env("XDG_STATE_HOME", place.path("of-a-test")).output();
        let out = out.unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("1 passed"), "{said} {}", String::from_utf8_lossy(&out.stderr));
        assert!(place.path("of-a-test/rollback").is_dir());
        return;
    }
    let target = place.service();
    let report = Rollback::break_glass_on(&target, "down").await;
    recovered(&place, &report);
    lost(&report, "journal and lock", "neither lock nor ledger");
    lost(&report, "journal and lock", "which releases are known bad");
    spooled(&report);
    let again = Rollback::break_glass_on(&target, "down, again").await;
    assert!(matches!(again.outcome(), Outcome::Refused { lift, .. } if lift.contains("name it")), "{again}");
    assert_eq!(place.live(), "2");
}

// ---- pressed twice --------------------------------------------------------------------------------------------------

fn stays(report: &Report) {
    assert!(matches!(report.outcome(), Outcome::Refused { lift, .. } if lift.contains("name it")), "{report}");
    assert_eq!(report.writes(), 0);
}

#[tokio::test]
async fn pressed_twice_the_trace_on_the_target_keeps_it() {
    let place = Place::new().await;
    let broken = || SqliteJournal::open(place.path("no/journal.db"));
    let press = |n: u32| Rollback::of(place.service()).journal(broken()).spool(place.path(&format!("spool-{n}")));
    recovered(&place, &press(1).policy(fast()).break_glass("down").await);
    // Another machine: another spool.
    stays(&press(2).policy(fast()).break_glass("down, again").await);
    assert_eq!(place.live(), "2");
    let named = press(3).policy(fast()).blaming("2").break_glass("2 is bad, too").await;
    assert_eq!(named.outcome(), &Outcome::Recovered, "{named}");
    assert_eq!(place.live(), "1");
    // A new deploy is a new beginning.
    place.service().deploy("3").await.unwrap();
    let fresh = press(4).policy(fast()).break_glass("down").await;
    assert_eq!((fresh.outcome(), place.live().as_str()), (&Outcome::Recovered, "2"), "{fresh}");
}

fn forgetful() -> FakePlatform {
    FakePlatform::new().release("0", Good).release("1", Good).release("2", Bad).live("2").holds_trace(false)
}

#[tokio::test(start_paused = true)]
async fn pressed_twice_the_spool_keeps_it() {
    for renumbers in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let shop = if renumbers { forgetful().renumbers() } else { forgetful() };
        let press = || {
            let broken: Result<MemoryJournal> = Err(rollback_core::Error::new(Kind::Unavailable, "open the journal"));
            Rollback::of(shop.clone()).journal(broken).spool(dir.path())
        };
        assert_eq!(press().break_glass("down").await.outcome(), &Outcome::Recovered);
        stays(&press().break_glass("down, again").await);
        assert!(shop.is_live("1"), "renumbers {renumbers}");
    }
}

#[tokio::test(start_paused = true)]
async fn pressed_twice_the_ledger_keeps_it() {
    for renumbers in [false, true] {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        let shop = if renumbers { forgetful().renumbers() } else { forgetful() };
        let journal = MemoryJournal::new();
        // Neither the target nor the spool holds a trace.
        let press = || Rollback::of(shop.clone()).journal(journal.clone()).spool(place.path().join("file/no/spool"));
        assert_eq!(press().break_glass("down").await.outcome(), &Outcome::Recovered);
        stays(&press().break_glass("down, again").await);
        assert!(shop.is_live("1"), "renumbers {renumbers}");
        let named = press().blaming("1").break_glass("1 is bad, too").await;
        assert_eq!(named.outcome(), &Outcome::Recovered, "{named}");
        assert!(shop.is_live("0"));
    }
}

// ---- handed over to a journal that is there again ------------------------------------------------------------------

/// Broken with everything but a journal: its report, and the folder of its spool.
async fn without_a_journal(place: &Place) -> (Report, Spool) {
    let report = glass(place, SqliteJournal::open(place.path("no/journal.db")))
        .freezing(FreezeFile::new(place.path("frozen.json")))
        .break_glass("down")
        .await;
    recovered(place, &report);
    (report, Spool::new(place.spool()))
}
/// As they are in a journal.
fn under(epoch: u64, lines: &[Line]) -> Vec<Line> {
    let under = |l: &Line| Line::new(l.seq, epoch, l.at, l.elapsed, l.acted, l.entry.clone());
    lines.iter().map(under).collect()
}

#[tokio::test]
async fn the_record_is_handed_over_with_all_that_it_says() {
    let place = Place::new().await;
    let (report, spool) = without_a_journal(&place).await;
    let journals: [Arc<dyn Journal>; 2] = [Arc::new(MemoryJournal::new()), Arc::new(place.journal())];
    for journal in journals {
        // Again, it changes nothing.
        for _ in 0..2 {
            spool.hand_over(report.run(), &journal).await.unwrap();
            let there = Report::of(&journal, report.run()).await.unwrap();
            assert_eq!(there.lines(), under(1, report.lines()));
            assert_eq!((there.outcome(), there.intent().why.as_str()), (&Outcome::Recovered, "down"));
            assert_eq!(journal.runs(&RunQuery::all()).await.unwrap().len(), 1);
        }
        let ledger = journal.ledger(report.target()).await.unwrap();
        let failed = ledger.iter().find(|e| e.standing == Standing::Failed).unwrap();
        assert_eq!((failed.release.id.as_str(), failed.run.as_ref()), ("3", Some(report.run())));
        let [kept] = report.evidence() else { panic!("{report}") };
        assert!(journal.shelf().read(kept).await.unwrap().next().await.unwrap().is_some());
        assert_eq!(journal.holds().await.unwrap().len(), 1);
    }
    let freezes: [Arc<dyn Freeze>; 1] = [Arc::new(FreezeFile::new(place.path("frozen.json")))];
    let ends = unfreeze(&place.journal(), &freezes, report.run(), "me", Timestamp::now()).await.unwrap();
    assert_eq!(ends.iter().map(|e| e.end.clone()).collect::<Vec<_>>(), [FreezeEnd::Lifted]);
}

#[tokio::test]
async fn a_record_of_which_the_journal_took_the_beginning_is_handed_over_once() {
    for n in [3, 6, 9] {
        let place = Place::new().await;
        let lossy = Between::new(place.journal(), move |call| match call {
            Call::Append(last) if last >= n => Fate::Fails,
            _ => Fate::Goes,
        });
        let report = glass(&place, lossy).break_glass("down").await;
        recovered(&place, &report);
        for journal in [place.journal(), place.journal()] {
            Spool::new(place.spool()).hand_over(report.run(), &journal).await.unwrap();
            let there = Report::of(&journal, report.run()).await.unwrap();
            assert_eq!(under(0, there.lines()), under(0, report.lines()), "{n}");
        }
    }
}

#[tokio::test]
async fn what_the_journal_has_heard_since_then_stands() {
    let place = Place::new().await;
    let (report, spool) = without_a_journal(&place).await;
    let (journal, at) = (MemoryJournal::new(), Timestamp::now().after(hours(1)));
    let later = LedgerEntry::new(Release::new("2"), Standing::Failed, at, "it failed a day later");
    journal.mark(report.target(), &later).await.unwrap();
    spool.hand_over(report.run(), &journal).await.unwrap();
    spool.hand_over(report.run(), &journal).await.unwrap();
    let ledger = journal.ledger(report.target()).await.unwrap();
    assert!(ledger.contains(&later) && ledger.len() == 2, "{ledger:?}");
}

#[tokio::test]
async fn a_damaged_record_is_said_to_be_and_hands_nothing_over() {
    let place = Place::new().await;
    let (report, spool) = without_a_journal(&place).await;
    let (path, journal) = (report.spooled().unwrap(), MemoryJournal::new());
    let text = fs::read_to_string(path).unwrap();
    let without_the_third: String =
        text.split_inclusive('\n').enumerate().filter(|(n, _)| *n != 2).map(|(_, l)| l).collect();
    for (damaged, why) in [
        (text[..text.len() - 20].to_owned(), "line"),
        (text[..text.len() - 1].to_owned(), "torn"),
        (without_the_third, "line 2 of the run is missing"),
        (text.replacen('{', "[", 1), "line 1"),
    ] {
        fs::write(path, damaged).unwrap();
        let error = spool.hand_over(report.run(), &journal).await.unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.to_string().contains(why), "{why}: {error}");
    }
    let unknown = spool.hand_over(&"another".into(), &journal).await.unwrap_err();
    assert_eq!(unknown.kind(), Kind::NotFound);
    assert_eq!(journal.runs(&RunQuery::all()).await.unwrap(), []);
}

#[tokio::test]
async fn a_record_without_an_end_is_ended_and_no_other_run_is_touched_for_it() {
    let place = Place::new().await;
    let (report, spool) = without_a_journal(&place).await;
    let path = report.spooled().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let until: String = text.split_inclusive('\n').take(report.lines().len() - 2).collect();
    fs::write(path, until).unwrap();
    let journal = MemoryJournal::new();
    let other = rollback_core::Intent::new("other".into(), report.target().clone(), "ann", "500s");
    journal.begin(&other).await.unwrap();
    let error = spool.hand_over(report.run(), &journal).await.unwrap_err();
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("run other has not ended"), "{error}");
    let runs = journal.runs(&RunQuery::all()).await.unwrap();
    assert!(runs.len() == 1 && runs[0].outcome.is_none(), "{runs:?}");

    let journal = MemoryJournal::new();
    for _ in 0..2 {
        spool.hand_over(report.run(), &journal).await.unwrap();
        let there = Report::of(&journal, report.run()).await.unwrap();
        assert!(matches!(there.outcome(), Outcome::Stuck { at, .. } if at.contains("process died")), "{there}");
        assert_eq!(there.lines().len(), report.lines().len() - 1);
    }
}

// ---- while another run holds the lock -------------------------------------------------------------------------------

#[tokio::test]
async fn a_held_lock_is_taken_over_and_the_other_writes_nothing_more() {
    let place = Place::new().await;
    let journal = place.journal();
    let lease = Duration::from_millis(300);
    let first = Rollback::of(place.service())
        .journal(journal.clone())
        .run_id("first")
        .to(Choose::previous())
        .recovered_when(never())
        .policy(fast().with_lease(lease));
    // The other one writes, and waits for a verifier that never knows.
    let second = async {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < seconds(30));
            let runs = journal.runs(&RunQuery::of_run(&"first".into())).await.unwrap();
            if runs.first().is_some_and(|run| run.lines > 0) && place.live_if_any().as_deref() == Some("2") {
                break;
            }
            tokio::task::yield_now().await;
        }
        glass(&place, place.journal()).blaming("2").break_glass("still down").await
    };
    let (first, second) = tokio::join!(first.run(), second);
    let (first, second) = (first.unwrap(), second);
    assert_eq!((second.outcome(), place.live().as_str()), (&Outcome::Recovered, "1"), "{second}");
    assert!(matches!(first.outcome(), Outcome::Superseded { .. }), "{first}");
    // Whoever took over has ended it in the journal, once, and it has written nothing since.
    let (_, lines) = journal.read(&"first".into()).await.unwrap();
    let ends = lines.iter().filter(|l| matches!(l.entry, rollback_core::Entry::Ended(_))).count();
    assert_eq!(ends, 1);
    let Some(rollback_core::Entry::Ended(outcome)) = lines.last().map(|l| &l.entry) else { panic!("{lines:?}") };
    let Outcome::Superseded { by } = &**outcome else { panic!("{outcome:?}") };
    assert!(by.contains(second.run().as_str()) || by.contains(&second.intent().who), "{by}");
}

/// Somebody broke the glass without the journal while a run lay unfinished: whoever goes on with that run leaves alone what
/// was verified meanwhile, although all that serves was there before. The trace is on the target, or in the spool of the
/// same user.
#[tokio::test(start_paused = true)]
async fn a_run_that_was_left_does_not_undo_what_the_glass_was_broken_for() {
    let mut left = 0;
    for on_target in [true, false] {
        for n in 1..40 {
            let dir = tempfile::tempdir().unwrap();
            let shop = FakePlatform::new().parts(FakeParts::PerRelease).holds_trace(on_target);
            let shop = shop.release("0", Good).release("1", Good).release("2", Bad).live("2");
            let journal = MemoryJournal::new();
            let back = |journal: Between| {
                let back = Rollback::of(shop.clone()).journal(journal).to(Choose::exactly("0")).because("500s");
                back.spool(dir.path().join("one"))
            };
            let stops = Between::new(journal.clone(), move |call| match call {
                Call::Append(last) if last >= n => Fate::Hangs,
                _ => Fate::Goes,
            });
            if tokio::time::timeout(seconds(20), back(stops).run()).await.is_ok() {
                break;
            }
            let broken: Result<MemoryJournal> = Err(rollback_core::Error::new(Kind::Unavailable, "open the journal"));
            let spool = dir.path().join(if on_target { "another" } else { "one" });
            let glass = Rollback::of(shop.clone()).journal(broken).spool(spool).to(Choose::exactly("1"));
            let blamed = if shop.is_live("0") { "0" } else { "2" };
            let glass = glass.blaming(blamed).break_glass("down").await;
            assert_eq!((glass.outcome(), shop.is_live("1")), (&Outcome::Recovered, true), "{glass}");
            let writes = shop.effects();
            tokio::time::sleep(minutes(1)).await;
            let report = back(Between::new(journal.clone(), |_| Fate::Goes)).run().await.unwrap();
            // One that had not chosen yet is asked to name the suspect.
            let asked = matches!(report.outcome(), Outcome::Refused { lift, .. } if lift.contains("name it"));
            let by_glass = matches!(report.outcome(), Outcome::Superseded { by } if by.contains(glass.run().as_str()));
            assert!(asked || by_glass, "left at {n}: {report}");
            assert_eq!(shop.effects(), writes, "left at {n}: {report}");
            left += u32::from(by_glass);
        }
    }
    assert!(left >= 8, "{left}");
}

#[tokio::test]
async fn what_cannot_be_undone_still_needs_its_word() {
    let dir = tempfile::tempdir().unwrap();
    let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2").irreversible();
    let press = |policy: Policy| Rollback::of(shop.clone()).spool(dir.path()).policy(policy).break_glass("down");
    let without = press(fast()).await;
    assert!(
        matches!(without.outcome(), Outcome::Refused { lift, .. } if lift.contains("cannot be undone")),
        "{without}"
    );
    assert_eq!(shop.effects(), []);
    assert_eq!(press(fast().with_irreversible(true)).await.outcome(), &Outcome::Recovered);
}
