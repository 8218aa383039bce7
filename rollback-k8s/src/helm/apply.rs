//! The write: helm itself, by its argv, bounded in time.

use super::{HelmRelease, Number, Read, Undo, record::Revision};
use crate::{connect::JsonPatch, kinds::SECRET, marks};
use rollback_core::{
    Applied, Approved, Error, Kind, Look, Payload, Result, Running, Settled, Work,
    process::{Output, Process},
    redact::shortened,
    seconds,
};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// Helm's own `--timeout` ends before the process is killed: it says more than a kill.
const BEFORE_KILL: Duration = seconds(5);
/// How long it may take to read its history.
const HISTORY: Duration = seconds(30);

/// A line of `helm history -o json`: no values in it.
#[derive(Deserialize)]
struct Listed {
    revision: u64,
    updated: String,
}

impl HelmRelease {
    pub(super) async fn roll_back(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        const WHAT: &str = "roll the release back";
        let refused = |kind, why: String| Error::new(kind, WHAT).with_message(why).without_effect();
        let undo: Undo = approved.read()?;
        let revisions = self.revisions().await?;
        let newest = &revisions[0];
        let deployed = newest.release == undo.release && newest.status == "deployed";
        let ours = newest.annotations().get(marks::KEY).is_some_and(|key| *key == work.key());
        if deployed && (ours || self.is_there(&newest.release).await?) {
            return done(newest);
        }
        if newest.secret_uid() != read.secret || newest.number != read.revision || newest.status != read.status {
            let why = format!(
                "it was revision {} ({}) when it was looked at, and is {} now",
                read.revision,
                read.status,
                newest.label()
            );
            return Err(refused(Kind::Conflict, why));
        }
        if newest.status == "pending-install" || self.may_be_alive(newest) {
            let why = format!("{}: a helm may be at it", newest.label());
            return Err(refused(Kind::Conflict, why));
        }
        let there = revisions.iter().any(|of| of.number == undo.revision && of.release == undo.release);
        if !there {
            return Err(refused(Kind::Stale, format!("revision {} is gone, or is another one now", undo.revision)));
        }
        if work.is_cancelled() {
            return Err(refused(Kind::Conflict, "this run has lost its lease".into()));
        }
        self.same_cluster(newest).await?;
        let within = work.within().min(self.options.timeout);
        let timeout = format!("{}s", within.saturating_sub(BEFORE_KILL).as_secs().max(1));
        let revision = undo.revision.to_string();
        let output = self.helm(&["rollback", &self.name, &revision, "--timeout", &timeout], within).await?;
        if !output.is_success() {
            let why = said(&output);
            let gone = why.contains("not found");
            let error = Error::new(if gone { Kind::NotFound } else { Kind::Unexpected }, WHAT).with_message(why);
            return Err(if gone { error.without_effect() } else { error });
        }
        let revisions = self.revisions().await?;
        let newest = &revisions[0];
        if newest.release != undo.release || newest.number <= read.revision {
            let why = format!("helm says that it did, and the newest is {}: somebody else was there", newest.label());
            return Err(Error::new(Kind::Conflict, WHAT).with_message(why));
        }
        self.mark(newest, work).await?;
        done(newest)
    }

    /// It runs already, whoever brought it.
    async fn is_there(&self, release: &rollback_core::ReleaseId) -> Result<bool> {
        let seen = self.look(&Look::full()).await?;
        let is = |part: &rollback_core::PartState| {
            part.running == Running::Release(release.clone()) && !matches!(part.settled, Settled::Never { .. })
        };
        Ok(seen.parts.values().all(is))
    }

    /// Helm writes no reason and no key: they stand on the Secret of its revision.
    async fn mark(&self, newest: &Revision, work: &Work) -> Result<()> {
        let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": newest.secret_uid()})];
        marks::annotate(&mut operations, !newest.annotations().is_empty(), marks::of(work, &newest.release));
        let marked = self.cluster.patch(JsonPatch {
            operation: "mark the revision as ours",
            kind: SECRET,
            namespace: &self.namespace,
            name: newest.secret_name(),
            operations,
            dry_run: false,
            within: work.within(),
        });
        // Helm has rolled back by now.
        marked.await.map(drop).map_err(crate::side::having_written)
    }

    /// Helm's newest revision is the one that was read here: both mean the same cluster.
    pub(super) async fn same_cluster(&self, newest: &Revision) -> Result<()> {
        const WHAT: &str = "ask helm for the release";
        let output = self.helm(&["history", &self.name, "--max", "1", "-o", "json"], HISTORY).await.map_err(|e| {
            let fault = e.fault();
            Error::new(fault.kind, WHAT).with_message(fault.message.clone()).without_effect()
        })?;
        let failed = |kind, why: String| Error::new(kind, WHAT).with_message(why).without_effect();
        if !output.is_success() {
            return Err(failed(Kind::Unexpected, said(&output)));
        }
        let listed: Vec<Listed> = serde_json::from_slice(&output.stdout)
            .map_err(|e| failed(Kind::Unexpected, "its history cannot be read: is it Helm 3?".into()).with_source(e))?;
        let same = |listed: &Listed| {
            listed.revision == newest.number && moment(&listed.updated) == moment(&newest.deployed_at)
        };
        if listed.iter().any(same) {
            return Ok(());
        }
        let theirs = listed.first().map(|l| format!("revision {} of {}", l.revision, l.updated)).unwrap_or_default();
        Err(failed(
            Kind::Conflict,
            format!(
                "helm's newest is {theirs}, and the cluster {} has revision {} of {}: somebody was there just now, or helm \
                 means another cluster: it must be given the kubeconfig and the context of this one",
                self.cluster.name(),
                newest.number,
                newest.deployed_at
            ),
        ))
    }

    async fn helm(&self, arguments: &[&str], within: Duration) -> Result<Output> {
        let own = [self.options.program.as_str()].into_iter().chain(arguments.iter().copied());
        let mut argv: Vec<String> = own.map(Into::into).collect();
        argv.extend(["--namespace".into(), self.namespace.clone()]);
        if let Some(context) = &self.options.context {
            argv.extend(["--kube-context".into(), context.clone()]);
        }
        if let Some(path) = &self.options.kubeconfig {
            argv.extend(["--kubeconfig".into(), path.display().to_string()]);
        }
        // Its debug output shows manifests.
        Process::new(argv).without_env("HELM_DEBUG").within(within).run().await
    }
}

/// To the second: one has fractions where the other has not.
fn moment(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// What helm said, without the parts of objects that it quotes.
fn said(output: &Output) -> String {
    let text = output.stderr.trim();
    let text = text.split("Invalid value").next().unwrap_or_default();
    format!("helm ended with {output}: {}", shortened(text, 400))
}

fn done(newest: &Revision) -> Result<Applied> {
    let handle = Number { revision: newest.number, status: newest.status.clone() };
    Ok(Applied::submitted().with_handle(Payload::of(&handle)?))
}
