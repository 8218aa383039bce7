//! Secrets out of objects and logs. Pure.

use rollback_core::redact::{names_a_secret, without_secrets};
use serde_json::{Map, Value};

const REDACTED: &str = "[redacted]";
/// The name of a Secret is none.
const NAME: &str = "secretName";
/// Written by kubectl: the whole manifest, once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Line by line; a private key to its end.
pub(super) fn text(text: &str) -> String {
    let mut key = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let end = if line.ends_with('\n') { "\n" } else { "" };
        if key {
            key = !line.contains("-----END");
            continue;
        }
        key = line.contains("PRIVATE KEY-----") && !line.contains("-----END");
        out.push_str(&without_secrets(line.trim_end_matches(['\n', '\r'])));
        out.push_str(end);
    }
    out
}

/// An object of the API, in place: values of variables, headers, annotations and keys with a secret's name, what follows
/// a flag with such a name, and what looks like a secret in any text.
pub(super) fn object(value: &mut Value) {
    match value {
        Value::Object(map) => fields(map),
        Value::Array(items) => {
            let mut after_flag = false;
            for item in items {
                match item {
                    Value::String(flag) if !after_flag => {
                        after_flag = flag.starts_with('-') && !flag.contains('=') && names_a_secret(flag);
                        *flag = text(flag);
                    }
                    Value::String(secret) => {
                        *secret = REDACTED.into();
                        after_flag = false;
                    }
                    other => object(other),
                }
            }
        }
        Value::String(said) => *said = text(said),
        _ => {}
    }
}

fn fields(map: &mut Map<String, Value>) {
    map.remove("managedFields");
    map.remove(LAST_APPLIED);
    let named = map.get("name").and_then(Value::as_str).is_some_and(names_a_secret);
    for (key, value) in map.iter_mut() {
        let secret = names_a_secret(key) || (named && key == "value");
        if secret && value.is_string() && key != NAME {
            *value = REDACTED.into();
        } else if key != NAME && key != "name" {
            object(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_secret_is_left_of_a_workload() {
        let mut value = json!({
            "metadata": {
                "name": "shop", "managedFields": [{"manager": "hunter2"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"value\":\"hunter2\"}",
                    "vault/token": "hunter2", "team": "shop"},
            },
            "spec": {"template": {"spec": {
                "containers": [{
                    "name": "password-checker", "image": "shop:1",
                    "command": ["serve", "--token", "hunter2", "--port", "80"],
                    "args": ["--db-password=hunter2", "sh -c 'export API_KEY=hunter2'"],
                    "env": [
                        {"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "DB_HOST", "value": "db"},
                        {"name": "DB_URL", "value": "postgres://shop:hunter2@db/shop"},
                        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "shop-secret", "key": "password"}}},
                    ],
                    "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "hunter2"}]}},
                }],
                "volumes": [{"name": "tls", "secret": {"secretName": "shop-tls"}}],
            }}},
            "status": {"message": "login failed\npassword: hunter2\nbye"},
        });
        object(&mut value);
        let seen = value.to_string();
        assert!(!seen.contains("hunter2"), "{seen}");
        for kept in
            ["\"team\":\"shop\"", "shop:1", "password-checker", "\"db\"", "\"80\"", "shop-secret", "shop-tls", "bye"]
        {
            assert!(seen.contains(kept), "{kept} is lost: {seen}");
        }
    }

    #[test]
    fn nothing_secret_is_left_of_a_log() {
        let log = "start\n2026-01-01T00:00:00Z password=hunter2 x\n-----BEGIN RSA PRIVATE KEY-----\nhunter2\n\
            hunter2\n-----END RSA PRIVATE KEY-----\nend";
        let seen = text(log);
        assert!(!seen.contains("hunter2"), "{seen}");
        assert!(seen.starts_with("start\n2026") && seen.ends_with("\nend"), "{seen}");
    }
}
