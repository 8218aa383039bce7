//! A place of a target: the container that has its name, and the one that is to take it over.

use crate::member::Member;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place<'a> {
    /// The one that has the name.
    pub(super) sitting: Option<&'a Member>,
    /// The one that a rollback made to take it over.
    pub(super) candidate: Option<&'a Member>,
}

impl<'a> Place<'a> {
    /// Both that are there.
    pub(super) fn each(self) -> impl Iterator<Item = &'a Member> {
        [self.candidate, self.sitting].into_iter().flatten()
    }
    /// One that can serve.
    pub(super) fn is_ready(self) -> bool {
        self.each().any(Member::is_ready)
    }
}

pub(super) fn places(members: &[Member]) -> BTreeMap<&str, Place<'_>> {
    let mut places: BTreeMap<&str, Place<'_>> = BTreeMap::new();
    for member in members {
        let place = places.entry(member.place()).or_default();
        if member.candidate_for().is_some() {
            place.candidate = Some(member);
        } else {
            place.sitting = Some(member);
        }
    }
    places
}
