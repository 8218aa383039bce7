//! A real Deployment goes back: under traffic, against other hands, out of every way in which a release can fail.

use crate::{
    alike::with_rights,
    deployment_space::{Space, server, settled, until},
};
use async_trait::async_trait;
use k8s_openapi::api::{apps::v1::Deployment as Object, core::v1::ResourceQuota, rbac::v1::ClusterRoleBinding};
use kube::{
    api::{Patch, PatchParams},
    config::Kubeconfig,
};
use rollback_core::{prelude::*, *};
use rollback_k8s::{Cluster, ClusterOptions, Deployment, release_id};
use rollback_tests::bed::kubernetes::{Bed, service};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const NAME: &str = "checkout";

fn id(image: &str) -> ReleaseId {
    release_id(&server(NAME, image, 2)["spec"]["template"])
}

/// Version 1 is deployed and settled; then `bad` is deployed.
async fn deployed(what: &str, bad: &str) -> (Space, Deployment) {
    let space = Space::new(what).await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    space.apply(server(NAME, "v1", 2)).await;
    settled(&target).await;
    space.deploy(NAME, bad).await;
    (space, target)
}
async fn failed(what: &str, bad: &str) -> (Space, Deployment) {
    let (space, target) = deployed(what, bad).await;
    settled(&target).await;
    (space, target)
}
fn rollback(target: impl Target) -> Rollback {
    let policy = Policy::default().with_poll(Duration::from_millis(200));
    Rollback::of(target).because("it fails").to(Choose::verified().or_previous()).policy(policy)
}
async fn annotations(space: &Space) -> BTreeMap<String, String> {
    space.deployment(NAME).await.metadata.annotations.unwrap_or_default()
}
async fn strategy(space: &Space) -> Value {
    serde_json::to_value(space.deployment(NAME).await.spec.unwrap().strategy).unwrap()
}
fn work(step: &str) -> Work {
    Work::new("run".into(), 1, step, Duration::from_secs(30), Arc::new(rollback_core::journal::MemoryShelf::new()))
}
fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new("kubectl").args(arguments).output().expect("kubectl is on the bed's PATH");
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
fn part(seen: &Observation) -> &PartState {
    seen.parts.values().next().unwrap()
}

/// Requests, one after the other, each on a connection of its own, with what they were answered.
struct Traffic {
    stop: Arc<AtomicBool>,
    answers: tokio::task::JoinHandle<Vec<(Instant, String)>>,
}

impl Traffic {
    async fn to(space: &Space) -> Self {
        space.apply(service(NAME, json!({"app": NAME}))).await;
        let url = format!("http://{}", space.own.reached(NAME, Duration::from_secs(20)).await);
        let client =
            reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(2)).build().unwrap();
        let ask = move |client: reqwest::Client, url: String| async move {
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => answer.text().await.unwrap_or_else(|e| e.to_string()),
                Ok(answer) => answer.status().as_u16().to_string(),
                Err(_) => "no answer".into(),
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let answers = tokio::spawn(async move {
            let mut answers = vec![];
            while !stopped.load(Ordering::Relaxed) {
                let answer = ask(client.clone(), url.clone()).await;
                answers.push((Instant::now(), answer.trim().to_owned()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answers
        });
        Self { stop, answers }
    }
    async fn stop(self) -> Vec<(Instant, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.answers.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn goes_back_under_traffic() {
    let (space, target) = failed("traffic", "failing").await;
    let traffic = Traffic::to(&space).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.db");
    let begun = Instant::now();
    let report = rollback(target.clone()).journal(SqliteJournal::open(&journal)).run().await.unwrap();
    let took = begun.elapsed();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let done = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let answers = traffic.stop().await;
    let count = |wanted: &dyn Fn(Instant) -> bool, what: &str| {
        answers.iter().filter(|(at, answer)| wanted(*at) && answer == what).count()
    };
    let lost = answers.iter().filter(|(at, answer)| *at >= done && answer == "no answer").map(|(at, _)| *at - done);
    println!(
        "recovered in {took:?}; before: {} × 500; during, of {}: {} × 500, {} without an answer; after, of {}: {} × v1, {} \
         without an answer, the last one {:?} later (kube-proxy follows the pods)",
        count(&|at| at < begun, "500"),
        answers.iter().filter(|(at, _)| *at >= begun && *at < done).count(),
        count(&|at| at >= begun && at < done, "500"),
        count(&|at| at >= begun && at < done, "no answer"),
        answers.iter().filter(|(at, _)| *at >= done).count(),
        count(&|at| at >= done, "v1"),
        lost.clone().count(),
        lost.max().unwrap_or_default(),
    );
    assert!(count(&|at| at < begun, "500") > 0, "the bad release failed no request: the test says nothing");
    assert!(count(&|at| at >= done, "v1") > 50, "{answers:?}");
    // Once it says that it is done, nothing of the bad release answers, not once.
    let bad: Vec<_> =
        answers.iter().filter(|(at, answer)| *at >= done && answer != "v1" && answer != "no answer").collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(answers.iter().rev().take(20).all(|(_, answer)| answer == "v1"), "{answers:?}");
    // It is settled once more: nothing is left of the bad release, and kubectl agrees.
    assert_eq!(part(&settled(&target).await).running, Running::Release(id("v1")));
    let status = kubectl(&["rollout", "status", "deployment", NAME, "-n", &space.namespace, "--watch=false"]);
    assert!(status.contains("successfully rolled out"), "{status}");
    let history = kubectl(&["rollout", "history", "deployment", NAME, "-n", &space.namespace]);
    assert!(history.contains("it fails"), "the reason is in kubectl's history: {history}");
    // A second rollback does not walk on, nor back to the bad one.
    let again = rollback(target).journal(SqliteJournal::open(&journal)).run().await.unwrap();
    assert!(matches!(again.outcome(), Outcome::Refused { .. } | Outcome::NothingToDo), "{again}");
    assert_eq!(space.image(NAME).await, "v1");
}

/// Lets somebody else in between the look that was judged and the write.
#[derive(Debug)]
struct Meddled<F>(Deployment, Arc<Space>, F, AtomicBool);

#[async_trait]
impl<F, R> Target for Meddled<F>
where
    F: Fn(Arc<Space>) -> R + std::fmt::Debug + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    fn id(&self) -> &TargetId {
        self.0.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.0.observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.0.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        self.0.prepare(change, work).await
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        if !self.3.swap(true, Ordering::SeqCst) {
            (self.2)(self.1.clone()).await;
        }
        self.0.apply(approved, token, work).await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_concurrent_deploy_is_never_overwritten() {
    let (space, target) = failed("deploy", "v2").await;
    let space = Arc::new(space);
    async fn deploys(space: Arc<Space>) {
        space.deploy(NAME, "v3").await;
    }
    let target = Meddled(target, space.clone(), deploys as fn(Arc<Space>) -> _, AtomicBool::new(false));
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::superseded_by(id("v3").as_str()), "{report}");
    assert_eq!(space.image(NAME).await, "v3");
}

/// `kubectl rollout undo` brings back the very release that was blamed, and takes the marks away with the annotations.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn an_undo_of_the_rollback_is_somebody_elses_word() {
    let (space, target) = failed("undo", "v2").await;
    // It is under way for long enough to be undone.
    space.edit(NAME, json!({"spec": {"minReadySeconds": 20}})).await;
    settled(&target).await;
    let rollback = rollback(target);
    let undoes = async {
        until("it has written", || async { (space.image(NAME).await == "v1").then_some(()) }).await;
        let namespace = space.namespace.clone();
        let undo = move || kubectl(&["-n", &namespace, "rollout", "undo", "deployment/checkout"]);
        tokio::task::spawn_blocking(undo).await.unwrap();
    };
    let (report, _) = tokio::join!(rollback.run(), undoes);
    let report = report.unwrap();
    assert_eq!(report.outcome(), &Outcome::superseded_by(id("v2").as_str()), "{report}");
    assert_eq!(space.image(NAME).await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn scaling_and_annotations_do_not_disturb_it() {
    let (space, target) = failed("scale", "v2").await;
    let space = Arc::new(space);
    async fn scales(space: Arc<Space>) {
        let api = space.api::<Object>();
        let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
        api.patch_scale(NAME, &PatchParams::default(), &scale).await.unwrap();
        space.edit(NAME, json!({"metadata": {"annotations": {"somebody": "was here"}}})).await;
    }
    let inner = target.clone();
    let target = Meddled(target, space.clone(), scales as fn(Arc<Space>) -> _, AtomicBool::new(false));
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(space.image(NAME).await, "v1");
    assert_eq!(space.deployment(NAME).await.spec.unwrap().replicas, Some(3), "replicas are not ours");
    assert_eq!(annotations(&space).await["somebody"], "was here");
    settled(&inner).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_pause_of_somebody_is_lifted_only_when_asked() {
    let (space, target) = failed("paused", "v2").await;
    space.edit(NAME, json!({"spec": {"paused": true}})).await;
    let report = rollback(target.clone()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert!(report.to_string().contains("paused"), "{report}");
    assert_eq!(space.image(NAME).await, "v2");
    let report = rollback(target.lifting_pause()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(space.image(NAME).await, "v1");
    assert_ne!(space.deployment(NAME).await.spec.unwrap().paused, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_we_halted_goes_back_without_asking() {
    let (space, target) = deployed("halt", "unready").await;
    until("the rollout is half way", || async {
        let seen = target.observe(Look::quick()).await.ok()?;
        (seen.in_flight.is_some() && matches!(part(&seen).running, Running::Mixed(_))).then_some(())
    })
    .await;
    let halt = target.prepare(&Change::Halt, &work("halt")).await.unwrap();
    let token = target.observe(Look::full()).await.unwrap().token;
    target.apply(&halt.approved, token, &work("halt")).await.unwrap();
    let (seen, _) = until("it stands still", || async {
        let seen = target.observe(Look::full()).await.ok()?;
        (seen.in_flight.is_none() && part(&seen).settled == Settled::Yes).then_some(seen)
    })
    .await;
    assert!(matches!(part(&seen).running, Running::Mixed(_)), "it stays where it was stopped: {seen:?}");
    assert_eq!(space.deployment(NAME).await.spec.unwrap().paused, Some(true));
    let report = rollback(target.clone()).blaming(id("unready")).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let after = space.deployment(NAME).await;
    assert_ne!(after.spec.unwrap().paused, Some(true));
    assert!(!after.metadata.annotations.unwrap().contains_key("rollback.dev/paused-by"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_rollout_in_flight_goes_back() {
    let (space, target) = deployed("flight", "unready").await;
    let (seen, _) = until("it is in flight", || async {
        target.observe(Look::full()).await.ok().filter(|seen| seen.in_flight.is_some())
    })
    .await;
    assert_eq!(seen.in_flight.as_ref().unwrap().to, Some(id("unready")));
    let report = rollback(target.clone()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!((space.image(NAME).await.as_str(), part(&settled(&target).await).ready), ("v1", Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn like_kubectl_but_for_what_kubectl_loses() {
    let space = Space::new("compare").await;
    let ours = space.cluster.deployment(&space.namespace, NAME);
    let theirs = space.cluster.deployment(&space.namespace, "theirs");
    for (name, target) in [(NAME, &ours), ("theirs", &theirs)] {
        let mut first = server(name, "v1", 2);
        first["metadata"]["annotations"] = json!({"commit": "good", "kubernetes.io/change-cause": "the good one"});
        space.apply(first).await;
        settled(target).await;
        space.deploy(name, "v2").await;
        space
            .edit(
                name,
                json!({"metadata": {"annotations": {"commit": "bad", "kubernetes.io/change-cause": "the bad one"}}}),
            )
            .await;
        settled(target).await;
        // The controller gives the ReplicaSet the annotations that it keeps, a moment later.
        until("the ReplicaSet has its annotations", || async {
            let all = space.replica_sets().await;
            let commit = |set: &k8s_openapi::api::apps::v1::ReplicaSet| {
                let of = set.metadata.owner_references.iter().flatten().any(|owner| owner.name == name);
                of && set.metadata.annotations.iter().flatten().any(|(k, v)| k == "commit" && v == "bad")
            };
            all.iter().any(commit).then_some(())
        })
        .await;
        space.edit(name, json!({"metadata": {"annotations": {"added-since": "x"}}})).await;
    }
    let report = rollback(ours).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    kubectl(&["rollout", "undo", "deployment/theirs", "-n", &space.namespace]);
    settled(&theirs).await;
    let (ours, theirs) = (space.deployment(NAME).await, space.deployment("theirs").await);
    let template = |of: &Object, name: &str| {
        let template = serde_json::to_string(&of.spec.as_ref().unwrap().template).unwrap();
        template.replace(name, "x")
    };
    assert_eq!(template(&ours, NAME), template(&theirs, "theirs"));
    let (ours, theirs) = (ours.metadata.annotations.unwrap(), theirs.metadata.annotations.unwrap());
    for key in ["commit", "deployment.kubernetes.io/revision"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert_eq!((ours.get("added-since").map(String::as_str), theirs.get("added-since")), (Some("x"), None));
    assert!(ours["kubernetes.io/change-cause"].contains("it fails"), "{ours:?}");
    assert_eq!(theirs["kubernetes.io/change-cause"], "the good one");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn why_it_will_never_be_ready_is_said_within_seconds() {
    let pod = |change: Value| json!({"spec": {"template": {"spec": change}}});
    let app = |mut change: Value| {
        change["name"] = json!("server");
        pod(json!({"containers": [change]}))
    };
    // (what is said, the change that brings it about)
    let cases = [
        ("ErrImagePull", app(json!({"image": "bed/server:absent"}))),
        ("CrashLoopBackOff", app(json!({"image": "bed/server:crashing"}))),
        (
            "CreateContainerConfigError",
            app(json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "a"}}}]})),
        ),
        ("InvalidImageName", app(json!({"image": "bed/server:not a tag"}))),
        ("Unschedulable", pod(json!({"nodeSelector": {"moon": "dark"}}))),
        ("OOMKilled", app(json!({"image": "bed/server:hungry", "resources": {"limits": {"memory": "64Mi"}}}))),
    ];
    let all = cases.into_iter().map(|(reason, change)| async move {
        let space = Space::new("never").await;
        let target = space.cluster.deployment(&space.namespace, NAME);
        let mut first = server(NAME, "v1", 1);
        // All at once: what is judged is the pod, not what it waits for.
        first["spec"]["strategy"] = json!({"type": "Recreate"});
        space.apply(first).await;
        settled(&target).await;
        space.edit(NAME, change).await;
        let (why, took) = until(reason, || async {
            let seen = target.observe(Look::quick()).await.ok()?;
            match &part(&seen).settled {
                Settled::Never { why } => Some(why.clone()),
                _ => None,
            }
        })
        .await;
        (reason, why, took)
    });
    for (reason, why, took) in futures::future::join_all(all).await {
        println!("measured: {reason} after {took:?}: {why}");
        let alike = reason == "ErrImagePull" && why.starts_with("ImagePullBackOff");
        assert!(alike || why.starts_with(reason), "{reason}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_quota_that_lets_no_pod_be_made_is_said() {
    let space = Space::new("quota").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    let mut first = server(NAME, "v1", 2);
    first["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    space.apply(first).await;
    settled(&target).await;
    space
        .apply(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"},
            "spec": {"hard": {"pods": "2"}}}))
        .await;
    let (_, _) = until("the quota counts", || async {
        let quota = space.api::<ResourceQuota>().get("two").await.ok()?;
        quota.status?.used.filter(|used| used.get("pods").is_some_and(|n| n.0 == "2")).map(|_| ())
    })
    .await;
    space.deploy(NAME, "v2").await;
    let (why, took) = until("the quota is said", || async {
        let seen = target.observe(Look::quick()).await.ok()?;
        match &part(&seen).settled {
            Settled::Never { why } => Some(why.clone()),
            _ => None,
        }
    })
    .await;
    println!("after {took:?}: {why}");
    assert!(why.contains("exceeded quota"), "{why}");
    // The way back needs no new pod.
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(space.image(NAME).await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn breaking_the_glass_takes_seconds_and_does_not_walk_on() {
    let (space, target) = deployed("glass", "crashing").await;
    until("it crashes", || async {
        let seen = target.observe(Look::quick()).await.ok()?;
        matches!(part(&seen).settled, Settled::Never { .. }).then_some(())
    })
    .await;
    let begun = Instant::now();
    let pressed = tokio::spawn({
        let target = target.clone();
        async move { Rollback::break_glass_on(&target, "paged: all of checkout is down").await }
    });
    let (_, written) = until("the first write", || async { (space.image(NAME).await == "v1").then_some(()) }).await;
    let report = pressed.await.unwrap();
    println!("measured: glass broken: first write after {written:?}, over after {:?}", begun.elapsed());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let again = Rollback::break_glass_on(&target, "pressed twice").await;
    assert_ne!(again.outcome(), &Outcome::Recovered, "{again}");
    assert_eq!(space.image(NAME).await, "v1", "it does not walk on");
}

/// What is on its way because of a rollback is not to blame: not where nothing is known of that one, and where it is known to
/// have got stuck, it is gone on with.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn pressed_again_while_its_own_rollout_is_on_its_way_it_does_not_walk_on() {
    let (space, target) = failed("again", "v2").await;
    space.deploy(NAME, "v3").await;
    settled(&target).await;
    space.edit(NAME, json!({"spec": {"minReadySeconds": 8}})).await;
    settled(&target).await;
    let journal = journal::MemoryJournal::new();
    let press = async |journal: &journal::MemoryJournal, deadline: u64| {
        let policy = Policy::default().with_deadline(Duration::from_secs(deadline));
        let policy = policy.with_poll(Duration::from_millis(200));
        rollback(target.clone()).policy(policy).journal(journal.clone()).run().await.unwrap()
    };
    let first = press(&journal, 4).await;
    assert!(matches!(first.outcome(), Outcome::Stuck { .. }), "{first}");
    let flies = target.observe(Look::full()).await.unwrap().in_flight.and_then(|flight| flight.to);
    assert_eq!(flies, Some(id("v2")), "it is to be pressed while that one is on its way: {first}");
    let stranger = press(&journal::MemoryJournal::new(), 60).await;
    assert!(matches!(stranger.outcome(), Outcome::Refused { why, .. } if why.contains("already left")), "{stranger}");
    let last = press(&journal, 120).await;
    assert_eq!((last.outcome(), space.image(NAME).await.as_str()), (&Outcome::Recovered, "v2"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_raised_surge_is_put_back_by_whoever_comes_next() {
    let (space, target) = failed("surge", "v2").await;
    let before = strategy(&space).await;
    let raised = target.clone().with_raised_surge("100%");
    // This process ends right after its first write.
    let change = Change::release(&"all".into(), &id("v1"));
    let prepared = raised.prepare(&change, &work("1")).await.unwrap();
    let token = raised.observe(Look::full()).await.unwrap().token;
    raised.apply(&prepared.approved, token, &work("1")).await.unwrap();
    assert_eq!(strategy(&space).await["rollingUpdate"]["maxSurge"], "100%");
    settled(&raised).await;
    space.deploy(NAME, "v3").await;
    settled(&raised).await;
    // Who comes next asks for no surge.
    let report = rollback(target).to(Choose::Exactly(id("v1"))).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(strategy(&space).await, before, "{report}");
    assert!(!annotations(&space).await.contains_key("rollback.dev/strategy-before"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_release_is_found_by_its_number_and_one_that_was_pruned_is_named() {
    let (space, target) = failed("revisions", "v2").await;
    assert_eq!(target.revision(1).await.unwrap().id, id("v1"));
    assert_eq!(target.revision(2).await.unwrap().label, "revision 2 (server:v2)");
    let unknown = target.revision(7).await.unwrap_err();
    assert!(unknown.kind() == Kind::NotFound && unknown.to_string().contains("only 2, 1"), "{unknown}");
    let history = target.history(10).await.unwrap();
    assert_eq!(history.iter().map(|release| &release.id).collect::<Vec<_>>(), [&id("v2"), &id("v1")]);
    space.edit(NAME, json!({"spec": {"revisionHistoryLimit": 0}})).await;
    until("it is pruned", || async { (space.replica_sets().await.len() == 1).then_some(()) }).await;
    let gone = target.prepare(&Change::release(&"all".into(), &id("v1")), &work("1")).await.unwrap_err();
    assert!(gone.kind() == Kind::NotFound && gone.to_string().contains("revisionHistoryLimit keeps 0"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_is_missing_is_found_before_anything_is_touched() {
    let space = Space::new("missing").await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    space
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"a": "1"}}))
        .await;
    let mut first = server(NAME, "v1", 1);
    first["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "conf"}}]);
    first["metadata"]["labels"] =
        json!({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
    space.apply(first).await;
    let good = part(&settled(&target).await).wanted.clone().unwrap();
    space.deploy(NAME, "v2").await;
    settled(&target).await;
    let change = Change::release(&"all".into(), &good);
    let codes = |prepared: &Prepared, severity: Severity| {
        let of = prepared.findings.iter().filter(move |finding| finding.severity == severity);
        of.map(|finding| finding.code.clone()).collect::<Vec<_>>()
    };
    let ready = target.prepare(&change, &work("1")).await.unwrap();
    assert_eq!(codes(&ready, Severity::Blocks), [""; 0], "{:?}", ready.findings);
    assert_eq!(codes(&ready, Severity::Warning), ["owner"], "{:?}", ready.findings);
    kubectl(&["delete", "configmap", "conf", "-n", &space.namespace]);
    let missing = target.prepare(&change, &work("1")).await.unwrap();
    assert_eq!(codes(&missing, Severity::Blocks), ["reference"], "{:?}", missing.findings);

    // A user who may only look.
    let rules: [(&str, &str, &[&str]); 3] =
        [("apps", "deployments", &["get"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let looks = with_rights(&space.own, "looks", &rules, |cluster| cluster.deployment(&space.namespace, NAME)).await;
    let denied = looks.prepare(&change, &work("1")).await.unwrap();
    let texts: Vec<&str> =
        denied.findings.iter().filter(|f| f.severity == Severity::Blocks).map(|f| f.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains(r#"resources: ["deployments"], verbs: ["patch"]"#)), "{texts:?}");
    assert_eq!(space.image(NAME).await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_documented_rights_are_enough() {
    let (space, _) = failed("rights", "v2").await;
    let rules: [(&str, &str, &[&str]); 3] =
        [("apps", "deployments", &["get", "patch"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let of = |cluster: &Cluster| cluster.deployment(&space.namespace, NAME).with_raised_surge("100%");
    let target = with_rights(&space.own, "least", &rules, of).await;
    let report = rollback(target).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(space.image(NAME).await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn another_cluster_than_stated_is_refused() {
    let bed = Bed::here().await;
    let kubeconfig = bed.folder().join("pki/admin.conf");
    let options = || ClusterOptions::from_kubeconfig(&kubeconfig, None);
    let refused = Cluster::connect(options().expecting_uid("of another cluster")).await.unwrap_err();
    let is = Cluster::connect(options()).await.unwrap();
    let uid = is.identity().uid.clone().unwrap();
    let text = refused.to_string();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(text.contains("of another cluster") && text.contains(&uid), "{text}");
    let server = is.identity().server.clone().unwrap();
    Cluster::connect(options().expecting_uid(uid).expecting_server(server)).await.unwrap();
}

/// Who may not read the namespace kube-system goes by the server's address, and hears of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn a_cluster_that_only_its_address_tells_is_warned_of() {
    let (space, _) = failed("address", "v2").await;
    let rules: [(&str, &str, &[&str]); 3] =
        [("apps", "deployments", &["get", "patch"]), ("apps", "replicasets", &["list"]), ("", "pods", &["list"])];
    let config = space.own.account("blind", &rules).await;
    let bindings: kube::Api<ClusterRoleBinding> = kube::Api::all(Bed::here().await.client());
    let binding = format!("identify-{}-blind", space.namespace);
    bindings.delete(&binding, &Default::default()).await.unwrap();
    let mut kubeconfig = Kubeconfig::read_from(Bed::here().await.folder().join("pki/admin.conf")).unwrap();
    for user in &mut kubeconfig.auth_infos {
        user.auth_info = Some(config.auth_info.clone());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, serde_json::to_string(&kubeconfig).unwrap()).unwrap();
    let options = || ClusterOptions::from_kubeconfig(&path, None);
    let blind = || async {
        let cluster = Cluster::connect(options()).await.ok()?;
        let looked = cluster.deployment(&space.namespace, NAME).observe(Look::quick()).await;
        (cluster.identity().uid.is_none() && looked.is_ok()).then_some(cluster)
    };
    let (cluster, _) = until("the rights are as they were given", blind).await;
    let report = rollback(cluster.deployment(&space.namespace, NAME)).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let warned: Vec<_> = report.findings().into_iter().filter(|found| found.code == "identity").collect();
    let [warning] = warned[..] else { panic!("{warned:?}") };
    assert_eq!(warning.severity, Severity::Warning);
    let server = cluster.identity().server.clone().unwrap();
    assert!(warning.text.contains(&server) && warning.text.contains("kube-system"), "{warning}");
    assert!(report.to_string().contains("which cluster this is, only its address tells"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn what_is_not_there_is_told_from_what_is() {
    let space = Space::new("names").await;
    let said = async |namespace: &str, name: &str| {
        let e = space.cluster.deployment(namespace, name).observe(Look::full()).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None));
        e.message().to_owned()
    };
    let place = format!("in namespace {}", space.namespace);
    let empty = said(&space.namespace, "chekcout").await;
    assert_eq!(empty, format!("there is no Deployment chekcout {place}, and no other Deployment either"));
    for name in ["cart", NAME] {
        space.apply(server(name, "v1", 0)).await;
    }
    let other = said(&space.namespace, "chekcout").await;
    assert_eq!(other, format!("there is no Deployment chekcout {place}. There are: checkout, cart"));
    let typo = format!("{}x", space.namespace);
    let nowhere = said(&typo, NAME).await;
    let begins = format!(
        "there is no Deployment checkout in namespace {typo}: there is no such namespace. There are: {}, ",
        space.namespace
    );
    assert!(nowhere.starts_with(&begins), "{nowhere}");
    let rules: [(&str, &str, &[&str]); 1] = [("apps", "deployments", &["get"])];
    let config = space.own.account("gets", &rules).await;
    let client = kube::Client::try_from(config).unwrap();
    let gets = || async { Cluster::from_client(client.clone(), ClusterOptions::default()).await.ok() };
    let (cluster, _) = until("the account may look", gets).await;
    let look = || async {
        let looked = cluster.deployment(&space.namespace, "chekcout").observe(Look::full()).await;
        looked.err().filter(|e| e.kind() == Kind::NotFound)
    };
    let (bare, _) = until("the account may get", look).await;
    assert_eq!(
        bare.message(),
        format!("there is no Deployment chekcout {place}"),
        "what may not be listed is left out"
    );
}
