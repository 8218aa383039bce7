//! Several workloads of a namespace: which of them are broken, and only those go back, each to a release of its own.

use crate::workloads::{Place, settled, until, workload};
use rollback_core::{group::MemberEnd, prelude::*};
use rollback_k8s::{Scope, Workload, Workloads};
use rollback_tests::bed::kubernetes::{deployment, server_pod_spec};
use serde_json::{Value, json};
use std::time::Duration;

fn server(name: &str, image: &str) -> Value {
    let mut object = deployment(name, 1, server_pod_spec(&format!("bed/server:{image}")));
    object["metadata"]["labels"]["part-of"] = json!("vapora");
    // So that one that is not ready is down.
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    object
}

/// Three Deployments and a StatefulSet, all of which were deployed twice, and one Deployment that has no part in it.
async fn vapora(bad: &[&str]) -> (Place, Workloads) {
    let place = Place::new("several").await;
    for name in ["backend", "agents", "router"] {
        place.own.apply(server(name, "v1")).await;
    }
    place
        .own
        .apply(workload("StatefulSet", "queue", "v1", |object| {
            object["spec"]["replicas"] = json!(1);
            object["metadata"]["labels"]["part-of"] = json!("vapora");
        }))
        .await;
    place.own.apply(deployment("other", 1, server_pod_spec("bed/server:v1"))).await;
    let all = place.cluster.workloads(&place.namespace, "").await.unwrap();
    for one in all.iter() {
        settled(one).await;
    }
    for name in ["backend", "agents", "router"] {
        let image = if bad.contains(&name) { "unready" } else { "v2" };
        place.own.apply(server(name, image)).await;
    }
    place.deploy("StatefulSet", "queue", "v2").await;
    for one in all.iter().filter(|one| !bad.contains(&one.name())) {
        settled(one).await;
    }
    let vapora = place.cluster.workloads(&place.namespace, "part-of=vapora").await.unwrap();
    (place, vapora)
}

fn rollback(workload: Workload) -> Rollback {
    Rollback::of(workload)
        .because("the deploy of 14:00")
        .to(Choose::verified().or_previous())
        .policy(Policy::default().with_poll(Duration::from_millis(200)).with_floor(Weight::NONE))
}

async fn images(place: &Place) -> Vec<String> {
    place.pods().await.into_iter().map(|(name, _, image)| format!("{} {image}", &name[..5])).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn only_what_is_broken_goes_back() {
    let (place, vapora) = vapora(&["backend"]).await;
    assert_eq!(vapora.names(), ["deployment/agents", "deployment/backend", "deployment/router", "statefulset/queue"]);
    let (suggestion, _) = until("the backend is down, and said to be", || async {
        let suggestion = vapora.suggest().await;
        (suggestion.scope == Scope::Only(vec!["deployment/backend".into()])).then_some(suggestion)
    })
    .await;
    assert!(suggestion.why().starts_with("1 of 4 down or stuck"), "{suggestion}");
    assert!(suggestion.to_string().contains("deployment/backend DOWN: "), "{suggestion}");
    let only = vapora.only(suggestion.names());
    let report = only.group("only", rollback).run().await.unwrap();
    assert!(report.is_good(), "{report}");
    assert_eq!(report.members().len(), 1);
    assert_eq!(images(&place).await, ["agent v2", "backe v1", "other v1", "queue v2", "route v2"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn all_go_back_in_order_each_to_its_own_release() {
    let (place, vapora) = vapora(&["backend"]).await;
    // A revision number is one workload's own: this one has been deployed once more.
    place.own.apply(server("agents", "v3")).await;
    settled(&place.cluster.deployment(&place.namespace, "agents")).await;
    let order = ["statefulset/queue", "deployment/backend", "deployment/agents", "deployment/router"];
    let report = vapora.in_order(order).group("all", rollback).at_once(2).run().await.unwrap();
    assert!(report.is_good(), "{report}");
    let names: Vec<&str> = report.members().iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, order.map(|name| name.replace('/', ".")));
    let began: Vec<_> = report
        .members()
        .iter()
        .map(|member| match &member.end {
            MemberEnd::Ran(report) => (report.began(), report.chosen().unwrap().wanted.label.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(began.is_sorted_by_key(|(at, _)| *at), "{began:?}");
    assert!(began[2].1.contains("server:v2") && began[3].1.contains("server:v1"), "{began:?}");
    assert_eq!(images(&place).await, ["agent v2", "backe v1", "other v1", "queue v1", "route v1"]);
}
