//! What Compose reads in the files of a project: its services, what each container's settings are hashed to, and what
//! differs between two releases, for people.
//!
//! Secrets must not get into a diff. It compares the files before variables are put in, so values of environment files are
//! never in it; of those it says that they differ. What looks like a secret by its name is not shown either.

use super::{
    compose::Said,
    files::{FileSet, Role, Slot, variables},
};
use crate::diff;
use rollback_core::{DiffLine, Error, Kind, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A service, as far as a rollback asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Service {
    /// By which name its image is found.
    pub(super) image: String,
    /// It is built here, not pulled.
    pub(super) build: bool,
    pub(super) replicas: u32,
    /// What its containers are labelled with.
    pub(super) hash: String,
}

/// What the files say.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) services: BTreeMap<String, Service>,
    /// Files that it reads besides: of secrets and configs.
    pub(super) reads: BTreeSet<String>,
    /// Variables that nobody sets.
    pub(super) unset: BTreeSet<String>,
    /// Without the values of variables, where Compose can say it so.
    raw: Option<Value>,
    resolved: Value,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Model {
    pub(super) fn read(resolved: &Said, hashes: &Said, raw: Option<&Said>) -> Result<Self> {
        let json = |said: &Said| {
            serde_json::from_slice::<Value>(&said.out).map_err(|e| {
                Error::new(Kind::Unexpected, "read what docker compose config says").with_source(e).without_effect()
            })
        };
        let all = json(resolved)?;
        let name = text(&all["name"]).unwrap_or_default();
        let hash_of: BTreeMap<String, String> = String::from_utf8_lossy(&hashes.out)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(service, hash)| (service.to_owned(), hash.trim().to_owned()))
            .collect();
        let services = all["services"].as_object().into_iter().flatten().map(|(service, says)| {
            let scale = says["scale"].as_u64().or_else(|| says["deploy"]["replicas"].as_u64()).unwrap_or(1);
            let made = Service {
                image: text(&says["image"]).unwrap_or_else(|| format!("{name}-{service}")),
                build: says["build"].is_object(),
                replicas: u32::try_from(scale).unwrap_or(u32::MAX),
                hash: hash_of.get(service).cloned().unwrap_or_default(),
            };
            (service.clone(), made)
        });
        let services = services.collect();
        let reads = ["secrets", "configs"]
            .iter()
            .flat_map(|kind| all[*kind].as_object().into_iter().flatten())
            .filter_map(|(_, says)| text(&says["file"]))
            .collect();
        let unset = unset(&resolved.err);
        Ok(Self { name, services, reads, unset, raw: raw.map(json).transpose()?, resolved: all })
    }

    /// What differs, for people.
    pub(super) fn diff(&self, to: &Model) -> Vec<DiffLine> {
        let mut lines = vec![];
        let names: BTreeSet<&String> = self.services.keys().chain(to.services.keys()).collect();
        for name in names {
            let image = |model: &Model| model.services.get(name).map(|service| service.image.clone());
            let (from, to) = (image(self), image(to));
            if from != to {
                lines.push(DiffLine { what: format!("image of {name}"), from, to });
            }
        }
        let (values, from, to) = match (&self.raw, &to.raw) {
            (Some(from), Some(to)) => (true, from, to),
            _ => (false, &self.resolved, &to.resolved),
        };
        let image =
            |path: &str| path.starts_with("services.") && path.ends_with(".image") && path.split('.').count() == 3;
        lines.extend(diff::of(from, to, values).into_iter().filter(|(path, _)| !image(path)).map(|(_, line)| line));
        diff::bounded(lines)
    }
}

/// The names in `The "PW" variable is not set`, however it is quoted.
fn unset(said: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (before, _) = line.split_once(" variable is not set")?;
        let name = before.rsplit(' ').next()?.trim_matches(['"', '\\']);
        (!name.is_empty()).then(|| name.to_owned())
    };
    said.lines().filter_map(name).collect()
}

/// What differs in files that Compose does not read as its own: of environment files the names, of others that they do.
pub(super) fn diff_of_files(slots: &[Slot], from: &[Option<Vec<u8>>], to: &FileSet) -> Vec<DiffLine> {
    let mut lines = vec![];
    for ((slot, from), to) in slots.iter().zip(from).zip(&to.0) {
        if from.as_ref() == Some(to) {
            continue;
        }
        match slot.role {
            Role::Compose => {}
            Role::Other => lines.push(DiffLine {
                what: slot.shown.clone(),
                from: from.as_ref().map(|bytes| format!("{} bytes", bytes.len())),
                to: Some(format!("{} bytes, which differ", to.len())),
            }),
            Role::Env => {
                let read = |bytes: &[u8]| variables(bytes).into_iter().collect::<BTreeMap<_, _>>();
                let (old, new) = (from.as_deref().map(read).unwrap_or_default(), read(to));
                let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                for name in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
                    lines.push(DiffLine {
                        what: format!("{} {name}", slot.shown),
                        from: old.get(name).map(|_| "(a value, not shown)".into()),
                        to: new.get(name).map(|_| "(another value, not shown)".into()),
                    });
                }
            }
        }
    }
    diff::bounded(lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn said(value: &Value) -> Said {
        Said { out: value.to_string().into_bytes(), err: String::new() }
    }
    fn model(resolved: &Value, raw: Option<&Value>) -> Model {
        let hashes = Said { out: b"web aa\ndb bb\n".to_vec(), err: String::new() };
        Model::read(&said(resolved), &hashes, raw.map(said).as_ref()).unwrap()
    }
    fn web(image: &str, pw: &str, level: &str) -> Value {
        json!({ "name": "shop", "services": { "web": {
            "image": image,
            "environment": { "DB_PASSWORD": pw, "LEVEL": level, "DB": format!("postgres://u:{pw}@db/x") },
            "command": ["serve", format!("--token={pw}")],
        } } })
    }

    #[test]
    fn services_with_their_images_replicas_and_hashes() {
        let both = json!({ "name": "shop", "services": {
            "web": { "image": "shop:1", "deploy": { "replicas": 3 } }, "db": { "build": {} } },
            "secrets": { "pw": { "file": "/srv/pw" } } });
        let model = model(&both, None);
        let service = |image: &str, build, replicas, hash: &str| Service {
            image: image.into(),
            build,
            replicas,
            hash: hash.into(),
        };
        assert_eq!(model.services["web"], service("shop:1", false, 3, "aa"));
        assert_eq!(model.services["db"], service("shop-db", true, 1, "bb"));
        assert_eq!(model.reads, ["/srv/pw".to_string()].into());
    }

    #[test]
    fn a_diff_shows_images_and_plain_values_and_no_secret() {
        let shown = |diff: &[DiffLine]| format!("{diff:?}");
        let (a, b) = (web("shop:2", "hunter2", "info"), web("shop:1", "hunter3", "debug"));
        // Variables not put in: their names may be seen.
        let diff = model(&a, Some(&a)).diff(&model(&b, Some(&b)));
        assert!(shown(&diff).contains("shop:2") && shown(&diff).contains("debug"), "{diff:?}");
        assert!(!shown(&diff).contains("hunter"), "{diff:?}");
        assert_eq!(diff.len(), 5, "{diff:?}");
        // An older Compose: nothing but images.
        let diff = model(&a, None).diff(&model(&b, None));
        assert!(shown(&diff).contains("shop:2"), "{diff:?}");
        assert!(!shown(&diff).contains("debug") && !shown(&diff).contains("hunter"), "{diff:?}");
        let same = model(&a, Some(&a));
        assert_eq!(same.diff(&same), []);
    }

    #[test]
    fn of_environment_files_only_the_names_are_told() {
        let slots = [Slot::new(Path::new("/srv"), Role::Env, Path::new(".env"))];
        let lines =
            diff_of_files(&slots, &[Some(b"PW=one\nSAME=x\n".to_vec())], &FileSet(vec![b"PW=two\nSAME=x\n".to_vec()]));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].what, ".env PW");
        assert!(!format!("{lines:?}").contains("two") && !format!("{lines:?}").contains("one"));
    }

    #[test]
    fn variables_that_nobody_sets() {
        let said = r#"time="2026" level=warning msg="The \"TAG\" variable is not set. Defaulting to a blank string.""#;
        assert_eq!(unset(said), ["TAG".to_string()].into());
    }
}
