//! What the API server tells of pods, endpoints, restarts, warnings and logs; programs in pods and checks through it; and
//! what is found out of images, pull secrets and budgets beforehand.

use crate::{
    alike::{Rule, with_rights},
    deployment_space::{Space, server, settled, until},
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use rollback_core::{health::Http, verify::LogScan, *};
use rollback_k8s::{Cluster, Deployment, PodChecks, release_id};
use rollback_tests::bed::kubernetes::service;
use serde_json::{Value, json};
use std::time::Duration;

const NAME: &str = "checkout";

fn id(image: &str) -> ReleaseId {
    release_id(&server(NAME, image, 2)["spec"]["template"])
}
/// From `bad` to v1, so long after the last write.
async fn context(target: &Deployment, bad: &str, since: u64) -> Context {
    let seen = target.observe(Look::full()).await.unwrap();
    Context::new(target.id().clone(), id(bad), id("v1"), seen).with_since(seconds(since))
}
async fn running(what: &str) -> (Space, Deployment) {
    let space = Space::new(what).await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    space.apply(server(NAME, "v1", 2)).await;
    settled(&target).await;
    (space, target)
}
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Holds(_) => "holds",
        Verdict::Fails(_) => "fails",
        Verdict::Unknown(_) => "unknown",
    }
}
/// An error counts as unknown, as the engine counts it.
async fn sample(verifier: &dyn Verifier, context: &Context) -> (&'static str, String) {
    match verifier.verify(context).await {
        Ok(verdict) => (word(&verdict), format!("{verdict:?}")),
        Err(e) => ("unknown", e.to_string()),
    }
}
async fn ask(check: &dyn HealthCheck, context: &Context) -> (&'static str, String) {
    let health = check.check(context).await.unwrap();
    (word(&health.clone().into()), format!("{health:?}"))
}
async fn becomes(verifier: &dyn Verifier, context: &Context, is: &str) -> String {
    let look = || async {
        let (word, said) = sample(verifier, context).await;
        (word == is).then_some(said)
    };
    until(&format!("{} {is}", verifier.name()), look).await.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn pods_that_are_being_deleted_are_left_and_strangers_get_no_traffic() {
    let (space, target) = running("verify-pods").await;
    space.apply(service(NAME, json!({"app": NAME}))).await;
    space.deploy(NAME, "graceful").await;
    settled(&target).await;
    let (gone, traffic) = (target.checks().bad_pods_gone(), target.checks().endpoints_of(NAME));
    let context = context(&target, "graceful", 1).await;
    assert_eq!(sample(&gone, &context).await.0, "fails");
    assert_eq!(becomes(&traffic, &context, "fails").await.matches("sends to").count(), 2);
    space.deploy(NAME, "v1").await;
    // It answers for seconds after it was told to go: that is when others say that they are done.
    until("a pod of the bad release is seen while it is being deleted", || async {
        let (word, said) = sample(&gone, &context).await;
        assert_ne!(word, "holds", "none was seen while it was being deleted: the test says nothing");
        said.contains("being deleted").then_some(())
    })
    .await;
    becomes(&gone, &context, "holds").await;
    let pods = space.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    // One that has ended answers nobody, though the API may still show it.
    let ended = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p != "Running");
    let pods: Vec<_> = pods.into_iter().filter(|pod| !ended(pod)).collect();
    let images: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers[0].image.as_deref()).collect();
    assert_eq!(images, ["bed/server:v1"; 2]);
    becomes(&traffic, &context, "holds").await;
    // Somebody's pod with the same labels.
    let mut spec = server(NAME, "v2", 1)["spec"]["template"]["spec"].clone();
    spec["terminationGracePeriodSeconds"] = json!(0);
    let stranger = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "labels": {"app": NAME}}, "spec": spec});
    // The ReplicaSet would adopt, and delete, one with its hash too.
    space.apply(stranger).await;
    let said = becomes(&traffic, &context, "fails").await;
    assert!(said.contains("sends to stranger, which is none of its pods"), "{said}");
    assert_eq!(sample(&gone, &context).await.0, "holds", "it is none of the target's pods");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn programs_in_pods_and_checks_through_the_api_server() {
    let (_space, target) = running("verify-health").await;
    let (checks, context) = (target.checks(), context(&target, "v2", 60).await);
    let script = |text: &str| checks.exec(["/bin/sh", "-c", text]).unwrap();
    for (check, is, says) in [
        (script("echo fine"), "holds", "exit 0: fine"),
        (script("echo password=hunter2; exit 3"), "fails", "exit 3: password= [redacted]"),
        (checks.exec(["/no/such/program"]).unwrap(), "unknown", "no such file"),
        (script("true").in_container("none"), "unknown", "none"),
        (script("sleep 60").with_timeout(seconds(1)), "unknown", "did not end within 1s"),
    ] {
        let (word, said) = ask(&check, &context).await;
        assert_eq!(word, is, "{said}");
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    }
    let get = |path: &str| Http::at_each_part(path).unwrap();
    for (check, is, says) in [
        (checks.through_api(get("/health")), "holds", "GET http://pod/checkout-"),
        (checks.through_api(get("/version").expect_body_containing("v1")), "holds", "/version"),
        (checks.through_api(get("/version").expect_body_containing("v2")), "fails", "/version"),
        (checks.through_api(get("/health").expect_status(500..=599)), "fails", "200"),
        // Nothing listens there: that is the service's fault, not that of the way.
        (checks.through_api(get("/health")).at_port(81), "fails", ":81"),
    ] {
        let (word, said) = ask(&check, &context).await;
        assert_eq!(word, is, "{said}");
        assert!(said.contains(says), "{said}");
    }
    let none = context.with_part(Some("none".into()));
    assert_eq!(ask(&checks.through_api(get("/health")), &none).await.0, "unknown");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn restarts_warnings_and_logs_since_the_rollback() {
    let (space, target) = running("verify-calm").await;
    let (checks, context) = (target.checks(), context(&target, "v2", 3600).await);
    let steady = checks.restarts_steady().with_quiet(seconds(5));
    let calm = checks.no_new_warnings().with_quiet(seconds(5));
    let log: LogScan = checks.log_scan("panicked at");
    for verifier in [&steady as &dyn Verifier, &calm, &log] {
        becomes(verifier, &context, "holds").await;
    }
    // Too short a look.
    let early = context.clone().with_since(seconds(1));
    assert_eq!(sample(&steady, &early).await.0, "unknown");
    // One container says its last words, and dies.
    let last_words = "echo panicked at main.go:1 token=hunter2 > /proc/1/fd/1; kill 1";
    let (_, said) = ask(&checks.exec(["/bin/sh", "-c", last_words]).unwrap(), &context).await;
    let restarted = becomes(&steady, &context, "fails").await;
    assert!(restarted.contains("container server"), "{restarted} after {said}");
    // What it said stands in the log of its last run.
    let found = becomes(&log, &context, "fails").await;
    assert!(found.contains("panicked at main.go:1") && !found.contains("hunter2"), "{found}");
    assert_eq!(sample(&checks.log_scan("nobody logs this"), &context).await.0, "holds");
    becomes(&steady, &context, "holds").await;
    // A warning of its own pod.
    let pods = space.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let (name, uid) = (pods[0].metadata.name.clone().unwrap(), pods[0].metadata.uid.clone().unwrap());
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    becomes(&calm, &context, "holds").await;
    space
        .apply(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "noticed"}, "type": "Warning",
            "reason": "Noticed", "message": "something is odd", "lastTimestamp": now, "firstTimestamp": now,
            "involvedObject": {"kind": "Pod", "name": name, "uid": uid, "namespace": space.namespace}}))
        .await;
    let said = becomes(&calm, &context, "fails").await;
    assert!(said.contains("Noticed") && said.contains("something is odd"), "{said}");
    assert_eq!(sample(&checks.no_new_warnings().with_quiet(seconds(5)).ignoring("Noticed"), &context).await.0, "holds");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_is_not_allowed_is_unknown_and_the_documented_rights_are_enough() {
    let (space, _) = running("verify-rights").await;
    space.apply(service(NAME, json!({"app": NAME}))).await;
    let least: [Rule<'_>; 3] =
        [("apps", "deployments", &["get"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let more: [Rule<'_>; 5] = [
        ("discovery.k8s.io", "endpointslices", &["list"]),
        ("", "events", &["list"]),
        ("", "pods/log", &["get"]),
        ("", "pods/exec", &["get", "create"]),
        ("", "pods/portforward", &["get", "create"]),
    ];
    let all = |checks: PodChecks| {
        let exec = verify::HealthyNow::of(checks.exec(["/bin/sh", "-c", "true"]).unwrap());
        let http = verify::HealthyNow::of(checks.through_api(Http::at_each_part("/health").unwrap()));
        let verifiers: [(&str, Box<dyn Verifier>); 5] = [
            ("endpointslices", Box::new(checks.endpoints_of(NAME))),
            ("events", Box::new(checks.no_new_warnings().with_quiet(seconds(1)))),
            ("pods/log", Box::new(checks.log_scan("panicked at"))),
            ("pods/exec", Box::new(exec)),
            ("pods/portforward", Box::new(http)),
        ];
        verifiers
    };
    let of = |cluster: &Cluster| cluster.deployment(&space.namespace, NAME);
    let few = with_rights(&space.own, "few", &least, of).await;
    let seen = context(&few, "v2", 60).await;
    for (resource, verifier) in all(few.checks()) {
        let (word, said) = sample(&verifier, &seen).await;
        assert_eq!(word, "unknown", "{resource}: {said}");
        assert!(said.contains(resource) && said.contains("not allowed"), "{resource}: {said}");
    }
    for verifier in
        [&few.checks().bad_pods_gone() as &dyn Verifier, &few.checks().restarts_steady().with_quiet(seconds(1))]
    {
        becomes(verifier, &seen, "holds").await;
    }
    let rules: Vec<_> = least.into_iter().chain(more).collect();
    let enough = with_rights(&space.own, "enough", &rules, of).await;
    for (_, verifier) in all(enough.checks()) {
        becomes(&verifier, &seen, "holds").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn images_pull_secrets_and_budgets_are_looked_at_beforehand() {
    let space = Space::new("verify-prepare").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    let mut gone = server(NAME, "on-no-node", 2);
    gone["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{"name": "registry"}]);
    gone["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}});
    let template = gone["spec"]["template"].clone();
    space.apply(gone).await;
    let seen = |count: usize| {
        let target = target.clone();
        async move { (target.history(10).await.ok()?.len() == count).then_some(()) }
    };
    until("its first ReplicaSet is there", || async {
        let sets = space.replica_sets().await;
        (sets.len() == 1).then_some(())
    })
    .await;
    space.deploy(NAME, "v2").await;
    until("two releases", || seen(2)).await;
    settled(&target).await;
    space
        .apply(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "all-of-it"},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": NAME}}}}))
        .await;
    let work = Work::new(
        "run".into(),
        1,
        "prepare",
        Duration::from_secs(30),
        std::sync::Arc::new(rollback_core::journal::MemoryShelf::new()),
    );
    let change = Change::release(&"all".into(), &release_id(&template));
    let (findings, _) = until("the budget is counted", || async {
        let findings = target.prepare(&change, &work).await.unwrap().findings;
        let counted = findings.iter().any(|f| f.code == "budget" && f.severity == Severity::Warning);
        counted.then_some(findings)
    })
    .await;
    let text = |code: &str| {
        let found = findings.iter().find(|finding| finding.code == code);
        found.unwrap_or_else(|| panic!("no finding {code}: {findings:?}")).text.clone()
    };
    assert!(text("budget").contains("all-of-it wants 2"), "{findings:?}");
    assert!(text("image").contains("no node lists bed/server:on-no-node"), "{findings:?}");
    assert!(text("pull-secret").contains("the Secret registry, which is gone"), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.severity != Severity::Blocks), "{findings:?}");
}

/// Definitions that make the API server answer as one with a metrics server, with figures of the test's.
fn metrics_api() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pods.metrics.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test stands in for a metrics server"}},
        "spec": {
            "group": "metrics.k8s.io", "scope": "Namespaced",
            "names": {"plural": "pods", "singular": "pod", "kind": "PodMetrics", "listKind": "PodMetricsList"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_pods_use_is_told_where_there_is_a_metrics_server() {
    let space = Space::new("verify-usage").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    let mut limited = server(NAME, "v1", 2);
    limited["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"limits": {"memory": "100Mi", "cpu": "1"}, "requests": {"memory": "1Mi", "cpu": "1m"}});
    let template = limited["spec"]["template"].clone();
    space.apply(limited).await;
    settled(&target).await;
    let seen = target.observe(Look::full()).await.unwrap();
    let context = Context::new(target.id().clone(), id("v2"), release_id(&template), seen).with_since(seconds(60));
    let room = target.checks().within_limits();
    let gone = || async {
        let gone = space.own.kubectl(&["delete", "crd", "pods.metrics.k8s.io", "--ignore-not-found"]).await;
        drop(gone);
    };
    // One that was killed may have left it.
    gone().await;
    let absent = becomes(&room, &context, "unknown").await;
    assert!(absent.contains("metrics.k8s.io"), "{absent}");

    space.own.bed().apply(metrics_api()).await;
    until("it is served", || async { room.verify(&context).await.ok().filter(|v| format!("{v:?}").contains("yet")) })
        .await;
    let pods = space.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let figures = |memory: &'static str| {
        let (space, pods) = (&space, &pods);
        async move {
            for pod in pods {
                let at = k8s_openapi::jiff::Timestamp::now().to_string();
                let usage = json!([{"name": "server", "usage": {"memory": memory, "cpu": "2500000n"}}]);
                space
                    .apply(json!({"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "timestamp": at,
                        "window": "10s", "metadata": {"name": pod.metadata.name, "labels": pod.metadata.labels},
                        "containers": usage}))
                    .await;
            }
        }
    };
    figures("50Mi").await;
    let holds = becomes(&room, &context, "holds").await;
    assert!(holds.contains("50 % of its memory limit"), "{holds}");
    let bundle = crate::evidence::Bundle::of(&target, crate::evidence::ample()).await;
    figures("95Mi").await;
    let fails = becomes(&room, &context, "fails").await;
    gone().await;
    assert!(fails.contains("95 % of its memory limit"), "{fails}");
    assert!(bundle.text("k8s-metrics/1").contains("50Mi"), "{:?}", bundle.kinds());
}
