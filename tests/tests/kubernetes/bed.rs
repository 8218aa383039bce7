//! The bed itself: what the other tests stand on.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, ListParams, LogParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use rollback_tests::bed::{
    faults::{Fault, FaultyApi},
    kubernetes::{Bed, deployment, kwok_pod_spec, object, run, server_pod_spec},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(60);

async fn pods(api: &Api<Pod>, app: &str) -> Vec<Pod> {
    api.list(&ListParams::default().labels(&format!("app={app}"))).await.unwrap().items
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_deployment_serves_a_steady_load_through_its_service() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("serves").await;
    namespace.serve("web", "bed/server:v1", 3).await;

    let fresh = namespace.load("web").await.rate(200).start();
    let kept = namespace.load("web").await.rate(100).kept_alive(10).start();
    tokio::time::sleep(Duration::from_secs(5)).await; // the load itself: five seconds of it
    let (fresh, kept) = (fresh.stop().await, kept.stop().await);

    for (answers, most) in [(&fresh, 1000), (&kept, 500)] {
        let summary = answers.summary();
        assert_eq!(summary.failed, 0, "{summary:?}");
        assert_eq!(answers.of("v1"), summary.requests);
        assert!(summary.requests.abs_diff(most) <= most / 10, "{summary:?}");
    }
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_new_release_takes_over_under_load_and_the_load_sees_when() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("takes-over").await;
    namespace.serve("web", "bed/server:v1", 2).await;
    let load = namespace.load("web").await.rate(100).start();

    let switched = Instant::now();
    namespace.apply(deployment("web", 2, server_pod_spec("bed/server:v2"))).await;
    namespace.settled("web", SOON).await;
    let settled = Instant::now();
    while load.so_far().sent_since(settled).of("v2") == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(settled.elapsed() < SOON, "v2 never answers");
    }
    let answers = load.stop().await;

    assert!(answers.last_of("v1").unwrap() > switched, "v1 served on while v2 started");
    // No pod of v1 is left, so it cannot answer what was sent after.
    assert_eq!(answers.sent_since(settled).of("v1"), 0);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn exec_logs_and_port_forward_work() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("exec").await;
    namespace.serve("web", "bed/server:v3", 1).await;
    let api = namespace.api::<Pod>();
    let pod = pods(&api, "web").await.remove(0).name_any();

    let mut ran = api.exec(&pod, ["/bin/cat", "/proc/1/cmdline"], &AttachParams::default()).await.unwrap();
    let mut said = String::new();
    ran.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("/server"), "{said}");

    let log = api.logs(&pod, &LogParams::default()).await.unwrap();
    assert!(log.contains("version v3 serves"), "{log}");

    let mut forward = api.portforward(&pod, &[8080]).await.unwrap();
    let mut stream = forward.take_stream(8080).unwrap();
    stream.write_all(b"GET /version HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(&format!("\"pod\":\"{pod}\",\"version\":\"v3\"")), "{answer}");
}

/// Waits for the reason that a container of the Deployment's pods waits for.
async fn waits_for(namespace: &rollback_tests::bed::kubernetes::Namespace, app: &str, reasons: &[&str]) {
    let began = Instant::now();
    let mut seen = BTreeSet::new();
    loop {
        for pod in pods(&namespace.api(), app).await {
            for container in pod.status.into_iter().flat_map(|status| status.container_statuses.unwrap_or_default()) {
                seen.extend(container.state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason));
            }
        }
        if reasons.iter().any(|reason| seen.contains(*reason)) {
            return;
        }
        assert!(began.elapsed() < SOON, "{reasons:?} wanted, seen: {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn bad_releases_fail_as_on_any_cluster() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("bad").await;
    namespace.apply(deployment("unknown", 1, server_pod_spec("bed/server:never-built"))).await;
    namespace.apply(deployment("crashing", 1, server_pod_spec("bed/server:crashing"))).await;
    let mut unconfigured = server_pod_spec("bed/server:v1");
    unconfigured["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "nowhere"}}]);
    namespace.apply(deployment("unconfigured", 1, unconfigured)).await;

    waits_for(&namespace, "unknown", &["ErrImagePull", "ImagePullBackOff"]).await;
    waits_for(&namespace, "crashing", &["CrashLoopBackOff"]).await;
    waits_for(&namespace, "unconfigured", &["CreateContainerConfigError"]).await;
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn pretend_nodes_take_pretend_pods() {
    let bed = Bed::here().await;
    bed.kwok_nodes(2).await;
    let namespace = bed.namespace("kwok").await;
    namespace.apply(deployment("many", 50, kwok_pod_spec("bed/server:v1"))).await;
    namespace.settled("many", SOON).await;
    let nodes: BTreeSet<_> =
        pods(&namespace.api(), "many").await.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
    assert_eq!(nodes, BTreeSet::from(["kwok-0".to_owned(), "kwok-1".to_owned()]));
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn requests_are_counted_by_who_sends_them() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("counted").await;
    let mark = bed.mark();
    let client = bed.client_called("counted/1");
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace.name());
    let map = object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}));
    maps.create(&PostParams::default(), &map).await.unwrap();
    maps.get("one").await.unwrap();
    assert!(maps.get_opt("two").await.unwrap().is_none());
    namespace.api::<ConfigMap>().get("one").await.unwrap(); // somebody else's

    let asked = bed.requests(mark, "counted/1");
    let codes: Vec<_> =
        asked.iter().map(|one| (one.verb.as_str(), one.response_status.as_ref().unwrap().code)).collect();
    assert_eq!(codes, [("create", 201), ("get", 200), ("get", 404)]);
    assert_eq!(bed.requests(bed.mark(), "counted/1").len(), 0);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn the_proxy_refuses_loses_and_cuts_by_script() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("faults").await;
    let proxy = FaultyApi::before(&bed.config()).await;
    let maps: Api<ConfigMap> = Api::namespaced(proxy.client(), namespace.name());
    let map = |name: &str| object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}));

    proxy.inject(1, Fault::Answer(429), |seen| seen.method == "POST");
    let error = maps.create(&PostParams::default(), &map("one")).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 429), "{error:?}");
    assert!(namespace.api::<ConfigMap>().get_opt("one").await.unwrap().is_none(), "the API server never heard of it");
    assert_eq!(proxy.faults_left(), 0);

    proxy.inject(1, Fault::LoseAnswer, |seen| seen.method == "POST");
    let error = maps.create(&PostParams::default(), &map("two")).await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error:?}");
    assert!(namespace.api::<ConfigMap>().get_opt("two").await.unwrap().is_some(), "it was done all the same");

    proxy.inject(1, Fault::Refuse, |seen| seen.method == "POST");
    assert!(!matches!(maps.create(&PostParams::default(), &map("three")).await.unwrap_err(), kube::Error::Api(_)));
    assert!(namespace.api::<ConfigMap>().get_opt("three").await.unwrap().is_none());

    // A watch that is cut goes on where it was.
    proxy.inject(1, Fault::CutAfter(Duration::from_millis(300)), |seen| seen.query.contains("watch=true"));
    let mut events = Box::pin(watcher(maps.clone(), watcher::Config::default()).default_backoff().touched_objects());
    assert!(events.next().await.is_some());
    let began = Instant::now();
    while proxy.seen().iter().filter(|seen| seen.query.contains("watch=true")).count() < 2 {
        assert!(began.elapsed() < SOON, "no second watch");
        let _ = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
    }
    maps.create(&PostParams::default(), &map("four")).await.unwrap();
    let found = async {
        while let Some(event) = events.next().await {
            if event.is_ok_and(|map| map.name_any() == "four") {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_token_of_ones_own_has_few_rights_and_expires() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("token").await;
    let config = bed.config_as(namespace.name(), "default", Duration::from_secs(2), "token/1");
    let client = Client::try_from(config).unwrap();
    let began = Instant::now();
    let mut codes = BTreeSet::new();
    while !codes.contains(&401) {
        match Api::<Pod>::namespaced(client.clone(), namespace.name()).list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) => codes.insert(status.code),
            other => panic!("{other:?}"),
        };
        assert!(began.elapsed() < SOON, "it does not expire: {codes:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(codes, BTreeSet::from([401, 403]), "forbidden first, then unknown");
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn prometheus_sees_the_pods() {
    let bed = Bed::here().await;
    bed.with("prometheus").await;
    let namespace = bed.namespace("metrics").await;
    namespace.serve("web", "bed/server:failing", 1).await;
    let load = namespace.load("web").await.rate(100).start();
    let query = format!(
        "sum(rate(http_requests_total{{namespace=\"{0}\",code=\"500\"}}[5s])) / sum(rate(http_requests_total{{namespace=\"{0}\"}}[5s]))",
        namespace.name()
    );
    let began = Instant::now();
    loop {
        let answer: Value = reqwest::Client::new()
            .get("http://127.0.0.1:9090/api/v1/query")
            .query(&[("query", &query)])
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let value = answer.pointer("/data/result/0/value/1").and_then(|value| value.as_str()?.parse::<f64>().ok());
        if value.is_some_and(|value| (0.15..0.25).contains(&value)) {
            break;
        }
        assert!(began.elapsed() < SOON, "a fifth fails, but Prometheus says {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    load.stop().await;
}

// Beds of their own ----------------------------------------------------------------------------------------------------

/// A bed beside the one that the test runs in.
struct Another(String);

impl Another {
    fn up(about: &str) -> Self {
        let another = Self(format!("{about}-{}", std::process::id()));
        let began = Instant::now();
        run(&["up", &another.0]);
        println!("measured: a bed up in {:.1} s", began.elapsed().as_secs_f64());
        another
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        run(&[&["x", &self.0, "kubectl"], arguments].concat())
    }

    /// The file that `up` keeps: its first process, its network.
    fn file(&self, name: &str) -> PathBuf {
        let home =
            std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{}/.cache", std::env::var("HOME").unwrap()));
        Path::new(&home).join("rollback-beds/beds").join(&self.0).join(name)
    }

    fn first_process(&self) -> i32 {
        std::fs::read_to_string(self.file("first.pid")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        run(&["down", &self.0]);
    }
}

/// The identities of a process's namespaces.
fn namespaces(process: i32) -> Vec<PathBuf> {
    ["net", "mnt", "pid"].iter().map(|kind| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap()).collect()
}

/// How many processes live in any of them.
fn living_in(namespaces: &[PathBuf]) -> usize {
    let links = |process: &Path| {
        std::fs::read_dir(process.join("ns"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|link| link.path().read_link().ok())
            .collect::<Vec<_>>()
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|process| links(&process.path()).iter().any(|link| namespaces.contains(link)))
        .count()
}

#[test]
#[ignore = "needs the Kubernetes bed"]
fn a_bed_that_is_killed_leaves_nothing_and_another_goes_on() {
    let (one, two) = (Another::up("one"), Another::up("two"));
    // Both have pods, and the same addresses.
    for bed in [&one, &two] {
        bed.kubectl(&["create", "deployment", "web", "--image", "bed/server:v1"]);
        bed.kubectl(&["rollout", "status", "deployment/web", "--timeout", "60s"]);
    }
    let process = one.first_process();
    let inside = namespaces(process);
    assert!(living_in(&inside) > 8);
    let left =
        std::process::Command::new(rollback_tests::bed::kubernetes::script()).args(["left", &one.0]).output().unwrap();
    assert!(!left.status.success(), "what is up is found");

    std::process::Command::new("kill").args(["-9", &process.to_string()]).status().unwrap();
    let began = Instant::now();
    loop {
        let left = std::process::Command::new(rollback_tests::bed::kubernetes::script())
            .args(["left", &one.0])
            .output()
            .unwrap();
        if left.status.success() && living_in(&inside) == 0 {
            break;
        }
        let still = living_in(&inside);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{still} processes live, left: {}",
            String::from_utf8_lossy(&left.stderr)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("measured: nothing left {:.1} s after a bed was killed", began.elapsed().as_secs_f64());

    // The other serves on, and takes new pods.
    two.kubectl(&["scale", "deployment/web", "--replicas", "3"]);
    two.kubectl(&["rollout", "status", "deployment/web", "--timeout", "60s"]);
    let two_name = two.0.clone();
    drop(two);
    run(&["left", &two_name]);
}

#[test]
#[ignore = "needs the Kubernetes bed"]
fn components_are_restarted_and_old_pages_compacted() {
    let bed = Another::up("faults");
    bed.kubectl(&["create", "deployment", "web", "--image", "bed/server:v1"]);
    bed.kubectl(&["rollout", "status", "deployment/web", "--timeout", "60s"]);
    let list: Value = serde_json::from_str(&bed.kubectl(&["get", "--raw", "/api/v1/configmaps"])).unwrap();
    let before = list["metadata"]["resourceVersion"].as_str().unwrap();

    // Without its controllers nothing is done; with them again it is.
    run(&["kill", &bed.0, "controller-manager"]);
    bed.kubectl(&["scale", "deployment/web", "--replicas", "2"]);
    run(&["start", &bed.0, "controller-manager"]);
    bed.kubectl(&["wait", "deployment/web", "--for", "jsonpath={.status.readyReplicas}=2", "--timeout", "60s"]);
    for component in ["apiserver", "kubelet", "containerd", "etcd"] {
        run(&["restart", &bed.0, component]);
    }
    bed.kubectl(&["scale", "deployment/web", "--replicas", "3"]);
    bed.kubectl(&["wait", "deployment/web", "--for", "jsonpath={.status.readyReplicas}=3", "--timeout", "60s"]);

    // A watch from before the compaction is told that it is too late, once the API server has forgotten too.
    run(&["compact", &bed.0]);
    run(&["restart", &bed.0, "apiserver"]);
    let path = format!("/api/v1/configmaps?watch=true&timeoutSeconds=1&resourceVersion={before}");
    let said = bed.kubectl(&["get", "--raw", &path]);
    assert!(said.contains("\"code\":410"), "{said}");
}

#[test]
#[ignore = "needs the Kubernetes bed"]
fn an_image_of_ones_own_is_imported_under_any_tag() {
    let bed = Another::up("image");
    for version in ["first", "second"] {
        // A mutable tag: the same name, other bytes.
        run(&["image", &bed.0, "bed/server:latest", &format!("VERSION={version}")]);
        bed.kubectl(&["run", version, "--image", "bed/server:latest", "--image-pull-policy", "Never"]);
        bed.kubectl(&["wait", &format!("pod/{version}"), "--for", "condition=Ready", "--timeout", "60s"]);
    }
    let digest = |pod: &str| bed.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].imageID}"]);
    assert_ne!(digest("first"), digest("second"));
    assert!(bed.kubectl(&["logs", "second"]).contains("version second serves"));
}
