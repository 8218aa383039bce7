//! Bugs planted on purpose, so that the simulator can show that it finds them.

use serde::{Deserialize, Serialize};

/// A bug to plant. Without the feature `planted-bugs` nothing reads it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Bug {
    SkipIntent,
    IgnoreFence,
    IgnoreIdentity,
    IgnoreForeign,
    BlindRetry,
    LostIsNone,
    LostIsDone,
    TrustWanted,
    UnknownIsHealthy,
    SkipGate,
    SkipVerify,
    SkipFloor,
    ForgetSpent,
    AdoptWithoutEpoch,
    ChooseKnownBad,
    IgnoreBudget,
    DryRunWrites,
    ForgetLanding,
    ForgetIll,
    FreezeWithoutIntent,
    LostFreezeIsNone,
    KeepSecrets,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 22] = [
        Bug::SkipIntent,
        Bug::IgnoreFence,
        Bug::IgnoreIdentity,
        Bug::IgnoreForeign,
        Bug::BlindRetry,
        Bug::LostIsNone,
        Bug::LostIsDone,
        Bug::TrustWanted,
        Bug::UnknownIsHealthy,
        Bug::SkipGate,
        Bug::SkipVerify,
        Bug::SkipFloor,
        Bug::ForgetSpent,
        Bug::AdoptWithoutEpoch,
        Bug::ChooseKnownBad,
        Bug::IgnoreBudget,
        Bug::DryRunWrites,
        Bug::ForgetLanding,
        Bug::ForgetIll,
        Bug::FreezeWithoutIntent,
        Bug::LostFreezeIsNone,
        Bug::KeepSecrets,
    ];
}
