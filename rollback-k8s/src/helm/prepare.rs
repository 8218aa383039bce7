//! A rollback of a release, made ready.

use super::{HelmRelease, Undo, record::Revision};
use crate::{
    diff, images,
    kinds::SECRET,
    owner,
    prepare::{self, Access},
};
use rollback_core::{Change, DiffLine, Error, Finding, Kind, Payload, Prepared, ReleaseId, Result, Severity, Work};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};

impl HelmRelease {
    pub(super) async fn make_ready(&self, change: &Change, wanted: &ReleaseId, _work: &Work) -> Result<Prepared> {
        let revisions = self.revisions().await?;
        let newest = &revisions[0];
        let to = find(&revisions, wanted)?;
        let mut findings = vec![];
        if newest.is_pending() {
            findings.push(self.pending(newest));
        }
        let needed = [Access::new("patch", SECRET, &self.namespace)];
        let references = async {
            let mut missing = vec![];
            for object in to.workloads() {
                let namespace = object.namespace.as_deref().unwrap_or(&self.namespace);
                missing.extend(prepare::missing_references(&self.cluster, namespace, &object.template(), &[]).await);
            }
            // What the release brings along is not missing.
            missing.retain(|finding: &Finding| {
                let brought = |kind: &str| {
                    let mut own = to.objects.iter().filter(|object| object.kind == kind);
                    own.any(|object| finding.text.contains(&format!("the {kind} {},", object.name)))
                };
                !brought("ConfigMap") && !brought("Secret")
            });
            missing
        };
        let named = [newest];
        let pods = async {
            // Whose a pod is, is told as for verifiers; where it cannot be told, less is found.
            let own = self.pods(&revisions).await.unwrap_or_default();
            let pods: Vec<_> =
                own.pods.into_iter().filter_map(|pod| Some((pod.release? == to.release, pod.state))).collect();
            let mut found = vec![];
            for object in to.workloads() {
                let namespace = object.namespace.as_deref().unwrap_or(&self.namespace);
                let (template, (replicas, away)) = (object.template(), object.replicas());
                found.extend(images::findings(&self.cluster, namespace, &template, &pods).await);
                found.extend(prepare::budgets(&self.cluster, namespace, &template, replicas, away).await);
            }
            found
        };
        let (permissions, references, helm, live, pods) = futures::join!(
            prepare::permissions(&self.cluster, &needed),
            references,
            self.same_cluster(newest),
            self.workloads(&named),
            pods,
        );
        findings.extend(permissions);
        findings.extend(references);
        findings.extend(pods);
        if let Err(e) = helm {
            findings.push(Finding::new(Severity::Blocks, "helm", e.to_string()));
        }
        let owners: BTreeSet<String> = live.into_iter().flatten().flat_map(|live| live.owners).collect();
        findings.extend(owner::findings(&owners.into_iter().collect::<Vec<_>>()));
        let undo = Undo { revision: to.number, release: to.release.clone() };
        let prepared = Prepared::new(change).with_instructions(Payload::of(&undo)?).with_diff(difference(newest, to));
        Ok(findings.into_iter().fold(prepared, Prepared::with_finding))
    }

    fn pending(&self, newest: &Revision) -> Finding {
        let what = format!("revision {} is {}", newest.number, newest.status);
        if newest.status == "pending-install" {
            let text = format!("{what}: it was never installed, and there is nothing to go back to; helm uninstall it");
            return Finding::new(Severity::Blocks, "pending", text);
        }
        if self.may_be_alive(newest) {
            let text = format!(
                "{what}: a helm may still be at it, and two at once both succeed. Wait until it has been for {:?}; or make \
                 sure that the process is dead, and order the rollback with leave to pass over what is pending",
                self.options.timeout
            );
            return Finding::new(Severity::Blocks, "pending", text);
        }
        let why = if self.options.over_pending {
            "as was said, it is passed over".to_owned()
        } else {
            format!("it has been for longer than {:?}, so it is passed over", self.options.timeout)
        };
        Finding::new(Severity::Warning, "pending", format!("{what}: {why}; its record stays"))
    }
}

/// The revision of a release: of several, the last one that is known to have been deployed.
fn find<'a>(revisions: &'a [Arc<Revision>], wanted: &ReleaseId) -> Result<&'a Arc<Revision>> {
    let of = || revisions.iter().filter(|revision| revision.release == *wanted && !revision.is_pending());
    let deployed = of().find(|revision| matches!(revision.status.as_str(), "deployed" | "superseded"));
    deployed.or_else(|| of().next()).ok_or_else(|| {
        let there = revisions.iter().map(|revision| format!("{} is {}", revision.label(), revision.release));
        let text = format!(
            "Helm keeps no revision of {wanted} (--history-max, 10 by default). There are: {}",
            there.collect::<Vec<_>>().join("; ")
        );
        Error::new(Kind::NotFound, "find the release").with_message(text).without_effect()
    })
}

/// What changes, for people. Values are told apart, and not shown.
fn difference(from: &Revision, to: &Revision) -> Vec<DiffLine> {
    let mut lines = vec![];
    if from.chart != to.chart {
        lines.push(DiffLine::new("chart", &from.chart, &to.chart));
    }
    if from.values != to.values {
        let short = |of: &rollback_core::Digest| of.as_str().chars().take("sha256:".len() + 8).collect::<String>();
        lines.push(DiffLine::new("values", short(&from.values), short(&to.values)));
    }
    let names: BTreeSet<(&str, &str)> =
        from.objects.iter().chain(&to.objects).map(|object| (object.kind.as_str(), object.name.as_str())).collect();
    for (kind, name) in names {
        let what = format!("{kind} {name}");
        match (from.object(kind, name), to.object(kind, name)) {
            (Some(_), None) => lines.push(DiffLine { what, from: Some("there".into()), to: None }),
            (None, Some(_)) => lines.push(DiffLine { what, from: None, to: Some("there".into()) }),
            (Some(before), Some(after)) if before.content != after.content => {
                let inner = diff::templates(&before.template(), &after.template());
                let rest = |of: &Value| {
                    let mut of = of.clone();
                    of.pointer_mut("/spec/template").map(Value::take);
                    of
                };
                if rest(&before.content) != rest(&after.content) {
                    lines.push(DiffLine { what: what.clone(), from: None, to: Some("as it was".into()) });
                }
                lines.extend(inner.into_iter().map(|line| DiffLine { what: format!("{what} {}", line.what), ..line }));
            }
            _ => {}
        }
    }
    lines
}
