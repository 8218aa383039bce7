//! The containers of a project, as the engine shows them.

use crate::{connect::Engine, error};
use bollard::{
    models::{
        ContainerInspectResponse, ContainerStateStatusEnum as State, HealthStatusEnum as Health, RestartPolicyNameEnum,
    },
    query_parameters::{InspectContainerOptions, ListContainersOptions},
};
use rollback_core::{Result, Settled};
use std::{collections::HashMap, path::Path};

const PROJECT: &str = "com.docker.compose.project";
/// A health check that fails this many times its retries will not come right by waiting.
const STREAK: i64 = 2;
/// Restarts after which a container counts as one that crashes at every start.
const RESTARTS: i64 = 3;

/// One that has run for this long has come up.
const YOUNG: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// One container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) service: String,
    /// What its settings are hashed to.
    pub(super) hash: String,
    /// What it really runs.
    pub(super) image: String,
    pub(super) working_dir: String,
    pub(super) config_files: Vec<String>,
    pub(super) settled: Settled,
    pub(super) ready: bool,
    /// It was made, and never started.
    pub(super) unstarted: bool,
    pub(super) addresses: Vec<String>,
}

impl Container {
    fn read(seen: ContainerInspectResponse) -> Option<Self> {
        let config = seen.config.clone().unwrap_or_default();
        let labels = config.labels.clone().unwrap_or_default();
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        if label("com.docker.compose.oneoff") == "True" {
            return None;
        }
        let name = seen.name.clone().unwrap_or_default().trim_start_matches('/').to_owned();
        let (settled, ready) = settled(&name, &seen);
        Some(Self {
            id: seen.id.clone().unwrap_or_default(),
            service: label("com.docker.compose.service"),
            hash: label("com.docker.compose.config-hash"),
            image: seen.image.clone().unwrap_or_default(),
            working_dir: label("com.docker.compose.project.working_dir"),
            config_files: label("com.docker.compose.project.config_files")
                .split(',')
                .filter(|file| !file.is_empty())
                .map(str::to_owned)
                .collect(),
            settled,
            ready,
            unstarted: seen.state.as_ref().and_then(|state| state.status) == Some(State::CREATED),
            addresses: addresses(&seen),
            name,
        })
    }
    /// It was made from one of these files, or does not say from which.
    pub(super) fn is_of(&self, files: &[&Path]) -> bool {
        self.config_files.is_empty() || self.config_files.iter().any(|file| files.contains(&Path::new(file)))
    }
}

/// Has it come up, and does it serve?
fn settled(name: &str, seen: &ContainerInspectResponse) -> (Settled, bool) {
    let state = seen.state.clone().unwrap_or_default();
    let restarts = seen.restart_count.unwrap_or(0);
    let policy = seen.host_config.as_ref().and_then(|host| host.restart_policy.as_ref()).and_then(|policy| policy.name);
    let restarted = matches!(
        policy,
        Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED | RestartPolicyNameEnum::ON_FAILURE)
    );
    let not_yet = |why: String| (Settled::NotYet { why: format!("{name} {why}") }, false);
    let never = |why: String| (Settled::Never { why: format!("{name} {why}") }, false);
    let code = state.exit_code.unwrap_or(0);
    match state.status {
        Some(State::RUNNING) => {
            let health = state.health.unwrap_or_default();
            let retries = seen.config.as_ref().and_then(|c| c.healthcheck.as_ref()).and_then(|h| h.retries);
            let retries = retries.filter(|n| *n > 0).unwrap_or(3);
            match health.status {
                Some(Health::STARTING) => not_yet("is starting: its health check has not passed yet".into()),
                Some(Health::UNHEALTHY) if health.failing_streak.unwrap_or(0) >= STREAK * retries => {
                    never("is unhealthy, and has been for twice its retries".into())
                }
                Some(Health::UNHEALTHY) => not_yet("is unhealthy".into()),
                // The count is never set back, so it alone says nothing of a container that has run for long.
                _ if restarts >= RESTARTS && is_young(state.started_at.as_deref()) => {
                    not_yet(format!("runs, after {restarts} restarts"))
                }
                _ => (Settled::Yes, true),
            }
        }
        Some(State::RESTARTING) if restarts >= RESTARTS => {
            never(format!("crashes at every start: exit {code}, {restarts} restarts"))
        }
        Some(State::RESTARTING) => not_yet(format!("ended with {code} and is started again")),
        Some(State::EXITED) if code == 0 && !restarted => (Settled::Yes, true),
        Some(State::EXITED) if !restarted => never(format!("ended with {code}")),
        Some(State::EXITED) => not_yet(format!("ended with {code}")),
        Some(State::DEAD) => never("is dead".into()),
        Some(State::PAUSED) => not_yet("is paused".into()),
        _ => not_yet("is not started".into()),
    }
}

fn is_young(started: Option<&str>) -> bool {
    let started = started.and_then(|at| at.parse::<jiff::Timestamp>().ok());
    started.is_some_and(|at| jiff::Timestamp::now().duration_since(at) < YOUNG)
}

fn addresses(seen: &ContainerInspectResponse) -> Vec<String> {
    let ports = seen.network_settings.as_ref().and_then(|network| network.ports.clone()).unwrap_or_default();
    let mut all: Vec<String> = ports
        .into_values()
        .flatten()
        .flatten()
        .filter_map(|binding| {
            let port = binding.host_port.filter(|port| !port.is_empty())?;
            match binding.host_ip.as_deref() {
                // What listens everywhere is reached here.
                None | Some("" | "0.0.0.0" | "::") => Some(format!("127.0.0.1:{port}")),
                Some(ip) if ip.contains(':') => Some(format!("[{ip}]:{port}")),
                Some(ip) => Some(format!("{ip}:{port}")),
            }
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Those of a project, by their name.
pub(super) async fn list(engine: &Engine, project: &str) -> Result<Vec<Container>> {
    list_by(engine, format!("{PROJECT}={project}")).await
}

/// The projects whose containers were made in a directory.
pub(super) async fn projects_in(engine: &Engine, dir: &Path) -> Result<Vec<String>> {
    let label = format!("com.docker.compose.project.working_dir={}", dir.display());
    let mut names: Vec<String> =
        summaries(engine, label).await?.into_iter().filter_map(|(_, labels)| labels.get(PROJECT).cloned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

async fn summaries(engine: &Engine, label: String) -> Result<Vec<(String, HashMap<String, String>)>> {
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
    let all = engine.client().list_containers(Some(options)).await;
    let all = all.map_err(error::read("list the containers of the project"))?;
    Ok(all.into_iter().filter_map(|c| Some((c.id?, c.labels.unwrap_or_default()))).collect())
}

async fn list_by(engine: &Engine, label: String) -> Result<Vec<Container>> {
    let inspect = |id: String| async move {
        match engine.client().inspect_container(&id, None::<InspectContainerOptions>).await {
            Ok(seen) => Ok(Container::read(seen)),
            // Removed between the two calls.
            Err(e) if error::is_gone(&e) => Ok(None),
            Err(e) => Err(error::read("look at a container of the project")(e)),
        }
    };
    let all = summaries(engine, label).await?.into_iter().map(|(id, _)| inspect(id));
    let mut all: Vec<Container> = futures::future::try_join_all(all).await?.into_iter().flatten().collect();
    all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ContainerState, Health as Is, HostConfig, RestartPolicy};

    fn container(state: ContainerState, restarts: i64, policy: RestartPolicyNameEnum) -> ContainerInspectResponse {
        ContainerInspectResponse {
            state: Some(state),
            restart_count: Some(restarts),
            host_config: Some(HostConfig {
                restart_policy: Some(RestartPolicy { name: Some(policy), ..RestartPolicy::default() }),
                ..HostConfig::default()
            }),
            ..ContainerInspectResponse::default()
        }
    }
    fn is(status: State, code: i64) -> ContainerState {
        ContainerState { status: Some(status), exit_code: Some(code), ..ContainerState::default() }
    }
    fn healthy(status: Health, streak: i64) -> ContainerState {
        let health = Is { status: Some(status), failing_streak: Some(streak), log: None };
        ContainerState { health: Some(health), ..is(State::RUNNING, 0) }
    }

    #[test]
    fn what_has_come_up_what_may_and_what_never_will() {
        use RestartPolicyNameEnum::{ALWAYS, NO};
        for (state, restarts, policy, expected) in [
            (is(State::RUNNING, 0), 0, NO, "yes"),
            (healthy(Health::HEALTHY, 0), 0, NO, "yes"),
            (healthy(Health::STARTING, 0), 0, NO, "not yet"),
            (healthy(Health::UNHEALTHY, 3), 0, NO, "not yet"),
            (healthy(Health::UNHEALTHY, 6), 0, NO, "never"),
            (is(State::EXITED, 0), 0, NO, "yes"),
            (is(State::EXITED, 3), 0, NO, "never"),
            (is(State::EXITED, 3), 1, ALWAYS, "not yet"),
            (is(State::RESTARTING, 3), 1, ALWAYS, "not yet"),
            (is(State::RESTARTING, 3), 5, ALWAYS, "never"),
            (is(State::CREATED, 0), 0, NO, "not yet"),
            (is(State::DEAD, 0), 0, NO, "never"),
        ] {
            let text = format!("{state:?}");
            let got = match settled("web-1", &container(state, restarts, policy)).0 {
                Settled::Yes => "yes",
                Settled::NotYet { .. } => "not yet",
                Settled::Never { .. } => "never",
            };
            assert_eq!(got, expected, "{text}");
        }
    }
}
