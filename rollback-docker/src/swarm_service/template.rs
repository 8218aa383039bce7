//! What a release of a service is: its task template, by content.
//!
//! The same template is written in several ways: engines leave out what is as by default, or say it. So all of that is left
//! out before it is compared.

use bollard::models::TaskSpec;
use rollback_core::{Digest, ReleaseId};
use serde_json::{Value, json};

/// A template in the one way of writing it. Not part of it: the count by which an update is forced.
pub(super) fn canonical(spec: &TaskSpec) -> Value {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    if let Some(all) = value.as_object_mut() {
        all.remove("ForceUpdate");
    }
    let is_default = |value: &Value, path: &[&str], default: Value| {
        path.iter().try_fold(value, |at, key| at.get(*key)).is_some_and(|is| *is == default)
    };
    for (path, default) in [
        (&["ContainerSpec", "StopGracePeriod"][..], json!(10_000_000_000_u64)),
        (&["ContainerSpec", "Isolation"], json!("default")),
        (&["RestartPolicy", "Condition"], json!("any")),
        (&["RestartPolicy", "Delay"], json!(5_000_000_000_u64)),
        (&["Runtime"], json!("container")),
    ] {
        if is_default(&value, path, default) {
            remove(&mut value, path);
        }
    }
    prune(&mut value);
    value
}

fn remove(value: &mut Value, path: &[&str]) {
    if let [parents @ .., last] = path {
        let at = parents.iter().try_fold(value, |at, key| at.get_mut(*key));
        if let Some(at) = at.and_then(Value::as_object_mut) {
            at.remove(*last);
        }
    }
}

/// Without what says nothing: null, nought, no, and what is empty then.
fn prune(value: &mut Value) {
    match value {
        Value::Object(all) => {
            all.values_mut().for_each(prune);
            all.retain(|_, value| !is_nothing(value));
        }
        Value::Array(all) => all.iter_mut().for_each(prune),
        _ => {}
    }
}

pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(true) => false,
    }
}

/// The release that a template is.
pub(super) fn release(spec: &TaskSpec) -> ReleaseId {
    ReleaseId::new(Digest::of(ordered(&canonical(spec)).as_bytes()).as_str())
}

/// As text, with the keys in order, whatever a map's own order is.
fn ordered(value: &Value) -> String {
    match value {
        Value::Object(all) => {
            let all: std::collections::BTreeMap<&String, String> =
                all.iter().map(|(key, value)| (key, ordered(value))).collect();
            format!("{all:?}")
        }
        Value::Array(all) => format!("{:?}", all.iter().map(ordered).collect::<Vec<_>>()),
        other => other.to_string(),
    }
}

/// What it is called: its image, without the digest.
pub(super) fn image(spec: &TaskSpec) -> String {
    let image = spec.container_spec.as_ref().and_then(|container| container.image.clone()).unwrap_or_default();
    image.split_once('@').map_or(image.clone(), |(name, _)| name.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(value: Value) -> TaskSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_as_by_default_makes_no_difference() {
        let short = read(json!({ "ContainerSpec": { "Image": "shop:1", "Env": ["A=1"] }, "ForceUpdate": 1 }));
        let long = read(json!({
            "ContainerSpec": {
                "Image": "shop:1", "Env": ["A=1"], "Init": false, "StopGracePeriod": 10_000_000_000_u64,
                "DNSConfig": {}, "Isolation": "default",
            },
            "Resources": { "Limits": {}, "Reservations": {} },
            "RestartPolicy": { "Condition": "any", "Delay": 5_000_000_000_u64, "MaxAttempts": 0 },
            "Placement": {}, "ForceUpdate": 7, "Runtime": "container",
        }));
        assert_eq!(release(&short), release(&long));
        let other = read(json!({ "ContainerSpec": { "Image": "shop:1", "Env": ["A=2"] } }));
        assert_ne!(release(&short), release(&other));
        assert_eq!(image(&read(json!({ "ContainerSpec": { "Image": "shop:1@sha256:ab" } }))), "shop:1");
    }
}
