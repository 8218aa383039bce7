//! Refuses what cannot be meant, before anything is touched.

use crate::{
    Applied, Approved, Capabilities, Change, Error, EvidenceSource, Kind, Landing, Look, Nudges, Observation, PartId,
    Parts, Prepared, Record, Release, Result, Strategy, Target, TargetId, Token, Weight, Weights, Work, change::Shape,
};
use async_trait::async_trait;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Refuses, with no effect and before any I/O, what the target cannot do ([`Kind::Unsupported`]) and what cannot be meant
/// ([`Kind::Invalid`]): an empty wish, no traffic for anybody, more than all of it, shares that the platform cannot make,
/// an abort that lands on the suspect, a verb without its release. For a part that was not seen yet, `prepare` looks; one
/// that is not there is refused, unless changes make parts.
///
/// So a target's own code may take for granted what stands in its [`Capabilities`].
///
/// ```
/// use rollback_core::{Target, wrap::Checked};
/// fn careful(target: impl Target) -> impl Target {
///     Checked::new(target)
/// }
/// ```
#[derive(Debug)]
pub struct Checked<T> {
    inner: T,
    /// The parts of the last look.
    seen: Mutex<BTreeSet<PartId>>,
}

impl<T> Checked<T> {
    /// Around a target.
    pub fn new(inner: T) -> Self {
        Self { inner, seen: Mutex::default() }
    }
}

impl<T: Target> Checked<T> {
    fn check(&self, change: &Change, operation: &str) -> Result<()> {
        let capabilities = self.inner.capabilities();
        let failed = |kind, why: String| {
            Err(Error::new(kind, operation).with_message(why).with_target(self.inner.id()).without_effect())
        };
        if !capabilities.supports(change) {
            let can: Vec<_> = capabilities.changes.keys().map(|kind| format!("{kind:?}")).collect();
            let verbs: Vec<_> = capabilities.verbs.keys().map(ToString::to_string).collect();
            let verbs = if verbs.is_empty() { String::new() } else { format!(" ({})", verbs.join(", ")) };
            return failed(Kind::Unsupported, format!("this target can only change: {}{verbs}", can.join(", ")));
        }
        let wrong = match change {
            Change::Reach(shape) => wrong_shape(shape, &capabilities),
            Change::Abort { expect: Landing::On(release), never } if release == never => {
                Some(format!("an abort that lands on the suspect, {never}, helps nobody"))
            }
            Change::Verb { name, arguments } if !arguments.contains_key("release") => {
                Some(format!("the verb {name} needs the argument `release`"))
            }
            _ => None,
        };
        wrong.map_or(Ok(()), |why| failed(Kind::Invalid, why))
    }

    fn remember(&self, now: &Observation) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = now.parts.keys().cloned().collect();
    }

    fn unseen(&self, change: &Change) -> Option<PartId> {
        let Change::Reach(shape) = change else { return None };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        shape.0.keys().find(|part| !seen.contains(*part)).cloned()
    }

    /// Parts that are fixed must be there.
    async fn look_for_parts(&self, change: &Change) -> Result<()> {
        let fixed = matches!(self.inner.capabilities().parts, Parts::One | Parts::Places);
        if !fixed || self.unseen(change).is_none() {
            return Ok(());
        }
        self.remember(&self.inner.observe(Look::quick()).await?);
        let Some(part) = self.unseen(change) else { return Ok(()) };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let seen: Vec<_> = seen.iter().map(PartId::as_str).collect();
        Err(Error::new(Kind::Invalid, "prepare the change")
            .with_message(format!("there is no part {part}; there are: {}", seen.join(", ")))
            .with_target(self.inner.id())
            .without_effect())
    }
}

fn wrong_shape(shape: &Shape, capabilities: &Capabilities) -> Option<String> {
    if shape.0.is_empty() {
        return Some("nothing is wished".into());
    }
    if capabilities.parts == Parts::One && shape.0.len() > 1 {
        return Some(format!("there is one part, and {} are named", shape.0.len()));
    }
    let idle = shape.0.iter().find(|(_, w)| w.release.is_none() && w.weight.is_none() && w.capacity.is_none());
    if let Some((part, _)) = idle {
        return Some(format!("nothing is wished of {part}"));
    }
    let weights: Vec<Weight> = shape.0.values().filter_map(|wish| wish.weight).collect();
    let all = u32::from(Weight::ALL.points());
    let sum: u32 = weights.iter().map(|weight| u32::from(weight.points())).sum();
    let served = weights.iter().filter(|weight| **weight > Weight::NONE).count();
    if weights.is_empty() {
        return None;
    }
    // A part that is made begins without traffic.
    if sum == 0 && shape.0.values().all(|wish| wish.release.is_none()) {
        return Some("nobody would get this traffic: say who does, in the same change".into());
    }
    if sum > all {
        return Some(format!("the shares are more than all of the traffic: {sum} of {all} basis points"));
    }
    match capabilities.weights {
        Weights::None | Weights::ByCapacity => Some("this target gives no part a share of its own".into()),
        Weights::Switch if sum > 0 && sum < all => Some("one part has all of the traffic here, or none".into()),
        Weights::Exact { grain, .. } if weights.iter().any(|weight| weight.points() % grain.max(1) != 0) => {
            Some(format!("shares must be multiples of {}", Weight::basis_points(grain)))
        }
        Weights::Exact { at_once, .. } if served > usize::from(at_once) => {
            Some(format!("{served} parts would serve at once, and this target allows {at_once}"))
        }
        Weights::Switch if served > 1 => Some("one part has all of the traffic here".into()),
        Weights::Switch | Weights::Exact { .. } => None,
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Target> Target for Checked<T> {
    fn id(&self) -> &TargetId {
        self.inner.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let now = self.inner.observe(look).await?;
        self.remember(&now);
        Ok(now)
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.inner.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.check(change, "prepare the change")?;
        self.look_for_parts(change).await?;
        self.inner.prepare(change, work).await
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        self.check(&approved.change, "make the change")?;
        self.inner.apply(approved, token, work).await
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        self.inner.recorder()
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        self.inner.evidence()
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        self.inner.strategy()
    }
    fn nudges(&self) -> Option<Nudges> {
        self.inner.nudges()
    }
}
