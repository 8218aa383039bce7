//! One read: the Service, its sides, and where its endpoints are.

use super::{BlueGreenService, ELSEWHERE, Read};
use crate::{
    endpoints::{not_as_selected, selector_text},
    marks, owner, side,
};
use rollback_core::{
    Identity, Look, Observation, Ours, PartId, PartState, Payload, Release, Result, Running, Settled, Target, Token,
    Weight,
};

impl BlueGreenService {
    pub(super) async fn look(&self, look: &Look) -> Result<Observation> {
        // The Service first: what is judged must not be newer than the token.
        let service = self.service().await?;
        let (sides, endpoints) = futures::try_join!(
            side::look_at(&self.sides, look),
            not_as_selected(&self.cluster, &self.namespace, &self.name, &service.selector),
        )?;
        let serving = service.serving(&sides)?;
        let part = |seen: &side::Seen| {
            let serves = serving.is_some_and(|serving| serving.part == seen.part);
            let mut state = seen.state.clone().with_weight(if serves { Weight::ALL } else { Weight::NONE });
            if serves
                && state.settled == Settled::Yes
                && let Some(why) = &endpoints
            {
                state.settled = Settled::NotYet { why: why.clone() };
            }
            (seen.part.clone(), state)
        };
        let mut parts: Vec<(PartId, PartState)> = sides.iter().map(part).collect();
        let told = match serving {
            Some(serving) => serving.written.told(),
            None => {
                let selector = selector_text(&service.selector);
                let named = Some(format!("what the selector {selector} finds"));
                let running = Running::Unknown { fingerprint: selector.clone(), named };
                parts.push((ELSEWHERE.into(), PartState::new(None, running).with_weight(Weight::ALL)));
                selector.into()
            }
        };
        let settled = parts.iter().all(|(_, part)| part.weight == Some(Weight::NONE) || part.settled == Settled::Yes);
        let ours = match marks::ours(&service.annotations, look.mark.as_ref(), &told, settled) {
            Ours::CannotTell => side::ours(&sides).unwrap_or(Ours::CannotTell),
            told => told,
        };
        let mut owners = side::owners(&sides);
        owners.extend(owner::owners(&service.metadata));
        let traces = sides.iter().map(|side| side.trace.clone()).chain([marks::trace(&service.annotations)]);
        let read = Read {
            uid: service.uid.clone(),
            annotated: !service.annotations.is_empty(),
            selector: service.selector,
            sides: side::reads(&sides),
        };
        Ok(Observation::new(Identity::new(self.cluster.scope(), service.uid), parts, Token(Some(Payload::of(&read)?)))
            .with_ours(ours)
            .with_owners(owners)
            .with_trace(side::latest(traces)))
    }

    /// What all sides ran, the serving one first where dates do not tell.
    pub(super) async fn past(&self, limit: usize) -> Result<Vec<Release>> {
        let service = self.service().await?;
        let sides = side::look_at(&self.sides, &Look::quick()).await?;
        let serving = service.serving(&sides)?.map(|side| side.part.clone());
        let first = |side: &&side::Side| Some(&side.part) != serving.as_ref();
        let mut ordered: Vec<&side::Side> = self.sides.iter().collect();
        ordered.sort_by_key(first);
        let histories = ordered.iter().map(|side| side.deployment.history(limit));
        let merged = side::merged(futures::future::try_join_all(histories).await?, limit);
        let told: Vec<_> = sides.iter().map(|side| side.written.told()).collect();
        Ok(side::without_copies(&self.sides, merged, &told))
    }
}
