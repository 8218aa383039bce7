//! How a target stands: what was read of it and what its journal knows, in one value to print or to store.
//!
//! Not here: a judgement. Whether it is healthy, a [`HealthCheck`](crate::HealthCheck) says.

use crate::{
    Error, Fault, Journal, Kind, Landing, LedgerEntry, Look, Observation, PartId, PartState, Result, RunQuery,
    RunSummary, Settled, Standing, Target, TargetId, Timestamp, Weight, journal::HeldFreeze, release::Called,
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// How many of the latest runs, and of the ledger's releases, are shown.
const LATEST: usize = 5;

/// How a target stands, as far as it could be found out. Printed, it is for people; as JSON, for programs: the same content.
///
/// A target that cannot be read and a journal that is broken each leave a gap, which [`lost`](Status::lost) names; the rest
/// is shown all the same.
///
/// ```
/// # use rollback_core::{prelude::*, testing::{Bad, FakePlatform, Good}};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let shop = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
/// let status = Rollback::of(shop).status().await;
/// assert!(status.lost.is_empty());
/// assert!(status.unfinished.is_none());
/// assert!(status.to_string().contains("runs 2"));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Of what.
    pub target: TargetId,
    /// When it was looked, on the wall clock of whoever did.
    pub at: Timestamp,
    /// What was read of the target: parts, what is in flight, owners, trace. Without its token, which is for one write.
    pub seen: Option<Observation>,
    /// What is known of its releases, the newest mark first: the latest five.
    pub ledger: Vec<LedgerEntry>,
    /// The run that was left unfinished, or is being driven just now ([`RunSummary::driven_by`]).
    pub unfinished: Option<RunSummary>,
    /// The latest five runs, newest first.
    pub runs: Vec<RunSummary>,
    /// Freezes that are held for it, lapsed ones included.
    pub holds: Vec<HeldFreeze>,
    /// What could not be read, and why: the gaps of this status.
    pub lost: Vec<Fault>,
}

impl Status {
    /// Reads all of it, each read bounded by `within`. Never fails: what cannot be read is in [`lost`](Status::lost).
    /// Changes nothing, takes no lock.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// ```
    /// # use rollback_core::{journal::MemoryJournal, seconds, status::Status, testing::{FakePlatform, Good}, Timestamp};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let shop = FakePlatform::new().release("1", Good).live("1");
    /// let status = Status::read(&shop, &MemoryJournal::new(), Timestamp::now(), seconds(30)).await;
    /// assert!(status.seen.is_some());
    /// # }
    /// ```
    pub async fn read(target: &dyn Target, journal: &dyn Journal, at: Timestamp, within: Duration) -> Self {
        let id = target.id();
        let unfinished = RunQuery { unfinished: true, ..RunQuery::of_target(id) };
        let latest = RunQuery::of_target(id).with_limit(LATEST);
        let (seen, ledger, unfinished, runs, holds) = tokio::join!(
            bounded(within, "read the target", target.observe(Look::full())),
            bounded(within, "read the ledger", journal.ledger(id)),
            bounded(within, "look for an unfinished run", journal.runs(&unfinished)),
            bounded(within, "list the runs", journal.runs(&latest)),
            bounded(within, "list the holds", journal.holds()),
        );
        let mut lost: Vec<Fault> = vec![];
        let seen = kept(seen, &mut lost).map(|mut seen| {
            seen.token = crate::Token::none();
            seen
        });
        let mut ledger = kept(ledger, &mut lost).unwrap_or_default();
        ledger.truncate(LATEST);
        let unfinished = kept(unfinished, &mut lost).and_then(|all| all.into_iter().next());
        let runs = kept(runs, &mut lost).unwrap_or_default();
        let mut holds = kept(holds, &mut lost).unwrap_or_default();
        holds.retain(|held| held.hold.target == *id);
        // A journal that is broken says the same to each question.
        let mut said = vec![];
        lost.retain(|fault| {
            let new = !said.contains(&(fault.operation.clone(), fault.message.clone()));
            said.push((fault.operation.clone(), fault.message.clone()));
            new
        });
        Self { target: id.clone(), at, seen, ledger, unfinished, runs, holds, lost }
    }
}

async fn bounded<T>(within: Duration, what: &str, read: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(within, read).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Unavailable, what).with_message(format!("no answer within {within:?}")).without_effect())
    })
}

fn kept<T>(read: Result<T>, lost: &mut Vec<Fault>) -> Option<T> {
    read.map_err(|error| lost.push(error.into_fault())).ok()
}

/// As people read it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.plain(&mut text)?;
        // What the ledger knows a release by.
        f.write_str(&Called::each(self.ledger.iter().map(|entry| &entry.release)).told(&text))
    }
}

impl Status {
    /// With ids, as they were read.
    fn plain(&self, f: &mut impl fmt::Write) -> fmt::Result {
        write!(f, "{} at {}", self.target, self.at)?;
        for fault in &self.lost {
            write!(f, "\n  NOT KNOWN: {fault}")?;
        }
        if let Some(seen) = &self.seen {
            write!(f, "\n  it is {}", seen.identity)?;
            for (id, part) in seen.parts.iter() {
                write!(f, "\n  {}", Part(id, part))?;
            }
            if let Some(flight) = &seen.in_flight {
                let name = |id: &Option<crate::ReleaseId>| id.as_ref().map_or("?".into(), ToString::to_string);
                write!(f, "\n  in flight: {} to {}", name(&flight.from), name(&flight.to))?;
                match &flight.abort {
                    Some(Landing::On(release)) => write!(f, "; an abort would land on {release}")?,
                    Some(Landing::Unsaid) => {
                        f.write_str("; it can be aborted, and does not say where it would land")?
                    }
                    None => f.write_str("; it cannot be aborted")?,
                }
            }
            if !seen.owners.is_empty() {
                write!(f, "\n  who else writes here: {}", seen.owners.join(", "))?;
            }
            if let Some(trace) = &seen.trace {
                let crate::Trace { run, left, reached, at } = trace;
                write!(f, "\n  last rolled back {at}: from {left} to {reached}, by {run}")?;
                if !seen.parts.values().any(|part| part.runs(reached)) {
                    write!(f, "; {reached} runs nowhere now")?;
                }
            }
        }
        for LedgerEntry { release, standing, at, why, .. } in &self.ledger {
            let standing = match standing {
                Standing::Verified => "verified",
                Standing::Failed => "failed",
                Standing::Seen => "seen",
            };
            write!(f, "\n  release {release}: {standing} {at}, {why}")?;
        }
        if let Some(run) = &self.unfinished {
            let driver = run.driven_by.as_deref();
            let who = driver.map_or("nobody drives it: resume it".into(), |who| format!("driven by {who}"));
            write!(f, "\n  UNFINISHED: {} since {}, ordered by {}; {who}", run.run, run.began, run.who)?;
        }
        for run in &self.runs {
            let end = run.outcome.as_ref().map_or("unfinished".into(), ToString::to_string);
            write!(f, "\n  run {} of {}: {end} ({})", run.run, run.began, run.why)?;
        }
        for HeldFreeze { name, hold, was } in &self.holds {
            let until = match hold.until {
                Some(until) if hold.has_lapsed(self.at) => format!("lapsed {until}"),
                Some(until) => format!("until {until}"),
                None => "until it is unfrozen".into(),
            };
            let perhaps = if was.is_none() { "perhaps " } else { "" };
            write!(f, "\n  {perhaps}frozen: {name}, {until}, by {} for {}", hold.owner, hold.run)?;
        }
        Ok(())
    }
}

struct Part<'a>(&'a PartId, &'a PartState);

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Part(id, part) = self;
        write!(f, "part {id}: runs {}", part.running)?;
        if let Some(told) = part.wanted.as_ref().filter(|told| !part.runs(told)) {
            write!(f, ", was told {told}")?;
        }
        match part.weight {
            Some(Weight::NONE) => f.write_str(", no traffic")?,
            Some(weight) => write!(f, ", {weight} of the traffic")?,
            None => {}
        }
        match (part.ready, part.capacity) {
            (Some(ready), Some(of)) => write!(f, ", {ready} of {of} ready")?,
            (Some(ready), None) => write!(f, ", {ready} ready")?,
            (None, Some(of)) => write!(f, ", {of} instances")?,
            (None, None) => {}
        }
        if !part.addresses.is_empty() {
            write!(f, ", at {}", part.addresses.join(", "))?;
        }
        match &part.settled {
            Settled::Yes => Ok(()),
            Settled::NotYet { why } => write!(f, "; not settled: {why}"),
            Settled::Never { why } => write!(f, "; it will not settle: {why}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Hold, Identity, InFlight, Intent, Payload, Release, RunId, Running, Token, Trace,
        journal::{BrokenJournal, MemoryJournal},
        seconds,
    };

    #[derive(Serialize, Deserialize)]
    struct Secret(String);
    impl crate::Stored for Secret {
        const NAME: &'static str = "test/secret";
        const VERSION: u32 = 1;
    }

    #[derive(Debug)]
    struct Shop(TargetId, Option<Observation>);

    #[async_trait::async_trait]
    impl Target for Shop {
        fn id(&self) -> &TargetId {
            &self.0
        }
        fn capabilities(&self) -> crate::Capabilities {
            crate::Capabilities::new(crate::Fencing::BestEffort)
        }
        async fn observe(&self, _: Look) -> Result<Observation> {
            match &self.1 {
                Some(seen) => Ok(seen.clone()),
                None => std::future::pending().await,
            }
        }
        async fn history(&self, _: usize) -> Result<Vec<Release>> {
            Ok(vec![])
        }
        async fn prepare(&self, change: &crate::Change, _: &crate::Work) -> Result<crate::Prepared> {
            Ok(crate::Prepared::new(change))
        }
        async fn apply(&self, _: &crate::Approved, _: Token, _: &crate::Work) -> Result<crate::Applied> {
            Ok(crate::Applied::done())
        }
    }

    fn blue_green() -> Shop {
        let blue = PartState::of("1").with_weight(Weight::NONE).with_capacity(2, 2);
        let green = PartState::new(Some("2".into()), Running::Mixed([("1".into(), 1), ("2".into(), 1)].into()))
            .with_weight(Weight::ALL)
            .with_capacity(2, 1)
            .with_addresses(["127.0.0.1:80".into()])
            .with_settled(Settled::NotYet { why: "1 of 2 updated".into() });
        let secret = Payload::of(&Secret("the token".into())).unwrap();
        let flight = InFlight::new(Payload::of(&Secret("handle".into())).unwrap())
            .with_releases(Some("1".into()), Some("2".into()))
            .with_abort(Landing::On("1".into()));
        let trace = Trace { run: "r0".into(), left: "3".into(), reached: "1".into(), at: Timestamp(1000) };
        let seen = Observation::new(
            Identity::new("here", "7"),
            [("blue".into(), blue), ("green".into(), green)],
            Token(Some(secret)),
        );
        let seen = seen.with_in_flight(flight).with_owners(["argo-cd:shop".into()]).with_trace(Some(trace));
        Shop("t:shop".into(), Some(seen))
    }

    #[tokio::test]
    async fn all_of_it_in_words_and_as_data() {
        let journal = MemoryJournal::new();
        let shop = blue_green();
        let known = LedgerEntry::new(Release::new("1"), Standing::Verified, Timestamp(2000), "healthy for 15 min");
        journal.mark(shop.id(), &known).await.unwrap();
        let mut intent = Intent::new(RunId::new("r1"), shop.id().clone(), "ann@host", "500s");
        intent.at = Timestamp(3000);
        journal.begin(&intent).await.unwrap();
        let status = Status::read(&shop, &journal, Timestamp(4000), seconds(1)).await;
        let text = status.to_string();
        for line in [
            "t:shop at 1970-01-01T00:00:04.000Z",
            "part blue: runs 1, no traffic, 2 of 2 ready",
            "part green: runs 1 × 1, 1 × 2, was told 2, 100% of the traffic, 1 of 2 ready, at 127.0.0.1:80; \
             not settled: 1 of 2 updated",
            "in flight: 1 to 2; an abort would land on 1",
            "who else writes here: argo-cd:shop",
            "last rolled back 1970-01-01T00:00:01.000Z: from 3 to 1, by r0",
            "release 1: verified 1970-01-01T00:00:02.000Z, healthy for 15 min",
            "UNFINISHED: r1 since 1970-01-01T00:00:03.000Z, ordered by ann@host; driven by",
            "run r1 of 1970-01-01T00:00:03.000Z: unfinished (500s)",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let json = serde_json::to_string(&status).unwrap();
        assert!(!json.contains("the token"), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }

    #[tokio::test]
    async fn a_run_that_nobody_drives_is_to_be_resumed() {
        let journal = MemoryJournal::new();
        let shop = blue_green();
        let begun = journal.begin(&Intent::new(RunId::new("r1"), shop.id().clone(), "ann", "500s")).await.unwrap();
        let crate::Begun::Fresh { lease, .. } = begun else { panic!("{begun:?}") };
        journal.let_go(&lease);
        let text = Status::read(&shop, &journal, Timestamp(4000), seconds(1)).await.to_string();
        assert!(text.contains("ordered by ann; nobody drives it: resume it"), "{text}");
    }

    #[test]
    fn a_hold_says_until_when() {
        let hold = Hold::new("r1".into(), "t:shop".into(), "ann", "500s");
        let held = |until| HeldFreeze {
            name: "ci".into(),
            hold: hold.clone().with_until(until),
            was: Some(Payload::of(&Secret(String::new())).unwrap()),
        };
        let mut status = Status {
            target: "t:shop".into(),
            at: Timestamp(5000),
            seen: None,
            ledger: vec![],
            unfinished: None,
            runs: vec![],
            holds: vec![],
            lost: vec![],
        };
        for (until, says) in [
            (None, "frozen: ci, until it is unfrozen, by ann for r1"),
            (Some(Timestamp(4000)), "frozen: ci, lapsed 1970-01-01T00:00:04.000Z, by ann for r1"),
            (Some(Timestamp(6000)), "frozen: ci, until 1970-01-01T00:00:06.000Z, by ann for r1"),
        ] {
            status.holds = vec![held(until)];
            assert!(status.to_string().contains(says), "{status}");
        }
        status.holds = vec![HeldFreeze { was: None, ..held(None) }];
        assert!(status.to_string().contains("perhaps frozen: ci"), "{status}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_a_gap_and_no_end() {
        let fault = Error::new(Kind::Invalid, "open the journal").with_message("it is corrupt").into_fault();
        let status = Status::read(&blue_green(), &BrokenJournal::new(fault), Timestamp(1), seconds(1)).await;
        assert!(status.seen.is_some());
        assert!(status.to_string().contains("NOT KNOWN: ") && status.to_string().contains("it is corrupt"), "{status}");
        let hangs = Shop("t:shop".into(), None);
        let status = Status::read(&hangs, &MemoryJournal::new(), Timestamp(1), seconds(1)).await;
        assert_eq!((status.seen, status.lost.len()), (None, 1));
        assert_eq!(status.lost[0].message, "no answer within 1s");
    }
}
