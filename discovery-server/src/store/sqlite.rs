//! The store in a SQLite file. One process writes it through one thread that commits in groups;
//! several processes may share the file.

use std::path::Path;

use async_trait::async_trait;
use golem_vm_node::sqlite::{Durability, FailureKind, SqliteError};
use golem_vm_node::store::{Store as Database, StoreError};
use golem_vm_protocol::time::Timestamp;

use super::row;
use super::schema::MIGRATIONS;
use crate::registry::feed::{Publication, PublishOutcome, Row, Store, StoreFailure};
use crate::registry::rules;

/// A handle to the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    database: Database,
}

impl SqliteStore {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    /// [`SqliteError`].
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        // Full: a sequence that was acknowledged and then forgotten could be replaced by an older one.
        Ok(Self { database: Database::open(path, MIGRATIONS, Durability::Full)? })
    }

    /// Finishes what was taken and closes the file.
    pub async fn close(&self) {
        self.database.shutdown().await;
    }
}

impl From<StoreError> for StoreFailure {
    fn from(error: StoreError) -> Self {
        let transient = match &error {
            StoreError::Closed => true,
            StoreError::Panicked(_) => false,
            StoreError::Database { kind, .. } => {
                matches!(kind, FailureKind::Locked | FailureKind::DiskFull)
            }
        };
        Self { transient, message: error.to_string() }
    }
}

/// An error inside a job.
#[derive(Debug)]
struct JobError(StoreError);

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.into())
    }
}

impl From<JobError> for StoreFailure {
    fn from(JobError(error): JobError) -> Self {
        error.into()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn publish_if_newer(
        &self,
        publication: Publication,
    ) -> Result<PublishOutcome, StoreFailure> {
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            let existing = row::find(connection, &publication.provider_id)?;
            // The revision is drawn for nothing when it is refused: a gap in the feed does no harm.
            let revision = row::next_revision(connection)?;
            Ok(match rules::publish(existing.as_ref(), publication, revision) {
                Ok(stored) => {
                    row::put(connection, &stored)?;
                    PublishOutcome::Stored(stored)
                }
                Err(known) => PublishOutcome::NotNewer { known },
            })
        };
        Ok(self.database.write("publish", job).await?)
    }

    async fn withdraw(
        &self,
        provider_id: &str,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreFailure> {
        let provider_id = provider_id.to_owned();
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            let existing = row::find(connection, &provider_id)?;
            if !existing.as_ref().is_some_and(|row| row.is_live(at)) {
                return Ok(None);
            }
            let revision = row::next_revision(connection)?;
            let Some(gone) = rules::withdraw(existing.as_ref(), at, revision) else {
                return Ok(None);
            };
            row::put(connection, &gone)?;
            Ok(Some(revision))
        };
        Ok(self.database.write("withdraw", job).await?)
    }

    async fn changes_since(&self, revision: u64, limit: usize) -> Result<Vec<Row>, StoreFailure> {
        let (revision, limit) = (integer(revision), integer(limit as u64));
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            let condition = "WHERE revision > ?1 ORDER BY revision LIMIT ?2";
            Ok(row::select(connection, condition, [revision, limit])?)
        };
        Ok(self.database.read("changes", job).await?)
    }

    async fn expire(&self, now: Timestamp, limit: usize) -> Result<usize, StoreFailure> {
        let limit = integer(limit as u64);
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            let condition =
                "WHERE state = 'live' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
            let over = row::select(connection, condition, [now.unix_micros(), limit])?;
            let count = over.len();
            for live in over {
                let revision = row::next_revision(connection)?;
                row::put(connection, &rules::expire(live, revision))?;
            }
            Ok(count)
        };
        Ok(self.database.write("expire", job).await?)
    }

    async fn clear_graves(
        &self,
        signed_before: Timestamp,
        unsigned_before: Timestamp,
    ) -> Result<(), StoreFailure> {
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            connection
                .prepare_cached(
                    "DELETE FROM advertisements WHERE state <> 'live' AND last_seen < \
                     CASE WHEN sequence IS NULL THEN ?2 ELSE ?1 END",
                )?
                .execute([signed_before.unix_micros(), unsigned_before.unix_micros()])?;
            Ok(())
        };
        Ok(self.database.write("clear graves", job).await?)
    }
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
