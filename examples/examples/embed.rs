//! A platform embeds it: a complete rollback.

use rollback_core::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let checkout = ReleaseDir::open("/srv/checkout")?
        .restart_with(["systemctl", "restart", "checkout"])
        .running_from(RunningSource::http("http://127.0.0.1:8080/version", "/version")?); // asked of the process, not of the link
    let report = Rollback::of(checkout)
        .because("checkout answers 500 since 2.4.0")
        .to(Choose::verified().or_previous())
        .using(Direct::default())
        .healthy_when(Http::get("http://127.0.0.1:8080/health")?.consecutive(3))
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(minutes(2))))
        .journal(SqliteJournal::open("/var/lib/rollback.db")) // where it cannot be opened, only a break_glass goes on
        .observer(Progress::stderr())
        .run() // the same call on the same target resumes what was left unfinished
        .await?; // an error: could not even try. Every end of a run is in the report.
    println!("{report}");
    std::process::exit(if report.outcome().is_good() { 0 } else { 1 })
}
