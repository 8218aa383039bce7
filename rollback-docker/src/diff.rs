//! What differs between two settings, for people. Secrets must not get in here: a diff is journalled and shown. What looks
//! like one, by its name or by its value, is said to differ and not shown.

use rollback_core::DiffLine;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How many lines a diff has.
const LINES: usize = 60;
/// How many characters of a value are shown.
const SHOWN: usize = 160;

/// Each path that differs, with its line. Without `values`, no value is shown at all.
pub(crate) fn of(from: &Value, to: &Value, values: bool) -> Vec<(String, DiffLine)> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", from, &mut old);
    flatten("", to, &mut new);
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = |path: &&String| old.get(*path) != new.get(*path);
    let line = |path: &String| (path.clone(), line(path, old.get(path), new.get(path), values));
    paths.into_iter().filter(differs).map(line).collect()
}

/// Each value by its path; a list of plain values is one.
pub(crate) fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, into);
            }
        }
        Value::Array(all) => match all.iter().map(scalar).collect::<Option<Vec<_>>>() {
            Some(all) => {
                into.insert(path.to_owned(), all.join(" "));
            }
            None => {
                for (n, value) in all.iter().enumerate() {
                    flatten(&format!("{path}.{n}"), value, into);
                }
            }
        },
        Value::Null => {}
        value => {
            into.insert(path.to_owned(), scalar(value).unwrap_or_default());
        }
    }
}

/// Is it called like something that nobody else should know?
fn secret_name(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["pass", "secret", "token", "key", "credential", "auth", "private", "dsn", "pwd", "salt", "cert", "cookie"]
        .iter()
        .any(|word| text.contains(word))
}

/// A value that looks like one: `--password=x`, `postgres://user:x@host`.
fn secret_value(text: &str) -> bool {
    let user = text.split_once("://").and_then(|(_, rest)| rest.split('/').next()).is_some_and(|at| at.contains('@'));
    user || secret_name(text)
}

fn line(path: &str, from: Option<&String>, to: Option<&String>, values: bool) -> DiffLine {
    // The last word of a path is what a value is called; of a list it is what the list is called.
    let last = path.rsplit('.').next().unwrap_or(path);
    let hidden = !values || secret_name(last) || [from, to].into_iter().flatten().any(|value| secret_value(value));
    let shown = |value: Option<&String>, side: &str| {
        value.map(|value| match hidden {
            // A variable's name is no secret; who reads the diff wants to know that it is still the same one.
            true if value.starts_with("${") && value.ends_with('}') && !value.contains([':', '-', '?', '+']) => {
                value.clone()
            }
            true => format!("({side}, not shown)"),
            false => cut(value),
        })
    };
    let what = path.strip_prefix("services.").unwrap_or(path);
    DiffLine { what: what.to_owned(), from: shown(from, "a value"), to: shown(to, "another value") }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{} …", &value[..at]),
        None => value.to_owned(),
    }
}

/// Not more lines than people read.
pub(crate) fn bounded(mut lines: Vec<DiffLine>) -> Vec<DiffLine> {
    let more = lines.len().saturating_sub(LINES);
    if more > 0 {
        lines.truncate(LINES);
        lines.push(DiffLine { what: format!("and {more} more"), from: None, to: None });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_values_are_shown_and_secrets_are_not() {
        let side =
            |n: u32| json!({ "a": n, "list": ["x", n], "API_TOKEN": format!("t{n}"), "url": format!("db://u:p{n}@h") });
        let lines: Vec<DiffLine> = of(&side(1), &side(2), true).into_iter().map(|(_, line)| line).collect();
        let shown = format!("{lines:?}");
        assert_eq!(lines.len(), 4, "{shown}");
        assert!(shown.contains("x 2") && !shown.contains("t1") && !shown.contains("p2"), "{shown}");
        let names = format!("{:?}", of(&side(1), &side(2), false));
        assert!(!names.contains("x 2"), "{names}");
        assert_eq!(of(&side(1), &side(1), true), []);
        let many = vec![DiffLine { what: "x".into(), from: None, to: None }; 100];
        assert_eq!(bounded(many).len(), LINES + 1);
    }
}
