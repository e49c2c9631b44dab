//! The SQL of suspending, other sizes and snapshots.

use async_trait::async_trait;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Actor, Cause, EventKind, MAX_SNAPSHOTS, SnapshotName};
use golem_vm_protocol::{VmId, VmResources};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::columns::{parsed, signed, unsigned};
use super::vms::expect;
use super::{ProviderStore, changes, ledger};
use crate::capacity::Amount;
use crate::vm::history::{Occurrence, Reason, Transition};
use crate::vm::life_repository::LifeRepository;
use crate::vm::snapshot::{SnapshotRecord, SnapshotStage, SnapshotWanted};
use crate::vm::{VmError, VmRecord, VmState};

const COLUMNS: &str =
    "name, stage, created_at, with_memory, cpu, memory_gb, storage_gb, bytes, idempotency_key";
/// Bytes in a GB, as the ledger counts them.
const GB: u64 = 1 << 30;

#[async_trait]
impl LifeRepository for ProviderStore {
    async fn suspending(
        &self,
        id: VmId,
        offered: Amount,
        reason: Reason,
    ) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.suspending", move |db| {
                let record = expect(db, id)?;
                let memory = record.hardware().memory;
                ledger::check_room(db, disk(memory - record.suspend_gb.min(memory)), offered)?;
                db.execute(
                    "UPDATE vm SET suspend_gb = ?2 WHERE id = ?1",
                    params![id.to_string(), memory],
                )?;
                changes::transition(db, id, &Transition { to: VmState::Suspending, reason }, moment)
            })
            .await
    }

    async fn resize(
        &self,
        id: VmId,
        size: VmResources,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.resize", move |db| {
                let record = expect(db, id)?;
                let (had, runs) = (record.terms.resources, record.hardware());
                if had == size {
                    return Ok(record);
                }
                if size.storage < had.storage {
                    let vm = record.name.to_string();
                    return Err(VmError::DiskCannotShrink { vm, has: had.storage });
                }
                // What it runs with is reserved already.
                let reserved = VmResources {
                    cpu: had.cpu.max(runs.cpu),
                    memory: had.memory.max(runs.memory),
                    storage: had.storage,
                };
                let more = Amount::from(size).less(reserved.into());
                ledger::check_room(db, more, offered)?;
                let up = !matches!(record.state, VmState::Stopped { .. });
                let as_ordered = (runs.cpu, runs.memory) == (size.cpu, size.memory);
                let runs = (up && !as_ordered).then_some(runs);
                db.execute(
                    "UPDATE vm SET cpu = ?2, memory_gb = ?3, storage_gb = ?4, runs_cpu = ?5, runs_memory_gb = ?6, \
                     resize_pending = 1 WHERE id = ?1",
                    params![
                        id.to_string(),
                        size.cpu,
                        size.memory,
                        size.storage,
                        runs.map(|runs| runs.cpu),
                        runs.map(|runs| runs.memory),
                    ],
                )?;
                let reason = Reason::new(Actor::Requestor, Cause::Requested).with(format!(
                    "it has {} now, not {}",
                    Amount::from(size).words(),
                    Amount::from(had).words()
                ));
                let resized = Occurrence { kind: EventKind::Resize, reason };
                changes::occurred(db, id, &resized, moment)?;
                expect(db, id)
            })
            .await
    }

    async fn resized(&self, id: VmId, size: VmResources) -> Result<VmRecord, VmError> {
        self.store
            .write("vm.resized", move |db| {
                db.execute(
                    "UPDATE vm SET resize_pending = 0 \
                     WHERE id = ?1 AND cpu = ?2 AND memory_gb = ?3 AND storage_gb = ?4",
                    params![id.to_string(), size.cpu, size.memory, size.storage],
                )?;
                expect(db, id)
            })
            .await
    }

    async fn snapshots(&self, id: VmId) -> Result<Vec<SnapshotRecord>, VmError> {
        self.store.read("vm.snapshots", move |db| all(db, id)).await
    }

    async fn snapshot_begun(
        &self,
        id: VmId,
        wanted: SnapshotWanted,
        with_memory: bool,
        offered: Amount,
    ) -> Result<SnapshotRecord, VmError> {
        let now = self.now();
        self.store
            .write("vm.snapshot_begun", move |db| {
                let record = expect(db, id)?;
                if let Some((found, key)) = find(db, id, &wanted.name)? {
                    let repeated = key.is_some() && key == wanted.key;
                    if repeated && found.stage != SnapshotStage::Removing {
                        return Ok(found);
                    }
                    let vm = record.name.to_string();
                    return Err(VmError::SnapshotExists { vm, snapshot: wanted.name });
                }
                if all(db, id)?.len() >= MAX_SNAPSHOTS {
                    return Err(VmError::TooManySnapshots(record.name.to_string()));
                }
                let runs = record.hardware();
                let memory = if with_memory { runs.memory } else { 0 };
                let most = runs.storage.saturating_add(memory);
                ledger::check_room(db, disk(most), offered)?;
                db.execute(
                    "INSERT INTO snapshot (vm, name, stage, created_at, with_memory, cpu, memory_gb, storage_gb, \
                     reserved_gb, idempotency_key) VALUES (?1, ?2, 'making', ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        id.to_string(),
                        wanted.name.as_str(),
                        now.unix_micros(),
                        with_memory,
                        runs.cpu,
                        runs.memory,
                        runs.storage,
                        most,
                        wanted.key,
                    ],
                )?;
                expect_snapshot(db, id, &wanted.name)
            })
            .await
    }

    async fn snapshot_made(
        &self,
        id: VmId,
        name: SnapshotName,
        bytes: Option<u64>,
        with_memory: bool,
    ) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.snapshot_made", move |db| {
                let takes = bytes.map(|bytes| signed(bytes.div_ceil(GB)));
                db.execute(
                    "UPDATE snapshot SET stage = 'ready', bytes = ?3, with_memory = ?5, \
                     reserved_gb = min(reserved_gb, coalesce(?4, reserved_gb)) WHERE vm = ?1 AND name = ?2",
                    params![id.to_string(), name.as_str(), bytes.map(signed), takes, with_memory],
                )?;
                let reason = Reason::new(Actor::Requestor, Cause::SnapshotMade).with(name.as_str());
                changes::occurred(db, id, &about_a_snapshot(reason), moment)
            })
            .await
    }

    async fn snapshot_going(&self, id: VmId, name: SnapshotName) -> Result<(), VmError> {
        self.store
            .write("vm.snapshot_going", move |db| {
                expect_snapshot(db, id, &name)?;
                db.execute(
                    "UPDATE snapshot SET stage = 'removing' WHERE vm = ?1 AND name = ?2",
                    params![id.to_string(), name.as_str()],
                )?;
                Ok(())
            })
            .await
    }

    async fn snapshot_gone(
        &self,
        id: VmId,
        name: SnapshotName,
        reason: Option<Reason>,
    ) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.snapshot_gone", move |db| {
                let was_there = db.execute(
                    "DELETE FROM snapshot WHERE vm = ?1 AND name = ?2",
                    params![id.to_string(), name.as_str()],
                )?;
                match reason.filter(|_| was_there > 0) {
                    Some(reason) => changes::occurred(
                        db,
                        id,
                        &about_a_snapshot(reason.with(name.as_str())),
                        moment,
                    ),
                    None => Ok(()),
                }
            })
            .await
    }

    async fn restored(
        &self,
        id: VmId,
        name: SnapshotName,
        to: VmState,
    ) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.restored", move |db| {
                let snapshot = find(db, id, &name)?.map(|(snapshot, _)| snapshot);
                let reason =
                    Reason::new(Actor::Requestor, Cause::SnapshotRestored).with(name.as_str());
                changes::occurred(db, id, &about_a_snapshot(reason), moment)?;
                // Its memory is as large as that of the snapshot, until it goes on from there.
                let memory = snapshot.filter(|it| it.with_memory).map(|it| it.resources.memory);
                db.execute(
                    "UPDATE vm SET keys_pending = 1, suspend_gb = ?2 WHERE id = ?1",
                    params![id.to_string(), memory.unwrap_or(0)],
                )?;
                let reason = Reason::own(Cause::Completed);
                changes::transition(db, id, &Transition { to, reason }, moment)
            })
            .await
    }
}

fn disk(gb: u32) -> Amount {
    Amount { storage_mib: u64::from(gb) * 1024, ..Amount::default() }
}

fn about_a_snapshot(reason: Reason) -> Occurrence {
    Occurrence { kind: EventKind::Snapshot, reason }
}

fn snapshot(row: &Row<'_>) -> rusqlite::Result<SnapshotRecord> {
    Ok(SnapshotRecord {
        name: parsed(row, 0)?,
        stage: parsed(row, 1)?,
        created_at: Timestamp::from_unix_micros(row.get(2)?),
        with_memory: row.get(3)?,
        resources: VmResources { cpu: row.get(4)?, memory: row.get(5)?, storage: row.get(6)? },
        bytes: row.get::<_, Option<i64>>(7)?.map(|_| unsigned(row, 7)).transpose()?,
    })
}

fn all(db: &Connection, id: VmId) -> Result<Vec<SnapshotRecord>, VmError> {
    let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE vm = ?1 ORDER BY rowid");
    let mut statement = db.prepare_cached(&sql)?;
    let snapshots = statement.query_map([id.to_string()], snapshot)?.collect::<Result<_, _>>()?;
    Ok(snapshots)
}

/// The snapshot of that name, and the key of the request that made it.
fn find(
    db: &Connection,
    id: VmId,
    name: &SnapshotName,
) -> Result<Option<(SnapshotRecord, Option<String>)>, VmError> {
    let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE vm = ?1 AND name = ?2");
    let found = db.query_row(&sql, params![id.to_string(), name.as_str()], |row| {
        Ok((snapshot(row)?, row.get(8)?))
    });
    Ok(found.optional()?)
}

fn expect_snapshot(
    db: &Connection,
    id: VmId,
    name: &SnapshotName,
) -> Result<SnapshotRecord, VmError> {
    match find(db, id, name)? {
        Some((snapshot, _)) => Ok(snapshot),
        None => Err(VmError::SnapshotNotFound {
            vm: expect(db, id)?.name.to_string(),
            snapshot: name.to_string(),
        }),
    }
}
