//! Did the rollback land, as the API server tells it: which pods are left, what a Service sends to, restarts, warnings, logs.
//!
//! Not here: what core's verifiers tell of any target ([`Runs`](rollback_core::verify::Runs),
//! [`InstancesReady`](rollback_core::verify::InstancesReady)), and checks of the service itself, which are in `health`.

mod endpoints;
mod own;
mod pods;
mod restarts;
mod usage;
mod warnings;

pub use endpoints::EndpointsWanted;
pub(crate) use own::{Own, OwnPod, PodSource, Sides, port_in};
pub use pods::BadPodsGone;
pub use restarts::RestartsSteady;
pub use usage::WithinLimits;
pub use warnings::NoNewWarnings;

use crate::{
    connect::Cluster,
    error::Request,
    health::{ExecCheck, ThroughApi},
    kinds::{NAMESPACE, ObjectKind},
    logs::{self, LogOf},
};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use rollback_core::{
    Context, Error, Evidence, HealthCheck, Kind, Result, Verdict,
    redact::{shortened, without_secrets},
    verify::LogScan,
};
use std::{sync::Arc, time::Duration};

/// Logs that are read at the same time.
const AT_ONCE: usize = 8;
/// Bytes of a container's log that are looked through.
const LOG: usize = 4 << 20;
/// Lines of evidence of one sample: a workload may have a thousand pods.
const SHOWN: usize = 8;

/// Verifiers and health checks that ask the API server about the pods of a target: `checks()` of a target gives it. Cheap
/// to clone.
///
/// All are three-valued: what is not allowed, and what is not answered, is unknown, with the reason; it never counts as
/// recovery. They only read (a program run by [`exec`](PodChecks::exec) may do more: it is yours).
///
/// # Permissions
/// All of them list pods and read the target itself, with the target's own rules. Besides:
///
/// | check | rules |
/// |---|---|
/// | [`bad_pods_gone`](PodChecks::bad_pods_gone), [`restarts_steady`](PodChecks::restarts_steady) | none |
/// | [`endpoints_of`](PodChecks::endpoints_of) | `{apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list"]}` |
/// | [`no_new_warnings`](PodChecks::no_new_warnings) | `{apiGroups: [""], resources: ["events"], verbs: ["list"]}` |
/// | [`within_limits`](PodChecks::within_limits) | `{apiGroups: ["metrics.k8s.io"], resources: ["pods"], verbs: ["list"]}` |
/// | [`log_scan`](PodChecks::log_scan) | `{apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}` |
/// | [`exec`](PodChecks::exec) | `{apiGroups: [""], resources: ["pods/exec"], verbs: ["get", "create"]}` |
/// | [`through_api`](PodChecks::through_api) | `{apiGroups: [""], resources: ["pods/portforward"], verbs: ["get", "create"]}` |
///
/// [`restarts_steady`](PodChecks::restarts_steady) and [`no_new_warnings`](PodChecks::no_new_warnings) also ask `/version`
/// for the server's time, which every user may by default.
///
/// `get` is what servers up to 1.34 ask for, `create` what later ones do.
///
/// ```no_run
/// use rollback_core::prelude::*;
/// # async fn roll_back(checkout: rollback_k8s::Deployment) -> rollback_core::Result<()> {
/// let checks = checkout.checks();
/// let recovered = Runs::wanted()
///     .and(checks.bad_pods_gone())
///     .and(checks.endpoints_of("checkout"))
///     .and(checks.restarts_steady())
///     .and(checks.log_scan("panicked at").pattern("FATAL"));
/// let rollback = Rollback::of(checkout).because("it answers 500").to(Choose::verified().or_previous());
/// let report = rollback.recovered_when(recovered).run().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PodChecks {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    /// As names of checks say it: `deployment/checkout`.
    pub(crate) of: String,
    pub(crate) source: Arc<dyn PodSource>,
}

impl PodChecks {
    pub(crate) fn new(cluster: &Cluster, namespace: &str, of: String, source: impl PodSource) -> Self {
        Self { cluster: cluster.clone(), namespace: namespace.into(), of, source: Arc::new(source) }
    }

    /// No pod of another release is left in the parts that serve; one that is being deleted counts too: it answers for
    /// seconds after `kubectl rollout status` said done.
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) {
    /// let gone = checkout.checks().bad_pods_gone();
    /// # }
    /// ```
    pub fn bad_pods_gone(&self) -> BadPodsGone {
        BadPodsGone::new(self.clone())
    }
    /// A Service of the same namespace sends to all ready pods of the wanted release, and to nothing else.
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) {
    /// let traffic = checkout.checks().endpoints_of("checkout");
    /// # }
    /// ```
    pub fn endpoints_of(&self, service: impl Into<String>) -> EndpointsWanted {
        EndpointsWanted::new(self.clone(), service.into())
    }
    /// No container of the wanted release has restarted for a while.
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) {
    /// let steady = checkout.checks().restarts_steady().with_quiet(rollback_core::seconds(30));
    /// # }
    /// ```
    pub fn restarts_steady(&self) -> RestartsSteady {
        RestartsSteady::new(self.clone())
    }
    /// No warning of the workload and its pods of the wanted release for a while.
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) {
    /// let calm = checkout.checks().no_new_warnings().ignoring("FailedGetResourceMetric");
    /// # }
    /// ```
    pub fn no_new_warnings(&self) -> NoNewWarnings {
        NoNewWarnings::new(self.clone())
    }
    /// No container of the wanted release uses more than a share of its limits, as a metrics server tells it.
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) {
    /// let room = checkout.checks().within_limits().with_memory(0.8).with_cpu(1.0);
    /// # }
    /// ```
    pub fn within_limits(&self) -> WithinLimits {
        WithinLimits::new(self.clone())
    }
    /// No container of the wanted release has logged such a line since the last write of the run, also not one that has
    /// restarted since. Looks through the last 4 MiB of each log; where there is more, it is unknown.
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) {
    /// let calm = checkout.checks().log_scan("ERROR").pattern("panicked at").allowing(2);
    /// # }
    /// ```
    pub fn log_scan(&self, pattern: impl Into<String>) -> LogScan {
        let checks = self.clone();
        LogScan::with(format!("of the pods of {}", self.of), pattern, move |context| {
            let checks = checks.clone();
            async move { checks.lines(&context).await }
        })
    }
    /// Healthy if this program, run in each pod, ends with 0. See [`ExecCheck`].
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) -> rollback_core::Result<()> {
    /// let alive = checkout.checks().exec(["/bin/smoke", "--quick"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::Invalid`] if there is no program.
    pub fn exec(&self, argv: impl IntoIterator<Item = impl Into<String>>) -> Result<ExecCheck> {
        ExecCheck::new(self.clone(), argv.into_iter().map(Into::into).collect())
    }
    /// Another check, with each pod reached through the API server's port-forward: from where the pods' own addresses
    /// cannot be reached. See [`ThroughApi`].
    ///
    /// ```no_run
    /// # fn of(checkout: &rollback_k8s::Deployment) -> rollback_core::Result<()> {
    /// let healthy = checkout.checks().through_api(rollback_core::health::Http::at_each_part("/health")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn through_api(&self, check: impl HealthCheck) -> ThroughApi {
        ThroughApi::new(self.clone(), Arc::new(check))
    }

    /// What the containers of the wanted release logged since the last write.
    async fn lines(&self, context: &Context) -> Result<Vec<String>> {
        let own = self.source.own().await?;
        let pods: Vec<_> = own.wanted(context).filter(|pod| !pod.state.terminating).collect();
        if pods.is_empty() {
            return Err(unclear("there is no pod of the wanted release"));
        }
        let containers = pods.iter().flat_map(|pod| {
            let restarted = |name: &str| pod.statuses().any(|status| status.name == name && status.restart_count > 0);
            let runs = move |name: String| {
                let before = restarted(&name).then(|| (name.clone(), true));
                before.into_iter().chain([(name, false)])
            };
            let names = pod.pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone());
            names.flat_map(runs).map(|run| (pod.state.name.as_str(), run))
        });
        let read = containers.map(|(pod, (container, previous))| async move {
            let of = LogOf {
                namespace: &self.namespace,
                pod,
                container: &container,
                previous,
                since: Some(context.since),
                lines: None,
                bytes: LOG,
                time: context.within,
            };
            match logs::read(&self.cluster, of).await {
                // What ran before the restart may be cleaned away.
                Err(e) if previous && matches!(e.kind(), Kind::Invalid | Kind::NotFound) => Ok(String::new()),
                Err(e) => Err(e),
                Ok(log) if log.cut => Err(unclear(format!("{pod} has logged more than {LOG} bytes since"))),
                Ok(log) => match log.broken {
                    Some(why) => Err(unclear(format!("the log of {pod}: {why}"))),
                    None => Ok(log.text),
                },
            }
        });
        let mut read = stream::iter(read.collect::<Vec<_>>()).buffered(AT_ONCE);
        let mut lines = vec![];
        while let Some(text) = read.next().await {
            lines.extend(text?.lines().map(str::to_owned));
        }
        Ok(lines)
    }

    /// What time it is, by the API server's clock: what it and the nodes date is compared with that, not with ours.
    async fn now(&self) -> Result<Timestamp> {
        const VERSION: ObjectKind = ObjectKind { kind: "Version", plural: "version", ..NAMESPACE };
        let request = Request { operation: "ask for the time", verb: "get", kind: VERSION, namespace: None, name: "" };
        let ask = http::Request::get("/version").body(kube::client::Body::empty());
        let ask = ask.map_err(|e| unclear("the question for the time cannot be put").with_source(e))?;
        let answer = self.cluster.ask(self.cluster.reply_within(), &request, self.cluster.client().send(ask)).await?;
        let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let date = date.and_then(|date| Timestamp::try_from(date).ok());
        date.ok_or_else(|| unclear("the API server does not say what time it is"))
    }
    /// Since when something counts that must not happen for so long.
    async fn cutoff(&self, quiet: Duration, context: &Context) -> Result<Timestamp> {
        let back = quiet.min(context.since);
        Ok(self.now().await?.checked_sub(back).unwrap_or(Timestamp::MIN))
    }
}

fn unclear(why: impl Into<String>) -> Error {
    Error::new(Kind::Unavailable, "verify").with_message(why).without_effect()
}

/// What could not be found out, as a sample.
fn unknown(what: &str, why: &Error) -> Verdict {
    Verdict::Unknown(vec![Evidence::new(what, why.to_string())])
}

/// Lines of evidence, so many of them, short and without secrets.
fn shown(what: &str, lines: Vec<String>) -> Vec<Evidence> {
    let more = lines.len().saturating_sub(SHOWN);
    let mut evidence: Vec<_> = lines
        .into_iter()
        .take(SHOWN)
        .map(|line| Evidence::new(what, shortened(&without_secrets(&line), 200)))
        .collect();
    if more > 0 {
        evidence.push(Evidence::new(what, format!("{more} more")));
    }
    evidence
}

/// What was seen in a time that must be quiet: too short a look tells nothing yet.
fn quiet(what: &str, seen: Vec<String>, allowed: usize, quiet: Duration, context: &Context) -> Verdict {
    if seen.len() > allowed {
        return Verdict::Fails(shown(what, seen));
    }
    let looked = quiet.min(context.since);
    let mut evidence = vec![Evidence::new(what, format!("{} in the last {looked:?}, {allowed} allowed", seen.len()))];
    evidence.extend(shown(what, seen));
    if context.since < quiet {
        let since = format!("the last write was {:?} ago, and it must be quiet for {quiet:?}", context.since);
        evidence.push(Evidence::new(what, since));
        return Verdict::Unknown(evidence);
    }
    Verdict::Holds(evidence)
}
