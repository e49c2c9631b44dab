//! The store in memory, for tests: clones share it, as processes share a file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use golem_vm_protocol::time::Timestamp;

use crate::registry::feed::{Publication, PublishOutcome, Row, State, Store, StoreFailure};
use crate::registry::rules;

/// A store that lasts as long as its last handle.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    // A plain mutex: never held across an await.
    rows: Arc<Mutex<Rows>>,
}

#[derive(Debug, Default)]
struct Rows {
    revision: u64,
    by_id: BTreeMap<String, Row>,
}

impl Rows {
    const fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn put(&mut self, row: Row) {
        self.by_id.insert(row.provider_id.clone(), row);
    }
}

impl MemoryStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn publish_if_newer(
        &self,
        publication: Publication,
    ) -> Result<PublishOutcome, StoreFailure> {
        let mut rows = self.rows();
        let revision = rows.next_revision();
        let existing = rows.by_id.get(&publication.provider_id);
        match rules::publish(existing, publication, revision) {
            Ok(row) => {
                rows.put(row.clone());
                Ok(PublishOutcome::Stored(row))
            }
            Err(known) => Ok(PublishOutcome::NotNewer { known }),
        }
    }

    async fn withdraw(
        &self,
        provider_id: &str,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreFailure> {
        let mut rows = self.rows();
        let revision = rows.next_revision();
        let gone = rules::withdraw(rows.by_id.get(provider_id), at, revision);
        Ok(gone.map(|gone| {
            rows.put(gone);
            revision
        }))
    }

    async fn changes_since(&self, revision: u64, limit: usize) -> Result<Vec<Row>, StoreFailure> {
        let rows = self.rows();
        let mut changes: Vec<Row> =
            rows.by_id.values().filter(|row| row.revision > revision).cloned().collect();
        changes.sort_by_key(|row| row.revision);
        changes.truncate(limit);
        Ok(changes)
    }

    async fn expire(&self, now: Timestamp, limit: usize) -> Result<usize, StoreFailure> {
        let mut rows = self.rows();
        let over: Vec<Row> = rows
            .by_id
            .values()
            .filter(|row| row.state == State::Live && !row.is_live(now))
            .take(limit)
            .cloned()
            .collect();
        let count = over.len();
        for row in over {
            let revision = rows.next_revision();
            rows.put(rules::expire(row, revision));
        }
        Ok(count)
    }

    async fn clear_graves(
        &self,
        signed_before: Timestamp,
        unsigned_before: Timestamp,
    ) -> Result<(), StoreFailure> {
        self.rows().by_id.retain(|_, row| {
            let before = if row.signed.is_some() { signed_before } else { unsigned_before };
            row.state == State::Live || row.last_seen >= before
        });
        Ok(())
    }
}
