//! Whether the primary runs a release of the target: templates, less what Flagger changes in its copy.

use crate::release::release_id;
use rollback_core::ReleaseId;
use serde_json::Value;

/// What Flagger appends to the names of the ConfigMaps and Secrets that it copies.
const COPY: &str = "-primary";
/// What refers to them.
const REFERENCES: [&str; 6] = ["configMap", "configMapRef", "configMapKeyRef", "secret", "secretRef", "secretKeyRef"];

/// The same for a template of the target and for Flagger's copy of it in the primary: without labels, affinity and spread,
/// the annotation by which Flagger restarts pods, and the ending of copied names.
pub(super) fn same_but_for_flagger(template: &Value) -> ReleaseId {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("labels");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("flagger-id");
        }
    }
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("affinity");
        spec.remove("topologySpreadConstraints");
    }
    without_endings(&mut template);
    release_id(&template)
}

fn without_endings(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                if REFERENCES.contains(&key.as_str()) {
                    for name in ["name", "secretName"] {
                        if let Some(Value::String(name)) = inner.get_mut(name) {
                            *name = name.strip_suffix(COPY).unwrap_or(name).to_owned();
                        }
                    }
                }
                without_endings(inner);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_endings),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_copy_of_flagger_is_the_same() {
        let template = |app: &str, end: &str, image: &str| {
            let mut metadata = json!({"labels": {"app": app}, "annotations": {"commit": "1"}});
            if !end.is_empty() {
                metadata["annotations"]["flagger-id"] = json!("x");
            }
            json!({"metadata": metadata, "spec": {
                "containers": [{"name": "web", "image": image,
                    "envFrom": [{"configMapRef": {"name": format!("env{end}")}}],
                    "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": format!("key{end}"), "key": "k"}}}]}],
                "volumes": [{"name": "s", "secret": {"secretName": format!("tls{end}")}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": format!("ca{end}")}}]}}]}})
        };
        let target = same_but_for_flagger(&template("web", "", "web:1"));
        assert_eq!(target, same_but_for_flagger(&template("web-primary", "-primary", "web:1")));
        assert_ne!(target, same_but_for_flagger(&template("web-primary", "-primary", "web:2")));
    }
}
