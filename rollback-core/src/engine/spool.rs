//! Where the record goes when there is no journal: a folder of plain files. Best effort, and said so.

use crate::{Artifact, Error, Identity, Line, Result, RunId, TargetId, Trace};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

/// A folder that takes the record of a run that has no journal, and the trace that keeps break-glass from walking on.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let spool = rollback_core::engine::Spool::new(dir.path());
/// assert!(spool.trace(&"dir:/srv/checkout".into(), None)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
}

/// A trace, and of which object it is.
#[derive(Serialize, Deserialize)]
struct Left {
    #[serde(default)]
    object: Option<Identity>,
    #[serde(flatten)]
    trace: Trace,
}

impl Spool {
    /// In this folder, which is made when it is first needed, readable by its owner alone.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    /// In the user's state folder: `$XDG_STATE_HOME/rollback`, `~/.local/state/rollback`, or the system's temporary folder.
    pub fn default_dir() -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(std::env::temp_dir)
            .join("rollback")
    }
    /// Which folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// Where the lines of a run go.
    pub fn file_of(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{}.jsonl", plain(run.as_str())))
    }
    fn trace_of(&self, target: &TargetId) -> PathBuf {
        // The digest tells apart what looks the same once it is a plain file name.
        let digest = crate::Digest::of(target.as_str().as_bytes());
        let short = digest.as_str().get(7..23).unwrap_or_default();
        let name: String = plain(target.as_str()).chars().take(64).collect();
        self.dir.join(format!("{name}-{short}.trace.json"))
    }
    fn ready(&self) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.dir).map_err(|e| Error::from_io(format!("make the spool {}", self.dir.display()), e))
    }
    /// Adds lines to the record of a run.
    ///
    /// # Errors
    /// As the file system. The run goes on, and says that this, too, is lost.
    pub fn append(&self, run: &RunId, lines: &[&Line]) -> Result<()> {
        self.ready()?;
        let path = self.file_of(run);
        let failed = |e| Error::from_io(format!("write {}", path.display()), e);
        let mut text = vec![];
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|e| failed(e.into()))?;
            text.push(b'\n');
        }
        let mut options = fs::OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_data().map_err(failed)
    }
    /// Where a piece of evidence of a run goes.
    pub fn evidence_of(&self, run: &RunId, artifact: &Artifact) -> PathBuf {
        let short = artifact.digest.as_str().get(7..23).unwrap_or_default();
        self.dir.join(format!("{}-{}-{short}.evidence", plain(run.as_str()), plain(&artifact.kind)))
    }
    /// Keeps a piece of evidence beside the record of its run.
    ///
    /// # Errors
    /// As the file system.
    pub fn keep(&self, run: &RunId, artifact: &Artifact, bytes: &[u8]) -> Result<()> {
        self.ready()?;
        let path = self.evidence_of(run, artifact);
        let failed = |e| Error::from_io(format!("write {}", path.display()), e);
        let mut options = fs::OpenOptions::new();
        options.create(true).write(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.sync_data()).map_err(failed)
    }
    /// Leaves a trace of a rollback of this object, in place of the one before.
    ///
    /// # Errors
    /// As the file system.
    pub fn leave(&self, target: &TargetId, object: Option<&Identity>, trace: &Trace) -> Result<()> {
        self.ready()?;
        let path = self.trace_of(target);
        let failed = |e| Error::from_io(format!("write {}", path.display()), e);
        let next = path.with_extension(format!("{}.tmp", std::process::id()));
        let left = Left { object: object.cloned(), trace: trace.clone() };
        let text = serde_json::to_vec(&left).map_err(|e| failed(e.into()))?;
        let mut file = fs::File::create(&next).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(failed)?;
        fs::rename(&next, &path).map_err(failed)
    }
    /// The trace that the last rollback of a target left here. None if it was of another object of the same name: one that
    /// was made anew since has nothing to do with it.
    ///
    /// # Errors
    /// As the file system, and for a file that cannot be read.
    pub fn trace(&self, target: &TargetId, object: Option<&Identity>) -> Result<Option<Trace>> {
        let path = self.trace_of(target);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Left>(&text)
                .map(|left| {
                    let another = left.object.as_ref().zip(object).is_some_and(|(was, is)| was != is);
                    (!another).then_some(left.trace)
                })
                .map_err(|e| Error::from_io(format!("read {}", path.display()), e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_io(format!("read {}", path.display()), e)),
        }
    }
}

fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}
