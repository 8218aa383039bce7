//! The kinds of objects this crate speaks of, by their names in the API.
//!
//! Objects that are written, or compared with what was read, are kept as JSON: a type of this crate's age would lose the
//! fields that a newer server knows, and a `test` of what it lost never holds.

use kube::core::ApiResource;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ObjectKind {
    /// Empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> ObjectKind {
    ObjectKind { group, version, kind, plural }
}

pub(crate) const DEPLOYMENT: ObjectKind = kind("apps", "v1", "Deployment", "deployments");
pub(crate) const STATEFUL_SET: ObjectKind = kind("apps", "v1", "StatefulSet", "statefulsets");
pub(crate) const DAEMON_SET: ObjectKind = kind("apps", "v1", "DaemonSet", "daemonsets");
pub(crate) const REPLICA_SET: ObjectKind = kind("apps", "v1", "ReplicaSet", "replicasets");
pub(crate) const CONTROLLER_REVISION: ObjectKind = kind("apps", "v1", "ControllerRevision", "controllerrevisions");
pub(crate) const POD: ObjectKind = kind("", "v1", "Pod", "pods");
pub(crate) const NAMESPACE: ObjectKind = kind("", "v1", "Namespace", "namespaces");
pub(crate) const CONFIG_MAP: ObjectKind = kind("", "v1", "ConfigMap", "configmaps");
pub(crate) const LEASE: ObjectKind = kind("coordination.k8s.io", "v1", "Lease", "leases");
pub(crate) const SECRET: ObjectKind = kind("", "v1", "Secret", "secrets");
pub(crate) const AUTOSCALER: ObjectKind =
    kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");
pub(crate) const SERVICE: ObjectKind = kind("", "v1", "Service", "services");
/// What is behind a Service, through the API server.
pub(crate) const SERVICE_PROXY: ObjectKind = kind("", "v1", "Service", "services/proxy");
pub(crate) const ENDPOINT_SLICE: ObjectKind = kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
pub(crate) const VIRTUAL_SERVICE: ObjectKind = kind("networking.istio.io", "v1", "VirtualService", "virtualservices");
pub(crate) const HTTP_ROUTE: ObjectKind = kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes");
pub(crate) const ROLLOUT: ObjectKind = kind("argoproj.io", "v1alpha1", "Rollout", "rollouts");
/// For permissions: its status is written by itself.
pub(crate) const ROLLOUT_STATUS: ObjectKind = kind("argoproj.io", "v1alpha1", "Rollout", "rollouts/status");
pub(crate) const FLAGGER_CANARY: ObjectKind = kind("flagger.app", "v1beta1", "Canary", "canaries");
pub(crate) const ARGO_APPLICATION: ObjectKind = kind("argoproj.io", "v1alpha1", "Application", "applications");
pub(crate) const KUSTOMIZATION: ObjectKind =
    kind("kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations");
pub(crate) const FLUX_HELM_RELEASE: ObjectKind = kind("helm.toolkit.fluxcd.io", "v2", "HelmRelease", "helmreleases");
pub(crate) const SCALED_OBJECT: ObjectKind = kind("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects");
pub(crate) const INGRESS: ObjectKind = kind("networking.k8s.io", "v1", "Ingress", "ingresses");
/// What pods use, as a metrics server tells it.
pub(crate) const POD_METRICS: ObjectKind = kind("metrics.k8s.io", "v1beta1", "PodMetrics", "pods");
pub(crate) const EVENT: ObjectKind = kind("", "v1", "Event", "events");
pub(crate) const NODE: ObjectKind = kind("", "v1", "Node", "nodes");
pub(crate) const DISRUPTION_BUDGET: ObjectKind = kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");
/// Parts of a pod that have rights of their own. Only spoken of.
pub(crate) const POD_LOG: ObjectKind = kind("", "v1", "Pod", "pods/log");
pub(crate) const POD_EXEC: ObjectKind = kind("", "v1", "Pod", "pods/exec");
pub(crate) const POD_PORT_FORWARD: ObjectKind = kind("", "v1", "Pod", "pods/portforward");
pub(crate) const ACCESS_REVIEW: ObjectKind =
    kind("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews");

impl ObjectKind {
    /// As kube takes it.
    pub(crate) fn resource(&self) -> ApiResource {
        let api_version =
            if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) };
        ApiResource {
            group: self.group.into(),
            version: self.version.into(),
            api_version,
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }
    /// As RBAC and kubectl name it: `deployments.apps`.
    pub(crate) fn name(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }
}
