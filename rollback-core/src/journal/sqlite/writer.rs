//! The thread that writes. All that waits for it is done in one transaction and answered after its commit, so that a
//! thousand runs share one flush of the disk.

use super::{
    command::{Answer, Command, Writer},
    db::Db,
    fault::{Failed, certainly_undone, storage},
};
use crate::{Begun, Error, Lease, Result};
use rusqlite::Connection;
use std::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;

/// A commit of more would make the first wait too long.
const TOGETHER: usize = 4096;
/// After so many failures of the storage one after another, the rest is not tried one by one.
const ENOUGH: usize = 3;

/// A command, and who waits for its answer.
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) reply: Option<oneshot::Sender<Result<Answer>>>,
}

impl Job {
    fn is_given_up(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// Until nobody can ask any more. `reader` ends when the other connection is closed; `_gone` tells by its end that the file is.
pub(super) fn run(
    connection: Connection,
    writer: &Writer,
    jobs: &Receiver<Job>,
    reader: &Receiver<()>,
    _gone: Sender<()>,
) {
    {
        let db = Db::new(&connection);
        while let Ok(first) = jobs.recv() {
            let mut together = vec![first];
            together.extend(jobs.try_iter().take(TOGETHER - 1));
            let left_alone = serve(&db, writer, together);
            if !left_alone.is_empty() {
                serve(&db, writer, left_alone);
            }
        }
    }
    // Of two connections that close at once neither is the last, and the log would stay beside the file.
    let _ = reader.recv();
    // Before the caller hears that the file is closed.
    drop(connection);
}

/// Does jobs and answers them. Returns what is left to do: leases given to those who did not wait for them.
fn serve(db: &Db<'_>, writer: &Writer, jobs: Vec<Job>) -> Vec<Job> {
    match attempt(db, writer, &jobs) {
        Ok(answers) => jobs.into_iter().zip(answers).filter_map(|(job, answer)| send(job, answer)).collect(),
        Err(broken) if jobs.len() == 1 || !broken.by_one => {
            for job in jobs {
                let error = broken.tell(&job.command);
                send(job, Err(error));
            }
            vec![]
        }
        Err(_) => one_by_one(db, writer, jobs),
    }
}

/// One of them failed: none may suffer for it.
fn one_by_one(db: &Db<'_>, writer: &Writer, jobs: Vec<Job>) -> Vec<Job> {
    let mut failures = 0;
    let mut last: Option<Broken> = None;
    let mut left = vec![];
    for job in jobs {
        let answer = match &last {
            Some(broken) if failures >= ENOUGH => Err(broken.tell(&job.command)),
            _ => match attempt(db, writer, std::slice::from_ref(&job)) {
                Ok(mut answers) => {
                    failures = 0;
                    answers.pop().unwrap_or(Ok(Answer::Done))
                }
                Err(broken) => {
                    failures += 1;
                    let told = broken.tell(&job.command);
                    last = Some(broken);
                    Err(told)
                }
            },
        };
        left.extend(send(job, answer));
    }
    left
}

fn send(job: Job, answer: Result<Answer>) -> Option<Job> {
    let unheard = job.reply?.send(answer).err()?;
    let Ok(Answer::Begun(begun)) = unheard else { return None };
    given(*begun).map(let_go)
}

/// The lease that was given with it.
pub(super) fn given(begun: Begun) -> Option<Lease> {
    match begun {
        Begun::Fresh { lease, .. } | Begun::Adopted { lease, .. } => Some(lease),
        _ => None,
    }
}

/// Best effort: nobody waits for it.
pub(super) fn let_go(lease: Lease) -> Job {
    Job { command: Command::LetGo(lease), reply: None }
}

/// A transaction that failed, and was rolled back.
struct Broken {
    failed: Failed,
    /// Nothing of it can come back.
    undone: bool,
    /// One command is to blame, and the others may succeed without it.
    by_one: bool,
}

impl Broken {
    fn tell(&self, command: &Command) -> Error {
        let error = match &self.failed {
            Failed::Said(error) => Error::from(error.fault().clone()),
            Failed::Storage(error) => storage(command.operation(), error),
        };
        if self.undone { error.without_effect() } else { error }
    }
}

/// One transaction. Nothing of it is durable, or all of it.
fn attempt(db: &Db<'_>, writer: &Writer, jobs: &[Job]) -> Result<Vec<Result<Answer>>, Broken> {
    if let Err(error) = db.execute("BEGIN IMMEDIATE", []) {
        let undone = db.roll_back();
        return Err(Broken { failed: error.into(), undone, by_one: false });
    }
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        if job.is_given_up() {
            answers.push(Ok(Answer::Done));
            continue;
        }
        let before = db.changes();
        match writer.execute(db, &job.command) {
            Ok(answer) => answers.push(Ok(answer)),
            Err(Failed::Said(error)) if db.changes() == before => answers.push(Err(error)),
            Err(failed) => {
                let undone = db.roll_back();
                return Err(Broken { failed, undone, by_one: true });
            }
        }
    }
    match db.execute("COMMIT", []) {
        Ok(_) => Ok(answers),
        Err(error) => {
            let undone = db.roll_back() && certainly_undone(&error);
            Err(Broken { failed: error.into(), undone, by_one: true })
        }
    }
}
