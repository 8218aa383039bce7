//! Many Deployments on pretend nodes, all of one release, and ways to bring them to another.

use super::kubernetes::{Bed, Namespace, deployment, kwok_pod_spec};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use rollback_core::{Choose, ReleaseId, Rollback, journal::SqliteJournal};
use rollback_k8s::{Cluster, release_id};
use serde_json::{Value, json};
use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};
use tokio::{process::Command, time::timeout};

/// So many writes of a test's own at a time.
const AT_ONCE: usize = 32;
/// Pods of each Deployment.
pub const REPLICAS: i32 = 3;
/// The two releases that they go between.
pub const IMAGES: [&str; 2] = ["bed/server:v1", "bed/server:v2"];
/// So many pretend nodes, a thousand pods on each.
const NODES: usize = 20;

/// Deployments in a namespace of their own, which go with this.
#[derive(Debug)]
pub struct Fleet {
    own: Namespace,
    count: usize,
}

fn manifest(name: &str, image: &str) -> Value {
    deployment(name, REPLICAS, kwok_pod_spec(image))
}

/// What a release of the Deployment of that name is called.
pub fn release(name: &str, image: &str) -> ReleaseId {
    release_id(&manifest(name, image)["spec"]["template"])
}

/// The names of the Deployments of a fleet.
pub fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("d{n:04}"))
}

impl Fleet {
    /// So many, on the first release and then on the second, settled.
    pub async fn new(bed: &Bed, count: usize, within: Duration) -> Self {
        bed.kwok_nodes((count * 2 * REPLICAS.unsigned_abs() as usize / 1000 + 1).min(NODES)).await;
        let fleet = Self { own: bed.namespace("fleet").await, count };
        for image in IMAGES {
            let apply = |name: String| async { fleet.own.apply(manifest(&{ name }, image)).await };
            stream::iter(names(count)).map(apply).buffer_unordered(AT_ONCE).for_each(|_| async {}).await;
            fleet.settled(image, within).await;
        }
        fleet
    }
    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.own
    }
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }
    /// Sets the image of all, blindly.
    pub async fn patch(&self, client: Client, image: &str) {
        let api: &Api<Deployment> = &Api::namespaced(client, self.own.name());
        let patch = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]);
        let patch: &Patch<()> = &Patch::Json(serde_json::from_value(patch).expect("a patch"));
        let sent = stream::iter(names(self.count))
            .map(|name| async move { api.patch_metadata(&name, &PatchParams::default(), patch).await.map(drop) });
        sent.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("patched");
    }
    /// Takes away what rollbacks left on them, so that the release that they left may be gone to.
    pub async fn forget(&self) {
        let api = &self.own.api::<Deployment>();
        let marks = ["run", "key", "release", "trace"].map(|mark| (format!("rollback.dev/{mark}"), Value::Null));
        let patch = &Patch::Merge(json!({"metadata": {"annotations": Value::Object(marks.into_iter().collect())}}));
        let sent = stream::iter(names(self.count))
            .map(|name| async move { api.patch_metadata(&name, &PatchParams::default(), patch).await.map(drop) });
        sent.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("forgotten");
    }
    /// Waits for the control plane: what `kubectl rollout status` waits for, of all, by one list and one watch.
    ///
    /// # Panics
    ///
    /// After that time.
    pub async fn settled(&self, image: &str, within: Duration) {
        let mut left: HashSet<String> = names(self.count).collect();
        let watched =
            watcher(self.own.api::<Deployment>(), watcher::Config::default()).default_backoff().applied_objects();
        let wait = async {
            let mut watched = std::pin::pin!(watched);
            while !left.is_empty() {
                let Some(Ok(deployment)) = watched.next().await else { continue };
                if is_settled(&deployment, image) {
                    left.remove(&deployment.name_any());
                } else {
                    left.insert(deployment.name_any());
                }
            }
        };
        let over = timeout(within, wait).await.is_err();
        assert!(!over, "after {within:?} {} of {} are not settled on {image}", left.len(), self.count);
    }
    /// `kubectl rollout undo` of all, and then `kubectl rollout status` of all, so many at a time.
    pub async fn kubectl_undo(&self, at_once: usize) {
        for verb in ["undo", "status"] {
            let run = |name: String| async move {
                let what = format!("deployment/{name}");
                let arguments = ["-n", self.own.name(), "rollout", verb, &what];
                let output = Command::new("kubectl").args(arguments).output().await.expect("kubectl");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            };
            stream::iter(names(self.count)).map(run).buffer_unordered(at_once).collect::<()>().await;
        }
    }
    /// Which images the templates name.
    pub async fn images(&self) -> Vec<String> {
        let all = self.own.api::<Deployment>().list(&ListParams::default()).await.expect("the Deployments");
        let image = |deployment: Deployment| {
            let spec = deployment.spec?.template.spec?;
            spec.containers.into_iter().next()?.image
        };
        all.items.into_iter().filter_map(image).collect()
    }
}

fn is_settled(deployment: &Deployment, image: &str) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let on = spec.template.spec.iter().flat_map(|spec| &spec.containers).any(|c| c.image.as_deref() == Some(image));
    let wanted = spec.replicas;
    on && status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
}

/// What a fleet is rolled back with.
#[derive(Debug, Clone, Copy, Default)]
pub struct With {
    /// A raised surge.
    pub surge: bool,
    /// What is left out where the number of requests counts: evidence, and the dry run by the server.
    pub everything: bool,
}

/// Rollbacks of all Deployments of a namespace to this image, on one journal.
pub fn rollbacks(
    cluster: &Cluster,
    namespace: &str,
    count: usize,
    image: &str,
    journal: &Path,
    with: With,
) -> Vec<Rollback> {
    let journal = Arc::new(SqliteJournal::open(journal).expect("a journal"));
    let rollback = |name: String| {
        let wanted = release(&name, image);
        let mut target = cluster.deployment(namespace, name);
        if with.surge {
            target = target.with_raised_surge("100%");
        }
        if !with.everything {
            target = target.without_evidence().without_server_dry_run();
        }
        Rollback::of(target).because("it fails").to(Choose::Exactly(wanted)).journal(journal.clone())
    };
    names(count).map(rollback).collect()
}
