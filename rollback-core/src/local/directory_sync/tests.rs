#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Effect, Mark, PartId, RunId, Trace, journal::MemoryShelf, minutes};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    sync::atomic::{AtomicBool, Ordering},
};
use tempfile::TempDir;

/// `releases/1` and `releases/2`, and a live tree beside.
struct Place {
    dir: TempDir,
    shelf: MemoryShelf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("releases")).unwrap();
        fs::create_dir_all(dir.path().join("live")).unwrap();
        let place = Self { dir, shelf: MemoryShelf::new() };
        for (id, n) in [("1", 30), ("2", 40)] {
            for i in 0..n {
                place.put(&format!("releases/{id}/d{}/e{}/f{i}", i % 3, i % 2), &format!("{id} {}", "x".repeat(i)));
            }
            place.put(&format!("releases/{id}/only-{id}/deep/file"), "only here");
            place.put(&format!("releases/{id}/same"), "the same");
            symlink(format!("same-{id}"), place.path(&format!("releases/{id}/link"))).unwrap();
            fs::set_permissions(
                place.path(&format!("releases/{id}/same")),
                fs::Permissions::from_mode(if id == "1" { 0o600 } else { 0o644 }),
            )
            .unwrap();
        }
        // What is a directory in one is a file in the other, and the other way round.
        place.put("releases/1/swap-a/inner/file", "a");
        place.put("releases/2/swap-a", "a");
        place.put("releases/1/swap-b", "b");
        place.put("releases/2/swap-b/inner/file", "b");
        place
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn put(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fn open(&self) -> DirectorySync {
        DirectorySync::open(self.path("live"), self.path("releases")).unwrap()
    }
    fn work(&self, run: &str) -> Work {
        Work::new(RunId::from(run), 1, "1.1", minutes(1), Arc::new(self.shelf.clone()))
    }
    /// Prepares and applies.
    async fn bring(&self, target: &DirectorySync, to: &str) -> Applied {
        let work = self.work(&format!("to {to} {}", fastrand::u64(..)));
        let prepared = target.prepare(&onto(to), &work).await.unwrap();
        target.apply(&prepared.approved, look(target).await.token, &work).await.unwrap()
    }
    /// Everything in a tree: path, mode, content.
    fn tree(&self, root: &str) -> Vec<(String, u32, String)> {
        fn walk(dir: &Path, root: &Path, all: &mut Vec<(String, u32, String)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if name == ".rollback" {
                    continue;
                }
                let meta = path.symlink_metadata().unwrap();
                let content = if meta.is_symlink() {
                    fs::read_link(&path).unwrap().to_str().unwrap().to_owned()
                } else if meta.is_file() {
                    format!("{:?} {}", meta.modified().unwrap(), fs::read_to_string(&path).unwrap())
                } else {
                    String::new()
                };
                all.push((name, meta.mode(), content));
                if meta.is_dir() {
                    walk(&path, root, all);
                }
            }
        }
        let (root, mut all) = (self.path(root), vec![]);
        walk(&root, &root, &mut all);
        all.sort();
        all
    }
}

fn onto(release: &str) -> Change {
    Change::release(&PartId::from("all"), &release.into())
}
async fn look(target: &DirectorySync) -> Observation {
    target.observe(Look::full()).await.unwrap()
}
fn all(seen: &Observation) -> &PartState {
    &seen.parts["all"]
}

#[tokio::test]
async fn there_and_back_the_trees_are_the_same() {
    let place = Place::new();
    let target = place.open();
    for to in ["1", "2", "1"] {
        assert_eq!(place.bring(&target, to).await.extent, Extent::Done);
        assert_eq!(place.tree("live"), place.tree(&format!("releases/{to}")));
        for seen in [look(&target).await, target.observe(Look::quick()).await.unwrap()] {
            assert!(all(&seen).runs(&to.into()) && all(&seen).settled == Settled::Yes);
        }
    }
    // Nothing is left to do, and nothing is done.
    let work = place.work("again");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    assert_eq!(prepared.approved.artifact.as_ref().unwrap().bytes, 0);
    assert_eq!(prepared.approved, target.prepare(&onto("1"), &work).await.unwrap().approved);
}

#[tokio::test]
async fn modes_are_kept_also_those_that_let_nobody_write() {
    let place = Place::new();
    let target = place.open();
    for (name, mode) in [("only-2/deep", 0o555), ("only-2", 0o2775), ("swap-b/inner/file", 0o4711)] {
        fs::set_permissions(place.path("releases/2").join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for to in ["1", "2", "2"] {
        place.bring(&target, to).await;
        assert_eq!(place.tree("live"), place.tree(&format!("releases/{to}")));
    }
    fs::set_permissions(place.path("live/d0"), fs::Permissions::from_mode(0o700)).unwrap();
    place.bring(&target, "2").await;
    assert_eq!(place.tree("live"), place.tree("releases/2"));
}

#[tokio::test]
async fn the_diff_counts_and_names_examples() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    let prepared = target.prepare(&onto("1"), &place.work("run")).await.unwrap();
    let lines: Vec<String> =
        prepared.approved.diff.iter().map(|line| format!("{} {}", line.what, line.to.clone().unwrap())).collect();
    assert_eq!(lines[0], "release 1");
    assert!(lines[1].starts_with("to change 32: d0/e0/f0, d0/e0/f12, "), "{lines:?}");
    assert_eq!(lines[1].matches(", ").count(), EXAMPLES);
    assert_eq!(lines[2], "to add 7: only-1, only-1/deep, only-1/deep/file, swap-a, swap-a/inner, …");
    assert!(lines[3].starts_with("to remove 17: "), "{}", lines[3]);
    assert!(lines[4].starts_with("bytes to copy "));
    assert_eq!(prepared.approved.read::<SyncPlan>().unwrap().release, "1");
}

#[tokio::test]
async fn what_somebody_else_changed_meanwhile_stays_and_is_counted() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    let work = place.work("run");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    place.put("live/d0/e0/f0", "mine");
    place.put("live/only-2/deep/new", "mine too");
    let applied = target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap();
    let Extent::Partial { done, of, reasons } = applied.extent else { panic!("{applied:?}") };
    assert_eq!(reasons, BTreeMap::from([(batch_foreign(), 1), ("directory not empty".into(), 2)]));
    assert_eq!(of - done, 3);
    assert_eq!(fs::read_to_string(place.path("live/d0/e0/f0")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(place.path("live/only-2/deep/new")).unwrap(), "mine too");
    let seen = target.observe(Look::full().with_mark(Some(Mark::new(work.key())))).await.unwrap();
    assert!(matches!(all(&seen).settled, Settled::NotYet { .. }) && seen.ours == Ours::Current);
    // As long as it is so, it gets no further; prepared anew, it is done.
    let again = target.apply(&prepared.approved, seen.token, &work).await.unwrap();
    assert!(matches!(again.extent, Extent::Partial { done: d, .. } if d == done), "{again:?}");
    assert_eq!(place.bring(&target, "1").await.extent, Extent::Done);
    assert_eq!(place.tree("live"), place.tree("releases/1"));
}

fn batch_foreign() -> String {
    "changed by somebody else since it was prepared".into()
}

#[tokio::test]
async fn a_hand_edit_is_unknown_and_a_half_done_change_never_foreign() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    for i in 0..2 * BATCH {
        place.put(&format!("releases/1/z/{i}"), "1");
    }
    let found = look(&target).await.found();
    place.put("live/d0/e0/f0", "edited");
    let edited = look(&target).await;
    assert_eq!(all(&edited).running.to_string(), "unknown (2, but for 1: d0/e0/f0)");
    assert!(edited.foreign(&found, &[onto("1")]).is_some());
    assert!(all(&target.observe(Look::quick()).await.unwrap()).runs(&"2".into()), "a quick look does not walk");
    place.bring(&target, "2").await;
    // Half way: cancelled after the first batch.
    let work = place.work("run");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    let token = look(&target).await.token;
    let cancelling = cancelled_after_one_batch(&work);
    let applied = target.apply(&prepared.approved, token, &cancelling).await.unwrap();
    assert!(matches!(&applied.extent, Extent::Partial { reasons, .. } if reasons.contains_key("cancelled")));
    for seen in [look(&target).await, target.observe(Look::quick()).await.unwrap()] {
        assert_eq!(seen.foreign(&found, &[onto("1")]), None);
        assert_eq!(all(&seen).wanted, Some("1".into()));
        assert!(seen.progress.is_some());
    }
    assert!(matches!(&all(&look(&target).await).running, Running::Mixed(of) if of.len() == 2));
    // Another process goes on.
    let token = look(&target).await.token;
    let other = place.work("run");
    assert_eq!(place.open().apply(&prepared.approved, token, &other).await.unwrap().extent, Extent::Done);
    assert_eq!(place.tree("live"), place.tree("releases/1"));
}

/// Work that cancels itself at the first progress.
fn cancelled_after_one_batch(work: &Work) -> Work {
    let once = work.clone();
    work.clone().with_progress(move |_, _| once.cancel())
}

#[tokio::test]
async fn after_a_crash_in_any_batch_the_same_manifest_gets_there() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    let work = place.work("run");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    let artifact = prepared.approved.artifact.clone().unwrap();
    let mut lines = Lines::new(work.open(&artifact).await.unwrap());
    let mut ops = vec![];
    for pass in 0..2 {
        let (batch, _) = lines.batch(pass).await.unwrap();
        ops.extend(batch);
        lines = Lines::new(work.open(&artifact).await.unwrap());
    }
    // A crash after any number of entries, none of them noted down: each attempt begins at the beginning.
    let lock = Arc::new(target.lock().await.unwrap());
    let release = place.path("releases/1");
    for n in (0..=ops.len()).step_by(7).chain([ops.len()]) {
        let done: Vec<Op> = ops[..n].to_vec();
        let outcome = target.batch(&release, &lock, done).await.unwrap();
        assert_eq!((outcome.done, outcome.left), (n as u64, BTreeMap::new()), "after {n}");
    }
    drop(lock);
    place.put("live/d0/.rollback-half-left", "of a crash");
    assert_eq!(place.bring(&target, "1").await.extent, Extent::Done);
    assert_eq!(place.tree("live"), place.tree("releases/1"));
}

#[tokio::test]
async fn a_half_made_copy_of_a_crash_is_replaced() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    let work = place.work("run");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    // As if it had crashed while it wrote this file.
    let half = super::batch::half_made(b"f0");
    place.put(&format!("live/d0/e0/{}", std::str::from_utf8(&half).unwrap()), "half");
    let applied = target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap();
    assert_eq!(applied.extent, Extent::Done);
    assert_eq!(place.tree("live"), place.tree("releases/1"));
}

#[tokio::test]
async fn links_lead_nowhere_and_nothing_outside_is_touched() {
    let place = Place::new();
    place.put("outside/precious", "precious");
    let target = place.open();
    place.bring(&target, "2").await;
    // A link in the live tree where the release has a directory, and one that is not in the release.
    symlink(place.path("outside"), place.path("live/only-1")).unwrap();
    symlink(place.path("outside"), place.path("live/extra")).unwrap();
    assert_eq!(place.bring(&target, "1").await.extent, Extent::Done);
    assert_eq!(place.tree("live"), place.tree("releases/1"));
    // One that is put there between preparing and writing.
    let work = place.work("run");
    let prepared = target.prepare(&onto("2"), &work).await.unwrap();
    fs::remove_dir_all(place.path("live/d0")).unwrap();
    symlink(place.path("outside"), place.path("live/d0")).unwrap();
    let token = target.observe(Look::quick()).await.unwrap().token;
    let applied = target.apply(&prepared.approved, token, &work).await.unwrap();
    assert!(matches!(applied.extent, Extent::Partial { .. }), "{applied:?}");
    assert_eq!(place.tree("outside"), [place.tree("outside").remove(0)]);
    assert_eq!(fs::read_to_string(place.path("outside/precious")).unwrap(), "precious");
}

#[tokio::test]
async fn what_is_excluded_and_what_is_special_stays() {
    let place = Place::new();
    let target = place.open().excluding(["uploads", "d0/cache/"]);
    place.put("live/uploads/picture", "mine");
    place.put("live/d0/cache/file", "mine");
    place.put("releases/1/uploads/picture", "not mine");
    let socket = std::os::unix::net::UnixListener::bind(place.path("live/socket")).unwrap();
    let work = place.work("run");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    assert!(prepared.findings.iter().any(|f| f.code == "special"));
    assert_eq!(place.bring(&target, "1").await.extent, Extent::Done);
    assert_eq!(fs::read_to_string(place.path("live/uploads/picture")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(place.path("live/d0/cache/file")).unwrap(), "mine");
    assert!(place.path("live/socket").exists());
    assert!(all(&look(&target).await).runs(&"1".into()));
    drop(socket);
}

#[tokio::test]
async fn an_edit_that_keeps_size_and_time_is_found_by_checksums_alone() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "1").await;
    let path = place.path("live/same");
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "the sane").unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    assert!(all(&look(&target).await).runs(&"1".into()));
    let sure = target.with_checksums(true);
    assert!(!all(&look(&sure).await).runs(&"1".into()));
    assert_eq!(place.bring(&sure, "1").await.extent, Extent::Done);
    assert_eq!(fs::read_to_string(&path).unwrap(), "the same");
}

#[tokio::test]
async fn two_at_once_one_begins_and_the_other_is_told() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    let (one, other) = (place.work("one"), place.work("other"));
    let (a, b) = (
        target.prepare(&onto("1"), &one).await.unwrap().approved,
        target.prepare(&onto("1"), &other).await.unwrap().approved,
    );
    let token = look(&target).await.token;
    let (x, y) = tokio::join!(target.apply(&a, token.clone(), &one), target.apply(&b, token, &other));
    let e = [x, y].into_iter().find_map(Result::err).unwrap();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
    assert_eq!(place.tree("live"), place.tree("releases/1"));
}

#[tokio::test]
async fn a_release_edited_or_deleted_midway_is_stale_or_gone() {
    let place = Place::new();
    let target = place.open();
    place.bring(&target, "2").await;
    let work = place.work("run");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    let token = look(&target).await.token;
    place.put("releases/1/d0/e0/f0", "edited since");
    let e = target.apply(&prepared.approved, token, &work).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Stale, "{e}");
    fs::remove_dir_all(place.path("releases/1")).unwrap();
    let token = target.observe(Look::quick()).await.unwrap().token;
    let e = target.apply(&prepared.approved, token, &work).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None));
    assert_eq!(target.prepare(&onto("1"), &work).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(place.bring(&target, "2").await.extent, Extent::Done);
}

#[tokio::test]
async fn a_tree_that_no_marker_tells_of_is_compared_and_can_be_recorded() {
    let place = Place::new();
    place.bring(&place.open(), "2").await;
    fs::remove_dir_all(place.path("live/.rollback")).unwrap();
    let target = place.open();
    let quick = target.observe(Look::quick()).await.unwrap();
    assert!(matches!(all(&quick).running, Running::Unknown { .. }));
    assert!(all(&look(&target).await).runs(&"2".into()), "a full look finds out");
    let recorded = target.record("two").await.unwrap();
    assert_eq!((recorded.id.as_str(), recorded.label.as_str()), ("2", "two"));
    assert!(all(&target.observe(Look::quick()).await.unwrap()).runs(&"2".into()));
    place.put("releases/2/same", "edited");
    let prepared = target.prepare(&onto("2"), &place.work("run")).await.unwrap();
    assert!(prepared.findings.iter().any(|f| f.code == "edited"));
    let e = target.record("two").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
}

#[tokio::test]
async fn trees_that_must_not_be_are_refused() {
    let place = Place::new();
    let inside = [("live", "live"), (".", "live"), ("live", ".")];
    for (live, releases) in inside {
        let e = DirectorySync::open(place.path(live), place.path(releases)).unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
    }
    let target = place.open();
    for id in ["..", "../live", ""] {
        let e = target.prepare(&onto(id), &place.work("run")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
    }
}

#[tokio::test]
async fn dropped_in_the_middle_it_is_resumed_and_the_trace_stays() {
    let place = Place::new();
    for i in 0..4 * BATCH {
        place.put(&format!("releases/1/many/{i}"), "1");
    }
    let target = place.open();
    place.bring(&target, "2").await;
    let trace = Trace { run: "run".into(), left: "2".into(), reached: "1".into(), at: Timestamp(1) };
    let heard = Arc::new(AtomicBool::new(false));
    let hear = heard.clone();
    let work = place.work("run").with_trace(Some(trace.clone()));
    let listening = work.clone().with_progress(move |_, _| hear.store(true, Ordering::Relaxed));
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    let token = look(&target).await.token;
    {
        let apply = target.apply(&prepared.approved, token, &listening);
        tokio::pin!(apply);
        let begun = async {
            while !heard.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; () = begun => {}, ended = &mut apply => unreachable!("{ended:?}") }
    }
    let half = target.observe(Look::quick()).await.unwrap();
    assert!(matches!(all(&half).running, Running::Between { .. }));
    assert_eq!(half.trace, Some(trace));
    assert_eq!(target.apply(&prepared.approved, half.token, &work).await.unwrap().extent, Extent::Done);
    assert_eq!(place.tree("live"), place.tree("releases/1"));
}

/// A hook that notes what it was told in the file `log`, then does this.
fn hooked(place: &Place, then: &str) -> DirectorySync {
    let log = place.path("log").display().to_string();
    let script = format!("echo \"$ROLLBACK_KEY $ROLLBACK_RELEASE $ROLLBACK_ROOT $PWD\" >> {log}; {then}");
    place.open().restart_with(["sh", "-c", script.as_str()])
}
fn told(place: &Place) -> Vec<String> {
    let live = place.path("live").canonicalize().unwrap();
    let at = format!(" {0} {0}", live.display());
    let log = fs::read_to_string(place.path("log")).unwrap_or_default();
    log.lines().map(|line| line.strip_suffix(&at).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_first_deploy_can_be_rolled_back() {
    let place = Place::new();
    // As it was copied by hand, before anybody deployed with this.
    place.bring(&place.open(), "1").await;
    fs::remove_dir_all(place.path("live/.rollback")).unwrap();
    let target = hooked(&place, "true");
    let deployed = target.deploy("2").await.unwrap();
    assert_eq!((deployed.id.as_str(), deployed.artifacts.len()), ("2", 1));
    assert_eq!(place.tree("live"), place.tree("releases/2"));
    let history = target.history(10).await.unwrap();
    assert_eq!(history.iter().map(|r| (r.id.as_str(), r.artifacts.len())).collect::<Vec<_>>(), [("2", 1), ("1", 1)]);
    assert_eq!(told(&place).len(), 1);
    assert!(told(&place)[0].starts_with("deploy/2/") && told(&place)[0].ends_with(" 2"));
    // Nothing of the manifest is left behind.
    let own = fs::read_dir(place.path("live/.rollback")).unwrap().map(|e| e.unwrap().file_name());
    assert!(own.into_iter().all(|name| !name.to_str().unwrap().starts_with("manifest")));

    let trace = Trace { run: "run".into(), left: "2".into(), reached: "1".into(), at: Timestamp(1) };
    let work = place.work("back").with_trace(Some(trace.clone()));
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap();
    assert_eq!(place.tree("live"), place.tree("releases/1"));
    assert_eq!((told(&place).len(), look(&target).await.trace), (2, Some(trace)));
    assert_eq!(told(&place)[1], format!("{} 1", work.key()));
    // The same again has nothing to do, and tells nobody.
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap();
    assert_eq!(told(&place).len(), 2);
    target.deploy("2").await.unwrap();
    assert_eq!(look(&target).await.trace, None);
}

#[tokio::test]
async fn a_tree_that_nobody_could_go_back_to_is_not_written_over() {
    let place = Place::new();
    let target = place.open();
    place.put("live/precious", "of nobody's release");
    let e = target.deploy("1").await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None));
    assert!(e.message().contains("cp -a"), "{e}");
    assert_eq!(place.tree("live").len(), 1);
    assert_eq!(target.deploy("no-such").await.unwrap_err().kind(), Kind::NotFound);
    // Empty but for what is left alone, it is the first deploy of all.
    place.open().excluding(["precious"]).deploy("1").await.unwrap();
    assert_eq!(fs::read_to_string(place.path("live/precious")).unwrap(), "of nobody's release");
}

#[tokio::test]
async fn a_hook_that_fails_is_run_again_with_the_same_key() {
    let place = Place::new();
    place.open().deploy("2").await.unwrap();
    let marker = place.path("fixed").display().to_string();
    let target = hooked(&place, &format!("test -e {marker} || {{ echo no database >&2; exit 3; }}"));
    let work = place.work("back");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    let e = target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap_err();
    assert!(e.to_string().contains("no database"), "{e}");
    assert_eq!(e.effect(), Effect::Unknown);
    for seen in
        [look(&target).await, target.observe(Look::quick().with_mark(Some(Mark::new(work.key())))).await.unwrap()]
    {
        assert_eq!(all(&seen).running.to_string(), "between 2 and 1 (the restart hook has not ended well yet)");
        assert!(matches!(&all(&seen).settled, Settled::NotYet { .. }));
        assert!(matches!(seen.ours, Ours::Current | Ours::NotAsked));
    }
    fs::write(&marker, "").unwrap();
    let again = target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap();
    assert_eq!(again.extent, Extent::Done);
    assert_eq!(told(&place), vec![format!("{} 1", work.key()); 2]);
    assert!(all(&look(&target).await).runs(&"1".into()));
    // A deploy says it too; it is recorded all the same, and the same call goes on.
    fs::remove_file(&marker).unwrap();
    assert!(target.deploy("2").await.is_err());
    assert_eq!(target.history(1).await.unwrap()[0].id, "2");
    fs::write(&marker, "").unwrap();
    target.deploy("2").await.unwrap();
    assert!(all(&look(&target).await).runs(&"2".into()));
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_and_said_not_to_settle() {
    let place = Place::new();
    place.open().deploy("2").await.unwrap();
    let target = hooked(&place, "exec sleep 1000").restart_within(Duration::from_millis(300));
    let work = place.work("back");
    let prepared = target.prepare(&onto("1"), &work).await.unwrap();
    let e = target.apply(&prepared.approved, look(&target).await.token, &work).await.unwrap_err();
    assert!(!e.is_transient() && e.to_string().contains("did not end within 300ms and was killed"), "{e}");
    assert!(
        matches!(&all(&look(&target).await).settled, Settled::Never { why } if why.contains("find out why it hangs"))
    );
    // Without the hook it is as it is.
    assert!(all(&look(&place.open()).await).runs(&"1".into()));
    assert!(target.prepare(&onto("2"), &work).await.unwrap().findings.iter().all(|f| f.code != "hook"));
    let none = place.open().restart_with(["/no/such/hook"]).prepare(&onto("2"), &work).await.unwrap();
    assert!(none.findings.iter().any(|f| f.severity == Severity::Blocks && f.code == "hook"));
}

#[tokio::test]
async fn evidence_is_what_a_rollback_writes_over() {
    let place = Place::new();
    place.put("app.log", &"x\n".repeat(10_000));
    let target = place.open().with_logs([place.path("app.log")]);
    target.deploy("2").await.unwrap();
    place.put("live/d0/e0/f0", "edited by hand");
    let work = place.work("evidence");
    let bounds = crate::Bounds { time: seconds(20), bytes: 4000 };
    let kept = target.evidence().unwrap().collect(bounds, &work).await.unwrap();
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().map(|a| a.bytes).sum::<u64>() <= 4000);
    let mut texts = vec![];
    for artifact in &kept {
        let text = work.open(artifact).await.unwrap().next().await.unwrap().unwrap();
        texts.push(String::from_utf8(text).unwrap());
    }
    assert!(texts[0].contains("releases/1") && texts[0].contains(r#"release: Some("2")"#), "{}", texts[0]);
    assert_eq!(texts[1], "what it takes to be 2\nCopy d0/e0/f0\n");
    assert!(texts[2].ends_with("x\nx\n"), "{}", texts[2]);
}

fn rollback(target: DirectorySync) -> crate::Rollback {
    crate::Rollback::of(target)
        .because("500s since 2")
        .to(crate::Choose::verified().or_previous())
        .policy(crate::Policy::default().with_poll(Duration::from_millis(20)))
}

#[tokio::test]
async fn the_first_night_it_goes_back_to_what_the_deploy_recorded() {
    let place = Place::new();
    for id in ["1", "2"] {
        place.open().deploy(id).await.unwrap();
    }
    let report = rollback(hooked(&place, "true")).run().await.unwrap();
    assert_eq!(report.outcome(), &crate::Outcome::Recovered, "{report}");
    assert_eq!(place.tree("live"), place.tree("releases/1"));
    assert_eq!(told(&place).len(), 1);
}

#[tokio::test]
async fn a_run_whose_hook_hangs_ends_early_and_says_why() {
    let place = Place::new();
    for id in ["1", "2"] {
        place.open().deploy(id).await.unwrap();
    }
    let began = std::time::Instant::now();
    let target = hooked(&place, "exec sleep 1000").restart_within(Duration::from_millis(300));
    let report = rollback(target).run().await.unwrap();
    assert!(!report.outcome().is_good() && report.to_string().contains("did not end within 300ms"), "{report}");
    // It might take half an hour.
    assert!(began.elapsed() < minutes(1), "{report}");
}
