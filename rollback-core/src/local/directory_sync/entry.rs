//! What stands at a path, and what is to be done there: the lines of a manifest.

use crate::{Error, Kind, Result};
use rustix::{
    fs::{AtFlags, FileType, readlinkat, statat},
    io::Errno,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd},
};

/// What a manifest is called on the shelf.
pub(super) const MANIFEST: &str = "directory-manifest/1";

/// Bytes that are text most of the time: a path, the target of a link.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Raw(pub(super) Vec<u8>);

/// As text; `%XX` for `%` and for what is no UTF-8.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '%' { f.write_str("%25")? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}
impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(|| D::Error::custom("a % without two digits"))?);
            rest = &after[2..];
        }
        Ok(Raw(bytes))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    #[serde(rename = "f")]
    File,
    #[serde(rename = "d")]
    Dir,
    #[serde(rename = "l")]
    Link,
    /// A socket, a pipe, a device: never touched.
    #[serde(rename = "o")]
    Other,
}

impl From<FileType> for What {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => What::File,
            FileType::Directory => What::Dir,
            FileType::Symlink => What::Link,
            _ => What::Other,
        }
    }
}

/// What stands at a path. Short names, because there may be a million.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    #[serde(rename = "k")]
    pub(super) what: What,
    #[serde(rename = "s")]
    pub(super) size: u64,
    /// The last change of the content, in seconds and nanoseconds.
    #[serde(rename = "t")]
    pub(super) changed: (i64, u32),
    #[serde(rename = "m")]
    pub(super) mode: u32,
    #[serde(rename = "i")]
    pub(super) inode: u64,
    #[serde(rename = "o")]
    pub(super) owner: (u32, u32),
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Raw>,
}

#[allow(clippy::unnecessary_cast, reason = "the types differ from system to system")]
impl From<&rustix::fs::Stat> for Stat {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            what: FileType::from_raw_mode(stat.st_mode).into(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            changed: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            mode: stat.st_mode as u32 & 0o7777,
            inode: stat.st_ino as u64,
            owner: (stat.st_uid, stat.st_gid),
            to: None,
        }
    }
}

impl Stat {
    /// Of what a name in a directory stands for, not followed. `None` if nothing does.
    pub(super) fn at(dir: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<Option<Self>, Errno> {
        let mut stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Stat::from(&stat),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e),
        };
        if stat.what == What::Link {
            stat.to = Some(Raw(readlinkat(dir, name, Vec::new())?.into_bytes()));
        }
        Ok(Some(stat))
    }
    /// The same content, by the quick check: size and time, as rsync does.
    pub(super) fn same_content(&self, other: &Stat) -> bool {
        self.what == other.what
            && match self.what {
                What::File => self.size == other.size && self.changed == other.changed,
                What::Link => self.to == other.to,
                What::Dir | What::Other => true,
            }
    }
    /// The same mode and, where they count, owners. Those of links do not.
    pub(super) fn same_meta(&self, other: &Stat, owners: bool) -> bool {
        self.what == What::Link || self.mode == other.mode && (!owners || self.owner == other.owner)
    }
    /// Nobody has touched it. A directory changes with what is in it.
    pub(super) fn untouched(&self, now: &Stat) -> bool {
        self.inode == now.inode && self.same_content(now) && self.same_meta(now, false)
    }
}

/// What is to be done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Do {
    /// Make the directory.
    #[serde(rename = "mkdir")]
    Mkdir,
    /// Bring the content of the file or the link.
    #[serde(rename = "copy")]
    Copy,
    /// Only mode, time and owner.
    #[serde(rename = "meta")]
    Meta,
    /// Remove what stands in the way of something else. Children come before their directory.
    #[serde(rename = "clear")]
    Clear,
    /// Remove what is not in the release: last. Children come before their directory.
    #[serde(rename = "remove")]
    Remove,
}

/// One line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Op {
    #[serde(rename = "do")]
    pub(super) what: Do,
    #[serde(rename = "p")]
    pub(super) path: Raw,
    /// What the release has there.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub(super) want: Option<Stat>,
    /// What stood there when the manifest was made.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(super) had: Option<Stat>,
}

impl Op {
    /// As a line.
    pub(super) fn write(&self, to: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(&mut *to, self)
            .map_err(|e| Error::new(Kind::Unexpected, "write the manifest").with_source(e).without_effect())?;
        to.push(b'\n');
        Ok(())
    }
    /// From a line.
    pub(super) fn read(line: &[u8]) -> Result<Self> {
        serde_json::from_slice(line)
            .map_err(|e| Error::new(Kind::Invalid, "read the manifest").with_source(e).without_effect())
    }
    /// The directory that it is in, and its name there.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        match self.path.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (&self.path.0[..at], &self.path.0[at + 1..]),
            None => (&[], &self.path.0),
        }
    }
    pub(super) fn is_of_dir(&self) -> bool {
        self.want.as_ref().or(self.had.as_ref()).is_some_and(|stat| stat.what == What::Dir)
    }
}

/// The directories below a root, opened one name at a time, so that no link leads out of it. Remembers the last.
#[derive(Debug)]
pub(super) struct Dirs<'a> {
    root: BorrowedFd<'a>,
    last: Option<(Vec<u8>, std::os::fd::OwnedFd)>,
}

impl<'a> Dirs<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }
    pub(super) fn open(&mut self, path: &[u8]) -> std::result::Result<BorrowedFd<'_>, Errno> {
        if path.is_empty() {
            return Ok(self.root);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mut fd = None::<std::os::fd::OwnedFd>;
            for name in path.split(|b| *b == b'/') {
                fd = Some(open_dir(fd.as_ref().map_or(self.root, AsFd::as_fd), name)?);
            }
            self.last = fd.map(|fd| (path.to_vec(), fd));
        }
        self.last.as_ref().map(|(_, fd)| fd.as_fd()).ok_or(Errno::NOENT)
    }
    /// It may not be there any more.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

/// A directory by its name in another, which must not be a link.
pub(super) fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<std::os::fd::OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, openat};
    // A manifest is made of names; this holds should it ever be made of something else.
    if name.is_empty() || name == b".." || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_can_be_a_path() {
        for bytes in [&b"a/b c"[..], b"100%", b"\xff\xfe/x", "ä/€".as_bytes(), b"line\nbreak\""] {
            let op = Op { what: Do::Remove, path: Raw(bytes.to_vec()), want: None, had: None };
            let mut line = vec![];
            op.write(&mut line).unwrap();
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(Op::read(&line).unwrap(), op);
        }
        assert!(Op::read(br#"{"do":"remove","p":"%f"}"#).is_err());
    }
}
