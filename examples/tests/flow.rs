//! Unit tests of a flow: no server, no clock, no sleep.
#![allow(clippy::unwrap_used)]

use rollback_core::{
    mock::{MockApprover, MockHealthCheck, MockTarget},
    prelude::*,
    testing::*,
    *,
};

/// The flow under test, generic over what it is given: your platform has one like it.
async fn flow(target: impl Target, journal: impl Journal, health: impl HealthCheck) -> Result<Report> {
    Rollback::of(target)
        .because("500s since this morning")
        .to(Choose::verified().or_previous())
        .healthy_when(health)
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(minutes(2))))
        .journal(journal)
        .run()
        .await
}

/// Two releases, of which the bad one is live.
fn bad_is_live() -> FakePlatform {
    FakePlatform::new().release("1", Good).release("2", Bad).live("2")
}

#[tokio::test(start_paused = true)]
async fn it_recovers() {
    let platform = bad_is_live();
    let report = flow(platform.clone(), MemoryJournal::new(), platform.health()).await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert!(platform.is_live("1") && platform.healthy());
    assert_eq!(platform.effects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_in_the_middle_is_left_alone() {
    let platform = bad_is_live().someone_deploys("3", BeforeStep(1));
    let report = flow(platform.clone(), MemoryJournal::new(), platform.health()).await.unwrap();
    assert_eq!(report.outcome(), &Outcome::superseded_by("3"), "{report}");
    assert!(platform.is_live("3"));
    assert_eq!(platform.effects(), []);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_does_not_help_is_said_so() {
    let platform = FakePlatform::new().release("1", Bad).release("2", Bad).live("2");
    let report = flow(platform.clone(), MemoryJournal::new(), platform.health()).await.unwrap();
    assert!(matches!(report.outcome(), Outcome::NotRecovered { .. } | Outcome::Stuck { .. }), "{report}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_found_out_is_no_recovery() {
    let mut health = MockHealthCheck::new();
    health.expect_name().return_const("blind");
    health.expect_preflight().returning(|_| Ok(vec![]));
    health.expect_check().returning(|_| Ok(Health::Unknown(vec![])));
    let report = flow(bad_is_live(), MemoryJournal::new(), health).await.unwrap();
    assert!(!report.outcome().is_good(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_read_is_not_touched() {
    let mut target = MockTarget::new();
    target.expect_id().return_const(TargetId::from("mock:checkout"));
    target.expect_capabilities().returning(|| Capabilities::new(Fencing::Token));
    target.expect_observe().returning(|_| Err(Error::new(Kind::Denied, "read the service").with_message("403")));
    target.expect_apply().never();
    let mut health = MockHealthCheck::new();
    health.expect_name().return_const("unused");
    let report = flow(target, MemoryJournal::new(), health).await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("403")), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_approver_who_says_no_stops_it() {
    let platform = bad_is_live().needs_approval("drops a column");
    let mut approver = MockApprover::new();
    approver.expect_ask().returning(|_| Ok(None));
    let report = Rollback::of(platform.clone())
        .because("500s")
        .to(Choose::previous())
        .approved_by(approver)
        .journal(MemoryJournal::new())
        .run()
        .await
        .unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert_eq!(platform.effects(), []);
}
