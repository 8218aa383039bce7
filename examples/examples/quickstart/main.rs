//! The whole job on a real service, with nothing installed but Rust: `cargo run --example quickstart`.
//!
//! A small HTTP service runs from a release directory on loopback, with real traffic on it. A release that fails 15 % of
//! requests is deployed, watched, blamed, rolled back and verified. `--kill` kills the rollback in the middle, and the next
//! one goes on; `--dry-run` only shows what would be done; `--fast` takes a few seconds instead of half a minute.
//!
//! Start reading at `story.rs`, and at `roll_back.rs` for the rollback itself. The rest is the service.

mod layout;
mod parent;
mod roll_back;
mod service;
mod story;
mod supervisor;
mod traffic;

use clap::{Parser, Subcommand};
use layout::{Layout, Order, Result};
use std::{path::PathBuf, process::ExitCode};

#[derive(Debug, Parser)]
#[command(
    name = "quickstart",
    about = "Deploys a bad release of a small service, notices, rolls back, and proves it.",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    story: story::Options,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the processes behind the quickstart are started as.
#[derive(Debug, Subcommand)]
enum Role {
    /// Serve the release that `current` points at; the listening socket is standard input.
    #[command(hide = true)]
    Serve(Place),
    /// Start, restart and stop the service, and keep its log.
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        place: Place,
        /// How long the service takes to start.
        #[arg(long, default_value_t = 100)]
        starts_in_ms: u64,
    },
    /// Ask the supervisor for a restart: the restart hook.
    #[command(hide = true)]
    Hook(Place),
    /// The rollback, in a process of its own.
    #[command(hide = true)]
    RollBack(roll_back::Options),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The quickstart's folder.
    #[arg(long)]
    work: PathBuf,
    /// End when this process is not the parent any more.
    #[arg(long)]
    parent: Option<u32>,
}

impl Place {
    fn enter(&self) -> Layout {
        if let Some(parent) = self.parent {
            parent::end_with(parent);
        }
        Layout::of(&self.work)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match play(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn play(cli: Cli) -> Result<ExitCode> {
    match cli.role {
        None => return story::tell(cli.story).await,
        Some(Role::RollBack(options)) => return roll_back::roll_back(options).await,
        Some(Role::Serve(place)) => service::serve(&place.enter()).await?,
        Some(Role::Supervise { place, starts_in_ms }) => {
            place.enter();
            supervisor::supervise(&Layout::make(&place.work, starts_in_ms)?).await?;
        }
        Some(Role::Hook(place)) => {
            let told = |name: &str| std::env::var(name).unwrap_or_default();
            let order = Order {
                key: told("ROLLBACK_KEY"),
                run: told("ROLLBACK_RUN"),
                epoch: told("ROLLBACK_EPOCH"),
                release: told("ROLLBACK_RELEASE"),
            };
            supervisor::call(&place.enter(), &order).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
