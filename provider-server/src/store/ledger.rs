//! The SQL of what is promised: admitting VMs, and the sums over them. Nothing is counted twice: what
//! is reserved is what the rows say, in the same transaction.

use golem_vm_protocol::vm::{Actor, Cause, Owner};
use rusqlite::{Connection, params};

use super::{Moment, changes, operations, vms};
use crate::capacity::Amount;
use crate::vm::VmError;
use crate::vm::admission::{Admission, Bounds, NewVm, RepeatedRequest};
use crate::vm::history::Reason;
use crate::vm::record::OwnerColumn;

pub(super) fn admit(
    db: &Connection,
    new: NewVm,
    bounds: &Bounds,
    moment: Moment,
) -> Result<Admission, VmError> {
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
        let own = count_of(db, record.owner)?;
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
    if bounds.ports.is_empty() {
        return Err(VmError::NoUsablePort);
    }
    record.ssh_port = free_port(db, &bounds.ports)?.ok_or(VmError::PortsExhausted)?;

    // One that failed under this name makes room for the new one in every look-up.
    db.execute(
        "DELETE FROM vm WHERE owner = ?1 AND name = ?2 AND state = 'failed'",
        params![owner, record.name.as_str()],
    )?;
    vms::insert(db, &record)?;
    operations::begin(db, &record, request.as_ref())?;
    changes::begin(db, record.id, &Reason::new(Actor::Requestor, Cause::Requested), moment)?;
    Ok(Admission::Admitted(Box::new(record)))
}

fn count_of(db: &Connection, owner: Owner) -> Result<u32, VmError> {
    let count = db.query_row(
        "SELECT count(*) FROM vm WHERE owner = ?1 AND state <> 'failed'",
        params![OwnerColumn(owner).to_string()],
        |row| row.get(0),
    )?;
    Ok(count)
}

fn free_port(db: &Connection, usable: &[u16]) -> Result<Option<u16>, VmError> {
    let mut statement = db.prepare_cached("SELECT host_port FROM port")?;
    let taken: std::collections::HashSet<u16> =
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(usable.iter().copied().find(|port| !taken.contains(port)))
}

/// What is reserved, and by how many VMs. One that is only kept has its disk, and neither vCPUs nor memory; its
/// disk is also that of its snapshots and of its memory, where that is kept; and what runs with more than it has by
/// now has it until it is down.
pub(super) fn reserved(db: &Connection) -> Result<(Amount, u32), VmError> {
    let row = db.query_row(
        "SELECT coalesce(sum(iif(retained_until IS NULL, max(cpu, coalesce(runs_cpu, 0)), 0)), 0), \
         coalesce(sum(iif(retained_until IS NULL, max(memory_gb, coalesce(runs_memory_gb, 0)), 0)), 0), \
         coalesce(sum(storage_gb + suspend_gb + \
         (SELECT coalesce(sum(reserved_gb), 0) FROM snapshot WHERE snapshot.vm = vm.id)), 0), count(*) \
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

/// Whether so much more can be promised.
pub(super) fn check_room(db: &Connection, more: Amount, offered: Amount) -> Result<(), VmError> {
    let free = offered.less(reserved(db)?.0);
    free.shortfall(more).map_or(Ok(()), |short| Err(VmError::InsufficientCapacity(short)))
}

/// Whether there is room for a VM that is only kept to be had back: vCPUs and memory, since it has its
/// disk.
pub(super) fn check_room_for_return(
    db: &Connection,
    wanted: Amount,
    offered: Amount,
) -> Result<(), VmError> {
    check_room(db, Amount { storage_mib: 0, ..wanted }, offered)
}
