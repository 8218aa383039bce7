//! The writes: the gate of the webhook, the target's template, and the Canary's end.

use super::{
    FlaggerCanary, Read, Since, Undo,
    canary::{Canary, Phase},
};
use crate::{error::Request, kinds::FLAGGER_CANARY, side::having_written};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Preconditions},
};
use rollback_core::{Applied, Approved, Error, Kind, Look, Payload, Result, Settled, Target as _, Token, Work};

fn conflict(operation: &str, why: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, operation).with_message(why).without_effect()
}

impl FlaggerCanary {
    /// Makes the rollback webhook answer 200. Flagger takes it up at its next tick.
    pub(super) async fn end_run(&self, read: &Read, work: &Work) -> Result<Applied> {
        const WHAT: &str = "end the run of the Canary";
        let canary = self.unchanged(WHAT, read, work).await?;
        if !canary.in_flight() {
            return Ok(Applied::done());
        }
        if canary.applied != read.applied {
            return Err(conflict(WHAT, "it brings out another template than the one that was looked at"));
        }
        let gate = self.gate_for(&canary).filter(|_| canary.phase == Phase::Running && !canary.skips_analysis);
        let gate = gate.ok_or_else(|| conflict(WHAT, format!("nothing ends it now: {}", canary.progress())))?;
        gate.open(&self.namespace, &self.name).await?;
        Ok(Applied::submitted())
    }

    /// The target back. Never in flight: it would go unnoticed, and the run would end Succeeded.
    pub(super) async fn undo(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        const WHAT: &str = "set the target's release";
        let undo: Undo = approved.read()?;
        let canary = self.unchanged(WHAT, read, work).await?;
        if canary.in_flight() {
            return Err(conflict(WHAT, format!("a run is in flight, and has to end first: {}", canary.progress())));
        }
        // Or the next run ends as soon as it begins.
        let gate = self.gate_for(&canary).filter(|_| !canary.webhooks.is_empty());
        if let Some(gate) = &gate {
            gate.close(&self.namespace, &self.name).await?;
        }
        let applied = self.deployment(&canary).apply(&undo.target, Token(read.target.clone()), work).await?;
        let since = Since { transition: canary.transition };
        Ok(Applied::new(applied.extent).with_handle(Payload::of(&since).map_err(having_written)?))
    }

    async fn unchanged(&self, operation: &str, read: &Read, work: &Work) -> Result<Canary> {
        if work.is_cancelled() {
            return Err(conflict(operation, "this run has lost its lease"));
        }
        let canary = self.canary().await?;
        if canary.uid != read.uid {
            return Err(conflict(operation, "it is another Canary of the same name now"));
        }
        Ok(canary)
    }

    /// Deletes the Canary and leaves the Deployment to itself, where that leaves a good release serving: no run is in flight,
    /// the Canary reverts on deletion, and the target runs what the primary runs, with as many replicas, all of them ready.
    /// The primary's pods end at once, and kube-proxy takes up to a second to send to the others: without a graceful end,
    /// new connections are refused meanwhile.
    ///
    /// Elsewhere the deletion is an outage: in flight it sends everything to the bad release; without `revertOnDeletion` the
    /// primary goes and the Service still selects it; a target at 0 replicas is switched to all the same.
    ///
    /// ```no_run
    /// # async fn retire(checkout: rollback_k8s::FlaggerCanary) -> rollback_core::Result<()> {
    /// checkout.delete().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::Conflict`], without effect, where it would take traffic away, with what is missing; otherwise as the API
    /// server.
    ///
    /// # Cancel safety
    /// The deletion is one request, guarded by what was looked at.
    pub async fn delete(&self) -> Result<()> {
        self.delete_if_safe().await.map_err(|e| e.with_target(&self.id))
    }

    async fn delete_if_safe(&self) -> Result<()> {
        const WHAT: &str = "delete the Canary";
        let seen = self.look(&Look::full()).await?;
        let canary = &seen.canary;
        if canary.in_flight() {
            let why = format!(
                "{}: its deletion would send all traffic to the bad release; end the run first",
                canary.progress()
            );
            return Err(conflict(WHAT, why));
        }
        if !canary.reverts_on_deletion {
            let why = "without spec.revertOnDeletion its deletion takes the primary away while the Service still selects \
                       it: set it first";
            return Err(conflict(WHAT, why));
        }
        let Some(primary) = &seen.primary else { return Err(conflict(WHAT, "it has no primary")) };
        if seen.workload.release_of(&primary.told) != seen.workload.told {
            let why = "the target is told to run another release than the primary: bring the target back first";
            return Err(conflict(WHAT, why));
        }
        let target = seen.target.parts.values().next();
        let ready = target.and_then(|part| part.ready).unwrap_or(0);
        let there = target.is_some_and(|part| part.settled == Settled::Yes) && ready >= primary.replicas.max(1);
        if !there {
            let why = format!(
                "the target has {ready} replicas ready and the primary {}: scale the target first (kubectl scale)",
                primary.replicas
            );
            return Err(conflict(WHAT, why));
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.cluster.client().clone(), &self.namespace, &FLAGGER_CANARY.resource());
        let request = Request {
            operation: WHAT,
            verb: "delete",
            kind: FLAGGER_CANARY,
            namespace: Some(&self.namespace),
            name: &self.name,
        };
        let as_seen =
            Preconditions { uid: Some(canary.uid.clone()), resource_version: Some(canary.resource_version.clone()) };
        let params = DeleteParams { preconditions: Some(as_seen), ..DeleteParams::default() };
        self.cluster.ask(self.cluster.reply_within(), &request, api.delete(&self.name, &params)).await.map(drop)
    }
}
