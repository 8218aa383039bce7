//! The flag as a target.

use super::{FlagReader, FlagRule, FlagState, FlagStore, FlagWrite, SeenFlag};
use crate::{
    Applied, Approved, Artifact, Bounds, Capabilities, Change, DiffLine, Error, EvidenceSource, Extent, Fencing,
    Finding, Identity, Kind, Look, Mark, Observation, Ours, PartState, Payload, Prepared, Record, Release, Result,
    Running, Settled, Severity, Stored, Target, TargetId, Timestamp, Token, Work, local::own::evidence::keep, seconds,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

/// How far back a rule, a version or a write of ours is looked for.
const FAR: usize = 1000;
/// How many rules stand in the history, so that the kill switch comes soon enough to be seen.
const SHOWN: usize = 20;

/// A feature flag that can be taken back to a rule it had.
///
/// A release is a whole rule: on or off, for how many, for whom. Writes are guarded by the version of the flag, so a rule
/// that somebody else wrote meanwhile is never overwritten.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use rollback_core::{Look, Running, Target, local::{FileFlagStore, FlagRule, FlagTarget}};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("flags.json");
/// let flags = FileFlagStore::open(&path)?;
/// flags.set("new-checkout", FlagRule::on(), "deploy 17", "").await?;
///
/// let target = FlagTarget::new(flags, "new-checkout").kill_switch();
/// let now = target.observe(Look::full()).await?;
/// assert_eq!(now.parts["all"].running, Running::Release(FlagRule::on().release_id()));
/// // It was never off, and can be switched off all the same.
/// assert_eq!(target.history(10).await?[1].id, "off");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct FlagTarget {
    id: TargetId,
    store: Arc<dyn FlagStore>,
    flag: String,
    kill_switch: bool,
    reader: Option<Arc<dyn FlagReader>>,
    read_back_within: Duration,
}

/// The version of the read that was judged.
#[derive(Debug, Serialize, Deserialize)]
struct FlagToken {
    version: String,
    object: Option<String>,
}
impl Stored for FlagToken {
    const NAME: &'static str = "rollback-core/flag-token";
    const VERSION: u32 = 1;
}

/// What is to be written.
#[derive(Debug, Serialize, Deserialize)]
struct FlagInstructions {
    rule: FlagRule,
}
impl Stored for FlagInstructions {
    const NAME: &'static str = "rollback-core/flag-instructions";
    const VERSION: u32 = 1;
}

/// What the write answered.
#[derive(Debug, Serialize, Deserialize)]
struct FlagHandle {
    version: String,
}
impl Stored for FlagHandle {
    const NAME: &'static str = "rollback-core/flag-handle";
    const VERSION: u32 = 1;
}

impl FlagTarget {
    /// A flag of a store. Its id is `flag:<store>#<flag>`.
    pub fn new(store: impl FlagStore, flag: impl Into<String>) -> Self {
        let flag = flag.into();
        Self {
            id: TargetId::new(format!("flag:{}#{flag}", store.id())),
            store: Arc::new(store),
            flag,
            kill_switch: false,
            reader: None,
            read_back_within: seconds(2),
        }
    }
    /// *Off* can always be gone to, as the release `off`, even if the flag was never off: it stands last in the history
    /// then, as what is left when nothing else is.
    pub fn kill_switch(mut self) -> Self {
        self.kill_switch = true;
        self
    }
    /// Asks this reader what the evaluating service really sees: that is what runs. The target is not settled until it
    /// sees what the store was told. A reader that fails or hangs delays only the end of a rollback, never its write.
    ///
    /// ```
    /// # use rollback_core::local::{FileFlagStore, FlagRule, FlagTarget, SeenFlag};
    /// # fn f(store: FileFlagStore) -> FlagTarget {
    /// FlagTarget::new(store, "new-checkout").read_back(|flag: String| async move {
    ///     // Ask the service here, over HTTP or through its flag library.
    ///     let _ = flag;
    ///     Ok(SeenFlag::Rule(FlagRule::off()))
    /// })
    /// # }
    /// ```
    pub fn read_back(mut self, reader: impl FlagReader) -> Self {
        self.reader = Some(Arc::new(reader));
        self
    }
    /// How long the reader may take for one answer. Default: 2 s.
    pub fn with_read_back_within(mut self, within: Duration) -> Self {
        self.read_back_within = within;
        self
    }

    /// What runs, and whether that is what was told.
    async fn running(&self, told: &FlagState) -> Result<(Running, Settled)> {
        let id = told.rule.release_id();
        let Some(reader) = &self.reader else { return Ok((Running::Release(id), Settled::Yes)) };
        let not_yet = |why: String| Settled::NotYet { why };
        let seen = match tokio::time::timeout(self.read_back_within, reader.seen(&self.flag)).await {
            Ok(Ok(seen)) => seen,
            // What runs is not known. It is taken for what was told, but nothing counts as reached: not settled.
            Ok(Err(e)) => return Ok((Running::Release(id), not_yet(format!("the read-back failed: {e}")))),
            Err(_) => {
                let why = format!("the read-back did not answer within {:?}", self.read_back_within);
                return Ok((Running::Release(id), not_yet(why)));
            }
        };
        let agrees = match &seen {
            SeenFlag::Rule(rule) => rule.release_id() == id,
            SeenFlag::Version(version) => *version == told.version,
        };
        if agrees {
            return Ok((Running::Release(id), Settled::Yes));
        }
        let known = self.store.history(&self.flag, FAR).await.map_err(|e| self.mine(e))?;
        let (found, text) = match seen {
            SeenFlag::Rule(rule) => {
                let seen = rule.release_id();
                let known = rule.is_off() || known.iter().any(|s| s.rule.release_id() == seen);
                (if known { Ok(seen) } else { Err(seen.to_string()) }, rule.to_string())
            }
            SeenFlag::Version(version) => match known.iter().find(|s| s.version == version) {
                Some(state) => (Ok(state.rule.release_id()), state.rule.to_string()),
                None => (Err(format!("version {version}")), format!("version {version}")),
            },
        };
        // An older version with the same rule does the same.
        if found.as_ref() == Ok(&id) {
            return Ok((Running::Release(id), Settled::Yes));
        }
        let settled = not_yet(format!("the service sees {text}, not yet {}", told.rule));
        Ok(match found {
            Ok(release) => (Running::Release(release), settled),
            Err(fingerprint) => (Running::Unknown { fingerprint, named: Some(text) }, settled),
        })
    }

    /// What became of the write that a mark names.
    async fn ours(&self, mark: &Mark, now: &FlagState, settled: &Settled) -> Result<Ours> {
        if now.key.as_deref() == Some(&mark.key) {
            return Ok(if *settled == Settled::Yes { Ours::Complete } else { Ours::Current });
        }
        let past = self.store.history(&self.flag, FAR).await.map_err(|e| self.mine(e))?;
        let was_there = past.iter().any(|s| s.key.as_deref() == Some(&mark.key));
        if !was_there {
            // It never happened, nothing needed to be written, or it is too long ago.
            return Ok(Ours::CannotTell);
        }
        let by = if now.by.is_empty() { format!("version {}", now.version) } else { now.by.clone() };
        Ok(Ours::Replaced { by })
    }

    fn mine(&self, e: Error) -> Error {
        e.with_target(&self.id)
    }
    fn failed(&self, kind: Kind, operation: &str) -> Error {
        Error::new(kind, operation).with_target(&self.id).without_effect()
    }
}

impl fmt::Debug for FlagTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlagTarget")
            .field("id", &self.id)
            .field("kill_switch", &self.kill_switch)
            .field("read_back", &self.reader.is_some())
            .finish_non_exhaustive()
    }
}

fn release(state: &FlagState) -> Release {
    let mut release = Release::new(state.rule.release_id()).with_label(state.rule.to_string());
    release.made_at = state.at;
    if !state.why.is_empty() {
        release = release.with_why(state.why.clone());
    }
    release
}

#[async_trait]
impl Target for FlagTarget {
    fn id(&self) -> &TargetId {
        &self.id
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Fencing::Token)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        let now = self.store.read(&self.flag).await.map_err(|e| self.mine(e))?;
        let (running, settled) = self.running(&now).await?;
        let ours = match &look.mark {
            None => Ours::NotAsked,
            Some(mark) => self.ours(mark, &now, &settled).await?,
        };
        let token = FlagToken { version: now.version.clone(), object: now.object.clone() };
        let identity = Identity { scope: self.store.id(), object: now.object.clone() };
        let part = PartState::new(Some(now.rule.release_id()), running).with_settled(settled);
        Ok(Observation::of_one(identity, part, Token(Some(Payload::of(&token)?))).with_ours(ours).with_trace(now.trace))
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        let states = self.store.history(&self.flag, FAR).await.map_err(|e| self.mine(e))?;
        // Where a rule was there twice, its last time counts: what was live before the suspect was live last.
        let mut seen = BTreeSet::new();
        let mut releases: Vec<_> =
            states.iter().filter(|s| seen.insert(s.rule.release_id())).map(release).take(SHOWN).collect();
        let off = FlagRule::off();
        if self.kill_switch && !releases.iter().any(|r| r.id == off.release_id()) {
            releases.push(Release::new(off.release_id()).with_why("kill switch"));
        }
        releases.truncate(limit);
        Ok(releases)
    }
    async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
        let wanted = change.only_release().map_err(|e| self.mine(e))?;
        let states = self.store.history(&self.flag, FAR).await.map_err(|e| self.mine(e).without_effect())?;
        let off = FlagRule::off();
        let rule = if *wanted == off.release_id() && (self.kill_switch || states.iter().any(|s| s.rule.is_off())) {
            off
        } else if let Some(state) = states.iter().find(|s| s.rule.release_id() == *wanted) {
            state.rule.clone()
        } else {
            let known: BTreeSet<_> = states.iter().map(|s| format!("{} ({})", s.rule.release_id(), s.rule)).collect();
            let known = known.into_iter().take(10).collect::<Vec<_>>().join("; ");
            return Err(self
                .failed(Kind::NotFound, "prepare the change")
                .with_message(format!("the flag never was {wanted}, as far back as its store knows: it was {known}")));
        };
        let mut prepared =
            Prepared::new(change).with_instructions(Payload::of(&FlagInstructions { rule: rule.clone() })?);
        if let Some(now) = states.first() {
            prepared = prepared.with_diff(diff(&now.rule, &rule));
            if now.rule.release_id() == *wanted {
                let text = format!("the flag is already {}", now.rule);
                prepared = prepared.with_finding(Finding::new(Severity::Note, "already-so", text));
            }
        }
        Ok(prepared)
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let operation = "write the flag";
        let wanted = approved.change.only_release().map_err(|e| self.mine(e))?;
        let rule = approved.read::<FlagInstructions>().map_err(|e| self.mine(e))?.rule;
        let token = token.read::<FlagToken>().map_err(|e| self.mine(e))?;
        if rule.release_id() != *wanted {
            let message = format!("its instructions say {rule} ({}), not {wanted}: prepare again", rule.release_id());
            return Err(self.failed(Kind::Invalid, operation).with_message(message));
        }
        let now = self.store.read(&self.flag).await.map_err(|e| self.mine(e).without_effect())?;
        if now.object != token.object {
            let message = "the flag was removed and made again: look who did";
            return Err(self.failed(Kind::Conflict, operation).with_message(message));
        }
        let state = if now.rule.release_id() == *wanted {
            now
        } else {
            let write = FlagWrite::new(rule, work.key())
                .with_by(format!("rollback {}", work.run()))
                .with_why(work.why())
                .with_trace(work.trace().cloned());
            self.store.write_if(&self.flag, &token.version, &write).await.map_err(|e| self.mine(e))?
        };
        let extent = if self.reader.is_some() { Extent::Submitted } else { Extent::Done };
        Ok(Applied::new(extent).with_handle(Payload::of(&FlagHandle { version: state.version })?))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        Some(Arc::new(self.clone()))
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Record for FlagTarget {
    /// The rule that the flag has, under this label, with who wrote it and when; the store keeps it. Refused while the
    /// service does not see it yet.
    async fn record(&self, label: &str) -> Result<Release> {
        let now = self.store.read(&self.flag).await.map_err(|e| self.mine(e))?;
        if let (_, Settled::NotYet { why } | Settled::Never { why }) = self.running(&now).await? {
            let message = format!("{why}: record it when the deploy is over");
            return Err(self.failed(Kind::Conflict, "record what the flag says").with_message(message));
        }
        Ok(release(&now).with_label(label))
    }
}

#[async_trait]
impl EvidenceSource for FlagTarget {
    /// Who set the flag to what, newest first, and what the service sees.
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let states = self.store.history(&self.flag, SHOWN).await.map_err(|e| self.mine(e))?;
        let mut text = format!("{} at {}\n", self.id, Timestamp::now());
        if let (Some(_), Some(now)) = (&self.reader, states.first()) {
            let _ = match self.running(now).await {
                Ok((running, settled)) => writeln!(text, "the service sees {running}, {settled:?}"),
                Err(e) => writeln!(text, "{e}"),
            };
        }
        for state in &states {
            let at = state.at.map(|at| at.to_string()).unwrap_or_default();
            let _ = write!(text, "version {} {at}: {}", state.version, state.rule);
            let _ = writeln!(text, ", by {:?}, {:?}, trace {:?}", state.by, state.why, state.trace);
        }
        let (mut left, mut kept) = (bounds.bytes, vec![]);
        keep(work, "flag-history/1", text.into_bytes(), &mut left, &mut kept).await?;
        Ok(kept)
    }
}

fn diff(from: &FlagRule, to: &FlagRule) -> Vec<DiffLine> {
    let whom = |rule: &FlagRule| match rule.is_off() {
        true => "nobody".to_owned(),
        false if rule.scope.is_empty() => "everybody".to_owned(),
        false => rule.scope.iter().cloned().collect::<Vec<_>>().join(", "),
    };
    let share = |rule: &FlagRule| if rule.is_off() { "0%".to_owned() } else { rule.share.to_string() };
    let on = |rule: &FlagRule| if rule.is_off() { "off" } else { "on" };
    [("flag", on(from).into(), on(to).into()), ("share", share(from), share(to)), ("scope", whom(from), whom(to))]
        .into_iter()
        .filter(|(_, from, to): &(_, String, String)| from != to)
        .map(|(what, from, to)| DiffLine::new(what, from, to))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Effect, RunId, Timestamp, Trace, Weight, local::FileFlagStore, local::no_shelf::work};
    use std::sync::Mutex;

    async fn flags() -> (tempfile::TempDir, FileFlagStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = FileFlagStore::open(dir.path().join("flags.json")).unwrap();
        (dir, store)
    }
    fn some(percent: u16) -> FlagRule {
        FlagRule::on().with_share(Weight::percent(percent))
    }
    fn change(rule: &FlagRule) -> Change {
        Change::release(&"all".into(), &rule.release_id())
    }
    async fn go(target: &FlagTarget, rule: &FlagRule, key: &str) -> Result<Applied> {
        let work = work(key);
        let prepared = target.prepare(&change(rule), &work).await?;
        let token = target.observe(Look::full()).await?.token;
        target.apply(&prepared.approved, token, &work).await
    }
    async fn running(target: &FlagTarget) -> (Running, Settled) {
        let now = target.observe(Look::full()).await.unwrap();
        (now.parts["all"].running.clone(), now.parts["all"].settled.clone())
    }
    fn ids(releases: &[Release]) -> Vec<String> {
        releases.iter().map(|r| r.label.clone()).collect()
    }

    #[tokio::test]
    async fn goes_back_to_the_rule_before_and_leaves_its_trace() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "deploy 1", "canary").await.unwrap();
        store.set("f", some(100), "deploy 2", "all").await.unwrap();
        let target = FlagTarget::new(store.clone(), "f");
        let history = target.history(10).await.unwrap();
        assert_eq!(ids(&history), ["on for everybody", "on for 5% of all"]);
        assert_eq!(history[1].why.as_deref(), Some("canary"));

        let trace = Trace {
            run: RunId::from("r1"),
            left: some(100).release_id(),
            reached: some(5).release_id(),
            at: Timestamp(1),
        };
        let work = work("r1").with_why("it fails").with_trace(Some(trace.clone()));
        let prepared = target.prepare(&change(&some(5)), &work).await.unwrap();
        assert_eq!(prepared.approved.diff, [DiffLine::new("share", "100%", "5%")]);
        let token = target.observe(Look::full()).await.unwrap().token;
        let applied = target.apply(&prepared.approved, token, &work).await.unwrap();
        assert_eq!(applied.extent, Extent::Done);

        let now = target.observe(Look::full().with_mark(Some(Mark::new(work.key())))).await.unwrap();
        assert_eq!((now.ours, now.trace), (Ours::Complete, Some(trace)));
        assert_eq!(now.parts["all"], PartState::of(some(5).release_id()));
        let state = store.read("f").await.unwrap();
        assert_eq!((state.by.as_str(), state.why.as_str()), ("rollback r1", "it fails"));
        // What is live stands first; what was left is what comes before it.
        assert_eq!(ids(&target.history(10).await.unwrap()), ["on for 5% of all", "on for everybody"]);
    }

    #[tokio::test]
    async fn the_kill_switch_is_always_there_and_last() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "", "").await.unwrap();
        store.set("f", some(50), "", "").await.unwrap();
        let plain = FlagTarget::new(store.clone(), "f");
        assert_eq!(plain.prepare(&change(&FlagRule::off()), &work("k")).await.unwrap_err().kind(), Kind::NotFound);
        let target = plain.kill_switch();
        assert_eq!(ids(&target.history(10).await.unwrap()), ["on for 50% of all", "on for 5% of all", "off"]);
        go(&target, &FlagRule::off(), "k").await.unwrap();
        assert_eq!(running(&target).await, (Running::Release("off".into()), Settled::Yes));
        assert_eq!(ids(&target.history(10).await.unwrap()), ["off", "on for 50% of all", "on for 5% of all"]);
        // And on again: off has not become another release.
        go(&target, &some(50), "k2").await.unwrap();
        assert_eq!(ids(&target.history(10).await.unwrap()), ["on for 50% of all", "off", "on for 5% of all"]);
    }

    #[tokio::test]
    async fn someone_elses_write_is_never_overwritten() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "", "").await.unwrap();
        store.set("f", some(50), "", "").await.unwrap();
        let target = FlagTarget::new(store.clone(), "f");
        let work = work("k");
        let prepared = target.prepare(&change(&some(5)), &work).await.unwrap();
        let token = target.observe(Look::full()).await.unwrap().token;
        store.set("f", some(70), "a person", "").await.unwrap();
        let e = target.apply(&prepared.approved, token, &work).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None));
        assert_eq!(running(&target).await.0, Running::Release(some(70).release_id()));
        // After our own write, it is told who came after us.
        go(&target, &some(5), "k").await.unwrap();
        store.set("f", some(71), "a person", "").await.unwrap();
        let now = target.observe(Look::full().with_mark(Some(Mark::new(work.key())))).await.unwrap();
        assert_eq!(now.ours, Ours::Replaced { by: "a person".into() });
    }

    #[tokio::test]
    async fn the_same_again_writes_nothing() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "", "").await.unwrap();
        store.set("f", some(50), "", "").await.unwrap();
        let target = FlagTarget::new(store.clone(), "f");
        let work = work("k");
        let prepared = target.prepare(&change(&some(5)), &work).await.unwrap();
        let token = target.observe(Look::full()).await.unwrap().token;
        for token in [token.clone(), token, target.observe(Look::full()).await.unwrap().token] {
            target.apply(&prepared.approved, token, &work).await.unwrap();
        }
        assert_eq!(store.history("f", 10).await.unwrap().len(), 3);
        // Prepared once more, it says so.
        let again = target.prepare(&change(&some(5)), &work).await.unwrap();
        assert_eq!(again.findings[0].code, "already-so");
        assert_eq!(again.approved.diff, []);
    }

    #[tokio::test]
    async fn a_flag_made_anew_is_another_one() {
        let (dir, store) = flags().await;
        store.set("f", some(5), "", "").await.unwrap();
        store.set("f", some(50), "", "").await.unwrap();
        let target = FlagTarget::new(store.clone(), "f");
        let work = work("k");
        let prepared = target.prepare(&change(&some(5)), &work).await.unwrap();
        let before = target.observe(Look::full()).await.unwrap();
        std::fs::remove_file(dir.path().join("flags.json")).unwrap();
        assert_eq!(target.observe(Look::full()).await.unwrap_err().kind(), Kind::NotFound);
        store.set("f", some(1), "", "").await.unwrap();
        store.set("f", some(2), "", "").await.unwrap();
        assert_ne!(target.observe(Look::full()).await.unwrap().identity, before.identity);
        let e = target.apply(&prepared.approved, before.token, &work).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None));
    }

    #[tokio::test]
    async fn what_was_never_there_or_is_no_release_is_refused() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "", "").await.unwrap();
        let target = FlagTarget::new(store, "f");
        let e = target.prepare(&change(&some(6)), &work("k")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        assert!(e.message().contains("on for 5% of all"), "{e}");
        assert_eq!(target.prepare(&Change::Halt, &work("k")).await.unwrap_err().kind(), Kind::Unsupported);
        let unknown = FlagTarget::new(FileFlagStore::open(_dir.path().join("other.json")).unwrap(), "f").kill_switch();
        assert_eq!(unknown.history(10).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(unknown.prepare(&change(&FlagRule::off()), &work("k")).await.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn what_runs_is_what_the_service_sees() {
        let (_dir, store) = flags().await;
        let old = store.set("f", some(5), "", "").await.unwrap();
        let new = store.set("f", some(50), "", "").await.unwrap();
        let sees = Arc::new(Mutex::new(SeenFlag::Version(new.version.clone())));
        let says = sees.clone();
        let target = FlagTarget::new(store, "f").read_back(move |_| {
            let seen = says.lock().unwrap().clone();
            async move { Ok(seen) }
        });
        assert_eq!(running(&target).await, (Running::Release(some(50).release_id()), Settled::Yes));
        let applied = go(&target, &some(5), "k").await.unwrap();
        assert_eq!(applied.extent, Extent::Submitted);
        let mark = Look::quick().with_mark(Some(Mark::new(work("k").key())));
        let now = target.observe(mark.clone()).await.unwrap();
        assert_eq!(now.ours, Ours::Current);
        assert_eq!(now.parts["all"].wanted, Some(some(5).release_id()));
        assert_eq!(now.parts["all"].running, Running::Release(some(50).release_id()));
        assert!(matches!(&now.parts["all"].settled, Settled::NotYet { why } if why.contains("on for 50%")), "{now:?}");
        // The rule counts, not by which write the service has it.
        for seen in [SeenFlag::Rule(some(5)), SeenFlag::Version(old.version)] {
            *sees.lock().unwrap() = seen;
            let now = target.observe(mark.clone()).await.unwrap();
            assert_eq!((now.ours, &now.parts["all"]), (Ours::Complete, &PartState::of(some(5).release_id())));
        }
        *sees.lock().unwrap() = SeenFlag::Rule(some(33));
        let (unknown, settled) = running(&target).await;
        assert!(matches!(unknown, Running::Unknown { .. }) && settled != Settled::Yes);
        *sees.lock().unwrap() = SeenFlag::Version("no such".into());
        assert!(matches!(running(&target).await.0, Running::Unknown { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_hangs_or_fails_delays_but_does_not_stop() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "", "").await.unwrap();
        store.set("f", some(50), "", "").await.unwrap();
        let hangs = FlagTarget::new(store.clone(), "f").read_back(|_| std::future::pending());
        let fails = FlagTarget::new(store.clone(), "f")
            .read_back(|_| async { Err(Error::new(Kind::Unavailable, "ask the service")) });
        for (target, rule) in [(hangs, some(5)), (fails, some(50))] {
            go(&target, &rule, rule.release_id().as_str()).await.unwrap();
            assert_eq!(store.read("f").await.unwrap().rule, rule);
            let (seen, settled) = running(&target).await;
            assert_eq!(seen, Running::Release(rule.release_id()));
            assert!(matches!(settled, Settled::NotYet { .. }), "{settled:?}");
        }
    }

    #[tokio::test]
    async fn a_deploy_is_recorded_once_the_service_sees_it() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "ann", "deploy 17").await.unwrap();
        let sees = Arc::new(Mutex::new(some(5)));
        let says = sees.clone();
        let target = FlagTarget::new(store.clone(), "f").read_back(move |_| {
            let rule = says.lock().unwrap().clone();
            async move { Ok(SeenFlag::Rule(rule)) }
        });
        let journal = crate::journal::MemoryJournal::new();
        let entry = crate::record::record(&target, &journal, "1.0", Timestamp(1)).await.unwrap();
        assert_eq!((&entry.release.id, entry.release.label.as_str()), (&some(5).release_id(), "1.0"));
        assert_eq!(entry.release.why.as_deref(), Some("deploy 17"));
        store.set("f", some(50), "ann", "deploy 18").await.unwrap();
        let e = target.recorder().unwrap().record("1.1").await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        *sees.lock().unwrap() = some(50);
        assert_eq!(target.recorder().unwrap().record("1.1").await.unwrap().id, some(50).release_id());
    }

    #[tokio::test]
    async fn evidence_is_who_set_it_to_what_and_what_is_seen() {
        let (_dir, store) = flags().await;
        store.set("f", some(5), "ann", "deploy 17").await.unwrap();
        store.set("f", some(50), "ben", "deploy 18").await.unwrap();
        let target = FlagTarget::new(store, "f").read_back(|_| async { Ok(SeenFlag::Rule(some(5))) });
        let shelf = Arc::new(crate::journal::MemoryShelf::new());
        let work = Work::new("r".into(), 1, "evidence", seconds(5), shelf);
        for (bytes, all) in [(10_000, true), (20, false)] {
            let bounds = Bounds { time: seconds(5), bytes };
            let kept = target.evidence().unwrap().collect(bounds, &work).await.unwrap();
            let text = work.open(&kept[0]).await.unwrap().next().await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&text);
            assert_eq!((kept.len(), text.len() as u64 <= bytes), (1, true));
            let order = text.find("deploy 18").zip(text.find("deploy 17")).is_some_and(|(new, old)| new < old);
            let seen = text.contains(&format!("the service sees {}", some(5).release_id()));
            assert_eq!((order, seen), (all, all), "{text}");
        }
    }
}
