//! The laws of a target, on a real Deployment.

use crate::deployment_space::{PATIENCE, Space, server, settled};
use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::DeleteParams;
use rollback_core::{
    Change, Error, Kind, ReleaseId, Result, Target,
    testing::laws::{
        Ruling,
        target::{Bench, each},
    },
};
use rollback_k8s::{SharedWatches, release_id};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

#[derive(Debug, Default)]
struct Deployments {
    now: Mutex<Option<Arc<Space>>>,
    surge: bool,
    watched: bool,
}

fn release(image: &str) -> ReleaseId {
    release_id(&server("shop", image, 2)["spec"]["template"])
}

impl Deployments {
    fn space(&self) -> Arc<Space> {
        self.now.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Bench for Deployments {
    async fn fresh(&self) -> Result<Arc<dyn Target>> {
        let space = Arc::new(Space::new("laws").await);
        // The namespace before goes with it.
        *self.now.lock().unwrap() = Some(space.clone());
        let mut cluster = space.cluster.clone();
        if self.watched {
            let watches = SharedWatches::of_namespaces([space.namespace.as_str()]);
            cluster = cluster.with_shared_watches(watches).await?;
        }
        let mut target = cluster.deployment(&space.namespace, "shop");
        if self.surge {
            target = target.with_raised_surge("100%");
        }
        space.apply(server("shop", "v1", 2)).await;
        settled(&target).await;
        space.deploy("shop", "v2").await;
        settled(&target).await;
        Ok(Arc::new(target))
    }
    fn change(&self) -> Change {
        Change::release(&"all".into(), &release("v1"))
    }
    fn change_after(&self) -> Option<Change> {
        Some(Change::release(&"all".into(), &release("v2")))
    }
    async fn someone_deploys(&self) -> Option<Result<()>> {
        self.space().deploy("shop", "v3").await;
        Some(Ok(()))
    }
    async fn vanish(&self) -> Option<Result<()>> {
        let gone = self.space().api::<Deployment>().delete("shop", &DeleteParams::background()).await;
        Some(gone.map(drop).map_err(|e| Error::new(Kind::Unexpected, "delete it").with_source(e)))
    }
    fn patience(&self) -> Duration {
        PATIENCE
    }
    fn poll(&self) -> Duration {
        Duration::from_millis(100)
    }
}

async fn hold(bench: &Deployments) {
    let ruled = each(bench).await;
    let kept = ruled.iter().filter(|(_, ruling)| matches!(ruling, Ok(Ruling::Kept))).count();
    let broken: Vec<_> = ruled.iter().filter(|(_, ruling)| ruling.is_err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let left_out: Vec<_> = ruled.iter().filter(|(_, ruling)| matches!(ruling, Ok(Ruling::DoesNotApply(_)))).collect();
    // Only what Kubernetes has no epochs for.
    assert_eq!(left_out.iter().map(|(law, _)| *law).collect::<Vec<_>>(), ["lower_epoch_is_refused"], "{kept} kept");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_on_a_deployment() {
    hold(&Deployments::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_with_a_raised_surge() {
    hold(&Deployments { surge: true, ..Deployments::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn hold_where_watches_are_shared() {
    hold(&Deployments { watched: true, ..Deployments::default() }).await;
}
