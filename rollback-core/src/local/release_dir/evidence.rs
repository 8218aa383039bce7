//! What is saved before the first change: how the releases and the link were, and the ends of log files.

use super::layout::Layout;
use crate::{
    Artifact, Bounds, EvidenceSource, Result, Timestamp, Work,
    blocking::blocking,
    local::own::{
        self,
        evidence::{keep, keep_logs},
    },
};
use async_trait::async_trait;
use std::{fmt::Write as _, path::PathBuf};

#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) layout: Layout,
    pub(super) logs: Vec<PathBuf>,
}

#[async_trait]
impl EvidenceSource for Saved {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let mut left = bounds.bytes;
        let layout = self.layout.clone();
        let listing = blocking(move || Ok(listing(&layout))).await?;
        let mut kept = vec![];
        keep(work, "release-dir-listing/1", listing.into_bytes(), &mut left, &mut kept).await?;
        keep_logs(work, &self.logs, &mut left, &mut kept).await?;
        Ok(kept)
    }
}

/// How it is. What cannot be read is said in its place.
fn listing(layout: &Layout) -> String {
    let mut text = format!("{} at {}\n", layout.root().display(), Timestamp::now());
    let _ = match layout.read() {
        Ok(read) => writeln!(
            text,
            "link {:?}{}\nlast swap {:?}\ntrace {:?}",
            read.link.points,
            if read.gone { " (gone)" } else { "" },
            read.swap,
            read.trace
        ),
        Err(e) => writeln!(text, "{e}"),
    };
    text.push_str(&own::evidence::releases(&layout.releases()));
    text
}
