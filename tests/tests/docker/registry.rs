//! Images that are gone from the engine, and a private registry that has them.

use crate::shop::Shop;
use rollback_core::{Choose, Effect, Kind, Outcome, Report, Target, record::record};
use rollback_docker::{ComposeProject, ComposeService, ConnectOptions, Engine, ProjectOptions};
use rollback_tests::bed::{
    docker::{Bed, tag_of},
    registry::Registry,
};
use std::{fs, path::PathBuf};

impl Shop {
    /// The docker configuration of one who is logged in so, or not at all.
    fn config(&self, name: &str, json: &str) -> PathBuf {
        let dir = self.project.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        let plugins = self.project.bed.dir().join("config/cli-plugins");
        let _ = std::os::unix::fs::symlink(plugins, dir.join("cli-plugins"));
        fs::write(dir.join("config.json"), json).unwrap();
        dir
    }
    async fn target_as(&self, config: &PathBuf) -> ComposeService {
        let engine = Engine::connect(ConnectOptions::new().with_config_dir(config)).await.unwrap();
        ComposeService::new(engine, &self.project.name, "shop").with_stable_for(std::time::Duration::from_millis(300))
    }
    async fn back(&self, target: ComposeService) -> Report {
        self.rollback(target).await.run().await.unwrap()
    }
    /// Nothing but what runs is left on the engine.
    fn prune(&self) {
        let held = format!("label=rollback.holds=rollback/{}.shop", self.project.name);
        self.project.bed.prune(&["container", "prune", "-f", "--filter", &held]);
        self.project.remove_image(&self.good);
        assert!(self.project.bed.try_docker(&["inspect", &self.good]).is_err(), "it is gone");
    }
}

/// Auths, a helper for the registry, a helper for all; wrong, missing, away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_gone_image_comes_back_from_a_private_registry_and_its_secrets_stay_secret() {
    // In base64 this password has characters that the alphabets differ in.
    let registry = Registry::start(&Bed::here(), "till", "hunter2~?>");
    let mut shop = Shop::new("registry", "", "");
    let archive = shop.project.dir.join("images");
    let logged_in = shop.config("auths", &registry.auths("hunter2~?>"));
    let named = registry.push(&shop.project, "v1", &logged_in);
    shop.good = shop.project.bed.docker(&["inspect", "-f", "{{.Id}}", &named]);
    shop.deploy("v1");
    let journal = rollback_core::journal::SqliteJournal::open(shop.journal()).unwrap();
    let target = shop.target_as(&logged_in).await.with_archive(&archive);
    let entry = record(&target, &journal, "1.0", rollback_core::Timestamp::now()).await.unwrap();
    let digest = shop.project.bed.docker(&["inspect", "-f", "{{index .RepoDigests 0}}", &named]);
    let digest = digest.rsplit_once('@').unwrap().1;
    assert_eq!(entry.release.artifacts.iter().map(|d| d.as_str()).collect::<Vec<_>>(), [digest]);
    shop.deploy("v2");
    let before = shop.only()["Id"].clone();
    shop.prune();

    // Without an archive nobody knows where it was.
    let report = shop.back(shop.target_as(&logged_in).await).await;
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("does not have this image any more"), "{report}");
    let wrong = shop.config("wrong", &registry.auths("hunter3~?>"));
    let nobody = shop.config("nobody", "{}");
    let broken = shop.config("broken", &format!(r#"{{"credHelpers":{{"{}":"no-such-helper"}}}}"#, registry.host()));
    for (config, why) in [
        (&wrong, "refuses the credentials"),
        (&nobody, "has no credentials"),
        (&broken, "credential helper that config.json names cannot be used"),
    ] {
        let report = shop.back(shop.target_as(config).await.with_archive(&archive)).await;
        let text = format!("{report} {report:?}");
        assert!(!report.outcome().is_good() && report.writes() == 0, "{text}");
        assert!(text.contains(why) && !text.contains("hunter"), "{why}: {text}");
        assert_eq!(shop.only()["Id"], before, "{why}");
    }
    shop.serves("v2");

    let target = shop.target_as(&logged_in).await.with_archive(&archive);
    let history = target.history(10).await.unwrap();
    assert!(history.iter().any(|r| r.id == shop.good.as_str() && r.label == "1.0" && r.available), "{history:?}");
    let e = target.pull(&registry.name(&shop.project, "no-such")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None), "{e}");
    let report = shop.back(target).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(!format!("{report} {report:?}").contains("hunter"));
    assert!(report.to_string().contains("was pulled as"), "{report}");
    shop.serves("v1");

    // By its name, with the credentials of a helper for this registry, and of one for all.
    let helper = registry.helper(&shop.project);
    for config in [
        format!(r#"{{"credHelpers":{{"{}":"{helper}"}}}}"#, registry.host()),
        format!(r#"{{"credsStore":"{helper}","auths":{{"{}":{{}}}}}}"#, registry.host()),
    ] {
        shop.deploy("v2");
        shop.project.compose(&["up", "-d", "--force-recreate"]);
        shop.prune();
        let target = shop.target_as(&shop.config("helper", &config)).await;
        let release = target.pull(&named).await.unwrap();
        assert_eq!(release.id, shop.good.as_str());
        fs::remove_dir_all(shop.journal()).ok();
        let report = shop.back(target).await;
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        shop.serves("v1");
    }

    let target = shop.target_as(&logged_in).await;
    let host = registry.host().to_owned();
    drop(registry);
    let e = target.pull(&named).await.unwrap_err();
    assert_eq!((e.kind(), e.is_transient(), e.effect()), (Kind::Unavailable, true, Effect::None), "{e}");
    assert!(e.to_string().contains("registry does not answer") && e.to_string().contains(&host), "{e}");
}

/// What no registry has is kept whole.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn an_image_that_was_built_here_comes_back_from_the_archive_and_few_are_kept() {
    let shop = Shop::new("archive", "", "");
    let archive = shop.project.dir.join("images");
    let target = shop.target().await.with_archive(&archive).with_kept_records(2);
    for tag in ["v1", "v2"] {
        shop.deploy(tag);
        target.recorder().unwrap().record(tag).await.unwrap();
    }
    shop.prune();
    let report = shop.back(target.clone()).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(report.to_string().contains("loaded from"), "{report}");
    shop.serves("v1");
    shop.project.image("v3", "");
    shop.deploy("v3");
    target.recorder().unwrap().record("v3").await.unwrap();
    let saved = fs::read_dir(&archive).unwrap().flatten().flat_map(|dir| fs::read_dir(dir.path()).unwrap().flatten());
    let mut saved: Vec<String> = saved.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    saved.sort();
    assert_eq!(saved.len(), 6, "two images, a note of each, and what they were given: {saved:?}");
    let held = shop.project.bed.docker(&["ps", "-aq", "-f", &format!("name=^/rollback.{}", shop.project.name)]);
    assert_eq!(held.lines().count(), 2, "the oldest is let go of");
}

/// The same for the files of a project: Compose pulls what is not there, as whom the configuration names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_project_pulls_what_its_release_needs_before_anything_is_stopped() {
    let registry = Registry::start(&Bed::here(), "till", "hunter2~?>");
    let mut shop = Shop::new("pulls", "", "");
    let logged_in = shop.config("auths", &registry.auths("hunter2~?>"));
    let named = registry.push(&shop.project, "v1", &logged_in);
    shop.good = shop.project.bed.docker(&["inspect", "-f", "{{.Id}}", &named]);
    let (bad, yaml) = (shop.project.tag("v2"), |image: &str| format!("services:\n  shop:\n    image: {image}\n"));
    shop.project.file(&yaml(&named));
    fs::copy(shop.project.dir.join("compose.yaml"), shop.project.dir.join("compose.yaml.good")).unwrap();
    shop.project.file(&yaml(&bad));
    shop.project.compose(&["up", "-d"]);
    let before = shop.only()["Id"].clone();
    shop.prune();
    let open = |config: PathBuf| {
        let (dir, name) = (shop.project.dir.clone(), shop.project.name.clone());
        async move {
            let engine = Engine::connect(ConnectOptions::new().with_config_dir(config)).await.unwrap();
            let options = ProjectOptions::new().with_name(name).with_backup_suffix(".good");
            ComposeProject::open(engine, dir, options).await.unwrap()
        }
    };
    let run = |target: ComposeProject| async {
        let history = target.history(10).await.unwrap();
        let good = history.iter().find(|release| release.label == "the copy .good").unwrap().id.clone();
        shop.rollback(target).await.to(Choose::exactly(good)).run().await.unwrap()
    };
    let report = run(open(shop.config("wrong", &registry.auths("hunter3~?>"))).await).await;
    let text = format!("{report} {report:?}");
    assert!(!report.outcome().is_good() && report.writes() == 0, "{text}");
    assert!(text.contains("the registry refuses") && !text.contains("hunter"), "{text}");
    assert_eq!((&shop.only()["Id"], tag_of(&shop.only())), (&before, bad));
    let report = run(open(logged_in).await).await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
}
