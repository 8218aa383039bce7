//! What the writer does, each inside a transaction that it shares with others.

use super::{
    db::{Db, FORMAT, Sealed, int, nat},
    fault::{Failed, damaged},
    prune,
    query::{self, Driven},
    row::{Also, LineRow, sealed_hold},
};
use crate::{
    Begun, Error, Intent, Lease, LedgerEntry, Payload, Result, RunId, TargetId, Timestamp,
    journal::{
        Holder, Pruned, Retention,
        holder::now,
        rules::{
            APPEND, BEGIN, GIVE_UP, RENEW, SAVE, driven, ended, fenced, given_up, last_line, newer_checkpoint,
            other_line, overlap, superseded, taken, unknown,
        },
    },
};
use rusqlite::params;
use std::time::Duration;

/// What the writer is asked to do.
pub(super) enum Command {
    Begin(Box<Intent>),
    Append { lease: Lease, rows: Vec<LineRow> },
    Renew(Lease),
    LetGo(Lease),
    GiveUp { run: RunId, who: String, why: String },
    Mark { target: TargetId, entry: Box<LedgerEntry> },
    ForgetHold { run: RunId, name: String },
    Save { key: String, epoch: u64, checkpoint: Sealed },
    Prune { now: Timestamp },
}

/// What it answers.
pub(super) enum Answer {
    Done,
    Begun(Box<Begun>),
    Pruned(Pruned),
}

impl Command {
    /// As errors call it.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Command::Begin(_) => BEGIN,
            Command::Append { .. } => APPEND,
            Command::Renew(_) => RENEW,
            Command::LetGo(_) => "let go of the lease",
            Command::GiveUp { .. } => GIVE_UP,
            Command::Mark { .. } => "mark the release",
            Command::ForgetHold { .. } => "forget the hold",
            Command::Save { .. } => SAVE,
            Command::Prune { .. } => "prune the journal",
        }
    }
}

/// Who writes, and what it keeps.
pub(super) struct Writer {
    pub(super) me: Holder,
    pub(super) retention: Retention,
}

impl Writer {
    /// Does it. [`Failed::Said`] comes before anything is written.
    pub(super) fn execute(&self, db: &Db<'_>, command: &Command) -> Result<Answer, Failed> {
        let done = match command {
            Command::Begin(intent) => return Ok(Answer::Begun(Box::new(self.begin(db, intent)?))),
            Command::Prune { now } => return Ok(Answer::Pruned(prune::all(db, &self.retention, *now)?)),
            Command::Append { lease, rows } => append(db, lease, rows),
            Command::Renew(lease) => renew(db, lease),
            Command::LetGo(lease) => let_go(db, lease),
            Command::GiveUp { run, who, why } => self.give_up(db, run, who, why),
            Command::Mark { target, entry } => mark(db, target.as_str(), entry),
            Command::ForgetHold { run, name } => forget_hold(db, run, name),
            Command::Save { key, epoch, checkpoint } => save(db, key, *epoch, checkpoint),
        };
        done.map(|()| Answer::Done)
    }

    fn begin(&self, db: &Db<'_>, intent: &Intent) -> Result<Begun, Failed> {
        let known = db.first(
            "SELECT run.no, run.outcome IS NOT NULL, target.name FROM run JOIN target ON target.no = run.target
             WHERE run.id = ?1",
            [intent.run.as_str()],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?, row.get::<_, String>(2)?)),
        )?;
        if let Some((no, over, target)) = &known {
            if *target != intent.target.as_str() {
                return Err(taken(intent, &TargetId::from(target.as_str())).into());
            }
            if *over {
                let (intent, lines) = query::run(db, BEGIN, *no)?;
                return Ok(Begun::Over { intent: Box::new(intent), lines });
            }
        }
        let target =
            db.first("SELECT no, epoch, unfinished FROM target WHERE name = ?1", [intent.target.as_str()], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?))
            })?;
        let mut replaced = None;
        let mut epoch = target.map_or(0, |(_, epoch, _)| epoch);
        if let Some((target, _, Some(unfinished))) = target {
            let driven = Driven::read(db, unfinished)?
                .ok_or_else(|| damaged(BEGIN, format!("the unfinished run of {} is missing", intent.target)))?;
            if !intent.policy.take_over && driven.is_driven(&self.me, now()) {
                return Ok(Begun::Busy { run: driven.run, who: driven.who, since: driven.since });
            }
            epoch += 1;
            if !intent.policy.take_over || driven.run == intent.run {
                let (theirs, lines) = query::run(db, BEGIN, unfinished)?;
                db.execute("UPDATE target SET epoch = ?2 WHERE no = ?1", [target, epoch])?;
                let process = self.process(db)?;
                db.execute(
                    "UPDATE run SET epoch = ?2, until = ?3 + lease, process = ?4, driver = ?5, since = ?6 WHERE no = ?1",
                    params![unfinished, epoch, int(now()), process, self.driver(intent), int(intent.at.0)],
                )?;
                let lease = Lease { run: driven.run, epoch: nat(epoch) };
                return Ok(Begun::Adopted { lease, intent: Box::new(theirs), lines });
            }
            self.end(db, unfinished, &driven.run, epoch, intent.at, superseded(intent))?;
            replaced = Some(driven.run);
        }
        let sealed = Sealed::new(BEGIN, "intent", &[intent.run.as_str()], intent)?;
        epoch += 1;
        let target = match target {
            Some((no, ..)) => no,
            None => {
                db.execute("INSERT INTO target (name, epoch) VALUES (?1, 0)", [intent.target.as_str()])?;
                db.last_row()
            }
        };
        let process = self.process(db)?;
        let lease = int(u64::try_from(intent.policy.lease.as_millis()).unwrap_or(u64::MAX)).min(i64::MAX / 4);
        db.execute(
            "INSERT INTO run (id, target, parent, began, lines, epoch, lease, until, process, driver, since)
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7 + ?6, ?8, ?9, ?4)",
            params![
                intent.run.as_str(),
                target,
                intent.parent.as_ref().map(RunId::as_str),
                int(intent.at.0),
                epoch,
                lease,
                int(now()),
                process,
                self.driver(intent),
            ],
        )?;
        let no = db.last_row();
        db.execute("UPDATE target SET epoch = ?2, unfinished = ?3 WHERE no = ?1", [target, epoch, no])?;
        db.execute(
            "INSERT INTO intent (run, v, json, sum) VALUES (?1, ?2, ?3, ?4)",
            params![no, FORMAT, sealed.json, &sealed.sum[..]],
        )?;
        prune::a_few(db, &self.retention, target, intent.at)?;
        Ok(Begun::Fresh { lease: Lease { run: intent.run.clone(), epoch: nat(epoch) }, replaced })
    }

    fn driver(&self, intent: &Intent) -> String {
        format!("{} (process {})", intent.who, self.me.pid)
    }

    /// The row of this process.
    fn process(&self, db: &Db<'_>) -> rusqlite::Result<i64> {
        let me = params![self.me.boot, self.me.pid_namespace, self.me.pid, int(self.me.started)];
        db.execute("INSERT OR IGNORE INTO process (boot, pid_namespace, pid, started) VALUES (?1, ?2, ?3, ?4)", me)?;
        let no = db.first(
            "SELECT no FROM process WHERE boot = ?1 AND pid_namespace = ?2 AND pid = ?3 AND started = ?4",
            me,
            |row| row.get(0),
        )?;
        no.ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    fn give_up(&self, db: &Db<'_>, run: &RunId, who: &str, why: &str) -> Result<(), Failed> {
        let found = db.first("SELECT no, outcome IS NOT NULL FROM run WHERE id = ?1", [run.as_str()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
        })?;
        let (no, over) = found.ok_or_else(|| unknown(GIVE_UP, run))?;
        if over {
            return Err(ended(GIVE_UP, run).into());
        }
        let driver = Driven::read(db, no)?.ok_or_else(|| damaged(GIVE_UP, format!("run {run} is missing")))?;
        if driver.is_driven(&self.me, now()) {
            return Err(driven(run, &driver.who).into());
        }
        let epoch = db
            .first("SELECT epoch FROM target WHERE no = (SELECT target FROM run WHERE no = ?1)", [no], |row| {
                row.get::<_, i64>(0)
            })?
            .ok_or_else(|| damaged(GIVE_UP, format!("the target of run {run} is missing")))?
            + 1;
        self.end(db, no, run, epoch, Timestamp::now(), given_up(who, why))?;
        db.execute("UPDATE target SET epoch = ?2 WHERE no = (SELECT target FROM run WHERE no = ?1)", [no, epoch])?;
        Ok(())
    }

    /// Ends a run from outside. Its other lines are not looked at: a damaged run, too, must come to an end.
    fn end(
        &self,
        db: &Db<'_>,
        no: i64,
        run: &RunId,
        epoch: i64,
        at: Timestamp,
        outcome: crate::Outcome,
    ) -> Result<(), Failed> {
        let lines = db.first("SELECT lines FROM run WHERE no = ?1", [no], |row| row.get(0))?.unwrap_or(0);
        let times =
            db.first("SELECT elapsed, acted FROM line WHERE run = ?1 ORDER BY seq DESC LIMIT 1", [no], |row| {
                Ok((Duration::from_nanos(nat(row.get(0)?)), Duration::from_nanos(nat(row.get(1)?))))
            })?;
        let line = last_line(nat(lines), nat(epoch), at, times.unwrap_or_default(), outcome);
        let row = LineRow::new(run, &line)?;
        db.execute("UPDATE run SET epoch = ?2, lines = lines + 1 WHERE no = ?1", [no, epoch])?;
        insert(db, no, run, &[row])
    }
}

fn append(db: &Db<'_>, lease: &Lease, rows: &[LineRow]) -> Result<(), Failed> {
    let first = rows.first().map(|row| row.seq);
    let extended = db.first(
        "UPDATE run SET lines = lines + ?4, until = ?5 + lease
         WHERE id = ?1 AND epoch = ?2 AND lines = ?3 AND outcome IS NULL RETURNING no",
        params![lease.run.as_str(), int(lease.epoch), first, rows.len() as i64, int(now())],
        |row| row.get::<_, i64>(0),
    )?;
    if let Some(no) = extended {
        return insert(db, no, &lease.run, rows);
    }
    let (no, over, lines) = holder(db, APPEND, lease)?;
    let Some(first) = first else { return Ok(()) };
    let there = overlap(lease, nat(lines), nat(first), rows.len())?;
    for row in &rows[..there] {
        let sum = db
            .first("SELECT sum FROM line WHERE run = ?1 AND seq = ?2", [no, row.seq], |row| row.get::<_, Vec<u8>>(0))?;
        if sum.as_deref() != Some(&row.sum[..]) {
            return Err(other_line(lease, nat(row.seq)).into());
        }
    }
    if there == rows.len() {
        return Ok(());
    }
    if over {
        return Err(ended(APPEND, &lease.run).into());
    }
    db.execute(
        "UPDATE run SET lines = lines + ?2, until = ?3 + lease WHERE no = ?1",
        params![no, (rows.len() - there) as i64, int(now())],
    )?;
    insert(db, no, &lease.run, &rows[there..])
}

/// Lines whose place was checked, and what they do besides.
fn insert(db: &Db<'_>, no: i64, run: &RunId, rows: &[LineRow]) -> Result<(), Failed> {
    for row in rows {
        db.execute(
            "INSERT INTO line (run, seq, v, epoch, at, elapsed, acted, entry, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![no, row.seq, FORMAT, row.epoch, row.at, row.elapsed, row.acted, row.entry, &row.sum[..]],
        )?;
        for also in &row.also {
            match also {
                Also::Writes => {
                    db.execute("UPDATE run SET wrote = ?2 WHERE no = ?1 AND wrote IS NULL", [no, row.at])?;
                }
                Also::Marks(entry) => {
                    let target = db
                        .first(
                            "SELECT name FROM target WHERE no = (SELECT target FROM run WHERE no = ?1)",
                            [no],
                            |row| row.get::<_, String>(0),
                        )?
                        .ok_or_else(|| damaged(APPEND, format!("the target of run {run} is missing")))?;
                    mark(db, &target, entry)?;
                }
                Also::Holds { name, was, until } => {
                    let intent = query::intent(db, APPEND, no, run)?;
                    let sealed = sealed_hold(&intent, name, was.as_ref(), *until)?;
                    // One that is known to hold does not become one that may.
                    let insert = match was {
                        Some(_) => "INSERT OR REPLACE INTO hold (run, name, v, json, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
                        None => "INSERT OR IGNORE INTO hold (run, name, v, json, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
                    };
                    db.execute(insert, params![run.as_str(), name, FORMAT, sealed.json, &sealed.sum[..]])?;
                }
                Also::HoldsNot { name } => forget_hold(db, run, name)?,
                Also::Ends { outcome } => {
                    db.execute(
                        "UPDATE run SET outcome = ?2, ended = ?3, until = 0 WHERE no = ?1",
                        params![no, outcome, row.at],
                    )?;
                    db.execute("UPDATE target SET unfinished = NULL WHERE unfinished = ?1 AND no = (SELECT target FROM run WHERE no = ?1)", [no])?;
                }
                Also::Keeps { digest } => {
                    db.execute("INSERT OR IGNORE INTO artifact (run, digest) VALUES (?1, ?2)", params![no, digest])?;
                }
            }
        }
    }
    Ok(())
}

fn forget_hold(db: &Db<'_>, run: &RunId, name: &str) -> Result<(), Failed> {
    db.execute("DELETE FROM hold WHERE run = ?1 AND name = ?2", [run.as_str(), name])?;
    Ok(())
}

/// The run of a lease, if it is the current one; whether it is over, and how many lines it has.
fn holder(db: &Db<'_>, operation: &str, lease: &Lease) -> Result<(i64, bool, i64), Failed> {
    let found =
        db.first("SELECT no, outcome IS NOT NULL, lines, epoch FROM run WHERE id = ?1", [lease.run.as_str()], |row| {
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get::<_, i64>(3)?))
        })?;
    let (run, epoch) = found.ok_or_else(|| unknown(operation, &lease.run))?;
    if epoch != int(lease.epoch) {
        return Err(fenced(operation, lease, nat(epoch)).into());
    }
    Ok(run)
}

fn renew(db: &Db<'_>, lease: &Lease) -> Result<(), Failed> {
    let renewed = db.execute(
        "UPDATE run SET until = ?3 + lease WHERE id = ?1 AND epoch = ?2 AND outcome IS NULL",
        params![lease.run.as_str(), int(lease.epoch), int(now())],
    )?;
    if renewed == 0 {
        holder(db, RENEW, lease)?;
        return Err(ended(RENEW, &lease.run).into());
    }
    Ok(())
}

fn let_go(db: &Db<'_>, lease: &Lease) -> Result<(), Failed> {
    db.execute(
        "UPDATE run SET until = 0 WHERE id = ?1 AND epoch = ?2 AND outcome IS NULL",
        params![lease.run.as_str(), int(lease.epoch)],
    )?;
    Ok(())
}

fn mark(db: &Db<'_>, target: &str, entry: &LedgerEntry) -> Result<(), Failed> {
    let release = entry.release.id.as_str();
    let sealed = Sealed::new("mark the release", "ledger", &[target, release], entry)?;
    db.execute(
        "INSERT OR REPLACE INTO ledger (target, release, v, json, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![target, release, FORMAT, sealed.json, &sealed.sum[..]],
    )?;
    Ok(())
}

/// A checkpoint, sealed with its key and its epoch.
pub(super) fn sealed_checkpoint(key: &str, epoch: u64, checkpoint: &Payload) -> Result<Sealed, Error> {
    Sealed::new(SAVE, "checkpoint", &[key, &int(epoch).to_string()], checkpoint)
}

fn save(db: &Db<'_>, key: &str, epoch: u64, checkpoint: &Sealed) -> Result<(), Failed> {
    let theirs = db.first("SELECT epoch FROM checkpoint WHERE key = ?1", [key], |row| row.get::<_, i64>(0))?;
    if let Some(theirs) = theirs.filter(|theirs| *theirs > int(epoch)) {
        return Err(newer_checkpoint(key, epoch, nat(theirs)).into());
    }
    db.execute(
        "INSERT OR REPLACE INTO checkpoint (key, epoch, v, json, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![key, int(epoch), FORMAT, checkpoint.json, &checkpoint.sum[..]],
    )?;
    Ok(())
}
