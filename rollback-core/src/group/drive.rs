//! The rollbacks of a group, driven in one task.

use super::{GroupReport, Member, MemberEnd, Next, OnFailure, Order};
use crate::{Error, Kind, Outcome, Report, Result, Rollback, RunId};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// Several rollbacks in the order of what depends on what. A value: nothing happens before [`run`](Group::run).
///
/// If you say nothing, four run at once, and a failure holds: see [`OnFailure`].
///
/// ```
/// # use rollback_core::{prelude::*, testing::{Bad, FakePlatform, Good}};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<()> {
/// # let fake = |id: &str| FakePlatform::new().called(id).release("1", Good).release("2", Bad).live("2");
/// # let (database, service) = (fake("fake:db"), fake("fake:api"));
/// let back = |target| Rollback::of(target).because("500s since 2").to(Choose::verified().or_previous());
/// let (db, api) = (back(database), back(service));
/// let report = Group::new("incident-17")
///     .member("db", db)
///     .member_after("api", api, ["db"])
///     .at_once(2)
///     .run()
///     .await?;
/// assert!(report.is_good(), "{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before run"]
pub struct Group {
    run: RunId,
    members: Vec<(String, Rollback, Vec<String>)>,
    at_once: Option<usize>,
    on_failure: OnFailure,
}

impl Group {
    /// A group. Its id is what a resumed group is known by: give the same one again to go on, another one to begin anew.
    pub fn new(run: impl Into<RunId>) -> Self {
        Self { run: run.into(), members: vec![], at_once: None, on_failure: OnFailure::default() }
    }
    /// A member that may begin at once. Its run gets the id `group/name`, whatever id it was given.
    pub fn member(self, name: impl Into<String>, rollback: Rollback) -> Self {
        self.member_after(name, rollback, [""; 0])
    }
    /// A member that begins when those have ended well.
    pub fn member_after(
        mut self,
        name: impl Into<String>,
        rollback: Rollback,
        after: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.members.push((name.into(), rollback, after.into_iter().map(Into::into).collect()));
        self
    }
    /// How many may run at once. One at least.
    pub fn at_once(mut self, at_once: usize) -> Self {
        self.at_once = Some(at_once);
        self
    }
    /// What happens when a member does not end well. Default: [`OnFailure::Hold`].
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }
    /// The order, to show it or to check it before.
    ///
    /// # Errors
    /// As [`Order::new`]; [`Kind::Invalid`] too if two members are of the same target, which would keep each other out.
    pub fn order(&self) -> Result<Order> {
        let members = self.members.iter().map(|(name, _, after)| (name.as_str(), after.iter().map(String::as_str)));
        let mut order = Order::new(self.run.clone(), members)?.with_on_failure(self.on_failure);
        if let Some(at_once) = self.at_once {
            order = order.with_at_once(at_once);
        }
        let mut of: BTreeMap<_, &str> = BTreeMap::new();
        for (name, rollback, _) in &self.members {
            if let Some(other) = of.insert(rollback.target_id(), name) {
                return Err(Error::new(Kind::Invalid, "order the group")
                    .with_message(format!(
                        "{other} and {name} are of the same target, and one would keep the other out: make them one member"
                    ))
                    .with_target(rollback.target_id())
                    .without_effect());
            }
        }
        Ok(order)
    }

    /// Runs the members, or goes on with those that an earlier call left unfinished: a member that has ended is not run
    /// again, if its journal remembers it. One that was refused, and so touched nothing, is tried anew, under the id
    /// `group/name#2` and so on: mend what kept it, and run the same group again. A member that is stuck, or was
    /// superseded, wants a person: roll it back by itself, then leave it out. How each went is in the report.
    ///
    /// # Cancel safety
    /// Dropping the future drops the members' runs with it. The same group, run again, goes on with them.
    ///
    /// # Errors
    /// As [`order`](Group::order), before anything is read.
    pub async fn run(&self) -> Result<GroupReport> {
        let order = self.order()?;
        let rollbacks: BTreeMap<&str, Rollback> = self
            .members
            .iter()
            .map(|(name, rollback, _)| {
                (name.as_str(), rollback.clone().run_id(order.child_run(name)).part_of(order.run()))
            })
            .collect();
        // Each wakes only itself: that a thousand run at once costs no more than that they run.
        let mut race = FuturesUnordered::new();
        let mut running: BTreeSet<String> = BTreeSet::new();
        let mut ends: BTreeMap<String, MemberEnd> = BTreeMap::new();
        let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
        loop {
            match order.next(&running, &outcomes) {
                Next::Start(names) => {
                    for name in names {
                        if let Some(rollback) = rollbacks.get(name.as_str()) {
                            running.insert(name.clone());
                            let run = anew_if_refused(rollback.clone());
                            race.push(async move { (name, run.await) });
                        }
                    }
                }
                Next::Wait => {
                    let Some((name, ended)) = race.next().await else { break };
                    running.remove(&name);
                    let (outcome, end) = match ended {
                        Ok(report) => (report.outcome().clone(), MemberEnd::Ran(Box::new(report))),
                        Err(e) => {
                            let fault = e.into_fault();
                            let why = fault.message.clone();
                            (Outcome::Refused { why, lift: String::new() }, MemberEnd::NotTried(fault))
                        }
                    };
                    outcomes.insert(name.clone(), outcome);
                    ends.insert(name, end);
                }
                Next::Done { .. } => break,
            }
        }
        let members = order
            .sorted()
            .into_iter()
            .map(|name| Member { name: name.to_owned(), end: ends.remove(name).unwrap_or(MemberEnd::Untouched) })
            .collect();
        Ok(GroupReport::new(order, members))
    }
}

/// A member that an earlier call saw refused touched nothing: it is tried anew, as the group's next run of it, because what
/// kept it may be mended by now. Any other end stands.
async fn anew_if_refused(member: Rollback) -> Result<Report> {
    let Some(id) = member.given_run().cloned() else { return member.run().await };
    let mut report = member.run().await?;
    let mut tries = 1_u32;
    while report.was_adopted() && matches!(report.outcome(), Outcome::Refused { .. }) && tries < MOST_TRIES {
        tries += 1;
        report = member.clone().run_id(format!("{id}#{tries}")).run().await?;
    }
    Ok(report)
}

/// Far more than anybody will mend.
const MOST_TRIES: u32 = 1000;

#[allow(dead_code)]
fn run_is_send(group: &Group) -> impl Send + '_ {
    group.run()
}

#[cfg(all(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        Choose, Context, Entry, Event, EventKind, Health, HealthCheck, Observer, Policy,
        journal::MemoryJournal,
        seconds,
        testing::{Bad, FakePlatform, Good, Moment},
    };
    use std::{
        future::poll_fn,
        pin::pin,
        sync::{
            Arc, Mutex, PoisonError,
            atomic::{AtomicUsize, Ordering},
        },
    };

    fn fake(name: &str) -> FakePlatform {
        FakePlatform::new().called(format!("fake:{name}")).release("1", Good).release("2", Bad).live("2")
    }
    fn back(target: &FakePlatform, journal: &Arc<MemoryJournal>) -> Rollback {
        Rollback::of(target.clone()).because("test").to(Choose::verified().or_previous()).journal(journal.clone())
    }

    /// Who began and who ended, in order.
    #[derive(Clone, Debug, Default)]
    struct Diary(Arc<Mutex<Vec<String>>>);
    impl Diary {
        fn read(&self) -> Vec<String> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
        /// The most that ran at once.
        fn most(&self) -> usize {
            let mut now = 0_usize;
            self.read()
                .iter()
                .map(|line| {
                    if line.starts_with('+') {
                        now += 1
                    } else {
                        now -= 1
                    }
                    now
                })
                .max()
                .unwrap_or(0)
        }
    }
    impl Observer for Diary {
        fn on_event(&self, event: &Event) {
            let line = match &event.kind {
                EventKind::Began { .. } => format!("+{}", event.run),
                EventKind::Ended(_) => format!("-{}", event.run),
                _ => return,
            };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_order_and_in_one_report() {
        let (db, api, docs) = (fake("db"), fake("api").settles_after(seconds(30)), fake("docs"));
        let (journal, diary) = (Arc::new(MemoryJournal::new()), Diary::default());
        let report = Group::new("g")
            .member_after("api", back(&api, &journal).observer(diary.clone()), ["db"])
            .member("db", back(&db, &journal).observer(diary.clone()))
            .member("docs", back(&docs, &journal).observer(diary.clone()))
            .run()
            .await
            .unwrap();
        assert!(report.is_good(), "{report}");
        for target in [&db, &api, &docs] {
            assert!(target.is_live("1"));
        }
        let diary = diary.read();
        let at = |line: &str| diary.iter().position(|l| l == line).unwrap();
        assert!(at("-g/db") < at("+g/api"), "{diary:?}");
        assert!(at("+g/docs") < at("-g/db"), "{diary:?}");
        let intent = report.member("api").unwrap().report().unwrap().intent();
        assert_eq!(intent.parent, Some(RunId::from("g")));
        let names: Vec<_> = report.members().iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["db", "docs", "api"]);
        let text = report.to_string();
        assert!(text.starts_with("group g: 3 of 3 ended well\n"), "{text}");
        let read: GroupReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(read, report);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_at_once_than_said() {
        for at_once in [1, 2, 3] {
            let (journal, diary) = (Arc::new(MemoryJournal::new()), Diary::default());
            let mut group = Group::new("g").at_once(at_once);
            for i in 0..6 {
                let target = fake(&i.to_string()).settles_after(seconds(10));
                group = group.member(format!("m{i}"), back(&target, &journal).observer(diary.clone()));
            }
            assert!(group.run().await.unwrap().is_good());
            assert_eq!(diary.most(), at_once);
        }
    }

    /// Counts how often it is asked to go on until it is let go.
    #[derive(Clone, Debug, Default)]
    struct Waits {
        polls: Arc<AtomicUsize>,
        over: Arc<tokio::sync::Notify>,
    }
    #[async_trait::async_trait]
    impl HealthCheck for Waits {
        fn name(&self) -> String {
            "waits".into()
        }
        async fn check(&self, _: &Context) -> Result<Health> {
            let mut over = pin!(self.over.notified());
            poll_fn(|cx| {
                self.polls.fetch_add(1, Ordering::Relaxed);
                over.as_mut().poll(cx)
            })
            .await;
            self.over.notify_one();
            Ok(Health::healthy("it", "waited"))
        }
    }
    /// Comes back a thousand times, then lets the other go.
    #[derive(Clone, Debug)]
    struct Busy(Waits);
    #[async_trait::async_trait]
    impl HealthCheck for Busy {
        fn name(&self) -> String {
            "busy".into()
        }
        async fn check(&self, _: &Context) -> Result<Health> {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            self.0.over.notify_one();
            Ok(Health::healthy("it", "waited"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_left_alone_while_others_work() {
        let (journal, waits) = (Arc::new(MemoryJournal::new()), Waits::default());
        let group = Group::new("g")
            .member("waits", back(&fake("a"), &journal).healthy_when(waits.clone()))
            .member("busy", back(&fake("b"), &journal).healthy_when(Busy(waits.clone())));
        let report = group.run().await.unwrap();
        assert!(report.is_good(), "{report}");
        let polls = waits.polls.load(Ordering::Relaxed);
        assert!((1..100).contains(&polls), "polled {polls} times while another one worked");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_holds_and_is_reported() {
        let journal = Arc::new(MemoryJournal::new());
        let make = |on_failure| {
            let db = fake("db").someone_deploys("3", Moment::BeforeStep(1));
            let (api, docs) = (fake("api"), fake("docs"));
            let group = Group::new(format!("g-{on_failure:?}"))
                .at_once(1)
                .on_failure(on_failure)
                .member("db", back(&db, &journal))
                .member_after("api", back(&api, &journal), ["db"])
                .member("docs", back(&docs, &journal));
            (group, api, docs)
        };
        let (group, api, docs) = make(OnFailure::Hold);
        let report = group.run().await.unwrap();
        assert_eq!((report.failed(), report.untouched()), (vec!["db"], vec!["docs", "api"]));
        assert!(!report.is_good() && api.is_live("2") && docs.is_live("2"));
        let text = report.to_string();
        assert!(text.starts_with("group g-Hold: 0 of 3 ended well, db failed (held), docs, api untouched\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["failed"], serde_json::json!(["db"]));
        assert!(report.to_do().iter().any(|what| what.contains("not touched: docs, api")), "{report}");

        let (group, api, docs) = make(OnFailure::GoOn);
        let report = group.run().await.unwrap();
        assert_eq!((report.failed(), report.untouched()), (vec!["db"], vec!["api"]));
        assert!(api.is_live("2") && docs.is_live("1"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_kept_a_member_is_mended_and_the_same_group_goes_on() {
        let journal = Arc::new(MemoryJournal::new());
        let (db, edge) = (fake("db"), fake("edge"));
        let web = FakePlatform::new().called("fake:web").release("2", Bad).live("2");
        let group = Group::new("g")
            .member("db", back(&db, &journal))
            .member_after("web", back(&web, &journal), ["db"])
            .member_after("edge", back(&edge, &journal), ["web"]);
        for _ in 0..2 {
            assert_eq!(group.run().await.unwrap().failed(), vec!["web"], "there is nothing to go back to");
        }
        web.clone().release("1", Good).deploy("1");
        web.deploy("2");
        let report = group.run().await.unwrap();
        assert!(report.is_good(), "{report}");
        assert!(db.is_live("1") && web.is_live("1") && edge.is_live("1"));
        assert_eq!((db.effects().len(), edge.effects().len()), (1, 1));
        let again = group.run().await.unwrap();
        assert!(again.is_good(), "{again}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_tried_is_a_failure_of_its_member() {
        let (journal, api) = (Arc::new(MemoryJournal::new()), fake("api"));
        let wrong = back(&fake("db"), &journal).policy(Policy::default().with_poll(seconds(0)));
        let report = Group::new("g").member("db", wrong).member_after("api", back(&api, &journal), ["db"]).run().await;
        let report = report.unwrap();
        assert!(matches!(&report.member("db").unwrap().end, MemberEnd::NotTried(fault) if fault.kind == Kind::Invalid));
        assert_eq!((report.failed(), report.untouched()), (vec!["db"], vec!["api"]));
        assert!(api.is_live("2"));
    }

    #[tokio::test]
    async fn wrong_groups_are_refused_before_anything_is_read() {
        let (journal, db) = (Arc::new(MemoryJournal::new()), fake("db"));
        let twice = Group::new("g").member("a", back(&db, &journal)).member("b", back(&db, &journal));
        let e = twice.run().await.unwrap_err();
        assert!(e.kind() == Kind::Invalid && e.message().contains("a and b are of the same target"), "{e}");
        let circle = Group::new("g").member_after("a", back(&db, &journal), ["a"]);
        assert_eq!(circle.run().await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(db.effects(), []);
    }

    /// Dropped at any moment and run again: every member is brought back, and none twice.
    #[tokio::test(start_paused = true)]
    async fn a_group_that_was_dropped_goes_on() {
        let mut dropped = 0;
        for after in (0..120).map(|tenths| std::time::Duration::from_millis(tenths * 100)) {
            let journal = Arc::new(MemoryJournal::new());
            let (db, api) = (fake("db").settles_after(seconds(3)), fake("api").settles_after(seconds(3)));
            let group =
                Group::new("g").member("db", back(&db, &journal)).member_after("api", back(&api, &journal), ["db"]);
            let report = match tokio::time::timeout(after, group.run()).await {
                Ok(report) => report.unwrap(),
                Err(_) => {
                    dropped += 1;
                    group.run().await.unwrap()
                }
            };
            assert!(report.is_good(), "dropped after {after:?}: {report}");
            assert!(db.is_live("1") && api.is_live("1"));
            assert_eq!((db.effects().len(), api.effects().len()), (1, 1), "dropped after {after:?}");
            for name in ["db", "api"] {
                let run = report.member(name).unwrap().report().unwrap();
                assert_eq!(run.run().as_str(), format!("g/{name}"));
                let ends = run.lines().iter().filter(|line| matches!(line.entry, Entry::Ended(_))).count();
                assert_eq!(ends, 1);
            }
            // Once more: all of it is over, and stays so.
            let again = group.run().await.unwrap();
            assert!(again.is_good(), "{again}");
            assert_eq!((db.effects().len(), api.effects().len()), (1, 1));
        }
        assert!(dropped > 20, "only {dropped} were dropped midway");
    }
}
