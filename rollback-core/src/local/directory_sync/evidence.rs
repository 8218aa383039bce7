//! What is saved before the first change: the marker, the releases, what differs from the release that is marked (a
//! rollback writes over it), and the ends of log files.

use super::{DirectorySync, is_half_made, marker::Marker, marker::Progress};
use crate::{
    Artifact, Bounds, EvidenceSource, Result, Timestamp, Work,
    blocking::blocking,
    local::own::{
        self,
        evidence::{keep, keep_logs},
    },
};
use async_trait::async_trait;
use std::fmt::Write as _;

/// So many differences are named.
const DIFFERENCES: usize = 1000;

#[derive(Clone, Debug)]
pub(super) struct Saved(pub(super) DirectorySync);

#[async_trait]
impl EvidenceSource for Saved {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let (mut left, mut kept) = (bounds.bytes, vec![]);
        let this = self.clone();
        let listing = blocking(move || Ok(this.listing())).await?;
        keep(work, "directory-listing/1", listing.into_bytes(), &mut left, &mut kept).await?;
        let this = self.clone();
        let compared = blocking(move || Ok(this.differences()));
        // A big tree is not walked to its end: the logs are worth more.
        let mut differences = match tokio::time::timeout(bounds.time / 2, compared).await {
            Ok(differences) => differences?,
            Err(_) => format!("not compared within {:?}\n", bounds.time / 2),
        }
        .into_bytes();
        differences.truncate(usize::try_from(left / 4).unwrap_or(usize::MAX));
        keep(work, "directory-differences/1", differences, &mut left, &mut kept).await?;
        keep_logs(work, &self.0.logs, &mut left, &mut kept).await?;
        Ok(kept)
    }
}

impl Saved {
    /// How it is. What cannot be read is said in its place.
    fn listing(&self) -> String {
        let DirectorySync { live, releases, own, .. } = &self.0;
        let mut text = format!("{} at {}\n", live.display(), Timestamp::now());
        let _ = match Marker::load(own) {
            Ok((marker, _)) => writeln!(text, "marker {marker:?}\nprogress {:?}", Progress::load(own)),
            Err(e) => writeln!(text, "{e}"),
        };
        let _ = match own::load_trace(own) {
            Ok(trace) => writeln!(text, "trace {trace:?}"),
            Err(e) => writeln!(text, "{e}"),
        };
        text.push_str(&own::evidence::releases(releases));
        text
    }

    /// In what the live tree is not as the release that it is marked as.
    fn differences(&self) -> String {
        let marked = match Marker::load(&self.0.own) {
            Ok((marker, _)) => marker.going.map(|going| going.to).or(marker.release),
            Err(e) => return format!("{e}\n"),
        };
        let Some(release) = marked else { return "no marker tells which release it is\n".into() };
        let mut text = format!("what it takes to be {release}\n");
        let mut named = 0;
        let compared = self.0.compare(&release, &mut |op| {
            if !is_half_made(&op) {
                named += 1;
                let _ = writeln!(text, "{:?} {}", op.what, op.path);
            }
            Ok(named < DIFFERENCES)
        });
        match compared {
            Ok((true, _)) => {}
            Ok((false, _)) => text.push_str("…\n"),
            Err(e) => {
                let _ = writeln!(text, "{e}");
            }
        }
        text
    }
}
