#![allow(clippy::unwrap_used)]

use super::*;
use crate::ClusterOptions;
use kube::{Client, Config};
use rollback_core::{Identity, PartState, Running, Settled};

fn cluster() -> Cluster {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    Cluster::unreachable(client, ClusterOptions::default().named("prod"))
}
fn seen(ready: u32, of: u32, settled: Settled, running: Running) -> Observation {
    let part = PartState::new(Some("2".into()), running).with_capacity(of, ready).with_settled(settled);
    Observation::of_one(Identity::new("c", "u"), part, Token::none())
}
fn never() -> Settled {
    Settled::Never { why: "CrashLoopBackOff (backend-0)".into() }
}
fn two() -> Running {
    Running::Mixed([("1".into(), 2), ("2".into(), 1)].into())
}
fn one() -> Running {
    Running::Release("2".into())
}

#[test]
fn what_is_broken_and_what_may_be_its_node() {
    let not_yet = || Settled::NotYet { why: "1 of 3 pods is available".into() };
    for (what, seen, is, broken) in [
        ("all ready", seen(3, 3, Settled::Yes, one()), "serves", false),
        ("none ready, for ever", seen(0, 3, never(), one()), "DOWN: CrashLoopBackOff (backend-0)", true),
        ("none ready yet", seen(0, 3, not_yet(), one()), "DOWN: 1 of 3 pods", true),
        ("a rollout that will not end", seen(3, 3, never(), two()), "STUCK: CrashLoop", true),
        ("a rollout under way", seen(3, 3, not_yet(), two()), "serves", false),
        ("a single pod", seen(2, 3, never(), one()), "2 of 3 pods are ready: CrashLoop", false),
        ("scaled to nothing", seen(0, 0, Settled::Yes, Running::Nothing), "is to have no pods", false),
    ] {
        let state = WorkloadState::of(&seen);
        assert!(state.to_string().starts_with(is), "{what}: {state}");
        assert_eq!(state.is_broken(), broken, "{what}");
    }
}

#[test]
fn only_what_is_broken_is_in_the_scope() {
    let (good, bad) = (seen(3, 3, Settled::Yes, one()), seen(0, 3, never(), one()));
    let off = seen(0, 0, Settled::Yes, Running::Nothing);
    let unread = Error::new(Kind::Unavailable, "read").with_message("no answer");
    let scope = |all: &[(&'static str, Result<&Observation, &Error>)]| Suggestion::of(all.iter().copied());
    let only = |names: &[&str]| Scope::Only(names.iter().map(|n| n.to_string()).collect());
    let one = scope(&[("a", Ok(&good)), ("b", Ok(&bad)), ("c", Ok(&good))]);
    assert_eq!(one.scope, only(&["b"]));
    assert!(one.to_string().starts_with("roll back only b: 1 of 3 down or stuck"), "{one}");
    let all = scope(&[("a", Ok(&bad)), ("b", Ok(&bad)), ("c", Ok(&off))]);
    assert_eq!(all.scope, Scope::All(vec!["a".into(), "b".into()]));
    let dark = scope(&[("a", Ok(&bad)), ("b", Ok(&bad)), ("c", Err(&unread))]);
    assert_eq!(dark.scope, only(&["a", "b"]));
    assert!(dark.to_string().contains("c NOT KNOWN: ") && dark.why().contains("1 of them could not be read"), "{dark}");
    let none = scope(&[("a", Ok(&good)), ("c", Ok(&off))]);
    assert_eq!((none.scope.clone(), none.names().len()), (Scope::None, 0));
}

#[tokio::test]
async fn a_group_is_in_the_order_that_was_said() {
    let three = cluster().workloads_named("vapora", ["backend", "sts/queue", "agents"]).unwrap();
    assert_eq!(three.names(), ["deployment/backend", "statefulset/queue", "deployment/agents"]);
    let group =
        three.in_order(["statefulset/queue", "deployment/backend", "deployment/nobody"]).group("g", Rollback::of);
    let order = group.order().unwrap();
    let sorted = order.sorted();
    let at = |name: &str| sorted.iter().position(|member| *member == name).unwrap();
    assert!(at("statefulset.queue") < at("deployment.backend"), "{sorted:?}");
    assert_eq!(sorted.len(), 3);
    for wrong in [vec!["a", "deployment/a"], vec!["cronjob/a"]] {
        assert_eq!(cluster().workloads_named("vapora", wrong).unwrap_err().kind(), Kind::Invalid);
    }
}
