//! What a watch has shown so far: objects by name, found by what they are looked up by. Pure.
//!
//! An object is only ever replaced by a later state of it, whatever order answers come in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rollback_core::Nudger;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Which state of an object, in the order in which the API server made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u64);

impl Version {
    /// Versions are numbers wherever Kubernetes stores in etcd, and are documented as comparable since 1.35. `None` for
    /// anything else, which is then not kept.
    pub(super) fn of(version: &str) -> Option<Self> {
        version.parse().ok().map(Self)
    }
}

/// What is kept of a kind of object.
pub(crate) trait Kept: Send + Sync + Sized + 'static {
    /// As it comes from the API server.
    type Object: Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static;
    /// Its metadata.
    fn metadata(object: &Self::Object) -> &ObjectMeta;
    /// What is kept; `None` where it cannot be read.
    fn of(object: Self::Object) -> Option<Self>;
    /// What it is found by, besides its name.
    fn found_by(&self, namespace: &str) -> Vec<String>;
}

/// `namespace/name`.
pub(super) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[derive(Debug)]
struct Row<T> {
    version: Version,
    item: Arc<T>,
    found_by: Vec<Arc<str>>,
}

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: HashMap<Arc<str>, Row<T>>,
    index: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Who is told that something is new, by what it is found by.
    told: HashMap<String, Vec<Nudger>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), index: HashMap::new(), told: HashMap::new() }
    }
}

/// Name and version of an object.
pub(super) fn place(metadata: &ObjectMeta) -> Option<(String, Version)> {
    let version = Version::of(metadata.resource_version.as_deref()?)?;
    Some((key(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref()?), version))
}

impl<T: Kept> Table<T> {
    /// It was made or changed. Whether it could be kept: a state that is older than the one that is known already was.
    pub(super) fn put(&mut self, object: T::Object) -> bool {
        let metadata = T::metadata(&object);
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let Some((key, version)) = place(metadata) else { return false };
        if self.rows.get(key.as_str()).is_some_and(|row| row.version >= version) {
            return true;
        }
        match T::of(object) {
            Some(item) => {
                self.insert(key, version, &namespace, Arc::new(item));
                true
            }
            None => {
                // Better none than an older one.
                self.take_out(&key);
                false
            }
        }
    }
    /// A later state of what is there, from somewhere else than the watch. What is not there may have been deleted since,
    /// which nobody would say again.
    pub(super) fn renew(&mut self, object: T::Object) {
        if place(T::metadata(&object)).is_some_and(|(key, _)| self.rows.contains_key(key.as_str())) {
            self.put(object);
        }
    }
    /// It was deleted.
    pub(super) fn remove(&mut self, metadata: &ObjectMeta) {
        let Some((key, version)) = place(metadata) else { return };
        if self.rows.get(key.as_str()).is_some_and(|row| row.version <= version) {
            self.take_out(&key);
        }
    }
    /// Only these were there when a list was made, at that version. What came later stays.
    pub(super) fn keep_only(&mut self, there: &HashSet<String>, at: Version) {
        let gone = self.rows.iter().filter(|(key, row)| row.version <= at && !there.contains(&***key));
        let gone: Vec<Arc<str>> = gone.map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.take_out(key));
    }
    fn insert(&mut self, key: String, version: Version, namespace: &str, item: Arc<T>) {
        self.take_out(&key);
        let key: Arc<str> = key.into();
        let found_by: Vec<Arc<str>> = item.found_by(namespace).into_iter().map(Arc::from).collect();
        self.tell(&key, &found_by);
        for by in &found_by {
            self.index.entry(by.clone()).or_default().insert(key.clone());
        }
        self.rows.insert(key, Row { version, item, found_by });
    }
    fn take_out(&mut self, key: &str) {
        let Some(row) = self.rows.remove(key) else { return };
        self.tell(key, &row.found_by);
        for by in &row.found_by {
            if let Some(keys) = self.index.get_mut(by) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(by);
                }
            }
        }
    }
    fn tell(&mut self, key: &str, found_by: &[Arc<str>]) {
        for by in found_by.iter().map(|by| &**by).chain([key]) {
            if let Some(told) = self.told.get_mut(by) {
                told.retain(Nudger::is_heard);
                told.iter().for_each(Nudger::nudge);
                if told.is_empty() {
                    self.told.remove(by);
                }
            }
        }
    }
    /// Tells whenever what is found by this, or has this key, becomes another, for as long as somebody listens.
    pub(super) fn tell_of(&mut self, by: String, nudger: Nudger) {
        let told = self.told.entry(by).or_default();
        told.retain(Nudger::is_heard);
        told.push(nudger);
    }
    /// The one of this name.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.rows.get(key(namespace, name).as_str()).map(|row| &row.item)
    }
    /// Those that are found by this.
    pub(super) fn found(&self, by: &str) -> impl Iterator<Item = &Arc<T>> {
        let keys = self.index.get(by).into_iter().flatten();
        keys.filter_map(|key| self.rows.get(key)).map(|row| &row.item)
    }
    /// How many are found by this.
    pub(super) fn count(&self, by: &str) -> usize {
        self.index.get(by).map_or(0, HashSet::len)
    }
    #[cfg(test)]
    fn len(&self) -> usize {
        self.rows.len()
    }
    /// All of a namespace.
    pub(super) fn all_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        let within = format!("{namespace}/");
        self.rows.iter().filter(move |(key, _)| key.starts_with(&within)).map(|(_, row)| &row.item)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    /// What its data says.
    #[derive(Debug, PartialEq)]
    struct Note(String);
    impl Kept for Note {
        type Object = ConfigMap;
        fn metadata(object: &ConfigMap) -> &ObjectMeta {
            &object.metadata
        }
        fn of(object: ConfigMap) -> Option<Self> {
            Some(Self(object.data?.remove("says")?))
        }
        fn found_by(&self, namespace: &str) -> Vec<String> {
            vec![key(namespace, &self.0)]
        }
    }
    fn object(name: &str, version: &str, says: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "resourceVersion": version}, "data": {"says": says}}))
        .unwrap()
    }
    fn says(table: &Table<Note>, name: &str) -> Option<String> {
        table.get("n", name).map(|note| note.0.clone())
    }

    #[test]
    fn nothing_goes_back_in_time() {
        let mut table: Table<Note> = Table::default();
        assert!(table.put(object("a", "5", "five")));
        assert!(table.put(object("a", "4", "four")), "it was kept, and is over");
        assert_eq!(says(&table, "a").as_deref(), Some("five"));
        table.renew(object("a", "9", "nine"));
        table.put(object("a", "7", "seven"));
        assert_eq!(says(&table, "a").as_deref(), Some("nine"), "what was written is seen until something later is");
        table.remove(&object("a", "8", "").metadata);
        assert!(says(&table, "a").is_some(), "another one of that name was deleted before");
        table.remove(&object("a", "10", "").metadata);
        table.renew(object("a", "9", "nine"));
        assert_eq!(says(&table, "a"), None, "a late answer does not bring it back");
    }

    #[test]
    fn what_a_list_does_not_have_is_gone() {
        let mut table: Table<Note> = Table::default();
        for (name, version) in [("a", "5"), ("b", "6"), ("c", "12")] {
            table.put(object(name, version, "x"));
        }
        table.keep_only(&[key("n", "a")].into(), Version(10));
        assert_eq!((says(&table, "a").as_deref(), says(&table, "b")), (Some("x"), None));
        assert!(says(&table, "c").is_some(), "it came after the list");
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn found_by_what_it_is_now() {
        let mut table: Table<Note> = Table::default();
        table.put(object("a", "1", "x"));
        table.put(object("b", "2", "x"));
        table.put(object("a", "3", "y"));
        assert_eq!((table.count("n/x"), table.found("n/y").count(), table.count("n/z")), (1, 1, 0));
        assert_eq!(table.all_of("n").count(), 2);
        assert_eq!(table.all_of("o").count(), 0);
        table.remove(&object("b", "4", "").metadata);
        assert_eq!(table.index.len(), 1, "nothing is left of what is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn who_listens_is_told_of_its_own() {
        let mut table: Table<Note> = Table::default();
        table.put(object("a", "1", "x"));
        let (by_name, by_what) = (Nudger::new(), Nudger::new());
        let (mut of_a, mut of_x) = (by_name.nudges(), by_what.nudges());
        table.tell_of(key("n", "a"), by_name);
        table.tell_of(key("n", "x"), by_what);
        let told = async |nudges: &mut rollback_core::Nudges| {
            tokio::time::timeout(std::time::Duration::from_secs(1), nudges.next()).await.is_ok()
        };
        table.put(object("b", "2", "y"));
        assert_eq!(
            (told(&mut of_a).await, told(&mut of_x).await),
            (false, false),
            "another one, found by something else"
        );
        table.put(object("b", "3", "x"));
        assert_eq!((told(&mut of_a).await, told(&mut of_x).await), (false, true), "now it is found by that");
        table.put(object("a", "4", "y"));
        assert_eq!((told(&mut of_a).await, told(&mut of_x).await), (true, true), "it is not any more");
        table.put(object("a", "4", "y"));
        assert_eq!((told(&mut of_a).await, told(&mut of_x).await), (false, false), "that was seen before");
        table.remove(&object("a", "5", "").metadata);
        assert!(told(&mut of_a).await);
        drop((of_a, of_x));
        table.put(object("a", "6", "x"));
        assert!(table.told.is_empty(), "nobody listens any more");
    }

    #[test]
    fn what_cannot_be_read_is_not_kept() {
        let mut table: Table<Note> = Table::default();
        table.put(object("a", "1", "x"));
        let mut unreadable = object("a", "2", "x");
        unreadable.data = None;
        assert!(!table.put(unreadable));
        assert_eq!(says(&table, "a"), None);
        assert!(!table.put(object("a", "opaque", "x")));
    }
}
