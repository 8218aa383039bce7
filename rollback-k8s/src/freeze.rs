//! Who would deploy the bad release again, or take pods away meanwhile, is told to wait: Argo CD, Flux, autoscalers.
//!
//! Not here: pipelines outside of the cluster ([`FreezeCommand`](rollback_core::freeze::FreezeCommand)), and pausing the
//! rollout of a workload itself ([`Change::Halt`](rollback_core::Change::Halt)).

use crate::{
    Cluster,
    connect::JsonPatch,
    kinds::{ARGO_APPLICATION, AUTOSCALER, DEPLOYMENT, FLUX_HELM_RELEASE, KUSTOMIZATION, ObjectKind, SCALED_OBJECT},
    marks::{self, Annotations},
    owner,
};
use async_trait::async_trait;
use kube::api::DynamicObject;
use rollback_core::{Error, Freeze, Hold, Kind, Payload, Result, RunId, Stored};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// A [`Record`] as JSON.
const RECORD: &str = "rollback.dev/freeze";
/// The same for people.
const FROZEN_BY: &str = "rollback.dev/frozen-by";
/// How often a write is tried that somebody else was in the way of.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(100);

/// A freeze of one object of the cluster, for [`Rollback::freezing`](rollback_core::Rollback::freezing). Cheap to clone.
///
/// | made by | object | while it is held |
/// |---|---|---|
/// | [`Cluster::freeze_application`] | an Argo CD Application | `spec.syncPolicy.automated` is not there: no automatic sync, no self-heal |
/// | [`Cluster::freeze_kustomization`] | a Flux Kustomization | `spec.suspend` is true |
/// | [`Cluster::freeze_helm_release`] | a Flux HelmRelease | `spec.suspend` is true |
/// | [`Cluster::hold_autoscaler`] | a HorizontalPodAutoscaler | `spec.minReplicas` is the floor at least |
/// | [`Cluster::hold_scaled_object`] | a KEDA ScaledObject | `spec.minReplicaCount` is the floor at least |
///
/// What was there is kept on the object itself, in the annotation `rollback.dev/freeze`, with every hold on it; who holds it,
/// why and until when stands for people in `rollback.dev/frozen-by`. With the last hold, exactly that comes back; what
/// somebody else set meanwhile stays. Nobody but [`unfreeze`](rollback_core::freeze::unfreeze) ends a hold: neither Argo CD
/// nor Flux looks at its expiry, so one that has lapsed is reported, and goes on until it is lifted.
///
/// # Limits
/// A sync that is under way goes on to its end. What is itself deployed from Git (an app of apps, a Kustomization of
/// Kustomizations) is put back by its parent: freeze the parent too. Sync by hand still works, as it should.
///
/// # Permissions
/// `get` and `patch` on the kind: `{apiGroups: ["argoproj.io"], resources: ["applications"]}`,
/// `{apiGroups: ["kustomize.toolkit.fluxcd.io"], resources: ["kustomizations"]}`,
/// `{apiGroups: ["helm.toolkit.fluxcd.io"], resources: ["helmreleases"]}`,
/// `{apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"]}`,
/// `{apiGroups: ["keda.sh"], resources: ["scaledobjects"]}`.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// use rollback_k8s::{Cluster, ClusterOptions};
/// # async fn roll_back() -> Result<()> {
/// let cluster = Cluster::connect(ClusterOptions::from_context("prod")).await?;
/// let report = Rollback::of(cluster.deployment("shop", "checkout"))
///     .because("checkout answers 500 since 2.4.0")
///     .to(Choose::verified().or_previous())
///     .journal(SqliteJournal::open("/var/lib/rollback.db"))
///     .freezing(cluster.freeze_kustomization("flux-system", "apps"))
///     .freezing(cluster.hold_autoscaler("shop", "checkout", 6))
///     .run()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ClusterFreeze {
    cluster: Cluster,
    what: What,
    namespace: String,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Application,
    Kustomization,
    HelmRelease,
    Autoscaler(u32),
    ScaledObject(u32),
}

/// What is kept on the object while it is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    was: Was,
    holds: Vec<Hold>,
}

/// The field as it was, and as it was set; `None` where it was not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Was {
    before: Option<Value>,
    set: Option<Value>,
}
impl Stored for Was {
    const NAME: &'static str = "k8s/freeze";
    const VERSION: u32 = 1;
}

impl What {
    fn kind(self) -> ObjectKind {
        match self {
            What::Application => ARGO_APPLICATION,
            What::Kustomization => KUSTOMIZATION,
            What::HelmRelease => FLUX_HELM_RELEASE,
            What::Autoscaler(_) => AUTOSCALER,
            What::ScaledObject(_) => SCALED_OBJECT,
        }
    }
    /// The object around the field, and the field.
    fn field(self) -> (&'static str, &'static str) {
        match self {
            What::Application => ("/spec/syncPolicy", "automated"),
            What::Kustomization | What::HelmRelease => ("/spec", "suspend"),
            What::Autoscaler(_) => ("/spec", "minReplicas"),
            What::ScaledObject(_) => ("/spec", "minReplicaCount"),
        }
    }
    /// The field while it is held.
    ///
    /// # Errors
    /// Where the floor is above what the autoscaler may have.
    fn frozen(self, object: &DynamicObject, now: Option<&Value>) -> Result<Option<Value>> {
        let (floor, most, at, otherwise) = match self {
            What::Application => return Ok(None),
            What::Kustomization | What::HelmRelease => return Ok(Some(Value::Bool(true))),
            What::Autoscaler(floor) => (floor, "/spec/maxReplicas", "maxReplicas", 1),
            What::ScaledObject(floor) => (floor, "/spec/maxReplicaCount", "maxReplicaCount", 0),
        };
        let most = object.data.pointer(most).and_then(Value::as_u64).unwrap_or(100);
        if u64::from(floor) > most {
            return Err(Error::new(Kind::Invalid, "hold the autoscaler")
                .with_message(format!("its floor is to be {floor}, and its {at} is {most}: raise that first"))
                .without_effect());
        }
        let least = now.and_then(Value::as_u64).unwrap_or(otherwise);
        Ok(if least >= floor.into() { now.cloned() } else { Some(floor.into()) })
    }
}

impl Cluster {
    /// An Argo CD Application, usually in the namespace `argocd`. No request.
    ///
    /// ```no_run
    /// # fn freeze(cluster: rollback_k8s::Cluster) {
    /// let gitops = cluster.freeze_application("argocd", "checkout");
    /// # }
    /// ```
    pub fn freeze_application(&self, namespace: impl Into<String>, name: impl Into<String>) -> ClusterFreeze {
        self.freezing(What::Application, namespace, name)
    }
    /// A Flux Kustomization. No request.
    ///
    /// ```no_run
    /// # fn freeze(cluster: rollback_k8s::Cluster) {
    /// let gitops = cluster.freeze_kustomization("flux-system", "apps");
    /// # }
    /// ```
    pub fn freeze_kustomization(&self, namespace: impl Into<String>, name: impl Into<String>) -> ClusterFreeze {
        self.freezing(What::Kustomization, namespace, name)
    }
    /// A Flux HelmRelease. No request.
    ///
    /// ```no_run
    /// # fn freeze(cluster: rollback_k8s::Cluster) {
    /// let gitops = cluster.freeze_helm_release("shop", "checkout");
    /// # }
    /// ```
    pub fn freeze_helm_release(&self, namespace: impl Into<String>, name: impl Into<String>) -> ClusterFreeze {
        self.freezing(What::HelmRelease, namespace, name)
    }
    /// A HorizontalPodAutoscaler, which keeps so many replicas at least. No request.
    ///
    /// ```no_run
    /// # fn hold(cluster: rollback_k8s::Cluster) {
    /// let floor = cluster.hold_autoscaler("shop", "checkout", 6);
    /// # }
    /// ```
    pub fn hold_autoscaler(&self, namespace: impl Into<String>, name: impl Into<String>, floor: u32) -> ClusterFreeze {
        self.freezing(What::Autoscaler(floor), namespace, name)
    }
    /// A ScaledObject of KEDA, which keeps so many replicas at least. No request.
    ///
    /// ```no_run
    /// # fn hold(cluster: rollback_k8s::Cluster) {
    /// let floor = cluster.hold_scaled_object("shop", "checkout", 6);
    /// # }
    /// ```
    pub fn hold_scaled_object(
        &self,
        namespace: impl Into<String>,
        name: impl Into<String>,
        floor: u32,
    ) -> ClusterFreeze {
        self.freezing(What::ScaledObject(floor), namespace, name)
    }
    /// A freeze for each GitOps object that deploys a Deployment, told from its labels and annotations. Where Argo CD keeps
    /// its Applications is not told there: usually the namespace `argocd`. One request.
    ///
    /// ```no_run
    /// # async fn freeze(cluster: rollback_k8s::Cluster) -> rollback_core::Result<()> {
    /// let freezes = cluster.freezes_of("shop", "checkout", "argocd").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As reading the Deployment.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn freezes_of(
        &self,
        namespace: &str,
        deployment: &str,
        argo_cd_namespace: &str,
    ) -> Result<Vec<ClusterFreeze>> {
        let object = self.get("look for who deploys it", DEPLOYMENT, namespace, deployment).await?;
        let owners = owner::owners(&object.metadata);
        Ok(owners.iter().filter_map(|owner| self.freeze_of(owner, namespace, argo_cd_namespace)).collect())
    }

    fn freeze_of(&self, owner: &str, namespace: &str, argo_cd_namespace: &str) -> Option<ClusterFreeze> {
        let (kind, of) = owner.split_once(':')?;
        let (in_namespace, name) = of.split_once('/').unwrap_or((namespace, of));
        match kind {
            // In another namespace than Argo CD's own, its id says so: `NAMESPACE_NAME`.
            "argo-cd" => {
                let (namespace, name) = of.split_once('_').unwrap_or((argo_cd_namespace, of));
                Some(self.freeze_application(namespace, name))
            }
            "flux-kustomization" => Some(self.freeze_kustomization(in_namespace, name)),
            "flux-helm-release" => Some(self.freeze_helm_release(in_namespace, name)),
            _ => None,
        }
    }

    fn freezing(&self, what: What, namespace: impl Into<String>, name: impl Into<String>) -> ClusterFreeze {
        ClusterFreeze { cluster: self.clone(), what, namespace: namespace.into(), name: name.into() }
    }
}

/// What one write is to do.
struct Step {
    /// The field afterwards; `None`: it stays.
    field: Option<Option<Value>>,
    /// The record afterwards; `None`: it goes.
    record: Option<Record>,
}

impl ClusterFreeze {
    async fn read(&self) -> Result<DynamicObject> {
        self.cluster.get("read what is to be frozen", self.what.kind(), &self.namespace, &self.name).await
    }

    /// Reads, decides and writes, until nobody else was in between. `decide` gives nothing where nothing is to be written.
    async fn update<T>(
        &self,
        operation: &str,
        decide: impl Fn(&DynamicObject, Option<Record>, Option<&Value>) -> Result<(T, Option<Step>)>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            // Until it is written, nothing has happened.
            let object = self.read().await.map_err(Error::without_effect)?;
            let (parent, field) = self.what.field();
            let now = object.data.pointer(parent).and_then(|parent| parent.get(field)).filter(|value| !value.is_null());
            let (answer, step) = decide(&object, record(&object)?, now).map_err(Error::without_effect)?;
            let Some(step) = step else { return Ok(answer) };
            let patched = self.cluster.patch(JsonPatch {
                operation,
                kind: self.what.kind(),
                namespace: &self.namespace,
                name: &self.name,
                operations: self.operations(&object, now, step)?,
                dry_run: false,
                within: self.cluster.reply_within(),
            });
            match patched.await {
                Ok(_) => return Ok(answer),
                Err(e) if e.kind() == Kind::Conflict && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    fn operations(&self, object: &DynamicObject, now: Option<&Value>, step: Step) -> Result<Vec<Value>> {
        let (parent, field) = self.what.field();
        let path = format!("{parent}/{field}");
        let annotations: Annotations = object.metadata.annotations.clone().unwrap_or_default();
        let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": object.metadata.uid})];
        if let Some(kept) = annotations.get(RECORD) {
            operations.push(json!({"op": "test", "path": marks::path(RECORD), "value": kept}));
        } else if !annotations.is_empty() {
            operations.push(json!({"op": "test", "path": marks::path(RECORD), "value": null}));
        }
        if let Some(field) = step.field.filter(|field| field.as_ref() != now) {
            let there = object.data.pointer(parent).is_some_and(|parent| !parent.is_null());
            if there {
                operations.push(json!({"op": "test", "path": path, "value": now}));
            }
            match field {
                Some(value) => {
                    if !there {
                        operations.push(json!({"op": "add", "path": parent, "value": {}}));
                    }
                    operations.push(json!({"op": "add", "path": path, "value": value}));
                }
                None => operations.push(json!({"op": "remove", "path": path})),
            }
        }
        match step.record {
            Some(record) => {
                let text = serde_json::to_string(&record).map_err(|e| {
                    Error::new(Kind::Unexpected, "keep what was there before").with_source(e).without_effect()
                })?;
                let set = [(RECORD.to_owned(), text), (FROZEN_BY.to_owned(), for_people(&record.holds))].into();
                marks::annotate(&mut operations, !annotations.is_empty(), set);
            }
            None => {
                for key in [RECORD, FROZEN_BY].into_iter().filter(|key| annotations.contains_key(*key)) {
                    operations.push(json!({"op": "remove", "path": marks::path(key)}));
                }
            }
        }
        Ok(operations)
    }
}

fn record(object: &DynamicObject) -> Result<Option<Record>> {
    let text = object.metadata.annotations.iter().flatten().find(|(key, _)| *key == RECORD).map(|(_, text)| text);
    text.map(|text| serde_json::from_str(text)).transpose().map_err(|e| {
        Error::new(Kind::Invalid, "read who holds it")
            .with_message(format!("its annotation {RECORD} cannot be read: mend or remove it"))
            .with_source(e)
            .without_effect()
    })
}

fn for_people(holds: &[Hold]) -> String {
    let each = holds.iter().map(|hold| {
        let until = hold.until.map_or_else(|| "until it is lifted".to_owned(), |until| format!("until {until}"));
        format!("{} (run {}) {until}: {}", hold.owner, hold.run, hold.why)
    });
    each.collect::<Vec<_>>().join("; ")
}

fn held_by<'a>(record: &'a Record, run: &RunId) -> Option<&'a Hold> {
    record.holds.iter().find(|hold| hold.run == *run)
}

#[async_trait]
impl Freeze for ClusterFreeze {
    fn name(&self) -> String {
        format!("{}:{}/{}", self.what.kind().name(), self.namespace, self.name)
    }
    async fn freeze(&self, hold: &Hold) -> Result<Payload> {
        let was = self.update("freeze it", |object, record, now| {
            if let Some(record) = record.as_ref().filter(|record| held_by(record, &hold.run).is_some()) {
                return Ok((record.was.clone(), None));
            }
            let set = self.what.frozen(object, now)?;
            let mut record =
                record.unwrap_or_else(|| Record { was: Was { before: now.cloned(), set: None }, holds: vec![] });
            record.was.set.clone_from(&set);
            record.holds.push(hold.clone());
            Ok((record.was.clone(), Some(Step { field: Some(set), record: Some(record) })))
        });
        Payload::of(&was.await?)
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        Ok(record(&self.read().await?)?.map(|record| record.holds).unwrap_or_default())
    }
    async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()> {
        let was: Was = was.read()?;
        let lifted = self.update("unfreeze it", |_, record, now| {
            let Some(mut record) = record else {
                // Somebody removed the annotations, and perhaps left it as it was frozen.
                let ours = now == was.set.as_ref() && was.set != was.before;
                return Ok(((), ours.then(|| Step { field: Some(was.before.clone()), record: None })));
            };
            if held_by(&record, &hold.run).is_none() {
                return Ok(((), None));
            }
            record.holds.retain(|other| other.run != hold.run);
            if !record.holds.is_empty() {
                return Ok(((), Some(Step { field: None, record: Some(record) })));
            }
            // What somebody set meanwhile stays.
            let field = (now == record.was.set.as_ref()).then(|| record.was.before.clone());
            Ok(((), Some(Step { field, record: None })))
        });
        match lifted.await {
            // What is gone holds nobody up.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            other => other,
        }
    }
}
