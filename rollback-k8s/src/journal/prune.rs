//! What of the past may go.

use super::{book::Head, names, store::Store};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PartialObjectMeta;
use rollback_core::{
    Result, TargetId, Timestamp,
    journal::{Pruned, Retention},
};
use std::collections::{HashMap, HashSet};

const PRUNE: &str = "prune the journal";
/// So many runs go when one begins.
const A_FEW: usize = 4;

struct Found {
    head: Head,
    archived: bool,
    holds: bool,
}

async fn runs(store: &Store, selector: &str) -> Result<Vec<Found>> {
    let label = |object: &PartialObjectMeta<ConfigMap>, label: &str| {
        object.metadata.labels.as_ref().and_then(|labels| labels.get(label)).cloned()
    };
    let mut found = vec![];
    for object in store.metadata(PRUNE, selector).await? {
        if let Some(head) = Head::of(PRUNE, &object)? {
            let archived = label(&object, names::WHAT).as_deref() == Some(names::RUN);
            found.push(Found { head, archived, holds: label(&object, names::HOLDS).as_deref() == Some("yes") });
        }
    }
    Ok(found)
}

/// Runs that may go: ended long ago, enough newer ones of their target, and no freeze of theirs still held. Oldest first.
fn old<'a>(found: &'a [Found], retention: &Retention, now: Timestamp) -> Vec<&'a Head> {
    let mut by_target: HashMap<&TargetId, Vec<&Found>> = HashMap::new();
    for run in found.iter().filter(|run| run.head.outcome().is_some()) {
        by_target.entry(run.head.target()).or_default().push(run);
    }
    let mut old = vec![];
    for runs in by_target.values_mut() {
        runs.sort_by_key(|run| std::cmp::Reverse(run.head.number));
        let beyond = runs.iter().skip(retention.runs_per_target);
        let goes = |run: &&&Found| {
            run.archived && !run.holds && run.head.ended().is_some_and(|ended| now.since(ended) > retention.age)
        };
        old.extend(beyond.filter(goes).map(|run| &run.head));
    }
    old.sort_by_key(|head| (head.ended(), head.number));
    old
}

/// A run and all that is its own. Its head goes last, so that what is left of it is found again.
async fn remove(store: &Store, head: &Head) -> Result<()> {
    let selector = format!(
        "{}={},{} in ({},{})",
        names::OF_RUN,
        names::hash(head.id().as_str()),
        names::WHAT,
        names::LINES,
        names::CHECKPOINT
    );
    for object in store.metadata(PRUNE, &selector).await? {
        store.delete(PRUNE, object.metadata.name.as_deref().unwrap_or_default()).await?;
    }
    store.delete(PRUNE, &names::of_run(head.id())).await
}

/// A few runs of one target. Their artifacts go with the next call of `all`.
pub(super) async fn a_few(store: &Store, retention: &Retention, target: &TargetId, now: Timestamp) -> Result<()> {
    let selector = format!(
        "{}={},{} in ({},{})",
        names::OF_TARGET,
        names::hash(target.as_str()),
        names::WHAT,
        names::BOOK,
        names::RUN
    );
    let found = runs(store, &selector).await?;
    for head in old(&found, retention, now).into_iter().take(A_FEW) {
        remove(store, head).await?;
    }
    Ok(())
}

/// All that may go.
pub(super) async fn all(store: &Store, retention: &Retention, now: Timestamp) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    let selector = format!("{} in ({},{})", names::WHAT, names::BOOK, names::RUN);
    let found = runs(store, &selector).await?;
    let mut gone = HashSet::new();
    for head in old(&found, retention, now) {
        remove(store, head).await?;
        gone.insert(head.id());
        pruned.runs += 1;
    }
    // Artifacts of unfinished runs and of those that hold a freeze stay; one that nobody has journalled yet may be that of
    // an unfinished run that is older.
    let (mut must, mut may) = (HashSet::new(), HashSet::new());
    let mut oldest: Option<Timestamp> = None;
    for run in found.iter().filter(|run| !gone.contains(run.head.id())) {
        let keeps = run.head.outcome().is_none() || run.holds;
        let digests = run.head.artifacts().iter().map(String::as_str);
        if keeps {
            must.extend(digests)
        } else {
            may.extend(digests)
        }
        if run.head.outcome().is_none() {
            let began = run.head.summary().began;
            oldest = Some(oldest.map_or(began, |oldest| oldest.min(began)));
        }
    }
    let mut artifacts = vec![];
    for object in store.list(PRUNE, &format!("{}={}", names::WHAT, names::ARTIFACT)).await? {
        let name = object.metadata.name.unwrap_or_default();
        let digest = format!("sha256:{}", name.trim_start_matches("rollback-artifact-"));
        let made = object.metadata.creation_timestamp.map_or(0, |at| at.0.as_millisecond());
        let size: u64 = object.data.and_then(|data| data.get("size")?.parse().ok()).unwrap_or(0);
        artifacts.push((Timestamp(u64::try_from(made).unwrap_or(0)), digest, size));
    }
    artifacts.sort();
    let mut total: u64 = artifacts.iter().map(|(_, _, size)| size).sum();
    for (made, digest, size) in artifacts {
        let unknown = !may.contains(&*digest);
        let young = unknown && oldest.is_some_and(|oldest| made >= oldest);
        if must.contains(&*digest) || young || (!unknown && total <= retention.artifact_bytes) {
            continue;
        }
        let digest = rollback_core::Digest::from(&*digest);
        let Some(name) = names::of_artifact(&digest) else { continue };
        // First its head: an artifact is there as long as that is.
        store.delete(PRUNE, &name).await?;
        let selector = format!("rollback.dev/of-artifact={}", names::hash(digest.as_str()));
        for object in store.metadata(PRUNE, &selector).await? {
            store.delete(PRUNE, object.metadata.name.as_deref().unwrap_or_default()).await?;
        }
        total = total.saturating_sub(size);
        pruned.artifacts += 1;
        pruned.artifact_bytes += size;
    }
    Ok(pruned)
}
