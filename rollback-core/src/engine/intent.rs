//! What a run was asked to do: journalled before anything else, and adopted by whoever resumes it.

use super::Detection;
use crate::{Choose, Policy, ReleaseId, RunId, TargetId, Timestamp, Window};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a run was asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Intent {
    /// Its id.
    pub run: RunId,
    /// The group it is part of.
    pub parent: Option<RunId>,
    /// Of what.
    pub target: TargetId,
    /// Who ordered it.
    pub who: String,
    /// Why.
    pub why: String,
    /// When, on the wall clock of whoever ordered it.
    pub at: Timestamp,
    /// The release that is blamed, if it was named.
    pub suspect: Option<ReleaseId>,
    /// How the release to go to is chosen.
    pub choose: Choose,
    /// What it may do.
    pub policy: Arc<Policy>,
    /// The strategy's name. Names, not code: a resumed run says if they differ.
    pub strategy: String,
    /// The health check's name, if there is one.
    pub health: Option<String>,
    /// The verifiers' names and windows.
    pub verifiers: Vec<(String, Window)>,
    /// The freezes' names.
    pub freezes: Vec<String>,
    /// The name and window of what tries the release elsewhere first.
    pub trial: Option<Box<(String, Window)>>,
    /// What was seen before it was ordered, if that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected: Option<Box<Detection>>,
}

impl Intent {
    /// A run with the default policy and nothing to check.
    pub fn new(run: RunId, target: TargetId, who: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            run,
            parent: None,
            target,
            who: who.into(),
            why: why.into(),
            at: Timestamp::default(),
            suspect: None,
            choose: Choose::default(),
            policy: Arc::default(),
            strategy: String::new(),
            health: None,
            verifiers: vec![],
            freezes: vec![],
            trial: None,
            detected: None,
        }
    }
}
