//! The journals: their laws, and what only a file and several processes can suffer.
#![allow(clippy::unwrap_used)]

use rollback_core::{journal::*, testing::laws::journal::all, *};
use rollback_tests::{
    golden::{self, Noted},
    place::checkpointed,
};
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn intent(run: &str, target: &str) -> Intent {
    let mut intent = Intent::new(RunId::new(run), TargetId::new(target), "me", "a test");
    intent.at = Timestamp(1_000);
    intent.policy = Policy::default().with_lease(minutes(10)).into();
    intent
}
fn line(seq: u64, lease: &Lease, entry: Entry) -> Line {
    Line::new(seq, lease.epoch, Timestamp(2_000 + seq), Duration::ZERO, Duration::ZERO, entry)
}
fn note(seq: u64, lease: &Lease, what: &str) -> Line {
    line(seq, lease, Entry::Lost { what: what.into(), why: String::new() })
}
async fn fresh(journal: &dyn Journal, intent: &Intent) -> Lease {
    match journal.begin(intent).await.unwrap() {
        Begun::Fresh { lease, .. } => lease,
        other => panic!("{other:?}"),
    }
}
/// A journal of one ended run, closed.
async fn written(dir: &Path) -> PathBuf {
    let path = dir.join("journal.db");
    let journal = SqliteJournal::open(&path).unwrap();
    let lease = fresh(&journal, &intent("r", "t")).await;
    journal.append(&lease, &[note(0, &lease, "the words of a line")]).await.unwrap();
    journal.append(&lease, &[line(1, &lease, Entry::Ended(Outcome::Recovered.into()))]).await.unwrap();
    drop(journal);
    checkpointed(&path);
    path
}
fn edit(path: &Path, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = std::fs::read(path).unwrap();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(path, &file).unwrap();
    file
}
fn child(args: &[&str]) -> Child {
    let exe = env!("CARGO_BIN_EXE_journal_child");
    Command::new(exe).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}
fn first_line(child: &mut Child) -> String {
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    said
}

#[tokio::test]
async fn the_journal_in_memory_keeps_the_laws() {
    assert_eq!(all(&MemoryJournal::new()).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_in_a_file_keeps_the_laws() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(all(&SqliteJournal::open(dir.path().join("journal.db")).unwrap()).await, []);
}

#[tokio::test]
async fn of_several_processes_one_gets_the_target_and_its_death_frees_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let file = path.to_str().unwrap();
    // They race for the making of the file, too.
    let mut children: Vec<Child> = (0..4).map(|n| child(&["hold", file, "t", &format!("r{n}")])).collect();
    let begun: Vec<Begun> = children.iter_mut().map(|c| serde_json::from_str(&first_line(c)).unwrap()).collect();
    let winners: Vec<usize> = (0..4).filter(|n| matches!(begun[*n], Begun::Fresh { .. })).collect();
    let [winner] = winners[..] else { panic!("{begun:?}") };
    let Begun::Fresh { lease, .. } = &begun[winner] else { unreachable!() };
    for other in begun.iter().enumerate().filter(|(n, _)| *n != winner).map(|(_, begun)| begun) {
        let Begun::Busy { run, who, since } = other else { panic!("{other:?}") };
        assert_eq!((run, *since), (&lease.run, Timestamp(1_000)));
        assert!(who.contains("a child") && who.contains(&children[winner].id().to_string()), "{who}");
    }
    let journal = SqliteJournal::open(&path).unwrap();
    assert!(matches!(journal.begin(&intent("mine", "t")).await.unwrap(), Begun::Busy { .. }));
    // SIGKILL, and nobody has waited for it: it is a zombie.
    let killed = Instant::now();
    children[winner].kill().unwrap();
    let adopted = loop {
        match journal.begin(&intent("mine", "t")).await.unwrap() {
            Begun::Busy { .. } => assert!(killed.elapsed() < Duration::from_secs(10), "still busy"),
            Begun::Adopted { lease, .. } => break lease,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(adopted.run, lease.run);
    assert!(adopted.epoch > lease.epoch);
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_journal_is_closed_and_what_was_let_go_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let journal = SqliteJournal::open(&path).unwrap();
    let lease = fresh(&journal, &intent("r", "t")).await;
    journal.let_go(&lease);
    drop(journal);
    let dropped = Instant::now();
    while dir.path().join("journal.db-wal").exists() {
        assert!(dropped.elapsed() < Duration::from_secs(30), "the log is still open");
    }
    let journal = SqliteJournal::open(&path).unwrap();
    assert!(matches!(journal.begin(&intent("other", "t")).await.unwrap(), Begun::Adopted { .. }));
}

#[tokio::test]
async fn nobody_holds_a_lease_that_nobody_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path().join("journal.db")).unwrap();
    for n in 0..20 {
        let target = format!("t{n}");
        let given = intent(&format!("r{n}"), &target);
        // Asked, and not waited for.
        let mut begin = Box::pin(journal.begin(&given));
        if std::future::poll_fn(|cx| std::task::Poll::Ready(begin.as_mut().poll(cx).is_ready())).await {
            // The writer was as fast as that, and the lease is ours.
            continue;
        }
        if n % 2 == 0 {
            // They are answered in order: by now that one has its answer, and nobody takes it.
            fresh(&journal, &intent(&format!("later{n}"), &format!("later{n}"))).await;
        }
        drop(begin);
        let since = Instant::now();
        while let Begun::Busy { .. } = journal.begin(&intent(&format!("again{n}"), &target)).await.unwrap() {
            assert!(since.elapsed() < Duration::from_secs(10), "held by nobody");
        }
    }
}

#[tokio::test]
async fn a_full_file_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let small = SqliteOptions::default().with_max_bytes(Some(400_000));
    let journal = SqliteJournal::open_with(&path, small).unwrap();
    let lease = fresh(&journal, &intent("r", "t")).await;
    let big = |seq| note(seq, &lease, &"x".repeat(4_000));
    let mut seq = 0;
    let error = loop {
        match journal.append(&lease, &[big(seq)]).await {
            Ok(()) => seq += 1,
            Err(e) => break e,
        }
    };
    assert_eq!((error.kind(), error.effect(), error.is_transient()), (Kind::Unavailable, Effect::None, true));
    assert!(error.message().contains("full"), "{error}");
    assert!(seq > 10);
    // Who asks for little still gets it, together with those who ask for too much.
    let big = big(seq);
    let elsewhere = intent("r2", "t");
    let (full, read) = tokio::join!(journal.append(&lease, std::slice::from_ref(&big)), journal.begin(&elsewhere));
    assert_eq!(full.unwrap_err().effect(), Effect::None);
    assert!(matches!(read.unwrap(), Begun::Busy { .. }));
    assert_eq!(journal.read(&lease.run).await.unwrap().1.len() as u64, seq);
    drop(journal);
    let journal = SqliteJournal::open(&path).unwrap();
    journal.append(&lease, &[big]).await.unwrap();
    assert_eq!(journal.read(&lease.run).await.unwrap().1.len() as u64, seq + 1);
}

#[tokio::test]
async fn writes_that_the_system_refuses_are_never_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    // 512-byte blocks; without the trap the limit would be a signal, not an error.
    let limited = "trap '' XFSZ; ulimit -f 1200; exec \"$0\" fill \"$1\"";
    let exe = env!("CARGO_BIN_EXE_journal_child");
    let out = Command::new("sh").arg("-c").arg(limited).arg(exe).arg(&path).output().unwrap();
    let (acknowledged, fault): (u64, Fault) =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    assert!(acknowledged > 10);
    assert_eq!(fault.kind, Kind::Unavailable, "{fault}");
    let journal = SqliteJournal::open(&path).unwrap();
    let lines = journal.read(&RunId::new("r")).await.unwrap().1.len() as u64;
    let possible = if fault.effect == Effect::None { 0 } else { 1 };
    assert!((acknowledged..=acknowledged + possible).contains(&lines), "{acknowledged} acknowledged, {lines} there");
}

#[tokio::test]
async fn what_is_not_a_journal_of_this_version_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path()).await;
    let good = std::fs::read(&path).unwrap();
    let mut text = b"this is a text, and long enough to be taken for a header of a file of another kind. ".repeat(60);
    text.truncate(4_096);
    for (what, bytes, kind) in [
        ("a text", text, Kind::Invalid),
        ("a short text", b"hello".to_vec(), Kind::Invalid),
        ("a newer version", [&good[..60], &2u32.to_be_bytes(), &good[64..]].concat(), Kind::Unsupported),
        ("a version that never was", [&good[..60], &0u32.to_be_bytes(), &good[64..]].concat(), Kind::Invalid),
        ("another application", [&good[..68], b"else", &good[72..]].concat(), Kind::Invalid),
        ("a truncated file", good[..good.len() / 2].to_vec(), Kind::Invalid),
        ("a torn file", good[..good.len() - 100].to_vec(), Kind::Invalid),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let error = SqliteJournal::open(&path).expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what} was touched");
        for beside in ["journal.db-wal", "journal.db-shm"] {
            let _ = std::fs::remove_file(dir.path().join(beside));
        }
    }
    std::fs::write(&path, &good).unwrap();
    assert!(SqliteJournal::open(&path).is_ok());
    assert_eq!(SqliteJournal::open(dir.path()).unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn an_empty_file_beside_its_shelf_was_a_journal_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path()).await;
    SqliteJournal::open(&path).unwrap().shelf().write("evidence/1").await.unwrap().seal().await.unwrap();
    checkpointed(&path);
    std::fs::write(&path, b"").unwrap();
    let error = SqliteJournal::open(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[tokio::test]
async fn a_flipped_byte_in_a_line_is_found_and_others_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path()).await;
    let journal = SqliteJournal::open(&path).unwrap();
    fresh(&journal, &intent("r2", "t")).await;
    drop(journal);
    checkpointed(&path);
    let file = std::fs::read(&path).unwrap();
    let words = b"the words";
    let at = file.windows(words.len()).position(|w| w == words).unwrap();
    edit(&path, at, b"The");
    let journal = SqliteJournal::open(&path).unwrap();
    let error = journal.read(&RunId::new("r")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.message().contains("line 0 of run r"), "{error}");
    assert_eq!(journal.begin(&intent("r", "t")).await.unwrap_err().kind(), Kind::Invalid);
    journal.read(&RunId::new("r2")).await.unwrap();
}

#[tokio::test]
async fn an_artifact_that_was_changed_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path().join("journal.db")).unwrap();
    let mut writer = journal.shelf().write("manifest/1").await.unwrap();
    writer.push(&[7; 200_000]).await.unwrap();
    let artifact = writer.seal().await.unwrap();
    let hex = artifact.digest.as_str().strip_prefix("sha256:").unwrap().to_owned();
    edit(&dir.path().join("journal.db.shelf").join(hex), 150_000, &[8]);
    let mut reader = journal.shelf().read(&artifact).await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was not found"),
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), Kind::Invalid);
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path().join("journal.db")).unwrap();
    fresh(&journal, &intent("r", "t")).await;
    journal.shelf().write("evidence/1").await.unwrap().seal().await.unwrap();
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(mode("journal.db.shelf"), 0o700);
    for file in std::fs::read_dir(dir.path().join("journal.db.shelf")).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_many_runs_at_once_are_each_whole_and_a_bad_one_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let journal = SqliteJournal::open(&path).unwrap();
    // Another handle, as another process would have: it sees whole appends only, while they are being written.
    let reader = SqliteJournal::open(&path).unwrap();
    let run = |n: u64| {
        let journal = journal.clone();
        async move {
            let lease = fresh(&journal, &intent(&format!("r{n}"), &format!("t{n}"))).await;
            for seq in 0..10 {
                let at = seq * 2 + u64::from(n % 10 == 3 && seq == 5);
                let pair = [note(at, &lease, "a"), note(at + 1, &lease, "b")];
                if let Err(e) = journal.append(&lease, &pair).await {
                    return Err((n, seq, e.kind()));
                }
            }
            Ok(())
        }
    };
    let tasks: Vec<_> = (0..100).map(|n| tokio::spawn(run(n))).collect();
    let mut seen = 0;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        for run in reader.runs(&RunQuery::unfinished().with_limit(5)).await.unwrap() {
            let lines = reader.read(&run.run).await.unwrap().1.len();
            assert!(lines.is_multiple_of(2) && lines as u64 >= run.lines, "{lines} lines");
            seen += 1;
        }
    }
    assert!(seen > 0);
    for (n, task) in (0..).zip(tasks) {
        let expected = if n % 10 == 3 { Err((n, 5, Kind::Conflict)) } else { Ok(()) };
        assert_eq!(task.await.unwrap(), expected);
        let lines = journal.read(&RunId::new(format!("r{n}"))).await.unwrap().1.len();
        assert_eq!(lines, if n % 10 == 3 { 10 } else { 20 });
    }
}

#[tokio::test]
async fn old_runs_go_and_what_still_matters_stays() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Retention::default().with_runs_per_target(2).with_age(hours(1));
    let options = SqliteOptions::default().with_retention(keep);
    let journal = SqliteJournal::open_with(dir.path().join("journal.db"), options).unwrap();
    let shelf = journal.shelf();
    let mut artifacts = vec![];
    for n in 0..6u64 {
        let lease = fresh(&journal, &intent(&format!("r{n}"), "t")).await;
        let mut writer = shelf.write("evidence/1").await.unwrap();
        writer.push(format!("evidence of {n}").as_bytes()).await.unwrap();
        let artifact = writer.seal().await.unwrap();
        let was = (n == 1).then(|| Box::new(Payload::of(&Noted { at: n }).unwrap()));
        let lines = [
            line(0, &lease, Entry::EvidenceKept(vec![artifact.clone()])),
            line(1, &lease, Entry::Froze { name: "gitops".into(), was, until: None }),
        ];
        artifacts.push(artifact);
        journal.append(&lease, &lines).await.unwrap();
        shelf.save(&format!("r{n}/0.0"), lease.epoch, Payload::of(&Noted { at: n }).unwrap()).await.unwrap();
        if n < 5 {
            journal.append(&lease, &[line(2, &lease, Entry::Ended(Outcome::Recovered.into()))]).await.unwrap();
        }
    }
    assert_eq!(journal.prune(Timestamp(2_000)).await.unwrap().runs, 0, "none is old");
    let runs = async || {
        let mut runs = journal.runs(&RunQuery::all()).await.unwrap();
        runs.reverse();
        runs.into_iter().map(|r| r.run.to_string()).collect::<Vec<_>>()
    };
    // r0 and r2 are old and more than two; r1 holds a freeze; r5 is unfinished.
    let later = Timestamp::now().after(hours(24 * 365));
    assert_eq!(journal.prune(later).await.unwrap().runs, 2);
    assert_eq!(runs().await, ["r1", "r3", "r4", "r5"]);
    for n in [0, 2] {
        assert!(shelf.load(&format!("r{n}/0.0")).await.unwrap().is_none());
    }
    for n in [1, 3, 4, 5] {
        assert!(shelf.load(&format!("r{n}/0.0")).await.unwrap().is_some());
        assert!(shelf.read(&artifacts[n]).await.is_ok());
    }
    assert_eq!(journal.read(&RunId::new("r1")).await.unwrap().1.len(), 3);
    // Once nothing unfinished is older, what nobody refers to any more goes, too.
    let mut last = intent("r6", "t");
    last.policy = Policy::break_glass().into();
    let lease = fresh(&journal, &last).await;
    journal.append(&lease, &[line(0, &lease, Entry::Ended(Outcome::Recovered.into()))]).await.unwrap();
    let pruned = journal.prune(later).await.unwrap();
    assert!(pruned.artifacts >= 2, "{pruned:?}");
    for n in [0, 2] {
        assert_eq!(shelf.read(&artifacts[n]).await.unwrap_err().kind(), Kind::NotFound);
    }
    assert!(shelf.read(&artifacts[1]).await.is_ok(), "it holds a freeze");
}

#[tokio::test]
async fn the_first_journal_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/journal-v1.db"), &path).unwrap();
    let journal = SqliteJournal::open(&path).unwrap();
    let (intent, lines) = journal.read(&RunId::new("g/1")).await.unwrap();
    assert_eq!(intent, golden::intent("g/1"));
    assert_eq!(lines, golden::lines(1));
    assert_eq!(journal.ledger(&intent.target).await.unwrap(), [golden::mark()]);
    let held: Vec<_> = journal.holds().await.unwrap().into_iter().map(|h| (h.hold.run, h.was)).collect();
    let was = Some(Payload::of(&Noted { at: 7 }).unwrap());
    assert_eq!(held, [(RunId::new("g/1"), was.clone()), (RunId::new("g/2"), was)]);
    let runs = journal.runs(&RunQuery::of_parent(&RunId::new("g"))).await.unwrap();
    let told: Vec<_> = runs.iter().map(|r| (r.run.as_str(), r.lines, r.wrote, r.outcome.is_some())).collect();
    let wrote = Some(Timestamp(1_790_000_001_000));
    assert_eq!(told, [("g/2", 2, wrote, false), ("g/1", 4, wrote, true)]);
    let checkpoint = journal.shelf().load("g/2/0.1").await.unwrap().unwrap();
    assert_eq!(checkpoint.read::<Noted>().unwrap(), Noted { at: 42 });
    // Its holder was of another boot.
    let Begun::Adopted { lease, intent, lines } = journal.begin(&golden::intent("g/3")).await.unwrap() else {
        panic!()
    };
    assert_eq!((lease.epoch, *intent, lines), (3, golden::intent("g/2"), golden::lines(2)[..2].to_vec()));
}
