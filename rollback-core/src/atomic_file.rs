//! Small files that are either as they were or as they should be, also after a crash; and a lock beside them for those who
//! read, change and write.
//!
//! Not here: big trees, and anything that decides what stands in a file. These calls block: use [`blocking`] where a task
//! must not.
//!
//! ```
//! use rollback_core::{atomic_file, seconds};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("state.json");
//! let lock = atomic_file::lock(&path, seconds(1)).await?;
//! atomic_file::write(&path, b"{}")?;
//! assert_eq!(atomic_file::read(&path, 1024)?.as_deref(), Some(&b"{}"[..]));
//! drop(lock);
//! # Ok(()) }
//! ```

pub use crate::blocking::blocking;
use crate::{Error, Kind, Result};
use rustix::fs::{AtFlags, CWD};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Replaces what stands in a file, or makes it: written beside, synced, renamed over, and the directory synced. Its mode
/// stays; a new one gets what the umask leaves of 0644. A link at this place is replaced, not followed.
///
/// # Errors
/// As the file system. Without effect before the rename: the old content stands.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = Beside::new(path, bytes)?;
    std::fs::rename(&beside.0, path).map_err(|e| failed(path, e))?;
    sync_parent(path)
}

/// Makes a file that must not be there yet, with all its content at once.
///
/// # Errors
/// [`Kind::Conflict`], without effect, if it is there; otherwise as the file system.
pub fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = Beside::new(path, bytes)?;
    // A link, because a rename would replace what is there.
    rustix::fs::linkat(CWD, &beside.0, CWD, path, AtFlags::empty()).map_err(|e| failed(path, e.into()))?;
    sync_parent(path)
}

/// What stands in a file, up to `most` bytes; `None` if it is not there.
///
/// # Errors
/// As the file system; [`Kind::Invalid`] if it is longer.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    use io::Read as _;
    let operation = || format!("read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::from_io(operation(), e).without_effect()),
    };
    let mut bytes = vec![];
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::from_io(operation(), e).without_effect())?;
    if bytes.len() as u64 > most {
        let message = format!("it is longer than {most} bytes: this is not the file that was meant");
        return Err(Error::new(Kind::Invalid, operation()).with_message(message).without_effect());
    }
    Ok(Some(bytes))
}

/// Removes a file, durably. One that is not there is no error.
///
/// # Errors
/// As the file system.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::from_io(format!("remove {}", path.display()), e).without_effect()),
    }
}

/// Makes the entries of the directory that a path is in durable.
///
/// # Errors
/// As the file system. What was done is done, but may be gone after a crash of the machine.
pub fn sync_parent(path: &Path) -> Result<()> {
    let dir = parent(path);
    File::open(&dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::from_io(format!("sync the directory {}", dir.display()), e))
}

/// A lock that other processes respect who take it too. Freed when it is dropped, and when its process dies.
#[derive(Debug)]
pub struct Locked {
    _file: File,
}

/// Locks a path: by the file `<path>.lock`, which stays, because removing it would let two in.
///
/// # Errors
/// [`Kind::Unavailable`], without effect, if somebody else has it for longer than `within`; otherwise as the file system.
///
/// # Cancel safety
/// Dropped, it locks nothing.
pub async fn lock(path: &Path, within: Duration) -> Result<Locked> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let operation = || format!("lock {}", name.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|e| Error::from_io(operation(), e).without_effect())?;
    let taken = async {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(TryLockError::Error(e)) => return Err(Error::from_io(operation(), e).without_effect()),
            }
        }
    };
    match tokio::time::timeout(within, taken).await {
        Ok(taken) => taken?,
        Err(_) => {
            let message = format!("another process has held it for more than {within:?}: see what it is waiting for");
            return Err(Error::new(Kind::Unavailable, operation()).with_message(message).without_effect());
        }
    }
    Ok(Locked { _file: file })
}

fn failed(path: &Path, e: io::Error) -> Error {
    Error::from_io(format!("write {}", path.display()), e).without_effect()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A synced file beside the one that is meant. Dropped, it is removed; after its rename there is nothing to remove.
struct Beside(PathBuf);

impl Beside {
    fn new(path: &Path, bytes: &[u8]) -> Result<Self> {
        let Some(name) = path.file_name() else {
            let e = Error::new(Kind::Invalid, format!("write {}", path.display()));
            return Err(e.with_message("this names no file").without_effect());
        };
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{:016x}.tmp", fastrand::u64(..)));
        let beside = Self(parent(path).join(beside));
        let fill = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&beside.0)?;
            if let Ok(old) = std::fs::metadata(path) {
                file.set_permissions(old.permissions())?;
            }
            file.write_all(bytes)?;
            file.sync_all()
        };
        fill().map_err(|e| failed(path, e))?;
        Ok(beside)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Effect, seconds};
    use std::os::unix::fs::PermissionsExt as _;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_replaces_keeps_the_mode_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(read(&path, 10).unwrap(), None);
        write(&path, b"one").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["state.json"]);
        assert_eq!(read(&path, 2).unwrap_err().kind(), Kind::Invalid);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn create_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("once");
        create(&path, b"first").unwrap();
        let e = create(&path, b"second").unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None));
        assert_eq!(read(&path, 100).unwrap().unwrap(), b"first");
        assert_eq!(names(dir.path()), ["once"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let e = write(&dir.path().join("no/such/dir"), b"x").unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None));
        // A directory stands where the file should be: the rename fails, and what was written beside goes.
        let taken = dir.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        let e = write(&taken, b"x").unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_keeps_others_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let first = lock(&path, seconds(1)).await.unwrap();
        let e = lock(&path, seconds(1)).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Unavailable, Effect::None));
        drop(first);
        lock(&path, seconds(1)).await.unwrap();
    }
}
