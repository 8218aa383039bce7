//! The ConfigMaps that pods refer to, and Secrets that were asked for by name: read, compared, put back.
//!
//! Not here: where copies lie, which is in `record`.

use crate::{
    Cluster,
    connect::{FIELD_MANAGER, JsonPatch},
    error::Request,
    kinds::{CONFIG_MAP, ObjectKind, SECRET},
    marks,
    prepare::{Access, Reference},
};
use kube::{
    Api,
    api::{DynamicObject, ObjectMeta, PostParams},
};
use rollback_core::{DiffLine, Error, Finding, Kind, Result, Severity, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, fmt, time::Duration};

/// More lines than this tell nobody anything.
const LINES: usize = 40;
/// A value longer than this is told by its length.
const SHOWN: usize = 60;

impl Reference {
    pub(crate) fn kind(&self) -> ObjectKind {
        if self.secret { SECRET } else { CONFIG_MAP }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind().kind, self.name)
    }
}

/// What an object holds for pods. Its values stay out of `Debug`.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Content(Vec<(&'static str, Map<String, Value>)>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().flat_map(|(_, map)| map.keys())).finish()
    }
}

impl Content {
    /// What is empty is absent.
    pub(crate) fn of(object: &DynamicObject) -> Self {
        let map = |at| object.data.get(at).and_then(Value::as_object).filter(|map| !map.is_empty()).cloned();
        Self(["data", "binaryData"].into_iter().filter_map(|at| Some((at, map(at)?))).collect())
    }
    /// As it is hashed, and as it goes into an object.
    pub(crate) fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(at, map)| ((*at).to_owned(), Value::Object(map.clone()))).collect())
    }
    fn get(&self, at: &str) -> Option<&Map<String, Value>> {
        self.0.iter().find(|(key, _)| *key == at).map(|(_, map)| map)
    }
    fn value(&self, at: &str, key: &str) -> Option<&Value> {
        self.get(at)?.get(key)
    }
    /// What changes, key by key. A value is shown only if it is short and does not look like a secret; of a Secret, only
    /// its keys are.
    fn differences(&self, to: &Content, of: &Reference) -> Vec<DiffLine> {
        let mut lines = vec![];
        for at in ["data", "binaryData"] {
            let keys = [self, to].into_iter().filter_map(|content| content.get(at)).flat_map(Map::keys);
            for key in keys.collect::<BTreeSet<_>>() {
                let (from, to) = (self.value(at, key), to.value(at, key));
                if from == to {
                    continue;
                }
                let hidden = of.secret || [from, to].into_iter().flatten().any(|value| may_be_secret(key, value));
                let shown = |value: Option<&Value>| Some(told(value?, of.secret, hidden, at));
                lines.push(DiffLine { what: format!("{of}: {key}"), from: shown(from), to: shown(to) });
            }
        }
        lines
    }
}

fn told(value: &Value, secret: bool, hidden: bool, at: &str) -> String {
    let text = value.as_str().unwrap_or_default();
    let lines = text.lines().count();
    match () {
        () if secret => "not shown".into(),
        () if at == "binaryData" => format!("{} bytes, base64", text.len()),
        () if lines > 1 => format!("{lines} lines, {} bytes", text.len()),
        () if hidden => format!("not shown, {} bytes", text.len()),
        () if text.len() > SHOWN => format!("{} bytes", text.len()),
        () => text.trim_end().to_owned(),
    }
}

/// Whether a value of a ConfigMap had better not be shown. Wrong on the safe side.
fn may_be_secret(key: &str, value: &Value) -> bool {
    const WORDS: [&str; 11] =
        ["pass", "secret", "token", "key", "credential", "private", "auth", "dsn", "cookie", "salt", "cert"];
    let text = value.as_str().unwrap_or_default();
    let (key, lower) = (key.to_lowercase(), text.to_lowercase());
    let named = WORDS.iter().any(|word| key.contains(word) || lower.contains(word));
    // A URL with a password in it.
    let login = text.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().unwrap_or(rest).contains('@'));
    // What no person would write.
    let random = text.split(|c: char| c.is_whitespace() || "=:,;/\"'".contains(c)).any(|word| {
        let has = |of: fn(&char) -> bool| word.chars().any(|c| of(&c));
        word.len() >= 20 && has(char::is_ascii_digit) && has(char::is_ascii_alphabetic)
    });
    named || login || random
}

/// What is to be put back: which object, from which copy, and as which version it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restore {
    pub(crate) object: Reference,
    /// Its version when the change was made ready; `None` where it was not there.
    pub(crate) version: Option<String>,
    /// The name of the copy.
    pub(crate) copy: String,
}

/// How an object that pods refer to differs from the copy.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) restores: Vec<Restore>,
    pub(crate) lines: Vec<DiffLine>,
    pub(crate) findings: Vec<Finding>,
}

impl Compared {
    /// Takes one in.
    pub(crate) fn add(&mut self, of: &Reference, copy: &DynamicObject, live: Option<&DynamicObject>) {
        let wanted = Content::of(copy);
        let now = live.map(Content::of).unwrap_or_default();
        if live.is_some() && now == wanted {
            return;
        }
        if live.is_some_and(|live| live.data.get("immutable") == Some(&Value::Bool(true))) {
            let text = format!("the {of} has changed, and is immutable: delete it, and it is made anew from the copy");
            self.findings.push(Finding::new(Severity::Blocks, "config", text));
        }
        if live.is_none() {
            self.lines.push(DiffLine { what: of.to_string(), from: None, to: Some("made anew".into()) });
        }
        self.lines.extend(now.differences(&wanted, of));
        self.restores.push(Restore {
            object: of.clone(),
            version: live.and_then(|live| live.metadata.resource_version.clone()),
            copy: copy.metadata.name.clone().unwrap_or_default(),
        });
    }
    /// The rights to archive and put back.
    pub(crate) fn needed(&self, namespace: &str) -> Vec<Access> {
        let kinds = [CONFIG_MAP, SECRET].into_iter();
        let kinds = kinds.filter(|kind| self.restores.iter().any(|restore| restore.object.kind() == *kind));
        kinds.flat_map(|kind| ["create", "patch"].map(|verb| Access::new(verb, kind, namespace))).collect()
    }
    /// The lines, as many as a person reads.
    pub(crate) fn bounded(mut self) -> Self {
        let more = self.lines.len().saturating_sub(LINES);
        if more > 0 {
            self.lines.truncate(LINES);
            self.lines.push(DiffLine { what: format!("{more} more keys"), from: None, to: None });
        }
        self
    }
}

/// The objects of a namespace that pods refer to.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
}

/// What was put back, with what was there before, so that it can be taken back.
#[derive(Debug)]
pub(crate) struct PutBack {
    of: Reference,
    before: Option<Content>,
    /// As it was left.
    now: DynamicObject,
}

impl Configs {
    /// `None` where it is not there.
    pub(crate) async fn read(&self, of: &Reference) -> Result<Option<DynamicObject>> {
        self.copy(of.kind(), &of.name).await
    }
    pub(crate) async fn copy(&self, kind: ObjectKind, name: &str) -> Result<Option<DynamicObject>> {
        match self.cluster.get("read what pods refer to", kind, &self.namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes an object. [`Kind::Conflict`] where it is there already.
    pub(crate) async fn create(
        &self,
        operation: &str,
        kind: ObjectKind,
        metadata: ObjectMeta,
        data: Value,
        time: Duration,
    ) -> Result<DynamicObject> {
        let name = metadata.name.clone().unwrap_or_default();
        let request = Request { operation, verb: "create", kind, namespace: Some(&self.namespace), name: &name };
        let resource = kind.resource();
        let mut object = DynamicObject::new(&name, &resource).data(data);
        object.metadata = metadata;
        let api: Api<DynamicObject> = Api::namespaced_with(self.cluster.client().clone(), &self.namespace, &resource);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        self.cluster.ask(time, &request, api.create(&params, &object)).await
    }

    /// Puts all of it back, each only as it was looked at. What has the copy's content already is left. Where one fails,
    /// what was put back before it is taken back.
    pub(crate) async fn restore(&self, restores: &[Restore], work: &Work) -> Result<Vec<PutBack>> {
        let mut done = vec![];
        for restore in restores {
            match self.restore_one(restore, work).await {
                Ok(put) => done.extend(put),
                Err(e) => return Err(self.take_back(done, e, work).await),
            }
        }
        Ok(done)
    }

    async fn restore_one(&self, restore: &Restore, work: &Work) -> Result<Option<PutBack>> {
        let of = &restore.object;
        let operation = "put back what pods refer to";
        let stale = |why: String| Error::new(Kind::Stale, operation).with_message(why).without_effect();
        let copy = self.copy(of.kind(), &restore.copy).await?;
        let copy = copy.ok_or_else(|| stale(format!("the copy of {of} ({}) is gone", restore.copy)))?;
        let wanted = Content::of(&copy);
        let live = self.read(of).await?;
        let before = live.as_ref().map(Content::of);
        if before.as_ref() == Some(&wanted) {
            return Ok(None);
        }
        let version = live.as_ref().and_then(|live| live.metadata.resource_version.clone());
        if version != restore.version {
            return Err(stale(format!("the {of} has changed since it was looked at: look again")));
        }
        let marks = marks::of_write(work);
        let now = match live {
            Some(live) => self.write(operation, of, &live, &wanted, marks, work.within()).await?,
            None => {
                let mut data = wanted.json();
                if let Some(kind) = copy.data.get("type") {
                    data["type"] = kind.clone();
                }
                let metadata = ObjectMeta {
                    name: Some(of.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    annotations: Some(marks.into_iter().collect()),
                    ..ObjectMeta::default()
                };
                self.create(operation, of.kind(), metadata, data, work.within()).await?
            }
        };
        Ok(Some(PutBack { of: of.clone(), before, now }))
    }

    /// One patch, refused if the object is not as it was read.
    async fn write(
        &self,
        operation: &str,
        of: &Reference,
        live: &DynamicObject,
        wanted: &Content,
        annotations: marks::Annotations,
        time: Duration,
    ) -> Result<DynamicObject> {
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": live.metadata.uid}),
            json!({"op": "replace", "path": "/metadata/resourceVersion", "value": live.metadata.resource_version}),
        ];
        for at in ["data", "binaryData"] {
            let there = live.data.get(at).is_some_and(|map| !map.is_null());
            match wanted.get(at) {
                Some(map) => operations.push(json!({"op": "add", "path": format!("/{at}"), "value": map})),
                None if there => operations.push(json!({"op": "remove", "path": format!("/{at}")})),
                None => {}
            }
        }
        let any = live.metadata.annotations.as_ref().is_some_and(|all| !all.is_empty());
        marks::annotate(&mut operations, any, annotations);
        self.cluster
            .patch(JsonPatch {
                operation,
                kind: of.kind(),
                namespace: &self.namespace,
                name: &of.name,
                operations,
                dry_run: false,
                within: time,
            })
            .await
    }

    /// The write that all this was for was refused: what was put back is as it was before, unless somebody wrote since.
    /// What is made anew stays, as nothing refers to it that was there before. Gives the error to be answered.
    pub(crate) async fn take_back(&self, done: Vec<PutBack>, because: Error, work: &Work) -> Error {
        let operation = "take back what was put back";
        let mut left = vec![];
        for put in done.into_iter().rev() {
            let Some(before) = &put.before else {
                left.push(put.of.to_string());
                continue;
            };
            let none = marks::Annotations::new();
            if let Err(e) = self.write(operation, &put.of, &put.now, before, none, work.within()).await {
                left.push(format!("{} ({e})", put.of));
            }
        }
        if left.is_empty() {
            return because;
        }
        Error::new(because.kind(), "roll back")
            .with_transient(because.is_transient())
            .with_message(format!("put back already, and left so: {}", left.join(", ")))
            .with_source(because)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn object(data: Value) -> DynamicObject {
        let mut object = json!({"metadata": {"name": "app", "uid": "u", "resourceVersion": "3"}});
        object.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }
    fn config() -> Reference {
        Reference { secret: false, name: "app".into() }
    }
    fn compared(of: &Reference, copy: Value, live: Option<Value>) -> Compared {
        let mut compared = Compared::default();
        compared.add(of, &object(copy), live.map(object).as_ref());
        compared.bounded()
    }

    #[test]
    fn keys_and_short_values_are_shown() {
        let lines = compared(
            &config(),
            json!({"data": {"LEVEL": "info", "same": "x", "nginx.conf": "a\nb\nc\n"}, "binaryData": {"logo": "AAAA"}}),
            Some(json!({"data": {"LEVEL": "debug", "same": "x", "NEW": "1", "nginx.conf": "a\nb\n"}})),
        )
        .lines;
        let line = |what: &str, from: Option<&str>, to: Option<&str>| DiffLine {
            what: format!("ConfigMap app: {what}"),
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        assert_eq!(
            lines,
            [
                line("LEVEL", Some("debug"), Some("info")),
                line("NEW", Some("1"), None),
                line("nginx.conf", Some("2 lines, 4 bytes"), Some("3 lines, 6 bytes")),
                line("logo", None, Some("4 bytes, base64")),
            ]
        );
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (key, value) in [
            ("DB_PASSWORD", "hunter2"),
            ("database", "postgres://shop:hunter2@db/shop"),
            ("settings", "password=hunter2"),
            ("id", "hunter2hunter2hunter2"),
        ] {
            let lines = compared(&config(), json!({"data": {key: value}}), Some(json!({"data": {key: "x"}}))).lines;
            assert_eq!(lines.len(), 1, "{key}");
            assert!(!format!("{lines:?}").contains("hunter"), "{key}: {lines:?}");
        }
        let secret = Reference { secret: true, name: "app".into() };
        let lines = compared(&secret, json!({"data": {"a": "aHVudGVy"}}), Some(json!({"data": {"a": "eA=="}}))).lines;
        assert_eq!(lines, [DiffLine::new("Secret app: a", "not shown", "not shown")]);
        assert!(!format!("{:?}", Content::of(&object(json!({"data": {"a": "hunter2"}})))).contains("hunter"));
    }

    #[test]
    fn what_is_as_it_was_is_left() {
        let same = json!({"data": {"a": "b"}});
        assert!(compared(&config(), same.clone(), Some(same.clone())).restores.is_empty());
        let empty = compared(&config(), json!({"data": {}}), Some(json!({})));
        assert!(empty.restores.is_empty(), "nothing and nothing are the same");
        let gone = compared(&config(), same.clone(), None);
        assert_eq!((gone.restores[0].version.as_deref(), gone.lines[0].to.as_deref()), (None, Some("made anew")));
        let fixed = compared(&config(), same, Some(json!({"data": {"a": "c"}, "immutable": true})));
        assert_eq!(fixed.findings[0].severity, Severity::Blocks);
    }

    #[test]
    fn a_diff_is_bounded() {
        let many: Map<String, Value> = (0..100).map(|n| (format!("k{n}"), json!("v"))).collect();
        let lines = compared(&config(), json!({"data": many}), Some(json!({}))).lines;
        assert_eq!((lines.len(), lines.last().unwrap().what.as_str()), (LINES + 1, "60 more keys"));
    }
}
