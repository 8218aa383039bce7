//! Who would deploy the bad release again is told to wait, and goes on exactly as before.

use crate::deployment_space::{Space, server, settled, until};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use rollback_core::{
    freeze::{FreezeEnd, unfreeze},
    prelude::*,
    *,
};
use rollback_k8s::{ClusterFreeze, release_id};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

async fn space(what: &str) -> Space {
    let space = Space::new(what).await;
    space.own.bed().with("crds").await;
    space
}
fn api(space: &Space, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(space.own.bed().client(), &space.namespace, &resource)
}
async fn spec(api: &Api<DynamicObject>, name: &str) -> Value {
    api.get(name).await.unwrap().data["spec"].clone()
}
async fn annotations(api: &Api<DynamicObject>, name: &str) -> std::collections::BTreeMap<String, String> {
    api.get(name).await.unwrap().metadata.annotations.unwrap_or_default()
}
fn hold(run: &str) -> Hold {
    Hold::new(run.into(), "t".into(), "me@example.org", "500s").with_until(Some(Timestamp(4_000_000_000_000)))
}
fn id(image: &str) -> ReleaseId {
    release_id(&server("web", image, 2)["spec"]["template"])
}

struct Case {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    spec: Value,
    frozen: Value,
    freeze: fn(&Space) -> ClusterFreeze,
}

fn cases() -> Vec<Case> {
    let hpa = |least: Option<u32>| {
        let mut spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 10, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]});
        if let Some(least) = least {
            spec["minReplicas"] = json!(least);
        }
        spec
    };
    let automated = json!({"syncPolicy": {"automated": {"prune": true, "selfHeal": true}, "retry": {"limit": 3}}});
    vec![
        Case {
            group: "argoproj.io",
            version: "v1alpha1",
            kind: "Application",
            spec: automated,
            frozen: json!({"syncPolicy": {"retry": {"limit": 3}}}),
            freeze: |space| space.cluster.freeze_application(&space.namespace, "web"),
        },
        // By hand already: nothing to pause, and nothing to put back.
        Case {
            group: "argoproj.io",
            version: "v1alpha1",
            kind: "Application",
            spec: json!({"project": "default"}),
            frozen: json!({"project": "default"}),
            freeze: |space| space.cluster.freeze_application(&space.namespace, "web"),
        },
        Case {
            group: "kustomize.toolkit.fluxcd.io",
            version: "v1",
            kind: "Kustomization",
            spec: json!({"interval": "1m"}),
            frozen: json!({"interval": "1m", "suspend": true}),
            freeze: |space| space.cluster.freeze_kustomization(&space.namespace, "web"),
        },
        // Somebody else suspended it: it stays suspended.
        Case {
            group: "helm.toolkit.fluxcd.io",
            version: "v2",
            kind: "HelmRelease",
            spec: json!({"interval": "1m", "suspend": true}),
            frozen: json!({"interval": "1m", "suspend": true}),
            freeze: |space| space.cluster.freeze_helm_release(&space.namespace, "web"),
        },
        Case {
            group: "helm.toolkit.fluxcd.io",
            version: "v2",
            kind: "HelmRelease",
            spec: json!({"interval": "1m", "suspend": false}),
            frozen: json!({"interval": "1m", "suspend": true}),
            freeze: |space| space.cluster.freeze_helm_release(&space.namespace, "web"),
        },
        Case {
            group: "autoscaling",
            version: "v2",
            kind: "HorizontalPodAutoscaler",
            spec: hpa(Some(2)),
            frozen: hpa(Some(6)),
            freeze: |space| space.cluster.hold_autoscaler(&space.namespace, "web", 6),
        },
        // It is above the floor already.
        Case {
            group: "autoscaling",
            version: "v2",
            kind: "HorizontalPodAutoscaler",
            spec: hpa(Some(8)),
            frozen: hpa(Some(8)),
            freeze: |space| space.cluster.hold_autoscaler(&space.namespace, "web", 6),
        },
        Case {
            group: "keda.sh",
            version: "v1alpha1",
            kind: "ScaledObject",
            spec: json!({"maxReplicaCount": 10}),
            frozen: json!({"maxReplicaCount": 10, "minReplicaCount": 6}),
            freeze: |space| space.cluster.hold_scaled_object(&space.namespace, "web", 6),
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_is_frozen_comes_back_exactly_as_it_was() {
    let space = space("freeze").await;
    for case in cases() {
        let Case { group, version, kind, .. } = case;
        let (api, freeze) = (api(&space, group, version, kind), (case.freeze)(&space));
        let own = json!({"keep": "me"});
        space
            .apply(json!({"apiVersion": format!("{group}/{version}"), "kind": kind,
                "metadata": {"name": "web", "annotations": own}, "spec": case.spec}))
            .await;
        let before = spec(&api, "web").await;
        let was = freeze.freeze(&hold("one")).await.unwrap();
        assert_eq!(spec(&api, "web").await, case.frozen, "{kind}");
        let marked = annotations(&api, "web").await;
        let text = &marked["rollback.dev/frozen-by"];
        assert!(text.contains("me@example.org") && text.contains("2096-10-02") && text.contains("500s"), "{text}");
        // A crash repeats it: the answer is that of the first time.
        assert_eq!(freeze.freeze(&hold("one")).await.unwrap(), was, "{kind}");
        // A second run holds it too, and the first one's end does not lift that.
        let second = freeze.freeze(&hold("two")).await.unwrap();
        assert_eq!(freeze.held().await.unwrap(), [hold("one"), hold("two")]);
        freeze.unfreeze(&hold("one"), was.clone()).await.unwrap();
        assert_eq!(spec(&api, "web").await, case.frozen, "{kind}: the second run holds it");
        freeze.unfreeze(&hold("two"), second).await.unwrap();
        assert_eq!(spec(&api, "web").await, before, "{kind}");
        let left = annotations(&api, "web").await;
        assert_eq!((left.get("keep").map(String::as_str), left.len()), (Some("me"), 1), "{left:?}");
        assert_eq!(freeze.held().await.unwrap(), []);
        // Once more is no error, and undoes nothing.
        freeze.unfreeze(&hold("one"), was).await.unwrap();
        assert_eq!(spec(&api, "web").await, before, "{kind}");
        api.delete("web", &Default::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_somebody_set_meanwhile_stays() {
    let space = space("freeze-set").await;
    let api = api(&space, "argoproj.io", "v1alpha1", "Application");
    let freeze = space.cluster.freeze_application(&space.namespace, "web");
    space
        .apply(json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": "web"},
            "spec": {"syncPolicy": {"automated": {"prune": true}}}}))
        .await;
    let was = freeze.freeze(&hold("one")).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"syncPolicy": {"automated": {"prune": false}}}}));
    api.patch("web", &PatchParams::default(), &patch).await.unwrap();
    freeze.unfreeze(&hold("one"), was.clone()).await.unwrap();
    assert_eq!(spec(&api, "web").await["syncPolicy"]["automated"], json!({"prune": false}));
    // Somebody cleaned the annotations away, and with them what was there: the journal still knows.
    let wiped = freeze.freeze(&hold("two")).await.unwrap();
    let patch = Patch::Merge(json!({"metadata": {"annotations": null}}));
    api.patch("web", &PatchParams::default(), &patch).await.unwrap();
    freeze.unfreeze(&hold("two"), wiped).await.unwrap();
    assert_eq!(spec(&api, "web").await["syncPolicy"]["automated"], json!({"prune": false}));
    // What is gone is held by nobody.
    api.delete("web", &Default::default()).await.unwrap();
    freeze.unfreeze(&hold("one"), was).await.unwrap();
    assert_eq!(freeze.freeze(&hold("one")).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_floor_above_the_most_is_refused() {
    let space = space("freeze-floor").await;
    space
        .apply(json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "web"},
            "spec": {"maxReplicaCount": 3}}))
        .await;
    let e = space.cluster.hold_scaled_object(&space.namespace, "web", 6).freeze(&hold("one")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None), "{e}");
}

/// Something that deploys from Git: as long as it is not suspended, it sets version 2.
fn gitops(space: &Arc<Space>) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let (space, applied) = (space.clone(), Arc::new(AtomicUsize::new(0)));
    let count = applied.clone();
    let flux = tokio::spawn(async move {
        let api = api(&space, "kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let Ok(now) = api.get("apps").await else { continue };
            if now.data["spec"]["suspend"] != json!(true) && space.image("web").await != "v2" {
                space.deploy("web", "v2").await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (flux, applied)
}

/// flux#2285: something applies the bad template again and again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_git_puts_back_is_frozen_first() {
    let space = Arc::new(space("freeze-2285").await);
    let target = space.cluster.deployment(&space.namespace, "web");
    let mut first = server("web", "v1", 2);
    first["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = json!("apps");
    first["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/namespace"] = json!(space.namespace);
    space.apply(first).await;
    settled(&target).await;
    space.deploy("web", "v2").await;
    settled(&target).await;
    space
        .apply(json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": {"name": "apps"}, "spec": {"interval": "1m"}}))
        .await;
    let (flux, applied) = gitops(&space);
    let rollback = || {
        let policy = Policy::default().with_poll(Duration::from_millis(100));
        let strategy = Direct::default().with_settle_within(seconds(20));
        Rollback::of(target.clone()).because("500s").to(Choose::Exactly(id("v1"))).using(strategy).policy(policy)
    };

    // Without a freeze: it says what became of it, and does not claim that it helped.
    let report = rollback().run().await.unwrap();
    println!("without a freeze: {:?}", report.outcome());
    let named =
        matches!(report.outcome(), Outcome::Superseded { .. } | Outcome::NotRecovered { .. } | Outcome::Stuck { .. });
    assert!(named, "{report}");
    assert!(report.to_string().contains("flux-kustomization"), "who does it is said: {report}");
    assert!(applied.load(Ordering::SeqCst) > 0, "nobody put the bad release back: the test says nothing");
    until("the bad release is back", || async { (space.image("web").await == "v2").then_some(()) }).await;
    settled(&target).await;

    // With it: frozen before the first write, and held after the last.
    let freezes = space.cluster.freezes_of(&space.namespace, "web", "argocd").await.unwrap();
    assert_eq!(freezes.len(), 1);
    let journal = rollback_core::journal::MemoryJournal::new();
    let freeze: Arc<dyn Freeze> = Arc::new(freezes[0].clone());
    let report = rollback().freezing(freeze.clone()).journal(journal.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let before = applied.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((space.image("web").await.as_str(), applied.load(Ordering::SeqCst)), ("v1", before));

    // Only the explicit end lets it go on.
    let run = journal.holds().await.unwrap()[0].hold.run.clone();
    let ends = unfreeze(&journal, &[freeze], &run, "me", Timestamp::now()).await.unwrap();
    assert_eq!(ends.iter().map(|end| end.end.clone()).collect::<Vec<_>>(), [FreezeEnd::Lifted]);
    until("Git is deployed again", || async { (space.image("web").await == "v2").then_some(()) }).await;
    flux.abort();
}
