//! What is found out before anything is touched, for every workload: permissions, the objects that pods refer to, and
//! disruption budgets.

use crate::{
    config_maps::Restore,
    connect::Cluster,
    error::Request,
    images::NodeImages,
    kinds::{ACCESS_REVIEW, AUTOSCALER, CONFIG_MAP, DISRUPTION_BUDGET, ObjectKind, SECRET},
    once::Once,
    steered::Steerers,
};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api,
    api::{DynamicObject, PostParams},
    core::{Selector, SelectorExt as _},
};
use rollback_core::{Finding, Kind, Result, Severity};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

/// So long what hardly changes is taken for granted, a right or what nodes have: a thousand targets ask for the same.
const LONG: Duration = Duration::from_secs(60);
/// So long what may change any time is.
const SHORT: Duration = Duration::from_secs(10);

/// What targets ask alike before they touch anything, as far as it was asked. A failure stands in its text, so that what is
/// not allowed is not asked a thousand times.
#[derive(Debug)]
pub(crate) struct Known {
    permissions: Once<Access, bool>,
    pub(crate) steerers: Once<String, Arc<Steerers>>,
    pub(crate) nodes: Once<(), Told<Arc<Vec<NodeImages>>>>,
    budgets: Once<String, Told<Arc<Vec<PodDisruptionBudget>>>>,
    autoscalers: Once<String, Told<Arc<Vec<DynamicObject>>>>,
    /// Of Secrets, only whether they are there.
    there: Once<(String, Reference), ()>,
}

/// An answer, or why there is none.
pub(crate) type Told<T> = std::result::Result<T, String>;

impl Default for Known {
    fn default() -> Self {
        Self {
            permissions: Once::remembering(LONG),
            steerers: Once::remembering(SHORT),
            nodes: Once::remembering(LONG),
            budgets: Once::remembering(SHORT),
            autoscalers: Once::remembering(SHORT),
            there: Once::remembering(SHORT),
        }
    }
}

/// As it is remembered: what may be otherwise in a moment is not.
pub(crate) fn told<T>(answer: Result<T>) -> Result<Told<T>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(e) if e.is_transient() => Err(e),
        Err(e) => Ok(Err(e.to_string())),
    }
}

/// Of what is asked alike for many targets, a single one asks for itself: what somebody has just mended is seen.
async fn of_many<K: Eq + Hash + Clone, V: Clone, F: Future<Output = Result<V>>>(
    cluster: &Cluster,
    known: &Once<K, V>,
    key: K,
    ask: impl FnOnce() -> F,
) -> Result<V> {
    if cluster.watches().is_some() { known.get(key, ask).await } else { ask().await }
}

/// A right that somebody may have: `patch deployments.apps in shop`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    pub(crate) verb: &'static str,
    pub(crate) kind: ObjectKind,
    pub(crate) namespace: String,
}

impl Access {
    pub(crate) fn new(verb: &'static str, kind: ObjectKind, namespace: &str) -> Self {
        Self { verb, kind, namespace: namespace.into() }
    }
}

impl Cluster {
    /// Asks the API server whether this user may. Remembered for a minute.
    pub(crate) async fn may(&self, access: &Access) -> Result<bool> {
        self.known().permissions.get(access.clone(), || self.ask_whether_it_may(access)).await
    }
    async fn ask_whether_it_may(&self, access: &Access) -> Result<bool> {
        let request = Request {
            operation: "ask for permissions",
            verb: "create",
            kind: ACCESS_REVIEW,
            namespace: None,
            name: "",
        };
        let (resource, part) = access.kind.plural.split_once('/').unwrap_or((access.kind.plural, ""));
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(access.kind.group.into()),
                    resource: Some(resource.into()),
                    subresource: Some(part).filter(|part| !part.is_empty()).map(Into::into),
                    verb: Some(access.verb.into()),
                    namespace: Some(access.namespace.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client().clone());
        let params = PostParams::default();
        let answer = self.ask(self.reply_within(), &request, reviews.create(&params, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
    /// The autoscalers of a namespace; none where they are not known.
    pub(crate) async fn autoscalers(&self, namespace: &str) -> Arc<Vec<DynamicObject>> {
        let all = of_many(self, &self.known().autoscalers, namespace.to_owned(), || async {
            told(self.list("look for autoscalers", AUTOSCALER, namespace, "").await.map(Arc::new))
        });
        all.await.ok().and_then(Told::ok).unwrap_or_default()
    }
}

/// What it means that the cluster's uid may not be read.
fn identity(cluster: &Cluster) -> Option<Finding> {
    let server = cluster.identity().server.as_deref().filter(|_| cluster.identity().uid.is_none())?;
    let apart = if cluster.name() == server {
        " Who reaches it by another address shares neither lock nor ledger with this one."
    } else {
        ""
    };
    let text = format!(
        "which cluster this is, only its address tells ({server}): this account may not read the namespace kube-system, whose \
         uid would. Another cluster behind the same address would go unnoticed.{apart} Add to its ClusterRole {{apiGroups: \
         [\"\"], resources: [\"namespaces\"], resourceNames: [\"kube-system\"], verbs: [\"get\"]}}"
    );
    Some(Finding::new(Severity::Warning, "identity", text))
}

/// Whether these, of the rights that were asked for, let it try the change out.
pub(crate) fn allow(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity != Severity::Blocks)
}

/// A finding for each right that is missing, with the rule to add. What cannot be asked blocks nothing: the dry run tells.
pub(crate) async fn permissions(cluster: &Cluster, needed: &[Access]) -> Vec<Finding> {
    let answers = futures::future::join_all(needed.iter().map(|access| cluster.may(access))).await;
    let missing = needed.iter().zip(answers).filter_map(|(access, may)| match may {
        Ok(true) => None,
        Ok(false) => Some(Finding::new(
            Severity::Blocks,
            "permission",
            format!(
                "may not {} {} in namespace {}: add to its Role {{apiGroups: [\"{}\"], resources: [\"{}\"], verbs: \
                     [\"{}\"]}}",
                access.verb,
                access.kind.name(),
                access.namespace,
                access.kind.group,
                access.kind.plural,
                access.verb
            ),
        )),
        Err(e) => Some(Finding::new(Severity::Note, "permission", format!("permissions are not known: {e}"))),
    });
    missing.chain(identity(cluster)).collect()
}

/// An object that a pod template refers to, and cannot start without.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reference {
    pub(crate) secret: bool,
    pub(crate) name: String,
}

/// What a write that was tried without effect says of the one that is meant.
pub(crate) fn tried<T>(answer: Result<T>) -> Result<Vec<Finding>> {
    match answer {
        Ok(_) => Ok(vec![]),
        // Somebody was there meanwhile: the next look shows it.
        Err(e) if e.kind() == Kind::Conflict => Ok(vec![]),
        Err(e) if e.is_transient() => Err(e.without_effect()),
        Err(e) => Ok(vec![Finding::new(Severity::Blocks, "dry-run", e.to_string())]),
    }
}

/// The ConfigMaps and Secrets that a template's pods need; those marked optional left out.
pub(crate) fn references(template: &Value) -> BTreeSet<Reference> {
    referred_to(template, false)
}

/// The ConfigMaps and Secrets that a template's pods refer to; those marked optional too.
pub(crate) fn all_references(template: &Value) -> BTreeSet<Reference> {
    referred_to(template, true)
}

fn referred_to(template: &Value, optional: bool) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let list = |of: &Value, at: &str| of.get(at).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut add = |secret: bool, source: Option<&Value>, key: &str| {
        let Some(source) = source.filter(|s| optional || s.get("optional") != Some(&Value::Bool(true))) else { return };
        if let Some(name) = source.get(key).and_then(Value::as_str) {
            found.insert(Reference { secret, name: name.into() });
        }
    };
    let spec = template.get("spec").unwrap_or(&Value::Null);
    for container in ["initContainers", "containers"].iter().flat_map(|at| list(spec, at)) {
        for from in list(&container, "envFrom") {
            add(false, from.get("configMapRef"), "name");
            add(true, from.get("secretRef"), "name");
        }
        for variable in list(&container, "env") {
            add(false, variable.pointer("/valueFrom/configMapKeyRef"), "name");
            add(true, variable.pointer("/valueFrom/secretKeyRef"), "name");
        }
    }
    for volume in list(spec, "volumes") {
        add(false, volume.get("configMap"), "name");
        add(true, volume.get("secret"), "secretName");
        for source in volume.get("projected").map(|projected| list(projected, "sources")).unwrap_or_default() {
            add(false, source.get("configMap"), "name");
            add(true, source.get("secret"), "name");
        }
    }
    found
}

/// A finding for each object that a template refers to and that is not there. Whether it is there is all that is read of
/// a Secret; where that is not allowed, nothing is said of it. What is
/// put back before the pods start is not missing.
pub(crate) async fn missing_references(
    cluster: &Cluster,
    namespace: &str,
    template: &Value,
    put_back: &[Restore],
) -> Vec<Finding> {
    let mut references = references(template);
    references.retain(|reference| put_back.iter().all(|restore| restore.object != *reference));
    let asked = references
        .iter()
        .map(|reference| async move { is_there(cluster, namespace, reference).await.err().map(|e| (reference, e)) });
    let gone = futures::future::join_all(asked).await.into_iter().flatten();
    gone.map(|(reference, e)| {
        let what = if reference.secret { "Secret" } else { "ConfigMap" };
        let name = &reference.name;
        match e.kind() {
            Kind::NotFound => Finding::new(
                Severity::Blocks,
                "reference",
                format!(
                    "the release needs the {what} {name}, which is gone: its pods would not start; restore it first"
                ),
            ),
            Kind::Denied => Finding::new(
                Severity::Note,
                "reference",
                format!("whether the {what} {name} is there is not known: this user may not get it"),
            ),
            _ => Finding::new(
                Severity::Note,
                "reference",
                format!("whether the {what} {name} is there is not known: {e}"),
            ),
        }
    })
    .collect()
}

/// Whether it is there is all that is read of it.
///
/// # Errors
/// [`Kind::NotFound`] where it is not.
pub(crate) async fn is_there(cluster: &Cluster, namespace: &str, reference: &Reference) -> Result<()> {
    let known = (namespace.to_owned(), reference.clone());
    of_many(cluster, &cluster.known().there, known, || ask_whether_it_is_there(cluster, namespace, reference)).await
}

async fn ask_whether_it_is_there(cluster: &Cluster, namespace: &str, reference: &Reference) -> Result<()> {
    let kind = if reference.secret { SECRET } else { CONFIG_MAP };
    let request = Request {
        operation: "look for what pods refer to",
        verb: "get",
        kind,
        namespace: Some(namespace),
        name: &reference.name,
    };
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client().clone(), namespace, &kind.resource());
    cluster.ask(cluster.reply_within(), &request, api.get_metadata(&reference.name)).await.map(drop)
}

/// A note for each PodDisruptionBudget that a rollout which takes so many pods away at once may go below. A rollout does not ask budgets; evictions do.
pub(crate) async fn budgets(
    cluster: &Cluster,
    namespace: &str,
    template: &Value,
    replicas: u32,
    away: u32,
) -> Vec<Finding> {
    let all = of_many(cluster, &cluster.known().budgets, namespace.to_owned(), || async {
        let all = cluster.list_of("look for disruption budgets", DISRUPTION_BUDGET, namespace, "");
        told(all.await.map(Arc::new))
    });
    match all.await.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(all) => all.iter().filter_map(|budget| below(budget, template, replicas, away)).collect(),
        Err(e) => vec![Finding::new(Severity::Note, "budget", format!("disruption budgets are not known: {e}"))],
    }
}

fn below(budget: &PodDisruptionBudget, template: &Value, replicas: u32, away: u32) -> Option<Finding> {
    let selector = budget.spec.as_ref()?.selector.clone()?;
    let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
    let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap_or_default();
    if !Selector::try_from(selector).ok()?.matches(&labels) {
        return None;
    }
    let (name, status) = (budget.metadata.name.as_deref().unwrap_or_default(), budget.status.as_ref()?);
    let desired = u32::try_from(status.desired_healthy).unwrap_or(0);
    let healthy = u32::try_from(status.current_healthy).unwrap_or(0);
    let left = replicas.saturating_sub(away);
    if healthy < desired {
        let text = format!(
            "{healthy} pods are healthy, and PodDisruptionBudget {name} wants {desired}: nodes cannot be drained meanwhile"
        );
        return Some(Finding::new(Severity::Note, "budget", text));
    }
    (left < desired).then(|| {
        let text = format!(
            "the rollout may go down to {left} available pods, and PodDisruptionBudget {name} wants {desired}: a rollout does \
             not ask it. Lower maxUnavailable, or raise the surge, to keep to it"
        );
        Finding::new(Severity::Warning, "budget", text)
    })
}

/// How many pods a Deployment's rollout takes away at once.
pub(crate) fn may_be_missing(strategy: &Value, replicas: u32) -> u32 {
    if strategy.get("type").and_then(Value::as_str) == Some("Recreate") {
        return replicas;
    }
    unavailable(strategy.pointer("/rollingUpdate/maxUnavailable"), "25%", replicas)
}

/// `maxUnavailable` of so many; percentages rounded down, as controllers do.
pub(crate) fn unavailable(most: Option<&Value>, or: &str, of: u32) -> u32 {
    let most = match most {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        _ => or.to_owned(),
    };
    match most.strip_suffix('%') {
        Some(percent) => {
            let percent: u64 = percent.parse().unwrap_or(0);
            u32::try_from(u64::from(of) * percent / 100).unwrap_or(u32::MAX)
        }
        None => most.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_pods_cannot_start_without() {
        let template = json!({"spec": {
            "initContainers": [{"name": "i", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "init", "key": "a"}}}]}],
            "containers": [{"name": "c",
                "envFrom": [{"configMapRef": {"name": "env"}}, {"secretRef": {"name": "env-secret"}},
                    {"configMapRef": {"name": "maybe", "optional": true}}],
                "env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "key-secret", "key": "b"}}},
                    {"name": "C", "value": "plain"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "conf"}}, {"name": "s", "secret": {"secretName": "tls"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "ca"}}]}},
                {"name": "e", "emptyDir": {}}],
        }});
        let found: Vec<(bool, String)> = references(&template).into_iter().map(|r| (r.secret, r.name)).collect();
        let named = |secret: bool, names: &[&str]| names.iter().map(|n| (secret, n.to_string())).collect::<Vec<_>>();
        assert_eq!(
            found,
            [named(false, &["ca", "conf", "env", "init"]), named(true, &["env-secret", "key-secret", "tls"])].concat()
        );
        assert!(references(&json!({})).is_empty());
    }

    #[test]
    fn a_rollout_that_goes_below_a_budget_is_found() {
        let template = json!({"metadata": {"labels": {"app": "shop"}}});
        let budget = |app: &str, desired: i32, healthy: i32| -> PodDisruptionBudget {
            serde_json::from_value(json!({"metadata": {"name": "b"},
                "spec": {"selector": {"matchLabels": {"app": app}}},
                "status": {"desiredHealthy": desired, "currentHealthy": healthy, "expectedPods": 4,
                    "disruptionsAllowed": 0}}))
            .unwrap_or_default()
        };
        let rolling = |most: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}});
        for (what, budget, strategy, is) in [
            ("keeps to it", budget("shop", 3, 4), rolling(json!("25%")), None),
            ("goes below", budget("shop", 4, 4), rolling(json!("25%")), Some(Severity::Warning)),
            ("by a number", budget("shop", 3, 4), rolling(json!(2)), Some(Severity::Warning)),
            ("takes none away", budget("shop", 4, 4), rolling(json!(0)), None),
            ("takes all away", budget("shop", 1, 4), json!({"type": "Recreate"}), Some(Severity::Warning)),
            ("is below already", budget("shop", 3, 1), rolling(json!(0)), Some(Severity::Note)),
            ("another's", budget("other", 4, 4), json!({"type": "Recreate"}), None),
        ] {
            let found = below(&budget, &template, 4, may_be_missing(&strategy, 4)).map(|finding| finding.severity);
            assert_eq!(found, is, "{what}");
        }
    }
}
