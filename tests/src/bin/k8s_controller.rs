//! A controller in a process of its own, for the tests that kill it: rolls Deployments back with the journal in the cluster,
//! those that somebody else is at again later, until all are back.
//!
//! Prints `DEPLOYMENT OUTCOME` for each, as it ends.
#![allow(clippy::unwrap_used)]

use clap::Parser as _;
use futures::StreamExt as _;
use rollback_core::prelude::*;
use rollback_k8s::{Cluster, ClusterJournal, ClusterOptions};
use std::time::Duration;

#[derive(clap::Parser)]
struct Options {
    /// What it calls itself, to the API server and in the journal.
    #[arg(long)]
    called: String,
    /// Where the Deployments are.
    #[arg(long)]
    namespace: String,
    /// Where the journal is.
    #[arg(long)]
    journal: String,
    /// `NAME=BLAMED`, in the order in which they are taken.
    #[arg(long, value_delimiter = ',')]
    deployments: Vec<String>,
    /// So many at once.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// How long the lock outlives this process.
    #[arg(long)]
    lease_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Options::parse();
    let mut config = kube::Config::infer().await.unwrap();
    config.default_retry = false;
    let agent = hyper::header::HeaderValue::from_str(&options.called).unwrap();
    config.headers.push((hyper::header::USER_AGENT, agent));
    let client = kube::Client::try_from(config).unwrap();
    let cluster = Cluster::from_client(client, ClusterOptions::default().named("bed")).await.unwrap();
    let journal = ClusterJournal::open(&cluster, &options.journal);
    let policy = Policy::default()
        .with_lease(Duration::from_millis(options.lease_ms))
        .with_poll(Duration::from_millis(200))
        .with_deadline(Duration::from_secs(120));
    let all = options.deployments.iter().map(|one| {
        let (name, blamed) = one.split_once('=').unwrap();
        let rollback = Rollback::of(cluster.deployment(&options.namespace, name))
            .because("it serves errors since the last deployment")
            .blaming(blamed)
            .ordered_by(&options.called)
            .to(Choose::verified().or_previous())
            .recovered_when(Runs::wanted())
            .policy(policy.clone())
            .journal(journal.clone());
        async move {
            loop {
                let outcome = rollback.run().await.unwrap().outcome().clone();
                if let Outcome::Refused { why, .. } = &outcome
                    && why.contains("is at it since")
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
                println!("{name} {outcome:?}");
                return matches!(outcome, Outcome::Recovered | Outcome::NothingToDo);
            }
        }
    });
    let back: Vec<bool> = futures::stream::iter(all).buffered(options.at_once).collect().await;
    std::process::exit(i32::from(!back.into_iter().all(|back| back)));
}
