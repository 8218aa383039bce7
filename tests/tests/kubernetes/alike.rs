//! What verifiers and evidence tell of any workload, before it goes back and after; and targets of a service account that
//! has no more than some rights.

use crate::{
    evidence::{Bundle, ample},
    workloads::until,
};
use rollback_core::{Context, Look, ReleaseId, Report, Target, Verdict, Verifier, seconds};
use rollback_k8s::{Cluster, ClusterOptions, PodChecks};
use rollback_tests::bed::kubernetes::Namespace;

/// A right: group, resource, verbs.
pub(crate) type Rule<'a> = (&'a str, &'a str, &'a [&'a str]);

/// What evidence needs besides the rights of its target.
pub(crate) const EVIDENCE: [Rule<'static>; 7] = [
    ("", "pods/log", &["get"]),
    ("", "events", &["list"]),
    ("", "services", &["list"]),
    ("", "configmaps", &["get", "list"]),
    ("networking.k8s.io", "ingresses", &["list"]),
    ("gateway.networking.k8s.io", "httproutes", &["list"]),
    ("networking.istio.io", "virtualservices", &["list"]),
];

/// What findings need besides the rights of a target, where it sets a Deployment's release.
pub(crate) const FINDINGS: [Rule<'static>; 5] = [
    ("", "configmaps", &["get"]),
    ("", "secrets", &["get"]),
    ("policy", "poddisruptionbudgets", &["list"]),
    ("autoscaling", "horizontalpodautoscalers", &["list"]),
    ("", "nodes", &["list"]),
];
/// That somebody steers it is found out by these.
pub(crate) const STEERED: [Rule<'static>; 2] =
    [("flagger.app", "canaries", &["list"]), ("argoproj.io", "rollouts", &["list"])];

/// Nothing was left open beforehand.
pub(crate) fn all_was_known(report: &Report) {
    let open: Vec<&str> = report
        .findings()
        .iter()
        .map(|finding| finding.text.as_str())
        .filter(|text| text.contains("not known"))
        .collect();
    assert!(open.is_empty(), "{open:#?}");
}

/// A target as a service account of this namespace sees it that has these rights there, once the API server knows of them.
pub(crate) async fn with_rights<T: Target>(
    own: &Namespace,
    name: &str,
    rules: &[Rule<'_>],
    target: impl Fn(&Cluster) -> T,
) -> T {
    let config = own.account(name, rules).await;
    let look = || async {
        let client = kube::Client::try_from(config.clone()).ok()?;
        let cluster = Cluster::from_client(client, ClusterOptions::default()).await.ok()?;
        let target = target(&cluster);
        target.observe(Look::full()).await.ok()?;
        Some(target)
    };
    until("the account may look", look).await.0
}

/// A target that is to go from one release to the other.
pub(crate) struct Alike<'a> {
    pub(crate) target: &'a dyn Target,
    pub(crate) checks: PodChecks,
    pub(crate) bad: ReleaseId,
    pub(crate) good: ReleaseId,
}

impl Alike<'_> {
    async fn becomes(&self, verifier: &dyn Verifier, is: &str) {
        let look = || async {
            let seen = self.target.observe(Look::full()).await.ok()?;
            let context = Context::new(self.target.id().clone(), self.bad.clone(), self.good.clone(), seen);
            let word = match verifier.verify(&context.with_since(seconds(3600))).await.ok()? {
                Verdict::Holds(_) => "holds",
                Verdict::Fails(_) => "fails",
                Verdict::Unknown(_) => "unknown",
            };
            (word == is).then_some(())
        };
        until(&format!("{}: {is}", verifier.name()), look).await;
    }
    /// Its bad pods are seen, and saved.
    pub(crate) async fn before(&self) -> Bundle {
        self.becomes(&self.checks.bad_pods_gone(), "fails").await;
        let bundle = Bundle::of(self.target, ample()).await;
        for kind in ["k8s-events/1", "k8s-pods/1", "k8s-workload/1", "k8s-log/1", "k8s-revisions/1"] {
            assert!(!bundle.text(kind).is_empty(), "{kind} is not in {:?}", bundle.kinds());
        }
        // There is no metrics server on the bed.
        let missing = bundle.text("k8s-missing/1");
        assert!(missing.lines().all(|line| line.contains("metrics.k8s.io")), "{missing}");
        bundle
    }
    /// None of them is left, and those that are there fare well.
    pub(crate) async fn after(&self) {
        let (gone, log) = (self.checks.bad_pods_gone(), self.checks.log_scan("nobody logs this"));
        let steady = self.checks.restarts_steady().with_quiet(seconds(2));
        let calm = self.checks.no_new_warnings().with_quiet(seconds(2));
        for verifier in [&gone as &dyn Verifier, &log, &steady, &calm] {
            self.becomes(verifier, "holds").await;
        }
    }
}
