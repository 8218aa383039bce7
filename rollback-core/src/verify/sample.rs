//! Contexts for tests of verifiers.

use super::Verdict;
use crate::{Context, Identity, Observation, PartId, PartState, Token};

/// From `bad` to `good`, with these parts.
pub(crate) fn of_parts(parts: impl IntoIterator<Item = PartState>) -> Context {
    let parts = parts.into_iter().enumerate().map(|(n, part)| (PartId::new(format!("p{n}")), part));
    let now = Observation::new(Identity::new("here", "1"), parts, Token::none());
    Context::new("test:t".into(), "bad", "good", now)
}
pub(crate) fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Holds(_) => "holds",
        Verdict::Fails(_) => "fails",
        Verdict::Unknown(_) => "unknown",
    }
}
