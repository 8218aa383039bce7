//! A StatefulSet, by its ControllerRevisions.
//!
//! Not here: volume claims, which a StatefulSet never changes, and data, which no rollback brings back.

use crate::{
    Cluster,
    revisioned::{Flavour, Workload, revisioned},
};

/// A StatefulSet. Cheap to clone; the clones share what is remembered of its revisions.
///
/// # What it does
/// - It sets the pod template of the wanted release's newest ControllerRevision, as `kubectl rollout undo` does. Partition,
///   replicas and volume claims stay; so do annotations, `kubernetes.io/change-cause` says why.
/// - The write is refused if the uid, the template or the update strategy is not as it was when it was looked at. Scaling
///   and annotations do not disturb it.
/// - Under `podManagementPolicy: OrderedReady` its controller waits for a broken pod to get ready before it would replace
///   it: for ever ([kubernetes#67250](https://github.com/kubernetes/kubernetes/issues/67250)). So the same write goes on
///   until no pod of another release is left: such pods are deleted when they are not ready, each as it was seen (uid and
///   resourceVersion), and no other. Pods that are ready are replaced by the controller, in its order. Called again after
///   a crash, it goes on with what is left. `Parallel` needs none of that.
/// - Pods below the partition are left alone. Where they would stay at another release, the change is blocked, and says so.
/// - With the update strategy `OnDelete` nothing happens by itself: the change is blocked, unless
///   [`deleting_pods`](StatefulSet::deleting_pods) was said.
/// - It has settled when every pod is of the wanted release and available, and pods of others are gone, those that are
///   being deleted too. A pod of the wanted release that will not get well ends the wait at once, with its reason.
///
/// A release is the template by its content ([`release_id`](crate::release_id)); history is the ControllerRevisions that
/// are left, in the order in which they were last deployed,
/// and then the releases that were recorded.
///
/// # Recording
/// [`Target::recorder`](rollback_core::Target::recorder) keeps the template, and copies of the ConfigMaps that its pods refer to: immutable ConfigMaps in
/// the same namespace, owned by the workload, labelled `rollback.dev/archive`. So a release whose revision was pruned can
/// still be gone back to. Recorded twice, it is written once. Values in the template are kept as they are: whoever may read
/// ConfigMaps there reads them.
///
/// # Permissions
/// ```yaml
/// rules:
///   - {apiGroups: ["apps"], resources: ["statefulsets"], verbs: ["get", "patch"]}
///   - {apiGroups: ["apps"], resources: ["controllerrevisions"], verbs: ["list"]}
///   # Without delete, a set with podManagementPolicy Parallel can still go back.
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list", "delete"]}
///   # For findings; without them, less is found out beforehand.
///   - {apiGroups: [""], resources: ["configmaps", "secrets"], verbs: ["get"]}
///   - {apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}  # a ClusterRole
///   # To go back to what was recorded; to record it: create, patch and delete too; with restoring_config_maps: create and
///   # patch. With with_secret, the same of secrets.
///   - {apiGroups: [""], resources: ["configmaps"], verbs: ["get", "list"]}
/// ```
///
/// # Requests
/// A look costs two requests (the StatefulSet, its pods), and a third where a pod is of a revision that was not seen yet.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let report = Rollback::of(cluster.stateful_set("shop", "cart"))
///     .because("cart-2 crashes since 2.4.0")
///     .to(Choose::verified().or_previous())
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StatefulSet {
    workload: Workload,
}

impl Cluster {
    /// A StatefulSet of this cluster. No request; a name that is none is found out by the first look.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn emergency(cluster: rollback_k8s::Cluster) {
    /// let cart = cluster.stateful_set("shop", "cart");
    /// println!("{}", Rollback::break_glass_on(&cart, "paged: carts are lost").await);
    /// # }
    /// ```
    pub fn stateful_set(&self, namespace: impl Into<String>, name: impl Into<String>) -> StatefulSet {
        StatefulSet { workload: Workload::new(self, Flavour::StatefulSet, namespace.into(), name.into()) }
    }
}

impl StatefulSet {
    /// Where its update strategy is `OnDelete`, its pods may be deleted: one that is not ready at once, the others one at a
    /// time from the highest ordinal down, each when all serve. Default: the change is blocked.
    ///
    /// ```no_run
    /// # fn all(cluster: rollback_k8s::Cluster) {
    /// let cart = cluster.stateful_set("shop", "cart").deleting_pods();
    /// # }
    /// ```
    pub fn deleting_pods(mut self) -> Self {
        self.workload.options.delete_pods = true;
        self
    }
    /// Nodes come by themselves, so a pod that no node has room for is waited for. Default: it ends the wait, unless pods of
    /// the bad release may still make room.
    pub fn expecting_new_nodes(mut self) -> Self {
        self.workload.options.new_nodes = true;
        self
    }
}

revisioned!(StatefulSet, "stateful_set");
