//! The SQL of VMs and their ports, and the ledger that follows from them.

use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Owner, SshPublicKey, ValidKeyChange};
use golem_vm_protocol::{ErrorCode, VmId, VmRef};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::columns::{VM_COLUMNS, VM_FROM, signed, vm};
use super::{ProviderStore, operations};
use crate::capacity::Amount;
use crate::vm::admission::{Admission, Bounds, NewVm, RepeatedRequest};
use crate::vm::record::OwnerColumn;
use crate::vm::repository::VmRepository;
use crate::vm::{OperationRecord, VmError, VmRecord, VmState, keys};

/// How long a VM that failed can be asked about.
const FAILED_KEPT: Duration = Duration::from_secs(3600);
/// How long a request that is repeated finds its operation (and so its VM).
const OPERATIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

#[async_trait]
impl VmRepository for ProviderStore {
    async fn repeated(&self, request: RepeatedRequest) -> Result<Option<OperationRecord>, VmError> {
        self.store.read("vm.repeated", move |db| operations::repeated(db, &request)).await
    }

    async fn admit(&self, new: NewVm, bounds: Bounds) -> Result<Admission, VmError> {
        self.store.write("vm.admit", move |db| admit(db, new, &bounds)).await
    }

    async fn find(&self, owner: Owner, vm_ref: VmRef) -> Result<Option<VmRecord>, VmError> {
        self.store.read("vm.find", move |db| find(db, owner, &vm_ref)).await
    }

    async fn get(&self, id: VmId) -> Result<Option<VmRecord>, VmError> {
        self.store.read("vm.get", move |db| get(db, id)).await
    }

    async fn list(&self, owner: Owner) -> Result<Vec<VmRecord>, VmError> {
        self.store
            .read("vm.list", move |db| {
                select(
                    db,
                    "vm.state <> 'failed' AND vm.owner = ?1",
                    &[&OwnerColumn(owner).to_string()],
                )
            })
            .await
    }

    async fn all(&self) -> Result<Vec<VmRecord>, VmError> {
        self.store.read("vm.all", |db| select(db, "vm.state <> 'failed'", &[])).await
    }

    async fn set_state(&self, id: VmId, state: VmState) -> Result<VmRecord, VmError> {
        let now = self.now();
        self.store
            .write("vm.set_state", move |db| {
                set_state(db, id, &state, now)?;
                expect(db, id)
            })
            .await
    }

    async fn set_quarantined(&self, id: VmId, quarantined: bool) -> Result<VmRecord, VmError> {
        let now = self.now();
        self.store
            .write("vm.set_quarantined", move |db| {
                // The first time counts.
                db.execute(
                    "UPDATE vm SET quarantined_at = iif(?2, coalesce(quarantined_at, ?3), NULL) WHERE id = ?1",
                    params![id.to_string(), quarantined, now.unix_micros()],
                )?;
                expect(db, id)
            })
            .await
    }

    async fn set_phase(&self, id: VmId, phase: &'static str) -> Result<(), VmError> {
        let now = self.now();
        self.store.write("vm.set_phase", move |db| operations::set_phase(db, id, phase, now)).await
    }

    async fn created(&self, id: VmId) -> Result<VmRecord, VmError> {
        let now = self.now();
        self.store
            .write("vm.created", move |db| {
                set_state(db, id, &VmState::Running, now)?;
                operations::ready(db, id, now)?;
                expect(db, id)
            })
            .await
    }

    async fn creation_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
    ) -> Result<(), VmError> {
        let now = self.now();
        self.store
            .write("vm.creation_failed", move |db| {
                operations::failed(db, id, code, &message, now)?;
                set_state(db, id, &VmState::Destroying, now)
            })
            .await
    }

    async fn release_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
    ) -> Result<(), VmError> {
        let now = self.now();
        self.store
            .write("vm.release_failed", move |db| {
                operations::failed(db, id, code, &message, now)?;
                db.execute("DELETE FROM port WHERE vm = ?1", params![id.to_string()])?;
                // Its keys open nothing any more.
                db.execute(
                    "UPDATE vm SET host_key_private = '' WHERE id = ?1",
                    params![id.to_string()],
                )?;
                set_state(db, id, &VmState::Failed { code, message }, now)
            })
            .await
    }

    async fn change_keys(
        &self,
        owner: Owner,
        vm: VmRef,
        change: ValidKeyChange,
    ) -> Result<VmRecord, VmError> {
        self.store
            .write("vm.change_keys", move |db| {
                let found = find(db, owner, &vm)?.filter(|record| {
                    !matches!(record.state, VmState::Failed { .. } | VmState::Destroying)
                });
                let record = found.ok_or_else(|| VmError::NotFound(vm.as_str().to_owned()))?;
                let keys = keys::changed(&record.authorized_keys, &change)?;
                if keys == record.authorized_keys {
                    return Ok(record);
                }
                db.execute(
                    "UPDATE vm SET authorized_keys = ?2, keys_pending = 1 WHERE id = ?1",
                    params![record.id.to_string(), keys_text(&keys)?],
                )?;
                expect(db, record.id)
            })
            .await
    }

    async fn keys_applied(&self, id: VmId, keys: Vec<SshPublicKey>) -> Result<VmRecord, VmError> {
        self.store
            .write("vm.keys_applied", move |db| {
                db.execute(
                    "UPDATE vm SET keys_pending = 0 WHERE id = ?1 AND authorized_keys = ?2",
                    params![id.to_string(), keys_text(&keys)?],
                )?;
                expect(db, id)
            })
            .await
    }

    async fn remove(&self, id: VmId) -> Result<(), VmError> {
        self.store
            .write("vm.remove", move |db| {
                db.execute("DELETE FROM vm WHERE id = ?1", params![id.to_string()])?;
                Ok(())
            })
            .await
    }

    async fn operation(
        &self,
        owner: Owner,
        id: String,
    ) -> Result<Option<OperationRecord>, VmError> {
        self.store.read("vm.operation", move |db| operations::find(db, owner, &id)).await
    }

    async fn reserved(&self) -> Result<Amount, VmError> {
        self.store.read("vm.reserved", |db| Ok(reserved(db)?.0)).await
    }

    async fn forget_old(&self) -> Result<(), VmError> {
        let now = self.now();
        let before = move |age: Duration| {
            now.unix_micros() - i64::try_from(age.as_micros()).unwrap_or(i64::MAX)
        };
        self.store
            .write("vm.forget_old", move |db| {
                db.execute(
                    "DELETE FROM vm WHERE state = 'failed' AND updated_at < ?1",
                    params![before(FAILED_KEPT)],
                )?;
                db.execute(
                    "DELETE FROM operation WHERE created_at < ?1 AND status <> 'creating'",
                    params![before(OPERATIONS_KEPT)],
                )?;
                Ok(())
            })
            .await
    }
}

fn admit(db: &Connection, new: NewVm, bounds: &Bounds) -> Result<Admission, VmError> {
    let mut record = new.record;
    let request =
        new.idempotency.map(|idempotency| RepeatedRequest { owner: record.owner, idempotency });
    if let Some(request) = &request
        && let Some(operation) = operations::repeated(db, request)?
    {
        return Ok(Admission::Repeated(operation));
    }
    let owner = OwnerColumn(record.owner).to_string();
    let taken: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM vm WHERE owner = ?1 AND name = ?2 AND state <> 'failed')",
        params![owner, record.name.as_str()],
        |row| row.get(0),
    )?;
    if taken {
        return Err(VmError::NameTaken(record.name.to_string()));
    }
    let (reserved, count) = reserved(db)?;
    if count >= bounds.max_vms {
        return Err(VmError::InsufficientCapacity(format!(
            "it rents out at most {} VMs at a time, and {count} are rented",
            bounds.max_vms
        )));
    }
    if let Some(most) = bounds.max_vms_per_requestor {
        let own: u32 = db.query_row(
            "SELECT count(*) FROM vm WHERE owner = ?1 AND state <> 'failed'",
            params![owner],
            |row| row.get(0),
        )?;
        if own >= most {
            return Err(VmError::InsufficientCapacity(format!(
                "one requestor may have {most} VMs at a time here, and you have {own}"
            )));
        }
    }
    let free = bounds.offered.less(reserved);
    if let Some(shortfall) = free.shortfall(record.terms.resources.into()) {
        return Err(VmError::InsufficientCapacity(shortfall));
    }
    record.ssh_port = free_port(db, &bounds.ports)?.ok_or(VmError::PortsExhausted)?;

    // One that failed under this name makes room for the new one in every look-up.
    db.execute(
        "DELETE FROM vm WHERE owner = ?1 AND name = ?2 AND state = 'failed'",
        params![owner, record.name.as_str()],
    )?;
    insert(db, &record)?;
    operations::begin(db, &record, request.as_ref())?;
    Ok(Admission::Admitted(Box::new(record)))
}

fn keys_text(keys: &[SshPublicKey]) -> Result<String, VmError> {
    serde_json::to_string(keys)
        .map_err(|error| VmError::Internal(format!("keys can't be written: {error}")))
}

fn insert(db: &Connection, record: &VmRecord) -> Result<(), VmError> {
    let keys = keys_text(&record.authorized_keys)?;
    let terms = &record.terms;
    db.execute(
        "INSERT INTO vm (id, owner, name, state, cpu, memory_gb, storage_gb, image, image_digest, backend, \
         isolation, core_month, gb_ram_month, gb_storage_month, host_key_private, host_key, authorized_keys, \
         operation, created_at, updated_at, egress) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?19, ?20)",
        params![
            record.id.to_string(),
            OwnerColumn(record.owner).to_string(),
            record.name.as_str(),
            record.state.as_str(),
            terms.resources.cpu,
            terms.resources.memory,
            terms.resources.storage,
            terms.image,
            terms.image_digest.as_str(),
            terms.backend.as_str(),
            terms.isolation.to_string(),
            signed(terms.prices.core_month),
            signed(terms.prices.gb_ram_month),
            signed(terms.prices.gb_storage_month),
            record.host_key.private,
            record.host_key.public.as_str(),
            keys,
            record.operation,
            record.created_at.unix_micros(),
            terms.egress.as_str(),
        ],
    )?;
    db.execute(
        "INSERT INTO port (host_port, vm, guest_port, protocol, purpose) VALUES (?1, ?2, 22, 'tcp', 'ssh')",
        params![record.ssh_port, record.id.to_string()],
    )?;
    Ok(())
}

fn free_port(db: &Connection, usable: &[u16]) -> Result<Option<u16>, VmError> {
    let mut statement = db.prepare_cached("SELECT host_port FROM port")?;
    let taken: std::collections::HashSet<u16> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(usable.iter().copied().find(|port| !taken.contains(port)))
}

/// What is reserved, and by how many VMs.
fn reserved(db: &Connection) -> Result<(Amount, u32), VmError> {
    let row = db.query_row(
        "SELECT coalesce(sum(cpu), 0), coalesce(sum(memory_gb), 0), coalesce(sum(storage_gb), 0), count(*) \
         FROM vm WHERE state <> 'failed'",
        [],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, u32>(3)?)),
    )?;
    let positive = |number: i64| u64::try_from(number).unwrap_or_default();
    let amount = Amount {
        cpu_millis: positive(row.0) * 1000,
        memory_mib: positive(row.1) * 1024,
        storage_mib: positive(row.2) * 1024,
    };
    Ok((amount, row.3))
}

fn select(
    db: &Connection,
    condition: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<VmRecord>, VmError> {
    let sql = format!(
        "SELECT {VM_COLUMNS} FROM {VM_FROM} WHERE {condition} ORDER BY vm.created_at, vm.id"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(values, vm)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn find(db: &Connection, owner: Owner, vm_ref: &VmRef) -> Result<Option<VmRecord>, VmError> {
    let owner_text = OwnerColumn(owner).to_string();
    let (column, value) = match vm_ref {
        VmRef::Id(id, _) => ("vm.id", id.to_string()),
        VmRef::Name(name) => ("vm.name", name.to_string()),
    };
    // One that failed is found only where no other of that name is.
    let sql = format!(
        "SELECT {VM_COLUMNS} FROM {VM_FROM} WHERE vm.owner = ?1 AND {column} = ?2 \
         ORDER BY vm.state = 'failed', vm.created_at DESC LIMIT 1"
    );
    Ok(db.query_row(&sql, params![owner_text, value], vm).optional()?)
}

fn get(db: &Connection, id: VmId) -> Result<Option<VmRecord>, VmError> {
    let sql = format!("SELECT {VM_COLUMNS} FROM {VM_FROM} WHERE vm.id = ?1");
    Ok(db.query_row(&sql, params![id.to_string()], vm).optional()?)
}

fn expect(db: &Connection, id: VmId) -> Result<VmRecord, VmError> {
    get(db, id)?.ok_or_else(|| VmError::NotFound(id.to_string()))
}

fn set_state(db: &Connection, id: VmId, state: &VmState, now: Timestamp) -> Result<(), VmError> {
    let code = match state {
        VmState::Failed { code, .. } => Some(code.as_str()),
        _ => None,
    };
    db.execute(
        "UPDATE vm SET state = ?2, message = ?3, code = ?4, updated_at = ?5 WHERE id = ?1",
        params![id.to_string(), state.as_str(), state.message(), code, now.unix_micros()],
    )?;
    Ok(())
}
