//! A rollback command of your own for one service: status, roll back, resume, break glass.

use clap::{Parser, Subcommand};
use rollback_core::{Look, RunQuery, prelude::*};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(about = "Rolls checkout back.")]
struct Cli {
    #[arg(long, default_value = "/srv/checkout")]
    root: PathBuf,
    #[arg(long, default_value = "/var/lib/rollback.db")]
    journal: PathBuf,
    #[arg(long, default_value = "http://127.0.0.1:8080/health")]
    health: String,
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
        dry_run: bool,
    },
    /// Go on with the run that was left unfinished.
    Resume,
    /// Now, to the previous release, whatever is broken besides.
    BreakGlass { why: String },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let target = ReleaseDir::open(&cli.root)?.restart_with(["systemctl", "restart", "checkout"]);
    let journal = || SqliteJournal::open(&cli.journal);
    let rollback = Rollback::of(target.clone())
        .journal(journal()) // the result: breaking the glass goes on without a journal, and says so
        .healthy_when(Http::get(&cli.health)?.consecutive(3))
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(minutes(2))))
        .observer(Progress::stderr());
    let report = match cli.what {
        What::Status => {
            for (id, part) in target.observe(Look::full()).await?.parts {
                println!("{id}: {}", part.running);
            }
            for known in journal()?.ledger(target.id()).await? {
                println!("{}: {:?}, {}", known.release.label, known.standing, known.why);
            }
            for run in journal()?.runs(&RunQuery::of_target(target.id()).with_limit(5)).await? {
                let end = run.outcome.map_or("unfinished".into(), |end| end.to_string());
                println!("{} {} {}: {end}", run.began, run.run, run.why);
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::RollBack { why, to, dry_run } => {
            let choose = to.map_or(Choose::verified().or_previous(), Choose::exactly);
            rollback.because(why).to(choose).policy(Policy::default().with_dry_run(dry_run)).run().await?
        }
        What::Resume
            if journal()?.runs(&RunQuery::of_target(target.id())).await?.iter().all(|r| r.outcome.is_some()) =>
        {
            eprintln!("nothing was left unfinished");
            return Ok(ExitCode::SUCCESS);
        }
        What::Resume => rollback.run().await?,
        What::BreakGlass { why } => rollback.break_glass(why).await,
    };
    println!("{report}");
    Ok(if report.outcome().is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
