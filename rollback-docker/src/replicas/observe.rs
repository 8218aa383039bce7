//! What runs, asked of the containers.

use super::{
    Replicas,
    place::{Place, places},
};
use crate::{
    image::{self, Runs},
    member::{Member, State},
    release::of_image,
};
use rollback_core::{
    Identity, Look, Observation, Ours, PartState, Payload, Release, ReleaseId, Result, Running, Settled, Stored,
    Timestamp, Token,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What compare-and-set needs: each container, its image and whether it runs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen(BTreeMap<String, (String, bool)>);

impl Stored for Seen {
    const NAME: &'static str = "docker/containers-seen";
    const VERSION: u32 = 1;
}

impl Seen {
    pub(super) fn of(members: &[Member]) -> Self {
        Self(members.iter().map(|m| (m.id.clone(), (m.image.clone(), m.runs()))).collect())
    }
}

impl Replicas {
    pub(crate) async fn look(&self, look: &Look) -> Result<Observation> {
        let members = self.present().await.map_err(|e| e.with_target(&self.id))?;
        let places = places(&members);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ready = places.values().filter(|place| place.is_ready()).count();
        let mut addresses: Vec<String> = members.iter().filter(|m| m.is_ready()).flat_map(Member::addresses).collect();
        addresses.dedup();
        let mut part =
            PartState::new(told(&places), running(&places)).with_settled(settled(&places)).with_addresses(addresses);
        // Without a container nobody says how many there are to be.
        if !places.is_empty() {
            part = part.with_capacity(count(places.len()), count(ready));
        }
        let trace = members.iter().rev().find(|m| m.marks.key.is_some()).and_then(|m| m.marks.trace.clone());
        let token = Token(Some(Payload::of(&Seen::of(&members))?));
        Ok(Observation::of_one(Identity::new(self.engine.scope(), self.object()), part, token)
            .with_ours(ours(look, &members))
            .with_trace(trace))
    }

    pub(crate) async fn releases(&self, limit: usize) -> Result<Vec<Release>> {
        let members = self.present().await.map_err(|e| e.with_target(&self.id))?;
        let names: Vec<String> = members.iter().map(Member::image_name).collect();
        let built_for = match &self.members {
            super::Members::Compose { project, service } => {
                vec![format!("{}={project}", super::PROJECT), format!("{}={service}", super::SERVICE)]
            }
            super::Members::Named(_) => vec![],
        };
        let all = image::releases(&self.engine, &self.pins_at(), &names, &built_for, &runs(&places(&members))).await;
        let mut all = all.map_err(|e| e.with_target(&self.id))?;
        if let Some(archive) = self.archive() {
            for note in archive.notes().map_err(|e| e.with_target(&self.id))? {
                match all.iter_mut().find(|release| release.id == of_image(&note.image)) {
                    Some(there) if there.available && !there.undeployed => {}
                    // Its pin is lost, and the image is not.
                    Some(there) if there.available => {
                        image::call(there, &note.label);
                        (there.made_at, there.undeployed) = (Some(note.at), false);
                    }
                    Some(gone) => *gone = note.release(),
                    None => all.push(note.release()),
                }
            }
            all = image::sorted(all);
        }
        all.truncate(limit);
        Ok(all)
    }
}

/// What has a place, or serves in one that is empty. A candidate that was never more than that was not deployed.
fn runs(places: &BTreeMap<&str, Place<'_>>) -> Vec<Runs> {
    let mut all: Vec<Runs> = vec![];
    for member in places.values().filter_map(|place| place.sitting.or(place.candidate.filter(|m| m.runs()))) {
        let (since, by_rollback) = (since(member), member.marks.key.is_some());
        match all.iter_mut().find(|runs| runs.image == member.image) {
            Some(runs) => {
                runs.since = runs.since.max(since);
                runs.by_rollback &= by_rollback;
            }
            None => all.push(Runs { image: member.image.clone(), since, by_rollback }),
        }
    }
    all
}

/// Since when a container is there.
pub(super) fn since(member: &Member) -> Timestamp {
    Timestamp(u64::try_from(member.created.as_millisecond()).unwrap_or_default())
}

/// A candidate says what its place was told last; else the newest container does.
fn told(places: &BTreeMap<&str, Place<'_>>) -> Option<ReleaseId> {
    let coming = places.values().filter_map(|place| place.candidate).max_by_key(|m| m.created);
    let newest = || places.values().filter_map(|place| place.sitting).max_by_key(|m| m.created);
    coming.or_else(newest).map(|m| of_image(&m.image))
}

fn running(places: &BTreeMap<&str, Place<'_>>) -> Running {
    let mut all: BTreeMap<ReleaseId, u32> = BTreeMap::new();
    for member in places.values().flat_map(|place| place.each()).filter(|m| m.runs()) {
        *all.entry(of_image(&member.image)).or_default() += 1;
    }
    // Its place is empty: whoever made it has more to do, and may be gone.
    let alone = places.values().filter(|place| place.sitting.is_none()).find_map(|place| place.candidate);
    if let Some(alone) = alone
        && let release = of_image(&alone.image)
        && all.keys().all(|runs| *runs == release)
    {
        let state = format!("{}, and has not taken its place yet", alone.describe());
        return Running::Between { from: release.clone(), to: release, state };
    }
    match all.len() {
        0 => Running::Nothing,
        1 => all.into_keys().next().map_or(Running::Nothing, Running::Release),
        _ => Running::Mixed(all),
    }
}

/// How often a container may be restarted before it is said to crash at every start.
pub(super) const RESTARTS: i64 = 3;

fn settled(places: &BTreeMap<&str, Place<'_>>) -> Settled {
    let mut wait = None;
    for place in places.values() {
        if let Some(candidate) = place.candidate {
            wait = Some(format!("{} is to take over: {}", candidate.name, candidate.describe()));
            continue;
        }
        let Some(sitting) = place.sitting else { continue };
        match sitting.state {
            State::Up => {}
            State::Starting | State::Created => wait = Some(sitting.describe()),
            State::Restarting if sitting.restarts < RESTARTS => wait = Some(sitting.describe()),
            // An engine that is restarted starts by itself what it should.
            State::Unhealthy | State::Restarting | State::Paused | State::Exited(_) => {
                return Settled::Never { why: sitting.describe() };
            }
        }
    }
    wait.map_or(Settled::Yes, |why| Settled::NotYet { why })
}

fn ours(look: &Look, members: &[Member]) -> Ours {
    let Some(mark) = &look.mark else { return Ours::NotAsked };
    let is_ours = |m: &&Member| m.marks.key.as_ref() == Some(&mark.key);
    let Some(last) = members.iter().filter(is_ours).map(|m| m.created).max() else {
        // It was answered, and none of what it made is there: somebody has put something else in its place.
        let newest = members.iter().max_by_key(|m| m.created);
        return match newest.filter(|newest| mark.was_undone(&of_image(&newest.image))) {
            Some(newest) => Ours::Replaced { by: format!("{}, which was made in its place", newest.name) },
            None => Ours::CannotTell,
        };
    };
    if let Some(after) = members.iter().find(|m| !is_ours(m) && m.created > last) {
        return Ours::Replaced { by: format!("{}, which was made later", after.name) };
    }
    if members.iter().any(|m| m.candidate_for().is_some()) {
        return Ours::Current;
    }
    if members.iter().all(|m| is_ours(&m)) { Ours::Complete } else { Ours::CannotTell }
}
