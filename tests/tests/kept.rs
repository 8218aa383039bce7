//! What a rollback keeps, with the real journal: freezes across a crash, evidence, and what is known of releases.
#![allow(clippy::unwrap_used)]

use rollback_core::{
    Entry, Freeze, Hold, Standing,
    freeze::{FreezeEnd, FreezeFile, unfreeze},
    prelude::*,
    record::{import, record},
};
use rollback_tests::{
    between::{Between, Call, Fate},
    place::Place,
};
use std::{sync::Arc, time::Duration};

fn flow(place: &Place, journal: impl IntoJournal) -> Rollback {
    Rollback::of(place.service())
        .because("500s since 3")
        .to(Choose::verified().or_previous())
        .recovered_when(Runs::wanted())
        .journal(journal)
        .policy(Policy::default().with_poll(Duration::from_millis(20)))
}
fn file(place: &Place) -> FreezeFile {
    FreezeFile::new(place.path("frozen.json"))
}

/// Crashes at every append, before it is durable; the same call goes on.
#[tokio::test]
async fn a_freeze_across_a_crash_is_one_freeze_and_is_lifted_exactly() {
    let mut crashes = 0;
    for n in 0..40 {
        let place = Place::new().await;
        let other = Hold::new("other-run".into(), "dir:/other".into(), "bob", "a migration");
        file(&place).freeze(&other).await.unwrap();
        let journal = place.journal();
        let stops = Arc::new(tokio::sync::Notify::new());
        let stopped = stops.clone();
        let crash = Between::new(journal.clone(), move |call| match call {
            Call::Append(last) if last >= n => {
                stopped.notify_one();
                Fate::Hangs
            }
            _ => Fate::Goes,
        });
        let first = flow(&place, crash).freezing(file(&place)).run_id("first");
        let crashed = tokio::select! {
            _ = first.run() => false,
            () = stops.notified() => true,
        };
        let report = flow(&place, journal.clone()).freezing(file(&place)).run_id("first").run().await.unwrap();
        assert_eq!((report.outcome(), place.live().as_str()), (&Outcome::Recovered, "2"), "{report}");
        // One hold of ours, beside the other one, and it is held beyond the end.
        let held = file(&place).held().await.unwrap();
        assert_eq!(held.iter().map(|h| h.run.as_str()).collect::<Vec<_>>(), ["other-run", "first"], "crash at {n}");
        assert_eq!(journal.holds().await.unwrap().len(), 1);
        assert_eq!(report.frozen().len(), 1);
        assert!(report.to_do().iter().any(|what| what.contains("lift the freeze")), "{report}");
        let ends = unfreeze(&journal, &[Arc::new(file(&place))], report.run(), "ann", Timestamp::now()).await.unwrap();
        assert_eq!(ends.iter().map(|e| e.end.clone()).collect::<Vec<_>>(), [FreezeEnd::Lifted]);
        assert_eq!(file(&place).held().await.unwrap(), [other]);
        assert_eq!(journal.holds().await.unwrap(), []);
        assert_eq!(
            unfreeze(&journal, &[Arc::new(file(&place))], report.run(), "ann", Timestamp::now()).await.unwrap(),
            []
        );
        if !crashed {
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= 8, "{crashes}");
}

#[tokio::test]
async fn a_freeze_that_ran_out_is_said_to_have_lapsed() {
    let place = Place::new().await;
    let journal = place.journal();
    let policy = Policy::default().with_freeze_for(Some(Duration::from_millis(1)));
    let report = flow(&place, journal.clone()).freezing(file(&place)).policy(policy).run().await.unwrap();
    let held = file(&place).held().await.unwrap();
    assert!(held[0].has_lapsed(Timestamp::now()));
    let ends = unfreeze(&journal, &[Arc::new(file(&place))], report.run(), "ann", Timestamp::now()).await.unwrap();
    assert!(matches!(ends[..], [rollback_core::freeze::Unfrozen { end: FreezeEnd::Lapsed { .. }, .. }]), "{ends:?}");
    assert!(!place.path("frozen.json").exists());
}

#[tokio::test]
async fn evidence_lies_on_the_shelf_and_is_read_through_the_report() {
    let place = Place::new().await;
    std::fs::write(place.path("app.log"), "GET / 500\npassword=hunter2\n").unwrap();
    let journal = place.journal();
    let target = place.service().with_logs([place.path("app.log")]);
    let report =
        Rollback::of(target).to(Choose::previous()).journal(journal.clone()).because("down").run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    drop(journal);
    // In another process, long after.
    let journal = place.journal();
    let report = Report::of(&journal, report.run()).await.unwrap();
    let mut texts = vec![];
    for artifact in report.evidence() {
        let mut reader = journal.shelf().read(artifact).await.unwrap();
        let mut bytes = vec![];
        while let Some(chunk) = reader.next().await.unwrap() {
            bytes.extend(chunk);
        }
        assert_eq!(bytes.len() as u64, artifact.bytes);
        texts.push(String::from_utf8(bytes).unwrap());
    }
    let [listing, log] = &texts[..] else { panic!("{texts:?}") };
    // As it was before the first change.
    assert!(listing.contains(r#"link At("3")"#), "{listing}");
    assert!(log.contains("GET / 500") && !log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn what_was_recorded_imported_and_verified_is_chosen() {
    let place = Place::new().await;
    let journal = place.journal();
    let target = place.service();
    let entry = record(&target, &journal, "3.0", Timestamp::now()).await.unwrap();
    assert_eq!((entry.release.id.as_str(), entry.standing), ("3", Standing::Seen));
    // The history of another tool: 2 was never good, 1 was.
    let known = vec![(Release::new("2"), Standing::Failed), (Release::new("1"), Standing::Verified)];
    assert_eq!(import(&journal, target.id(), known, Timestamp::now()).await.unwrap(), ["2", "1"]);
    let report = flow(&place, journal.clone()).to(Choose::verified()).run().await.unwrap();
    assert_eq!((report.outcome(), place.live().as_str()), (&Outcome::Recovered, "1"), "{report}");
    let choice = report.chosen().unwrap();
    assert_eq!((choice.why.as_str(), choice.unverified), ("last verified healthy", false));
    let standing = async |id: &str| {
        let ledger = journal.ledger(target.id()).await.unwrap();
        ledger.iter().find(|e| e.release.id == id).map(|e| e.standing)
    };
    assert_eq!(standing("3").await, Some(Standing::Failed));
    // Rolled back to, and watched for no time: it must earn it anew.
    assert_eq!(standing("1").await, Some(Standing::Seen));
    // The suspect deployed again, all but one known bad: nothing is guessed.
    target.deploy("3").await.unwrap();
    let report = flow(&place, journal.clone()).to(Choose::verified()).run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("ever verified")), "{report}");
    let healthy = rollback_core::health::Probe::new("smoke", |_: &Context| Health::Healthy(vec![]));
    let report = flow(&place, journal.clone())
        .healthy_when(healthy)
        .recovered_when(StaysHealthy::for_at_least(Duration::from_millis(50)))
        .run()
        .await
        .unwrap();
    assert_eq!((report.outcome(), place.live().as_str()), (&Outcome::Recovered, "1"), "{report}");
    assert_eq!(standing("1").await, Some(Standing::Verified));
    assert!(report.lines().iter().any(|l| matches!(&l.entry, Entry::Marked(e) if e.standing == Standing::Verified)));
}
