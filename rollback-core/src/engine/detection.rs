//! What was seen before a rollback was ordered.

use crate::{Evidence, Timestamp};
use serde::{Deserialize, Serialize};

/// How it came to the decision to roll back: the first lines of the report's timeline. A watch fills it in; whoever decides
/// by other means says it with [`Rollback::detected`](crate::Rollback::detected).
///
/// ```
/// use rollback_core::{Rollback, Timestamp, engine::Detection, seconds, testing::FakePlatform};
/// let alert = Timestamp::parse("2026-11-22T03:04:05Z")?;
/// let detection = Detection::new("CheckoutErrors fires", alert.after(seconds(90))).with_first_seen(Some(alert));
/// let rollback = Rollback::of(FakePlatform::new()).detected(detection);
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Detection {
    /// What is wrong: the rule that was breached, the alert. No secrets.
    pub what: String,
    /// When it was seen for the first time.
    pub first_seen: Option<Timestamp>,
    /// When it was decided to roll back.
    pub decided: Timestamp,
    /// What was seen.
    pub evidence: Vec<Evidence>,
}

impl Detection {
    /// This is wrong, and it was decided then to roll back.
    pub fn new(what: impl Into<String>, decided: Timestamp) -> Self {
        Self { what: what.into(), first_seen: None, decided, evidence: vec![] }
    }
    /// When it was seen for the first time.
    pub fn with_first_seen(mut self, first_seen: Option<Timestamp>) -> Self {
        self.first_seen = first_seen;
        self
    }
    /// What was seen.
    pub fn with_evidence(mut self, evidence: Vec<Evidence>) -> Self {
        self.evidence = evidence;
        self
    }
}
