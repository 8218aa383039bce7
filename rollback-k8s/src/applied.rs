//! What `kubectl apply` takes for applied last: an annotation with the whole manifest. Pure.
//!
//! It removes a field at the next apply only if that manifest had it. `kubectl rollout undo` leaves the manifest of the bad
//! release there, so what only the good one has stays for ever, whatever is applied afterwards
//! ([kubectl#1301](https://github.com/kubernetes/kubectl/issues/1301)).

use crate::{
    diff::{name, named},
    marks::{self, Annotations},
    release::as_in_a_manifest,
};
use rollback_core::DiffLine;
use serde_json::{Map, Value, json};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Adds to a patch that sets a template that the annotation goes with it, where there is one: guarded, so that nobody's
/// apply is forgotten.
pub(crate) fn goes_along(
    operations: &mut Vec<Value>,
    annotations: &mut Annotations,
    read: &Annotations,
    from: &Value,
    to: &Value,
) {
    let Some(before) = read.get(LAST_APPLIED) else { return };
    let Some(after) = with_template(before, from, to) else { return };
    operations.push(json!({"op": "test", "path": marks::path(LAST_APPLIED), "value": before}));
    annotations.insert(LAST_APPLIED.into(), after);
}

/// The same for people.
pub(crate) fn line(read: &Annotations) -> Option<DiffLine> {
    let what = "what kubectl apply takes for applied last".to_owned();
    read.contains_key(LAST_APPLIED).then(|| DiffLine {
        what,
        from: Some("what was applied last".into()),
        to: Some("the template of the release".into()),
    })
}

/// The manifest with another template; `None` where it has none, or is none.
fn with_template(manifest: &str, from: &Value, to: &Value) -> Option<String> {
    let mut manifest: Value = serde_json::from_str(manifest).ok()?;
    let template = manifest.pointer_mut("/spec/template")?;
    *template = applied(&as_in_a_manifest(to), from, template);
    Some(format!("{manifest}\n"))
}

/// What of a template counts as applied: all but what the one before had without its having been applied. That was set by
/// somebody else, and is theirs.
fn applied(to: &Value, from: &Value, last: &Value) -> Value {
    let theirs = |from: Option<&Value>, last: Option<&Value>| from.is_some() && last.is_none();
    let null = Value::Null;
    match to {
        Value::Object(fields) => {
            let own = fields.iter().filter(|(key, _)| !theirs(from.get(key.as_str()), last.get(key.as_str())));
            let inner = |key: &String, value| {
                let of = |side: &Value| side.get(key.as_str()).cloned().unwrap_or_default();
                (key.clone(), applied(value, &of(from), &of(last)))
            };
            Value::Object(own.map(|(key, value)| inner(key, value)).collect::<Map<_, _>>())
        }
        Value::Array(items) if named(items) => {
            let find = |side: &'_ Value, item: &Value| {
                let mut all = side.as_array().into_iter().flatten();
                all.find(|other| name(other).is_some() && name(other) == name(item)).cloned()
            };
            let own = items.iter().filter_map(|item| {
                let (from, last) = (find(from, item), find(last, item));
                let own = !theirs(from.as_ref(), last.as_ref());
                own.then(|| applied(item, from.as_ref().unwrap_or(&null), last.as_ref().unwrap_or(&null)))
            });
            Value::Array(own.collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn template(env: &[&str], more: Value) -> Value {
        let env: Vec<Value> = env.iter().map(|name| json!({"name": name, "value": "x"})).collect();
        let mut template = json!({"metadata": {"labels": {"app": "shop"}},
            "spec": {"containers": [{"name": "app", "image": "shop:1", "env": env}]}});
        template["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        template
    }

    #[test]
    fn what_only_the_good_one_has_counts_as_applied_and_what_others_set_does_not() {
        let manifest =
            json!({"kind": "Deployment", "spec": {"replicas": 3, "template": template(&["A", "NEW"], json!({}))}});
        // Somebody set an affinity and a variable, and they stayed through the deploy.
        let live = template(&["A", "NEW", "THEIRS"], json!({"affinity": {}, "dnsPolicy": "ClusterFirst"}));
        let good = template(&["A", "OLD", "THEIRS"], json!({"affinity": {}, "dnsPolicy": "ClusterFirst"}));
        let after: Value = serde_json::from_str(&with_template(&manifest.to_string(), &live, &good).unwrap()).unwrap();
        assert_eq!(after["spec"]["template"], template(&["A", "OLD"], json!({})));
        assert_eq!(after["spec"]["replicas"], 3);
        for no in ["", "{}", "{\"spec\": {}}"] {
            assert_eq!(with_template(no, &live, &good), None, "{no}");
        }
    }

    #[test]
    fn it_is_guarded_and_left_out_where_there_is_none() {
        let (mut operations, mut annotations) = (vec![], Annotations::new());
        let (from, to) = (template(&["A"], json!({})), template(&["B"], json!({})));
        goes_along(&mut operations, &mut annotations, &Annotations::new(), &from, &to);
        assert!(operations.is_empty() && annotations.is_empty());
        let read: Annotations = [(LAST_APPLIED.to_owned(), json!({"spec": {"template": from}}).to_string())].into();
        goes_along(&mut operations, &mut annotations, &read, &from, &to);
        assert_eq!(operations[0]["op"], "test");
        assert!(annotations[LAST_APPLIED].contains("\"B\""), "{annotations:?}");
    }
}
