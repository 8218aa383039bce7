//! Where flags are kept.

use super::FlagRule;
use crate::{Result, Timestamp, Trace};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc};

/// A rule that a flag has or had, with who wrote it, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlagState {
    /// What it says.
    pub rule: FlagRule,
    /// Of this write: another one for every write of the flag, never used again. A counter, an entity tag.
    pub version: String,
    /// Who wrote it.
    #[serde(default)]
    pub by: String,
    /// When.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Why.
    #[serde(default)]
    pub why: String,
    /// The idempotency key of the write, where it had one.
    #[serde(default)]
    pub key: Option<String>,
    /// What the rollback that wrote it left here.
    #[serde(default)]
    pub trace: Option<Trace>,
    /// Tells the flag from another one of the same name that was made later.
    #[serde(default)]
    pub object: Option<String>,
}

impl FlagState {
    /// A rule at a version.
    pub fn new(rule: FlagRule, version: impl Into<String>) -> Self {
        Self {
            rule,
            version: version.into(),
            by: String::new(),
            at: None,
            why: String::new(),
            key: None,
            trace: None,
            object: None,
        }
    }
    /// Who wrote it, and when.
    pub fn with_author(mut self, by: impl Into<String>, at: Timestamp) -> Self {
        self.by = by.into();
        self.at = Some(at);
        self
    }
    /// Why it was written.
    pub fn with_why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
    /// The idempotency key of the write.
    pub fn with_key(mut self, key: Option<String>) -> Self {
        self.key = key;
        self
    }
    /// What the rollback that wrote it left here.
    pub fn with_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }
    /// Tells the flag from another one of the same name.
    pub fn with_object(mut self, object: Option<String>) -> Self {
        self.object = object;
        self
    }
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlagWrite {
    /// The new rule.
    pub rule: FlagRule,
    /// The same for every attempt of this write, in every process.
    pub key: String,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// What the rollback leaves here; to be kept with the rule, and given back by `read`.
    pub trace: Option<Trace>,
}

impl FlagWrite {
    /// A write with its idempotency key.
    pub fn new(rule: FlagRule, key: impl Into<String>) -> Self {
        Self { rule, key: key.into(), by: String::new(), why: String::new(), trace: None }
    }
    /// Who.
    pub fn with_by(mut self, by: impl Into<String>) -> Self {
        self.by = by.into();
        self
    }
    /// Why.
    pub fn with_why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
    /// What the rollback leaves here.
    pub fn with_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }
}

/// Where flags are kept: a file, a flag service.
///
/// # Contract
/// - `read` shows what was written last; it is not served from a cache.
/// - `write_if` compares and sets in one step: of two writers that expect the same version, one is refused.
/// - A write whose key and rule are those of the current state has happened already, and its answer was lost: it is
///   answered with that state, whatever it expects, and nothing is written.
/// - Every write gets a version that this flag never had before, so that a flag that went there and back again is not
///   taken for one that was left alone.
/// - Dropping a future is safe: a `write_if` may have happened then, and shows in `read` by its key.
///
/// Calls that do not end are dropped by whoever drives the run.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait FlagStore: Debug + Send + Sync + 'static {
    /// Which store: `/etc/shop/flags.json`, `unleash:shop/production`. The same in every process; no secrets.
    fn id(&self) -> String;
    /// What the flag says now.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) for an unknown flag; transient where the store did not answer.
    async fn read(&self, flag: &str) -> Result<FlagState>;
    /// What it said before, newest first, beginning with what it says now. At most `limit`.
    ///
    /// # Errors
    /// As `read`.
    async fn history(&self, flag: &str, limit: usize) -> Result<Vec<FlagState>>;
    /// Writes the rule if the flag is still at the expected version. Returns what it is then.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict), without effect, at another version; otherwise as `read`.
    async fn write_if(&self, flag: &str, expected: &str, write: &FlagWrite) -> Result<FlagState>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: FlagStore + ?Sized> FlagStore for $pointer<T> {
            fn id(&self) -> String {
                (**self).id()
            }
            async fn read(&self, flag: &str) -> Result<FlagState> {
                (**self).read(flag).await
            }
            async fn history(&self, flag: &str, limit: usize) -> Result<Vec<FlagState>> {
                (**self).history(flag, limit).await
            }
            async fn write_if(&self, flag: &str, expected: &str, write: &FlagWrite) -> Result<FlagState> {
                (**self).write_if(flag, expected, write).await
            }
        }
    )* };
}
forward!(Arc, Box);
