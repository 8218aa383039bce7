//! Which release to go back to: a pure function, with its reason.

use crate::{
    LedgerEntry, Observation, PartState, Release, ReleaseId, RunId, RunSummary, Running, Standing, Timestamp, Trace,
    Weight,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the release to go back to is chosen. Never the suspect; never one known bad, unless named and overridden.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Choose {
    /// The last one verified healthy; refused if there is none.
    #[default]
    Verified,
    /// The last one verified healthy; else the one before the suspect, labelled unverified.
    VerifiedOrPrevious,
    /// The one before the suspect, labelled unverified if it is.
    Previous,
    /// The n-th before the suspect, from 1, those known bad not counted.
    Nth(usize),
    /// This one: by its id, or by what else it is called (its label, a tag, the beginning of a digest), where no other one is
    /// called so. What serves is then to blame, also where a rollback has just brought the target there: a name is no guess.
    Exactly(ReleaseId),
    /// The newest one made before the suspect and not after this moment.
    AsOf(Timestamp),
}

impl Choose {
    /// The last one verified healthy.
    pub fn verified() -> Self {
        Choose::Verified
    }
    /// The caller's word that, without a verified one, the one before the suspect will do.
    pub fn or_previous(self) -> Self {
        match self {
            Choose::Verified => Choose::VerifiedOrPrevious,
            other => other,
        }
    }
    /// The one before the suspect.
    pub fn previous() -> Self {
        Choose::Previous
    }
    /// The n-th before the suspect, from 1.
    pub fn nth(n: usize) -> Self {
        Choose::Nth(n)
    }
    /// This one.
    pub fn exactly(release: impl Into<ReleaseId>) -> Self {
        Choose::Exactly(release.into())
    }
    /// The newest one made not after this moment.
    pub fn as_of(at: Timestamp) -> Self {
        Choose::AsOf(at)
    }
}

/// All that a choice is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The platform's history, newest first.
    pub history: Vec<Release>,
    /// What is known of releases.
    pub ledger: Vec<LedgerEntry>,
    /// What the last rollback left beside, where the target itself could not hold it, or no journal took it.
    pub trace: Option<Trace>,
    /// The target keeps the trace itself ([`Capabilities::keeps_trace`](crate::Capabilities::keeps_trace)): where it shows
    /// none, somebody has deployed since the last rollback.
    pub target_keeps_trace: bool,
    /// Where the run was going that this one took over, if that one had begun to write.
    pub taken_over: Option<Trace>,
    /// Where the last run of the target was going, if it got stuck after it had begun to write.
    pub stuck: Option<Trace>,
    /// When rollbacks of this target began to write, other than this run.
    pub recent: Vec<Timestamp>,
    /// For a dry run: the run of this target that has not ended.
    pub unfinished: Option<Box<RunSummary>>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Chosen {
    /// The release that is left.
    pub suspect: ReleaseId,
    /// The same as history has it, where that says more than its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Box<Release>>,
    /// The release that is reached.
    pub wanted: Release,
    /// Why this one: `last verified healthy`, `previous, unverified`.
    pub why: String,
    /// It was not verified healthy.
    pub unverified: bool,
    /// It is known bad, and gone to all the same, for the reason given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub known_bad: bool,
    /// The run whose trace was found then. A trace of another one that shows later was left by somebody who broke the
    /// glass meanwhile, and whom no journal kept out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<RunId>,
}

impl Chosen {
    /// This one, named.
    pub fn new(suspect: impl Into<ReleaseId>, wanted: Release, why: impl Into<String>) -> Self {
        let (suspect, why) = (suspect.into(), why.into());
        Self { suspect, left: None, wanted, why, unverified: true, known_bad: false, trace: None }
    }
    /// The release that is left, as far as it is known.
    pub fn leaves(&self) -> Release {
        self.left.as_deref().cloned().unwrap_or_else(|| Release::new(&self.suspect))
    }
}

/// Nothing could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoChoice {
    /// Why not.
    pub why: String,
    /// What would lift it.
    pub lift: String,
}

impl fmt::Display for NoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
impl std::error::Error for NoChoice {}

impl NoChoice {
    fn new(why: impl Into<String>, lift: impl Into<String>) -> Self {
        Self { why: why.into(), lift: lift.into() }
    }
}

impl Past {
    fn standing(&self, release: &ReleaseId) -> Option<Standing> {
        self.ledger.iter().find(|e| e.release.id == *release).map(|e| e.standing)
    }

    /// With the releases that only the ledger knows as deployed, in the order of their times behind those that the platform
    /// knows as such: an import, or a history that the platform has pruned. What is merely there comes last. What the ledger
    /// calls a release is one more name of it.
    pub fn with_ledger_releases(mut self) -> Self {
        let (mut known, mut there): (Vec<Release>, Vec<Release>) =
            std::mem::take(&mut self.history).into_iter().partition(|r| !r.undeployed);
        let deployed = |e: &&LedgerEntry| !e.release.undeployed || e.standing == Standing::Verified;
        let mut missing: Vec<(Timestamp, Release)> = vec![];
        for entry in self.ledger.iter().filter(deployed).filter(|e| known.iter().all(|r| r.id != e.release.id)) {
            // What the platform says of it is newer: whether it is still there.
            let found = there.iter().position(|r| r.id == entry.release.id).map(|at| there.remove(at));
            let mut release = Release { undeployed: false, ..entry.release.clone() };
            if let Some(found) = found {
                release.available = found.available;
                release.take_names_of(&found);
            }
            missing.push((entry.release.made_at.unwrap_or(entry.at), release));
        }
        missing.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        known.extend(missing.into_iter().map(|(_, release)| release));
        known.extend(there);
        for release in &mut known {
            if let Some(entry) = self.ledger.iter().find(|entry| entry.release.id == release.id) {
                release.take_names_of(&entry.release);
            }
        }
        self.history = known;
        self
    }

    /// A release as people know it; the bare id of one that nobody knows.
    fn called(&self, id: &ReleaseId) -> String {
        let known = self.history.iter().chain(self.ledger.iter().map(|entry| &entry.release));
        known.into_iter().find(|release| release.id == *id).map_or_else(|| id.to_string(), ToString::to_string)
    }
    /// What there is to choose from, as a refusal lists it.
    pub(crate) fn newest(&self, suspect: Option<&ReleaseId>) -> String {
        let deployed = self.history.iter().filter(|r| !r.undeployed && Some(&r.id) != suspect);
        format!("the newest are {}{}", list(deployed.take(SHOWN), false), self.merely_there(suspect))
    }

    /// The release that a caller means: by its id, its label or another name of it, or the beginning of a digest, six digits
    /// at least. `None` if nobody knows it.
    ///
    /// # Errors
    /// Where several are called so.
    pub fn named(&self, name: &ReleaseId) -> Result<Option<&Release>, NoChoice> {
        let all = || {
            let more = self.ledger.iter().map(|e| &e.release);
            self.history.iter().chain(more.filter(|r| self.history.iter().all(|known| known.id != r.id)))
        };
        if let Some(exactly) = all().find(|r| r.id == *name) {
            return Ok(Some(exactly));
        }
        let name = name.as_str();
        let digits = name.rsplit_once(':').map_or(name, |(_, digits)| digits);
        let is_digest = digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let begins = |r: &&Release| {
            let of_a_digest = r.id.digits().is_some_and(|id| id.starts_with(digits));
            is_digest && of_a_digest && (digits == name || r.id.as_str().starts_with(name))
        };
        let called = |r: &&Release| r.label == name || r.names.iter().any(|other| other == name);
        let mut found: Vec<&Release> = all().filter(called).collect();
        if found.is_empty() {
            found = all().filter(begins).collect();
        }
        match found[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(NoChoice::new(
                format!("{name} is what several releases are called: {}", list(found.into_iter(), true)),
                "name the one that is meant by its id",
            )),
        }
    }

    /// The run that, as far as the ledger knows, brought the target to this release, away from one that it blamed.
    fn noted(&self, reached: &ReleaseId) -> Option<Trace> {
        let brought = self.ledger.iter().find(|e| e.release.id == *reached && e.standing != Standing::Failed)?;
        let run = brought.run.as_ref()?;
        let blamed = |e: &&LedgerEntry| e.run.as_ref() == Some(run) && e.standing == Standing::Failed;
        let left = self.ledger.iter().find(blamed)?.release.id.clone();
        Some(Trace { run: run.clone(), left, reached: reached.clone(), at: brought.at })
    }

    /// A rollback that no journal took down left this release, and nothing good is known of it since.
    fn was_left(&self, release: &ReleaseId) -> bool {
        let good_since = |trace: &Trace| {
            let of = self.ledger.iter().find(|e| e.release.id == *release);
            of.is_some_and(|e| e.standing == Standing::Verified && e.at > trace.at)
        };
        self.trace.as_ref().is_some_and(|trace| trace.left == *release && !good_since(trace))
    }

    /// Which release is to blame: the named one; else the one in flight; else the newest that serves. Where a rollback has
    /// already brought the target to that one, or is bringing it there, only a named one will do, so that pressing twice
    /// does not walk on.
    ///
    /// # Errors
    /// When it cannot be told, with what would lift it.
    pub fn suspect(&self, named: Option<&ReleaseId>, now: &Observation) -> Result<ReleaseId, NoChoice> {
        if let Some(named) = named {
            return Ok(self.named(named)?.map_or_else(|| named.clone(), |release| release.id.clone()));
        }
        let suspect = self.blamed(now)?;
        match self.brought(&suspect, now) {
            None => Ok(suspect),
            Some(trace) => Err(NoChoice::new(
                format!(
                    "run {} already left {} for {} at {}: going further back from there would be a guess",
                    trace.run,
                    self.called(&trace.left),
                    self.called(&trace.reached),
                    trace.at
                ),
                format!(
                    "if {} is to be left too, name it as the suspect, or name the release to go to",
                    self.called(&suspect)
                ),
            )),
        }
    }

    /// Where the last run was going, if it got stuck and the target is still as it left it: pressed once more, that is gone
    /// on with.
    pub(crate) fn left_undone(&self, now: &Observation) -> Option<Trace> {
        let stuck = self.stuck.as_ref()?;
        let trace = self.brought(&self.blamed(now).ok()?, now)?;
        ((&trace.left, &trace.reached) == (&stuck.left, &stuck.reached)).then(|| stuck.clone())
    }

    /// The one in flight; else the newest that serves.
    pub(crate) fn blamed(&self, now: &Observation) -> Result<ReleaseId, NoChoice> {
        if let Some(to) = now.in_flight.as_ref().and_then(|f| f.to.as_ref()) {
            return Ok(to.clone());
        }
        let mut serving: Vec<&ReleaseId> = vec![];
        // A service that is down altogether is blamed on what it was told to run.
        let down = now.serving().next().is_none();
        let idle = |part: &PartState| {
            part.weight == Some(Weight::NONE) || (part.capacity == Some(0) && part.restarts_to.is_none())
        };
        for part in now.parts.values().filter(|part| part.serves() || (down && !idle(part))) {
            for release in part.wanted.iter().chain(part.running.mentions()) {
                if !serving.contains(&release) {
                    serving.push(release);
                }
            }
        }
        match serving[..] {
            [] => {
                let strange = now.parts.values().find(|part| matches!(part.running, Running::Unknown { .. }));
                let why = strange
                    .map_or("nothing serves".into(), |part| format!("no known release serves ({})", part.running));
                Err(NoChoice::new(format!("{why}, so it cannot be told which release is to blame"), "name the suspect"))
            }
            [only] => Ok(only.clone()),
            _ => match self.history.iter().find(|r| serving.contains(&&r.id)) {
                Some(newest) => Ok(newest.id.clone()),
                None => Err(NoChoice::new(
                    format!(
                        "several releases serve ({}), and history knows none of them",
                        serving.iter().map(|id| id.short()).collect::<Vec<_>>().join(", ")
                    ),
                    "name the suspect",
                )),
            },
        }
    }

    /// The rollback that brought the target to this release, or is bringing it there.
    fn brought(&self, release: &ReleaseId, now: &Observation) -> Option<Trace> {
        let noted = self.noted(release);
        let beside = self.trace.iter().chain(&noted).filter(|_| !self.target_keeps_trace);
        now.trace.iter().chain(beside).find(|trace| trace.reached == *release).cloned()
    }

    /// Chooses.
    ///
    /// # Errors
    /// When there is nothing to choose, with what would lift it.
    pub fn choose(&self, choose: &Choose, suspect: &ReleaseId, known_bad_will_do: bool) -> Result<Chosen, NoChoice> {
        let unverified = |r: &Release| self.standing(&r.id) != Some(Standing::Verified);
        let failed = |r: &Release| self.standing(&r.id) == Some(Standing::Failed) || self.was_left(&r.id);
        let bare = Release::new(suspect);
        let left = self.history.iter().find(|r| r.id == *suspect && **r != bare);
        let made = |r: &Release, why: &str| Chosen {
            left: left.cloned().map(Box::new),
            unverified: unverified(r),
            known_bad: failed(r),
            ..Chosen::new(
                suspect,
                r.clone(),
                if unverified(r) { format!("{why}, unverified") } else { format!("{why}, verified healthy") },
            )
        };
        let suspect_known = self.history.iter().any(|r| r.id == *suspect);
        let older = || {
            self.history
                .iter()
                .skip_while(|r| r.id != *suspect)
                .filter(|r| r.id != *suspect && r.available && !r.undeployed && !failed(r))
        };
        let verified = || {
            let at = |r: &Release| self.ledger.iter().find(|e| e.release.id == r.id).map(|e| e.at);
            self.history
                .iter()
                .filter(|r| r.id != *suspect && r.available && !r.undeployed && !failed(r) && !unverified(r))
                // Of several with the same time, the newest: `max_by_key` keeps the last.
                .rev()
                .max_by_key(|r| at(r))
                .map(|r| Chosen { why: "last verified healthy".into(), ..made(r, "") })
        };
        let need_suspect = || {
            if suspect_known {
                Ok(())
            } else {
                Err(NoChoice::new(
                    format!(
                        "history does not know the suspect {suspect}, so nothing comes before it; {}",
                        self.newest(Some(suspect))
                    ),
                    "blame a release that it knows, or name the release to go to",
                ))
            }
        };
        let previous = || {
            need_suspect()?;
            older().next().map(|r| made(r, "previous")).ok_or_else(|| {
                let known = self.history.iter().filter(|r| !r.undeployed).count();
                NoChoice::new(
                    format!(
                        "history has no usable release before {} ({known} known in all){}",
                        self.called(suspect),
                        self.merely_there(Some(suspect))
                    ),
                    "name the release to go to, or import releases made elsewhere; record each at its deploy, so that it is \
                     known after the platform has pruned it",
                )
            })
        };
        match choose {
            Choose::Verified => verified().ok_or_else(|| {
                NoChoice::new(
                    format!("no release but the suspect was ever verified healthy{}", self.merely_there(Some(suspect))),
                    "say that the previous one will do although nobody verified it, or name one",
                )
            }),
            Choose::VerifiedOrPrevious => verified().map_or_else(previous, Ok),
            Choose::Previous => previous(),
            Choose::Nth(n) => {
                need_suspect()?;
                older().nth(n.saturating_sub(1)).map(|r| made(r, &format!("number {n} before the suspect"))).ok_or_else(
                    || {
                        NoChoice::new(
                            format!(
                                "history has no {n} usable releases before {}{}",
                                self.called(suspect),
                                self.merely_there(Some(suspect))
                            ),
                            "a smaller number, or name one",
                        )
                    },
                )
            }
            Choose::AsOf(at) => {
                need_suspect()?;
                older()
                    .find(|r| r.made_at.is_some_and(|made_at| made_at <= *at))
                    .map(|r| made(r, &format!("as of {at}")))
                    .ok_or_else(|| {
                        NoChoice::new(
                            format!("history has no usable release as old as {at}{}", self.merely_there(Some(suspect))),
                            "another moment, or name one",
                        )
                    })
            }
            Choose::Exactly(name) => {
                let Some(release) = self.named(name)? else {
                    return Err(NoChoice::new(
                        format!("history does not know {name}; {}", self.newest(Some(suspect))),
                        "name one of those, by its id, its label or a tag",
                    ));
                };
                let id = &release.id;
                if id == suspect {
                    let why = format!("{release} is the suspect: what is blamed, or what serves already");
                    return Err(NoChoice::new(why, "name another release, or another suspect"));
                }
                if !release.available {
                    return Err(NoChoice::new(
                        format!("{} is known, but gone", release),
                        "make it available again, or name another",
                    ));
                }
                if failed(release) && !known_bad_will_do {
                    return Err(NoChoice::new(
                        format!("{} is known bad", release),
                        "another release; or a reason to go there all the same, and an approval",
                    ));
                }
                Ok(made(release, "named"))
            }
        }
    }
}

/// So many releases are named where one has to be chosen.
const SHOWN: usize = 5;

impl Past {
    /// What could be named, and is never chosen.
    fn merely_there(&self, suspect: Option<&ReleaseId>) -> String {
        let there = || self.history.iter().filter(|r| r.undeployed && r.available && Some(&r.id) != suspect);
        match there().count() {
            0 => String::new(),
            count => {
                let more = count.saturating_sub(SHOWN);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                let shown = list(there().take(SHOWN), true);
                format!("; there, though nobody is known to have deployed them: {shown}{more}")
            }
        }
    }
}

/// By what people call them; with `at`, also when each was made.
fn list<'a>(releases: impl Iterator<Item = &'a Release>, at: bool) -> String {
    let shown = |r: &Release| match r.made_at.filter(|_| at) {
        Some(at) => format!("{r}, made at {at}"),
        None => r.to_string(),
    };
    let all: Vec<String> = releases.map(shown).collect();
    if all.is_empty() { "none".into() } else { all.join(if at { "; " } else { ", " }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Identity, InFlight, PartId, Payload, Running, Stored, Token};

    #[derive(Serialize, Deserialize)]
    struct Note;
    impl Stored for Note {
        const NAME: &'static str = "test/note";
        const VERSION: u32 = 1;
    }

    /// Newest first: 5, 4, 3, 2, 1; each made at its number.
    fn past(ledger: &[(&str, Standing, u64)]) -> Past {
        let release = |id: &str| Release::new(id).with_made_at(Timestamp(id.parse().unwrap_or_default()));
        Past {
            history: ["5", "4", "3", "2", "1"].map(release).into(),
            ledger: ledger
                .iter()
                .map(|(id, s, at)| LedgerEntry::new(release(id), *s, Timestamp(*at), "test"))
                .collect(),
            ..Past::default()
        }
    }
    fn now(parts: &[(&str, PartState)]) -> Observation {
        let parts = parts.iter().map(|(id, part)| (PartId::from(*id), part.clone()));
        Observation::new(Identity::new("s", "o"), parts, Token::none())
    }
    fn trace(left: &str, reached: &str) -> Option<Trace> {
        Some(Trace { run: "r-1".into(), left: left.into(), reached: reached.into(), at: Timestamp(9) })
    }

    #[test]
    fn who_is_to_blame() {
        let weighed = |release: &str, percent| PartState::of(release).with_weight(Weight::percent(percent));
        let told = |release: &str, running| PartState::new(Some(release.into()), running);
        let mixed = Running::Mixed([("3".into(), 2), ("4".into(), 1)].into());
        let crashed = || told("5", Running::Nothing);
        for (what, now, expected) in [
            ("one", now(&[("all", PartState::of("4"))]), Ok("4")),
            ("half way through a canary", now(&[("stable", weighed("4", 90)), ("canary", weighed("5", 10))]), Ok("5")),
            ("the idle side is not asked", now(&[("blue", weighed("5", 0)), ("green", weighed("4", 100))]), Ok("4")),
            ("half way through a rollout", now(&[("all", told("4", mixed.clone()))]), Ok("4")),
            ("half way back already", now(&[("all", told("3", mixed))]), Ok("4")),
            ("told, and not begun", now(&[("all", told("5", Running::Release("4".into())))]), Ok("5")),
            ("down altogether", now(&[("all", crashed())]), Ok("5")),
            ("down, beside an idle side", now(&[("a", crashed()), ("b", weighed("3", 0))]), Ok("5")),
            ("scaled to nothing on purpose", now(&[("all", crashed().with_capacity(0, 0))]), Err("nothing serves")),
            ("strangers", now(&[("a", PartState::of("x")), ("b", PartState::of("y"))]), Err("history knows none")),
        ] {
            match (past(&[]).suspect(None, &now), expected) {
                (Ok(suspect), Ok(expected)) => assert_eq!(suspect, expected, "{what}"),
                (Err(none), Err(why)) => assert!(none.why.contains(why), "{what}: {none}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
            assert_eq!(past(&[]).suspect(Some(&"2".into()), &now).unwrap(), "2", "{what}: named");
        }
        let flight = InFlight::new(Payload::of(&Note).unwrap()).with_releases(Some("4".into()), Some("5".into()));
        let flying = now(&[("all", PartState::of("4"))]).with_in_flight(flight);
        assert_eq!(past(&[]).suspect(None, &flying).unwrap(), "5", "in flight");
    }

    #[test]
    fn pressed_twice_it_does_not_walk_on() {
        let at_four = now(&[("all", PartState::of("4"))]);
        let on_target = at_four.clone().with_trace(trace("5", "4"));
        let beside = Past { trace: trace("5", "4"), ..past(&[]) };
        for (past, now) in [(past(&[]), &on_target), (beside.clone(), &at_four)] {
            let none = past.suspect(None, now).unwrap_err();
            assert!(none.why.contains("run r-1 already left 5 for 4") && none.lift.contains("name it"), "{none:?}");
            assert_eq!(past.suspect(Some(&"4".into()), now).unwrap(), "4");
            assert_eq!(past.blamed(now).unwrap(), "4", "by who names where to go, which is no guess");
        }
        // The rollback is still under way: what it is bringing is not to blame.
        let flight = InFlight::new(Payload::of(&Note).unwrap()).with_releases(Some("5".into()), Some("4".into()));
        let flying = now(&[("all", PartState::of("5"))]).with_in_flight(flight);
        assert!(beside.suspect(None, &flying).unwrap_err().why.contains("already left 5 for 4"));
        // Someone deployed since: the trace says nothing of that.
        assert_eq!(beside.suspect(None, &now(&[("all", PartState::of("5"))])).unwrap(), "5");
    }

    #[test]
    fn where_the_target_keeps_the_trace_a_missing_one_is_a_new_beginning() {
        let at_four = now(&[("all", PartState::of("4"))]);
        let mut past = Past { trace: trace("5", "4"), target_keeps_trace: true, ..past(&[]) };
        assert_eq!(past.suspect(None, &at_four).unwrap(), "4", "somebody deployed 4 once more");
        assert!(past.suspect(None, &at_four.with_trace(trace("5", "4"))).is_err());
        past.target_keeps_trace = false;
        assert!(past.suspect(None, &now(&[("all", PartState::of("4"))])).is_err());
    }

    #[test]
    fn what_was_left_without_a_journal_is_known_bad_all_the_same() {
        let left = |ledger: &[(&str, Standing, u64)]| Past { trace: trace("4", "3"), ..past(ledger) };
        assert_eq!(left(&[]).choose(&Choose::previous(), &"5".into(), false).unwrap().wanted.id, "3");
        assert!(left(&[]).choose(&Choose::exactly("4"), &"5".into(), false).unwrap_err().why.contains("known bad"));
        let since = left(&[("4", Standing::Verified, 10)]);
        assert_eq!(since.choose(&Choose::previous(), &"5".into(), false).unwrap().wanted.id, "4");
        let before = left(&[("4", Standing::Verified, 8)]);
        assert_eq!(before.choose(&Choose::verified().or_previous(), &"5".into(), false).unwrap().wanted.id, "3");
    }

    #[test]
    fn which_release_is_chosen() {
        use Standing::{Failed, Seen, Verified};
        let v = Choose::verified;
        let ledger = [("2", Verified, 20), ("3", Failed, 30), ("1", Verified, 10)];
        for (what, choose, suspect, ledger, expected) in [
            ("last verified, not newest", v(), "5", &ledger[..], Ok(("2", false))),
            ("the suspect was verified once", v(), "2", &ledger[..], Ok(("1", false))),
            ("none verified", v(), "5", &[][..], Err("ever verified")),
            ("the suspect alone was verified", v(), "2", &ledger[..1], Err("ever verified")),
            ("else the previous", v().or_previous(), "5", &[][..], Ok(("4", true))),
            ("verified before previous", v().or_previous(), "5", &ledger[..], Ok(("2", false))),
            ("previous, known bad left out", Choose::previous(), "4", &ledger[..], Ok(("2", false))),
            ("seen is not verified", Choose::previous(), "5", &[("4", Seen, 9)][..], Ok(("4", true))),
            ("nothing before", Choose::previous(), "1", &[][..], Err("no usable release before 1")),
            ("an unknown suspect", Choose::previous(), "9", &[][..], Err("does not know the suspect")),
            ("second, known bad not counted", Choose::nth(2), "5", &ledger[..], Ok(("2", false))),
            ("too far", Choose::nth(9), "5", &[][..], Err("no 9 usable")),
            ("by id", Choose::exactly("1"), "5", &[][..], Ok(("1", true))),
            ("newer than the suspect, by id", Choose::exactly("5"), "4", &[][..], Ok(("5", true))),
            ("the suspect by id", Choose::exactly("5"), "5", &[][..], Err("is the suspect")),
            ("known bad by id", Choose::exactly("3"), "5", &ledger[..], Err("known bad")),
            ("unknown id", Choose::exactly("9"), "5", &[][..], Err("the newest are 4, 3, 2, 1")),
            ("as of", Choose::as_of(Timestamp(3)), "5", &[][..], Ok(("3", true))),
            ("as of, known bad left out", Choose::as_of(Timestamp(3)), "5", &ledger[..], Ok(("2", false))),
            ("as of the suspect's own time", Choose::as_of(Timestamp(99)), "4", &[][..], Ok(("3", true))),
            ("as of long ago", Choose::as_of(Timestamp(0)), "5", &[][..], Err("as old as")),
            ("as of, an unknown suspect", Choose::as_of(Timestamp(99)), "9", &[][..], Err("does not know the suspect")),
        ] {
            match (past(ledger).choose(&choose, &suspect.into(), false), expected) {
                (Ok(chosen), Ok((id, unverified))) => {
                    assert_eq!((chosen.wanted.id.as_str(), chosen.unverified), (id, unverified), "{what}");
                    assert_eq!(chosen.why.contains("unverified"), unverified, "{what}: {}", chosen.why);
                    assert!(!chosen.known_bad, "{what}");
                }
                (Err(none), Err(why)) => assert!(none.why.contains(why) && !none.lift.is_empty(), "{what}: {none:?}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn known_bad_only_by_name_and_with_a_word() {
        let past = past(&[("3", Standing::Failed, 30)]);
        let chosen = past.choose(&Choose::exactly("3"), &"5".into(), true).unwrap();
        assert!(chosen.known_bad && chosen.unverified);
        for choose in
            [Choose::previous(), Choose::nth(1), Choose::as_of(Timestamp(3)), Choose::verified().or_previous()]
        {
            let chosen = past.choose(&choose, &"4".into(), true).unwrap();
            assert_eq!(chosen.wanted.id, "2", "{choose:?}");
        }
    }

    #[test]
    fn what_is_gone_is_not_gone_to() {
        let mut past = past(&[("4", Standing::Verified, 40), ("2", Standing::Verified, 20)]);
        past.history[1] = past.history[1].clone().unavailable();
        assert_eq!(past.choose(&Choose::verified(), &"5".into(), false).unwrap().wanted.id, "2");
        assert_eq!(past.choose(&Choose::previous(), &"5".into(), false).unwrap().wanted.id, "3");
        assert!(past.choose(&Choose::exactly("4"), &"5".into(), false).unwrap_err().why.contains("gone"));
    }

    #[test]
    fn a_release_that_only_the_ledger_knows() {
        let mut past = past(&[("2", Standing::Verified, 20)]);
        past.history.truncate(2);
        assert!(past.choose(&Choose::verified(), &"5".into(), false).is_err());
        let past = past.with_ledger_releases();
        assert_eq!(past.choose(&Choose::verified(), &"5".into(), false).unwrap().wanted.id, "2");
        assert_eq!(past.choose(&Choose::exactly("2"), &"5".into(), false).unwrap().wanted.id, "2");
    }

    /// Somebody built or pulled `rc`: newer than all, and verified by nobody's deploy.
    fn with_rc(ledger: &[(&str, Standing, u64)]) -> Past {
        let mut past = past(ledger);
        let rc = Release::new("rc").with_label("shop:rc").with_made_at(Timestamp(9)).undeployed();
        past.history.insert(0, rc.clone());
        past.history.insert(3, Release { id: "old".into(), made_at: Some(Timestamp(3)), ..rc });
        past
    }

    #[test]
    fn what_nobody_deployed_is_never_chosen_and_can_be_named() {
        let past = with_rc(&[]).with_ledger_releases();
        for (choose, wanted) in [
            (Choose::previous(), "4"),
            (Choose::verified().or_previous(), "4"),
            (Choose::nth(2), "3"),
            (Choose::as_of(Timestamp(3)), "3"),
            (Choose::exactly("rc"), "rc"),
        ] {
            assert_eq!(past.choose(&choose, &"5".into(), false).unwrap().wanted.id, wanted, "{choose:?}");
        }
        for choose in [Choose::previous(), Choose::verified(), Choose::nth(1), Choose::as_of(Timestamp(99))] {
            let none = past.choose(&choose, &"1".into(), false).unwrap_err();
            assert!(none.why.contains("shop:rc [rc], made at 1970-01-01T00:00:00.009Z"), "{choose:?}: {none}");
        }
        // A run that got stuck on it marks it as seen, and it was not deployed all the same.
        let stuck = |standing| {
            let mut past = with_rc(&[]);
            past.ledger.push(LedgerEntry::new(past.history[0].clone(), standing, Timestamp(50), "stuck"));
            past.with_ledger_releases().choose(&Choose::verified().or_previous(), &"5".into(), false).unwrap().wanted.id
        };
        assert_eq!(stuck(Standing::Seen), "4");
        assert_eq!(stuck(Standing::Verified), "rc", "a rollback to it held");
        // Recorded, and its record on the platform is lost: the image alone is there.
        let mut past = with_rc(&[]);
        past.ledger.push(LedgerEntry::new(Release::new("rc"), Standing::Seen, Timestamp(1), "recorded"));
        let past = past.with_ledger_releases();
        assert_eq!(past.choose(&Choose::previous(), &"1".into(), false).unwrap().wanted.id, "rc");
    }

    #[test]
    fn a_release_goes_by_its_label_a_tag_and_the_beginning_of_its_digest() {
        let id = |c: &str| ReleaseId::new(format!("sha256:{}", c.repeat(64)));
        let mut past = past(&[]);
        past.history = ["a", "b", "c"].map(|c| Release::new(id(c)).with_label("1.0")).into();
        past.history[0].label = "2.0".into();
        past.history[0].names = vec!["shop:2".into()];
        let noted = Release::new(id("a")).with_label("2.0.0");
        past.ledger.push(LedgerEntry::new(noted, Standing::Seen, Timestamp(1), "recorded"));
        let past = past.with_ledger_releases();
        let suspect = id("c");
        for name in ["2.0", "2.0.0", "shop:2", "aaaaaaaaaaaa", "sha256:aaaaaa", id("a").as_str()] {
            assert_eq!(past.choose(&Choose::exactly(name), &suspect, false).unwrap().wanted.id, id("a"), "{name}");
            assert_eq!(past.suspect(Some(&name.into()), &now(&[])).unwrap(), id("a"), "{name}");
        }
        let twice = past.choose(&Choose::exactly("1.0"), &suspect, false).unwrap_err();
        assert!(twice.why.contains("1.0 [bbbbbbbbbbbb]; 1.0 [cccccccccccc]"), "{twice}");
        let none = past.choose(&Choose::exactly("9.0"), &suspect, false).unwrap_err();
        assert_eq!(none.why, "history does not know 9.0; the newest are 2.0 [aaaaaaaaaaaa], 1.0 [bbbbbbbbbbbb]");
        assert!(past.choose(&Choose::exactly("aaaa"), &suspect, false).is_err(), "too short to be sure");
        assert_eq!(past.suspect(Some(&"nobody".into()), &now(&[])).unwrap(), "nobody");
    }
}
