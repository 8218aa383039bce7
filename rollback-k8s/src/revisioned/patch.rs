//! The patch: built from what was read, guarded by it. Pure.
//!
//! The guard is the uid, the whole template and the update strategy as they were read: a deploy changes them, a scaling or
//! an annotation does not.

use super::Read;
use crate::{
    applied,
    marks::{self, CHANGE_CAUSE},
    revisions::Revision,
};
use rollback_core::Work;
use serde_json::{Value, json};

/// Back to a template: what `kubectl rollout undo` writes, guarded. Annotations stay, as they do there; partition and
/// volume claims too.
pub(super) fn undo(read: &Read, to: &Revision, work: &Work, why: &str) -> Vec<Value> {
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": read.uid}),
        json!({"op": "test", "path": "/spec/template", "value": read.template}),
        json!({"op": "test", "path": "/spec/updateStrategy", "value": read.strategy}),
        json!({"op": "replace", "path": "/spec/template", "value": to.template}),
    ];
    let mut annotations = marks::of(work, &to.release);
    annotations.insert(CHANGE_CAUSE.into(), why.into());
    applied::goes_along(&mut operations, &mut annotations, &read.annotations, &read.template, &to.template);
    marks::annotate(&mut operations, !read.annotations.is_empty(), annotations);
    operations
}
