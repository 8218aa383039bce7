//! What a call to a target is part of.

use crate::{Artifact, ArtifactReader, ArtifactWriter, Payload, Result, RunId, Shelf, Stored, Trace};
use async_trait::async_trait;
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;
type Sealed = Arc<Mutex<Vec<Artifact>>>;

/// What a call is part of: the run, its key, its time, its checkpoints, artifacts and progress. Cheap to clone.
#[derive(Clone)]
pub struct Work {
    run: RunId,
    epoch: u64,
    step: String,
    why: String,
    within: Duration,
    trace: Option<Trace>,
    shelf: Arc<dyn Shelf>,
    cancelled: Arc<AtomicBool>,
    progress: Option<Progress>,
    /// What was sealed through it.
    sealed: Sealed,
}

impl Work {
    /// The work of one step of a run. The engine makes it; others need it only to call a target without the engine.
    pub fn new(run: RunId, epoch: u64, step: impl Into<String>, within: Duration, shelf: Arc<dyn Shelf>) -> Self {
        Self {
            run,
            epoch,
            step: step.into(),
            why: String::new(),
            within,
            trace: None,
            shelf,
            cancelled: Arc::default(),
            progress: None,
            sealed: Sealed::default(),
        }
    }
    /// The reason of the run, for annotations.
    pub fn with_why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
    /// What to leave on the target, where it can hold it.
    pub fn with_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }
    /// Who hears of progress.
    pub fn with_progress(mut self, hear: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(hear));
        self
    }
    /// The same for every attempt and every process: for client tokens, caller references, hook keys.
    pub fn key(&self) -> String {
        format!("{}/{}", self.run, self.step)
    }
    /// Which run.
    pub fn run(&self) -> &RunId {
        &self.run
    }
    /// The fencing epoch: a platform that can should refuse a lower one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
    /// Why the run was ordered.
    pub fn why(&self) -> &str {
        &self.why
    }
    /// How long this call may take; then its future is dropped.
    pub fn within(&self) -> Duration {
        self.within
    }
    /// What to leave on the target, where it can hold it.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }
    /// Stop at the next point from which the work can go on later: the lease is lost.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
    /// Should the work stop?
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
    /// So much is done.
    pub fn progress(&self, done: u64, of: u64) {
        if let Some(hear) = &self.progress {
            hear(done, of);
        }
    }
    /// Saves where the work is, durably, fenced by the epoch.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict) once a higher epoch has saved: stop. Otherwise as the journal.
    pub async fn checkpoint<T: Stored>(&self, at: &T) -> Result<()> {
        self.shelf.save(&self.key(), self.epoch, Payload::of(at)?).await
    }
    /// Where an earlier attempt, perhaps of another process, was.
    ///
    /// # Errors
    /// As the journal, and as [`Payload::read`].
    pub async fn last_checkpoint<T: Stored>(&self) -> Result<Option<T>> {
        self.shelf.load(&self.key()).await?.map(|payload| payload.read()).transpose()
    }
    /// Begins an artifact.
    ///
    /// # Errors
    /// As the journal.
    pub async fn keep(&self, kind: &str) -> Result<Box<dyn ArtifactWriter>> {
        let writer = self.shelf.write(kind).await?;
        Ok(Box::new(Noting { writer, sealed: self.sealed.clone() }))
    }
    /// What was sealed through it until now, also where the future that did so is gone.
    pub(crate) fn sealed(&self) -> Vec<Artifact> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Opens an artifact.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if it is gone; otherwise as the journal.
    pub async fn open(&self, artifact: &Artifact) -> Result<Box<dyn ArtifactReader>> {
        self.shelf.read(artifact).await
    }
}

/// Notes what it seals.
#[derive(Debug)]
struct Noting {
    writer: Box<dyn ArtifactWriter>,
    sealed: Sealed,
}

#[async_trait]
impl ArtifactWriter for Noting {
    async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.push(bytes).await
    }
    async fn seal(self: Box<Self>) -> Result<Artifact> {
        let artifact = self.writer.seal().await?;
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).push(artifact.clone());
        Ok(artifact)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("key", &self.key())
            .field("epoch", &self.epoch)
            .field("within", &self.within)
            .finish()
    }
}
