//! What verifiers and health checks ask of the pods of a release's workloads, and what of it is evidence.

use super::{HelmRelease, workload};
use crate::{
    evidence::{Saving, What},
    verify::{Own, PodChecks, PodSource},
};
use async_trait::async_trait;
use rollback_core::Result;
use serde_json::json;

impl HelmRelease {
    /// Verifiers and health checks of the pods of its workloads, as releases of Helm, that the API server answers.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::HelmRelease) {
    /// let steady = checkout.checks().restarts_steady();
    /// # }
    /// ```
    pub fn checks(&self) -> PodChecks {
        PodChecks::new(&self.cluster, &self.namespace, format!("helm/{}", self.name), self.clone())
    }
}

#[async_trait]
impl PodSource for HelmRelease {
    async fn own(&self) -> Result<Own> {
        let read = async { self.pods(&self.revisions().await?).await };
        read.await.map_err(|e| e.with_target(&self.id))
    }
}

#[async_trait]
impl Saving for HelmRelease {
    /// Its workloads in its own namespace; of its revisions what `helm history` shows, without values.
    async fn what(&self) -> Result<What> {
        let revisions = self.revisions().await?;
        let named = workload::of_interest(&revisions);
        let mut what = workload::distinct(&named).into_iter().fold(What::default(), |what, object| {
            match (object.workload(), object.namespace.as_ref().is_none_or(|namespace| *namespace == self.namespace)) {
                (Some(kind), true) => what.with_workload(kind, &object.name),
                _ => what.with_said(json!({"kind": object.kind, "name": object.name, "namespace": object.namespace})),
            }
        });
        for revision in &revisions {
            what = what.with_said(json!({
                "helm_revision": revision.number, "status": revision.status, "chart": revision.chart,
                "release": revision.release, "deployed_at": revision.deployed_at, "description": revision.description,
            }));
        }
        Ok(what)
    }
}
