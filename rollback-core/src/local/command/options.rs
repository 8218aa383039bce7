//! Which tool is run for what.

use super::{Tool, ToolEvidence, ToolPrepared, ToolState};
use crate::{Applied, Fencing, OnUnknown, Release, ReleaseId};
use std::{fmt, path::PathBuf};

/// Which tool is run for what, and what it promises. Observe, history and apply must be there.
#[derive(Clone)]
#[non_exhaustive]
pub struct CommandOptions {
    pub(super) observe: Option<Tool<ToolState>>,
    pub(super) history: Option<Tool<Vec<Release>>>,
    pub(super) apply: Option<Tool<Applied>>,
    pub(super) apply_forward: Option<Tool<Applied>>,
    pub(super) prepare: Option<Tool<ToolPrepared>>,
    pub(super) resolve: Option<Tool<ReleaseId>>,
    pub(super) record: Option<Tool<Release>>,
    pub(super) evidence: Option<Tool<ToolEvidence>>,
    pub(super) env: Vec<(String, String)>,
    pub(super) dir: Option<PathBuf>,
    pub(super) fencing: Fencing,
    pub(super) on_unknown: OnUnknown,
    pub(super) reversible: bool,
    pub(super) notes: Option<PathBuf>,
}

impl CommandOptions {
    /// No tools yet; nothing promised.
    pub fn new() -> Self {
        Self {
            observe: None,
            history: None,
            apply: None,
            apply_forward: None,
            prepare: None,
            resolve: None,
            record: None,
            evidence: None,
            env: vec![],
            dir: None,
            fencing: Fencing::BestEffort,
            on_unknown: OnUnknown::Observe,
            reversible: true,
            notes: None,
        }
    }
    /// What tells what runs.
    pub fn with_observe(mut self, tool: Tool<ToolState>) -> Self {
        self.observe = Some(tool);
        self
    }
    /// What lists the releases, newest first.
    pub fn with_history(mut self, tool: Tool<Vec<Release>>) -> Self {
        self.history = Some(tool);
        self
    }
    /// What goes to a release, by its absolute name. It must be harmless to run it again: it is not run if the release runs
    /// already, but a lost answer may run it twice.
    pub fn with_apply(mut self, tool: Tool<Applied>) -> Self {
        self.apply = Some(tool);
        self
    }
    /// What goes to a release that is newer, in the order of the history, than the one that runs: `upgrade`, where apply is
    /// `downgrade`.
    pub fn with_apply_forward(mut self, tool: Tool<Applied>) -> Self {
        self.apply_forward = Some(tool);
        self
    }
    /// What finds out what would change, without changing it.
    pub fn with_prepare(mut self, tool: Tool<ToolPrepared>) -> Self {
        self.prepare = Some(tool);
        self
    }
    /// What makes an absolute release of a relative revision.
    pub fn with_resolve(mut self, tool: Tool<ReleaseId>) -> Self {
        self.resolve = Some(tool);
        self
    }
    /// What makes what runs findable at each deploy (tags an image, archives a schema) and names it. Without it, what
    /// observe and history say is recorded.
    pub fn with_record(mut self, tool: Tool<Release>) -> Self {
        self.record = Some(tool);
        self
    }
    /// What gives logs, locks, settings to save before the first change. What looks like a secret is blanked out; it had
    /// better not be printed.
    pub fn with_evidence(mut self, tool: Tool<ToolEvidence>) -> Self {
        self.evidence = Some(tool);
        self
    }
    /// One more variable in the environment of every call. Its value (of four characters or more) is hidden in all
    /// messages, so this is the place for passwords; arguments are seen by every user of the host.
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
    /// Where the tools run.
    pub fn with_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
    /// What the tool promises: [`Fencing::Token`] if apply refuses (exit 10) what is not as the token of observe says.
    /// Default: [`Fencing::BestEffort`], and what runs is compared just before apply.
    pub fn with_fencing(mut self, fencing: Fencing) -> Self {
        self.fencing = fencing;
        self
    }
    /// How it is found out whether an apply with a lost answer happened. Default: [`OnUnknown::Observe`].
    pub fn with_on_unknown(mut self, on_unknown: OnUnknown) -> Self {
        self.on_unknown = on_unknown;
        self
    }
    /// Going back may lose data: a person must say so.
    pub fn irreversible(mut self) -> Self {
        self.reversible = false;
        self
    }
    /// Where it is noted which apply is under way, so that what one left half done (three of five migrations) is known for
    /// ours after a crash, not taken for someone else's deploy. A directory of your own. Without it, a note is kept in
    /// memory.
    pub fn with_notes(mut self, dir: impl Into<PathBuf>) -> Self {
        self.notes = Some(dir.into());
        self
    }
}

impl Default for CommandOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Without the values of the environment.
impl fmt::Debug for CommandOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandOptions")
            .field("observe", &self.observe)
            .field("history", &self.history)
            .field("apply", &self.apply)
            .field("apply_forward", &self.apply_forward)
            .field("prepare", &self.prepare)
            .field("resolve", &self.resolve)
            .field("record", &self.record)
            .field("evidence", &self.evidence)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("dir", &self.dir)
            .field("fencing", &self.fencing)
            .finish_non_exhaustive()
    }
}
