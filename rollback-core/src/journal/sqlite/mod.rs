//! The journal in one SQLite file, for several processes of one host.
//!
//! One thread of each journal writes, and one reads. The writer does all that waits for it in one transaction: appends of
//! concurrent runs share a flush of the disk. Bulk lies beside the file, in `<file>.shelf/`.
//!
//! Not here: more than one host. A file on a network file system is no lock.

mod command;
mod db;
mod fault;
mod options;
mod prune;
mod query;
mod row;
mod schema;
mod sealed;
mod shelf;
mod writer;

pub use options::SqliteOptions;

use super::{
    holder::Holder,
    retention::{Pruned, Retention},
    rules::{BEGIN, READ, check_lines},
};
use crate::{
    Begun, Error, HeldFreeze, Intent, Journal, Kind, Lease, LedgerEntry, Line, Result, RunId, RunQuery, RunSummary,
    Shelf, TargetId, Timestamp,
};
use async_trait::async_trait;
use command::{Answer, Command, Writer};
use db::Db;
use fault::Failed;
use row::LineRow;
use shelf::FileShelf;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};
use tokio::sync::{Semaphore, oneshot};
use writer::Job;

/// So many appends have their rows ready at once. The rest wait as the lines they are, because rows are as large again.
const READY: usize = 128;

/// How long dropping the last handle waits until the file is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A journal in one SQLite file. Clones share it; other processes of the same host may have it open too.
///
/// What a call has acknowledged is on the disk (WAL, `synchronous=FULL`). A lease is timed by the time since boot, never by
/// the wall clock; on Linux a holder whose process is dead loses it at once (where two processes see each other's pids),
/// elsewhere when it has run out. Every line has a checksum: one that is torn or edited is an error of
/// [`Kind::Invalid`](crate::Kind::Invalid) when its run is read. A full disk or another process that writes for longer than
/// [`SqliteOptions::busy_timeout`] is [`Kind::Unavailable`](crate::Kind::Unavailable), transient, and nothing was written.
///
/// The file is made with mode 0600, the shelf with 0700. The time is real: with tokio's paused clock, timeouts around its
/// calls pass at once, so use [`MemoryJournal`](super::MemoryJournal) there.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("rollback.db");
/// use rollback_core::{Begun, Intent, Journal, RunId, RunQuery, TargetId, journal::SqliteJournal};
/// let journal = SqliteJournal::open(&path)?;
/// let intent = Intent::new(RunId::new("r1"), TargetId::new("dir:/srv/checkout"), "me", "500s since 2.4.0");
/// let Begun::Fresh { lease, .. } = journal.begin(&intent).await? else { panic!("the file was empty") };
/// assert_eq!(lease.epoch, 1);
/// assert_eq!(journal.runs(&RunQuery::unfinished()).await?.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteJournal {
    inner: Arc<Inner>,
}

type Read = Box<dyn FnOnce(&Db<'_>) + Send>;

struct Inner {
    path: PathBuf,
    me: Holder,
    retention: Retention,
    shelf: shelf::Place,
    // None: being dropped.
    jobs: Option<Sender<Job>>,
    reads: Option<Sender<Read>>,
    // Who may have rows ready for the writer.
    room: Semaphore,
    // Ends with the writer, which ends last.
    gone: Mutex<Receiver<()>>,
}

impl SqliteJournal {
    /// Opens the file, or makes it. Blocks for as long as that takes: milliseconds, or up to 5 s while another process
    /// makes it.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if the file is not a journal, or damaged; [`Kind::Unsupported`] if a newer release of this library
    /// wrote it: in both cases it is left as it is. [`Kind::Denied`] if it may not be opened; otherwise as the disk.
    ///
    /// ```
    /// use rollback_core::{Kind, journal::SqliteJournal};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("notes.txt");
    /// std::fs::write(&path, "this is not a journal, and stays as it is")?;
    /// assert_eq!(SqliteJournal::open(&path).unwrap_err().kind(), Kind::Invalid);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// Opens the file, or makes it, in another way than the usual one.
    ///
    /// # Errors
    /// As [`open`](SqliteJournal::open).
    ///
    /// ```
    /// use rollback_core::{journal::{SqliteJournal, SqliteOptions}, seconds};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("rollback.db");
    /// let journal = SqliteJournal::open_with(&path, SqliteOptions::default().with_busy_timeout(seconds(1)))?;
    /// # Ok::<(), rollback_core::Error>(())
    /// ```
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        let path = path.as_ref();
        let of = |e: Error| {
            let message = format!("{}: {}", path.display(), e.message());
            e.with_message(message)
        };
        shelf::check_beside(path).map_err(of)?;
        let schema::Opened { writer: connection, reader } = schema::open(path, &options).map_err(of)?;
        // One shelf, whatever link the file is reached by.
        let path = path.canonicalize().map_err(|e| of(Error::from_io("open the journal", e).without_effect()))?;
        let (jobs, to_do) = mpsc::channel();
        let (reads, to_read) = mpsc::channel::<Read>();
        let (alive, gone) = mpsc::channel();
        let (reading, read) = mpsc::channel();
        let me = Holder::this();
        let writer = Writer { me: me.clone(), retention: options.retention };
        let spawned = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
            thread.map(drop).map_err(|e| Error::from_io("start the journal's thread", e).without_effect())
        };
        spawned("journal-write", Box::new(move || writer::run(connection, &writer, &to_do, &read, alive)))?;
        spawned("journal-read", Box::new(move || read_all(reader, &to_read, reading)))?;
        let shelf = shelf::Place::beside(&path);
        let inner = Inner {
            path,
            me,
            retention: options.retention,
            shelf,
            jobs: Some(jobs),
            reads: Some(reads),
            room: Semaphore::new(READY),
            gone: Mutex::new(gone),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Removes what [`Retention`] lets go, by this wall time.
    ///
    /// # Errors
    /// As the disk. What could not be removed is tried again by the next call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> rollback_core::Result<()> {
    /// use rollback_core::{Timestamp, journal::SqliteJournal};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("rollback.db");
    /// let journal = SqliteJournal::open(&path)?;
    /// assert_eq!(journal.prune(Timestamp::now()).await?.runs, 0);
    /// # Ok(()) }
    /// ```
    pub async fn prune(&self, now: Timestamp) -> Result<Pruned> {
        let mut pruned = match self.inner.ask(Command::Prune { now }).await? {
            Answer::Pruned(pruned) => pruned,
            _ => Pruned::default(),
        };
        let keeps = self.inner.read("prune the journal", prune::keeps).await?;
        let (artifacts, bytes) = self.inner.shelf.prune(keeps, self.inner.retention, now).await?;
        pruned.artifacts = artifacts;
        pruned.artifact_bytes = bytes;
        Ok(pruned)
    }
}

impl Inner {
    async fn ask(&self, command: Command) -> Result<Answer> {
        let operation = command.operation();
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job { command, reply: Some(reply) }).is_ok());
        if !sent {
            return Err(ended(operation).without_effect());
        }
        let mut asked = Asked { inner: self, answer };
        (&mut asked.answer).await.unwrap_or_else(|_| Err(ended(operation)))
    }
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Db<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |db| {
            if !reply.is_closed() {
                let _ = reply.send(read(db).map_err(|failed| failed.while_reading(operation)));
            }
        });
        if self.reads.as_ref().is_none_or(|reads| reads.send(job).is_err()) {
            return Err(ended(operation).without_effect());
        }
        answer.await.unwrap_or_else(|_| Err(ended(operation).without_effect()))
    }
}

/// Something that was asked, until its answer is taken. Who is dropped between the answer and taking it lets go of the lease
/// in it: nobody else knows that there is one.
struct Asked<'a> {
    inner: &'a Inner,
    answer: oneshot::Receiver<Result<Answer>>,
}
impl Drop for Asked<'_> {
    fn drop(&mut self) {
        // From here on the writer is told that nobody hears it.
        self.answer.close();
        if let Ok(Ok(Answer::Begun(begun))) = self.answer.try_recv()
            && let Some(lease) = writer::given(*begun)
            && let Some(jobs) = &self.inner.jobs
        {
            let _ = jobs.send(writer::let_go(lease));
        }
    }
}

/// The threads end when nobody can ask any more; a file that is still open here is waited for, not for long.
impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        self.reads = None;
        let gone = self.gone.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = gone.recv_timeout(CLOSE_WITHIN);
    }
}

fn ended(operation: &str) -> Error {
    Error::new(Kind::Unexpected, operation).with_message("the journal's thread has ended: open the journal again")
}

fn read_all(connection: rusqlite::Connection, reads: &Receiver<Read>, _reading: Sender<()>) {
    {
        let db = Db::new(&connection);
        while let Ok(read) = reads.recv() {
            read(&db);
        }
    }
    // Before the writer hears of it.
    drop(connection);
}

impl fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteJournal").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn begin(&self, intent: &Intent) -> Result<Begun> {
        match self.inner.ask(Command::Begin(Box::new(intent.clone()))).await? {
            Answer::Begun(begun) => Ok(*begun),
            _ => Err(ended(BEGIN)),
        }
    }
    async fn append(&self, lease: &Lease, lines: &[Line]) -> Result<()> {
        check_lines(lease, lines)?;
        // It is never closed.
        let _room = self.inner.room.acquire().await;
        let rows = lines.iter().map(|line| LineRow::new(&lease.run, line)).collect::<Result<_>>()?;
        // On the heap, so that those who wait for room take none for it.
        Box::pin(self.inner.ask(Command::Append { lease: lease.clone(), rows })).await.map(drop)
    }
    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.inner.ask(Command::Renew(lease.clone())).await.map(drop)
    }
    fn let_go(&self, lease: &Lease) {
        if let Some(jobs) = &self.inner.jobs {
            let _ = jobs.send(writer::let_go(lease.clone()));
        }
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunSummary>> {
        let (query, me) = (query.clone(), self.inner.me.clone());
        self.inner.read("list the runs", move |db| query::runs(db, &query, &me)).await
    }
    async fn read(&self, run: &RunId) -> Result<(Intent, Vec<Line>)> {
        let run = run.clone();
        self.inner.read(READ, move |db| query::read(db, &run)).await
    }
    async fn give_up(&self, run: &RunId, who: &str, why: &str) -> Result<()> {
        let command = Command::GiveUp { run: run.clone(), who: who.to_owned(), why: why.to_owned() };
        self.inner.ask(command).await.map(drop)
    }
    async fn mark(&self, target: &TargetId, entry: &LedgerEntry) -> Result<()> {
        let command = Command::Mark { target: target.clone(), entry: Box::new(entry.clone()) };
        self.inner.ask(command).await.map(drop)
    }
    async fn ledger(&self, target: &TargetId) -> Result<Vec<LedgerEntry>> {
        let target = target.clone();
        self.inner.read("read the ledger", move |db| query::ledger(db, &target)).await
    }
    async fn holds(&self) -> Result<Vec<HeldFreeze>> {
        self.inner.read("list the holds", query::holds).await
    }
    async fn forget_hold(&self, run: &RunId, name: &str) -> Result<()> {
        self.inner.ask(Command::ForgetHold { run: run.clone(), name: name.to_owned() }).await.map(drop)
    }
    fn shelf(&self) -> Arc<dyn Shelf> {
        Arc::new(FileShelf::new(self.inner.clone()))
    }
}
