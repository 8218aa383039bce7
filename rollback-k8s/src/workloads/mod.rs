//! Several workloads at once: which ones there are, which of them are broken, and one group of rollbacks for those.
//!
//! Not here: what a group does in which order and when one fails ([`Group`]), and how each workload goes back.

mod scope;

pub use scope::{Scope, Suggestion, WorkloadState};

use crate::{
    Cluster, DaemonSet, Deployment, StatefulSet,
    kinds::{DAEMON_SET, DEPLOYMENT, ObjectKind, STATEFUL_SET},
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use rollback_core::{
    Applied, Approved, Capabilities, Change, Error, EvidenceSource, Kind, Look, Nudges, Observation, Prepared, Record,
    Release, Result, Rollback, RunId, Strategy, Target, TargetId, Token, Work, group::Group,
};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// How many are looked at, and rolled back, at once if nothing else is said: as many as [`Group`] runs.
const AT_ONCE: usize = 4;

/// A Deployment, StatefulSet or DaemonSet: a target as that one is, called `deployment/checkout`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Workload {
    /// A Deployment.
    Deployment(Deployment),
    /// A StatefulSet.
    StatefulSet(StatefulSet),
    /// A DaemonSet.
    DaemonSet(DaemonSet),
}

impl Workload {
    fn target(&self) -> &dyn Target {
        match self {
            Workload::Deployment(target) => target,
            Workload::StatefulSet(target) => target,
            Workload::DaemonSet(target) => target,
        }
    }
    /// Its name in its namespace.
    pub fn name(&self) -> &str {
        match self {
            Workload::Deployment(target) => target.name(),
            Workload::StatefulSet(target) => target.name(),
            Workload::DaemonSet(target) => target.name(),
        }
    }
    /// The release of a revision number, as `kubectl rollout history` shows it. Numbers differ from workload to workload:
    /// one number for several is none for most.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a number that it does not have; otherwise as [`Target::history`].
    pub async fn revision(&self, number: i64) -> Result<Release> {
        match self {
            Workload::Deployment(target) => target.revision(number).await,
            Workload::StatefulSet(target) => target.revision(number).await,
            Workload::DaemonSet(target) => target.revision(number).await,
        }
    }
}

/// `deployment/checkout`
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Workload::Deployment(_) => "deployment",
            Workload::StatefulSet(_) => "statefulset",
            Workload::DaemonSet(_) => "daemonset",
        };
        write!(f, "{kind}/{}", self.name())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Target for Workload {
    fn id(&self) -> &TargetId {
        self.target().id()
    }
    fn capabilities(&self) -> Capabilities {
        self.target().capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.target().observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.target().history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.target().prepare(change, work).await
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.target().apply(approved, token, work).await
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        self.target().recorder()
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        self.target().evidence()
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        self.target().strategy()
    }
    fn nudges(&self) -> Option<Nudges> {
        self.target().nudges()
    }
}

/// Workloads of one namespace, to be rolled back together: all of them, those that a selector finds, or those of a list.
///
/// # Permissions
/// Those of each workload. To find them: `list` on `deployments`, `statefulsets` and `daemonsets` of `apps`; a list of names
/// needs none.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// # async fn roll_back(cluster: rollback_k8s::Cluster) -> Result<()> {
/// let all = cluster.workloads("vapora", "app.kubernetes.io/part-of=vapora").await?;
/// // Only the backend is down: only the backend.
/// let suggestion = all.suggest().await;
/// println!("{suggestion}");
/// if suggestion.names().is_empty() {
///     return Ok(()); // all pods are ready: metrics must tell
/// }
/// let journal = std::sync::Arc::new(SqliteJournal::open("/var/lib/rollback.db")?);
/// let report = all
///     .only(suggestion.names())
///     .in_order(["deployment/vapora-backend", "deployment/vapora-agents", "deployment/vapora-llm-router"])
///     .group("incident-17", |workload| {
///         // Each goes to a release of its own history.
///         Rollback::of(workload)
///             .because("500s since the deploy of 14:00")
///             .to(Choose::verified().or_previous())
///             .journal(journal.clone())
///     })
///     .at_once(2)
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before its group runs"]
pub struct Workloads {
    all: Vec<Workload>,
    order: Vec<String>,
}

impl Cluster {
    /// The Deployments, StatefulSets and DaemonSets of a namespace with these labels, as `kubectl -l` takes them; all of
    /// them with an empty text. Those of another controller (of an operator's object, say) are left out: it would set them back.
    ///
    /// # Errors
    /// As the API server; [`Kind::NotFound`] where there is none.
    pub async fn workloads(&self, namespace: &str, labels: &str) -> Result<Workloads> {
        let found = |kind: ObjectKind| self.list("find the workloads", kind, namespace, labels);
        let (deployments, stateful_sets, daemon_sets) =
            futures::try_join!(found(DEPLOYMENT), found(STATEFUL_SET), found(DAEMON_SET))?;
        let kinds = [("deployment", deployments), ("statefulset", stateful_sets), ("daemonset", daemon_sets)];
        let mut names = vec![];
        for (kind, objects) in kinds {
            for metadata in objects.into_iter().map(|object| object.metadata) {
                let controlled = metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
                if let Some(name) = metadata.name.filter(|_| !controlled) {
                    names.push(format!("{kind}/{name}"));
                }
            }
        }
        if names.is_empty() {
            let text = match labels {
                "" => format!("there is no workload in namespace {namespace}"),
                labels => format!("no workload in namespace {namespace} has the labels {labels}"),
            };
            return Err(Error::new(Kind::NotFound, "find the workloads").with_message(text).without_effect());
        }
        self.workloads_named(namespace, names)
    }

    /// The workloads of a list: `deployment/checkout`, `statefulset/cart`, `daemonset/proxy`; a name without a kind is a
    /// Deployment's. No request; a name that is none is found out by the first look.
    ///
    /// ```no_run
    /// # fn of(cluster: rollback_k8s::Cluster) -> rollback_core::Result<()> {
    /// let three = cluster.workloads_named("vapora", ["vapora-backend", "vapora-agents", "statefulset/vapora-queue"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::Invalid`] for another kind, or a name that is there twice.
    pub fn workloads_named(
        &self,
        namespace: &str,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Workloads> {
        let invalid =
            |text: String| Error::new(Kind::Invalid, "find the workloads").with_message(text).without_effect();
        let (mut all, mut there) = (vec![], BTreeSet::new());
        for name in names {
            let name: String = name.into();
            let (kind, name) = name.split_once('/').unwrap_or(("deployment", &name));
            let workload = match kind {
                "deployment" | "deploy" => Workload::Deployment(self.deployment(namespace, name)),
                "statefulset" | "sts" => Workload::StatefulSet(self.stateful_set(namespace, name)),
                "daemonset" | "ds" => Workload::DaemonSet(self.daemon_set(namespace, name)),
                other => {
                    return Err(invalid(format!(
                        "{other}/{name}: deployment, statefulset or daemonset can be rolled back"
                    )));
                }
            };
            if !there.insert(workload.to_string()) {
                return Err(invalid(format!("{workload} is named twice")));
            }
            all.push(workload);
        }
        Ok(Workloads { all, order: vec![] })
    }
}

impl Workloads {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Workload> {
        self.all.iter()
    }
    /// Their names: `deployment/checkout`.
    pub fn names(&self) -> Vec<String> {
        self.all.iter().map(ToString::to_string).collect()
    }
    /// Of them only these. A name that is not among them is left out.
    pub fn only(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names: BTreeSet<String> = names.into_iter().map(Into::into).collect();
        self.all.retain(|workload| names.contains(&workload.to_string()));
        self
    }
    /// One after the other, in this order; the others beside them. Default: in none. A name that is not among them is passed
    /// over.
    pub fn in_order(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.order = names.into_iter().map(Into::into).collect();
        self
    }

    /// Looks at each of them, and says which are to be rolled back, and why. Only reads, four at a time; one that cannot be
    /// read is not known, and never counts as broken.
    pub async fn suggest(&self) -> Suggestion {
        let looks =
            self.all.iter().map(|workload| async move { (workload.to_string(), workload.observe(Look::full()).await) });
        let mut seen: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        seen.sort_by(|(a, _), (b, _)| a.cmp(b));
        Suggestion::of(seen.iter().map(|(name, seen)| (name.as_str(), seen.as_ref())))
    }

    /// A group with a member for each, called `deployment.checkout`: to bound how many run at once, to choose what happens
    /// when one fails, and to run it. The group's id is what a resumed one is known by.
    pub fn group(&self, run: impl Into<RunId>, rollback: impl Fn(Workload) -> Rollback) -> Group {
        let names: BTreeSet<String> = self.names().into_iter().collect();
        let mut ordered: Vec<&String> = self.order.iter().filter(|name| names.contains(*name)).collect();
        let mut there = BTreeSet::new();
        ordered.retain(|name| there.insert(*name));
        self.all.iter().fold(Group::new(run), |group, workload| {
            let name = workload.to_string();
            let place = ordered.iter().position(|ordered| **ordered == name);
            let before = place.and_then(|place| place.checked_sub(1)).map(|before| member(ordered[before]));
            group.member_after(member(&name), rollback(workload.clone()), before)
        })
    }
}

/// A member's name becomes part of its run's id, and has no slash.
fn member(name: &str) -> String {
    name.replace('/', ".")
}

#[cfg(test)]
mod tests;
