//! For unit tests of targets that keep nothing on the shelf.

use crate::{Artifact, ArtifactReader, ArtifactWriter, Error, Kind, Payload, Result, Shelf, Work, seconds};
use async_trait::async_trait;
use std::sync::Arc;

#[derive(Debug)]
struct NoShelf;

fn none<T>() -> Result<T> {
    Err(Error::new(Kind::Unsupported, "use the shelf"))
}

#[async_trait]
impl Shelf for NoShelf {
    async fn write(&self, _: &str) -> Result<Box<dyn ArtifactWriter>> {
        none()
    }
    async fn read(&self, _: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        none()
    }
    async fn save(&self, _: &str, _: u64, _: Payload) -> Result<()> {
        none()
    }
    async fn load(&self, _: &str) -> Result<Option<Payload>> {
        none()
    }
}

/// The work of the first step of a run.
pub(super) fn work(run: &str) -> Work {
    Work::new(run.into(), 1, "0.0", seconds(30), shelf())
}

pub(super) fn shelf() -> Arc<dyn Shelf> {
    Arc::new(NoShelf)
}
