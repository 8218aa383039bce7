//! An ECS service with a deployment in flight: aborting it is faster than anything else, and says where it lands. No
//! fencing: UpdateService takes no token.

use super::*;
use rollback_core::{ChangeKind, Expected, Fencing, InFlight, Landing, OnUnknown, Ours, Pacing};

stored!(
    /// What tells our deployment from another one.
    Deployment, "ecs/deployment", 1 { arn: String }
);
stored!(
    /// The call.
    Stop, "ecs/stop", 1 { arn: String, stop_type: String }
);

/// What a service can do whose deployments ECS itself controls.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::BestEffort)
        .with_pacing(Pacing::Platform)
        .with_change(ChangeKind::Abort, OnUnknown::Again)
        .with_change(ChangeKind::Release, OnUnknown::Observe)
        .with_change(ChangeKind::Capacity, OnUnknown::Again)
}

/// Two of four tasks are on the bad definition already.
pub fn picture() -> Result<Picture> {
    let deployment = Payload::of(&Deployment { arn: "d-1".into() })?;
    let flight = InFlight::new(deployment.clone())
        .with_releases(Some("td:7".into()), Some("td:8".into()))
        .with_abort(Landing::On("td:7".into()));
    let tasks = |old: u32, new: u32| {
        let tasks = part("td:8", mixed(&[("td:7", old), ("td:8", new)]), not_yet("IN_PROGRESS")).with_capacity(4, 4);
        observed("111122223333/eu-central-1", "service-arn@created", vec![("primary", tasks)], Token::none())
            .with_in_flight(flight.clone())
    };
    let landing = || Landing::On("td:7".into());
    let change = Change::Abort { expect: landing(), never: "td:8".into() };
    Ok(Picture {
        id: "ecs:111122223333/eu-central-1/shop/checkout".into(),
        capabilities: capabilities(),
        suspect: "td:8".into(),
        wanted: "td:7".into(),
        found: tasks(2, 2),
        prepared: Prepared::new(&change)
            .with_instructions(Payload::of(&Stop { arn: "d-1".into(), stop_type: "ROLLBACK".into() })?)
            .with_diff(diff("task definition", "td:8", "td:7"))
            .with_expected(Expected::Platform { landing: landing(), never: "td:8".into() }),
        change,
        applied: Applied::submitted().with_handle(deployment.clone()),
        half: tasks(3, 1).with_ours(Ours::Current),
    })
}
