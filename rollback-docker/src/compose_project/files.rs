//! The files that a release of a project is made of, and where they lie.

use rollback_core::{Digest, Error, ReleaseId, Result, atomic_file};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A file of a project is not longer than this.
const MOST: u64 = 4 << 20;

/// What Compose is to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is given with `-f`.
    Compose,
    /// It is given with `--env-file`.
    Env,
    /// It is only read by what the others say.
    Other,
}

/// A place for a file.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) role: Role,
    /// As it was named.
    pub(super) shown: String,
    /// Where it lies.
    pub(super) path: PathBuf,
}

impl Slot {
    pub(super) fn new(dir: &Path, role: Role, name: &Path) -> Self {
        Self { role, shown: name.display().to_string(), path: dir.join(name) }
    }
}

/// The content of every slot.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileSet(pub(super) Vec<Vec<u8>>);

impl FileSet {
    /// The release that these files are: a digest of their names and their content.
    pub(super) fn release(&self, slots: &[Slot]) -> ReleaseId {
        let mut all = vec![];
        for (slot, bytes) in slots.iter().zip(&self.0) {
            all.extend(format!("{} {}\n{} ", slot.shown.len(), slot.shown, bytes.len()).bytes());
            all.extend(bytes);
        }
        ReleaseId::new(Digest::of(&all).as_str())
    }
}

/// Files may hold secrets.
impl fmt::Debug for FileSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<usize> = self.0.iter().map(Vec::len).collect();
        f.debug_tuple("FileSet").field(&sizes).finish()
    }
}

/// The files as they lie there now.
#[derive(Clone)]
pub(super) struct Live(pub(super) Vec<Option<Vec<u8>>>);

impl Live {
    pub(super) fn read(slots: &[Slot]) -> Result<Self> {
        slots.iter().map(|slot| atomic_file::read(&slot.path, MOST)).collect::<Result<_>>().map(Self)
    }
    /// All of them, if all are there.
    pub(super) fn set(&self) -> Option<FileSet> {
        self.0.iter().cloned().collect::<Option<_>>().map(FileSet)
    }
    /// Each is as in one set or as in the other: somebody who replaces one by the other was stopped.
    pub(super) fn is_between(&self, from: &FileSet, to: &FileSet) -> bool {
        self.0.iter().zip(from.0.iter().zip(&to.0)).all(|(is, (from, to))| {
            let is = is.as_ref();
            is == Some(from) || is == Some(to)
        })
    }
    /// For compare-and-set.
    pub(super) fn digest(&self, also: Option<&[u8]>) -> Digest {
        let mut all = vec![];
        for bytes in self.0.iter().map(Option::as_deref).chain([also]) {
            all.extend(format!("{:?} ", bytes.map(<[u8]>::len)).bytes());
            all.extend(bytes.unwrap_or_default());
        }
        Digest::of(&all)
    }
}

/// Puts a set in its place, each file in one step; a file that is so already is left alone.
pub(super) fn write(slots: &[Slot], set: &FileSet, live: &Live) -> Result<()> {
    let mut written = false;
    for ((slot, bytes), is) in slots.iter().zip(&set.0).zip(&live.0) {
        if is.as_ref() == Some(bytes) {
            continue;
        }
        // A link stays a link: what it leads to is replaced.
        let path = slot.path.canonicalize().unwrap_or_else(|_| slot.path.clone());
        atomic_file::write(&path, bytes).map_err(|e| if written { with_effect(e) } else { e })?;
        written = true;
    }
    Ok(())
}

/// An earlier file was replaced already.
fn with_effect(e: Error) -> Error {
    Error::new(e.kind(), "replace the files of the project").with_source(e)
}

/// What an environment file sets, as far as it can be told without Compose: names, and values without their quotes.
pub(super) fn variables(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let line = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value);
        Some((name.trim().to_owned(), bare.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn slots(dir: &Path) -> Vec<Slot> {
        [(Role::Compose, "compose.yaml"), (Role::Env, ".env")]
            .map(|(role, name)| Slot::new(dir, role, Path::new(name)))
            .into()
    }

    #[test]
    fn a_release_is_its_content_under_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let set = |a: &str, b: &str| FileSet(vec![a.into(), b.into()]);
        let slots = slots(dir.path());
        assert_eq!(set("a", "b").release(&slots), set("a", "b").release(&slots));
        assert_ne!(set("a", "b").release(&slots), set("ab", "").release(&slots));
        let renamed: Vec<Slot> = slots.iter().map(|s| Slot { shown: format!("x{}", s.shown), ..s.clone() }).collect();
        assert_ne!(set("a", "b").release(&slots), set("a", "b").release(&renamed));
        assert!(!format!("{:?}", set("secret", "")).contains("secret"));
    }

    #[test]
    fn written_read_back_and_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let slots = slots(dir.path());
        let (old, new) = (FileSet(vec!["a".into(), "b".into()]), FileSet(vec!["c".into(), "d".into()]));
        write(&slots, &old, &Live::read(&slots).unwrap()).unwrap();
        assert_eq!(Live::read(&slots).unwrap().set().unwrap(), old);
        std::fs::write(&slots[0].path, "c").unwrap();
        let half = Live::read(&slots).unwrap();
        assert!(half.is_between(&old, &new));
        write(&slots, &new, &half).unwrap();
        assert_eq!(Live::read(&slots).unwrap().set().unwrap(), new);
        std::fs::remove_file(&slots[1].path).unwrap();
        let live = Live::read(&slots).unwrap();
        assert!(live.set().is_none() && !live.is_between(&old, &new));
    }

    #[test]
    fn variables_of_an_environment_file() {
        let text = "# A=1\nPW=\"se cret\"\nexport B = 'x'\n\nempty=\nnothing\n";
        let expected = [("PW", "se cret"), ("B", "x"), ("empty", "")];
        assert_eq!(variables(text.as_bytes()), expected.map(|(n, v)| (n.to_string(), v.to_string())));
    }
}
