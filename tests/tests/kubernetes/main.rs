//! On a real cluster: see `rollback_tests::bed::kubernetes` for how to run these.
#![allow(clippy::unwrap_used)]

mod alike;
mod argo_rollouts;
mod bed;
mod blue_green;
mod canary;
mod config_maps;
mod daemon_set;
mod deployment;
mod deployment_laws;
mod deployment_space;
mod emergency;
mod evidence;
mod faults;
mod flagger;
mod freeze;
mod glass;
mod helm;
mod journal;
mod kill;
mod pairs;
mod pod_metrics;
mod proxy;
mod replays;
mod rolling_load;
mod scale;
mod several;
mod stateful_set;
mod verify;
mod watches;
mod workload_laws;
mod workloads;
