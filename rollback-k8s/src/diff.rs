//! What changes between two templates, for people. Pure.
//!
//! Only images are shown as they are: what stands in variables, arguments and commands may be a secret, and a diff is
//! journalled.

use crate::release::images;
use rollback_core::{DiffLine, Digest};
use serde_json::Value;
use std::collections::BTreeSet;

/// More lines than this tell nobody anything.
const LINES: usize = 40;

/// Line by line, images first.
pub(crate) fn templates(from: &Value, to: &Value) -> Vec<DiffLine> {
    let mut lines = vec![];
    let (before, after) = (images(from), images(to));
    let names: BTreeSet<&str> = before.iter().chain(&after).map(|(name, _)| *name).collect();
    for name in names {
        let image = |of: &[(&str, &str)]| of.iter().find(|(n, _)| *n == name).map(|(_, image)| (*image).to_owned());
        let (from, to) = (image(&before), image(&after));
        if from != to {
            lines.push(DiffLine { what: format!("image of {name}"), from, to });
        }
    }
    compare("", from, to, &mut lines);
    let more = lines.len().saturating_sub(LINES);
    if more > 0 {
        lines.truncate(LINES);
        lines.push(DiffLine { what: format!("{more} more fields"), from: None, to: None });
    }
    lines
}

fn compare(path: &str, from: &Value, to: &Value, lines: &mut Vec<DiffLine>) {
    if from == to || path.ends_with(".image") || path.ends_with("pod-template-hash") {
        return;
    }
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&path, &of(from), &of(to), lines);
            }
        }
        (Value::Array(from), Value::Array(to)) if named(from) && named(to) => {
            let names: BTreeSet<&str> = from.iter().chain(to).filter_map(name).collect();
            for item in names {
                let of = |list: &[Value]| list.iter().find(|v| name(v) == Some(item)).cloned().unwrap_or_default();
                compare(&format!("{path}[{item}]"), &of(from), &of(to), lines);
            }
        }
        _ => {
            let shown = |value: &Value| (!value.is_null()).then(|| fingerprint(value));
            lines.push(DiffLine { what: path.to_owned(), from: shown(from), to: shown(to) });
        }
    }
}

/// By what items of a list are told apart.
pub(crate) fn name(of: &Value) -> Option<&str> {
    of.get("name").and_then(Value::as_str)
}
pub(crate) fn named(list: &[Value]) -> bool {
    list.iter().all(|item| name(item).is_some())
}

/// Tells one value from another without showing it.
fn fingerprint(value: &Value) -> String {
    let digest = Digest::of(value.to_string().as_bytes());
    digest.as_str().chars().take("sha256:".len() + 8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_are_shown_and_values_are_not() {
        let template = |image: &str, password: &str| {
            json!({"metadata": {"labels": {"pod-template-hash": image}}, "spec": {"containers": [
                {"name": "app", "image": image, "env": [{"name": "PASSWORD", "value": password}]}]}})
        };
        let lines = templates(&template("shop:2", "hunter2"), &template("shop:1", "hunter1"));
        assert_eq!(lines[0], DiffLine::new("image of app", "shop:2", "shop:1"));
        assert_eq!(lines[1].what, "spec.containers[app].env[PASSWORD].value");
        assert_ne!(lines[1].from, lines[1].to);
        assert_eq!(lines.len(), 2);
        assert!(!format!("{lines:?}").contains("hunter"), "{lines:?}");
        assert!(templates(&template("shop:1", "a"), &template("shop:1", "a")).is_empty());
    }

    #[test]
    fn what_comes_and_what_goes() {
        let from = json!({"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]}});
        let to = json!({"spec": {"containers": [{"name": "a", "image": "a:1", "args": ["x"]}]}});
        let lines = templates(&from, &to);
        assert_eq!(lines[0], DiffLine { what: "image of b".into(), from: Some("b:1".into()), to: None });
        assert!(lines.iter().any(|line| line.what == "spec.containers[a].args" && line.from.is_none()), "{lines:?}");
    }
}
