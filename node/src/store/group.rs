//! The writer thread: takes what waits, runs it in one transaction, commits, answers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use crate::fail_point;

/// Most jobs in one commit: bounds how long the first of them waits.
const MAX_GROUP: usize = 256;

/// What the writer is sent.
pub(super) enum Message {
    Job(Box<dyn Job>),
    /// Finish what was sent before and end.
    Stop,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job(job) => write!(f, "Job({})", job.label()),
            Self::Stop => f.write_str("Stop"),
        }
    }
}

/// A job whose types are known only to itself and its caller.
pub(super) trait Job: Send {
    fn label(&self) -> &'static str;
    /// Runs it and keeps the result; whether its changes are to be kept.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers the caller: the kept result, or `failure` if the group came to nothing.
    fn answer(self: Box<Self>, failure: Option<&StoreError>);
}

pub(super) struct TypedJob<T, E, F> {
    label: &'static str,
    job: Option<F>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> TypedJob<T, E, F> {
    pub(super) const fn new(
        label: &'static str,
        job: F,
        reply: oneshot::Sender<Result<T, E>>,
    ) -> Self {
        Self { label, job: Some(job), result: None, reply }
    }
}

impl<T, E, F> Job for TypedJob<T, E, F>
where
    F: FnOnce(&Connection) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn label(&self) -> &'static str {
        self.label
    }

    fn run(&mut self, connection: &Connection) -> bool {
        let Some(job) = self.job.take() else { return false };
        // Unwind safety: on a panic the savepoint is rolled back and the closure's state is dropped.
        let result = catch_unwind(AssertUnwindSafe(|| job(connection)))
            .unwrap_or_else(|_| Err(E::from(StoreError::Panicked(self.label))));
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn answer(self: Box<Self>, failure: Option<&StoreError>) {
        let result = match (self.result, failure) {
            // A job that refused says why, whatever became of the others.
            (Some(Err(own)), _) => Err(own),
            (_, Some(failure)) => Err(E::from(failure.clone())),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(E::from(StoreError::Closed)),
        };
        let _ = self.reply.send(result);
    }
}

/// The writer's life: until it is told to stop, or every handle is gone.
pub(super) fn run(mut connection: Connection, mut jobs: mpsc::Receiver<Message>) {
    let mut stopping = false;
    while let Some(first) = jobs.blocking_recv() {
        let mut group: Vec<Box<dyn Job>> = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(job) => group.push(job),
                Message::Stop => {
                    // Callers from now on get `Closed`; those that wait in the queue are served.
                    stopping = true;
                    jobs.close();
                }
            }
            next = if group.len() < MAX_GROUP { jobs.try_recv().ok() } else { None };
        }
        commit(&mut connection, group);
    }
    if stopping {
        tracing::debug!("store writer has finished");
    }
}

/// Runs `group` in one transaction and answers every job in it.
fn commit(connection: &mut Connection, mut group: Vec<Box<dyn Job>>) {
    while !group.is_empty() {
        let (done, failure) = attempt(connection, &mut group);
        if let Some(failure) = &failure {
            let labels: Vec<_> = done.iter().map(|job| job.label()).collect();
            tracing::error!(jobs = ?labels, "a database commit failed: {failure}");
        }
        fail_point::reached(fail_point::STORE_COMMITTED);
        for job in done {
            job.answer(failure.as_ref());
        }
        fail_point::reached(fail_point::STORE_ANSWERED);
    }
}

/// One transaction over as much of `group` as it can take. The jobs that were part of it, and why
/// it came to nothing if it did.
fn attempt(
    connection: &mut Connection,
    group: &mut Vec<Box<dyn Job>>,
) -> (Vec<Box<dyn Job>>, Option<StoreError>) {
    // Immediate: a deferred transaction that turns to writing after another commit fails at once,
    // and no busy timeout helps.
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => return (std::mem::take(group), Some(error.into())),
    };
    for index in 0..group.len() {
        let outcome = run_in_savepoint(&transaction, group[index].as_mut());
        // Some failures (disk full, I/O) roll the whole transaction back by themselves: then the
        // jobs before this one are undone as well, and must not be told otherwise.
        if let Err(error) = outcome {
            let rest = group.split_off(index + 1);
            return (std::mem::replace(group, rest), Some(error));
        }
    }
    fail_point::reached(fail_point::STORE_BEFORE_COMMIT);
    let failure = transaction.commit().err().map(StoreError::from);
    (std::mem::take(group), failure)
}

/// An error means that the transaction is lost.
fn run_in_savepoint(connection: &Connection, job: &mut dyn Job) -> Result<(), StoreError> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    let keep = job.run(connection);
    if connection.is_autocommit() {
        return Err(StoreError::Database {
            kind: crate::sqlite::FailureKind::Other,
            message: format!("the transaction ended inside the job '{}'", job.label()),
        });
    }
    if !keep {
        connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    connection.prepare_cached("RELEASE job")?.execute([])?;
    Ok(())
}
