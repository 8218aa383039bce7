//! A database schema under migrations: the revision is absolute, never "one back", and a migration that stopped in the
//! middle has a name.

use super::*;
use rollback_core::{ChangeKind, Digest, Extent, Fencing, OnUnknown, When};

stored!(
    /// The revision, and what the schema really looks like.
    At, "schema/at", 1 { revision: String, schema_digest: String }
);
stored!(
    /// The scripts that lead there.
    Down, "schema/down", 1 { to: String, scripts: Vec<Digest> }
);

/// What it can do. Whether a script that ran half may run again is nobody's guess.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::BestEffort)
        .with_change(ChangeKind::Release, OnUnknown::Observe)
        .with_verb("back-up", When::BeforeRelease)
        .irreversible()
}

/// A migration failed at its second statement, and did not run in a transaction.
pub fn picture() -> Result<Picture> {
    let schema = |state: &str, settled, digest: &str| -> Result<Observation> {
        let between = Running::Between { from: "0042".into(), to: "0043".into(), state: state.into() };
        let token = token(&At { revision: "0043".into(), schema_digest: digest.into() })?;
        let parts = vec![("schema", part("0043", between, settled))];
        Ok(observed("system-identifier:7312", "shop/public", parts, token))
    };
    let change = to_release("schema", "0042");
    let down = Down { to: "0042".into(), scripts: vec!["sha256:0043.down.sql".into()] };
    let reasons = [("lock timeout".to_string(), 1)].into();
    let handle = At { revision: "0043".into(), schema_digest: "d2".into() };
    Ok(Picture {
        id: "postgres:shop/public".into(),
        capabilities: capabilities(),
        suspect: "0043".into(),
        wanted: "0042".into(),
        found: schema("0043 failed at statement 2 of 3: an index is invalid", never("dirty"), "d1")?,
        prepared: Prepared::new(&change)
            .with_instructions(Payload::of(&down)?)
            .with_diff(diff("index orders_idx", "invalid", "absent"))
            .with_needs_approval("drops the column orders.note: 1 204 rows lose it"),
        change,
        applied: Applied::new(Extent::Partial { done: 1, of: 2, reasons }).with_handle(Payload::of(&handle)?),
        half: schema("0043.down at statement 1 of 2", not_yet("running"), "d2")?,
    })
}
