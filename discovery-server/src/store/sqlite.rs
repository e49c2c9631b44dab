//! The store in a SQLite file. One process writes it through one thread that commits in groups;
//! several processes may share the file.

use std::path::Path;

use async_trait::async_trait;
use golem_vm_node::sqlite::{Durability, FailureKind, SqliteError};
use golem_vm_node::store::{Store as Database, StoreError};
use golem_vm_protocol::time::Timestamp;

use super::schema::MIGRATIONS;
use super::{room, row};
use crate::registry::crowd::{Bounds, Place};
use crate::registry::feed::{
    Publication, PublishOutcome, Refusal, Row, Store, StoreFailure, Withdrawal,
};
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
        bounds: Bounds,
    ) -> Result<PublishOutcome, StoreFailure> {
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            let (at, from) = (publication.at, Place::of(&publication.observed_address));
            let existing = row::find(connection, &publication.provider_id)?;
            // The revision is drawn for nothing when it is refused: a gap in the feed does no harm.
            let revision = row::next_revision(connection)?;
            let stored = match rules::publish(existing.as_ref(), publication, revision) {
                Ok(stored) => stored,
                Err(refusal) => return Ok(PublishOutcome::Refused(refusal)),
            };
            if !existing.as_ref().is_some_and(|row| row.is_live(at))
                && let Err(reason) = room::make(connection, &from, &bounds, existing.is_some(), at)?
            {
                return Ok(PublishOutcome::Refused(Refusal::NoRoom(reason)));
            }
            row::put(connection, &stored)?;
            Ok(PublishOutcome::Stored(stored))
        };
        Ok(self.database.write("publish", job).await?)
    }

    async fn withdraw(&self, withdrawal: Withdrawal) -> Result<Option<u64>, StoreFailure> {
        let job = move |connection: &rusqlite::Connection| -> Result<_, JobError> {
            let existing = row::find(connection, &withdrawal.provider_id)?;
            if !existing.as_ref().is_some_and(|row| row.is_live(withdrawal.at)) {
                return Ok(None);
            }
            let revision = row::next_revision(connection)?;
            let Some(gone) = rules::withdraw(existing.as_ref(), &withdrawal, revision) else {
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
            Ok(room::expire(connection, now, limit)?)
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
