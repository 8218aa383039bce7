//! The writes. Each is one patch, guarded by what was read.

use super::{Deployment, Read, Undo, Wrote, emergency, live::Live, patch};
use crate::{
    connect::JsonPatch,
    kinds::DEPLOYMENT,
    marks,
    record::{Archive, Owner, started_once_more},
    revisions::{Revision, still_there},
};
use futures::future::BoxFuture;
use rollback_core::{Applied, Approved, Error, Kind, Payload, Result, Work};
use serde_json::Value;
use std::sync::Arc;

impl Deployment {
    pub(super) async fn undo(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let undo: Undo = approved.read()?;
        let to = self.revision_of(&undo).await?;
        // An answer was lost, and the very read that would guard the write shows that it happened.
        let ours = read.annotations.get(marks::KEY).is_some_and(|key| *key == work.key());
        let replicas = emergency::wish(&approved.change).and_then(|(_, wish)| emergency::replicas(wish, read));
        if ours && crate::release_id(&read.template) == to.release && replicas.is_none() {
            return Ok(Applied::submitted());
        }
        self.may_lift(read)?;
        wrote(&self.write(&undo, read, &to, replicas, work).await?)
    }

    /// What pods refer to, then the template.
    async fn write(&self, undo: &Undo, read: &Read, to: &Revision, replicas: Option<u32>, work: &Work) -> Result<Live> {
        let restores = !undo.config.is_empty();
        let mut to = to.clone();
        if restores {
            to.template = started_once_more(&to.template, &work.key());
        }
        let to = &to;
        let mut operations = patch::undo(read, to, &self.options, work, &self.cause(to, work));
        if let Some(to) = replicas {
            operations.extend(patch::replicas(read, to));
            patch::remove(&mut operations, read, marks::REPLICAS);
        }
        let write =
            |dry_run| -> BoxFuture<'_, Result<Live>> { Box::pin(self.guarded(operations.clone(), work, dry_run)) };
        let settle = |e| -> BoxFuture<'_, Result<Live>> { Box::pin(self.after_conflict(e, to, work)) };
        if restores {
            let owner = Owner { kind: DEPLOYMENT, name: &self.name, uid: &read.uid };
            let archive = Archive::new(&self.cluster, &self.namespace, owner, &self.options.config);
            return archive.bring_back(&read.template, &undo.config, work, write, settle).await;
        }
        match write(false).await {
            Err(e) if e.kind() == Kind::Conflict => settle(e).await,
            answer => answer,
        }
    }

    pub(super) async fn halt(&self, read: &Read, work: &Work) -> Result<Applied> {
        if read.paused {
            return Ok(Applied::done());
        }
        let told = crate::release_id(&read.template);
        let live = self.guarded(patch::pause(read, &told, work), work, false).await?;
        wrote(&live)
    }

    pub(super) async fn lower_surge(&self, read: &Read, work: &Work) -> Result<Applied> {
        match patch::lower_surge(read, &self.options) {
            Some(operations) => self.guarded(operations, work, false).await.map(|_| Applied::done()),
            None => Ok(Applied::done()),
        }
    }

    /// The approved ReplicaSet, with the content that was approved. Usually the one that it was made ready from, in this
    /// process; after a crash it is read again.
    async fn revision_of(&self, undo: &Undo) -> Result<Arc<Revision>> {
        let mine = |known: &Revision| self.as_approved(known, undo);
        let remembered = self.remembered.by_uid(&undo.uid).and_then(|known| mine(&known));
        if let Some(known) = remembered.filter(|known| known.release == undo.release).map(Arc::new) {
            return Ok(known);
        }
        let live = self.live().await?;
        let Undo { replica_set: name, uid, release, .. } = undo;
        let found = if undo.recorded {
            self.archive(&live).approved(name, uid, release).await?
        } else {
            let all: Vec<Revision> = self.revisions(&live).await?.iter().filter_map(mine).collect();
            still_there(&all, name, uid, release)?.clone()
        };
        Ok(Arc::new(found))
    }

    /// Somebody may have paused it after it was made ready.
    fn may_lift(&self, read: &Read) -> Result<()> {
        if !read.paused || self.options.lift_pause || read.paused_by_us {
            return Ok(());
        }
        Err(Error::new(Kind::Denied, "patch the Deployment")
            .with_message("somebody paused its rollout meanwhile: resume it, or say that the pause may be lifted")
            .without_effect())
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
        Err(Error::new(Kind::Conflict, "patch the Deployment")
            .with_message(message)
            .with_source(conflict)
            .without_effect())
    }

    pub(super) async fn guarded(&self, operations: Vec<Value>, work: &Work, dry_run: bool) -> Result<Live> {
        if work.is_cancelled() {
            let e = Error::new(Kind::Conflict, "patch the Deployment").with_message("this run has lost its lease");
            return Err(e.without_effect());
        }
        let patched = self.cluster.patch(JsonPatch {
            operation: "patch the Deployment",
            kind: DEPLOYMENT,
            namespace: &self.namespace,
            name: &self.name,
            operations,
            dry_run,
            within: work.within(),
        });
        let object = patched.await?;
        if let Some(feeds) = self.feeds().filter(|_| !dry_run) {
            feeds.wrote(object.clone());
        }
        Live::of(object)
    }
}

pub(super) fn wrote(live: &Live) -> Result<Applied> {
    let wrote = Wrote { uid: live.uid.clone(), generation: live.generation };
    Ok(Applied::submitted().with_handle(Payload::of(&wrote)?))
}
