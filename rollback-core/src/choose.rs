//! Which release to go back to: a pure function, with its reason.

use crate::{LedgerEntry, Observation, Release, ReleaseId, Standing, Timestamp, Trace};
use serde::{Deserialize, Serialize};

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
    /// This one.
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
    /// What the last rollback left beside, where the target itself could not hold it.
    pub trace: Option<Trace>,
    /// When rollbacks of this target began to write, other than this run.
    pub recent: Vec<Timestamp>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// The release that is left.
    pub suspect: ReleaseId,
    /// The release that is reached.
    pub wanted: Release,
    /// Why this one.
    pub why: String,
    /// It was not verified healthy.
    pub unverified: bool,
    /// It is known bad, and gone to all the same, for the reason given.
    pub known_bad: bool,
}

/// Nothing could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct NoChoice {
    /// Why not.
    pub why: String,
    /// What would lift it.
    pub lift: String,
}

impl NoChoice {
    fn new(why: impl Into<String>, lift: impl Into<String>) -> Self {
        Self { why: why.into(), lift: lift.into() }
    }
}

impl Past {
    fn standing(&self, release: &ReleaseId) -> Option<Standing> {
        self.ledger.iter().find(|e| e.release.id == *release).map(|e| e.standing)
    }

    /// With the releases that only the ledger knows, behind those of the platform's history: an import, or a history that
    /// the platform has pruned.
    pub fn with_ledger_releases(mut self) -> Self {
        let mut missing: Vec<&LedgerEntry> =
            self.ledger.iter().filter(|e| !self.history.iter().any(|r| r.id == e.release.id)).collect();
        missing.sort_by_key(|e| std::cmp::Reverse(e.release.made_at.unwrap_or(e.at)));
        let missing: Vec<Release> = missing.into_iter().map(|e| e.release.clone()).collect();
        self.history.extend(missing);
        self
    }

    /// Which release is to blame: the named one; else the one in flight; else the newest that serves. Where a rollback has
    /// already brought the target to what serves now, only a named one will do, so that pressing twice does not walk on.
    ///
    /// # Errors
    /// When it cannot be told, with what would lift it.
    pub fn suspect(&self, named: Option<&ReleaseId>, now: &Observation) -> Result<ReleaseId, NoChoice> {
        if let Some(named) = named {
            return Ok(named.clone());
        }
        if let Some(to) = now.in_flight.as_ref().and_then(|f| f.to.as_ref()) {
            return Ok(to.clone());
        }
        let mut serving: Vec<&ReleaseId> = vec![];
        for (_, part) in now.serving() {
            for release in part.wanted.iter().chain(part.running.mentions()) {
                if !serving.contains(&release) {
                    serving.push(release);
                }
            }
        }
        let suspect = match serving[..] {
            [] => {
                return Err(NoChoice::new(
                    "nothing serves, so it cannot be told which release is to blame",
                    "name the suspect",
                ));
            }
            [only] => only.clone(),
            _ => match self.history.iter().find(|r| serving.contains(&&r.id)) {
                Some(newest) => newest.id.clone(),
                None => {
                    return Err(NoChoice::new(
                        format!("several releases serve ({}), and history knows none of them", list(&serving)),
                        "name the suspect",
                    ));
                }
            },
        };
        for trace in now.trace.iter().chain(&self.trace) {
            if trace.reached == suspect {
                return Err(NoChoice::new(
                    format!(
                        "run {} already left {} for {} at {}: going further back from {} would be a guess",
                        trace.run, trace.left, trace.reached, trace.at, trace.reached
                    ),
                    format!("if {suspect} is to be left too, name it as the suspect"),
                ));
            }
        }
        Ok(suspect)
    }

    /// Chooses.
    ///
    /// # Errors
    /// When there is nothing to choose, with what would lift it.
    pub fn choose(&self, choose: &Choose, suspect: &ReleaseId, known_bad_will_do: bool) -> Result<Chosen, NoChoice> {
        let unverified = |r: &Release| self.standing(&r.id) != Some(Standing::Verified);
        let failed = |r: &Release| self.standing(&r.id) == Some(Standing::Failed);
        let made = |r: &Release, why: &str| Chosen {
            suspect: suspect.clone(),
            unverified: unverified(r),
            known_bad: failed(r),
            why: if unverified(r) { format!("{why}, unverified") } else { format!("{why}, verified healthy") },
            wanted: r.clone(),
        };
        let suspect_known = self.history.iter().any(|r| r.id == *suspect);
        let older = || {
            self.history
                .iter()
                .skip_while(|r| r.id != *suspect)
                .filter(|r| r.id != *suspect && r.available && !failed(r))
        };
        let verified = || {
            let at = |r: &Release| self.ledger.iter().find(|e| e.release.id == r.id).map(|e| e.at);
            self.history
                .iter()
                .filter(|r| r.id != *suspect && r.available && self.standing(&r.id) == Some(Standing::Verified))
                .max_by_key(|r| at(r))
                .map(|r| Chosen { why: "last verified healthy".into(), ..made(r, "") })
        };
        let need_suspect = || {
            if suspect_known {
                Ok(())
            } else {
                Err(NoChoice::new(
                    format!("history does not know the suspect {suspect}, so nothing comes before it"),
                    "name the release to go to",
                ))
            }
        };
        let previous = || {
            need_suspect()?;
            older().next().map(|r| made(r, "previous")).ok_or_else(|| {
                NoChoice::new(
                    format!("history has no usable release before {suspect} ({} known in all)", self.history.len()),
                    "name the release to go to, or import releases made elsewhere",
                )
            })
        };
        match choose {
            Choose::Verified => verified().ok_or_else(|| {
                NoChoice::new(
                    "no release but the suspect was ever verified healthy",
                    "allow the previous one, unverified (Choose::verified().or_previous()), or name one",
                )
            }),
            Choose::VerifiedOrPrevious => verified().map_or_else(previous, Ok),
            Choose::Previous => previous(),
            Choose::Nth(n) => {
                need_suspect()?;
                older().nth(n.saturating_sub(1)).map(|r| made(r, &format!("number {n} before the suspect"))).ok_or_else(
                    || {
                        NoChoice::new(
                            format!("history has no {n} usable releases before {suspect}"),
                            "a smaller number, or name one",
                        )
                    },
                )
            }
            Choose::AsOf(at) => older()
                .find(|r| r.made_at.is_some_and(|made_at| made_at <= *at))
                .map(|r| made(r, &format!("as of {at}")))
                .ok_or_else(|| {
                    NoChoice::new(
                        format!("history has no usable release as old as {at}"),
                        "another moment, or name one",
                    )
                }),
            Choose::Exactly(id) if id == suspect => {
                Err(NoChoice::new(format!("{id} is the suspect"), "name another release, or another suspect"))
            }
            Choose::Exactly(id) => {
                let from_ledger = || self.ledger.iter().map(|e| &e.release).find(|r| r.id == *id);
                let Some(release) = self.history.iter().find(|r| r.id == *id).or_else(from_ledger) else {
                    let known: Vec<_> = self.history.iter().take(5).map(|r| &r.id).collect();
                    return Err(NoChoice::new(
                        format!("history does not know {id}; the newest are {}", list(&known)),
                        "name one of those",
                    ));
                };
                if !release.available {
                    return Err(NoChoice::new(
                        format!("{id} is known, but gone"),
                        "make it available again, or name another",
                    ));
                }
                if failed(release) && !known_bad_will_do {
                    return Err(NoChoice::new(
                        format!("{id} is known bad"),
                        "another release; or, with a reason and an approval, Policy::with_known_bad",
                    ));
                }
                Ok(made(release, "named"))
            }
        }
    }
}

fn list(releases: &[&ReleaseId]) -> String {
    if releases.is_empty() {
        return "none".into();
    }
    releases.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", ")
}
