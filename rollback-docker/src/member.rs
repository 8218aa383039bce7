//! One container of a target, as it was read.

use crate::{connect::Engine, error, health, marks::Marks};
use bollard::{
    models::{ContainerInspectResponse, HealthStatusEnum},
    query_parameters::{InspectContainerOptions, ListContainersOptions},
};
use rollback_core::Result;
use std::{collections::HashMap, time::Duration};

/// What is appended to the name of a container for the one that is to replace it. The name is the guard: two cannot make a
/// container of the same name.
const CANDIDATE: &str = "-rollback";

/// How it is with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, never started.
    Created,
    /// Runs, and says that it is well, or has nobody who asks.
    Up,
    /// Runs, and its health check has not passed yet.
    Starting,
    /// Runs, and its health check fails.
    Unhealthy,
    /// Ended, and the engine is about to start it again.
    Restarting,
    /// Frozen.
    Paused,
    /// Ended with this code.
    Exited(i64),
}

/// One container of a target.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The id of its image.
    pub(crate) image: String,
    pub(crate) state: State,
    pub(crate) restarts: i64,
    pub(crate) marks: Marks,
    pub(crate) created: jiff::Timestamp,
    /// When it last started, by the engine's clock.
    pub(crate) started: Option<jiff::Timestamp>,
    pub(crate) seen: ContainerInspectResponse,
}

impl Member {
    pub(crate) fn of(seen: ContainerInspectResponse) -> Option<Self> {
        let state = seen.state.clone().unwrap_or_default();
        let health = state.health.as_ref().and_then(|h| h.status);
        let running = state.running == Some(true);
        let ended = state.finished_at.as_deref().and_then(time).is_some();
        let started = state.started_at.as_deref().and_then(time);
        let is = match () {
            () if state.restarting == Some(true) => State::Restarting,
            () if state.paused == Some(true) => State::Paused,
            () if running => match health {
                Some(HealthStatusEnum::STARTING) => State::Starting,
                Some(HealthStatusEnum::UNHEALTHY) => State::Unhealthy,
                _ => State::Up,
            },
            () if started.is_none() && !ended => State::Created,
            () => State::Exited(state.exit_code.unwrap_or_default()),
        };
        let empty = HashMap::new();
        let labels = seen.config.as_ref().and_then(|c| c.labels.as_ref()).unwrap_or(&empty);
        Some(Self {
            id: seen.id.clone()?,
            name: seen.name.as_deref()?.trim_start_matches('/').to_owned(),
            image: seen.image.clone()?,
            state: is,
            restarts: seen.restart_count.unwrap_or_default(),
            marks: Marks::read(labels),
            created: seen.created.as_deref().and_then(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
            started,
            seen,
        })
    }
    /// Does its process run?
    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, State::Up | State::Starting | State::Unhealthy | State::Restarting | State::Paused)
    }
    /// Can it serve?
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Up
    }
    /// The name of the container that it is to replace, while it has not taken it over.
    pub(crate) fn candidate_for(&self) -> Option<&str> {
        let place = self.marks.replaces.as_deref()?;
        (self.name == candidate_name(place)).then_some(place)
    }
    /// Which place of the target it has, or is to have.
    pub(crate) fn place(&self) -> &str {
        self.candidate_for().unwrap_or(&self.name)
    }
    /// What its image was called when somebody made it by hand or with Compose.
    pub(crate) fn image_name(&self) -> String {
        let called = || self.seen.config.as_ref().and_then(|c| c.image.clone());
        self.marks.image_name.clone().or_else(called).unwrap_or_default()
    }
    /// How long it may take until its health check has passed or failed for good.
    pub(crate) fn health_deadline(&self) -> Option<Duration> {
        let check = self.seen.config.as_ref().and_then(|c| c.healthcheck.as_ref());
        check.and_then(health::deadline)
    }
    /// Has it a health check that was not turned off?
    pub(crate) fn has_health_check(&self) -> bool {
        self.health_deadline().is_some()
    }
    /// Restarts, exit code and what the engine says, for people.
    pub(crate) fn describe(&self) -> String {
        let state = match &self.state {
            State::Created => "was never started".into(),
            State::Up => "runs".into(),
            State::Starting => "runs, its health check has not passed yet".into(),
            State::Unhealthy => "runs, its health check fails".into(),
            State::Restarting => "is being restarted".into(),
            State::Paused => "is paused".into(),
            State::Exited(code) => format!("ended with exit code {code}"),
        };
        let restarts = if self.restarts > 0 { format!(", {} restarts", self.restarts) } else { String::new() };
        format!("{} {state}{restarts}", self.name)
    }
    /// The addresses of its own in the networks of the host.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let ports = self.seen.config.as_ref().and_then(|c| c.exposed_ports.clone()).unwrap_or_default();
        let networks = self.seen.network_settings.as_ref().and_then(|n| n.networks.as_ref());
        let mut all = vec![];
        for endpoint in networks.into_iter().flat_map(HashMap::values) {
            let Some(ip) = endpoint.ip_address.as_deref().filter(|ip| !ip.is_empty()) else { continue };
            let tcp = ports.iter().filter_map(|port| port.strip_suffix("/tcp"));
            all.extend(tcp.map(|port| format!("{ip}:{port}")));
        }
        all.sort();
        all
    }
}

/// What the container that is to take over a place is called until it has.
pub(crate) fn candidate_name(place: &str) -> String {
    format!("{place}{CANDIDATE}")
}

/// A time of the engine's. It says `0001-01-01` for never.
fn time(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok().filter(|at: &jiff::Timestamp| at.as_second() > 0)
}

/// All containers with these labels, running or not, oldest first.
pub(crate) async fn list(engine: &Engine, filter: &str, value: &[String]) -> Result<Vec<Member>> {
    let options = ListContainersOptions {
        all: true,
        filters: Some([(filter.to_owned(), value.to_vec())].into()),
        ..ListContainersOptions::default()
    };
    let listed = engine.client().list_containers(Some(options)).await.map_err(error::read("list the containers"))?;
    let mut all = vec![];
    for id in listed.into_iter().filter_map(|c| c.id) {
        all.extend(inspect(engine, &id).await?);
    }
    all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(all)
}

/// One container, unless it is gone.
pub(crate) async fn inspect(engine: &Engine, id: &str) -> Result<Option<Member>> {
    match engine.client().inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(seen) => Ok(Member::of(seen)),
        Err(e) if error::is_gone(&e) => Ok(None),
        Err(e) => Err(error::read("look at a container")(e)),
    }
}
