//! Metrics of a workload's pods that a Prometheus server works out, as the runbooks ask for them.
//!
//! Not here: what a number means ([`presets`]), and how a server is asked ([`PrometheusQuery`]).

use rollback_core::{
    Result,
    metric::{MetricSource, PrometheusQuery},
    watch::{Rule, presets},
};
use std::{fmt, sync::Arc};

/// What Kubernetes makes the last part of a pod's name of: no vowels, nothing that looks like another.
const SAFE: &str = "[bcdfghjklmnpqrstvwxz2456789]";

/// The metrics of one workload's pods, by the labels `namespace` and `pod` that Prometheus gives them in a cluster, and by
/// any other. Each is a query for a [`Watch`](rollback_core::watch::Watch) or for
/// [`MetricBack`](rollback_core::verify::MetricBack); over the rule's own window, and no data where there is none.
///
/// | metric | who exports it |
/// |---|---|
/// | [`errors`](Self::errors), [`p95`](Self::p95), [`requests`](Self::requests) | the service: `http_requests_total` with the label `code`, `http_request_duration_seconds`, or by the names that you give |
/// | [`restarts`](Self::restarts), [`crashes`](Self::crashes), [`ready`](Self::ready) | kube-state-metrics |
/// | [`cpu`](Self::cpu), [`memory`](Self::memory) | the kubelet's cAdvisor, the limits of kube-state-metrics |
///
/// Values of labels are escaped, so they may come from anywhere.
///
/// ```no_run
/// use rollback_core::{prelude::*, watch::Watch};
/// use rollback_k8s::PodMetrics;
/// # async fn watch(cluster: rollback_k8s::Cluster, journal: std::sync::Arc<SqliteJournal>) -> Result<()> {
/// let checkout = cluster.deployment("shop", "checkout");
/// let pods = PodMetrics::of_deployment("http://prometheus.monitoring:9090", "shop", "checkout");
/// let mut watch = Watch::of(checkout.clone()).journal(journal.clone());
/// for (rule, metric) in pods.runbook_003()? {
///     watch = watch.rule(rule, metric);
/// }
/// let rollback = Rollback::of(checkout).to(Choose::verified().or_previous()).journal(journal);
/// println!("{}", watch.then_roll_back(rollback).run().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PodMetrics {
    server: String,
    selector: Vec<Matcher>,
    requests: String,
    code: String,
    latency: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Matcher {
    label: String,
    operator: &'static str,
    value: String,
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}\"{}\"", self.label, self.operator, quoted(&self.value))
    }
}

/// As it stands between quotes in PromQL.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A regular expression that matches this text and no other.
fn literally(text: &str) -> String {
    let special = |c: char| "\\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// A server's URL may hold a password.
impl fmt::Debug for PodMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodMetrics").field("selector", &self.selector()).finish_non_exhaustive()
    }
}

impl PodMetrics {
    /// Of everything that a server at this URL scrapes: give it labels.
    pub fn at(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            selector: vec![],
            requests: "http_requests_total".into(),
            code: "code".into(),
            latency: "http_request_duration_seconds".into(),
        }
    }
    /// Of a Deployment's pods, of whatever revision.
    pub fn of_deployment(server: impl Into<String>, namespace: &str, name: &str) -> Self {
        Self::of_pods(server, namespace, format!("{}-{SAFE}{{1,10}}-{SAFE}{{5}}", literally(name)))
    }
    /// Of a StatefulSet's pods.
    pub fn of_stateful_set(server: impl Into<String>, namespace: &str, name: &str) -> Self {
        Self::of_pods(server, namespace, format!("{}-[0-9]+", literally(name)))
    }
    /// Of a DaemonSet's pods.
    pub fn of_daemon_set(server: impl Into<String>, namespace: &str, name: &str) -> Self {
        Self::of_pods(server, namespace, format!("{}-{SAFE}{{5}}", literally(name)))
    }
    fn of_pods(server: impl Into<String>, namespace: &str, pods: String) -> Self {
        Self::at(server).with_label("namespace", namespace).with_label_like("pod", pods)
    }
    /// Only series with this label.
    pub fn with_label(self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.matching(label, "=", value)
    }
    /// Only series of which this label matches a regular expression, all of it.
    pub fn with_label_like(self, label: impl Into<String>, pattern: impl Into<String>) -> Self {
        self.matching(label, "=~", pattern)
    }
    fn matching(mut self, label: impl Into<String>, operator: &'static str, value: impl Into<String>) -> Self {
        self.selector.push(Matcher { label: label.into(), operator, value: value.into() });
        self
    }
    /// The counter of requests, and its label with the status code. Default: `http_requests_total`, `code`. Of Istio:
    /// `istio_requests_total`, `response_code`.
    pub fn with_requests(mut self, counter: impl Into<String>, code: impl Into<String>) -> Self {
        (self.requests, self.code) = (counter.into(), code.into());
        self
    }
    /// The histogram of times to answer, without `_bucket`. Default: `http_request_duration_seconds`.
    pub fn with_latency(mut self, histogram: impl Into<String>) -> Self {
        self.latency = histogram.into();
        self
    }

    fn selector(&self) -> String {
        self.selector_and(&[])
    }
    fn selector_and(&self, more: &[(&str, &'static str, &str)]) -> String {
        let more = more.iter().map(|(label, operator, value)| {
            Matcher { label: (*label).into(), operator, value: (*value).into() }.to_string()
        });
        let all: Vec<String> = self.selector.iter().map(ToString::to_string).chain(more).collect();
        format!("{{{}}}", all.join(","))
    }
    /// How old the newest sample is that the server has of this: one that is not scraped any more is no data soon.
    fn age(&self, series: &str) -> String {
        format!("time() - max(timestamp({series}))")
    }

    /// The share of requests that were answered 5xx.
    ///
    /// # Errors
    /// [`Kind::Invalid`](rollback_core::Kind::Invalid) for a server that is no URL, here and below.
    pub fn errors(&self) -> Result<PrometheusQuery> {
        let (requests, all) = (&self.requests, self.selector());
        let bad = self.selector_and(&[(&self.code, "=~", "5..")]);
        let query = PrometheusQuery::ratio(
            &self.server,
            format!("sum(increase({requests}{bad}[$window])) or vector(0)"),
            format!("sum(increase({requests}{all}[$window]))"),
        )?;
        Ok(query.with_age(self.age(&format!("{requests}{all}"))))
    }
    /// The share of requests that were not answered 5xx.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn availability(&self) -> Result<PrometheusQuery> {
        let (requests, all) = (&self.requests, self.selector());
        let good = self.selector_and(&[(&self.code, "!~", "5..")]);
        let query = PrometheusQuery::ratio(
            &self.server,
            format!("sum(increase({requests}{good}[$window])) or vector(0)"),
            format!("sum(increase({requests}{all}[$window]))"),
        )?;
        Ok(query.with_age(self.age(&format!("{requests}{all}"))))
    }
    /// Requests a second.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn requests(&self) -> Result<PrometheusQuery> {
        let series = format!("{}{}", self.requests, self.selector());
        let query = PrometheusQuery::value(&self.server, format!("sum(rate({series}[$window]))"))?;
        Ok(query.with_age(self.age(&series)))
    }
    /// The time within which 95 % of requests were answered, in seconds.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn p95(&self) -> Result<PrometheusQuery> {
        self.latency_quantile(0.95)
    }
    /// The time within which this share of requests was answered, in seconds.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn latency_quantile(&self, quantile: f64) -> Result<PrometheusQuery> {
        let (of, selector) = (&self.latency, self.selector());
        let query = PrometheusQuery::value(
            &self.server,
            format!("histogram_quantile({quantile}, sum by (le) (rate({of}_bucket{selector}[$window])))"),
        )?;
        Ok(query
            .with_count(format!("sum(increase({of}_count{selector}[$window]))"))
            .with_age(self.age(&format!("{of}_count{selector}"))))
    }
    /// How many times containers were started anew in the window.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn restarts(&self) -> Result<PrometheusQuery> {
        let series = format!("kube_pod_container_status_restarts_total{}", self.selector());
        let query = PrometheusQuery::value(&self.server, format!("sum(increase({series}[$window]))"))?;
        Ok(query.with_age(self.age(&series)))
    }
    /// The share of pods of which a container waits in CrashLoopBackOff.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn crashes(&self) -> Result<PrometheusQuery> {
        let all = format!("kube_pod_info{}", self.selector());
        let waiting = self.selector_and(&[("reason", "=", "CrashLoopBackOff")]);
        let bad = format!("count(count by (pod) (kube_pod_container_status_waiting_reason{waiting} > 0))");
        let query = PrometheusQuery::ratio(&self.server, format!("{bad} or vector(0)"), format!("count({all})"))?;
        Ok(query.with_age(self.age(&all)))
    }
    /// How many pods are ready.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn ready(&self) -> Result<PrometheusQuery> {
        let series = format!("kube_pod_status_ready{}", self.selector_and(&[("condition", "=", "true")]));
        let query = PrometheusQuery::value(&self.server, format!("sum({series})"))?;
        Ok(query.with_age(self.age(&series)))
    }
    /// The share of its CPU limits that is used.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn cpu(&self) -> Result<PrometheusQuery> {
        let used = format!("container_cpu_usage_seconds_total{}", self.of_containers());
        self.share_of_limit(format!("rate({used}[$window])"), &used, "cpu")
    }
    /// The share of its memory limits that is used.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn memory(&self) -> Result<PrometheusQuery> {
        let used = format!("container_memory_working_set_bytes{}", self.of_containers());
        self.share_of_limit(used.clone(), &used, "memory")
    }
    /// Of containers, without what stands for the pod as a whole.
    fn of_containers(&self) -> String {
        self.selector_and(&[("container", "!=", ""), ("container", "!=", "POD")])
    }
    fn share_of_limit(&self, used: String, series: &str, resource: &str) -> Result<PrometheusQuery> {
        let limits = format!("kube_pod_container_resource_limits{}", self.selector_and(&[("resource", "=", resource)]));
        let query = PrometheusQuery::value(&self.server, format!("sum({used}) / sum({limits})"))?;
        Ok(query.with_age(self.age(series)))
    }

    /// The rules of runbook 003 with their metrics: more than 5 % errors, p95 more than twice its baseline, more than half of
    /// the pods crashing. [`presets::RUNBOOK_003_WATCH`] says how often and for how long.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn runbook_003(&self) -> Result<Vec<(Rule, Arc<dyn MetricSource>)>> {
        Ok(vec![
            (presets::runbook_003_errors(), Arc::new(self.errors()?)),
            (presets::runbook_003_p95(), Arc::new(self.p95()?)),
            (presets::runbook_003_crashes(), Arc::new(self.crashes()?)),
        ])
    }
    /// The rules of runbook 004 that roll back, with their metrics: more than 5 % errors, p95 more than three times its
    /// baseline, less than 99 % available. Its milder bands are in [`presets`].
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn runbook_004(&self) -> Result<Vec<(Rule, Arc<dyn MetricSource>)>> {
        let worst = |bands: presets::Bands| {
            let mut rules = bands.rules().filter(|(then, _)| *then == presets::Then::RollBack).map(|(_, rule)| rule);
            rules.next()
        };
        let metrics: [(Option<Rule>, Arc<dyn MetricSource>); 3] = [
            (worst(presets::runbook_004_errors()), Arc::new(self.errors()?)),
            (worst(presets::runbook_004_p95()), Arc::new(self.p95()?)),
            (worst(presets::runbook_004_availability()), Arc::new(self.availability()?)),
        ];
        Ok(metrics.into_iter().filter_map(|(rule, metric)| rule.map(|rule| (rule, metric))).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SERVER: &str = "http://127.0.0.1:9090";

    #[test]
    fn labels_are_escaped() {
        let odd = PodMetrics::at(SERVER).with_label("app", "a\"} or up{x=\"\\\n").with_label_like("pod", r"a\.b");
        assert_eq!(odd.selector(), r#"{app="a\"} or up{x=\"\\\n",pod=~"a\\.b"}"#);
        let dotted = PodMetrics::of_stateful_set(SERVER, "shop", "cart.v2");
        assert_eq!(dotted.selector(), r#"{namespace="shop",pod=~"cart\\.v2-[0-9]+"}"#);
    }

    #[test]
    fn the_pods_of_one_workload_and_no_other() {
        let queries = PodMetrics::of_deployment(SERVER, "shop", "checkout-api");
        let letters = "[bcdfghjklmnpqrstvwxz2456789]";
        let pod = format!(r"checkout-api-{letters}{{1,10}}-{letters}{{5}}");
        assert_eq!(queries.selector(), format!(r#"{{namespace="shop",pod=~"{pod}"}}"#));
    }

    #[test]
    fn every_rule_can_be_watched() {
        let pods = PodMetrics::of_deployment(SERVER, "shop", "checkout");
        let names = |rules: Vec<(Rule, Arc<dyn MetricSource>)>| -> Vec<String> {
            rules.into_iter().map(|(rule, _)| rule.metric).collect()
        };
        assert_eq!(names(pods.runbook_003().unwrap()), ["error rate", "p95 latency", "crash rate"]);
        assert_eq!(names(pods.runbook_004().unwrap()).len(), 3);
        for query in [pods.requests(), pods.restarts(), pods.ready(), pods.cpu(), pods.memory(), pods.availability()] {
            assert!(query.is_ok());
        }
        let secret = PodMetrics::at("http://me:hunter2@127.0.0.1:9090");
        assert!(!format!("{secret:?}{:?}", secret.errors().unwrap()).contains("hunter2"));
        assert!(PodMetrics::at("no url").errors().is_err());
    }
}
