//! What the journal's objects are called, and how they are found again: names and labels are hashes, for ids of targets and
//! runs may hold anything. The ids themselves stand inside.

use rollback_core::{Digest, RunId, TargetId};

/// What an object of the journal is.
pub(super) const WHAT: &str = "rollback.dev/journal";
/// The one object of a target: its unfinished or last run, and its ledger.
pub(super) const BOOK: &str = "book";
/// A run that has ended and is not the last of its target.
pub(super) const RUN: &str = "run";
/// Earlier lines of a run.
pub(super) const LINES: &str = "lines";
/// The latest checkpoint under a key.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// An artifact: how many bytes, in how many pieces.
pub(super) const ARTIFACT: &str = "artifact";
/// A piece of an artifact.
pub(super) const BYTES: &str = "bytes";
/// The lock of a target, a Lease.
pub(super) const LOCK: &str = "lock";

pub(super) const OF_TARGET: &str = "rollback.dev/of-target";
pub(super) const OF_RUN: &str = "rollback.dev/of-run";
pub(super) const OF_GROUP: &str = "rollback.dev/of-group";
/// `unfinished` or `ended`.
pub(super) const STATE: &str = "rollback.dev/state";
/// `yes` where a run holds a freeze.
pub(super) const HOLDS: &str = "rollback.dev/holds";
/// The run in short, sealed: an annotation, so that runs are listed without their lines.
pub(super) const HEAD: &str = "rollback.dev/head";
/// Who holds the lock: an annotation of the Lease.
pub(super) const HOLDER: &str = "rollback.dev/holder";
/// What the Lease locks: an annotation.
pub(super) const TARGET: &str = "rollback.dev/target";

/// Twenty hexadecimal digits: no two ids of one journal share them.
pub(super) fn hash(id: &str) -> String {
    let digest = Digest::of(id.as_bytes());
    digest.as_str().trim_start_matches("sha256:").chars().take(20).collect()
}

/// Of the Lease, and of the book.
pub(super) fn of_target(target: &TargetId) -> String {
    format!("rollback-{}", hash(target.as_str()))
}
pub(super) fn of_run(run: &RunId) -> String {
    format!("rollback-run-{}", hash(run.as_str()))
}
/// With the epoch that wrote them: whoever was fenced writes beside what counts, not over it.
pub(super) fn of_lines(run: &RunId, epoch: u64, first: u64, end: u64) -> String {
    format!("rollback-lines-{}-{epoch}-{first}-{end}", hash(run.as_str()))
}
pub(super) fn of_checkpoint(key: &str) -> String {
    format!("rollback-checkpoint-{}", hash(key))
}
/// `None` for what is no digest.
pub(super) fn of_artifact(digest: &Digest) -> Option<String> {
    Some(format!("rollback-artifact-{}", hex_of(digest)?))
}
pub(super) fn of_bytes(digest: &Digest, nth: usize) -> Option<String> {
    Some(format!("rollback-bytes-{}-{nth}", hex_of(digest)?))
}
fn hex_of(digest: &Digest) -> Option<&str> {
    let hex = digest.as_str().strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_ids_names_are_valid() {
        let odd = "k8s:prod/ns/Deployment/ä ö/../%2f?".repeat(20);
        for name in [
            of_target(&TargetId::new(odd.clone())),
            of_run(&RunId::new(odd.clone())),
            of_lines(&RunId::new(odd.clone()), u64::MAX, u64::MAX, u64::MAX),
            of_checkpoint(&odd),
            of_artifact(&Digest::of(b"")).unwrap_or_default(),
            of_bytes(&Digest::of(b""), usize::MAX).unwrap_or_default(),
        ] {
            assert!(name.len() < 253 && name.starts_with("rollback-"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
        }
        assert!(hash(&odd).len() <= 63);
        assert_eq!(of_artifact(&Digest::from("sha256:../../etc/passwd")), None);
    }
}
