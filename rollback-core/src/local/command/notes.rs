//! Which apply is under way: so that what one left half done is known for ours.

use crate::{Digest, Release, ReleaseId, Running, TargetId, atomic_file, blocking::blocking};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// An apply that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) key: String,
    pub(super) from: ReleaseId,
    pub(super) to: ReleaseId,
}

impl Note {
    /// The state between the two releases, if what runs lies between them in the order of the history.
    pub(super) fn between(&self, release: &ReleaseId, history: &[Release]) -> Option<Running> {
        let place = |id: &ReleaseId| history.iter().position(|r| r.id == *id);
        let (from, to, at) = (place(&self.from)?, place(&self.to)?, place(release)?);
        (from.min(to) < at && at < from.max(to)).then(|| Running::Between {
            from: self.from.clone(),
            to: self.to.clone(),
            state: format!("at {release}"),
        })
    }
}

/// The last note of a target: in memory, and on disk where there is a place for it.
#[derive(Debug)]
pub(super) struct Notes {
    memory: Mutex<Option<Note>>,
    path: Option<PathBuf>,
}

impl Notes {
    pub(super) fn new(dir: Option<&Path>, target: &TargetId) -> Self {
        let name = Digest::of(target.as_str().as_bytes()).to_string().replace("sha256:", "");
        Self { memory: Mutex::new(None), path: dir.map(|dir| dir.join(format!("{name}.apply.json"))) }
    }
    /// Notes it. What cannot be written is kept in memory: a full disk must not stop a rollback.
    pub(super) async fn put(&self, note: Note) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(note.clone());
        if let (Some(path), Ok(bytes)) = (self.path.clone(), serde_json::to_vec(&note)) {
            let _ = blocking(move || atomic_file::write(&path, &bytes)).await;
        }
    }
    /// The note of the write with this key, by this or an earlier process.
    pub(super) async fn of(&self, key: &str) -> Option<Note> {
        let here = self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if here.as_ref().is_some_and(|note| note.key == key) {
            return here;
        }
        let path = self.path.clone()?;
        let bytes = blocking(move || atomic_file::read(&path, 1 << 16)).await.ok()??;
        serde_json::from_slice::<Note>(&bytes).ok().filter(|note| note.key == key)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_note_outlives_the_process_and_counts_for_its_write_only() {
        let dir = tempfile::tempdir().unwrap();
        let note = Note { key: "r/0.0".into(), from: "c".into(), to: "a".into() };
        Notes::new(Some(dir.path()), &"t".into()).put(note.clone()).await;
        let later = Notes::new(Some(dir.path()), &"t".into());
        assert_eq!(later.of("r/0.0").await, Some(note.clone()));
        assert_eq!(later.of("r/0.1").await, None);
        assert_eq!(Notes::new(Some(dir.path()), &"other".into()).of("r/0.0").await, None);
        let only_memory = Notes::new(None, &"t".into());
        assert_eq!(only_memory.of("r/0.0").await, None);
        only_memory.put(note.clone()).await;
        assert_eq!(only_memory.of("r/0.0").await, Some(note.clone()));
        // No place to write: it is still known in this process.
        let nowhere = Notes::new(Some(&dir.path().join("no/dir")), &"t".into());
        nowhere.put(note.clone()).await;
        assert_eq!(nowhere.of("r/0.0").await, Some(note));
    }

    #[test]
    fn between_is_strictly_between() {
        let history = ["d", "c", "b", "a"].map(Release::new);
        for (from, to) in [("d", "b"), ("b", "d")] {
            let note = Note { key: String::new(), from: from.into(), to: to.into() };
            assert!(
                matches!(note.between(&"c".into(), &history), Some(Running::Between { state, .. }) if state == "at c")
            );
            for not in ["d", "b", "a", "x"] {
                assert_eq!(note.between(&not.into(), &history), None);
            }
        }
    }
}
