//! Which release the live tree is, or between which two: told by a small file, so that a poll need not walk the tree.

use crate::{Digest, ReleaseId, Result, RunId, Stored, Timestamp, atomic_file, local::own};
use serde::{Deserialize, Serialize};
use std::{os::unix::fs::MetadataExt as _, path::Path};

pub(super) const FILE: &str = "marker.json";
const PROGRESS: &str = "progress.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The release that the tree was last brought to.
    pub(super) release: Option<ReleaseId>,
    /// It is on its way to another.
    pub(super) going: Option<Going>,
    pub(super) at: Timestamp,
    /// The write that left it so.
    pub(super) key: Option<String>,
    /// The tree is brought there, and the hook that tells the service has not ended well yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restart: Option<Restart>,
}

/// What the hook is to be told, together with what stands in the marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restart {
    pub(super) from: Option<ReleaseId>,
    pub(super) run: RunId,
    pub(super) epoch: u64,
    /// Why to run the hook again will not help: it did not end when it was run last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hung: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Going {
    pub(super) to: ReleaseId,
    pub(super) epoch: u64,
}

impl Stored for Marker {
    const NAME: &'static str = "rollback-core/directory-marker";
    const VERSION: u32 = 1;
}

/// For compare-and-set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MarkerSeen {
    content: Option<Digest>,
    inode: u64,
}

impl Stored for MarkerSeen {
    const NAME: &'static str = "rollback-core/directory-marker-seen";
    const VERSION: u32 = 1;
}

/// How far the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) of: u64,
}

impl Stored for Progress {
    const NAME: &'static str = "rollback-core/directory-progress";
    const VERSION: u32 = 1;
}

impl Marker {
    /// The marker, and what compare-and-set needs.
    pub(super) fn load(dir: &Path) -> Result<(Marker, MarkerSeen)> {
        let path = dir.join(FILE);
        let Some(marker) = own::load::<Marker>(&path)? else { return Ok(Default::default()) };
        let content = atomic_file::read(&path, 1 << 20)?.map(|bytes| Digest::of(&bytes));
        let inode = std::fs::metadata(&path).map_or(0, |meta| meta.ino());
        Ok((marker, MarkerSeen { content, inode }))
    }
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        own::save(&dir.join(FILE), self)
    }
}

impl Progress {
    pub(super) fn load(dir: &Path) -> Option<Self> {
        own::load(&dir.join(PROGRESS)).ok().flatten()
    }
    pub(super) fn save(self, dir: &Path) -> Result<()> {
        own::save(&dir.join(PROGRESS), &self)
    }
    pub(super) fn remove(dir: &Path) -> Result<()> {
        atomic_file::remove(&dir.join(PROGRESS))
    }
}
