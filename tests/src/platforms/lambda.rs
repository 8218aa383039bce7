//! A Lambda alias: every version is a part for as long as it exists, and two of them share the traffic.

use super::*;
use rollback_core::{ChangeKind, Fencing, OnUnknown, Parts, Weights};
use std::collections::BTreeMap;

stored!(
    /// What UpdateAlias compares.
    Revision, "lambda/revision", 1 { revision_id: String }
);
stored!(
    /// The call: the routing is always sent, also where it is empty.
    Route, "lambda/route", 1 { function_version: String, routing: BTreeMap<String, u16> }
);

/// What it can do.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token)
        .with_parts(Parts::PerRelease, Weights::Exact { grain: 1, at_once: 2 })
        .with_change(ChangeKind::Traffic, OnUnknown::Observe)
        .without_change(ChangeKind::Release)
}

/// The bad version has nearly all of the traffic.
pub fn picture() -> Result<Picture> {
    let alias = |bad: u16, settled: Settled, revision: &str| -> Result<Observation> {
        let versions = vec![
            ("42", share(part("42", release("42"), settled), bad)),
            ("41", share(part("41", release("41"), Settled::Yes), 100 - bad)),
        ];
        let token = token(&Revision { revision_id: revision.into() })?;
        Ok(observed("111122223333/eu-central-1", "shop:live", versions, token))
    };
    let change = Change::traffic([("42".into(), Weight::NONE), ("41".into(), Weight::ALL)]);
    let route = Route { function_version: "41".into(), routing: BTreeMap::new() };
    Ok(Picture {
        id: "lambda:111122223333/eu-central-1/shop/live".into(),
        capabilities: capabilities(),
        suspect: "42".into(),
        wanted: "41".into(),
        found: alias(90, Settled::Yes, "r1")?,
        prepared: Prepared::new(&change).with_instructions(Payload::of(&route)?).with_diff(diff(
            "share of 41",
            "10%",
            "100%",
        )),
        change,
        applied: Applied::done().with_handle(Payload::of(&Revision { revision_id: "r2".into() })?),
        half: alias(50, not_yet("provisioned concurrency moves"), "r2")?,
    })
}
