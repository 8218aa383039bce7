//! One routing object: read, and written.

use super::split::{End, Form, Lists, text};
use crate::{
    connect::{Cluster, JsonPatch},
    kinds::ObjectKind,
    marks,
    marks::Annotations,
    owner,
};
use rollback_core::{Look, Mark, Ours, PartId, PartMap, Result, Trace, Weight, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// A routing object, and how it names the sides.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) kind: ObjectKind,
    form: Form,
    pub(super) name: String,
    ends: PartMap<End>,
}

/// What was read of one, for the guard of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    uid: String,
    annotated: bool,
    pub(super) lists: Lists,
}

/// A routing object as it was looked at.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) seen: Seen,
    pub(super) ours: Ours,
    pub(super) owners: Vec<String>,
    pub(super) trace: Option<Trace>,
    /// Its gateways have not taken up the last write yet.
    pub(super) behind: Option<String>,
}

impl Route {
    pub(super) fn new(kind: ObjectKind, form: Form, name: String, ends: PartMap<End>) -> Self {
        Self { kind, form, name, ends }
    }

    /// `VirtualService checkout`.
    pub(super) fn what(&self) -> String {
        format!("{} {}", self.kind.kind, self.name)
    }
    fn names(&self) -> impl Iterator<Item = &PartId> {
        self.ends.keys()
    }
    /// Whether it knows all these parts and no others.
    pub(super) fn knows<'a>(&self, mut parts: impl Iterator<Item = &'a PartId>) -> bool {
        parts.all(|part| self.ends.contains_key(part.as_str()))
    }

    pub(super) async fn look(&self, cluster: &Cluster, namespace: &str, look: &Look) -> Result<Looked> {
        let object = cluster.named("read the routes", self.kind, namespace, &self.name).await?;
        let lists = Lists::of(self.form, &object.data, namespace, &self.ends)?;
        let annotations: Annotations = object.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
        Ok(Looked {
            ours: self.ours(&annotations, look.mark.as_ref(), &lists),
            owners: owner::owners(&object.metadata),
            trace: marks::trace(&annotations),
            behind: behind(&object.data, object.metadata.generation).map(|why| format!("{}: {why}", self.what())),
            seen: Seen { uid: object.metadata.uid.unwrap_or_default(), annotated: !annotations.is_empty(), lists },
        })
    }

    fn ours(&self, annotations: &Annotations, mark: Option<&Mark>, lists: &Lists) -> Ours {
        let told = text(self.names().map(|part| (part, lists.most(part))));
        marks::ours(annotations, mark, &told.into(), true)
    }

    /// Writes all weights in one patch, if they are still what was read. Nothing is sent where it is so already.
    pub(super) async fn write(
        &self,
        cluster: &Cluster,
        namespace: &str,
        seen: &Seen,
        shares: &PartMap<Weight>,
        how: How<'_>,
    ) -> Result<bool> {
        let (changes, _) = seen.lists.set(shares)?;
        if changes.is_empty() {
            return Ok(false);
        }
        let mut operations: Vec<Value> = vec![json!({"op": "test", "path": "/metadata/uid", "value": seen.uid})];
        operations.extend(changes);
        let (dry_run, within) = match how {
            How::Try(within) => (true, within),
            How::Really(work) => {
                let told = text(shares.iter().map(|(part, share)| (part, *share)));
                marks::annotate(&mut operations, seen.annotated, marks::of(work, &told.into()));
                (false, work.within())
            }
        };
        let patch = JsonPatch {
            operation: if dry_run { "try the weights" } else { "set the weights" },
            kind: self.kind,
            namespace,
            name: &self.name,
            operations,
            dry_run,
            within,
        };
        cluster.patch(patch).await.map(|_| true)
    }
}

/// How a write is meant.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    /// The server checks it, and keeps nothing.
    Try(Duration),
    Really(&'a Work),
}

/// Why the gateways of an HTTPRoute have not taken up its last write. One without a status, or without conditions that
/// name a generation, tells nothing, and is not waited for.
fn behind(data: &Value, generation: Option<i64>) -> Option<String> {
    let generation = generation?;
    let parents = data.pointer("/status/parents").and_then(Value::as_array).into_iter().flatten();
    let old = parents.filter(|parent| {
        let mut conditions = parent.get("conditions").and_then(Value::as_array).into_iter().flatten();
        conditions.any(|condition| {
            condition.get("observedGeneration").and_then(Value::as_i64).is_some_and(|seen| seen < generation)
        })
    });
    let gateways: Vec<&str> =
        old.map(|parent| parent.pointer("/parentRef/name").and_then(Value::as_str).unwrap_or("?")).collect();
    (!gateways.is_empty()).then(|| format!("its gateway {} has not seen the last write yet", gateways.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_tells_is_waited_for() {
        let status = |seen: Value| {
            json!({"status": {"parents": [{"parentRef": {"name": "public"}, "conditions": [
                {"type": "Accepted", "status": "True", "observedGeneration": seen}]}]}})
        };
        for (what, data, waits) in [
            ("no mesh here", json!({}), false),
            ("no conditions", json!({"status": {"parents": [{"parentRef": {"name": "public"}}]}}), false),
            ("up to date", status(json!(3)), false),
            ("behind", status(json!(2)), true),
            ("does not say", status(Value::Null), false),
        ] {
            assert_eq!(behind(&data, Some(3)).is_some(), waits, "{what}");
        }
    }
}
