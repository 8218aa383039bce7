//! What every target must show when somebody breaks the glass: its first write comes within seconds, it recovers, and
//! pressed twice it does not walk on.

use rollback_core::{journal::MemoryJournal, *};
use std::time::Duration;

/// Evidence is bounded to 5 s; the rest is what the platform takes to answer on a busy machine.
const SECONDS: Duration = Duration::from_secs(10);

/// Which form of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Glass {
    /// Neither lock nor ledger: the trace on the target alone.
    Bare,
    /// With a journal that nobody has written to yet.
    Journalled,
}

/// Broken, and then twice more: the same way, and without a journal.
pub(crate) async fn broken<T: Target + Clone>(target: &T, glass: Glass) -> Report {
    let journal = MemoryJournal::new();
    let press = |why: &'static str| {
        let (target, journal) = (target.clone(), journal.clone());
        async move {
            match glass {
                Glass::Bare => Rollback::break_glass_on(&target, why).await,
                Glass::Journalled => Rollback::of(target).journal(journal).break_glass(why).await,
            }
        }
    };
    let report = press("paged: it is down").await;
    let wrote = |report: &Report| {
        report.lines().iter().find(|line| matches!(line.entry, Entry::Doing { .. })).map(|line| line.elapsed)
    };
    let first = wrote(&report).unwrap_or_else(|| panic!("{glass:?}: it wrote nothing: {report}"));
    let over = report.lines().last().map(|line| line.elapsed).unwrap_or_default();
    println!("measured: {glass:?} glass of {}: first write after {first:.1?}, over after {over:.1?}", target.id());
    assert_eq!(report.outcome(), &Outcome::Recovered, "{glass:?}: {report}");
    assert!(first < SECONDS, "{glass:?}: {first:?} to the first write: {report}");
    for again in [press("pressed twice").await, Rollback::break_glass_on(target, "and once more").await] {
        assert!(!matches!(again.outcome(), Outcome::Recovered), "{glass:?}: {again}");
        assert_eq!(wrote(&again), None, "{glass:?}: it walks on: {again}");
    }
    report
}
