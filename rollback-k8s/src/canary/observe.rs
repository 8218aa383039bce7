//! One read: both sides, and every routing object.

use super::{CanaryPair, Read};
use crate::{endpoints::not_as_selected, kinds::SERVICE, side};
use rollback_core::{Identity, Look, Observation, Ours, PartState, Payload, Result, Settled, Token, Weight};
use std::collections::BTreeMap;

impl CanaryPair {
    pub(super) async fn look(&self, look: &Look) -> Result<Observation> {
        // The routes first: what is judged must not be newer than the token.
        let routes = self.routes.iter().map(|route| route.look(&self.cluster, &self.namespace, look));
        let routes = futures::future::try_join_all(routes).await?;
        let (sides, endpoints) = futures::try_join!(side::look_at(&self.sides, look), self.endpoints())?;
        let waits = routes.iter().find_map(|route| route.behind.clone()).or(endpoints);
        let parts = sides.iter().map(|seen| {
            let mut state: PartState = seen.state.clone();
            if !routes.is_empty() {
                let most = routes.iter().map(|route| route.seen.lists.most(&seen.part)).max();
                state.weight = Some(most.unwrap_or(Weight::NONE));
            }
            if state.settled == Settled::Yes
                && let Some(why) = &waits
            {
                state.settled = Settled::NotYet { why: why.clone() };
            }
            (seen.part.clone(), state)
        });
        let parts: Vec<_> = parts.collect();
        let ours = match look.mark {
            Some(_) => ours(routes.iter().map(|route| &route.ours)).or_else(|| side::ours(&sides)),
            None => Some(Ours::NotAsked),
        };
        let mut owners = side::owners(&sides);
        owners.extend(routes.iter().flat_map(|route| route.owners.iter().cloned()));
        let traces = sides.iter().map(|side| side.trace.clone()).chain(routes.iter().map(|route| route.trace.clone()));
        let trace = side::latest(traces);
        let object = sides.iter().map(side::Seen::uid).collect::<Vec<_>>().join("/");
        let read = Read { sides: side::reads(&sides), routes: routes.into_iter().map(|route| route.seen).collect() };
        Ok(Observation::new(Identity::new(self.cluster.scope(), object), parts, Token(Some(Payload::of(&read)?)))
            .with_ours(ours.unwrap_or(Ours::CannotTell))
            .with_owners(owners)
            .with_trace(trace))
    }

    /// Why the Service does not send to just the ready pods; `None` where it does, or where none was named.
    async fn endpoints(&self) -> Result<Option<String>> {
        let Some(name) = &self.service else { return Ok(None) };
        let service = self.cluster.named("read the Service", SERVICE, &self.namespace, name).await?;
        let selector = service.data.pointer("/spec/selector").cloned().unwrap_or_default();
        let selector: BTreeMap<String, String> = serde_json::from_value(selector).unwrap_or_default();
        if selector.is_empty() {
            let why = format!("the Service {name} has no selector, so it finds no pods: name the one that does");
            return Err(self.refused(rollback_core::Kind::Invalid, "read the Service", why));
        }
        not_as_selected(&self.cluster, &self.namespace, name, &selector).await
    }
}

/// Of several objects that one change writes: one that somebody wrote since is enough, and so is one that has it.
fn ours<'a>(all: impl Iterator<Item = &'a Ours>) -> Option<Ours> {
    let told: Vec<&Ours> = all.filter(|ours| !matches!(ours, Ours::CannotTell | Ours::NotAsked)).collect();
    let replaced = told.iter().find(|ours| matches!(ours, Ours::Replaced { .. }));
    replaced.or(told.first()).map(|ours| (*ours).clone())
}
