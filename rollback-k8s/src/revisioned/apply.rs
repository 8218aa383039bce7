//! The writes: one patch, guarded by what was read; then, where its controller would wait for ever or for somebody, pods
//! that are deleted, each guarded by its uid and its version.

use super::{Read, Undo, Workload, Wrote, live::Live, observe::Seen, patch};
use crate::{
    connect::{JsonPatch, PodDeletion},
    marks,
    pods::PodState,
    record::{Archive, Owner, started_once_more},
    revisions::{Revision, still_there},
};
use futures::future::BoxFuture;
use rollback_core::{Applied, Approved, Error, Kind, Payload, Result, Work};
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Time between two looks at pods that may have to be deleted.
const POLL: Duration = Duration::from_millis(500);

impl Workload {
    pub(super) async fn undo(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let begun = Instant::now();
        let undo: Undo = approved.read()?;
        let to = self.revision_of(&undo).await?;
        let live = self.write(&undo, read, &to, work).await?;
        // Some of the time is left for what comes after: waiting until it has settled.
        self.see_to_pods(&to, work, begun + work.within() / 4 * 3).await?;
        let wrote = Wrote { uid: live.uid.clone(), generation: live.metadata.generation.unwrap_or_default() };
        Ok(Applied::submitted().with_handle(Payload::of(&wrote)?))
    }

    /// What pods refer to, then the template.
    async fn write(&self, undo: &Undo, read: &Read, to: &Revision, work: &Work) -> Result<Live> {
        let restores = !undo.config.is_empty();
        let mut to = to.clone();
        if restores {
            to.template = started_once_more(&to.template, &work.key());
        }
        let to = &to;
        let operations = &patch::undo(read, to, work, &self.cause(to, work));
        let write =
            |dry_run| -> BoxFuture<'_, Result<Live>> { Box::pin(self.guarded(operations.clone(), work, dry_run)) };
        let settle = |e| -> BoxFuture<'_, Result<Live>> { Box::pin(self.after_conflict(e, to, work)) };
        if restores {
            let owner = Owner { kind: self.flavour.kind(), name: &self.name, uid: &read.uid };
            let archive = Archive::new(&self.cluster, &self.namespace, owner, &self.options.config);
            return archive.bring_back(&read.template, &undo.config, work, write, settle).await;
        }
        match write(false).await {
            Err(e) if e.kind() == Kind::Conflict => settle(e).await,
            answer => answer,
        }
    }

    /// Deletes what its controller would wait for, until nothing is left that it could get stuck on. What it has done is
    /// seen on the pods: called again, it goes on.
    async fn see_to_pods(&self, to: &Revision, work: &Work, until: Instant) -> Result<()> {
        loop {
            if work.is_cancelled() {
                return Err(Error::new(Kind::Conflict, "replace pods").with_message("this run has lost its lease"));
            }
            let live = self.live().await?;
            let ours = if live.on_delete() { self.options.delete_pods } else { live.ordered };
            // Another template is somebody's deploy: its pods are none of ours, and the next look shows it.
            if !ours || live.told != to.release {
                return Ok(());
            }
            if live.taken_up {
                let pods = self.pods(&live).await?;
                self.know(&live, &pods).await?;
                let sides = self.sides(&Seen { live: &live, pods: &pods });
                let there = sides.wanted.iter().filter(|pod| pod.serves()).count();
                work.progress(u64::try_from(there).unwrap_or(u64::MAX), live.count.into());
                // The next look says why no more will come.
                let over = sides.others.iter().all(|pod| pod.terminating) || sides.terminal().is_some();
                let (next, over) = if live.on_delete() {
                    (sides.next_to_delete(&live).into_iter().collect(), over)
                } else {
                    (sides.stuck(&live), over)
                };
                for pod in next {
                    self.delete(pod, work).await?;
                }
                if over {
                    return Ok(());
                }
            }
            if Instant::now() >= until {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Deletes just the pod that was seen, as it was seen.
    async fn delete(&self, pod: &PodState, work: &Work) -> Result<()> {
        let deletion = PodDeletion {
            operation: "delete a pod of the other release",
            name: &pod.name,
            uid: &pod.uid,
            resource_version: pod.resource_version.as_deref(),
            grace_seconds: None,
            within: work.within(),
        };
        match self.cluster.delete_pod(&self.namespace, deletion).await {
            // The patch is written: whatever became of this, it is not without effect.
            Err(e) => Err(Error::new(e.kind(), "replace pods").with_transient(e.is_transient()).with_source(e)),
            Ok(()) => Ok(()),
        }
    }

    /// The approved revision, with the content that was approved. Usually the one that it was made ready from, in this
    /// process; after a crash it is read again.
    async fn revision_of(&self, undo: &Undo) -> Result<Arc<Revision>> {
        if let Some(known) = self.remembered.find(|known| known.uid == undo.uid && known.release == undo.release) {
            return Ok(known);
        }
        let live = self.live().await?;
        let Undo { revision: name, uid, release, .. } = undo;
        let found = if undo.recorded {
            self.archive(&live).approved(name, uid, release).await?
        } else {
            still_there(&self.revisions(&live).await?, name, uid, release)?.clone()
        };
        Ok(Arc::new(found))
    }

    /// The server says alike that the guard failed and that a path is wrong: only another look tells. Where what is there
    /// is our own write, its answer was lost.
    async fn after_conflict(&self, conflict: Error, to: &Revision, work: &Work) -> Result<Live> {
        let live = self.live().await?;
        let ours = live.annotations.get(marks::KEY).is_some_and(|key| *key == work.key());
        if ours && live.told == to.release {
            return Ok(live);
        }
        let message = format!("it was changed since it was looked at: it is told to run {} now", live.told);
        Err(Error::new(Kind::Conflict, self.operation()).with_message(message).with_source(conflict).without_effect())
    }

    async fn guarded(&self, operations: Vec<Value>, work: &Work, dry_run: bool) -> Result<Live> {
        if work.is_cancelled() {
            let e = Error::new(Kind::Conflict, self.operation()).with_message("this run has lost its lease");
            return Err(e.without_effect());
        }
        let operation = self.operation();
        let patched = self.cluster.patch(JsonPatch {
            operation: &operation,
            kind: self.flavour.kind(),
            namespace: &self.namespace,
            name: &self.name,
            operations,
            dry_run,
            within: work.within(),
        });
        Live::of(self.flavour, patched.await?)
    }

    fn operation(&self) -> String {
        format!("patch the {}", self.flavour.name())
    }
}
