//! A connection with its prepared statements, and the rows that are sealed with a checksum.

use super::{
    fault::{Failed, damaged, newer},
    sealed::{Field, Sum, sum},
};
use crate::Result;
use rusqlite::{Connection, Params, Row, Statement};
use serde::{Serialize, de::DeserializeOwned};
use std::{cell::RefCell, collections::HashMap, time::Duration};

/// Of what stands as JSON in a row. A row of a newer version is refused.
pub(super) const FORMAT: i64 = 1;

/// A connection with its prepared statements.
pub(super) struct Db<'c> {
    connection: &'c Connection,
    statements: RefCell<HashMap<&'static str, Statement<'c>>>,
}

impl<'c> Db<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, statements: RefCell::default() }
    }
    fn with<T>(
        &self,
        sql: &'static str,
        run: impl FnOnce(&mut Statement<'c>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let known = self.statements.borrow_mut().remove(sql);
        let mut statement = match known {
            Some(statement) => statement,
            None => self.connection.prepare(sql)?,
        };
        let done = run(&mut statement);
        self.statements.borrow_mut().insert(sql, statement);
        done
    }
    /// How many rows it changed.
    pub(super) fn execute(&self, sql: &'static str, params: impl Params) -> rusqlite::Result<usize> {
        self.with(sql, |s| s.execute(params))
    }
    /// The first row, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.with(sql, |s| match s.query_row(params, read) {
            Ok(row) => Ok(Some(row)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(e) => Err(e),
        })
    }
    /// All rows.
    pub(super) fn all<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.with(sql, |s| s.query_map(params, read)?.collect())
    }
    /// All rows of a query made for once.
    pub(super) fn all_once<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.connection.prepare(sql)?.query_map(params, read)?.collect()
    }
    /// How many rows were changed since the connection was opened.
    pub(super) fn changes(&self) -> u64 {
        self.connection.total_changes()
    }
    pub(super) fn last_row(&self) -> i64 {
        self.connection.last_insert_rowid()
    }
    /// Undoes the transaction, if SQLite has not done so itself. Says whether it is undone.
    pub(super) fn roll_back(&self) -> bool {
        self.connection.is_autocommit() || self.execute("ROLLBACK", []).is_ok() || self.connection.is_autocommit()
    }
    /// Several reads of the same state.
    pub(super) fn snapshot<T>(&self, read: impl FnOnce(&Self) -> Result<T, Failed>) -> Result<T, Failed> {
        self.execute("BEGIN", [])?;
        let done = read(self);
        self.roll_back();
        done
    }
}

/// SQLite's numbers have a sign. What does not fit stays at the end.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
/// Back again.
pub(super) fn nat(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
/// A time of up to 292 years.
pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// A value as JSON, with the checksum that binds it to its table and its key.
pub(super) struct Sealed {
    pub(super) json: String,
    pub(super) sum: Sum,
}

impl Sealed {
    pub(super) fn new(operation: &str, table: &str, key: &[&str], value: &impl Serialize) -> Result<Self> {
        let json = to_json(operation, value)?;
        Ok(Self { sum: seal(table, key, FORMAT, &json), json })
    }
}

pub(super) fn to_json(operation: &str, value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| {
        crate::Error::new(crate::Kind::Invalid, operation)
            .with_message("it cannot be written as JSON")
            .with_source(e)
            .without_effect()
    })
}

fn seal(table: &str, key: &[&str], v: i64, json: &str) -> Sum {
    let mut fields: Vec<_> = key.iter().map(|k| Field::Text(k)).collect();
    fields.extend([Field::Int(v), Field::Text(json)]);
    sum(table, &fields)
}

/// A sealed row as it was read.
pub(super) struct SealedRow {
    v: i64,
    json: String,
    sum: Vec<u8>,
}

impl SealedRow {
    /// From three columns, the first of which is number `at`.
    pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        Ok(Self { v: row.get(at)?, json: row.get(at + 1)?, sum: row.get(at + 2)? })
    }
    /// The value, if it is what was written.
    pub(super) fn open<T: DeserializeOwned>(self, operation: &str, table: &str, key: &[&str]) -> Result<T> {
        let what = || format!("{table} {}", key.join(" "));
        if seal(table, key, self.v, &self.json)[..] != self.sum {
            return Err(damaged(operation, format!("the checksum of {} is wrong", what())));
        }
        parse(operation, self.v, &self.json, what)
    }
}

/// JSON whose checksum was right.
pub(super) fn parse<T: DeserializeOwned>(operation: &str, v: i64, json: &str, what: impl Fn() -> String) -> Result<T> {
    if v > FORMAT {
        return Err(newer(operation, format!("{} (format {v})", what())));
    }
    serde_json::from_str(json).map_err(|e| damaged(operation, format!("{}: {e}", what())))
}
