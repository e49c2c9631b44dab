//! The reader threads: each takes the next read from one queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::StoreError;

pub(super) type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// What the readers are sent.
pub(super) enum ReadMessage {
    Job(ReadJob),
    /// One reader ends.
    Stop,
}

impl std::fmt::Debug for ReadMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Job(_) => "Job",
            Self::Stop => "Stop",
        })
    }
}

/// A reader's life. The lock is held while waiting: whoever has it takes the next job and lets the
/// others wait for the one after.
pub(super) fn run(connection: &Connection, jobs: &Mutex<mpsc::Receiver<ReadMessage>>) {
    loop {
        let message = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        match message {
            Some(ReadMessage::Job(job)) => job(connection),
            Some(ReadMessage::Stop) | None => return,
        }
    }
}

/// Runs `job` on one snapshot of the database.
pub(super) fn snapshot<T, E, F>(
    connection: &Connection,
    label: &'static str,
    job: F,
) -> Result<T, E>
where
    F: FnOnce(&Connection) -> Result<T, E>,
    E: From<StoreError>,
{
    let begun = connection.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([]));
    begun.map_err(|error| E::from(error.into()))?;
    let result = catch_unwind(AssertUnwindSafe(|| job(connection)))
        .unwrap_or_else(|_| Err(E::from(StoreError::Panicked(label))));
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(label, "a database read could not be ended: {error}");
    }
    result
}
