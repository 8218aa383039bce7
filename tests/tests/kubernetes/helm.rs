//! The real Helm: its releases go back by it, and are believed as far as the API shows them.

use crate::{
    alike::{Alike, EVIDENCE, FINDINGS, Rule, all_was_known, with_rights},
    deployment_space::{PATIENCE, Space, settled, until},
    glass::{Glass, broken},
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams};
use rollback_core::{
    journal::MemoryShelf,
    prelude::*,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
    *,
};
use rollback_k8s::{Cluster, HelmRelease};
use rollback_tests::bed::kubernetes::{deployment, server_pod_spec};
use serde_json::json;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

const NAME: &str = "web";

/// A chart of a Deployment, whose image's tag is the value `tag`, and of a ConfigMap with the value `greeting`.
fn chart(at: &Path) {
    fs::create_dir_all(at.join("templates")).unwrap();
    fs::write(at.join("Chart.yaml"), "apiVersion: v2\nname: web\nversion: 1.0.0\n").unwrap();
    fs::write(at.join("values.yaml"), "tag: v1\ngreeting: hello\npassword: none\n").unwrap();
    // JSON is YAML.
    let template = deployment(NAME, 1, server_pod_spec("bed/server:{{ .Values.tag }}"));
    fs::write(at.join("templates/web.yaml"), template.to_string()).unwrap();
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting"},
        "data": {"text": "{{ .Values.greeting }}"}});
    fs::write(at.join("templates/config.yaml"), config.to_string()).unwrap();
}

#[derive(Debug)]
struct Charted {
    space: Space,
    folder: tempfile::TempDir,
}

impl Charted {
    async fn new(what: &str) -> Self {
        let space = Space::new(what).await;
        space.own.bed().with("helm").await;
        let folder = tempfile::tempdir().unwrap();
        chart(folder.path());
        Self { space, folder }
    }
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("helm");
        command.args(["--namespace", &self.space.namespace]).args(arguments).env("HOME", self.folder.path());
        command
    }
    fn helm(&self, arguments: &[&str]) -> std::result::Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
    fn chart(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }
    fn install(&self) {
        self.helm(&["install", NAME, self.chart(), "--wait", "--timeout", "60s"]).unwrap();
    }
    /// Without waiting for its pods.
    fn upgrade(&self, tag: &str) {
        self.helm(&["upgrade", NAME, self.chart(), "--set", &format!("tag={tag}")]).unwrap();
    }
    fn target(&self) -> HelmRelease {
        self.space.cluster.helm_release(&self.space.namespace, NAME)
    }
    /// Status of each revision, the oldest first, by the labels of the Secrets.
    async fn statuses(&self) -> Vec<String> {
        let params = ListParams::default().labels("owner=helm");
        let mut secrets = self.space.api::<Secret>().list(&params).await.unwrap().items;
        let label = |secret: &Secret, key: &str| secret.metadata.labels.as_ref().unwrap()[key].clone();
        secrets.sort_by_key(|secret| label(secret, "version").parse::<u32>().unwrap());
        secrets.iter().map(|secret| label(secret, "status")).collect()
    }
    /// An upgrade to what never gets ready is killed in the middle, as by a CI that lost patience.
    async fn interrupted(&self) {
        let mut upgrade = self
            .command(&["upgrade", NAME, self.chart(), "--set", "tag=unready", "--wait", "--timeout", "300s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the upgrade has begun", || async {
            let pending = self.statuses().await.last().map(String::as_str) == Some("pending-upgrade");
            (pending && self.space.image(NAME).await == "unready").then_some(())
        })
        .await;
        upgrade.kill().unwrap();
        upgrade.wait().unwrap();
    }
}
fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}
fn work(step: &str) -> Work {
    Work::new("run".into(), 1, step, Duration::from_secs(60), Arc::new(MemoryShelf::new()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_release_goes_back_and_what_runs_says_so() {
    let web = Charted::new("helm-back").await;
    web.install();
    web.helm(&["upgrade", NAME, web.chart(), "--set", "tag=v2,greeting=bye,password=hunter2"]).unwrap();
    // With the rights that its docs name, and those of evidence. Helm has its own.
    let rights: [Rule<'_>; 5] = [
        ("", "secrets", &["list", "patch"]),
        ("apps", "deployments", &["get"]),
        ("apps", "replicasets", &["list"]),
        ("", "pods", &["list"]),
        ("", "configmaps", &["get"]),
    ];
    let rights = [&rights[..], &EVIDENCE, &FINDINGS].concat();
    let of = |cluster: &Cluster| cluster.helm_release(&web.space.namespace, NAME);
    let target = with_rights(&web.space.own, "least", &rights, of).await;
    let bad = settled(&target).await.parts.values().next().unwrap().running.clone();
    let history = target.history(10).await.unwrap();
    let (left, good) = (history[0].id.clone(), history[1].id.clone());
    let alike = Alike { target: &target, checks: target.checks(), bad: left, good };
    let bundle = alike.before().await;
    assert!(bundle.json("k8s-objects/1").iter().any(|line| line["helm_revision"] == 2), "{:?}", bundle.kinds());
    assert!(!bundle.all().contains("hunter2"));
    let report = rollback(target.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    all_was_known(&report);
    assert_eq!(web.space.image(NAME).await, "v1");
    alike.after().await;
    let greeting = web.space.api::<ConfigMap>().get("greeting").await.unwrap();
    assert_eq!(greeting.data.unwrap()["text"], "hello");
    assert_eq!(web.statuses().await, ["superseded", "superseded", "deployed"]);
    let seen = settled(&target).await;
    assert_ne!(seen.parts.values().next().unwrap().running, bad);
    let history = target.history(10).await.unwrap();
    assert_eq!(history.len(), 2, "revision 3 is the release of revision 1: {history:?}");
    // Values show nowhere.
    let shown = format!("{report} {report:?} {seen:?} {history:?} {target:?}");
    assert!(shown.contains("values") && !shown.contains("hunter2"), "{shown}");
    // The next one does not walk on, nor back to the bad one.
    let again = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(again.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{again}");
    assert_eq!(web.space.image(NAME).await, "v1");
}

/// helm#7476: one interrupted upgrade blocks every later one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_pending_release_is_passed_over_only_when_it_may_be() {
    let web = Charted::new("helm-7476").await;
    let target = web.target();
    web.install();
    web.interrupted().await;
    let blocked = web.helm(&["upgrade", NAME, web.chart(), "--set", "tag=v3"]).unwrap_err();
    assert!(blocked.contains("another operation"), "{blocked}");
    let seen = target.observe(Look::full()).await.unwrap();
    assert!(seen.in_flight.is_some(), "{seen:?}");

    let report = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("leave to pass over"), "{report}");
    assert_eq!(web.statuses().await, ["deployed", "pending-upgrade"]);

    let report = rollback(target.passing_over_pending()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(web.space.image(NAME).await, "v1");
    assert_eq!(web.statuses().await.last().map(String::as_str), Some("deployed"));
    // And upgrades go on.
    web.upgrade("v2");
    assert_eq!(web.space.image(NAME).await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_pending_release_that_is_older_than_its_time_out_is_passed_over() {
    let web = Charted::new("helm-old").await;
    web.install();
    web.interrupted().await;
    let target = web.target().with_timeout(Duration::from_secs(20));
    // Its Secret tells how long it has been.
    let (report, waited) = until("it may be passed over", || async {
        let report = rollback(target.clone()).run().await.unwrap();
        (!matches!(report.outcome(), Outcome::Refused { .. })).then_some(report)
    })
    .await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(waited > Duration::from_secs(5), "it was refused while a helm may have been at it: {waited:?}");
    assert_eq!(web.space.image(NAME).await, "v1");
}

/// Helm says deployed; what was edited by hand says otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_runs_counts_and_not_what_helm_says() {
    let web = Charted::new("helm-word").await;
    let target = web.target();
    web.install();
    let good = settled(&target).await.parts.values().next().unwrap().running.clone();
    web.space.deploy(NAME, "v3").await;
    assert_eq!(web.statuses().await, ["deployed"]);
    let (seen, _) = until("the edit is seen", || async {
        let seen = target.observe(Look::full()).await.ok()?;
        let unknown = matches!(seen.parts.values().next()?.running, Running::Unknown { .. });
        unknown.then_some(seen)
    })
    .await;
    let part = seen.parts.values().next().unwrap();
    assert!(matches!(part.settled, Settled::NotYet { .. }), "{:?}", part.settled);
    assert_ne!(part.running, good);
}

/// Helm's own configuration leads elsewhere.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_helm_of_another_cluster_is_not_started() {
    let web = Charted::new("helm-else").await;
    web.install();
    web.upgrade("v2");
    settled(&web.target()).await;
    let nowhere = web.folder.path().join("kubeconfig");
    fs::write(&nowhere, "apiVersion: v1\nkind: Config\n").unwrap();
    let none = web.target().with_program("/nowhere/helm");
    for target in [web.target().with_kubeconfig(nowhere), none] {
        let report = rollback(target).run().await.unwrap();
        assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    }
    assert_eq!(web.space.image(NAME).await, "v2");
    let gone = web.space.cluster.helm_release(&web.space.namespace, "nobody");
    assert_eq!(gone.observe(Look::full()).await.unwrap_err().kind(), Kind::NotFound);
    let change = Change::release(&"all".into(), &"helm:none".into());
    let e = web.target().prepare(&change, &work("1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None), "{e}");
}

#[derive(Debug, Default)]
struct Releases(Mutex<Option<(Arc<Charted>, ReleaseId, ReleaseId)>>);

impl Releases {
    fn now(&self) -> (Arc<Charted>, ReleaseId, ReleaseId) {
        self.0.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Bench for Releases {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let web = Arc::new(Charted::new("helm-laws").await);
        let target = web.target();
        web.install();
        settled(&target).await;
        web.upgrade("v2");
        settled(&target).await;
        let history = target.history(10).await?;
        *self.0.lock().unwrap() = Some((web, history[1].id.clone(), history[0].id.clone()));
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        Change::release(&"all".into(), &self.now().1)
    }
    fn change_after(&self) -> Option<Change> {
        Some(Change::release(&"all".into(), &self.now().2))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.now().0.upgrade("v3");
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        let params = ListParams::default().labels("owner=helm");
        let secrets = self.now().0.space.api::<Secret>();
        let gone = secrets.delete_collection(&DeleteParams::default(), &params).await;
        Some(gone.map(drop).map_err(|e| Error::new(Kind::Unexpected, "delete it").with_source(e)))
    }
    fn patience(&self) -> Duration {
        PATIENCE
    }
    fn poll(&self) -> Duration {
        Duration::from_millis(200)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_laws_hold_on_a_release() {
    let ruled = each(&Releases::default()).await;
    let broken: Vec<_> = ruled.iter().filter(|(_, ruling)| ruling.is_err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let kept = ruled.iter().filter(|(_, ruling)| matches!(ruling, Ok(Ruling::Kept))).count();
    assert!(kept > 5, "{ruled:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_takes_seconds_and_does_not_walk_on() {
    let web = Charted::new("helm-glass").await;
    web.helm(&["install", NAME, web.chart(), "--set", "tag=v4", "--wait", "--timeout", "60s"]).unwrap();
    web.helm(&["upgrade", NAME, web.chart(), "--set", "tag=v1", "--wait", "--timeout", "60s"]).unwrap();
    for (bad, glass) in [("crashing", Glass::Bare), ("no-such-tag", Glass::Journalled)] {
        web.upgrade(bad);
        until("its pod is there", || async { (web.space.image(NAME).await == bad).then_some(()) }).await;
        let _ = broken(&web.target(), glass).await;
        assert_eq!(web.space.image(NAME).await, "v1");
    }
}
