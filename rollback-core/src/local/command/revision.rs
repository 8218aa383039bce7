//! Relative revisions: names that mean another release once something was done.

use crate::{Error, Kind, ReleaseId, Result};

/// Names that move.
const MOVING: [&str; 12] =
    ["head", "heads", "current", "latest", "newest", "previous", "prev", "last", "next", "tip", "@", "origin/head"];

/// Does it mean another release once something was done? `-1`, `head`, `HEAD~2`, `head-1`, `@{1}`; not `v1-2`.
pub(super) fn is_relative(revision: &str) -> bool {
    let text = revision.trim().to_ascii_lowercase();
    let counted = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    if text.strip_prefix(['-', '+']).is_some_and(counted) {
        return true;
    }
    MOVING.iter().any(|name| {
        text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['~', '^', '-', '+', '@', '{']))
    })
}

/// How many releases back, for `-1` and the like.
pub(super) fn steps_back(revision: &str) -> Option<usize> {
    let count = revision.trim().strip_prefix('-')?;
    count.bytes().all(|b| b.is_ascii_digit()).then(|| count.parse().ok()).flatten()
}

/// A release that may be handed to a tool: absolute, one line, and no option.
pub(super) fn absolute(operation: &str, revision: &str) -> Result<ReleaseId> {
    let failed = |message: String| Err(Error::new(Kind::Invalid, operation).with_message(message).without_effect());
    if revision.trim().is_empty() {
        return failed("a release without a name".into());
    }
    if is_relative(revision) {
        return failed(format!(
            "{revision:?} is relative, and twice the same would go twice as far: name the release itself"
        ));
    }
    if revision.starts_with('-') || revision.chars().any(char::is_control) {
        return failed(format!("{revision:?} is no name of a release: it could be taken for an option"));
    }
    Ok(ReleaseId::from(revision))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_relative_and_what_looks_alike_is_not() {
        for relative in [
            "-1",
            "+2",
            " -1 ",
            "head",
            "HEAD",
            "heads",
            "head~1",
            "HEAD^",
            "head-1",
            "@{1}",
            "@",
            "@-1",
            "previous",
            "Current",
            "current-1",
            "latest",
            "-0",
        ] {
            assert!(is_relative(relative), "{relative}");
            assert_eq!(absolute("test", relative).unwrap_err().kind(), Kind::Invalid);
        }
        for absolute_one in [
            "4f2a91c0d1e2",
            "v1-2",
            "2.4.0-1",
            "base",
            "headless",
            "ahead",
            "lastly",
            "currently",
            "1",
            "a~b",
            "release@2",
        ] {
            assert!(!is_relative(absolute_one), "{absolute_one}");
            assert_eq!(absolute("test", absolute_one).unwrap(), absolute_one);
        }
        for neither in ["", "  ", "--sql", "-x", "a\nb", "a\0b"] {
            assert_eq!(absolute("test", neither).unwrap_err().kind(), Kind::Invalid, "{neither:?}");
        }
    }

    #[test]
    fn steps_back_are_counted() {
        assert_eq!(steps_back("-1"), Some(1));
        assert_eq!(steps_back(" -12"), Some(12));
        for other in ["+1", "1", "-", "-x", "head~1", "-99999999999999999999999"] {
            assert_eq!(steps_back(other), None, "{other}");
        }
    }
}
