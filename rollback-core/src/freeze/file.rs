//! A freeze by a file that a pipeline looks at.

use super::{Freeze, Hold};
use crate::{Error, Kind, Payload, Result, Stored, atomic_file, atomic_file::lock, blocking::blocking, seconds};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// More than any such file needs.
const MOST: u64 = 1 << 20;
/// The key of what stood in the file before the first hold; not a word that a pipeline would use.
const BEFORE: &str = "before-rollback";

/// Freezes by a JSON file that a pipeline looks at before it deploys.
///
/// The file is an object with the list `holds`, an entry for each run: `run`, `target`, `owner`, `why`, `until` (ms since
/// 1970, or `null`). A pipeline should deploy if there is no file, no `holds`, or none of them whose `until` is `null` or in
/// the future. What else stands in the file is left alone.
///
/// The file is replaced as a whole, durably, under a lock (`<path>.lock`), so several runs of several processes on one host
/// may hold it. Unfreezing removes this run's entry; with the last one the file is as it was before the first: byte for byte,
/// or gone.
///
/// ```
/// use rollback_core::freeze::FreezeFile;
/// let deploys = FreezeFile::new("/srv/checkout/deploys-frozen.json");
/// ```
#[derive(Clone, Debug)]
pub struct FreezeFile {
    path: PathBuf,
}

/// What was there before this run's hold.
#[derive(Serialize, Deserialize)]
struct Was {
    /// Whose holds.
    holds: Vec<String>,
}
impl Stored for Was {
    const NAME: &'static str = "rollback-core/freeze-file";
    const VERSION: u32 = 1;
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    hold: Hold,
    /// The runs that held before it: a repeated freeze answers what the first did.
    after: Vec<String>,
}

/// The file, taken apart.
struct Doc {
    rest: Map<String, Value>,
    holds: Vec<Entry>,
    /// The whole file before the first hold; `None`: there was none.
    before: Option<String>,
}

impl FreezeFile {
    /// At this path. Its directory must exist; the file need not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn update<T: Send + 'static>(&self, work: impl FnOnce(&mut Doc) -> Result<T> + Send + 'static) -> Result<T> {
        // Until it is written, nothing has happened.
        let locked = lock(&self.path, seconds(10)).await.map_err(Error::without_effect)?;
        let path = self.path.clone();
        blocking(move || {
            // Held until the file is written, even if the caller is gone.
            let _locked = locked;
            let mut doc = Doc::read(&path).map_err(Error::without_effect)?;
            let answer = work(&mut doc).map_err(Error::without_effect)?;
            doc.write(&path)?;
            Ok(answer)
        })
        .await
    }
}

impl Doc {
    fn read(path: &Path) -> Result<Self> {
        let Some(bytes) = atomic_file::read(path, MOST)? else {
            return Ok(Self { rest: Map::new(), holds: vec![], before: None });
        };
        let invalid = |message: String| {
            Error::new(Kind::Invalid, format!("read the freeze file {}", path.display()))
                .with_message(format!("{message}: it was left as it is; repair it, or name another file"))
                .without_effect()
        };
        let text = String::from_utf8(bytes).map_err(|_| invalid("it is not text".into()))?;
        let mut rest: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| invalid(format!("it is no JSON object ({e})")))?;
        let Some(holds) = rest.remove("holds") else {
            return Ok(Self { rest, holds: vec![], before: Some(text) });
        };
        let holds: Vec<Entry> =
            serde_json::from_value(holds).map_err(|e| invalid(format!("its holds cannot be read ({e})")))?;
        if holds.is_empty() && !rest.contains_key(BEFORE) {
            return Ok(Self { rest, holds, before: Some(text) });
        }
        let before = rest.remove(BEFORE).and_then(|before| before.as_str().map(str::to_string));
        Ok(Self { rest, holds, before })
    }

    fn write(self, path: &Path) -> Result<()> {
        let pretty = |map: &Map<String, Value>| {
            serde_json::to_string_pretty(map)
                .map(|text| text + "\n")
                .map_err(|e| Error::new(Kind::Unexpected, "write the freeze file").with_source(e).without_effect())
        };
        if !self.holds.is_empty() {
            let mut all = self.rest;
            let holds = serde_json::to_value(&self.holds)
                .map_err(|e| Error::new(Kind::Unexpected, "write the freeze file").with_source(e).without_effect())?;
            all.insert("holds".into(), holds);
            all.insert(BEFORE.into(), self.before.map_or(Value::Null, Value::String));
            return atomic_file::write(path, pretty(&all)?.as_bytes());
        }
        let mut was: Option<Map<String, Value>> =
            self.before.as_deref().and_then(|text| serde_json::from_str(text).ok());
        if let Some(was) = &mut was {
            was.remove("holds");
        }
        match self.before {
            None if self.rest.is_empty() => atomic_file::remove(path),
            Some(text) if was.as_ref() == Some(&self.rest) => atomic_file::write(path, text.as_bytes()),
            // Somebody changed something else in it meanwhile: that stays.
            _ => atomic_file::write(path, pretty(&self.rest)?.as_bytes()),
        }
    }
}

#[async_trait]
impl Freeze for FreezeFile {
    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }
    async fn freeze(&self, hold: &Hold) -> Result<Payload> {
        let hold = hold.clone();
        self.update(move |doc| {
            let after = match doc.holds.iter_mut().find(|entry| entry.hold.run == hold.run) {
                Some(entry) => {
                    entry.hold = hold;
                    entry.after.clone()
                }
                None => {
                    let after: Vec<String> = doc.holds.iter().map(|entry| entry.hold.run.to_string()).collect();
                    doc.holds.push(Entry { hold, after: after.clone() });
                    after
                }
            };
            Payload::of(&Was { holds: after })
        })
        .await
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        let path = self.path.clone();
        let doc = blocking(move || Doc::read(&path)).await?;
        Ok(doc.holds.into_iter().map(|entry| entry.hold).collect())
    }
    async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()> {
        let _: Was = was.read()?;
        let run = hold.run.clone();
        if !self.held().await?.iter().any(|held| held.run == run) {
            return Ok(());
        }
        self.update(move |doc| {
            doc.holds.retain(|entry| entry.hold.run != run);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn hold(run: &str) -> Hold {
        Hold::new(run.into(), "t:shop".into(), "me", "500s").with_until(Some(Timestamp(1)))
    }
    fn runs(holds: &[Hold]) -> Vec<&str> {
        holds.iter().map(|hold| hold.run.as_str()).collect()
    }

    #[tokio::test]
    async fn the_file_is_as_it_was_when_the_last_hold_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frozen.json");
        for before in [None, Some("{ \"team\":\n \"shop\" }"), Some("{\"holds\": [] }")] {
            before.inspect(|text| std::fs::write(&path, text).unwrap());
            let freeze = FreezeFile::new(&path);
            let a = freeze.freeze(&hold("a")).await.unwrap();
            let b = freeze.freeze(&hold("b")).await.unwrap();
            assert_eq!(freeze.freeze(&hold("a")).await.unwrap(), a, "idempotent by run");
            assert_eq!(runs(&freeze.held().await.unwrap()), ["a", "b"]);
            freeze.unfreeze(&hold("a"), a.clone()).await.unwrap();
            freeze.unfreeze(&hold("a"), a).await.unwrap();
            assert_eq!(freeze.held().await.unwrap(), [hold("b")], "what another run holds stays");
            freeze.unfreeze(&hold("b"), b.clone()).await.unwrap();
            freeze.unfreeze(&hold("b"), b).await.unwrap();
            assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), before);
        }
    }

    #[tokio::test]
    async fn what_others_wrote_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frozen.json");
        std::fs::write(&path, r#"{"team":"shop"}"#).unwrap();
        let freeze = FreezeFile::new(&path);
        let was = freeze.freeze(&hold("a")).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace(r#""shop""#, r#""web""#);
        std::fs::write(&path, text).unwrap();
        freeze.unfreeze(&hold("a"), was).await.unwrap();
        let now: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(now, serde_json::json!({"team": "web"}));
    }

    #[tokio::test]
    async fn a_file_that_is_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frozen.json");
        for text in ["frozen!", "[]", r#"{"holds": "yes"}"#] {
            std::fs::write(&path, text).unwrap();
            let e = FreezeFile::new(&path).freeze(&hold("a")).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let e = FreezeFile::new(dir.path().join("no/such/dir")).freeze(&hold("a")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn many_at_once_lose_no_hold() {
        let dir = tempfile::tempdir().unwrap();
        let freeze = FreezeFile::new(dir.path().join("frozen.json"));
        let names: Vec<String> = (0..20).map(|n| format!("r{n:02}")).collect();
        let all = crate::join::join_all(names.iter().map(|run| {
            let freeze = freeze.clone();
            async move { freeze.freeze(&hold(run)).await }
        }));
        assert!(all.await.iter().all(Result::is_ok));
        let held = freeze.held().await.unwrap();
        let mut held = runs(&held);
        held.sort_unstable();
        assert_eq!(held, names);
    }

    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn what_the_file_says_lapses_when_the_journal_says_it_does() {
        use crate::{Choose, Clock, Now, Policy, Rollback, seconds, testing::*};
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        /// Each look at it is a millisecond later.
        #[derive(Debug, Default)]
        struct Ticking(AtomicU64);
        impl Clock for Ticking {
            fn now(&self) -> Now {
                let ms = self.0.fetch_add(1, Relaxed);
                Now { mono: std::time::Duration::from_millis(ms), wall: Timestamp(1_000_000 + ms) }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let freeze = FreezeFile::new(dir.path().join("frozen.json"));
        let report = Rollback::of(FakePlatform::new().release("1", Good).release("2", Bad).live("2"))
            .to(Choose::verified().or_previous())
            .freezing(freeze.clone())
            .policy(Policy::default().with_freeze_for(Some(seconds(3600))))
            .clock(Ticking::default())
            .run()
            .await
            .unwrap();
        let [(_, until)] = report.frozen()[..] else { panic!("{report}") };
        assert!(until.is_some());
        assert_eq!(freeze.held().await.unwrap()[0].until, until);
    }
}
