//! The releases that were recorded, in the order of their deploys.

use crate::{Digest, Finding, Release, ReleaseId, Result, Severity, Stored, Timestamp, seconds};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// So many recorded releases are remembered whose directory is gone.
const GONE_KEPT: usize = 50;
/// How long an edit is looked for before it is said that the end was not reached.
const DIGEST_WITHIN: Duration = seconds(2);

/// A release as it was when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) struct Recorded {
    pub(in crate::local) id: ReleaseId,
    pub(in crate::local) label: String,
    pub(in crate::local) digest: Digest,
    pub(in crate::local) at: Timestamp,
}

/// The recorded releases, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::local) struct Records(Vec<Recorded>);

impl Stored for Records {
    const NAME: &'static str = "rollback-core/records";
    const VERSION: u32 = 1;
}

impl Records {
    const FILE: &'static str = "records.json";
    pub(in crate::local) fn load(dir: &Path) -> Result<Self> {
        Ok(super::load(&dir.join(Self::FILE))?.unwrap_or_default())
    }
    pub(in crate::local) fn save(&self, dir: &Path) -> Result<()> {
        super::save(&dir.join(Self::FILE), self)
    }
    pub(in crate::local) fn get(&self, id: &ReleaseId) -> Option<&Recorded> {
        self.0.iter().find(|r| r.id == *id)
    }
    pub(in crate::local) fn iter(&self) -> impl Iterator<Item = &Recorded> {
        self.0.iter()
    }
    /// Records. The newest one, unchanged, keeps its time, unless it was deployed anew; any other was deployed again.
    pub(in crate::local) fn record(&mut self, mut new: Recorded, deployed: bool) {
        match self.0.first_mut() {
            Some(known) if known.id == new.id && known.digest == new.digest && !deployed => {
                known.label = new.label;
                return;
            }
            _ => {}
        }
        self.0.retain(|r| r.id != new.id);
        // Wall clocks jump; the order of deploys does not.
        if let Some(newest) = self.0.first() {
            new.at = new.at.max(Timestamp(newest.at.0.saturating_add(1)));
        }
        self.0.insert(0, new);
    }
    /// Forgets the oldest of those whose directory is gone.
    pub(in crate::local) fn prune(&mut self, there: impl Fn(&ReleaseId) -> bool) {
        let mut gone = 0;
        self.0.retain(|r| {
            let keep = there(&r.id) || gone < GONE_KEPT;
            gone += usize::from(!there(&r.id));
            keep
        });
    }
    /// Those that were recorded in the order of their deploys, the others where the time of their directory puts them: older
    /// than the first record, they may have been deployed before; later, they would have been recorded. What is live was
    /// deployed, and comes first where it is gone and was never recorded.
    pub(in crate::local) fn history(
        &self,
        names: Vec<(ReleaseId, Option<SystemTime>)>,
        live: Option<&ReleaseId>,
        limit: usize,
    ) -> Vec<Release> {
        let first = self.iter().map(|recorded| recorded.at).min();
        let there = |recorded: &Recorded| names.iter().any(|(id, _)| *id == recorded.id);
        let known = |r: &Recorded| if there(r) { r.release() } else { r.release().unavailable() };
        let mut all: Vec<Release> = self.iter().map(known).collect();
        all.extend(names.into_iter().filter(|(id, _)| self.get(id).is_none()).map(|(id, changed)| {
            let made = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let made = made.map(|at| Timestamp(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)));
            let undeployed = live != Some(&id) && first.is_some_and(|first| made.is_none_or(|made| made > first));
            Release { made_at: made, undeployed, ..Release::new(id) }
        }));
        all.sort_by(|a, b| {
            let newest = b.made_at.cmp(&a.made_at).then_with(|| b.id.cmp(&a.id));
            a.undeployed.cmp(&b.undeployed).then(newest)
        });
        if let Some(gone) = live.filter(|live| all.iter().all(|release| release.id != **live)) {
            all.insert(0, Release::new(gone).unavailable());
        }
        all.truncate(limit);
        all
    }
    /// Whether a release was edited since it was recorded, as far as can be told in a moment.
    pub(in crate::local) fn edited(&self, id: &ReleaseId, path: &Path, severity: Severity) -> Result<Option<Finding>> {
        let note = |code: &str, text: String| Some(Finding::new(Severity::Note, code, text));
        let Some(recorded) = self.get(id) else {
            let text = format!(
                "{id} was never recorded, so nobody can tell whether it was edited; where it stands in the order of deploys is \
                 told by the time of its directory alone"
            );
            return Ok(note("unrecorded", text));
        };
        Ok(match super::tree::digest(path, Some(Instant::now() + DIGEST_WITHIN))? {
            Some(digest) if digest == recorded.digest => None,
            Some(_) => Some(Finding::new(
                severity,
                "edited",
                format!(
                    "{id} was edited since it was recorded at {}: see what was changed, then record it anew or choose \
                     another",
                    recorded.at
                ),
            )),
            None => {
                note("not-compared", format!("{id} is too big to be compared with its record in {DIGEST_WITHIN:?}"))
            }
        })
    }
}

impl Recorded {
    /// As the world sees it.
    pub(in crate::local) fn release(&self) -> Release {
        Release::new(self.id.clone())
            .with_label(self.label.clone())
            .with_made_at(self.at)
            .with_artifacts([self.digest.clone()])
    }
}
