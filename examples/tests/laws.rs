//! The third party's target keeps the laws of targets.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../examples/third_party.rs"]
mod third_party;

use async_trait::async_trait;
use rollback_core::{
    Change, Error, Result, Target,
    testing::laws::target::{Bench, each},
};
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

/// A folder of its own for each law.
#[derive(Debug, Default)]
struct Folders(Mutex<Option<tempfile::TempDir>>);

impl Folders {
    fn file(&self, name: &str) -> PathBuf {
        self.0.lock().unwrap().as_ref().unwrap().path().join(name)
    }
    fn someone(&self, does: impl FnOnce(&Self) -> std::io::Result<()>) -> Option<Result<()>> {
        Some(does(self).map_err(|e| Error::from_io("play somebody else", e)))
    }
}

#[async_trait]
impl Bench for Folders {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("v1.conf", "welcome"), ("v2.conf", "wlecmoe"), ("live.conf", "wlecmoe")] {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let target = third_party::Config::in_folder(folder.path())?;
        *self.0.lock().unwrap() = Some(folder);
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        Change::release(&"all".into(), &"1".into())
    }
    fn change_after(&self) -> Option<Change> {
        Some(Change::release(&"all".into(), &"2".into()))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.someone(|folder| {
            fs::write(folder.file("v3.conf"), "welcome!")?;
            fs::write(folder.file("next"), "welcome!")?;
            fs::rename(folder.file("next"), folder.file("live.conf"))
        })
    }
    async fn vanish(&self) -> Option<Result<()>> {
        self.someone(|folder| fs::remove_dir_all(folder.file("")))
    }
}

#[tokio::test]
async fn the_third_partys_target_keeps_the_laws() {
    let ruled = each(&Folders::default()).await;
    for (law, ruling) in &ruled {
        println!("{law}: {ruling:?}");
    }
    assert!(ruled.iter().all(|(_, ruling)| ruling.is_ok()), "{ruled:#?}");
}
