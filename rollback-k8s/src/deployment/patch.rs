//! The patches: built from what was read, guarded by it. Pure.
//!
//! The guard is the uid and the whole template as it was read: a deploy changes it, a scaling or an annotation does not.
//! `resourceVersion` changes with every status, and `generation` with every annotation that the controller writes.

use super::{Options, Read};
use crate::{
    applied,
    marks::{self, Annotations, CHANGE_CAUSE},
    revisions::Revision,
};
use rollback_core::Work;
use serde_json::{Value, json};

/// What stays the Deployment's own when it goes back: `kubectl rollout undo` keeps the same ones.
const ITS_OWN: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
];

/// Operations of a patch that holds only if the Deployment is as it was read.
fn guarded(read: &Read) -> Vec<Value> {
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": read.uid}),
        json!({"op": "test", "path": "/spec/template", "value": read.template}),
        // False is absent, and a test for null holds of what is absent.
        json!({"op": "test", "path": "/spec/paused", "value": if read.paused { Value::Bool(true) } else { Value::Null }}),
    ]
}

/// Removes an annotation that was read.
pub(super) fn remove(operations: &mut Vec<Value>, read: &Read, annotation: &str) {
    if let Some(value) = read.annotations.get(annotation) {
        operations.push(json!({"op": "test", "path": marks::path(annotation), "value": value}));
        operations.push(json!({"op": "remove", "path": marks::path(annotation)}));
    }
}

/// What the ReplicaSet's annotations say of its release, which comes back with it.
pub(super) fn comes_back(of: &Annotations) -> Annotations {
    let mut annotations = of.clone();
    annotations
        .retain(|key, _| !ITS_OWN.contains(&key.as_str()) && !key.starts_with(marks::PREFIX) && key != CHANGE_CAUSE);
    annotations
}

/// A number, or a percentage.
pub(super) fn asked(surge: &str) -> Value {
    surge.parse::<u32>().map_or_else(|_| surge.into(), Value::from)
}

fn surge_of(strategy: &Value) -> Option<&Value> {
    strategy.pointer("/rollingUpdate/maxSurge")
}

/// The strategy with more pods at once. `None` where it is not rolling, or is raised already.
pub(super) fn raised(strategy: &Value, surge: impl Into<Value>) -> Option<Value> {
    if strategy.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "RollingUpdate") {
        return None;
    }
    let mut raised = strategy.clone();
    let rolling = raised.get_mut("rollingUpdate").and_then(Value::as_object_mut)?;
    rolling.insert("maxSurge".into(), surge.into());
    (raised != *strategy).then_some(raised)
}

/// Back to a template: what `kubectl rollout undo` writes, guarded, with the annotations that were added since kept, the
/// pause lifted where that is allowed, and the surge raised where that is asked for.
pub(super) fn undo(read: &Read, to: &Revision, options: &Options, work: &Work, why: &str) -> Vec<Value> {
    let mut operations = guarded(read);
    operations.push(json!({"op": "replace", "path": "/spec/template", "value": to.template}));
    let mut annotations = comes_back(&to.annotations);
    annotations.extend(marks::of(work, &to.release));
    annotations.insert(CHANGE_CAUSE.into(), why.into());
    applied::goes_along(&mut operations, &mut annotations, &read.annotations, &read.template, &to.template);
    if read.paused {
        operations.push(json!({"op": "remove", "path": "/spec/paused"}));
    }
    if let Some(raised) = options.surge.as_ref().and_then(|surge| raised(&read.strategy, asked(surge))) {
        operations.push(json!({"op": "test", "path": "/spec/strategy", "value": read.strategy}));
        operations.push(json!({"op": "replace", "path": "/spec/strategy", "value": raised}));
        // What an earlier run raised and did not put back is not what it was before.
        if !read.annotations.contains_key(marks::STRATEGY) {
            annotations.insert(marks::STRATEGY.into(), read.strategy.to_string());
        }
    }
    // A run that was never finished raised it, and nobody asks for that now.
    if options.surge.is_none() {
        operations.extend(lower_surge(read, options).unwrap_or_default());
    }
    marks::annotate(&mut operations, !read.annotations.is_empty(), annotations);
    remove(&mut operations, read, marks::PAUSED);
    operations
}

/// Another number of replicas, if there are as many as were read: an autoscaler may have changed them since.
pub(super) fn replicas(read: &Read, to: u32) -> [Value; 2] {
    [
        json!({"op": "test", "path": "/spec/replicas", "value": read.replicas}),
        json!({"op": "replace", "path": "/spec/replicas", "value": to}),
    ]
}

/// Only that.
pub(super) fn scale(read: &Read, to: u32, work: &Work) -> Vec<Value> {
    let mut operations = guarded(read);
    operations.extend(replicas(read, to));
    let mut annotations = marks::of(work, &crate::release_id(&read.template));
    // It sets no release: the trace of the write that did stays.
    annotations.remove(marks::TRACE);
    // Whoever comes next, if this run does not get to that, knows how many there are to be again.
    let to_nothing = to == 0 && read.replicas > 0;
    if to_nothing {
        annotations.insert(marks::REPLICAS.into(), read.replicas.to_string());
    }
    marks::annotate(&mut operations, !read.annotations.is_empty(), annotations);
    if !to_nothing {
        remove(&mut operations, read, marks::REPLICAS);
    }
    operations
}

/// Stops a rollout where it is.
pub(super) fn pause(read: &Read, told: &rollback_core::ReleaseId, work: &Work) -> Vec<Value> {
    let mut operations = guarded(read);
    operations.push(json!({"op": "add", "path": "/spec/paused", "value": true}));
    let mut annotations = marks::of(work, told);
    // It goes nowhere yet: the trace is left with the write that does.
    annotations.remove(marks::TRACE);
    annotations.insert(marks::PAUSED.into(), format!("{} {told}", work.run()));
    marks::annotate(&mut operations, !read.annotations.is_empty(), annotations);
    operations
}

/// The strategy from before the surge was raised; `None` where none is to be put back. A strategy that somebody set
/// meanwhile stays.
pub(super) fn lower_surge(read: &Read, options: &Options) -> Option<Vec<Value>> {
    let before: Value = serde_json::from_str(read.annotations.get(marks::STRATEGY)?).ok()?;
    let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": read.uid})];
    let ours = match &options.surge {
        Some(surge) => raised(&before, asked(surge)).is_none_or(|ours| ours == read.strategy),
        // By how much it was raised is not known: then nothing else may differ.
        None => {
            surge_of(&read.strategy).and_then(|surge| raised(&before, surge.clone())).as_ref() == Some(&read.strategy)
        }
    };
    if ours {
        operations.push(json!({"op": "test", "path": "/spec/strategy", "value": read.strategy}));
        operations.push(json!({"op": "replace", "path": "/spec/strategy", "value": before}));
    }
    remove(&mut operations, read, marks::STRATEGY);
    Some(operations)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::{RunId, journal::MemoryShelf};
    use std::{sync::Arc, time::Duration};

    fn work() -> Work {
        Work::new(RunId::from("run"), 1, "step", Duration::from_secs(1), Arc::new(MemoryShelf::new()))
    }
    fn read(annotations: &[(&str, &str)], paused: bool) -> Read {
        Read {
            uid: "u".into(),
            template: json!({"spec": {"containers": [{"image": "bad"}]}}),
            paused,
            paused_by_us: false,
            strategy: json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
            annotations: annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            replicas: 3,
        }
    }
    fn good(annotations: &[(&str, &str)]) -> Revision {
        let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u", "controller": true});
        let annotations: Annotations = annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let object = json!({
            "metadata": {"name": "d-1", "uid": "rs", "annotations": annotations, "ownerReferences": [owner]},
            "spec": {"template": {"metadata": {"labels": {"pod-template-hash": "h", "app": "d"}},
                "spec": {"containers": [{"image": "good"}]}}},
        });
        Revision::of_replica_set(serde_json::from_value(object).unwrap()).unwrap()
    }
    /// The API server's own way with a patch, as far as these patches go.
    fn applied(read: &Read, operations: Vec<Value>) -> std::result::Result<Value, String> {
        let mut spec = json!({"template": read.template, "strategy": read.strategy, "replicas": read.replicas});
        if read.paused {
            spec["paused"] = json!(true);
        }
        let mut metadata = json!({"uid": read.uid});
        if !read.annotations.is_empty() {
            metadata["annotations"] = json!(read.annotations);
        }
        let mut object = json!({"metadata": metadata, "spec": spec});
        let patch: Patching = serde_json::from_value(Value::Array(operations)).unwrap();
        patch.apply(&mut object)?;
        Ok(object)
    }
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Patching(Vec<Value>);
    impl Patching {
        fn apply(&self, object: &mut Value) -> std::result::Result<(), String> {
            for operation in &self.0 {
                let path = operation["path"].as_str().unwrap();
                let (parent, key) = path.rsplit_once('/').unwrap();
                let key = key.replace("~1", "/").replace("~0", "~");
                let value = operation["value"].clone();
                let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
                let parent = parent.ok_or_else(|| format!("nowhere: {path}"))?;
                let there = parent.get(&key).cloned();
                match (operation["op"].as_str().unwrap(), there) {
                    ("test", there) if there.clone().unwrap_or_default() == value => {}
                    ("test", there) => return Err(format!("{path} is {there:?}, not {value}")),
                    ("add", _) | ("replace", Some(_)) => drop(parent.insert(key, value)),
                    ("remove", Some(_)) => drop(parent.remove(&key)),
                    (op, there) => return Err(format!("{op} {path}: {there:?}")),
                }
            }
            Ok(())
        }
    }

    #[test]
    fn an_undo_keeps_what_was_added_since() {
        let read = read(&[("deployment.kubernetes.io/revision", "2"), ("added-since", "x"), ("commit", "bad")], false);
        let to = good(&[("deployment.kubernetes.io/revision", "1"), ("commit", "good"), ("rollback.dev/key", "old")]);
        let after = applied(&read, undo(&read, &to, &Options::default(), &work(), "why")).unwrap();
        let annotations = &after["metadata"]["annotations"];
        assert_eq!(annotations["deployment.kubernetes.io/revision"], "2", "the controller's own");
        assert_eq!((&annotations["added-since"], &annotations["commit"]), (&json!("x"), &json!("good")));
        assert_eq!(annotations["rollback.dev/key"], "run/step");
        assert_eq!(annotations["kubernetes.io/change-cause"], "why");
        assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["image"], "good");
        assert_eq!(after["spec"]["template"]["metadata"]["labels"], json!({"app": "d"}), "no hash of the controller's");
        assert_eq!((&after["spec"]["replicas"], &after["spec"]["strategy"]), (&json!(3), &read.strategy));
    }

    #[test]
    fn what_changed_since_it_was_read_is_not_overwritten() {
        let (to, options) = (good(&[]), Options::default());
        let as_read = read(&[("a", "b")], false);
        let operations = undo(&as_read, &to, &options, &work(), "why");
        for (what, now) in [
            ("another template", Read { template: json!({"spec": {}}), ..as_read.clone() }),
            ("another object", Read { uid: "other".into(), ..as_read.clone() }),
            ("a pause", Read { paused: true, ..as_read.clone() }),
        ] {
            assert!(applied(&now, operations.clone()).is_err(), "{what}");
        }
        let scaled = read(&[("a", "c"), ("d", "e")], false);
        assert!(applied(&scaled, operations).is_ok(), "annotations do not matter");
        let bare = read(&[], false);
        let operations = undo(&bare, &to, &options, &work(), "why");
        assert!(applied(&bare, operations.clone()).is_ok());
        assert!(applied(&as_read, operations).is_err(), "annotations that came in between are not wiped");
    }

    #[test]
    fn replicas_change_only_from_what_was_read() {
        let as_read = read(&[("a", "b")], false);
        let operations = scale(&as_read, 0, &work());
        let after = applied(&as_read, operations.clone()).unwrap();
        assert_eq!((&after["spec"]["replicas"], &after["spec"]["template"]), (&json!(0), &as_read.template));
        assert_eq!(after["metadata"]["annotations"]["rollback.dev/key"], "run/step");
        for (what, now) in [
            ("an autoscaler", Read { replicas: 5, ..as_read.clone() }),
            ("another template", Read { template: json!({"spec": {}}), ..as_read.clone() }),
        ] {
            assert!(applied(&now, operations.clone()).is_err(), "{what}");
        }
    }

    #[test]
    fn our_own_pause_is_lifted_in_the_same_patch() {
        let before = read(&[("a", "b")], false);
        let paused = applied(&before, pause(&before, &"template:x".into(), &work())).unwrap();
        assert_eq!(paused["spec"]["paused"], true);
        assert_eq!(paused["metadata"]["annotations"][marks::PAUSED], "run template:x");
        let read = read(&[("a", "b"), (marks::PAUSED, "run template:x")], true);
        let after = applied(&read, undo(&read, &good(&[]), &Options::default(), &work(), "why")).unwrap();
        assert_eq!(after["spec"].get("paused"), None);
        assert_eq!(after["metadata"]["annotations"].get(marks::PAUSED), None);
    }

    #[test]
    fn a_raised_surge_is_put_back() {
        let options = Options { surge: Some("100%".into()), ..Options::default() };
        let before = read(&[("a", "b")], false);
        let after = applied(&before, undo(&before, &good(&[]), &options, &work(), "why")).unwrap();
        assert_eq!(after["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": "100%", "maxUnavailable": "25%"}));
        let kept = after["metadata"]["annotations"][marks::STRATEGY].as_str().unwrap().to_owned();
        let raised_now =
            Read { strategy: after["spec"]["strategy"].clone(), ..read(&[(marks::STRATEGY, &kept)], false) };
        // A second run finds it raised already, and remembers what was before the first.
        let again = applied(&raised_now, undo(&raised_now, &good(&[]), &options, &work(), "why")).unwrap();
        assert_eq!(again["metadata"]["annotations"][marks::STRATEGY], kept.as_str());
        let lowered = applied(&raised_now, lower_surge(&raised_now, &options).unwrap()).unwrap();
        assert_eq!(lowered["spec"]["strategy"], before.strategy);
        assert_eq!(lowered["metadata"]["annotations"].get(marks::STRATEGY), None);
        let again_raised = raised_now.clone();
        let someones = Read { strategy: json!({"type": "Recreate"}), ..raised_now };
        let left = applied(&someones, lower_surge(&someones, &options).unwrap()).unwrap();
        assert_eq!(left["spec"]["strategy"], json!({"type": "Recreate"}), "somebody set another meanwhile");
        assert_eq!(lower_surge(&before, &options), None);
        // Whoever comes next puts it back in the same write, without having been asked for a surge.
        let next =
            applied(&again_raised, undo(&again_raised, &good(&[]), &Options::default(), &work(), "why")).unwrap();
        assert_eq!(next["spec"]["strategy"], before.strategy);
        assert_eq!(next["metadata"]["annotations"].get(marks::STRATEGY), None);
        let left = applied(&someones, undo(&someones, &good(&[]), &Options::default(), &work(), "why")).unwrap();
        assert_eq!(left["spec"]["strategy"], json!({"type": "Recreate"}), "somebody set another meanwhile");
        assert_eq!(raised(&json!({"type": "Recreate"}), "100%"), None);
        assert_eq!(raised(&before.strategy, asked("3")).unwrap()["rollingUpdate"]["maxSurge"], 3);
    }
}
