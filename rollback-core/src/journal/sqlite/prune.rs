//! What of the past may go.

use super::{
    db::{Db, int, nat},
    fault::Failed,
};
use crate::{
    Timestamp,
    journal::{Pruned, Retention},
};
use rusqlite::params;

// Runs that may go: ended long ago, enough newer ones of their target, and no freeze of theirs still held.
const OLD: &str = "
    SELECT run.no FROM run
    WHERE run.target = ?1 AND run.outcome IS NOT NULL AND run.ended < ?2
      AND NOT EXISTS (SELECT 1 FROM hold WHERE hold.run = run.id)
      AND run.no < (SELECT newer.no FROM run AS newer WHERE newer.target = ?1 AND newer.outcome IS NOT NULL
                    ORDER BY newer.no DESC LIMIT 1 OFFSET ?3)
    ORDER BY run.no LIMIT ?4";

/// A few runs of one target: little enough to do each time a run begins. Their artifacts go with the next call of `all`.
pub(super) fn a_few(db: &Db<'_>, retention: &Retention, target: i64, now: Timestamp) -> Result<u64, Failed> {
    of_target(db, retention, target, now, 4)
}

/// All runs that may go.
pub(super) fn all(db: &Db<'_>, retention: &Retention, now: Timestamp) -> Result<Pruned, Failed> {
    let mut pruned = Pruned::default();
    for target in db.all("SELECT no FROM target", [], |row| row.get(0))? {
        pruned.runs += of_target(db, retention, target, now, -1)?;
    }
    db.execute("DELETE FROM process WHERE no NOT IN (SELECT process FROM run)", [])?;
    Ok(pruned)
}

fn of_target(db: &Db<'_>, retention: &Retention, target: i64, now: Timestamp, limit: i64) -> Result<u64, Failed> {
    let before = now.0.saturating_sub(u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX));
    let Some(newest_to_go) = retention.runs_per_target.checked_sub(1) else {
        // None stays for its number alone.
        return of(
            db,
            "SELECT no FROM run WHERE target = ?1 AND outcome IS NOT NULL AND ended < ?2
                       AND NOT EXISTS (SELECT 1 FROM hold WHERE hold.run = run.id) ORDER BY no LIMIT ?3",
            params![target, int(before), limit],
        );
    };
    of(db, OLD, params![target, int(before), i64::try_from(newest_to_go).unwrap_or(i64::MAX), limit])
}

fn of(db: &Db<'_>, old: &'static str, params: impl rusqlite::Params) -> Result<u64, Failed> {
    let old: Vec<i64> = db.all(old, params, |row| row.get(0))?;
    for no in &old {
        // The key of a checkpoint is its run and its step, and a run may be called like the beginning of another.
        db.execute(
            "DELETE FROM checkpoint WHERE key >= (SELECT id || '/' FROM run WHERE no = ?1)
               AND key < (SELECT id || '0' FROM run WHERE no = ?1)
               AND instr(substr(key, (SELECT length(id) FROM run WHERE no = ?1) + 2), '/') = 0",
            [no],
        )?;
        db.execute("DELETE FROM artifact WHERE run = ?1", [no])?;
        db.execute("DELETE FROM line WHERE run = ?1", [no])?;
        db.execute("DELETE FROM intent WHERE run = ?1", [no])?;
        db.execute("DELETE FROM run WHERE no = ?1", [no])?;
    }
    Ok(old.len() as u64)
}

/// What keeps artifacts, as far as the journal knows.
pub(super) struct Keeps {
    /// Artifacts of unfinished runs, and of runs that hold a freeze.
    pub(super) must: std::collections::HashSet<String>,
    /// Artifacts of all other runs.
    pub(super) may: std::collections::HashSet<String>,
    /// When the oldest unfinished run began: an artifact that is younger may be one that it has not journalled yet.
    pub(super) oldest_unfinished: Option<Timestamp>,
}

pub(super) fn keeps(db: &Db<'_>) -> Result<Keeps, Failed> {
    db.snapshot(|db| {
        let rows = db.all(
            "SELECT artifact.digest, run.outcome IS NULL OR EXISTS (SELECT 1 FROM hold WHERE hold.run = run.id)
             FROM artifact JOIN run ON run.no = artifact.run",
            [],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)),
        )?;
        let oldest =
            db.first("SELECT min(began) FROM run WHERE outcome IS NULL", [], |row| row.get::<_, Option<i64>>(0))?;
        let (must, may): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, must)| *must);
        let digests = |rows: Vec<(String, bool)>| rows.into_iter().map(|(digest, _)| digest).collect();
        Ok(Keeps {
            must: digests(must),
            may: digests(may),
            oldest_unfinished: oldest.flatten().map(|at| Timestamp(nat(at))),
        })
    })
}
