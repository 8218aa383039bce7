//! A feature flag: a release of it is its whole rule.

use super::*;
use rollback_core::Fencing;

stored!(
    /// What a write compares.
    Version, "flag/version", 1 { version: u64 }
);
stored!(
    /// The rule.
    Rule, "flag/rule", 1 { on: bool, percent: u8, scope: Vec<String> }
);

/// What it can do.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token)
}

/// On for a quarter; its readers poll.
pub fn picture() -> Result<Picture> {
    let rule = |id: &str, settled, version| -> Result<Observation> {
        let parts = vec![("rule", part(id, release(id), settled))];
        Ok(observed("env:prod", "new-checkout", parts, token(&Version { version })?))
    };
    let change = to_release("rule", "v17");
    Ok(Picture {
        id: "flag:prod/new-checkout".into(),
        capabilities: capabilities(),
        suspect: "v18".into(),
        wanted: "v17".into(),
        found: rule("v18", Settled::Yes, 18)?,
        prepared: Prepared::new(&change)
            .with_instructions(Payload::of(&Rule { on: false, percent: 0, scope: vec![] })?)
            .with_diff(diff("percent", "25", "0")),
        change,
        applied: Applied::done().with_handle(Payload::of(&Version { version: 19 })?),
        half: rule("v17", not_yet("readers poll every 30 s"), 19)?,
    })
}
