//! Kubernetes targets for [`rollback_core`].
//!
//! A [`Cluster`] is connected and identified once; targets are made from it, and given to
//! [`Rollback`](rollback_core::Rollback).
//!
//! ```no_run
//! use rollback_core::prelude::*;
//! use rollback_k8s::{Cluster, ClusterOptions};
//! # async fn roll_back() -> Result<()> {
//! let cluster = Cluster::connect(
//!     ClusterOptions::from_context("prod").expecting_uid("6f1c5b1e-0f4f-4c0b-9d0c-0f2f6b3d8a11"),
//! )
//! .await?;
//! let report = Rollback::of(cluster.deployment("shop", "checkout"))
//!     .because("checkout answers 500 since 2.4.0")
//!     .to(Choose::verified().or_previous())
//!     .recovered_when(Runs::wanted())
//!     .journal(SqliteJournal::open("/var/lib/rollback.db"))
//!     .run()
//!     .await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! # Targets
//! | target | what it is | parts |
//! |---|---|---|
//! | [`Deployment`] | what `kubectl rollout undo` does, guarded, explained, and watched until it is so | one |
//! | [`StatefulSet`] | its pod template, from its ControllerRevisions; a rollout that is stuck on a broken pod is freed | one |
//! | [`DaemonSet`] | its pod template, from its ControllerRevisions | one |
//! | [`BlueGreenService`] | a Service whose selector is switched between Deployments | each Deployment, one serves |
//! | [`ArgoRollout`] | a Rollout of Argo Rollouts: aborted, reverted, promoted through its controller | one |
//! | [`FlaggerCanary`] | a Canary of Flagger and its Deployment: the run ended by its own webhook, the target undone | one |
//! | [`HelmRelease`] | a release of Helm: by the real `helm`, believed as far as the API shows it | one |
//! | [`CanaryPair`] | two Deployments that share traffic: by replicas, or by weights of Istio and Gateway API objects | both |
//!
//! Several Deployments, StatefulSets and DaemonSets of a namespace, by labels or by name, are [`Workloads`]: they say which of
//! them are broken, and become one group. [`EmergencyLadder`] is the way when the rollback itself does not help. With the
//! feature `prometheus`, `PodMetrics` has the queries of the runbooks' rules.
//!
//! The journal and the lock may lie in the cluster too: [`ClusterJournal`].
//!
//! # Checks
//! `checks()` of a target gives verifiers and health checks that the API server answers: [`PodChecks`]. The rights that each
//! needs stand there; what is not allowed is unknown, and said.
//!
//! # Evidence
//! Before the first change logs, events and the state of pods, workload and revisions are saved as evidence, within the
//! time that [`Policy`](rollback_core::Policy) gives. What looks like a secret is blanked out, a Secret is never read.
//! Artifacts, in this order; of text and of JSON the kinds are:
//! `k8s-previous-log/1` (a container before its last restart), `k8s-events/1`, `k8s-pods/1`, `k8s-workload/1`,
//! `k8s-objects/1` (what was named, Services that select its pods, and the Ingresses, HTTPRoutes and VirtualServices that
//! name those), `k8s-config/1` (ConfigMaps: keys, sizes, who wrote last; what differs from what was recorded with the
//! release before), `k8s-metrics/1` (what pods use), `k8s-log/1` (a container), `k8s-revisions/1`, `k8s-references/1` (names
//! of ConfigMaps, Secrets, owners), and `k8s-missing/1`: what could not be had, and why. Logs are text; all else is JSON, an
//! object a line. For all of it:
//! ```yaml
//! rules:
//!   - {apiGroups: [""], resources: ["pods", "events"], verbs: ["list"]}
//!   - {apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}
//!   - {apiGroups: [""], resources: ["services"], verbs: ["list"]}
//!   - {apiGroups: [""], resources: ["configmaps"], verbs: ["get", "list"]}
//!   - {apiGroups: ["networking.k8s.io"], resources: ["ingresses"], verbs: ["list"]}
//!   - {apiGroups: ["gateway.networking.k8s.io"], resources: ["httproutes"], verbs: ["list"]}
//!   - {apiGroups: ["networking.istio.io"], resources: ["virtualservices"], verbs: ["list"]}
//!   - {apiGroups: ["metrics.k8s.io"], resources: ["pods"], verbs: ["list"]}
//!   # With the rules of the target itself. What is not allowed is left out, and said.
//! ```
//!
//! # Many at once
//! [`Cluster::with_shared_watches`] answers looks at Deployments from three watches, however many Deployments there are; what
//! is alike for all of them (rights, budgets, autoscalers, who steers) is asked once. Without evidence and server-side dry
//! run, a rollback is then one request: its write; and one more for each ConfigMap, Secret and pull secret that its pods
//! refer to.
//!
//! # What a release is
//! The pod template, by its content: see [`release_id`]. Revision numbers change with every rollback.
//!
//! # What is left on the objects
//! Annotations `rollback.dev/run`, `/key`, `/release` and `/trace` with each write that sets a release, so that a later
//! rollback does not walk on to a release known bad; `rollback.dev/paused-by` while this library holds a rollout;
//! `rollback.dev/strategy-before` while a surge is raised, `rollback.dev/replicas-before` while a restart has a Deployment at
//! 0 replicas. On a Service `/release` is what it was switched to, on objects
//! that route traffic it is the weights that were set.
//! `rollback.dev/recorded` once a release was recorded, whose template and ConfigMaps then lie beside the workload in
//! immutable ConfigMaps labelled `rollback.dev/archive`.
//!
//! # Permissions
//! Each target names the rules it needs, [above](#evidence) stands what evidence needs; besides, [`Cluster`] reads
//! the namespace `kube-system` by name, by which it knows one cluster from another; where it may not, each report warns:
//! ```yaml
//! rules: [{apiGroups: [""], resources: ["namespaces"], resourceNames: ["kube-system"], verbs: ["get"]}]  # a ClusterRole
//! ```

mod applied;
mod argo_rollout;
mod blue_green;
mod canary;
mod config_maps;
mod connect;
mod daemon_set;
mod deployment;
mod diff;
mod emergency;
mod endpoints;
mod error;
mod events;
mod evidence;
mod flagger;
mod freeze;
mod health;
mod helm;
mod images;
mod journal;
mod kinds;
mod logs;
mod marks;
mod once;
mod owner;
#[cfg(feature = "prometheus")]
mod pod_metrics;
mod pods;
mod prepare;
mod record;
mod release;
mod revisioned;
mod revisions;
mod side;
mod stateful_set;
mod steered;
mod verify;
mod watches;
mod workloads;

pub use argo_rollout::ArgoRollout;
pub use blue_green::BlueGreenService;
pub use canary::{CanaryPair, Destination};
pub use connect::{Cluster, ClusterIdentity, ClusterOptions};
pub use daemon_set::DaemonSet;
pub use deployment::Deployment;
pub use emergency::{Emergency, EmergencyLadder, EmergencyRung};
pub use flagger::{FlaggerCanary, LoadTesterGate, RollbackGate};
pub use freeze::ClusterFreeze;
pub use health::{ExecCheck, ThroughApi};
pub use helm::HelmRelease;
pub use journal::{ClusterJournal, ClusterJournalOptions};
#[cfg(feature = "prometheus")]
pub use pod_metrics::PodMetrics;
pub use release::release_id;
pub use stateful_set::StatefulSet;
pub use verify::{BadPodsGone, EndpointsWanted, NoNewWarnings, PodChecks, RestartsSteady, WithinLimits};
pub use watches::SharedWatches;
pub use workloads::{Scope, Suggestion, Workload, WorkloadState, Workloads};
