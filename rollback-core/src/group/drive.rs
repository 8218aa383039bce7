//! The rollbacks of a group, driven in one task.

use super::{GroupReport, Member, MemberEnd, Next, OnFailure, Order};
use crate::{Error, Kind, Outcome, Report, Result, Rollback, RunId};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::Pin,
    task::Poll,
};

/// Several rollbacks in the order of what depends on what. A value: nothing happens before [`run`](Group::run).
///
/// If you say nothing, four run at once, and a failure holds: see [`OnFailure`].
///
/// ```
/// # use rollback_core::{prelude::*, group::Group, testing::FakePlatform, testing::{Good, Bad}};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<()> {
/// # let rollback = |name: &str| {
/// #     let platform = FakePlatform::new().release("1", Good).release("2", Bad).live("2");
/// #     Rollback::of(platform).to(Choose::verified().or_previous()).because(name.to_owned())
/// # };
/// let db = rollback("db");
/// let api = rollback("api");
/// # let _ = (&db, &api);
/// # let (db, api) = group_members();
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
    /// again, if its journal remembers it. How each went is in the report.
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
        let mut race = Race { running: vec![] };
        let mut ends: BTreeMap<String, MemberEnd> = BTreeMap::new();
        let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
        loop {
            let running: BTreeSet<String> = race.running.iter().map(|(name, _)| name.clone()).collect();
            match order.next(&running, &outcomes) {
                Next::Start(names) => {
                    for name in names {
                        if let Some(rollback) = rollbacks.get(name.as_str()) {
                            race.running.push((name, Box::pin(rollback.run())));
                        }
                    }
                }
                Next::Wait => {
                    let (name, ended) = race.next().await;
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

type Run<'a> = Pin<Box<dyn Future<Output = Result<Report>> + Send + 'a>>;

/// Runs of which the first to end is waited for.
struct Race<'a> {
    running: Vec<(String, Run<'a>)>,
}

impl Race<'_> {
    /// The next one that ends, taken out. Never, if none runs.
    async fn next(&mut self) -> (String, Result<Report>) {
        poll_fn(|cx| {
            for i in 0..self.running.len() {
                if let Poll::Ready(ended) = self.running[i].1.as_mut().poll(cx) {
                    return Poll::Ready((self.running.swap_remove(i).0, ended));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[allow(dead_code)]
fn run_is_send(group: &Group) -> impl Send + '_ {
    group.run()
}
