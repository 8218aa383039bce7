//! Files that the targets of this folder keep beside what they change: each carries its schema and is replaced as a whole.
//!
//! Not here: the journal, which knows far more and may lie elsewhere.

pub(super) mod evidence;
mod records;
pub(super) mod tree;

pub(super) use records::{Recorded, Records};

use crate::{Error, Kind, Payload, ReleaseId, Result, Stored, Trace, atomic_file};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

/// No file of ours is longer.
const MOST: u64 = 16 << 20;
const TRACE: &str = "trace.json";

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Left(Trace);

impl Stored for Left {
    const NAME: &'static str = "rollback-core/trace";
    const VERSION: u32 = 1;
}

/// The trace of the last rollback.
pub(super) fn load_trace(dir: &Path) -> Result<Option<Trace>> {
    Ok(load(&dir.join(TRACE))?.map(|Left(trace)| trace))
}
/// Leaves the trace of this rollback.
pub(super) fn save_trace(dir: &Path, trace: &Trace) -> Result<()> {
    save(&dir.join(TRACE), &Left(trace.clone()))
}
/// A new beginning.
pub(super) fn remove_trace(dir: &Path) -> Result<()> {
    atomic_file::remove(&dir.join(TRACE))
}

pub(super) fn load<T: Stored>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = atomic_file::read(path, MOST)? else { return Ok(None) };
    let payload: Payload = serde_json::from_slice(&bytes).map_err(|e| damaged(path, e))?;
    payload.read().map(Some).map_err(|e| damaged(path, e))
}

pub(super) fn save<T: Stored>(path: &Path, value: &T) -> Result<()> {
    let payload = Payload::of(value)?;
    let bytes = serde_json::to_vec_pretty(&payload).map_err(|e| damaged(path, e))?;
    atomic_file::write(path, &bytes)
}

fn damaged(path: &Path, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Invalid, format!("read {}", path.display()))
        .with_message("it is damaged, or a newer release of this library wrote it; if it is damaged, move it away")
        .with_source(e)
        .without_effect()
}

/// The directory of a release that is there, among others.
pub(super) fn release(releases: &Path, id: &ReleaseId) -> Result<PathBuf> {
    let operation = || format!("find the release {id}");
    if !is_name(id.as_str()) {
        let message = "a release is named by one directory under releases/, and not by a path or a hidden name";
        return Err(Error::new(Kind::Invalid, operation()).with_message(message).without_effect());
    }
    let path = releases.join(id.as_str());
    let readable = std::fs::read_dir(&path).and_then(|mut entries| entries.next().transpose());
    match readable {
        Ok(_) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let message = format!("{} is gone: put it back, or choose another release", path.display());
            Err(Error::new(Kind::NotFound, operation()).with_message(message).without_effect())
        }
        Err(e) => Err(Error::from_io(operation(), e).without_effect()),
    }
}

/// The names of the release directories with the time each was last changed, in no order.
pub(super) fn names(releases: &Path) -> Result<Vec<(ReleaseId, Option<SystemTime>)>> {
    let failed = |e| Error::from_io("list the releases", e).without_effect();
    let mut names = vec![];
    for entry in std::fs::read_dir(releases).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().filter(|name| is_name(name)).map(ReleaseId::from) else {
            continue;
        };
        // A link to a directory is a release too; a file or what has just gone is none.
        match std::fs::metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => names.push((name, meta.modified().ok())),
            _ => {}
        }
    }
    Ok(names)
}

/// One visible directory name.
pub(super) fn is_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    !name.starts_with('.')
        && !name.contains(['/', '\0'])
        && matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}
