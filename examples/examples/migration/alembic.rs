//! The migration tool alembic as a target, and a small project for it.

use rollback_core::{
    Error, Kind, Release, Result,
    local::{CommandOptions, CommandTarget, Tool, ToolState},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A schema that alembic migrates, as a target. Its releases are the revisions; `base` is the empty database.
pub(crate) fn target(project: &Path) -> Result<CommandTarget> {
    let database = format!("sqlite:///{}", project.join("shop.db").display());
    let options = CommandOptions::new()
        // Prints `a003 (head)`, or nothing for an empty database.
        .with_observe(Tool::run(["alembic", "current"]).read_by(move |out| {
            let heads: Vec<_> = out.lines().filter_map(|line| line.split_whitespace().next()).collect();
            match heads[..] {
                [] => Ok(ToolState::runs("base").with_identity(&database, None)),
                [one] => Ok(ToolState::runs(one).with_identity(&database, None)),
                _ => Err(Error::new(Kind::Unsupported, "read the current revision")
                    .with_message(format!("it is on several branches: {}", heads.join(", ")))),
            }
        }))
        // Prints `a002 -> a003 (head), add orders.note` a line, newest first.
        .with_history(Tool::run(["alembic", "history"]).read_by(|out| {
            let mut releases = out.lines().map(release).collect::<Result<Vec<_>>>()?;
            releases.push(Release::new("base").with_label("empty database"));
            Ok(releases)
        }))
        .with_apply(Tool::run(["alembic", "downgrade", "{release}"]).read_by(|_| Ok(rollback_core::Applied::done())))
        .with_apply_forward(
            Tool::run(["alembic", "upgrade", "{release}"]).read_by(|_| Ok(rollback_core::Applied::done())),
        )
        .with_dir(project)
        .with_notes(project)
        // A downgrade that drops a column loses what is in it.
        .irreversible();
    CommandTarget::new(format!("db:{}", project.join("shop.db").display()), options)
}

fn release(line: &str) -> Result<Release> {
    let unread =
        || Error::new(Kind::Invalid, "read the history").with_message(format!("{line:?} is not `from -> to, why`"));
    let (_, to) = line.split_once(" -> ").ok_or_else(unread)?;
    let (revision, label) = to.split_once(", ").unwrap_or((to, ""));
    let id = revision.split_whitespace().next().ok_or_else(unread)?;
    Ok(Release::new(id).with_label(format!("{id} {label}")))
}

/// The version of alembic, if it is installed.
pub(crate) fn installed() -> Option<String> {
    let out = Command::new("alembic").arg("--version").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// A project with three migrations of an empty SQLite database, in a directory of its own.
pub(crate) fn project(dir: &Path) -> std::io::Result<PathBuf> {
    let versions = dir.join("migrations/versions");
    fs::create_dir_all(&versions)?;
    fs::write(
        dir.join("alembic.ini"),
        "[alembic]\nscript_location = migrations\nsqlalchemy.url = sqlite:///shop.db\n",
    )?;
    fs::write(
        dir.join("migrations/env.py"),
        "from alembic import context\n\
         from sqlalchemy import create_engine, pool\n\n\
         engine = create_engine(context.config.get_main_option('sqlalchemy.url'), poolclass=pool.NullPool)\n\
         with engine.connect() as connection:\n\
         \x20   context.configure(connection=connection)\n\
         \x20   with context.begin_transaction():\n\
         \x20       context.run_migrations()\n",
    )?;
    for (id, before, what, up, down) in [
        ("a001", "None", "orders", "CREATE TABLE orders (id INTEGER PRIMARY KEY)", "DROP TABLE orders"),
        ("a002", "'a001'", "customers", "CREATE TABLE customers (id INTEGER PRIMARY KEY)", "DROP TABLE customers"),
        ("a003", "'a002'", "notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY)", "DROP TABLE notes"),
    ] {
        fs::write(
            versions.join(format!("{id}_{what}.py")),
            format!(
                "\"\"\"add {what}\"\"\"\nfrom alembic import op\n\nrevision = '{id}'\ndown_revision = {before}\n\
                 branch_labels = None\ndepends_on = None\n\n\n\
                 def upgrade():\n    op.execute('{up}')\n\n\ndef downgrade():\n    op.execute('{down}')\n"
            ),
        )?;
    }
    Ok(dir.to_owned())
}

/// Runs alembic by hand, as a runbook would.
pub(crate) fn alembic(project: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let out = Command::new("alembic").args(arguments).current_dir(project).output()?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(std::io::Error::other(format!("alembic {}: {}: {said}", arguments.join(" "), out.status)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
