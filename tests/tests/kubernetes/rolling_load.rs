//! A rolling update under a steady load: our rollback beside `kubectl rollout undo`, in one run, each with pods that exit as
//! soon as they are told to go, and with graceful ones.
//!
//! What fails here fails by the pods' own exit: a rolling update takes a pod away while kube-proxy still sends to it. It is
//! counted, with why, and not judged; that nothing of the bad release answers once we say that it is done is.

use crate::deployment_space::{Space, server, settled, until};
use rollback_core::{prelude::*, *};
use rollback_tests::bed::load::Answers;
use serde_json::json;
use std::time::{Duration, Instant};

const NAME: &str = "checkout";
const REPLICAS: i32 = 3;
/// How pods end: at once, as most servers do, or after they have served on for 3 s.
const ENDS: [(&str, &str); 2] = [("exiting", "exit"), ("graceful", "graceful:3s")];

/// Version 2 serves, version 1 did; both end alike.
async fn found(what: &str, on_term: &str) -> Space {
    let space = Space::new(what).await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    let version = |image: &str| {
        let mut object = server(NAME, image, REPLICAS);
        let spec = &mut object["spec"]["template"]["spec"];
        spec["containers"][0]["env"] = json!([{"name": "ON_TERM", "value": on_term}]);
        object
    };
    for image in ["v1", "v2"] {
        space.apply(version(image)).await;
        settled(&target).await;
        until("it is deployed", || async { (space.image(NAME).await == image).then_some(()) }).await;
    }
    space.apply(rollback_tests::bed::kubernetes::service(NAME, json!({"app": NAME}))).await;
    space.own.reached(NAME, Duration::from_secs(60)).await;
    space
}

/// Who goes back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Us,
    Kubectl,
}

/// What a load saw, from when the template was set back.
struct Seen {
    by: By,
    ends: &'static str,
    took: Duration,
    /// After it was said to be done.
    bad_after: usize,
    fresh: Answers,
    kept: Answers,
}

impl Seen {
    fn told(&self) {
        let after = |of: &Answers| serde_json::to_string(&of.summary()).unwrap();
        println!(
            "measured: rolling under load: {:?}, pods {}: said to be done after {:.1?}, then {} answers of the bad release; new \
             connections {}; kept alive {}",
            self.by,
            self.ends,
            self.took,
            self.bad_after,
            after(&self.fresh),
            after(&self.kept),
        );
    }
}

async fn gone_back(by: By, ends: &'static str, on_term: &str) -> Seen {
    let space = found("rolling", on_term).await;
    let target = space.cluster.deployment(&space.namespace, NAME);
    let fresh = space.own.load(NAME).await.rate(200).start();
    let kept = space.own.load(NAME).await.rate(200).kept_alive(10).start();
    until("both loads are answered by version 2", || async {
        let enough = |answers: Answers| answers.of("v2") > 200;
        (enough(fresh.so_far()) && enough(kept.so_far())).then_some(())
    })
    .await;
    let switched = Instant::now();
    match by {
        By::Us => {
            let policy = Policy::default().with_poll(Duration::from_millis(200));
            let run =
                Rollback::of(target.clone()).because("it fails").to(Choose::verified().or_previous()).policy(policy);
            let report = run.recovered_when(verify::Runs::wanted()).run().await.unwrap();
            assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        }
        By::Kubectl => {
            let of = format!("deployment/{NAME}");
            space.own.kubectl(&["rollout", "undo", &of]).await;
            space.own.kubectl(&["rollout", "status", &of, "--timeout=90s"]).await;
        }
    }
    let (done, took) = (Instant::now(), switched.elapsed());
    // What is left of it, kubectl does not wait for.
    space.own.settled(NAME, crate::deployment_space::PATIENCE).await;
    let quiet = Instant::now();
    until("both loads are answered for two seconds more", || async {
        let enough = |answers: Answers| answers.sent_since(quiet).of("v1") > 400;
        (enough(fresh.so_far()) && enough(kept.so_far())).then_some(())
    })
    .await;
    let (fresh, kept) = (fresh.stop().await, kept.stop().await);
    let bad_after = fresh.sent_since(done).of("v2") + kept.sent_since(done).of("v2");
    let (fresh, kept) = (fresh.sent_since(switched), kept.sent_since(switched));
    let seen = Seen { by, ends, took, bad_after, fresh, kept };
    seen.told();
    for answers in [&seen.fresh, &seen.kept] {
        assert!(answers.of("v1") > 400 && answers.of("v2") > 0, "{:?}", answers.summary());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn once_it_is_done_nothing_of_the_bad_release_answers() {
    for (ends, on_term) in ENDS {
        let kubectl = gone_back(By::Kubectl, ends, on_term).await;
        let ours = gone_back(By::Us, ends, on_term).await;
        // What is said to be done is done: nothing of the bad release answers any more.
        assert_eq!(ours.bad_after, 0, "{:?} {:?}", ours.fresh.summary(), ours.kept.summary());
        // How many fail is a matter of how late kube-proxy is, and of how long pods serve on.
        let of = |seen: &Seen| (seen.fresh.failed(), seen.kept.failed());
        println!(
            "measured: rolling under load: pods {ends}: failed by kubectl {:?}, by us {:?}",
            of(&kubectl),
            of(&ours)
        );
    }
}
