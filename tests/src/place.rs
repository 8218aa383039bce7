//! A release directory with a small real service that runs from it.
#![allow(clippy::unwrap_used)]

use rollback_core::{
    journal::{SqliteJournal, SqliteOptions},
    local::{ReleaseDir, RunningSource},
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// Ends the old process, starts a new one in the release that is current, and logs its key and release.
const RESTART: &str = r#"
kill $(cat pid 2>/dev/null) 2>/dev/null
cd -P current || exit 1
sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! > ../../pid
echo "$ROLLBACK_KEY $ROLLBACK_RELEASE" >> ../../hook.log
"#;

/// A root with releases 1, 2 and 3; 3 is current, and a process runs in it.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// With the service on release 3.
    pub async fn new() -> Self {
        let place = Self::bare();
        for id in ["1", "2"] {
            place.open().deploy(id).await.unwrap();
        }
        place.service().deploy("3").await.unwrap();
        place
    }
    /// Nothing was deployed yet.
    pub fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for id in ["1", "2", "3"] {
            let release = dir.path().join("releases").join(id);
            fs::create_dir_all(&release).unwrap();
            fs::write(release.join("app"), format!("release {id}")).unwrap();
        }
        symlink("releases/3", dir.path().join("current")).unwrap();
        Self { dir }
    }
    /// Below the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// Without a hook.
    pub fn open(&self) -> ReleaseDir {
        ReleaseDir::open(self.dir.path()).unwrap()
    }
    /// With the real process.
    pub fn service(&self) -> ReleaseDir {
        let target = self.open().restart_with(["sh", "-c", RESTART]);
        // Elsewhere, nobody tells where a process works.
        if cfg!(target_os = "linux") { target.running_from(RunningSource::pid_cwd(self.path("pid"))) } else { target }
    }
    /// The release that the link names and the process runs.
    pub fn live(&self) -> String {
        let link = fs::read_link(self.path("current")).unwrap();
        let id = link.file_name().unwrap().to_str().unwrap().to_owned();
        if cfg!(target_os = "linux") {
            let pid = fs::read_to_string(self.path("pid")).unwrap();
            let works_in = fs::read_link(format!("/proc/{}/cwd", pid.trim())).unwrap();
            assert_eq!(works_in.file_name().unwrap().to_str().unwrap(), id, "the process runs something else");
        }
        id
    }
    /// The release that the process runs, if there is one.
    pub fn live_if_any(&self) -> Option<String> {
        let pid = fs::read_to_string(self.path("pid")).ok()?;
        let works_in = fs::read_link(format!("/proc/{}/cwd", pid.trim())).ok()?;
        Some(works_in.file_name()?.to_str()?.to_owned())
    }
    /// The hook's runs: key and release.
    pub fn hooks(&self) -> Vec<String> {
        fs::read_to_string(self.path("hook.log")).unwrap_or_default().lines().map(Into::into).collect()
    }
    /// Where the journal is.
    pub fn journal_path(&self) -> PathBuf {
        self.path("journal.db")
    }
    /// A journal in a file, beside it.
    pub fn journal(&self) -> SqliteJournal {
        SqliteJournal::open(self.journal_path()).unwrap()
    }
    /// The same, as large as it may get.
    pub fn journal_of(&self, most: u64) -> SqliteJournal {
        SqliteJournal::open_with(self.journal_path(), SqliteOptions::default().with_max_bytes(Some(most))).unwrap()
    }
    /// Where the spool is.
    pub fn spool(&self) -> PathBuf {
        self.path("spool")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.path("pid"))
            && let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Edits what stands in a column of a closed journal, behind the back of its checksums.
pub fn tamper(journal: &Path, table: &str, column: &str, what: &str, with: &str) {
    let db = rusqlite::Connection::open(journal).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    let edit = format!("UPDATE {table} SET {column} = replace({column}, ?1, ?2) WHERE instr({column}, ?1)");
    assert_eq!(db.execute(&edit, [what, with]).unwrap(), 1, "{what} stands in one row");
}

/// All of a journal's log is in its file, which may be read, copied and edited as bytes. Who has dropped a journal waits a
/// second for that at the most, which may be too short on a busy machine.
pub fn checkpointed(journal: &Path) {
    let db = rusqlite::Connection::open(journal).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0, "somebody holds {}", journal.display());
}
