//! What happens, in order: the service runs well, a bad release is deployed, it is noticed, rolled back, and proved.

use crate::{
    layout::{BAD, GOOD, Happened, Layout, Result, read_log},
    roll_back::{checkout, error_rate, pace},
    traffic::Traffic,
};
use rollback_core::{
    journal::SqliteJournal,
    watch::{Rule, Watch, WatchOutcome},
};
use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// What does not come within this time will not come.
const WITHIN: Duration = Duration::from_secs(60);
/// Requests a second.
const TRAFFIC: u32 = 200;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A few seconds instead of half a minute.
    #[arg(long)]
    fast: bool,
    /// Kill the rollback (SIGKILL) in the middle, and start it again.
    #[arg(long)]
    kill: bool,
    /// Show what the rollback would do; change nothing, so that there is nothing to kill.
    #[arg(long, conflicts_with = "kill")]
    dry_run: bool,
    /// Work in this folder and leave it behind: journal, service log, releases.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) async fn tell(options: Options) -> Result<ExitCode> {
    let begun = Instant::now();
    let say = |what: &str| println!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
    let pace = |seconds| pace(options.fast, seconds);
    let scratch = tempfile::tempdir()?;
    let folder = options.keep.clone().unwrap_or(scratch.path().to_path_buf());
    let (layout, mut supervisor) = start_service(folder, pace(0.6)).await?;
    let target = checkout(&layout)?;

    target.deploy(GOOD).await?;
    let address = layout.address()?;
    let traffic = Traffic::start(&address, TRAFFIC)?;
    traffic.phase("before");
    say(&format!("checkout {GOOD} serves http://{address}/ with {TRAFFIC} requests a second on it"));
    watch(&layout, &options, &say).await?;

    traffic.phase("the bad release, until it is blamed");
    target.deploy(BAD).await?;
    say(&format!("{BAD} is deployed, and watched"));
    let Some(blamed) = watch(&layout, &options, &say).await? else {
        return Err(format!("{BAD} was not noticed").into());
    };

    traffic.phase("rolling back");
    say("rolling back");
    let outcome = roll_back(&layout, &options, &blamed, &say).await?;

    traffic.phase("after");
    sleep(pace(3.0)).await;
    traffic.stop();
    say("what the clients saw:");
    println!("\n{traffic}");
    let calls = read_log(&layout.log())?;
    let swaps = calls.iter().filter(|line| matches!(line.what, Happened::Swapped { .. })).count();
    let hooks = calls.iter().filter(|line| matches!(&line.what, Happened::Hook { .. })).count();
    println!(
        "what the service saw: {swaps} swaps of current, {hooks} calls of the restart hook; it runs {}",
        layout.current()?
    );
    if options.keep.is_some() {
        println!("kept: {}", layout.work().display());
    }
    supervisor.kill().await?;
    Ok(outcome)
}

/// The release that a watch blames.
struct Blamed {
    release: String,
    why: String,
}

/// The rollback is a process of its own, and so can be killed.
async fn roll_back(layout: &Layout, options: &Options, blamed: &Blamed, say: &impl Fn(&str)) -> Result<ExitCode> {
    let start = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["roll-back", "--parent", &std::process::id().to_string(), "--why", &blamed.why]);
        command.args(["--blame", &blamed.release, "--work"]);
        command.arg(layout.work()).stdin(Stdio::null()).kill_on_drop(true);
        command.args(options.fast.then_some("--fast")).args(options.dry_run.then_some("--dry-run"));
        command.spawn()
    };
    let mut process = start()?;
    if options.kill {
        // The worst moment: the link is swapped, and nobody has noted it down.
        let swaps = |log: &[_]| log.iter().filter(|line| is_swap_to(line, GOOD)).count();
        let before = swaps(&read_log(&layout.log())?);
        let swapped = async {
            while swaps(&read_log(&layout.log())?) == before {
                sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        timeout(WITHIN, swapped).await??;
        process.kill().await?;
        say("killed the rollback (SIGKILL) right after it swapped the link; starting it again");
        process = start()?;
    }
    let status = timeout(WITHIN, process.wait()).await??;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_swap_to(line: &crate::layout::LogLine, release: &str) -> bool {
    matches!(&line.what, Happened::Swapped { to } if to == release)
}

/// The supervisor, and with it the service.
async fn start_service(folder: PathBuf, starts_in: Duration) -> Result<(Layout, Child)> {
    std::fs::create_dir_all(&folder)?;
    let layout = Layout::of(&folder.canonicalize()?);
    // Of an earlier quickstart in this folder.
    let _ = std::fs::remove_file(layout.work().join("address"));
    let mut supervisor = Command::new(std::env::current_exe()?)
        .args(["supervise", "--parent", &std::process::id().to_string()])
        .args(["--starts-in-ms", &starts_in.as_millis().to_string(), "--work"])
        .arg(layout.work())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let serves = async {
        while layout.address().is_err() {
            if let Some(status) = supervisor.try_wait()? {
                return Err(format!("the supervisor ended: {status}").into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    timeout(WITHIN, serves).await??;
    Ok((layout, supervisor))
}

/// Watches what runs until it is stable, and then verified, or breached, and then to blame.
async fn watch(layout: &Layout, options: &Options, say: &impl Fn(&str)) -> Result<Option<Blamed>> {
    let pace = |seconds| pace(options.fast, seconds);
    let rule = Rule::above("error rate", 0.05)
        .with_hold(pace(4.0))
        .with_window(pace(4.0))
        .with_max_gap(pace(12.0))
        .with_min_samples(20);
    let report = Watch::of(checkout(layout)?)
        .rule(rule, error_rate(layout)?)
        .every(pace(1.0))
        .for_at_least(pace(5.0))
        .journal(SqliteJournal::open(layout.journal())?)
        .run()
        .await?;
    say(&report.to_string());
    match &report.outcome {
        WatchOutcome::Stable { .. } => Ok(None),
        WatchOutcome::Breached { rule, suspect, .. } => {
            Ok(Some(Blamed { release: suspect.to_string(), why: format!("{rule} since {suspect}") }))
        }
        other => Err(format!("the watch says nothing to go by: {other}").into()),
    }
}
