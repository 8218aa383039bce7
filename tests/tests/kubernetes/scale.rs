//! What a fleet costs the API server: a number of requests, which is counted; how long it takes is for the benchmark,
//! `bench_kubernetes`.

use crate::workloads::PATIENCE;
use futures::future::join_all;
use rollback_core::Outcome;
use rollback_k8s::{Cluster, ClusterOptions, SharedWatches};
use rollback_tests::bed::{
    fleet::{Fleet, IMAGES, With, rollbacks},
    kubernetes::{Bed, Mark},
};
use std::{collections::BTreeMap, time::Instant};

/// Whatever the number of Deployments: lists, rights, what is asked of a namespace.
const BESIDES: usize = 60;
/// What is looked at with everything on, which costs more.
const FEW: usize = 5;

fn count(bed: &Bed, since: Mark, called: &str) -> BTreeMap<String, usize> {
    let mut verbs = BTreeMap::new();
    for asked in bed.requests(since, called) {
        *verbs.entry(asked.verb).or_default() += 1;
    }
    verbs
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn many_cost_a_request_each() {
    let bed = Bed::here().await;
    let fleet = Fleet::new(&bed, 50, PATIENCE * 3).await;
    let (namespace, folder) = (fleet.namespace().name(), tempfile::tempdir().unwrap());
    let called = format!("{namespace}/1");
    let (since, began) = (bed.mark(), Instant::now());
    let cluster = Cluster::from_client(bed.client_called(&called), ClusterOptions::default()).await.unwrap();
    let cluster = cluster.with_shared_watches(SharedWatches::of_namespaces([namespace])).await.unwrap();
    let all = rollbacks(&cluster, namespace, fleet.count(), IMAGES[0], &folder.path().join("all"), With::default());
    for report in join_all(all.iter().map(|rollback| rollback.run())).await {
        let report = report.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    }
    let asked = count(&bed, since, &called);
    println!("measured: {} rolled back in {:.1?}: {asked:?}", fleet.count(), began.elapsed());
    assert!(fleet.images().await.iter().all(|image| image == IMAGES[0]));
    assert_eq!(asked["patch"], fleet.count(), "one write each: {asked:?}");
    // Each watch is opened anew every 15 seconds, however many are rolled back.
    let watches = asked.get("watch").copied().unwrap_or(0);
    let others = asked.values().sum::<usize>() - asked["patch"] - watches;
    assert!(others <= fleet.count() / 10 + BESIDES, "{asked:?}");

    // With everything on, and nothing watched, as one who rolls back a few does.
    fleet.forget().await;
    let (called, since) = (format!("{namespace}/2"), bed.mark());
    let cluster = Cluster::from_client(bed.client_called(&called), ClusterOptions::default()).await.unwrap();
    let with = With { surge: true, everything: true };
    let few = rollbacks(&cluster, namespace, FEW, IMAGES[1], &folder.path().join("few"), with);
    for report in join_all(few.iter().map(|rollback| rollback.run())).await {
        let report = report.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    }
    let asked = count(&bed, since, &called);
    let each = asked.values().sum::<usize>() as f64 / FEW as f64;
    println!("measured: with everything on and nothing watched {each:.0} requests each: {asked:?}");
    // The dry run, the write, and the surge put back.
    assert_eq!(asked["patch"], 3 * FEW, "{asked:?}");
}
