//! Which of several workloads are broken, told from what each shows: pure.

use rollback_core::{Error, Observation, PartState, Running, Settled};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How one workload is, as far as its pods say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkloadState {
    /// All its pods are ready.
    Serves,
    /// None of its pods is ready: roll back within a minute.
    Down {
        /// Why, in the platform's words.
        why: String,
    },
    /// Its rollout will not come to an end: roll back within five minutes.
    Stuck {
        /// Why, in the platform's words.
        why: String,
    },
    /// Some pods are not ready. It may be their node, and no release's doing: watch it.
    Degraded {
        /// So many are ready.
        ready: u32,
        /// Of so many.
        of: u32,
        /// Why, in the platform's words.
        why: String,
    },
    /// It is to have no pods.
    Off,
    /// It could not be read. Not broken, for all that is known.
    Unknown {
        /// Why not.
        why: String,
    },
}

impl WorkloadState {
    /// Of an observation of a workload with one part.
    pub fn of(seen: &Observation) -> Self {
        match seen.parts.values().next() {
            Some(part) => Self::of_part(part),
            None => WorkloadState::Unknown { why: "it has no part".into() },
        }
    }
    fn of_part(part: &PartState) -> Self {
        let of = part.capacity.unwrap_or(0);
        let ready = part.ready.unwrap_or(0);
        let why = match &part.settled {
            Settled::Yes => String::new(),
            Settled::NotYet { why } | Settled::Never { why } => why.clone(),
        };
        let or = |why: String| if why.is_empty() { format!("{ready} of {of} pods are ready") } else { why };
        // Pods of two releases: a rollout is under way, and it is that which fails.
        let rolling = matches!(part.running, Running::Mixed(_) | Running::Between { .. });
        match &part.settled {
            _ if of == 0 => WorkloadState::Off,
            _ if ready == 0 => WorkloadState::Down { why: or(why) },
            Settled::Never { .. } if rolling => WorkloadState::Stuck { why },
            _ if ready < of => WorkloadState::Degraded { ready, of, why: or(why) },
            _ => WorkloadState::Serves,
        }
    }
    /// It is to be rolled back.
    pub fn is_broken(&self) -> bool {
        matches!(self, WorkloadState::Down { .. } | WorkloadState::Stuck { .. })
    }
}

impl fmt::Display for WorkloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadState::Serves => f.write_str("serves"),
            WorkloadState::Down { why } => write!(f, "DOWN: {why}"),
            WorkloadState::Stuck { why } => write!(f, "STUCK: {why}"),
            WorkloadState::Degraded { ready, of, why } => write!(f, "{ready} of {of} pods are ready: {why}"),
            WorkloadState::Off => f.write_str("is to have no pods"),
            WorkloadState::Unknown { why } => write!(f, "NOT KNOWN: {why}"),
        }
    }
}

/// Which workloads are to be rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scope {
    /// None: nothing is broken, as far as pods tell.
    None,
    /// These.
    Only(Vec<String>),
    /// All that are to serve.
    All(Vec<String>),
}

/// Which workloads are to be rolled back, and why: from what their pods show. A service that answers errors has ready pods:
/// for that, metrics are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Suggestion {
    /// Which.
    pub scope: Scope,
    /// How each of them is, by name.
    pub states: Vec<(String, WorkloadState)>,
}

impl Suggestion {
    /// From what each workload showed.
    pub(crate) fn of<'a>(seen: impl IntoIterator<Item = (&'a str, Result<&'a Observation, &'a Error>)>) -> Self {
        let state = |seen: Result<&Observation, &Error>| match seen {
            Ok(seen) => WorkloadState::of(seen),
            Err(e) => WorkloadState::Unknown { why: e.to_string() },
        };
        let states: Vec<(String, WorkloadState)> =
            seen.into_iter().map(|(name, seen)| (name.to_owned(), state(seen))).collect();
        let broken: Vec<String> =
            states.iter().filter(|(_, state)| state.is_broken()).map(|(name, _)| name.clone()).collect();
        // What is off has no part in it; what is not known may serve.
        let others = states.iter().filter(|(_, state)| !state.is_broken() && *state != WorkloadState::Off).count();
        let scope = match (broken.len(), others) {
            (0, _) => Scope::None,
            (1, _) | (_, 1..) => Scope::Only(broken),
            (_, 0) => Scope::All(broken),
        };
        Self { scope, states }
    }
    /// The names of those that are to be rolled back.
    pub fn names(&self) -> &[String] {
        match &self.scope {
            Scope::None => &[],
            Scope::Only(names) | Scope::All(names) => names,
        }
    }
    /// Why, in one line.
    pub fn why(&self) -> String {
        let unknown = self.states.iter().filter(|(_, state)| matches!(state, WorkloadState::Unknown { .. })).count();
        let but = if unknown == 0 { String::new() } else { format!("; {unknown} of them could not be read") };
        match &self.scope {
            Scope::None => format!("none of {} is down or stuck: look before rolling back{but}", self.states.len()),
            Scope::Only(names) => {
                format!(
                    "{} of {} down or stuck, and the others are not to be touched{but}",
                    names.len(),
                    self.states.len()
                )
            }
            Scope::All(names) => format!("all {} that are to serve are down or stuck", names.len()),
        }
    }
}

/// The scope and why, then each workload.
impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::None => write!(f, "roll back nothing")?,
            Scope::Only(names) => write!(f, "roll back only {}", names.join(", "))?,
            Scope::All(_) => write!(f, "roll back all")?,
        }
        write!(f, ": {}", self.why())?;
        self.states.iter().try_for_each(|(name, state)| write!(f, "\n  {name} {state}"))
    }
}
