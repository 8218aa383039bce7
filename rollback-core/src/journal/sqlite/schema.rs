//! The file: its schema, and opening it without touching what is not ours.

use super::{
    SqliteOptions,
    fault::{damaged, newer, storage},
};
use crate::{Error, Kind, Result};
use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig};
use std::path::Path;

const OPEN: &str = "open the journal";
/// `roll`, in the file's header.
const APPLICATION: i32 = 0x726f_6c6c;
/// Counted up when the tables change.
const VERSION: i32 = 1;

// Rows that every append touches (`run`) are narrow, and lines are stored in the order in which they are written, so that
// a commit of a thousand appends touches few pages.
const TABLES: &str = "
CREATE TABLE target (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    unfinished INTEGER
);
CREATE TABLE process (
    no INTEGER PRIMARY KEY,
    boot TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    UNIQUE (boot, pid_namespace, pid, started)
);
CREATE TABLE run (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    target INTEGER NOT NULL,
    parent TEXT,
    began INTEGER NOT NULL,
    wrote INTEGER,
    ended INTEGER,
    outcome TEXT,
    lines INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    until INTEGER NOT NULL,
    process INTEGER NOT NULL,
    driver TEXT NOT NULL,
    since INTEGER NOT NULL
);
CREATE INDEX run_of_target ON run (target, no);
CREATE INDEX run_of_parent ON run (parent, no) WHERE parent IS NOT NULL;
CREATE INDEX run_unfinished ON run (no) WHERE outcome IS NULL;
CREATE TABLE intent (
    run INTEGER PRIMARY KEY,
    v INTEGER NOT NULL,
    json TEXT NOT NULL,
    sum BLOB NOT NULL
);
CREATE TABLE line (
    no INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    v INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    elapsed INTEGER NOT NULL,
    acted INTEGER NOT NULL,
    entry TEXT NOT NULL,
    sum BLOB NOT NULL
);
CREATE UNIQUE INDEX line_of_run ON line (run, seq);
CREATE TABLE ledger (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    target TEXT NOT NULL,
    release TEXT NOT NULL,
    v INTEGER NOT NULL,
    json TEXT NOT NULL,
    sum BLOB NOT NULL,
    UNIQUE (target, release)
);
CREATE TABLE hold (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    name TEXT NOT NULL,
    v INTEGER NOT NULL,
    json TEXT NOT NULL,
    sum BLOB NOT NULL,
    UNIQUE (run, name)
);
CREATE TABLE checkpoint (
    key TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    v INTEGER NOT NULL,
    json TEXT NOT NULL,
    sum BLOB NOT NULL
);
CREATE TABLE artifact (
    run INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (run, digest)
) WITHOUT ROWID;
CREATE INDEX artifact_digest ON artifact (digest);
";

/// The two connections of a journal: one writes, one reads.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
}

/// Opens the file, or makes it. What is not a journal, or one of a newer version, is not touched.
pub(super) fn open(path: &Path, options: &SqliteOptions) -> Result<Opened> {
    let failed = |e: rusqlite::Error| storage(OPEN, &e).without_effect();
    let size = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            return Err(Error::new(Kind::Invalid, OPEN)
                .with_message(format!("{} is a directory: name a file in it", path.display()))
                .without_effect());
        }
        Ok(meta) => Some(meta.len()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::from_io(OPEN, e).without_effect()),
    };
    if size.is_some_and(|bytes| bytes > 0) {
        let probe = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, options).map_err(failed)?;
        if !cut_off(&probe) {
            check(&probe)?;
            check_size(path, &probe)?;
        }
    }
    if size.is_none() {
        create(path)?;
    }
    let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, options).map_err(failed)?;
    make(&mut writer).map_err(failed)?;
    check(&writer)?;
    let mode: String = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(Error::new(Kind::Unsupported, OPEN)
            .with_message(format!("{} is on a file system without shared memory: use a local disk", path.display()))
            .without_effect());
    }
    // A commit is on the disk when it returns; 16 MiB of log before it is folded into the file, 64 MiB kept at most. 1 MiB
    // of pages in memory: it writes at the end of its tables.
    writer
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA fullfsync = 1; PRAGMA checkpoint_fullfsync = 1; PRAGMA temp_store = MEMORY;
             PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864; PRAGMA cell_size_check = 1;
             PRAGMA cache_size = -1024;",
        )
        .map_err(failed)?;
    if let Some(bytes) = options.max_bytes {
        let page: u64 = writer.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0)).map_err(failed)?.into();
        let pages = u32::try_from(bytes / page).unwrap_or(u32::MAX - 1).max(1);
        writer.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).map_err(failed)?;
    }
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, options).map_err(failed)?;
    reader.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    // What it reads it seldom reads again, and the system has it in its own cache: 256 KiB are enough.
    reader
        .execute_batch("PRAGMA query_only = 1; PRAGMA cell_size_check = 1; PRAGMA cache_size = -256")
        .map_err(failed)?;
    Ok(Opened { writer, reader })
}

/// An empty file for its owner alone, before anything stands in it; the log and the index beside it get the same mode. Only
/// where there is none: to open and close one that is in use would drop SQLite's locks.
fn create(path: &Path) -> Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(Error::from_io(OPEN, e).without_effect()),
    }
}

/// A connection that leaves the log as it is when it is closed: until the file is known to be a journal, nothing may be
/// folded into it.
fn connect(path: &Path, flags: OpenFlags, options: &SqliteOptions) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(options.busy_timeout)?;
    Ok(connection)
}

/// A process died while it made the file: what it wrote must be taken back first, which a connection that only reads
/// cannot do. Anyone who reads such a file does so, and it is checked afterwards.
fn cut_off(probe: &Connection) -> bool {
    let read = probe.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0));
    read.is_err_and(|e| e.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_READONLY_ROLLBACK))
}

/// Is it a journal, and one that this version can read? Damage to the schema shows here.
fn check(connection: &Connection) -> Result<()> {
    let ask = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0));
    let failed = |e: rusqlite::Error| storage(OPEN, &e).without_effect();
    let tables = || connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    let application = ask("application_id").map_err(failed)?;
    let version = ask("user_version").map_err(failed)?;
    if application == 0 && version == 0 && tables().map_err(failed)? == 0 {
        return Ok(());
    }
    if application != APPLICATION {
        return Err(Error::new(Kind::Invalid, OPEN)
            .with_message("this is an SQLite database of something else; it was left as it is: name another file")
            .without_effect());
    }
    if version > VERSION {
        return Err(newer(OPEN, format!("this journal (version {version}, and this release reads {VERSION})")));
    }
    if version < 1 || tables().map_err(failed)? == 0 {
        return Err(damaged(OPEN, format!("version {version}")));
    }
    Ok(())
}

/// A file that ends within a page is torn. Unless there is a log: then the end of the file may stand in it.
fn check_size(path: &Path, connection: &Connection) -> Result<()> {
    let page: u32 = connection
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .map_err(|e| storage(OPEN, &e).without_effect())?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let path = path.canonicalize().map_err(|e| Error::from_io(OPEN, e).without_effect())?;
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    // The log first: whoever folds it into the file removes it afterwards.
    if size(Path::new(&log)) == 0 && size(&path) % u64::from(page.max(1)) != 0 {
        return Err(damaged(OPEN, "the file ends within a page"));
    }
    Ok(())
}

/// Makes the tables, if the file is new. Whoever comes second waits, and finds them there.
fn make(connection: &mut Connection) -> rusqlite::Result<()> {
    let is_new = |c: &Connection| -> rusqlite::Result<bool> {
        let tables: i64 = c.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let application: i32 = c.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        Ok(tables == 0 && application == 0)
    };
    if !is_new(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    if is_new(&transaction)? {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_died_while_it_made_the_file_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let (made, cut) = (dir.path().join("made.db"), dir.path().join("cut.db"));
        let mut connection = Connection::open(&made).unwrap();
        // Few pages in memory, so that some are written before the commit: then it is cut off.
        connection.execute_batch("PRAGMA cache_size = 2").unwrap();
        let transaction = connection.transaction().unwrap();
        transaction.execute_batch(TABLES).unwrap();
        for file in ["", "-journal"] {
            std::fs::copy(format!("{}{file}", made.display()), format!("{}{file}", cut.display())).unwrap();
        }
        assert!(std::fs::metadata(&cut).unwrap().len() > 0);
        assert!(cut_off(&Connection::open_with_flags(&cut, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()));
        let opened = open(&cut, &SqliteOptions::default()).unwrap();
        check(&opened.writer).unwrap();
        let application: i32 = opened.reader.query_row("PRAGMA application_id", [], |row| row.get(0)).unwrap();
        assert_eq!(application, APPLICATION);
    }
}
