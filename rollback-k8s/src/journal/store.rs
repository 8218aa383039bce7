//! The requests of the journal: ConfigMaps and Leases of one namespace, each bounded in time and worded when it fails.

use super::{
    lock::{Lock, Me},
    names,
};
use crate::{
    Cluster,
    connect::FIELD_MANAGER,
    error::Request,
    kinds::{CONFIG_MAP, LEASE, ObjectKind},
};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease as LeaseObject, LeaseSpec},
        core::v1::ConfigMap,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams},
};
use rollback_core::{Error, Kind, Result, TargetId};
use serde_json::{Value, json};
use std::time::Duration;

/// So many objects a page. Those with their lines are large.
const PAGE: u32 = 100;

/// Who takes a lock, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taking<'a> {
    pub(super) epoch: u64,
    pub(super) me: &'a Me,
    /// As people read it.
    pub(super) who: &'a str,
    pub(super) length: Duration,
}

/// Where the journal lies.
#[derive(Clone, Debug)]
pub(super) struct Store {
    cluster: Cluster,
    namespace: String,
}

impl Store {
    pub(super) fn new(cluster: Cluster, namespace: String) -> Self {
        Self { cluster, namespace }
    }
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }
    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.cluster.client().clone(), &self.namespace)
    }
    fn leases(&self) -> Api<LeaseObject> {
        Api::namespaced(self.cluster.client().clone(), &self.namespace)
    }
    fn request<'a>(&'a self, operation: &'a str, verb: &'static str, kind: ObjectKind, name: &'a str) -> Request<'a> {
        Request { operation, verb, kind, namespace: Some(&self.namespace), name }
    }
    fn reply(&self) -> Duration {
        self.cluster.reply_within()
    }

    pub(super) async fn get(&self, operation: &str, name: &str) -> Result<Option<ConfigMap>> {
        let request = self.request(operation, "get", CONFIG_MAP, name);
        let maps = self.maps();
        self.cluster.within(self.reply(), &request, maps.get_opt(name)).await
    }
    /// Its version alone.
    pub(super) async fn version(&self, operation: &str, name: &str) -> Result<Option<String>> {
        let request = self.request(operation, "get", CONFIG_MAP, name);
        let maps = self.maps();
        let found = self.cluster.within(self.reply(), &request, maps.get_metadata_opt(name)).await?;
        Ok(found.and_then(|meta| meta.metadata.resource_version))
    }
    pub(super) async fn list(&self, operation: &str, selector: &str) -> Result<Vec<ConfigMap>> {
        let (request, maps) = (self.request(operation, "list", CONFIG_MAP, ""), self.maps());
        let mut params = ListParams::default().limit(PAGE).labels(selector);
        let mut all = vec![];
        loop {
            let page = self.cluster.within(self.reply(), &request, maps.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
    /// Without what is in them.
    pub(super) async fn metadata(&self, operation: &str, selector: &str) -> Result<Vec<PartialObjectMeta<ConfigMap>>> {
        let (request, maps) = (self.request(operation, "list", CONFIG_MAP, ""), self.maps());
        let mut params = ListParams::default().limit(5 * PAGE).labels(selector);
        let mut all = vec![];
        loop {
            let page = self.cluster.within(self.reply(), &request, maps.list_metadata(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
    /// Its version. [`Kind::Conflict`] if it is there already.
    pub(super) async fn create(&self, operation: &str, object: &ConfigMap) -> Result<Option<String>> {
        let name = object.name_any();
        let (request, maps) = (self.request(operation, "create", CONFIG_MAP, &name), self.maps());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let made = self.cluster.within(self.reply(), &request, maps.create(&params, object)).await.map_err(full)?;
        Ok(made.metadata.resource_version)
    }
    /// Its new version. [`Kind::Conflict`] if it has changed.
    pub(super) async fn patch(&self, operation: &str, name: &str, patch: Vec<Value>) -> Result<Option<String>> {
        let (request, maps) = (self.request(operation, "patch", CONFIG_MAP, name), self.maps());
        let (params, patch) = (params(), parsed(operation, patch)?);
        let patched = self
            .cluster
            .within(self.reply(), &request, maps.patch_metadata(name, &params, &patch))
            .await
            .map_err(full)?;
        Ok(patched.metadata.resource_version)
    }
    /// Gone is gone, whoever did it.
    pub(super) async fn delete(&self, operation: &str, name: &str) -> Result<()> {
        let (request, maps) = (self.request(operation, "delete", CONFIG_MAP, name), self.maps());
        match self.cluster.within(self.reply(), &request, maps.delete(name, &DeleteParams::default())).await {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    pub(super) async fn lock(&self, operation: &str, target: &TargetId) -> Result<Option<Lock>> {
        let name = names::of_target(target);
        let (request, leases) = (self.request(operation, "get", LEASE, &name), self.leases());
        Ok(self.cluster.within(self.reply(), &request, leases.get_opt(&name)).await?.as_ref().map(Lock::of))
    }
    /// Every lock of the journal, by its name.
    pub(super) async fn locks(&self, operation: &str) -> Result<Vec<(String, Lock)>> {
        let (request, leases) = (self.request(operation, "list", LEASE, ""), self.leases());
        let selector = format!("{}={}", names::WHAT, names::LOCK);
        let mut params = ListParams::default().limit(5 * PAGE).labels(&selector);
        let mut all = vec![];
        loop {
            let page = self.cluster.within(self.reply(), &request, leases.list(&params)).await?;
            all.extend(page.items.iter().map(|lease| (lease.name_any(), Lock::of(lease))));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
    /// Takes the lock, if it is as it was read. [`Kind::Conflict`] if somebody was faster.
    pub(super) async fn take(
        &self,
        operation: &str,
        target: &TargetId,
        before: Option<&Lock>,
        taking: Taking<'_>,
    ) -> Result<()> {
        let Taking { epoch, me, who, length } = taking;
        let name = names::of_target(target);
        let bad = |what: &str| Error::new(Kind::Unexpected, operation).with_message(what.to_owned()).without_effect();
        let transitions =
            i32::try_from(epoch).map_err(|_| bad("a Lease counts no further than two thousand million"))?;
        let seconds = i32::try_from(length.as_millis().div_ceil(1_000)).unwrap_or(i32::MAX).max(1);
        let holder = serde_json::to_string(me).map_err(|e| bad("the holder cannot be written").with_source(e))?;
        let now = MicroTime(jiff::Timestamp::now());
        let leases = self.leases();
        let Some(before) = before else {
            let request = self.request(operation, "create", LEASE, &name);
            let labels = [(names::WHAT, names::LOCK.to_owned()), (names::OF_TARGET, names::hash(target.as_str()))];
            let annotations = [(names::HOLDER, holder), (names::TARGET, target.to_string())];
            let owned = |(key, value): (&str, String)| (key.to_owned(), value);
            let object = LeaseObject {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(labels.into_iter().map(owned).collect()),
                    annotations: Some(annotations.into_iter().map(owned).collect()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(who.to_owned()),
                    lease_duration_seconds: Some(seconds),
                    lease_transitions: Some(transitions),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
            self.cluster.within(self.reply(), &request, leases.create(&params, &object)).await.map_err(full)?;
            return Ok(());
        };
        let patch = vec![
            json!({"op": "replace", "path": "/metadata/resourceVersion", "value": before.version}),
            json!({"op": "add", "path": format!("/metadata/annotations/{}", names::HOLDER.replace('/', "~1")), "value": holder}),
            json!({"op": "add", "path": "/spec/holderIdentity", "value": who}),
            json!({"op": "add", "path": "/spec/leaseDurationSeconds", "value": seconds}),
            json!({"op": "add", "path": "/spec/leaseTransitions", "value": transitions}),
            json!({"op": "add", "path": "/spec/acquireTime", "value": now}),
            json!({"op": "add", "path": "/spec/renewTime", "value": now}),
        ];
        self.patch_lease(operation, &name, patch).await
    }
    /// [`Kind::Conflict`] if it is held under another epoch, or by nobody.
    pub(super) async fn renew(&self, operation: &str, target: &TargetId, epoch: u64) -> Result<()> {
        let now = MicroTime(jiff::Timestamp::now());
        let patch = vec![
            json!({"op": "test", "path": "/spec/leaseTransitions", "value": epoch}),
            // Nobody's has none.
            json!({"op": "copy", "from": "/spec/holderIdentity", "path": "/spec/holderIdentity"}),
            json!({"op": "add", "path": "/spec/renewTime", "value": now}),
        ];
        self.patch_lease(operation, &names::of_target(target), patch).await
    }
    /// Frees the lock, if it is still held under this epoch.
    pub(super) async fn free(&self, operation: &str, target: &TargetId, epoch: u64) -> Result<()> {
        let patch = vec![
            json!({"op": "test", "path": "/spec/leaseTransitions", "value": epoch}),
            json!({"op": "remove", "path": "/spec/holderIdentity"}),
        ];
        self.patch_lease(operation, &names::of_target(target), patch).await
    }
    async fn patch_lease(&self, operation: &str, name: &str, patch: Vec<Value>) -> Result<()> {
        let (request, leases) = (self.request(operation, "patch", LEASE, name), self.leases());
        let (params, patch) = (params(), parsed(operation, patch)?);
        self.cluster
            .within(self.reply(), &request, leases.patch_metadata(name, &params, &patch))
            .await
            .map_err(full)?;
        Ok(())
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default().validation_strict() }
}

fn parsed(operation: &str, patch: Vec<Value>) -> Result<Patch<()>> {
    serde_json::from_value(Value::Array(patch))
        .map(Patch::Json)
        .map_err(|e| Error::new(Kind::Unexpected, operation).with_source(e).without_effect())
}

/// A namespace whose quota is used up is a full disk: nothing is wrong with the permissions, and there may be room later.
fn full(e: Error) -> Error {
    if e.kind() == Kind::Denied && e.message().contains("exceeded quota") {
        return Error::new(Kind::Unavailable, e.fault().operation.clone())
            .with_message(format!("the journal's namespace is full: {}; raise its quota, or prune", e.message()))
            .without_effect();
    }
    e
}
