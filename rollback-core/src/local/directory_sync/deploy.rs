//! A deploy: the same copy as a rollback's, and a record of what was and of what is, so that there is something to go
//! back to.
//!
//! Not here: bringing the release to the host.

use super::{DirectorySync, marker::Marker};
use crate::{
    Artifact, ArtifactReader, ArtifactWriter, Change, Digest, Error, Extent, Kind, Look, PartId, Payload, Release,
    ReleaseId, Result, Shelf, Target as _, Timestamp, Work,
    blocking::blocking,
    hours,
    local::own::{self, Recorded, Records, tree},
};
use async_trait::async_trait;
use sha2::Digest as _;
use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// So often it is compared anew where somebody else writes in between.
const TRIES: usize = 3;
/// How much of a manifest is read at once.
const CHUNK: usize = 64 << 10;

impl DirectorySync {
    /// Brings a release here, runs the hook, and records both it and what was there before, so that already the first
    /// deploy can be rolled back. For the deploy's own script: no journal, no approval, no compare with what somebody
    /// judged. A trace of an earlier rollback ends with it.
    ///
    /// After a crash the same call goes on; memory does not grow with the number of files.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the release is not there. [`Kind::Conflict`], without effect, if the live tree is not empty
    /// and none of the newest releases: then nothing could be gone back to; or if somebody else brings a release here at
    /// the same time. Otherwise as the file system, and as the hook: the tree is copied and recorded then, and the same
    /// call runs the hook again.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// use rollback_core::{Target, local::DirectorySync};
    /// # let dir = tempfile::tempdir()?;
    /// # let (live, releases) = (dir.path().join("live"), dir.path().join("releases"));
    /// # for made in ["live", "releases/1", "releases/2"] { std::fs::create_dir_all(dir.path().join(made))? }
    /// # std::fs::write(releases.join("1/index.html"), "the first")?;
    /// # std::fs::write(releases.join("2/index.html"), "the second")?;
    /// let site = DirectorySync::open(&live, &releases)?;
    /// site.deploy("1").await?;
    /// site.deploy("2").await?;
    /// assert_eq!(std::fs::read_to_string(live.join("index.html"))?, "the second");
    /// assert_eq!(site.history(10).await?[1].id, "1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn deploy(&self, release: impl Into<ReleaseId>) -> Result<Release> {
        let id = release.into();
        self.deploy_to(&id).await.map_err(|e| e.with_target(self.id()))
    }

    async fn deploy_to(&self, id: &ReleaseId) -> Result<Release> {
        let lock = self.lock().await?;
        let (this, wanted) = (self.clone(), id.clone());
        let digest = blocking(move || {
            let digest = this.digest(&wanted)?;
            this.keep_what_is()?;
            drop(lock);
            Ok(digest)
        })
        .await?;
        let at = Timestamp::now();
        let brought = self.bring(id, at).await;
        let lock = self.lock().await?;
        let (this, id) = (self.clone(), id.clone());
        let recorded = blocking(move || {
            let (marker, _) = Marker::load(&this.own)?;
            if marker.going.is_some() || marker.release.as_ref() != Some(&id) {
                return Ok(None);
            }
            own::remove_trace(&this.own)?;
            let recorded = Recorded { label: id.to_string(), id, digest, at };
            let release = recorded.release();
            this.save_record(recorded, true)?;
            drop(lock);
            Ok(Some(release))
        })
        .await;
        // What went wrong first says more.
        brought?;
        recorded?.ok_or_else(|| {
            let message = "somebody else brought another release here meanwhile: look who did";
            Error::new(Kind::Conflict, "deploy the release").with_message(message)
        })
    }

    fn digest(&self, id: &ReleaseId) -> Result<Digest> {
        let digest = tree::digest(&own::release(&self.releases, id)?, None)?;
        digest.ok_or_else(|| Error::new(Kind::Unexpected, "digest the release").without_effect())
    }

    /// Under the lock.
    pub(super) fn save_record(&self, recorded: Recorded, deployed: bool) -> Result<()> {
        let mut records = Records::load(&self.own)?;
        records.record(recorded, deployed);
        records.prune(|id| self.releases.join(id.as_str()).is_dir());
        records.save(&self.own)
    }

    /// Records the release that is live, if it was not, and refuses to write over a tree that is none. Under the lock.
    fn keep_what_is(&self) -> Result<()> {
        let (marker, _) = Marker::load(&self.own)?;
        let id = match (&marker.release, &marker.going) {
            (Some(release), _) => release.clone(),
            // The very first deploy was cut off: what was there before it was nothing, or is recorded.
            (None, Some(_)) => return Ok(()),
            (None, None) => match self.find(None)? {
                Some(found) => found,
                None if self.is_empty()? => return Ok(()),
                None => {
                    let message = format!(
                        "{} is none of the newest releases in {}, so nobody could go back to it: copy it there with its \
                         times (cp -a), or empty it",
                        self.live.display(),
                        self.releases.display()
                    );
                    return Err(Error::new(Kind::Conflict, "deploy the release")
                        .with_message(message)
                        .without_effect());
                }
            },
        };
        let there = self.releases.join(id.as_str()).is_dir();
        if there && Records::load(&self.own)?.get(&id).is_none() {
            let digest = self.digest(&id)?;
            self.save_record(Recorded { label: id.to_string(), id: id.clone(), digest, at: Timestamp::now() }, true)?;
        }
        if marker.release.is_none() {
            Marker { release: Some(id), at: Timestamp::now(), ..marker }.save(&self.own)?;
        }
        Ok(())
    }

    /// There is nothing but what is left alone.
    fn is_empty(&self) -> Result<bool> {
        let failed = |e| Error::from_io(format!("list {}", self.live.display()), e).without_effect();
        for entry in std::fs::read_dir(&self.live).map_err(failed)? {
            if !self.excluded.contains(entry.map_err(failed)?.file_name().as_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares and copies, as a rollback does.
    async fn bring(&self, id: &ReleaseId, at: Timestamp) -> Result<()> {
        let change = Change::release(&PartId::from("all"), id);
        let mut reasons = String::new();
        for _ in 0..TRIES {
            let shelf = Arc::new(Scratch { dir: self.own.clone(), ..Scratch::default() });
            let work = Work::new("deploy".into(), 0, format!("{id}/{}", at.0), hours(24), shelf);
            // What is judged must not be newer than its token.
            let token = self.observe(Look::quick()).await?.token;
            let prepared = self.prepare(&change, &work).await?;
            match self.apply(&prepared.approved, token, &work).await?.extent {
                Extent::Partial { reasons: why, .. } => {
                    reasons = why.iter().map(|(why, n)| format!("{n} {why}")).collect::<Vec<_>>().join(", ");
                }
                _ => return Ok(()),
            }
        }
        let message = format!("somebody else writes into the tree, and it does not get there: {reasons}");
        Err(Error::new(Kind::Conflict, "deploy the release").with_message(message))
    }
}

/// A shelf for one deploy: manifests in files without names, so that nothing is left behind.
#[derive(Debug, Default)]
struct Scratch {
    dir: PathBuf,
    files: Arc<Mutex<HashMap<Digest, Arc<File>>>>,
    checkpoint: Mutex<Option<Payload>>,
}

#[async_trait]
impl Shelf for Scratch {
    async fn write(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>> {
        let path = self.dir.join(format!("manifest-{:016x}", fastrand::u64(..)));
        let file = blocking(move || {
            let failed = |e| Error::from_io(format!("make {}", path.display()), e).without_effect();
            let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
            std::fs::remove_file(&path).map_err(failed)?;
            Ok(file)
        })
        .await?;
        let (files, hash) = (self.files.clone(), sha2::Sha256::new());
        Ok(Box::new(Writer { file: Arc::new(file), files, hash, bytes: 0, kind: kind.to_owned() }))
    }
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.get(&artifact.digest).cloned();
        let file = file.ok_or_else(|| Error::new(Kind::NotFound, "open the manifest").without_effect())?;
        Ok(Box::new(Reader { file, at: 0 }))
    }
    async fn save(&self, _: &str, _: u64, checkpoint: Payload) -> Result<()> {
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
        Ok(())
    }
    async fn load(&self, _: &str) -> Result<Option<Payload>> {
        Ok(self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[derive(Debug)]
struct Writer {
    file: Arc<File>,
    files: Arc<Mutex<HashMap<Digest, Arc<File>>>>,
    hash: sha2::Sha256,
    bytes: u64,
    kind: String,
}

#[async_trait]
impl ArtifactWriter for Writer {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        let (file, bytes) = (self.file.clone(), bytes.to_vec());
        blocking(move || {
            (&*file).write_all(&bytes).map_err(|e| Error::from_io("write the manifest", e).without_effect())
        })
        .await
    }
    async fn seal(self: Box<Self>) -> Result<Artifact> {
        let digest = Digest::from_sha256(&self.hash.finalize());
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), self.file);
        Ok(Artifact { digest, bytes: self.bytes, kind: self.kind })
    }
}

/// Nobody else can write to a file that has no name, so its digest is not checked again.
#[derive(Debug)]
struct Reader {
    file: Arc<File>,
    at: u64,
}

#[async_trait]
impl ArtifactReader for Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let (file, at) = (self.file.clone(), self.at);
        let chunk = blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let read = file.read_at(&mut chunk, at);
            let n = read.map_err(|e| Error::from_io("read the manifest", e).without_effect())?;
            chunk.truncate(n);
            Ok(chunk)
        })
        .await?;
        self.at += chunk.len() as u64;
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}
