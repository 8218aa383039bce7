//! What runs of a release, asked of the API: its workloads, against the templates of each revision's manifest.

use super::{
    HelmRelease,
    record::{Object, Revision},
};
use crate::{
    deployment::Deployment,
    kinds::{CONFIG_MAP, DAEMON_SET, DEPLOYMENT, STATEFUL_SET},
    owner,
    release::{release_id, without_hash},
    revisioned::{Flavour, Workload},
    verify::{self, PodSource as _},
};
use rollback_core::{Kind, Look, Observation, ReleaseId, Result, Running, Settled, Target as _};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A workload as it is.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) kind: String,
    pub(super) name: String,
    /// What its pods came from, by templates; nothing where it is not there.
    pub(super) running: Running,
    pub(super) templates: BTreeMap<ReleaseId, Value>,
    pub(super) settled: Settled,
    pub(super) capacity: u32,
    pub(super) ready: u32,
    pub(super) addresses: Vec<String>,
    pub(super) owners: Vec<String>,
}

/// What a workload is by itself.
enum Own {
    Deployment(Deployment),
    Revisioned(Workload),
}

impl Own {
    async fn observe(&self) -> Result<Observation> {
        match self {
            Own::Deployment(deployment) => deployment.observe(Look::quick()).await,
            Own::Revisioned(workload) => workload.observe(Look::quick()).await,
        }
    }
    async fn pods(&self) -> Result<verify::Own> {
        match self {
            Own::Deployment(deployment) => deployment.own().await,
            Own::Revisioned(workload) => workload.own().await,
        }
    }
    /// The template of each release that is known after a look.
    fn templates(&self) -> BTreeMap<ReleaseId, Value> {
        match self {
            Own::Deployment(deployment) => deployment.templates(),
            Own::Revisioned(workload) => workload.templates(),
        }
    }
}

/// The newest revision, and the one that was deployed last.
pub(super) fn of_interest(revisions: &[Arc<Revision>]) -> Vec<&Arc<Revision>> {
    let before = revisions.iter().find(|revision| revision.status == "deployed");
    revisions.first().into_iter().chain(before).collect()
}

/// The workloads that these revisions name, each once.
pub(super) fn distinct<'a>(of: &[&'a Arc<Revision>]) -> Vec<&'a Object> {
    let mut named = BTreeSet::new();
    let all = of.iter().flat_map(|revision| revision.workloads());
    all.filter(|object| named.insert((object.kind.clone(), object.name.clone()))).collect()
}

impl HelmRelease {
    /// The workloads that these revisions name.
    pub(super) async fn workloads(&self, of: &[&Arc<Revision>]) -> Result<Vec<Live>> {
        futures::future::try_join_all(distinct(of).into_iter().map(|object| self.workload(object))).await
    }

    async fn workload(&self, object: &Object) -> Result<Live> {
        let namespace = object.namespace.as_deref().unwrap_or(&self.namespace);
        let kind = object.workload().unwrap_or(DEPLOYMENT);
        let live = match self.cluster.get("read a workload of the release", kind, namespace, &object.name).await {
            Ok(live) => live,
            Err(e) if e.kind() == Kind::NotFound => return Ok(Live::missing(object)),
            Err(e) => return Err(e),
        };
        let owners = owner::owners(&live.metadata).into_iter().filter(|owner| !owner.starts_with("helm:")).collect();
        let told = without_hash(live.data.pointer("/spec/template").unwrap_or(&Value::Null));
        let own = self.target_of(object);
        let seen = own.observe().await?;
        let mut templates = own.templates();
        templates.insert(release_id(&told), told);
        let mut live = Live { templates, owners, ..Live::missing(object) };
        if let Some(part) = seen.parts.values().next() {
            live.running = part.running.clone();
            live.settled = part.settled.clone();
            live.capacity = part.capacity.unwrap_or(0);
            live.ready = part.ready.unwrap_or(0);
            live.addresses.clone_from(&part.addresses);
        }
        Ok(live)
    }

    /// What a workload of the manifest is by itself.
    fn target_of(&self, object: &Object) -> Own {
        let namespace = object.namespace.as_deref().unwrap_or(&self.namespace);
        let revisioned =
            |flavour| Own::Revisioned(Workload::new(&self.cluster, flavour, namespace.into(), object.name.clone()));
        match object.workload() {
            Some(STATEFUL_SET) => revisioned(Flavour::StatefulSet),
            Some(DAEMON_SET) => revisioned(Flavour::DaemonSet),
            _ => Own::Deployment(self.cluster.deployment(namespace, &object.name).through_owner()),
        }
    }

    /// The pods of the workloads that these revisions name, as releases of Helm; without those of a workload that is not
    /// there.
    pub(super) async fn pods(&self, revisions: &[Arc<Revision>]) -> Result<verify::Own> {
        let named: Vec<&Arc<Revision>> = of_interest(revisions);
        let of = distinct(&named).into_iter().map(|object| async move {
            let own = self.target_of(object);
            let pods = match own.pods().await {
                Err(e) if e.kind() == Kind::NotFound => return Ok(verify::Own::default()),
                pods => pods?,
            };
            let live = Live { templates: own.templates(), ..Live::missing(object) };
            let name = |own: &ReleaseId| live.revision_of(own, revisions).map(|revision| revision.release.clone());
            Ok(pods.renamed(name))
        });
        let all: Result<Vec<verify::Own>> = futures::future::try_join_all(of).await;
        Ok(all?.into_iter().fold(verify::Own::default(), verify::Own::and))
    }
    /// A ConfigMap of the revision that is not as its manifest has it.
    pub(super) async fn drifted_config(&self, of: &Revision) -> Result<Option<String>> {
        for object in of.objects.iter().filter(|object| object.kind == CONFIG_MAP.kind) {
            let namespace = object.namespace.as_deref().unwrap_or(&self.namespace);
            let live = match self.cluster.get("read a ConfigMap", CONFIG_MAP, namespace, &object.name).await {
                Ok(live) => live,
                Err(e) if e.kind() == Kind::NotFound => {
                    return Ok(Some(format!("the ConfigMap {} is gone", object.name)));
                }
                Err(e) => return Err(e),
            };
            let data = |of: &Value| of.get("data").cloned().filter(|data| !data.is_null());
            if data(&object.content) != data(&live.data) {
                return Ok(Some(format!("the ConfigMap {} is not as the release has it", object.name)));
            }
        }
        Ok(None)
    }
}

impl Live {
    fn missing(object: &Object) -> Self {
        Self {
            kind: object.kind.clone(),
            name: object.name.clone(),
            running: Running::Nothing,
            templates: BTreeMap::new(),
            settled: Settled::NotYet { why: format!("the {} {} is not there", object.kind, object.name) },
            capacity: 0,
            ready: 0,
            addresses: vec![],
            owners: vec![],
        }
    }
    /// Its pods came from what this revision has for it. A template is compared as a whole; where no revision has just that
    /// (a default of the server's that is not known here), what the manifest says must be in it.
    fn is_of(&self, own: &ReleaseId, revision: &Revision, exactly: bool) -> bool {
        let Some(object) = revision.object(&self.kind, &self.name) else { return false };
        let template = object.template();
        if exactly {
            return release_id(&template) == *own;
        }
        self.templates.get(own).is_some_and(|live| covers(live, &template))
    }
    /// The newest revision that these pods are of.
    fn revision_of<'a>(&self, own: &ReleaseId, newest_first: &'a [Arc<Revision>]) -> Option<&'a Arc<Revision>> {
        let find = |exactly| newest_first.iter().find(|revision| self.is_of(own, revision, exactly));
        find(true).or_else(|| find(false))
    }
    /// All of its pods may be of this revision.
    fn may_be(&self, revision: &Revision, newest_first: &[Arc<Revision>]) -> bool {
        let Some(object) = revision.object(&self.kind, &self.name) else { return self.running == Running::Nothing };
        let of = |own: &ReleaseId| {
            let exact = newest_first.iter().any(|other| self.is_of(own, other, true));
            self.is_of(own, revision, exact)
        };
        match &self.running {
            Running::Nothing => self.capacity == 0 && self.settled == Settled::Yes && !object.content.is_null(),
            Running::Release(own) => of(own),
            Running::Mixed(all) => all.keys().all(of),
            Running::Between { .. } | Running::Unknown { .. } => false,
        }
    }
}

/// What really runs, as releases of Helm.
pub(super) fn running(live: &[Live], newest_first: &[Arc<Revision>]) -> Running {
    let whole = |revision: &&Arc<Revision>| {
        let all_there = revision.workloads().all(|object| {
            live.iter().any(|live| live.kind == object.kind && live.name == object.name && !live.templates.is_empty())
        });
        all_there && live.iter().all(|live| live.may_be(revision, newest_first))
    };
    if let Some(revision) = newest_first.iter().find(whole) {
        return Running::Release(revision.release.clone());
    }
    let mut counts: BTreeMap<ReleaseId, u32> = BTreeMap::new();
    let mut strangers = BTreeSet::new();
    for live in live {
        let pods: Vec<(&ReleaseId, u32)> = match &live.running {
            Running::Nothing => vec![],
            Running::Release(own) => vec![(own, live.ready.max(1))],
            Running::Mixed(all) => all.iter().map(|(own, n)| (own, *n)).collect(),
            Running::Between { .. } | Running::Unknown { .. } => {
                strangers.insert(format!("{} {}", live.kind, live.name));
                vec![]
            }
        };
        for (own, n) in pods {
            match live.revision_of(own, newest_first) {
                Some(revision) => *counts.entry(revision.release.clone()).or_default() += n,
                None => drop(strangers.insert(format!("{} {}: {own}", live.kind, live.name))),
            }
        }
    }
    match (strangers.is_empty(), counts.len()) {
        (false, _) => {
            let fingerprint = strangers.into_iter().collect::<Vec<_>>().join(", ");
            Running::Unknown { named: Some(format!("not what any revision has: {fingerprint}")), fingerprint }
        }
        (true, 0) => Running::Nothing,
        (true, 1) => counts.into_keys().next().map_or(Running::Nothing, Running::Release),
        (true, _) => Running::Mixed(counts),
    }
}

/// Everything that is wanted is there; the server may have filled in more.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| covers(live.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
        }
        // An empty map is left out.
        (Value::Null, Value::Object(wanted)) => wanted.is_empty(),
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_server_fills_in_more_than_a_manifest_says() {
        let live = json!({"a": 1, "b": {"c": [{"d": 1, "e": 2}]}});
        for (wanted, is) in [
            (json!({"a": 1}), true),
            (json!({"b": {"c": [{"d": 1}]}}), true),
            (json!({"b": {"c": []}}), false),
            (json!({"a": 2}), false),
            (json!({"f": {}}), true),
            (json!({"f": 1}), false),
        ] {
            assert_eq!(covers(&live, &wanted), is, "{wanted}");
        }
    }
}
