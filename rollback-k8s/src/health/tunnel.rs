//! Any check, through the API server's port-forward.

use crate::{
    connect::Cluster,
    error::Request,
    kinds::POD_PORT_FORWARD,
    verify::{OwnPod, PodChecks},
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use rollback_core::{
    Context, Error, Evidence, Finding, Health, HealthCheck, Kind, PartId, Result, Severity, redact::shortened,
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// What is to be done where nobody says at which port to ask.
const NO_PORT: &str = "declares no port: name the one that the check is to ask at";
/// How long what the node says of a broken connection is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A check of each part's addresses, with each pod reached as `kubectl port-forward` reaches it: from where the pods' own
/// addresses cannot be reached. What the check expects, and how it judges, is its own:
/// `Http::at_each_part` and its like.
///
/// For each pod that is not being deleted a port of 127.0.0.1 is opened while the check runs. Unknown where a pod names no
/// port, where port-forwarding is not allowed, or where the way through API server and node broke; a port that nothing
/// listens on in the pod is the service's fault, and the check says so.
///
/// # Permissions
/// `{apiGroups: [""], resources: ["pods/portforward"], verbs: ["get", "create"]}`
///
/// ```no_run
/// use rollback_core::{health::Http, seconds};
/// # fn of(checkout: &rollback_k8s::Deployment) -> rollback_core::Result<()> {
/// let healthy = checkout.checks().through_api(Http::at_each_part("/health")?.expect_within(seconds(1))).at_port(8080);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ThroughApi {
    checks: PodChecks,
    check: Arc<dyn HealthCheck>,
    port: Option<u16>,
}

impl ThroughApi {
    pub(crate) fn new(checks: PodChecks, check: Arc<dyn HealthCheck>) -> Self {
        Self { checks, check, port: None }
    }
    /// At this port of each pod. Default: the first port that a container declares.
    pub fn at_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    async fn open(&self, pods: &[&OwnPod]) -> Result<Vec<(PartId, Tunnel)>> {
        let open = pods.iter().map(|pod| async {
            let port = self.port.or(pod.port).ok_or_else(|| {
                let text = format!("pod {} {NO_PORT}", pod.state.name);
                Error::new(Kind::Invalid, "forward a port").with_message(text).without_effect()
            })?;
            let PodChecks { cluster, namespace, .. } = &self.checks;
            let tunnel = Tunnel::open(cluster.clone(), namespace.clone(), pod.state.name.clone(), port).await?;
            Ok((pod.part.clone(), tunnel))
        });
        futures::future::try_join_all(open).await
    }
}

#[async_trait]
impl HealthCheck for ThroughApi {
    fn name(&self) -> String {
        format!("{}, through the API server", self.check.name())
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        let undeclared = self.port.is_none() && self.checks.source.port_of(&context.wanted).await? == Some(None);
        let text = || format!("{} cannot tell how {} is: it {NO_PORT}", self.name(), context.wanted);
        Ok(undeclared.then(|| Finding::new(Severity::Blocks, "port", text())).into_iter().collect())
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let own = self.checks.source.own().await?;
        let pods: Vec<_> = own.asked(context).filter(|pod| !pod.state.terminating).collect();
        if pods.is_empty() {
            return Ok(Health::unknown(self.name(), "there is no pod"));
        }
        let tunnels = match self.open(&pods).await {
            Ok(tunnels) => tunnels,
            Err(e) => return Ok(Health::unknown(self.name(), e.to_string())),
        };
        let mut addresses: BTreeMap<&PartId, Vec<String>> = BTreeMap::new();
        for (part, tunnel) in &tunnels {
            addresses.entry(part).or_default().push(tunnel.local.to_string());
        }
        let mut context = context.clone();
        for (part, state) in context.now.parts.iter_mut() {
            state.addresses = addresses.remove(part).unwrap_or_default();
        }
        let health = self.check.check(&context).await?;
        let names: Vec<_> = tunnels.iter().map(|(_, tunnel)| (tunnel.local.to_string(), tunnel.to.clone())).collect();
        let health = renamed(health, &names);
        if !matches!(health, Health::Unhealthy(_)) {
            return Ok(health);
        }
        // Whether the service or the way to it broke, only the node knows.
        let broken = futures::future::join_all(tunnels.into_iter().map(|(_, tunnel)| tunnel.broken())).await;
        let broken: Vec<_> = broken.into_iter().flatten().collect();
        if broken.is_empty() {
            return Ok(health);
        }
        let mut evidence: Vec<_> =
            broken.into_iter().map(|(to, why)| Evidence::new(format!("the way to {to}"), why)).collect();
        evidence.extend(health.evidence().iter().cloned());
        Ok(Health::Unknown(evidence))
    }
}

/// Evidence with pods instead of ports of this machine, which mean nothing afterwards.
fn renamed(health: Health, names: &[(String, String)]) -> Health {
    let plain = |text: &str| names.iter().fold(text.to_owned(), |text, (local, pod)| text.replace(local, pod));
    let evidence = |all: Vec<Evidence>| all.iter().map(|e| Evidence::new(plain(&e.what), plain(&e.seen))).collect();
    match health {
        Health::Healthy(all) => Health::Healthy(evidence(all)),
        Health::Unhealthy(all) => Health::Unhealthy(evidence(all)),
        Health::Unknown(all) => Health::Unknown(evidence(all)),
    }
}

/// A port of this machine that leads to a port of a pod, while it lives.
#[derive(Debug)]
struct Tunnel {
    local: SocketAddr,
    /// `pod/checkout-5d4:8080`
    to: String,
    /// What went wrong on the way, but for a port that nothing listens on.
    errors: Arc<Mutex<Vec<String>>>,
    stop: watch::Sender<bool>,
    /// Ends when all connections have. Dropped with all of them.
    tasks: JoinSet<()>,
}

impl Tunnel {
    /// The first connection is made at once, so that what is not allowed is known before anything is judged.
    async fn open(cluster: Cluster, namespace: String, pod: String, port: u16) -> Result<Self> {
        let to = format!("pod/{pod}:{port}");
        let forward = move || {
            let (cluster, namespace, pod) = (cluster.clone(), namespace.clone(), pod.clone());
            async move {
                let request = Request {
                    operation: "forward a port",
                    verb: "get",
                    kind: POD_PORT_FORWARD,
                    namespace: Some(&namespace),
                    name: &pod,
                };
                let api: Api<Pod> = Api::namespaced(cluster.client().clone(), &namespace);
                cluster.within(cluster.reply_within(), &request, api.portforward(&pod, &[port])).await
            }
        };
        let first = forward().await?;
        let bind = |e| Error::from_io("open a port of this machine", e).without_effect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        let errors: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stop, mut stopped) = watch::channel(false);
        let noted = errors.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut connections, mut next) = (JoinSet::new(), Some(first));
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stopped.changed() => break,
                };
                let Ok((here, _)) = accepted else { continue };
                let forwarded = match next.take() {
                    Some(first) => Ok(first),
                    None => forward().await,
                };
                match forwarded {
                    Ok(there) => drop(connections.spawn(carry(here, there, port, noted.clone()))),
                    Err(e) => note(&noted, e.to_string()),
                }
            }
            while connections.join_next().await.is_some() {}
        });
        Ok(Self { local, to, errors, stop, tasks })
    }
    /// What went wrong on the way, once its connections have ended, or have been given the time to.
    async fn broken(mut self) -> Option<(String, String)> {
        let _ = self.stop.send(true);
        let _ = timeout(LAST_WORDS, self.tasks.join_next()).await;
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().find(|why| is_the_way(why)).map(|why| (self.to.clone(), shortened(why, 200)))
    }
}

/// A port that nothing listens on, or a service that hangs up, is the service's fault.
fn is_the_way(why: &str) -> bool {
    !["connection refused", "connection reset", "broken pipe"].iter().any(|sign| why.contains(sign))
}

fn note(errors: &Mutex<Vec<String>>, why: String) {
    errors.lock().unwrap_or_else(PoisonError::into_inner).push(why);
}

async fn carry(mut here: TcpStream, mut there: Portforwarder, port: u16, errors: Arc<Mutex<Vec<String>>>) {
    let Some(mut stream) = there.take_stream(port) else { return };
    let said = there.take_error(port);
    // Either end may hang up: that is for the check to judge.
    let _ = tokio::io::copy_bidirectional(&mut here, &mut stream).await;
    drop((here, stream));
    if let Some(said) = said
        && let Ok(Some(why)) = timeout(LAST_WORDS, said).await
    {
        note(&errors, why);
    }
    there.abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_names_pods() {
        let names = [("127.0.0.1:4711".to_owned(), "pod/a:8080".to_owned())];
        let health = renamed(Health::healthy("GET http://127.0.0.1:4711/health", "200"), &names);
        assert_eq!(health.evidence()[0].what, "GET http://pod/a:8080/health");
    }

    #[test]
    fn a_port_that_nothing_listens_on_is_the_services_fault() {
        assert!(!is_the_way("failed to execute portforward: dial tcp4 127.0.0.1:81: connect: connection refused"));
        assert!(is_the_way("error dialing backend: dial tcp 10.0.0.1:10250: i/o timeout"));
    }
}
