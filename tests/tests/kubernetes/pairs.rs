//! What the tests of blue/green and of canaries share: two Deployments, and somebody who gets in between.

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use rollback_core::{testing::laws::Ruling, testing::laws::target::Bench, testing::laws::target::each, *};
use rollback_k8s::{Cluster, ClusterOptions, release_id};
use rollback_tests::bed::kubernetes::{Bed, Namespace, server_pod_spec};
use serde_json::{Value, json};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn cluster(bed: &Bed) -> Cluster {
    Cluster::from_client(bed.client_called("rollback-test"), ClusterOptions::default()).await.unwrap()
}

/// The cluster as somebody with the rights on Deployments that every pair needs, and these.
pub(crate) async fn cluster_with(namespace: &Namespace, rules: &[(&str, &str, &[&str])]) -> Cluster {
    let deployments: [(&str, &str, &[&str]); 3] =
        [("apps", "deployments", &["get", "patch"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let config = namespace.account("least", &[&deployments, rules].concat()).await;
    let began = Instant::now();
    loop {
        let client = kube::Client::try_from(config.clone()).unwrap();
        match Cluster::from_client(client, ClusterOptions::default()).await {
            Ok(cluster) => return cluster,
            Err(e) => assert!(began.elapsed() < SOON, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A Deployment that is one side of `app`, told from the other by the label `side`.
pub(crate) fn side(app: &str, side: &str, image: &str, replicas: i32) -> Value {
    let labels = json!({"app": app, "side": side});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": format!("{app}-{side}")},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": server_pod_spec(&format!("bed/server:{image}"))},
        },
    })
}
pub(crate) fn id(app: &str, of: &str, image: &str) -> ReleaseId {
    release_id(&side(app, of, image, 1)["spec"]["template"])
}
pub(crate) async fn replicas(namespace: &Namespace, name: &str) -> i32 {
    namespace.api::<Deployment>().get(name).await.unwrap().spec.unwrap().replicas.unwrap()
}
pub(crate) async fn image(namespace: &Namespace, name: &str) -> String {
    let spec = namespace.api::<Deployment>().get(name).await.unwrap().spec.unwrap();
    let image = spec.template.spec.unwrap().containers[0].image.clone().unwrap();
    image.rsplit(':').next().unwrap().to_owned()
}
/// Somebody deploys.
pub(crate) async fn deploy(namespace: &Namespace, name: &str, image: &str) {
    let template = json!({"spec": {"containers": [{"name": "server", "image": format!("bed/server:{image}")}]}});
    let patch = Patch::Strategic(json!({"spec": {"template": template}}));
    namespace.api::<Deployment>().patch(name, &PatchParams::default(), &patch).await.unwrap();
}
/// Somebody, or an autoscaler, scales.
pub(crate) async fn scale(namespace: &Namespace, name: &str, to: i32) {
    let patch = Patch::Merge(json!({"spec": {"replicas": to}}));
    namespace.api::<Deployment>().patch_scale(name, &PatchParams::default(), &patch).await.unwrap();
}

pub(crate) fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}
pub(crate) fn work(step: &str) -> Work {
    Work::new("run".into(), 1, step, Duration::from_secs(30), Arc::new(journal::MemoryShelf::new()))
}
/// Waits until every part has settled.
pub(crate) async fn settled(target: &dyn Target) -> Observation {
    until(target, "every part has settled", |seen| seen.parts.values().all(|part| part.settled == Settled::Yes)).await
}
pub(crate) async fn until(target: &dyn Target, what: &str, is: impl Fn(&Observation) -> bool) -> Observation {
    let began = Instant::now();
    loop {
        let seen = target.observe(Look::full()).await;
        if let Ok(seen) = &seen
            && is(seen)
        {
            return seen.clone();
        }
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}; {seen:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

type Hand = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A target that tells when each write of a kind was answered, and lets somebody in between the look that was judged and
/// the first write of that kind.
pub(crate) struct Watched<T> {
    inner: T,
    kind: ChangeKind,
    before: Mutex<Option<Hand>>,
    written: Arc<Mutex<Vec<(Change, Instant)>>>,
}
impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}
pub(crate) type Written = Arc<Mutex<Vec<(Change, Instant)>>>;

impl<T: Target> Watched<T> {
    pub(crate) fn new(inner: T) -> (Self, Written) {
        let written = Written::default();
        let kind = ChangeKind::Traffic;
        (Self { inner, kind, before: Mutex::new(None), written: written.clone() }, written)
    }
    pub(crate) fn before_the_first<F, R>(inner: T, kind: ChangeKind, hand: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let hand: Hand = Box::new(move || Box::pin(hand()));
        Self { inner, kind, before: Mutex::new(Some(hand)), written: Written::default() }
    }
}

/// When the first write that `is` was answered.
pub(crate) fn when(written: &Written, is: impl Fn(&Change) -> bool) -> Instant {
    let all = written.lock().unwrap();
    all.iter().find(|(change, _)| is(change)).unwrap_or_else(|| panic!("no such write: {all:?}")).1
}

#[async_trait]
impl<T: Target> Target for Watched<T> {
    fn id(&self) -> &TargetId {
        self.inner.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.inner.observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.inner.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.inner.prepare(change, work).await
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        if approved.change.kinds().contains(&self.kind) {
            let hand = self.before.lock().unwrap().take();
            if let Some(hand) = hand {
                hand().await;
            }
        }
        let applied = self.inner.apply(approved, token, work).await;
        if applied.is_ok() {
            self.written.lock().unwrap().push((approved.change.clone(), Instant::now()));
        }
        applied
    }
}

/// Tries every law, and says which were kept and which do not apply.
pub(crate) async fn keeps_the_laws(what: &str, bench: &dyn Bench) {
    let began = Instant::now();
    let ruled = each(bench).await;
    let broken: Vec<String> = ruled.iter().filter_map(|(_, r)| r.as_ref().err().map(ToString::to_string)).collect();
    assert!(broken.is_empty(), "{what}:\n{}", broken.join("\n"));
    let kept = ruled.iter().filter(|(_, r)| matches!(r, Ok(Ruling::Kept))).count();
    let others: Vec<String> = ruled
        .iter()
        .filter_map(|(law, r)| match r {
            Ok(Ruling::DoesNotApply(why)) => Some(format!("{law}: {why}")),
            _ => None,
        })
        .collect();
    println!("measured: {what}: {kept} laws kept in {:?}; not applicable: {}", began.elapsed(), others.join("; "));
    assert!(kept >= 14, "{others:?}");
}
