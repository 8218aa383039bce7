//! A rollback command for one Deployment. In everyday use `kubernetes --context prod "checkout answers 500 since 2.4.0"`; at
//! 3 a.m. the same with `--break-glass`. Run it in your deploy job with `--context prod --record 2.4.0`, and there is
//! something to go back to. The namespace `rollback`, for the journal, must be there.

use clap::Parser;
use rollback_core::{prelude::*, record::record};
use rollback_k8s::{Cluster, ClusterJournal, ClusterOptions};
use std::process::ExitCode;

/// Rolls checkout back.
#[derive(Parser)]
struct Cli {
    /// Why, for the report and for `kubectl rollout history`.
    #[arg(required_unless_present = "record")]
    why: Option<String>,
    /// The context of the kubeconfig: it must be the one that is meant, so there is no default.
    #[arg(long)]
    context: String,
    #[arg(long, default_value = "shop")]
    namespace: String,
    #[arg(long, default_value = "checkout")]
    deployment: String,
    /// The namespace of the journal: one of its own.
    #[arg(long, default_value = "rollback")]
    journal: String,
    /// Now, to the last release verified healthy, else the previous one, whatever is broken besides.
    #[arg(long)]
    break_glass: bool,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Record what runs under this label, at a deploy.
    #[arg(long, conflicts_with = "break_glass")]
    record: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let cluster = Cluster::connect(ClusterOptions::from_context(&cli.context)).await?;
    let checkout = cluster.deployment(&cli.namespace, &cli.deployment);
    // Lock and ledger lie in the cluster: whoever else rolls back shares them.
    let journal = ClusterJournal::open(&cluster, &cli.journal);
    let rollback = Rollback::of(checkout.clone())
        .journal(journal.clone())
        .healthy_when(checkout.checks().through_api(Http::at_each_part("/health")?))
        .recovered_when(Runs::wanted().and(InstancesReady::all()).and(checkout.checks().bad_pods_gone()))
        .policy(Policy::default().with_dry_run(cli.dry_run))
        .observer(Progress::stderr());
    if let Some(label) = &cli.record {
        println!("{}", record(&checkout, &journal, label, Timestamp::now()).await?.release.id);
        return Ok(ExitCode::SUCCESS);
    }
    let why = cli.why.unwrap_or_default();
    let report = match cli.break_glass {
        true => rollback.break_glass(why).await,
        false => rollback.because(why).to(Choose::verified().or_previous()).run().await?,
    };
    println!("{report}");
    Ok(if report.outcome().is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }) // page someone
}
