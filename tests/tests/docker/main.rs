//! Docker targets on a real engine: `tests/beds/docker.sh` brings it up, and `.ci/run` runs these in it.
#![allow(clippy::unwrap_used)]

mod alone;
mod another;
mod bed;
mod connect;
mod history;
mod kill;
mod laws;
mod podman;
mod project;
mod prune;
mod registry;
mod service;
mod settings;
mod shop;
mod swarm;
mod traffic;
mod trouble;
