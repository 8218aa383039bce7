//! The tools as a target.

use super::{
    answer::ToolState,
    notes::{Note, Notes},
    options::CommandOptions,
    revision,
    tool::{Call, Tool},
};
use crate::{
    Applied, Approved, Artifact, Bounds, Capabilities, Change, ChangeKind, DiffLine, Digest, Error, EvidenceSource,
    Fencing, Identity, Kind, Look, Observation, Payload, Prepared, Record, Release, ReleaseId, Result, Running,
    Settled, Stored, Target, TargetId, Token, Work, local::own::evidence::keep, redact::text_without_secrets,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// How far back a release is looked for.
const FAR: usize = 10_000;

/// Anything that has releases and a tool that goes between them: a schema with its migration tool, a deploy script.
///
/// A release is always named absolutely: `downgrade -1` run twice goes back two, so relative revisions are refused, and
/// [`resolve`](CommandTarget::resolve) makes absolute ones of them first. What runs is looked at once more just before apply:
/// if it is the release already, the tool is not run; if it is not what was judged, that is a conflict. The tool is never
/// handed to a shell.
///
/// The protocol that the tools speak is that of the module `local::command`; see [`CommandOptions`] and [`Tool`].
///
/// ```
/// use rollback_core::local::{CommandOptions, CommandTarget, Tool, ToolState};
/// use rollback_core::Release;
/// let schema = CommandTarget::new(
///     "db:shop/orders",
///     CommandOptions::new()
///         .with_observe(Tool::run(["migrate", "current"]).read_by(|out| Ok(ToolState::runs(out.text().trim()))))
///         .with_history(Tool::run(["migrate", "list"]).read_by(|out| Ok(out.lines().rev().map(Release::new).collect())))
///         .with_apply(Tool::run(["migrate", "goto", "{release}"]))
///         .irreversible(),
/// )?;
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CommandTarget {
    id: TargetId,
    options: Arc<CommandOptions>,
    tools: Arc<Tools>,
    notes: Arc<Notes>,
}

/// Those that must be there.
#[derive(Debug)]
struct Tools {
    observe: Tool<ToolState>,
    history: Tool<Vec<Release>>,
    apply: Tool<Applied>,
}

/// What the judged read showed.
#[derive(Debug, Serialize, Deserialize)]
struct CommandToken {
    state: Digest,
    tool: Option<Value>,
}
impl Stored for CommandToken {
    const NAME: &'static str = "rollback-core/command-token";
    const VERSION: u32 = 1;
}

/// What apply is given.
#[derive(Debug, Serialize, Deserialize)]
struct CommandInstructions {
    from: Option<ReleaseId>,
    forward: bool,
    tool: Option<Value>,
}
impl Stored for CommandInstructions {
    const NAME: &'static str = "rollback-core/command-instructions";
    const VERSION: u32 = 1;
}

const OF_TARGET: [&str; 1] = ["target"];
const OF_HISTORY: [&str; 2] = ["target", "limit"];
const OF_RESOLVE: [&str; 2] = ["target", "revision"];
const OF_RECORD: [&str; 2] = ["target", "label"];
const OF_EVIDENCE: [&str; 5] = ["target", "run", "key", "epoch", "bytes"];
const OF_PREPARE: [&str; 6] = ["target", "release", "from", "run", "key", "epoch"];
const OF_APPLY: [&str; 7] = ["target", "release", "from", "run", "key", "epoch", "token"];

impl CommandTarget {
    /// A target of these tools. The id must be the same in every process: it is the key of the lock.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if observe, history or apply is missing, an argv is empty, or a placeholder is none of its verb.
    /// Nothing is run.
    pub fn new(id: impl Into<TargetId>, options: CommandOptions) -> Result<Self> {
        let id = id.into();
        let missing = |verb: &str| {
            Error::new(Kind::Invalid, "set up the target")
                .with_message(format!("there is no tool to {verb}: CommandOptions::with_{verb}"))
                .with_target(&id)
                .without_effect()
        };
        let tools = Tools {
            observe: options.observe.clone().ok_or_else(|| missing("observe"))?,
            history: options.history.clone().ok_or_else(|| missing("history"))?,
            apply: options.apply.clone().ok_or_else(|| missing("apply"))?,
        };
        let check = || {
            tools.observe.check("observe", &OF_TARGET)?;
            tools.history.check("history", &OF_HISTORY)?;
            tools.apply.check("apply", &OF_APPLY)?;
            options.apply_forward.as_ref().map_or(Ok(()), |tool| tool.check("apply forward", &OF_APPLY))?;
            options.prepare.as_ref().map_or(Ok(()), |tool| tool.check("prepare", &OF_PREPARE))?;
            options.record.as_ref().map_or(Ok(()), |tool| tool.check("record", &OF_RECORD))?;
            options.evidence.as_ref().map_or(Ok(()), |tool| tool.check("evidence", &OF_EVIDENCE))?;
            options.resolve.as_ref().map_or(Ok(()), |tool| tool.check("resolve", &OF_RESOLVE))
        };
        check().map_err(|e| e.with_target(&id))?;
        let notes = Arc::new(Notes::new(options.notes.as_deref(), &id));
        Ok(Self { id, options: Arc::new(options), tools: Arc::new(tools), notes })
    }

    /// The release that a revision means now. An absolute one is itself; a relative one is asked of the resolve tool or,
    /// for `-1` and the like, counted in the history from what runs. Do this before anything begins, and hand on what it
    /// gives: later, `-1` means another release.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there are not so many releases; [`Kind::Invalid`] if it cannot be told which is meant;
    /// otherwise as the tools.
    pub async fn resolve(&self, relative: &str) -> Result<ReleaseId> {
        let operation = "resolve the revision";
        if !revision::is_relative(relative) {
            return revision::absolute(operation, relative).map_err(|e| self.mine(e));
        }
        if let Some(tool) = &self.options.resolve {
            let mut call = self.call("resolve");
            call.values.push(("revision", Some(relative.to_owned())));
            let release = tool.call(call).await.map_err(|e| self.read_failed(e))?;
            return revision::absolute(operation, release.as_str()).map_err(|e| self.mine(e));
        }
        let history = self.releases(FAR).await?;
        let Some(back) = revision::steps_back(relative) else {
            return Err(self.failed(Kind::Invalid, operation).with_message(format!(
                "{relative:?} means another release tomorrow, and this program was given no tool that tells \
                 which it is today: name the release itself; the newest are {}",
                list(&history)
            )));
        };
        let state = self.state().await?;
        let Running::Release(running) = &state.part.running else {
            return Err(self.failed(Kind::Invalid, operation).with_message(format!(
                "{relative:?} cannot be counted from what runs: {}; name the release itself",
                state.part.running
            )));
        };
        let at = history.iter().position(|r| r.id == *running).ok_or_else(|| {
            self.failed(Kind::NotFound, operation)
                .with_message(format!("history does not know {running}, which runs: name the release itself"))
        })?;
        history.get(at.saturating_add(back)).map(|r| r.id.clone()).ok_or_else(|| {
            self.failed(Kind::NotFound, operation).with_message(format!(
                "there are only {} releases before {running}, which runs",
                history.len() - at - 1
            ))
        })
    }

    fn call(&self, verb: &'static str) -> Call<'_> {
        Call {
            verb,
            values: vec![("target", Some(self.id.to_string()))],
            more: vec![],
            env: &self.options.env,
            dir: self.options.dir.as_ref(),
            stdin: None,
            at_most: None,
        }
    }
    async fn state(&self) -> Result<ToolState> {
        self.state_after(None).await
    }
    async fn state_after(&self, key: Option<String>) -> Result<ToolState> {
        let mut call = self.call("observe");
        call.more.push(("key", key));
        let state = self.tools.observe.call(call).await.map_err(|e| self.read_failed(e))?;
        for release in state.part.running.mentions().into_iter().chain(&state.part.wanted) {
            revision::absolute("read what runs", release.as_str()).map_err(|e| self.mine(e))?;
        }
        Ok(state)
    }
    async fn releases(&self, limit: usize) -> Result<Vec<Release>> {
        let mut call = self.call("history");
        call.values.push(("limit", Some(limit.to_string())));
        let mut releases = self.tools.history.call(call).await.map_err(|e| self.read_failed(e))?;
        for release in &releases {
            revision::absolute("read the history", release.id.as_str()).map_err(|e| self.mine(e))?;
        }
        releases.truncate(limit);
        Ok(releases)
    }
    /// What runs, or the state between two releases if a write of ours with this key left it there.
    async fn running(&self, state: &ToolState, key: Option<&str>) -> Result<Running> {
        let running = &state.part.running;
        let (Running::Release(release), Some(key)) = (running, key) else { return Ok(running.clone()) };
        let note = self.notes.of(key).await.filter(|note| note.from != *release && note.to != *release);
        let Some(note) = note else { return Ok(running.clone()) };
        let history = self.releases(FAR).await?;
        Ok(note.between(release, &history).unwrap_or_else(|| running.clone()))
    }
    /// What must not have changed between the read that was judged and the write.
    fn fingerprint(&self, state: &ToolState) -> Digest {
        let all = (&state.scope, &state.object, &state.part.running, &state.part.wanted);
        Digest::of(&serde_json::to_vec(&all).unwrap_or_default())
    }
    fn of_work(&self, verb: &'static str, release: &ReleaseId, from: Option<&ReleaseId>, work: &Work) -> Call<'_> {
        let mut call = self.call(verb);
        call.values.extend([
            ("release", Some(release.to_string())),
            ("from", from.map(ReleaseId::to_string)),
            ("run", Some(work.run().to_string())),
            ("key", Some(work.key())),
            ("epoch", Some(work.epoch().to_string())),
        ]);
        call
    }

    fn mine(&self, e: Error) -> Error {
        e.with_target(&self.id)
    }
    fn read_failed(&self, e: Error) -> Error {
        self.mine(e).without_effect()
    }
    fn failed(&self, kind: Kind, operation: &str) -> Error {
        Error::new(kind, operation).with_target(&self.id).without_effect()
    }
}

fn list(history: &[Release]) -> String {
    if history.is_empty() {
        return "none".into();
    }
    history.iter().take(5).map(|r| r.id.as_str()).collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl Target for CommandTarget {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        let mut capabilities =
            Capabilities::new(self.options.fencing).with_change(ChangeKind::Release, self.options.on_unknown);
        capabilities.reversible = self.options.reversible;
        capabilities
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let key = look.mark.map(|mark| mark.key);
        let state = self.state_after(key.clone()).await?;
        if self.options.fencing != Fencing::BestEffort && state.token.is_none() {
            return Err(self.failed(Kind::Invalid, "read what runs").with_message(
                "the tool was said to compare tokens, and gives none: add \"token\" to what observe answers",
            ));
        }
        let token = CommandToken { state: self.fingerprint(&state), tool: state.token.clone() };
        let running = self.running(&state, key.as_deref()).await?;
        let mut part = state.part;
        part.running = running;
        let identity = Identity { scope: state.scope.unwrap_or_else(|| self.id.to_string()), object: state.object };
        Ok(Observation::of_one(identity, part, Token(Some(Payload::of(&token)?)))
            .with_owners(state.owners)
            .with_trace(state.trace))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.releases(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let operation = "prepare the change";
        let wanted = change.only_release().map_err(|e| self.mine(e))?;
        revision::absolute(operation, wanted.as_str()).map_err(|e| self.mine(e))?;
        let history = self.releases(FAR).await?;
        let place = |id: &ReleaseId| history.iter().position(|r| r.id == *id);
        let Some(to) = place(wanted) else {
            return Err(self.failed(Kind::NotFound, operation).with_message(format!(
                "history has no {wanted}; the newest of its {} are {}",
                history.len(),
                list(&history)
            )));
        };
        if !history[to].available {
            return Err(self
                .failed(Kind::NotFound, operation)
                .with_message(format!("{wanted} is known, but gone: make it available again, or choose another")));
        }
        let state = self.state().await?;
        let from = match &state.part.running {
            Running::Release(release) => Some(release.clone()),
            _ => None,
        };
        let forward = from.as_ref().and_then(place).is_some_and(|from| to < from);
        let mut prepared = Prepared::new(change);
        let mut diff = vec![DiffLine::new("release", state.part.running.to_string(), wanted.as_str())];
        let mut instructions = None;
        if let Some(tool) = &self.options.prepare {
            let mut call = self.of_work("prepare", wanted, from.as_ref(), work);
            call.at_most = Some(work.within());
            let said = tool.call(call).await.and_then(|said| said.bounded()).map_err(|e| self.read_failed(e))?;
            if !said.diff.is_empty() {
                diff = said.diff;
            }
            instructions = said.instructions;
            prepared = said.findings.into_iter().fold(prepared, Prepared::with_finding);
            if let Some(why) = said.needs_approval {
                prepared = prepared.with_needs_approval(why);
            }
        }
        let instructions = CommandInstructions { from, forward, tool: instructions };
        Ok(prepared.with_diff(diff).with_instructions(Payload::of(&instructions)?))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let operation = "apply the change";
        let wanted = approved.change.only_release().map_err(|e| self.mine(e))?;
        revision::absolute(operation, wanted.as_str()).map_err(|e| self.mine(e))?;
        let CommandInstructions { from, forward, tool: instructions } =
            approved.read::<CommandInstructions>().map_err(|e| self.mine(e))?;
        let token = token.read::<CommandToken>().map_err(|e| self.mine(e))?;
        if work.is_cancelled() {
            return Err(self.failed(Kind::Conflict, operation).with_message("the run was told to stop"));
        }
        let now = self.state_after(Some(work.key())).await?;
        if now.part.runs(wanted) {
            let done = now.part.settled == Settled::Yes;
            return Ok(if done { Applied::done() } else { Applied::submitted() });
        }
        if self.fingerprint(&now) != token.state {
            return Err(self
                .failed(Kind::Conflict, operation)
                .with_message(format!("what runs is not what was judged any more: it is {} now", now.part.running)));
        }
        let tool = match &self.options.apply_forward {
            Some(tool) if forward => tool,
            _ => &self.tools.apply,
        };
        let text = token.tool.as_ref().map(|token| match token {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let stdin = serde_json::json!({
            "v": 1,
            "run": work.run(),
            "key": work.key(),
            "epoch": work.epoch(),
            "release": wanted,
            "from": from,
            "why": work.why(),
            "token": token.tool,
            "instructions": instructions,
            "trace": work.trace(),
        });
        if let Some(from) = &from {
            self.notes.put(Note { key: work.key(), from: from.clone(), to: wanted.clone() }).await;
        }
        let mut call = self.of_work("apply", wanted, from.as_ref(), work);
        call.values.push(("token", text));
        call.more.push(("why", Some(work.why().to_owned())));
        call.stdin = Some(stdin.to_string().into_bytes());
        call.at_most = Some(work.within());
        tool.call(call).await.map_err(|e| self.mine(e))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        self.options.record.as_ref()?;
        Some(Arc::new(self.clone()))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        self.options.evidence.as_ref()?;
        Some(Arc::new(self.clone()))
    }
}

fn no_tool(verb: &str) -> Error {
    Error::new(Kind::Unsupported, format!("run the {verb} tool"))
        .with_message("this program was given none")
        .without_effect()
}

#[async_trait]
impl Record for CommandTarget {
    async fn record(&self, label: &str) -> Result<Release> {
        let tool = self.options.record.as_ref().ok_or_else(|| self.mine(no_tool("record")))?;
        let mut call = self.call("record");
        call.values.push(("label", Some(label.to_owned())));
        // It may have had an effect: it pins what runs.
        let mut release = tool.call(call).await.map_err(|e| self.mine(e))?;
        revision::absolute("read what was recorded", release.id.as_str()).map_err(|e| self.mine(e))?;
        // A tool that gave only the id was told what people call it.
        if release.label == release.id.as_str() {
            release.label = label.to_owned();
        }
        Ok(release)
    }
}

#[async_trait]
impl EvidenceSource for CommandTarget {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let tool = self.options.evidence.as_ref().ok_or_else(|| self.mine(no_tool("evidence")))?;
        let mut call = self.call("evidence");
        call.values.extend([
            ("run", Some(work.run().to_string())),
            ("key", Some(work.key())),
            ("epoch", Some(work.epoch().to_string())),
            ("bytes", Some(bounds.bytes.to_string())),
        ]);
        call.at_most = Some(bounds.time);
        let said = tool.call(call).await.map_err(|e| self.read_failed(e))?;
        let (mut left, mut kept) = (bounds.bytes, vec![]);
        for (name, text) in said.texts {
            let text = super::tool::hide(&text, &self.options.env);
            let mut clean = format!("{name}\n{}", text_without_secrets(&text));
            if !clean.ends_with('\n') {
                clean.push('\n');
            }
            keep(work, "command-evidence/1", clean.into_bytes(), &mut left, &mut kept).await?;
        }
        Ok(kept)
    }
}
