//! What the golden journal says. Later releases read what this one wrote, so it is never changed: a new format gets a golden
//! file of its own beside it.
#![allow(clippy::unwrap_used)]

use rollback_core::{journal::*, *};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// A checkpoint, and what a freeze found.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// Where it was.
    pub at: u64,
}
impl Stored for Noted {
    const NAME: &'static str = "rollback-tests/noted";
    const VERSION: u32 = 1;
}

/// What was ordered.
pub fn intent(run: &str) -> Intent {
    let mut intent = Intent::new(RunId::new(run), TargetId::new("dir:/srv/checkout"), "ada", "500s since 2.4.0");
    intent.at = Timestamp(1_790_000_000_000);
    intent.parent = Some(RunId::new("g"));
    intent.policy = Arc::new(Policy::default().with_lease(Duration::from_millis(1)));
    intent
}

/// What the ledger says.
pub fn mark() -> LedgerEntry {
    LedgerEntry::new(Release::new("2.3.9"), Standing::Verified, Timestamp(1_780_000_000_000), "healthy for 15 min")
}

/// What was done.
pub fn lines(epoch: u64) -> Vec<Line> {
    let was = Some(Box::new(Payload::of(&Noted { at: 7 }).unwrap()));
    let entries = [
        Entry::Froze { name: "gitops".into(), was, until: Some(Timestamp(1_790_100_000_000)) },
        Entry::Doing { at: At { rung: 0, step: 1 }, approved: Digest::of(b"approved") },
        Entry::StepDone { at: At { rung: 0, step: 1 } },
        Entry::Ended(Outcome::NotRecovered { why: "p95 is 900 ms".into() }.into()),
    ];
    let line = |(seq, entry): (u64, Entry)| {
        let at = Timestamp(1_790_000_000_000 + 1_000 * seq);
        Line::new(seq, epoch, at, Duration::from_secs(seq), Duration::from_millis(seq), entry)
    };
    (0..).zip(entries).map(line).collect()
}

/// Writes it into an empty journal: an ended run `g/1` and an unfinished one, `g/2`.
pub async fn write(journal: &dyn Journal) {
    journal.mark(&intent("g/1").target, &mark()).await.unwrap();
    for (run, count) in [("g/1", 4), ("g/2", 2)] {
        let Begun::Fresh { lease, .. } = journal.begin(&intent(run)).await.unwrap() else { panic!("not empty") };
        journal.append(&lease, &lines(lease.epoch)[..count]).await.unwrap();
        let key = format!("{run}/0.1");
        journal.shelf().save(&key, lease.epoch, Payload::of(&Noted { at: 42 }).unwrap()).await.unwrap();
    }
}
