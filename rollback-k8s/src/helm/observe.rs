//! What the revisions, the workloads and a look at them come to.

use super::{
    HelmRelease, Number, Read,
    record::Revision,
    workload::{self, Live},
};
use crate::marks;
use rollback_core::{Identity, InFlight, Look, Observation, PartState, Payload, Result, Running, Settled, Token};
use std::collections::BTreeSet;

impl HelmRelease {
    pub(super) async fn look(&self, look: &Look) -> Result<Observation> {
        // The Secrets first: what is judged must not be newer than the token.
        let revisions = self.revisions().await?;
        let newest = &revisions[0];
        let named = workload::of_interest(&revisions);
        let (live, drifted) = futures::try_join!(self.workloads(&named), self.drifted_config(newest))?;
        let running = workload::running(&live, &revisions);
        let settled = settled(newest, &live, &running, drifted);
        let annotations = newest.annotations();
        let ours = marks::ours(&annotations, look.mark.as_ref(), &newest.release, settled == Settled::Yes);
        let part = PartState::new(Some(newest.release.clone()), running)
            .with_capacity(live.iter().map(|l| l.capacity).sum(), live.iter().map(|l| l.ready).sum())
            .with_addresses(live.iter().flat_map(|live| live.addresses.clone()))
            .with_settled(settled);
        // The first revision's Secret may have been pruned: a release is its name, for as long as it is not uninstalled.
        let identity = Identity::new(self.cluster.scope(), format!("helm/{}/{}", self.namespace, self.name));
        let read = Read { secret: newest.secret_uid().into(), revision: newest.number, status: newest.status.clone() };
        let owners: BTreeSet<String> = live.into_iter().flat_map(|live| live.owners).collect();
        let mut observation = Observation::of_one(identity, part, Token(Some(Payload::of(&read)?)))
            .with_ours(ours)
            .with_owners(owners)
            .with_trace(marks::trace(&annotations));
        if newest.is_pending() {
            let handle = Number { revision: newest.number, status: newest.status.clone() };
            let flight = InFlight::new(Payload::of(&handle)?);
            let before = named.iter().find(|revision| revision.status == "deployed");
            let from = before.map(|revision| revision.release.clone());
            observation = observation.with_in_flight(flight.with_releases(from, Some(newest.release.clone())));
        }
        Ok(observation)
    }
}

fn settled(newest: &Revision, live: &[Live], running: &Running, drifted: Option<String>) -> Settled {
    let not_yet = |why: String| Settled::NotYet { why };
    if newest.is_pending() {
        return not_yet(format!("Helm says {} of revision {}", newest.status, newest.number));
    }
    let named = |live: &&Live| newest.object(&live.kind, &live.name).is_some();
    let states = || live.iter().filter(named).map(|live| &live.settled);
    if let Some(never) = states().find(|state| matches!(state, Settled::Never { .. })) {
        return never.clone();
    }
    if let Some(not_yet) = states().find(|state| **state != Settled::Yes) {
        return not_yet.clone();
    }
    // What helm says is deployed is not yet what runs.
    if !newest.objects.is_empty()
        && *running != Running::Nothing
        && *running != Running::Release(newest.release.clone())
    {
        return not_yet(format!("revision {} is deployed, Helm says; what runs is {running}", newest.number));
    }
    drifted.map_or(Settled::Yes, not_yet)
}
