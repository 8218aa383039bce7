//! StatefulSets and DaemonSets of the bed's server, and what tests do with them.

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use rollback_core::{
    Change, Choose, Error, Kind, Look, Observation, Policy, ReleaseId, Result, Rollback, Settled, Target, Work,
    journal::MemoryShelf,
};
use rollback_k8s::{Cluster, ClusterOptions, release_id};
use rollback_tests::bed::kubernetes::{Bed, Namespace, server_pod_spec};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How long anything on the bed may take, however busy it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A namespace with the library's cluster in it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) own: Namespace,
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
}

impl Place {
    pub(crate) async fn new(what: &str) -> Self {
        let bed = Bed::here().await;
        let own = bed.namespace(what).await;
        let cluster = Cluster::from_client(bed.client(), ClusterOptions::default()).await.unwrap();
        Self { namespace: own.name().to_owned(), own, cluster }
    }
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.own.api()
    }
    fn dynamic(&self, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
        Api::namespaced_with(self.own.bed().client(), &self.namespace, &resource)
    }
    /// Changes a workload as `kubectl patch` does.
    pub(crate) async fn edit(&self, kind: &str, name: &str, change: Value) {
        let params = PatchParams::default();
        self.dynamic(kind).patch(name, &params, &Patch::Merge(&change)).await.unwrap();
    }
    /// Deploys this image of the bed's server.
    pub(crate) async fn deploy(&self, kind: &str, name: &str, image: &str) {
        self.edit(kind, name, json!({"spec": {"template": {"spec": spec(image)}}})).await;
    }
    pub(crate) async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let gone = self.dynamic(kind).delete(name, &Default::default()).await;
        gone.map(drop).map_err(|e| Error::new(Kind::Unexpected, "delete it").with_source(e))
    }
    pub(crate) async fn get(&self, kind: &str, name: &str) -> DynamicObject {
        self.dynamic(kind).get(name).await.unwrap()
    }
    /// Name and uid of each pod, and the tag that it runs.
    pub(crate) async fn pods(&self) -> Vec<(String, String, String)> {
        let mut pods: Vec<_> = self.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        pods.retain(|pod| !ended(pod));
        pods.sort_by_key(|pod| pod.name_any());
        let tag = |pod: &Pod| {
            let image = pod.spec.iter().flat_map(|spec| &spec.containers).find_map(|c| c.image.clone());
            image.unwrap_or_default().trim_start_matches("bed/server:").to_owned()
        };
        pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default(), tag(pod))).collect()
    }
    /// Waits until a pod of this tag is there and not ready, having tried to run.
    pub(crate) async fn failing_pod(&self, tag: &str) -> String {
        let (pod, _) = until("a pod of the bad release fails", || async {
            let pods = self.api::<Pod>().list(&ListParams::default()).await.ok()?.items;
            let fails = |pod: &Pod| {
                let image = pod.spec.as_ref()?.containers.first()?.image.clone()?;
                let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.clone();
                let waits = status.state.as_ref()?.waiting.as_ref()?.reason.clone()?;
                let failed = ["CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff"].contains(&waits.as_str());
                (image.ends_with(tag) && failed).then(|| pod.name_any())
            };
            pods.iter().find_map(fails)
        })
        .await;
        pod
    }
}

fn spec(image: &str) -> Value {
    let mut spec = server_pod_spec(&format!("bed/server:{image}"));
    // What is told to go shall go at once: these tests are about order.
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec
}

/// A StatefulSet or a DaemonSet of the bed's server.
pub(crate) fn workload(kind: &str, name: &str, image: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec(image)},
        },
    });
    if kind == "StatefulSet" {
        // As many as it takes to see an order.
        object["spec"]["replicas"] = json!(3);
        object["spec"]["serviceName"] = json!(name);
    }
    change(&mut object);
    object
}

/// The release of an image.
pub(crate) fn id(name: &str, image: &str) -> ReleaseId {
    release_id(&workload("StatefulSet", name, image, |_| {})["spec"]["template"])
}

pub(crate) fn to(name: &str, image: &str) -> Change {
    Change::release(&"all".into(), &id(name, image))
}

pub(crate) fn work(step: &str) -> Work {
    Work::new("run".into(), 1, step, PATIENCE, Arc::new(MemoryShelf::new()))
}

pub(crate) fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}

/// One that has ended may be listed for a while, and answers nobody.
pub(crate) fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Waits until something is so, and gives how long it took.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> (T, Duration) {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return (found, begun.elapsed());
        }
        assert!(begun.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Looks until the target says that it has settled well: in full, because a quick look may rest on a watch that has not shown
/// a deploy of a moment ago.
pub(crate) async fn settled(target: &dyn Target) -> Observation {
    let last = Mutex::new(String::new());
    let look = async {
        loop {
            let seen = target.observe(Look::full()).await;
            *last.lock().unwrap() = format!("{seen:#?}");
            if let Ok(seen) = seen
                && seen.parts.values().all(|part| part.settled == Settled::Yes)
            {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, look).await;
    seen.unwrap_or_else(|_| panic!("{} has not settled after {PATIENCE:?}: {}", target.id(), last.lock().unwrap()))
}

/// Whether it has settled, in words.
pub(crate) async fn said(target: &dyn Target) -> String {
    let seen = target.observe(Look::full()).await.unwrap();
    format!("{:?}", seen.parts.values().next().unwrap().settled)
}
