//! The store in memory, for tests: clones share it, as processes share a file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use golem_vm_protocol::time::Timestamp;

use crate::registry::crowd::{self, Bounds, Crowd, NoRoom, Place, Room};
use crate::registry::feed::{
    Publication, PublishOutcome, Refusal, Row, State, Store, StoreFailure, Withdrawal,
};
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

impl Rows {
    fn expire(&mut self, now: Timestamp, limit: usize) -> usize {
        let over = |row: &&Row| row.state == State::Live && !row.is_live(now);
        let over: Vec<Row> = self.by_id.values().filter(over).take(limit).cloned().collect();
        let count = over.len();
        for row in over {
            let revision = self.next_revision();
            self.put(rules::expire(row, revision));
        }
        count
    }

    fn live(&self) -> impl Iterator<Item = (&Row, Place)> {
        let live = self.by_id.values().filter(|row| row.state == State::Live);
        live.map(|row| (row, Place::of(&row.observed_address)))
    }

    /// As [`super::room::make`] does it.
    fn make_room(
        &mut self,
        from: &Place,
        bounds: &Bounds,
        is_known: bool,
        now: Timestamp,
    ) -> Result<(), NoRoom> {
        if self.live().count() >= bounds.total {
            self.expire(now, usize::MAX);
        }
        let mut networks: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
        let mut crowd = Crowd { total: self.live().count(), ..Crowd::default() };
        for (row, place) in self.live() {
            let counted = from.address.is_some() && place.address == from.address;
            crowd.from_address += usize::from(counted && row.is_live(now));
            crowd.from_network += usize::from(place.network == from.network);
            networks.entry(place.network).or_default().push(row);
        }
        crowd.known_from_address = self
            .by_id
            .values()
            .filter(|row| {
                from.address.is_some() && Place::of(&row.observed_address).address == from.address
            })
            .count();
        let most = networks.values().max_by_key(|rows| rows.len());
        crowd.from_most_crowded = most.map_or(0, Vec::len);
        let youngest = most.and_then(|rows| rows.iter().max_by_key(|row| row.created_at));
        let youngest = youngest.map(|row| (*row).clone());
        if crowd::admit(&crowd, bounds, is_known)? == Room::OfTheMostCrowded
            && let Some(youngest) = youngest
        {
            let revision = self.next_revision();
            self.put(rules::expire(youngest, revision));
        }
        Ok(())
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
        bounds: Bounds,
    ) -> Result<PublishOutcome, StoreFailure> {
        let (at, from) = (publication.at, Place::of(&publication.observed_address));
        let mut rows = self.rows();
        let revision = rows.next_revision();
        let existing = rows.by_id.get(&publication.provider_id).cloned();
        let row = match rules::publish(existing.as_ref(), publication, revision) {
            Ok(row) => row,
            Err(refusal) => return Ok(PublishOutcome::Refused(refusal)),
        };
        if !existing.as_ref().is_some_and(|row| row.is_live(at))
            && let Err(reason) = rows.make_room(&from, &bounds, existing.is_some(), at)
        {
            return Ok(PublishOutcome::Refused(Refusal::NoRoom(reason)));
        }
        rows.put(row.clone());
        Ok(PublishOutcome::Stored(row))
    }

    async fn withdraw(&self, withdrawal: Withdrawal) -> Result<Option<u64>, StoreFailure> {
        let mut rows = self.rows();
        let revision = rows.next_revision();
        let existing = rows.by_id.get(&withdrawal.provider_id);
        let gone = rules::withdraw(existing, &withdrawal, revision);
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
        Ok(self.rows().expire(now, limit))
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
