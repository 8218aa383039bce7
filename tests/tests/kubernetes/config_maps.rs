//! What pods refer to comes back with the release, on a real cluster.

use crate::{
    alike::{Rule, with_rights},
    workloads::{Place, rollback, settled, until, work, workload},
};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use rollback_core::{prelude::*, *};
use rollback_k8s::Cluster;
use serde_json::{Value, json};
use std::sync::Arc;

const NAME: &str = "cart";
const FILE: &str = "/etc/cart/config";

/// Its pods read a file at their start, refer to a variable, and to a Secret.
fn reads_config(object: &mut Value) {
    let spec = &mut object["spec"]["template"]["spec"];
    spec["volumes"] = json!([{"name": "config", "configMap": {"name": "config"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "config", "mountPath": "/etc/cart"}]);
    spec["containers"][0]["env"] = json!([{"name": "CONFIG_FILE", "value": FILE}]);
    spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "env"}}, {"secretRef": {"name": "keys"}}]);
}

fn shaped(kind: &str, image: &str) -> Value {
    workload(kind, NAME, image, |object| {
        reads_config(object);
        if kind != "DaemonSet" {
            object["spec"]["replicas"] = json!(2);
        }
    })
}
fn release(kind: &str, image: &str) -> ReleaseId {
    rollback_k8s::release_id(&shaped(kind, image)["spec"]["template"])
}
fn change(kind: &str, image: &str) -> Change {
    Change::release(&"all".into(), &release(kind, image))
}

async fn configure(place: &Place, config: &str, level: &str) {
    for (name, data) in [("config", json!({"config": config})), ("env", json!({"LEVEL": level, "DB_PASSWORD": level}))]
    {
        place
            .own
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}))
            .await;
    }
}
async fn world(what: &str, kind: &str) -> (Place, Arc<dyn Target>) {
    let place = Place::new(what).await;
    configure(&place, "good", "info").await;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"KEY": "one"}});
    place.own.apply(secret).await;
    place.own.apply(shaped(kind, "v1")).await;
    let target = target(&place, kind);
    settled(&*target).await;
    (place, target)
}
fn target(place: &Place, kind: &str) -> Arc<dyn Target> {
    let (cluster, namespace) = (&place.cluster, &place.namespace);
    match kind {
        "Deployment" => Arc::new(cluster.deployment(namespace, NAME).restoring_config_maps()),
        "StatefulSet" => Arc::new(cluster.stateful_set(namespace, NAME).restoring_config_maps()),
        _ => Arc::new(cluster.daemon_set(namespace, NAME).restoring_config_maps()),
    }
}
async fn record(target: &dyn Target, label: &str) -> Release {
    target.recorder().unwrap().record(label).await.unwrap()
}
async fn config(place: &Place, name: &str) -> ConfigMap {
    place.api::<ConfigMap>().get(name).await.unwrap()
}
async fn edit(place: &Place, name: &str, data: Value) {
    let change = Patch::Merge(json!({"data": data}));
    place.api::<ConfigMap>().patch(name, &PatchParams::default(), &change).await.unwrap();
}
/// What each pod has read at its start.
async fn read_by_pods(place: &Place) -> Vec<String> {
    let pods = place.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let mut all = vec![];
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let ask = "wget -qO- http://127.0.0.1:8080/version; env";
        all.push(place.own.kubectl(&["exec", &pod.name_any(), "--", "sh", "-c", ask]).await);
    }
    all
}
async fn archived(place: &Place, what: &str) -> Vec<ConfigMap> {
    let selected = ListParams::default().labels(&format!("rollback.dev/archive={what}"));
    place.api::<ConfigMap>().list(&selected).await.unwrap().items
}
fn versions(objects: &[ConfigMap]) -> Vec<(String, Option<String>)> {
    objects.iter().map(|object| (object.name_any(), object.resource_version())).collect()
}

/// argo-rollouts#1297: the old release comes back, and starts with the new ConfigMap.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_old_release_starts_with_its_own_config() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let (place, target) = world("config", kind).await;
        record(&*target, "1.0").await;
        configure(&place, "bad", "debug").await;
        place.own.apply(shaped(kind, "v2")).await;
        settled(&*target).await;
        assert!(read_by_pods(&place).await.iter().all(|said| said.contains("bad") && said.contains("LEVEL=debug")));
        let report = rollback(target.clone()).to(Choose::Exactly(release(kind, "v1"))).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{kind}: {report}");
        let said = read_by_pods(&place).await;
        let back = |text: &String| text.contains("good") && text.contains("LEVEL=info") && text.contains("\"v1\"");
        assert!(!said.is_empty() && said.iter().all(back), "{kind}: {said:?}");
        // What was overwritten is kept: the release that was left can be gone back to with its own.
        let report = rollback(target.clone()).to(Choose::Exactly(release(kind, "v2"))).blaming(release(kind, "v1"));
        let report = report.run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{kind}: {report}");
        assert!(read_by_pods(&place).await.iter().all(|said| said.contains("bad") && said.contains("LEVEL=debug")));
    }
}

/// A pod of the old release that was started anew before the rollback has read the new ConfigMap: it starts once more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn pods_that_run_already_start_once_more() {
    let (place, target) = world("mixed", "Deployment").await;
    record(&*target, "1.0").await;
    configure(&place, "bad", "debug").await;
    place.own.kubectl(&["delete", "pods", "--all", "--wait=false"]).await;
    settled(&*target).await;
    let bad = workload("Deployment", NAME, "crashing", |object| {
        reads_config(object);
        object["spec"]["replicas"] = json!(2);
    });
    place.own.apply(bad).await;
    place.failing_pod("crashing").await;
    let report = rollback(target).to(Choose::Exactly(release("Deployment", "v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let said = read_by_pods(&place).await;
    assert!(said.len() == 2 && said.iter().all(|text| text.contains("good")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_diff_shows_what_changes_and_no_secrets() {
    let (place, target) = world("diff", "StatefulSet").await;
    record(&*target, "1.0").await;
    configure(&place, "bad", "hunter2").await;
    place.own.apply(shaped("StatefulSet", "v2")).await;
    settled(&*target).await;
    let prepared = target.prepare(&change("StatefulSet", "v1"), &work("1")).await.unwrap();
    let line = |what: &str| prepared.approved.diff.iter().find(|line| line.what == what).cloned().unwrap();
    assert_eq!(line("ConfigMap config: config"), DiffLine::new("ConfigMap config: config", "bad", "good"));
    assert_eq!(line("ConfigMap env: DB_PASSWORD").from.as_deref(), Some("not shown, 7 bytes"));
    let plain = place.cluster.stateful_set(&place.namespace, NAME);
    let said = plain.prepare(&change("StatefulSet", "v1"), &work("1")).await.unwrap();
    let finding = said.findings.iter().find(|finding| finding.code == "config").unwrap();
    assert!(finding.severity == Severity::Warning && finding.text.contains("ConfigMap env"), "{finding:?}");
    // Without being asked, nothing is put back; and Secrets are not even copied.
    let report = rollback(plain).to(Choose::Exactly(release("StatefulSet", "v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(config(&place, "config").await.data.unwrap()["config"], "bad");
    let secrets = place.api::<Secret>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(secrets.iter().map(|secret| secret.name_any()).collect::<Vec<_>>(), ["keys"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_secret_comes_back_only_by_name() {
    let (place, target) = world("secret", "Deployment").await;
    let named = place.cluster.deployment(&place.namespace, NAME).restoring_config_maps().with_secret("keys");
    named.recorder().unwrap().record("1.0").await.unwrap();
    let rotate = |key: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"KEY": key}});
    place.own.apply(rotate("two-hunter2")).await;
    configure(&place, "bad", "debug").await;
    place.own.apply(shaped("Deployment", "v2")).await;
    settled(&*target).await;
    let key = || async { place.api::<Secret>().get("keys").await.unwrap().data.unwrap()["KEY"].0.clone() };
    let prepared = target.prepare(&change("Deployment", "v1"), &work("1")).await.unwrap();
    assert!(prepared.approved.diff.iter().all(|line| !line.what.starts_with("Secret")), "{:?}", prepared.approved.diff);
    let prepared = named.prepare(&change("Deployment", "v1"), &work("1")).await.unwrap();
    assert!(!format!("{prepared:?}").contains("hunter2"), "{prepared:?}");
    let report = rollback(named).to(Choose::Exactly(release("Deployment", "v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(key().await, b"one");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn recording_twice_writes_once_and_old_records_go() {
    let (place, _) = world("records", "Deployment").await;
    let target = place.cluster.deployment(&place.namespace, NAME).with_kept_records(2);
    record(&target, "1.0").await;
    let first = (archived(&place, "record").await, archived(&place, "copy").await);
    assert_eq!((first.0.len(), first.1.len()), (1, 2));
    assert!(first.0.iter().chain(&first.1).all(|object| object.immutable == Some(true)), "{first:?}");
    assert!(first.1.iter().all(|copy| copy.metadata.owner_references.as_ref().unwrap()[0].name == NAME), "{first:?}");
    let again = record(&target, "1.0").await;
    assert_eq!(again.id, release("Deployment", "v1"));
    let second = (archived(&place, "record").await, archived(&place, "copy").await);
    assert_eq!((versions(&first.0), versions(&first.1)), (versions(&second.0), versions(&second.1)));
    for (image, level) in [("v2", "two"), ("v3", "three")] {
        configure(&place, level, level).await;
        place.own.apply(shaped("Deployment", image)).await;
        // Half a deploy is none.
        let e = target.recorder().unwrap().record(image).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
        settled(&target).await;
        record(&target, image).await;
    }
    let kept: Vec<String> =
        archived(&place, "record").await.into_iter().map(|r| r.data.unwrap()["record"].clone()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().all(|record| !record.contains("server:v1\"")), "the oldest is gone: {kept:?}");
    let copies = archived(&place, "copy").await;
    assert_eq!(copies.len(), 4, "and what only it spoke of");
    assert!(copies.iter().flat_map(|copy| copy.data.clone().unwrap()).all(|(_, value)| value != "good"), "{copies:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_pruned_revision_is_gone_back_to() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let (place, target) = world("pruned", kind).await;
        record(&*target, "1.0").await;
        place.edit(kind, NAME, json!({"spec": {"revisionHistoryLimit": 0}})).await;
        place.own.apply(shaped(kind, "v2")).await;
        settled(&*target).await;
        until("the old revision is pruned", || async {
            let sets = place.api::<ReplicaSet>().list(&ListParams::default()).await.ok()?.items.len();
            let api = place.api::<k8s_openapi::api::apps::v1::ControllerRevision>();
            let revisions = api.list(&ListParams::default()).await.ok()?.items.len();
            (sets + revisions == 1).then_some(())
        })
        .await;
        let history = target.history(10).await.unwrap();
        let ids: Vec<&ReleaseId> = history.iter().map(|release| &release.id).collect();
        assert_eq!(ids, [&release(kind, "v2"), &release(kind, "v1")], "{kind}");
        assert_eq!(history[1].label, "1.0, recorded");
        let report = rollback(target.clone()).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{kind}: {report}");
        assert!(place.pods().await.iter().all(|(.., tag)| tag == "v1"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_somebody_changes_meanwhile_is_not_overwritten() {
    let (place, target) = world("race", "StatefulSet").await;
    record(&*target, "1.0").await;
    configure(&place, "bad", "debug").await;
    place.own.apply(shaped("StatefulSet", "v2")).await;
    settled(&*target).await;
    let approved = target.prepare(&change("StatefulSet", "v1"), &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    // A ConfigMap: neither it nor the template is touched, and what was put back before it is taken back.
    edit(&place, "env", json!({"LEVEL": "theirs"})).await;
    let e = target.apply(&approved, token, &work("1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Stale, Effect::None), "{e}");
    assert_eq!(config(&place, "env").await.data.unwrap()["LEVEL"], "theirs");
    assert_eq!(config(&place, "config").await.data.unwrap()["config"], "bad");
    assert!(place.pods().await.iter().all(|(.., tag)| tag == "v2"));
    // The template: no ConfigMap is touched.
    let approved = target.prepare(&change("StatefulSet", "v1"), &work("2")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    place.own.apply(shaped("StatefulSet", "v3")).await;
    let before = [config(&place, "env").await.resource_version(), config(&place, "config").await.resource_version()];
    let e = target.apply(&approved, token, &work("2")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
    let after = [config(&place, "env").await.resource_version(), config(&place, "config").await.resource_version()];
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_was_deleted_is_made_anew() {
    let (place, target) = world("deleted", "Deployment").await;
    record(&*target, "1.0").await;
    place.own.kubectl(&["delete", "configmap", "env"]).await;
    place.own.apply(shaped("Deployment", "v2")).await;
    let report = rollback(target.clone()).to(Choose::Exactly(release("Deployment", "v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(config(&place, "env").await.data.unwrap()["LEVEL"], "info");
}

/// Another process goes on after the first died between the ConfigMaps and the template.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn cut_off_in_the_middle_it_goes_on() {
    let (place, target) = world("cutoff", "Deployment").await;
    record(&*target, "1.0").await;
    configure(&place, "bad", "debug").await;
    place.own.apply(shaped("Deployment", "v2")).await;
    settled(&*target).await;
    let approved = target.prepare(&change("Deployment", "v1"), &work("1")).await.unwrap().approved;
    let token = target.observe(Look::full()).await.unwrap().token;
    let (first, first_approved) = (target.clone(), approved.clone());
    let call = tokio::spawn(async move { first.apply(&first_approved, token, &work("1")).await });
    until("a ConfigMap is put back", || async {
        config(&place, "config").await.annotations().contains_key("rollback.dev/key").then_some(())
    })
    .await;
    call.abort();
    let fresh = self::target(&place, "Deployment");
    let token = fresh.observe(Look::full()).await.unwrap().token;
    fresh.apply(&approved, token, &work("1")).await.unwrap();
    let seen = settled(&*fresh).await;
    assert!(seen.parts.values().all(|part| part.runs(&release("Deployment", "v1"))), "{seen:?}");
    assert!(read_by_pods(&place).await.iter().all(|text| text.contains("good") && text.contains("LEVEL=info")));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_documented_rights_are_enough() {
    for kind in ["StatefulSet", "DaemonSet"] {
        let (place, _) = world("rights", kind).await;
        let plural = format!("{}s", kind.to_lowercase());
        let rules: [Rule<'_>; 5] = [
            ("apps", &plural, &["get", "patch"]),
            ("apps", "controllerrevisions", &["list"]),
            ("", "pods", &["list", "delete"]),
            ("", "secrets", &["get"]),
            ("", "configmaps", &["get", "list", "create", "patch", "delete"]),
        ];
        let of = |cluster: &Cluster| -> Arc<dyn Target> {
            match kind {
                "StatefulSet" => Arc::new(cluster.stateful_set(&place.namespace, NAME).restoring_config_maps()),
                _ => Arc::new(cluster.daemon_set(&place.namespace, NAME).restoring_config_maps()),
            }
        };
        let target = with_rights(&place.own, "least", &rules, of).await;
        record(&*target, "1.0").await;
        configure(&place, "bad", "debug").await;
        place.own.apply(shaped(kind, "v2")).await;
        settled(&*target).await;
        let report = rollback(target).to(Choose::Exactly(release(kind, "v1"))).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        assert_eq!(config(&place, "config").await.data.unwrap()["config"], "good");
    }
}

/// Both at once: a pod of the wanted release crashes with the new ConfigMap, and its controller would wait for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_pod_of_the_wanted_release_that_read_the_wrong_config_is_freed() {
    let (place, target) = world("wrongconfig", "StatefulSet").await;
    record(&*target, "1.0").await;
    // Without the file, the server does not start.
    edit(&place, "config", json!({"config": null, "other": "x"})).await;
    place.own.kubectl(&["delete", "pod", "cart-0", "--wait=false"]).await;
    assert_eq!(place.failing_pod("v1").await, "cart-0");
    place.own.apply(shaped("StatefulSet", "v2")).await;
    let report = rollback(target).to(Choose::Exactly(release("StatefulSet", "v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let said = read_by_pods(&place).await;
    assert!(said.len() == 2 && said.iter().all(|text| text.contains("good")), "{said:?}");
}
