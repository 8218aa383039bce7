//! Freezes whose answers are lost, on virtual time: what may hold is never forgotten, and is lifted exactly.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use rollback_core::{
    Clock, Entry, Error, Freeze, Hold, Now, Payload, Stored,
    freeze::{FreezeEnd, unfreeze},
    prelude::*,
    testing::{Bad, FakePlatform, Good},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How a call of the pipeline goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goes {
    Well,
    /// It happens, and the answer is lost.
    Unheard,
    /// It does not happen, and nobody can tell.
    Nowhere,
    /// It does not happen, and that is certain.
    Refused,
    /// It happens, and fails in a way that waiting does not help.
    Badly,
    Hangs,
}

/// A pipeline that deploys on its own, set to 7; frozen it is set to 0.
#[derive(Clone, Debug)]
struct Pipeline(Arc<Mutex<Inside>>);
#[derive(Debug)]
struct Inside {
    setting: u32,
    holds: BTreeMap<String, (Hold, u32)>,
    /// How the next calls of `freeze` go; the last one for all that follow.
    goes: Vec<Goes>,
    looks: Goes,
    calls: Vec<&'static str>,
}

#[derive(Serialize, Deserialize)]
struct Was(u32);
impl Stored for Was {
    const NAME: &'static str = "test/was";
    const VERSION: u32 = 1;
}

impl Pipeline {
    fn new(goes: impl IntoIterator<Item = Goes>) -> Self {
        let goes = goes.into_iter().collect();
        let inside = Inside { setting: 7, holds: BTreeMap::new(), goes, looks: Goes::Well, calls: vec![] };
        Self(Arc::new(Mutex::new(inside)))
    }
    fn looking(self, looks: Goes) -> Self {
        self.0.lock().unwrap().looks = looks;
        self
    }
    /// From now on.
    fn goes(&self, goes: Goes) {
        let mut inside = self.0.lock().unwrap();
        (inside.goes, inside.looks) = (vec![goes], goes);
    }
    fn setting(&self) -> u32 {
        self.0.lock().unwrap().setting
    }
    fn calls(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().calls.clone()
    }
    fn until(&self, run: &str) -> Option<Timestamp> {
        self.0.lock().unwrap().holds.get(run).and_then(|(hold, _)| hold.until)
    }
}

fn failed(goes: Goes) -> Result<()> {
    match goes {
        Goes::Well => Ok(()),
        Goes::Unheard | Goes::Nowhere | Goes::Hangs => Err(Error::new(Kind::Unavailable, "freeze")),
        Goes::Refused => Err(Error::new(Kind::Denied, "freeze").without_effect()),
        Goes::Badly => Err(Error::new(Kind::Unexpected, "freeze").with_message("exit 1")),
    }
}

#[async_trait]
impl Freeze for Pipeline {
    fn name(&self) -> String {
        "ci".into()
    }
    async fn freeze(&self, hold: &Hold) -> Result<Payload> {
        let (goes, was) = {
            let mut inside = self.0.lock().unwrap();
            inside.calls.push("freeze");
            let goes = if inside.goes.len() > 1 { inside.goes.remove(0) } else { inside.goes[0] };
            let mut was = 0;
            if matches!(goes, Goes::Well | Goes::Unheard | Goes::Badly | Goes::Hangs) {
                let setting = inside.setting;
                let held = inside.holds.entry(hold.run.to_string()).or_insert((hold.clone(), setting));
                held.0 = hold.clone();
                was = held.1;
                inside.setting = 0;
            }
            (goes, was)
        };
        if goes == Goes::Hangs {
            std::future::pending::<()>().await;
        }
        failed(goes)?;
        Payload::of(&Was(was))
    }
    async fn held(&self) -> Result<Vec<Hold>> {
        let mut inside = self.0.lock().unwrap();
        inside.calls.push("held");
        failed(inside.looks)?;
        Ok(inside.holds.values().map(|(hold, _)| hold.clone()).collect())
    }
    async fn unfreeze(&self, hold: &Hold, was: Payload) -> Result<()> {
        let mut inside = self.0.lock().unwrap();
        inside.calls.push("unfreeze");
        if inside.holds.remove(hold.run.as_str()).is_some() {
            inside.setting = was.read::<Was>()?.0;
        }
        Ok(())
    }
}

fn shop() -> FakePlatform {
    FakePlatform::new().release("1", Good).release("2", Bad).live("2")
}
fn flow(shop: &FakePlatform, journal: &MemoryJournal, pipeline: &Pipeline) -> Rollback {
    Rollback::of(shop.clone())
        .because("500s")
        .to(Choose::verified().or_previous())
        .journal(journal.clone())
        .freezing(pipeline.clone())
        .run_id("r")
}
async fn lift(journal: &MemoryJournal, pipeline: &Pipeline) -> Vec<FreezeEnd> {
    let freezes: Vec<Arc<dyn Freeze>> = vec![Arc::new(pipeline.clone())];
    let ends = unfreeze(journal, &freezes, &"r".into(), "ann", Timestamp::now()).await.unwrap();
    ends.into_iter().map(|end| end.end).collect()
}
/// A far end that the clock of this machine does not reach.
fn policy() -> Policy {
    Policy::default().with_freeze_for(None)
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_looked_for_and_asked_for_again() {
    for goes in [Goes::Unheard, Goes::Nowhere, Goes::Hangs, Goes::Badly] {
        let (shop, journal, pipeline) = (shop(), MemoryJournal::new(), Pipeline::new([goes, Goes::Well]));
        let report = flow(&shop, &journal, &pipeline).policy(policy()).run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{goes:?}: {report}");
        assert_eq!(pipeline.calls(), ["freeze", "held", "freeze"], "{goes:?}");
        assert_eq!((report.frozen(), report.maybe_frozen()), (vec![("ci", None)], vec![]));
        assert_eq!(pipeline.setting(), 0);
        assert_eq!(lift(&journal, &pipeline).await, [FreezeEnd::Lifted]);
        assert_eq!(pipeline.setting(), 7, "what was there before the first call: {goes:?}");
    }
}

/// Nothing was changed by the run but the freeze, and that is what must not be forgotten.
#[tokio::test(start_paused = true)]
async fn a_run_that_ends_without_the_answer_says_what_may_be_frozen() {
    // It holds, and the look says so; it holds, and nobody can look; it fails as if for good, and holds.
    for (goes, looks) in [(Goes::Unheard, Goes::Well), (Goes::Unheard, Goes::Nowhere), (Goes::Badly, Goes::Well)] {
        let (shop, journal) = (shop(), MemoryJournal::new());
        let pipeline = Pipeline::new([goes]).looking(looks);
        let report = flow(&shop, &journal, &pipeline).policy(policy()).run().await.unwrap();
        assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
        assert_eq!(shop.effects(), [], "not without its freeze");
        assert_eq!(pipeline.setting(), 0);
        assert!(report.took() < minutes(3), "{:?}", report.took());
        assert_eq!((report.frozen(), report.maybe_frozen()), (vec![], vec![("ci", None)]), "{report}");
        assert!(report.to_do().iter().any(|what| what.starts_with("look whether the freeze ci holds")), "{report}");
        assert!(report.to_string().contains("whether ci is frozen is not known"), "{report}");
        let holds = journal.holds().await.unwrap();
        assert_eq!(holds.iter().map(|held| held.was.is_some()).collect::<Vec<_>>(), [false]);
        // Later, when the pipeline answers.
        pipeline.goes(Goes::Well);
        assert_eq!(lift(&journal, &pipeline).await, [FreezeEnd::Lifted]);
        assert_eq!((pipeline.setting(), journal.holds().await.unwrap()), (7, vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_certainly_not_frozen_is_not_said_to_be() {
    for (goes, looked) in [(Goes::Refused, false), (Goes::Nowhere, true)] {
        let (shop, journal, pipeline) = (shop(), MemoryJournal::new(), Pipeline::new([goes]));
        let report = flow(&shop, &journal, &pipeline).run().await.unwrap();
        assert!(
            matches!(report.outcome(), Outcome::Refused { why, .. } if why.contains("could not be frozen")),
            "{report}"
        );
        assert_eq!(pipeline.calls().contains(&"held"), looked);
        assert_eq!((report.frozen(), report.maybe_frozen()), (vec![], vec![]), "{report}");
        assert_eq!(journal.holds().await.unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_glass_nobody_waits_for_a_look() {
    let (shop, journal, pipeline) = (shop(), MemoryJournal::new(), Pipeline::new([Goes::Unheard]));
    let dir = tempfile::tempdir().unwrap();
    let report = flow(&shop, &journal, &pipeline).spool(dir.path()).break_glass("down").await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(pipeline.calls(), ["freeze"]);
    assert!(report.losses().iter().any(|(what, _)| *what == "freeze ci"), "{report}");
    assert_eq!(report.maybe_frozen().len(), 1);
    pipeline.goes(Goes::Well);
    assert_eq!(lift(&journal, &pipeline).await.len(), 1);
    assert_eq!((pipeline.setting(), journal.holds().await.unwrap()), (7, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_answer_is_looked_at_again() {
    let (shop, journal, pipeline) = (shop(), MemoryJournal::new(), Pipeline::new([Goes::Hangs, Goes::Well]));
    let first = flow(&shop, &journal, &pipeline).policy(policy());
    assert!(tokio::time::timeout(seconds(5), first.run()).await.is_err());
    assert_eq!(journal.holds().await.unwrap().len(), 1, "its intent says that it may hold");
    let report = flow(&shop, &journal, &pipeline).policy(policy()).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    assert_eq!(pipeline.calls(), ["freeze", "held", "freeze"]);
    assert_eq!(report.frozen(), [("ci", None)]);
    assert_eq!(lift(&journal, &pipeline).await, [FreezeEnd::Lifted]);
    assert_eq!(pipeline.setting(), 7);
}

/// A run that was given up with nothing but an intent: whether or not the freeze arrived, lifting it is one call.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_given_up_may_hold_too() {
    for (goes, end) in [(Goes::Hangs, FreezeEnd::Lifted), (Goes::Nowhere, FreezeEnd::WasNotHeld)] {
        let (shop, journal, pipeline) = (shop(), MemoryJournal::new(), Pipeline::new([goes]));
        let first = flow(&shop, &journal, &pipeline).policy(policy());
        assert!(tokio::time::timeout(seconds(5), first.run()).await.is_err());
        journal.give_up(&"r".into(), "ann", "it is mended by hand").await.unwrap();
        let report = Report::of(&journal, &"r".into()).await.unwrap();
        assert_eq!(report.maybe_frozen(), [("ci", None)], "{report}");
        pipeline.goes(Goes::Well);
        assert_eq!(lift(&journal, &pipeline).await, [end]);
        assert_eq!((pipeline.setting(), journal.holds().await.unwrap()), (7, vec![]));
    }
}

/// It was frozen, nobody drove the run for long, and the freeze ran out: before anything is written, it is frozen again.
#[tokio::test(start_paused = true)]
async fn a_freeze_that_ran_out_meanwhile_is_asked_for_again() {
    #[derive(Debug)]
    struct At(Duration, tokio::time::Instant);
    impl Clock for At {
        fn now(&self) -> Now {
            let mono = self.1.elapsed();
            Now { mono, wall: Timestamp(1_000_000).after(self.0 + mono) }
        }
    }
    let (shop, journal, pipeline) = (shop(), MemoryJournal::new(), Pipeline::new([Goes::Well]));
    let run = |later: Duration, trial: Verdict| {
        let window = Window::default().with_within(hours(1));
        let tries = move |_: Context| {
            let trial = trial.clone();
            async move { Ok(trial) }
        };
        flow(&shop, &journal, &pipeline)
            .clock(At(later, tokio::time::Instant::now()))
            .tried_first_by(Verify::with("staging", window, tries))
            .policy(Policy::default().with_freeze_for(Some(minutes(10))))
    };
    // The trial comes behind the freeze.
    let first = run(Duration::ZERO, Verdict::Unknown(vec![]));
    assert!(tokio::time::timeout(seconds(30), first.run()).await.is_err());
    let before = pipeline.until("r").unwrap();
    let report = run(hours(2), Verdict::Holds(vec![])).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let until = pipeline.until("r").unwrap();
    assert!(until.since(before) >= hours(2) - minutes(1), "{before} {until}");
    assert_eq!(report.frozen(), [("ci", Some(until))]);
    let asked = report.lines().iter().filter(|line| matches!(line.entry, Entry::Freezing { .. })).count();
    assert_eq!(asked, 2, "{report}");
    assert_eq!(lift(&journal, &pipeline).await.len(), 1);
    assert_eq!(pipeline.setting(), 7);
}

/// What the journal says of freezes, and of what was seen unhealthy, is read by later releases: the file is never changed.
#[test]
fn the_lines_of_a_freeze_stay_readable() {
    let until = Some(Timestamp(1_790_100_000_000));
    let at = rollback_core::At { rung: 0, step: 1 };
    let lost = Error::new(Kind::Unavailable, "freeze").with_message("no answer").into_fault();
    let entries = [
        Entry::Freezing { name: "gitops".into(), until },
        Entry::Froze { name: "gitops".into(), was: Some(Box::new(Payload::of(&Was(7)).unwrap())), until },
        Entry::Freezing { name: "ci".into(), until: None },
        Entry::FreezeUnclear { name: "ci".into(), fault: Box::new(lost) },
        Entry::Unhealthy { at, evidence: vec![Evidence::new("GET /health", "503 in 12 ms")] },
    ];
    let text: String = entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
    let golden = include_str!("../golden/freezes-v1.jsonl");
    assert_eq!(text, golden);
    let read: Vec<Entry> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, entries);
    // Before there was an `until` in it.
    let older: Entry = serde_json::from_str(r#"{"Freezing":{"name":"ci"}}"#).unwrap();
    assert_eq!(older, entries[2]);
}
