//! A target of your own, whole and real: a configuration file that its program reads anew at each request, with the
//! versions of it beside: `live.conf`, `v1.conf`, `v2.conf` … It passes the laws: see the test at the end.

use async_trait::async_trait;
use rollback_core::{prelude::*, *};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{fs, fs::File, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf};

/// A configuration file in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    id: TargetId,
    folder: PathBuf,
}

/// What compare-and-set needs: the content, and the file's inode and time, because content can come back.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Live(String, u64, i64, i64);

impl Stored for Live {
    const NAME: &'static str = "example/config-live";
    const VERSION: u32 = 1;
}

impl Config {
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().map_err(|e| Error::from_io("open the folder", e))?;
        Ok(Self { id: TargetId::new(format!("config:{}", folder.display())), folder })
    }
    fn live(&self) -> Result<Live> {
        let path = self.folder.join("live.conf");
        let read = || Ok((fs::read_to_string(&path)?, fs::metadata(&path)?));
        let (text, meta) = read().map_err(|e| Error::from_io("read live.conf", e).without_effect())?;
        Ok(Live(text, meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }
    fn version(&self, release: &ReleaseId) -> Result<String> {
        let path = self.folder.join(format!("v{release}.conf"));
        fs::read_to_string(path).map_err(|e| Error::from_io(format!("read version {release}"), e).without_effect())
    }
    fn versions(&self) -> Result<Vec<u32>> {
        let files = fs::read_dir(&self.folder).map_err(|e| Error::from_io("list the versions", e))?;
        let number = |name: &str| name.strip_prefix('v')?.strip_suffix(".conf")?.parse().ok();
        let mut all: Vec<u32> = files.flatten().filter_map(|f| number(f.file_name().to_str()?)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        Ok(all)
    }
}

#[async_trait]
impl Target for Config {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::Token)
    }
    async fn observe(&self, _: Look) -> Result<Observation> {
        let live = self.live()?;
        let mut ids = self.versions()?.into_iter().map(|n| ReleaseId::new(n.to_string()));
        let part = ids.find(|id| self.version(id).is_ok_and(|text| text == live.0)).map(PartState::of);
        let unknown = || PartState::new(None, Running::Unknown { fingerprint: live.0.clone(), named: None });
        let identity = Identity::new("this host", self.folder.display().to_string());
        Ok(Observation::of_one(identity, part.unwrap_or_else(unknown), Token(Some(Payload::of(&live)?))))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        Ok(self.versions()?.into_iter().take(limit).map(|n| Release::new(n.to_string())).collect())
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        let text = self.version(change.only_release()?)?; // one that is gone is refused here
        Ok(Prepared::new(change).with_diff([DiffLine::new("live.conf", self.live()?.0, text)]))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let text = self.version(approved.change.only_release()?)?;
        let lock = File::create(self.folder.join("lock")).map_err(|e| Error::from_io("lock", e).without_effect())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| Error::from_io("lock", e.into()).without_effect())?;
        if token.read::<Live>()? != self.live()? {
            return Err(Error::new(Kind::Conflict, "write live.conf").without_effect());
        }
        let next = self.folder.join(format!("next-{}", work.epoch()));
        let write = || fs::write(&next, text).and_then(|()| fs::rename(&next, self.folder.join("live.conf")));
        write().map_err(|e| Error::from_io("write live.conf", e))?;
        Ok(Applied::done())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::from_io("make a folder", e))?;
    for (file, text) in [("v1.conf", "welcome"), ("v2.conf", "wlecmoe"), ("live.conf", "wlecmoe")] {
        fs::write(folder.path().join(file), text).map_err(|e| Error::from_io("write", e))?;
    }
    let target = Config::in_folder(folder.path())?;
    println!("{}", Rollback::break_glass_on(&target, "a typo on every page").await);
    println!("live.conf says {:?}", target.live()?.0);
    Ok(())
}
