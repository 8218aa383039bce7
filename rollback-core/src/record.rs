//! What the ledger learns outside of a rollback: what was deployed, and what was known elsewhere.
//!
//! Not here: that a release was *verified*, which a watch or a rollback finds out.

use crate::{
    Error, Journal, Kind, LedgerEntry, Look, Release, ReleaseId, Result, Running, Standing, Target, TargetId, Timestamp,
};
use std::time::Duration;

/// How far back the platform's history is asked for the release that runs.
const HISTORY: usize = 100;

/// To be called at each deploy: makes what runs now findable ([`Target::recorder`], where the target has one) and notes it in
/// the ledger as seen, so that the first bad night has something to go back to. What is known of the release already stays:
/// one that was verified, or blamed, is not forgotten because it is deployed again. Its label is the one it was given last,
/// and the earlier ones stay names of it.
///
/// ```
/// use rollback_core::{Journal, Result, Target, Timestamp, record::record};
/// async fn after_deploy(target: &dyn Target, journal: &dyn Journal) -> Result<()> {
///     let entry = record(target, journal, "2.4.0", Timestamp::now()).await?;
///     println!("{} is known as {:?}", entry.release.label, entry.standing);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// As the target and the journal. [`Kind::Conflict`] where there is no recorder and not just one release runs: record when
/// the deploy is over.
pub async fn record(target: &dyn Target, journal: &dyn Journal, label: &str, now: Timestamp) -> Result<LedgerEntry> {
    let release = match target.recorder() {
        Some(recorder) => recorder.record(label).await?,
        None => what_runs(target).await?.with_label(label),
    };
    let known = journal.ledger(target.id()).await?.into_iter().find(|entry| entry.release.id == release.id);
    let entry = match known {
        Some(known) => {
            let mut release = release;
            release.take_names_of(&known.release);
            if release == known.release {
                return Ok(known);
            }
            LedgerEntry { release, ..known }
        }
        None => LedgerEntry::new(release, Standing::Seen, now, "recorded at deploy"),
    };
    journal.mark(target.id(), &entry).await?;
    Ok(entry)
}

async fn what_runs(target: &dyn Target) -> Result<Release> {
    let now = target.observe(Look::full()).await?;
    let mut running: Vec<&Running> = vec![];
    for (_, part) in now.serving() {
        if !running.contains(&&part.running) {
            running.push(&part.running);
        }
    }
    let [Running::Release(id)] = running[..] else {
        let seen: Vec<String> = running.iter().map(ToString::to_string).collect();
        let seen = if seen.is_empty() { "nothing".to_string() } else { seen.join("; ") };
        return Err(Error::new(Kind::Conflict, "record the release that runs")
            .with_target(target.id())
            .with_message(format!("not just one release runs, but {seen}: record when the deploy is over"))
            .without_effect());
    };
    let history = target.history(HISTORY).await?;
    Ok(history.into_iter().find(|release| release.id == *id).unwrap_or_else(|| Release::new(id)))
}

/// Takes over what was known elsewhere: releases with their standing, newest first. Each is noted as of the moment it was
/// made, or as of `now` where that is not known. What the ledger knows already stays, unless it is older than that; and
/// that a release was merely seen never replaces anything.
///
/// Answers which releases were noted.
///
/// ```
/// use rollback_core::{Journal, Release, Result, Standing, Timestamp, record::import};
/// async fn first_day(journal: &dyn Journal) -> Result<()> {
///     let known = vec![
///         (Release::new("2.4.0"), Standing::Seen),
///         (Release::new("2.3.9"), Standing::Verified),
///         (Release::new("2.3.8"), Standing::Failed),
///     ];
///     import(journal, &"dir:/srv/checkout".into(), known, Timestamp::now()).await?;
///     Ok(())
/// }
/// ```
///
/// # Errors
/// As the journal. What was noted until then stays; the same call again goes on.
pub async fn import(
    journal: &dyn Journal,
    target: &TargetId,
    releases: Vec<(Release, Standing)>,
    now: Timestamp,
) -> Result<Vec<ReleaseId>> {
    let known = journal.ledger(target).await?;
    let mut noted = vec![];
    // The oldest first, each a moment later than the one before: the ledger goes by the time of its marks.
    let count = releases.len() as u64;
    for (newer, (release, standing)) in releases.into_iter().enumerate().rev() {
        let behind = Duration::from_millis((newer as u64).min(count));
        let at = release.made_at.map_or(Timestamp(now.0.saturating_sub(behind.as_millis() as u64)), |at| at.min(now));
        let stays = known
            .iter()
            .find(|entry| entry.release.id == release.id)
            .is_some_and(|entry| standing == Standing::Seen || entry.at >= at || entry.standing == standing);
        if !stays {
            noted.push(release.id.clone());
            journal.mark(target, &LedgerEntry::new(release, standing, at, "imported")).await?;
        }
    }
    noted.reverse();
    Ok(noted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Applied, Approved, Capabilities, Change, Choose, Fencing, Identity, Observation, PartState, Past, Prepared,
        Token, Work, journal::MemoryJournal,
    };
    use async_trait::async_trait;

    #[derive(Debug)]
    struct Shop(TargetId, Vec<PartState>);

    #[async_trait]
    impl Target for Shop {
        fn id(&self) -> &TargetId {
            &self.0
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities::new(Fencing::BestEffort)
        }
        async fn observe(&self, _: Look) -> Result<Observation> {
            let parts = self.1.iter().enumerate().map(|(n, part)| (format!("p{n}").into(), part.clone()));
            Ok(Observation::new(Identity::new("here", "1"), parts, Token::none()))
        }
        async fn history(&self, _: usize) -> Result<Vec<Release>> {
            Ok(vec![Release::new("2").with_why("commit 2")])
        }
        async fn prepare(&self, change: &Change, _: &Work) -> Result<Prepared> {
            Ok(Prepared::new(change))
        }
        async fn apply(&self, _: &Approved, _: Token, _: &Work) -> Result<Applied> {
            Ok(Applied::done())
        }
    }
    fn shop(parts: impl IntoIterator<Item = PartState>) -> Shop {
        Shop("t:shop".into(), parts.into_iter().collect())
    }
    async fn standings(journal: &MemoryJournal) -> Vec<(String, Standing)> {
        let ledger = journal.ledger(&"t:shop".into()).await.unwrap();
        ledger.iter().map(|e| (e.release.id.to_string(), e.standing)).collect()
    }

    #[tokio::test]
    async fn what_runs_is_seen_and_what_is_known_stays() {
        let journal = MemoryJournal::new();
        let entry = record(&shop([PartState::of("2")]), &journal, "2.0.0", Timestamp(5)).await.unwrap();
        assert_eq!((entry.release.label.as_str(), entry.release.why.as_deref()), ("2.0.0", Some("commit 2")));
        assert_eq!(standings(&journal).await, [("2".to_string(), Standing::Seen)]);
        for standing in [Standing::Verified, Standing::Failed] {
            let known = LedgerEntry::new(Release::new("2"), standing, Timestamp(6), "found out");
            journal.mark(&"t:shop".into(), &known).await.unwrap();
            for label in ["again", "again", "and again"] {
                let entry = record(&shop([PartState::of("2")]), &journal, label, Timestamp(7)).await.unwrap();
                assert_eq!((entry.standing, entry.at, entry.why.as_str()), (known.standing, known.at, "found out"));
                assert_eq!(entry.release.label, label, "the label it was given last");
                assert_eq!(journal.ledger(&"t:shop".into()).await.unwrap(), [entry]);
            }
            assert_eq!(standings(&journal).await, [("2".to_string(), standing)]);
            let names = journal.ledger(&"t:shop".into()).await.unwrap().remove(0).release.names;
            assert_eq!(names, ["again"], "what it was called before still leads to it");
        }
    }

    #[tokio::test]
    async fn half_a_deploy_is_not_recorded() {
        for parts in
            [vec![], vec![PartState::of("2"), PartState::of("3")], vec![PartState::new(None, Running::Nothing)]]
        {
            let journal = MemoryJournal::new();
            let e = record(&shop(parts), &journal, "x", Timestamp(5)).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Conflict);
            assert_eq!(standings(&journal).await, []);
        }
    }

    #[tokio::test]
    async fn an_import_fills_gaps_and_the_newest_verified_is_chosen() {
        let journal = MemoryJournal::new();
        let target = TargetId::from("t:shop");
        let all = || {
            vec![
                (Release::new("4"), Standing::Seen),
                (Release::new("3"), Standing::Verified),
                (Release::new("2"), Standing::Verified),
                (Release::new("1").with_made_at(Timestamp(10)), Standing::Verified),
            ]
        };
        let failed = LedgerEntry::new(Release::new("1"), Standing::Failed, Timestamp(20), "blamed");
        journal.mark(&target, &failed).await.unwrap();
        assert_eq!(import(&journal, &target, all(), Timestamp(1000)).await.unwrap(), ["4", "3", "2"]);
        assert_eq!(import(&journal, &target, all(), Timestamp(2000)).await.unwrap(), [""; 0], "twice changes nothing");
        let past = Past {
            history: all().into_iter().map(|(release, _)| release).collect(),
            ledger: journal.ledger(&target).await.unwrap(),
            ..Past::default()
        };
        assert_eq!(past.choose(&Choose::verified(), &"4".into(), false).unwrap().wanted.id, "3");
        assert!(standings(&journal).await.contains(&("1".into(), Standing::Failed)), "newer than the import");
        // Newer knowledge from elsewhere does replace.
        let newer = vec![(Release::new("3"), Standing::Failed)];
        assert_eq!(import(&journal, &target, newer, Timestamp(3000)).await.unwrap(), ["3"]);
        assert_eq!(past.ledger.len(), 4);
    }
}
