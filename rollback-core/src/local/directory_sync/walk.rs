//! Two trees compared, by a merge of sorted listings: memory grows with the depth, not with the number of files.

use super::{
    batch::ROOM,
    entry::{Do, Op, Raw, Stat, What, open_dir},
    listing::Listing,
};
use crate::{Error, Result, local::own::tree};
use rustix::io::Errno;
use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

/// What a half-made copy is called. One that a crash left is neither content nor somebody's edit.
pub(super) const HALF_MADE: &[u8] = b".rollback-half-";

/// How two trees are compared.
pub(super) struct Compare<'a> {
    pub(super) release: BorrowedFd<'a>,
    pub(super) live: BorrowedFd<'a>,
    /// Paths from the root that are left alone, with what is in them.
    pub(super) excluded: &'a BTreeSet<Vec<u8>>,
    /// Contents are read, not only sizes and times.
    pub(super) checksums: bool,
    pub(super) owners: bool,
}

/// What was seen on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Entries of the release.
    pub(super) entries: u64,
    /// Those of them that stand in the live tree as they should.
    pub(super) same: u64,
    /// Sockets, pipes, devices: left alone.
    pub(super) special: u64,
}

/// Whether to go on.
pub(super) type Go = bool;

impl Compare<'_> {
    /// Tells of everything that has to be done, each directory before what is in it, what is to be removed after what is
    /// in it. `false` from `tell` ends it; then so is the answer.
    pub(super) fn walk(&self, tell: &mut dyn FnMut(Op) -> Result<Go>) -> Result<(Go, Seen)> {
        let mut walk = Walk { compare: self, path: vec![], seen: Seen::default(), tell };
        let go = walk.dirs(self.release, self.live)?;
        Ok((go, walk.seen))
    }
}

struct Walk<'a, 'b> {
    compare: &'a Compare<'a>,
    path: Vec<u8>,
    seen: Seen,
    tell: &'b mut dyn FnMut(Op) -> Result<Go>,
}

impl Walk<'_, '_> {
    fn dirs(&mut self, release: BorrowedFd<'_>, live: BorrowedFd<'_>) -> Result<Go> {
        let (mut ours, mut theirs) = (self.listing(release)?, self.listing(live)?);
        let (mut a, mut b) = (self.next(&mut ours)?, self.next(&mut theirs)?);
        loop {
            let order = match (&a, &b) {
                (None, None) => return Ok(true),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.cmp(b),
            };
            let go = match order {
                std::cmp::Ordering::Less => {
                    let name = a.take().unwrap_or_default();
                    let go = self.within(&name, |walk| walk.create(release, &name, None));
                    a = self.next(&mut ours)?;
                    go?
                }
                std::cmp::Ordering::Greater => {
                    let name = b.take().unwrap_or_default();
                    let go = self.within(&name, |walk| walk.remove(live, &name, Do::Remove).map(|kept| kept.go));
                    b = self.next(&mut theirs)?;
                    go?
                }
                std::cmp::Ordering::Equal => {
                    let name = a.take().unwrap_or_default();
                    let go = self.within(&name, |walk| walk.both(release, live, &name));
                    (a, b) = (self.next(&mut ours)?, self.next(&mut theirs)?);
                    go?
                }
            };
            if !go {
                return Ok(false);
            }
        }
    }

    fn within<T>(&mut self, name: &[u8], then: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let made = then(self);
        self.path.truncate(before);
        made
    }

    /// The release has it, the live tree has nothing there, or something in the way that is gone by then.
    fn create(&mut self, release: BorrowedFd<'_>, name: &[u8], had: Option<Stat>) -> Result<Go> {
        let Some(want) = self.stat(release, name)? else { return Ok(true) };
        if want.what == What::Other {
            self.seen.special += 1;
            return Ok(true);
        }
        self.seen.entries += 1;
        if want.what != What::Dir {
            return self.tell(Do::Copy, Some(want), had);
        }
        if !self.tell(Do::Mkdir, Some(want.clone()), None)? {
            return Ok(false);
        }
        let dir = self.open(release, name)?;
        let mut names = self.listing(dir.as_fd())?;
        while let Some(name) = self.next(&mut names)? {
            if !self.within(&name, |walk| walk.create(dir.as_fd(), &name, None))? {
                return Ok(false);
            }
        }
        if want.mode & ROOM == ROOM {
            return Ok(true);
        }
        self.tell(Do::Meta, Some(want), None)
    }

    fn both(&mut self, release: BorrowedFd<'_>, live: BorrowedFd<'_>, name: &[u8]) -> Result<Go> {
        let Some(had) = self.stat(live, name)? else { return self.create(release, name, None) };
        let Some(want) = self.stat(release, name)? else { return Ok(true) };
        if want.what == What::Other {
            self.seen.special += 1;
            return Ok(true);
        }
        match (want.what, had.what) {
            (What::Dir, What::Dir) => {
                self.seen.entries += 1;
                let (ours, theirs) = (self.open(release, name)?, self.open(live, name)?);
                let same = want.same_meta(&had, self.compare.owners);
                self.seen.same += u64::from(same);
                if !self.dirs(ours.as_fd(), theirs.as_fd())? {
                    return Ok(false);
                }
                if same { Ok(true) } else { self.tell(Do::Meta, Some(want), Some(had)) }
            }
            (_, What::Dir) | (What::Dir, _) => {
                let cleared = self.remove(live, name, Do::Clear)?;
                if !cleared.go { Ok(false) } else { self.create(release, name, None) }
            }
            _ => {
                let meta = want.same_meta(&had, self.compare.owners);
                let content = if self.compare.checksums && want.what == What::File && had.what == What::File {
                    want.size == had.size && self.same_bytes(release, live, name)?
                } else {
                    want.same_content(&had)
                };
                let time = want.what != What::File || want.changed == had.changed;
                self.seen.entries += 1;
                match (content, meta && time) {
                    (true, true) => {
                        self.seen.same += 1;
                        Ok(true)
                    }
                    (true, false) => self.tell(Do::Meta, Some(want), Some(had)),
                    (false, _) => self.tell(Do::Copy, Some(want), Some(had)),
                }
            }
        }
    }

    /// The live tree has it, and should not, or not as what it is.
    fn remove(&mut self, live: BorrowedFd<'_>, name: &[u8], how: Do) -> Result<Kept> {
        let Some(had) = self.stat(live, name)? else { return Ok(Kept { any: false, go: true }) };
        let mut kept = Kept { any: false, go: true };
        match had.what {
            What::Other => {
                self.seen.special += 1;
                return Ok(Kept { any: true, go: true });
            }
            What::Dir => {
                let dir = self.open(live, name)?;
                let mut names = self.listing(dir.as_fd())?;
                while let Some(name) = names.next().map_err(|e| self.failed(e))? {
                    let child = self.within(&name, |walk| {
                        if walk.compare.excluded.contains(&walk.path) {
                            return Ok(Kept { any: true, go: true });
                        }
                        walk.remove(dir.as_fd(), &name, how)
                    })?;
                    kept.any |= child.any;
                    if !child.go {
                        return Ok(child);
                    }
                }
            }
            What::File | What::Link => {}
        }
        if !kept.any {
            kept.go = self.tell(how, None, Some(had))?;
        }
        Ok(kept)
    }

    fn tell(&mut self, what: Do, want: Option<Stat>, had: Option<Stat>) -> Result<Go> {
        (self.tell)(Op { what, path: Raw(self.path.clone()), want, had })
    }
    fn listing(&self, dir: BorrowedFd<'_>) -> Result<Listing> {
        Listing::new(dir).map_err(|e| self.failed(e))
    }
    /// The next name that counts.
    fn next(&mut self, names: &mut Listing) -> Result<Option<Vec<u8>>> {
        loop {
            let Some(name) = names.next().map_err(|e| self.failed(e))? else { return Ok(None) };
            if !self.within(&name, |walk| walk.compare.excluded.contains(&walk.path)) {
                return Ok(Some(name));
            }
        }
    }
    fn stat(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>> {
        Stat::at(dir, name).map_err(|e| self.failed(e))
    }
    fn open(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        open_dir(dir, name).map_err(|e| self.failed(e))
    }
    fn same_bytes(&self, release: BorrowedFd<'_>, live: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        let same = || tree::same_bytes(open_file(release, name)?, open_file(live, name)?);
        same().map_err(|e| Error::from_io(format!("read {}", Raw(self.path.clone())), e).without_effect())
    }
    fn failed(&self, e: Errno) -> Error {
        let path = if self.path.is_empty() { "the root".into() } else { Raw(self.path.clone()).to_string() };
        Error::from_io(format!("compare the trees at {path}"), e.into()).without_effect()
    }
}

struct Kept {
    /// Something in it stays, so it stays too.
    any: bool,
    go: Go,
}

/// A file by its name in a directory, which must not be a link.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<File, Errno> {
    use rustix::fs::{Mode, OFlags, openat};
    // Not to block on a pipe that took the place of a file.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(dir, name, flags, Mode::empty()).map(File::from)
}
