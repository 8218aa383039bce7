//! What the user gave a container, as against what its image brought along; and the container that has the same from
//! another image.
//!
//! The engine mixes both when it makes a container, and shows the mixture. A copy of the mixture on another image would
//! carry the bad image's environment, command, entrypoint, labels, directory, user, ports and health check, so what the bad
//! image says is subtracted first; what is left was given.

use crate::{marks, release::short};
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HealthConfig, HostConfig,
    ImageConfig, Mount, NetworkingConfig,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Compose's label for the container that it is about to replace: left behind by a Compose that was killed.
const COMPOSE_REPLACE: &str = "com.docker.compose.replace";

/// What all of its labels begin with.
pub(crate) const COMPOSE: &str = "com.docker.compose.";

/// What makes a container like another one: the body, and the networks that are connected before it starts. An engine older
/// than 25 takes one network only when a container is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) body: ContainerCreateBody,
    pub(crate) networks: BTreeMap<String, EndpointSettings>,
}

/// What was given to a container: all it has, without what its image brought.
pub(crate) fn given(container: &ContainerInspectResponse, image: &ImageConfig) -> Spec {
    let id = container.id.as_deref().unwrap_or_default();
    let config = container.config.clone().unwrap_or_default();
    let host = host_config(container);
    let mode = host.network_mode.clone().unwrap_or_default();
    // Another container's network, or the host's, has no endpoints of its own.
    let own_network = !mode.starts_with("container:") && mode != "host" && mode != "none";
    let networks = container.network_settings.as_ref().and_then(|n| n.networks.clone()).unwrap_or_default();
    let networks: BTreeMap<_, _> = networks
        .into_iter()
        .filter(|_| own_network)
        .map(|(name, endpoint)| {
            let name = if name == "bridge" && mode == "default" { "default".into() } else { name };
            (name, endpoint_given(endpoint, id))
        })
        .collect();
    let first = networks.iter().find(|(name, _)| **name == mode).or_else(|| networks.iter().next());
    let first = first.map(|(name, endpoint)| (name.clone(), endpoint.clone()));
    let body = body(config, image, host, id, !own_network);
    let networking = first.map(|first| NetworkingConfig { endpoints_config: Some([first].into()) });
    Spec { body: ContainerCreateBody { networking_config: networking, ..body }, networks }
}

fn body(
    config: ContainerConfig,
    image: &ImageConfig,
    host: HostConfig,
    id: &str,
    borrowed: bool,
) -> ContainerCreateBody {
    let env_of_image = image.env.clone().unwrap_or_default();
    let env = config.env.map(|env| env.into_iter().filter(|line| !env_of_image.contains(line)).collect());
    let mut labels: HashMap<String, String> = config.labels.unwrap_or_default();
    let of_image = image.labels.clone().unwrap_or_default();
    // Images that Compose built have its labels too, with the same values: those are the container's own all the same.
    let brought = |name: &str, value: &String| of_image.get(name) == Some(value) && !name.starts_with(COMPOSE);
    labels.retain(|name, value| !brought(name, value) && name != COMPOSE_REPLACE);
    marks::remove(&mut labels);
    let less = |all: Option<Vec<String>>, image: &Option<Vec<String>>| {
        let left: Vec<String> =
            all.unwrap_or_default().into_iter().filter(|one| !image.iter().flatten().any(|i| i == one)).collect();
        (!left.is_empty()).then_some(left)
    };
    // An entrypoint of the user's takes the image's command away, and then there is none to subtract.
    ContainerCreateBody {
        // Made of the id where none was given. One that uses another's network must not have any.
        hostname: config.hostname.filter(|name| !id.starts_with(name.as_str()) && !borrowed),
        domainname: config.domainname.filter(|name| !name.is_empty() && !borrowed),
        user: config.user.filter(|user| Some(user) != image.user.as_ref()),
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: less(config.exposed_ports, &image.exposed_ports).filter(|_| !borrowed),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env,
        cmd: config.cmd.filter(|cmd| Some(cmd) != image.cmd.as_ref()),
        healthcheck: health_given(config.healthcheck, image.healthcheck.as_ref()),
        args_escaped: config.args_escaped,
        volumes: less(config.volumes, &image.volumes),
        working_dir: config.working_dir.filter(|dir| Some(dir) != image.working_dir.as_ref()),
        entrypoint: config.entrypoint.filter(|entry| Some(entry) != image.entrypoint.as_ref()),
        network_disabled: config.network_disabled,
        labels: Some(labels),
        stop_signal: config.stop_signal.filter(|signal| Some(signal) != image.stop_signal.as_ref()),
        stop_timeout: config.stop_timeout,
        shell: config.shell.filter(|shell| Some(shell) != image.shell.as_ref()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// The engine fills in from the image each field of a health check that was not given.
fn health_given(has: Option<HealthConfig>, image: Option<&HealthConfig>) -> Option<HealthConfig> {
    let has = has?;
    let Some(image) = image else { return Some(has) };
    let differs = |has: Option<i64>, image: Option<i64>| has.filter(|has| Some(*has) != image);
    let given = HealthConfig {
        test: has.test.filter(|test| Some(test) != image.test.as_ref()),
        interval: differs(has.interval, image.interval),
        timeout: differs(has.timeout, image.timeout),
        retries: differs(has.retries, image.retries),
        start_period: differs(has.start_period, image.start_period),
        start_interval: differs(has.start_interval, image.start_interval),
    };
    (given != HealthConfig::default()).then_some(given)
}

/// The host's half. Anonymous volumes are in no list of it: they are bound by the name that the engine gave them, or the
/// data would stay behind.
fn host_config(container: &ContainerInspectResponse) -> HostConfig {
    let mut host = container.host_config.clone().unwrap_or_default();
    let mut binds = host.binds.take().unwrap_or_default();
    let known: Vec<String> = binds
        .iter()
        .filter_map(|bind| bind.split(':').nth(1).map(str::to_owned))
        .chain(host.mounts.iter().flatten().filter_map(|mount| mount.target.clone()))
        .collect();
    for mount in container.mounts.iter().flatten() {
        let (Some("volume"), Some(name), Some(to)) = (mount.typ.as_deref(), &mount.name, &mount.destination) else {
            continue;
        };
        if !known.contains(to) {
            binds.push(format!("{name}:{to}{}", if mount.rw == Some(false) { ":ro" } else { "" }));
        }
    }
    // A volume that is listed as a mount without a source is an anonymous one too: it has a name by now.
    for mount in host.mounts.iter_mut().flatten() {
        let unnamed = mount.source.as_ref().is_none_or(String::is_empty)
            && mount.typ.map(|t| t.to_string()) == Some("volume".into());
        if unnamed {
            let now = container.mounts.iter().flatten().find(|m| m.destination == mount.target);
            mount.source = now.and_then(|m| m.name.clone());
        }
    }
    host.binds = (!binds.is_empty()).then_some(binds);
    // Only for the terminal of whoever started it.
    host.console_size = None;
    host.container_id_file = None;
    host
}

/// What was given of an endpoint. The rest the engine found out by itself; the id among the aliases is the old container's.
fn endpoint_given(endpoint: EndpointSettings, id: &str) -> EndpointSettings {
    let aliases = endpoint.aliases.map(|all| all.into_iter().filter(|a| a != short(id) && a != id).collect::<Vec<_>>());
    EndpointSettings {
        ipam_config: endpoint.ipam_config,
        links: endpoint.links,
        aliases,
        driver_opts: endpoint.driver_opts,
        gw_priority: endpoint.gw_priority,
        ..EndpointSettings::default()
    }
}

/// Why two containers like this cannot run side by side, if they cannot.
pub(crate) fn exclusive(spec: &Spec) -> Option<String> {
    let host = spec.body.host_config.as_ref()?;
    for (port, bindings) in host.port_bindings.iter().flatten() {
        for binding in bindings.iter().flatten() {
            // Without a number the engine takes any free port.
            if let Some(number) = binding.host_port.as_deref().filter(|n| !n.is_empty() && *n != "0") {
                return Some(format!("it publishes {port} on port {number} of the host"));
            }
        }
    }
    let mode = host.network_mode.as_deref().unwrap_or_default();
    if mode == "host" || mode.starts_with("container:") {
        return Some(format!("it uses the network of another ({mode})"));
    }
    for (name, endpoint) in &spec.networks {
        let fixed =
            endpoint.ipam_config.as_ref().and_then(|ipam| ipam.ipv4_address.as_ref().or(ipam.ipv6_address.as_ref()));
        if let Some(address) = fixed.filter(|a| !a.is_empty()) {
            return Some(format!("it has the fixed address {address} in {name}"));
        }
    }
    None
}

/// The host ports it publishes: address, number and protocol as docker writes them.
pub(crate) fn published(spec: &Spec) -> Vec<u16> {
    let host = spec.body.host_config.as_ref();
    let bindings =
        host.and_then(|h| h.port_bindings.as_ref()).into_iter().flat_map(HashMap::values).flatten().flatten();
    bindings.filter_map(|b| b.host_port.as_deref()?.parse().ok()).filter(|port| *port != 0).collect()
}

/// The volumes it has by name, those that nobody named included.
pub(crate) fn volumes(spec: &Spec) -> Vec<String> {
    let Some(host) = &spec.body.host_config else { return vec![] };
    let binds = host.binds.iter().flatten().filter_map(|bind| bind.split_once(':')).map(|(from, _)| from.to_owned());
    let volume = |mount: &&Mount| mount.typ.map(|t| t.to_string()) == Some("volume".into());
    let mounts = host.mounts.iter().flatten().filter(volume).filter_map(|mount| mount.source.clone());
    // What begins so is a path of the host.
    binds.filter(|from| !from.starts_with('/')).chain(mounts).filter(|name| !name.is_empty()).collect()
}

/// Volumes that both would write to while they run side by side.
pub(crate) fn shared_volumes(container: &ContainerInspectResponse) -> Vec<String> {
    let mounts = container.mounts.iter().flatten();
    mounts.filter(|m| m.rw != Some(false)).filter_map(|m| m.destination.clone()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(value).unwrap()
    }
    fn image(value: serde_json::Value) -> ImageConfig {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_the_image_brought_is_left_out() {
        let bad = image(json!({
            "Env": ["PATH=/bin", "VERSION=2"], "Cmd": ["serve", "--new"], "Entrypoint": ["/new"], "User": "app",
            "WorkingDir": "/new", "Labels": {"version": "2"}, "ExposedPorts": {"8080/tcp": {}}, "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD", "new-check"], "Interval": 5, "Retries": 3}, "Volumes": {"/data": {}},
        }));
        let seen = container(json!({
            "Id": "0123456789abcdef", "Name": "/shop-1",
            "Config": {
                "Hostname": "0123456789ab", "User": "app", "WorkingDir": "/new", "StopSignal": "SIGINT",
                "Env": ["MODE=till", "PATH=/bin", "VERSION=2"], "Cmd": ["serve", "--new"], "Entrypoint": ["/new"],
                "Labels": {"version": "2", "team": "till", "com.docker.compose.replace": "x", "rollback.key": "old"},
                "ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}}, "Volumes": {"/data": {}},
                "Healthcheck": {"Test": ["CMD", "new-check"], "Interval": 9, "Retries": 3},
            },
            "HostConfig": {"NetworkMode": "net", "Binds": ["named:/named"], "RestartPolicy": {"Name": "always"}},
            "Mounts": [
                {"Type": "volume", "Name": "f00", "Destination": "/data", "RW": true},
                {"Type": "volume", "Name": "named", "Destination": "/named", "RW": true},
            ],
            "NetworkSettings": {"Networks": {
                "net": {"Aliases": ["shop", "0123456789ab"], "IPAddress": "172.1.1.2", "MacAddress": "02:42:ac:01:01:02"},
                "second": {"Aliases": ["0123456789ab"]},
            }},
        }));
        let spec = given(&seen, &bad);
        let body = &spec.body;
        assert_eq!(body.env.as_deref(), Some(&["MODE=till".to_string()][..]));
        assert_eq!((&body.cmd, &body.entrypoint, &body.user, &body.working_dir), (&None, &None, &None, &None));
        assert_eq!((&body.hostname, &body.stop_signal, &body.volumes), (&None, &None, &None));
        assert_eq!(body.exposed_ports.as_deref(), Some(&["9090/tcp".to_string()][..]));
        assert_eq!(body.labels, Some([("team".to_string(), "till".to_string())].into()));
        assert_eq!(body.healthcheck, Some(HealthConfig { interval: Some(9), ..HealthConfig::default() }));
        let host = body.host_config.as_ref().unwrap();
        assert_eq!(host.binds.as_deref(), Some(&["named:/named".to_string(), "f00:/data".into()][..]));
        assert!(host.restart_policy.is_some());
        // The network of its mode first, and nothing that the engine found out by itself.
        let first = body.networking_config.as_ref().unwrap().endpoints_config.as_ref().unwrap();
        assert_eq!(first["net"].aliases.as_deref(), Some(&["shop".to_string()][..]));
        assert_eq!((&first["net"].ip_address, &first["net"].mac_address), (&None, &None));
        assert_eq!(spec.networks.len(), 2);
        assert_eq!(exclusive(&spec), None);
    }

    #[test]
    fn what_was_given_stays() {
        let bad = image(json!({"Env": ["MODE=a"], "Cmd": ["serve"], "Entrypoint": ["/in"]}));
        let seen = container(json!({
            "Id": "0123456789abcdef",
            "Config": {"Hostname": "till-7", "Env": ["MODE=b"], "Cmd": null, "Entrypoint": ["/mine"], "Labels": {}},
            "HostConfig": {"NetworkMode": "host"},
        }));
        let spec = given(&seen, &bad);
        assert_eq!(spec.body.entrypoint.as_deref(), Some(&["/mine".to_string()][..]));
        assert_eq!((&spec.body.cmd, spec.body.env.as_deref()), (&None, Some(&["MODE=b".to_string()][..])));
        assert!(exclusive(&spec).unwrap().contains("host"));
        assert!(spec.networks.is_empty());
    }

    #[test]
    fn what_cannot_run_twice() {
        let with = |host: serde_json::Value, networks: serde_json::Value| {
            let seen = container(json!({
                "Id": "0123456789abcdef", "Config": {}, "HostConfig": host, "NetworkSettings": {"Networks": networks},
            }));
            given(&seen, &ImageConfig::default())
        };
        let port = |number: &str| json!({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": number}]}});
        for (what, spec, alone) in [
            ("a port", with(port("8080"), json!({})), true),
            ("any port", with(port(""), json!({})), false),
            ("any port, as a zero", with(port("0"), json!({})), false),
            (
                "an address",
                with(json!({"NetworkMode": "n"}), json!({"n": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}})),
                true,
            ),
            ("nothing", with(json!({"NetworkMode": "n"}), json!({"n": {"IPAMConfig": {}}})), false),
        ] {
            assert_eq!(exclusive(&spec).is_some(), alone, "{what}");
        }
        assert_eq!(published(&with(port("8080"), json!({}))), [8080]);
    }
}
