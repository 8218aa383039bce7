//! A rollback command of your own for one service: status, roll back, resume, break glass.

use clap::{Parser, Subcommand};
use rollback_core::prelude::*;
use std::{path::PathBuf, process::ExitCode};

/// Rolls checkout back.
#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "/srv/checkout")]
    root: PathBuf,
    #[arg(long, default_value = "/var/lib/rollback.db")]
    journal: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What runs, what is known of the releases, and the latest runs.
    Status,
    /// Go back to the last release verified healthy, or to the one named. A run left unfinished is resumed instead.
    RollBack {
        why: String,
        #[arg(long)]
        to: Option<String>,
        #[arg(long)]
        blame: Option<String>,
        #[arg(long)]
        dry_run: bool,
    },
    Resume,
    /// Now, to the last release verified healthy, else the previous one, whatever is broken besides.
    BreakGlass {
        why: String,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let rollback = Rollback::of(ReleaseDir::open(&cli.root)?.restart_with(["systemctl", "restart", "checkout"]))
        .journal(SqliteJournal::open(&cli.journal)) // the result: breaking the glass goes on without a journal, and says so
        .healthy_when(Http::get("http://127.0.0.1:8080/health")?.consecutive(3))
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(minutes(2))))
        .observer(Progress::stderr());
    let report = match cli.what {
        What::Status => None,
        What::RollBack { why, to, blame, dry_run } => {
            let rollback = blame.into_iter().fold(rollback.clone().because(why), Rollback::blaming);
            let choose = to.map_or(Choose::verified().or_previous(), Choose::exactly);
            Some(rollback.to(choose).policy(Policy::default().with_dry_run(dry_run)).run().await?)
        }
        What::Resume => rollback.resume().await?,
        What::BreakGlass { why } => Some(rollback.clone().break_glass(why).await),
    };
    match &report {
        Some(report) => println!("{report}"),
        None => println!("{}", rollback.status().await), // asked for, or there was nothing to resume
    }
    Ok(if report.is_none_or(|report| report.outcome().is_good()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
