//! A change of a workload, made ready: found, diffed, tried without effect.

use super::{Read, Undo, Workload, live::Live, observe::Seen, patch};
use crate::{
    applied,
    connect::JsonPatch,
    diff, images,
    kinds::{CONTROLLER_REVISION, POD},
    owner,
    pods::PodState,
    prepare::{self, Access},
    release,
    revisions::Revision,
};
use rollback_core::{Change, DiffLine, Finding, Payload, Prepared, ReleaseId, Result, Severity, Work};

impl Workload {
    pub(super) async fn prepare_undo(&self, change: &Change, wanted: &ReleaseId, work: &Work) -> Result<Prepared> {
        let live = self.live().await?;
        let revisions = self.revisions(&live).await?;
        let archive = self.archive(&live);
        let found = archive.find(&live.told, &live.annotations, &revisions, wanted, live.history_limit).await;
        let (to, compared) = found.map_err(|e| e.with_target(&self.id))?;
        let to = &to;
        let all = self.own_pods(&live).await?;
        let pods: Vec<PodState> = all.iter().map(PodState::of).collect();
        let read = Read::of(&live);
        let mut lines = diff::templates(&live.template, &to.template);
        lines.extend(applied::line(&live.annotations).filter(|_| !lines.is_empty()));
        if live.told == to.release && live.template != to.template && lines.is_empty() {
            lines.push(DiffLine { what: "started once more".into(), from: None, to: None });
        }
        if !compared.restores.is_empty() {
            lines.extend(compared.lines.iter().cloned());
            lines.push(DiffLine { what: "all pods".into(), from: None, to: Some("started once more".into()) });
        }
        let deletes = |what: &str| DiffLine { what: what.into(), from: None, to: Some("deleted".into()) };
        if live.on_delete() && self.options.delete_pods {
            lines.push(deletes("pods of other releases, one at a time"));
        } else if live.ordered && !live.on_delete() {
            lines.push(deletes("pods of other releases that are not ready, for which its controller would wait"));
        }
        let mut findings = self.by_strategy(&live, to, &pods);
        findings.extend(compared.findings.iter().cloned());
        findings.extend(owner::findings(&owner::owners(&live.metadata)));
        let mut needed = vec![
            Access::new("patch", self.flavour.kind(), &self.namespace),
            Access::new("list", CONTROLLER_REVISION, &self.namespace),
            Access::new("list", POD, &self.namespace),
        ];
        needed.extend(compared.needed(&self.namespace));
        if live.ordered || live.on_delete() && self.options.delete_pods {
            needed.push(Access::new("delete", POD, &self.namespace));
        }
        // They ask for nothing of each other, and somebody waits.
        let pods = all.iter().map(PodState::of);
        let pods: Vec<_> = pods.filter_map(|pod| Some((self.release_of(&pod)? == to.release, pod))).collect();
        let most = live.strategy.pointer("/rollingUpdate/maxUnavailable");
        let away = prepare::unavailable(most, "1", live.count);
        let (permissions, references, images, budgets, tried) = futures::join!(
            prepare::permissions(&self.cluster, &needed),
            prepare::missing_references(&self.cluster, &self.namespace, &to.template, &compared.restores),
            images::findings(&self.cluster, &self.namespace, &to.template, &pods),
            prepare::budgets(&self.cluster, &self.namespace, &to.template, live.count, away),
            self.try_out(&read, to, work),
        );
        findings.extend(permissions);
        findings.extend(references);
        findings.extend(images);
        findings.extend(budgets);
        findings.extend(tried?);
        let undo = Undo {
            revision: to.name.clone(),
            uid: to.uid.clone(),
            release: to.release.clone(),
            recorded: revisions.iter().all(|revision| revision.uid != to.uid),
            config: compared.restores,
        };
        let prepared = Prepared::new(change).with_instructions(Payload::of(&undo)?).with_diff(lines);
        Ok(findings.into_iter().fold(prepared, Prepared::with_finding))
    }

    /// What the update strategy would leave undone.
    fn by_strategy(&self, live: &Live, to: &Revision, pods: &[PodState]) -> Vec<Finding> {
        let names = |pods: &[&PodState]| pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(", ");
        let wanted =
            Live { told: to.release.clone(), template: to.template.clone(), update_revision: None, ..live.clone() };
        let sides = self.sides(&Seen { live: &wanted, pods });
        let mut findings = vec![];
        if live.on_delete() && !sides.others.is_empty() {
            let (severity, text) = if self.options.delete_pods {
                (Severity::Note, "its pods are deleted one at a time, the next when all serve".to_owned())
            } else {
                let text = "nothing would happen by itself: order the rollback with leave to delete pods, one at a time, or set \
                            RollingUpdate";
                (Severity::Blocks, text.to_owned())
            };
            findings.push(Finding::new(severity, "on-delete", format!("its update strategy is OnDelete: {text}")));
        }
        if !live.on_delete() && !sides.held.is_empty() {
            let text = format!(
                "its partition ({}) keeps {} at another release, and the wanted one would not reach them: lower it \
                 (spec.updateStrategy.rollingUpdate.partition)",
                live.partition,
                names(&sides.held)
            );
            findings.push(Finding::new(Severity::Blocks, "partition", text));
        }
        let stuck = sides.stuck(live);
        if !stuck.is_empty() {
            let text = format!(
                "not ready, and of another release: {}; its controller would wait for them (OrderedReady), so they are \
                 deleted",
                names(&stuck)
            );
            findings.push(Finding::new(Severity::Note, "stuck", text));
        }
        findings
    }

    /// The patch as it would be sent, checked by the server and not kept: admission and validation.
    async fn try_out(&self, read: &Read, to: &Revision, work: &Work) -> Result<Vec<Finding>> {
        let tried = self.cluster.patch(JsonPatch {
            operation: "try the patch without effect",
            kind: self.flavour.kind(),
            namespace: &self.namespace,
            name: &self.name,
            operations: patch::undo(read, to, work, &self.cause(to, work)),
            dry_run: true,
            within: work.within(),
        });
        prepare::tried(tried.await).map_err(|e| e.with_target(&self.id))
    }

    /// What `kubectl rollout history` will show.
    pub(super) fn cause(&self, to: &Revision, work: &Work) -> String {
        release::cause(&to.template, to.number, work)
    }
}
