//! Where releases of a project are found: what was kept, the commits of its repository, copies.

use super::{
    archive::{Archive, Phase},
    files::{FileSet, Slot},
};
use crate::image;
use rollback_core::{Error, Kind, Release, ReleaseId, Result, Timestamp, process::Process, seconds};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// How many commits are looked at.
const COMMITS: usize = 50;
const GIT_WITHIN: Duration = seconds(20);
/// Two copies of a file are not larger than this together.
const MOST: usize = 64 << 20;

/// A place to look.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// The commits that a name leads to: `HEAD`, `origin/main`.
    Git(String),
    /// A directory with a directory for each release.
    Backups(PathBuf),
    /// A copy beside each file, with this after its name.
    Suffix(String),
}

/// A release that was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) release: Release,
    pub(super) set: FileSet,
}

/// What was found, and why not more.
#[derive(Debug, Default)]
pub(super) struct All {
    pub(super) found: Vec<Found>,
    pub(super) lacking: BTreeSet<String>,
}

impl All {
    pub(super) fn get(&self, id: &ReleaseId) -> Option<&Found> {
        self.found.iter().find(|found| found.release.id == *id)
    }
    fn add(&mut self, found: Found) {
        if self.get(&found.release.id).is_none() {
            self.found.push(found);
        }
    }
}

/// When a file was written.
pub(super) fn written(path: &Path) -> Option<Timestamp> {
    let at = fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(at.as_millis()).ok().map(Timestamp)
}

/// Everything, newest first, and behind it what nobody is known to have deployed; what runs now is in it. The first place that
/// knows a release says when it was made, and a later deploy that is known of makes it newer; what it was recorded as is its
/// label.
pub(super) async fn all(
    sources: &[Source],
    archive: &Archive,
    slots: &[Slot],
    dir: &Path,
    live: Option<&FileSet>,
) -> Result<All> {
    let mut all = All::default();
    for source in sources {
        match source {
            Source::Git(from) => git(from, slots, dir, &mut all).await?,
            Source::Backups(from) => backups(from, slots, &mut all)?,
            Source::Suffix(suffix) => beside(suffix, slots, &mut all)?,
        }
    }
    let kept = archive.kept();
    for about in &kept {
        if let Some(known) = all.found.iter_mut().find(|found| found.release.id == about.id) {
            image::call(&mut known.release, &about.label);
            known.release.names.extend(about.names.clone());
            if about.how.was_deployed() {
                known.release.made_at = known.release.made_at.max(Some(about.at));
            }
        } else if let Some(set) = archive.files(&about.id, slots) {
            all.add(Found { release: about.clone().release(), set });
        }
    }
    if let Some(set) = live {
        let id = set.release(slots);
        let at = slots.iter().filter_map(|slot| written(&slot.path)).max();
        let mut release = Release::new(id.clone()).with_label("the files as they are");
        release.made_at = at;
        all.add(Found { release, set: set.clone() });
        // Whoever put them there came after all others that are known to have been deployed, unless a rollback is about to.
        let pending = archive.begun()?.is_some_and(|begun| begun.phase != Phase::Done && begun.to == id);
        let others = kept.iter().filter(|about| about.how.was_deployed() && about.id != id).map(|about| about.at);
        if let Some(live) = all.found.iter_mut().find(|found| found.release.id == id).filter(|_| !pending) {
            let behind = others.max().map(|last| Timestamp(last.0 + 1));
            live.release.made_at = live.release.made_at.max(behind);
            live.release.undeployed = false;
        }
    }
    // Stable: commits of one second stay in their order.
    all.found.sort_by_key(|found| (found.release.undeployed, std::cmp::Reverse(found.release.made_at)));
    Ok(all)
}

fn read(paths: &[PathBuf], from: &str, all: &mut All) -> Result<Option<(FileSet, Option<Timestamp>)>> {
    let mut bytes = vec![];
    for path in paths {
        match fs::read(path) {
            Ok(content) => bytes.push(content),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                all.lacking.insert(format!("{from} has no {}", path.display()));
                return Ok(None);
            }
            Err(e) => return Err(Error::from_io(format!("read {}", path.display()), e).without_effect()),
        }
    }
    Ok(Some((FileSet(bytes), paths.iter().filter_map(|path| written(path)).max())))
}

fn backups(from: &Path, slots: &[Slot], all: &mut All) -> Result<()> {
    let entries = fs::read_dir(from)
        .map_err(|e| Error::from_io(format!("list the backups in {}", from.display()), e).without_effect())?;
    let mut dirs: Vec<_> = entries.flatten().filter(|entry| entry.path().is_dir()).collect();
    dirs.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
    for entry in dirs {
        let label = entry.file_name().to_string_lossy().into_owned();
        // Under its name as it was given, or, where that leads elsewhere, its last part.
        let at = |slot: &Slot| {
            let relative = Path::new(&slot.shown);
            let plain = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            let name = if plain { Some(relative.as_os_str()) } else { relative.file_name() };
            entry.path().join(name.unwrap_or_default())
        };
        let paths: Vec<PathBuf> = slots.iter().map(at).collect();
        if let Some((set, made)) = read(&paths, &format!("the backup {label}"), all)? {
            let mut release = Release::new(set.release(slots)).with_label(label);
            release.made_at = made;
            all.add(Found { release, set });
        }
    }
    Ok(())
}

fn beside(suffix: &str, slots: &[Slot], all: &mut All) -> Result<()> {
    let paths: Vec<PathBuf> = slots
        .iter()
        .map(|slot| {
            let mut name = slot.path.clone().into_os_string();
            name.push(suffix);
            name.into()
        })
        .collect();
    if let Some((set, made)) = read(&paths, &format!("the copy {suffix}"), all)? {
        let mut release = Release::new(set.release(slots)).with_label(format!("the copy {suffix}"));
        release.made_at = made;
        all.add(Found { release, set });
    }
    Ok(())
}

fn git_process(dir: &Path, arguments: impl IntoIterator<Item = String>) -> Process {
    let argv = ["git".to_owned(), "-C".to_owned(), dir.display().to_string()].into_iter().chain(arguments);
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"]
        .into_iter()
        .fold(Process::new(argv), Process::without_env)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .within(GIT_WITHIN)
        .stdout_limit(MOST)
}

async fn git(from: &str, slots: &[Slot], dir: &Path, all: &mut All) -> Result<()> {
    let failed = |kind, message: String| {
        Error::new(kind, "read the commits of the project").with_message(message).without_effect()
    };
    let invalid = |e: Error| match e.kind() {
        Kind::NotFound => failed(Kind::Unsupported, "there is no git on this host: install it, or use backups".into()),
        _ => e.without_effect(),
    };
    let ok = |out: rollback_core::process::Output| match out.is_success() && !out.truncated {
        true => Ok(out.stdout),
        false => Err(failed(Kind::Invalid, format!("git ended with {out}, and said: {}", out.stderr.trim()))),
    };
    let names: Vec<String> = slots.iter().map(|slot| slot.shown.clone()).collect();
    let most = format!("--max-count={COMMITS}");
    let log = ["log", "--format=%H%x1f%ct%x1f%s", &most, "--end-of-options", from, "--"].map(str::to_owned);
    let log = git_process(dir, log.into_iter().chain(names.iter().cloned())).run().await.map_err(invalid)?;
    let log = String::from_utf8_lossy(&ok(log)?).into_owned();
    let commits: Vec<(&str, Option<u64>, &str)> = log
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, '\u{1f}');
            let (hash, at, why) = (words.next()?, words.next()?, words.next()?);
            Some((hash, at.parse::<u64>().ok(), why))
        })
        .collect();
    // Beginning with a dot, a path is taken from the directory, not from the repository's root.
    let asked: String =
        commits.iter().flat_map(|(hash, ..)| names.iter().map(move |name| format!("{hash}:./{name}\n"))).collect();
    let batch =
        git_process(dir, ["cat-file", "--batch"].map(str::to_owned)).stdin(asked).run().await.map_err(invalid)?;
    let batch = ok(batch)?;
    let mut rest = batch.as_slice();
    for (hash, at, why) in commits {
        let mut files = vec![];
        for name in &names {
            match blob(&mut rest) {
                Some(Some(bytes)) => files.push(bytes),
                Some(None) => {
                    all.lacking.insert(format!("git has no {name} in every commit"));
                }
                None => return Err(failed(Kind::Unexpected, "git's answer was not understood".into())),
            }
        }
        if files.len() == names.len() {
            let set = FileSet(files);
            let mut release = Release::new(set.release(slots)).with_label(hash.chars().take(12).collect::<String>());
            release.made_at = at.map(|seconds| Timestamp(seconds * 1000));
            release.why = Some(why.to_owned());
            all.add(Found { release, set });
        }
    }
    Ok(())
}

/// One answer of `git cat-file --batch`: `<hash> blob <size>\n<content>\n`, or `<name> missing\n`. The outer `None`: it is
/// neither.
fn blob(rest: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    let end = rest.iter().position(|b| *b == b'\n')?;
    let line = String::from_utf8_lossy(&rest[..end]).into_owned();
    *rest = &rest[end + 1..];
    let Some((_, size)) = line.rsplit_once(" blob ") else { return line.ends_with(" missing").then_some(None) };
    let size: usize = size.trim().parse().ok()?;
    let bytes = rest.get(..size)?.to_vec();
    *rest = rest.get(size + 1..)?;
    Some(Some(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::files::Role, *};
    use std::process::Command;

    fn commit(dir: &Path, at: u64, why: &str) {
        let git = |arguments: &[&str]| {
            let date = format!("{at} +0000");
            let done = Command::new("git")
                .arg("-C")
                .arg(dir)
                .args(["-c", "user.name=t", "-c", "user.email=t@example"])
                .args(arguments)
                .envs([("GIT_COMMITTER_DATE", &date), ("GIT_AUTHOR_DATE", &date)])
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        git(&["init", "-q"]);
        git(&["add", "."]);
        git(&["commit", "-q", "-m", why]);
    }
    fn labels(all: &All) -> Vec<&str> {
        all.found.iter().map(|found| found.release.label.as_str()).collect()
    }

    #[tokio::test]
    async fn commits_backups_and_copies() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("deploy");
        fs::create_dir(&dir).unwrap();
        let slots = [Slot::new(&dir, Role::Compose, Path::new("c.yaml"))];
        for (n, why) in [(1, "first"), (2, "second"), (3, "third")] {
            fs::write(&slots[0].path, n.to_string()).unwrap();
            commit(root.path(), 1_700_000_000 + n, why);
        }
        let archive = Archive::new(dir.join(".rollback"), 5);
        let live = FileSet(vec![b"3".to_vec()]);
        let sources = [Source::Git("HEAD".into())];
        let found = all(&sources, &archive, &slots, &dir, Some(&live)).await.unwrap();
        let whys: Vec<_> = found.found.iter().map(|f| f.release.why.as_deref().unwrap()).collect();
        assert_eq!(whys, ["third", "second", "first"]);
        assert_eq!(found.found[2].set, FileSet(vec![b"1".to_vec()]));

        let backups = root.path().join("backups");
        for n in ["2.0", "3.0"] {
            fs::create_dir_all(backups.join(n)).unwrap();
            fs::write(backups.join(n).join("c.yaml"), n).unwrap();
        }
        fs::create_dir_all(backups.join("other")).unwrap();
        fs::write(dir.join("c.yaml.backup"), "old").unwrap();
        let sources = [Source::Backups(backups), Source::Suffix(".backup".into())];
        let found = all(&sources, &archive, &slots, &dir, None).await.unwrap();
        let mut names = labels(&found);
        names.sort_unstable();
        assert_eq!(names, ["2.0", "3.0", "the copy .backup"]);
        assert!(found.lacking.iter().any(|why| why.contains("the backup other")), "{found:?}");
    }

    #[tokio::test]
    async fn a_file_that_git_does_not_have_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("c.yaml"), "1").unwrap();
        commit(root.path(), 1_700_000_000, "first");
        let slots = ["c.yaml", ".env"].map(|name| Slot::new(root.path(), Role::Compose, Path::new(name)));
        let archive = Archive::new(root.path().join(".rollback"), 5);
        let found = all(&[Source::Git("HEAD".into())], &archive, &slots, root.path(), None).await.unwrap();
        assert!(found.found.is_empty());
        assert!(found.lacking.iter().any(|why| why.contains(".env")), "{found:?}");
        let e = all(&[Source::Git("no-such".into())], &archive, &slots, root.path(), None).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, rollback_core::Effect::None));
    }
}
