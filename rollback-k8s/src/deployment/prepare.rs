//! A change of a Deployment, made ready: found, diffed, tried without effect.

use super::{Deployment, Read, Undo, diff, emergency, live::Live, patch};
use crate::{
    applied,
    connect::JsonPatch,
    images,
    kinds::{DEPLOYMENT, POD, REPLICA_SET},
    marks, owner,
    pods::PodState,
    prepare::{self, Access},
    release,
    revisions::Revision,
    steered,
};
use rollback_core::{Change, DiffLine, Finding, Payload, Prepared, ReleaseId, Result, Severity, Work};
use serde_json::Value;

impl Deployment {
    pub(super) async fn prepare_undo(&self, change: &Change, wanted: &ReleaseId, work: &Work) -> Result<Prepared> {
        let live = self.confirmed_live().await?;
        let revisions = self.known_revisions(&live).await?;
        let archive = self.archive(&live);
        // What it refers to is what the revision refers to that it is made of.
        let made = emergency::with_images(&revisions, &self.options, wanted);
        let of = made.as_ref().and_then(|made| revisions.iter().find(|revision| revision.uid == made.uid));
        let of = of.map_or(wanted, |revision| &revision.release);
        let found = archive.find(&live.told, &live.annotations, &revisions, of, live.history_limit).await;
        let (to, compared) = found.map_err(|e| e.with_target(&self.id))?;
        let to = made.unwrap_or(to);
        let to = &to;
        let read = Read::of(&live);
        let mut findings = compared.findings.clone();
        let blocked = live.paused && live.paused_by_us().is_none() && !self.options.lift_pause;
        if blocked {
            findings.push(Finding::new(
                Severity::Blocks,
                "paused",
                "somebody paused its rollout: ask why, and resume it (kubectl rollout resume); or order the rollback with leave to \
                 lift a pause",
            ));
        }
        let mut lines = diff::templates(&live.template, &to.template);
        if !compared.restores.is_empty() {
            lines.extend(compared.lines.iter().cloned());
            lines.push(DiffLine { what: "all pods".into(), from: None, to: Some("started once more".into()) });
        }
        if live.paused {
            lines.push(DiffLine { what: "paused".into(), from: Some("true".into()), to: None });
        }
        for (key, value) in patch::comes_back(&to.annotations) {
            if live.annotations.get(&key) != Some(&value) {
                // As with the template: what stands in an annotation is nobody's business here.
                lines.push(DiffLine { what: format!("annotation {key}"), from: None, to: Some("as it was".into()) });
            }
        }
        if let Some(surge) = &self.options.surge {
            match patch::raised(&live.strategy, patch::asked(surge)) {
                Some(_) => lines.push(DiffLine::new("maxSurge, until it is put back", surge_of(&live.strategy), surge)),
                None => findings.push(Finding::new(
                    Severity::Note,
                    "surge",
                    "the surge is not raised: the strategy is not RollingUpdate, or has it already",
                )),
            }
        }
        if self.options.surge.is_none() && live.annotations.contains_key(marks::STRATEGY) {
            let what = "maxSurge, which a run that was not finished raised".into();
            lines.push(DiffLine { what, from: Some(surge_of(&live.strategy)), to: Some("as it was".into()) });
        }
        lines.extend(applied::line(&live.annotations).filter(|_| !lines.is_empty()));
        if live.told == to.release && live.template != to.template && lines.is_empty() {
            lines.push(DiffLine { what: "started once more".into(), from: None, to: None });
        }
        findings.extend(owner::findings(&live.owners));
        let mut needed = vec![
            Access::new("patch", DEPLOYMENT, &self.namespace),
            Access::new("list", REPLICA_SET, &self.namespace),
            Access::new("list", POD, &self.namespace),
        ];
        needed.extend(compared.needed(&self.namespace));
        let away = prepare::may_be_missing(&live.strategy, live.replicas);
        // They ask for nothing of each other, and somebody waits.
        let steered = async {
            if self.options.through_owner {
                return vec![];
            }
            steered::findings(&self.cluster, &self.namespace, &self.name).await
        };
        let (permissions, references, images, budgets, autoscalers, steered, tried) = futures::join!(
            prepare::permissions(&self.cluster, &needed),
            prepare::missing_references(&self.cluster, &self.namespace, &to.template, &compared.restores),
            self.images(&live, to),
            prepare::budgets(&self.cluster, &self.namespace, &to.template, live.replicas, away),
            self.autoscalers(),
            steered,
            self.try_out(&read, to, work, blocked),
        );
        findings.extend(permissions);
        findings.extend(references);
        findings.extend(images);
        findings.extend(budgets);
        findings.extend(autoscalers);
        findings.extend(steered);
        findings.extend(tried?);
        let derived = revisions.iter().any(|revision| revision.uid == to.uid && revision.release != to.release);
        let undo = Undo {
            replica_set: to.name.clone(),
            uid: to.uid.clone(),
            release: to.release.clone(),
            recorded: !derived && revisions.iter().all(|revision| revision.uid != to.uid),
            config: compared.restores,
            images: if derived { self.options.images.clone() } else { emergency::Images::new() },
        };
        let prepared = Prepared::new(change).with_instructions(Payload::of(&undo)?).with_diff(lines);
        Ok(findings.into_iter().fold(prepared, Prepared::with_finding))
    }

    pub(super) async fn prepare_halt(&self, change: &Change) -> Result<Prepared> {
        let live = self.confirmed_live().await?;
        let lines = (!live.paused).then(|| DiffLine { what: "paused".into(), from: None, to: Some("true".into()) });
        Ok(Prepared::new(change).with_diff(lines))
    }

    pub(super) async fn prepare_lower_surge(&self, change: &Change) -> Result<Prepared> {
        let surge = self.options.surge.clone().unwrap_or_default();
        Ok(Prepared::new(change).with_diff([DiffLine::new("maxSurge", surge, "as it was")]))
    }

    /// The patch as it would be sent, checked by the server and not kept: admission, quotas of objects, validation.
    async fn try_out(&self, read: &Read, to: &Revision, work: &Work, blocked: bool) -> Result<Vec<Finding>> {
        if blocked || self.options.no_dry_run {
            return Ok(vec![]);
        }
        let operations = patch::undo(read, to, &self.options, work, &self.cause(to, work));
        let tried = self.cluster.patch(JsonPatch {
            operation: "try the patch without effect",
            kind: DEPLOYMENT,
            namespace: &self.namespace,
            name: &self.name,
            operations,
            dry_run: true,
            within: work.within(),
        });
        prepare::tried(tried.await).map_err(|e| e.with_target(&self.id))
    }

    /// Whether its images can be had, and are what they were.
    async fn images(&self, live: &Live, to: &Revision) -> Vec<Finding> {
        let pods = self.known_pods(live).await.unwrap_or_default().into_iter();
        let wanted = |pod: &PodState| Some(self.release_of(pod)? == to.release);
        let pods: Vec<_> = pods.filter_map(|pod| wanted(&pod).map(|wanted| (wanted, pod))).collect();
        images::findings(&self.cluster, &self.namespace, &to.template, &pods).await
    }

    /// Autoscalers go on as they are: a note, so that nobody wonders at the number of replicas.
    async fn autoscalers(&self) -> Vec<Finding> {
        let all = self.cluster.autoscalers(&self.namespace).await;
        let scales_this = |data: &Value| {
            let of = |key: &str| data.pointer(&format!("/spec/scaleTargetRef/{key}")).and_then(Value::as_str);
            of("kind") == Some("Deployment") && of("name") == Some(&self.name)
        };
        all.iter()
            .filter(|autoscaler| scales_this(&autoscaler.data))
            .map(|autoscaler| {
                let name = autoscaler.metadata.name.as_deref().unwrap_or_default();
                let text = format!("hpa:{name} decides how many replicas there are: they are left alone");
                Finding::new(Severity::Note, "owner", text)
            })
            .collect()
    }

    /// What `kubectl rollout history` will show.
    pub(super) fn cause(&self, to: &Revision, work: &Work) -> String {
        release::cause(&to.template, to.number, work)
    }
}

fn surge_of(strategy: &Value) -> String {
    match strategy.pointer("/rollingUpdate/maxSurge") {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "the default".into(),
    }
}
