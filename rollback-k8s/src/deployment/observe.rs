//! What a Deployment, its pods and a look at them come to. Pure.

use super::{Deployment, Generation, Read, live::Live};
use crate::{marks, pods, pods::PodState, pods::Trouble};
use rollback_core::{Identity, InFlight, Look, Observation, PartState, Payload, ReleaseId, Result, Settled, Token};

/// A Deployment and the pods that its selector finds, of which some may be another's.
pub(super) struct Seen<'a> {
    pub(super) live: &'a Live,
    pub(super) pods: &'a [PodState],
    /// By watches, of which one may be ahead of the other.
    pub(super) by_watches: bool,
}

/// Pods by whether they are of the release that the Deployment was told to run.
struct Sides<'a> {
    wanted: Vec<&'a PodState>,
    others: Vec<(&'a PodState, Option<ReleaseId>)>,
}

impl Deployment {
    pub(super) fn judge(&self, seen: &Seen<'_>, look: &Look) -> Result<Observation> {
        let Seen { live, pods, by_watches } = *seen;
        let release_of = |pod: &PodState| self.release_of(pod);
        // A pod that no ReplicaSet controls was not made by a Deployment, whatever labels it has.
        let pods: Vec<&PodState> = pods.iter().filter(|pod| pod.controller.is_some()).collect();
        let mut sides = Sides { wanted: vec![], others: vec![] };
        for pod in pods.iter().filter(|pod| pod.counts()) {
            match release_of(pod) {
                Some(release) if release == live.told => sides.wanted.push(pod),
                release => sides.others.push((pod, release)),
            }
        }
        let settled = match self.settled(live, &sides) {
            Settled::Yes if by_watches && !as_counted(live, &sides) => {
                Settled::NotYet { why: "its pods are not seen yet as the Deployment counts them".into() }
            }
            settled => settled,
        };
        let serving: Vec<&&PodState> = pods.iter().filter(|pod| pod.serves()).collect();
        let ready = u32::try_from(serving.len()).unwrap_or(u32::MAX);
        let addresses = pods.iter().filter(|pod| !pod.terminating && pod.counts());
        let addresses = addresses.filter_map(|pod| pod.at(self.options.health_port));
        let ours = marks::ours(&live.annotations, look.mark.as_ref(), &live.told, settled == Settled::Yes);
        let part = PartState::new(Some(live.told.clone()), pods::running(pods.iter().copied(), release_of))
            .with_capacity(live.replicas, ready)
            .with_restarts_to(live.restarts_to)
            .with_addresses(addresses)
            .with_settled(settled);
        let identity = Identity::new(self.cluster.scope(), live.uid.clone());
        let token = Token(Some(Payload::of(&Read::of(live))?));
        let mut observation = Observation::of_one(identity, part, token)
            .with_ours(ours)
            .with_owners(live.owners.clone())
            .with_trace(marks::trace(&live.annotations));
        if live.replicas > 0 {
            let there = sides.wanted.iter().filter(|pod| pod.serves()).count();
            let there = u64::try_from(there).unwrap_or(u64::MAX).min(live.replicas.into());
            observation = observation.with_progress(there, live.replicas.into());
        }
        if let Some(flight) = in_flight(live, &sides)? {
            observation = observation.with_in_flight(flight);
        }
        Ok(observation)
    }

    /// By the ReplicaSet that controls it.
    pub(super) fn release_of(&self, pod: &PodState) -> Option<ReleaseId> {
        self.remembered.by_uid(pod.controller.as_deref()?).map(|known| known.release.clone())
    }

    /// Whether the platform has done what it was told. In the order in which `kubectl rollout status` asks, with what it
    /// does not ask: pods that are still being deleted, and pods that will never be ready.
    fn settled(&self, live: &Live, sides: &Sides<'_>) -> Settled {
        let not_yet = |why: String| Settled::NotYet { why };
        let never = |why: String| Settled::Never { why };
        if !live.taken_up {
            return not_yet("the controller has not taken up the change yet".into());
        }
        let all = live.replicas;
        let complete = live.updated == all && live.existing == all && live.available >= all;
        if complete && sides.others.is_empty() {
            // Those that are being deleted still answer.
            return match all {
                0 if !sides.wanted.is_empty() => not_yet("its last pods are ending".into()),
                _ => Settled::Yes,
            };
        }
        if live.paused {
            return match live.paused_by_us() {
                // There is nothing more to wait for: it stays where it was stopped.
                Some(_) => Settled::Yes,
                None => never("somebody paused the rollout: kubectl rollout resume it, or lift the pause".into()),
            };
        }
        let troubles = || sides.wanted.iter().filter(|pod| !pod.terminating).filter_map(|pod| pod.trouble.as_ref());
        if let Some(Trouble::Terminal(why)) = troubles().find(|trouble| matches!(trouble, Trouble::Terminal(_))) {
            return never(why.clone());
        }
        if let Some(Trouble::Unschedulable(why)) = troubles().find(|t| matches!(t, Trouble::Unschedulable(_))) {
            // Pods that go make room; so does a new node, where nodes come by themselves.
            let room = !sides.others.is_empty() || self.options.new_nodes;
            return if room { not_yet(why.clone()) } else { never(why.clone()) };
        }
        let own = self.remembered.names(&live.told);
        if let Some(failed) = live.complaint("ReplicaFailure") {
            let why = format!("no pod can be made ({}): {}", failed.reason, failed.message);
            let stuck = sides.others.is_empty() || live.takes_none_away();
            return if stuck && failed.speaks_of(&own) { never(why) } else { not_yet(why) };
        }
        if let Some(late) = live.complaint("Progressing").filter(|late| late.speaks_of(&own)) {
            return never(format!("{}: {}", late.reason, late.message));
        }
        let trouble = troubles().next().map(|trouble| format!(": {}", trouble.text())).unwrap_or_default();
        if live.updated < all {
            return not_yet(format!("{} of {all} pods are of the wanted release{trouble}", live.updated));
        }
        if !sides.others.is_empty() {
            let going = sides.others.iter().filter(|(pod, _)| pod.terminating).count();
            return not_yet(format!(
                "{} pods of another release are still there, {going} of them being deleted{trouble}",
                sides.others.len()
            ));
        }
        if live.existing > live.updated {
            return not_yet(format!("{} old pods are still there", live.existing - live.updated));
        }
        not_yet(format!("{} of {all} pods are available{trouble}", live.available))
    }
}

/// The pods that were seen are as many as the controller counts: those that are not being deleted.
fn as_counted(live: &Live, sides: &Sides<'_>) -> bool {
    let staying = |pod: &PodState| !pod.terminating;
    let updated = sides.wanted.iter().filter(|pod| staying(pod)).count();
    let others = sides.others.iter().filter(|(pod, _)| staying(pod)).count();
    u32::try_from(updated).ok() == Some(live.updated) && u32::try_from(updated + others).ok() == Some(live.existing)
}

/// A rollout under way: pods of another release that nobody has told to go yet, or none yet of the one that is told.
/// Scaling is none.
fn in_flight(live: &Live, sides: &Sides<'_>) -> Result<Option<InFlight>> {
    if live.paused || live.replicas == 0 {
        return Ok(None);
    }
    let staying = sides.others.iter().filter(|(pod, _)| !pod.terminating);
    let from = staying.clone().find_map(|(_, release)| release.clone());
    if staying.count() == 0 && !(sides.wanted.is_empty() && live.updated == 0) {
        return Ok(None);
    }
    let handle = Payload::of(&Generation { generation: live.generation })?;
    Ok(Some(InFlight::new(handle).with_releases(from, Some(live.told.clone()))))
}
