//! What is kept in `<root>/.rollback`: the last swap, the trace of the last rollback, the releases that were recorded.
//! Each file carries its schema and is replaced as a whole.

use super::layout::Layout;
use crate::{Digest, Error, Payload, ReleaseId, Result, RunId, Stored, Timestamp, Trace, atomic_file};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// No file of ours is longer.
const MOST: u64 = 16 << 20;
/// So many recorded releases are remembered whose directory is gone.
const GONE_KEPT: usize = 50;

/// The last swap, written before it: a crash between the swap and the end of the hook can then be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Swap {
    /// [`Work::key`](crate::Work::key), or the deploy's.
    pub(super) key: String,
    pub(super) run: RunId,
    pub(super) epoch: u64,
    pub(super) from: Option<ReleaseId>,
    pub(super) to: ReleaseId,
    /// Of the link that was put in place.
    pub(super) inode: u64,
    /// The link is swapped, and the hook, if there is one, has ended well.
    pub(super) done: bool,
    pub(super) at: Timestamp,
}

impl Stored for Swap {
    const NAME: &'static str = "rollback-core/release-dir-swap";
    const VERSION: u32 = 1;
}

impl Swap {
    const FILE: &'static str = "swap.json";
    pub(super) fn load(layout: &Layout) -> Result<Option<Self>> {
        load(&layout.own(Self::FILE))
    }
    pub(super) fn save(&self, layout: &Layout) -> Result<()> {
        save(&layout.own(Self::FILE), self)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Left(Trace);

impl Stored for Left {
    const NAME: &'static str = "rollback-core/release-dir-trace";
    const VERSION: u32 = 1;
}

const TRACE: &str = "trace.json";

pub(super) fn load_trace(layout: &Layout) -> Result<Option<Trace>> {
    Ok(load(&layout.own(TRACE))?.map(|Left(trace)| trace))
}
pub(super) fn save_trace(layout: &Layout, trace: &Trace) -> Result<()> {
    save(&layout.own(TRACE), &Left(trace.clone()))
}
pub(super) fn remove_trace(layout: &Layout) -> Result<()> {
    atomic_file::remove(&layout.own(TRACE))
}

/// A release as it was when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) id: ReleaseId,
    pub(super) label: String,
    pub(super) digest: Digest,
    pub(super) at: Timestamp,
}

/// The recorded releases, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Records(Vec<Recorded>);

impl Stored for Records {
    const NAME: &'static str = "rollback-core/release-dir-records";
    const VERSION: u32 = 1;
}

impl Records {
    const FILE: &'static str = "records.json";
    pub(super) fn load(layout: &Layout) -> Result<Self> {
        Ok(load(&layout.own(Self::FILE))?.unwrap_or_default())
    }
    pub(super) fn save(&self, layout: &Layout) -> Result<()> {
        save(&layout.own(Self::FILE), self)
    }
    pub(super) fn get(&self, id: &ReleaseId) -> Option<&Recorded> {
        self.0.iter().find(|r| r.id == *id)
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &Recorded> {
        self.0.iter()
    }
    /// Records. A release that is known and unchanged keeps its place, unless it was deployed anew.
    pub(super) fn record(&mut self, mut new: Recorded, deployed: bool) {
        match self.0.iter_mut().find(|r| r.id == new.id) {
            Some(known) if known.digest == new.digest && !deployed => {
                known.label = new.label;
                return;
            }
            _ => {}
        }
        self.0.retain(|r| r.id != new.id);
        // Wall clocks jump; the order of deploys does not.
        if let Some(newest) = self.0.first() {
            new.at = new.at.max(Timestamp(newest.at.0.saturating_add(1)));
        }
        self.0.insert(0, new);
    }
    /// Forgets the oldest of those whose directory is gone.
    pub(super) fn prune(&mut self, there: impl Fn(&ReleaseId) -> bool) {
        let mut gone = 0;
        self.0.retain(|r| {
            let keep = there(&r.id) || gone < GONE_KEPT;
            gone += usize::from(!there(&r.id));
            keep
        });
    }
}

fn load<T: Stored>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = atomic_file::read(path, MOST)? else { return Ok(None) };
    let payload: Payload = serde_json::from_slice(&bytes).map_err(|e| damaged(path, e))?;
    payload.read().map(Some).map_err(|e| damaged(path, e))
}

fn save<T: Stored>(path: &Path, value: &T) -> Result<()> {
    let payload = Payload::of(value)?;
    let bytes = serde_json::to_vec_pretty(&payload).map_err(|e| damaged(path, e))?;
    atomic_file::write(path, &bytes)
}

fn damaged(path: &Path, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(crate::Kind::Invalid, format!("read {}", path.display()))
        .with_message("it is damaged, or a newer release of this library wrote it; if it is damaged, move it away")
        .with_source(e)
        .without_effect()
}
