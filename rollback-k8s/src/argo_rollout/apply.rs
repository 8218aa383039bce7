//! The writes. Each patch is guarded by what was read.

use super::{ArgoRollout, Generation, Read, Undo, live::Live};
use crate::{
    connect::JsonPatch,
    kinds::{DEPLOYMENT, ROLLOUT},
    marks,
    revisions::{Revision, still_there},
    side::having_written,
};
use rollback_core::{Applied, Approved, Error, Kind, Payload, Result, Work, seconds};
use serde_json::{Value, json};
use std::time::Duration;

/// How long the controller may take to take up a new template. It takes some 20 ms.
const TAKEN_UP: Duration = seconds(10);
/// Between two looks at it.
const POLL: Duration = Duration::from_millis(100);

impl ArgoRollout {
    /// Back to the stable release: the traffic first, by the abort; then the template, or a retry brings the bad one again.
    pub(super) async fn abort(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let undo: Undo = approved.read()?;
        let (live, revisions) = self.looked().await?;
        let to = still_there(&revisions, &undo.replica_set, &undo.uid, &undo.release)?;
        if live.stable != to.hash {
            let why = format!("its stable release is not {} any more: look again", to.release);
            return Err(conflict("abort the Rollout", why));
        }
        let mut wrote = false;
        // With nothing in flight an abort is none of ours to send.
        if read.current != read.stable && !read.aborted {
            self.patch_status("abort the Rollout", abort(read), work).await?;
            wrote = true;
        }
        if live.told(&revisions) == to.release {
            return submitted(&live);
        }
        let set = self.set_template(read, live.source.workload.as_deref(), to, false, work).await;
        set.map_err(|e| if wrote { having_written(e) } else { e })?;
        submitted(&live)
    }

    pub(super) async fn undo(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let undo: Undo = approved.read()?;
        if read.paused && !self.options.lift_pause {
            return Err(Error::new(Kind::Denied, "patch the Rollout")
                .with_message("somebody paused it meanwhile: resume it, or say that the pause may be lifted")
                .without_effect());
        }
        let (live, revisions) = self.looked().await?;
        let to = still_there(&revisions, &undo.replica_set, &undo.uid, &undo.release)?;
        let mut wrote = false;
        if live.told(&revisions) != to.release || live.paused {
            let set = self.set_template(read, live.source.workload.as_deref(), to, false, work).await;
            match set {
                Ok(()) => {}
                Err(e) if e.kind() == Kind::Conflict => self.after_conflict(e, to, work).await?,
                Err(e) => return Err(e),
            }
            wrote = true;
        }
        if !self.options.steps {
            let promoted = self.promote(to, work).await;
            promoted.map_err(|e| if wrote { having_written(e) } else { e })?;
        }
        submitted(&live)
    }

    async fn looked(&self) -> Result<(Live, Vec<Revision>)> {
        let live = self.live().await?;
        let revisions = self.revisions(&live).await?;
        Ok((live, revisions))
    }

    /// The controller forgets `promoteFull` when it meets a new template: it is told once it has taken that one up.
    async fn promote(&self, to: &Revision, work: &Work) -> Result<()> {
        let until = tokio::time::Instant::now() + TAKEN_UP.min(work.within());
        loop {
            let (live, revisions) = self.looked().await?;
            if live.told(&revisions) != to.release {
                return Err(conflict("skip the steps", "somebody set another template meanwhile".into()));
            }
            let current = revisions.iter().find(|revision| revision.hash == live.current);
            if live.taken_up && current.is_some_and(|current| current.release == to.release) {
                if live.current == live.stable {
                    return Ok(());
                }
                match self.patch_status("skip the steps", promote(&Read::of(&live)), work).await {
                    Err(e) if e.kind() == Kind::Conflict => {}
                    done => return done,
                }
            }
            if tokio::time::Instant::now() >= until {
                let why = format!("the controller did not take up the template within {TAKEN_UP:?}: does it run?");
                return Err(Error::new(Kind::Unavailable, "skip the steps").with_message(why));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sets the template where it is kept.
    pub(super) async fn set_template(
        &self,
        read: &Read,
        workload: Option<&str>,
        to: &Revision,
        dry_run: bool,
        work: &Work,
    ) -> Result<()> {
        self.may_write(work)?;
        let kind = if workload.is_some() { DEPLOYMENT } else { ROLLOUT };
        let name = workload.unwrap_or(&self.name);
        if workload.is_some() && read.paused {
            // The pause is the Rollout's, the template the Deployment's: no one write does both.
            let operations = vec![
                json!({"op": "test", "path": "/metadata/uid", "value": read.uid}),
                json!({"op": "test", "path": "/spec/paused", "value": true}),
                json!({"op": "remove", "path": "/spec/paused"}),
            ];
            let patch = self.patch("resume the Rollout", operations, dry_run, work);
            self.cluster.patch(JsonPatch { kind: ROLLOUT, name: &self.name, ..patch }).await?;
        }
        let patch = self.patch("set the template", template(read, workload.is_none(), to, work), dry_run, work);
        self.cluster.patch(JsonPatch { kind, name, ..patch }).await.map(drop)
    }

    async fn patch_status(&self, operation: &str, operations: Vec<Value>, work: &Work) -> Result<()> {
        self.may_write(work)?;
        self.cluster.patch_status(self.patch(operation, operations, false, work)).await.map(drop)
    }

    fn patch<'a>(&'a self, operation: &'a str, operations: Vec<Value>, dry_run: bool, work: &Work) -> JsonPatch<'a> {
        JsonPatch {
            operation,
            kind: ROLLOUT,
            namespace: &self.namespace,
            name: &self.name,
            operations,
            dry_run,
            within: work.within(),
        }
    }

    fn may_write(&self, work: &Work) -> Result<()> {
        if work.is_cancelled() {
            return Err(conflict("patch the Rollout", "this run has lost its lease".into()));
        }
        Ok(())
    }

    /// Where what is there is our own write, its answer was lost.
    async fn after_conflict(&self, e: Error, to: &Revision, work: &Work) -> Result<()> {
        let (live, revisions) = self.looked().await?;
        let told = live.told(&revisions);
        let ours = live.source.annotations.get(marks::KEY).is_some_and(|key| *key == work.key());
        if ours && told == to.release {
            return Ok(());
        }
        let why = format!("it was changed since it was looked at: it is told to run {told} now");
        Err(conflict("patch the Rollout", why).with_source(e).without_effect())
    }
}

fn conflict(operation: &str, why: String) -> Error {
    Error::new(Kind::Conflict, operation).with_message(why).without_effect()
}

fn submitted(live: &Live) -> Result<Applied> {
    let handle = Generation { uid: live.uid.clone(), generation: live.metadata.generation.unwrap_or_default() };
    Ok(Applied::submitted().with_handle(Payload::of(&handle)?))
}

/// The template of a revision, guarded by the one that was read.
fn template(read: &Read, in_rollout: bool, to: &Revision, work: &Work) -> Vec<Value> {
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": read.source_uid}),
        json!({"op": "test", "path": "/spec/template", "value": read.template}),
    ];
    if in_rollout {
        let paused = if read.paused { Value::Bool(true) } else { Value::Null };
        operations.push(json!({"op": "test", "path": "/spec/paused", "value": paused}));
        if read.paused {
            operations.push(json!({"op": "remove", "path": "/spec/paused"}));
        }
    }
    operations.push(json!({"op": "replace", "path": "/spec/template", "value": to.template}));
    marks::annotate(&mut operations, read.annotated, marks::of(work, &to.release));
    operations
}

/// Guarded by the hashes that were read: what was promoted meanwhile is not in flight any more.
fn of_status(read: &Read) -> Vec<Value> {
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": read.uid}),
        json!({"op": "test", "path": "/status/currentPodHash", "value": read.current}),
        json!({"op": "test", "path": "/status/stableRS", "value": read.stable}),
    ]
}

fn abort(read: &Read) -> Vec<Value> {
    let mut operations = of_status(read);
    operations.push(json!({"op": "add", "path": "/status/abort", "value": true}));
    operations
}

fn promote(read: &Read) -> Vec<Value> {
    let mut operations = of_status(read);
    operations.push(json!({"op": "add", "path": "/status/promoteFull", "value": true}));
    operations
}
