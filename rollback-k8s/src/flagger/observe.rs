//! What a Canary, its primary, its target and a look at them come to. Pure.

use super::{FlaggerCanary, LoadTesterGate, Read, RollbackGate, Seen, Since, canary::Phase};
use rollback_core::{
    Change, Identity, InFlight, Landing, Look, Observation, Ours, PartState, Payload, ReleaseId, Result, Running,
    Settled, Token,
};
use std::{collections::BTreeMap, sync::Arc};

impl FlaggerCanary {
    pub(super) fn judge(&self, seen: &Seen, look: &Look) -> Result<Observation> {
        let Seen { canary, workload, target, primary, .. } = seen;
        let told = workload.told.clone();
        let running = running(seen);
        let settled = settled(seen, look, &running);
        let addresses = primary.iter().flat_map(|p| p.seen.parts.values()).flat_map(|part| part.addresses.clone());
        let ready = primary.iter().flat_map(|primary| primary.seen.parts.values()).filter_map(|part| part.ready).sum();
        let mut part = PartState::new(Some(told.clone()), running).with_addresses(addresses);
        if let Some(primary) = primary {
            part = part.with_capacity(primary.replicas, ready);
        }
        // What the target's Deployment calls done is not yet what serves.
        let ours = match &target.ours {
            Ours::Complete if settled != Settled::Yes => Ours::Current,
            other => other.clone(),
        };
        let read = Read { uid: canary.uid.clone(), applied: canary.applied.clone(), target: target.token.0.clone() };
        let mut observation = Observation::of_one(
            Identity::new(self.cluster.scope(), canary.uid.clone()),
            part.with_settled(settled),
            Token(Some(Payload::of(&read)?)),
        )
        .with_ours(ours)
        .with_owners(target.owners.clone())
        .with_trace(target.trace.clone());
        if canary.in_flight() {
            observation = observation.with_in_flight(self.flight(seen, told)?);
        }
        Ok(observation)
    }

    fn flight(&self, seen: &Seen, told: ReleaseId) -> Result<InFlight> {
        let since = Since { transition: seen.canary.transition.clone() };
        let from = seen.primary.as_ref().map(|primary| seen.workload.release_of(&primary.told));
        let mut flight = InFlight::new(Payload::of(&since)?);
        let differs = from.as_ref() != Some(&told);
        flight = flight.with_releases(from, Some(told));
        // It lands on the primary's release, and keeps the target's template: that is undone by a change of its own. With a
        // landing that is said, nothing else would be done.
        if differs && self.can_end(seen) {
            flight = flight.with_abort(Landing::Unsaid);
        }
        Ok(flight)
    }

    /// Its rollback webhook can end the run.
    pub(super) fn can_end(&self, seen: &Seen) -> bool {
        let canary = &seen.canary;
        // With skipAnalysis the webhook is not asked.
        canary.phase == Phase::Running
            && !canary.skips_analysis
            && !canary.suspended
            && !canary.webhooks.is_empty()
            && self.gate_of(seen).is_some()
    }

    pub(super) fn gate_of(&self, seen: &Seen) -> Option<Arc<dyn RollbackGate>> {
        self.gate_for(&seen.canary)
    }

    pub(super) fn gate_for(&self, canary: &super::Canary) -> Option<Arc<dyn RollbackGate>> {
        let own = || LoadTesterGate::of(&self.cluster, canary, &self.namespace);
        self.gate.clone().or_else(|| own().map(|gate| Arc::new(gate) as Arc<dyn RollbackGate>))
    }
}

/// What the pods of both run, as releases of the target.
fn running(seen: &Seen) -> Running {
    let mut counts: BTreeMap<ReleaseId, u32> = BTreeMap::new();
    let primary = seen.primary.iter().flat_map(|primary| {
        let as_target = |own: &ReleaseId| primary.as_target(&seen.workload, own);
        primary.seen.parts.values().map(move |part| named(part, &as_target))
    });
    let target = seen.target.parts.values().map(|part| named(part, &|own: &ReleaseId| own.clone()));
    for of in primary.chain(target) {
        match of {
            Ok(some) => some.into_iter().for_each(|(release, n)| *counts.entry(release).or_default() += n),
            Err(unknown) => return unknown,
        }
    }
    match counts.len() {
        0 => Running::Nothing,
        1 => counts.into_keys().next().map_or(Running::Nothing, Running::Release),
        _ => Running::Mixed(counts),
    }
}

type Counts = BTreeMap<ReleaseId, u32>;

fn named(part: &PartState, as_target: &dyn Fn(&ReleaseId) -> ReleaseId) -> std::result::Result<Counts, Running> {
    let mut counts = Counts::new();
    match &part.running {
        Running::Nothing => {}
        Running::Release(release) => drop(counts.insert(as_target(release), part.ready.unwrap_or(1).max(1))),
        Running::Mixed(all) => {
            for (release, n) in all {
                *counts.entry(as_target(release)).or_default() += n;
            }
        }
        other => return Err(other.clone()),
    }
    Ok(counts)
}

/// Whether Flagger has done what it was told, and what it says is so.
fn settled(seen: &Seen, look: &Look, running: &Running) -> Settled {
    let Seen { canary, workload, target, primary, on_primary } = seen;
    let not_yet = |why: String| Settled::NotYet { why };
    let Some(primary) = primary else { return not_yet("Flagger has not made the primary yet".into()) };
    if canary.phase == Phase::Terminating {
        return Settled::Never { why: "the Canary is being deleted".into() };
    }
    if canary.in_flight() || canary.phase == Phase::Unknown {
        return not_yet(canary.progress());
    }
    let promoted = workload.release_of(&primary.told) == workload.told;
    if !promoted && canary.phase == Phase::Resting {
        return not_yet("Flagger has not met the target's new template yet".into());
    }
    // The run failed that was to bring what we wrote.
    if !promoted
        && canary.phase == Phase::Failed
        && let Some(mark) = &look.mark
        && matches!(&mark.change, Some(change @ Change::Reach(_)) if change.only_release().is_ok_and(|wanted| *wanted == workload.told))
    {
        let since = mark.handle.as_ref().and_then(|handle| handle.0.read::<Since>().ok());
        return match since {
            Some(since) if since.transition != canary.transition => {
                Settled::Never { why: format!("Flagger's analysis of the wanted release failed: {}", canary.message) }
            }
            _ => not_yet("Flagger has not met the target's new template yet".into()),
        };
    }
    if !on_primary {
        return not_yet(format!("the Service {} does not select the primary", canary.service));
    }
    if let Some(state) = primary.seen.parts.values().map(|part| &part.settled).find(|state| **state != Settled::Yes) {
        return state.clone();
    }
    let of_target = target.parts.values().next();
    if workload.replicas > 0 {
        return not_yet(format!("the target still has {} replicas", workload.replicas));
    }
    if of_target.is_some_and(|part| part.running != Running::Nothing) {
        return not_yet("the target's last pods are ending".into());
    }
    if primary.replicas > 0 && *running == Running::Nothing {
        return not_yet("no pod of the primary is there".into());
    }
    Settled::Yes
}
