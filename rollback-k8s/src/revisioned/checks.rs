//! What verifiers and health checks ask of a workload's pods.

use super::Workload;
use crate::{
    pods::PodState,
    verify::{Own, PodSource, port_in},
};
use async_trait::async_trait;
use rollback_core::{ReleaseId, Result};

#[async_trait]
impl PodSource for Workload {
    async fn own(&self) -> Result<Own> {
        let live = self.live().await?;
        let pods = self.own_pods(&live).await?;
        let states: Vec<PodState> = pods.iter().map(PodState::of).collect();
        self.know(&live, &states).await?;
        let own = Own::of_all(pods, self.options.health_port, |pod| Some(self.release_of(pod)));
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
