//! A release of Helm: rolled back by the real `helm`, and believed only as far as the API shows it.
//!
//! Not here: charts, repositories and values; a Flux HelmRelease, which drives Helm by itself (freeze it first).

mod apply;
mod checks;
mod observe;
mod prepare;
mod record;
mod workload;

use crate::{Cluster, connect::Missing, evidence::Saved, kinds::SECRET};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use record::Revision;
use rollback_core::{
    Applied, Approved, Capabilities, Change, Error, EvidenceSource, Fencing, Kind, Look, Observation, Pacing, Prepared,
    Release, ReleaseId, Result, Stored, Target, TargetId, Timestamp, Token, Work, minutes,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// A release of Helm 3, by its storage in Secrets (`sh.helm.release.v1.NAME.vN`). Cheap to clone; the clones share what was
/// read of the Secrets.
///
/// # What it does
/// - It runs `helm rollback NAME REVISION` with an explicit revision: a plain rollback takes the one before, whatever became
///   of that. No shell; bounded in time; without `--wait`, because what helm waits for is looked at here.
/// - **A release is what is deployed**: the rendered manifest and the values, by their digest. Helm gives an old release a
///   new revision each time it comes back. Values are never shown, kept or logged; that they differ is.
/// - **What runs is asked of the pods**: each Deployment, StatefulSet and DaemonSet of the manifest, by the templates that
///   its pods came from; ConfigMaps by their data.
/// - **A pending release** (`pending-upgrade`, `pending-rollback`: helm was killed, or is still at it) blocks every later
///   upgrade, and no rollback. Helm has no lock: two at once both succeed, and leave two revisions deployed. So it is refused
///   while one is pending, until it has been for longer than helm's own time-out
///   ([`with_timeout`](HelmRelease::with_timeout)), or [`passing_over_pending`](HelmRelease::passing_over_pending) was said:
///   make sure first that the helm process is dead. The old record stays pending, harmless.
/// - A release that was never installed (`pending-install`) has nothing to go back to: `helm uninstall` frees its name.
/// - Before it writes, helm must name the same newest revision, of the same time, as the Secrets read here: else it speaks
///   to another cluster.
///
/// # Limits
/// Helm has no compare-and-set ([`Fencing::BestEffort`]): the newest revision is compared right before helm is started. Only
/// storage in Secrets, the default, is read. Its hooks run, as in any rollback.
///
/// # Permissions
/// For this: reading Secrets of Helm's (there is no narrower way: their names are not known beforehand), marking the newest.
/// ```yaml
/// rules:
///   - {apiGroups: [""], resources: ["secrets"], verbs: ["list", "patch"]}
///   - {apiGroups: ["apps"], resources: ["deployments", "statefulsets", "daemonsets"], verbs: ["get"]}
///   - {apiGroups: ["apps"], resources: ["replicasets", "controllerrevisions"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["configmaps"], verbs: ["get"]}
///   # For findings; without them, less is found out beforehand.
///   - {apiGroups: [""], resources: ["secrets"], verbs: ["get"]}
///   - {apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}  # a ClusterRole
/// ```
/// For helm itself, by its own kubeconfig: `get`, `list`, `create`, `update` and `delete` on Secrets, and on every kind of the
/// chart.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let report = Rollback::of(cluster.helm_release("shop", "checkout").with_context("prod"))
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
pub struct HelmRelease {
    cluster: Cluster,
    namespace: String,
    name: String,
    id: TargetId,
    options: Options,
    known: Known,
}

/// What was asked for besides.
#[derive(Clone, Debug)]
struct Options {
    program: String,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    timeout: Duration,
    over_pending: bool,
}

/// Revisions by the Secret's uid and version: they are large, and each is read apart once.
type SecretVersion = (String, String);
#[derive(Clone, Default)]
struct Known(Arc<Mutex<HashMap<SecretVersion, Arc<Revision>>>>);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Manifests may hold secrets.
        f.write_str("Known")
    }
}

/// What was read, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    secret: String,
    revision: u64,
    status: String,
}
impl Stored for Read {
    const NAME: &'static str = "k8s/helm-release-read";
    const VERSION: u32 = 1;
}

/// How an approved change is carried out. Numbers stay: what a revision holds does not change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undo {
    revision: u64,
    release: ReleaseId,
}
impl Stored for Undo {
    const NAME: &'static str = "k8s/helm-release-undo";
    const VERSION: u32 = 1;
}

/// What helm calls a write, and what it calls one that is pending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Number {
    revision: u64,
    status: String,
}
impl Stored for Number {
    const NAME: &'static str = "k8s/helm-release-number";
    const VERSION: u32 = 1;
}

impl Cluster {
    /// A release of Helm in this cluster. No request; a name that is none is found out by the first look.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn emergency(cluster: rollback_k8s::Cluster) {
    /// let checkout = cluster.helm_release("shop", "checkout");
    /// println!("{}", Rollback::break_glass_on(&checkout, "paged: all of checkout is down").await);
    /// # }
    /// ```
    pub fn helm_release(&self, namespace: impl Into<String>, name: impl Into<String>) -> HelmRelease {
        let (namespace, name) = (namespace.into(), name.into());
        HelmRelease {
            id: TargetId::new(format!("k8s:{}/{namespace}/helm/{name}", self.name())),
            cluster: self.clone(),
            namespace,
            name,
            options: Options {
                program: "helm".into(),
                kubeconfig: None,
                context: None,
                timeout: minutes(5),
                over_pending: false,
            },
            known: Known::default(),
        }
    }
}

impl HelmRelease {
    /// The helm to run: a path, or a name that is looked up in `PATH`. Default: `helm`.
    pub fn with_program(mut self, program: impl Into<String>) -> Self {
        self.options.program = program.into();
        self
    }
    /// Helm's `--kubeconfig`. Default: as helm finds it.
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.kubeconfig = Some(path.into());
        self
    }
    /// Helm's `--kube-context`. Default: the current one.
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.options.context = Some(context.into());
        self
    }
    /// Helm's `--timeout` for one operation, and how long a pending release may still be worked at. Default: 5 min, as helm's.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }
    /// A pending release is passed over, however young: the helm process behind it is known to be dead. Default: refused.
    pub fn passing_over_pending(mut self) -> Self {
        self.options.over_pending = true;
        self
    }
    /// Its name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its revisions, newest first. Not empty.
    async fn revisions(&self) -> Result<Vec<Arc<Revision>>> {
        let selector = format!("owner=helm,name={}", self.name);
        let secrets: Vec<Secret> =
            self.cluster.list_of("list the revisions of the release", SECRET, &self.namespace, &selector).await?;
        let mut all = vec![];
        let mut there = BTreeSet::new();
        for secret in &secrets {
            let key = (
                secret.metadata.uid.clone().unwrap_or_default(),
                secret.metadata.resource_version.clone().unwrap_or_default(),
            );
            let known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            let revision = match known {
                Some(known) => known,
                None => {
                    let revision = Arc::new(Revision::of(secret)?);
                    let mut known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(key.clone(), revision.clone());
                    revision
                }
            };
            there.insert(key);
            all.push(revision);
        }
        self.known.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| there.contains(key));
        all.sort_by_key(|revision| std::cmp::Reverse(revision.number));
        if all.is_empty() {
            const CALLED: &str = "release of Helm";
            let Self { namespace, name, .. } = self;
            let (selector, label) = ("owner=helm", Some("name"));
            let missing = Missing { kind: SECRET, called: CALLED, namespace, name, selector, label };
            let instead = self.cluster.instead(missing).await.unwrap_or_default();
            let text = format!("there is no {CALLED} {name} in namespace {namespace}{instead}");
            return Err(Error::new(Kind::NotFound, "read the release").with_message(text).without_effect());
        }
        Ok(all)
    }

    /// It may still be worked at.
    fn may_be_alive(&self, newest: &Revision) -> bool {
        let age = newest.age(Timestamp::now());
        newest.is_pending() && !self.options.over_pending && age.is_none_or(|age| age <= self.options.timeout)
    }
}

/// Each release once, as it was last deployed, newest first.
fn releases(revisions: &[Arc<Revision>], limit: usize) -> Vec<Release> {
    let mut known = BTreeSet::new();
    let fresh = revisions.iter().filter(|revision| known.insert(revision.release.clone()));
    fresh.take(limit).map(|revision| revision.described()).collect()
}

#[async_trait]
impl Target for HelmRelease {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        // Again: what is deployed already is not rolled back to once more.
        Capabilities::new(Fencing::BestEffort).with_pacing(Pacing::Platform)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.look(&look).await.map_err(|e| e.with_target(&self.id))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let revisions = self.revisions().await.map_err(|e| e.with_target(&self.id))?;
        Ok(releases(&revisions, limit))
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        if !self.capabilities().supports(change) {
            let e = Error::new(Kind::Unsupported, "prepare the change").with_target(&self.id);
            return Err(e.with_message("a release of Helm can be brought to an earlier one").without_effect());
        }
        let wanted = change.only_release().map_err(|e| e.with_target(&self.id))?;
        self.make_ready(change, wanted, work).await.map_err(|e| e.with_target(&self.id))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let read: Read = token.read()?;
        self.roll_back(approved, &read, work).await.map_err(|e| e.with_target(&self.id))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(Saved::of(&self.cluster, &self.id, &self.namespace).told_by(self.clone())))
    }
}
