//! Flags in one JSON file.

use super::{FlagRule, FlagState, FlagStore, FlagWrite};
use crate::{Error, Kind, Result, Timestamp, atomic_file, blocking::blocking, seconds};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A file that is longer is not a flag file.
const MOST: u64 = 16 << 20;
/// How long another process may hold the lock.
const LOCK_WITHIN: Duration = seconds(2);
const FORMAT: u32 = 1;

/// Flags in one JSON file, which services may read as they like: it is always whole, because it is replaced, never edited.
///
/// Writers of several processes are kept apart by a lock beside it (`<file>.lock`, which stays). Every write is durable
/// when it returns. The last 100 states of each flag are kept, so the file does not grow without end.
///
/// ```json
/// { "format": 1, "last_version": 2, "flags": { "new-checkout": [
///   { "rule": { "on": true, "share": 10000, "scope": [] }, "version": "2", "by": "deploy 17", "at": 1790000000000 },
///   { "rule": { "on": false, "share": 0, "scope": [] }, "version": "1" } ] } }
/// ```
/// The first state of each flag is the one that counts.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use rollback_core::local::{FileFlagStore, FlagRule, FlagStore};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("flags.json");
/// let flags = FileFlagStore::open(&path)?;
/// flags.set("new-checkout", FlagRule::on(), "deploy 17", "the new checkout is done").await?;
/// assert!(flags.read("new-checkout").await?.rule.on);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileFlagStore {
    path: Arc<PathBuf>,
    keep: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Flags {
    format: u32,
    /// Over all flags, so that a flag which was removed and made again does not get a version twice.
    last_version: u64,
    /// Newest first.
    flags: BTreeMap<String, Vec<FlagState>>,
}

impl FileFlagStore {
    /// The flags in this file. It need not be there yet; its directory must.
    ///
    /// # Errors
    /// As the file system; [`Kind::Invalid`] if the file is not one of flags, [`Kind::Unsupported`] if a newer version of
    /// this library wrote it. It is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let operation = || format!("open the flags in {}", path.display());
        let name = path.file_name().ok_or_else(|| {
            Error::new(Kind::Invalid, operation()).with_message("this names no file").without_effect()
        })?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        // The id of a flag must be the same from wherever it is opened.
        let dir = dir.canonicalize().map_err(|e| Error::from_io(operation(), e).without_effect())?;
        let store = Self { path: Arc::new(dir.join(name)), keep: 100 };
        load(&store.path)?;
        Ok(store)
    }
    /// How many states of each flag are kept. Two at least.
    pub fn with_kept_states(mut self, keep: usize) -> Self {
        self.keep = keep.max(2);
        self
    }
    /// Writes a rule, whatever the flag says now; makes the flag if it is not there. For deploys: a rollback compares
    /// first.
    ///
    /// # Errors
    /// As the file system; [`Kind::Unavailable`], without effect, if another process holds the lock.
    pub async fn set(&self, flag: &str, rule: FlagRule, by: &str, why: &str) -> Result<FlagState> {
        let (by, why) = (by.to_owned(), why.to_owned());
        self.change(flag, move |now| {
            let object = now.and_then(|n| n.object.clone()).unwrap_or_else(|| format!("{:016x}", fastrand::u64(..)));
            Ok(Some(FlagState {
                by,
                why,
                at: Some(Timestamp::now()),
                object: Some(object),
                ..FlagState::new(rule, "")
            }))
        })
        .await
    }

    /// Reads, changes and writes under the lock. What the change says is given a version; `None` changes nothing.
    async fn change(
        &self,
        flag: &str,
        change: impl FnOnce(Option<&FlagState>) -> Result<Option<FlagState>> + Send + 'static,
    ) -> Result<FlagState> {
        let (path, keep, flag) = (self.path.clone(), self.keep, flag.to_owned());
        let locked = atomic_file::lock(&path, LOCK_WITHIN).await?;
        blocking(move || {
            // Held to the end of the write, even if the future is dropped meanwhile.
            let _locked = locked;
            let mut all = load(&path)?;
            let states = all.flags.entry(flag.clone()).or_default();
            let Some(mut new) = change(states.first())? else {
                return states.first().cloned().ok_or_else(|| unknown(&path, &flag, &[]));
            };
            all.last_version += 1;
            new.version = all.last_version.to_string();
            states.insert(0, new.clone());
            states.truncate(keep);
            let bytes = serde_json::to_vec_pretty(&all)
                .map_err(|e| Error::new(Kind::Unexpected, "write the flags").without_effect().with_source(e))?;
            atomic_file::write(&path, &bytes)?;
            Ok(new)
        })
        .await
    }
    async fn states(&self, flag: &str) -> Result<Vec<FlagState>> {
        let (path, flag) = (self.path.clone(), flag.to_owned());
        blocking(move || {
            let mut all = load(&path)?;
            match all.flags.remove(&flag) {
                Some(states) if !states.is_empty() => Ok(states),
                _ => Err(unknown(&path, &flag, &all.flags.into_keys().collect::<Vec<_>>())),
            }
        })
        .await
    }
}

fn unknown(path: &Path, flag: &str, others: &[String]) -> Error {
    let known = match others {
        [] => "there are none in it".to_owned(),
        some => format!("it has {}", some.iter().take(10).cloned().collect::<Vec<_>>().join(", ")),
    };
    Error::new(Kind::NotFound, format!("read the flag {flag}"))
        .with_message(format!("{} has no such flag: {known}", path.display()))
        .without_effect()
}

fn load(path: &Path) -> Result<Flags> {
    let Some(bytes) = atomic_file::read(path, MOST)? else {
        return Ok(Flags { format: FORMAT, last_version: 0, flags: BTreeMap::new() });
    };
    let failed = |kind| Error::new(kind, format!("read the flags in {}", path.display())).without_effect();
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format = serde_json::from_slice::<Format>(&bytes)
        .map_err(|e| failed(Kind::Invalid).with_message("this is no flag file, and is left as it is").with_source(e))?;
    if format.format != FORMAT {
        return Err(failed(Kind::Unsupported).with_message(format!(
            "it has format {}, and this version reads {FORMAT}: use the version of this library that wrote it",
            format.format
        )));
    }
    serde_json::from_slice(&bytes).map_err(|e| {
        failed(Kind::Invalid).with_message("it is damaged, and is left as it is: repair it").with_source(e)
    })
}

#[async_trait]
impl FlagStore for FileFlagStore {
    fn id(&self) -> String {
        self.path.display().to_string()
    }
    async fn read(&self, flag: &str) -> Result<FlagState> {
        Ok(self.states(flag).await?.swap_remove(0))
    }
    async fn history(&self, flag: &str, limit: usize) -> Result<Vec<FlagState>> {
        let mut states = self.states(flag).await?;
        states.truncate(limit);
        Ok(states)
    }
    async fn write_if(&self, flag: &str, expected: &str, write: &FlagWrite) -> Result<FlagState> {
        let (name, expected, write) = (flag.to_owned(), expected.to_owned(), write.clone());
        let path = self.path.clone();
        self.change(flag, move |now| {
            let Some(now) = now else { return Err(unknown(&path, &name, &[])) };
            if now.key.as_deref() == Some(&write.key) && now.rule == write.rule {
                return Ok(None);
            }
            if now.version != expected {
                let message = format!(
                    "it is at version {} ({}, by {}), not at {expected}: somebody wrote it meanwhile",
                    now.version,
                    now.rule,
                    if now.by.is_empty() { "nobody who gave a name" } else { &now.by }
                );
                return Err(Error::new(Kind::Conflict, format!("write the flag {name}"))
                    .with_message(message)
                    .without_effect());
            }
            Ok(Some(FlagState {
                by: write.by,
                why: write.why,
                at: Some(Timestamp::now()),
                key: Some(write.key),
                trace: write.trace,
                object: now.object.clone(),
                ..FlagState::new(write.rule, "")
            }))
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Effect, Weight};

    fn store() -> (tempfile::TempDir, FileFlagStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = FileFlagStore::open(dir.path().join("flags.json")).unwrap();
        (dir, store)
    }
    fn write(rule: FlagRule, key: &str) -> FlagWrite {
        FlagWrite::new(rule, key).with_by("run 7")
    }

    #[tokio::test]
    async fn what_was_written_is_read_by_another_process_too() {
        let (dir, store) = store();
        store.set("a", FlagRule::on(), "me", "first").await.unwrap();
        let half = FlagRule::on().with_share(Weight::percent(50)).with_scope(["x"]);
        store.set("a", half.clone(), "me", "second").await.unwrap();
        let other = FileFlagStore::open(dir.path().join("./flags.json")).unwrap();
        assert_eq!(other.id(), store.id());
        let states = other.history("a", 10).await.unwrap();
        assert_eq!(states.iter().map(|s| s.why.as_str()).collect::<Vec<_>>(), ["second", "first"]);
        assert_eq!(states[0].rule, half);
        assert_eq!(states[0].object, states[1].object);
        assert_ne!(states[0].version, states[1].version);
        assert_eq!(other.history("a", 1).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn only_the_expected_version_is_written_over() {
        let (_dir, store) = store();
        let first = store.set("a", FlagRule::on(), "me", "").await.unwrap();
        let off = store.write_if("a", &first.version, &write(FlagRule::off(), "k1")).await.unwrap();
        let e = store.write_if("a", &first.version, &write(FlagRule::on(), "k2")).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None));
        assert!(e.message().contains("run 7"), "{e}");
        assert_eq!(store.read("a").await.unwrap(), off);
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_is_recognised_by_its_key() {
        let (_dir, store) = store();
        let first = store.set("a", FlagRule::on(), "me", "").await.unwrap();
        let once = store.write_if("a", &first.version, &write(FlagRule::off(), "k1")).await.unwrap();
        let again = store.write_if("a", &first.version, &write(FlagRule::off(), "k1")).await.unwrap();
        assert_eq!(once, again);
        assert_eq!(store.history("a", 10).await.unwrap().len(), 2);
        // The same key with another rule is another write.
        let e = store.write_if("a", &first.version, &write(FlagRule::on(), "k1")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
    }

    #[tokio::test]
    async fn there_and_back_again_is_not_the_same_version() {
        let (_dir, store) = store();
        let first = store.set("a", FlagRule::on(), "me", "").await.unwrap();
        store.set("a", FlagRule::off(), "me", "").await.unwrap();
        store.set("a", FlagRule::on(), "me", "").await.unwrap();
        let e = store.write_if("a", &first.version, &write(FlagRule::off(), "k")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
    }

    #[tokio::test]
    async fn of_many_writers_one_wins_and_nothing_is_lost() {
        let (_dir, store) = store();
        let first = store.set("a", FlagRule::on(), "me", "").await.unwrap();
        let mut all = tokio::task::JoinSet::new();
        for i in 0..8 {
            let (store, version) = (store.clone(), first.version.clone());
            all.spawn(async move {
                store.set(&format!("other-{i}"), FlagRule::off(), "me", "").await.unwrap();
                store.write_if("a", &version, &write(FlagRule::off(), &format!("k{i}"))).await.is_ok()
            });
        }
        let won = all.join_all().await.into_iter().filter(|ok| *ok).count();
        assert_eq!(won, 1);
        for i in 0..8 {
            store.read(&format!("other-{i}")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn history_is_bounded() {
        let (_dir, store) = store();
        let store = store.with_kept_states(3);
        for i in 0..9 {
            store.set("a", FlagRule::on().with_share(Weight::percent(i + 1)), "me", "").await.unwrap();
        }
        let shares: Vec<_> =
            store.history("a", 100).await.unwrap().iter().map(|s| s.rule.share.points() / 100).collect();
        assert_eq!(shares, [9, 8, 7]);
    }

    #[tokio::test]
    async fn an_unknown_flag_is_named_with_those_there_are() {
        let (_dir, store) = store();
        let e = store.read("a").await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        store.set("b", FlagRule::on(), "me", "").await.unwrap();
        let e = store.read("a").await.unwrap_err();
        assert!(e.message().contains("it has b"), "{e}");
        let e = store.write_if("a", "1", &write(FlagRule::off(), "k")).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None));
    }

    #[tokio::test]
    async fn a_file_that_is_not_ours_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flags.json");
        let long = "x".repeat(MOST as usize + 1);
        for (text, kind) in [
            ("not json", Kind::Invalid),
            ("", Kind::Invalid),
            ("[]", Kind::Invalid),
            (r#"{"format":1}"#, Kind::Invalid),
            (r#"{"format":1,"last_version":1,"flags":{"a":[{"rule":{}}]}}"#, Kind::Invalid),
            (r#"{"format":2,"flags":"of tomorrow"}"#, Kind::Unsupported),
            (&long, Kind::Invalid),
        ] {
            std::fs::write(&path, text).unwrap();
            let e = FileFlagStore::open(&path).unwrap_err();
            assert_eq!((e.kind(), e.effect(), e.is_transient()), (kind, Effect::None, false), "{e}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        // It went bad after it was opened: a write does not replace it.
        std::fs::remove_file(&path).unwrap();
        let store = FileFlagStore::open(&path).unwrap();
        std::fs::write(&path, "{ torn").unwrap();
        assert_eq!(store.set("a", FlagRule::on(), "me", "").await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ torn");
        assert_eq!(FileFlagStore::open(dir.path().join("no/flags.json")).unwrap_err().kind(), Kind::NotFound);
    }
}
