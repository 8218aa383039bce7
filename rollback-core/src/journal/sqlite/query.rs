//! What is read: runs, lines, the ledger, holds, checkpoints.

use super::{
    db::{Db, SealedRow, nat},
    fault::{Failed, damaged},
    row::StoredLine,
};
use crate::{
    HeldFreeze, Intent, LedgerEntry, Line, Payload, RunId, RunQuery, RunSummary, TargetId, Timestamp,
    journal::{
        Holder,
        holder::{has_lapsed, now},
        rules::{READ, unknown},
    },
};
use rusqlite::{Row, types::Value};

const LIST: &str = "list the runs";
const LEDGER: &str = "read the ledger";
const HOLDS: &str = "list the holds";
const LOAD: &str = "load the checkpoint";

/// Who drives an unfinished run, if anybody does.
pub(super) struct Driven {
    pub(super) run: RunId,
    pub(super) who: String,
    pub(super) since: Timestamp,
    until: u64,
    lease: u64,
    holder: Option<Holder>,
}

impl Driven {
    pub(super) fn read(db: &Db<'_>, no: i64) -> rusqlite::Result<Option<Self>> {
        db.first(
            "SELECT run.id, run.driver, run.since, run.until, run.lease, process.boot, process.pid_namespace,
                    process.pid, process.started
             FROM run LEFT JOIN process ON process.no = run.process WHERE run.no = ?1",
            [no],
            |row| Self::columns(row, 0),
        )
    }
    fn columns(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        let holder = match row.get::<_, Option<String>>(at + 5)? {
            None => None,
            Some(boot) => Some(Holder {
                boot,
                pid_namespace: row.get(at + 6)?,
                pid: row.get(at + 7)?,
                started: nat(row.get(at + 8)?),
            }),
        };
        Ok(Self {
            run: row.get::<_, String>(at)?.into(),
            who: row.get(at + 1)?,
            since: Timestamp(nat(row.get(at + 2)?)),
            until: nat(row.get(at + 3)?),
            lease: nat(row.get(at + 4)?),
            holder,
        })
    }
    /// Does its holder live, and has it renewed its lease in time?
    pub(super) fn is_driven(&self, me: &Holder, now: u64) -> bool {
        !has_lapsed(now, self.until, self.lease) && !self.holder.as_ref().is_some_and(|h| h.is_dead(me))
    }
}

/// The intent of a run.
pub(super) fn intent(db: &Db<'_>, operation: &str, no: i64, run: &RunId) -> Result<Intent, Failed> {
    let sealed = db.first("SELECT v, json, sum FROM intent WHERE run = ?1", [no], |row| SealedRow::read(row, 0))?;
    let sealed = sealed.ok_or_else(|| damaged(operation, format!("the intent of run {run} is missing")))?;
    Ok(sealed.open(operation, "intent", &[run.as_str()])?)
}

/// The intent of a run and all its lines, every one checked.
pub(super) fn run(db: &Db<'_>, operation: &str, no: i64) -> Result<(Intent, Vec<Line>), Failed> {
    let found = db.first("SELECT id, lines FROM run WHERE no = ?1", [no], |row| {
        Ok((RunId::from(row.get::<_, String>(0)?), row.get::<_, i64>(1)?))
    })?;
    let (run, count) = found.ok_or_else(|| damaged(operation, "a run is missing"))?;
    let intent = intent(db, operation, no, &run)?;
    let stored = db.all(
        "SELECT seq, v, epoch, at, elapsed, acted, entry, sum FROM line WHERE run = ?1 ORDER BY seq",
        [no],
        StoredLine::read,
    )?;
    let mut lines = Vec::with_capacity(stored.len());
    for (line, seq) in stored.into_iter().zip(0..) {
        lines.push(line.open(operation, run.as_str(), seq)?);
    }
    if lines.len() as u64 != nat(count) {
        let what = format!("run {run} has {} lines, and had {count}", lines.len());
        return Err(damaged(operation, what).into());
    }
    Ok((intent, lines))
}

pub(super) fn read(db: &Db<'_>, id: &RunId) -> Result<(Intent, Vec<Line>), Failed> {
    db.snapshot(|db| {
        let no = db.first("SELECT no FROM run WHERE id = ?1", [id.as_str()], |row| row.get(0))?;
        run(db, READ, no.ok_or_else(|| unknown(READ, id))?)
    })
}

pub(super) fn runs(db: &Db<'_>, query: &RunQuery, me: &Holder) -> Result<Vec<RunSummary>, Failed> {
    let mut wheres: Vec<&str> = vec![];
    let mut values: Vec<Value> = vec![];
    let text = |id: &str| Value::Text(id.to_owned());
    if let Some(run) = &query.run {
        wheres.push("run.id = ?");
        values.push(text(run.as_str()));
    }
    if let Some(target) = &query.target {
        wheres.push("run.target = (SELECT no FROM target WHERE name = ?)");
        values.push(text(target.as_str()));
    }
    if let Some(parent) = &query.parent {
        wheres.push("run.parent = ?");
        values.push(text(parent.as_str()));
    }
    if query.unfinished {
        wheres.push("run.outcome IS NULL");
    }
    if let Some(since) = query.since {
        wheres.push("run.began >= ?");
        values.push(Value::Integer(super::db::int(since.0)));
    }
    let wheres = if wheres.is_empty() { "TRUE".to_owned() } else { wheres.join(" AND ") };
    let limit = if query.limit == 0 { -1 } else { i64::try_from(query.limit).unwrap_or(-1) };
    let found = db.all_once(
        &format!(
            "SELECT run.id, run.driver, run.since, run.until, run.lease, process.boot, process.pid_namespace,
                    process.pid, process.started,
                    run.wrote, run.lines, run.outcome, run.began, intent.v, intent.json, intent.sum
             FROM run LEFT JOIN process ON process.no = run.process JOIN intent ON intent.run = run.no
             WHERE {wheres} ORDER BY run.no DESC LIMIT {limit}"
        ),
        rusqlite::params_from_iter(values),
        |row| {
            Ok((
                Driven::columns(row, 0)?,
                row.get::<_, Option<i64>>(9)?,
                row.get::<_, i64>(10)?,
                row.get::<_, Option<String>>(11)?,
                row.get::<_, i64>(12)?,
                SealedRow::read(row, 13)?,
            ))
        },
    )?;
    let now = now();
    let mut runs = Vec::with_capacity(found.len());
    for (driven, wrote, lines, outcome, began, intent) in found {
        let run = driven.run.clone();
        let intent: Intent = intent.open(LIST, "intent", &[run.as_str()])?;
        let mut summary = RunSummary::new(&intent, Timestamp(nat(began)));
        summary.wrote = wrote.map(|at| Timestamp(nat(at)));
        summary.lines = nat(lines);
        summary.outcome = match outcome {
            None => None,
            Some(json) => {
                Some(serde_json::from_str(&json).map_err(|e| damaged(LIST, format!("the outcome of run {run}: {e}")))?)
            }
        };
        if summary.outcome.is_none() && driven.is_driven(me, now) {
            summary.driven_by = Some(driven.who);
        }
        runs.push(summary);
    }
    Ok(runs)
}

pub(super) fn ledger(db: &Db<'_>, target: &TargetId) -> Result<Vec<LedgerEntry>, Failed> {
    let rows = db.all(
        "SELECT release, v, json, sum FROM ledger WHERE target = ?1 ORDER BY no DESC",
        [target.as_str()],
        |row| Ok((row.get::<_, String>(0)?, SealedRow::read(row, 1)?)),
    )?;
    let open = |(release, row): (String, SealedRow)| row.open(LEDGER, "ledger", &[target.as_str(), &release]);
    Ok(rows.into_iter().map(open).collect::<crate::Result<_>>()?)
}

pub(super) fn holds(db: &Db<'_>) -> Result<Vec<HeldFreeze>, Failed> {
    let rows = db.all("SELECT run, name, v, json, sum FROM hold ORDER BY no", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, SealedRow::read(row, 2)?))
    })?;
    let open = |(run, name, row): (String, String, SealedRow)| row.open(HOLDS, "hold", &[&run, &name]);
    Ok(rows.into_iter().map(open).collect::<crate::Result<_>>()?)
}

pub(super) fn checkpoint(db: &Db<'_>, key: &str) -> Result<Option<Payload>, Failed> {
    let row = db.first("SELECT epoch, v, json, sum FROM checkpoint WHERE key = ?1", [key], |row| {
        Ok((row.get::<_, i64>(0)?, SealedRow::read(row, 1)?))
    })?;
    let open = |(epoch, row): (i64, SealedRow)| row.open(LOAD, "checkpoint", &[key, &epoch.to_string()]);
    Ok(row.map(open).transpose()?)
}
