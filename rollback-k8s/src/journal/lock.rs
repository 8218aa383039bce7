//! The lock of a target as its Lease shows it, and whether its holder still lives.
//!
//! As client-go does: what counts is how long *this* process has seen nothing change, by its own monotonic clock. The times
//! in a Lease are other machines' wall clocks, and for people to read.

use super::{book::Head, names::HOLDER};
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use rollback_core::{RunId, TargetId, journal::Holder};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, Instant},
};

/// Who holds a lock: a process, and which of its handles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Me {
    pub(super) process: Holder,
    pub(super) host: String,
    /// Tells the handles of a process apart.
    pub(super) handle: u64,
}

impl Me {
    pub(super) fn new() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
        Self {
            process: Holder::this(),
            host: std::env::var("HOSTNAME").ok().or(host.ok()).unwrap_or_default().trim().to_owned(),
            handle: RandomState::new().build_hasher().finish(),
        }
    }
    /// As others hear of it.
    pub(super) fn called(&self, who: &str) -> String {
        let host = if self.host.is_empty() { String::new() } else { format!(" on {}", self.host) };
        format!("{who} (process {}{host})", self.process.pid)
    }
    /// Is it certain that this holder is dead? Only of processes on one host that see each other's pids.
    fn sees_dead(&self, other: &Me) -> bool {
        !self.process.boot.is_empty() && self.process.boot == other.process.boot && other.process.is_dead(&self.process)
    }
}

/// A Lease.
#[derive(Clone, Debug)]
pub(super) struct Lock {
    pub(super) version: String,
    pub(super) epoch: u64,
    pub(super) held: bool,
    pub(super) holder: Option<Me>,
}

impl Lock {
    pub(super) fn of(lease: &LeaseObject) -> Self {
        let spec = lease.spec.as_ref();
        let holder = lease.metadata.annotations.as_ref().and_then(|all| all.get(HOLDER));
        Self {
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            epoch: spec.and_then(|s| s.lease_transitions).and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            held: spec.and_then(|s| s.holder_identity.as_deref()).is_some_and(|who| !who.is_empty()),
            holder: holder.and_then(|text| serde_json::from_str(text).ok()),
        }
    }
}

/// Is a run driven?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    No,
    Yes,
    /// Nothing has changed for a while; then it is not.
    Silent {
        until: Instant,
    },
}

/// What this handle has seen of locks, and which are its own.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Since when a lock and its book are as they are.
    seen: HashMap<TargetId, Seen>,
    /// Until when this handle's own leases last.
    mine: HashMap<RunId, Mine>,
}

#[derive(Debug)]
struct Seen {
    epoch: u64,
    lock: String,
    book: String,
    since: Instant,
    alive: bool,
}

#[derive(Debug)]
struct Mine {
    target: TargetId,
    epoch: u64,
    length: Duration,
    until: Instant,
}

impl Sight {
    pub(super) fn hold(&mut self, target: &TargetId, run: &RunId, epoch: u64, length: Duration, from: Instant) {
        let until = from.checked_add(length).unwrap_or(from);
        self.mine.insert(run.clone(), Mine { target: target.clone(), epoch, length, until });
    }
    /// Asked at `from`, and the answer was yes.
    pub(super) fn extend(&mut self, run: &RunId, epoch: u64, from: Instant) {
        if let Some(mine) = self.mine.get_mut(run).filter(|mine| mine.epoch == epoch) {
            mine.until = from.checked_add(mine.length).unwrap_or(from);
        }
    }
    /// Ended, lost, or let go.
    pub(super) fn release(&mut self, run: &RunId, epoch: u64) {
        if let Some(mine) = self.mine.get(run).filter(|mine| mine.epoch == epoch) {
            self.seen.remove(&mine.target);
            self.mine.remove(run);
        }
    }
    /// The target of a run that this handle drives.
    pub(super) fn target_of(&self, run: &RunId) -> Option<TargetId> {
        self.mine.get(run).map(|mine| mine.target.clone())
    }
    /// Is the run in a book driven, given the Lease and the version of the book?
    pub(super) fn driven(
        &mut self,
        me: &Me,
        target: &TargetId,
        lock: Option<&Lock>,
        run: &Head,
        book: &str,
        now: Instant,
    ) -> Driven {
        // A Lease of another epoch belongs to somebody who has not begun. One that was deleted frees the lock: the book,
        // where the epoch stands too, still keeps out the one who held it.
        let Some(lock) = lock.filter(|lock| lock.held && lock.epoch == run.epoch && run.outcome().is_none()) else {
            return Driven::No;
        };
        if let Some(holder) = &lock.holder {
            if holder == me {
                let lasts = self.mine.get(run.id()).is_some_and(|mine| mine.epoch == lock.epoch && now < mine.until);
                return if lasts { Driven::Yes } else { Driven::No };
            }
            if me.sees_dead(holder) {
                return Driven::No;
            }
        }
        let length = run.lease();
        let same = |seen: &Seen| seen.epoch == lock.epoch && seen.lock == lock.version && seen.book == book;
        match self.seen.get(target) {
            Some(seen) if same(seen) => {
                let until = seen.since.checked_add(length).unwrap_or(now + Duration::from_secs(86_400));
                if now >= until {
                    Driven::No
                } else if seen.alive {
                    Driven::Yes
                } else {
                    Driven::Silent { until }
                }
            }
            before => {
                let alive = before.is_some_and(|seen| seen.epoch == lock.epoch);
                let (lock, epoch, book) = (lock.version.clone(), lock.epoch, book.to_owned());
                self.seen.insert(target.clone(), Seen { epoch, lock, book, since: now, alive });
                if alive { Driven::Yes } else { Driven::Silent { until: now + length } }
            }
        }
    }
    /// A new call looks anew for a sign of life; how long it has been silent stays.
    pub(super) fn look_again(&mut self, target: &TargetId) {
        if let Some(seen) = self.seen.get_mut(target) {
            seen.alive = false;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::journal::book::Book;
    use rollback_core::{Intent, Policy, seconds};

    fn run(lease: Duration) -> Head {
        let mut intent = Intent::new(RunId::new("r"), TargetId::new("t"), "me", "why");
        intent.policy = Policy::default().with_lease(lease).into();
        let mut book = Book::new(&intent.target);
        book.begin(&intent, 3, "me (process 1)").unwrap();
        book.head().unwrap().clone()
    }
    fn lock(version: &str, epoch: u64, holder: &Me) -> Lock {
        Lock { version: version.into(), epoch, held: true, holder: Some(holder.clone()) }
    }
    /// A process of another host, as far as anybody can tell.
    fn elsewhere() -> Me {
        let mut me = Me::new();
        me.process.boot = "another".into();
        me
    }

    #[test]
    fn only_what_this_process_saw_not_change_counts() {
        let (target, me, other, head) = (TargetId::new("t"), Me::new(), elsewhere(), run(seconds(10)));
        let (mut sight, start) = (Sight::default(), Instant::now());
        let mut at = |seconds: u64, lock: &Lock, book: &str| {
            sight.driven(&me, &target, Some(lock), &head, book, start + Duration::from_secs(seconds))
        };
        let until = |seconds: u64| Driven::Silent { until: start + Duration::from_secs(seconds) };
        assert_eq!(at(0, &lock("1", 3, &other), "7"), until(10), "it may have died long ago, or just begun");
        assert_eq!(at(9, &lock("1", 3, &other), "7"), until(10));
        assert_eq!(at(9, &lock("2", 3, &other), "7"), Driven::Yes, "it renewed");
        assert_eq!(at(18, &lock("2", 3, &other), "8"), Driven::Yes, "it appended");
        assert_eq!(at(27, &lock("2", 3, &other), "8"), Driven::Yes);
        assert_eq!(at(28, &lock("2", 3, &other), "8"), Driven::No);
    }

    #[test]
    fn a_lock_that_is_free_deleted_or_of_another_epoch_drives_nothing() {
        let (target, me, other, head) = (TargetId::new("t"), Me::new(), elsewhere(), run(seconds(10)));
        let mut sight = Sight::default();
        let free = Lock { held: false, ..lock("1", 3, &other) };
        for lock in [None, Some(&free), Some(&lock("1", 4, &other)), Some(&lock("1", 2, &other))] {
            assert_eq!(sight.driven(&me, &target, lock, &head, "7", Instant::now()), Driven::No);
        }
    }

    #[test]
    fn ones_own_lease_lasts_from_when_it_was_asked_for() {
        let (target, me, head) = (TargetId::new("t"), Me::new(), run(seconds(10)));
        let (mut sight, start) = (Sight::default(), Instant::now());
        sight.hold(&target, head.id(), 3, seconds(10), start);
        let own = lock("1", 3, &me);
        let at = |sight: &mut Sight, s: u64| sight.driven(&me, &target, Some(&own), &head, "7", start + seconds(s));
        assert_eq!(at(&mut sight, 9), Driven::Yes);
        sight.extend(head.id(), 3, start + seconds(5));
        assert_eq!(at(&mut sight, 14), Driven::Yes);
        assert_eq!(at(&mut sight, 15), Driven::No);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_dead_process_of_this_host_holds_nothing() {
        let (target, me, head) = (TargetId::new("t"), Me::new(), run(seconds(10)));
        let mut dead = Me::new();
        dead.process.pid = u32::MAX;
        let mut sight = Sight::default();
        assert_eq!(sight.driven(&me, &target, Some(&lock("1", 3, &dead)), &head, "7", Instant::now()), Driven::No);
    }
}
