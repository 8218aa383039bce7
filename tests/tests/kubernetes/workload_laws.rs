//! The laws of a target, on real StatefulSets and DaemonSets.

use crate::workloads::{PATIENCE, Place, settled, to, workload};
use async_trait::async_trait;
use rollback_core::{
    Change, Result, Target,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

#[derive(Debug)]
struct Workloads {
    kind: &'static str,
    /// How its pods are managed, or how it is updated.
    how: &'static str,
    now: Mutex<Option<Arc<Place>>>,
}

impl Workloads {
    fn of(kind: &'static str, how: &'static str) -> Self {
        Self { kind, how, now: Mutex::default() }
    }
    fn place(&self) -> Arc<Place> {
        self.now.lock().unwrap().clone().unwrap()
    }
    fn shaped(&self, object: &mut Value) {
        match (self.kind, self.how) {
            (_, "OnDelete") => object["spec"]["updateStrategy"] = json!({"type": "OnDelete"}),
            ("StatefulSet", how) => {
                object["spec"]["podManagementPolicy"] = json!(how);
                object["spec"]["replicas"] = json!(2);
            }
            _ => {}
        }
    }
    fn target(&self, place: &Place) -> Arc<dyn Target> {
        match self.kind {
            "StatefulSet" => Arc::new(place.cluster.stateful_set(&place.namespace, "cart")),
            _ if self.how == "OnDelete" => Arc::new(place.cluster.daemon_set(&place.namespace, "cart").deleting_pods()),
            _ => Arc::new(place.cluster.daemon_set(&place.namespace, "cart")),
        }
    }
}

#[async_trait]
impl Bench for Workloads {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let place = Arc::new(Place::new("laws").await);
        // The namespace before goes with it.
        *self.now.lock().unwrap() = Some(place.clone());
        let target = self.target(&place);
        place.own.apply(workload(self.kind, "cart", "v1", |object| self.shaped(object))).await;
        settled(&*target).await;
        place.deploy(self.kind, "cart", "v2").await;
        if self.how == "OnDelete" {
            place.own.kubectl(&["delete", "pods", "--all", "--wait=false"]).await;
        }
        settled(&*target).await;
        Ok(target)
    }
    fn change(&self) -> Change {
        to("cart", "v1")
    }
    fn change_after(&self) -> Option<Change> {
        Some(to("cart", "v2"))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.place().deploy(self.kind, "cart", "v3").await;
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        Some(self.place().delete(self.kind, "cart").await)
    }
    fn patience(&self) -> Duration {
        PATIENCE
    }
    fn poll(&self) -> Duration {
        Duration::from_millis(100)
    }
}

async fn hold(bench: Workloads) {
    let ruled = each(&bench).await;
    let broken: Vec<_> = ruled.iter().filter(|(_, ruling)| ruling.is_err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let left_out = ruled.iter().filter(|(_, ruling)| matches!(ruling, Ok(Ruling::DoesNotApply(_))));
    // Only what Kubernetes has no epochs for.
    assert_eq!(left_out.map(|(law, _)| *law).collect::<Vec<_>>(), ["lower_epoch_is_refused"]);
    println!("measured: {} laws kept", ruled.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_on_a_stateful_set() {
    hold(Workloads::of("StatefulSet", "OrderedReady")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_on_a_parallel_stateful_set() {
    hold(Workloads::of("StatefulSet", "Parallel")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_on_a_daemon_set() {
    hold(Workloads::of("DaemonSet", "RollingUpdate")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_on_a_daemon_set_whose_pods_are_deleted() {
    hold(Workloads::of("DaemonSet", "OnDelete")).await;
}
