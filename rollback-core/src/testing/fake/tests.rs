#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    Capacity, Context, Effect, Health, HealthCheck, Mark, RunId, Settled, Wish, journal::MemoryShelf, minutes, seconds,
};

fn two() -> FakePlatform {
    FakePlatform::new().release("1", Good).release("2", Bad).live("2")
}
fn work(step: &str) -> Work {
    Work::new(RunId::from("r"), 1, step, seconds(30), Arc::new(MemoryShelf::new()))
}
async fn set(platform: &FakePlatform, part: &str, release: &str, work: &Work) -> Result<Applied> {
    let token = platform.observe(Look::full()).await?.token;
    let change = Change::release(&part.into(), &release.into());
    let prepared = platform.prepare(&change, work).await?;
    platform.apply(&prepared.approved, token, work).await
}

#[tokio::test(start_paused = true)]
async fn goes_back() {
    let platform = two();
    assert!(platform.is_live("2") && !platform.healthy());
    assert_eq!(set(&platform, "all", "1", &work("0.0")).await.unwrap().extent, Extent::Done);
    assert!(platform.is_live("1") && platform.healthy());
    assert_eq!(platform.effects(), ["r/0.0"]);
}

#[tokio::test(start_paused = true)]
async fn an_old_token_is_refused_without_effect() {
    let platform = two();
    let seen = platform.observe(Look::full()).await.unwrap();
    platform.deploy("3");
    let prepared = platform.prepare(&Change::release(&"all".into(), &"1".into()), &work("0.0")).await.unwrap();
    let error = platform.apply(&prepared.approved, seen.token, &work("0.0")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Conflict, Effect::None));
    assert!(platform.is_live("3"));
    assert_eq!(platform.effects(), []);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_one_effect_and_its_key_is_known() {
    let platform = two().loses_answers(1);
    let error = set(&platform, "all", "1", &work("0.0")).await.unwrap_err();
    assert_eq!((error.is_transient(), error.effect()), (true, Effect::Unknown));
    let seen = platform.observe(Look::full().with_mark(Some(Mark::new("r/0.0")))).await.unwrap();
    assert_eq!(seen.ours, Ours::Complete);
    set(&platform, "all", "1", &work("0.0")).await.unwrap();
    assert_eq!(platform.effects(), ["r/0.0"]);
    platform.deploy("3");
    let seen = platform.observe(Look::full().with_mark(Some(Mark::new("r/0.0")))).await.unwrap();
    assert_eq!(seen.ours, Ours::Replaced { by: "3".into() });
}

#[tokio::test(start_paused = true)]
async fn a_late_effect_comes_when_it_is_due() {
    let platform = two().late_effects(1, seconds(20));
    assert_eq!(set(&platform, "all", "1", &work("0.0")).await.unwrap_err().effect(), Effect::Unknown);
    assert!(platform.is_live("2"));
    tokio::time::sleep(seconds(21)).await;
    assert!(platform.is_live("1"));
}

#[tokio::test(start_paused = true)]
async fn settling_takes_its_time_and_shows_the_mix() {
    let platform = two().parts(FakeParts::BlueGreen).live("2").settles_after(minutes(1));
    set(&platform, "green", "1", &work("0.0")).await.unwrap();
    let green = async || platform.observe(Look::quick()).await.unwrap().parts["green"].clone();
    assert!(matches!(green().await.settled, Settled::NotYet { .. }));
    assert_eq!(green().await.running, Running::Release("2".into()));
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(green().await.running, Running::Mixed([("2".into(), 1), ("1".into(), 2)].into()));
    assert!(!platform.healthy());
    tokio::time::sleep(seconds(20)).await;
    assert!(green().await.runs(&"1".into()) && platform.healthy());
}

#[tokio::test(start_paused = true)]
async fn a_long_write_goes_on_from_its_checkpoint() {
    let (platform, work) = (two().partial(3), work("0.0"));
    let extent = async || set(&platform, "all", "1", &work).await.unwrap().extent;
    assert!(matches!(extent().await, Extent::Partial { done: 1, of: 3, .. }));
    assert!(matches!(platform.observe(Look::full()).await.unwrap().parts["all"].running, Running::Between { .. }));
    assert!(matches!(extent().await, Extent::Partial { done: 2, of: 3, .. }));
    assert_eq!(extent().await, Extent::Done);
    assert_eq!(platform.effects(), ["r/0.0"]);
    assert!(platform.is_live("1"));
}

#[tokio::test(start_paused = true)]
async fn stale_reads_show_what_was() {
    let platform = two().stale_reads(1);
    set(&platform, "all", "1", &work("0.0")).await.unwrap();
    let stale = platform.observe(Look::full()).await.unwrap();
    assert!(stale.parts["all"].runs(&"2".into()));
    assert!(platform.observe(Look::full()).await.unwrap().parts["all"].runs(&"1".into()));
}

#[tokio::test(start_paused = true)]
async fn weights_make_the_whole() {
    let platform = FakePlatform::new().parts(FakeParts::PerRelease).release("1", Good).release("2", Bad).live("2");
    let to = |w: Weight| Change::traffic([("1".into(), w), ("2".into(), Weight::NONE)]);
    let write = async |change: Change| {
        let token = platform.observe(Look::full()).await?.token;
        let prepared = platform.prepare(&change, &work("0.0")).await?;
        platform.apply(&prepared.approved, token, &work("0.0")).await
    };
    let error = write(to(Weight::percent(90))).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Invalid, Effect::None));
    write(to(Weight::ALL)).await.unwrap();
    assert!(platform.is_live("1"));
    let wish = Wish { capacity: Some(Capacity::Exactly(2)), ..Wish::default() };
    let error = platform.prepare(&Change::reach([("1".into(), wish)]), &work("0.1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn an_abort_lands_where_it_says_or_not_at_all() {
    let landing = Landing::On("1".into());
    let platform = two().in_flight("1", "2", landing.clone());
    let abort = |never: &str| Change::Abort { expect: landing.clone(), never: never.into() };
    let write = async |change: Change| {
        let token = platform.observe(Look::full()).await?.token;
        let prepared = platform.prepare(&change, &work("0.0")).await?;
        platform.apply(&prepared.approved, token, &work("0.0")).await
    };
    assert_eq!(write(abort("1")).await.unwrap_err().kind(), Kind::Conflict);
    write(abort("2")).await.unwrap();
    assert!(platform.is_live("1"));
}

#[tokio::test(start_paused = true)]
async fn health_is_asked_of_clients_and_can_be_unknown() {
    let platform = two().unknown_health(1);
    let now = platform.observe(Look::full()).await.unwrap();
    let context = Context::new(platform.id().clone(), "2", "1", now);
    let says = async || platform.health().check(&context).await.unwrap();
    assert!(matches!(says().await, Health::Unknown(_)));
    assert!(matches!(says().await, Health::Unhealthy(_)));
    set(&platform, "all", "1", &work("0.0")).await.unwrap();
    assert!(says().await.is_healthy());
}
