//! What a release of a service is: its task template, by content.
//!
//! The same template is written in several ways: engines leave out what is as by default, or say it. So all of that is left
//! out before it is compared.

use crate::diff;
use bollard::models::TaskSpec;
use rollback_core::{Digest, ReleaseId};
use serde::{Serialize, de::DeserializeOwned};
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

/// What the engine says, as the client's types, which write a health check other than the engine does, and read only what they
/// write. Of a setting that they do not know, nothing would be left: which those are.
pub(super) fn typed<T: Serialize + DeserializeOwned>(mut raw: Value) -> serde_json::Result<(T, Vec<String>)> {
    health_checks_as_the_client_writes_them(&mut raw);
    let typed: T = serde_json::from_value(raw.clone())?;
    let lost = lost(&raw, &serde_json::to_value(&typed)?);
    Ok((typed, lost))
}

fn health_checks_as_the_client_writes_them(value: &mut Value) {
    match value {
        Value::Object(all) => {
            if let Some(Value::Object(container)) = all.get_mut("ContainerSpec")
                && let Some(check) = container.remove("Healthcheck")
            {
                container.insert("HealthCheck".into(), check);
            }
            all.values_mut().for_each(health_checks_as_the_client_writes_them);
        }
        Value::Array(all) => all.iter_mut().for_each(health_checks_as_the_client_writes_them),
        _ => {}
    }
}

/// Writing back what was read would lose these. What says nothing may be left out; what has a value must come back.
fn lost(raw: &Value, known: &Value) -> Vec<String> {
    let at = |path: &str| path.split('.').try_fold(raw, |at, key| at.get(key)).cloned().unwrap_or_default();
    let differs = diff::of(raw, known, false).into_iter();
    let lost = differs.filter(|(path, line)| line.from.is_some() && line.to.is_none() && !is_nothing(&at(path)));
    lost.map(|(path, _)| path).collect()
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

    /// As engines answer: with a health check, and without what the command line shows as defaults.
    #[test]
    fn nothing_of_what_the_engine_says_is_lost_and_what_would_be_is_named() {
        let raw = |image: &str, more: Value| {
            let mut spec = json!({
                "Name": "web", "Labels": {},
                "TaskTemplate": {
                    "ContainerSpec": {
                        "Image": image, "Init": false, "DNSConfig": {}, "Isolation": "default",
                        "Healthcheck": { "Test": ["CMD", "/bin/shop", "health"], "Interval": 1_000_000_000 },
                        "Privileges": { "CredentialSpec": null, "SELinuxContext": null, "NoNewPrivileges": false },
                        "Mounts": [{ "Type": "volume", "Source": "data", "Target": "/data" }],
                        "Configs": [{ "File": { "Name": "c", "UID": "0", "GID": "0", "Mode": 292 }, "ConfigID": "p", "ConfigName": "c" }],
                    },
                    "Resources": { "Limits": { "MemoryBytes": 67_108_864 }, "Reservations": {} },
                    "Placement": {}, "ForceUpdate": 0, "Runtime": "container",
                },
                "Mode": { "Replicated": { "Replicas": 1 } },
                "EndpointSpec": { "Mode": "vip", "Ports": [{ "Protocol": "tcp", "TargetPort": 8080, "PublishedPort": 9002 }] },
            });
            for (key, value) in more.as_object().unwrap() {
                spec["TaskTemplate"]["ContainerSpec"][key] = value.clone();
            }
            spec
        };
        let read = |raw| typed::<bollard::models::ServiceSpec>(raw).unwrap();
        let (spec, lost) = read(raw("shop:1", json!({})));
        assert_eq!(lost, [""; 0]);
        let template = spec.task_template.unwrap();
        assert!(template.container_spec.as_ref().unwrap().health_check.is_some());
        // What is written back is read by the engine under either name, and a release of its own is one with another check.
        let other = json!({ "Healthcheck": { "Test": ["CMD", "/bin/shop", "health"], "Interval": 2_000_000_000 } });
        assert_ne!(release(&template), release(&read(raw("shop:1", other)).0.task_template.unwrap()));
        let (_, lost) = read(raw("shop:1", json!({ "Comet": { "Tail": 7 }, "Off": false })));
        assert_eq!(lost, ["TaskTemplate.ContainerSpec.Comet.Tail"]);
    }
}
