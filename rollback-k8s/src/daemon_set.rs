//! A DaemonSet, by its ControllerRevisions.

use crate::{
    Cluster,
    revisioned::{Flavour, Workload, revisioned},
};

/// A DaemonSet. Cheap to clone; the clones share what is remembered of its revisions.
///
/// # What it does
/// - It sets the pod template of the wanted release's newest ControllerRevision, as `kubectl rollout undo` does.
///   Annotations stay, `kubernetes.io/change-cause` says why.
/// - The write is refused if the uid, the template or the update strategy is not as it was when it was looked at.
///   Annotations do not disturb it.
/// - With the update strategy `OnDelete` nothing happens by itself: the change is blocked, unless
///   [`deleting_pods`](DaemonSet::deleting_pods) was said.
/// - Its instances are the nodes that it has to be on. It has settled when each of them has a pod of the wanted release that
///   is available, and pods of others are gone, those that are being deleted too. A pod of the wanted release that will
///   not get well ends the wait at once, with its reason.
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
///   - {apiGroups: ["apps"], resources: ["daemonsets"], verbs: ["get", "patch"]}
///   - {apiGroups: ["apps"], resources: ["controllerrevisions"], verbs: ["list"]}
///   - {apiGroups: [""], resources: ["pods"], verbs: ["list"]}
///   # With deleting_pods.
///   - {apiGroups: [""], resources: ["pods"], verbs: ["delete"]}
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
/// A look costs two requests (the DaemonSet, its pods), and a third where a pod is of a revision that was not seen yet.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let report = Rollback::of(cluster.daemon_set("kube-system", "log-agent"))
///     .because("no node ships logs since 2.4.0")
///     .to(Choose::verified().or_previous())
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .run()
///     .await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DaemonSet {
    workload: Workload,
}

impl Cluster {
    /// A DaemonSet of this cluster. No request; a name that is none is found out by the first look.
    ///
    /// ```no_run
    /// # use rollback_core::prelude::*;
    /// # async fn emergency(cluster: rollback_k8s::Cluster) {
    /// let agent = cluster.daemon_set("kube-system", "log-agent");
    /// println!("{}", Rollback::break_glass_on(&agent, "paged: nodes run out of disk").await);
    /// # }
    /// ```
    pub fn daemon_set(&self, namespace: impl Into<String>, name: impl Into<String>) -> DaemonSet {
        DaemonSet { workload: Workload::new(self, Flavour::DaemonSet, namespace.into(), name.into()) }
    }
}

impl DaemonSet {
    /// Where its update strategy is `OnDelete`, its pods may be deleted: one that is not ready at once, the others one at a
    /// time, each when all serve. Default: the change is blocked.
    ///
    /// ```no_run
    /// # fn all(cluster: rollback_k8s::Cluster) {
    /// let agent = cluster.daemon_set("kube-system", "log-agent").deleting_pods();
    /// # }
    /// ```
    pub fn deleting_pods(mut self) -> Self {
        self.workload.options.delete_pods = true;
        self
    }
    /// A pod that its node has no room for is waited for. Default: it ends the wait, unless pods of the bad release may
    /// still make room.
    pub fn expecting_room(mut self) -> Self {
        self.workload.options.new_nodes = true;
        self
    }
}

revisioned!(DaemonSet, "daemon_set");
