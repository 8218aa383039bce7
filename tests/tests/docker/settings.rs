//! What is kept of a release at its deploy beside its image: what its containers were given.

use crate::shop::{CHECK, Shop, forget};
use rollback_core::{
    Choose, Outcome, Report, Rollback, Target as _, Timestamp, journal::SqliteJournal, record::record,
};
use rollback_docker::{ComposeService, ConnectOptions, Container, Engine};
use rollback_tests::bed::{
    docker::{Bed, wait_until},
    proxy::Proxy,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// What no report and no journal may hold.
const SECRETS: [&str; 2] = ["hunter-then", "hunter-now"];

struct Recorded {
    shop: Shop,
    archive: PathBuf,
}

impl Recorded {
    fn new(name: &str) -> Self {
        let shop = Shop::new(name, "", "");
        let archive = shop.project.dir.join("archive");
        Self { shop, archive }
    }
    fn deploy(&mut self, tag: &str, login: &str, grace: &str) {
        self.shop.service = format!(
            "    environment: {{ZONE: a, DB_LOGIN: {login}}}\n    labels: {{team: till}}\n    stop_grace_period: {grace}\n    \
             shm_size: 32m\n    volumes: [/cache]\n"
        );
        self.shop.deploy(tag);
    }
    async fn target(&self) -> ComposeService {
        self.shop.target().await.with_archive(&self.archive).with_kept_records(1)
    }
    async fn record(&self, label: &str) {
        let journal = SqliteJournal::open(self.shop.journal()).unwrap();
        record(&self.target().await, &journal, label, Timestamp::now()).await.unwrap();
    }
    async fn roll_back(&self) -> Report {
        let report = self.shop.rollback(self.target().await).await.run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        report
    }
    /// Files of settings in the archive.
    fn files(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.archive.join(format!("{}.shop", self.shop.project.name))).unwrap();
        let all = all.map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|e| e == "settings")).collect()
    }
    /// What the engine has in the environment of those that hold images.
    fn held(&self) -> Vec<String> {
        let bed = &self.shop.project.bed;
        let ids = bed.docker(&["ps", "-aq", "-f", &format!("name=^/rollback.{}", self.shop.project.name)]);
        ids.lines().map(|id| bed.docker(&["inspect", "-f", "{{json .Config.Env}}", id])).collect()
    }
}

fn files_in(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flat_map(|entry| files_in(&entry.unwrap().path())).collect(),
        Err(_) => vec![path.to_owned()],
    }
}
fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn settings_that_are_other_than_when_a_release_was_recorded_are_named_and_no_value_gets_out() {
    let mut recorded = Recorded::new("settings");
    recorded.deploy("v1", SECRETS[0], "1s");
    recorded.record("1.0").await;
    let [file] = &recorded.files()[..] else { panic!("{:?}", recorded.files()) };
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(text_of(file).contains(SECRETS[0]));
    assert!(matches!(&recorded.held()[..], [held] if held.contains(SECRETS[0])), "{:?}", recorded.held());

    // Another release with the same settings: the files of Compose and the name of a volume differ, and nothing of the user's.
    recorded.deploy("v2", SECRETS[0], "1s");
    let report = recorded.roll_back().await;
    assert!(!report.to_string().contains("keeps settings"), "{report}");

    // With others, and by the archive alone.
    for gone in [false, true] {
        recorded.deploy("v2", SECRETS[1], "2s");
        recorded.shop.project.compose(&["up", "-d", "--force-recreate"]);
        if gone {
            let holders = format!("name=^/rollback.{}", recorded.shop.project.name);
            let bed = &recorded.shop.project.bed;
            for holder in bed.docker(&["ps", "-aq", "-f", &holders]).lines() {
                bed.docker(&["rm", holder]);
            }
        }
        let report = recorded.roll_back().await;
        let named = "recorded: StopTimeout, environment DB_LOGIN; if it does not come up";
        assert!(report.to_string().contains(named), "{report}");
        // What it keeps is what it had a moment ago.
        let env = recorded.shop.only()["Config"]["Env"].to_string();
        assert!(env.contains(SECRETS[1]) && !env.contains(SECRETS[0]), "{env}");
        for secret in SECRETS {
            assert!(!report.to_string().contains(secret) && !format!("{report:?}").contains(secret), "{report}");
        }
    }
    // The journal, and the evidence in it.
    let journal = files_in(&recorded.shop.journal());
    assert!(journal.iter().any(|path| text_of(path).contains("environment DB_LOGIN")), "{journal:?}");
    for path in &journal {
        assert!(!SECRETS.iter().any(|secret| text_of(path).contains(secret)), "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn settings_are_those_of_the_last_record_and_go_with_it() {
    let mut recorded = Recorded::new("kept-settings");
    recorded.deploy("v1", SECRETS[0], "1s");
    recorded.record("1.0").await;
    // The same release, deployed again with other settings.
    recorded.deploy("v1", SECRETS[1], "1s");
    recorded.record("1.0").await;
    let [file] = &recorded.files()[..] else { panic!("{:?}", recorded.files()) };
    for kept in [text_of(file), recorded.held().concat()] {
        assert!(kept.contains(SECRETS[1]) && !kept.contains(SECRETS[0]), "{kept}");
    }
    // One record is kept: the next one takes its place.
    recorded.deploy("v2", "none", "1s");
    recorded.record("2.0").await;
    let left = text_of(&recorded.files()[0]) + &recorded.held().concat();
    assert_eq!((recorded.files().len(), recorded.held().len()), (1, 1));
    assert!(SECRETS.iter().all(|secret| !left.contains(secret)), "{left}");
}

/// Somebody took the containers away: without a record there is nothing to make them of, and with one they are made again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn containers_that_are_gone_are_made_again_as_they_were_recorded() {
    let mut shop = Shop::new("gone", "", "");
    shop.service = format!(
        "    environment: {{DB_LOGIN: {}}}\n    labels: {{team: till}}\n    restart: always\n    stop_grace_period: 1s\n    \
         scale: 2\n    volumes: [data:/data]\n    networks: {{front: {{aliases: [till]}}, back: {{}}}}\nvolumes: {{data: {{}}}}\n\
         networks: {{front: {{}}, back: {{}}}}\n",
        SECRETS[0]
    );
    shop.deploy("v1");
    let project = &shop.project;
    let remove = || {
        let ids: Vec<String> =
            project.containers("shop").iter().map(|c| c["Id"].as_str().unwrap().to_owned()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        project.bed.docker(&[&["rm", "-f"][..], &ids].concat());
    };
    let write = ["exec", &format!("{}-shop-1", project.name), "/bin/busybox", "sh", "-c", "echo 7 > /data/orders"];
    project.bed.docker(&write);
    let target = shop.target().await;
    target.recorder().unwrap().record("1.0").await.unwrap();
    let before = project.containers("shop");
    shop.deploy("v2");
    remove();
    // Not of a release that is pinned, as one that was pulled is, and whose settings nobody recorded.
    let pin = format!("rollback/{}.shop:1-{}-x", project.name, &shop.bad["sha256:".len()..][..12]);
    project.bed.docker(&["tag", &shop.bad, &pin]);
    let other = shop.rollback(target.clone()).await.blaming(shop.good.as_str()).to(Choose::exactly(shop.bad.as_str()));
    let report = other.run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("was not recorded"), "{report}");
    // Nor where what they need is gone.
    let back = format!("{}_back", project.name);
    project.bed.docker(&["network", "rm", &back]);
    let report = shop.rollback(target.clone()).await.blaming(shop.bad.as_str()).run().await.unwrap();
    assert!(report.to_string().contains(&format!("the network {back}")), "{report}");
    assert!(!report.outcome().is_good() && project.containers("shop").is_empty(), "{report}");
    shop.file("v1");
    project.compose(&["up", "--no-start"]);
    remove();

    let report = shop.rollback(target.clone()).await.blaming(shop.bad.as_str()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(report.to_string().contains("is made again"), "{report}");
    assert!(!format!("{report} {report:?}").contains(SECRETS[0]), "{report}");
    let after = project.containers("shop");
    let name = |all: &[serde_json::Value], n: usize| all[n]["Name"].as_str().unwrap().to_owned();
    let mut names = [name(&after, 0), name(&after, 1)];
    names.sort();
    assert_eq!((after.len(), names), (2, [1, 2].map(|n| format!("/{}-shop-{n}", project.name))));
    for now in &after {
        let then = before.iter().find(|then| then["Name"] == now["Name"]).unwrap();
        for path in [
            "/Image",
            "/Config/Env",
            "/Config/StopTimeout",
            "/HostConfig/RestartPolicy",
            "/HostConfig/Binds",
            "/HostConfig/Mounts",
        ] {
            assert_eq!(now.pointer(path), then.pointer(path), "{path}");
        }
        assert_eq!(now["Config"]["Labels"]["team"], "till");
        let networks = now["NetworkSettings"]["Networks"].as_object().unwrap();
        assert_eq!(networks.len(), 2, "{networks:?}");
        assert!(
            networks[&format!("{}_front", project.name)]["Aliases"].to_string().contains("\"till\""),
            "{networks:?}"
        );
        wait_until("it answers", || project.get(now, "/version").as_deref() == Ok("v1"));
        let read = ["exec", now["Id"].as_str().unwrap(), "/bin/busybox", "cat", "/data/orders"];
        assert_eq!(project.bed.docker(&read), "7");
    }
    // Compose has them for its own.
    let ids = |all: &[serde_json::Value]| all.iter().map(|c| c["Id"].clone()).collect::<Vec<_>>();
    project.compose(&["up", "-d"]);
    assert_eq!(ids(&project.containers("shop")), ids(&after));
}

/// Given up when the first of two is being made: the other one is made as well when it is taken up again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_run_that_ends_while_it_makes_them_again_goes_on_with_all_of_them() {
    let shop =
        Shop::new("gone-midway", &format!("{CHECK}\nENV WARM_UP=1s"), "    scale: 2\n    stop_grace_period: 1s\n");
    let project = &shop.project;
    shop.deploy("v1");
    let target = shop.target().await;
    target.recorder().unwrap().record("1.0").await.unwrap();
    shop.deploy("v2");
    for n in 1..=2 {
        project.bed.docker(&["rm", "-f", &format!("{}-shop-{n}", project.name)]);
    }
    let rollback = async || shop.rollback(target.clone()).await.blaming(shop.bad.as_str());
    let running = rollback().await;
    let run = tokio::spawn(async move { running.run().await.map(|report| report.to_string()) });
    let candidate = format!("{}-shop-1-rollback", project.name);
    wait_until("the first is being made", || project.bed.try_docker(&["inspect", &candidate]).is_ok());
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    let report = rollback().await.resume().await.unwrap().unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.both_are_back();
}

/// Killed between the first and the second that it makes: all that is left of it is one that never ran. A new rollback, which
/// knows nothing of the first, ends with both.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_new_rollback_after_one_that_was_killed_while_it_made_them_again_makes_all_of_them() {
    let more =
        "    scale: 2\n    stop_grace_period: 1s\n    networks: [front, back]\nnetworks: {front: {}, back: {}}\n";
    let shop = Shop::new("gone-anew", "", more);
    let project = &shop.project;
    shop.deploy("v1");
    shop.target().await.recorder().unwrap().record("1.0").await.unwrap();
    shop.deploy("v2");
    for n in 1..=2 {
        project.bed.docker(&["rm", "-f", &format!("{}-shop-{n}", project.name)]);
    }
    let proxy = Proxy::passing(project, 1, "/containers/create");
    let engine = Engine::connect(ConnectOptions::new().with_host(&proxy.host)).await.unwrap();
    let target = ComposeService::new(engine, &project.name, "shop");
    let running = shop.rollback(target).await.blaming(shop.bad.as_str());
    let run = tokio::spawn(async move { running.run().await.map(|report| report.to_string()) });
    let created = || proxy.asked().iter().filter(|line| line.ends_with("/containers/create")).count();
    wait_until("the second is asked for", || created() > 1);
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    let left = project.all_containers();
    assert_eq!((left.len(), &left[0]["State"]["Status"]), (1, &"created".into()), "{left:?}");
    forget(&shop.journal());

    let report = shop.rollback(shop.target().await).await.blaming(shop.bad.as_str()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.both_are_back();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_plain_container_that_is_gone_is_made_again() {
    let project = Bed::here().project("gone-till");
    let good = project.image("v1", "");
    let login = format!("DB_LOGIN={}", SECRETS[0]);
    let bed = &project.bed;
    bed.docker(&["run", "-d", "--name", &project.name, "-e", &login, "--memory", "64m", &project.tag("v1")]);
    let target = Container::new(bed.engine().await, &project.name);
    let target = target.with_stable_for(std::time::Duration::from_millis(300));
    target.recorder().unwrap().record("1.0").await.unwrap();
    // The next release was deployed, and is gone.
    let bad = project.image("v2", "");
    bed.docker(&["rm", "-f", "-v", &project.name]);
    let report = Rollback::of(target).because("a test").blaming(bad).to(Choose::exactly(good)).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let seen = &project.all_containers()[0];
    assert_eq!(seen["HostConfig"]["Memory"], 64 << 20);
    assert!(seen["Config"]["Env"].to_string().contains(&login), "{}", seen["Config"]["Env"]);
    assert!(seen["NetworkSettings"]["Networks"]["bridge"].is_object());
    wait_until("it answers", || project.get(seen, "/version").as_deref() == Ok("v1"));
}
