//! What a workload, its pods and a look at them come to. Pure.

use super::{
    Flavour, Generation, Read, Workload,
    live::{Live, ordinal},
};
use crate::{marks, owner, pods, pods::PodState, pods::Trouble, release::without_hash};
use rollback_core::{Identity, InFlight, Look, Observation, PartState, Payload, ReleaseId, Result, Settled, Token};
use serde_json::Value;

/// A workload and its pods.
pub(super) struct Seen<'a> {
    pub(super) live: &'a Live,
    pub(super) pods: &'a [PodState],
}

/// Pods by whether they are of what the workload was told to run: the release, and of its revisions the newest. One of an
/// older revision is to be replaced too (`kubectl rollout restart`), however it fares.
pub(super) struct Sides<'a> {
    pub(super) wanted: Vec<&'a PodState>,
    /// They are to be replaced; by whom, the update strategy says.
    pub(super) others: Vec<&'a PodState>,
    /// The partition keeps them as they are.
    pub(super) held: Vec<&'a PodState>,
}

impl<'a> Sides<'a> {
    /// What will not get well, or waits for another's end.
    pub(super) fn terminal(&self) -> Option<&'a str> {
        let troubles = self.wanted.iter().filter(|pod| !pod.terminating).filter_map(|pod| pod.trouble.as_ref());
        troubles.filter(|trouble| matches!(trouble, Trouble::Terminal(_))).map(Trouble::text).next()
    }
    /// Pods that keep an ordered controller from going on: it waits for them to be ready before it would replace them.
    pub(super) fn stuck(&self, live: &Live) -> Vec<&'a PodState> {
        let stuck = |pod: &&PodState| !pod.ready && !pod.terminating;
        if live.ordered && !live.on_delete() { self.others.iter().copied().filter(stuck).collect() } else { vec![] }
    }
    /// The next pod to be deleted where that is ours to do: one that does not serve at once, others only while all serve.
    pub(super) fn next_to_delete(&self, live: &Live) -> Option<&'a PodState> {
        let staying = || self.others.iter().copied().filter(|pod| !pod.terminating);
        if let Some(broken) = staying().find(|pod| !pod.ready) {
            return Some(broken);
        }
        let serving = self.wanted.iter().chain(&self.others).filter(|pod| pod.serves()).count();
        let all_serve = serving >= usize::try_from(live.count).unwrap_or(usize::MAX);
        staying().filter(|_| all_serve).max_by_key(|pod| (ordinal(&pod.name), &pod.name))
    }
}

impl Workload {
    pub(super) fn sides<'a>(&self, seen: &Seen<'a>) -> Sides<'a> {
        let mut sides = Sides { wanted: vec![], others: vec![], held: vec![] };
        let newest = self.newest(seen.live);
        let is_newest = |pod: &PodState| newest.is_none() || pod.revision_hash == newest;
        for pod in seen.pods.iter().filter(|pod| pod.counts()) {
            let side = match self.release_of(pod) {
                Some(release) if release == seen.live.told && is_newest(pod) => &mut sides.wanted,
                // One that is being deleted comes back as the partition says, but this one goes.
                _ if seen.live.holds(pod) && !pod.terminating => &mut sides.held,
                _ => &mut sides.others,
            };
            side.push(pod);
        }
        sides
    }
    /// `None` where it cannot be told: then the release alone counts.
    fn newest(&self, live: &Live) -> Option<String> {
        match live.flavour {
            Flavour::StatefulSet => live.update_revision.clone().filter(|_| live.taken_up),
            Flavour::DaemonSet => self.exactly(&live.template),
        }
    }
    pub(super) fn release_of(&self, pod: &PodState) -> Option<ReleaseId> {
        self.remembered.by_hash(pod.revision_hash.as_deref()?).map(|known| known.release.clone())
    }
    /// What pods of this very template have as their label.
    pub(super) fn exactly(&self, template: &Value) -> Option<String> {
        let template = without_hash(template);
        self.remembered.find(|known| known.template == template).map(|known| known.hash.clone())
    }

    pub(super) fn judge(&self, seen: &Seen<'_>, look: &Look) -> Result<Observation> {
        let live = seen.live;
        let sides = self.sides(seen);
        let settled = self.settled(live, &sides);
        let ready = seen.pods.iter().filter(|pod| pod.serves()).count();
        let addresses = seen.pods.iter().filter(|pod| !pod.terminating && pod.counts());
        let addresses = addresses.filter_map(|pod| pod.at(self.options.health_port));
        let ours = marks::ours(&live.annotations, look.mark.as_ref(), &live.told, settled == Settled::Yes);
        let part = PartState::new(Some(live.told.clone()), pods::running(seen.pods, |pod| self.release_of(pod)))
            .with_capacity(live.count, u32::try_from(ready).unwrap_or(u32::MAX))
            .with_addresses(addresses)
            .with_settled(settled);
        let identity = Identity::new(self.cluster.scope(), live.uid.clone());
        let token = Token(Some(Payload::of(&Read::of(live))?));
        let mut observation = Observation::of_one(identity, part, token)
            .with_ours(ours)
            .with_owners(owner::owners(&live.metadata))
            .with_trace(marks::trace(&live.annotations));
        if live.count > 0 {
            let there = sides.wanted.iter().filter(|pod| pod.serves()).count();
            let there = u64::try_from(there).unwrap_or(u64::MAX).min(live.count.into());
            observation = observation.with_progress(there, live.count.into());
        }
        if let Some(flight) = self.in_flight(live, &sides)? {
            observation = observation.with_in_flight(flight);
        }
        Ok(observation)
    }

    /// Whether the platform has done what it was told. In the order in which `kubectl rollout status` asks, with what it
    /// does not ask: pods that are still being deleted, and pods that will never be ready.
    fn settled(&self, live: &Live, sides: &Sides<'_>) -> Settled {
        let not_yet = |why: String| Settled::NotYet { why };
        let never = |why: String| Settled::Never { why };
        let names = |pods: &[&PodState]| pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(", ");
        if !live.taken_up {
            return not_yet("the controller has not taken up the change yet".into());
        }
        let all = live.count;
        let serving = sides.wanted.iter().filter(|pod| pod.serves()).count();
        let expected = usize::try_from(all).unwrap_or(usize::MAX);
        let extra = sides.wanted.len() > expected;
        let complete = serving == expected && !extra && live.available >= all && live.updated >= all;
        if complete && sides.others.is_empty() && sides.held.is_empty() {
            return Settled::Yes;
        }
        if let Some(why) = sides.terminal() {
            return never(why.to_owned());
        }
        let troubles = || sides.wanted.iter().filter(|pod| !pod.terminating).filter_map(|pod| pod.trouble.as_ref());
        if let Some(Trouble::Unschedulable(why)) = troubles().find(|t| matches!(t, Trouble::Unschedulable(_))) {
            // Pods that go make room; so does a new node, where nodes come by themselves.
            let room = !sides.others.is_empty() || self.options.new_nodes;
            return if room { not_yet(why.clone()) } else { never(why.clone()) };
        }
        if live.on_delete() && !self.options.delete_pods && sides.others.iter().any(|pod| !pod.terminating) {
            return never(format!(
                "its update strategy is OnDelete, so nothing happens by itself: delete the pods of the other release ({}) \
                 or order the rollback with leave to delete pods",
                names(&sides.others)
            ));
        }
        let stuck = sides.stuck(live);
        if let Some(Trouble::Terminal(why)) = stuck.iter().find_map(|pod| pod.trouble.as_ref()) {
            return never(format!(
                "the rollout is stuck: its controller waits for {} before it replaces it, and it will not get ready \
                 ({why}): roll back to free it, or delete it (kubernetes#67250)",
                names(&stuck)
            ));
        }
        let trouble = troubles().next().map(|trouble| format!(": {}", trouble.text())).unwrap_or_default();
        if !sides.others.is_empty() {
            let going = sides.others.iter().filter(|pod| pod.terminating).count();
            return not_yet(format!(
                "{} pods of another release are still there, {going} of them being deleted{trouble}",
                sides.others.len()
            ));
        }
        if !sides.held.is_empty() && serving + sides.held.len() >= expected {
            return never(format!(
                "its partition ({}) keeps {} at another release: lower it (spec.updateStrategy.rollingUpdate.partition)",
                live.partition,
                names(&sides.held)
            ));
        }
        if serving < expected {
            return not_yet(format!("{serving} of {all} pods of the wanted release are ready{trouble}"));
        }
        not_yet(format!("{} of {all} pods are available, {} updated{trouble}", live.available, live.updated))
    }

    /// A rollout under way: pods of another release that nobody has told to go yet, or none yet of the one that is told.
    /// Pods that the strategy leaves to somebody else are none.
    fn in_flight(&self, live: &Live, sides: &Sides<'_>) -> Result<Option<InFlight>> {
        if live.count == 0 || live.on_delete() {
            return Ok(None);
        }
        let staying = || sides.others.iter().filter(|pod| !pod.terminating);
        if staying().count() == 0 && !(sides.wanted.is_empty() && sides.held.is_empty()) {
            return Ok(None);
        }
        let from = staying().find_map(|pod| self.release_of(pod));
        let handle = Payload::of(&Generation { generation: live.metadata.generation.unwrap_or_default() })?;
        Ok(Some(InFlight::new(handle).with_releases(from, Some(live.told.clone()))))
    }
}
