//! Which member may start next: pure.

use crate::{Error, Kind, Outcome, Result, RunId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What happens when a member does not end well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OnFailure {
    /// Nothing new is begun; what runs goes on to its end; what went well stays as it is. A person decides.
    #[default]
    Hold,
    /// Whatever does not depend on the failed one goes on.
    GoOn,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Begin these.
    Start(Vec<String>),
    /// Wait until one of those that run ends.
    Wait,
    /// Nothing more can be done.
    Done {
        /// Those that did not end well.
        failed: Vec<String>,
        /// Those that were never begun.
        untouched: Vec<String>,
    },
}

/// Who depends on whom, how many at once, and what happens when one fails. Data: it can be shown, stored and compared.
///
/// ```
/// use rollback_core::group::{Next, Order};
/// let order = Order::new("group-1", [("db", vec![]), ("api", vec!["db"])])?;
/// assert_eq!(order.next(&Default::default(), &Default::default()), Next::Start(vec!["db".into()]));
/// assert_eq!(order.child_run("db"), "group-1/db");
/// // A circle is refused before anything begins.
/// assert!(Order::new("group-1", [("a", vec!["b"]), ("b", vec!["a"])]).is_err());
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Order {
    run: RunId,
    after: BTreeMap<String, BTreeSet<String>>,
    at_once: usize,
    on_failure: OnFailure,
}

/// How it was stored, by whomever.
#[derive(Deserialize)]
struct Unchecked {
    run: RunId,
    after: BTreeMap<String, BTreeSet<String>>,
    at_once: usize,
    on_failure: OnFailure,
}

impl TryFrom<Unchecked> for Order {
    type Error = Error;

    fn try_from(stored: Unchecked) -> Result<Self> {
        let order = Self::new(stored.run, stored.after)?;
        Ok(order.with_at_once(stored.at_once).with_on_failure(stored.on_failure))
    }
}

impl Order {
    /// Members, each with those that must have ended well before it begins. Four at once; held on failure.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for no members, a name that is empty, has a `/` in it or is there twice, a dependency that is no
    /// member, and members that wait for each other in a circle.
    pub fn new<M, A>(
        run: impl Into<RunId>,
        members: impl IntoIterator<Item = (M, impl IntoIterator<Item = A>)>,
    ) -> Result<Self>
    where
        M: Into<String>,
        A: Into<String>,
    {
        let failed =
            |message: String| Err(Error::new(Kind::Invalid, "order the group").with_message(message).without_effect());
        let run = run.into();
        if run.as_str().trim().is_empty() {
            return failed("the group has no id: its members are found again by it".into());
        }
        let mut after: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, needs) in members {
            let name: String = name.into();
            if name.trim().is_empty() || name.contains('/') {
                return failed(format!("{name:?} cannot be the name of a member: it becomes part of a run's id"));
            }
            if after.contains_key(&name) {
                return failed(format!("two members are called {name:?}"));
            }
            after.insert(name, needs.into_iter().map(Into::into).collect());
        }
        if after.is_empty() {
            return failed("it has no members".into());
        }
        for (name, needs) in &after {
            if let Some(unknown) = needs.iter().find(|need| !after.contains_key(*need)) {
                let known = after.keys().cloned().collect::<Vec<_>>().join(", ");
                return failed(format!("{name} is to come after {unknown}, which is no member; there are {known}"));
            }
        }
        let order = Self { run, after, at_once: 4, on_failure: OnFailure::default() };
        if order.sorted().len() < order.after.len() {
            return failed(format!("these wait for each other in a circle: {}", order.circle().join(" after ")));
        }
        Ok(order)
    }
    /// How many may run at once. One at least.
    pub fn with_at_once(mut self, at_once: usize) -> Self {
        self.at_once = at_once.max(1);
        self
    }
    /// What happens when a member does not end well.
    pub fn with_on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }
    /// The id of the group.
    pub fn run(&self) -> &RunId {
        &self.run
    }
    /// How many may run at once.
    pub fn at_once(&self) -> usize {
        self.at_once
    }
    /// What happens when a member does not end well.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }
    /// What a member comes after; `None` if it is no member.
    pub fn after(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.after.get(name)
    }
    /// The id of a member's run: the same in every process, so that a resumed group finds it.
    pub fn child_run(&self, name: &str) -> RunId {
        RunId::new(format!("{}/{name}", self.run))
    }
    /// The members, each after all it depends on; by name where that leaves it open.
    pub fn sorted(&self) -> Vec<&str> {
        let mut sorted: Vec<&str> = vec![];
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        loop {
            let ready: Vec<&str> = self
                .after
                .iter()
                .filter(|(name, needs)| {
                    !placed.contains(name.as_str()) && needs.iter().all(|need| placed.contains(need.as_str()))
                })
                .map(|(name, _)| name.as_str())
                .collect();
            if ready.is_empty() {
                return sorted;
            }
            placed.extend(&ready);
            sorted.extend(ready);
        }
    }
    /// Members that wait for each other; the first one is there again at the end.
    fn circle(&self) -> Vec<&str> {
        let free: BTreeSet<&str> = self.sorted().into_iter().collect();
        let stuck = |name: &&str| !free.contains(name);
        let mut way: Vec<&str> = vec![];
        // From any member that cannot be placed, one that it waits for cannot be placed either: so this comes round.
        let mut at = self.after.keys().map(String::as_str).find(stuck);
        while let Some(name) = at {
            if let Some(begin) = way.iter().position(|before| *before == name) {
                way.push(name);
                return way.split_off(begin);
            }
            way.push(name);
            at = self.after.get(name).and_then(|needs| needs.iter().map(String::as_str).find(stuck));
        }
        way
    }
    /// What to do next, given which members run and how the others ended. Of members that may begin, those first by name.
    pub fn next(&self, running: &BTreeSet<String>, ended: &BTreeMap<String, Outcome>) -> Next {
        let good = |name: &String| ended.get(name).is_some_and(Outcome::is_good);
        let failed: Vec<String> = self.after.keys().filter(|n| ended.contains_key(*n) && !good(n)).cloned().collect();
        let open = || self.after.iter().filter(|(name, _)| !running.contains(*name) && !ended.contains_key(*name));
        if failed.is_empty() || self.on_failure == OnFailure::GoOn {
            let room = self.at_once.saturating_sub(running.len());
            let start: Vec<String> =
                open().filter(|(_, needs)| needs.iter().all(good)).take(room).map(|(name, _)| name.clone()).collect();
            if !start.is_empty() {
                return Next::Start(start);
            }
        }
        if running.is_empty() {
            Next::Done { failed, untouched: open().map(|(name, _)| name.clone()).collect() }
        } else {
            Next::Wait
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// db ← api ← web; db ← worker; docs alone.
    fn shop() -> Order {
        let members =
            [("web", vec!["api"]), ("api", vec!["db"]), ("worker", vec!["db"]), ("db", vec![]), ("docs", vec![])];
        Order::new("g", members).unwrap()
    }
    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(ToString::to_string).collect()
    }
    fn ended(good: &[&str], bad: &[&str]) -> BTreeMap<String, Outcome> {
        let good = good.iter().map(|n| (n.to_string(), Outcome::Recovered));
        good.chain(bad.iter().map(|n| (n.to_string(), Outcome::superseded_by("x")))).collect()
    }
    fn start(of: &[&str]) -> Next {
        Next::Start(of.iter().map(ToString::to_string).collect())
    }
    fn done(failed: &[&str], untouched: &[&str]) -> Next {
        let owned = |of: &[&str]| of.iter().map(ToString::to_string).collect();
        Next::Done { failed: owned(failed), untouched: owned(untouched) }
    }

    #[test]
    fn members_wait_for_what_they_come_after() {
        let order = shop();
        assert_eq!(order.sorted(), ["db", "docs", "api", "worker", "web"]);
        assert_eq!(order.next(&names(&[]), &ended(&[], &[])), start(&["db", "docs"]));
        assert_eq!(order.next(&names(&["db", "docs"]), &ended(&[], &[])), Next::Wait);
        assert_eq!(order.next(&names(&["docs"]), &ended(&["db"], &[])), start(&["api", "worker"]));
        assert_eq!(order.next(&names(&["worker"]), &ended(&["db", "docs", "api"], &[])), start(&["web"]));
        assert_eq!(order.next(&names(&[]), &ended(&["db", "docs", "api", "worker", "web"], &[])), done(&[], &[]));
        assert_eq!(order.child_run("db"), "g/db");
        assert!(order.after("api").unwrap().contains("db") && order.after("x").is_none());
    }

    #[test]
    fn never_more_at_once_than_said() {
        let order = shop().with_at_once(1);
        assert_eq!(order.next(&names(&[]), &ended(&[], &[])), start(&["db"]));
        assert_eq!(order.next(&names(&["db"]), &ended(&[], &[])), Next::Wait);
        assert_eq!(shop().with_at_once(0).at_once(), 1);
    }

    #[test]
    fn a_failure_holds_and_what_runs_goes_on() {
        let order = shop();
        assert_eq!(order.next(&names(&["worker"]), &ended(&["db", "docs"], &["api"])), Next::Wait);
        assert_eq!(order.next(&names(&[]), &ended(&["db", "docs", "worker"], &["api"])), done(&["api"], &["web"]));
        assert_eq!(order.next(&names(&[]), &ended(&[], &["db"])), done(&["db"], &["api", "docs", "web", "worker"]));
    }

    #[test]
    fn or_whatever_does_not_depend_on_it_goes_on() {
        let order = shop().with_on_failure(OnFailure::GoOn);
        assert_eq!(order.next(&names(&[]), &ended(&[], &["db"])), start(&["docs"]));
        assert_eq!(order.next(&names(&[]), &ended(&["docs"], &["db"])), done(&["db"], &["api", "web", "worker"]));
        assert_eq!(order.next(&names(&[]), &ended(&["db", "docs"], &["api"])), start(&["worker"]));
    }

    #[test]
    fn nothing_to_do_is_as_good_as_recovered() {
        let all = [("db".to_string(), Outcome::NothingToDo), ("docs".to_string(), Outcome::Rehearsed)].into();
        assert_eq!(shop().next(&names(&[]), &all), start(&["api", "worker"]));
        for bad in [
            Outcome::NotRecovered { why: String::new() },
            Outcome::Refused { why: String::new(), lift: String::new() },
            Outcome::Stuck { at: String::new(), parts: vec![], human: String::new() },
        ] {
            let one = [("db".to_string(), bad)].into();
            assert!(matches!(shop().next(&names(&[]), &one), Next::Done { .. }));
        }
    }

    #[test]
    fn wrong_orders_are_refused() {
        let wrong = |members: &[(&str, &[&str])]| {
            let e = Order::new("g", members.iter().map(|(n, a)| (*n, a.iter().copied()))).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
            e.message().to_owned()
        };
        assert!(wrong(&[]).contains("no members"));
        assert!(wrong(&[("a", &[]), ("a", &[])]).contains("two members"));
        assert!(wrong(&[("", &[])]).contains("name"));
        assert!(wrong(&[("a/b", &[])]).contains("name"));
        assert!(wrong(&[("a", &["x"]), ("b", &[])]).contains("after x, which is no member; there are a, b"));
        assert!(wrong(&[("a", &["a"])]).ends_with("a after a"));
        let circle = wrong(&[("z", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("free", &[])]);
        assert!(circle.ends_with(": a after b after c after a"), "{circle}");
        assert!(Order::new(" ", [("a", [""; 0])]).is_err());
    }

    #[test]
    fn it_is_data_and_checked_again_when_read() {
        let order = shop().with_at_once(2).with_on_failure(OnFailure::GoOn);
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        let circle = r#"{"run":"g","after":{"a":["b"],"b":["a"]},"at_once":1,"on_failure":"Hold"}"#;
        let e = serde_json::from_str::<Order>(circle).unwrap_err();
        assert!(e.to_string().contains("circle"), "{e}");
    }

    /// Whatever ends how and when: nothing begins before what it comes after, nothing twice, never too many at once, and it
    /// comes to an end in which every member is accounted for.
    #[test]
    fn every_way_through_keeps_the_order_and_ends() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(1..8);
            let members: Vec<(String, Vec<String>)> = (0..count)
                .map(|i| (format!("m{i}"), (0..i).filter(|_| random.bool()).map(|j| format!("m{j}")).collect()))
                .collect();
            let on_failure = if random.bool() { OnFailure::Hold } else { OnFailure::GoOn };
            let order = Order::new("g", members).unwrap().with_at_once(random.usize(1..4)).with_on_failure(on_failure);
            let (mut running, mut over) = (BTreeSet::new(), BTreeMap::new());
            let (failed, untouched) = loop {
                match order.next(&running, &over) {
                    Next::Start(all) => {
                        assert!(!all.is_empty());
                        for name in all {
                            let needs = order.after(&name).unwrap();
                            assert!(needs.iter().all(|n| over.get(n).is_some_and(Outcome::is_good)), "seed {seed}");
                            assert!(!over.contains_key(&name) && running.insert(name), "seed {seed}");
                        }
                        assert!(running.len() <= order.at_once(), "seed {seed}");
                    }
                    Next::Wait => {
                        let name = random.choice(running.iter()).unwrap().clone();
                        running.remove(&name);
                        let good = random.u8(0..5) > 0;
                        over.insert(name, if good { Outcome::Recovered } else { Outcome::superseded_by("x") });
                    }
                    Next::Done { failed, untouched } => break (failed, untouched),
                }
            };
            assert_eq!(over.len() + untouched.len(), count, "seed {seed}");
            assert_eq!(over.values().filter(|o| !o.is_good()).count(), failed.len(), "seed {seed}");
            assert!(untouched.is_empty() || !failed.is_empty(), "seed {seed}");
        }
    }
}
