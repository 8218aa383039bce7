//! A Terraform state: the saved plan is the artifact, and names its own serial, so that it goes stale by itself. Never a
//! bare apply of an old commit.

use super::*;
use rollback_core::{Artifact, ChangeKind, Extent, Fencing, OnUnknown};

stored!(
    /// What the state is locked and compared by.
    Serial, "terraform/serial", 1 { lineage: String, serial: u64 }
);
stored!(
    /// What the saved plan comes to.
    Counts, "terraform/counts", 1 { add: u32, change: u32, destroy: u32, replace: Vec<String> }
);

/// What it can do: going back may replace what holds data.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token).with_change(ChangeKind::Release, OnUnknown::Observe).irreversible()
}

/// Somebody changed two resources by hand.
pub fn picture() -> Result<Picture> {
    let serial = |serial| Serial { lineage: "L".into(), serial };
    let state = |running, settled, n| -> Result<Observation> {
        let state = part("commit:bad", running, settled);
        Ok(observed("111122223333/state-bucket", "lineage:L", vec![("state", state)], token(&serial(n))?))
    };
    let drift = Running::Unknown { fingerprint: "serial 41 + drift".into(), named: Some("2 resources drifted".into()) };
    let between =
        Running::Between { from: "commit:bad".into(), to: "commit:good".into(), state: "2 of 4 resources done".into() };
    let change = to_release("state", "commit:good");
    let counts = Counts { add: 0, change: 3, destroy: 1, replace: vec!["aws_lb.shop".into()] };
    let reasons = [("DependencyViolation".to_string(), 1)].into();
    Ok(Picture {
        id: "terraform:state-bucket/shop".into(),
        capabilities: capabilities(),
        suspect: "commit:bad".into(),
        wanted: "commit:good".into(),
        found: state(drift, Settled::Yes, 41)?,
        prepared: Prepared::new(&change)
            .with_instructions(Payload::of(&counts)?)
            .with_artifact(Artifact { digest: "sha256:plan".into(), bytes: 48_211, kind: "terraform-plan/1.9".into() })
            .with_diff(diff("aws_lb.shop", "internal", "internet-facing, replaced"))
            .with_needs_approval("replaces aws_lb.shop"),
        change,
        applied: Applied::new(Extent::Partial { done: 2, of: 4, reasons }).with_handle(Payload::of(&serial(42))?),
        half: state(between, not_yet("the apply was interrupted"), 42)?,
    })
}
