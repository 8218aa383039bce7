//! Bad input in plenty, on real targets with the real journal: each time a clear error or a named outcome that says what to
//! do next, and nothing lost: what was live still is, the journal is whole, and the run is over or can be gone on with.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use rollback_core::{
    Entry, Freeze, Hold, Payload, RunQuery, Stored,
    freeze::FreezeFile,
    health::Http,
    local::{CommandOptions, CommandTarget, ReleaseDir, Tool},
    prelude::*,
    testing::FakePlatform,
};
use rollback_tests::place::{Place, tamper};
use std::{
    fmt, fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

fn fast() -> Policy {
    Policy::default().with_poll(Duration::from_millis(20)).with_reply_within(seconds(2))
}
fn flow(target: impl Target, journal: impl IntoJournal) -> Rollback {
    Rollback::of(target)
        .because("500s since 3")
        .to(Choose::verified().or_previous())
        .using(Direct::default().with_settle_within(seconds(1)))
        .journal(journal)
        .policy(fast())
}

/// Nothing was touched; why, and what would lift it.
fn refused(report: &Report, why: &str, lift: &str) {
    let Outcome::Refused { why: said, lift: way } = report.outcome() else { panic!("{report}") };
    assert!(said.contains(why), "{report}");
    assert!(way.contains(lift), "{report}");
    assert_eq!(report.writes(), 0);
    shown(report);
}
/// It was begun; where it stopped, and what a person can do.
fn stuck(report: &Report, at: &str) {
    let Outcome::Stuck { at: said, human, .. } = report.outcome() else { panic!("{report}") };
    assert!(said.contains(at), "{report}");
    assert!(!human.is_empty());
    shown(report);
}
/// For whoever reads them all once: `--nocapture`.
fn shown(report: &Report) {
    assert!(!report.to_do().is_empty(), "{report}");
    println!("{report}");
}
/// No run of the journal is unfinished, and all of them can be read.
async fn whole(journal: &SqliteJournal) {
    for run in journal.runs(&RunQuery::all()).await.unwrap() {
        let (_, lines) = journal.read(&run.run).await.unwrap();
        assert!(matches!(lines.last().map(|l| &l.entry), Some(Entry::Ended(_))), "{lines:?}");
        assert_eq!(run.driven_by, None);
    }
}

/// Something happens between preparing a change and making it, where freezes have their place.
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);
impl Meanwhile {
    fn new(what: impl FnOnce() + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(what))))
    }
}
impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}
#[derive(serde::Serialize, serde::Deserialize)]
struct Nothing;
impl Stored for Nothing {
    const NAME: &'static str = "test/nothing";
    const VERSION: u32 = 1;
}
#[async_trait]
impl Freeze for Meanwhile {
    fn name(&self) -> String {
        "meanwhile".into()
    }
    async fn freeze(&self, _: &Hold) -> Result<Payload> {
        if let Some(what) = self.0.lock().unwrap().take() {
            what();
        }
        Payload::of(&Nothing)
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        Ok(vec![])
    }
    async fn unfreeze(&self, _: &Hold, _: Payload) -> Result<()> {
        Ok(())
    }
}
use rollback_core::Result;

/// Never knows, in a window that does not end.
fn never() -> Verify {
    let unknown = |_: Context| async { Ok(Verdict::Unknown(vec![])) };
    Verify::with("never", Window::default().with_within(hours(1)), unknown)
}

/// Left unfinished once it has written: the service is on release 2, and nobody knows whether it helped.
async fn left(place: &Place, journal: &SqliteJournal, rollback: Rollback) {
    let rollback = rollback.run_id("left");
    let run = rollback.run();
    let verifying = async {
        let began = Instant::now();
        loop {
            let lines = journal.read(&"left".into()).await.map(|(_, lines)| lines).unwrap_or_default();
            if lines.iter().any(|l| matches!(l.entry, Entry::Reached { .. })) {
                break;
            }
            assert!(began.elapsed() < seconds(30), "{lines:?}");
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        report = run => panic!("{report:?}"),
        () = verifying => {}
    }
    assert_eq!(place.live(), "2");
}

// ---- the order ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn releases_that_are_not_there() {
    let place = Place::new().await;
    let journal = place.journal();
    let go = |rollback: Rollback| async move { rollback.run().await.unwrap() };
    let flow = || flow(place.service(), journal.clone());
    refused(&go(flow().to(Choose::exactly("9"))).await, "does not know 9; the newest are 2, 1", "name one");
    refused(&go(flow().blaming("9")).await, "does not know the suspect 9", "name the release");
    refused(&go(flow().to(Choose::nth(7))).await, "no 7 usable releases before 3", "smaller number");
    refused(&go(flow().to(Choose::verified())).await, "ever verified", "the previous one will do");
    refused(&go(flow().to(Choose::exactly("../../etc"))).await, "does not know ../../etc", "name one");
    assert_eq!(flow().blaming("3").to(Choose::exactly("3")).run().await.unwrap_err().kind(), Kind::Invalid);
    // Not blamed, but live nowhere: there is nothing to leave.
    let elsewhere = go(flow().blaming("2")).await;
    assert_eq!(elsewhere.outcome(), &Outcome::NothingToDo, "{elsewhere}");
    assert_eq!((place.live().as_str(), place.hooks().len()), ("3", 1));
    whole(&journal).await;
}

#[tokio::test]
async fn an_empty_history() {
    let place = Place::bare();
    let journal = place.journal();
    for id in ["1", "2"] {
        fs::remove_dir_all(place.path("releases").join(id)).unwrap();
    }
    let report = flow(place.open(), journal.clone()).run().await.unwrap();
    refused(&report, "no usable release before 3 (1 known in all)", "import");
    // The link dangles, and there is not one release.
    fs::remove_dir_all(place.path("releases/3")).unwrap();
    let report = flow(place.open(), journal.clone()).run().await.unwrap();
    refused(&report, "history", "name the release");
    whole(&journal).await;
}

#[tokio::test]
async fn two_freezes_of_one_name() {
    let place = Place::bare();
    let freeze = || FreezeFile::new(place.path("frozen.json"));
    let e = flow(place.open(), place.journal()).freezing(freeze()).freezing(freeze()).run().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    assert!(e.to_string().contains("two freezes have the same name"), "{e}");
    assert!(!place.path("frozen.json").exists());
    let report = flow(place.open(), place.journal()).freezing(freeze()).freezing(freeze()).break_glass("down").await;
    refused(&report, "two freezes have the same name", "");
}

// ---- the target -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_release_deleted_before_and_midway() {
    let place = Place::new().await;
    let journal = place.journal();
    let gone = place.path("releases/2");
    let midway = Meanwhile::new(move || fs::remove_dir_all(gone).unwrap());
    let report = flow(place.service(), journal.clone()).freezing(midway).run().await.unwrap();
    refused(&report, "releases/2 is gone: put it back, or choose another release", "mend what is said");
    assert_eq!((place.live().as_str(), place.hooks().len()), ("3", 1));
    // Gone before it begins, it is passed over.
    let report = flow(place.service(), journal.clone()).to(Choose::exactly("2")).run().await.unwrap();
    refused(&report, "2 is known, but gone", "make it available again");
    let report = flow(place.service(), journal.clone()).run().await.unwrap();
    assert_eq!((report.outcome(), place.live().as_str()), (&Outcome::Recovered, "1"), "{report}");
    whole(&journal).await;
}

#[tokio::test]
async fn a_file_in_place_of_the_link() {
    for midway in [false, true] {
        let place = Place::new().await;
        let journal = place.journal();
        let current = place.path("current");
        let replace = move || {
            fs::remove_file(&current).unwrap();
            fs::write(&current, "mine").unwrap();
        };
        let mut rollback = flow(place.open(), journal.clone());
        if midway {
            rollback = rollback.freezing(Meanwhile::new(replace));
        } else {
            replace();
        }
        let report = rollback.run().await.unwrap();
        let text = report.to_string();
        assert!(text.contains("it is a file, not a link") && text.contains("move it away"), "{text}");
        assert!(matches!(report.outcome(), Outcome::Refused { .. } | Outcome::Stuck { .. }), "{report}");
        shown(&report);
        assert_eq!(fs::read_to_string(place.path("current")).unwrap(), "mine");
        whole(&journal).await;
    }
}

#[tokio::test]
async fn a_target_that_vanishes_midway() {
    let place = Place::bare();
    let elsewhere = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(elsewhere.path().join("journal.db")).unwrap();
    let (root, away) = (place.path(""), elsewhere.path().join("away"));
    let midway = Meanwhile::new(move || fs::rename(root, away).unwrap());
    let report = flow(place.open(), journal.clone()).freezing(midway).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. } | Outcome::Stuck { .. }), "{report}");
    shown(&report);
    assert!(report.to_string().contains("No such file"), "{report}");
    let link = fs::read_link(elsewhere.path().join("away/current")).unwrap();
    assert_eq!(link.to_str().unwrap(), "releases/3");
    whole(&journal).await;
    assert!(ReleaseDir::open(place.path("")).is_err());
}

#[tokio::test]
async fn a_hook_that_never_returns_or_fails() {
    // What hangs is not tried again: it would hang again. What fails at once is tried until the deadline.
    for (script, why, tries) in
        [("sleep 1000", "did not end within", 1..=1), ("echo no such unit >&2; exit 1", "no such unit", 2..=60)]
    {
        let place = Place::bare();
        let journal = place.journal();
        let hook = format!("test -e mended && exit 0; {script}");
        let target = || place.open().restart_with(["sh", "-c", &hook]).within(Duration::from_millis(200));
        let began = Instant::now();
        let report = flow(target(), journal.clone()).run().await.unwrap();
        assert!(began.elapsed() < seconds(20), "{:?}", began.elapsed());
        assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
        let text = report.to_string();
        // The first line alone says what failed, and the timeline says it once.
        let first = text.lines().next().unwrap();
        assert!(first.contains("the restart hook sh") && first.contains(why), "{text}");
        let timeline = text.lines().filter(|line| line.contains("step 1.1") && line.contains(why));
        assert!(timeline.count() <= 1, "{text}");
        // Nor is it sent as fast as it fails.
        let tried = report.lines().iter().filter(|l| matches!(l.entry, Entry::Unclear { .. })).count();
        assert!(tries.contains(&tried), "{tried}");
        shown(&report);
        whole(&journal).await;
        // Once it is mended, the same order finishes what was left: the link is right, and the service is restarted.
        fs::write(place.path("mended"), "").unwrap();
        let again = flow(target(), journal.clone()).blaming("3").to(Choose::exactly("2")).run().await.unwrap();
        assert_eq!(again.outcome(), &Outcome::Recovered, "{again}");
        assert_eq!(fs::read_link(place.path("current")).unwrap().to_str().unwrap(), "releases/2");
    }
}

#[tokio::test]
async fn a_tool_that_answers_no_json() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path().join("journal.db")).unwrap();
    let log = dir.path().join("log").display().to_string();
    let says = |text: &str| ["sh".to_owned(), "-c".to_owned(), format!("printf '%s' '{text}'")];
    let (state, releases) = (r#"{"running":"3"}"#, r#"["3","2","1"]"#);
    let apply = format!("echo applied >> {log}; echo Traceback");
    for (what, observe, history, tells) in [
        ("observe", "Traceback: no such table", releases, "Traceback"),
        ("observe", r#"{"runing":"3"}"#, releases, "runing"),
        ("observe", "", releases, "observe"),
        ("history", state, "<html>502</html>", "502"),
        ("history", state, "[3", "history"),
    ] {
        let options = CommandOptions::new()
            .with_observe(Tool::run(says(observe)))
            .with_history(Tool::run(says(history)))
            .with_apply(Tool::run(["sh", "-c", &apply]));
        let target = CommandTarget::new("tool:test", options).unwrap();
        let report = flow(target, journal.clone()).run().await.unwrap();
        refused(&report, tells, "");
        assert!(report.to_string().contains(what), "{report}");
    }
    assert!(!dir.path().join("log").exists());
    // It was applied, and said so in no JSON: nobody knows what it did. It is looked at, not sent again for ever.
    let options = CommandOptions::new()
        .with_observe(Tool::run(says(state)))
        .with_history(Tool::run(says(releases)))
        .with_apply(Tool::run(["sh", "-c", &apply]));
    let target = CommandTarget::new("tool:test", options).unwrap();
    let policy = fast().with_look_again_for(Duration::from_millis(100));
    let report = flow(target, journal.clone()).policy(policy).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    assert!(report.to_string().lines().next().unwrap().contains("Traceback"), "{report}");
    shown(&report);
    whole(&journal).await;
}

// ---- what watches ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_health_endpoint_that_hangs() {
    let place = Place::new().await;
    // It takes connections, and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let window = Window::default().with_within(Duration::from_millis(500)).with_every(Duration::from_millis(50));
    let began = Instant::now();
    let report = flow(place.service(), place.journal())
        .policy(fast().with_check_within(Duration::from_millis(200)))
        .recovered_when(Runs::wanted().and(HealthyNow::of(Http::get(&url).unwrap()).with_window(window)))
        .run()
        .await
        .unwrap();
    assert!(matches!(report.outcome(), Outcome::NotRecovered { .. }), "{report}");
    assert!(began.elapsed() < seconds(20), "{:?}", began.elapsed());
    shown(&report);
    assert_eq!(place.live(), "2");
    whole(&place.journal()).await;
}

#[tokio::test]
async fn a_verifier_that_panics_leaves_a_run_that_can_be_gone_on_with() {
    let place = Place::new().await;
    let journal = place.journal();
    let bad = Verify::with("bad", Window::default(), |_: Context| async { panic!("a bug of the caller") });
    let first = flow(place.service(), journal.clone()).recovered_when(bad).run_id("first");
    let ended = tokio::spawn(async move { first.run().await }).await;
    assert!(ended.unwrap_err().is_panic());
    let mended = Verify::with("bad", Window::default(), |_: Context| async { Ok(Verdict::Holds(vec![])) });
    let report = flow(place.service(), journal.clone()).recovered_when(mended).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!((report.run().as_str(), report.was_adopted()), ("first", true));
    assert_eq!(place.hooks().len(), 2);
}

// ---- the journal ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_journal_that_cannot_be_read() {
    let place = Place::new().await;
    fs::write(place.journal_path(), "notes of a meeting, and no journal").unwrap();
    let report = flow(place.service(), SqliteJournal::open(place.journal_path())).run().await.unwrap();
    refused(&report, "this file is not a journal", "break the glass");
    assert_eq!(fs::read_to_string(place.journal_path()).unwrap(), "notes of a meeting, and no journal");
    assert_eq!(place.live(), "3");
}

/// What is left unfinished cannot be read: nothing is guessed, and nobody is locked in.
#[tokio::test]
async fn a_damaged_run_is_neither_gone_on_with_nor_in_the_way() {
    for gap in [false, true] {
        let place = Place::new().await;
        let journal = place.journal();
        left(&place, &journal, flow(place.service(), journal.clone()).recovered_when(never())).await;
        drop(journal);
        if gap {
            let db = rusqlite::Connection::open(place.journal_path()).unwrap();
            assert_eq!(db.execute("DELETE FROM line WHERE seq = 2", []).unwrap(), 1);
        } else {
            tamper(&place.journal_path(), "line", "entry", "previous, unverified", "previous, UNVERIFIED");
        }
        let journal = place.journal();
        let report = flow(place.service(), journal.clone()).recovered_when(never()).run().await.unwrap();
        refused(&report, "damaged", "break the glass");
        assert_eq!(place.live(), "2");
        let glass = Rollback::of(place.service()).journal(journal.clone()).spool(place.spool()).policy(fast());
        let report = glass.blaming("2").break_glass("2 is bad, too").await;
        assert_eq!((report.outcome(), place.live().as_str()), (&Outcome::Recovered, "1"), "{report}");
        assert_eq!(report.losses(), []);
    }
}

#[tokio::test]
async fn the_target_was_made_anew_under_its_old_name() {
    let place = Place::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(elsewhere.path().join("journal.db")).unwrap();
    left(&place, &journal, flow(place.service(), journal.clone()).recovered_when(never())).await;
    // Another directory of that name, as after a restore.
    let root = place.path("");
    fs::rename(&root, elsewhere.path().join("old")).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(elsewhere.path().join("old")).arg(&root).status();
    assert!(copied.unwrap().success());
    let report = flow(place.service(), journal.clone()).recovered_when(never()).run().await.unwrap();
    stuck(&report, "and the run began on");
    assert_eq!(fs::read_link(root.join("current")).unwrap().to_str().unwrap(), "releases/2");
    whole(&journal).await;
    fs::remove_dir_all(root.join("releases/none")).unwrap_err();
}

#[tokio::test]
async fn a_program_that_lacks_what_the_run_was_begun_with() {
    let place = Place::new().await;
    let journal = place.journal();
    let first = || {
        flow(place.service(), journal.clone())
            .freezing(FreezeFile::new(place.path("frozen.json")))
            .healthy_when(rollback_core::health::Probe::new("smoke", |_: &Context| Health::Healthy(vec![])))
    };
    left(&place, &journal, first().recovered_when(Runs::wanted().and(never()))).await;
    let lacking = flow(place.service(), journal.clone());
    let _ = lacking.run().await.unwrap();
    let lines = journal.read(&"left".into()).await.unwrap().1.len();
    let report = lacking.run().await.unwrap();
    stuck(&report, "this program lacks its verifier never, health check smoke");
    assert!(report.to_string().contains("run the program that began it"), "{report}");
    // It is as it was, for the program that has all of it.
    assert_eq!(journal.read(&"left".into()).await.unwrap().1.len(), lines);
    // Called otherwise, it is gone on with, and said.
    let report = first().recovered_when(Runs::wanted().and(HealthyNow::new())).run().await.unwrap();
    assert_eq!((report.run().as_str(), report.outcome()), ("left", &Outcome::Recovered), "{report}");
    assert!(report.losses().iter().any(|(what, _)| *what == "verifier never"), "{report}");
    assert_eq!(place.hooks().len(), 2);
}

#[tokio::test]
async fn a_run_can_be_given_up() {
    let place = Place::new().await;
    let journal = place.journal();
    left(&place, &journal, flow(place.service(), journal.clone()).recovered_when(never())).await;
    journal.give_up(&"left".into(), "ann", "the program is gone").await.unwrap();
    let report = Report::of(&journal, &"left".into()).await.unwrap();
    stuck(&report, "");
    assert!(report.to_string().contains("ann") && report.to_string().contains("the program is gone"), "{report}");
    whole(&journal).await;
    let report = flow(place.service(), journal.clone()).blaming("2").run().await.unwrap();
    assert_eq!((report.outcome(), place.live().as_str()), (&Outcome::Recovered, "1"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_platform_without_releases() {
    let report = flow(FakePlatform::new(), MemoryJournal::new()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    shown(&report);
    let _ = Arc::new(report);
}
