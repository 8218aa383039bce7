//! From the metric to the old release, with nobody's hand in it: a real Prometheus scrapes real pods, a release that fails is
//! seen there, and goes back, under a steady load.

use crate::deployment_space::{Space, server, settled, until};
use rollback_core::{
    metric::{Ask, Measure, MetricSource},
    prelude::*,
    watch::{Rule, Watch, presets},
    *,
};
use rollback_k8s::{Cluster, ClusterOptions, PodMetrics};
use rollback_tests::bed::{kubernetes::service, load::Answers};
use std::time::{Duration, Instant};

const NAME: &str = "checkout";
const SERVER: &str = "http://127.0.0.1:9090";
const WINDOW: Duration = Duration::from_secs(10);

async fn level(source: &impl MetricSource) -> Option<(f64, f64)> {
    match source.read(Ask::over(WINDOW)).await.ok()?.first()?.measure {
        Measure::Value { value, of } => Some((value, of.unwrap_or(1.0))),
        _ => None,
    }
}

/// What was asked after this moment, in numbers, and how long the bad release went on answering.
fn since(answers: &Answers, moment: Instant) -> String {
    let since = answers.sent_since(moment);
    let bad = since.last_of("failing").map_or(0.0, |at| at.saturating_duration_since(moment).as_secs_f64());
    format!("{:?}, the last answer of the bad release after {bad:.1} s", since.summary())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_prometheus_sees_is_rolled_back_under_load() {
    let space = Space::new("pod-metrics").await;
    space.own.bed().with("prometheus").await;
    // A watch ends with the first look that fails: on a busy machine it is to wait.
    let options = ClusterOptions::default().with_reply_within(Duration::from_secs(60));
    let cluster = Cluster::from_client(space.own.bed().client(), options).await.unwrap();
    let target = cluster.deployment(&space.namespace, NAME);
    space.apply(server(NAME, "v1", 3)).await;
    space.apply(service(NAME, serde_json::json!({"app": NAME}))).await;
    settled(&target).await;
    space.own.reached(NAME, Duration::from_secs(60)).await;
    let pods = PodMetrics::of_deployment(SERVER, &space.namespace, NAME);
    // 200 requests a second: half of them each on a connection of its own, half on ten that are kept.
    let fresh = space.own.load(NAME).await.rate(100).start();
    let kept = space.own.load(NAME).await.rate(100).kept_alive(10).start();
    let errors = pods.errors().unwrap();
    until("the good release is seen in Prometheus", || async {
        level(&errors).await.filter(|(value, of)| *value == 0.0 && *of > 100.0)
    })
    .await;
    assert!(level(&pods.p95().unwrap()).await.is_some_and(|(value, _)| value > 0.0 && value < 5.0));
    assert!(level(&pods.requests().unwrap()).await.is_some_and(|(value, _)| value > 10.0));
    assert_eq!(level(&PodMetrics::of_deployment(SERVER, &space.namespace, "check").errors().unwrap()).await, None);

    space.deploy(NAME, "failing").await;
    settled(&target).await;
    let deployed = Instant::now();
    // The runbook's threshold, seen and held for seconds instead of minutes.
    let rule: Rule = presets::runbook_003_errors().with_window(WINDOW).with_hold(seconds(3)).with_max_gap(seconds(20));
    let journal = std::sync::Arc::new(MemoryJournal::new());
    let wrote = std::sync::Arc::new(std::sync::Mutex::new(None));
    let first = wrote.clone();
    let first_write = Observe::with(move |event: &Event| {
        if let EventKind::Journalled(line) = &event.kind
            && matches!(line.entry, Entry::Did { .. })
        {
            first.lock().unwrap().get_or_insert_with(Instant::now);
        }
    });
    let rollback = Rollback::of(target.clone())
        .to(Choose::verified().or_previous())
        .journal(journal.clone())
        .policy(Policy::default().with_poll(Duration::from_millis(200)))
        .observer(first_write)
        .recovered_when(Runs::wanted().and(target.checks().bad_pods_gone()));
    let watched = Watch::of(target.clone())
        .rule(rule, errors.clone())
        .every(seconds(1))
        .for_at_most(minutes(3))
        .journal(journal)
        .then_roll_back(rollback)
        .run()
        .await
        .unwrap();
    let recovered = Instant::now();
    let report = watched.rollback.as_ref().unwrap_or_else(|| panic!("{watched}"));
    assert_eq!(report.outcome(), &Outcome::Recovered, "{watched}");
    assert_eq!(space.image(NAME).await, "v1");
    let (_, back) = until("Prometheus sees the good release again", || async {
        level(&errors).await.filter(|(value, of)| *value == 0.0 && *of > 100.0)
    })
    .await;
    let (fresh, kept) = (fresh.stop().await, kept.stop().await);
    let wrote = wrote.lock().unwrap().expect("it wrote");
    let seconds = |later: Instant, since: Instant| later.saturating_duration_since(since).as_secs_f64();
    println!(
        "measured: error rate in Prometheus, v2 settled to the first write {:.1} s, to recovered {:.1} s, to 0 % in \
         Prometheus {:.1} s",
        seconds(wrote, deployed),
        seconds(recovered, deployed),
        seconds(recovered + back, deployed)
    );
    println!("measured: from the switch on, new connections: {}", since(&fresh, wrote));
    println!("measured: from the switch on, kept-alive connections: {}", since(&kept, wrote));
    for answers in [&fresh, &kept] {
        assert!(answers.of("failing") > 0, "the bad release had been answering");
        assert_eq!(answers.sent_since(recovered).of("failing"), 0, "{}", since(answers, wrote));
        assert!(answers.sent_since(recovered).of("v1") > 0, "{}", since(answers, wrote));
    }
}
