//! The last swap, noted in `<root>/.rollback`.

use super::layout::Layout;
use crate::{ReleaseId, Result, RunId, Stored, Timestamp, local::own};
use serde::{Deserialize, Serialize};

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
    /// Why to run the hook again will not help: it did not end when it was run last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hung: Option<String>,
    /// How often the hook has failed.
    #[serde(default)]
    pub(super) failed: u32,
}

impl Stored for Swap {
    const NAME: &'static str = "rollback-core/release-dir-swap";
    const VERSION: u32 = 1;
}

impl Swap {
    const FILE: &'static str = "swap.json";
    pub(super) fn load(layout: &Layout) -> Result<Option<Self>> {
        own::load(&layout.own(Self::FILE))
    }
    pub(super) fn save(&self, layout: &Layout) -> Result<()> {
        own::save(&layout.own(Self::FILE), self)
    }
}
