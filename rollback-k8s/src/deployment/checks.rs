//! What verifiers and health checks ask of a Deployment's pods.

use super::Deployment;
use crate::{
    pods::PodState,
    verify::{Own, PodChecks, PodSource, port_in},
};
use async_trait::async_trait;
use rollback_core::{ReleaseId, Result};

impl Deployment {
    /// Verifiers and health checks of its pods that the API server answers.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::Deployment) {
    /// let gone = checkout.checks().bad_pods_gone();
    /// # }
    /// ```
    pub fn checks(&self) -> PodChecks {
        PodChecks::new(&self.cluster, &self.namespace, format!("deployment/{}", self.name), self.clone())
    }
}

#[async_trait]
impl PodSource for Deployment {
    async fn own(&self) -> Result<Own> {
        let live = self.live().await?;
        let pods = self.whole_pods(&live).await?;
        let states: Vec<PodState> = pods.iter().map(PodState::of).collect();
        if self.is_new(&live, &states) {
            self.revisions(&live).await?;
        }
        // A pod that no ReplicaSet controls was not made by a Deployment, whatever labels it has.
        let own =
            Own::of_all(pods, self.options.health_port, |pod| pod.controller.as_ref().map(|_| self.release_of(pod)));
        Ok(own.with_objects(&live.uid, self.remembered.uids()))
    }
    async fn port_of(&self, release: &ReleaseId) -> Result<Option<Option<u16>>> {
        let known = |of: &Self| port_in(of.templates().get(release), of.options.health_port);
        if let Some(known) = known(self) {
            return Ok(Some(known));
        }
        self.revisions(&self.live().await?).await?;
        Ok(known(self))
    }
}
