//! What a tool answers, and how it stands in JSON.

use super::revision;
use crate::{
    Applied, DiffLine, Error, Extent, Finding, Kind, PartState, Payload, Release, ReleaseId, Result, Running, Settled,
    Severity, Stored, Timestamp, Trace,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How much a prepare may hand to the apply; it is journalled.
const INSTRUCTIONS_MOST: usize = 64 << 10;

/// What a call of a tool answers: each kind can be read from the JSON of the [protocol](super).
pub trait ToolAnswer: sealed::Read {}
impl<T: sealed::Read> ToolAnswer for T {}

pub(super) mod sealed {
    pub trait Read: Sized + Send + 'static {
        /// What was expected, for people who see something else.
        const EXPECTED: &'static str;
        /// What an empty output means, if it means something.
        fn nothing() -> Option<Self> {
            None
        }
        fn json(text: &str) -> Result<Self, String>;
    }
}
use sealed::Read;

fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// What an observe answers: what runs, and what tells this object from another.
///
/// ```
/// # use rollback_core::local::{Tool, ToolState};
/// // A tool that prints one revision and nothing else.
/// let observe = Tool::run(["db-version"]).read_by(|out| Ok(ToolState::runs(out.text().trim())));
/// # let _: Tool<ToolState> = observe;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ToolState {
    /// What runs, what it was told to run, whether it is settled.
    pub part: PartState,
    /// Which cluster, account, host. `None`: the id of the target.
    pub scope: Option<String>,
    /// What tells the object from another one of the same name.
    pub object: Option<String>,
    /// What apply is to be given, so that it can refuse if something changed meanwhile. Not journalled.
    pub token: Option<Value>,
    /// Who else writes here.
    pub owners: Vec<String>,
    /// What the last rollback left, if the tool can keep it.
    pub trace: Option<Trace>,
}

impl ToolState {
    /// A state of one part.
    pub fn new(part: PartState) -> Self {
        Self { part, scope: None, object: None, token: None, owners: vec![], trace: None }
    }
    /// A release runs, and it is settled.
    pub fn runs(release: impl Into<ReleaseId>) -> Self {
        Self::new(PartState::new(None, Running::Release(release.into())))
    }
    /// Which cluster, account, host, and which object in it.
    pub fn with_identity(mut self, scope: impl Into<String>, object: Option<String>) -> Self {
        self.scope = Some(scope.into());
        self.object = object;
        self
    }
    /// What apply is to be given.
    pub fn with_token(mut self, token: impl Into<Value>) -> Self {
        self.token = Some(token.into());
        self
    }
    /// Who else writes here.
    pub fn with_owners(mut self, owners: impl IntoIterator<Item = String>) -> Self {
        self.owners = owners.into_iter().collect();
        self
    }
    /// What the last rollback left.
    pub fn with_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateJson {
    // `null` means that nothing runs, and must be said.
    running: RunningJson,
    #[serde(default)]
    wanted: Option<String>,
    #[serde(default)]
    settled: SettledJson,
    #[serde(default)]
    ready: Option<u32>,
    #[serde(default)]
    capacity: Option<u32>,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    object: Option<String>,
    #[serde(default)]
    token: Option<Value>,
    #[serde(default)]
    owners: Vec<String>,
    #[serde(default)]
    trace: Option<Trace>,
}

// Not an Option: serde would take a missing one for null.
#[derive(Deserialize)]
#[serde(untagged, expecting = "running is an id, null, or an object: mixed, between or unknown")]
enum RunningJson {
    Release(String),
    Other(OtherJson),
    Nothing(()),
}
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OtherJson {
    Mixed(BTreeMap<String, u32>),
    Between { from: String, to: String, state: String },
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SettledJson {
    Is(bool),
    NotYet(String),
    Never { never: String },
}
impl Default for SettledJson {
    fn default() -> Self {
        SettledJson::Is(true)
    }
}

fn id(revision: &str) -> Result<ReleaseId, String> {
    revision::absolute("read the answer", revision).map_err(|e| e.message().to_owned())
}

impl Read for ToolState {
    const EXPECTED: &'static str = r#"an object with "running", such as {"running": "4f2a91c0d1e2"}"#;

    fn json(text: &str) -> Result<Self, String> {
        let json: StateJson = parse(text)?;
        let running = match json.running {
            RunningJson::Nothing(()) => Running::Nothing,
            RunningJson::Release(release) => Running::Release(id(&release)?),
            RunningJson::Other(OtherJson::Unknown(fingerprint)) => Running::Unknown { fingerprint, named: None },
            RunningJson::Other(OtherJson::Between { from, to, state }) => {
                Running::Between { from: id(&from)?, to: id(&to)?, state }
            }
            RunningJson::Other(OtherJson::Mixed(all)) => Running::Mixed(
                all.into_iter().map(|(release, n)| Ok((id(&release)?, n))).collect::<Result<_, String>>()?,
            ),
        };
        let mut part =
            PartState::new(json.wanted.as_deref().map(id).transpose()?, running).with_addresses(json.addresses);
        part.capacity = json.capacity;
        part.ready = json.ready;
        part.settled = match json.settled {
            SettledJson::Is(true) => Settled::Yes,
            SettledJson::Is(false) => Settled::NotYet { why: "the tool says so, and not why".into() },
            SettledJson::NotYet(why) => Settled::NotYet { why },
            SettledJson::Never { never } => Settled::Never { why: never },
        };
        Ok(Self {
            part,
            scope: json.scope,
            object: json.object,
            token: json.token,
            owners: json.owners,
            trace: json.trace,
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a release is an id, or an object with an id")]
enum ReleaseJson {
    Id(String),
    Whole(WholeJson),
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WholeJson {
    id: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    made_at: Option<String>,
    #[serde(default)]
    available: Option<bool>,
}

impl ReleaseJson {
    fn read(self) -> Result<Release, String> {
        let whole = match self {
            ReleaseJson::Id(only) => return Ok(Release::new(id(&only)?)),
            ReleaseJson::Whole(whole) => whole,
        };
        let mut release = Release::new(id(&whole.id)?);
        if let Some(label) = whole.label {
            release.label = label;
        }
        release.why = whole.why;
        release.made_at =
            whole.made_at.map(|at| Timestamp::parse(&at).map_err(|e| e.message().to_owned())).transpose()?;
        release.available = whole.available.unwrap_or(true);
        Ok(release)
    }
}

impl Read for Vec<Release> {
    const EXPECTED: &'static str = r#"an array of releases, newest first, such as ["77b0", "4f2a91c0d1e2"]"#;

    fn json(text: &str) -> Result<Self, String> {
        parse::<Vec<ReleaseJson>>(text)?.into_iter().map(ReleaseJson::read).collect()
    }
}

impl Read for Release {
    const EXPECTED: &'static str = r#"a release, such as "4f2a91c0d1e2" or {"id": "4f2a91c0d1e2", "label": "2.3.9"}"#;

    fn json(text: &str) -> Result<Self, String> {
        parse::<ReleaseJson>(text)?.read()
    }
}

/// What an evidence tool answers: texts by name.
///
/// ```
/// # use rollback_core::local::{Tool, ToolEvidence};
/// // A tool that prints text and nothing else.
/// let locks = Tool::run(["db-locks"]).read_by(|out| Ok(ToolEvidence::new().with_text("locks", out.text())));
/// # let _: Tool<ToolEvidence> = locks;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolEvidence {
    /// By name, in order.
    pub texts: Vec<(String, String)>,
}

impl ToolEvidence {
    /// Nothing to save.
    pub fn new() -> Self {
        Self::default()
    }
    /// A text to save, under a name for people. No secrets.
    pub fn with_text(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.texts.push((name.into(), text.into()));
        self
    }
}

impl Read for ToolEvidence {
    const EXPECTED: &'static str = r#"an object of texts by name, such as {"locks": "orders: none"}"#;

    fn nothing() -> Option<Self> {
        Some(Self::new())
    }
    fn json(text: &str) -> Result<Self, String> {
        let texts = parse::<BTreeMap<String, Value>>(text)?.into_iter().map(|(name, value)| match value {
            Value::String(text) => (name, text),
            other => (name, format!("{other:#}")),
        });
        Ok(Self { texts: texts.collect() })
    }
}

impl Read for ReleaseId {
    const EXPECTED: &'static str = r#"the id of a release as JSON, such as "4f2a91c0d1e2""#;

    fn json(text: &str) -> Result<Self, String> {
        id(&parse::<String>(text)?)
    }
}

/// What a prepare answers.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolPrepared {
    /// What changes, for people. No secrets.
    pub diff: Vec<DiffLine>,
    /// Why a person must say yes, if one must.
    pub needs_approval: Option<String>,
    /// What was found out.
    pub findings: Vec<Finding>,
    /// What apply is to be given, exactly as it was approved.
    pub instructions: Option<Value>,
}

impl ToolPrepared {
    /// Nothing to say.
    pub fn new() -> Self {
        Self::default()
    }
    /// What changes.
    pub fn with_diff(mut self, diff: impl IntoIterator<Item = DiffLine>) -> Self {
        self.diff = diff.into_iter().collect();
        self
    }
    /// A person must say yes.
    pub fn with_needs_approval(mut self, why: impl Into<String>) -> Self {
        self.needs_approval = Some(why.into());
        self
    }
    /// Something was found out.
    pub fn with_finding(mut self, finding: Finding) -> Self {
        self.findings.push(finding);
        self
    }
    /// What apply is to be given.
    pub fn with_instructions(mut self, instructions: impl Into<Value>) -> Self {
        self.instructions = Some(instructions.into());
        self
    }
    /// What is journalled has a bound.
    pub(super) fn bounded(self) -> Result<Self> {
        let size = self.instructions.as_ref().map_or(0, |i| i.to_string().len());
        if size > INSTRUCTIONS_MOST {
            return Err(Error::new(Kind::Invalid, "read the instructions")
                .with_message(format!(
                    "they have {size} bytes, and at most {INSTRUCTIONS_MOST} are journalled: keep bulk in a file, and its \
                     name and digest in the instructions"
                ))
                .without_effect());
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PreparedJson {
    #[serde(default)]
    diff: Vec<DiffJson>,
    #[serde(default)]
    needs_approval: Option<String>,
    #[serde(default)]
    findings: Vec<FindingJson>,
    #[serde(default)]
    instructions: Option<Value>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffJson {
    what: String,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingJson {
    severity: SeverityJson,
    code: String,
    text: String,
}
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SeverityJson {
    Note,
    Warning,
    Blocks,
}

impl Read for ToolPrepared {
    const EXPECTED: &'static str = r#"an object with "diff", "needs_approval", "findings" or "instructions""#;

    fn json(text: &str) -> Result<Self, String> {
        let json: PreparedJson = parse(text)?;
        Ok(Self {
            diff: json.diff.into_iter().map(|d| DiffLine { what: d.what, from: d.from, to: d.to }).collect(),
            needs_approval: json.needs_approval,
            findings: json
                .findings
                .into_iter()
                .map(|f| {
                    let severity = match f.severity {
                        SeverityJson::Note => Severity::Note,
                        SeverityJson::Warning => Severity::Warning,
                        SeverityJson::Blocks => Severity::Blocks,
                    };
                    Finding::new(severity, f.code, f.text)
                })
                .collect(),
            instructions: json.instructions,
        })
    }
}

/// What a tool calls a write that it accepted.
#[derive(Debug, Serialize, Deserialize)]
struct ToolHandle {
    handle: Value,
}
impl Stored for ToolHandle {
    const NAME: &'static str = "rollback-core/command-handle";
    const VERSION: u32 = 1;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppliedJson {
    #[serde(default)]
    extent: ExtentJson,
    #[serde(default)]
    handle: Option<Value>,
}
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ExtentJson {
    #[default]
    Done,
    Submitted,
    Partial {
        done: u64,
        of: u64,
        #[serde(default)]
        reasons: BTreeMap<String, u64>,
    },
    NotStarted(String),
}

impl Read for Applied {
    const EXPECTED: &'static str = r#"nothing, or an object such as {"extent": "done"}"#;

    fn nothing() -> Option<Self> {
        Some(Applied::done())
    }
    fn json(text: &str) -> Result<Self, String> {
        let json: AppliedJson = parse(text)?;
        let mut applied = Applied::new(match json.extent {
            ExtentJson::Done => Extent::Done,
            ExtentJson::Submitted => Extent::Submitted,
            ExtentJson::Partial { done, of, reasons } => Extent::Partial { done, of, reasons },
            ExtentJson::NotStarted(why) => Extent::NotStarted { why },
        });
        if let Some(handle) = json.handle {
            applied = applied.with_handle(Payload::of(&ToolHandle { handle }).map_err(|e| e.to_string())?);
        }
        Ok(applied)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn state(text: &str) -> Result<ToolState, String> {
        ToolState::json(text)
    }

    #[test]
    fn states() {
        assert_eq!(state(r#"{"running":"a1"}"#).unwrap(), ToolState::runs("a1"));
        assert_eq!(state(r#"{"running":null}"#).unwrap().part.running, Running::Nothing);
        let whole = state(
            r#"{"running":{"between":{"from":"b","to":"a","state":"2 of 5"}},"wanted":"a","settled":"locks","ready":1,
                "capacity":2,"addresses":["x:1"],"scope":"s","object":"o","token":{"n":1},"owners":["ci"],
                "trace":{"run":"r","left":"b","reached":"a","at":7}}"#,
        )
        .unwrap();
        assert_eq!(whole.part.running, Running::Between { from: "b".into(), to: "a".into(), state: "2 of 5".into() });
        assert_eq!((whole.part.ready, whole.part.capacity), (Some(1), Some(2)));
        assert_eq!(whole.part.settled, Settled::NotYet { why: "locks".into() });
        assert_eq!((whole.scope.as_deref(), whole.object.as_deref()), (Some("s"), Some("o")));
        assert_eq!(whole.trace.unwrap().at, Timestamp(7));
        let never = state(r#"{"running":{"unknown":"f"},"settled":{"never":"gone"}}"#).unwrap();
        assert_eq!(never.part.settled, Settled::Never { why: "gone".into() });
        let mixed = state(r#"{"running":{"mixed":{"a":2,"b":1}},"settled":false}"#).unwrap();
        assert_eq!(mixed.part.running.to_string(), "2 × a, 1 × b");
        assert!(matches!(mixed.part.settled, Settled::NotYet { .. }));
    }

    #[test]
    fn what_is_missing_misspelt_or_relative_is_refused() {
        for bad in [
            "{}",
            r#"{"wanted":"a"}"#,
            r#"{"running":"a","tokn":1}"#,
            r#"{"running":7}"#,
            r#"{"running":{"betwixt":{}}}"#,
            r#"{"running":"head"}"#,
            r#"{"running":"-1"}"#,
            r#"{"running":""}"#,
            r#"{"running":"a"} trailing"#,
            "[]",
        ] {
            assert!(state(bad).is_err(), "{bad}");
        }
        for bad in [r#"["a","head"]"#, r#"[{"label":"x"}]"#, r#"[{"id":"a","made_at":"soon"}]"#, r#""a""#] {
            assert!(<Vec<Release>>::json(bad).is_err(), "{bad}");
        }
        for bad in ["a", r#""-1""#, "7"] {
            assert!(ReleaseId::json(bad).is_err(), "{bad}");
        }
        for bad in [r#"{"needs_aproval":"x"}"#, r#"{"findings":[{"severity":"bad","code":"","text":""}]}"#] {
            assert!(ToolPrepared::json(bad).is_err(), "{bad}");
        }
        assert!(Applied::json(r#"{"extent":"finished"}"#).is_err());
    }

    #[test]
    fn releases_and_applied() {
        let all = <Vec<Release>>::json(
            r#"["c",{"id":"b","label":"B","why":"w","made_at":"2026-11-20T09:00:00Z","available":false}]"#,
        )
        .unwrap();
        assert_eq!(all[0], Release::new("c"));
        assert_eq!((all[1].label.as_str(), all[1].available), ("B", false));
        assert_eq!(all[1].made_at.unwrap().to_string(), "2026-11-20T09:00:00.000Z");
        assert_eq!(Applied::json("{}").unwrap(), Applied::done());
        let partial = Applied::json(r#"{"extent":{"partial":{"done":1,"of":3}},"handle":7}"#).unwrap();
        assert_eq!(partial.extent, Extent::Partial { done: 1, of: 3, reasons: BTreeMap::new() });
        assert!(partial.handle.is_some());
        let not = Applied::json(r#"{"extent":{"not_started":"locked"}}"#).unwrap();
        assert_eq!(not.extent, Extent::NotStarted { why: "locked".into() });
    }

    #[test]
    fn instructions_have_a_bound() {
        assert!(ToolPrepared::new().with_instructions("x".repeat(INSTRUCTIONS_MOST - 2)).bounded().is_ok());
        let e = ToolPrepared::new().with_instructions("x".repeat(INSTRUCTIONS_MOST)).bounded().unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
    }
}
