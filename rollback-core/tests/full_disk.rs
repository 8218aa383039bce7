//! A disk that is really full: a tmpfs of 2 MiB, mounted where only a child of the test sees it, filled to the last page.
#![cfg(all(feature = "local", feature = "sqlite"))]
#![allow(clippy::unwrap_used)]

use rollback_core::{
    Applied, Begun, Change, Effect, Entry, Extent, Intent, Line, Look, RunId, Work,
    journal::MemoryShelf,
    local::{DirectorySync, ReleaseDir},
    prelude::*,
};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

const DISK: &str = "ROLLBACK_TEST_SMALL_DISK";

/// In the child, where the small disk is. In the test itself, which then has passed: nothing.
fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(DISK) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=2m,mode=700 rollback-full-disk "$1" && shift && exec "$@""#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"])
        .env(DISK, dir.path())
        .output()
        .unwrap_or_else(|e| panic!("unshare (util-linux) is needed: {e}"));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    assert!(
        output.status.success() && said.contains("1 passed"),
        "run it as root, where mount namespaces and tmpfs are allowed:\n{said}"
    );
    None
}

/// To the last page.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    let e = loop {
        if let Err(e) = file.write_all(&[7; 4096]) {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::StorageFull);
    path
}

/// Releases 1 and 2 of a service, 2 deployed last.
async fn service(root: &Path) -> ReleaseDir {
    for id in ["1", "2"] {
        fs::create_dir_all(root.join("releases").join(id)).unwrap();
        fs::write(root.join("releases").join(id).join("app"), id).unwrap();
    }
    let target = ReleaseDir::open(root).unwrap();
    for id in ["1", "2"] {
        target.deploy(id).await.unwrap();
    }
    target
}
fn live(root: &Path) -> String {
    fs::read_to_string(root.join("current/app")).unwrap()
}
fn work() -> Work {
    Work::new("run".into(), 1, "1.1", Duration::from_secs(20), Arc::new(MemoryShelf::new()))
}
async fn to(target: &dyn Target, release: &str, work: &Work) -> Result<Applied> {
    let prepared = target.prepare(&Change::release(&"all".into(), &release.into()), work).await?;
    let token = target.observe(Look::full()).await?.token;
    target.apply(&prepared.approved, token, work).await
}

#[tokio::test]
#[ignore = "needs root for a small tmpfs"]
async fn of_the_journal() {
    let Some(disk) = small_disk("of_the_journal") else { return };
    let here = tempfile::tempdir().unwrap();
    let target = service(here.path()).await;
    let journal = SqliteJournal::open(disk.join("journal.db")).unwrap();
    // Another target's run, which writes until nothing goes in any more.
    let other = Intent::new(RunId::new("other"), TargetId::new("t:other"), "me", "a test");
    let Begun::Fresh { lease, .. } = journal.begin(&other).await.unwrap() else { panic!("it is new") };
    let line = |seq| {
        let lost = Entry::Lost { what: "x".repeat(8000), why: String::new() };
        Line::new(seq, lease.epoch, Timestamp(seq), Duration::ZERO, Duration::ZERO, lost)
    };
    let filler = fill(&disk);
    let mut written = 0;
    let e = loop {
        match journal.append(&lease, &[line(written)]).await {
            Ok(()) => written += 1,
            Err(e) => break e,
        }
        assert!(written < 1000, "a full disk takes no more");
    };
    assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Unavailable, Effect::None, true), "{e}");
    assert!(e.message().contains("the disk is full"), "{e}");
    assert_eq!(journal.read(&"other".into()).await.unwrap().1.len() as u64, written, "what was acknowledged is there");

    // A rollback that must have its journal touches nothing; break-glass goes on without, and says so.
    let policy = Policy::default().with_poll(Duration::from_millis(20)).with_reply_within(seconds(2));
    let rollback = Rollback::of(target)
        .because("500s since 2")
        .to(Choose::verified().or_previous())
        .journal(journal.clone())
        .spool(here.path().join("spool"))
        .policy(policy);
    let report = rollback.run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("full"), "{report}");
    assert_eq!(live(here.path()), "2");
    let report = rollback.clone().break_glass("down").await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(live(here.path()), "1");
    assert!(report.losses().iter().any(|(what, why)| what.contains("journal") && why.contains("full")), "{report}");
    assert!(report.spooled().is_some_and(Path::exists), "{report}");

    // With room again, it goes on where it was.
    fs::remove_file(filler).unwrap();
    journal.append(&lease, &[line(written)]).await.unwrap();
    assert_eq!(journal.read(&"other".into()).await.unwrap().1.len() as u64, written + 1);
}

#[tokio::test]
#[ignore = "needs root for a small tmpfs"]
async fn of_the_release_directory() {
    let Some(disk) = small_disk("of_the_release_directory") else { return };
    let target = service(&disk).await;
    let filler = fill(&disk);
    let e = to(&target, "1", &work()).await.unwrap_err();
    assert_eq!((e.kind(), e.is_transient()), (Kind::Unavailable, true), "{e}");
    assert_eq!(live(&disk), "2", "it serves what it served");
    assert!(target.observe(Look::full()).await.is_ok());
    fs::remove_file(filler).unwrap();
    to(&target, "1", &work()).await.unwrap();
    assert_eq!(live(&disk), "1");
}

#[tokio::test]
#[ignore = "needs root for a small tmpfs"]
async fn of_the_live_tree() {
    let Some(disk) = small_disk("of_the_live_tree") else { return };
    let here = tempfile::tempdir().unwrap();
    let live = disk.join("live");
    fs::create_dir(&live).unwrap();
    const FILES: usize = 40;
    for (id, size) in [("1", 9000), ("2", 5000)] {
        let release = here.path().join("releases").join(id);
        fs::create_dir_all(&release).unwrap();
        for n in 0..FILES {
            fs::write(release.join(format!("f{n}")), id.repeat(size)).unwrap();
        }
    }
    let target = DirectorySync::open(&live, here.path().join("releases")).unwrap();
    target.deploy("2").await.unwrap();
    let filler = fill(&disk);
    let work = work();
    let prepared = target.prepare(&Change::release(&"all".into(), &"1".into()), &work).await.unwrap();
    let token = target.observe(Look::full()).await.unwrap().token;
    match target.apply(&prepared.approved, token, &work).await {
        Err(e) => assert_eq!((e.kind(), e.is_transient()), (Kind::Unavailable, true), "{e}"),
        Ok(applied) => assert!(matches!(applied.extent, Extent::Partial { .. }), "{applied:?}"),
    }
    // Each file is the old or the new one, whole.
    let whole = |n: usize| {
        let text = fs::read_to_string(live.join(format!("f{n}"))).unwrap();
        text == "2".repeat(5000) || text == "1".repeat(9000)
    };
    assert!((0..FILES).all(whole));
    fs::remove_file(filler).unwrap();
    let token = target.observe(Look::full()).await.unwrap().token;
    assert_eq!(target.apply(&prepared.approved, token, &work).await.unwrap().extent, Extent::Done);
    assert!((0..FILES).all(|n| fs::read_to_string(live.join(format!("f{n}"))).unwrap() == "1".repeat(9000)));
    assert!(target.observe(Look::full()).await.unwrap().parts["all"].runs(&"1".into()));
}
