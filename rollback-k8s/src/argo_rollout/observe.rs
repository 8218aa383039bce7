//! What a Rollout, its ReplicaSets, its pods and a look at them come to. Pure.

use super::{
    ArgoRollout, Generation, Read,
    live::{Live, is_idle},
};
use crate::{
    marks, owner, pods,
    pods::{PodState, Trouble},
    revisions::Revision,
};
use rollback_core::{
    Identity, InFlight, Landing, Look, Observation, PartState, Payload, ReleaseId, Result, Settled, Token,
};

impl ArgoRollout {
    pub(super) fn judge(
        &self,
        live: &Live,
        revisions: &[Revision],
        pods: &[PodState],
        look: &Look,
    ) -> Result<Observation> {
        let told = live.told(revisions);
        let revision_of = |pod: &PodState| {
            let controller = pod.controller.as_deref()?;
            revisions.iter().find(|revision| revision.uid == controller)
        };
        let release_of = |pod: &PodState| revision_of(pod).map(|revision| revision.release.clone());
        let counted: Vec<&PodState> = pods
            .iter()
            .filter(|pod| pod.controller.is_some() && pod.counts())
            // What gets no traffic any more, and waits to be scaled down, does not serve.
            .filter(|pod| revision_of(pod).is_none_or(|revision| !is_idle(revision) || revision.release == told))
            .collect();
        let settled = settled(live, &told, &counted, &release_of);
        let ready = counted.iter().filter(|pod| pod.serves()).count();
        let addresses =
            counted.iter().filter(|pod| !pod.terminating).filter_map(|pod| pod.at(self.options.health_port));
        let part = PartState::new(Some(told.clone()), pods::running(counted.iter().copied(), release_of))
            .with_capacity(live.replicas, u32::try_from(ready).unwrap_or(u32::MAX))
            .with_addresses(addresses)
            .with_settled(settled.clone());
        let annotations = &live.source.annotations;
        let mut observation = Observation::of_one(
            Identity::new(self.cluster.scope(), live.uid.clone()),
            part,
            Token(Some(Payload::of(&Read::of(live))?)),
        )
        .with_ours(marks::ours(annotations, look.mark.as_ref(), &told, settled == Settled::Yes))
        .with_owners(owner::owners(&live.metadata))
        .with_trace(marks::trace(annotations));
        if live.replicas > 0 {
            let there = counted.iter().filter(|pod| pod.serves() && release_of(pod).as_ref() == Some(&told)).count();
            let there = u64::try_from(there).unwrap_or(u64::MAX).min(live.replicas.into());
            observation = observation.with_progress(there, live.replicas.into());
        }
        if let Some(flight) = in_flight(live, &told, revisions)? {
            observation = observation.with_in_flight(flight);
        }
        Ok(observation)
    }
}

impl Read {
    pub(super) fn of(live: &Live) -> Self {
        Self {
            uid: live.uid.clone(),
            source_uid: live.source.uid.clone(),
            template: live.source.template.clone(),
            annotated: !live.source.annotations.is_empty(),
            paused: live.paused,
            current: live.current.clone(),
            stable: live.stable.clone(),
            aborted: live.aborted,
        }
    }
}

/// Whether the controller has done what it was told.
fn settled(
    live: &Live,
    told: &ReleaseId,
    pods: &[&PodState],
    release_of: &dyn Fn(&PodState) -> Option<ReleaseId>,
) -> Settled {
    let not_yet = |why: String| Settled::NotYet { why };
    let never = |why: String| Settled::Never { why };
    if !live.taken_up {
        return not_yet("the controller has not taken up the change yet".into());
    }
    let others = pods.iter().filter(|pod| release_of(pod).as_ref() != Some(told));
    let (going, staying): (Vec<&&PodState>, Vec<&&PodState>) = others.partition(|pod| pod.terminating);
    let landed = live.phase == "Healthy" && live.current == live.stable;
    if landed && live.available >= live.replicas && going.is_empty() && staying.is_empty() {
        return Settled::Yes;
    }
    if live.paused {
        return never("somebody paused the Rollout: set spec.paused to false, or lift the pause".into());
    }
    if live.aborted && live.current != live.stable {
        return not_yet(
            "it was aborted, and its template is still the one it was aborted from: a retry brings that back".into(),
        );
    }
    let mine = || pods.iter().filter(|pod| !pod.terminating && release_of(pod).as_ref() == Some(told));
    let troubles = || mine().filter_map(|pod| pod.trouble.as_ref());
    if let Some(Trouble::Terminal(why)) = troubles().find(|trouble| matches!(trouble, Trouble::Terminal(_))) {
        return never(why.clone());
    }
    if let Some(Trouble::Unschedulable(why)) = troubles().find(|trouble| matches!(trouble, Trouble::Unschedulable(_))) {
        return if staying.is_empty() && going.is_empty() { never(why.clone()) } else { not_yet(why.clone()) };
    }
    match live.phase.as_str() {
        "Degraded" => never(format!("Argo Rollouts says Degraded: {}", live.message)),
        // A pause with an end goes on by itself; the message tells, and the wait is bounded.
        "Paused" if live.waits => not_yet(format!("it waits at a pause of its steps ({}): promote it", live.message)),
        _ if landed && live.available < live.replicas => {
            not_yet(format!("{} of {} replicas are available", live.available, live.replicas))
        }
        _ if landed => not_yet(format!(
            "{} pods of another release are still there, {} of them being deleted",
            going.len() + staying.len(),
            going.len()
        )),
        phase => not_yet(format!("Argo Rollouts says {phase}: {}", live.message)),
    }
}

/// A rollout under way: what is told is not what is stable. An aborted one counts until its template is back: a retry goes
/// on with it.
fn in_flight(live: &Live, told: &ReleaseId, revisions: &[Revision]) -> Result<Option<InFlight>> {
    let stable = live.stable_of(revisions);
    let under_way = match stable {
        Some(stable) => stable.release != *told || (live.taken_up && live.current != live.stable),
        // The first one: there is nothing to land on.
        None => live.phase != "Healthy",
    };
    if !under_way {
        return Ok(None);
    }
    let handle = Generation { uid: live.uid.clone(), generation: live.metadata.generation.unwrap_or_default() };
    let mut flight = InFlight::new(Payload::of(&handle)?)
        .with_releases(stable.map(|stable| stable.release.clone()), Some(told.clone()));
    if let Some(stable) = stable.filter(|stable| stable.release != *told && live.taken_up && !live.paused) {
        flight = flight.with_abort(Landing::On(stable.release.clone()));
    }
    Ok(Some(flight))
}
