//! The Kubernetes bed, as tests see it: a namespace of their own on a real cluster, the peers' own tools, a load on a Service,
//! pretend nodes, and the count of what was asked of the API server.
//!
//! A test that needs it is `#[ignore = "needs the Kubernetes bed"]` and runs inside the bed's network:
//!
//! ```sh
//! tests/beds/kubernetes.sh up test
//! tests/beds/kubernetes.sh x test cargo test --offline -p rollback-tests --test kubernetes -- --ignored
//! ```

use super::load::Load;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Namespace as NamespaceObject, Node, Pod, Service},
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fmt::{self, Debug},
    io::{Read, Seek, SeekFrom, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// The label of every namespace that tests make: the id of the process that made it.
const OWNER: &str = "rollback.test/process";
/// Who creates what a test applies.
const MANAGER: &str = "rollback-tests";

/// The script that brings beds up and down.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("beds/kubernetes.sh")
}

/// Runs the script, and gives what it printed.
///
/// # Panics
///
/// Where it fails, with what it said.
pub fn run(arguments: &[&str]) -> String {
    said(arguments.first().unwrap_or(&"kubernetes.sh"), Command::new(script()).args(arguments).output())
}

fn said(what: &str, output: std::io::Result<Output>) -> String {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The bed that this process runs in.
#[derive(Clone)]
pub struct Bed {
    name: String,
    folder: PathBuf,
    config: Config,
    client: Client,
}

impl fmt::Debug for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bed").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Bed {
    /// The bed around this process. Namespaces of tests that were killed are swept.
    ///
    /// # Panics
    ///
    /// Where there is none, with the commands that help.
    pub async fn here() -> Self {
        let (Ok(name), Ok(folder)) = (std::env::var("ROLLBACK_BED_NAME"), std::env::var("ROLLBACK_BED_DIR")) else {
            let script = script();
            let script = script.display();
            panic!("this test runs inside a Kubernetes bed:\n    {script} up test\n    {script} x test cargo test …");
        };
        let folder = PathBuf::from(folder);
        let kubeconfig = Kubeconfig::read_from(folder.join("pki/admin.conf")).expect("the bed's kubeconfig");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("the bed's kubeconfig");
        config.default_retry = false;
        let client = Client::try_from(config.clone()).expect("a client");
        let bed = Self { name, folder, config, client };
        bed.sweep().await;
        bed
    }

    /// The bed's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bed's own files: certificates in `pki`, logs of the components in `log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Its configuration.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A client with all rights that calls itself so: its requests are told apart by [`requests`](Self::requests).
    pub fn client_called(&self, user_agent: &str) -> Client {
        Client::try_from(called(self.config(), user_agent)).expect("a client")
    }

    /// The configuration of a ServiceAccount, with a token that expires after that time. Its requests are counted under
    /// this user agent too.
    pub fn config_as(&self, namespace: &str, service_account: &str, lives: Duration, user_agent: &str) -> Config {
        let seconds = lives.as_secs().to_string();
        let token = run(&["token", &self.name, namespace, service_account, &seconds]);
        let mut config = called(self.config(), user_agent);
        config.auth_info =
            kube::config::AuthInfo { token: Some(token.trim().to_owned().into()), ..kube::config::AuthInfo::default() };
        config
    }

    /// Stops, starts, kills, suspends, resumes or restarts a component of the bed: a test for a bed of its own.
    pub fn component(&self, verb: &str, component: &str) {
        run(&[verb, &self.name, component]);
    }

    /// Restarts what waits for the API server. After each attempt that failed they wait longer for the next, up to a minute,
    /// and forget that only after two (client-go's reflectors): where one test after the other restarts the API server, they
    /// would end up later than any test waits.
    pub fn restart_clients(&self) {
        for component in ["controller-manager", "scheduler", "kubelet"] {
            self.component("restart", component);
        }
    }

    /// Adds a real controller or definitions: `flagger`, `argo-rollouts`, `kwok`, `prometheus`, `crds`. What is there
    /// already stays.
    pub async fn with(&self, what: &'static str) {
        let name = self.name.clone();
        tokio::task::spawn_blocking(move || run(&["with", &name, what])).await.expect("the script ran");
    }

    /// A namespace of the test's own. It is deleted when the handle is dropped, or by the next test after a crash.
    pub async fn namespace(&self, about: &str) -> Namespace {
        let suffix: String = std::iter::repeat_with(fastrand::lowercase).take(6).collect();
        let name = format!("{about}-{suffix}");
        let namespace: NamespaceObject = object(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {OWNER: std::process::id().to_string()}},
        }));
        Api::all(self.client()).create(&Default::default(), &namespace).await.expect("a new namespace");
        let namespace = Namespace { bed: self.clone(), name };
        // Pods are refused until it has its ServiceAccount.
        namespace
            .until::<k8s_openapi::api::core::v1::ServiceAccount>("default", "exists", Duration::from_secs(90), |_| true)
            .await;
        namespace
    }

    /// Applies an object that belongs to no namespace.
    pub async fn apply(&self, value: Value) -> DynamicObject {
        apply(|resource| Api::all_with(self.client(), resource), value).await
    }

    /// Pretend nodes for scale, which run nothing: pods with [`kwok_pod_spec`] land there, a thousand on each.
    pub async fn kwok_nodes(&self, count: usize) {
        self.with("kwok").await;
        let room = json!({"cpu": "1k", "memory": "1Ti", "pods": "1000"});
        for n in 0..count {
            self.apply(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {
                    "name": format!("kwok-{n}"),
                    "annotations": {"kwok.x-k8s.io/node": "fake"},
                    "labels": {"type": "kwok", "kubernetes.io/hostname": format!("kwok-{n}")},
                },
                "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
                "status": {"capacity": room, "allocatable": room},
            }))
            .await;
        }
        let nodes: Api<Node> = Api::all(self.client());
        for n in 0..count {
            let name = format!("kwok-{n}");
            await_or_panic(nodes.clone(), &name, "is Ready", Duration::from_secs(30), |node: &Node| {
                let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
                // What it is tainted with until it is ready stays for a moment longer, and keeps pods away.
                let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
                ready && taints.into_iter().all(|taint| taint.key == "kwok.x-k8s.io/node")
            })
            .await;
        }
    }

    /// Where the record of requests ends now.
    pub fn mark(&self) -> Mark {
        Mark(self.audit().metadata().map_or(0, |file| file.len()))
    }

    /// Every request since then to the API server by who calls itself so, the refused ones too; a watch is one request.
    pub fn requests(&self, since: Mark, user_agent: &str) -> Vec<Asked> {
        self.requests_where(since, |called| called == user_agent)
    }

    /// The same, by any who call themselves so.
    pub fn requests_where(&self, since: Mark, is_called: impl Fn(&str) -> bool) -> Vec<Asked> {
        let mut file = self.audit();
        file.seek(SeekFrom::Start(since.0)).expect("the audit log");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("the audit log");
        let (mut asked, mut ids) = (Vec::new(), HashSet::new());
        for line in text.lines() {
            // The last line may be half written: what it is about is not over.
            let Ok(event) = serde_json::from_str::<Asked>(line) else { continue };
            // A watch is told twice: when it begins and when it ends.
            if is_called(&event.user_agent) && ids.insert(event.audit_id.clone()) {
                asked.push(event);
            }
        }
        asked
    }

    fn audit(&self) -> std::fs::File {
        std::fs::File::open(self.folder.join("audit.log")).expect("the audit log")
    }

    async fn sweep(&self) {
        let namespaces: Api<NamespaceObject> = Api::all(self.client());
        let found = namespaces.list_metadata(&ListParams::default().labels(OWNER)).await.unwrap_or_else(|error| {
            panic!("the bed {} does not answer: {error}\n    {} down {}", self.name, script().display(), self.name)
        });
        for namespace in found {
            let owner = namespace.labels().get(OWNER).map_or("", String::as_str);
            let there = Path::new("/proc").join(owner).exists();
            if !there && namespace.metadata.deletion_timestamp.is_none() {
                // Another test may have swept it meanwhile.
                let _ = namespaces.delete(&namespace.name_any(), &DeleteParams::background()).await;
            }
        }
    }
}

fn called(mut config: Config, user_agent: &str) -> Config {
    let value = user_agent.parse().expect("a header's value");
    config.headers.push((hyper::header::USER_AGENT, value));
    config
}

/// A place in the record of requests.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

/// A request, from the API server's audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    #[serde(rename = "auditID")]
    audit_id: String,
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    #[serde(default)]
    user_agent: String,
    /// The answer's status, where there was one.
    #[serde(default)]
    pub response_status: Option<AnswerStatus>,
}

/// What the API server answered.
#[derive(Debug, Clone, Deserialize)]
pub struct AnswerStatus {
    /// The status code.
    #[serde(default)]
    pub code: u16,
}

/// What a pod's spec needs to land on a pretend node, with this image.
pub fn kwok_pod_spec(image: &str) -> Value {
    json!({
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        "containers": [{"name": "server", "image": image}],
    })
}

/// What a pod's spec needs to serve: the test server at port 8080, ready as soon as it answers, gone as soon as it is told.
pub fn server_pod_spec(image: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 10,
        "containers": [{
            "name": "server", "image": image, "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
        }],
    })
}

/// A Deployment of that many pods, selected by `app: NAME`, scraped by the bed's Prometheus.
pub fn deployment(name: &str, replicas: i32, pod_spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {"prometheus.io/scrape": "true"}},
                "spec": pod_spec,
            },
        },
    })
}

/// A Service at port 80 for the pods with these labels.
pub fn service(name: &str, selector: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// A namespace of a test's own.
#[derive(Debug)]
pub struct Namespace {
    bed: Bed,
    name: String,
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bed that it is on.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The objects of a kind in it, with all rights.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.bed.client(), &self.name)
    }

    /// Applies an object, as server-side apply does, and takes over what others own.
    pub async fn apply(&self, value: Value) -> DynamicObject {
        apply(|resource| Api::namespaced_with(self.bed.client(), &self.name, resource), value).await
    }

    /// The configuration of a service account with these rights here (group, resource, verbs; on nodes in the whole cluster),
    /// and the one that identifies the cluster. Its requests are counted under its name. The API server learns of new rules a moment later.
    pub async fn account(&self, name: &str, rules: &[(&str, &str, &[&str])]) -> Config {
        let (of_cluster, rules): (Vec<_>, Vec<_>) = rules
            .iter()
            .map(|(group, resource, verbs)| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}))
            .partition(|rule| rule["resources"] == json!(["nodes"]));
        let (version, group) = ("rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io");
        let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": self.name}]);
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})).await;
        self.apply(json!({"apiVersion": version, "kind": "Role", "metadata": {"name": name}, "rules": rules})).await;
        let role = json!({"apiGroup": group, "kind": "Role", "name": name});
        let metadata = json!({"name": name});
        let binding = json!({"apiVersion": version, "kind": "RoleBinding", "metadata": metadata, "roleRef": role,
            "subjects": subjects});
        self.apply(binding).await;
        let namespaces: Api<NamespaceObject> = Api::all(self.bed.client());
        let uid = namespaces.get(&self.name).await.expect("the namespace").metadata.uid;
        // What lies in no namespace goes with this one all the same.
        let owned = json!([{"apiVersion": "v1", "kind": "Namespace", "name": self.name, "uid": uid}]);
        let identify = format!("identify-{}-{name}", self.name);
        let metadata = json!({"name": identify, "ownerReferences": owned});
        let mut rules = of_cluster;
        rules.push(json!({"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"],
            "verbs": ["get"]}));
        let role = json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules});
        self.bed.apply(role).await;
        let role = json!({"apiGroup": group, "kind": "ClusterRole", "name": identify});
        let binding = json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": role, "subjects": subjects});
        self.bed.apply(binding).await;
        self.bed.config_as(&self.name, name, Duration::from_secs(3600), name)
    }

    /// Runs the real kubectl in this namespace, and gives what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with("", arguments).await
    }

    /// The same, with something to read: `["apply", "-f", "-"]` for YAML.
    pub async fn kubectl_with(&self, input: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.bed.folder.join("pki/admin.conf"))
            .args(["-n", &self.name])
            .args(arguments);
        let what = format!("kubectl {}", arguments.join(" "));
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let output = child.and_then(|mut child| {
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(input.as_bytes())?;
                }
                child.wait_with_output()
            });
            said(&what, output)
        })
        .await
        .expect("kubectl ran")
    }

    /// Waits until the object is as wanted, and gives it.
    ///
    /// # Panics
    ///
    /// After that time, with the object as it is then.
    pub async fn until<K>(&self, name: &str, is: &str, within: Duration, wanted: impl Fn(&K) -> bool + Send + Sync) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Send
            + Sync
            + DeserializeOwned
            + 'static,
    {
        await_or_panic(self.api::<K>(), name, is, within, wanted).await
    }

    /// Waits until a Deployment's rollout is over, as `kubectl rollout status` does, *and* no pod of an older one is left,
    /// terminating ones included.
    pub async fn settled(&self, deployment: &str, within: Duration) -> Deployment {
        let began = Instant::now();
        let settled = self
            .until::<Deployment>(deployment, "has rolled out", within, |deployment| {
                let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
                let wanted = spec.replicas.unwrap_or(1);
                status.observed_generation == deployment.metadata.generation
                    && status.updated_replicas.unwrap_or(0) == wanted
                    && status.replicas.unwrap_or(0) == wanted
                    && status.available_replicas.unwrap_or(0) == wanted
            })
            .await;
        let labels = settled.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
        let selector = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let current = settled.annotations().get("deployment.kubernetes.io/revision").cloned();
        loop {
            let selected = ListParams::default().labels(&selector);
            let sets = self.api::<ReplicaSet>().list(&selected).await.expect("the ReplicaSets");
            let hash = sets
                .items
                .iter()
                .find(|set| set.annotations().get("deployment.kubernetes.io/revision") == current.as_ref())
                .and_then(|set| set.labels().get("pod-template-hash"));
            let pods = self.api::<Pod>().list_metadata(&selected).await.expect("the pods");
            if pods.items.iter().all(|pod| pod.labels().get("pod-template-hash") == hash) {
                return settled;
            }
            assert!(began.elapsed() < within, "pods of an older revision are left after {within:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A Deployment of the test server and a Service of the same name, ready and reached.
    pub async fn serve(&self, name: &str, image: &str, replicas: i32) -> SocketAddr {
        self.apply(service(name, json!({"app": name}))).await;
        self.apply(deployment(name, replicas, server_pod_spec(image))).await;
        self.settled(name, Duration::from_secs(60)).await;
        self.reached(name, Duration::from_secs(90)).await
    }

    /// The Service's address, as soon as a request to it is answered: kube-proxy takes up to a second.
    pub async fn reached(&self, service: &str, within: Duration) -> SocketAddr {
        let address = self.address(service).await;
        let began = Instant::now();
        loop {
            if timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(address))
                .await
                .is_ok_and(|tcp| tcp.is_ok())
            {
                return address;
            }
            assert!(began.elapsed() < within, "the Service {service} is not reached within {within:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The Service's cluster IP and port.
    pub async fn address(&self, service: &str) -> SocketAddr {
        let service = self.api::<Service>().get(service).await.expect("the Service");
        let spec = service.spec.unwrap_or_default();
        let ip: Ipv4Addr = spec.cluster_ip.as_deref().unwrap_or_default().parse().expect("a cluster IP");
        let port = spec.ports.unwrap_or_default().first().map_or(80, |port| port.port);
        (ip, u16::try_from(port).expect("a port")).into()
    }

    /// A load on a Service, from a source address of its own: what is left of earlier connections does not disturb it.
    pub async fn load(&self, service: &str) -> Load {
        let source = Ipv4Addr::new(10, 10, fastrand::u8(64..128), fastrand::u8(1..255));
        Load::on(self.address(service).await).from(source)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not waited for, and not a failure: it is swept.
        let _ = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.bed.folder.join("pki/admin.conf"))
            .args(["delete", "namespace", &self.name, "--wait=false"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

async fn apply(api: impl FnOnce(&ApiResource) -> Api<DynamicObject>, value: Value) -> DynamicObject {
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let api = api(&resource);
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(&value)).await;
    let applied = applied.unwrap_or_else(|error| panic!("apply {kind} {name}: {error}"));
    // A status is not applied with the rest of an object where it is a part of its own, but a pretend node needs its.
    if kind == "Node" && value.get("status").is_some() {
        let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": value["status"]});
        return api.patch_status(&name, &params, &Patch::Apply(&status)).await.expect("the node's status");
    }
    applied
}

async fn await_or_panic<K>(
    api: Api<K>,
    name: &str,
    is: &str,
    within: Duration,
    wanted: impl Fn(&K) -> bool + Send + Sync,
) -> K
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + DeserializeOwned + 'static,
{
    let kind = K::kind(&()).into_owned();
    let condition = |object: Option<&K>| object.is_some_and(&wanted);
    match timeout(within, await_condition(api.clone(), name, condition)).await {
        Ok(Ok(Some(object))) => object,
        Ok(Ok(None)) => unreachable!("the condition asks for an object"),
        Ok(Err(error)) => panic!("{kind} {name}: {error}"),
        Err(_) => panic!("{kind} {name}: not within {within:?}: {is}; it is {:#?}", api.get_opt(name).await),
    }
}

/// A typed object from JSON.
pub fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}
