//! Takes a database schema back by its own migration tool, alembic, on an SQLite database in a temporary directory.
//!
//! The runbook says `alembic downgrade -1`. Run twice, because somebody pressed the key twice or a job was retried, that goes
//! back two. Here `-1` is made an absolute revision first, so that the second run finds nothing to do.
//!
//! ```text
//! cargo run --example migration
//! ```
//! It needs alembic: `apt-get install alembic`, or `pip install alembic`.

mod alembic;

use rollback_core::{Choose, Outcome, Policy, Rollback, minutes};
use std::error::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(version) = alembic::installed() else {
        return Err("alembic is not installed: apt-get install alembic, or pip install alembic".into());
    };
    let dir = tempfile::tempdir()?;
    let project = alembic::project(dir.path())?;
    alembic::alembic(&project, &["upgrade", "head"])?;
    println!("{version}; the schema is at {}\n", alembic::alembic(&project, &["current"])?);

    let schema = alembic::target(&project)?;
    let release = schema.resolve("-1").await?;
    println!("the runbook says `downgrade -1`, which now means {release}\n");

    for press in ["first", "second"] {
        let report = Rollback::of(schema.clone())
            .because("orders cannot be placed since a003")
            .blaming("a003")
            .to(Choose::exactly(&release))
            // It drops a table: a word of its own.
            .policy(Policy::default().with_irreversible(true).with_deadline(minutes(5)))
            .run()
            .await?;
        println!("--- {press} time\n{report}");
        match (press, report.outcome()) {
            ("first", Outcome::Recovered) | ("second", Outcome::NothingToDo) => {}
            (_, other) => return Err(format!("the {press} time it should not end so: {other}").into()),
        }
    }
    let current = alembic::alembic(&project, &["current"])?;
    println!("the schema is at {current}: one back, not two");
    if current != release.as_str() {
        return Err(format!("the schema should be at {release}").into());
    }
    Ok(())
}
