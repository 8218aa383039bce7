//! What shared watches have shown of a Deployment, and whether that is new enough for what it is asked for.

use super::{Deployment, Live, Wrote};
use crate::{
    pods::PodState,
    revisions::{Revision, sorted},
    watches::Feeds,
};
use rollback_core::{Look, Result};
use std::sync::Arc;

impl Deployment {
    pub(super) fn feeds(&self) -> Option<&Arc<Feeds>> {
        self.cluster.watches()?.of(&self.namespace)
    }

    /// The Deployment and its pods, if they are watched, the watches are not silent, and they have shown what our own write
    /// made. Otherwise requests tell.
    pub(super) async fn watched(&self, look: &Look) -> Option<(Live, Vec<PodState>)> {
        let feeds = self.feeds()?;
        let handle = look.mark.as_ref().map(|mark| &mark.handle);
        let (namespace, name) = (&self.namespace, &self.name);
        let live = match handle {
            _ if look.quick => feeds.deployment(namespace, name)?,
            // A plan rests on it: somebody may have deployed a moment before it was ordered.
            None => feeds.confirmed_deployment(&self.cluster, namespace, name).await?,
            // What precedes a write is judged by the write itself: it is refused where this is not so any more.
            Some(None) => feeds.deployment(namespace, name)?,
            Some(Some(_)) => feeds.current_deployment(&self.cluster, namespace, name).await?,
        };
        if let Some(Some(handle)) = handle {
            let wrote: Wrote = handle.0.read().ok()?;
            if wrote.uid == live.uid && live.generation < wrote.generation {
                return None;
            }
        }
        let pods = feeds.pods(&self.namespace, &live.selector)?;
        if self.is_new(&live, &pods) {
            self.learn(&live, &pods).await.ok()?;
        }
        Some((Live::clone(&live), pods))
    }

    /// What its ReplicaSets are; by a request, where the watch has not shown yet whose pods these are.
    async fn learn(&self, live: &Live, pods: &[PodState]) -> Result<()> {
        self.known_revisions(live).await?;
        if !self.knows_all(pods) {
            self.revisions(live).await?;
        }
        Ok(())
    }

    /// For what is approved: as the API server says that it is.
    pub(super) async fn confirmed_live(&self) -> Result<Live> {
        if let Some(feeds) = self.feeds()
            && let Some(live) = feeds.confirmed_deployment(&self.cluster, &self.namespace, &self.name).await
        {
            return Ok(Live::clone(&live));
        }
        self.live().await
    }
    /// For what does not guard a write: as it was heard of last.
    pub(super) async fn known_live(&self) -> Result<Live> {
        match self.feeds().and_then(|feeds| feeds.deployment(&self.namespace, &self.name)) {
            Some(live) => Ok(Live::clone(&live)),
            None => self.live().await,
        }
    }
    pub(super) async fn known_revisions(&self, live: &Live) -> Result<Vec<Revision>> {
        match self.feeds().and_then(|feeds| feeds.replica_sets(&live.uid)) {
            Some(all) => {
                let all = sorted(all);
                self.remembered.learn(&all);
                Ok(all)
            }
            None => self.revisions(live).await,
        }
    }
    pub(super) async fn known_pods(&self, live: &Live) -> Result<Vec<PodState>> {
        match self.feeds().and_then(|feeds| feeds.pods(&self.namespace, &live.selector)) {
            Some(pods) => Ok(pods),
            None => self.pods(live).await,
        }
    }
}
