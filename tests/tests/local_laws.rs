//! The laws hold on the flag and on the tools.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use rollback_core::{
    Change, Fencing, Result, Target, Weight,
    local::{CommandOptions, CommandTarget, FileFlagStore, FlagRule, FlagStore, FlagTarget, Tool},
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
};
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

fn five() -> FlagRule {
    FlagRule::on().with_share(Weight::percent(5))
}
fn to(release: impl Into<rollback_core::ReleaseId>) -> Change {
    Change::release(&"all".into(), &release.into())
}

/// A flag that was at 5 % and is on now, in a file.
#[derive(Debug)]
struct Flags {
    dir: tempfile::TempDir,
    read_back: bool,
}

impl Flags {
    fn new(read_back: bool) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), read_back }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("flags.json")
    }
    fn store(&self) -> FileFlagStore {
        FileFlagStore::open(self.path()).unwrap()
    }
}

#[async_trait]
impl Bench for Flags {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let store = self.store();
        // A dropped write may still be at it, under the lock: this comes after it.
        store.set("other", FlagRule::on(), "", "").await?;
        fs::remove_file(self.path()).unwrap();
        store.set("new-checkout", five(), "deploy 1", "canary").await?;
        store.set("new-checkout", FlagRule::on(), "deploy 2", "all").await?;
        let target = FlagTarget::new(store.clone(), "new-checkout").kill_switch();
        if !self.read_back {
            return Ok(Arc::new(target));
        }
        // A service that has the rule of the store.
        Ok(Arc::new(target.read_back(move |flag: String| {
            let store = store.clone();
            async move { Ok(rollback_core::local::SeenFlag::Rule(store.read(&flag).await?.rule)) }
        })))
    }
    fn change(&self) -> Change {
        to(five().release_id())
    }
    fn change_after(&self) -> Option<Change> {
        Some(to("off"))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        let half = FlagRule::on().with_share(Weight::percent(50));
        Some(self.store().set("new-checkout", half, "deploy 3", "").await.map(|_| ()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        fs::remove_file(self.path()).unwrap();
        Some(Ok(()))
    }
    fn effects(&self) -> Option<usize> {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(self.path()).ok()?).ok()?;
        let states = json.pointer("/flags/new-checkout")?.as_array()?;
        Some(states.iter().filter(|s| !s["key"].is_null()).count())
    }
}

/// A tool that compares its token and replaces its state by a rename.
const TOOL: &str = r#"
set -eu
cd "$DIR"
[ -e at ] || { echo "the database is gone" >&2; exit 11; }
case "$1" in
    observe) printf '{"running":"%s","wanted":"%s","token":"%s"}' "$(cat at)" "$(cat at)" "$(cat at)" ;;
    history) cat history ;;
    apply)
        [ "$(cat at)" = "$3" ] || exit 10
        printf %s "$2" > "at.$$"
        mv "at.$$" at
        ;;
esac
"#;

#[derive(Debug)]
struct Commands {
    now: Mutex<tempfile::TempDir>,
    fencing: Fencing,
}

impl Commands {
    fn new(fencing: Fencing) -> Self {
        Self { now: Mutex::new(tempfile::tempdir().unwrap()), fencing }
    }
    fn deploy(&self, release: &str) {
        let dir = self.now.lock().unwrap();
        fs::write(dir.path().join("at"), release).unwrap();
        fs::write(dir.path().join("history"), r#"["3","2","1"]"#).unwrap();
    }
}

#[async_trait]
impl Bench for Commands {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        fs::write(&tool, TOOL).unwrap();
        let path = dir.path().display().to_string();
        let tool = tool.display().to_string();
        *self.now.lock().unwrap() = dir;
        self.deploy("2");
        let options = CommandOptions::new()
            .with_observe(Tool::run(["sh", &tool, "observe"]))
            .with_history(Tool::run(["sh", &tool, "history"]))
            .with_apply(Tool::run(["sh", &tool, "apply", "{release}", "{token}"]))
            .with_env("DIR", path)
            .with_fencing(self.fencing);
        Ok(Arc::new(CommandTarget::new("command:test", options)?))
    }
    fn change(&self) -> Change {
        to("1")
    }
    fn change_after(&self) -> Option<Change> {
        Some(to("2"))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.deploy("3");
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        let dir = self.now.lock().unwrap();
        fs::remove_file(dir.path().join("at")).unwrap();
        Some(Ok(()))
    }
}

/// All laws are kept, and those that do not apply are just these.
async fn keeps_all_but(bench: &dyn Bench, not: &[&str]) {
    let ruled = each(bench).await;
    let broken: Vec<_> = ruled.iter().filter_map(|(_, ruling)| ruling.as_ref().err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let left: Vec<_> =
        ruled.iter().filter(|(_, r)| matches!(r, Ok(Ruling::DoesNotApply(_)))).map(|(name, _)| *name).collect();
    assert_eq!(left, not);
}

#[tokio::test]
async fn a_flag_keeps_the_laws() {
    keeps_all_but(&Flags::new(false), &["lower_epoch_is_refused"]).await;
}

#[tokio::test]
async fn a_flag_that_is_read_back_keeps_the_laws() {
    keeps_all_but(&Flags::new(true), &["lower_epoch_is_refused"]).await;
}

#[tokio::test]
async fn tools_keep_the_laws() {
    keeps_all_but(&Commands::new(Fencing::Token), &["lower_epoch_is_refused"]).await;
}

#[tokio::test]
async fn tools_that_promise_nothing_keep_the_laws() {
    let bench = Commands::new(Fencing::BestEffort);
    keeps_all_but(&bench, &["stale_token_is_refused", "lower_epoch_is_refused"]).await;
}
