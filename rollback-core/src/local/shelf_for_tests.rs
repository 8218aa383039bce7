//! A shelf in memory, for the tests of this folder.

use crate::{
    Artifact, ArtifactReader, ArtifactWriter, Digest, Error, Kind, Payload, Result, RunId, Shelf, Work, minutes,
};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

#[derive(Clone, Debug, Default)]
pub(super) struct MemoryShelf(Arc<Mutex<Lying>>);

#[derive(Debug, Default)]
struct Lying {
    artifacts: HashMap<Digest, Vec<u8>>,
    saved: HashMap<String, (u64, Payload)>,
}

impl MemoryShelf {
    pub(super) fn work(&self, run: &str) -> Work {
        Work::new(RunId::from(run), 1, "1.1", minutes(1), Arc::new(self.clone()))
    }
}

#[async_trait]
impl Shelf for MemoryShelf {
    async fn write(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>> {
        Ok(Box::new(Writer { shelf: self.clone(), kind: kind.into(), bytes: vec![] }))
    }
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        let all = self.0.lock().unwrap();
        let bytes =
            all.artifacts.get(&artifact.digest).ok_or_else(|| Error::new(Kind::NotFound, "open an artifact"))?;
        // Small chunks that no line respects.
        Ok(Box::new(Reader(bytes.chunks(1000).map(<[u8]>::to_vec).rev().collect())))
    }
    async fn save(&self, key: &str, epoch: u64, checkpoint: Payload) -> Result<()> {
        let mut all = self.0.lock().unwrap();
        if all.saved.get(key).is_some_and(|(newest, _)| *newest > epoch) {
            return Err(Error::new(Kind::Conflict, "save a checkpoint"));
        }
        all.saved.insert(key.into(), (epoch, checkpoint));
        Ok(())
    }
    async fn load(&self, key: &str) -> Result<Option<Payload>> {
        Ok(self.0.lock().unwrap().saved.get(key).map(|(_, payload)| payload.clone()))
    }
}

#[derive(Debug)]
struct Writer {
    shelf: MemoryShelf,
    kind: String,
    bytes: Vec<u8>,
}

#[async_trait]
impl ArtifactWriter for Writer {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    async fn seal(self: Box<Self>) -> Result<Artifact> {
        let digest = Digest::of(&self.bytes);
        let artifact = Artifact { digest: digest.clone(), bytes: self.bytes.len() as u64, kind: self.kind };
        self.shelf.0.lock().unwrap().artifacts.insert(digest, self.bytes);
        Ok(artifact)
    }
}

#[derive(Debug)]
struct Reader(Vec<Vec<u8>>);

#[async_trait]
impl ArtifactReader for Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.0.pop())
    }
}
