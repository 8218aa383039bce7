//! What really runs, told from pods: of which release they are, whether they serve, and what will never get well.
//!
//! Shared by every workload: they differ in how a pod names its release, not in what may be wrong with it.

use crate::owner::controller;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use rollback_core::{ReleaseId, Running, redact::shortened};
use std::collections::BTreeMap;

/// A pod, as far as rollbacks care.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodState {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// For a deletion of just what was seen.
    pub(crate) resource_version: Option<String>,
    /// The uid of its controller: a ReplicaSet, a StatefulSet, a DaemonSet.
    pub(crate) controller: Option<String>,
    /// `controller-revision-hash`, of the pods of StatefulSets and DaemonSets.
    pub(crate) revision_hash: Option<String>,
    /// It is being deleted. Until it is gone, it may still answer.
    pub(crate) terminating: bool,
    /// It ended, well or not, and will not start again.
    pub(crate) finished: bool,
    pub(crate) ready: bool,
    /// Why it is not ready, as far as it says.
    pub(crate) trouble: Option<Trouble>,
    /// `10.1.2.3`, `[fd00::1]`
    host: Option<String>,
    /// The first one that a container declares.
    pub(crate) port: Option<u16>,
    /// Of all containers together.
    pub(crate) restarts: i32,
    /// Container and the digest it really runs, where that is known.
    pub(crate) image_ids: Vec<(String, String)>,
    /// Container and the image that its spec names.
    pub(crate) images: Vec<(String, String)>,
}

/// Why a pod is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Waiting will not help.
    Terminal(String),
    /// No node has room for it. Another pod's end, or a new node, may help.
    Unschedulable(String),
    /// It may come right.
    Waiting(String),
}

impl Trouble {
    pub(crate) fn text(&self) -> &str {
        match self {
            Trouble::Terminal(why) | Trouble::Unschedulable(why) | Trouble::Waiting(why) => why,
        }
    }
}

/// What a container waits for, and cannot get by waiting.
const TERMINAL: [&str; 8] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "ErrImagePull",
];

impl PodState {
    pub(crate) fn of(pod: &Pod) -> Self {
        let (metadata, status) = (&pod.metadata, pod.status.as_ref());
        let condition = |type_: &str| {
            status.and_then(|status| status.conditions.iter().flatten().find(|condition| condition.type_ == type_))
        };
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
        let containers = || {
            status.into_iter().flat_map(|status| {
                status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
            })
        };
        let finished = matches!(phase, "Succeeded" | "Failed");
        let name = metadata.name.clone().unwrap_or_default();
        let trouble = if ready || finished {
            None
        } else {
            let unschedulable = condition("PodScheduled")
                .filter(|c| c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))
                .map(|c| Trouble::Unschedulable(told(&name, "", "Unschedulable", c.message.as_deref())));
            let mut of_containers: Vec<Trouble> = containers().filter_map(|c| trouble(&name, c)).collect();
            // The worst one is what a person must hear of.
            of_containers.sort_by_key(|trouble| !matches!(trouble, Trouble::Terminal(_)));
            // Its containers run, and are not ready: a probe fails, or was not asked yet.
            let unready = || {
                let why = condition("Ready").filter(|ready| ready.status == "False")?;
                let message = why.message.as_deref().filter(|message| !message.is_empty())?;
                Some(Trouble::Waiting(told(&name, "", "not ready", Some(message))))
            };
            unschedulable.or_else(|| of_containers.into_iter().next()).or_else(unready)
        };
        let port = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find_map(|port| u16::try_from(port.container_port).ok());
        let ip = status.and_then(|status| status.pod_ip.as_deref()).filter(|ip| !ip.is_empty());
        let host = ip.map(|ip| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() });
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone(),
            controller: controller(metadata.owner_references.as_deref().unwrap_or_default()),
            revision_hash: metadata.labels.iter().flatten().find(|(k, _)| *k == REVISION_HASH).map(|(_, v)| v.clone()),
            terminating: metadata.deletion_timestamp.is_some(),
            finished,
            ready,
            trouble,
            host,
            port,
            restarts: containers().map(|container| container.restart_count).sum(),
            image_ids: containers()
                .filter(|container| !container.image_id.is_empty())
                .map(|container| (container.name.clone(), container.image_id.clone()))
                .collect(),
            images: pod
                .spec
                .iter()
                .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
                .filter_map(|container| Some((container.name.clone(), container.image.clone()?)))
                .collect(),
            name,
        }
    }
    /// Where it is reached: at this port, or at the first one that a container declares.
    pub(crate) fn at(&self, port: Option<u16>) -> Option<String> {
        Some(format!("{}:{}", self.host.as_ref()?, port.or(self.port)?))
    }
    /// It runs, or may still.
    pub(crate) fn counts(&self) -> bool {
        !self.finished
    }
    /// It can get traffic, and is to go on.
    pub(crate) fn serves(&self) -> bool {
        self.ready && !self.terminating && !self.finished
    }
}

/// The label by which StatefulSets and DaemonSets tell their revisions apart.
const REVISION_HASH: &str = "controller-revision-hash";

/// Of what a kubelet says of a container, which may be a long chain of causes.
const MESSAGE: usize = 300;

fn told(pod: &str, container: &str, reason: &str, message: Option<&str>) -> String {
    let place = if container.is_empty() { pod.to_owned() } else { format!("{pod}, container {container}") };
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason} ({place}): {}", shortened(message, MESSAGE)),
        None => format!("{reason} ({place})"),
    }
}

fn trouble(pod: &str, container: &ContainerStatus) -> Option<Trouble> {
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let why = match (reason, last) {
            ("CrashLoopBackOff", Some(last)) => {
                let ended = last.reason.as_deref().unwrap_or("Error");
                let how = format!("its last run ended with {ended}, exit code {}", last.exit_code);
                told(pod, &container.name, if ended == "OOMKilled" { "OOMKilled" } else { reason }, Some(&how))
            }
            _ => told(pod, &container.name, reason, waiting.message.as_deref()),
        };
        let passing = reason == "ErrImagePull" && waiting.message.as_deref().is_some_and(may_pass);
        return Some(if TERMINAL.contains(&reason) && !passing {
            Trouble::Terminal(why)
        } else {
            Trouble::Waiting(why)
        });
    }
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0);
    let ended = ended.or(last.filter(|_| !container.ready && container.restart_count > 0))?;
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let how = format!("exit code {}, {} restarts", ended.exit_code, container.restart_count);
    // The same memory limit meets the same program again.
    let why = told(pod, &container.name, reason, Some(&how));
    Some(if reason == "OOMKilled" { Trouble::Terminal(why) } else { Trouble::Waiting(why) })
}

/// A registry that did not answer may answer the next time; one that said no will not.
fn may_pass(message: &str) -> bool {
    ["timeout", "connection refused", "connection reset", "no such host", "i/o", "TLS handshake", "503", "429", "EOF"]
        .iter()
        .any(|sign| message.contains(sign))
}

/// What really runs: the releases of all pods that run or may still, those that are being deleted included: they answer
/// for seconds after they were told to go. A pod whose release is not known makes it unknown.
pub(crate) fn running<'a>(
    pods: impl IntoIterator<Item = &'a PodState>,
    release_of: impl Fn(&PodState) -> Option<ReleaseId>,
) -> Running {
    let mut counts: BTreeMap<ReleaseId, u32> = BTreeMap::new();
    let mut strangers = vec![];
    for pod in pods.into_iter().filter(|pod| pod.counts()) {
        match release_of(pod) {
            Some(release) => *counts.entry(release).or_default() += 1,
            None => strangers.push(pod.controller.clone().unwrap_or_else(|| pod.uid.clone())),
        }
    }
    strangers.sort();
    strangers.dedup();
    match (strangers.first(), counts.len()) {
        (Some(_), _) => Running::Unknown {
            fingerprint: strangers.join(","),
            named: Some(format!("pods of a revision that is gone, {} of them", strangers.len())),
        },
        (None, 0) => Running::Nothing,
        (None, 1) => counts.into_keys().next().map_or(Running::Nothing, Running::Release),
        (None, _) => Running::Mixed(counts),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> PodState {
        PodState::of(
            &serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": "u", "labels": {"controller-revision-hash": "h"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "rs",
                        "controller": true}]},
                "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
                "status": status,
            }))
            .unwrap(),
        )
    }
    fn container(state: Value, last: Value, restarts: i32) -> Value {
        json!({"phase": "Running", "containerStatuses": [{"name": "app", "image": "i", "imageID": "i@sha256:1",
            "ready": false, "restartCount": restarts, "state": state, "lastState": last}]})
    }
    fn waits(reason: &str, message: &str) -> PodState {
        pod(container(json!({"waiting": {"reason": reason, "message": message}}), json!({}), 0))
    }

    #[test]
    fn what_waiting_does_not_mend_is_said() {
        let dead = |exit: i32, reason: &str| json!({"terminated": {"exitCode": exit, "reason": reason}});
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let terminal = |pod: PodState| matches!(pod.trouble, Some(Trouble::Terminal(_)));
        for reason in TERMINAL {
            assert!(terminal(waits(reason, "not found")), "{reason}");
        }
        assert!(!terminal(waits("ErrImagePull", "dial tcp: i/o timeout")), "a registry may come back");
        for reason in ["ContainerCreating", "PodInitializing"] {
            assert!(matches!(waits(reason, "").trouble, Some(Trouble::Waiting(_))), "{reason}");
        }
        let oom = pod(container(crash.clone(), dead(137, "OOMKilled"), 3)).trouble.unwrap();
        assert!(oom.text().starts_with("OOMKilled (p, container app)") && oom.text().contains("137"), "{oom:?}");
        let crash = pod(container(crash, dead(1, "Error"), 3)).trouble.unwrap();
        assert!(crash.text().starts_with("CrashLoopBackOff") && crash.text().contains("exit code 1"), "{crash:?}");
        let once = pod(container(json!({"running": {}}), dead(1, "Error"), 1)).trouble.unwrap();
        assert!(matches!(once, Trouble::Waiting(_)), "one crash is no loop: {once:?}");
        let unready = pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False",
            "reason": "ContainersNotReady", "message": "containers with unready status: [app]"}]}));
        let says = Trouble::Waiting("not ready (p): containers with unready status: [app]".into());
        assert_eq!(unready.trouble, Some(says));
        let full = pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available"}]}));
        assert!(matches!(&full.trouble, Some(Trouble::Unschedulable(why)) if why.contains("0/3 nodes")), "{full:?}");
    }

    #[test]
    fn a_ready_pod_has_no_trouble() {
        let mut status = container(json!({"running": {}}), json!({"terminated": {"exitCode": 1}}), 1);
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        status["podIP"] = json!("10.0.0.1");
        let pod = pod(status);
        assert_eq!((pod.ready, pod.serves(), &pod.trouble), (true, true, &None));
        assert_eq!(pod.at(None).as_deref(), Some("10.0.0.1:8080"));
        assert_eq!(pod.at(Some(9)).as_deref(), Some("10.0.0.1:9"));
        let undeclared = PodState { port: None, ..pod.clone() };
        assert_eq!((undeclared.at(None), undeclared.at(Some(9)).as_deref()), (None, Some("10.0.0.1:9")));
        assert_eq!((pod.controller.as_deref(), pod.revision_hash.as_deref()), (Some("rs"), Some("h")));
        assert_eq!(pod.image_ids, [("app".to_string(), "i@sha256:1".to_string())]);
    }

    #[test]
    fn a_pod_that_is_being_deleted_still_runs() {
        let of = |release: &str, terminating: bool, finished: bool| PodState {
            controller: Some(release.into()),
            terminating,
            finished,
            ..pod(json!({"phase": "Running"}))
        };
        let known = |pod: &PodState| pod.controller.clone().filter(|c| c != "gone").map(ReleaseId::new);
        for (pods, is) in [
            (vec![], Running::Nothing),
            (vec![of("1", false, false)], Running::Release("1".into())),
            (
                vec![of("1", false, false), of("2", true, false)],
                Running::Mixed([("1".into(), 1), ("2".into(), 1)].into()),
            ),
            (vec![of("1", false, false), of("2", false, true)], Running::Release("1".into())),
        ] {
            assert_eq!(running(&pods, known), is);
        }
        let stranger = running(&[of("1", false, false), of("gone", true, false)], known);
        assert!(matches!(stranger, Running::Unknown { ref fingerprint, .. } if fingerprint == "gone"), "{stranger:?}");
    }
}
