//! A closure says yes or no.

use super::{Approval, ApprovalRequest, Approver};
use crate::Result;
use async_trait::async_trait;
use std::{fmt, future::Future, pin::Pin, sync::Arc};

type Asked = Pin<Box<dyn Future<Output = Result<Option<Approval>>> + Send>>;

/// An approver made of a closure.
///
/// ```
/// use rollback_core::{Approval, ApprovalRequest, approve::Approve};
/// let on_call = Approve::with(|request: ApprovalRequest| async move {
///     // Ask in the chat, wait for the answer …
///     Ok(Some(Approval { digest: request.digest, by: "on-call".into() }))
/// });
/// ```
#[derive(Clone)]
pub struct Approve {
    ask: Arc<dyn Fn(ApprovalRequest) -> Asked + Send + Sync>,
}

impl Approve {
    /// From a closure that gives a future. It may be dropped at any time, and asked again.
    pub fn with<F>(ask: impl Fn(ApprovalRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Option<Approval>>> + Send + 'static,
    {
        Self { ask: Arc::new(move |request| Box::pin(ask(request))) }
    }
}

impl fmt::Debug for Approve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Approve")
    }
}

#[async_trait]
impl Approver for Approve {
    async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>> {
        (self.ask)(request.clone()).await
    }
}
