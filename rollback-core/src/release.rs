//! Releases, and what is known about them.

use crate::{Digest, ReleaseId, RunId, Timestamp};
use serde::{Deserialize, Serialize};

/// An immutable version of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Release {
    /// By content, so that it survives a platform that renumbers.
    pub id: ReleaseId,
    /// What people call it: `2.4.0`, `revision 7`.
    pub label: String,
    /// When it was made.
    pub made_at: Option<Timestamp>,
    /// Why: the change cause, the commit's subject.
    pub why: Option<String>,
    /// What it is made of: digests of images, bundles, trees.
    pub artifacts: Vec<Digest>,
    /// Can it still be gone back to, as far as the platform's history knows?
    pub available: bool,
}

impl Release {
    /// An available release whose label is its id.
    pub fn new(id: impl Into<ReleaseId>) -> Self {
        let id = id.into();
        Self { label: id.to_string(), id, made_at: None, why: None, artifacts: vec![], available: true }
    }
    /// What people call it.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
    /// When it was made.
    pub fn with_made_at(mut self, at: Timestamp) -> Self {
        self.made_at = Some(at);
        self
    }
    /// Why it was made.
    pub fn with_why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }
    /// What it is made of.
    pub fn with_artifacts(mut self, artifacts: impl IntoIterator<Item = Digest>) -> Self {
        self.artifacts = artifacts.into_iter().collect();
        self
    }
    /// Its image, bundle or tree is gone.
    pub fn unavailable(mut self) -> Self {
        self.available = false;
        self
    }
}

/// What the ledger says of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// It served, and was seen healthy for as long as the verifiers' windows ask: where they ask for no time, when it was
    /// looked at.
    Verified,
    /// It was blamed, and rolled back from.
    Failed,
    /// It was there; nothing more is known.
    Seen,
}

/// One line of the ledger: the latest standing of a release of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// The release, as it was when it was recorded.
    pub release: Release,
    /// What is known of it.
    pub standing: Standing,
    /// Since when.
    pub at: Timestamp,
    /// The run that found it out, if it was one.
    pub run: Option<RunId>,
    /// Why: `healthy for 15 min`, `blamed: 500s since 2.4.0`, `imported`.
    pub why: String,
}

impl LedgerEntry {
    /// A line that no run wrote.
    pub fn new(release: Release, standing: Standing, at: Timestamp, why: impl Into<String>) -> Self {
        Self { release, standing, at, run: None, why: why.into() }
    }
    /// The run that found it out.
    pub fn with_run(mut self, run: &RunId) -> Self {
        self.run = Some(run.clone());
        self
    }
}
