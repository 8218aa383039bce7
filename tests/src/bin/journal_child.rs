//! A process of its own on a journal, for the tests in `tests/journal.rs`.
//!
//! `hold FILE TARGET RUN`: begins, says what came of it, and stays. `fill FILE`: appends until that fails, and says how often
//! it was told that it worked. `golden FILE`: writes the journal that later releases must be able to read.
#![allow(clippy::unwrap_used)]

use rollback_core::{journal::*, *};
use rollback_tests::golden;
use std::io::Read as _;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let journal = SqliteJournal::open(&args[1]).unwrap();
    match args[0].as_str() {
        "hold" => {
            let mut intent = Intent::new(RunId::new(&*args[3]), TargetId::new(&*args[2]), "a child", "a test");
            intent.at = Timestamp(1_000);
            intent.policy = Policy::default().with_lease(minutes(10)).into();
            println!("{}", serde_json::to_string(&journal.begin(&intent).await.unwrap()).unwrap());
            let _ = std::io::stdin().read(&mut [0]);
        }
        "fill" => {
            let intent = Intent::new(RunId::new("r"), TargetId::new("t"), "a child", "a test");
            let Begun::Fresh { lease, .. } = journal.begin(&intent).await.unwrap() else { panic!("not fresh") };
            for acknowledged in 0..100_000u64 {
                let lost = Entry::Lost { what: "bytes".into(), why: "x".repeat(4_000) };
                let line = Line::new(acknowledged, lease.epoch, Timestamp(1), minutes(0), minutes(0), lost);
                if let Err(e) = journal.append(&lease, &[line]).await {
                    println!("{}", serde_json::to_string(&(acknowledged, e.fault())).unwrap());
                    return;
                }
            }
        }
        "golden" => golden::write(&journal).await,
        other => panic!("{other}?"),
    }
}
