//! What an exit code means.

use crate::Kind;

/// What went wrong, and whether nothing was changed for sure.
pub(super) fn meaning(code: i32) -> Option<(Kind, bool)> {
    Some(match code {
        10 => (Kind::Conflict, true),
        11 => (Kind::NotFound, true),
        12 => (Kind::Denied, true),
        13 => (Kind::Unsupported, true),
        14 => (Kind::Stale, true),
        75 => (Kind::Unavailable, false),
        _ => return None,
    })
}
