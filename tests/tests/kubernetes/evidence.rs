//! What is saved before the first change: the end of what crashed, events, how all was; and no secrets.

use crate::{
    alike::with_rights,
    deployment_space::{Space, server, until},
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use rollback_core::{
    Artifact, Bounds, Target, Work,
    journal::{MemoryShelf, Shelf},
};
use rollback_tests::bed::kubernetes::service;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const NAME: &str = "checkout";

/// What was kept, kind by kind, in order.
pub(crate) struct Bundle(Vec<(String, String)>);

impl Bundle {
    pub(crate) async fn of(target: &dyn Target, bounds: Bounds) -> Self {
        let shelf: Arc<dyn Shelf> = Arc::new(MemoryShelf::new());
        let work = Work::new("run".into(), 1, "evidence", bounds.time, shelf.clone());
        let kept = target.evidence().unwrap().collect(bounds, &work).await.unwrap();
        let mut all = vec![];
        for Artifact { kind, .. } in &kept {
            all.push((kind.clone(), String::new()));
        }
        for ((_, text), artifact) in all.iter_mut().zip(&kept) {
            let mut reader = shelf.read(artifact).await.unwrap();
            while let Some(chunk) = reader.next().await.unwrap() {
                text.push_str(&String::from_utf8(chunk).unwrap());
            }
        }
        Self(all)
    }
    pub(crate) fn text(&self, kind: &str) -> String {
        self.0.iter().filter(|(of, _)| of == kind).map(|(_, text)| text.as_str()).collect()
    }
    pub(crate) fn all(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }
    pub(crate) fn kinds(&self) -> Vec<&str> {
        self.0.iter().map(|(kind, _)| kind.as_str()).collect()
    }
    pub(crate) fn json(&self, kind: &str) -> Vec<Value> {
        self.text(kind).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn ample() -> Bounds {
    Bounds { time: Duration::from_secs(30), bytes: 1 << 20 }
}

/// A Deployment whose second release prints secrets and dies, with a Secret that a variable refers to.
async fn crashing(what: &str) -> Space {
    let space = Space::new(what).await;
    space
        .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
            "stringData": {"password": "hunter2-of-the-secret"}}))
        .await;
    space
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"},
            "data": {"key": "hunter2-of-the-map"}}))
        .await;
    space.apply(server(NAME, "v1", 1)).await;
    space.own.settled(NAME, crate::deployment_space::PATIENCE).await;
    let script = "echo serving with DB_PASSWORD=hunter2-of-the-log; echo the last words; exit 3";
    let container = json!({
        "name": "server", "image": "bed/server:v2", "command": ["/bin/sh", "-c", script, "--token", "hunter2-of-the-flag"],
        "env": [
            {"name": "API_KEY", "value": "hunter2-of-the-variable"},
            {"name": "PLAIN", "value": "kept as it is"},
            {"name": "DB", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
            {"name": "CONF", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "key"}}},
        ],
    });
    space.edit(NAME, json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await;
    let restarted = || async {
        let pods = space.api::<Pod>().list(&ListParams::default()).await.ok()?.items;
        let mut all = pods.iter().flat_map(|pod| pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()));
        all.any(|container| {
            let waits = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            container.restart_count > 0 && waits.is_some_and(|w| w.reason.as_deref() == Some("CrashLoopBackOff"))
        })
        .then_some(())
    };
    until("the pod of the bad release crashes in a loop", restarted).await;
    space
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_last_words_of_what_crashed_come_first_and_no_secret_is_in_it() {
    let space = crashing("evidence").await;
    space.own.bed().with("crds").await;
    for name in [NAME, "another"] {
        let (metadata, rule) = (json!({"name": name}), json!({"backendRefs": [{"name": name, "port": 80}]}));
        let route = json!({"route": [{"destination": {"host": format!("{name}.{}.svc", space.namespace)}}]});
        let path =
            json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": name, "port": {"number": 80}}}});
        for object in [
            service(name, json!({"app": name})),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
                "spec": {"rules": [{"http": {"paths": [path]}}]}}),
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata,
                "spec": {"rules": [rule]}}),
            json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
                "spec": {"hosts": [name], "http": [route]}}),
        ] {
            space.apply(object).await;
        }
    }
    let target = space.cluster.deployment(&space.namespace, NAME);
    let bundle = Bundle::of(&target, ample()).await;
    println!("{:?}, {} bytes", bundle.kinds(), bundle.all().len());
    assert_eq!(bundle.kinds().first(), Some(&"k8s-previous-log/1"), "{:?}", bundle.kinds());
    let last_words = bundle.text("k8s-previous-log/1");
    assert!(last_words.contains("the last words"), "{last_words}");
    let all = bundle.all();
    assert!(!all.contains("hunter2"), "{all}");
    // What is no secret is there: variables, the other release, names of what pods refer to.
    assert!(bundle.text("k8s-workload/1").contains("kept as it is"), "{all}");
    assert_eq!(bundle.json("k8s-revisions/1").len(), 2, "{all}");
    let references = bundle.json("k8s-references/1");
    for named in [json!({"kind": "Secret", "name": "db"}), json!({"kind": "ConfigMap", "name": "conf"})] {
        assert!(references.contains(&named), "{references:?}");
    }
    let events = bundle.json("k8s-events/1");
    assert_eq!(events[0]["type"], "Warning", "{events:?}");
    assert!(
        events.iter().any(|event| event["said"].as_str().unwrap().starts_with("BackOff (Pod checkout-")),
        "{events:?}"
    );
    assert_eq!(bundle.json("k8s-pods/1").len(), 2, "{all}");
    // What sends traffic to it, and what it is configured by.
    let objects = bundle.json("k8s-objects/1");
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Service", "Ingress", "HTTPRoute", "VirtualService"], "{all}");
    assert!(objects.iter().all(|object| object["metadata"]["name"] == NAME), "{all}");
    let config = &bundle.json("k8s-config/1")[0];
    assert_eq!((&config["ConfigMap"], &config["bytes"]["key"]), (&json!("conf"), &json!(18)), "{all}");
    // There is no metrics server on the bed.
    let missing = bundle.text("k8s-missing/1");
    assert!(missing.lines().all(|line| line.contains("metrics.k8s.io")), "{missing}");
    // The Secret is there, with what must not be: the test would have seen it.
    let secret: Secret = space.api().get("db").await.unwrap();
    assert!(String::from_utf8_lossy(&secret.data.unwrap()["password"].0).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn of_little_room_and_few_rights_the_most_telling_is_kept() {
    let space = crashing("evidence-less").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    let bytes = 2000;
    let little = Bundle::of(&target, Bounds { bytes, ..ample() }).await;
    assert!(little.all().len() as u64 <= bytes, "{}", little.all().len());
    assert!(little.text("k8s-previous-log/1").contains("the last words"), "{}", little.all());
    assert!(little.json("k8s-events/1").len() > 1, "{}", little.all());

    // Without the rights that only evidence needs, all else is kept, and what is missing is said.
    let rules: [(&str, &str, &[&str]); 3] =
        [("apps", "deployments", &["get"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let few = with_rights(&space.own, "few", &rules, |cluster| cluster.deployment(&space.namespace, NAME)).await;
    let bundle = Bundle::of(&few, ample()).await;
    let missing = bundle.text("k8s-missing/1");
    assert!(missing.contains("pods/log") && missing.contains("events"), "{missing}");
    assert!(bundle.text("k8s-workload/1").contains("kept as it is"));
    assert_eq!(bundle.json("k8s-pods/1").len(), 2);
}
