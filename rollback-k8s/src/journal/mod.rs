//! The journal in the cluster that it rolls back: a Lease and a ConfigMap for each target, and more ConfigMaps for what is
//! long or old. For controllers that run in several replicas, and for whoever has no disk that outlives a pod.
//!
//! Not here: a cluster whose API server is down cannot be written to, and its journal neither. Where that must not stop a
//! rollback there is break-glass, or a journal elsewhere.

mod book;
mod lock;
mod names;
mod options;
mod prune;
mod sealed;
mod shelf;
mod store;

pub use options::ClusterJournalOptions;

use crate::Cluster;
use async_trait::async_trait;
use book::{Book, Head};
use k8s_openapi::api::core::v1::ConfigMap;
use lock::{Driven, Lock, Me, Sight};
use rollback_core::{
    Begun, Error, HeldFreeze, Intent, Journal, Kind, Lease, LedgerEntry, Line, Result, RunId, RunQuery, RunSummary,
    Shelf, TargetId, Timestamp,
    journal::{
        Pruned,
        rules::{self, APPEND, BEGIN, GIVE_UP, READ, RENEW},
    },
};
use sealed::damaged;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use store::{Store, Taking};

const LIST: &str = "list the runs";
const LEDGER: &str = "read the ledger";
const MARK: &str = "mark the release";
const HOLDS: &str = "list the holds";
const FORGET: &str = "forget the hold";
const LET_GO: &str = "let go of the lease";
/// So often a write is tried that others come before. Each time somebody got on.
const TRIES: usize = 20;

/// A journal in the cluster: lock, runs, ledger, holds and shelf in one namespace. Clones share it; so do all processes that
/// open one in the same namespace.
///
/// # What lies where
/// Every target has a Lease and a ConfigMap of the same name (`rollback-` and a hash; labels and annotations say whose).
/// - The **Lease** is the lock: who holds it, `leaseTransitions` is the epoch. Whether a holder still lives is judged as
///   client-go's leader election does: by how long *this* process has seen neither the Lease nor the ConfigMap change. A
///   process that sees a lock for the first time therefore looks at it for as long as its lease, unless there is a sign of
///   life before. A holder that let go, or that is known to be dead (a process of the same host, in the same pid namespace),
///   is succeeded at once. Wall clocks in a Lease are for people.
/// - The **ConfigMap** is the book: the run that is unfinished or was the last, its lines, the ledger, the epoch. Its
///   `resourceVersion` is the compare-and-set of every append, and an append of another epoch than the one in it is refused:
///   that is the fence, whatever the Lease says.
/// - Ended runs, lines beyond 128 KiB of a run, checkpoints and artifacts lie in ConfigMaps of their own.
///
/// # What it costs
/// An append is **one** request; so is a renewal. The end of a run is two, a mark from outside two, a checkpoint two. To
/// begin takes three reads at once and two or three writes. Every 128 KiB of lines cost one request more.
///
/// # What can go wrong
/// - *Somebody deletes objects.* Without its Lease a target is free, and the epoch goes on from the book; who held it is
///   refused at its next append. Without its book, or without lines that it refers to, calls fail with [`Kind::Invalid`] and
///   say which object is missing; nothing is guessed. Deleting both Lease and book makes the target a new one.
/// - *Somebody edits objects.* Every value has a checksum: [`Kind::Invalid`].
/// - *The quota is full*: [`Kind::Unavailable`], nothing was written. Appends need no new object; beginning does.
/// - *A newer release of this library wrote there*: [`Kind::Unsupported`].
/// - A ledger beyond 200 KiB forgets releases that were merely seen, then the oldest marks.
///
/// # Permissions
/// A Role in the journal's namespace:
/// ```yaml
/// rules:
/// - apiGroups: [coordination.k8s.io]
///   resources: [leases]
///   verbs: [get, list, create, patch]
/// - apiGroups: [""]
///   resources: [configmaps]
///   verbs: [get, list, create, patch, delete]
/// ```
/// Whoever may patch ConfigMaps there can forge the record: give the journal a namespace of its own.
///
/// ```no_run
/// # async fn open(cluster: rollback_k8s::Cluster) -> rollback_core::Result<()> {
/// use rollback_core::{Journal, RunQuery};
/// use rollback_k8s::ClusterJournal;
/// let journal = ClusterJournal::open(&cluster, "rollback-system");
/// for run in journal.runs(&RunQuery::unfinished()).await? {
///     println!("{} of {}: {}", run.run, run.target, run.driven_by.as_deref().unwrap_or("nobody drives it"));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClusterJournal {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    options: ClusterJournalOptions,
    me: Me,
    sight: Mutex<Sight>,
    /// Books of runs that this handle drives, as they were after its last write.
    books: Mutex<HashMap<RunId, Book>>,
}

impl fmt::Debug for ClusterJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterJournal").field("namespace", &self.inner.store.namespace()).finish_non_exhaustive()
    }
}

impl ClusterJournal {
    /// Opens it. The namespace must be there; nothing is asked of the cluster yet.
    pub fn open(cluster: &Cluster, namespace: impl Into<String>) -> Self {
        Self::open_with(cluster, namespace, ClusterJournalOptions::default())
    }
    /// Opens it in another way than the usual one.
    ///
    /// ```no_run
    /// # fn open(cluster: rollback_k8s::Cluster) {
    /// use rollback_k8s::{ClusterJournal, ClusterJournalOptions};
    /// let options = ClusterJournalOptions::default().with_artifact_bytes(1 << 20);
    /// let journal = ClusterJournal::open_with(&cluster, "rollback-system", options);
    /// # let _ = journal;
    /// # }
    /// ```
    pub fn open_with(cluster: &Cluster, namespace: impl Into<String>, options: ClusterJournalOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                store: Store::new(cluster.clone(), namespace.into()),
                options,
                me: Me::new(),
                sight: Mutex::default(),
                books: Mutex::default(),
            }),
        }
    }
    /// Removes what the retention lets go, by this wall time.
    ///
    /// # Errors
    /// As the API server. What could not be removed is tried again by the next call.
    ///
    /// ```no_run
    /// # async fn prune(journal: rollback_k8s::ClusterJournal) -> rollback_core::Result<()> {
    /// let pruned = journal.prune(rollback_core::Timestamp::now()).await?;
    /// println!("{} runs and {} artifacts are gone", pruned.runs, pruned.artifacts);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn prune(&self, now: Timestamp) -> Result<Pruned> {
        prune::all(&self.inner.store, &self.inner.options.retention, now).await
    }
}

/// A run, where it lies.
enum Place {
    /// In the book of its target.
    Book(Book),
    /// In an object of its own.
    Archive(Book),
}

impl Inner {
    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn books(&self) -> MutexGuard<'_, HashMap<RunId, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The book of a target; `None` where there never was one.
    async fn book(&self, operation: &str, target: &TargetId) -> Result<Option<Book>> {
        let Some(object) = self.store.get(operation, &names::of_target(target)).await? else { return Ok(None) };
        let book = Book::read(operation, object)?;
        if book.target() != target {
            return Err(damaged(
                operation,
                format!("ConfigMap {} is of {}, not of {target}", book.name, book.target()),
            ));
        }
        Ok(Some(book))
    }
    fn missing(&self, operation: &str, target: &TargetId) -> Error {
        let name = names::of_target(target);
        let namespace = self.store.namespace();
        damaged(
            operation,
            format!(
                "ConfigMap {name} in namespace {namespace}, the record of {target}, is missing while its Lease is \
                 there: restore it from a backup; or delete the Lease {name} too, and what was known of this target is \
                 lost"
            ),
        )
    }
    /// The book and the Lease.
    async fn both(&self, operation: &str, target: &TargetId) -> Result<(Option<Book>, Option<Lock>)> {
        let (book, lock) = tokio::join!(self.book(operation, target), self.store.lock(operation, target));
        let (book, lock) = (book?, lock?);
        match (&book, &lock) {
            // A Lease whose holder died before its first book has nothing to lose.
            (None, Some(lock)) if lock.epoch > 1 => Err(self.missing(operation, target)),
            _ => Ok((book, lock)),
        }
    }
    fn driven(&self, head: &Head, lock: Option<&Lock>, version: Option<&str>) -> Driven {
        self.sight().driven(&self.me, head.target(), lock, head, version.unwrap_or_default(), Instant::now())
    }
    /// Where a run lies.
    async fn find(&self, operation: &str, run: &RunId) -> Result<Place> {
        let selector = format!(
            "{}={},{} in ({},{})",
            names::OF_RUN,
            names::hash(run.as_str()),
            names::WHAT,
            names::BOOK,
            names::RUN
        );
        let mut archived = None;
        for object in self.store.list(operation, &selector).await? {
            let book = Book::read(operation, object)?;
            if !book.is_of(run) {
                continue;
            }
            if book.name == names::of_target(book.target()) {
                return Ok(Place::Book(book));
            }
            archived = Some(book);
        }
        archived.map(Place::Archive).ok_or_else(|| rules::unknown(operation, run))
    }
    async fn lines(&self, operation: &str, book: &Book) -> Result<Vec<Line>> {
        let spilled = book.head().map_or(&[][..], Head::spilled);
        let gets = spilled.iter().map(|spilled| self.store.get(operation, &spilled.name));
        let mut elsewhere: Vec<ConfigMap> = vec![];
        for (object, spilled) in futures::future::join_all(gets).await.into_iter().zip(spilled) {
            let missing = || {
                let namespace = self.store.namespace();
                damaged(
                    operation,
                    format!("ConfigMap {} in namespace {namespace}, with lines of a run, is missing", spilled.name),
                )
            };
            elsewhere.push(object?.ok_or_else(missing)?);
        }
        book.lines(operation, elsewhere)
    }
    /// Writes what has changed. [`Kind::Conflict`] if somebody else has written since it was read.
    async fn write(&self, operation: &str, book: &mut Book, before: &Book) -> Result<()> {
        book.version = match before.version {
            None => self.store.create(operation, &book.object(operation)?).await?,
            Some(_) => self.store.patch(operation, &book.name, book.patch(operation, before)?).await?,
        };
        Ok(())
    }

    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        let bound = intent.policy.reply_within.mul_f64(0.9).min(self.options.patience);
        let began = Instant::now();
        self.sight().look_again(&intent.target);
        for _ in 0..TRIES {
            let (known, both) = tokio::join!(self.known(intent), self.both(BEGIN, &intent.target));
            if let Some(over) = known? {
                return Ok(over);
            }
            let (book, mut lock) = both?;
            let mut book = book.unwrap_or_else(|| Book::new(&intent.target));
            if book.head().is_some_and(|head| *head.id() == intent.run && head.outcome().is_some()) {
                let lines = self.lines(BEGIN, &book).await?;
                return Ok(Begun::Over { intent: Box::new(book.intent(BEGIN)?), lines });
            }
            if let Some(head) = book.unfinished().filter(|_| !intent.policy.take_over) {
                let head = head.clone();
                match self.wait_for(&head, &mut lock, &mut book, began, bound).await? {
                    Waited::Free => {}
                    Waited::Alive => {
                        return Ok(Begun::Busy { run: head.id().clone(), who: head.who, since: head.since });
                    }
                    Waited::Changed => continue,
                }
            }
            match self.take(intent, lock.as_ref(), book).await {
                Err(e) if e.kind() == Kind::Conflict => {}
                begun => return begun,
            }
        }
        Err(Error::new(Kind::Unavailable, BEGIN)
            .with_message("others wrote first, each time it was tried")
            .with_target(&intent.target)
            .without_effect())
    }
    /// A run with this very id that has ended, or is another target's.
    async fn known(&self, intent: &Intent) -> Result<Option<Begun>> {
        let selector = format!(
            "{}={},{} in ({},{})",
            names::OF_RUN,
            names::hash(intent.run.as_str()),
            names::WHAT,
            names::BOOK,
            names::RUN
        );
        for object in self.store.metadata(BEGIN, &selector).await? {
            let Some(head) = Head::of(BEGIN, &object)?.filter(|head| *head.id() == intent.run) else { continue };
            if *head.target() != intent.target {
                return Err(rules::taken(intent, head.target()));
            }
            if object.metadata.name.as_deref() == Some(&names::of_run(&intent.run))
                && let Some(object) = self.store.get(BEGIN, &names::of_run(&intent.run)).await?
            {
                let book = Book::read(BEGIN, object)?;
                let lines = self.lines(BEGIN, &book).await?;
                return Ok(Some(Begun::Over { intent: Box::new(book.intent(BEGIN)?), lines }));
            }
        }
        Ok(None)
    }
    /// Looks at a lock until its holder gives a sign of life, or its lease is over.
    async fn wait_for(
        &self,
        head: &Head,
        lock: &mut Option<Lock>,
        book: &mut Book,
        began: Instant,
        bound: Duration,
    ) -> Result<Waited> {
        let mut version = book.version.clone();
        let mut changed = false;
        loop {
            let until = match self.driven(head, lock.as_ref(), version.as_deref()) {
                Driven::Yes => return Ok(Waited::Alive),
                Driven::No if changed => return Ok(Waited::Changed),
                Driven::No => return Ok(Waited::Free),
                Driven::Silent { until } => until,
            };
            let now = Instant::now();
            if now.duration_since(began) >= bound {
                let left = until.saturating_duration_since(now);
                return Err(Error::new(Kind::Unavailable, BEGIN)
                    .with_message(format!(
                        "{} holds the lock of this target since {} (run {}) and gives no sign of life: whoever waits \
                         {left:.0?} longer may go on with its run",
                        head.who,
                        head.since,
                        head.id()
                    ))
                    .with_target(head.target())
                    .without_effect());
            }
            let poll = (head.lease() / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
            tokio::time::sleep(poll.min(until.saturating_duration_since(now))).await;
            let name = names::of_target(head.target());
            let (lease, theirs) = tokio::join!(self.store.lock(BEGIN, head.target()), self.store.version(BEGIN, &name));
            (*lock, changed) = (lease?, changed || theirs.as_ref().is_ok_and(|theirs| *theirs != version));
            version = theirs?;
        }
    }
    /// Takes the lock, then writes the book: the second is what counts.
    async fn take(&self, intent: &Intent, lock: Option<&Lock>, mut book: Book) -> Result<Begun> {
        let target = &intent.target;
        let epoch = book.epoch().max(lock.map_or(0, |lock| lock.epoch)) + 1;
        let who = self.me.called(&intent.who);
        let adopted = book.unfinished().filter(|head| !intent.policy.take_over || *head.id() == intent.run);
        // A run goes on with the lease that it was begun with.
        let length = adopted.map_or(intent.policy.lease, Head::lease);
        let asked = Instant::now();
        let taking = Taking { epoch, me: &self.me, who: &who, length };
        self.store.take(BEGIN, target, lock, taking).await?;
        let free = Freeing { inner: self, target, epoch, armed: true };
        if let Some(run) = adopted.map(|head| head.id().clone()) {
            let before = book.clone();
            book.adopt(epoch, &who, intent.at);
            let (theirs, lines) = (book.intent(BEGIN)?, self.lines(BEGIN, &book).await?);
            self.write(BEGIN, &mut book, &before).await?;
            self.sight().hold(target, &run, epoch, length, asked);
            self.books().insert(run.clone(), book);
            free.disarm();
            return Ok(Begun::Adopted { lease: Lease { run, epoch }, intent: Box::new(theirs), lines });
        }
        let mut replaced = None;
        if let Some(run) = book.unfinished().map(|head| head.id().clone()) {
            let before = book.clone();
            book.end(epoch, intent.at, rules::superseded(intent))?;
            self.write(BEGIN, &mut book, &before).await?;
            replaced = Some(run);
        }
        self.archive(&book).await?;
        let before = book.clone();
        book.begin(intent, epoch, &who)?;
        self.write(BEGIN, &mut book, &before).await?;
        self.sight().hold(target, &intent.run, epoch, length, asked);
        let number = book.head().map_or(0, |head| head.number);
        self.books().insert(intent.run.clone(), book);
        free.disarm();
        // Little enough to do now and then; what fails is tried again by the next.
        if number > self.options.retention.runs_per_target as u64 && number.is_multiple_of(4) {
            let _ = prune::a_few(&self.store, &self.options.retention, target, intent.at).await;
        }
        Ok(Begun::Fresh { lease: Lease { run: intent.run.clone(), epoch }, replaced })
    }
    /// The run that has ended gets an object of its own, so that its book is free. Whoever does it does the same.
    async fn archive(&self, book: &Book) -> Result<()> {
        let Some(run) = book.archived() else { return Ok(()) };
        match self.store.create(BEGIN, &run.object(BEGIN)?).await {
            Err(e) if e.kind() == Kind::Conflict => {
                // From one who did not get further. Since then a freeze may have been lifted.
                let Some(object) = self.store.get(BEGIN, &run.name).await? else { return Err(e) };
                let before = Book::read(BEGIN, object)?;
                let mut now = before.clone();
                now.hold_as(&run);
                if now != before { self.write(BEGIN, &mut now, &before).await } else { Ok(()) }
            }
            made => made.map(drop),
        }
    }

    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        rules::check_lines(lease, lines)?;
        if lines.is_empty() {
            return self.renew(lease).await;
        }
        for _ in 0..TRIES {
            let known = self.books().remove(&lease.run);
            let fresh = known.is_none();
            let mut book = match known {
                Some(book) => book,
                None => match self.read_for(lease).await? {
                    Place::Book(book) => book,
                    Place::Archive(mut run) => {
                        run.append(lease, lines)?;
                        return Ok(());
                    }
                },
            };
            let before = book.clone();
            match book.append(lease, lines) {
                Ok(true) => {}
                // What was read a while ago is enough to write upon, and not to refuse or to agree upon.
                _ if !fresh => continue,
                Ok(false) => {
                    self.books().insert(lease.run.clone(), book);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
            let mut full = before.clone();
            if let Some(object) = full.spill(APPEND)? {
                // Without room for another object, the book may still have some.
                match self.store.create(APPEND, &object).await {
                    Ok(_) => {
                        full.append(lease, lines)?;
                        book = full;
                    }
                    Err(e) if e.kind() == Kind::Conflict => {
                        // Made before the answer to the append was lost.
                        full.append(lease, lines)?;
                        book = full;
                    }
                    Err(_) => {}
                }
            }
            let asked = Instant::now();
            match self.write(APPEND, &mut book, &before).await {
                Ok(()) => {
                    self.sight().extend(&lease.run, lease.epoch, asked);
                    if book.unfinished().is_none() {
                        // The run is over whatever comes of this: who begins next sees that in the book.
                        let _ = self.store.free(LET_GO, book.target(), lease.epoch).await;
                        self.sight().release(&lease.run, lease.epoch);
                    } else {
                        self.books().insert(lease.run.clone(), book);
                    }
                    return Ok(());
                }
                Err(e) if e.kind() == Kind::Conflict => {}
                Err(e) if e.kind() == Kind::NotFound => return Err(self.missing(APPEND, before.target())),
                Err(e) => return Err(e),
            }
        }
        Err(Error::new(Kind::Unavailable, APPEND)
            .with_message("others wrote first, each time it was tried")
            .without_effect())
    }
    async fn read_for(&self, lease: &Lease) -> Result<Place> {
        let target = self.sight().target_of(&lease.run);
        if let Some(target) = target {
            match self.book(APPEND, &target).await? {
                Some(book) if book.is_of(&lease.run) => return Ok(Place::Book(book)),
                Some(_) => {}
                None => return Err(self.missing(APPEND, &target)),
            }
        }
        self.find(APPEND, &lease.run).await
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        let target = self.sight().target_of(&lease.run);
        if let Some(target) = target {
            let asked = Instant::now();
            match self.store.renew(RENEW, &target, lease.epoch).await {
                Ok(()) => {
                    self.sight().extend(&lease.run, lease.epoch, asked);
                    return Ok(());
                }
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        // Why not?
        let (book, archived) = match self.find(RENEW, &lease.run).await? {
            Place::Book(book) => (book, false),
            Place::Archive(book) => (book, true),
        };
        let Some(head) = book.head().filter(|_| !archived) else { return Err(rules::ended(RENEW, &lease.run)) };
        if head.epoch != lease.epoch {
            return Err(rules::fenced(RENEW, lease, head.epoch));
        }
        if head.outcome().is_some() {
            return Err(rules::ended(RENEW, &lease.run));
        }
        let target = head.target().clone();
        match self.store.lock(RENEW, &target).await? {
            Some(lock) if lock.epoch == lease.epoch && lock.held => {
                let asked = Instant::now();
                self.store.renew(RENEW, &target, lease.epoch).await?;
                self.sight().hold(&target, &lease.run, lease.epoch, head.lease(), asked);
                Ok(())
            }
            Some(lock) => Err(rules::fenced(RENEW, lease, lock.epoch)),
            None => Err(rules::conflict(
                RENEW,
                format!(
                    "somebody deleted the Lease {} of run {}: its lock is lost",
                    names::of_target(&target),
                    lease.run
                ),
            )),
        }
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        let mut selector = format!("{} in ({},{})", names::WHAT, names::BOOK, names::RUN);
        let mut and = |label: &str, value: String| selector += &format!(",{label}={value}");
        if let Some(run) = &query.run {
            and(names::OF_RUN, names::hash(run.as_str()));
        }
        if let Some(target) = &query.target {
            and(names::OF_TARGET, names::hash(target.as_str()));
        }
        if let Some(parent) = &query.parent {
            and(names::OF_GROUP, names::hash(parent.as_str()));
        }
        if query.unfinished {
            and(names::STATE, "unfinished".into());
        }
        let mut found: HashMap<RunId, (Head, Option<String>)> = HashMap::new();
        for object in self.store.metadata(LIST, &selector).await? {
            let Some(head) = Head::of(LIST, &object)? else { continue };
            let summary = head.summary();
            let wanted = query.run.as_ref().is_none_or(|run| summary.run == *run)
                && query.target.as_ref().is_none_or(|target| summary.target == *target)
                && query.parent.as_ref().is_none_or(|parent| summary.parent.as_ref() == Some(parent))
                && query.since.is_none_or(|since| summary.began >= since);
            // One that is being moved is in both places, and the same.
            if wanted {
                found.insert(summary.run.clone(), (head, object.metadata.resource_version));
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        // Within a target they are counted; over several, when they began is all there is.
        match &query.target {
            Some(_) => found.sort_by_key(|(head, _)| std::cmp::Reverse(head.number)),
            None => found.sort_by_key(|(head, _)| std::cmp::Reverse((head.summary().began, head.number))),
        }
        if query.limit > 0 {
            found.truncate(query.limit);
        }
        let locks: HashMap<String, Lock> = if found.iter().all(|(head, _)| head.outcome().is_some()) {
            HashMap::new()
        } else if let (Some(target), Some(_)) = (found.first().map(|(head, _)| head.target()), query.run.as_ref()) {
            let lock = self.store.lock(LIST, target).await?;
            lock.map(|lock| (names::of_target(target), lock)).into_iter().collect()
        } else {
            self.store.locks(LIST).await?.into_iter().collect()
        };
        let summary = |(head, version): (Head, Option<String>)| {
            let mut summary = head.summary().clone();
            let lock = locks.get(&names::of_target(head.target()));
            if self.driven(&head, lock, version.as_deref()) != Driven::No {
                summary.driven_by = Some(head.who.clone());
            }
            summary
        };
        Ok(found.into_iter().map(summary).collect())
    }

    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        let began = Instant::now();
        for _ in 0..TRIES {
            let mut book = match self.find(GIVE_UP, run).await? {
                Place::Book(book) => book,
                Place::Archive(_) => return Err(rules::ended(GIVE_UP, run)),
            };
            let Some(head) = book.unfinished().cloned() else { return Err(rules::ended(GIVE_UP, run)) };
            let target = head.target().clone();
            let mut lock = self.store.lock(GIVE_UP, &target).await?;
            let bound = head.lease().saturating_mul(2).min(self.options.patience);
            match self.wait_for(&head, &mut lock, &mut book, began, bound).await? {
                Waited::Free => {}
                Waited::Alive => return Err(rules::driven(run, &head.who)),
                Waited::Changed => continue,
            }
            let epoch = book.epoch().max(lock.as_ref().map_or(0, |lock| lock.epoch)) + 1;
            let given = async {
                let taking = Taking { epoch, me: &self.me, who, length: head.lease() };
                self.store.take(GIVE_UP, &target, lock.as_ref(), taking).await?;
                let _free = Freeing { inner: self, target: &target, epoch, armed: true };
                let before = book.clone();
                book.end(epoch, Timestamp::now(), rules::given_up(who, why))?;
                self.write(GIVE_UP, &mut book, &before).await
            };
            match given.await {
                Err(e) if e.kind() == Kind::Conflict => {}
                given => return given,
            }
        }
        Err(Error::new(Kind::Unavailable, GIVE_UP)
            .with_message("others wrote first, each time it was tried")
            .without_effect())
    }

    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        for _ in 0..TRIES {
            let before = match self.book(MARK, target).await? {
                Some(book) => book,
                None => self.both(MARK, target).await?.0.unwrap_or_else(|| Book::new(target)),
            };
            let mut book = before.clone();
            book.mark(MARK, entry)?;
            match self.write(MARK, &mut book, &before).await {
                Err(e) if e.kind() == Kind::Conflict => {}
                written => return written,
            }
        }
        Err(Error::new(Kind::Unavailable, MARK)
            .with_message("others wrote first, each time it was tried")
            .without_effect())
    }

    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        let selector = format!(
            "{}={},{}=yes,{} in ({},{})",
            names::OF_RUN,
            names::hash(run.as_str()),
            names::HOLDS,
            names::WHAT,
            names::BOOK,
            names::RUN
        );
        for _ in 0..TRIES {
            let mut clean = true;
            for object in self.store.list(FORGET, &selector).await? {
                let before = Book::read(FORGET, object)?;
                let mut book = before.clone();
                if !book.is_of(run) || !book.forget_hold(name) {
                    continue;
                }
                match self.write(FORGET, &mut book, &before).await {
                    Err(e) if matches!(e.kind(), Kind::Conflict | Kind::NotFound) => clean = false,
                    written => written?,
                }
            }
            if clean {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Unavailable, FORGET)
            .with_message("others wrote first, each time it was tried")
            .without_effect())
    }
}

enum Waited {
    Free,
    Alive,
    Changed,
}

/// Frees a lock that was taken and is not needed, also when nobody waits for it any more.
struct Freeing<'a> {
    inner: &'a Inner,
    target: &'a TargetId,
    epoch: u64,
    armed: bool,
}
impl Freeing<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}
impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        if self.armed {
            free_soon(&self.inner.store, self.target, self.epoch);
        }
    }
}

/// Best effort: a lock that is not freed runs out.
fn free_soon(store: &Store, target: &TargetId, epoch: u64) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let (store, target) = (store.clone(), target.clone());
        runtime.spawn(async move {
            let _ = store.free(LET_GO, &target, epoch).await;
        });
    }
}

#[async_trait]
impl Journal for ClusterJournal {
    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        self.inner.begin(intent).await
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        self.inner.append(lease, lines).await
    }
    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.inner.renew(lease).await
    }
    fn let_go(&self, lease: &Lease) {
        let target = self.inner.sight().target_of(&lease.run);
        let Some(target) = target else { return };
        self.inner.sight().release(&lease.run, lease.epoch);
        free_soon(&self.inner.store, &target, lease.epoch);
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        self.inner.runs(query).await
    }
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        let (Place::Book(book) | Place::Archive(book)) = self.inner.find(READ, run).await?;
        Ok((book.intent(READ)?, self.inner.lines(READ, &book).await?))
    }
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        self.inner.give_up(run, who, why).await
    }
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        self.inner.mark(target, entry).await
    }
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
        let book = match self.inner.book(LEDGER, target).await? {
            Some(book) => Some(book),
            None => self.inner.both(LEDGER, target).await?.0,
        };
        book.map_or(Ok(vec![]), |book| book.ledger(LEDGER))
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        let mut runs: HashMap<RunId, Book> = HashMap::new();
        for object in self.inner.store.list(HOLDS, &format!("{}=yes", names::HOLDS)).await? {
            let book = Book::read(HOLDS, object)?;
            let Some(run) = book.head().map(|head| head.id().clone()) else { continue };
            // Where it lies in both places, the book is the one that counts.
            if !runs.contains_key(&run) || book.name == names::of_target(book.target()) {
                runs.insert(run, book);
            }
        }
        let mut runs: Vec<Book> = runs.into_values().collect();
        runs.sort_by_key(|book| book.head().map(|head| (head.summary().began, head.number)));
        let holds: Vec<Vec<HeldFreeze>> = runs.iter().map(|book| book.holds(HOLDS)).collect::<Result<_>>()?;
        Ok(holds.into_iter().flatten().collect())
    }
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        self.inner.forget_hold(run, name).await
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        Arc::new(shelf::ClusterShelf::new(self.inner.store.clone(), self.inner.options.artifact_bytes))
    }
}
