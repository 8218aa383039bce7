//! Looks answered from what a few watches have shown, instead of by requests of their own: what a thousand rollbacks ask of
//! one API server.
//!
//! Not here: writes, which are always guarded by what they rest on and refused where that is not so any more.

mod feed;
mod table;

use crate::{
    connect::Cluster,
    deployment::Live,
    kinds::{DEPLOYMENT, ObjectKind, POD, REPLICA_SET},
    pods::PodState,
    revisions::Revision,
};
use feed::Feed;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::DynamicObject,
    core::{Expression, Selector, SelectorExt as _},
};
use rollback_core::{Nudger, Nudges, Result};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};
pub(crate) use table::Kept;
use table::{Table, key};
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

/// What the end of a run rests on is no older than that.
const CURRENT: Duration = Duration::from_secs(2);
/// So many ask for themselves in that time whether what was seen is current. More share a list, which is believed as long.
const FEW: usize = 4;

/// Which namespaces are watched, and how old what was seen may be: see [`Cluster::with_shared_watches`].
///
/// ```
/// use rollback_k8s::SharedWatches;
/// use std::time::Duration;
/// let watches = SharedWatches::of_namespaces(["shop", "billing"]).with_staleness(Duration::from_secs(20));
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is watched before Cluster::with_shared_watches"]
pub struct SharedWatches {
    /// `None`: all.
    namespaces: Option<Vec<String>>,
    staleness: Duration,
}

impl SharedWatches {
    /// Of these namespaces. Three watches each; what lies elsewhere is asked for by requests, as ever.
    pub fn of_namespaces<N: Into<String>>(namespaces: impl IntoIterator<Item = N>) -> Self {
        let mut namespaces: Vec<String> = namespaces.into_iter().map(Into::into).collect();
        namespaces.sort();
        namespaces.dedup();
        Self { namespaces: Some(namespaces), staleness: Duration::from_secs(30) }
    }
    /// Of all namespaces: three watches, and what they need is granted by a ClusterRole.
    pub fn of_all_namespaces() -> Self {
        Self { namespaces: None, ..Self::of_namespaces([""; 0]) }
    }
    /// How old what was seen may be while something is waited for. When the API server has not been heard for longer, looks
    /// are requests again until it is. Half of it is how long one watch lasts. Default: 30 s. 10 s at least, 5 min at most.
    pub fn with_staleness(mut self, staleness: Duration) -> Self {
        self.staleness = staleness.clamp(Duration::from_secs(10), Duration::from_secs(300));
        self
    }
}

impl Cluster {
    /// This cluster, with Deployments, ReplicaSets and Pods watched: looks at a [`Deployment`](crate::Deployment) are
    /// answered from what the watches have shown, and cost no request; and a run that waits looks when they show something
    /// new, not at its next poll. For who rolls back many at once, or runs a
    /// controller; for one rollback, requests are less. Targets made of the cluster that this gives, and of its clones, use
    /// the watches; they end with the last of those. Returns when everything has been listed once.
    ///
    /// # How old is what is seen
    /// - While something is waited for, [`with_staleness`](SharedWatches::with_staleness) at the most; usually
    ///   milliseconds. A watch that broke is taken up again where it ended, or by a list where the server has compacted
    ///   that away. When it has been silent for longer than that, looks are requests until it is back.
    /// - A plan rests on the Deployment as it was after the run began: the API server is asked whether it still is as the
    ///   watch has shown it. Where many ask at once, they share one list.
    /// - The end of a run rests on a look that is 2 s old at the most: of a watch that has told nothing for longer, it is
    ///   asked too.
    /// - Nothing settles before the watch has shown the generation that our own write made, and as many pods as the
    ///   Deployment counts.
    /// - A write is guarded by what its look has shown, so one that rests on an old look is refused, and looked at anew.
    ///
    /// # Costs
    /// A list and a watch for each of the three kinds, for each namespace, or once for all; each watch is opened again
    /// every [`with_staleness`](SharedWatches::with_staleness) / 2. What a look needs of each Deployment, its ReplicaSets and
    /// Pods is kept in memory.
    ///
    /// # Permissions
    /// Besides what the target names, in a Role of each namespace, or in a ClusterRole for all:
    /// ```yaml
    /// rules:
    ///   - {apiGroups: ["apps"], resources: ["deployments", "replicasets"], verbs: ["list", "watch"]}
    ///   - {apiGroups: [""], resources: ["pods"], verbs: ["list", "watch"]}
    /// ```
    ///
    /// ```no_run
    /// # async fn roll_back() -> rollback_core::Result<()> {
    /// use rollback_core::{group::Group, prelude::*};
    /// use rollback_k8s::{Cluster, ClusterOptions, SharedWatches};
    /// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
    /// let cluster = cluster.with_shared_watches(SharedWatches::of_namespaces(["shop"])).await?;
    /// let journal = std::sync::Arc::new(SqliteJournal::open("/var/lib/rollback.db")?); // one in the cluster costs requests
    /// let mut group = Group::new("incident-17").at_once(1000); // four, if nothing is said
    /// for name in ["checkout", "cart", "search"] {
    ///     let target = cluster.deployment("shop", name).without_server_dry_run().without_evidence();
    ///     let choose = Choose::verified().or_previous();
    ///     group = group.member(name, Rollback::of(target).because("500s").to(choose).journal(journal.clone()));
    /// }
    /// println!("{}", group.run().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::Denied`](rollback_core::Kind::Denied) where this user may not list or watch, with the rule to add; [`Kind::Unavailable`](rollback_core::Kind::Unavailable), transient, where
    /// the API server does not answer.
    ///
    /// # Cancel safety
    /// Dropping the future ends the watches.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: the watches are tasks of it.
    pub async fn with_shared_watches(&self, watches: SharedWatches) -> Result<Cluster> {
        let watches = Watches::begin(self, &watches);
        for feeds in watches.feeds.values() {
            feeds.first().await?;
        }
        Ok(self.watching(Arc::new(watches)))
    }
}

/// Everything that is watched.
#[derive(Debug)]
pub(crate) struct Watches {
    /// By namespace; all, if that is what is watched.
    feeds: BTreeMap<Option<String>, Arc<Feeds>>,
    /// They end with this.
    _tasks: JoinSet<()>,
}

impl Watches {
    fn begin(cluster: &Cluster, options: &SharedWatches) -> Self {
        let namespaces = match &options.namespaces {
            Some(namespaces) => namespaces.iter().cloned().map(Some).collect(),
            None => vec![None],
        };
        let (mut feeds, mut tasks) = (BTreeMap::new(), JoinSet::new());
        for namespace in namespaces {
            let of = Arc::new(Feeds::new(cluster, namespace.as_deref(), options.staleness));
            for_each(&of, &mut tasks);
            feeds.insert(namespace, of);
        }
        Self { feeds, _tasks: tasks }
    }
    /// What is watched of a namespace.
    pub(crate) fn of(&self, namespace: &str) -> Option<&Arc<Feeds>> {
        self.feeds.get(&Some(namespace.to_owned())).or_else(|| self.feeds.get(&None))
    }
}

fn for_each(feeds: &Arc<Feeds>, tasks: &mut JoinSet<()>) {
    let (deployments, replica_sets, pods) = (feeds.clone(), feeds.clone(), feeds.clone());
    tasks.spawn(async move { deployments.deployments.follow().await });
    tasks.spawn(async move { replica_sets.replica_sets.follow().await });
    tasks.spawn(async move { pods.pods.follow().await });
}

/// The watches of one namespace, or of all.
#[derive(Debug)]
pub(crate) struct Feeds {
    deployments: Feed<Live>,
    replica_sets: Feed<Revision>,
    pods: Feed<WatchedPod>,
    staleness: Duration,
    /// Since when how many asked for themselves.
    alone: std::sync::Mutex<(Instant, usize)>,
    /// When the last list began that many shared.
    listed: Mutex<Option<Instant>>,
}

impl Feeds {
    fn new(cluster: &Cluster, namespace: Option<&str>, staleness: Duration) -> Self {
        let lasts = staleness / 2;
        let client = || cluster.client().clone();
        let dynamic = |kind: ObjectKind| -> Api<DynamicObject> {
            match namespace {
                Some(namespace) => Api::namespaced_with(client(), namespace, &kind.resource()),
                None => Api::all_with(client(), &kind.resource()),
            }
        };
        let pods: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(client(), namespace),
            None => Api::all(client()),
        };
        Self {
            deployments: Feed::new(cluster, DEPLOYMENT, namespace, dynamic(DEPLOYMENT), lasts),
            replica_sets: Feed::new(cluster, REPLICA_SET, namespace, dynamic(REPLICA_SET), lasts),
            pods: Feed::new(cluster, POD, namespace, pods, lasts),
            staleness,
            alone: std::sync::Mutex::new((Instant::now(), 0)),
            listed: Mutex::new(None),
        }
    }
    async fn first(&self) -> Result<()> {
        self.deployments.first().await?;
        self.replica_sets.first().await?;
        self.pods.first().await
    }

    /// A Deployment, if it is known and was heard of lately.
    pub(crate) fn deployment(&self, namespace: &str, name: &str) -> Option<Arc<Live>> {
        self.deployments.read(self.staleness, |table| table.get(namespace, name).cloned()).flatten()
    }
    /// The same as it is now, give or take [`CURRENT`].
    pub(crate) async fn current_deployment(&self, cluster: &Cluster, namespace: &str, name: &str) -> Option<Arc<Live>> {
        if self.deployments.read(CURRENT, |_| ()).is_none() {
            return self.confirmed_deployment(cluster, namespace, name).await;
        }
        self.deployment(namespace, name)
    }
    /// The same as the API server says that it is.
    pub(crate) async fn confirmed_deployment(
        &self,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Live>> {
        self.confirm(cluster, namespace, name).await.ok()?;
        self.deployment(namespace, name)
    }
    async fn confirm(&self, cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
        if self.is_one_of_few() {
            let object = cluster.get("read the Deployment", DEPLOYMENT, namespace, name).await?;
            self.deployments.renew(object);
            return Ok(());
        }
        let asked = Instant::now();
        let mut listed = self.listed.lock().await;
        if listed.is_none_or(|began| began < asked) {
            let began = Instant::now();
            self.deployments.list(Table::renew).await?;
            *listed = Some(began);
        }
        Ok(())
    }
    fn is_one_of_few(&self) -> bool {
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if alone.0.elapsed() >= CURRENT {
            *alone = (Instant::now(), 0);
        }
        alone.1 += 1;
        alone.1 <= FEW
    }
    /// What a write answered: it is seen from then on.
    pub(crate) fn wrote(&self, object: DynamicObject) {
        self.deployments.renew(object);
    }
    /// The ReplicaSets that a Deployment controls.
    pub(crate) fn replica_sets(&self, controlled_by: &str) -> Option<Vec<Revision>> {
        self.replica_sets.read(self.staleness, |table| {
            table.found(controlled_by).map(|revision| Revision::clone(revision)).collect()
        })
    }
    /// That a Deployment or one of its pods is not as it was.
    pub(crate) fn nudges(&self, namespace: &str, name: &str) -> Nudges {
        let nudger = Nudger::new();
        let nudges = nudger.nudges();
        self.deployments.tell_of(|_| Some(key(namespace, name)), nudger.clone());
        if let Some(live) = self.deployment(namespace, name) {
            self.pods.tell_of(|table| narrowest(table, namespace, &live.selector), nudger);
        }
        nudges
    }
    /// The pods that a selector finds.
    pub(crate) fn pods(&self, namespace: &str, selector: &Selector) -> Option<Vec<PodState>> {
        self.pods.read(self.staleness, |table| selected(table, namespace, selector))
    }
}

/// A pod, and what selectors find it by.
#[derive(Debug)]
pub(crate) struct WatchedPod {
    state: PodState,
    labels: BTreeMap<String, String>,
}

impl Kept for WatchedPod {
    type Object = Pod;
    fn metadata(pod: &Pod) -> &ObjectMeta {
        &pod.metadata
    }
    fn of(pod: Pod) -> Option<Self> {
        let state = PodState::of(&pod);
        Some(Self { state, labels: pod.metadata.labels.unwrap_or_default() })
    }
    fn found_by(&self, namespace: &str) -> Vec<String> {
        self.labels.iter().map(|(name, value)| label(namespace, name, value)).collect()
    }
}

fn label(namespace: &str, name: &str, value: &str) -> String {
    key(namespace, &format!("{name}={value}"))
}

/// The label that the fewest pods have, of those that the selector asks for.
fn narrowest(table: &Table<WatchedPod>, namespace: &str, selector: &Selector) -> Option<String> {
    let pairs = selector.clone().into_iter().filter_map(|expression| match expression {
        Expression::Equal(name, value) => Some(label(namespace, &name, &value)),
        _ => None,
    });
    pairs.min_by_key(|pair| table.count(pair))
}

fn selected(table: &Table<WatchedPod>, namespace: &str, selector: &Selector) -> Vec<PodState> {
    let wanted = |pod: &&Arc<WatchedPod>| selector.matches(&pod.labels);
    match narrowest(table, namespace, selector) {
        Some(pair) => table.found(&pair).filter(wanted).map(|pod| pod.state.clone()).collect(),
        None => table.all_of(namespace).filter(wanted).map(|pod| pod.state.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_finds_what_the_server_would() {
        let mut table: Table<WatchedPod> = Table::default();
        for (n, (namespace, labels)) in [
            ("shop", json!({"app": "web", "tier": "front"})),
            ("shop", json!({"app": "web", "tier": "back"})),
            ("shop", json!({"app": "api"})),
            ("other", json!({"app": "web", "tier": "front"})),
        ]
        .into_iter()
        .enumerate()
        {
            let metadata = json!({"namespace": namespace, "name": format!("p{n}"), "uid": n.to_string(),
                "resourceVersion": "1", "labels": labels});
            assert!(table.put(serde_json::from_value(json!({"metadata": metadata})).unwrap()));
        }
        let web = || Expression::Equal("app".into(), "web".into());
        for (what, expressions, is) in [
            ("one label", vec![web()], vec!["p0", "p1"]),
            ("two", vec![web(), Expression::Equal("tier".into(), "back".into())], vec!["p1"]),
            ("an expression beside", vec![web(), Expression::NotEqual("tier".into(), "back".into())], vec!["p0"]),
            ("an expression alone", vec![Expression::Exists("tier".into())], vec!["p0", "p1"]),
            ("nobody", vec![Expression::Equal("app".into(), "none".into())], vec![]),
        ] {
            let selector: Selector = expressions.into_iter().collect();
            let mut found: Vec<String> = selected(&table, "shop", &selector).into_iter().map(|pod| pod.name).collect();
            found.sort();
            assert_eq!(found, is, "{what}");
        }
    }

    #[test]
    fn how_old_may_be_is_bounded() {
        let staleness =
            |seconds| SharedWatches::of_all_namespaces().with_staleness(Duration::from_secs(seconds)).staleness;
        assert_eq!((staleness(0).as_secs(), staleness(60).as_secs(), staleness(3600).as_secs()), (10, 60, 300));
        let watches = SharedWatches::of_namespaces(["b", "a", "b"]);
        assert_eq!(watches.namespaces, Some(vec!["a".to_owned(), "b".into()]));
    }
}
