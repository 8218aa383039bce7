//! A change of a Rollout, made ready: found, diffed, tried without effect.

use super::{ArgoRollout, Read, Undo, live::Live};
use crate::{
    diff, images,
    kinds::{DEPLOYMENT, ROLLOUT, ROLLOUT_STATUS},
    owner,
    prepare::{self, Access},
    revisions::{Revision, gone},
    verify::PodSource as _,
};
use rollback_core::{
    Change, DiffLine, Error, Finding, Kind, Landing, Payload, Prepared, ReleaseId, Result, Severity, Work,
};

impl ArgoRollout {
    pub(super) async fn prepare_undo(&self, change: &Change, wanted: &ReleaseId, work: &Work) -> Result<Prepared> {
        let live = self.live().await?;
        let revisions = self.revisions(&live).await?;
        let to = self.find(&live, &revisions, wanted)?;
        let mut lines = diff::templates(&live.source.template, &to.template);
        if live.told(&revisions) != to.release && !self.options.steps {
            lines.push(DiffLine { what: "steps".into(), from: None, to: Some("skipped (promoteFull)".into()) });
        }
        let findings = self.findings(&live, to, work).await?;
        self.made_ready(change, to, lines, findings)
    }

    pub(super) async fn prepare_abort(
        &self,
        change: &Change,
        expect: &Landing,
        never: &ReleaseId,
        work: &Work,
    ) -> Result<Prepared> {
        let live = self.live().await?;
        let revisions = self.revisions(&live).await?;
        let refused = |why: String| Error::new(Kind::Stale, "prepare the abort").with_message(why).without_effect();
        let stable = live.stable_of(&revisions).ok_or_else(|| refused("it has no stable release to land on".into()))?;
        let elsewhere = matches!(expect, Landing::On(release) if *release != stable.release);
        if elsewhere || stable.release == *never {
            return Err(refused(format!("it would land on {}, which is not where it is to land", stable.release)));
        }
        let mut lines = diff::templates(&live.source.template, &stable.template);
        if live.current != live.stable && !live.aborted {
            lines.insert(0, DiffLine { what: "abort".into(), from: None, to: Some(stable.release.to_string()) });
        }
        let findings = self.findings(&live, stable, work).await?;
        self.made_ready(change, stable, lines, findings)
    }

    fn made_ready(
        &self,
        change: &Change,
        to: &Revision,
        lines: Vec<DiffLine>,
        found: Vec<Finding>,
    ) -> Result<Prepared> {
        let undo = Undo { replica_set: to.name.clone(), uid: to.uid.clone(), release: to.release.clone() };
        let prepared = Prepared::new(change).with_instructions(Payload::of(&undo)?).with_diff(lines);
        Ok(found.into_iter().fold(prepared, Prepared::with_finding))
    }

    fn find<'a>(&self, live: &Live, revisions: &'a [Revision], wanted: &ReleaseId) -> Result<&'a Revision> {
        let found = revisions.iter().find(|revision| revision.release == *wanted);
        found.ok_or_else(|| gone("ReplicaSet", wanted, live.history_limit, revisions))
    }

    async fn findings(&self, live: &Live, to: &Revision, work: &Work) -> Result<Vec<Finding>> {
        let mut findings = owner::findings(&owner::owners(&live.metadata));
        if live.paused && !self.options.lift_pause {
            findings.push(Finding::new(
                Severity::Blocks,
                "paused",
                "somebody paused the Rollout (spec.paused): ask why, and set that to false; or order the rollback with leave to \
                 lift a pause",
            ));
        }
        let holder = if live.source.workload.is_some() { DEPLOYMENT } else { ROLLOUT };
        let needed =
            [Access::new("patch", holder, &self.namespace), Access::new("patch", ROLLOUT_STATUS, &self.namespace)];
        let read = Read::of(live);
        let images = async {
            // Whose a pod is, is told as for verifiers; where it cannot be told, less is found.
            let own = self.own().await.unwrap_or_default();
            let pods: Vec<_> =
                own.pods.into_iter().filter_map(|pod| Some((pod.release? == to.release, pod.state))).collect();
            images::findings(&self.cluster, &self.namespace, &to.template, &pods).await
        };
        let (permissions, references, images, budgets, tried) = futures::join!(
            prepare::permissions(&self.cluster, &needed),
            prepare::missing_references(&self.cluster, &self.namespace, &to.template, &[]),
            images,
            prepare::budgets(&self.cluster, &self.namespace, &to.template, live.replicas, live.away),
            self.try_out(&read, live, to, work),
        );
        findings.extend(permissions);
        findings.extend(references);
        findings.extend(images);
        findings.extend(budgets);
        findings.extend(tried?);
        Ok(findings)
    }

    /// The patch as it would be sent, checked by the server and not kept.
    async fn try_out(&self, read: &Read, live: &Live, to: &Revision, work: &Work) -> Result<Vec<Finding>> {
        prepare::tried(self.set_template(read, live.source.workload.as_deref(), to, true, work).await)
    }
}
