//! What the service that evaluates a flag really sees, as against what the store was told.

use super::FlagRule;
use crate::Result;
use async_trait::async_trait;

/// What an evaluating service sees of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeenFlag {
    /// This rule.
    Rule(FlagRule),
    /// The rule of this version ([`FlagState::version`](super::FlagState)).
    Version(String),
}

/// Asks the service that evaluates a flag what it sees. Any `async` closure that takes the flag's name is one.
///
/// A service that has loaded nothing yet should give an error, which counts as *not yet*, never as agreement.
#[async_trait]
pub trait FlagReader: Send + Sync + 'static {
    /// What it sees of a flag.
    ///
    /// # Errors
    /// When it cannot be asked. The target is then not settled.
    async fn seen(&self, flag: &str) -> Result<SeenFlag>;
}

#[async_trait]
impl<F, Fut> FlagReader for F
where
    F: Fn(String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<SeenFlag>> + Send + 'static,
{
    async fn seen(&self, flag: &str) -> Result<SeenFlag> {
        self(flag.to_owned()).await
    }
}
