//! The handle to a cluster, and whether it is the cluster that the caller means.
//!
//! Not here: what is done with it. [`Cluster::deployment`] and its like are in the modules of their targets.

use crate::{
    error::{Request, with_server},
    kinds::{NAMESPACE, ObjectKind, POD},
    prepare::Known,
    watches::Watches,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::ObjectMeta,
};
use rollback_core::{Error, Kind, Result, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    fmt::Debug,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Who writes, in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "rollback";
/// So many objects a page, as kubectl asks for.
pub(crate) const PAGE: u32 = 500;
/// This namespace's uid is what tells one cluster from another.
const KUBE_SYSTEM: &str = "kube-system";

/// How a cluster is reached, and which one it must be.
///
/// ```no_run
/// # async fn connect() -> rollback_core::Result<()> {
/// use rollback_k8s::{Cluster, ClusterOptions};
/// let options = ClusterOptions::from_context("prod").expecting_uid("6f1c5b1e-0f4f-4c0b-9d0c-0f2f6b3d8a11");
/// let cluster = Cluster::connect(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before Cluster::connect"]
pub struct ClusterOptions {
    from: From,
    name: Option<String>,
    uid: Option<String>,
    server: Option<String>,
    context: Option<String>,
    namespace: Option<String>,
    reply_within: Duration,
    at_once: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum From {
    Inferred,
    InCluster,
    Context(String),
    Kubeconfig { path: PathBuf, context: Option<String> },
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            from: From::Inferred,
            name: None,
            uid: None,
            server: None,
            context: None,
            namespace: None,
            reply_within: Duration::from_secs(10),
            at_once: 32,
        }
    }
}

impl ClusterOptions {
    /// As kubectl finds it: `$KUBECONFIG`, `~/.kube/config`, else the service account of the pod. With nothing that the
    /// cluster must be, whatever context happens to be current is rolled back: say what you expect.
    pub fn inferred() -> Self {
        Self::default()
    }
    /// A context of the usual kubeconfig. It is also what the context must be.
    pub fn from_context(context: impl Into<String>) -> Self {
        Self { from: From::Context(context.into()), ..Self::default() }
    }
    /// A kubeconfig file; its current context, if none is named.
    pub fn from_kubeconfig(path: impl Into<PathBuf>, context: Option<&str>) -> Self {
        Self { from: From::Kubeconfig { path: path.into(), context: context.map(Into::into) }, ..Self::default() }
    }
    /// The cluster of the pod that this runs in, with its service account.
    pub fn in_cluster() -> Self {
        Self { from: From::InCluster, ..Self::default() }
    }
    /// What the cluster is called in the ids of targets: `k8s:NAME/…`. Default: its uid, or, for a user who
    /// may not read that, the address of its server. Two who call it by different names share neither lock nor ledger: give
    /// all of them the right to read it, or the same name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
    /// The uid of its namespace `kube-system`, as `kubectl get namespace kube-system -o jsonpath={.metadata.uid}` shows it.
    pub fn expecting_uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }
    /// The server's address, as the kubeconfig has it: `https://prod.example:6443`.
    pub fn expecting_server(mut self, server: impl Into<String>) -> Self {
        self.server = Some(server.into());
        self
    }
    /// The kubeconfig's context.
    pub fn expecting_context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }
    /// The namespace that the configuration names.
    pub fn expecting_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }
    /// How long one request may take. Default: 10 s. What a run allows for a write bounds that too.
    pub fn with_reply_within(mut self, time: Duration) -> Self {
        self.reply_within = time;
        self
    }
    /// How many requests are made at the same time, so that a thousand rollbacks do not open a thousand connections. The
    /// others wait for their turn; what a request may take counts from then. Watches, streams that stay open (exec,
    /// port-forward, logs once they flow) and the requests of a [`ClusterJournal`](crate::ClusterJournal) do not count: a lease
    /// must not run out in a queue. Default: 32. One at least.
    pub fn with_requests_at_once(mut self, count: usize) -> Self {
        self.at_once = count.clamp(1, Semaphore::MAX_PERMITS);
        self
    }
}

/// Which cluster this is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterIdentity {
    /// The uid of its namespace `kube-system`. `None` where this user may not read it.
    pub uid: Option<String>,
    /// The server's address. `None` for a client that the caller made.
    pub server: Option<String>,
    /// The kubeconfig's context. `None` without a kubeconfig.
    pub context: Option<String>,
    /// The namespace that the configuration names.
    pub namespace: String,
}

impl fmt::Display for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        write!(
            f,
            "uid {}, server {}, context {}, namespace {}",
            known(&self.uid),
            known(&self.server),
            known(&self.context),
            self.namespace
        )
    }
}

/// A cluster, connected and identified. Cheap to clone; the clones share connections and what is known of permissions.
///
/// # Permissions
/// In a ClusterRole, for its uid:
/// ```yaml
/// rules: [{apiGroups: [""], resources: ["namespaces"], resourceNames: ["kube-system"], verbs: ["get"]}]
/// ```
/// Without it the server's address identifies the cluster, and every report warns of that (the finding `identity`): another
/// cluster behind the same address goes unnoticed, and who reaches this one by another address shares neither lock nor ledger,
/// unless both [name](ClusterOptions::named) it alike. It is an error where a uid was stated, and with
/// [`Cluster::from_client`], which knows no address.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    watches: Option<Arc<Watches>>,
}

struct Shared {
    client: Client,
    identity: ClusterIdentity,
    name: String,
    reply_within: Duration,
    turns: Semaphore,
    known: Known,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client is left out: it holds credentials.
        f.debug_struct("Cluster").field("name", &self.shared.name).field("identity", &self.shared.identity).finish()
    }
}

impl Cluster {
    /// Connects, and makes sure that it is the cluster that was stated. One request.
    ///
    /// A proxy is used as kubectl uses it: the kubeconfig's `proxy-url`, else `HTTPS_PROXY` unless `NO_PROXY` names the server;
    /// `http`, `https` and `socks5`. A user logs in by certificate, token or exec plugin; of the older auth-providers `oidc` with
    /// its id-token, which is not renewed, and `gcp`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a configuration that cannot be read, or for a cluster that is not as stated, both shown;
    /// [`Kind::Denied`] where a uid was stated and this user may not read it; [`Kind::Unavailable`], transient, where the
    /// API server does not answer.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn connect(options: ClusterOptions) -> Result<Self> {
        let (mut config, context) = configured(&options).await?;
        // The engine decides what is sent again, by the effect that an error may have had.
        config.default_retry = false;
        let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        // rustls takes the one provider of cryptography that is built in, and panics where there are two: HTTPS of the core
        // brings another one. Which one the program itself has chosen stays.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::try_from(config).map_err(|e| bad_config(e.to_string()))?;
        let known = ClusterIdentity { uid: None, server: Some(server), context, namespace };
        Self::identified(client, known, options).await
    }
    /// With a client that the caller made: another way to log in, a proxy, a fake. Of the options all count but
    /// how the cluster is reached; server and context of such a client are not known and cannot be stated.
    ///
    /// ```no_run
    /// # async fn connect(client: kube::Client) -> rollback_core::Result<()> {
    /// use rollback_k8s::{Cluster, ClusterOptions};
    /// let cluster = Cluster::from_client(client, ClusterOptions::default().named("prod")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`connect`](Cluster::connect).
    pub async fn from_client(client: Client, options: ClusterOptions) -> Result<Self> {
        let namespace = client.default_namespace().to_owned();
        let known = ClusterIdentity { uid: None, server: None, context: None, namespace };
        Self::identified(client, known, options).await
    }
    /// Which cluster this is.
    pub fn identity(&self) -> &ClusterIdentity {
        &self.shared.identity
    }
    /// What it is called in the ids of targets.
    pub fn name(&self) -> &str {
        &self.shared.name
    }
    /// The client. Not public: it is of another library, whose versions are not ours.
    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    async fn identified(client: Client, mut known: ClusterIdentity, options: ClusterOptions) -> Result<Self> {
        let request = Request {
            operation: "identify the cluster",
            verb: "get",
            kind: NAMESPACE,
            namespace: None,
            name: KUBE_SYSTEM,
        };
        let namespaces: Api<DynamicObject> = Api::all_with(client.clone(), &NAMESPACE.resource());
        let answer = within(options.reply_within, &request, namespaces.get_metadata(KUBE_SYSTEM)).await;
        let answer = answer.map_err(|e| with_server(e, known.server.as_deref()));
        known.uid = match answer {
            Ok(namespace) => namespace.metadata.uid,
            Err(e) if e.kind() == Kind::Denied && !e.is_transient() => {
                if options.uid.is_some() || known.server.is_none() {
                    return Err(e);
                }
                None
            }
            Err(e) => return Err(e),
        };
        as_stated(&options, &known)?;
        let name = options.name.or_else(|| known.uid.clone()).or_else(|| known.server.clone()).unwrap_or_default();
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                identity: known,
                name,
                reply_within: options.reply_within,
                turns: Semaphore::new(options.at_once),
                known: Known::default(),
            }),
            watches: None,
        })
    }

    /// One that nobody has looked at: for tests of what is pure.
    #[cfg(test)]
    pub(crate) fn unreachable(client: Client, options: ClusterOptions) -> Self {
        let identity =
            ClusterIdentity { uid: Some("cluster".into()), server: None, context: None, namespace: "default".into() };
        let name = options.name.unwrap_or_default();
        let (reply_within, turns) = (options.reply_within, Semaphore::new(options.at_once));
        let shared = Shared { client, identity, name, reply_within, turns, known: Known::default() };
        Self { shared: Arc::new(shared), watches: None }
    }

    /// What an [`Identity`](rollback_core::Identity) has as its scope.
    pub(crate) fn scope(&self) -> String {
        let identity = &self.shared.identity;
        identity.uid.clone().or_else(|| identity.server.clone()).unwrap_or_default()
    }
    /// What is asked alike for many targets.
    pub(crate) fn known(&self) -> &Known {
        &self.shared.known
    }
    /// What is watched, if something is.
    pub(crate) fn watches(&self) -> Option<&Arc<Watches>> {
        self.watches.as_ref()
    }
    pub(crate) fn watching(&self, watches: Arc<Watches>) -> Self {
        Self { shared: self.shared.clone(), watches: Some(watches) }
    }
    pub(crate) fn without_watches(&self) -> Self {
        Self { shared: self.shared.clone(), watches: None }
    }
    /// Waits until another request may be made. `None` never comes: nobody closes it.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.turns.acquire().await.ok()
    }
    /// One request, when its turn has come: bounded in time from then on.
    pub(crate) async fn ask<T>(
        &self,
        time: Duration,
        request: &Request<'_>,
        answer: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        let _turn = self.turn().await;
        self.within(time.min(self.reply_within()), request, answer).await
    }
    /// One request, bounded in time, that waits for no turn. Boxed: futures of requests are large.
    pub(crate) async fn within<T>(
        &self,
        time: Duration,
        request: &Request<'_>,
        answer: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        within(time, request, answer).await.map_err(|e| self.called(e))
    }
    /// With the server's address where that matters.
    pub(crate) fn called(&self, e: Error) -> Error {
        with_server(e, self.shared.identity.server.as_deref())
    }
    pub(crate) fn reply_within(&self) -> Duration {
        self.shared.reply_within
    }

    fn dynamic(&self, kind: ObjectKind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.shared.client.clone(), namespace, &kind.resource())
    }
    fn typed<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.shared.client.clone(), namespace)
    }

    /// One object, with every field that the server knows.
    pub(crate) async fn get(
        &self,
        operation: &str,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
    ) -> Result<DynamicObject> {
        let request = Request { operation, verb: "get", kind, namespace: Some(namespace), name };
        self.ask(self.reply_within(), &request, self.dynamic(kind, namespace).get(name)).await
    }
    /// The same of an object that the caller named: where there is none, with what there is.
    pub(crate) async fn named(
        &self,
        operation: &str,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
    ) -> Result<DynamicObject> {
        match self.get(operation, kind, namespace, name).await {
            Err(e) if e.kind() == Kind::NotFound => {
                let missing = Missing { kind, called: kind.kind, namespace, name, selector: "", label: None };
                let instead = self.instead(missing).await.unwrap_or_default();
                let message = format!("{}{instead}", e.message());
                Err(e.with_message(message))
            }
            answer => answer,
        }
    }
    /// What there is in place of an object that is not there: nobody waits long for it, and what may not be looked at is left
    /// out.
    pub(crate) async fn instead(&self, missing: Missing<'_>) -> Option<String> {
        const AT_MOST: Duration = Duration::from_secs(2);
        let Missing { kind, called, namespace, name, selector, label } = missing;
        let list = async |api: Api<DynamicObject>, kind, of, selector: &str, label: Option<&str>| {
            let request = Request { operation: "look what there is", verb: "list", kind, namespace: of, name: "" };
            let params = ListParams::default().limit(PAGE).labels(selector);
            let page = self.ask(AT_MOST, &request, api.list_metadata(&params)).await.ok()?;
            let called = |object: ObjectMeta| match label {
                Some(label) => object.labels?.remove(label),
                None => object.name,
            };
            let names: BTreeSet<String> = page.items.into_iter().filter_map(|object| called(object.metadata)).collect();
            Some(names.into_iter().collect::<Vec<String>>())
        };
        let there = list(self.dynamic(kind, namespace), kind, Some(namespace), selector, label).await;
        if let Some(there) = there.as_ref().filter(|there| !there.is_empty()) {
            return Some(format!(". There are: {}", nearest(there, name)));
        }
        let all: Api<DynamicObject> = Api::all_with(self.client().clone(), &NAMESPACE.resource());
        let (operation, verb) = ("look for the namespace", "get");
        let request = Request { operation, verb, kind: NAMESPACE, namespace: None, name: namespace };
        match self.ask(AT_MOST, &request, all.get_metadata(namespace)).await {
            Err(e) if e.kind() == Kind::NotFound => {
                let others = list(all, NAMESPACE, None, "", None).await.filter(|others| !others.is_empty());
                let others = others.map(|others| format!(". There are: {}", nearest(&others, namespace)));
                Some(format!(": there is no such namespace{}", others.unwrap_or_default()))
            }
            _ => there.map(|_| format!(", and no other {called} either")),
        }
    }
    /// All objects that a selector finds, page by page, with every field that the server knows.
    pub(crate) async fn list(
        &self,
        operation: &str,
        kind: ObjectKind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<DynamicObject>> {
        self.pages(operation, kind, namespace, selector, &self.dynamic(kind, namespace)).await
    }
    /// All objects that a selector finds, of a type: for what is only read.
    pub(crate) async fn list_of<K>(
        &self,
        operation: &str,
        kind: ObjectKind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.pages(operation, kind, namespace, selector, &self.typed::<K>(namespace)).await
    }
    async fn pages<K: Clone + DeserializeOwned + Debug>(
        &self,
        operation: &str,
        kind: ObjectKind,
        namespace: &str,
        selector: &str,
        api: &Api<K>,
    ) -> Result<Vec<K>> {
        let request = Request { operation, verb: "list", kind, namespace: Some(namespace), name: "" };
        let mut params = ListParams::default().limit(PAGE).labels(selector);
        let mut all = vec![];
        loop {
            let page = self.ask(self.reply_within(), &request, api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
    /// A JSON patch: a list of operations. Strict, so that a field the server does not know is refused rather than dropped.
    pub(crate) async fn patch(&self, patch: JsonPatch<'_>) -> Result<DynamicObject> {
        self.patched(patch, false).await
    }
    /// Deletes just the pod that was seen. One that is gone, or is another one now, is no failure: another look tells.
    pub(crate) async fn delete_pod(&self, namespace: &str, pod: PodDeletion<'_>) -> Result<()> {
        let PodDeletion { operation, name, .. } = pod;
        let request = Request { operation, verb: "delete", kind: POD, namespace: Some(namespace), name };
        let preconditions =
            Preconditions { uid: Some(pod.uid.into()), resource_version: pod.resource_version.map(Into::into) };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            grace_period_seconds: pod.grace_seconds,
            ..DeleteParams::default()
        };
        let pods = self.typed::<Pod>(namespace);
        match self.ask(pod.within, &request, pods.delete(name, &params)).await {
            Err(e) if matches!(e.kind(), Kind::Conflict | Kind::NotFound) => Ok(()),
            answer => answer.map(drop),
        }
    }
    /// The same of the status, where that is a part of its own: nothing else of the object is written.
    pub(crate) async fn patch_status(&self, patch: JsonPatch<'_>) -> Result<DynamicObject> {
        self.patched(patch, true).await
    }
    async fn patched(&self, patch: JsonPatch<'_>, status: bool) -> Result<DynamicObject> {
        let JsonPatch { operation, kind, namespace, name, operations, dry_run, within: time } = patch;
        let request = Request { operation, verb: "patch", kind, namespace: Some(namespace), name };
        let operations = serde_json::from_value(Value::Array(operations)).map_err(|e| {
            Error::new(Kind::Invalid, operation).with_message("the patch is none").with_source(e).without_effect()
        })?;
        let params = PatchParams {
            dry_run,
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default().validation_strict()
        };
        let (api, patch) = (self.dynamic(kind, namespace), Patch::Json::<()>(operations));
        if status {
            return self.ask(time, &request, api.patch_status(name, &params, &patch)).await;
        }
        self.ask(time, &request, api.patch(name, &params, &patch)).await
    }
}

/// What is not there, as [`Cluster::instead`] takes it.
pub(crate) struct Missing<'a> {
    pub(crate) kind: ObjectKind,
    /// As people call it.
    pub(crate) called: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// Of objects that may have been meant.
    pub(crate) selector: &'a str,
    /// The label that has their name, where that is not their own.
    pub(crate) label: Option<&'a str>,
}

/// A patch, as [`Cluster::patch`] takes it.
pub(crate) struct JsonPatch<'a> {
    pub(crate) operation: &'a str,
    pub(crate) kind: ObjectKind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) operations: Vec<Value>,
    /// The server checks everything, and keeps nothing.
    pub(crate) dry_run: bool,
    pub(crate) within: Duration,
}

/// A pod that is to be deleted, as [`Cluster::delete_pod`] takes it.
pub(crate) struct PodDeletion<'a> {
    pub(crate) operation: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    /// Only as it was seen.
    pub(crate) resource_version: Option<&'a str>,
    /// What it is given to end; one that is ending already is given no more than it has left.
    pub(crate) grace_seconds: Option<u32>,
    pub(crate) within: Duration,
}

/// Bounds a request in time and words its failure.
async fn within<T>(
    time: Duration,
    request: &Request<'_>,
    answer: impl Future<Output = kube::Result<T>> + Send,
) -> Result<T> {
    let answer: BoxFuture<'_, kube::Result<T>> = Box::pin(answer);
    match tokio::time::timeout(time, answer).await {
        Ok(answer) => answer.map_err(|e| request.failed(e)),
        Err(_) => Err(request.too_late(time)),
    }
}

/// The names that may have been meant, the nearest first.
fn nearest(there: &[String], meant: &str) -> String {
    const SHOWN: usize = 8;
    let mut there: Vec<&str> = there.iter().map(String::as_str).collect();
    // `checkout-green` is nearer to `checkout` than `checkin` is.
    let within = |name: &str| !(name.contains(meant) || meant.contains(name));
    there.sort_by_cached_key(|name| (within(name), edits(name, meant), (*name).to_owned()));
    let more = there.len().saturating_sub(SHOWN);
    there.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", there.join(", "))
}

/// How many characters are to be added, taken away or replaced to make the one of the other.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut before = i;
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let (above, left) = (row.get(j + 1).copied().unwrap_or_default(), next.last().copied().unwrap_or_default());
            next.push((before + usize::from(a != b)).min(above + 1).min(left + 1));
            before = above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn bad_config(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "connect to the cluster").with_message(why).without_effect()
}

async fn configured(options: &ClusterOptions) -> Result<(Config, Option<String>)> {
    let with = |context: &Option<String>| KubeConfigOptions { context: context.clone(), ..Default::default() };
    let (kubeconfig, context) = match &options.from {
        From::InCluster => {
            let config = Config::incluster().map_err(|e| bad_config("this is no pod of a cluster").with_source(e))?;
            return Ok((config, None));
        }
        From::Inferred => match Kubeconfig::read() {
            Ok(kubeconfig) => (kubeconfig, None),
            Err(e) if is_missing(&e) => match Config::incluster() {
                Ok(config) => return Ok((config, None)),
                Err(_) => return Err(unusable(e, ", and this is no pod with a service account either")),
            },
            Err(e) => return Err(unusable(e, "")),
        },
        From::Context(context) => (Kubeconfig::read().map_err(|e| unusable(e, ""))?, Some(context.clone())),
        From::Kubeconfig { path, context } => {
            (Kubeconfig::read_from(path).map_err(|e| unusable(e, ""))?, context.clone())
        }
    };
    let context = Some(context_of(&kubeconfig, context)?);
    let named = proxy_named(&kubeconfig, context.as_deref());
    let options = with(&context);
    let config = Config::from_custom_kubeconfig(kubeconfig, &options);
    let mut config = config.await.map_err(|e| bad_config("the kubeconfig cannot be used").with_source(e))?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    config.proxy_url = proxy(named, &config.cluster_url, variable)?;
    if let Some(provider) = &config.auth_info.auth_provider {
        can_log_in(&provider.name, &provider.config, Timestamp::now())?;
    }
    Ok((config, context))
}

/// There is no such file; one that cannot be read is another matter.
fn is_missing(e: &KubeconfigError) -> bool {
    match e {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(e, _) => e.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// No kubeconfig, or none that can be read.
fn unusable(e: KubeconfigError, besides: &str) -> Error {
    const INSTEAD: &str = "set KUBECONFIG to one, or log in to the cluster with its own tool, which writes one";
    match &e {
        KubeconfigError::FindPath => {
            let text =
                format!("there is no kubeconfig: this user has no home directory to look in{besides}; {INSTEAD}");
            bad_config(text)
        }
        KubeconfigError::ReadConfig(_, path) if is_missing(&e) => {
            bad_config(format!("there is no kubeconfig at {}{besides}; {INSTEAD}", path.display()))
        }
        KubeconfigError::ReadConfig(why, path) => {
            bad_config(format!("the kubeconfig {} cannot be read: {why}", path.display()))
        }
        _ => bad_config("the kubeconfig cannot be used").with_source(e),
    }
}

/// The context that was named, or the current one.
fn context_of(kubeconfig: &Kubeconfig, named: Option<String>) -> Result<String> {
    let there = || {
        let mut names: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
        names.sort_unstable();
        if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) }
    };
    let current = kubeconfig.current_context.clone().filter(|context| !context.is_empty());
    let Some(context) = named.or(current) else {
        return Err(bad_config(format!("the kubeconfig has no current context, and none was named: {}", there())));
    };
    if kubeconfig.contexts.iter().all(|known| known.name != context) {
        return Err(bad_config(format!("the kubeconfig has no context {context:?}: {}", there())));
    }
    Ok(context)
}

/// The proxy that the kubeconfig names for the cluster of a context.
fn proxy_named(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let of = kubeconfig.contexts.iter().find(|named| Some(named.name.as_str()) == context)?;
    let cluster =
        kubeconfig.clusters.iter().find(|named| Some(&named.name) == of.context.as_ref().map(|of| &of.cluster))?;
    cluster.cluster.as_ref()?.proxy_url.clone().filter(|url| !url.is_empty())
}

/// As kubectl does it: what the kubeconfig names, whatever else there is; else what the environment says of this server.
/// kube alone holds `NO_PROXY` against the address of the proxy.
fn proxy(named: Option<String>, server: &Uri, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Uri>> {
    let either = |of: [&str; 2]| of.into_iter().find_map(&variable);
    let url = named.or_else(|| {
        let all = either(["HTTPS_PROXY", "https_proxy"])?;
        let no = either(["NO_PROXY", "no_proxy"]).unwrap_or_default();
        if no.trim() == "*" {
            return None;
        }
        let through = Matcher::builder().all(all.clone()).no(no).build().intercept(server);
        through.map(|_| all)
    });
    let Some(url) = url else { return Ok(None) };
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    // It may hold a password.
    let unfit =
        "the proxy of the kubeconfig (proxy-url) or of HTTPS_PROXY is no address: http, https and socks5 can be used";
    let uri: Uri = url.parse().map_err(|_| bad_config(unfit))?;
    match uri.scheme_str() {
        Some("http" | "https" | "socks5") => Ok(Some(uri)),
        _ => Err(bad_config(unfit)),
    }
}

/// Ways to log in that are built into kubectl, or were.
fn can_log_in(provider: &str, config: &HashMap<String, String>, now: Timestamp) -> Result<()> {
    let instead = match provider {
        "oidc" => "kubectl oidc-login",
        "azure" => "kubelogin",
        "gcp" => "gke-gcloud-auth-plugin",
        _ => "the one of whoever runs the cluster",
    };
    let ends = config.get("id-token").map(|token| expiry(token));
    let why = match (provider, ends) {
        ("oidc", Some(Some(ends))) if ends <= now => format!("its id-token expired at {ends}, and is not renewed here"),
        ("oidc", None) => "it holds no id-token".into(),
        // kube runs what it names.
        ("oidc" | "gcp", _) => return Ok(()),
        _ => "that is not supported".into(),
    };
    Err(bad_config(format!(
        "the kubeconfig's user logs in by auth-provider {provider}: {why}. Let it log in by an exec plugin (users[].user.exec), \
         {instead} for example, or log in with kubectl first"
    )))
}

/// When a JSON web token ends, where it says so.
fn expiry(token: &str) -> Option<Timestamp> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Some(Timestamp(claims.get("exp")?.as_u64()?.checked_mul(1000)?))
}

/// What was stated, against what is.
fn as_stated(options: &ClusterOptions, is: &ClusterIdentity) -> Result<()> {
    let trimmed = |url: &Option<String>| url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
    let namespace = Some(is.namespace.clone());
    let wrong: Vec<&str> = [
        ("uid", &options.uid, &is.uid),
        ("server", &trimmed(&options.server), &trimmed(&is.server)),
        ("context", &options.context, &is.context),
        ("namespace", &options.namespace, &namespace),
    ]
    .into_iter()
    .filter(|(_, stated, is)| stated.is_some() && stated != is)
    .map(|(what, ..)| what)
    .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let stated = |value: &Option<String>| value.clone().unwrap_or_else(|| "not stated".into());
    Err(Error::new(Kind::Invalid, "connect to the cluster")
        .with_message(format!(
            "this is not the cluster that was stated ({} differs). Stated: uid {}, server {}, context {}, namespace {}. \
             Found: {is}",
            wrong.join(", "),
            stated(&options.uid),
            stated(&options.server),
            stated(&options.context),
            stated(&options.namespace),
        ))
        .without_effect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    /// Journal, lock and registry go by it.
    #[tokio::test]
    async fn targets_of_one_name_have_ids_of_their_own() {
        use rollback_core::Target;
        let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let cluster = Cluster::unreachable(client, ClusterOptions::default().named("prod"));
        let (namespace, name) = ("shop", "checkout");
        let targets: [Box<dyn Target>; 8] = [
            Box::new(cluster.deployment(namespace, name)),
            Box::new(cluster.stateful_set(namespace, name)),
            Box::new(cluster.daemon_set(namespace, name)),
            Box::new(cluster.blue_green(namespace, name, [("blue", name), ("green", "other")])),
            Box::new(cluster.canary_pair(namespace, [("stable", name), ("canary", "other")])),
            Box::new(cluster.flagger_canary(namespace, name)),
            Box::new(cluster.rollout(namespace, name)),
            Box::new(cluster.helm_release(namespace, name)),
        ];
        let ids: Vec<&str> = targets.iter().map(|target| target.id().as_str()).collect();
        assert!(ids.iter().all(|id| id.starts_with("k8s:prod/shop/") && id.ends_with("/checkout")), "{ids:?}");
        let distinct: std::collections::BTreeSet<&&str> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    }

    #[test]
    fn what_is_not_in_the_kubeconfig_is_told_from_what_is() {
        let missing = |kind| unusable(KubeconfigError::ReadConfig(std::io::Error::from(kind), "/k/config".into()), "");
        let none = missing(std::io::ErrorKind::NotFound);
        assert!(none.message().starts_with("there is no kubeconfig at /k/config; set KUBECONFIG"), "{none}");
        let shut = missing(std::io::ErrorKind::PermissionDenied);
        assert_eq!(shut.message(), "the kubeconfig /k/config cannot be read: permission denied");
        let of = |current: &str, contexts: &[&str]| -> Kubeconfig {
            let contexts: Vec<_> =
                contexts.iter().map(|name| json!({"name": name, "context": {"cluster": "c"}})).collect();
            serde_json::from_value(json!({"current-context": current, "contexts": contexts})).unwrap()
        };
        let two = of("", &["stage", "prod"]);
        assert_eq!(context_of(&two, Some("prod".into())).unwrap(), "prod");
        for (config, named, says) in [
            (&two, Some("prdo"), "the kubeconfig has no context \"prdo\": it has prod, stage"),
            (&two, None, "the kubeconfig has no current context, and none was named: it has prod, stage"),
            (&of("gone", &["prod"]), None, "the kubeconfig has no context \"gone\": it has prod"),
            (&of("", &[]), None, "the kubeconfig has no current context, and none was named: it has none"),
        ] {
            let e = context_of(config, named.map(Into::into)).unwrap_err();
            assert_eq!((e.kind(), e.message()), (Kind::Invalid, says));
        }
    }

    #[test]
    fn names_that_may_have_been_meant_come_first() {
        let there = ["cart", "checkin", "checkout-green", "chekcout"].map(String::from);
        assert_eq!(nearest(&there, "checkout"), "checkout-green, chekcout, checkin, cart");
        let many: Vec<String> = (0..20).map(|n| format!("n{n:02}")).collect();
        assert!(nearest(&many, "n00").starts_with("n00, ") && nearest(&many, "n00").ends_with(" and 12 more"));
        assert_eq!([edits("", "ab"), edits("ab", "ab"), edits("abc", "axc"), edits("kitten", "sitting")], [2, 0, 1, 3]);
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_named() {
        let server = "https://127.0.0.1:1";
        let client = Client::try_from(Config::new(server.parse().unwrap())).unwrap();
        let known = ClusterIdentity {
            uid: None,
            server: Some(format!("{server}/")),
            context: Some("prod".into()),
            namespace: "shop".into(),
        };
        let e = Cluster::identified(client, known, ClusterOptions::default()).await.unwrap_err();
        assert!(e.message().starts_with("the API server https://127.0.0.1:1 could not be reached"), "{e}");
        assert!(e.message().contains("refused") && e.is_transient(), "{e}");
    }

    #[test]
    fn the_proxy_is_the_one_that_kubectl_would_use() {
        let server: Uri = "https://10.1.2.3:6443/".parse().unwrap();
        let through = |named: Option<&str>, set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            proxy(named.map(Into::into), &server, variable).map(|uri| uri.map(|uri| uri.to_string()))
        };
        let (all, own) = (("HTTPS_PROXY", "http://user:pw@proxy:3128"), Some("socks5://127.0.0.1:1080"));
        for (named, set, is) in [
            (None, &[][..], None),
            (None, &[all], Some("http://user:pw@proxy:3128/")),
            (None, &[("https_proxy", "proxy:3128")], Some("http://proxy:3128/")),
            (None, &[all, ("NO_PROXY", "10.0.0.0/8")], None),
            (None, &[all, ("no_proxy", "*")], None),
            (None, &[all, ("NO_PROXY", "proxy,other.example")], Some("http://user:pw@proxy:3128/")),
            (own, &[all, ("NO_PROXY", "*")], Some("socks5://127.0.0.1:1080/")),
        ] {
            assert_eq!(through(named, set).unwrap().as_deref(), is, "{named:?} {set:?}");
        }
        for wrong in ["ftp://proxy", "http://user:hunter2@"] {
            let e = through(Some(wrong), &[]).unwrap_err();
            assert!(e.kind() == Kind::Invalid && e.to_string().contains("proxy-url"), "{e}");
            assert!(!format!("{e:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_log_in_that_cannot_be_done_says_what_to_do() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        let log_in = |provider: &str, token: Option<String>| {
            let config = token.into_iter().map(|token| ("id-token".to_owned(), token)).collect();
            can_log_in(provider, &config, Timestamp(2_000_000))
        };
        log_in("oidc", Some(token(r#"{"exp":2001}"#))).unwrap();
        log_in("oidc", Some("opaque".into())).unwrap();
        log_in("gcp", None).unwrap();
        for (provider, token, says) in [
            ("oidc", None, "kubectl oidc-login"),
            ("oidc", Some(token(r#"{"exp":2000}"#)), "expired at 1970-01-01T00:33:20"),
            ("azure", None, "kubelogin"),
            ("keystone", None, "exec plugin"),
        ] {
            let e = log_in(provider, token).unwrap_err();
            assert_eq!((e.kind(), e.effect()), (Kind::Invalid, rollback_core::Effect::None));
            assert!(e.to_string().contains(says), "{e}");
        }
    }

    #[test]
    fn what_was_stated_must_be_so() {
        let is = ClusterIdentity {
            uid: Some("u1".into()),
            server: Some("https://prod:6443/".into()),
            context: Some("prod".into()),
            namespace: "shop".into(),
        };
        let any = ClusterOptions::inferred;
        for (options, wrong) in [
            (any(), None),
            (any().expecting_uid("u1").expecting_server("https://prod:6443"), None),
            (any().expecting_context("prod").expecting_namespace("shop"), None),
            (any().expecting_uid("u2"), Some("u2")),
            (any().expecting_server("https://stage:6443"), Some("https://stage:6443")),
            (any().expecting_context("stage"), Some("stage")),
            (any().expecting_namespace("default"), Some("default")),
        ] {
            let answer = as_stated(&options, &is);
            let Some(stated) = wrong else {
                answer.unwrap();
                continue;
            };
            let e = answer.unwrap_err();
            let text = e.to_string();
            assert_eq!((e.kind(), e.effect()), (Kind::Invalid, rollback_core::Effect::None));
            assert!(text.contains(stated) && text.contains("uid u1, server https://prod:6443/"), "{text}");
        }
        let unknown = ClusterIdentity { uid: None, ..is };
        assert!(as_stated(&any().expecting_uid("u1"), &unknown).is_err(), "what is not known is not as stated");
    }
}
