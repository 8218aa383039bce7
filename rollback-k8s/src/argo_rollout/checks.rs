//! What verifiers and health checks ask of a Rollout's pods, and what of it is evidence.

use super::{ArgoRollout, live::is_idle};
use crate::{
    evidence::{Saving, What},
    kinds::{DEPLOYMENT, POD, ROLLOUT},
    pods::PodState,
    verify::{Own, PodChecks, PodSource},
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use rollback_core::Result;

impl ArgoRollout {
    /// Verifiers and health checks of its pods that the API server answers. Those of a ReplicaSet that has lost its traffic,
    /// and waits to be scaled down, do not count.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::ArgoRollout) {
    /// let gone = checkout.checks().bad_pods_gone();
    /// # }
    /// ```
    pub fn checks(&self) -> PodChecks {
        PodChecks::new(&self.cluster, &self.namespace, format!("rollout/{}", self.name), self.clone())
    }
}

#[async_trait]
impl PodSource for ArgoRollout {
    async fn own(&self) -> Result<Own> {
        let read = async {
            let live = self.live().await?;
            let pods = self.cluster.list_of::<Pod>("list its pods", POD, &self.namespace, &live.selector);
            let (revisions, pods) = futures::try_join!(self.revisions(&live), pods)?;
            Ok((live, revisions, pods))
        };
        let (live, revisions, pods) = read.await.map_err(|e: rollback_core::Error| e.with_target(&self.id))?;
        let told = live.told(&revisions);
        let own = Own::of_all(pods, self.options.health_port, |pod: &PodState| {
            let revision = revisions.iter().find(|revision| Some(&revision.uid) == pod.controller.as_ref());
            let idle = revision.is_some_and(|revision| is_idle(revision) && revision.release != told);
            (pod.controller.is_some() && !idle).then(|| revision.map(|revision| revision.release.clone()))
        });
        Ok(own.with_objects(&live.uid, revisions.into_iter().map(|revision| (revision.uid, revision.release))))
    }
}

#[async_trait]
impl Saving for ArgoRollout {
    async fn what(&self) -> Result<What> {
        let mut what = What::default().with_workload(ROLLOUT, &self.name);
        if let Some(workload) = self.live().await?.source.workload {
            what = what.with_object(DEPLOYMENT, workload);
        }
        Ok(what)
    }
}
