//! A change made ready, and what became of it.

use crate::{
    Change, Digest, Error, Handle, Identity, Kind, Landing, Payload, ReleaseId, Result, Stored, change::Shape,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Good to know.
    Note,
    /// A person has to do it once the change is made: the report has it among what is still to do.
    ToDo,
    /// Somebody should look.
    Warning,
    /// The change must not be made.
    Blocks,
}

/// What was found out while a change was made ready: a missing permission, an image that is gone, another owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// For programs: `owner`, `permission`, `mutable-tag`.
    pub code: String,
    /// For people, with what would lift it.
    pub text: String,
}

impl Finding {
    /// A finding.
    pub fn new(severity: Severity, code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity, code: code.into(), text: text.into() }
    }
}

/// `Warning: the tag is mutable`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Severity::ToDo => write!(f, "To do afterwards: {}", self.text),
            severity => write!(f, "{severity:?}: {}", self.text),
        }
    }
}

/// One line of a diff, for people. Secrets must not get in here: it is journalled and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffLine {
    /// What changes: `image`, `keys to copy`.
    pub what: String,
    /// From what; `None` where it was not there.
    pub from: Option<String>,
    /// To what; `None` where it will be gone.
    pub to: Option<String>,
}

impl DiffLine {
    /// From one value to another.
    pub fn new(what: impl Into<String>, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { what: what.into(), from: Some(from.into()), to: Some(to.into()) }
    }
}

/// `image: shop:2 → shop:1`; without a side to begin with `order: start first`.
impl fmt::Display for DiffLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
        // Where there is nothing to compare with, it is said as it will be.
        if self.from.as_deref() == Some("") {
            return write!(f, "{}: {}", self.what, side(&self.to));
        }
        write!(f, "{}: {} → {}", self.what, side(&self.from), side(&self.to))
    }
}

/// Bulk that lies on the [`Shelf`](crate::Shelf): a manifest, a saved plan, a bundle of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Of its bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
    /// What it is, with a version: `s3-manifest/1`.
    pub kind: String,
}

/// How it is to be afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// So.
    Known(Shape),
    /// The platform decides.
    Platform {
        /// Where it says that it lands.
        landing: Landing,
        /// Where it must not.
        never: ReleaseId,
    },
}

/// The half of a prepared change that an approval binds to. Nothing volatile is in it, so its digest stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Approved {
    /// What.
    pub change: Change,
    /// How: small. Bulk goes into `artifact`.
    pub instructions: Option<Box<Payload>>,
    /// How, in bulk.
    pub artifact: Option<Box<Artifact>>,
    /// What changes, for people.
    pub diff: Vec<DiffLine>,
    /// How it is to be afterwards.
    pub expected: Expected,
    /// Why a person must say yes to it, if one must: `drops column orders.note: 1 204 rows lose it`.
    pub needs_approval: Option<String>,
}

impl Approved {
    /// What an approval names.
    pub fn digest(&self) -> Digest {
        // serde_json writes struct fields in the order of their declaration and BTreeMaps in order: canonical enough.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
    /// Reads the instructions.
    ///
    /// # Errors
    /// As [`Payload::read`]; [`Kind::Invalid`] where there are none.
    pub fn read<T: Stored>(&self) -> Result<T> {
        let payload = self.instructions.as_ref().ok_or_else(|| {
            Error::new(Kind::Invalid, "read the instructions").with_message("there are none").without_effect()
        })?;
        payload.read()
    }
}

/// A change made ready, without touching the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prepared {
    /// What an approval binds to.
    pub approved: Approved,
    /// What was found out; not part of the digest, because it changes from look to look.
    pub findings: Vec<Finding>,
}

impl Prepared {
    /// A change that needs nothing else.
    pub fn new(change: &Change) -> Self {
        let expected = match change {
            Change::Reach(shape) => Expected::Known(shape.clone()),
            Change::Abort { expect, never } => Expected::Platform { landing: expect.clone(), never: never.clone() },
            Change::Halt | Change::Verb { .. } => Expected::Known(Shape::default()),
        };
        let approved = Approved {
            change: change.clone(),
            instructions: None,
            artifact: None,
            diff: vec![],
            expected,
            needs_approval: None,
        };
        Self { approved, findings: vec![] }
    }
    /// How: small.
    pub fn with_instructions(mut self, instructions: Payload) -> Self {
        self.approved.instructions = Some(Box::new(instructions));
        self
    }
    /// How, in bulk.
    pub fn with_artifact(mut self, artifact: Artifact) -> Self {
        self.approved.artifact = Some(Box::new(artifact));
        self
    }
    /// What changes, for people.
    pub fn with_diff(mut self, diff: impl IntoIterator<Item = DiffLine>) -> Self {
        self.approved.diff = diff.into_iter().collect();
        self
    }
    /// How it is to be afterwards.
    pub fn with_expected(mut self, expected: Expected) -> Self {
        self.approved.expected = expected;
        self
    }
    /// A person must say yes.
    pub fn with_needs_approval(mut self, why: impl Into<String>) -> Self {
        self.approved.needs_approval = Some(why.into());
        self
    }
    /// Something was found out.
    pub fn with_finding(mut self, finding: Finding) -> Self {
        self.findings.push(finding);
        self
    }
}

/// How far a write came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// All of it, and it stands.
    Done,
    /// The platform has it and carries it out by itself.
    Submitted,
    /// Some of it. It is sent again, and goes on from its checkpoint, as long as `done` grows.
    Partial {
        /// So many.
        done: u64,
        /// Of so many.
        of: u64,
        /// Why not the others, with how many each.
        reasons: BTreeMap<String, u64>,
    },
    /// Nothing of it, and trying again will not help.
    NotStarted {
        /// Why not.
        why: String,
    },
}

/// What a write answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Applied {
    /// How far it came.
    pub extent: Extent,
    /// What the platform calls it.
    pub handle: Option<Handle>,
    /// The object is another one now: a restored database.
    pub new_identity: Option<Identity>,
    /// What happened meanwhile that was not of its doing, or did not come about, for the report's timeline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Applied {
    /// All of it.
    pub fn done() -> Self {
        Self::new(Extent::Done)
    }
    /// The platform carries it out.
    pub fn submitted() -> Self {
        Self::new(Extent::Submitted)
    }
    /// So far.
    pub fn new(extent: Extent) -> Self {
        Self { extent, handle: None, new_identity: None, notes: vec![] }
    }
    /// What the platform calls it.
    pub fn with_handle(mut self, handle: Payload) -> Self {
        self.handle = Some(Handle(handle));
        self
    }
    /// What happened meanwhile.
    pub fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }
    /// The object is another one now.
    pub fn with_new_identity(mut self, identity: Identity) -> Self {
        self.new_identity = Some(identity);
        self
    }
}
