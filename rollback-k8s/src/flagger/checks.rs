//! What verifiers and health checks ask of the pods of a Canary's primary and target, and what of it is evidence.

use super::FlaggerCanary;
use crate::{
    evidence::{Saving, What},
    kinds::{DEPLOYMENT, FLAGGER_CANARY, SERVICE},
    verify::{Own, PodChecks, PodSource},
};
use async_trait::async_trait;
use rollback_core::{Kind, Look, Result};

impl FlaggerCanary {
    /// Verifiers and health checks of the pods of the primary and of the target, as releases of the target, that the API
    /// server answers.
    ///
    /// ```no_run
    /// # fn of(checkout: rollback_k8s::FlaggerCanary) {
    /// let traffic = checkout.checks().endpoints_of("checkout");
    /// # }
    /// ```
    pub fn checks(&self) -> PodChecks {
        PodChecks::new(&self.cluster, &self.namespace, format!("canary/{}", self.name), self.clone())
    }
}

#[async_trait]
impl PodSource for FlaggerCanary {
    async fn own(&self) -> Result<Own> {
        let read = async {
            let seen = self.look(&Look::quick()).await?;
            let target = self.deployment(&seen.canary);
            let Some(primary) = &seen.primary else { return target.own().await };
            let of_primary = self.primary(&seen.canary);
            let (target, of_primary) = futures::try_join!(target.own(), of_primary.own())?;
            Ok(of_primary.renamed(|own| Some(primary.as_target(&seen.workload, own))).and(target))
        };
        read.await.map_err(|e| e.with_target(&self.id))
    }
}

#[async_trait]
impl Saving for FlaggerCanary {
    async fn what(&self) -> Result<What> {
        let what = What::default().with_object(FLAGGER_CANARY, &self.name);
        match self.canary().await {
            Ok(canary) => Ok(what
                .with_workload(DEPLOYMENT, &canary.target)
                .with_workload(DEPLOYMENT, format!("{}-primary", canary.target))
                .with_object(SERVICE, canary.service)),
            // What it steers is not known: what there is of it is kept.
            Err(e) if e.kind() == Kind::Unsupported => Ok(what),
            Err(e) => Err(e),
        }
    }
}
