//! What the containers of a recorded release were given, kept with its image: so that it can be said at a rollback what is
//! other than it was then, and so that they can be made again when they are gone.
//!
//! Values may be secrets. They are kept where those of what runs are: by the engine, in the environment of the container that
//! holds the image, which is shown to who inspects it and in no list; and in an archive, in a file that only its owner may
//! read. Nothing but names leaves for reports and journals.

use crate::{
    diff,
    spec::{COMPOSE, Spec},
};
use bollard::models::HostConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// The variable in which a holder has them.
const VARIABLE: &str = "ROLLBACK_SETTINGS=";
/// So many names are said.
const NAMED: usize = 12;

/// What one container was given.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Given {
    /// What its image was called when somebody made it by hand or with Compose.
    pub(crate) image_name: String,
    pub(crate) spec: Spec,
}

/// What each container was given, by its name.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings(BTreeMap<String, Given>);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Settings {
    pub(crate) fn new(each: impl IntoIterator<Item = (String, Given)>) -> Self {
        Self(each.into_iter().collect())
    }
    pub(crate) fn each(&self) -> impl Iterator<Item = (&String, &Given)> {
        self.0.iter()
    }
    pub(crate) fn of(&self, name: &str) -> Option<&Given> {
        self.0.get(name)
    }
    /// As it is kept; none for what cannot be written.
    pub(crate) fn to_text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
    /// Those of another version of this library count as not kept.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
    pub(crate) fn to_variable(&self) -> Option<String> {
        self.to_text().map(|text| format!("{VARIABLE}{text}"))
    }
    pub(crate) fn in_environment(env: &[String]) -> Option<Self> {
        env.iter().find_map(|line| line.strip_prefix(VARIABLE)).and_then(Self::read)
    }
    /// What is other in `now`, by name; none where this place was not there then, or nothing is.
    pub(crate) fn drift(&self, place: &str, now: &Spec) -> Option<String> {
        let (then, now) = (named(&self.0.get(place)?.spec), named(now));
        let mut names: Vec<&str> = then.keys().chain(now.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| then.get(*name) != now.get(*name));
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")))
    }
}

/// Each setting with its name: as `docker inspect` calls it, and variables, labels and networks by their own.
fn named(spec: &Spec) -> BTreeMap<String, String> {
    let mut body = spec.body.clone();
    let mut settings = BTreeMap::new();
    let env = body.env.take().unwrap_or_default();
    let labels = body.labels.take().unwrap_or_default();
    // Only for the terminal of whoever started it.
    (body.attach_stdin, body.attach_stdout, body.attach_stderr) = (None, None, None);
    body.networking_config = None;
    body.host_config = body.host_config.map(without_volume_ids);
    let value = |value: serde_json::Result<Value>| value.unwrap_or_default();
    diff::flatten("", &value(serde_json::to_value(body)), &mut settings);
    for (network, endpoint) in &spec.networks {
        diff::flatten(&format!("network {network}"), &value(serde_json::to_value(endpoint)), &mut settings);
    }
    // Engines leave out what is as by default, or say it.
    settings.retain(|_, value| !matches!(value.as_str(), "" | "0" | "false"));
    let mut settings: BTreeMap<String, String> = settings
        .into_iter()
        .map(|(name, value)| (name.strip_prefix("HostConfig.").unwrap_or(&name).to_owned(), value))
        .collect();
    settings.extend(spec.networks.keys().map(|network| (format!("network {network}"), String::new())));
    settings.extend(env.iter().map(|line| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (format!("environment {name}"), value.to_owned())
    }));
    // What Compose's own labels say changes with each deploy.
    let labels = labels.into_iter().filter(|(name, _)| !name.starts_with(COMPOSE));
    settings.extend(labels.map(|(name, value)| (format!("label {name}"), value)));
    settings
}

/// The engine names a volume that nobody named, another one each time.
fn without_volume_ids(mut host: HostConfig) -> HostConfig {
    let nobodys = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    for bind in host.binds.iter_mut().flatten() {
        if let Some((_, at)) = bind.split_once(':').filter(|(name, _)| nobodys(name)) {
            *bind = at.to_owned();
        }
    }
    for mount in host.mounts.iter_mut().flatten() {
        mount.source = mount.source.take().filter(|name| !nobodys(name));
    }
    host
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec;
    use bollard::models::ImageConfig;
    use serde_json::json;

    fn shop(spec: Spec) -> Settings {
        Settings::new([("shop-1".to_owned(), Given { image_name: "shop:1".into(), spec })])
    }
    fn spec(mode: &str, memory: u64, volume: &str, hash: &str) -> Spec {
        let seen = json!({
            "Id": "0123456789abcdef",
            "Config": {
                "Env": [format!("MODE={mode}"), "KEY=hunter2"], "Cmd": ["serve"], "ExposedPorts": {"8080/tcp": {}},
                "Labels": {"team": "till", "com.docker.compose.config-hash": hash},
            },
            "HostConfig": {
                "NetworkMode": "net", "Memory": memory, "Binds": [format!("{}:/data", volume.repeat(64))],
                "PortBindings": {"8080/tcp": [{"HostIp": "", "HostPort": "80"}]},
            },
            "NetworkSettings": {"Networks": {"net": {"Aliases": ["shop"]}}},
        });
        spec::given(&serde_json::from_value(seen).unwrap(), &ImageConfig::default())
    }

    #[test]
    fn what_differs_is_named_and_no_value_is() {
        let then = shop(spec("hunter2", 5, "a", "1"));
        assert_eq!(then.drift("shop-1", &spec("hunter2", 5, "b", "2")), None);
        let drift = then.drift("shop-1", &spec("loud", 0, "b", "2")).unwrap();
        assert_eq!(drift, "Memory, environment MODE");
        assert_eq!(then.drift("shop-2", &spec("loud", 0, "b", "2")), None, "it was not there then");
        assert!(!format!("{then:?}").contains("hunter2"));
        let mut other = spec("hunter2", 5, "a", "1");
        other.networks.clear();
        assert!(then.drift("shop-1", &other).unwrap().starts_with("network net"));
    }

    #[test]
    fn kept_whole_and_read_back() {
        let then = shop(spec("a=b\n", 5, "a", "1"));
        let env = ["PATH=/bin".to_owned(), then.to_variable().unwrap()];
        assert_eq!(Settings::in_environment(&env), Some(then));
        assert_eq!(Settings::in_environment(&["PATH=/bin".to_owned()]), None);
        assert_eq!(Settings::read("{\"shop-1\": 7}"), None);
    }
}
