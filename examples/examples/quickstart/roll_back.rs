//! The rollback itself, in a process of its own, so that it can be killed.

use crate::{
    layout::{Layout, Result},
    parent,
};
use rollback_core::{
    Rollback, Window,
    local::{ReleaseDir, RunningSource},
    metric::{PrometheusText, Series},
    prelude::*,
    verify::MetricBack,
};
use std::{path::PathBuf, process::ExitCode, time::Duration};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The quickstart's folder.
    #[arg(long)]
    pub(crate) work: PathBuf,
    /// Why.
    #[arg(long)]
    pub(crate) why: String,
    /// The release to leave. What is deployed meanwhile is somebody else's and left alone.
    #[arg(long)]
    pub(crate) blame: String,
    /// Everything five times as fast.
    #[arg(long)]
    pub(crate) fast: bool,
    /// Change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// End when this process is not the parent any more.
    #[arg(long)]
    pub(crate) parent: Option<u32>,
}

/// The service as a target: its releases, how it is restarted, and where it says what runs.
pub(crate) fn checkout(layout: &Layout) -> Result<ReleaseDir> {
    let this = std::env::current_exe()?;
    let address = layout.address()?;
    Ok(ReleaseDir::open(layout.root())?
        .restart_with([&*this.to_string_lossy(), "hook", "--work", &*layout.work().to_string_lossy()])
        .running_from(RunningSource::http(&format!("http://{address}/version"), "/version")?)
        .health_address(address))
}

/// The share of requests that fail, from the service's own metrics.
pub(crate) fn error_rate(layout: &Layout) -> Result<PrometheusText> {
    let requests = Series::named("checkout_requests_total");
    let page = format!("http://{}/metrics", layout.address()?);
    Ok(PrometheusText::ratio(&page, requests.clone().starting("code", "5"), requests)?)
}

/// Half a minute is for people to watch; the tests have no time for it.
pub(crate) fn pace(fast: bool, seconds: f64) -> Duration {
    Duration::from_secs_f64(if fast { seconds / 5.0 } else { seconds })
}

/// Goes back to the release that was verified, or goes on with the run that another process left.
pub(crate) async fn roll_back(options: Options) -> Result<ExitCode> {
    if let Some(parent) = options.parent {
        parent::end_with(parent);
    }
    let layout = Layout::of(&options.work);
    let pace = |seconds| pace(options.fast, seconds);
    let health = Http::get(&format!("http://{}/health", layout.address()?))?.consecutive(3).with_pause(pace(0.3));
    let often = Window::default().with_every(pace(0.6)).with_within(pace(60.0));
    let recovered =
        Runs::wanted().and(StaysHealthy::for_at_least(pace(3.0)).with_window(often.with_hold(pace(3.0)))).and(
            MetricBack::under("error rate", 0.01, error_rate(&layout)?)
                .with_min_samples(20)
                .with_window(often.with_hold(pace(3.0))),
        );
    let report = Rollback::of(checkout(&layout)?)
        .because(options.why)
        .blaming(options.blame)
        .ordered_by("the quickstart, for its watch")
        .to(Choose::verified().or_previous())
        .using(Direct::default())
        .healthy_when(health)
        .recovered_when(recovered)
        .journal(SqliteJournal::open(layout.journal())?)
        .observer(Progress::stderr())
        .policy(Policy::default().with_poll(pace(0.6)).with_dry_run(options.dry_run))
        .run()
        .await?;
    println!("{report}");
    Ok(if report.outcome().is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
