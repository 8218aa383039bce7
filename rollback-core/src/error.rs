//! The one error of the library: what kind, worth trying again or not, may it have taken effect, what was being done,
//! to what, and why.

use crate::TargetId;
use serde::{Deserialize, Serialize};
use std::{error::Error as StdError, fmt};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// It is not there.
    NotFound,
    /// It changed since it was read; somebody else holds it.
    Conflict,
    /// What was prepared is outdated: prepare again, and ask for approval again.
    Stale,
    /// Not allowed.
    Denied,
    /// The input is wrong; trying again will not help.
    Invalid,
    /// This target, or this version of the library, cannot do it.
    Unsupported,
    /// Did not answer, or not now. The only kind that is transient unless said otherwise.
    Unavailable,
    /// Anything else.
    Unexpected,
}

/// Could a failed write have taken effect?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// It certainly had none: the write may be sent again.
    None,
    /// Nobody knows: look before you write again. The default, because forgetting to say is the common mistake.
    #[default]
    Unknown,
}

/// The half of an [`Error`] that is data: events, journal entries and reports carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// What kind of failure.
    pub kind: Kind,
    /// Worth trying again, unchanged, after a while.
    pub transient: bool,
    /// Whether a write may have happened all the same.
    pub effect: Effect,
    /// What was being done: `read the link`, `append to the journal`.
    pub operation: String,
    /// To what, where that is known.
    pub target: Option<TargetId>,
    /// What went wrong, with the causes, and what to do about it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}", self.operation)?;
        if let Some(target) = &self.target {
            write!(f, " ({target})")?;
        }
        write!(f, ": {}", self.message)
    }
}

type Source = Box<dyn StdError + Send + Sync>;

/// The library's error.
///
/// ```
/// # use rollback_core::{Effect, Error, Kind};
/// let e = Error::new(Kind::Unavailable, "read the link").with_message("permission denied: run as the service's user");
/// assert!(e.is_transient());
/// assert_eq!(e.effect(), Effect::Unknown);
/// assert_eq!(e.to_string(), "could not read the link: permission denied: run as the service's user");
/// ```
pub struct Error {
    fault: Box<Fault>,
    source: Option<Source>,
}

impl Error {
    /// A failure of `kind` while doing `operation` (an infinitive: "read the link").
    pub fn new(kind: Kind, operation: impl Into<String>) -> Self {
        let fault = Fault {
            kind,
            transient: kind == Kind::Unavailable,
            effect: Effect::Unknown,
            operation: operation.into(),
            target: None,
            message: match kind {
                Kind::NotFound => "not found",
                Kind::Conflict => "somebody else was there first",
                Kind::Stale => "what was prepared is outdated",
                Kind::Denied => "not allowed",
                Kind::Invalid => "the input is wrong",
                Kind::Unsupported => "not supported",
                Kind::Unavailable => "no answer",
                Kind::Unexpected => "unexpected",
            }
            .into(),
        };
        Self { fault: Box::new(fault), source: None }
    }
    /// What went wrong and what to do about it.
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.fault.message = message.into();
        self
    }
    /// What was underneath. Its text, with its own causes, is appended to the message, so that the data half has it too.
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        use fmt::Write as _;
        let source = source.into();
        let _ = write!(self.fault.message, ": {source}");
        let mut cause = source.source();
        while let Some(c) = cause {
            let _ = write!(self.fault.message, ": {c}");
            cause = c.source();
        }
        self.source = Some(source);
        self
    }
    /// The write certainly did not happen.
    pub fn without_effect(mut self) -> Self {
        self.fault.effect = Effect::None;
        self
    }
    /// Whether it is worth trying again. Only [`Kind::Unavailable`] is, unless said.
    pub fn with_transient(mut self, transient: bool) -> Self {
        self.fault.transient = transient;
        self
    }
    /// To what it was done.
    pub fn with_target(mut self, target: &TargetId) -> Self {
        self.fault.target = Some(target.clone());
        self
    }
    /// What kind of failure.
    pub fn kind(&self) -> Kind {
        self.fault.kind
    }
    /// Worth trying again, unchanged, after a while.
    pub fn is_transient(&self) -> bool {
        self.fault.transient
    }
    /// Whether a write may have happened all the same.
    pub fn effect(&self) -> Effect {
        self.fault.effect
    }
    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.fault.message
    }
    /// The half that is data.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }
    /// Keeps the half that is data.
    pub fn into_fault(self) -> Fault {
        *self.fault
    }
    /// For file operations: the kind from the io error, transient where waiting may help. Reads have no effect.
    pub fn from_io(operation: impl Into<String>, error: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match error.kind() {
            E::NotFound => Kind::NotFound,
            E::PermissionDenied | E::ReadOnlyFilesystem => Kind::Denied,
            E::AlreadyExists => Kind::Conflict,
            E::InvalidInput | E::NotADirectory | E::IsADirectory | E::InvalidFilename => Kind::Invalid,
            E::StorageFull | E::QuotaExceeded => Kind::Unavailable,
            E::Interrupted
            | E::TimedOut
            | E::WouldBlock
            | E::ConnectionRefused
            | E::ConnectionReset
            | E::BrokenPipe => Kind::Unavailable,
            _ => Kind::Unexpected,
        };
        let text = error.to_string();
        let mut made = Self::new(kind, operation).with_message(text);
        made.source = Some(Box::new(error));
        made
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `main` of a program prints an error by this, to an operator.
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}
impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self { fault: Box::new(fault), source: None }
    }
}
