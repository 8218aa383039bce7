//! The explicit end of a freeze.

use super::{Freeze, Hold};
use crate::{Fault, HeldFreeze, Journal, Result, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What became of one hold of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unfrozen {
    /// The freeze's name.
    pub name: String,
    /// Who held it, for what, until when.
    pub hold: Hold,
    /// Who lifted it.
    pub by: String,
    /// What became of it.
    pub end: FreezeEnd,
}

/// How a hold ended, or why it has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FreezeEnd {
    /// What was there before is there again.
    Lifted,
    /// Whether it held was not known: it did not.
    WasNotHeld,
    /// The same, but it had run out before: something may have been deployed since then.
    Lapsed {
        /// When it ran out.
        at: Timestamp,
    },
    /// The journal knows it, but no freeze of this name was given: it still holds.
    NotGiven,
    /// It could not be lifted, or could not be forgotten: it is still in the journal.
    Failed(Fault),
}

impl FreezeEnd {
    /// It is off the journal; nothing is left to do.
    pub fn is_over(&self) -> bool {
        matches!(self, FreezeEnd::Lifted | FreezeEnd::WasNotHeld | FreezeEnd::Lapsed { .. })
    }
}

/// Lifts what one run froze, and nothing else: each hold is undone by the freeze of its name, to what was there before, and
/// then forgotten by the journal. Where it is not known whether it holds, it is looked first. One that fails does not keep
/// the others. Calling it again goes on with what is left. `now` is the wall time by which a hold has
/// [lapsed](FreezeEnd::Lapsed).
///
/// The answer has an entry for each hold of the run; none, if it holds nothing (any more).
///
/// ```
/// use rollback_core::{Freeze, Journal, Result, RunId, Timestamp, freeze::{FreezeFile, unfreeze}};
/// use std::sync::Arc;
/// async fn after_the_incident(journal: &dyn Journal, run: &RunId) -> Result<()> {
///     let freezes: Vec<Arc<dyn Freeze>> = vec![Arc::new(FreezeFile::new("/srv/checkout/frozen.json"))];
///     for hold in unfreeze(journal, &freezes, run, "me", Timestamp::now()).await? {
///         println!("{}: {:?}", hold.name, hold.end);
///     }
///     Ok(())
/// }
/// ```
///
/// # Errors
/// As [`Journal::holds`]; nothing was lifted then.
///
/// # Cancel safety
/// Dropped, it has lifted some; the same call again goes on, because unfreezing is idempotent.
pub async fn unfreeze(
    journal: &dyn Journal,
    freezes: &[Arc<dyn Freeze>],
    run: &RunId,
    who: impl Into<String> + Send,
    now: Timestamp,
) -> Result<Vec<Unfrozen>> {
    let by = who.into();
    let mut ends = vec![];
    for held in journal.holds().await?.into_iter().filter(|held| held.hold.run == *run) {
        let end = match freezes.iter().find(|freeze| freeze.name() == held.name) {
            None => FreezeEnd::NotGiven,
            Some(freeze) => lift(journal, freeze.as_ref(), &held).await.map_or_else(
                |e| FreezeEnd::Failed(e.into_fault()),
                |was_held| match held.hold.until {
                    _ if !was_held => FreezeEnd::WasNotHeld,
                    Some(at) if held.hold.has_lapsed(now) => FreezeEnd::Lapsed { at },
                    _ => FreezeEnd::Lifted,
                },
            ),
        };
        ends.push(Unfrozen { name: held.name, hold: held.hold, by: by.clone(), end });
    }
    Ok(ends)
}

/// Says whether it was held.
async fn lift(journal: &dyn Journal, freeze: &dyn Freeze, held: &HeldFreeze) -> Result<bool> {
    let hold = &held.hold;
    let was = match &held.was {
        Some(was) => Some(was.clone()),
        // A repeated freeze answers what the first did: what was there before.
        None if freeze.held().await?.iter().any(|other| other.run == hold.run) => Some(freeze.freeze(hold).await?),
        None => None,
    };
    let was_held = was.is_some();
    if let Some(was) = was {
        freeze.unfreeze(hold, was).await?;
    }
    journal.forget_hold(&hold.run, &held.name).await?;
    Ok(was_held)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::FreezeFile;
    use super::*;
    use crate::{Begun, Entry, Intent, Line, journal::MemoryJournal};
    use std::time::Duration;

    #[tokio::test]
    async fn exactly_what_the_run_froze_is_lifted_and_the_rest_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| FreezeFile::new(dir.path().join(name));
        let hold =
            |run: &str, until| Hold::new(RunId::from(run), run.into(), "me", "500s").with_until(Some(Timestamp(until)));
        let far = u64::MAX;
        let journal = MemoryJournal::new();
        for (run, freezes) in
            [("r1", &[("one", far), ("old", 1), ("other", far), ("broken", far)][..]), ("r2", &[("one", far)])]
        {
            let begun = journal.begin(&Intent::new(run.into(), run.into(), "me", "500s")).await.unwrap();
            let Begun::Fresh { lease, .. } = begun else { unreachable!("{begun:?}") };
            for (seq, (freeze, until)) in (0..).zip(freezes) {
                let freeze = file(freeze);
                let was = freeze.freeze(&hold(run, *until)).await.unwrap();
                let entry =
                    Entry::Froze { name: freeze.name(), was: Some(Box::new(was)), until: Some(Timestamp(*until)) };
                let line = Line::new(seq, lease.epoch, Timestamp(0), Duration::ZERO, Duration::ZERO, entry);
                journal.append(&lease, &[line]).await.unwrap();
            }
        }
        std::fs::write(dir.path().join("broken"), "no json").unwrap();
        let given: Vec<Arc<dyn Freeze>> = vec![Arc::new(file("one")), Arc::new(file("old")), Arc::new(file("broken"))];

        let ends = unfreeze(&journal, &given, &"r1".into(), "me", Timestamp(2)).await.unwrap();
        let kinds: Vec<_> = ends.iter().map(|e| e.end.is_over()).collect();
        assert_eq!(kinds, [true, true, false, false]);
        assert_eq!(ends[0].end, FreezeEnd::Lifted);
        assert_eq!(ends[1].end, FreezeEnd::Lapsed { at: Timestamp(1) }, "by the time that was given");
        assert_eq!(ends[2].end, FreezeEnd::NotGiven);
        assert!(matches!(&ends[3].end, FreezeEnd::Failed(fault) if fault.message.contains("no JSON object")));
        assert_eq!(file("one").held().await.unwrap(), [hold("r2", far)], "what another run froze stays frozen");
        assert!(!dir.path().join("old").exists());

        // Again, once it is repaired: only what is left.
        std::fs::write(dir.path().join("broken"), "{}").unwrap();
        let ends = unfreeze(&journal, &given, &"r1".into(), "me", Timestamp(2)).await.unwrap();
        assert_eq!(ends.iter().map(|e| e.end.clone()).collect::<Vec<_>>(), [FreezeEnd::NotGiven, FreezeEnd::Lifted]);
        assert_eq!(journal.holds().await.unwrap().len(), 2);
    }
}
