//! What this library leaves on the objects it writes, as annotations: which run wrote, the key of the write, the trace
//! that keeps the next rollback from walking on, and what is to be put back later.
//!
//! A controller copies annotations of a Deployment to its ReplicaSet, and `kubectl rollout undo` copies them back: a mark
//! alone proves nothing. It counts only together with the release that was written with it.

use rollback_core::{Mark, Ours, ReleaseId, Trace, Work};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Everything of ours begins so.
pub(crate) const PREFIX: &str = "rollback.dev/";
/// The run that wrote last.
pub(crate) const RUN: &str = "rollback.dev/run";
/// [`Work::key`] of the last write.
pub(crate) const KEY: &str = "rollback.dev/key";
/// The release that the last write set.
pub(crate) const RELEASE: &str = "rollback.dev/release";
/// A [`Trace`] as JSON.
pub(crate) const TRACE: &str = "rollback.dev/trace";
/// The run that paused the rollout, so that our own pause is told from somebody's.
pub(crate) const PAUSED: &str = "rollback.dev/paused-by";
/// The strategy from before a raised surge, as JSON, until it is put back.
pub(crate) const STRATEGY: &str = "rollback.dev/strategy-before";
/// How many replicas there were before a restart took them away, until they are back.
pub(crate) const REPLICAS: &str = "rollback.dev/replicas-before";
/// Where Kubernetes shows why a revision was made.
pub(crate) const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// The annotations of an object.
pub(crate) type Annotations = BTreeMap<String, String>;

/// What a write that sets a release leaves behind.
pub(crate) fn of(work: &Work, release: &ReleaseId) -> Annotations {
    let mut marks: Annotations = [
        (RUN.to_owned(), work.run().to_string()),
        (KEY.to_owned(), work.key()),
        (RELEASE.to_owned(), release.to_string()),
    ]
    .into();
    if let Some(trace) = work.trace().and_then(|trace| serde_json::to_string(trace).ok()) {
        marks.insert(TRACE.to_owned(), trace);
    }
    marks
}

/// What a write leaves on an object that is part of a rollback, and is not its target.
pub(crate) fn of_write(work: &Work) -> Annotations {
    [(RUN.to_owned(), work.run().to_string()), (KEY.to_owned(), work.key())].into()
}

/// Where a patch finds an annotation.
pub(crate) fn path(annotation: &str) -> String {
    format!("/metadata/annotations/{}", annotation.replace('~', "~0").replace('/', "~1"))
}

/// Operations of a patch that set annotations and leave all others. `any`: the object had some when it was read.
pub(crate) fn annotate(operations: &mut Vec<Value>, any: bool, annotations: Annotations) {
    if !any {
        operations.push(json!({"op": "test", "path": "/metadata/annotations", "value": null}));
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    for (key, value) in annotations {
        operations.push(json!({"op": "add", "path": path(&key), "value": value}));
    }
}

/// What the last rollback left, if it can be read.
pub(crate) fn trace(annotations: &Annotations) -> Option<Trace> {
    serde_json::from_str(annotations.get(TRACE)?).ok()
}

/// What became of the write that `mark` names, where the object is told to run `told`. `settled`: the platform has
/// carried it out.
pub(crate) fn ours(annotations: &Annotations, mark: Option<&Mark>, told: &ReleaseId, settled: bool) -> Ours {
    let Some(mark) = mark else { return Ours::NotAsked };
    let key = annotations.get(KEY);
    if key != Some(&mark.key) {
        // Before the write, and after somebody replaced the whole object, or all annotations, as `kubectl rollout undo` does.
        return match mark.was_undone(told) {
            true => Ours::Replaced { by: key.cloned().unwrap_or_else(|| told.to_string()) },
            false => Ours::CannotTell,
        };
    }
    match annotations.get(RELEASE) {
        Some(release) if told == release.as_str() && settled => Ours::Complete,
        Some(release) if told == release.as_str() => Ours::Current,
        _ => Ours::Replaced { by: told.to_string() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::{Change, RunId, Timestamp, journal::MemoryShelf};
    use std::{sync::Arc, time::Duration};

    fn work() -> Work {
        let trace = Trace { run: "r".into(), left: "2".into(), reached: "1".into(), at: Timestamp(7) };
        Work::new(RunId::from("r"), 1, "s", Duration::from_secs(1), Arc::new(MemoryShelf::new()))
            .with_trace(Some(trace))
    }

    #[test]
    fn what_is_left_is_found_again() {
        let marks = of(&work(), &"1".into());
        assert_eq!(trace(&marks), work().trace().cloned());
        assert_eq!(trace(&Annotations::new()), None);
        assert_eq!(trace(&[(TRACE.to_owned(), "{".to_owned())].into()), None);
    }

    #[test]
    fn a_mark_counts_with_its_release_only() {
        let marks = of(&work(), &"1".into());
        let mark = Mark::new(work().key());
        let (one, two) = (ReleaseId::from("1"), ReleaseId::from("2"));
        let mut answered = mark.clone();
        answered.handle =
            Some(serde_json::from_value(json!({"schema": "k8s/test", "version": 1, "value": 4})).unwrap());
        answered.change = Some(Change::release(&"all".into(), &one));
        let other: Annotations = [(KEY.to_owned(), "q/0.0".to_owned())].into();
        for (what, annotations, mark, told, settled, is) in [
            ("nobody asks", &marks, None, &one, true, Ours::NotAsked),
            ("there", &marks, Some(&mark), &one, true, Ours::Complete),
            ("on the way", &marks, Some(&mark), &one, false, Ours::Current),
            ("copied along", &marks, Some(&mark), &two, true, Ours::Replaced { by: "2".into() }),
            ("not written yet", &Annotations::new(), Some(&mark), &two, true, Ours::CannotTell),
            ("another step", &marks, Some(&Mark::new("r/t")), &one, true, Ours::CannotTell),
            (
                "answered, and undone",
                &Annotations::new(),
                Some(&answered),
                &two,
                true,
                Ours::Replaced { by: "2".into() },
            ),
            ("by a rollback", &other, Some(&answered), &two, true, Ours::Replaced { by: "q/0.0".into() }),
            ("answered, and deployed once more", &Annotations::new(), Some(&answered), &one, true, Ours::CannotTell),
        ] {
            assert_eq!(ours(annotations, mark, told, settled), is, "{what}");
        }
    }
}
