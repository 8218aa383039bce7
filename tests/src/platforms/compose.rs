//! A Compose project: one part, because its services are not interchangeable. The release is the file, what runs are the
//! containers.

use super::*;
use rollback_core::{Artifact, Digest, Fencing, When};
use std::collections::BTreeMap;

stored!(
    /// File and containers: an edit of either is noticed.
    Both, "compose/both", 1 { file: Digest, containers: BTreeMap<String, String> }
);
stored!(
    /// Which file, and which image each tag is pinned to.
    Up, "compose/up", 1 { file: Digest, pins: BTreeMap<String, String> }
);

/// What it can do.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token).with_verb("back-up-volume", When::BeforeRelease)
}

fn names(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

/// One of three services never gets healthy.
pub fn picture() -> Result<Picture> {
    let token = token(&Both { file: "sha256:f2".into(), containers: names(&[("web-1", "c9")]) })?;
    let project = |told: &str, counts: &[(&str, u32)], settled| {
        let project = part(told, mixed(counts), settled).with_capacity(3, 2);
        observed("daemon-id", "project:shop", vec![("project", project)], token.clone())
    };
    let change = to_release("project", "f1");
    let up = Payload::of(&Up { file: "sha256:f1".into(), pins: names(&[("web", "sha256:i1")]) })?;
    Ok(Picture {
        id: "compose:host/shop".into(),
        capabilities: capabilities(),
        suspect: "f2".into(),
        wanted: "f1".into(),
        found: project("f2", &[("f1", 1), ("f2", 2)], never("web: unhealthy, 6 restarts")),
        prepared: Prepared::new(&change)
            .with_instructions(up.clone())
            .with_artifact(Artifact { digest: "sha256:f1".into(), bytes: 2100, kind: "compose-file/1".into() })
            .with_diff(diff("image of web", "shop:2.4.0", "shop:2.3.9")),
        change,
        applied: Applied::done().with_handle(up),
        half: project("f1", &[("f1", 2), ("f2", 1)], not_yet("web: starting")),
    })
}
