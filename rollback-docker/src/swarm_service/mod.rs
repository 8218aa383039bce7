//! A service of a Swarm, rolled back by Swarm itself: told which tasks to run, it replaces them a few at a time.
//!
//! Not here: services of Compose without a Swarm, and whole stacks: each of their services is a target of its own.

mod apply;
mod observe;
mod prepare;
mod record;
mod template;

use crate::{connect::Engine, evidence, member, pins::How};
use async_trait::async_trait;
use observe::Read;
use record::Keep;
use rollback_core::{
    Applied, Approved, Artifact, Bounds, Capabilities, Change, Error, EvidenceSource, Fencing, Kind, Look, Observation,
    Pacing, Prepared, Record, Release, Result, Target, TargetId, Timestamp, Token, Work,
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The only part.
const PART: &str = "all";

/// How Swarm is told to go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Way {
    /// An update to the release's own task template, at the pace and in the order of the service's *update* configuration.
    /// Everything else of the service stays: how many replicas it was scaled to, its networks, its labels. Any release that
    /// is known can be gone to. The default.
    #[default]
    Given,
    /// Swarm's own `--rollback`, at the pace and in the order of the service's *rollback* configuration. It goes to the one
    /// spec that Swarm remembers, with its replicas and its labels, and it leaves no label of the run on the
    /// service.
    Previous,
}

/// A service of the Swarm that an engine manages.
///
/// - **A release is a task template, by its content**: image, command, environment, mounts, limits. Known are the one that
///   the service has, the one before, those that tasks of it were made from as long as Swarm keeps those tasks, and what was
///   [recorded](Target::recorder). Swarm itself remembers one.
/// - **What runs is told from the tasks.** An update that Swarm has paused is said to be one that will not come right.
/// - **Compare-and-set** is Swarm's own: the version index of the read that was judged goes along with the write.
/// - With the order `start-first`, an old task is stopped only once the new one is healthy. With `stop-first` each task's
///   place is empty meanwhile; preparing says so.
///
/// The engine must be a manager.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_docker::{ConnectOptions, Engine, SwarmService};
/// # async fn roll_back() -> Result<()> {
/// let engine = Engine::connect(ConnectOptions::new().with_context("prod")).await?;
/// let web = SwarmService::new(engine, "shop_web");
/// println!("{}", Rollback::break_glass_on(&web, "every answer is a 500").await);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SwarmService {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    id: TargetId,
    engine: Engine,
    name: String,
    way: Way,
    keep: usize,
}

impl fmt::Debug for SwarmService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmService").field("id", &self.inner.id).field("way", &self.inner.way).finish_non_exhaustive()
    }
}

impl SwarmService {
    /// The service of this name. Reads nothing yet.
    ///
    /// ```no_run
    /// # use rollback_docker::{Engine, SwarmService};
    /// # fn service(engine: Engine) {
    /// let web = SwarmService::new(engine, "shop_web").with_kept_records(5);
    /// # }
    /// ```
    pub fn new(engine: Engine, name: impl Into<String>) -> Self {
        let name = name.into();
        let id = TargetId::new(format!("swarm:{}/{name}", engine.id()));
        Self { inner: Arc::new(Inner { id, engine, name, way: Way::Given, keep: 10 }) }
    }
    /// How Swarm is told to go back. Default: [`Way::Given`].
    ///
    /// ```no_run
    /// # use rollback_docker::{Engine, SwarmService, Way};
    /// # fn service(engine: Engine) {
    /// let web = SwarmService::new(engine, "shop_web").with_way(Way::Previous);
    /// # }
    /// ```
    pub fn with_way(mut self, way: Way) -> Self {
        Arc::make_mut(&mut self.inner).way = way;
        self
    }
    /// How many recorded releases are kept; beside them as many that a rollback left or brought and nobody recorded. Default:
    /// 10; at least 1.
    pub fn with_kept_records(mut self, count: usize) -> Self {
        Arc::make_mut(&mut self.inner).keep = count.max(1);
        self
    }

    fn mine(&self, e: Error) -> Error {
        e.with_target(&self.inner.id)
    }
}

#[async_trait]
impl Target for SwarmService {
    fn id(&self) -> &TargetId {
        &self.inner.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::Token).with_pacing(Pacing::Platform)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.look(look).await.map_err(|e| self.mine(e))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let known = async { self.known(&self.read().await?).await };
        let known = known.await.map_err(|e| self.mine(e))?;
        Ok(known.into_iter().take(limit).map(|known| known.release).collect())
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        self.make_ready(change).await.map_err(|e| self.mine(e))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        match self.carry_out(approved, token, work).await {
            Err(e) => Err(self.mine(self.inner.engine.explain(e).await)),
            done => done,
        }
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl EvidenceSource for SwarmService {
    /// Its tasks on all nodes, as `docker-tasks/1`, and of its containers those on this node.
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let collect = async {
            let read = self.read().await?;
            let label = vec![format!("com.docker.swarm.service.id={}", read.service)];
            let members = member::list(&self.inner.engine, "label", &label).await?;
            let more = vec![("docker-tasks/1", read.tasks_as_text())];
            evidence::of(&self.inner.engine, &members, ("label", label.clone()), more, bounds, work).await
        };
        collect.await.map_err(|e| self.mine(e))
    }
}

#[async_trait]
impl Record for SwarmService {
    /// Keeps the task template that the service has, in a config of the swarm. Of more than
    /// [`with_kept_records`](SwarmService::with_kept_records) those go that were deployed the longest ago. Images are on the nodes: a registry keeps them, or nobody
    /// does.
    async fn record(&self, label: &str) -> Result<Release> {
        let record = async {
            let read: Read = self.read().await?;
            if let Some(why) = read.unsettled() {
                let message = format!("{why}: record when the deploy is over");
                return Err(Error::new(Kind::Conflict, "record what runs").with_message(message).without_effect());
            }
            let keep = Keep { label: Some(label), how: How::Recorded, at: Timestamp::now(), stays: None };
            let kept = self.keep(&read.service, &read.template, keep).await?;
            let mut release = Release::new(kept.release).with_label(kept.label).with_names(kept.names);
            release.made_at = kept.at;
            Ok(release)
        };
        record.await.map_err(|e: Error| self.mine(e))
    }
}
