//! Someone says yes to exactly this digest.
//!
//! Not here: whether a change needs an approval, which the target, the choice and the policy say.

mod closure;
#[cfg(feature = "local")]
mod file;
#[cfg(feature = "local")]
mod terminal;

pub use closure::Approve;
#[cfg(feature = "local")]
pub use file::FileApproval;
#[cfg(feature = "local")]
pub use terminal::TerminalPrompt;

use crate::{Digest, Result, RunId, TargetId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt::Debug, sync::Arc};

/// What is to be approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ApprovalRequest {
    /// Of which run.
    pub run: RunId,
    /// Of which target.
    pub target: TargetId,
    /// Of all that was prepared. The approval must name it.
    pub digest: Digest,
    /// Why a person must say yes, and what will be done, a line each.
    pub of: Vec<String>,
}

impl ApprovalRequest {
    /// A request.
    pub fn new(run: RunId, target: TargetId, digest: Digest, of: Vec<String>) -> Self {
        Self { run, target, digest, of }
    }
}

/// Yes, to this digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// To what.
    pub digest: Digest,
    /// Who says so.
    pub by: String,
}

/// Asks someone. May take hours: the run waits as long as its [`Policy`](crate::Policy) says, and survives a crash
/// meanwhile: it asks again.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Approver: Debug + Send + Sync + 'static {
    /// Asks. `None`: no.
    ///
    /// # Errors
    /// When nobody could be asked; the run is refused, or stuck where it has begun.
    async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>>;
}

macro_rules! forward {
    ($($pointer:ident),*) => { $(
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: Approver + ?Sized> Approver for $pointer<T> {
            async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>> {
                (**self).ask(request).await
            }
        }
    )* };
}
forward!(Arc, Box);
