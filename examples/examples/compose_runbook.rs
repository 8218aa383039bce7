//! The Docker part of a runbook as one program. By hand it is: `ps` and `logs`, `docker compose down`, the file of an
//! earlier commit (or its `.backup`) back in its place, `docker compose up -d`, then `ps`, `logs` and the health of each
//! service.
//!
//!     compose_runbook /srv/vapora/deploy/docker "all requests return 5xx since 1.2.1"

use rollback_core::prelude::*;
use rollback_docker::{ComposeProject, ConnectOptions, Engine, Mode, ProjectOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(why)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: compose_runbook DIRECTORY WHY");
        std::process::exit(2);
    };
    // Step 1: the right machine. As the docker command line would choose it; say `expecting("prod-7")` and no other will do.
    let engine = Engine::connect(ConnectOptions::new()).await?;
    println!("on {} ({})", engine.name(), engine.host());
    // Step 3: where the earlier file is found, `git log` first, then the copy beside it.
    let options = ProjectOptions::new().with_git().with_backup_suffix(".backup").with_mode(Mode::DownUp);
    let project = ComposeProject::open(engine, dir, options).await?;
    for release in project.history(5).await? {
        println!("{:14} {}", release.label, release.why.unwrap_or_default());
    }
    // Steps 2 to 6: down, the file, up, and then not `sleep 5` but until it is so.
    let report = Rollback::of(project)
        .because(why)
        .to(Choose::verified().or_previous())
        .using(Direct::default())
        .healthy_when(Http::get("http://127.0.0.1:8001/health")?.consecutive(3))
        .recovered_when(Runs::wanted().and(StaysHealthy::for_at_least(seconds(30))))
        .journal(SqliteJournal::open("/var/lib/rollback.db")?)
        .observer(Progress::stderr())
        .run()
        .await?;
    // What to post to the channel, and what to look into.
    println!("{report}");
    std::process::exit(if report.outcome().is_good() { 0 } else { 1 });
}
