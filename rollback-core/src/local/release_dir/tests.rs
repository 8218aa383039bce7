#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Effect, Mark, PartId, journal::MemoryShelf};
use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

/// A root with three releases, the last of them current, and a hook that logs its key and its release.
struct Place {
    dir: TempDir,
    shelf: MemoryShelf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for id in ["1", "2", "3"] {
            let release = dir.path().join("releases").join(id);
            fs::create_dir_all(&release).unwrap();
            fs::write(release.join("app"), format!("release {id}")).unwrap();
        }
        symlink("releases/3", dir.path().join("current")).unwrap();
        Self { dir, shelf: MemoryShelf::new() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn open(&self) -> ReleaseDir {
        ReleaseDir::open(self.dir.path()).unwrap()
    }
    /// A hook that logs, then goes on with the script.
    fn logging(&self, script: &str) -> ReleaseDir {
        let script = format!(r#"echo "$ROLLBACK_KEY $ROLLBACK_RELEASE" >> hook.log; {script}"#);
        self.open().restart_with(["sh", "-c", &script])
    }
    fn log(&self) -> Vec<String> {
        fs::read_to_string(self.path("hook.log")).unwrap_or_default().lines().map(Into::into).collect()
    }
    fn link(&self) -> String {
        fs::read_link(self.path("current")).unwrap().to_str().unwrap().into()
    }
    fn work_of(&self, run: &str) -> Work {
        Work::new(RunId::from(run), 1, "1.1", crate::minutes(1), Arc::new(self.shelf.clone()))
    }
    fn work(&self) -> Work {
        self.work_of("run")
    }
    async fn approved(&self, target: &ReleaseDir, to: &str) -> Approved {
        target.prepare(&onto(to), &self.work()).await.unwrap().approved
    }
}

fn onto(release: &str) -> Change {
    Change::release(&PartId::from("all"), &release.into())
}

async fn look(target: &ReleaseDir) -> Observation {
    target.observe(Look::full()).await.unwrap()
}

fn all(seen: &Observation) -> &PartState {
    &seen.parts["all"]
}

#[tokio::test]
async fn swaps_once_and_restarts_with_the_key() {
    let place = Place::new();
    let target = place.logging("");
    let approved = place.approved(&target, "2").await;
    let before = look(&target).await;
    assert!(all(&before).runs(&"3".into()));
    target.apply(&approved, before.token, &place.work()).await.unwrap();
    assert_eq!(place.link(), "releases/2");
    assert_eq!(place.log(), ["run/1.1 2"]);
    let after = target.observe(Look::full().with_mark(Some(Mark::new("run/1.1")))).await.unwrap();
    assert!(all(&after).runs(&"2".into()));
    assert_eq!((&all(&after).settled, &after.ours), (&Settled::Yes, &Ours::Complete));
    // The same again, with a fresh token, has no further effect.
    target.apply(&approved, after.token, &place.work()).await.unwrap();
    assert_eq!(place.log(), ["run/1.1 2"]);
}

#[tokio::test]
async fn a_swap_in_between_is_a_conflict_also_away_and_back() {
    let place = Place::new();
    let target = place.logging("");
    let approved = place.approved(&target, "2").await;
    let seen = look(&target).await;
    for to in ["releases/1", "releases/3"] {
        fs::remove_file(place.path("current")).unwrap();
        symlink(to, place.path("current")).unwrap();
        let e = target.apply(&approved, seen.token.clone(), &place.work()).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
        assert_eq!((place.link().as_str(), place.log().len()), (to, 0));
    }
}

#[tokio::test]
async fn a_crash_between_swap_and_hook_is_never_foreign_and_the_hook_runs_with_the_same_key() {
    let place = Place::new();
    let plain = place.logging("");
    let found = look(&plain).await.found();
    let approved = place.approved(&plain, "2").await;
    // The crash: all that is done before the hook runs.
    let seen = look(&plain).await;
    let ask = Asked {
        key: "run/1.1".into(),
        run: "run".into(),
        epoch: 1,
        trace: None,
        wanted: "2".into(),
        seen: seen.token.read().unwrap(),
        runs: false,
        hook: true,
    };
    plain.layout.make_own().unwrap();
    swap(&plain.layout, &ask).unwrap().unwrap();
    // Without a process to ask: between the two. With one: the old one still runs.
    let asked = plain.clone().running_from(RunningSource::ask("a test", || async { Ok(Some("3".into())) }));
    for (target, running) in [(&plain, None), (&asked, Some(Running::Release("3".into())))] {
        let mark = Some(Mark::new("run/1.1"));
        let half = target.observe(Look::full().with_mark(mark)).await.unwrap();
        assert_eq!(half.foreign(&found, &[onto("2")]), None);
        assert_eq!(all(&half).wanted, Some("2".into()));
        assert!(!all(&half).runs(&"2".into()));
        assert!(matches!(all(&half).settled, Settled::NotYet { .. }));
        assert_eq!(half.ours, Ours::Current);
        match running {
            Some(running) => assert_eq!(all(&half).running, running),
            None => assert!(matches!(all(&half).running, Running::Between { .. })),
        }
    }
    let inode = look(&plain).await.token.read::<LinkSeen>().unwrap().inode;
    let token = look(&plain).await.token;
    plain.apply(&approved, token, &place.work()).await.unwrap();
    assert_eq!(place.log(), ["run/1.1 2"]);
    assert_eq!(look(&plain).await.token.read::<LinkSeen>().unwrap().inode, inode, "the link was not swapped twice");
    assert_eq!(all(&look(&plain).await).settled, Settled::Yes);
}

#[tokio::test]
async fn a_failing_hook_has_an_unknown_effect_and_runs_again() {
    let place = Place::new();
    let target = place.logging("echo no such unit >&2; exit $([ -e ok ]; echo $?)");
    let approved = place.approved(&target, "2").await;
    let e = target.apply(&approved, look(&target).await.token, &place.work()).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unexpected, Effect::Unknown));
    assert!(e.to_string().contains("the restart hook sh failed (exit 1): no such unit"), "{e}");
    assert!(matches!(all(&look(&target).await).settled, Settled::NotYet { .. }));
    fs::write(place.path("ok"), "").unwrap();
    target.apply(&approved, look(&target).await.token, &place.work()).await.unwrap();
    assert_eq!(place.log(), ["run/1.1 2", "run/1.1 2"]);
    assert!(all(&look(&target).await).runs(&"2".into()));
}

#[tokio::test]
async fn a_hook_that_goes_on_failing_is_not_run_for_ever() {
    let place = Place::new();
    let target = place.logging("echo no such unit >&2; exit 1");
    let approved = place.approved(&target, "2").await;
    for nth in 1..=HOOK_TRIES {
        assert!(matches!(all(&look(&target).await).settled, Settled::NotYet { .. } | Settled::Yes), "before {nth}");
        target.apply(&approved, look(&target).await.token, &place.work()).await.unwrap_err();
    }
    let seen = look(&target).await;
    let Settled::Never { why } = &all(&seen).settled else { panic!("it is hopeless: {seen:?}") };
    assert!(why.contains("no such unit") && why.contains("5 times"), "{why}");
    assert_eq!(place.link(), "releases/2");
}

#[tokio::test]
async fn a_hook_that_never_returns_is_killed_at_its_limit() {
    let place = Place::new();
    let target = place.logging("sleep 1000").within(Duration::from_millis(300));
    let approved = place.approved(&target, "2").await;
    let e = target.apply(&approved, look(&target).await.token, &place.work()).await.unwrap_err();
    assert_eq!(e.effect(), Effect::Unknown);
    assert!(e.to_string().contains("the restart hook sh did not end within 300ms"), "{e}");
    assert!(!e.to_string().contains("could not run") && !e.is_transient(), "{e}");
    assert!(matches!(all(&look(&target).await).settled, Settled::Never { .. }), "once more will not help");
    assert_eq!(place.link(), "releases/2");
    // The lock is free again.
    place.open().deploy("1").await.unwrap();
}

#[tokio::test]
async fn a_run_ends_early_where_the_hook_hangs_and_the_next_one_tries_it_again() {
    use crate::{Choose, Outcome, Rollback};
    let place = Place::new();
    let target = place.logging("[ -e ok ] || sleep 1000").within(Duration::from_millis(300));
    let order = Rollback::of(target.clone()).blaming("3").to(Choose::exactly("2"));
    let began = std::time::Instant::now();
    let report = order.run().await.unwrap();
    assert!(report.to_string().contains("the restart hook sh did not end within"), "{report}");
    assert!(!report.outcome().is_good(), "{report}");
    assert!(began.elapsed() < seconds(30), "it did not go on until its deadline: {:?}", began.elapsed());
    assert_eq!(place.log().len(), 1, "the hook was not run again: {report}");
    fs::write(place.path("ok"), "").unwrap();
    let report = order.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(place.log().len(), 2);
}

#[tokio::test]
async fn two_at_once_one_swaps_and_the_other_is_told() {
    let place = Place::new();
    let (one, other) = (place.logging("sleep 0.2"), place.logging("sleep 0.2"));
    let (to_1, to_2) = (place.approved(&one, "1").await, place.approved(&one, "2").await);
    let token = look(&one).await.token;
    let (works, token_2) = ((place.work(), place.work_of("other")), token.clone());
    let (a, b) = tokio::join!(one.apply(&to_1, token, &works.0), other.apply(&to_2, token_2, &works.1));
    let (won, lost) = if a.is_ok() { ("releases/1", b) } else { ("releases/2", a) };
    assert_eq!(lost.unwrap_err().kind(), Kind::Conflict);
    assert_eq!((place.link().as_str(), place.log().len()), (won, 1));
}

#[tokio::test]
async fn a_file_in_place_of_the_link_is_left_as_it_is() {
    let place = Place::new();
    let target = place.logging("");
    let approved = place.approved(&target, "2").await;
    let token = look(&target).await.token;
    fs::remove_file(place.path("current")).unwrap();
    fs::write(place.path("current"), "mine").unwrap();
    let refused = [
        target.observe(Look::full()).await.unwrap_err(),
        target.prepare(&onto("2"), &place.work()).await.unwrap_err(),
        target.apply(&approved, token, &place.work()).await.unwrap_err(),
        target.deploy("2").await.unwrap_err(),
        target.record("x").await.unwrap_err(),
    ];
    for e in refused {
        assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Invalid, Effect::None, false), "{e}");
        assert!(e.to_string().contains("it is a file, not a link"), "{e}");
    }
    assert_eq!(fs::read_to_string(place.path("current")).unwrap(), "mine");
    assert_eq!(place.log().len(), 0);
}

#[tokio::test]
async fn a_release_deleted_midway_is_not_found_and_the_link_stands() {
    let place = Place::new();
    let target = place.logging("");
    let approved = place.approved(&target, "2").await;
    let token = look(&target).await.token;
    fs::remove_dir_all(place.path("releases/2")).unwrap();
    let e = target.apply(&approved, token, &place.work()).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None));
    assert_eq!(target.prepare(&onto("2"), &place.work()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!((place.link().as_str(), place.log().len()), ("releases/3", 0));
}

#[tokio::test]
async fn odd_links_are_told_for_what_they_are() {
    let place = Place::new();
    let target = place.open();
    let relink = |to: &Path| {
        let _ = fs::remove_file(place.path("current"));
        symlink(to, place.path("current")).unwrap();
    };
    // Written in other ways, it is the same release.
    for to in [place.path("releases/2"), "./releases/2/".into(), "releases/../releases/2".into()] {
        relink(&to);
        assert!(all(&look(&target).await).runs(&"2".into()), "{}", to.display());
    }
    relink(Path::new("/tmp"));
    let seen = look(&target).await;
    assert_eq!(all(&seen).wanted, None);
    assert!(matches!(&all(&seen).running, Running::Unknown { named: Some(n), .. } if n == "current links to /tmp"));
    // Dangling: what was told is known, and waiting will not help.
    relink(Path::new("releases/gone"));
    let seen = look(&target).await;
    assert_eq!(all(&seen).wanted, Some("gone".into()));
    assert!(matches!(&all(&seen).settled, Settled::Never { .. }));
    fs::remove_file(place.path("current")).unwrap();
    let seen = look(&target).await;
    assert_eq!((&all(&seen).wanted, &all(&seen).running), (&None, &Running::Nothing));
    // The first deploy of all.
    let approved = place.approved(&target, "1").await;
    target.apply(&approved, seen.token, &place.work()).await.unwrap();
    assert_eq!(place.link(), "releases/1");
}

#[tokio::test]
async fn a_root_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for root in [dir.path().join("none"), dir.path().to_path_buf()] {
        assert_eq!(ReleaseDir::open(root).unwrap_err().kind(), Kind::NotFound);
    }
    let place = Place::new();
    for id in ["../x", "a/b", ".hidden", "", "..", "/etc"] {
        let e = place.open().prepare(&onto(id), &place.work()).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None), "{id:?}");
    }
    let e = place.open().prepare(&Change::Halt, &place.work()).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unsupported, Effect::None));
}

#[tokio::test]
async fn history_is_newest_first_and_an_edit_is_found() {
    let place = Place::new();
    let target = place.logging("");
    fs::create_dir(place.path("releases/.partial")).unwrap();
    fs::write(place.path("releases/README"), "").unwrap();
    for id in ["3", "1", "2"] {
        target.deploy(id).await.unwrap();
    }
    let ids = |all: Vec<Release>| all.iter().map(|r| r.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(target.history(10).await.unwrap()), ["2", "1", "3"]);
    assert_eq!(ids(target.history(2).await.unwrap()), ["2", "1"]);
    let codes = async || {
        let prepared = target.prepare(&onto("1"), &place.work()).await.unwrap();
        prepared.findings.iter().map(|f| (f.severity, f.code.clone())).collect::<Vec<_>>()
    };
    assert_eq!(codes().await, [(Severity::Note, "running".into())]);
    let approved = place.approved(&target, "1").await.digest();
    fs::write(place.path("releases/1/app"), "release X").unwrap();
    assert_eq!(codes().await[0], (Severity::Warning, "edited".into()));
    let strict = target.clone().refuse_edited().prepare(&onto("1"), &place.work()).await.unwrap();
    assert_eq!(strict.findings[0].severity, Severity::Blocks);
    assert_eq!(strict.approved.digest(), approved, "an approval stays valid: the diff counts the same");
    // Recorded again, its label is new and its place stays.
    let recorded = target.record("two").await.unwrap();
    assert_eq!((recorded.id.as_str(), recorded.label.as_str(), recorded.artifacts.len()), ("2", "two", 1));
    fs::remove_dir_all(place.path("releases/3")).unwrap();
    let history = target.history(10).await.unwrap();
    assert_eq!(history.iter().map(|r| r.available).collect::<Vec<_>>(), [true, true, false]);
}

/// What lies there unrecorded, and came after the first record, was never deployed: it may be named.
#[tokio::test]
async fn what_was_staged_is_not_gone_back_to_and_what_is_live_was_deployed() {
    let place = Place::new();
    let target = place.logging("");
    target.deploy("2").await.unwrap();
    target.deploy("3").await.unwrap();
    fs::create_dir(place.path("releases/4-rc")).unwrap();
    let later = std::time::SystemTime::now() + crate::hours(1);
    fs::File::open(place.path("releases/4-rc")).unwrap().set_modified(later).unwrap();
    let seen = async || {
        let history = target.history(10).await.unwrap();
        history.into_iter().map(|r| (r.id.to_string(), r.undeployed, r.available)).collect::<Vec<_>>()
    };
    let deployed = |id: &str| (id.to_owned(), false, true);
    let staged = ("4-rc".to_owned(), true, true);
    assert_eq!(seen().await, [deployed("3"), deployed("2"), deployed("1"), staged]);
    // Recorded again after another one, it was deployed again.
    target.deploy("2").await.unwrap();
    assert_eq!(seen().await[0], deployed("2"));
    let link = |to: &str| {
        fs::remove_file(place.path("current")).unwrap();
        symlink(to, place.path("current")).unwrap();
    };
    link("releases/4-rc");
    assert_eq!(seen().await[0], deployed("4-rc"));
    // What was told last and is gone is what is to be left, and comes before what there is to go back to.
    link("releases/5");
    assert_eq!(seen().await[..2], [("5".to_owned(), false, false), deployed("2")]);
}

/// Somebody takes the bad release away in the middle of the night: there is a way back all the same.
#[tokio::test]
async fn a_link_to_nowhere_is_rolled_back() {
    let place = Place::new();
    fs::remove_file(place.path("current")).unwrap();
    symlink("releases/3", place.path("current")).unwrap();
    fs::remove_dir_all(place.path("releases/3")).unwrap();
    let report = crate::Rollback::of(place.logging("")).break_glass("all of it is down").await;
    assert_eq!((report.outcome(), place.link().as_str()), (&crate::Outcome::Recovered, "releases/2"), "{report}");
}

#[tokio::test]
async fn the_diff_counts_and_the_hook_is_looked_for() {
    let place = Place::new();
    fs::write(place.path("releases/2/more"), "").unwrap();
    fs::write(place.path("releases/3/other"), "").unwrap();
    fs::write(place.path("releases/3/third"), "").unwrap();
    let target = place.open().restart_with(["/no/such/hook"]);
    let prepared = target.prepare(&onto("2"), &place.work()).await.unwrap();
    let diff = &prepared.approved.diff;
    assert_eq!(diff[0], DiffLine::new("current", "releases/3", "releases/2"));
    assert_eq!(diff[1].to.as_deref(), Some("1 changed, 1 more, 2 fewer"));
    assert!(prepared.findings.iter().any(|f| f.severity == Severity::Blocks && f.code == "hook"));
    assert_eq!(prepared.approved, target.prepare(&onto("2"), &place.work()).await.unwrap().approved);
}

#[tokio::test]
async fn the_trace_is_left_until_the_next_deploy() {
    let place = Place::new();
    let target = place.open();
    let trace = Trace { run: "run".into(), left: "3".into(), reached: "2".into(), at: Timestamp(1) };
    let approved = place.approved(&target, "2").await;
    let work = place.work().with_trace(Some(trace.clone()));
    target.apply(&approved, look(&target).await.token, &work).await.unwrap();
    assert_eq!(look(&target).await.trace, Some(trace));
    target.deploy("3").await.unwrap();
    assert_eq!(look(&target).await.trace, None);
}

#[tokio::test]
async fn what_runs_is_asked_of_the_process() {
    let place = Place::new();
    let pid_file = place.path("pid");
    let asked = place.open().running_from(RunningSource::pid_cwd(&pid_file));
    assert_eq!(all(&look(&asked).await).running, Running::Nothing);
    let current = place.path("current").canonicalize().unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").current_dir(&current).spawn().unwrap();
    fs::write(&pid_file, format!("{}\n", child.id())).unwrap();
    assert!(all(&look(&asked).await).runs(&"3".into()));
    place.open().deploy("2").await.unwrap();
    let seen = look(&asked).await;
    assert_eq!((&all(&seen).wanted, &all(&seen).running), (&Some("2".into()), &Running::Release("3".into())));
    assert!(matches!(all(&seen).settled, Settled::NotYet { .. }));
    // Also when the directory is removed below it.
    fs::remove_dir_all(place.path("releases/3")).unwrap();
    assert_eq!(all(&look(&asked).await).running, Running::Release("3".into()));
    // A signal ends it; nothing runs then.
    let signalling = asked.signal_with(Signal::Term, &pid_file);
    signalling.deploy("1").await.unwrap();
    child.wait().unwrap();
    assert_eq!(all(&look(&signalling).await).running, Running::Nothing);
    // What is no pid is refused, not signalled.
    fs::write(&pid_file, "-1").unwrap();
    let prepared = signalling.prepare(&onto("2"), &place.work()).await.unwrap();
    assert!(prepared.findings.iter().any(|f| f.severity == Severity::Blocks && f.code == "hook"));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_neither_running_nor_foreign() {
    let place = Place::new();
    let found = look(&place.open()).await.found();
    for source in [
        RunningSource::ask("a test", std::future::pending).within(Duration::from_millis(20)),
        RunningSource::command(["sh", "-c", "exit 3"]),
        RunningSource::command(["sh", "-c", "echo two words"]),
        RunningSource::command(["/no/such/program"]),
    ] {
        let seen = look(&place.open().running_from(source)).await;
        assert!(!all(&seen).runs(&"3".into()));
        assert_eq!(seen.foreign(&found, &[]), None);
        assert!(matches!(all(&seen).settled, Settled::NotYet { .. }));
    }
    let said = place.open().running_from(RunningSource::command(["echo", "3"]));
    assert!(all(&look(&said).await).runs(&"3".into()));
}

#[tokio::test]
async fn a_service_that_runs_something_else_is_restarted_although_the_link_is_right() {
    let place = Place::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let heard = asked.clone();
    let target = place.logging("").running_from(RunningSource::ask("a test", move || {
        heard.fetch_add(1, Ordering::Relaxed);
        async { Ok(Some("2".into())) }
    }));
    let approved = place.approved(&target, "3").await;
    let applied = target.apply(&approved, look(&target).await.token, &place.work()).await.unwrap();
    assert_eq!((applied.extent, place.log()), (Extent::Submitted, vec!["run/1.1 3".to_string()]));
}

#[tokio::test]
async fn evidence_is_a_listing_and_the_ends_of_logs_within_bounds() {
    let place = Place::new();
    fs::write(place.path("app.log"), "x\n".repeat(10_000)).unwrap();
    let target = place.open().with_logs([place.path("app.log"), place.path("none.log")]);
    let bounds = crate::Bounds { time: seconds(5), bytes: 2_000 };
    let kept = target.evidence().unwrap().collect(bounds, &place.work()).await.unwrap();
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().map(|a| a.bytes).sum::<u64>() <= 2_000);
    let mut reader = place.work().open(&kept[0]).await.unwrap();
    let text = String::from_utf8(reader.next().await.unwrap().unwrap()).unwrap();
    assert!(text.contains("releases/1") && text.contains(r#"link At("3")"#), "{text}");
}

#[tokio::test]
async fn a_damaged_file_of_ours_is_said() {
    let place = Place::new();
    let target = place.open();
    target.deploy("2").await.unwrap();
    fs::write(place.path(".rollback/swap.json"), "{").unwrap();
    let e = target.observe(Look::full()).await.unwrap_err();
    assert!(e.kind() == Kind::Invalid && e.to_string().contains("swap.json"), "{e}");
}
