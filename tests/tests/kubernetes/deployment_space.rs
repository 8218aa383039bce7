//! A namespace with the library's cluster in it, and what tests of Deployments do there.

pub(crate) use crate::workloads::{PATIENCE, settled, until};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use rollback_k8s::{Cluster, ClusterOptions};
use rollback_tests::bed::kubernetes::{Bed, Namespace, deployment, server_pod_spec};
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) own: Namespace,
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
}

impl Space {
    pub(crate) async fn new(what: &str) -> Self {
        let bed = Bed::here().await;
        let own = bed.namespace(what).await;
        let cluster = Cluster::from_client(bed.client(), ClusterOptions::default()).await.unwrap();
        Self { namespace: own.name().to_owned(), own, cluster }
    }
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.own.api()
    }
    pub(crate) async fn apply(&self, manifest: Value) {
        self.own.apply(manifest).await;
    }
    /// Changes a Deployment by a strategic merge, as `kubectl patch` does.
    pub(crate) async fn edit(&self, name: &str, change: Value) {
        self.api::<Deployment>().patch(name, &PatchParams::default(), &Patch::Strategic(&change)).await.unwrap();
    }
    /// Deploys this image of the bed's server.
    pub(crate) async fn deploy(&self, name: &str, image: &str) {
        let container = json!({"name": "server", "image": format!("bed/server:{image}")});
        self.edit(name, json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await;
    }
    pub(crate) async fn deployment(&self, name: &str) -> Deployment {
        self.api().get(name).await.unwrap()
    }
    /// The image that its template names.
    pub(crate) async fn image(&self, name: &str) -> String {
        let spec = self.deployment(name).await.spec.and_then(|spec| spec.template.spec).unwrap();
        spec.containers[0].image.clone().unwrap().trim_start_matches("bed/server:").to_owned()
    }
    pub(crate) async fn replica_sets(&self) -> Vec<ReplicaSet> {
        self.api().list(&ListParams::default()).await.unwrap().items
    }
}

/// A Deployment of the bed's server.
pub(crate) fn server(name: &str, image: &str, replicas: i32) -> Value {
    deployment(name, replicas, server_pod_spec(&format!("bed/server:{image}")))
}
