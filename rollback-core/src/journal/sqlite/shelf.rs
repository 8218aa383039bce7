//! Bulk: artifacts as files beside the database, named by their digest; checkpoints in its tables.

use super::{
    Inner, Retention,
    command::{Command, sealed_checkpoint},
    prune::Keeps,
    query,
};
use crate::{
    Artifact, ArtifactReader, ArtifactWriter, Digest, Error, Kind, Payload, Result, Shelf, Timestamp,
    journal::{
        CHUNK,
        rules::{OPEN_ARTIFACT, READ_ARTIFACT, damaged, gone},
    },
};
use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsString,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

const WRITE: &str = "write the artifact";
const PRUNE: &str = "prune the journal";
/// So much is gathered before it is written.
const GATHER: usize = 256 << 10;
/// What was begun and not sealed for so long is left over from a process that died.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);
const PARTIAL: &str = "partial-";

/// The directory, which is made when the first artifact is.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

/// An empty file beside a shelf was a journal once.
pub(super) fn check_beside(path: &Path) -> Result<()> {
    let shelf = Place::beside(path).0;
    if shelf.is_dir() && fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        return Err(Error::new(Kind::Invalid, "open the journal")
            .with_message(format!(
                "{} is empty, but its shelf is not gone: restore the file from a copy; or, to begin anew, remove {}",
                path.display(),
                shelf.display()
            ))
            .without_effect());
    }
    Ok(())
}

impl Place {
    /// `<file>.shelf`.
    pub(super) fn beside(path: &Path) -> Self {
        let mut name = OsString::from(path);
        name.push(".shelf");
        Self(name.into())
    }
    fn make(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt as _;
            builder.mode(0o700);
        }
        match builder.create(&self.0) {
            Ok(()) => self.0.parent().map_or(Ok(()), sync_dir),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }
    /// The file of an artifact. A digest comes from outside, and must not lead elsewhere.
    fn of(&self, digest: &Digest) -> Option<PathBuf> {
        let hex = digest.as_str().strip_prefix("sha256:")?;
        let is_hex = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_hex.then(|| self.0.join(hex))
    }
    fn begin(&self) -> io::Result<(PathBuf, File)> {
        self.make()?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        loop {
            let path = self.0.join(format!("{PARTIAL}{:016x}", fastrand::u64(..)));
            match options.open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                opened => return opened.map(|file| (path, file)),
            }
        }
    }
    /// Removes artifacts that no run needs any more, and more of ended runs than may stay. How many, and their bytes.
    pub(super) async fn prune(&self, keeps: Keeps, retention: Retention, now: Timestamp) -> Result<(u64, u64)> {
        let place = self.clone();
        blocking(PRUNE, move || place.prune_now(&keeps, retention, now)).await
    }
    fn prune_now(&self, keeps: &Keeps, retention: Retention, now: Timestamp) -> io::Result<(u64, u64)> {
        let before = Timestamp(now.0.saturating_sub(u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX)));
        let before = keeps.oldest_unfinished.map_or(before, |began| before.min(began));
        let mut kept: Vec<(Timestamp, PathBuf, u64)> = vec![];
        let mut goes: Vec<(Timestamp, PathBuf, u64)> = vec![];
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let meta = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            let file = (written(&meta), entry.path(), meta.len());
            let digest = format!("sha256:{name}");
            if name.starts_with(PARTIAL) {
                if now.since(file.0) > LEFT_OVER {
                    goes.push(file);
                }
            } else if self.of(&Digest::new(digest.clone())).is_none() || keeps.must.contains(&digest) {
                // Not ours, or needed.
            } else if keeps.may.contains(&digest) {
                kept.push(file);
            } else if file.0 < before {
                goes.push(file);
            }
        }
        kept.sort();
        let mut bytes: u64 = kept.iter().map(|file| file.2).sum();
        for file in kept {
            if bytes <= retention.artifact_bytes {
                break;
            }
            bytes -= file.2;
            goes.push(file);
        }
        let mut gone = (0, 0);
        for (at, path, bytes) in goes {
            // Sealed once more since it was listed: somebody needs it again.
            if fs::metadata(&path).is_ok_and(|meta| written(&meta) == at) {
                fs::remove_file(&path)?;
                gone = (gone.0 + 1, gone.1 + bytes);
            }
        }
        Ok(gone)
    }
}

fn written(meta: &fs::Metadata) -> Timestamp {
    let at = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH).duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(at.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(run).await {
        Ok(done) => done.map_err(|e| Error::from_io(operation, e).without_effect()),
        Err(e) => Err(Error::new(Kind::Unexpected, operation).with_source(e).without_effect()),
    }
}

pub(super) struct FileShelf {
    journal: Arc<Inner>,
}

impl FileShelf {
    pub(super) fn new(journal: Arc<Inner>) -> Self {
        Self { journal }
    }
}

impl fmt::Debug for FileShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileShelf").field(&self.journal.shelf.0).finish()
    }
}

#[async_trait]
impl Shelf for FileShelf {
    async fn write(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>> {
        let place = self.journal.shelf.clone();
        let begun = place.clone();
        let (path, file) = blocking(WRITE, move || begun.begin()).await?;
        let partial = Partial { path, file, hash: Sha256::new(), bytes: 0 };
        Ok(Box::new(Writer { place, kind: kind.to_owned(), gathered: vec![], partial: Some(partial) }))
    }
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        let path = self.journal.shelf.of(&artifact.digest).ok_or_else(|| gone(artifact))?;
        let opened = blocking(OPEN_ARTIFACT, move || File::open(path)).await;
        let file = match opened {
            Err(e) if e.kind() == Kind::NotFound => return Err(gone(artifact)),
            file => file?,
        };
        Ok(Box::new(Reader { artifact: artifact.clone(), rest: Rest::More(Box::new((file, Sha256::new(), 0))) }))
    }
    async fn save(&self, key: &str, epoch: u64, checkpoint: Payload) -> Result<()> {
        let checkpoint = sealed_checkpoint(key, epoch, &checkpoint)?;
        self.journal.ask(Command::Save { key: key.to_owned(), epoch, checkpoint }).await.map(drop)
    }
    async fn load(&self, key: &str) -> Result<Option<Payload>> {
        let key = key.to_owned();
        self.journal.read("load the checkpoint", move |db| query::checkpoint(db, &key)).await
    }
}

/// A file that is not sealed yet. Dropped, it is gone.
struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
    fn seal(&mut self, place: &Place) -> io::Result<(Digest, u64)> {
        self.file.sync_all()?;
        let digest = Digest::from_sha256(&self.hash.finalize_reset());
        let path = place.of(&digest).ok_or(io::ErrorKind::InvalidFilename)?;
        fs::rename(&self.path, path)?;
        sync_dir(&place.0)?;
        Ok((digest, self.bytes))
    }
}
impl Drop for Partial {
    fn drop(&mut self) {
        // Sealed, it has another name already.
        let _ = fs::remove_file(&self.path);
    }
}

struct Writer {
    place: Place,
    kind: String,
    gathered: Vec<u8>,
    // None: a push was dropped or failed halfway.
    partial: Option<Partial>,
}

impl Writer {
    fn partial(&mut self) -> Result<Partial> {
        self.partial.take().ok_or_else(|| {
            Error::new(Kind::Unexpected, WRITE).with_message("a part of it is missing: begin it anew").without_effect()
        })
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[async_trait]
impl ArtifactWriter for Writer {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHER {
            let mut partial = self.partial()?;
            let mut gathered = std::mem::take(&mut self.gathered);
            let written = blocking(WRITE, move || {
                partial.write(&gathered)?;
                gathered.clear();
                Ok((partial, gathered))
            });
            let (partial, gathered) = written.await?;
            self.partial = Some(partial);
            self.gathered = gathered;
        }
        Ok(())
    }
    async fn seal(mut self: Box<Self>) -> Result<Artifact> {
        let mut partial = self.partial()?;
        let (place, gathered) = (self.place.clone(), std::mem::take(&mut self.gathered));
        let sealed = blocking(WRITE, move || {
            partial.write(&gathered)?;
            partial.seal(&place)
        });
        let (digest, bytes) = sealed.await?;
        Ok(Artifact { digest, bytes, kind: self.kind.clone() })
    }
}

struct Reader {
    artifact: Artifact,
    rest: Rest,
}

enum Rest {
    More(Box<(File, Sha256, u64)>),
    // All of it was there.
    Checked,
    // It was not; or a read was dropped or failed halfway.
    Broken,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("artifact", &self.artifact).finish_non_exhaustive()
    }
}

#[async_trait]
impl ArtifactReader for Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut rest = match std::mem::replace(&mut self.rest, Rest::Broken) {
            Rest::More(rest) => rest,
            Rest::Checked => {
                self.rest = Rest::Checked;
                return Ok(None);
            }
            Rest::Broken => return Err(damaged(&self.artifact)),
        };
        let read = blocking(READ_ARTIFACT, move || {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&rest.0).take(CHUNK as u64).read_to_end(&mut chunk)?;
            rest.1.update(&chunk);
            rest.2 += chunk.len() as u64;
            Ok((rest, chunk))
        });
        let (mut rest, chunk) = read.await?;
        if !chunk.is_empty() && rest.2 <= self.artifact.bytes {
            self.rest = Rest::More(rest);
            return Ok(Some(chunk));
        }
        if rest.2 != self.artifact.bytes || Digest::from_sha256(&rest.1.finalize_reset()) != self.artifact.digest {
            return Err(damaged(&self.artifact));
        }
        self.rest = Rest::Checked;
        Ok(None)
    }
}
