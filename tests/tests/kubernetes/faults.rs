//! What an API server and a network do to a rollback in the middle of it: named ends, nothing lost, nothing applied twice.
//!
//! Those under `alone` restart or compact parts of the bed, and so need one of their own.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace as NamespaceObject},
};
use kube::{Api, Client, api::DeleteParams, config::AuthInfo};
use rollback_core::{journal::Journal, prelude::*, *};
use rollback_k8s::{Cluster, ClusterJournal, ClusterOptions};
use rollback_tests::bed::{
    faults::{Fault, FaultyApi, Seen},
    kubernetes::{Bed, Mark, Namespace, deployment, run, server_pod_spec},
};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

const WITHIN: Duration = Duration::from_secs(120);
const WEB: &str = "web";

async fn cluster(client: Client) -> Cluster {
    Cluster::from_client(client, ClusterOptions::default().named("bed")).await.unwrap()
}

/// A Deployment that went from v1 to v2, and what v2 is called.
async fn with_bad_release(namespace: &Namespace) -> ReleaseId {
    for image in ["bed/server:v1", "bed/server:v2"] {
        namespace.apply(deployment(WEB, 1, server_pod_spec(image))).await;
        namespace.settled(WEB, WITHIN).await;
    }
    let target = cluster(namespace.bed().client()).await.deployment(namespace.name(), WEB);
    target.observe(Look::full()).await.unwrap().parts.values().next().unwrap().wanted.clone().unwrap()
}

fn policy() -> Policy {
    Policy::default()
        .with_poll(Duration::from_millis(200))
        .with_reply_within(Duration::from_secs(20))
        .with_deadline(Duration::from_secs(90))
        .with_lease(Duration::from_secs(30))
}

/// With target and journal by way of this client.
async fn rollback(client: Client, namespace: &str, journal: &str, blamed: &ReleaseId) -> Rollback {
    let cluster = cluster(client).await;
    Rollback::of(cluster.deployment(namespace, WEB))
        .because("v2 serves errors")
        .blaming(blamed.clone())
        .to(Choose::verified().or_previous())
        .recovered_when(Runs::wanted())
        .policy(policy())
        .journal(ClusterJournal::open(&cluster, journal))
}

fn is_write_of(path: &str) -> impl Fn(&Seen) -> bool + Send + Sync + 'static {
    let path = path.to_owned();
    move |seen: &Seen| seen.method == "PATCH" && seen.path.contains(&path) && !seen.query.contains("dryRun")
}

/// Writes to the Deployment that the API server did, whoever sent them but for the test's own.
fn writes(bed: &Bed, since: Mark, called: &str, namespace: &str) -> usize {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{WEB}");
    let is_write = |asked: &&rollback_tests::bed::kubernetes::Asked| {
        asked.verb == "patch"
            && asked.uri.split('?').next() == Some(&path)
            && !asked.uri.contains("dryRun")
            && asked.response_status.as_ref().is_some_and(|status| status.code == 200)
    };
    bed.requests(since, called).iter().filter(is_write).count()
}

async fn image(namespace: &Namespace) -> String {
    let object: Deployment = namespace.api().get(WEB).await.unwrap();
    object.spec.unwrap().template.spec.unwrap().containers.remove(0).image.unwrap()
}

/// One run, which recovered, with all its lines.
async fn assert_recovered_once(namespace: &Namespace, since: Mark, called: &str, report: &Report, what: &str) {
    assert_eq!(report.outcome(), &Outcome::Recovered, "{what}\n{report}");
    assert_eq!(image(namespace).await, "bed/server:v1", "{what}\n{report}");
    let bed = namespace.bed();
    assert_eq!(writes(bed, since, called, namespace.name()), 1, "{what}\n{report}");
    let journal = ClusterJournal::open(&cluster(bed.client()).await, namespace.name());
    let runs = journal.runs(&RunQuery::all()).await.unwrap();
    let ends: Vec<_> = runs.iter().map(|run| run.outcome.clone()).collect();
    assert_eq!(ends, [Some(Outcome::Recovered)], "{what}\n{report}");
    let (_, lines) = journal.read(&runs[0].run).await.unwrap();
    assert!(lines.iter().zip(0..).all(|(line, seq)| line.seq == seq), "{what}: {lines:#?}");
    let doing = lines.iter().filter(|line| matches!(line.entry, Entry::Did { .. } | Entry::AlreadySo { .. })).count();
    assert_eq!(doing, 1, "{what}: {lines:#?}");
}

async fn proxy(bed: &Bed) -> FaultyApi {
    FaultyApi::before(&bed.config()).await
}
fn through(proxy: &FaultyApi, called: &str) -> Client {
    let mut config = proxy.config();
    config.headers.push((hyper::header::USER_AGENT, called.parse().unwrap()));
    Client::try_from(config).unwrap()
}

async fn one_fault(what: &'static str, of: &'static str, times: u32, fault: Fault) {
    let bed = Bed::here().await;
    let namespace = bed.namespace("fault").await;
    let blamed = with_bad_release(&namespace).await;
    let called = format!("fault-{}/1", namespace.name());
    let proxy = proxy(&bed).await;
    let since = bed.mark();
    let rollback = rollback(through(&proxy, &called), namespace.name(), namespace.name(), &blamed).await;
    let path = format!("/namespaces/{}/{of}", namespace.name());
    proxy.inject(times, fault, is_write_of(&path));
    let began = Instant::now();
    let report = rollback.run().await.unwrap();
    println!("measured: {what}: {:.1?}, {} requests", began.elapsed(), proxy.seen().len());
    assert_eq!(proxy.faults_left(), 0, "{what}: it was never injected");
    assert_recovered_once(&namespace, since, &called, &report, what).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_answer_to_the_write_is_lost() {
    one_fault("answer lost", "deployments/web", 1, Fault::LoseAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_connection_ends_before_the_write() {
    one_fault("connection closed", "deployments/web", 1, Fault::Refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_write_is_told_to_wait() {
    one_fault("429 twice", "deployments/web", 2, Fault::Answer(429)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_write_is_in_conflict() {
    one_fault("409", "deployments/web", 1, Fault::Answer(409)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_write_fails_in_the_server() {
    one_fault("500", "deployments/web", 1, Fault::Answer(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn answers_to_appends_are_lost() {
    one_fault("appends: answers lost", "configmaps/", 4, Fault::LoseAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn appends_are_told_to_wait() {
    one_fault("appends: 429", "configmaps/", 3, Fault::Answer(429)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn appends_are_in_conflict_with_nobody() {
    one_fault("appends: 409", "configmaps/", 3, Fault::Answer(409)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_answer_to_taking_the_lock_is_lost() {
    // Not its first: a Lease is made by POST.
    let bed = Bed::here().await;
    let namespace = bed.namespace("fault-lock").await;
    let blamed = with_bad_release(&namespace).await;
    let called = format!("fault-{}/1", namespace.name());
    let proxy = proxy(&bed).await;
    let since = bed.mark();
    let rollback = rollback(through(&proxy, &called), namespace.name(), namespace.name(), &blamed).await;
    proxy.inject(1, Fault::LoseAnswer, |seen| seen.method == "POST" && seen.path.ends_with("/leases"));
    proxy.inject(1, Fault::LoseAnswer, |seen| seen.method == "POST" && seen.path.ends_with("/configmaps"));
    let report = rollback.run().await.unwrap();
    assert_eq!(proxy.faults_left(), 0);
    assert_recovered_once(&namespace, since, &called, &report, "lock").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_token_expires_in_the_middle_and_is_renewed() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("token").await;
    let blamed = with_bad_release(&namespace).await;
    let name = namespace.name();
    for rights in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "controller"}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "controller"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "controller", "namespace": name}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "leases"}, "rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "list", "create", "patch"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "leases"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leases"},
            "subjects": [{"kind": "ServiceAccount", "name": "controller", "namespace": name}]}),
    ] {
        namespace.apply(rights).await;
    }
    let role = format!("identity-of-{name}");
    bed.apply(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": role},
        "rules": [{"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]}]}))
        .await;
    bed.apply(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "controller", "namespace": name}]}))
        .await;

    // A projected token is a file, which is written anew before it expires; here, a little after.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let write =
        |lives: &str| std::fs::write(&file, run(&["token", bed.name(), name, "controller", lives]).trim()).unwrap();
    write("6");
    let called = format!("token-{name}/1");
    let mut config = bed.config();
    config.auth_info = AuthInfo { token_file: Some(file.to_string_lossy().into_owned()), ..AuthInfo::default() };
    config.headers = vec![(hyper::header::USER_AGENT, called.parse().unwrap())];
    let client = Client::try_from(config).unwrap();
    let since = bed.mark();
    let rollback = rollback(client, name, name, &blamed)
        .await
        .recovered_when(Runs::wanted().and(rollback_core::verify::StaysHealthy::for_at_least(Duration::from_secs(10))));
    let rollback = rollback.healthy_when(Always);
    let began = Instant::now();
    let renewed = async {
        tokio::time::sleep(Duration::from_secs(12)).await;
        write("3600");
    };
    let (report, ()) = tokio::join!(rollback.run(), renewed);
    let report = report.unwrap();
    namespace.kubectl(&["delete", "clusterrolebinding,clusterrole", &role]).await;
    let refused = bed
        .requests(since, &called)
        .iter()
        .filter(|asked| asked.response_status.as_ref().is_some_and(|status| status.code == 401))
        .count();
    println!("measured: token expired after 6 s, renewed after 12 s: {:.1?}, {refused} refused", began.elapsed());
    assert_recovered_once(&namespace, since, &called, &report, "token").await;
}

/// Healthy.
#[derive(Debug)]
struct Always;
#[async_trait::async_trait]
impl HealthCheck for Always {
    fn name(&self) -> String {
        "always".into()
    }
    async fn check(&self, _: &Context) -> Result<Health> {
        Ok(Health::healthy("always", "yes"))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_namespace_is_deleted_in_the_middle() {
    let bed = Bed::here().await;
    let (namespace, elsewhere) = (bed.namespace("deleted").await, bed.namespace("deleted-journal").await);
    let blamed = with_bad_release(&namespace).await;
    let called = format!("deleted-{}/1", namespace.name());
    let proxy = proxy(&bed).await;
    let rollback = rollback(through(&proxy, &called), namespace.name(), elsewhere.name(), &blamed)
        .await
        .policy(policy().with_deadline(Duration::from_secs(40)));
    // Whatever is written, is written late: the namespace goes before.
    proxy.inject(1, Fault::Late(Duration::from_secs(3)), is_write_of("/deployments/web"));
    let namespaces: Api<NamespaceObject> = Api::all(bed.client());
    let deleted = async {
        while !proxy.seen().iter().any(is_write_of("/deployments/web")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        namespaces.delete(namespace.name(), &DeleteParams::default()).await.unwrap();
    };
    let (report, _) = tokio::join!(rollback.run(), deleted);
    let report = report.unwrap();
    println!("measured: namespace deleted: {:?}", report.outcome());
    assert!(matches!(report.outcome(), Outcome::Stuck { .. } | Outcome::NotRecovered { .. }), "{report}");
    let journal = ClusterJournal::open(&cluster(bed.client()).await, elsewhere.name());
    let runs = journal.runs(&RunQuery::all()).await.unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].outcome.as_ref(), Some(report.outcome()), "the journal knows how it ended");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_journals_namespace_is_deleted_in_the_middle() {
    let bed = Bed::here().await;
    let (namespace, elsewhere) = (bed.namespace("kept").await, bed.namespace("kept-journal").await);
    let blamed = with_bad_release(&namespace).await;
    let called = format!("kept-{}/1", namespace.name());
    let proxy = proxy(&bed).await;
    let since = bed.mark();
    let rollback = rollback(through(&proxy, &called), namespace.name(), elsewhere.name(), &blamed).await;
    proxy.inject(1, Fault::Late(Duration::from_secs(2)), is_write_of("/deployments/web"));
    let maps: Api<ConfigMap> = elsewhere.api();
    let deleted = async {
        while !proxy.seen().iter().any(is_write_of("/deployments/web")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        maps.delete_collection(&DeleteParams::default(), &Default::default()).await.unwrap();
    };
    let (report, _) = tokio::join!(rollback.run(), deleted);
    let report = report.unwrap();
    println!("measured: journal deleted: {:?}", report.outcome());
    assert!(matches!(report.outcome(), Outcome::Stuck { .. }), "{report}");
    assert!(report.to_string().contains("missing"), "{report}");
    assert_eq!(writes(&bed, since, &called, namespace.name()), 1, "{report}");
}

/// The bed, for a test that restarts parts of it: for one at a time, and with its parts as if they had just begun.
pub(crate) async fn bed_alone() -> (Bed, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::const_new(());
    let alone = ALONE.lock().await;
    let bed = Bed::here().await;
    assert_ne!(bed.name(), "dev", "this test restarts the API server: use a bed of its own");
    let clients = bed.clone();
    tokio::task::spawn_blocking(move || clients.restart_clients()).await.unwrap();
    (bed, alone)
}

mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Kubernetes bed of its own"]
    async fn the_api_server_restarts_in_the_middle() {
        let (bed, _alone) = bed_alone().await;
        let namespace = bed.namespace("restarted").await;
        let blamed = with_bad_release(&namespace).await;
        let called = format!("restarted-{}/1", namespace.name());
        let since = bed.mark();
        let rollback = rollback(bed.client_called(&called), namespace.name(), namespace.name(), &blamed).await;
        let restarts = async {
            while writes(&bed, since, &called, namespace.name()) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let bed = bed.clone();
            tokio::task::spawn_blocking(move || bed.component("restart", "apiserver")).await.unwrap();
        };
        let began = Instant::now();
        let (report, ()) = tokio::join!(rollback.run(), restarts);
        println!("measured: API server restarted after the write: {:.1?}", began.elapsed());
        assert_recovered_once(&namespace, since, &called, &report.unwrap(), "restarted").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Kubernetes bed of its own"]
    async fn the_api_server_is_away_before_the_write() {
        let (bed, _alone) = bed_alone().await;
        let namespace = bed.namespace("away").await;
        let blamed = with_bad_release(&namespace).await;
        let called = format!("away-{}/1", namespace.name());
        let since = bed.mark();
        let rollback = rollback(bed.client_called(&called), namespace.name(), namespace.name(), &blamed).await;
        let away = async {
            // It has begun: the lock is there.
            let journal = ClusterJournal::open(&cluster(bed.client()).await, namespace.name());
            while journal.runs(&RunQuery::all()).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let bed = bed.clone();
            tokio::task::spawn_blocking(move || {
                bed.component("kill", "apiserver");
                std::thread::sleep(Duration::from_secs(3)); // how long it is away
                bed.component("start", "apiserver");
            })
            .await
            .unwrap();
        };
        let (report, ()) = tokio::join!(rollback.run(), away);
        assert_recovered_once(&namespace, since, &called, &report.unwrap(), "away").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Kubernetes bed of its own"]
    async fn everything_before_is_compacted() {
        let (bed, _alone) = bed_alone().await;
        let namespace = bed.namespace("compacted").await;
        let blamed = with_bad_release(&namespace).await;
        let called = format!("compacted-{}/1", namespace.name());
        let since = bed.mark();
        let rollback = rollback(bed.client_called(&called), namespace.name(), namespace.name(), &blamed).await;
        let compacts = async {
            while writes(&bed, since, &called, namespace.name()) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let name = bed.name().to_owned();
            tokio::task::spawn_blocking(move || run(&["compact", &name])).await.unwrap();
        };
        let (report, _) = tokio::join!(rollback.run(), compacts);
        assert_recovered_once(&namespace, since, &called, &report.unwrap(), "compacted").await;
    }
}
