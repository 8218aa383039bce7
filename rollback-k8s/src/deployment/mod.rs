//! A Deployment: what `kubectl rollout undo` does, guarded, explained and watched until it is so.
//!
//! Not here: traffic between workloads (blue/green, canary). A Deployment that Flagger or Argo Rollouts steers is refused,
//! with the name of the right target.

mod apply;
mod checks;
mod emergency;
mod live;
mod observe;
mod patch;
mod prepare;
mod watched;

use crate::{
    Cluster,
    config_maps::Restore,
    diff,
    evidence::Saved,
    kinds::{DEPLOYMENT, POD, REPLICA_SET},
    marks::Annotations,
    pods::PodState,
    record::{Archive, ConfigOptions, Owner, RECORDED, record_running, with_recorded},
    release::without_hash,
    revisions::{Remembered, Revision, newest_first, numbered},
};
use async_trait::async_trait;
pub(crate) use emergency::DELETE_BAD_PODS;
use emergency::wish;
use k8s_openapi::api::core::v1::Pod;
pub(crate) use live::Live;
use observe::Seen;
use rollback_core::{
    Applied, Approved, Capabilities, Change, ChangeKind, Error, EvidenceSource, Fencing, Kind, Look, Nudges,
    Observation, OnUnknown, Pacing, Prepared, Record, Release, ReleaseId, Result, Stored, Target, TargetId, Token,
    When, Wish, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// The verb that puts a raised surge back.
const LOWER_SURGE: &str = "put-surge-back";

/// A Deployment. Cheap to clone; the clones share what is remembered of its ReplicaSets.
///
/// # What it does
/// - It sets the pod template of the wanted release's newest ReplicaSet, with the annotations that belong to it, as
///   `kubectl rollout undo` does. Annotations that were added since are kept, `kubernetes.io/change-cause` says why. What
///   `kubectl apply` takes for applied last goes along, so that the next apply removes what only this release has.
/// - The write is refused if the uid, the template or the pause is not as it was when it was looked at. Scaling and
///   annotations do not disturb it. Replicas, and an autoscaler's hold on them, are touched only by a plan that says so
///   ([`Restart`](rollback_core::strategy::Restart)); that write is refused if they changed since.
/// - A rollout that somebody paused is refused, unless [`lifting_pause`](Deployment::lifting_pause) was said; the pause is
///   lifted in the same write. [`Change::Halt`] pauses; our own pause needs no permission.
/// - One that a Canary of Flagger or a Rollout of Argo Rollouts steers is refused, and the right target named, if this user
///   may list those. Where it may not, a note says that it is not known, and the rollback goes on.
/// - It has settled when every pod is of the wanted release and available, and pods of others are gone, those that are
///   being deleted too: they answer for seconds after `kubectl rollout status` said done.
/// - A pod that will not get well (CrashLoopBackOff, ImagePullBackOff, CreateContainerConfigError, OOMKilled, no node with
///   room, a quota) ends the wait at once, with its reason.
///
/// The verb `delete-bad-pods` deletes the pods of the bad release, each as it was seen (uid), and gives them a second to end;
/// those on a node that is gone or not heard of are taken out of the API. Only once another release is told. A pod that is
/// ending already on a node that answers keeps the time it was given first: kubelets take no shorter one. Nothing asks for
/// it but an [`EmergencyLadder`](crate::EmergencyLadder).
///
/// A release is the template by its content ([`release_id`](crate::release_id)); history is the ReplicaSets that are left,
/// in the order in which they were last deployed, and then the releases that were recorded.
///
/// # Recording
/// [`Target::recorder`] keeps the template, and copies of the ConfigMaps that its pods refer to: immutable ConfigMaps in
/// the same namespace, owned by the workload, labelled `rollback.dev/archive`. So a release whose revision was pruned can
/// still be gone back to. Recorded twice, it is written once. Values in the template are kept as they are: whoever may read
/// ConfigMaps there reads them.
///
/// # Permissions
/// Enough to roll back, in a Role:
/// ```yaml
/// rules:
///   - {apiGroups: ["apps"], resources: ["deployments"], verbs: ["get", "patch"]}
///   - {apiGroups: ["apps"], resources: ["replicasets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
/// ```
/// So that one that Flagger or Argo Rollouts steers is refused:
/// ```yaml
///   - {apiGroups: ["flagger.app"], resources: ["canaries"], verbs: ["list"]}
///   - {apiGroups: ["argoproj.io"], resources: ["rollouts"], verbs: ["list"]}
/// ```
/// For findings; without them, less is found out beforehand. Of Secrets only the metadata is read, which these rules cannot
/// say: leave `secrets` out where that matters.
/// ```yaml
///   - {apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["list"]}
///   - {apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["configmaps", "secrets"], verbs: ["get"]}
///   # In a ClusterRole: which images nodes have.
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}
/// ```
/// For the verb `delete-bad-pods`; without the second, no pod counts as on a lost node:
/// ```yaml
///   - {apiGroups: [""], resources: ["pods"], verbs: ["delete"]}
///   # In a ClusterRole.
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["get"]}
/// ```
/// To go back to what was recorded; to record it `create`, `patch` and `delete` too; with
/// [`restoring_config_maps`](Deployment::restoring_config_maps) `create` and `patch`. With
/// [`with_secret`](Deployment::with_secret) the same of secrets:
/// ```yaml
///   - {apiGroups: [""], resources: ["configmaps"], verbs: ["get", "list"]}
/// ```
/// What evidence needs stands in [the crate](crate#evidence).
///
/// # Requests
/// A look costs two requests (the Deployment, its pods), and a third where a ReplicaSet matters that was not seen yet; with
/// [shared watches](Cluster::with_shared_watches) none. Making a change ready costs about ten, of which many Deployments of
/// a namespace share most while they are watched; the write is one.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let checkout = cluster.deployment("shop", "checkout").with_raised_surge("100%");
/// let report = Rollback::of(checkout)
///     .because("checkout answers 500 since 2.4.0")
///     .to(Choose::verified().or_previous())
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Deployment {
    cluster: Cluster,
    namespace: String,
    name: String,
    id: TargetId,
    options: Options,
    remembered: Remembered,
}

/// What was asked for besides.
#[derive(Clone, Debug, Default)]
struct Options {
    lift_pause: bool,
    surge: Option<String>,
    new_nodes: bool,
    health_port: Option<u16>,
    /// In place of what the wanted release says, where that does not help.
    images: emergency::Images,
    config: ConfigOptions,
    no_dry_run: bool,
    no_evidence: bool,
    /// Who steers it is asked already.
    through_owner: bool,
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    uid: String,
    template: Value,
    paused: bool,
    paused_by_us: bool,
    strategy: Value,
    annotations: Annotations,
    replicas: u32,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/deployment-read";
    const VERSION: u32 = 1;
}
impl Read {
    fn of(live: &Live) -> Self {
        Self {
            uid: live.uid.clone(),
            template: live.template.clone(),
            paused: live.paused,
            paused_by_us: live.paused_by_us().is_some(),
            strategy: live.strategy.clone(),
            annotations: live.annotations.clone(),
            replicas: live.replicas,
        }
    }
}

/// How an approved change is carried out: the template itself stays in the cluster, because it may hold secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undo {
    replica_set: String,
    uid: String,
    release: ReleaseId,
    /// It is a record, not a ReplicaSet.
    #[serde(default)]
    recorded: bool,
    /// What is put back before the template.
    #[serde(default)]
    config: Vec<Restore>,
    /// Images in place of its own.
    #[serde(default)]
    images: emergency::Images,
}
impl Stored for Undo {
    const NAME: &'static str = "k8s/deployment-undo";
    const VERSION: u32 = 1;
}

/// What the server called a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrote {
    uid: String,
    generation: i64,
}
impl Stored for Wrote {
    const NAME: &'static str = "k8s/deployment-wrote";
    const VERSION: u32 = 1;
}

/// What names a rollout under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Generation {
    generation: i64,
}
impl Stored for Generation {
    const NAME: &'static str = "k8s/deployment-generation";
    const VERSION: u32 = 1;
}

impl Cluster {
    /// A Deployment of this cluster. No request; a name that is none is found out by the first look.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn emergency(cluster: rollback_k8s::Cluster) {
    /// let checkout = cluster.deployment("shop", "checkout");
    /// println!("{}", Rollback::break_glass_on(&checkout, "paged: all of checkout is down").await);
    /// # }
    /// ```
    pub fn deployment(&self, namespace: impl Into<String>, name: impl Into<String>) -> Deployment {
        let (namespace, name) = (namespace.into(), name.into());
        Deployment {
            id: TargetId::new(format!("k8s:{}/{namespace}/deployment/{name}", self.name())),
            cluster: self.clone(),
            namespace,
            name,
            options: Options::default(),
            remembered: Remembered::default(),
        }
    }
}

impl Deployment {
    /// A rollout that somebody paused may be resumed, in the same write that sets the release. Default: it is refused.
    pub fn lifting_pause(mut self) -> Self {
        self.options.lift_pause = true;
        self
    }
    /// More pods at once while it goes back, where quota and nodes allow: `maxSurge` as Kubernetes takes it, a number or a
    /// percentage. It is set in the same write; what it was is kept on the Deployment, and put back by a step of its own
    /// after the release, or by the next rollback if this one is never finished. Default: as the Deployment says.
    pub fn with_raised_surge(mut self, max_surge: impl Into<String>) -> Self {
        self.options.surge = Some(max_surge.into());
        self
    }
    /// An image to try where no revision's helps, by the name of its container: the wanted release with this image is a
    /// release of its own, that a rung of [`EmergencyLadder`](crate::EmergencyLadder) sets. May be called once for each
    /// container. Default: none.
    ///
    /// ```no_run
    /// # fn of(cluster: rollback_k8s::Cluster) {
    /// let checkout = cluster.deployment("shop", "checkout").with_image("app", "registry.shop/checkout:2.3.9");
    /// # }
    /// ```
    pub fn with_image(mut self, container: impl Into<String>, image: impl Into<String>) -> Self {
        self.options.images.insert(container.into(), image.into());
        self
    }
    /// Nodes come by themselves, so a pod that no node has room for is waited for. Default: it ends the wait, unless pods of
    /// the bad release may still make room.
    pub fn expecting_new_nodes(mut self) -> Self {
        self.options.new_nodes = true;
        self
    }
    /// ConfigMaps that its pods refer to come back with the release, as they were when it was recorded
    /// ([`Target::recorder`]): first they, then the template, each refused if it is not as it was looked at; and all pods
    /// start once more, because those that run may have read what was there before. What is overwritten is archived first.
    /// Default: they stay, and a finding says which have changed.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn back(cluster: rollback_k8s::Cluster) -> Result<()> {
    /// let checkout = cluster.deployment("shop", "checkout").restoring_config_maps();
    /// // After each deploy: `rollback_core::record::record` does this, and notes it in the ledger.
    /// if let Some(recorder) = checkout.recorder() {
    ///     recorder.record("2.4.0").await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn restoring_config_maps(mut self) -> Self {
        self.options.config.restore = true;
        self
    }
    /// A Secret that its pods refer to is archived, and put back, as ConfigMaps are. Default: none is. A password that was
    /// changed since does not work any more once it is put back.
    pub fn with_secret(mut self, name: impl Into<String>) -> Self {
        self.options.config.secrets.insert(name.into());
        self
    }
    /// How many recorded releases are kept; older ones are deleted when another is recorded. Default: 20.
    pub fn with_kept_records(mut self, count: usize) -> Self {
        self.options.config.keep = Some(count);
        self
    }
    /// The patch is not tried out beforehand by a server-side dry run, which costs a request: what admission or validation
    /// refuses is then found out by the write. Default: it is tried out.
    pub fn without_server_dry_run(mut self) -> Self {
        self.options.no_dry_run = true;
        self
    }
    /// Nothing is saved before the first change, which costs some requests for each pod that fails. Default: logs, events
    /// and objects are.
    pub fn without_evidence(mut self) -> Self {
        self.options.no_evidence = true;
        self
    }
    /// Where health checks reach a pod. Default: the first port that a container declares.
    pub fn with_health_port(mut self, port: u16) -> Self {
        self.options.health_port = Some(port);
        self
    }
    /// The release of a revision number, as `kubectl rollout history` shows it: for `--to-revision`. Numbers change with
    /// every rollback, and differ between Deployments; the release does not.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn to_revision(checkout: rollback_k8s::Deployment) -> Result<()> {
    /// let seven = checkout.revision(7).await?;
    /// let report = Rollback::of(checkout).because("as asked").to(Choose::Exactly(seven.id)).run().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a number that no ReplicaSet has; otherwise as [`Target::history`].
    pub async fn revision(&self, number: i64) -> Result<Release> {
        let live = self.live().await?;
        let all = self.revisions(&live).await?;
        numbered(&all, number).map(Revision::described).map_err(|e| e.with_target(&self.id))
    }
    /// Its name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn archive<'a>(&'a self, live: &'a Live) -> Archive<'a> {
        let owner = Owner { kind: DEPLOYMENT, name: &self.name, uid: &live.uid };
        Archive::new(&self.cluster, &self.namespace, owner, &self.options.config)
    }
    /// The template of each release that was seen.
    pub(crate) fn templates(&self) -> BTreeMap<ReleaseId, Value> {
        self.remembered.templates()
    }
    /// For the target of who steers it: it acts through this one.
    pub(crate) fn through_owner(mut self) -> Self {
        self.options.through_owner = true;
        self
    }

    /// As it is now, by a request.
    async fn live(&self) -> Result<Live> {
        let object = self.cluster.named("read the Deployment", DEPLOYMENT, &self.namespace, &self.name).await;
        object.and_then(Live::of).map_err(|e| e.with_target(&self.id))
    }
    /// Its ReplicaSets, the newest revision first, by a request.
    async fn revisions(&self, live: &Live) -> Result<Vec<Revision>> {
        let selector = live.selector.to_string();
        let all = self.cluster.list("list its ReplicaSets", REPLICA_SET, &self.namespace, &selector).await;
        let all = newest_first(&live.uid, all.map_err(|e| e.with_target(&self.id))?, Revision::of_replica_set);
        self.remembered.learn(&all);
        Ok(all)
    }
    /// A ReplicaSet matters that was not seen yet: it has pods, or is to have some, or the controller complains of it.
    fn is_new(&self, live: &Live, pods: &[PodState]) -> bool {
        let own = self.remembered.names(&live.told);
        let complains = |condition: &live::Condition| condition.complains() && !condition.speaks_of(&own);
        own.is_empty() || !self.knows_all(pods) || live.conditions.iter().any(complains)
    }
    /// Whether it is known which ReplicaSets these pods are of, as far as they count.
    fn knows_all(&self, pods: &[PodState]) -> bool {
        let known = |pod: &PodState| pod.controller.as_ref().is_none_or(|uid| self.remembered.by_uid(uid).is_some());
        pods.iter().filter(|pod| pod.counts()).all(known)
    }
    /// What its selector finds, by a request.
    async fn whole_pods(&self, live: &Live) -> Result<Vec<Pod>> {
        let selector = live.selector.to_string();
        let pods = self.cluster.list_of("list its pods", POD, &self.namespace, &selector).await;
        pods.map_err(|e| e.with_target(&self.id))
    }
    async fn pods(&self, live: &Live) -> Result<Vec<PodState>> {
        Ok(self.whole_pods(live).await?.iter().map(PodState::of).collect())
    }
}

#[async_trait]
impl Target for Deployment {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        // Again: a write is guarded by the template that was read, and the same template twice is the same once.
        let capabilities = Capabilities::new(Fencing::Token)
            .with_pacing(Pacing::Platform)
            .with_change(ChangeKind::Capacity, OnUnknown::Again)
            .with_change(ChangeKind::Halt, OnUnknown::Again)
            .with_verb(DELETE_BAD_PODS, When::Asked);
        match &self.options.surge {
            Some(_) => capabilities.with_verb(LOWER_SURGE, When::AfterRelease),
            None => capabilities,
        }
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        if let Some((live, pods)) = self.watched(&look).await {
            return self.judge(&Seen { live: &live, pods: &pods, by_watches: true }, &look);
        }
        // The Deployment first: what is judged must not be newer than the token. Pods tell all that a poll needs, so a quick
        // look and a full one are the same.
        let live = self.live().await?;
        let pods = self.pods(&live).await?;
        if self.is_new(&live, &pods) {
            self.revisions(&live).await?;
        }
        self.judge(&Seen { live: &live, pods: &pods, by_watches: false }, &look)
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let live = self.known_live().await?;
        let history = live.history(&self.known_revisions(&live).await?, limit);
        if history.len() == limit || !live.annotations.contains_key(RECORDED) {
            return Ok(history);
        }
        Ok(with_recorded(history, &self.archive(&live).records().await?, limit))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        if !self.capabilities().supports(change) {
            let e = Error::new(Kind::Unsupported, "prepare the change").with_target(&self.id);
            let what = "a Deployment can be brought to a release or a number of replicas, or halted";
            return Err(e.with_message(what).without_effect());
        }
        match change {
            Change::Halt => self.prepare_halt(change).await,
            Change::Verb { name, arguments } if *name == DELETE_BAD_PODS => {
                self.prepare_delete(change, arguments).await
            }
            Change::Verb { .. } => self.prepare_lower_surge(change).await,
            _ => match wish(change) {
                Some((_, Wish { release: Some(release), weight: None, .. })) => {
                    self.prepare_undo(change, release, work).await
                }
                Some((_, Wish { release: None, weight: None, capacity: Some(capacity) })) => {
                    self.prepare_scale(change, *capacity).await
                }
                _ => self.prepare_undo(change, change.only_release()?, work).await,
            },
        }
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let read: Read = token.read()?;
        let applied = match &approved.change {
            Change::Halt => self.halt(&read, work).await,
            Change::Verb { name, .. } if *name == DELETE_BAD_PODS => self.delete_bad_pods(approved, &read, work).await,
            Change::Verb { .. } => self.lower_surge(&read, work).await,
            change => match wish(change) {
                Some((_, wish)) if wish.release.is_none() => self.scale(wish, &read, work).await,
                _ => self.undo(approved, &read, work).await,
            },
        };
        applied.map_err(|e| e.with_target(&self.id))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }

    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        if self.options.no_evidence {
            return None;
        }
        Some(Arc::new(Saved::of(&self.cluster, &self.id, &self.namespace).with_workload(DEPLOYMENT, &self.name)))
    }

    fn nudges(&self) -> Option<Nudges> {
        Some(self.feeds()?.nudges(&self.namespace, &self.name))
    }
}

#[async_trait]
impl Record for Deployment {
    async fn record(&self, label: &str) -> Result<Release> {
        let live = self.live().await?;
        let seen = self.observe(Look::full()).await?;
        let template = without_hash(&live.template);
        let recorded = record_running(&self.archive(&live), &seen, &template, &live.annotations, label).await;
        recorded.map_err(|e| e.with_target(&self.id))
    }
}

#[cfg(test)]
mod tests;
