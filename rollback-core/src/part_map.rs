//! Something for each part, in the order of their names.
//!
//! Not a map for everything: a target has one part or a few, and ten thousand runs are held at once. A `BTreeMap` with one
//! entry has room for eleven.

use crate::PartId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Borrow, collections::BTreeMap, fmt, iter::Map, ops::Index, slice, vec};

/// Something for each part, in the order of their names. Reads like a `BTreeMap`, is stored like one, and takes no more
/// room than what is in it. Looking one up takes the logarithm of the number of parts; inserting one that is not the last
/// moves those behind it.
///
/// ```
/// use rollback_core::{PartId, PartMap};
/// let mut ready: PartMap<u32> = [("green".into(), 3), ("blue".into(), 2)].into();
/// ready.insert("blue".into(), 1);
/// assert_eq!(ready.get("blue"), Some(&1));
/// assert_eq!(ready.keys().map(PartId::as_str).collect::<Vec<_>>(), ["blue", "green"]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PartMap<T>(Vec<(PartId, T)>);

type Refs<'a, T> = Map<slice::Iter<'a, (PartId, T)>, fn(&'a (PartId, T)) -> (&'a PartId, &'a T)>;
type Muts<'a, T> = Map<slice::IterMut<'a, (PartId, T)>, fn(&'a mut (PartId, T)) -> (&'a PartId, &'a mut T)>;

impl<T> PartMap<T> {
    /// No part.
    pub const fn new() -> Self {
        Self(vec![])
    }
    /// How many parts.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// No part.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// What is there for a part.
    pub fn get<Q: Ord + ?Sized>(&self, part: &Q) -> Option<&T>
    where
        PartId: Borrow<Q>,
    {
        self.place(part).ok().map(|at| &self.0[at].1)
    }
    /// What is there for a part, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, part: &Q) -> Option<&mut T>
    where
        PartId: Borrow<Q>,
    {
        self.place(part).ok().map(|at| &mut self.0[at].1)
    }
    /// There is something for this part.
    pub fn contains_key<Q: Ord + ?Sized>(&self, part: &Q) -> bool
    where
        PartId: Borrow<Q>,
    {
        self.place(part).is_ok()
    }
    /// Something for a part; answers what was there before.
    pub fn insert(&mut self, part: PartId, value: T) -> Option<T> {
        match self.place(&part) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (part, value));
                None
            }
        }
    }
    /// Takes out what is there for a part.
    pub fn remove<Q: Ord + ?Sized>(&mut self, part: &Q) -> Option<T>
    where
        PartId: Borrow<Q>,
    {
        self.place(part).ok().map(|at| self.0.remove(at).1)
    }
    /// What is there for a part, to be changed; where there is nothing yet, something new.
    pub fn or_insert_with(&mut self, part: &PartId, new: impl FnOnce() -> T) -> &mut T {
        let at = self.place(part).unwrap_or_else(|at| {
            self.0.insert(at, (part.clone(), new()));
            at
        });
        &mut self.0[at].1
    }
    /// Each part with what is there for it.
    pub fn iter(&self) -> Refs<'_, T> {
        self.0.iter().map(|(part, value)| (part, value))
    }
    /// Each part with what is there for it, to be changed.
    pub fn iter_mut(&mut self) -> Muts<'_, T> {
        self.0.iter_mut().map(|(part, value)| (&*part, value))
    }
    /// The parts.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &PartId> + ExactSizeIterator {
        self.0.iter().map(|(part, _)| part)
    }
    /// What is there for the parts.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.0.iter().map(|(_, value)| value)
    }
    /// What is there for the parts, to be changed.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> + ExactSizeIterator {
        self.0.iter_mut().map(|(_, value)| value)
    }
    /// Where a part is, or would be.
    fn place<Q: Ord + ?Sized>(&self, part: &Q) -> Result<usize, usize>
    where
        PartId: Borrow<Q>,
    {
        self.0.binary_search_by(|(other, _)| other.borrow().cmp(part))
    }
}

impl<T> Default for PartMap<T> {
    fn default() -> Self {
        Self::new()
    }
}
impl<T: fmt::Debug> fmt::Debug for PartMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}
/// Of the same part twice, the last counts.
impl<T> FromIterator<(PartId, T)> for PartMap<T> {
    fn from_iter<I: IntoIterator<Item = (PartId, T)>>(all: I) -> Self {
        all.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}
impl<T> From<BTreeMap<PartId, T>> for PartMap<T> {
    fn from(map: BTreeMap<PartId, T>) -> Self {
        let mut parts: Vec<_> = map.into_iter().collect();
        parts.shrink_to_fit();
        Self(parts)
    }
}
impl<T, const N: usize> From<[(PartId, T); N]> for PartMap<T> {
    fn from(all: [(PartId, T); N]) -> Self {
        all.into_iter().collect()
    }
}
impl<T> Extend<(PartId, T)> for PartMap<T> {
    fn extend<I: IntoIterator<Item = (PartId, T)>>(&mut self, all: I) {
        let was = std::mem::take(self);
        *self = was.into_iter().chain(all).collect();
    }
}
impl<T> IntoIterator for PartMap<T> {
    type Item = (PartId, T);
    type IntoIter = vec::IntoIter<(PartId, T)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
impl<'a, T> IntoIterator for &'a PartMap<T> {
    type Item = (&'a PartId, &'a T);
    type IntoIter = Refs<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
impl<'a, T> IntoIterator for &'a mut PartMap<T> {
    type Item = (&'a PartId, &'a mut T);
    type IntoIter = Muts<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
/// # Panics
/// Where there is nothing for the part: use [`get`](PartMap::get) unless it is known to be there.
impl<T, Q: Ord + ?Sized> Index<&Q> for PartMap<T>
where
    PartId: Borrow<Q>,
{
    type Output = T;
    fn index(&self, part: &Q) -> &T {
        match self.place(part) {
            Ok(at) => &self.0[at].1,
            Err(_) => panic!("there is no such part"),
        }
    }
}

impl<T: Serialize> Serialize for PartMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}
impl<'de, T: Deserialize<'de>> Deserialize<'de> for PartMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Whatever is done to it, it is what a `BTreeMap` is.
    #[test]
    fn is_what_a_map_is() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut ours, mut map) = (PartMap::new(), BTreeMap::new());
            for value in 0..random.u32(0..40) {
                let part = PartId::new(random.u8(0..12).to_string());
                match random.u8(0..5) {
                    0 => assert_eq!(ours.remove(&part), map.remove(&part)),
                    1 => assert_eq!(ours.or_insert_with(&part, || value), map.entry(part.clone()).or_insert(value)),
                    2 => {
                        let more = [(part.clone(), value), (part.clone(), value + 1)];
                        ours.extend(more.clone());
                        map.extend(more);
                    }
                    _ => assert_eq!(ours.insert(part.clone(), value), map.insert(part.clone(), value)),
                }
                assert_eq!(ours.get(&part), map.get(&part));
                assert_eq!(ours.contains_key(part.as_str()), map.contains_key(part.as_str()));
                assert!(ours.iter().eq(&map), "seed {seed}: {ours:?}, {map:?}");
            }
            assert!(ours.keys().eq(map.keys()) && ours.values().eq(map.values()));
            assert_eq!((ours.len(), format!("{ours:?}")), (map.len(), format!("{map:?}")));
            let json = serde_json::to_string(&ours).unwrap();
            assert_eq!(json, serde_json::to_string(&map).unwrap());
            assert_eq!(serde_json::from_str::<PartMap<u32>>(&json).unwrap(), ours);
            assert_eq!(PartMap::from(map), ours);
        }
    }

    #[test]
    fn of_the_same_part_twice_the_last_counts() {
        let read: PartMap<u8> = serde_json::from_str(r#"{"b":1,"a":2,"b":3}"#).unwrap();
        assert_eq!(read, [("a".into(), 9), ("b".into(), 3), ("a".into(), 2)].into());
    }
}
