//! What makes a Canary's rollback webhook answer 200.

use super::canary::Canary;
use crate::{Cluster, error::Request, kinds::SERVICE_PROXY};
use async_trait::async_trait;
use kube::{api::PostParams, core::Request as Path};
use rollback_core::{Error, Kind, Result};
use serde_json::json;
use std::fmt::Debug;

/// Makes the rollback webhook of a Canary answer 200, and stop it.
///
/// Flagger calls its webhooks of type `rollback` at each tick of a run, and ends the run as failed when one answers 200.
///
/// # Contract
/// Both are idempotent: opening what is open is no error.
///
/// ```
/// use async_trait::async_trait;
/// use rollback_core::Result;
/// use rollback_k8s::RollbackGate;
///
/// /// A gate of our own: the webhook answers 200 while a file is there.
/// #[derive(Debug)]
/// struct File(std::path::PathBuf);
/// #[async_trait]
/// impl RollbackGate for File {
///     async fn open(&self, _namespace: &str, _canary: &str) -> Result<()> {
///         std::fs::write(&self.0, "").map_err(|e| rollback_core::Error::from_io("open the gate", e))
///     }
///     async fn close(&self, _namespace: &str, _canary: &str) -> Result<()> {
///         match std::fs::remove_file(&self.0) {
///             Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
///                 Err(rollback_core::Error::from_io("close the gate", e))
///             }
///             _ => Ok(()),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait RollbackGate: Debug + Send + Sync + 'static {
    /// From now on the webhook answers 200 for this Canary.
    ///
    /// # Errors
    /// As what answers the webhook.
    async fn open(&self, namespace: &str, canary: &str) -> Result<()>;
    /// From now on it does not.
    ///
    /// # Errors
    /// As what answers the webhook.
    async fn close(&self, namespace: &str, canary: &str) -> Result<()>;
}

/// The gate of Flagger's load tester: its webhook `/rollback/check` answers 200 from a POST to `/rollback/open` until one to
/// `/rollback/close`. It is reached through the API server, so from outside of the cluster too.
///
/// # Permissions
/// `create` on `services/proxy` in its namespace.
///
/// ```no_run
/// # fn gate(cluster: &rollback_k8s::Cluster) {
/// use rollback_k8s::LoadTesterGate;
/// let checkout = cluster
///     .flagger_canary("shop", "checkout")
///     .with_gate(LoadTesterGate::new(cluster, "flagger-system", "flagger-loadtester", 80));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LoadTesterGate {
    cluster: Cluster,
    namespace: String,
    service: String,
    port: u16,
}

impl LoadTesterGate {
    /// The load tester behind this port of this Service. No request.
    pub fn new(cluster: &Cluster, namespace: impl Into<String>, service: impl Into<String>, port: u16) -> Self {
        Self { cluster: cluster.clone(), namespace: namespace.into(), service: service.into(), port }
    }

    /// Where the Canary's webhook is one of a load tester in this cluster.
    pub(super) fn of(cluster: &Cluster, canary: &Canary, namespace: &str) -> Option<Self> {
        canary.webhooks.iter().find_map(|url| {
            let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
            if path != "rollback/check" {
                return None;
            }
            let (host, port) = match host.split_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (host, 80),
            };
            let mut names = host.split('.');
            let service = names.next()?;
            let namespace = names.next().unwrap_or(namespace);
            // Not an address, and nothing outside of the cluster.
            let inside = !service.starts_with(|c: char| c.is_ascii_digit()) && names.next().is_none_or(|n| n == "svc");
            inside.then(|| Self::new(cluster, namespace, service, port))
        })
    }

    async fn post(&self, operation: &str, to: &str, namespace: &str, canary: &str) -> Result<()> {
        let path = format!(
            "/api/v1/namespaces/{}/services/{}:{}/proxy/rollback/{to}",
            self.namespace, self.service, self.port
        );
        let invalid = |e: String| Error::new(Kind::Invalid, operation).with_message(e).without_effect();
        let body = json!({"name": canary, "namespace": namespace}).to_string().into_bytes();
        let request = Path::new(path).create(&PostParams::default(), body).map_err(|e| invalid(e.to_string()))?;
        let asked = Request {
            operation,
            verb: "create",
            kind: SERVICE_PROXY,
            namespace: Some(&self.namespace),
            name: &self.service,
        };
        let answer = self.cluster.client().request_text(request);
        self.cluster.ask(self.cluster.reply_within(), &asked, answer).await.map(drop)
    }
}

#[async_trait]
impl RollbackGate for LoadTesterGate {
    async fn open(&self, namespace: &str, canary: &str) -> Result<()> {
        self.post("open the gate of the rollback webhook", "open", namespace, canary).await
    }
    async fn close(&self, namespace: &str, canary: &str) -> Result<()> {
        self.post("close the gate of the rollback webhook", "close", namespace, canary).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ClusterOptions;
    use kube::{Client, Config};

    #[tokio::test]
    async fn a_load_tester_is_known_by_its_webhook() {
        let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let cluster = Cluster::unreachable(client, ClusterOptions::default());
        let canary = |url: &str| {
            let object = json!({"metadata": {"name": "web"}, "spec": {
                "targetRef": {"kind": "Deployment", "name": "web"},
                "analysis": {"webhooks": [{"type": "rollout", "url": "http://other.test/"},
                    {"type": "rollback", "url": url}]}}});
            Canary::of(serde_json::from_value(object).unwrap()).unwrap()
        };
        for (url, is) in [
            ("http://tester.test/rollback/check", Some(("test", "tester", 80))),
            ("http://tester.test.svc.cluster.local:8080/rollback/check", Some(("test", "tester", 8080))),
            ("http://tester/rollback/check", Some(("shop", "tester", 80))),
            ("http://tester.test/gate/check", None),
            ("http://10.0.0.1/rollback/check", None),
            ("http://gate.example.org/rollback/check", None),
            ("https://tester.test/rollback/check", None),
        ] {
            let gate = LoadTesterGate::of(&cluster, &canary(url), "shop");
            let found = gate.as_ref().map(|gate| (gate.namespace.as_str(), gate.service.as_str(), gate.port));
            assert_eq!(found, is, "{url}");
        }
    }
}
