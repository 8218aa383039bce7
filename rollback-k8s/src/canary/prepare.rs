//! A change made ready: what it needs is found out, nothing is touched.

use super::{CanaryPair, Instructions, route::How};
use crate::{
    kinds::{ENDPOINT_SLICE, SERVICE},
    owner,
    prepare::{Access, allow, permissions},
    side,
};
use rollback_core::{
    Change, DiffLine, Finding, Kind, Look, PartMap, Payload, Prepared, Result, Severity, Shape, Weight, Work,
};

const OPERATION: &str = "prepare the change";

impl CanaryPair {
    pub(super) async fn make_ready(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let Change::Reach(shape) = change else {
            let text = "of a canary pair, weights, replicas and releases can be changed";
            return Err(self.refused(Kind::Unsupported, OPERATION, text));
        };
        if let Some(shares) = self.shares(shape)? {
            return self.make_weights_ready(change, &shares).await;
        }
        let (releases, diff, findings) = side::prepare(&self.sides, shape, &self.id, work).await?;
        let mut prepared = Prepared::new(change).with_diff(diff);
        prepared.findings = findings;
        prepared.findings.extend(permissions(&self.cluster, &self.access()).await);
        Ok(prepared.with_instructions(Payload::of(&Instructions { releases })?))
    }

    /// The shares that a change gives; `None` where it is not about traffic.
    pub(super) fn shares(&self, shape: &Shape) -> Result<Option<PartMap<Weight>>> {
        if shape.0.values().all(|wish| wish.weight.is_none()) {
            return Ok(None);
        }
        let unsupported = |text: &str| Err(self.refused(Kind::Unsupported, OPERATION, text));
        if self.routes.is_empty() {
            return unsupported("this pair shares traffic by its replicas: name a routing object, or scale its sides");
        }
        if shape.0.values().any(|wish| wish.release.is_some() || wish.capacity.is_some()) {
            return unsupported("weights are a change of their own");
        }
        for part in shape.0.keys() {
            side::find(&self.sides, part, &self.id)?;
        }
        let mut shares: PartMap<Weight> =
            shape.0.iter().filter_map(|(part, wish)| Some((part.clone(), wish.weight?))).collect();
        // The other side has what is left.
        let given: Vec<Weight> = shares.values().copied().collect();
        let other = self.sides.iter().find(|side| !shares.contains_key(side.part.as_str()));
        if let (Some(other), [share]) = (other, &given[..]) {
            shares.insert(other.part.clone(), share.rest());
        }
        let sum: u32 = shares.values().map(|share| u32::from(share.points())).sum();
        if sum != u32::from(Weight::ALL.points()) {
            return Err(self.refused(Kind::Invalid, OPERATION, "the weights of both sides must come to 100 %"));
        }
        if let Some(route) = self.routes.iter().find(|route| !route.knows(shares.keys())) {
            let text = format!("{} was given other parts than the pair has", route.what());
            return Err(self.refused(Kind::Invalid, OPERATION, text));
        }
        Ok(Some(shares))
    }

    async fn make_weights_ready(&self, change: &Change, shares: &PartMap<Weight>) -> Result<Prepared> {
        let (mut diff, mut findings) = (vec![], permissions(&self.cluster, &self.access()).await);
        let allowed = allow(&findings);
        let look = Look::full();
        for route in &self.routes {
            let looked = route.look(&self.cluster, &self.namespace, &look).await?;
            let (_, changed) = looked.seen.lists.set(shares)?;
            diff.extend(
                changed.into_iter().map(|changed| {
                    DiffLine::new(format!("{} {}", route.what(), changed.route), changed.from, changed.to)
                }),
            );
            for (part, _) in shares.iter().filter(|(_, share)| **share == Weight::NONE) {
                let left: Vec<&str> = looked.seen.lists.only_to(part);
                if !left.is_empty() {
                    let text = format!(
                        "{} sends to {part} alone in {}: that stays, change it by hand",
                        route.what(),
                        left.join(", ")
                    );
                    findings.push(Finding::new(Severity::Warning, "route", text));
                }
            }
            findings.extend(owner::findings(&looked.owners));
            if allowed {
                let how = How::Try(self.cluster.reply_within());
                route.write(&self.cluster, &self.namespace, &looked.seen, shares, how).await?;
            }
        }
        if self.routes.len() > 1 {
            let text = format!("{} routing objects are written one after the other, not at once", self.routes.len());
            findings.push(Finding::new(Severity::Note, "not-atomic", text));
        }
        let mut prepared = Prepared::new(change).with_diff(diff);
        prepared.findings = findings;
        Ok(prepared.with_instructions(Payload::of(&Instructions::default())?))
    }

    fn access(&self) -> Vec<Access> {
        let of = |verb, kind| Access::new(verb, kind, &self.namespace);
        let mut all: Vec<Access> = self.sides.first().map(side::Side::access).into_iter().flatten().collect();
        all.extend(self.routes.iter().flat_map(|route| [of("get", route.kind), of("patch", route.kind)]));
        if self.service.is_some() {
            all.extend([of("get", SERVICE), of("list", ENDPOINT_SLICE)]);
        }
        all
    }
}
