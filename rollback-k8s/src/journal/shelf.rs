//! Artifacts in pieces, by their digest; and checkpoints.

use super::{
    book::{Data, check_format, small},
    names,
    sealed::{damaged as broken, open, seal},
    store::Store,
};
use async_trait::async_trait;
use k8s_openapi::ByteString;
use rollback_core::{
    Artifact, ArtifactReader, ArtifactWriter, Digest, Error, Kind, Payload, Result, Shelf,
    journal::rules::{OPEN_ARTIFACT, READ_ARTIFACT, SAVE, damaged, gone, newer_checkpoint},
};
use std::fmt;

/// An object may have 1 MiB.
const PIECE: usize = 768 << 10;
const LOAD: &str = "load the checkpoint";
const WRITE: &str = "write the artifact";
const PIECE_KEY: &str = "bytes";
const SIZE: &str = "size";
const CHECKPOINT: &str = "checkpoint";
/// So often a checkpoint is tried that others come before.
const TRIES: usize = 20;

/// Where bulk lies: ConfigMaps of the journal's namespace.
#[derive(Clone)]
pub(super) struct ClusterShelf {
    store: Store,
    most: u64,
}

impl ClusterShelf {
    pub(super) fn new(store: Store, most: u64) -> Self {
        Self { store, most }
    }
}

impl fmt::Debug for ClusterShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterShelf").field("namespace", &self.store.namespace()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shelf for ClusterShelf {
    async fn write(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>> {
        Ok(Box::new(Writer { shelf: self.clone(), kind: kind.to_owned(), bytes: vec![] }))
    }
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        let name = names::of_artifact(&artifact.digest).ok_or_else(|| gone(artifact))?;
        let object = self.store.get(OPEN_ARTIFACT, &name).await?.ok_or_else(|| gone(artifact))?;
        let data = object.data.unwrap_or_default();
        check_format(OPEN_ARTIFACT, &name, &data)?;
        if data.get(SIZE).and_then(|size| size.parse().ok()) != Some(artifact.bytes) {
            return Err(damaged(artifact));
        }
        let pieces = usize::try_from(artifact.bytes).unwrap_or(usize::MAX).div_ceil(PIECE);
        Ok(Box::new(Reader { store: self.store.clone(), artifact: artifact.clone(), pieces, at: 0, hash: Hash::new() }))
    }
    async fn save(&self, key: &str, epoch: u64, checkpoint: Payload) -> Result<()> {
        let name = names::of_checkpoint(key);
        // The key is that of a run and a step: so it goes with its run.
        let run = key.rsplit_once('/').map_or(key, |(run, _)| run);
        let sealed = seal(SAVE, &["the checkpoint of", key], &(epoch, &checkpoint))?;
        if sealed.len() > super::book::MOST {
            let message = format!("a checkpoint of {} bytes is more than a ConfigMap may have", sealed.len());
            return Err(Error::new(Kind::Invalid, SAVE).with_message(message).without_effect());
        }
        for _ in 0..TRIES {
            let saved = match self.store.get(SAVE, &name).await? {
                None => {
                    let labels = [(names::WHAT, names::CHECKPOINT.to_owned()), (names::OF_RUN, names::hash(run))];
                    let data: Data = [(CHECKPOINT.to_owned(), sealed.clone())].into();
                    self.store.create(SAVE, &small(name.clone(), &labels, data)).await
                }
                Some(object) => {
                    let version = object.metadata.resource_version.clone();
                    let (theirs, _) = read(SAVE, key, &name, object.data.unwrap_or_default())?;
                    if theirs > epoch {
                        return Err(newer_checkpoint(key, epoch, theirs));
                    }
                    let patch = vec![
                        serde_json::json!({"op": "replace", "path": "/metadata/resourceVersion", "value": version}),
                        serde_json::json!({"op": "add", "path": format!("/data/{CHECKPOINT}"), "value": sealed}),
                    ];
                    self.store.patch(SAVE, &name, patch).await
                }
            };
            match saved {
                Err(e) if e.kind() == Kind::Conflict => {}
                saved => return saved.map(drop),
            }
        }
        let message = "others saved first, each time it was tried";
        Err(Error::new(Kind::Unavailable, SAVE).with_message(message).without_effect())
    }
    async fn load(&self, key: &str) -> Result<Option<Payload>> {
        let name = names::of_checkpoint(key);
        let Some(object) = self.store.get(LOAD, &name).await? else { return Ok(None) };
        Ok(Some(read(LOAD, key, &name, object.data.unwrap_or_default())?.1))
    }
}

fn read(operation: &str, key: &str, name: &str, data: Data) -> Result<(u64, Payload)> {
    check_format(operation, name, &data)?;
    let sealed = data.get(CHECKPOINT).ok_or_else(|| broken(operation, format!("ConfigMap {name} is empty")))?;
    open(operation, &["the checkpoint of", key], sealed)
}

/// In memory until it is sealed: its pieces are named after the digest of the whole.
struct Writer {
    shelf: ClusterShelf,
    kind: String,
    bytes: Vec<u8>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("kind", &self.kind).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl ArtifactWriter for Writer {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if (self.bytes.len() + bytes.len()) as u64 > self.shelf.most {
            return Err(Error::new(Kind::Invalid, WRITE)
                .with_message(format!(
                    "{} has more than {} bytes, which is all that this journal takes: allow more, or keep the journal \
                     elsewhere",
                    self.kind, self.shelf.most
                ))
                .without_effect());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    async fn seal(self: Box<Self>) -> Result<Artifact> {
        let artifact =
            Artifact { digest: Digest::of(&self.bytes), bytes: self.bytes.len() as u64, kind: self.kind.clone() };
        let unnamed = || Error::new(Kind::Unexpected, WRITE).with_message("the digest is none").without_effect();
        let name = names::of_artifact(&artifact.digest).ok_or_else(unnamed)?;
        let label = |what: &str| {
            [(names::WHAT, what.to_owned()), ("rollback.dev/of-artifact", names::hash(artifact.digest.as_str()))]
        };
        for (nth, piece) in self.bytes.chunks(PIECE).enumerate() {
            let name = names::of_bytes(&artifact.digest, nth).ok_or_else(unnamed)?;
            let mut object = small(name, &label(names::BYTES), Data::new());
            object.binary_data = Some([(PIECE_KEY.to_owned(), ByteString(piece.to_vec()))].into());
            self.create(&object).await?;
        }
        // It is there once this is.
        let data: Data = [(SIZE.to_owned(), artifact.bytes.to_string())].into();
        self.create(&small(name, &label(names::ARTIFACT), data)).await?;
        Ok(artifact)
    }
}

impl Writer {
    /// What is there already has the same name, so the same bytes; who reads checks them.
    async fn create(&self, object: &k8s_openapi::api::core::v1::ConfigMap) -> Result<()> {
        match self.shelf.store.create(WRITE, object).await {
            Err(e) if e.kind() != Kind::Conflict => Err(e),
            _ => Ok(()),
        }
    }
}

use sha2::{Digest as _, Sha256 as Hash};

struct Reader {
    store: Store,
    artifact: Artifact,
    pieces: usize,
    at: usize,
    hash: Hash,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("artifact", &self.artifact).field("at", &self.at).finish_non_exhaustive()
    }
}

#[async_trait]
impl ArtifactReader for Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.at == self.pieces {
            let digest = Digest::from_sha256(&self.hash.clone().finalize());
            return if digest == self.artifact.digest { Ok(None) } else { Err(damaged(&self.artifact)) };
        }
        let name = names::of_bytes(&self.artifact.digest, self.at).ok_or_else(|| gone(&self.artifact))?;
        let object = self.store.get(READ_ARTIFACT, &name).await?.ok_or_else(|| gone(&self.artifact))?;
        let bytes = object.binary_data.and_then(|mut data| data.remove(PIECE_KEY));
        let bytes = bytes.ok_or_else(|| damaged(&self.artifact))?.0;
        self.hash.update(&bytes);
        self.at += 1;
        Ok(Some(bytes))
    }
}
