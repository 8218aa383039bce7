//! What SQLite's errors mean to a caller.

use crate::{Error, Kind};
use rusqlite::{ErrorCode, ffi};

/// Why a command did not happen.
#[derive(Debug)]
pub(super) enum Failed {
    /// The journal says no. Nothing was written by the command.
    Said(Error),
    /// The storage failed. Whatever the command has written must be rolled back.
    Storage(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Failed::Storage(error)
    }
}
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Said(error)
    }
}

impl Failed {
    /// For a read, which has no effect.
    pub(super) fn while_reading(self, operation: &str) -> Error {
        match self {
            Failed::Said(error) => error,
            Failed::Storage(error) => storage(operation, &error).without_effect(),
        }
    }
}

/// What SQLite's error means. Whether a write happened all the same is the caller's to say.
pub(super) fn storage(operation: &str, error: &rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let (kind, message) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Kind::Unavailable, "another process is writing to the journal for longer than the busy timeout")
        }
        Some(ErrorCode::DiskFull) => {
            (Kind::Unavailable, "the disk is full, or the journal has its largest size: free some space")
        }
        Some(ErrorCode::SystemIoFailure) => {
            (Kind::Unavailable, "the journal's disk does not read or write, or is full")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            (Kind::Denied, "the journal may not be written: run as the user that owns it and its directory")
        }
        Some(ErrorCode::CannotOpen) => {
            (Kind::Denied, "the journal cannot be opened: its directory must be there, and writable to this user")
        }
        Some(ErrorCode::NotADatabase) => (
            Kind::Invalid,
            "this file is not a journal, or its first page is damaged; it was left as it is: restore a copy, or name another one",
        ),
        Some(ErrorCode::DatabaseCorrupt) => (Kind::Invalid, DAMAGED),
        _ if matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)
        ) =>
        {
            (Kind::Invalid, DAMAGED)
        }
        _ => (Kind::Unexpected, "the journal's file failed"),
    };
    Error::new(kind, operation).with_message(format!("{message} ({error})"))
}

const DAMAGED: &str =
    "the journal is damaged; nothing was guessed: keep the file, and restore a copy or open another one";

/// Something in the journal cannot be what was written.
pub(super) fn damaged(operation: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, operation).with_message(format!("{DAMAGED} ({what})")).without_effect()
}

/// A newer release of this library wrote it.
pub(super) fn newer(operation: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unsupported, operation)
        .with_message(format!("{what} was written by a newer release of this library: use that one"))
        .without_effect()
}

/// After a commit that failed and was rolled back: is it certain that nothing of it can come back? Where the last write or
/// the flush failed, a whole transaction may lie in the log, and be found by whoever recovers it.
pub(super) fn certainly_undone(error: &rusqlite::Error) -> bool {
    match error.sqlite_error() {
        Some(e) if e.code == ErrorCode::SystemIoFailure => false,
        Some(e) => e.extended_code != ffi::SQLITE_CORRUPT_INDEX && e.code != ErrorCode::DatabaseCorrupt,
        None => false,
    }
}
