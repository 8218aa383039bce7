//! What StatefulSets and DaemonSets share: their history is ControllerRevisions, and their controllers replace pods in
//! place, one after the other.
//!
//! Not here: what is public of them, which is in `stateful_set` and `daemon_set`.

mod apply;
mod checks;
mod live;
mod observe;
mod patch;
mod prepare;
mod shared;

use crate::{
    Cluster,
    config_maps::Restore,
    evidence::Saved,
    kinds::{CONTROLLER_REVISION, DAEMON_SET, ObjectKind, POD, STATEFUL_SET},
    marks::Annotations,
    owner::is_controlled_by,
    pods::PodState,
    record::{Archive, ConfigOptions, Owner, RECORDED, record_running, with_recorded},
    revisions::{Remembered, Revision, newest_first, numbered},
    verify::PodChecks,
};
use k8s_openapi::api::core::v1::Pod;
use live::{Live, revision};
use observe::Seen;
use rollback_core::{
    Applied, Approved, Capabilities, Change, Error, EvidenceSource, Fencing, Kind, Look, Observation, Pacing, Prepared,
    Release, ReleaseId, Result, Stored, TargetId, Token, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
pub(crate) use shared::revisioned;
use std::{collections::BTreeMap, sync::Arc};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    StatefulSet,
    DaemonSet,
}

impl Flavour {
    pub(crate) fn kind(self) -> ObjectKind {
        match self {
            Flavour::StatefulSet => STATEFUL_SET,
            Flavour::DaemonSet => DAEMON_SET,
        }
    }
    pub(crate) fn name(self) -> &'static str {
        self.kind().kind
    }
}

/// A StatefulSet or a DaemonSet.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) id: TargetId,
    pub(crate) flavour: Flavour,
    pub(crate) options: Options,
    remembered: Remembered,
}

/// What was asked for besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) delete_pods: bool,
    pub(crate) new_nodes: bool,
    pub(crate) health_port: Option<u16>,
    pub(crate) config: ConfigOptions,
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    uid: String,
    template: Value,
    strategy: Value,
    annotations: Annotations,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/revisioned-read";
    const VERSION: u32 = 1;
}
impl Read {
    fn of(live: &Live) -> Self {
        Self {
            uid: live.uid.clone(),
            template: live.template.clone(),
            strategy: live.strategy.clone(),
            annotations: live.annotations.clone(),
        }
    }
}

/// How an approved change is carried out: the template itself stays in the cluster, because it may hold secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undo {
    revision: String,
    uid: String,
    release: ReleaseId,
    /// It is a record, not a revision.
    #[serde(default)]
    recorded: bool,
    /// What is put back before the template.
    #[serde(default)]
    config: Vec<Restore>,
}
impl Stored for Undo {
    const NAME: &'static str = "k8s/revisioned-undo";
    const VERSION: u32 = 1;
}

/// What the server called a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrote {
    uid: String,
    generation: i64,
}
impl Stored for Wrote {
    const NAME: &'static str = "k8s/revisioned-wrote";
    const VERSION: u32 = 1;
}

/// What names a rollout under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Generation {
    generation: i64,
}
impl Stored for Generation {
    const NAME: &'static str = "k8s/revisioned-generation";
    const VERSION: u32 = 1;
}

impl Workload {
    pub(crate) fn new(cluster: &Cluster, flavour: Flavour, namespace: String, name: String) -> Self {
        let kind = flavour.name().to_lowercase();
        Self {
            id: TargetId::new(format!("k8s:{}/{namespace}/{kind}/{name}", cluster.name())),
            cluster: cluster.clone(),
            namespace,
            name,
            flavour,
            options: Options::default(),
            remembered: Remembered::default(),
        }
    }
    pub(crate) fn capabilities(&self) -> Capabilities {
        // The same template twice is the same once, and pods are deleted by uid and resourceVersion.
        Capabilities::new(Fencing::Token).with_pacing(Pacing::Platform)
    }
    pub(crate) async fn observe(&self, look: Look) -> Result<Observation> {
        // The workload first: what is judged must not be newer than the token.
        let live = self.live().await?;
        let pods = self.pods(&live).await?;
        self.know(&live, &pods).await?;
        self.judge(&Seen { live: &live, pods: &pods }, &look)
    }
    pub(crate) async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let live = self.live().await?;
        let history = live.history(&self.revisions(&live).await?, limit);
        if history.len() == limit || !live.annotations.contains_key(RECORDED) {
            return Ok(history);
        }
        Ok(with_recorded(history, &self.archive(&live).records().await?, limit))
    }
    pub(crate) async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        if !self.capabilities().supports(change) {
            let e = Error::new(Kind::Unsupported, "prepare the change").with_target(&self.id);
            let message = format!("a {} can be brought to a release, and nothing else", self.flavour.name());
            return Err(e.with_message(message).without_effect());
        }
        self.prepare_undo(change, change.only_release()?, work).await
    }
    pub(crate) fn checks(&self) -> PodChecks {
        let of = format!("{}/{}", self.flavour.name().to_lowercase(), self.name);
        PodChecks::new(&self.cluster, &self.namespace, of, self.clone())
    }
    pub(crate) fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        let saved = Saved::of(&self.cluster, &self.id, &self.namespace);
        Some(Arc::new(saved.with_workload(self.flavour.kind(), &self.name)))
    }
    pub(crate) async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let read: Read = token.read()?;
        self.undo(approved, &read, work).await.map_err(|e| e.with_target(&self.id))
    }
    pub(crate) async fn revision(&self, number: i64) -> Result<Release> {
        let live = self.live().await?;
        let all = self.revisions(&live).await?;
        numbered(&all, number).map(Revision::described).map_err(|e| e.with_target(&self.id))
    }

    /// Keeps what runs, as [`Record`](rollback_core::Record) says.
    pub(crate) async fn record(&self, label: &str) -> Result<Release> {
        let live = self.live().await?;
        let pods = self.pods(&live).await?;
        self.know(&live, &pods).await?;
        let seen = self.judge(&Seen { live: &live, pods: &pods }, &Look::full())?;
        let recorded = record_running(&self.archive(&live), &seen, &live.template, &live.annotations, label).await;
        recorded.map_err(|e| e.with_target(&self.id))
    }
    fn archive<'a>(&'a self, live: &'a Live) -> Archive<'a> {
        let owner = Owner { kind: self.flavour.kind(), name: &self.name, uid: &live.uid };
        Archive::new(&self.cluster, &self.namespace, owner, &self.options.config)
    }

    /// The template of each release that was seen.
    pub(crate) fn templates(&self) -> BTreeMap<ReleaseId, Value> {
        self.remembered.templates()
    }

    async fn live(&self) -> Result<Live> {
        let operation = format!("read the {}", self.flavour.name());
        let object = self.cluster.named(&operation, self.flavour.kind(), &self.namespace, &self.name).await;
        object.and_then(|object| Live::of(self.flavour, object)).map_err(|e| e.with_target(&self.id))
    }
    /// Its ControllerRevisions, the newest first.
    async fn revisions(&self, live: &Live) -> Result<Vec<Revision>> {
        let operation = "list its ControllerRevisions";
        let all = self.cluster.list(operation, CONTROLLER_REVISION, &self.namespace, &live.selector).await;
        let all = newest_first(&live.uid, all.map_err(|e| e.with_target(&self.id))?, |one| revision(self.flavour, one));
        self.remembered.learn(&all);
        Ok(all)
    }
    /// The pods that it controls. Those of another, with the same labels, are none of its.
    async fn own_pods(&self, live: &Live) -> Result<Vec<Pod>> {
        let pods = self.cluster.list_of::<Pod>("list its pods", POD, &self.namespace, &live.selector).await;
        let mut pods = pods.map_err(|e| e.with_target(&self.id))?;
        pods.retain(|pod| is_controlled_by(&pod.metadata, &live.uid));
        Ok(pods)
    }
    async fn pods(&self, live: &Live) -> Result<Vec<PodState>> {
        Ok(self.own_pods(live).await?.iter().map(PodState::of).collect())
    }
    /// Makes sure that the revisions of these pods are known, as far as they are still there.
    async fn know(&self, live: &Live, pods: &[PodState]) -> Result<()> {
        let known = |pod: &PodState| self.release_of(pod).is_some();
        let told = live.flavour == Flavour::StatefulSet || self.exactly(&live.template).is_some();
        if !told || !pods.iter().filter(|pod| pod.counts()).all(known) {
            self.revisions(live).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
