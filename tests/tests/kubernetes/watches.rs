//! Looks that shared watches answer: what they need, and what becomes of a rollback where a watch breaks, falls silent, or
//! is compacted away.

use crate::{
    deployment_space::server,
    faults::bed_alone,
    workloads::{PATIENCE, Place, until},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use rollback_core::{journal::MemoryJournal, prelude::*, *};
use rollback_k8s::{Cluster, ClusterOptions, SharedWatches, release_id};
use rollback_tests::bed::{
    faults::{Fault, FaultyApi, Seen},
    kubernetes::{Asked, Bed, Mark, run},
};
use std::time::Duration;

const WEB: &str = "web";
/// As short as it may be.
const STALENESS: Duration = Duration::from_secs(10);

fn release(image: &str) -> ReleaseId {
    release_id(&server(WEB, image, 2)["spec"]["template"])
}

/// A Deployment that went from v1 to v2.
async fn with_bad_release(what: &str) -> Place {
    let place = Place::new(what).await;
    for image in ["v1", "v2"] {
        place.own.apply(server(WEB, image, 2)).await;
        place.own.settled(WEB, PATIENCE).await;
    }
    place
}

async fn watched(client: Client, namespace: &str) -> Cluster {
    let cluster = Cluster::from_client(client, ClusterOptions::default().named("bed")).await.unwrap();
    let watches = SharedWatches::of_namespaces([namespace]).with_staleness(STALENESS);
    cluster.with_shared_watches(watches).await.unwrap()
}

fn back(cluster: &Cluster, namespace: &str) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200)).with_deadline(PATIENCE);
    Rollback::of(cluster.deployment(namespace, WEB).without_evidence())
        .because("v2 serves errors")
        .blaming(release("v2"))
        .to(Choose::Exactly(release("v1")))
        .policy(policy)
        .journal(MemoryJournal::new())
}

fn through(proxy: &FaultyApi, called: &str) -> Client {
    let mut config = proxy.config();
    config.headers.push((hyper::header::USER_AGENT, called.parse().unwrap()));
    Client::try_from(config).unwrap()
}

fn is_watch(seen: &Seen) -> bool {
    seen.query.contains("watch=true")
}

fn is_write(asked: &Asked) -> bool {
    let done = asked.response_status.as_ref().is_some_and(|status| status.code == 200);
    asked.verb == "patch" && done && !asked.uri.contains("dryRun")
}

fn requests(bed: &Bed, since: Mark, called: &str, of: impl Fn(&Asked) -> bool) -> usize {
    bed.requests(since, called).iter().filter(|asked| of(asked)).count()
}

/// Waits until what is watched was listed a second time, all of it: a look lists by a selector.
async fn listed_anew(bed: &Bed, since: Mark, called: &str) {
    for kind in ["/deployments?", "/replicasets?", "/pods?"] {
        let lists = || {
            let is_list = |asked: &Asked| asked.verb == "list" && asked.uri.contains(kind);
            requests(bed, since, called, |asked| is_list(asked) && !asked.uri.contains("labelSelector"))
        };
        until(&format!("{kind} is listed anew"), || async { (lists() >= 2).then_some(()) }).await;
    }
}

async fn assert_recovered_once(place: &Place, since: Mark, called: &str, report: &Report) {
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(requests(place.own.bed(), since, called, is_write), 1, "{report}");
    let is: Deployment = place.api().get(WEB).await.unwrap();
    let image = is.spec.unwrap().template.spec.unwrap().containers.remove(0).image;
    assert_eq!(image.as_deref(), Some("bed/server:v1"), "{report}");
    let tags: Vec<String> = place.pods().await.into_iter().map(|(.., tag)| tag).collect();
    assert_eq!(tags, ["v1", "v1"], "it ended before the last bad pod was gone: {report}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn watches_that_the_server_has_forgotten_begin_anew() {
    let place = with_bad_release("forgotten").await;
    let (bed, called) = (place.own.bed(), format!("forgotten-{}/1", place.namespace));
    let proxy = FaultyApi::before(&bed.config()).await;
    // Each of the three breaks in the middle, and is told that what came after is gone.
    for kind in ["/deployments", "/replicasets", "/pods"] {
        let of_kind = move |seen: &Seen| is_watch(seen) && seen.path.ends_with(kind);
        proxy.inject(1, Fault::CutAfter(Duration::from_secs(2)), of_kind);
        proxy.inject(1, Fault::Answer(410), of_kind);
    }
    let since = bed.mark();
    let cluster = watched(through(&proxy, &called), &place.namespace).await;
    let report = back(&cluster, &place.namespace).run().await.unwrap();
    assert_recovered_once(&place, since, &called, &report).await;
    until("each was told", || async { (proxy.faults_left() == 0).then_some(()) }).await;
    listed_anew(bed, since, &called).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn silent_watches_are_not_believed() {
    let place = with_bad_release("silent").await;
    let (bed, called) = (place.own.bed(), format!("silent-{}/1", place.namespace));
    let proxy = FaultyApi::before(&bed.config()).await;
    let since = bed.mark();
    // They tell nothing for as long as they last, and are gone for good then.
    proxy.inject(3, Fault::CutAfter(Duration::from_millis(500)), is_watch);
    proxy.inject(u32::MAX, Fault::Answer(503), is_watch);
    let cluster = watched(through(&proxy, &called), &place.namespace).await;
    let report = back(&cluster, &place.namespace).run().await.unwrap();
    assert_recovered_once(&place, since, &called, &report).await;
    // And when they are back, nothing is asked for again.
    proxy.behave();
    let target = cluster.deployment(&place.namespace, WEB);
    let gets =
        || proxy.seen().iter().filter(|seen| seen.method == "GET" && seen.path.contains("/deployments/")).count();
    until("looks cost nothing", || async {
        let before = gets();
        target.observe(Look::quick()).await.ok()?;
        (gets() == before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_deploy_that_the_watch_has_not_shown_is_not_overwritten() {
    let place = with_bad_release("behind").await;
    let proxy = FaultyApi::before(&place.own.bed().config()).await;
    let cluster = watched(through(&proxy, "behind/1"), &place.namespace).await;
    let target = cluster.deployment(&place.namespace, WEB).without_server_dry_run();
    let work = Work::new("run".into(), 1, "step", PATIENCE, std::sync::Arc::new(journal::MemoryShelf::new()));
    let prepared = target.prepare(&Change::release(&"all".into(), &release("v1")), &work).await.unwrap();
    let seen = target.observe(Look::full()).await.unwrap();
    // Somebody deploys after the look that the write rests on.
    place.own.apply(server(WEB, "v3", 2)).await;
    let refused = target.apply(&prepared.approved, seen.token, &work).await.unwrap_err();
    assert_eq!((refused.kind(), refused.effect()), (Kind::Conflict, Effect::None), "{refused}");
    let is: Deployment = place.api().get(WEB).await.unwrap();
    let image = is.spec.unwrap().template.spec.unwrap().containers.remove(0).image;
    assert_eq!(image.as_deref(), Some("bed/server:v3"));
    // What it was refused for is seen at once.
    let seen = target.observe(Look::quick()).await.unwrap();
    assert_eq!(seen.parts.values().next().unwrap().wanted, Some(release("v3")));
}

/// Group, resource, verbs.
type Rule<'a> = (&'a str, &'a str, &'a [&'a str]);

/// The library's cluster, as a service account with these rights and the one that identifies it.
async fn account(place: &Place, name: &str, rules: &[Rule<'_>]) -> Cluster {
    let config = place.own.account(name, rules).await;
    let connect = || async {
        let client = Client::try_from(config.clone()).ok()?;
        Cluster::from_client(client, ClusterOptions::default()).await.ok()
    };
    // The API server learns of new rules a moment later.
    until("the account may look", connect).await.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn exactly_the_rights_that_the_docs_name() {
    let place = with_bad_release("rights").await;
    // As `Deployment` and `Cluster::with_shared_watches` have it, without what is for findings and evidence.
    let target: [Rule; 3] =
        [("apps", "deployments", &["get", "patch"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let watched: [Rule; 3] = [
        ("apps", "deployments", &["list", "watch"]),
        ("apps", "replicasets", &["list", "watch"]),
        ("", "pods", &["list", "watch"]),
    ];
    let only = account(&place, "unwatched", &target).await;
    let watches = || SharedWatches::of_namespaces([place.namespace.as_str()]).with_staleness(STALENESS);
    let denied = only.with_shared_watches(watches()).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied, "{denied}");
    assert!(denied.to_string().contains("resources: [\"deployments\"], verbs: [\"list\"]"), "{denied}");

    let since = place.own.bed().mark();
    let watching = account(&place, "watched", &[target, watched].concat()).await;
    let (cluster, _) =
        until("the rights are known", || async { watching.with_shared_watches(watches()).await.ok() }).await;
    let report = back(&cluster, &place.namespace).run().await.unwrap();
    assert_recovered_once(&place, since, "watched", &report).await;
}

/// Those that restart or compact parts of the bed need one of their own.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Kubernetes bed of its own"]
    async fn watches_are_compacted_away_in_the_middle() {
        let (bed, _alone) = bed_alone().await;
        let place = with_bad_release("compacted").await;
        let called = format!("compacted-{}/1", place.namespace);
        let since = bed.mark();
        let cluster = watched(bed.client_called(&called), &place.namespace).await;
        let rollback = back(&cluster, &place.namespace);
        let compacts = async {
            until("it has written", || async { (requests(&bed, since, &called, is_write) > 0).then_some(()) }).await;
            let bed = bed.clone();
            tokio::task::spawn_blocking(move || {
                // While nobody can watch: however soon the watches are back, what they saw last is gone.
                bed.component("kill", "apiserver");
                run(&["compact", bed.name()]);
                bed.component("restart", "apiserver");
            })
            .await
            .unwrap();
        };
        let (report, ()) = tokio::join!(rollback.run(), compacts);
        assert_recovered_once(&place, since, &called, &report.unwrap()).await;
        // They are taken up again: a change is seen without a request of ours.
        place.own.apply(server(WEB, "v3", 2)).await;
        let target = cluster.deployment(&place.namespace, WEB);
        until("the watches show what is deployed", || async {
            let seen = target.observe(Look::quick()).await.ok()?;
            (seen.parts.values().next()?.wanted == Some(release("v3"))).then_some(())
        })
        .await;
        listed_anew(&bed, since, &called).await;
    }
}
