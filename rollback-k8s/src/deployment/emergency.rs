//! What only an emergency asks for: other images than any revision has, other numbers of replicas, and an end to the pods
//! of the bad release that will not end by themselves.

use super::{Deployment, Options, Read, Undo, live::Live, patch};
use crate::{
    connect::PodDeletion,
    error::Request,
    kinds::{DEPLOYMENT, NODE, POD},
    pods::PodState,
    prepare::{self, Access},
    release::release_id,
    revisions::Revision,
    side,
};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use rollback_core::{
    Applied, Approved, Capacity, Change, DiffLine, Error, Extent, Kind, PartId, Prepared, ReleaseId, Result, Wish, Work,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The verb that deletes the pods of the bad release.
pub(crate) const DELETE_BAD_PODS: &str = "delete-bad-pods";
/// Time between two looks at pods that were told to go.
const POLL: Duration = Duration::from_secs(1);
/// What a pod of the bad release is given to end. Not 0: its node must say that it is gone, where it can.
const GRACE_SECONDS: u32 = 1;

/// Images by container, in place of what a template says.
pub(super) type Images = BTreeMap<String, String>;

/// What is wished of the one part.
pub(super) fn wish(change: &Change) -> Option<(&PartId, &Wish)> {
    match change {
        Change::Reach(shape) if shape.0.len() == 1 => shape.0.iter().next(),
        _ => None,
    }
}

/// How many replicas it is to have, where it has others.
pub(super) fn replicas(wish: &Wish, read: &Read) -> Option<u32> {
    wish.capacity.and_then(|capacity| side::wanted_replicas(read.replicas, capacity))
}

impl Revision {
    /// The same with these images; `None` where a container is not there, or nothing would change.
    pub(super) fn with_images(&self, images: &Images) -> Option<Self> {
        let mut left: BTreeSet<&String> = images.keys().collect();
        let mut template = self.template.clone();
        for list in ["/spec/initContainers", "/spec/containers"] {
            let containers = template.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            for container in containers {
                let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
                if let Some((name, image)) = images.get_key_value(name) {
                    left.remove(name);
                    container["image"] = image.as_str().into();
                }
            }
        }
        let changed = !images.is_empty() && left.is_empty() && template != self.template;
        changed.then(|| {
            let mut made = self.clone();
            (made.release, made.template) = (release_id(&template), template);
            made
        })
    }
}

/// The release that another one is with the images that were named, as far as it is known.
pub(super) fn with_images(all: &[Revision], options: &Options, wanted: &ReleaseId) -> Option<Revision> {
    if all.iter().any(|revision| revision.release == *wanted) {
        return None;
    }
    all.iter().filter_map(|revision| revision.with_images(&options.images)).find(|made| made.release == *wanted)
}

impl Deployment {
    /// The release that `of` is with the images that were named, where `of` was seen: what [`EmergencyLadder`] plans.
    ///
    /// [`EmergencyLadder`]: crate::EmergencyLadder
    pub(crate) fn with_named_images(&self, of: &ReleaseId) -> std::result::Result<ReleaseId, String> {
        if self.options.images.is_empty() {
            return Err("no image was named to go to".into());
        }
        let known = self
            .remembered
            .find(|known| known.release == *of)
            .ok_or_else(|| format!("no ReplicaSet of {of} was seen"))?;
        match known.with_images(&self.options.images) {
            Some(made) => Ok(made.release),
            None => Err(format!("{of} has these images, or lacks one of the containers that were named")),
        }
    }

    pub(super) async fn prepare_scale(&self, change: &Change, capacity: Capacity) -> Result<Prepared> {
        let live = self.live().await?;
        let needed = [Access::new("patch", DEPLOYMENT, &self.namespace)];
        let (permissions, autoscaler) = futures::join!(
            prepare::permissions(&self.cluster, &needed),
            side::autoscaler(&self.cluster, &self.namespace, &self.name, &self.name, capacity),
        );
        let to = side::wanted_replicas(live.replicas, capacity);
        let lines = to.map(|to| DiffLine::new("replicas", live.replicas.to_string(), to.to_string()));
        let prepared = Prepared::new(change).with_diff(lines);
        Ok(permissions.into_iter().chain(autoscaler).fold(prepared, Prepared::with_finding))
    }

    pub(super) async fn scale(&self, wish: &Wish, read: &Read, work: &Work) -> Result<Applied> {
        let Some(to) = replicas(wish, read) else { return Ok(Applied::done()) };
        let live = self.guarded(patch::scale(read, to, work), work, false).await?;
        super::apply::wrote(&live)
    }

    pub(super) async fn prepare_delete(&self, change: &Change, arguments: &Arguments) -> Result<Prepared> {
        let suspect = suspect(arguments)?;
        let needed = [Access::new("list", POD, &self.namespace), Access::new("delete", POD, &self.namespace)];
        let (live, permissions) = futures::join!(self.live(), prepare::permissions(&self.cluster, &needed));
        let bad = self.bad_pods(&live?, &suspect).await?;
        let lines = bad.iter().map(|pod| DiffLine {
            what: format!("pod {}", pod.name),
            from: Some(suspect.to_string()),
            to: None,
        });
        Ok(permissions.into_iter().fold(Prepared::new(change).with_diff(lines), Prepared::with_finding))
    }

    /// Ends the pods of the bad release. What is done is seen on the pods: called again, it goes on.
    pub(super) async fn delete_bad_pods(&self, approved: &Approved, read: &Read, work: &Work) -> Result<Applied> {
        let Change::Verb { arguments, .. } = &approved.change else {
            return Err(Error::new(Kind::Invalid, DELETE_BAD_PODS).without_effect());
        };
        let suspect = suspect(arguments)?;
        if release_id(&read.template) == suspect {
            let why = "it is told to run the bad release, so its pods would come back: set another release first";
            return Ok(Applied::new(Extent::NotStarted { why: why.into() }));
        }
        // Some of the time is left for what comes after.
        let until = Instant::now() + work.within() / 4 * 3;
        let (mut told, mut forced) = (BTreeSet::new(), BTreeSet::new());
        let mut first: Option<BTreeSet<String>> = None;
        loop {
            let deleted = !told.is_empty();
            let so_far = |e: Error| if deleted { side::having_written(e) } else { e };
            let live = self.live().await.map_err(so_far)?;
            if live.uid != read.uid || live.template != read.template || work.is_cancelled() {
                let e = Error::new(Kind::Conflict, DELETE_BAD_PODS);
                let e = e.with_message("it was changed since it was looked at, or this run has lost its lease");
                return Err(if deleted { e } else { e.without_effect() });
            }
            let bad = self.bad_pods(&live, &suspect).await.map_err(so_far)?;
            // Only these: what its ReplicaSet makes anew would be made anew again.
            let first = first.get_or_insert_with(|| bad.iter().map(|bad| bad.uid.clone()).collect());
            let (mine, again): (Vec<_>, Vec<_>) = bad.iter().partition(|bad| first.contains(&bad.uid));
            for pod in &mine {
                let lost = self.is_lost(pod).await;
                if told.contains(&pod.uid) && (!lost || forced.contains(&pod.uid)) {
                    continue;
                }
                self.delete(pod, lost, work).await.map_err(so_far)?;
                told.insert(pod.uid.clone());
                if lost {
                    forced.insert(pod.uid.clone());
                }
            }
            let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            let (left, of) = (count(mine.len()), count(first.len()));
            work.progress(of - left, of);
            let partial = |of: u64, reason: &str, n: u64| {
                Ok(Applied::new(Extent::Partial {
                    done: count(first.len()) - left,
                    of,
                    reasons: [(reason.into(), n)].into(),
                }))
            };
            match (left, count(again.len())) {
                (0, 0) => return Ok(Applied::done()),
                (0, again) => {
                    return partial(of + again, "made anew by its ReplicaSet, which its rollout still keeps", again);
                }
                _ if Instant::now() >= until => {
                    return partial(
                        of,
                        "told to end and there still: its node keeps to the time that it was told first",
                        left,
                    );
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// One that is ending on a node that does not answer is taken out of the API: nobody else will say that it is gone.
    async fn delete(&self, pod: &BadPod, lost: bool, work: &Work) -> Result<()> {
        let deletion = PodDeletion {
            operation: "delete a pod of the bad release",
            name: &pod.name,
            // Its release does not change, so its uid says enough.
            uid: &pod.uid,
            resource_version: None,
            grace_seconds: Some(if lost { 0 } else { GRACE_SECONDS }),
            within: work.within(),
        };
        self.cluster.delete_pod(&self.namespace, deletion).await
    }

    /// Its node is gone, or has not been heard of. Where that cannot be told, it is not.
    async fn is_lost(&self, pod: &BadPod) -> bool {
        let Some(node) = &pod.node else { return false };
        let nodes: Api<Node> = Api::all(self.cluster.client().clone());
        let request =
            Request { operation: "look at a pod's node", verb: "get", kind: NODE, namespace: None, name: node };
        match self.cluster.ask(self.cluster.reply_within(), &request, nodes.get(node)).await {
            Ok(node) => {
                let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
                !conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
            }
            Err(e) => e.kind() == Kind::NotFound,
        }
    }

    async fn bad_pods(&self, live: &Live, suspect: &ReleaseId) -> Result<Vec<BadPod>> {
        let pods = self.whole_pods(live).await?;
        let states: Vec<PodState> = pods.iter().map(PodState::of).collect();
        if self.is_new(live, &states) {
            self.revisions(live).await?;
        }
        let is_bad = |pod: &PodState| {
            let known = pod.controller.as_ref().and_then(|uid| self.remembered.by_uid(uid));
            pod.counts() && known.is_some_and(|known| known.release == *suspect)
        };
        let bad = pods.into_iter().zip(states).filter(|(_, state)| is_bad(state));
        Ok(bad
            .map(|(pod, state)| {
                let node = pod.spec.and_then(|spec| spec.node_name);
                BadPod { name: state.name, uid: state.uid, node }
            })
            .collect())
    }

    /// What was derived from a revision, when it is carried out.
    pub(super) fn as_approved(&self, found: &Revision, undo: &Undo) -> Option<Revision> {
        if undo.images.is_empty() {
            return Some(found.clone());
        }
        found.with_images(&undo.images).filter(|made| made.release == undo.release)
    }
}

/// A pod of the bad release.
struct BadPod {
    name: String,
    uid: String,
    node: Option<String>,
}

type Arguments = BTreeMap<String, String>;

fn suspect(arguments: &Arguments) -> Result<ReleaseId> {
    arguments.get("suspect").map(|id| ReleaseId::from(id.as_str())).ok_or_else(|| {
        Error::new(Kind::Invalid, DELETE_BAD_PODS)
            .with_message("which release is bad is not said: give the argument `suspect`")
            .without_effect()
    })
}
