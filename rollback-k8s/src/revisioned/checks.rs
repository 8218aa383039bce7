//! What verifiers and health checks ask of a workload's pods.

use super::Workload;
use crate::{
    pods::PodState,
    verify::{Own, PodSource},
};
use async_trait::async_trait;
use rollback_core::Result;

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
}
