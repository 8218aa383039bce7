//! What there is to save of a target: its workloads, what sends traffic to them, what their pods refer to and what they
//! use. Read all at once, each request bounded, so that one that hangs takes nobody else's time.

use super::Saved;
use crate::{
    kinds::{
        CONFIG_MAP, CONTROLLER_REVISION, DEPLOYMENT, HTTP_ROUTE, INGRESS, ObjectKind, POD, POD_METRICS, REPLICA_SET,
        ROLLOUT, SERVICE, VIRTUAL_SERVICE,
    },
    marks::Annotations,
    owner::is_controlled_by,
    prepare::all_references,
    record::{Archive, ConfigOptions, Owner, RECORDED},
    revisions::selector_of,
};
use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{Event, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::DynamicObject;
use rollback_core::{Error, Kind, Result};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fmt::Debug, time::Duration};

/// ConfigMaps that are looked at.
const CONFIG_MAPS: usize = 20;
/// What may send traffic to a Service. Of most there is no definition in a cluster.
const ROUTING: [ObjectKind; 3] = [INGRESS, HTTP_ROUTE, VIRTUAL_SERVICE];

/// Which objects are saved, and what else is said of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct What {
    workloads: Vec<(ObjectKind, String)>,
    objects: Vec<(ObjectKind, String)>,
    said: Vec<Value>,
}

impl What {
    /// A workload: with the pods that its selector finds, its ReplicaSets or ControllerRevisions, and events of all.
    pub(crate) fn with_workload(mut self, kind: ObjectKind, name: impl Into<String>) -> Self {
        self.workloads.push((kind, name.into()));
        self
    }
    /// Any other object, with its events: a Service, a route. Not a Secret, not a ConfigMap.
    pub(crate) fn with_object(mut self, kind: ObjectKind, name: impl Into<String>) -> Self {
        self.objects.push((kind, name.into()));
        self
    }
    /// A line among the objects: what stands in one that is not saved itself.
    pub(crate) fn with_said(mut self, said: Value) -> Self {
        self.said.push(said);
        self
    }
    fn and(mut self, other: Self) -> Self {
        self.workloads.extend(other.workloads);
        self.objects.extend(other.objects);
        self.said.extend(other.said);
        self
    }
}

/// A target that has to look first which objects it is made of.
#[async_trait]
pub(crate) trait Saving: Debug + Send + Sync + 'static {
    async fn what(&self) -> Result<What>;
}

/// What was read before anything is kept.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) workloads: Vec<DynamicObject>,
    pub(super) revisions: Vec<DynamicObject>,
    pub(super) objects: Vec<DynamicObject>,
    pub(super) said: Vec<Value>,
    pub(super) pods: Vec<Pod>,
    pub(super) config: Vec<Value>,
    pub(super) metrics: Vec<DynamicObject>,
    pub(super) missing: Vec<Error>,
}

impl Found {
    fn take<T>(&mut self, answer: Result<T>) -> Option<T> {
        answer.map_err(|e| self.missing.push(e)).ok()
    }
    /// The uids of all that events may be about, and the names of workloads: pods that are gone are named after them.
    pub(super) fn is_of(&self, event: &Event) -> bool {
        let about = &event.involved_object;
        let known = |metadata: &ObjectMeta| metadata.uid.is_some() && metadata.uid == about.uid;
        let named_after = |workload: &DynamicObject| {
            let name = workload.metadata.name.as_deref().unwrap_or_default();
            let rest = about.name.as_deref().and_then(|about| about.strip_prefix(name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.workloads.iter().chain(&self.revisions).chain(&self.objects).any(|object| known(&object.metadata))
            || self.pods.iter().any(|pod| known(&pod.metadata))
            || self.workloads.iter().any(named_after)
    }
    /// Something that gets traffic is among what was found.
    fn is_selected_by(&self, service: &DynamicObject) -> bool {
        let selector = service.data.pointer("/spec/selector").and_then(Value::as_object);
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
        let covers = |label: &dyn Fn(&str) -> Option<String>| {
            selector.iter().all(|(key, value)| label(key).as_deref() == value.as_str())
        };
        let of_template = |workload: &DynamicObject| {
            let labels = workload.data.pointer("/spec/template/metadata/labels");
            covers(&|key| Some(labels?.get(key)?.as_str()?.to_owned()))
        };
        let of_pod = |pod: &Pod| covers(&|key| pod.metadata.labels.as_ref()?.get(key).cloned());
        self.workloads.iter().any(of_template) || self.pods.iter().any(of_pod)
    }
    fn add_object(&mut self, object: DynamicObject) {
        let known = |other: &DynamicObject| other.metadata.uid.is_some() && other.metadata.uid == object.metadata.uid;
        if !self.workloads.iter().chain(&self.objects).any(known) {
            self.objects.push(object);
        }
    }
}

/// A workload with what belongs to it.
struct Workload {
    object: DynamicObject,
    revisions: Result<Vec<DynamicObject>>,
    pods: Result<Vec<Pod>>,
    metrics: Result<Vec<DynamicObject>>,
    config: Vec<Result<Value>>,
}

impl Saved {
    pub(super) async fn find(&self, time: Duration) -> Found {
        let mut found = Found::default();
        let traffic = async {
            let all = [SERVICE].into_iter().chain(ROUTING).map(|kind| self.listed(kind, time));
            join_all(all).await
        };
        let own = async {
            let what = match &self.told {
                Some(told) => bounded(time, told.what()).await,
                None => Ok(What::default()),
            };
            let (told, missing) = match what {
                Ok(told) => (told, None),
                Err(e) => (What::default(), Some(e)),
            };
            let what = self.what.clone().and(told);
            let workloads = join_all(what.workloads.iter().map(|(kind, name)| self.workload(*kind, name, time)));
            let objects =
                join_all(what.objects.iter().map(|(kind, name)| {
                    bounded(time, self.cluster.get("save an object", *kind, &self.namespace, name))
                }));
            let (workloads, objects) = futures::join!(workloads, objects);
            (workloads, objects, what.said, missing)
        };
        let (traffic, (workloads, objects, said, missing)) = futures::join!(traffic, own);
        found.missing.extend(missing);
        found.said = said;
        for workload in workloads {
            let Some(Workload { object, revisions, pods, metrics, config }) = found.take(workload) else { continue };
            found.revisions.extend(found_of(&mut found.missing, revisions));
            let known: BTreeSet<_> = found.pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
            let new = |pod: &Pod| pod.metadata.uid.as_ref().is_none_or(|uid| !known.contains(uid));
            found.pods.extend(found_of(&mut found.missing, pods).into_iter().filter(new));
            found.metrics.extend(found_of(&mut found.missing, metrics));
            for line in config {
                let line = found.take(line);
                found.config.extend(line);
            }
            found.workloads.push(object);
        }
        for object in objects {
            if let Some(object) = found.take(object) {
                found.add_object(object);
            }
        }
        found.add_traffic(traffic);
        // The newest first, as a person asks for them.
        let age = |object: &DynamicObject| object.metadata.creation_timestamp.as_ref().map(|at| at.0);
        found.revisions.sort_by_key(|revision| std::cmp::Reverse(age(revision)));
        found
    }

    async fn workload(&self, kind: ObjectKind, name: &str, time: Duration) -> Result<Workload> {
        let namespace = &self.namespace;
        let object = bounded(time, self.cluster.get("save a workload", kind, namespace, name)).await?;
        let mut selector = selector_of(&object.data);
        // A Rollout may have its template and its selector in a Deployment.
        let elsewhere = object.data.pointer("/spec/workloadRef/name").and_then(Value::as_str);
        if let Some(elsewhere) = elsewhere.filter(|_| kind == ROLLOUT && selector.is_err()) {
            let holder = self.cluster.get("save a workload", DEPLOYMENT, namespace, elsewhere);
            selector = bounded(time, holder).await.and_then(|holder| selector_of(&holder.data));
        }
        // An empty one finds every pod of the namespace.
        let selector = match selector {
            Ok(selector) if !selector.is_empty() => selector,
            other => {
                let (revisions, metrics) = (Ok(vec![]), Ok(vec![]));
                return Ok(Workload { object, revisions, pods: other.map(|_| vec![]), metrics, config: vec![] });
            }
        };
        let kept_as = if matches!(kind, DEPLOYMENT | ROLLOUT) { REPLICA_SET } else { CONTROLLER_REVISION };
        let (revisions, pods, metrics, config) = futures::join!(
            bounded(time, self.cluster.list("save the revisions", kept_as, namespace, &selector)),
            bounded(time, self.cluster.list_of::<Pod>("save the state of pods", POD, namespace, &selector)),
            bounded(time, self.cluster.list("save what pods use", POD_METRICS, namespace, &selector)),
            self.config(kind, name, &object, time),
        );
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let own = |all: Vec<DynamicObject>| {
            all.into_iter().filter(|one| is_controlled_by(&one.metadata, &uid)).collect::<Vec<_>>()
        };
        Ok(Workload { revisions: revisions.map(own), object, pods, metrics, config })
    }

    /// All of a kind in the namespace; nothing where there is no such kind.
    async fn listed(&self, kind: ObjectKind, time: Duration) -> (ObjectKind, Result<Vec<DynamicObject>>) {
        let listed = bounded(time, self.cluster.list("save what sends traffic", kind, &self.namespace, "")).await;
        match listed {
            Err(e) if e.kind() == Kind::NotFound => (kind, Ok(vec![])),
            listed => (kind, listed),
        }
    }

    /// The ConfigMaps that its pods refer to: their keys, how long each value is, and who wrote them last; then how they
    /// differ from what was recorded with the release before.
    async fn config(&self, kind: ObjectKind, name: &str, object: &DynamicObject, time: Duration) -> Vec<Result<Value>> {
        let Some(template) = object.data.pointer("/spec/template") else { return vec![] };
        let names = all_references(template).into_iter().filter(|reference| !reference.secret).take(CONFIG_MAPS);
        let maps = names.map(|reference| async move {
            let map = self.cluster.get("save what a ConfigMap was", CONFIG_MAP, &self.namespace, &reference.name);
            match bounded(time, map).await {
                Ok(map) => Ok(outline(&map)),
                Err(e) if e.kind() == Kind::NotFound => Ok(json!({"ConfigMap": reference.name, "missing": true})),
                Err(e) => Err(e),
            }
        });
        let none = Annotations::new();
        let recorded = object.metadata.annotations.as_ref().unwrap_or(&none).contains_key(RECORDED);
        let since = async {
            if !recorded {
                return Ok(vec![]);
            }
            let uid = object.metadata.uid.as_deref().unwrap_or_default();
            let options = ConfigOptions::default();
            let archive = Archive::new(&self.cluster, &self.namespace, Owner { kind, name, uid }, &options);
            bounded(time, archive.since_the_one_before(&crate::release_id(template))).await
        };
        let (mut lines, since) = futures::join!(join_all(maps), since);
        match since {
            Ok(since) => lines.extend(since.into_iter().map(|line| Ok(json!(line)))),
            Err(e) => lines.push(Err(e)),
        }
        lines
    }
}

impl Found {
    /// Services that select what was found, and what names one of these.
    fn add_traffic(&mut self, listed: Vec<(ObjectKind, Result<Vec<DynamicObject>>)>) {
        for (kind, listed) in listed {
            let all = self.take(listed).unwrap_or_default();
            let services: BTreeSet<String> = self
                .objects
                .iter()
                .filter(|object| object.types.as_ref().is_none_or(|types| types.kind == SERVICE.kind))
                .filter_map(|object| object.metadata.name.clone())
                .collect();
            for object in all {
                // What a list holds does not say its own kind.
                let types = kube::core::TypeMeta { api_version: kind.resource().api_version, kind: kind.kind.into() };
                let object = DynamicObject { types: Some(types), ..object };
                let sends = match kind {
                    SERVICE => self.is_selected_by(&object),
                    _ => object.data.get("spec").is_some_and(|spec| names_one(spec, &services)),
                };
                if sends {
                    self.add_object(object);
                }
            }
        }
    }
}

/// A route to one of these Services: by its name, or by its address in the cluster.
fn names_one(value: &Value, services: &BTreeSet<String>) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| match value {
            Value::String(name) if matches!(key.as_str(), "name" | "host" | "serviceName") => {
                services.contains(name.split('.').next().unwrap_or(name))
            }
            value => names_one(value, services),
        }),
        Value::Array(items) => items.iter().any(|item| names_one(item, services)),
        _ => false,
    }
}

/// What a ConfigMap is, without what it holds.
fn outline(map: &DynamicObject) -> Value {
    let sizes = |at: &str| {
        let all = map.data.get(at).and_then(Value::as_object).into_iter().flatten();
        let sized = all.map(|(key, value)| (key.clone(), json!(value.as_str().map_or(0, str::len))));
        Value::Object(sized.collect())
    };
    let written = map.metadata.managed_fields.iter().flatten().filter_map(|entry| Some((entry.time.as_ref()?, entry)));
    let last = written.max_by_key(|(at, _)| at.0);
    json!({
        "ConfigMap": map.metadata.name,
        "version": map.metadata.resource_version,
        "written_at": last.map(|(at, _)| at.0.to_string()),
        "written_by": last.and_then(|(_, entry)| entry.manager.clone()),
        "bytes": sizes("data"),
        "binary_bytes": sizes("binaryData"),
    })
}

fn found_of<T>(missing: &mut Vec<Error>, answer: Result<Vec<T>>) -> Vec<T> {
    answer.unwrap_or_else(|e| {
        missing.push(e);
        vec![]
    })
}

async fn bounded<T>(time: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(time, answer).await.unwrap_or_else(|_| {
        let text = format!("the API server did not answer within {time:?}");
        Err(Error::new(Kind::Unavailable, "collect evidence").with_message(text).without_effect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_name_a_service_in_three_ways() {
        let services = BTreeSet::from(["shop".to_owned()]);
        for (spec, is) in [
            (json!({"rules": [{"http": {"paths": [{"backend": {"service": {"name": "shop"}}}]}}]}), true),
            (json!({"rules": [{"backendRefs": [{"name": "shop", "weight": 1}]}]}), true),
            (json!({"http": [{"route": [{"destination": {"host": "shop.prod.svc.cluster.local"}}]}]}), true),
            (json!({"http": [{"route": [{"destination": {"host": "shopping"}}]}]}), false),
            (json!({"rules": [{"backendRefs": [{"name": "cart"}]}], "hostnames": ["shop"]}), false),
        ] {
            assert_eq!(names_one(&spec, &services), is, "{spec}");
        }
    }
}
