//! The content of a release directory: its digest, and what differs from another. Blocks; bounded in time or in entries.

use crate::{Digest, Error, Result};
use sha2::Digest as _;
use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

/// The SHA-256 of a tree, over a sorted walk: path, kind, mode, size, and content or link target of every entry. Times and
/// owners are no part of it. `None`: not done by `until`.
pub(in crate::local) fn digest(root: &Path, until: Option<Instant>) -> Result<Option<Digest>> {
    let mut all = sha2::Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    let late = || until.is_some_and(|until| Instant::now() >= until);
    let done = walk(root, &mut |entry| {
        let mut field = |bytes: &[u8]| {
            // With its length, so that no two lists of fields look the same.
            all.update((bytes.len() as u64).to_le_bytes());
            all.update(bytes);
        };
        field(entry.path.strip_prefix(root).unwrap_or(&entry.path).as_os_str().as_bytes());
        field(&(entry.meta.mode()).to_le_bytes());
        if entry.meta.is_symlink() {
            let to = fs::read_link(&entry.path).map_err(|e| failed(&entry.path, e))?;
            field(to.as_os_str().as_bytes());
        } else if entry.meta.is_file() {
            let mut content = sha2::Sha256::new();
            let mut file = File::open(&entry.path).map_err(|e| failed(&entry.path, e))?;
            let mut size = 0u64;
            loop {
                if late() {
                    return Ok(false);
                }
                match file.read(&mut chunk).map_err(|e| failed(&entry.path, e))? {
                    0 => break,
                    n => {
                        content.update(&chunk[..n]);
                        size += n as u64;
                    }
                }
            }
            field(&size.to_le_bytes());
            field(&content.finalize());
        }
        Ok(!late())
    })?;
    Ok(done.then(|| Digest::from_sha256(&all.finalize())))
}

/// How one tree differs from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::local) struct Difference {
    pub(in crate::local) added: u64,
    pub(in crate::local) removed: u64,
    pub(in crate::local) changed: u64,
}

/// Counts what differs by name, kind, mode, size or content. `None`: more than `most` entries or bytes would have to be
/// looked at. The bounds are no times, so that the answer is always the same.
pub(in crate::local) fn difference(from: &Path, to: &Path, most: u64, mut bytes: u64) -> Result<Option<Difference>> {
    let mut found = Difference::default();
    let mut entries = 0;
    let mut common = 0;
    let walked = walk(to, &mut |entry| {
        entries += 1;
        if entries > most {
            return Ok(false);
        }
        let other = from.join(entry.path.strip_prefix(to).unwrap_or(&entry.path));
        let Ok(meta) = fs::symlink_metadata(&other) else {
            found.added += 1;
            return Ok(true);
        };
        common += 1;
        let same_size = entry.meta.is_dir() || meta.len() == entry.meta.len();
        let same = meta.mode() == entry.meta.mode()
            && same_size
            && if meta.is_file() {
                let Some(left) = bytes.checked_sub(meta.len()) else { return Ok(false) };
                bytes = left;
                same_content(&entry.path, &other)?
            } else if meta.is_symlink() {
                fs::read_link(&entry.path).ok() == fs::read_link(&other).ok()
            } else {
                true
            };
        found.changed += u64::from(!same);
        Ok(true)
    })?;
    let mut before = 0;
    let walked = walked
        && walk(from, &mut |_| {
            before += 1;
            Ok(before <= most)
        })?;
    found.removed = before - common;
    Ok(walked.then_some(found))
}

fn same_content(one: &Path, other: &Path) -> Result<bool> {
    let open = |path| File::open(path).map_err(|e| failed(path, e));
    same_bytes(open(one)?, open(other)?).map_err(|e| failed(one, e))
}

/// Whether two files hold the same.
pub(in crate::local) fn same_bytes(one: File, other: File) -> io::Result<bool> {
    let mut one = BufReader::with_capacity(64 << 10, one);
    let mut other = BufReader::with_capacity(64 << 10, other);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let n = left.len().min(right.len());
        if n == 0 || left[..n] != right[..n] {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(n);
        other.consume(n);
    }
}

struct Entry {
    path: PathBuf,
    meta: fs::Metadata,
}

/// Every entry below a directory, links not followed, each directory before what is in it, sorted. `false` from `visit`
/// ends it.
fn walk(dir: &Path, visit: &mut impl FnMut(&Entry) -> Result<bool>) -> Result<bool> {
    let listed = |entries: fs::ReadDir| entries.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>();
    let failed = |e| failed(dir, e);
    let mut names = fs::read_dir(dir).and_then(listed).map_err(failed)?;
    names.sort();
    for name in names {
        let path = dir.join(name);
        let meta = fs::symlink_metadata(&path).map_err(failed)?;
        let entry = Entry { path, meta };
        if !visit(&entry)? || (entry.meta.is_dir() && !walk(&entry.path, visit)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn failed(path: &Path, e: io::Error) -> Error {
    Error::from_io(format!("read {}", path.display()), e).without_effect()
}
