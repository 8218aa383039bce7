//! A target's own pods, with part and release of each.

use crate::{deployment::Deployment, pods::PodState};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use rollback_core::{Context, PartId, ReleaseId, Result};
use serde_json::Value;
use std::fmt::Debug;

/// A pod of a target.
#[derive(Clone, Debug)]
pub(crate) struct OwnPod {
    pub(crate) part: PartId,
    /// `None`: of a revision that is not known.
    pub(crate) release: Option<ReleaseId>,
    pub(crate) state: PodState,
    /// Where it is asked: the port that the caller gave the target, else the first one that a container declares.
    pub(crate) port: Option<u16>,
    pub(crate) pod: Pod,
}

impl OwnPod {
    /// Of its containers, and of init containers.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.pod.status.iter().flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        })
    }
}

/// What a target has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    pub(crate) pods: Vec<OwnPod>,
    /// Uids of its workloads and of their revisions: events are about them too. With the release, where it is of one.
    pub(crate) objects: Vec<(String, Option<ReleaseId>)>,
}

/// The part of what has one.
const ALL: &str = "all";

impl Own {
    /// The pods of a target of one part, reached at this port. `release` gives `None` for a pod that is another's.
    pub(crate) fn of_all(
        pods: Vec<Pod>,
        port: Option<u16>,
        release: impl Fn(&PodState) -> Option<Option<ReleaseId>>,
    ) -> Self {
        let own = |pod: Pod| {
            let state = PodState::of(&pod);
            let release = release(&state)?;
            Some(OwnPod { part: ALL.into(), release, port: port.or(state.port), state, pod })
        };
        Self { pods: pods.into_iter().filter_map(own).collect(), objects: vec![] }
    }
    /// With the uid of its workload, and those of its revisions.
    pub(crate) fn with_objects(
        mut self,
        workload: &str,
        revisions: impl IntoIterator<Item = (String, ReleaseId)>,
    ) -> Self {
        self.objects.push((workload.to_owned(), None));
        self.objects.extend(revisions.into_iter().map(|(uid, release)| (uid, Some(release))));
        self
    }
    /// With releases under another name.
    pub(crate) fn renamed(mut self, name: impl Fn(&ReleaseId) -> Option<ReleaseId>) -> Self {
        for pod in &mut self.pods {
            pod.release = pod.release.as_ref().and_then(&name);
        }
        for (_, release) in &mut self.objects {
            // One that has no name is none of the wanted release.
            *release = release.as_ref().map(|own| name(own).unwrap_or_else(|| own.clone()));
        }
        self
    }
    /// With those of another workload of the same part.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.pods.extend(other.pods);
        self.objects.extend(other.objects);
        self
    }
    /// Pods that run or may still, of the part that is asked about, or of those that serve.
    pub(crate) fn asked<'a>(&'a self, context: &'a Context) -> impl Iterator<Item = &'a OwnPod> {
        let serves = |part: &PartId| context.now.parts.get(part).is_some_and(|part| part.serves());
        self.pods.iter().filter(|pod| pod.state.counts()).filter(move |pod| match &context.part {
            Some(part) => pod.part == *part,
            None => serves(&pod.part),
        })
    }
    /// Of these, the ones of the wanted release.
    pub(crate) fn wanted<'a>(&'a self, context: &'a Context) -> impl Iterator<Item = &'a OwnPod> {
        self.asked(context).filter(|pod| pod.release.as_ref() == Some(&context.wanted))
    }
}

/// Who knows the pods of a target: each kind of workload tells their release in its own way.
#[async_trait]
pub(crate) trait PodSource: Debug + Send + Sync + 'static {
    /// As they are now.
    async fn own(&self) -> Result<Own>;
    /// The port that pods of a release are asked at: the caller's, else the first that a container declares. `None`: it is not
    /// known; the inner `None`: there is none.
    ///
    /// Where templates are not kept by release, its pods tell.
    async fn port_of(&self, release: &ReleaseId) -> Result<Option<Option<u16>>> {
        let own = self.own().await?;
        let of: Vec<_> = own.pods.iter().filter(|pod| pod.release.as_ref() == Some(release)).collect();
        Ok((!of.is_empty()).then(|| of.iter().find_map(|pod| pod.port)))
    }
}

/// What a template says of its port, where it is known; a port that the caller gave goes before.
pub(crate) fn port_in(template: Option<&Value>, given: Option<u16>) -> Option<Option<u16>> {
    if given.is_some() {
        return Some(given);
    }
    let containers = template?.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let mut ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    Some(ports.find_map(|port| port.get("containerPort")?.as_u64()?.try_into().ok()))
}

/// A target of several Deployments, each a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Sides(pub(crate) Vec<(PartId, Deployment)>);

#[async_trait]
impl PodSource for Sides {
    async fn own(&self) -> Result<Own> {
        let sides = self.0.iter().map(|(_, deployment)| deployment.own()).collect::<Vec<_>>();
        let mut all = Own::default();
        for ((part, _), own) in self.0.iter().zip(futures::future::try_join_all(sides).await?) {
            all.pods.extend(own.pods.into_iter().map(|pod| OwnPod { part: part.clone(), ..pod }));
            all.objects.extend(own.objects);
        }
        Ok(all)
    }
    /// Of the side that knows it: a release has the labels of its side in it.
    async fn port_of(&self, release: &ReleaseId) -> Result<Option<Option<u16>>> {
        for (_, side) in &self.0 {
            if let Some(known) = side.port_of(release).await? {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod sample {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::{Identity, Observation, PartState, Token, Verdict, seconds};
    use serde_json::json;

    /// A pod of a release, ready, with what is said of it besides.
    pub(in crate::verify) fn pod(name: &str, release: Option<&str>, more: Value) -> OwnPod {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        merge(&mut pod, more);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let state = PodState::of(&pod);
        OwnPod { part: "all".into(), release: release.map(ReleaseId::from), port: state.port, state, pod }
    }
    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }
    pub(in crate::verify) fn own(pods: Vec<OwnPod>) -> Own {
        Own { pods, objects: vec![] }
    }
    /// From `bad` to `good`, so long after the last write.
    pub(in crate::verify) fn context(since: u64) -> Context {
        let now = Observation::of_one(Identity::new("c", "d"), PartState::of("good"), Token::none());
        Context::new("k8s:c/n/deployment/d".into(), "bad", "good", now).with_since(seconds(since))
    }
    pub(in crate::verify) fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Holds(_) => "holds",
            Verdict::Fails(_) => "fails",
            Verdict::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn the_part_asked_about_or_those_that_serve() {
        let mut idle = pod("idle", Some("bad"), json!({}));
        idle.part = "idle".into();
        let finished = pod("finished", Some("good"), json!({"status": {"phase": "Failed"}}));
        let own = own(vec![pod("a", Some("good"), json!({})), pod("b", Some("bad"), json!({})), idle, finished]);
        let names = |context: &Context| own.asked(context).map(|pod| pod.state.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&context(0)), ["a", "b"]);
        assert_eq!(names(&context(0).with_part(Some("idle".into()))), ["idle"]);
        assert_eq!(own.wanted(&context(0)).count(), 1);
        assert_eq!(own.pods[0].port, Some(8080));
    }
}
