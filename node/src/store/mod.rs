//! SQLite off the async threads: one writer thread that commits in groups, a few readers.
//!
//! ```text
//!  write(f) ──▶ queue ──▶ writer thread: BEGIN IMMEDIATE
//!                                        SAVEPOINT, f₁, RELEASE   (or ROLLBACK TO, for this job alone)
//!                                        SAVEPOINT, f₂, RELEASE   … at most 256
//!                                        COMMIT ──▶ every caller gets its answer
//!  read(f)  ──▶ queue ──▶ a reader thread: BEGIN, f, ROLLBACK     (one snapshot)
//! ```
//!
//! A commit costs a sync of the disk whatever it holds, so jobs that wait together are committed
//! together: with `synchronous=FULL` that is one to two orders of magnitude more writes per second
//! than a transaction for each. Nothing is acknowledged before it is on disk.

mod group;
mod reader;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::sqlite::{self, Durability, FailureKind, SqliteError, backup};
use group::{Job, Message, TypedJob};
use reader::{ReadJob, ReadMessage};

/// Jobs that may wait for the writer; a caller beyond that waits before its job is taken.
const QUEUE: usize = 1024;
/// Reader threads, each with a connection of its own.
const READERS: usize = 3;

/// Why the store did not do a job. What a job itself refuses is its own error type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store was shut down.
    #[error("the database is closed: the program is shutting down")]
    Closed,
    /// The job panicked; nothing of it was kept.
    #[error("the database job '{0}' failed unexpectedly; please report this")]
    Panicked(&'static str),
    /// SQLite failed. Nothing of the job was kept.
    #[error("the database failed: {} ({message})", kind.advice())]
    Database {
        /// What kind of failure.
        kind: FailureKind,
        /// What SQLite said.
        message: String,
    },
}

impl StoreError {
    /// The kind of failure, if SQLite failed.
    #[must_use]
    pub const fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Database { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database { kind: FailureKind::of(&error), message: error.to_string() }
    }
}

/// A handle to the store. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    writer: mpsc::Sender<Message>,
    readers: mpsc::Sender<ReadMessage>,
    // A plain mutex: taken once, by shutdown, and never across an await.
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    readers: Vec<JoinHandle<()>>,
}

impl Store {
    /// Opens the database at `path` (see [`sqlite::open`]) and starts its threads. No other process may
    /// use it. One of an older release is copied before it is migrated.
    ///
    /// # Errors
    /// [`SqliteError`]; what is newer, damaged or another program's is left as it is.
    pub fn open(
        path: &Path,
        migrations: &[&str],
        durability: Durability,
    ) -> Result<Self, SqliteError> {
        sqlite::check_log(path)?;
        backup::make_before_upgrade(path, migrations.len())?;
        let connection = sqlite::open(path, migrations, durability)?;
        sqlite::check_writable(&connection, path)?;
        let (writer, jobs) = mpsc::channel(QUEUE);
        let (readers, reads) = mpsc::channel(QUEUE);
        let reads = Arc::new(Mutex::new(reads));
        let io = |source| SqliteError::Io { path: path.to_owned(), source };
        let mut handles = Vec::new();
        for _ in 0..READERS {
            let connection = sqlite::open_read_only(path)?;
            let reads = Arc::clone(&reads);
            let thread = std::thread::Builder::new().name("store-reader".to_owned());
            handles.push(thread.spawn(move || reader::run(&connection, &reads)).map_err(io)?);
        }
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        let handle = thread.spawn(move || group::run(connection, jobs)).map_err(io)?;
        let threads = Mutex::new(Some(Threads { writer: handle, readers: handles }));
        let path = path.to_owned();
        Ok(Self { inner: Arc::new(Inner { path, writer, readers, threads }) })
    }

    /// Copies the database to `backups/` beside it, if the newest copy there is six hours old or more;
    /// where the new one is.
    ///
    /// # Errors
    /// [`SqliteError`]; the older copies stay.
    pub async fn back_up_if_due(&self) -> Result<Option<PathBuf>, SqliteError> {
        let path = self.inner.path.clone();
        let made = tokio::task::spawn_blocking(move || {
            backup::is_due(&path).then(|| backup::make(&path)).transpose()
        });
        made.await.unwrap_or(Ok(None))
    }

    /// Runs `job` in a transaction on the writer, and returns once it is committed.
    ///
    /// When `job` returns an error, exactly what it did is rolled back; jobs of other callers in
    /// the same commit are not touched. When the commit itself fails, all of them fail. A job that
    /// was taken runs to its end even if the caller is dropped meanwhile. `job` must not begin,
    /// commit or roll back transactions, and must be quick: all writers wait for it. `label`
    /// names it in the log.
    ///
    /// # Errors
    /// What `job` returns, or a [`StoreError`] turned into its error type.
    pub async fn write<T, E, F>(&self, label: &'static str, job: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(TypedJob::new(label, job, reply));
        self.inner.writer.send(Message::Job(job)).await.map_err(|_| E::from(StoreError::Closed))?;
        answer.await.unwrap_or_else(|_| Err(E::from(StoreError::Closed)))
    }

    /// Runs `job` on a reader, which sees one snapshot of everything acknowledged so far.
    ///
    /// # Errors
    /// What `job` returns, or a [`StoreError`] turned into its error type.
    pub async fn read<T, E, F>(&self, label: &'static str, job: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: ReadJob = Box::new(move |connection| {
            let result = reader::snapshot(connection, label, job);
            // The caller may be gone; a read leaves nothing behind.
            let _ = reply.send(result);
        });
        self.inner
            .readers
            .send(ReadMessage::Job(job))
            .await
            .map_err(|_| E::from(StoreError::Closed))?;
        answer.await.unwrap_or_else(|_| Err(E::from(StoreError::Closed)))
    }

    /// Refuses further jobs, finishes those that were taken, and closes the database. Later calls
    /// on any clone answer [`StoreError::Closed`].
    pub async fn shutdown(&self) {
        let threads = self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        // The writer goes last: the last connection to close folds the log into the database,
        // and a reader can't.
        for _ in 0..threads.readers.len() {
            let _ = self.inner.readers.send(ReadMessage::Stop).await;
        }
        let writer = self.inner.writer.clone();
        let joined = tokio::task::spawn_blocking(move || {
            for reader in threads.readers {
                let _ = reader.join();
            }
            let _ = writer.blocking_send(Message::Stop);
            let _ = threads.writer.join();
        });
        let _ = joined.await;
    }
}

#[cfg(test)]
mod tests;
