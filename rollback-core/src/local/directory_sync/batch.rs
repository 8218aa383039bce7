//! Carries out a batch of a manifest. Each entry is looked at once more before it is touched: what is as the release has
//! it already is done, what is neither that nor what the manifest saw is somebody else's and stays.

use super::{
    entry::{Dirs, Do, Op, Stat, What},
    walk::{HALF_MADE, open_file},
};
use crate::{Digest, Error, Kind, Result};
use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, fsync, futimens,
        mkdirat, openat, renameat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

/// Somebody else's hand.
const FOREIGN: &str = "changed by somebody else since it was prepared";

/// A directory is made with these, so that files can be put into it; a stricter mode of its own comes after them.
pub(super) const ROOM: u32 = 0o700;

/// The two trees, and how carefully to write.
pub(super) struct Sides<'a> {
    pub(super) release: BorrowedFd<'a>,
    pub(super) live: BorrowedFd<'a>,
    pub(super) fsync: bool,
    pub(super) owners: bool,
    pub(super) threads: usize,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) done: u64,
    /// Why not the others, with how many each.
    pub(super) left: BTreeMap<String, u64>,
    /// Directories whose entries changed and are not durable yet.
    pub(super) touched: BTreeSet<Vec<u8>>,
}

impl Outcome {
    fn take(&mut self, op: &Op, end: End) {
        match end {
            End::Already => self.done += 1,
            End::Done => {
                self.done += 1;
                let (dir, _) = op.split();
                if !self.touched.contains(dir) {
                    self.touched.insert(dir.to_vec());
                }
            }
            End::Left(why) => *self.left.entry(why).or_default() += 1,
        }
    }
    pub(super) fn add(&mut self, other: Outcome) {
        self.done += other.done;
        for (why, n) in other.left {
            *self.left.entry(why).or_default() += n;
        }
        self.touched.extend(other.touched);
    }
}

enum End {
    Done,
    Already,
    Left(String),
}

/// What is to be done, seen once more.
enum Look {
    Go,
    End(End),
}

impl Sides<'_> {
    /// Carries out. What must come first (directories, what is in the way) one after the other, files on several threads,
    /// then what must come last.
    pub(super) fn run(&self, ops: &[Op]) -> Result<Outcome> {
        let mut all = Outcome::default();
        let mut dirs = Dirs::new(self.live);
        let is_first = |op: &Op| matches!(op.what, Do::Mkdir | Do::Clear);
        let is_last = |op: &Op| !is_first(op) && op.is_of_dir();
        for op in ops.iter().filter(|op| is_first(op)) {
            all.take(op, self.one(&mut dirs, op)?);
            if op.what == Do::Clear {
                dirs.forget();
            }
        }
        let files: Vec<&Op> = ops.iter().filter(|op| !is_first(op) && !is_last(op)).collect();
        if !files.is_empty() {
            let share = files.len().div_ceil(self.threads.max(1));
            let shares = std::thread::scope(|scope| {
                let threads: Vec<_> = files.chunks(share).map(|share| scope.spawn(move || self.files(share))).collect();
                let lost = || Err(Error::new(Kind::Unexpected, "copy files").with_message("a thread panicked"));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect::<Vec<_>>()
            });
            for share in shares {
                all.add(share?);
            }
        }
        for op in ops.iter().filter(|op| is_last(op)) {
            all.take(op, self.one(&mut dirs, op)?);
            if op.what == Do::Remove {
                dirs.forget();
            }
        }
        Ok(all)
    }

    /// Makes the changes in these directories durable.
    pub(super) fn sync(&self, touched: &mut BTreeSet<Vec<u8>>) -> Result<()> {
        let mut dirs = Dirs::new(self.live);
        if self.fsync {
            for path in touched.iter() {
                match dirs.open(path).and_then(fsync) {
                    // Removed since, or somebody else's: not ours to make durable.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(e) => return Err(Error::from_io("sync a directory", e.into())),
                }
            }
        }
        touched.clear();
        Ok(())
    }

    /// First all contents under names of their own, then all of them made durable (the first sync carries most of the
    /// others), then all renamed.
    fn files(&self, ops: &[&Op]) -> Result<Outcome> {
        let mut all = Outcome::default();
        let (mut ours, mut theirs) = (Dirs::new(self.release), Dirs::new(self.live));
        let mut written: Vec<(&Op, Option<File>)> = vec![];
        for op in ops {
            let end = match self.look(&mut theirs, op) {
                Ok(Look::End(end)) => end,
                Ok(Look::Go) if op.what == Do::Copy => match self.write(&mut ours, &mut theirs, op) {
                    Ok(file) => {
                        written.push((op, file));
                        continue;
                    }
                    Err(e) => failed(op, e)?,
                },
                Ok(Look::Go) => act(op, self.change(&mut theirs, op))?,
                Err(e) => failed(op, e.into())?,
            };
            all.take(op, end);
        }
        if self.fsync {
            for (op, file) in &written {
                if let Some(file) = file {
                    fsync(file).map_err(|e| Error::from_io(format!("sync {}", op.path), e.into()))?;
                }
            }
        }
        for (op, file) in written {
            drop(file);
            let (dir, name) = op.split();
            let renamed = theirs.open(dir).and_then(|dir| renameat(dir, half_made(name), dir, name));
            all.take(op, act(op, renamed)?);
        }
        Ok(all)
    }

    fn one(&self, dirs: &mut Dirs<'_>, op: &Op) -> Result<End> {
        match self.look(dirs, op) {
            Ok(Look::Go) => act(op, self.change(dirs, op)),
            Ok(Look::End(end)) => Ok(end),
            Err(e) => failed(op, e.into()),
        }
    }

    /// Compares what stands there with what the manifest saw.
    fn look(&self, dirs: &mut Dirs<'_>, op: &Op) -> std::result::Result<Look, Errno> {
        let (dir, name) = op.split();
        let now = match dirs.open(dir) {
            Ok(dir) => Stat::at(dir, name)?,
            // Its directory is gone with it, or is something else.
            Err(Errno::NOENT) => None,
            // What was cleared away before a crash stays so, whatever stands there now.
            Err(Errno::NOTDIR | Errno::LOOP) if op.what == Do::Clear => None,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Look::End(End::Left(FOREIGN.into()))),
            Err(e) => return Err(e),
        };
        let foreign = Look::End(End::Left(FOREIGN.into()));
        let already = Look::End(End::Already);
        Ok(match (op.what, &op.want, &op.had, now) {
            (Do::Mkdir, _, _, None) => Look::Go,
            (Do::Mkdir, Some(want), _, Some(now)) if now.what == What::Dir => {
                if now.mode == want.mode | ROOM && (!self.owners || now.owner == want.owner) {
                    already
                } else {
                    Look::Go
                }
            }
            // Contents were compared, and differ although size and time do not: the copy has another inode.
            (Do::Copy, Some(want), Some(had), Some(now)) if want.same_content(had) && had.untouched(&now) => Look::Go,
            (Do::Copy | Do::Meta, Some(want), _, Some(now))
                if want.same_content(&now) && want.same_meta(&now, self.owners) =>
            {
                already
            }
            (Do::Copy, _, None, None) => Look::Go,
            (Do::Copy | Do::Meta, _, Some(had), Some(now)) if had.untouched(&now) => Look::Go,
            // A directory of our own making gets its mode.
            (Do::Meta, Some(want), None, Some(now)) if want.what == What::Dir && now.what == What::Dir => Look::Go,
            (Do::Clear | Do::Remove, _, _, None) => already,
            (Do::Clear | Do::Remove, _, Some(had), Some(now)) if had.untouched(&now) => Look::Go,
            // Cleared before a crash, and what was to stand there stands there: that entry looks for itself.
            (Do::Clear, _, Some(had), Some(now)) if had.what != now.what => already,
            _ => foreign,
        })
    }

    fn change(&self, dirs: &mut Dirs<'_>, op: &Op) -> std::result::Result<(), Errno> {
        let (dir, name) = op.split();
        let dir = dirs.open(dir)?;
        match (op.what, &op.want, &op.had) {
            (Do::Mkdir, Some(want), _) => {
                match mkdirat(dir, name, mode(0o700)) {
                    // Made before a crash, or by somebody: it is to be there all the same.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                if self.owners {
                    let (uid, gid) = owner(want);
                    chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                // Set, because the umask takes from what is asked for.
                chmodat(dir, name, mode(want.mode | ROOM), AtFlags::empty())
            }
            (Do::Meta, Some(want), _) => {
                if self.owners {
                    let (uid, gid) = owner(want);
                    chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                if want.what != What::Link {
                    chmodat(dir, name, mode(want.mode), AtFlags::empty())?;
                }
                if want.what == What::File {
                    utimensat(dir, name, &times(want), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                Ok(())
            }
            (Do::Clear | Do::Remove, _, Some(had)) => {
                let flags = if had.what == What::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                unlinkat(dir, name, flags)
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Writes the content under a name of its own.
    fn write(&self, ours: &mut Dirs<'_>, theirs: &mut Dirs<'_>, op: &Op) -> io::Result<Option<File>> {
        let Some(want) = &op.want else { return Err(Errno::INVAL.into()) };
        let (path, name) = op.split();
        let (from, to, half) = (ours.open(path)?, theirs.open(path)?, half_made(name));
        // What a crash left.
        match unlinkat(to, &half, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        if let (What::Link, Some(target)) = (want.what, &want.to) {
            symlinkat(target.0.as_slice(), to, &half)?;
            if self.owners {
                let (uid, gid) = owner(want);
                chownat(to, &half, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            return Ok(None);
        }
        let mut source = open_file(from, name)?;
        let found = Stat::from(&rustix::fs::fstat(&source)?);
        if !want.same_content(&found) {
            return Err(io::Error::other(Edited));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(to, &half, flags, mode(0o600))?);
        let fill = || -> io::Result<()> {
            if io::copy(&mut source, &mut file)? != want.size {
                return Err(io::Error::other(Edited));
            }
            if self.owners {
                let (uid, gid) = owner(want);
                fchown(file.as_fd(), uid, gid)?;
            }
            fchmod(file.as_fd(), mode(want.mode))?;
            futimens(file.as_fd(), &times(want))?;
            Ok(())
        };
        let filled = { fill }();
        match filled {
            Ok(()) => Ok(Some(file)),
            Err(e) => {
                let _ = unlinkat(to, &half, AtFlags::empty());
                Err(e)
            }
        }
    }
}

/// The release is not what the manifest was made from.
#[derive(Debug)]
struct Edited;

impl fmt::Display for Edited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the release was edited since it was prepared")
    }
}
impl std::error::Error for Edited {}

fn act(op: &Op, acted: std::result::Result<(), Errno>) -> Result<End> {
    match acted {
        Ok(()) => Ok(End::Done),
        Err(e) => failed(op, e.into()),
    }
}

/// What is the matter with one entry is counted, and the others go on; what is the matter with all of them ends it.
fn failed(op: &Op, e: io::Error) -> Result<End> {
    use io::ErrorKind as E;
    if e.get_ref().is_some_and(|inner| inner.is::<Edited>()) {
        return Err(Error::new(Kind::Stale, format!("copy {}", op.path)).with_message(e.to_string()));
    }
    match e.kind() {
        E::NotFound if op.what == Do::Copy => {
            Err(Error::new(Kind::Stale, format!("copy {}", op.path)).with_message("it or its directory is gone"))
        }
        E::NotFound => Ok(End::Left(FOREIGN.into())),
        E::DirectoryNotEmpty => Ok(End::Left("directory not empty".into())),
        E::NotADirectory | E::IsADirectory => Ok(End::Left(FOREIGN.into())),
        E::PermissionDenied => Ok(End::Left("permission denied".into())),
        _ if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(End::Left(FOREIGN.into())),
        _ => Err(Error::from_io(format!("write {}", op.path), e)),
    }
}

/// The name of a half-made copy: always the same for a file, so that the next attempt finds it.
pub(super) fn half_made(name: &[u8]) -> Vec<u8> {
    let digest = Digest::of(name);
    [HALF_MADE, &digest.as_str().as_bytes()["sha256:".len()..][..24]].concat()
}

fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.owner.0)), Some(Gid::from_raw(stat.owner.1)))
}

#[allow(clippy::useless_conversion, reason = "the types differ from system to system")]
fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.changed.0, tv_nsec: stat.changed.1.into() };
    Timestamps { last_access: time, last_modification: time }
}
