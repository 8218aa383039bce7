//! What is: one read of a target, and what can be told from it.

use crate::{
    Change, PartId, PartMap, Payload, ReleaseId, RunId, Timestamp, Weight, change::Capacity, change::Shape,
    change::Wish,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// How closely to look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Look {
    /// Enough for a poll: nobody lists a million keys every two seconds. A full look is asked for before a plan, before
    /// each write, and at the end.
    pub quick: bool,
    /// Our last write, so that the answer can say how far it is, and whether it still stands.
    pub mark: Option<Mark>,
}

impl Look {
    /// Everything.
    pub fn full() -> Self {
        Self::default()
    }
    /// As much as a poll needs.
    pub fn quick() -> Self {
        Self { quick: true, mark: None }
    }
    /// With our last write.
    pub fn with_mark(mut self, mark: Option<Mark>) -> Self {
        self.mark = mark;
        self
    }
}

/// Our last write: the key is known before it, the handle only after it, and not if the answer was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mark {
    /// [`Work::key`](crate::Work::key) of the write.
    pub key: String,
    /// What the write answered.
    pub handle: Option<Handle>,
    /// What was to be changed: what a target needs to call a half-done migration of ours by its name.
    pub change: Option<Change>,
    /// How long ago the intent was journalled, time the run was not driven left out.
    pub age: Duration,
}

impl Mark {
    /// A write whose answer has not come.
    pub fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), handle: None, change: None, age: Duration::ZERO }
    }
    /// Somebody came after it: it was answered, so it has happened, and the platform is told to run another release than it
    /// set. For a target whose object does not carry the [key](Mark::key) any more, as before the write, too, it would not.
    ///
    /// ```
    /// # use rollback_core::{Change, Handle, Mark, Payload};
    /// # fn answer() -> Payload { serde_json::from_str(r#"{"schema": "shop/answer", "version": 1, "value": 4}"#).unwrap() }
    /// let mut mark = Mark::new("run-1/0.0");
    /// mark.change = Some(Change::release(&"all".into(), &"1".into()));
    /// assert!(!mark.was_undone(&"2".into()), "nobody knows whether it happened");
    /// mark.handle = Some(Handle(answer()));
    /// assert!(mark.was_undone(&"2".into()) && !mark.was_undone(&"1".into()));
    /// ```
    pub fn was_undone(&self, told: &ReleaseId) -> bool {
        self.handle.is_some() && self.change.as_ref().and_then(Change::sets).is_some_and(|set| set != told)
    }
}

/// What a platform calls a write that it accepted: a deployment id, a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle(pub Payload);

/// What compare-and-set needs, of the very read that was judged. Never journalled: a resumed run reads again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub Option<Payload>);

impl Token {
    /// There is nothing to compare with.
    pub fn none() -> Self {
        Self(None)
    }
    /// Reads what was stored.
    ///
    /// # Errors
    /// As [`Payload::read`]; [`Kind::Invalid`](crate::Kind::Invalid) where there is none.
    pub fn read<T: crate::Stored>(&self) -> crate::Result<T> {
        let payload = self.0.as_ref().ok_or_else(|| {
            crate::Error::new(crate::Kind::Invalid, "read the token").with_message("there is none").without_effect()
        })?;
        payload.read()
    }
}

/// Which object this is. The scope (cluster, account, host) never changes; the object only through
/// [`Applied::new_identity`](crate::Applied).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Cluster, account and region, daemon, host.
    pub scope: String,
    /// What tells the object from another one under the same name: a uid, an inode.
    pub object: Option<String>,
}

impl Identity {
    /// An object in a scope.
    pub fn new(scope: impl Into<String>, object: impl Into<String>) -> Self {
        Self { scope: scope.into(), object: Some(object.into()) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{} in {}", object, self.scope),
            None => f.write_str(&self.scope),
        }
    }
}

/// Has the platform finished with the last thing it was told?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// Yes.
    Yes,
    /// Wait.
    NotYet {
        /// What it is waiting for.
        why: String,
    },
    /// Waiting will not help: the image is gone, the quota is used up, the process crashes at every start.
    Never {
        /// Why not.
        why: String,
    },
}

/// What really runs, as against what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Running {
    /// This release and no other.
    Release(ReleaseId),
    /// Several at once, with how many instances of each.
    Mixed(BTreeMap<ReleaseId, u32>),
    /// Half applied, in a state with a name: a migration that stopped in the middle.
    Between {
        /// The release that is being left.
        from: ReleaseId,
        /// The release that is being reached.
        to: ReleaseId,
        /// What the platform calls this state.
        state: String,
    },
    /// Something that history does not know: a hand edit, a drift.
    Unknown {
        /// Tells one unknown from another.
        fingerprint: String,
        /// In words, where it has any.
        named: Option<String>,
    },
    /// Nothing runs.
    Nothing,
}

impl Running {
    /// Every release it speaks of.
    pub fn mentions(&self) -> Vec<&ReleaseId> {
        match self {
            Running::Release(release) => vec![release],
            Running::Mixed(all) => all.keys().collect(),
            Running::Between { from, to, .. } => vec![from, to],
            Running::Unknown { .. } | Running::Nothing => vec![],
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Running::Release(release) => write!(f, "{release}"),
            Running::Mixed(all) => {
                for (i, (release, n)) in all.iter().enumerate() {
                    write!(f, "{}{n} × {release}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Running::Between { from, to, state } if from == to => write!(f, "{to}, not confirmed ({state})"),
            Running::Between { from, to, state } => write!(f, "between {from} and {to} ({state})"),
            Running::Unknown { fingerprint, named } => {
                write!(f, "unknown ({})", named.as_deref().unwrap_or(fingerprint))
            }
            Running::Nothing => f.write_str("nothing"),
        }
    }
}

/// One part of a target, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartState {
    /// What it was *told* to run.
    pub wanted: Option<ReleaseId>,
    /// What really runs.
    pub running: Running,
    /// Its share of the traffic; `None` where the platform has no such thing.
    pub weight: Option<Weight>,
    /// Instances it is told to have.
    pub capacity: Option<u32>,
    /// Instances that can serve.
    pub ready: Option<u32>,
    /// It has no instances because a rollback took them all away, to start them anew, and has not done so yet: how many there
    /// were. `None` where that is not so, or where the target does not remember it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts_to: Option<u32>,
    /// Whether the platform has finished with it.
    pub settled: Settled,
    /// Where a health check reaches this very part: `127.0.0.1:8080`.
    pub addresses: Vec<String>,
}

impl PartState {
    /// A settled part without weights and counts.
    pub fn new(wanted: Option<ReleaseId>, running: Running) -> Self {
        Self {
            wanted,
            running,
            weight: None,
            capacity: None,
            ready: None,
            restarts_to: None,
            settled: Settled::Yes,
            addresses: vec![],
        }
    }
    /// A settled part that runs what it was told to.
    pub fn of(release: impl Into<ReleaseId>) -> Self {
        let release = release.into();
        Self::new(Some(release.clone()), Running::Release(release))
    }
    /// Its share of the traffic.
    pub fn with_weight(mut self, weight: Weight) -> Self {
        self.weight = Some(weight);
        self
    }
    /// Instances wanted and ready.
    pub fn with_capacity(mut self, capacity: u32, ready: u32) -> Self {
        self.capacity = Some(capacity);
        self.ready = Some(ready);
        self
    }
    /// So many instances were there before a restart took them away that has not ended.
    pub fn with_restarts_to(mut self, count: Option<u32>) -> Self {
        self.restarts_to = count;
        self
    }
    /// Whether the platform has finished with it.
    pub fn with_settled(mut self, settled: Settled) -> Self {
        self.settled = settled;
        self
    }
    /// Where a health check reaches it.
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = String>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }
    /// It runs just this release, and was told nothing else.
    pub fn runs(&self, release: &ReleaseId) -> bool {
        matches!(&self.running, Running::Release(r) if r == release)
            && self.wanted.as_ref().is_none_or(|w| w == release)
    }
    /// It gets traffic, as far as can be told.
    pub fn serves(&self) -> bool {
        self.weight != Some(Weight::NONE) && self.running != Running::Nothing && self.capacity != Some(0)
    }
}

/// A deployment that the platform is still carrying out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InFlight {
    /// The release it leaves.
    pub from: Option<ReleaseId>,
    /// The release it brings.
    pub to: Option<ReleaseId>,
    /// It can be aborted *now*, and would land there.
    pub abort: Option<Landing>,
    /// Which part it is about, where a target has several and the platform says. Default: not said, so it may be any.
    pub part: Option<PartId>,
    /// What the platform calls it.
    pub handle: Payload,
}

impl InFlight {
    /// A deployment that cannot be aborted.
    pub fn new(handle: Payload) -> Self {
        Self { from: None, to: None, abort: None, part: None, handle }
    }
    /// What it leaves and what it brings.
    pub fn with_releases(mut self, from: Option<ReleaseId>, to: Option<ReleaseId>) -> Self {
        self.from = from;
        self.to = to;
        self
    }
    /// Which part it is about.
    pub fn with_part(mut self, part: impl Into<PartId>) -> Self {
        self.part = Some(part.into());
        self
    }
    /// It may be about this part.
    pub(crate) fn is_about(&self, part: &PartId) -> bool {
        self.part.as_ref().is_none_or(|about| about == part)
    }
    /// It can be aborted.
    pub fn with_abort(mut self, landing: Landing) -> Self {
        self.abort = Some(landing);
        self
    }
}

/// Where the platform lands when it is told to abort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Landing {
    /// It says so.
    On(ReleaseId),
    /// It does not say.
    Unsaid,
}

/// What became of the write that [`Look::mark`] names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ours {
    /// No mark was given.
    NotAsked,
    /// It is young, and reads may not show it yet.
    Pending,
    /// It is being carried out.
    Current,
    /// It is done, and nobody came after.
    Complete,
    /// Somebody wrote after it.
    Replaced {
        /// Who or what, as far as the platform knows. For a write that a rollback has marked, its [key](crate::Work::key): one
        /// of the same run is ours, and late.
        by: String,
    },
    /// The platform has no way to tell; the engine compares releases instead.
    CannotTell,
}

/// What a rollback leaves on its target, so that the next one does not walk on: an annotation, a label, a tag, a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The run that left it.
    pub run: RunId,
    /// The release that was left.
    pub left: ReleaseId,
    /// The release that was to be reached.
    pub reached: ReleaseId,
    /// When.
    pub at: Timestamp,
}

/// One read of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Observation {
    /// Which object was read.
    pub identity: Identity,
    /// Its parts. Not empty.
    pub parts: PartMap<PartState>,
    /// A deployment under way, ours or not.
    pub in_flight: Option<InFlight>,
    /// What became of our last write.
    pub ours: Ours,
    /// How much of a long write is done.
    pub progress: Option<Weight>,
    /// For the write that this read is judged for.
    pub token: Token,
    /// Who else writes here: `argo-cd:checkout`, `hpa:checkout`.
    pub owners: Vec<String>,
    /// What the last rollback left here, where the platform can hold it.
    pub trace: Option<Trace>,
}

impl Observation {
    /// A read with these parts.
    pub fn new(identity: Identity, parts: impl IntoIterator<Item = (PartId, PartState)>, token: Token) -> Self {
        Self {
            identity,
            parts: parts.into_iter().collect(),
            in_flight: None,
            ours: Ours::CannotTell,
            progress: None,
            token,
            owners: vec![],
            trace: None,
        }
    }
    /// A read of a target with one part, which is called `all`.
    pub fn of_one(identity: Identity, part: PartState, token: Token) -> Self {
        Self::new(identity, [(PartId::from("all"), part)], token)
    }
    /// A deployment under way.
    pub fn with_in_flight(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }
    /// What became of our last write.
    pub fn with_ours(mut self, ours: Ours) -> Self {
        self.ours = ours;
        self
    }
    /// How much of a long write is done.
    pub fn with_progress(mut self, done: u64, of: u64) -> Self {
        self.progress = Some(Weight::ratio(done, of));
        self
    }
    /// Who else writes here.
    pub fn with_owners(mut self, owners: impl IntoIterator<Item = String>) -> Self {
        self.owners = owners.into_iter().collect();
        self
    }
    /// What the last rollback left here.
    pub fn with_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }
    /// The parts that get traffic.
    pub fn serving(&self) -> impl Iterator<Item = (&PartId, &PartState)> {
        self.parts.iter().filter(|(_, part)| part.serves())
    }
    /// Releases, weights and capacities, as they are.
    pub fn shape(&self) -> Shape {
        let wish = |part: &PartState| Wish {
            release: match &part.running {
                Running::Release(release) => Some(release.clone()),
                _ => None,
            },
            weight: part.weight,
            capacity: part.capacity.map(Capacity::Exactly),
        };
        Shape(self.parts.iter().map(|(id, part)| (id.clone(), wish(part))).collect())
    }
    /// Everything that was there, so that later it can be told what is neither that nor ours.
    pub fn found(&self) -> Found {
        let coming = |id| {
            let flights = self.in_flight.iter().filter(move |flight| flight.is_about(id));
            flights.flat_map(|flight| [&flight.from, &flight.to]).flatten()
        };
        Found(
            self.parts
                .iter()
                .map(|(id, part)| {
                    let told = part.wanted.iter().chain(coming(id)).cloned().map(Running::Release);
                    (id.clone(), [part.running.clone()].into_iter().chain(told).collect())
                })
                .collect(),
        )
    }
    /// Someone else's hand: a part that shows what neither was found at the start nor a change of this run (begun, done
    /// or not) gave it. A half-done change of ours is never foreign; a hand edit always is.
    pub fn foreign(&self, found: &Found, begun: &[Change]) -> Option<(PartId, Running)> {
        // Once, and not for each part: a rollback of many steps has begun as many changes as there are parts.
        let mut given: BTreeMap<&PartId, BTreeSet<&ReleaseId>> = BTreeMap::new();
        let mut landings: BTreeSet<&ReleaseId> = BTreeSet::new();
        let mut never = None;
        for change in begun {
            match change {
                Change::Reach(shape) => {
                    for (id, wish) in &shape.0 {
                        given.entry(id).or_default().extend(&wish.release);
                    }
                }
                Change::Abort { expect: Landing::On(release), .. } => {
                    landings.insert(release);
                }
                // It did not say where it would land: anything but the suspect may be its doing.
                Change::Abort { expect: Landing::Unsaid, never: suspect } => never = Some(suspect),
                Change::Halt | Change::Verb { .. } => {}
            }
        }
        let stranger = |(id, part): (&PartId, &PartState)| {
            let here = found.0.get(id).map_or(&[][..], |all| all);
            let mut allowed: BTreeSet<&ReleaseId> = here.iter().flat_map(Running::mentions).collect();
            allowed.extend(&landings);
            if let Some(given) = given.get(id) {
                allowed.extend(given);
                // A part that a change of ours made without naming a release (a release that is a part) brings its own along.
                if here.is_empty() && given.is_empty() {
                    allowed.extend(&part.wanted);
                }
            }
            let ours = |release: &ReleaseId| allowed.contains(release) || never.is_some_and(|n| n != release);
            // What it was told says more of whose hand it is than the mix on the way there.
            let told = part.wanted.as_ref().filter(|told| !ours(told)).map(|told| Running::Release(told.clone()));
            let runs = match &part.running {
                unknown @ Running::Unknown { .. } => here.contains(unknown),
                other => other.mentions().into_iter().all(ours),
            };
            Some((id.clone(), told.or_else(|| (!runs).then(|| part.running.clone()))?))
        };
        let hand = self.parts.iter().find_map(stranger);
        hand.or_else(|| self.foreign_flight(found, begun))
    }

    /// A deployment under way that brings a release which nobody had before, and which is not ours.
    fn foreign_flight(&self, found: &Found, begun: &[Change]) -> Option<(PartId, Running)> {
        let flight = self.in_flight.as_ref()?;
        let to = flight.to.as_ref()?;
        let here = found.0.iter().filter(|(id, _)| flight.is_about(id)).flat_map(|(_, all)| all);
        let there = here.into_iter().any(|running| running.mentions().contains(&to));
        let ours = begun.iter().any(|change| match change {
            Change::Reach(shape) => {
                let mut wishes = shape.0.iter().filter(|(id, _)| flight.is_about(id));
                wishes.any(|(_, wish)| wish.release.as_ref() == Some(to))
            }
            Change::Abort { expect: Landing::On(release), .. } => release == to,
            Change::Abort { expect: Landing::Unsaid, never } => never != to,
            Change::Halt | Change::Verb { .. } => false,
        });
        let part = flight.part.as_ref().or_else(|| self.parts.keys().next())?.clone();
        (!there && !ours).then(|| (part, Running::Release(to.clone())))
    }
}

/// What each part was running, was told to run, or was about to, when the run began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Found(pub PartMap<Vec<Running>>);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Stored;

    #[derive(Serialize, Deserialize)]
    struct Note;
    impl Stored for Note {
        const NAME: &'static str = "test/note";
        const VERSION: u32 = 1;
    }

    fn now(parts: &[(&str, PartState)]) -> Observation {
        let parts = parts.iter().map(|(id, part)| (PartId::from(*id), part.clone()));
        Observation::new(Identity::new("s", "o"), parts, Token::none())
    }
    fn told(wanted: &str, running: Running) -> PartState {
        PartState::new(Some(wanted.into()), running)
    }
    fn mixed(releases: &[&str]) -> Running {
        Running::Mixed(releases.iter().map(|release| ((*release).into(), 1)).collect())
    }
    fn unknown(fingerprint: &str) -> Running {
        Running::Unknown { fingerprint: fingerprint.into(), named: None }
    }

    #[test]
    fn ours_or_someone_elses() {
        let bad = now(&[("a", PartState::of("bad")), ("b", PartState::of("old"))]);
        let drifted = now(&[("a", told("bad", unknown("f"))), ("b", PartState::of("old"))]);
        let a = |part: PartState| now(&[("a", part), ("b", PartState::of("old"))]);
        let to_good = Change::release(&"a".into(), &"good".into());
        let abort = |expect| Change::Abort { expect, never: "bad".into() };
        let between = Running::Between { from: "bad".into(), to: "good".into(), state: "half".into() };
        // (what, as found, begun, as seen, whose part if it is foreign)
        for (what, found, begun, seen, foreign) in [
            ("as it was", &bad, None, bad.clone(), None),
            ("half way", &bad, Some(&to_good), a(told("good", mixed(&["bad", "good"]))), None),
            ("half way, nothing begun", &bad, None, a(told("good", mixed(&["bad", "good"]))), Some("a")),
            ("a migration half way", &bad, Some(&to_good), a(told("good", between)), None),
            ("nothing runs for a moment", &bad, Some(&to_good), a(told("good", Running::Nothing)), None),
            ("a newer one runs", &bad, Some(&to_good), a(PartState::of("newer")), Some("a")),
            ("a newer one is told", &bad, Some(&to_good), a(told("newer", Running::Release("good".into()))), Some("a")),
            ("a newer one is in the mix", &bad, Some(&to_good), a(told("good", mixed(&["good", "newer"]))), Some("a")),
            ("ours, in another part", &bad, Some(&to_good), now(&[("b", PartState::of("good"))]), Some("b")),
            ("a hand edit", &bad, Some(&to_good), a(told("good", unknown("g"))), Some("a")),
            ("the drift that was there", &drifted, Some(&to_good), a(told("good", unknown("f"))), None),
            ("another drift", &drifted, Some(&to_good), a(told("good", unknown("g"))), Some("a")),
            ("landed where it said", &bad, Some(&abort(Landing::On("good".into()))), a(PartState::of("good")), None),
            ("landed elsewhere", &bad, Some(&abort(Landing::On("good".into()))), a(PartState::of("older")), Some("a")),
            ("landed, unsaid where", &bad, Some(&abort(Landing::Unsaid)), a(PartState::of("older")), None),
            ("a new part", &bad, Some(&to_good), now(&[("z", PartState::of("newer"))]), Some("z")),
        ] {
            let begun: Vec<Change> = begun.into_iter().cloned().collect();
            let whose = seen.foreign(&found.found(), &begun).map(|(part, _)| part);
            assert_eq!(whose.as_ref().map(PartId::as_str), foreign, "{what}");
        }
    }

    #[test]
    fn a_part_that_our_change_made_brings_its_own_release() {
        let found = now(&[("42", PartState::of("42"))]).found();
        let seen = now(&[("42", PartState::of("42")), ("41", PartState::of("41"))]);
        let shift = Change::traffic([("41".into(), Weight::ALL), ("42".into(), Weight::NONE)]);
        assert_eq!(seen.foreign(&found, std::slice::from_ref(&shift)), None);
        assert_eq!(seen.foreign(&found, &[]).unwrap().0, "41");
    }

    #[test]
    fn what_was_coming_is_not_foreign_when_it_comes() {
        let flight = |to: &str| InFlight::new(Payload::of(&Note).unwrap()).with_releases(None, Some(to.into()));
        let found = now(&[("a", PartState::of("good"))]).with_in_flight(flight("bad")).found();
        assert_eq!(now(&[("a", told("bad", mixed(&["good", "bad"])))]).foreign(&found, &[]), None);
        let later = now(&[("a", PartState::of("good"))]);
        assert_eq!(later.clone().with_in_flight(flight("bad")).foreign(&found, &[]), None);
        let newer = later.with_in_flight(flight("newer"));
        assert_eq!(newer.foreign(&found, &[]).unwrap().1, Running::Release("newer".into()));
        let ours = [Change::release(&"a".into(), &"newer".into())];
        assert_eq!(newer.foreign(&found, &ours), None);
    }

    #[test]
    fn what_is_in_flight_on_one_part_is_foreign_on_another() {
        let flight = |part: &str, to: &str| {
            InFlight::new(Payload::of(&Note).unwrap()).with_releases(None, Some(to.into())).with_part(part)
        };
        let both = || now(&[("a", PartState::of("good")), ("b", PartState::of("old"))]);
        let found = both().with_in_flight(flight("a", "bad")).found();
        let bad = |part: &str| {
            let mut seen = both();
            seen.parts.insert(part.into(), PartState::of("bad"));
            seen
        };
        assert_eq!(bad("a").foreign(&found, &[]), None, "what was coming has come");
        assert_eq!(bad("b").foreign(&found, &[]).unwrap().0, "b", "nothing was coming there");
        assert_eq!(both().with_in_flight(flight("a", "bad")).foreign(&found, &[]), None);
        let (part, what) = both().with_in_flight(flight("b", "bad")).foreign(&found, &[]).unwrap();
        assert_eq!((part.as_str(), what), ("b", Running::Release("bad".into())));
        let ours = [Change::release(&"b".into(), &"bad".into())];
        assert_eq!(both().with_in_flight(flight("b", "bad")).foreign(&found, &ours), None);
        let elsewhere = [Change::release(&"a".into(), &"bad".into())];
        assert_eq!(both().with_in_flight(flight("b", "bad")).foreign(&found, &elsewhere).unwrap().0, "b");
    }

    /// Where a platform gives a new number to an old release, the id by content is the same, and nothing is foreign.
    #[test]
    fn a_number_is_no_id() {
        let found = now(&[("a", PartState::of("sha256:bad"))]).found();
        let begun = [Change::release(&"a".into(), &"sha256:good".into())];
        assert_eq!(now(&[("a", PartState::of("sha256:good"))]).foreign(&found, &begun), None);
    }

    #[test]
    fn who_serves() {
        let part = PartState::of("1");
        for (what, part, serves) in [
            ("nothing is said", part.clone(), true),
            ("no traffic", part.clone().with_weight(Weight::NONE), false),
            ("some traffic", part.clone().with_weight(Weight::basis_points(1)), true),
            ("no instances", part.clone().with_capacity(0, 0), false),
            ("none ready", part.with_capacity(2, 0), true),
            ("nothing runs", told("1", Running::Nothing), false),
        ] {
            assert_eq!(part.serves(), serves, "{what}");
        }
    }
}
