//! What a project's rollbacks keep beside it, in `.rollback`: releases that were recorded or replaced, the change under way,
//! the trace of the last one.
//!
//! Only its owner may read it: environment files hold secrets.

use super::files::{FileSet, Slot};
use crate::pins::How;
use rollback_core::{
    DiffLine, Error, Kind, Release, ReleaseId, Result, RunId, Timestamp, Trace,
    atomic_file::{self, Locked},
    seconds,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long another process that changes the project is waited for.
const LOCK_WITHIN: Duration = seconds(5);
const MOST: u64 = 4 << 20;

/// An image of a service: the name it was found by, and what that name meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) id: String,
    /// By which name, with its digest, a registry has it, if it came from one.
    #[serde(default)]
    pub(super) pull: Option<String>,
}

/// What is known of a kept release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) id: ReleaseId,
    pub(super) label: String,
    /// What it was called before.
    #[serde(default)]
    pub(super) names: Vec<String>,
    #[serde(default)]
    pub(super) how: How,
    /// When it was deployed last, as far as is known; of what never was, when it was made.
    pub(super) at: Timestamp,
    pub(super) why: Option<String>,
    /// What its containers were labelled with, by service.
    #[serde(default)]
    pub(super) hashes: BTreeMap<String, String>,
    /// What they ran, by service.
    #[serde(default)]
    pub(super) images: BTreeMap<String, Image>,
}

impl About {
    pub(super) fn release(self) -> Release {
        let mut release = Release::new(self.id).with_label(self.label).with_names(self.names).with_made_at(self.at);
        (release.why, release.undeployed) = (self.why, !self.how.was_deployed());
        release
    }
}

/// How far a change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// The files are being replaced.
    Files,
    /// Containers are being removed.
    Down,
    /// Containers are being made.
    Up,
    /// Compose ended well.
    Done,
}

/// The last change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) key: String,
    pub(super) run: RunId,
    pub(super) epoch: u64,
    pub(super) from: Option<ReleaseId>,
    pub(super) to: ReleaseId,
    pub(super) phase: Phase,
    pub(super) at: Timestamp,
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    dir: PathBuf,
    keep: usize,
}

fn failed(what: &str, e: io::Error) -> Error {
    Error::from_io(what, e).without_effect()
}

/// A directory's name for a release.
fn name(id: &ReleaseId) -> String {
    let id = id.as_str();
    id.strip_prefix("sha256:").unwrap_or(id).chars().filter(char::is_ascii_alphanumeric).collect()
}

impl Archive {
    pub(super) fn new(dir: PathBuf, keep: usize) -> Self {
        Self { dir, keep }
    }

    fn make(&self) -> Result<()> {
        let make = |dir: &Path| match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(|e| failed("make the directory for releases", e)),
        };
        make(&self.dir)?;
        // Whoever made it, and whoever commits what lies in the project: environment files hold secrets.
        let mode = fs::metadata(&self.dir).map_err(|e| failed("look at the directory for releases", e))?.permissions();
        if mode.mode() & 0o777 != 0o700 {
            let own = fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700));
            own.map_err(|e| failed("keep the directory for releases to its owner", e))?;
        }
        let ignored = self.dir.join(".gitignore");
        if !ignored.exists() {
            atomic_file::write(&ignored, b"*\n")?;
        }
        make(&self.dir.join("releases"))
    }

    pub(super) async fn lock(&self) -> Result<Locked> {
        self.make()?;
        atomic_file::lock(&self.dir.join("change"), LOCK_WITHIN).await
    }

    fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
        let Some(bytes) = atomic_file::read(path, MOST)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            let operation = format!("read {}", path.display());
            Error::new(Kind::Invalid, operation)
                .with_message("it is damaged: move it away")
                .with_source(e)
                .without_effect()
        })
    }
    fn save<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        self.make()?;
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::new(Kind::Unexpected, "write down the change").with_source(e).without_effect())?;
        atomic_file::write(path, &bytes)
    }

    pub(super) fn begun(&self) -> Result<Option<Begun>> {
        Self::load(&self.dir.join("change.json"))
    }
    pub(super) fn begin(&self, begun: &Begun) -> Result<()> {
        self.save(&self.dir.join("change.json"), begun)
    }
    pub(super) fn trace(&self) -> Result<Option<Trace>> {
        Self::load(&self.dir.join("trace.json"))
    }
    pub(super) fn leave(&self, trace: &Trace) -> Result<()> {
        self.save(&self.dir.join("trace.json"), trace)
    }

    /// Every release that is kept, newest first. One that is damaged is left out.
    pub(super) fn kept(&self) -> Vec<About> {
        let entries = fs::read_dir(self.dir.join("releases")).into_iter().flatten().flatten();
        let mut all: Vec<About> =
            entries.filter_map(|entry| Self::load::<About>(&entry.path().join("about.json")).ok().flatten()).collect();
        all.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
        all
    }
    pub(super) fn about(&self, id: &ReleaseId) -> Option<About> {
        Self::load(&self.dir.join("releases").join(name(id)).join("about.json")).ok().flatten()
    }
    /// Its files, if all are there and it is what it says.
    pub(super) fn files(&self, id: &ReleaseId, slots: &[Slot]) -> Option<FileSet> {
        let dir = self.dir.join("releases").join(name(id));
        let all = (0..slots.len()).map(|n| atomic_file::read(&dir.join(n.to_string()), MOST).ok().flatten());
        let set = FileSet(all.collect::<Option<_>>()?);
        (set.release(slots) == *id).then_some(set)
    }

    /// Keeps a release. What was known of it stays, unless this says more.
    pub(super) fn keep(&self, set: &FileSet, mut about: About) -> Result<About> {
        self.make()?;
        let dir = self.dir.join("releases").join(name(&about.id));
        if let Some(known) = self.about(&about.id) {
            about.how = about.how.min(known.how);
            about.at = about.at.max(known.at);
            about.why = about.why.or(known.why);
            let before = known.names.into_iter().chain([known.label]);
            about.names.extend(before.filter(|name| *name != about.label));
            about.names.dedup();
            if about.hashes.is_empty() {
                about.hashes = known.hashes;
            }
            if about.images.is_empty() {
                about.images = known.images;
            }
        }
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("keep the release", e)),
            _ => {}
        }
        for (n, bytes) in set.0.iter().enumerate() {
            let path = dir.join(n.to_string());
            atomic_file::write(&path, bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|e| failed("keep the release", e))?;
        }
        // Last: what has no about is not there.
        self.save(&dir.join("about.json"), &about)?;
        Ok(about)
    }
    /// What went in its place, for people.
    pub(super) fn keep_diff(&self, left: &ReleaseId, reached: &ReleaseId, diff: &[DiffLine]) -> Result<()> {
        let mut text = format!("left    {left}\nreached {reached}\n\n");
        for line in diff {
            let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
            text += &format!("{}: {} -> {}\n", line.what, side(&line.from), side(&line.to));
        }
        atomic_file::write(&self.dir.join("releases").join(name(left)).join("left.diff"), text.as_bytes())
    }
    /// Of those that are kept for the same reason, lets go of the ones beyond that were deployed the longest ago. These stay in
    /// any case. Gives what went.
    pub(super) fn prune(&self, stay: &[&ReleaseId]) -> Vec<About> {
        let kept = self.kept();
        let alike = |how| kept.iter().filter(move |about| about.how == how).skip(self.keep);
        let old = [How::Recorded, How::Ran, How::Made].into_iter().flat_map(alike);
        let old: Vec<About> = old.filter(|about| !stay.contains(&&about.id)).cloned().collect();
        for about in &old {
            let _ = fs::remove_dir_all(self.dir.join("releases").join(name(&about.id)));
        }
        old
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::files::Role, *};

    fn about(id: ReleaseId, at: u64) -> About {
        About {
            id,
            label: at.to_string(),
            names: vec![],
            how: How::Recorded,
            at: Timestamp(at),
            why: None,
            hashes: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }

    #[test]
    fn kept_read_back_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path().join(".rollback"), 2);
        let slots = [Slot::new(dir.path(), Role::Compose, Path::new("a"))];
        assert!(archive.kept().is_empty() && archive.begun().unwrap().is_none());
        let mut ids = vec![];
        for n in 1..=4 {
            let set = FileSet(vec![format!("{n}").into_bytes()]);
            let id = set.release(&slots);
            archive.keep(&set, about(id.clone(), n)).unwrap();
            assert_eq!(archive.files(&id, &slots).unwrap(), set);
            ids.push(id);
        }
        let newest: Vec<u64> = archive.kept().iter().map(|a| a.at.0).collect();
        assert_eq!(newest, [4, 3, 2, 1]);
        archive.prune(&[&ids[0]]);
        let newest: Vec<u64> = archive.kept().iter().map(|a| a.at.0).collect();
        assert_eq!(newest, [4, 3, 1], "what runs stays, however old");
        let mode = fs::metadata(dir.path().join(".rollback")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(fs::read_to_string(dir.path().join(".rollback/.gitignore")).unwrap(), "*\n");
        // What was only left or edited takes no room from what was recorded; and deployed again it is the newest.
        for (n, how) in [(7, How::Ran), (8, How::Ran), (9, How::Made)] {
            let set = FileSet(vec![format!("{n}").into_bytes()]);
            archive.keep(&set, About { how, ..about(set.release(&slots), n) }).unwrap();
        }
        archive.prune(&[&ids[0]]);
        assert_eq!(archive.kept().len(), 6);
        let again = FileSet(vec![b"3".to_vec()]);
        let again = archive.keep(&again, About { label: "3.0.1".into(), how: How::Ran, ..about(ids[2].clone(), 10) });
        let again = again.unwrap();
        assert_eq!((again.how, again.at.0, again.names), (How::Recorded, 10, vec!["3".to_owned()]));
        let edited = archive.dir.join("releases").join(name(&ids[3])).join("0");
        fs::write(edited, "x").unwrap();
        assert_eq!(archive.files(&ids[3], &slots), None, "edited by hand");
    }
}
