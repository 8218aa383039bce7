//! Where things lie under the root, and what the link says. All of it blocks, none of it changes anything but
//! [`Layout::point`].

use super::state::Swap;
use crate::{
    Error, Identity, Kind, ReleaseId, Result, Stored, Trace, atomic_file,
    local::{host, own},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Component, Path, PathBuf},
};

/// A root with `releases/`, `current` and `.rollback/`.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

/// What the link points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Points {
    /// There is no link.
    Nowhere,
    /// A release, there or not.
    At(ReleaseId),
    /// Something that is no release.
    Elsewhere(String),
}

/// What the link is, for compare-and-set. The time of its last change tells a swap away and back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkSeen {
    to: Option<String>,
    pub(super) inode: u64,
    changed: (i64, i64),
}

impl Stored for LinkSeen {
    const NAME: &'static str = "rollback-core/release-dir-link";
    const VERSION: u32 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) points: Points,
    pub(super) seen: LinkSeen,
}

/// One read of everything but the process.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) identity: Identity,
    pub(super) link: Link,
    /// The release that the link names is no directory any more.
    pub(super) gone: bool,
    pub(super) swap: Option<Swap>,
    pub(super) trace: Option<Trace>,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Result<Self> {
        let operation = || format!("open the release directory {}", root.display());
        let root = root.canonicalize().map_err(|e| {
            let failed = Error::new(Error::from_io("", e).kind(), operation()).without_effect();
            failed.with_message("there is no such directory: name the one that holds releases/ and current")
        })?;
        if root.to_str().is_none() {
            let message = "its path is not UTF-8, and it could not be named in a journal: move it";
            return Err(Error::new(Kind::Invalid, operation()).with_message(message).without_effect());
        }
        let layout = Self { root };
        if !layout.releases().is_dir() {
            let message = "it has no directory releases/: make it, with one directory for each release";
            return Err(Error::new(Kind::NotFound, operation()).with_message(message).without_effect());
        }
        Ok(layout)
    }
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
    pub(super) fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }
    pub(super) fn current(&self) -> PathBuf {
        self.root.join("current")
    }
    /// Where our own files are.
    pub(super) fn own_dir(&self) -> PathBuf {
        self.root.join(".rollback")
    }
    /// A file of our own.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.own_dir().join(name)
    }
    /// Makes the directory of our own files.
    pub(super) fn make_own(&self) -> Result<()> {
        std::fs::create_dir_all(self.own(""))
            .map_err(|e| Error::from_io(format!("make {}", self.own("").display()), e).without_effect())
    }

    /// The directory of a release that is there.
    pub(super) fn release(&self, id: &ReleaseId) -> Result<PathBuf> {
        own::release(&self.releases(), id)
    }

    /// The link, not followed.
    pub(super) fn link(&self) -> Result<Link> {
        let path = self.current();
        let operation = || format!("read the link {}", path.display());
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Link { points: Points::Nowhere, seen: LinkSeen::default() });
            }
            Err(e) => return Err(Error::from_io(operation(), e).without_effect()),
        };
        if !meta.is_symlink() {
            let is = if meta.is_dir() { "directory" } else { "file" };
            let message = format!(
                "it is a {is}, not a link, and is left as it is: move it away and link current to releases/<id>"
            );
            return Err(Error::new(Kind::Invalid, operation()).with_message(message).without_effect());
        }
        let to = std::fs::read_link(&path).map_err(|e| Error::from_io(operation(), e).without_effect())?;
        let text = to.to_string_lossy().into_owned();
        let points = self.named_by(&to).map_or_else(|| Points::Elsewhere(text.clone()), Points::At);
        let seen = LinkSeen { to: Some(text), inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) };
        Ok(Link { points, seen })
    }

    /// The release that a path (absolute, or as seen from the root) lies in or is, by its name alone.
    pub(super) fn release_of(&self, path: &Path) -> Option<ReleaseId> {
        let below = path.strip_prefix(self.releases()).ok()?;
        match below.components().next()? {
            Component::Normal(name) => name.to_str().filter(|name| own::is_name(name)).map(ReleaseId::from),
            _ => None,
        }
    }

    fn named_by(&self, to: &Path) -> Option<ReleaseId> {
        let name = to.file_name()?;
        let parent = self.root.join(to.parent()?);
        // The parent may be written in many ways; the release itself may be gone, so it is not followed.
        (parent.canonicalize().ok()? == self.releases().canonicalize().ok()?)
            .then(|| name.to_str().filter(|name| own::is_name(name)).map(ReleaseId::from))
            .flatten()
    }

    pub(super) fn read(&self) -> Result<Read> {
        let meta = self
            .root
            .metadata()
            .map_err(|e| Error::from_io(format!("look at {}", self.root.display()), e).without_effect())?;
        let link = self.link()?;
        let gone = matches!(&link.points, Points::At(id) if !self.releases().join(id.as_str()).is_dir());
        Ok(Read {
            identity: Identity::new(host::scope(), format!("{}:{}", meta.dev(), meta.ino())),
            link,
            gone,
            swap: Swap::load(self)?,
            trace: own::load_trace(&self.own_dir())?,
        })
    }

    /// Makes the new link under a name of its own: its inode, which it keeps when it is [put in place](Layout::place).
    pub(super) fn make_link(&self, id: &ReleaseId) -> Result<u64> {
        let next = self.next();
        let made = || {
            match std::fs::remove_file(&next) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            symlink(Path::new("releases").join(id.as_str()), &next)?;
            Ok(next.symlink_metadata()?.ino())
        };
        made().map_err(|e| Error::from_io(format!("make the link {}", next.display()), e).without_effect())
    }
    /// Renames the new link over the old one, durably.
    pub(super) fn place(&self) -> Result<()> {
        let current = self.current();
        std::fs::rename(self.next(), &current)
            .map_err(|e| Error::from_io(format!("swap the link {}", current.display()), e).without_effect())?;
        atomic_file::sync_parent(&current)
    }
    fn next(&self) -> PathBuf {
        self.root.join(".current.next")
    }
}
