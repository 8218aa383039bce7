//! What is wished: one declarative, idempotent change.

use crate::{Error, Kind, Landing, PartId, PartMap, ReleaseId, Result, VerbName, Weight};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capacity {
    /// No more and no less.
    Exactly(u32),
    /// At least so many: pins the minimum of an autoscaler.
    AtLeast(u32),
}

impl Capacity {
    /// The number in it.
    pub fn count(self) -> u32 {
        match self {
            Capacity::Exactly(n) | Capacity::AtLeast(n) => n,
        }
    }
}

/// What is wished of one part. Only what is set is wished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Run this.
    pub release: Option<ReleaseId>,
    /// Take this share of the traffic.
    pub weight: Option<Weight>,
    /// Have so many instances.
    pub capacity: Option<Capacity>,
}

/// Parts with their release, weight and capacity: what a plan predicts, and what an observation shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub PartMap<Wish>);

impl Shape {
    /// How it will be after a change. A prediction: `Abort`, `Halt` and verbs change nothing in it.
    pub fn after(&self, change: &Change) -> Shape {
        let mut shape = self.clone();
        let Change::Reach(wishes) = change else { return shape };
        for (id, wish) in &wishes.0 {
            let part = shape.0.or_insert_with(id, Wish::default);
            if wish.release.is_some() {
                part.release.clone_from(&wish.release);
            }
            if wish.weight.is_some() {
                part.weight = wish.weight;
            }
            match (wish.capacity, part.capacity) {
                (None, _) => {}
                (Some(Capacity::AtLeast(n)), Some(has)) if has.count() >= n => {}
                (Some(capacity), _) => part.capacity = Some(Capacity::Exactly(capacity.count())),
            }
        }
        shape
    }
    /// Instances of the parts that get traffic; `None` where one is not known.
    pub fn serving_capacity(&self) -> Option<u32> {
        self.0.values().filter(|w| w.weight != Some(Weight::NONE)).map(|w| w.capacity.map(Capacity::count)).sum()
    }
}

/// One wish, carried out by one write. Idempotent: the same again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Change {
    /// Reach a shape, of one part or of several *in one write*.
    Reach(Shape),
    /// Stop what is in flight where it is.
    Halt,
    /// Let the platform take back what is in flight.
    Abort {
        /// Where it is to land.
        expect: Landing,
        /// Where it must not land: the suspect.
        never: ReleaseId,
    },
    /// Something that the target declared in its [`Capabilities`](crate::Capabilities).
    Verb {
        /// Which.
        name: VerbName,
        /// With what; `release` is always given.
        arguments: BTreeMap<String, String>,
    },
}

/// What a change touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The release of a part.
    Release,
    /// Weights.
    Traffic,
    /// Instance counts.
    Capacity,
    /// Stops what is in flight.
    Halt,
    /// Takes back what is in flight.
    Abort,
    /// A declared verb.
    Verb,
}

impl Change {
    /// One part onto a release.
    pub fn release(part: &PartId, release: &ReleaseId) -> Self {
        Self::reach([(part.clone(), Wish { release: Some(release.clone()), ..Wish::default() })])
    }
    /// One part to so many instances.
    pub fn capacity(part: &PartId, capacity: Capacity) -> Self {
        Self::reach([(part.clone(), Wish { capacity: Some(capacity), ..Wish::default() })])
    }
    /// The shares of several parts, in one write.
    pub fn traffic(weights: impl IntoIterator<Item = (PartId, Weight)>) -> Self {
        Self::reach(weights.into_iter().map(|(part, w)| (part, Wish { weight: Some(w), ..Wish::default() })))
    }
    /// Any wishes, in one write.
    pub fn reach(wishes: impl IntoIterator<Item = (PartId, Wish)>) -> Self {
        Change::Reach(Shape(wishes.into_iter().collect()))
    }
    /// The one release that it sets, if it sets any.
    pub(crate) fn sets(&self) -> Option<&ReleaseId> {
        let Change::Reach(shape) = self else { return None };
        let mut releases = shape.0.values().filter_map(|wish| wish.release.as_ref());
        let first = releases.next()?;
        releases.all(|release| release == first).then_some(first)
    }
    /// What it touches.
    pub fn kinds(&self) -> BTreeSet<ChangeKind> {
        match self {
            Change::Reach(shape) => shape
                .0
                .values()
                .flat_map(|wish| {
                    [
                        wish.release.as_ref().map(|_| ChangeKind::Release),
                        wish.weight.map(|_| ChangeKind::Traffic),
                        wish.capacity.map(|_| ChangeKind::Capacity),
                    ]
                })
                .flatten()
                .collect(),
            Change::Halt => [ChangeKind::Halt].into(),
            Change::Abort { .. } => [ChangeKind::Abort].into(),
            Change::Verb { .. } => [ChangeKind::Verb].into(),
        }
    }
    /// For targets that can do one thing only: the release that one part is to reach.
    ///
    /// # Errors
    /// [`Kind::Unsupported`], without effect, for any other change.
    pub fn only_release(&self) -> Result<&ReleaseId> {
        let only = match self {
            Change::Reach(shape) if shape.0.len() == 1 => shape.0.values().next(),
            _ => None,
        };
        only.filter(|wish| wish.weight.is_none() && wish.capacity.is_none())
            .and_then(|wish| wish.release.as_ref())
            .ok_or_else(|| {
                Error::new(Kind::Unsupported, "prepare the change")
                    .with_message("this target can only be brought to a release, as a whole")
                    .without_effect()
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn wish(release: Option<&str>, weight: Option<u16>, capacity: Option<Capacity>) -> Wish {
        Wish { release: release.map(Into::into), weight: weight.map(Weight::percent), capacity }
    }

    #[test]
    fn a_shape_after_a_change() {
        let start = Shape([("a".into(), wish(Some("1"), Some(100), Some(Capacity::Exactly(3))))].into());
        for (what, change, expected) in [
            (
                "release",
                Change::release(&"a".into(), &"2".into()),
                wish(Some("2"), Some(100), Some(Capacity::Exactly(3))),
            ),
            (
                "traffic",
                Change::traffic([("a".into(), Weight::NONE)]),
                wish(Some("1"), Some(0), Some(Capacity::Exactly(3))),
            ),
            (
                "more",
                Change::capacity(&"a".into(), Capacity::AtLeast(5)),
                wish(Some("1"), Some(100), Some(Capacity::Exactly(5))),
            ),
            (
                "enough",
                Change::capacity(&"a".into(), Capacity::AtLeast(2)),
                wish(Some("1"), Some(100), Some(Capacity::Exactly(3))),
            ),
            (
                "fewer",
                Change::capacity(&"a".into(), Capacity::Exactly(2)),
                wish(Some("1"), Some(100), Some(Capacity::Exactly(2))),
            ),
            ("halt", Change::Halt, wish(Some("1"), Some(100), Some(Capacity::Exactly(3)))),
        ] {
            let after = start.after(&change);
            assert_eq!(after.0["a"], expected, "{what}");
            assert_eq!(after.after(&change), after, "{what}: the same again changes nothing");
        }
        let made = start.after(&Change::release(&"b".into(), &"2".into()));
        assert_eq!(made.0["b"], wish(Some("2"), None, None));
        assert_eq!((start.serving_capacity(), made.serving_capacity()), (Some(3), None));
    }

    #[test]
    fn a_release_and_nothing_else() {
        let release = Change::release(&"a".into(), &"2".into());
        assert_eq!(release.only_release().unwrap(), "2");
        let two = Change::reach(["a", "b"].map(|part| (part.into(), wish(Some("2"), None, None))));
        let more = Change::reach([("a".into(), wish(Some("2"), None, Some(Capacity::AtLeast(1))))]);
        for other in [two, more, Change::traffic([("a".into(), Weight::ALL)]), Change::reach([]), Change::Halt] {
            let error = other.only_release().unwrap_err();
            assert_eq!((error.kind(), error.effect()), (Kind::Unsupported, crate::Effect::None), "{other:?}");
        }
    }
}
