//! Two Deployments behind a Service: two places, and a selector that says which one serves.

use super::*;
use rollback_core::{ChangeKind, Fencing, OnUnknown, Pacing, Parts, Weights};
use std::collections::BTreeMap;

stored!(
    /// Selector and both templates: whoever overwrote the idle side meanwhile is noticed.
    Both, "k8s/both", 1 { service_uid: String, selector: BTreeMap<String, String>, templates: BTreeMap<String, String> }
);
stored!(
    /// The new selector.
    Select, "k8s/select", 1 { selector: BTreeMap<String, String> }
);

/// What it can do.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token)
        .with_pacing(Pacing::Platform)
        .with_parts(Parts::Places, Weights::Switch)
        .with_change(ChangeKind::Traffic, OnUnknown::Again)
        .with_change(ChangeKind::Capacity, OnUnknown::Again)
}

fn side(id: &str, percent: u16, settled: Settled) -> PartState {
    share(part(id, release(id), settled), percent).with_capacity(3, 3)
}

/// Green serves the bad release; blue has the good one, kept warm.
pub fn picture() -> Result<Picture> {
    let selector = |color: &str| BTreeMap::from([("color".to_string(), color.to_string())]);
    let templates = [("blue", "h1"), ("green", "h2")].map(|(side, hash)| (side.to_string(), hash.to_string()));
    let read = Both { service_uid: "s1".into(), selector: selector("green"), templates: templates.into() };
    let token = token(&read)?;
    let sides = |blue, green| observed("cluster-uid", "s1", vec![("blue", blue), ("green", green)], token.clone());
    let change = Change::traffic([("blue".into(), Weight::ALL), ("green".into(), Weight::NONE)]);
    let select = Payload::of(&Select { selector: selector("blue") })?;
    Ok(Picture {
        id: "k8s:prod/shop/service/checkout".into(),
        capabilities: capabilities(),
        suspect: "2".into(),
        wanted: "1".into(),
        found: sides(side("1", 0, Settled::Yes), side("2", 100, Settled::Yes)),
        prepared: Prepared::new(&change).with_instructions(select.clone()).with_diff(diff(
            "selector color",
            "green",
            "blue",
        )),
        change,
        applied: Applied::done().with_handle(select),
        half: sides(side("1", 100, not_yet("a node still knows the endpoints of green")), side("2", 0, Settled::Yes)),
    })
}
