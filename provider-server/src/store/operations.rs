//! The SQL of operations.

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::Owner;
use golem_vm_protocol::{ErrorCode, VmId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::columns::{OPERATION_COLUMNS, operation};
use crate::vm::admission::RepeatedRequest;
use crate::vm::record::{OwnerColumn, VmRecord};
use crate::vm::{OperationRecord, VmError};

pub(super) fn repeated(
    db: &Connection,
    request: &RepeatedRequest,
) -> Result<Option<OperationRecord>, VmError> {
    let sql = format!(
        "SELECT {OPERATION_COLUMNS}, fingerprint FROM operation WHERE owner = ?1 AND idempotency_key = ?2"
    );
    let found = db
        .query_row(
            &sql,
            params![OwnerColumn(request.owner).to_string(), request.idempotency.key],
            |row| Ok((operation(row)?, row.get::<_, String>(9)?)),
        )
        .optional()?;
    match found {
        Some((_, fingerprint)) if fingerprint != request.idempotency.fingerprint => {
            Err(VmError::IdempotencyMismatch)
        }
        found => Ok(found.map(|(operation, _)| operation)),
    }
}

pub(super) fn begin(
    db: &Connection,
    record: &VmRecord,
    request: Option<&RepeatedRequest>,
) -> Result<(), VmError> {
    db.execute(
        "INSERT INTO operation (id, vm, vm_public_id, owner, idempotency_key, fingerprint, status, phase, \
         created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'creating', 'accepted', ?7, ?7)",
        params![
            record.operation,
            record.id.to_string(),
            record.public_id(),
            OwnerColumn(record.owner).to_string(),
            request.map(|r| &r.idempotency.key),
            request.map(|r| &r.idempotency.fingerprint),
            record.created_at.unix_micros(),
        ],
    )?;
    Ok(())
}

pub(super) fn find(
    db: &Connection,
    owner: Owner,
    id: &str,
) -> Result<Option<OperationRecord>, VmError> {
    let sql = format!("SELECT {OPERATION_COLUMNS} FROM operation WHERE id = ?1 AND owner = ?2");
    Ok(db.query_row(&sql, params![id, OwnerColumn(owner).to_string()], operation).optional()?)
}

pub(super) fn set_phase(
    db: &Connection,
    vm: VmId,
    phase: &str,
    now: Timestamp,
) -> Result<(), VmError> {
    db.execute(
        "UPDATE operation SET phase = ?2, updated_at = ?3 WHERE vm = ?1 AND status = 'creating'",
        params![vm.to_string(), phase, now.unix_micros()],
    )?;
    Ok(())
}

pub(super) fn ready(db: &Connection, vm: VmId, now: Timestamp) -> Result<(), VmError> {
    db.execute(
        "UPDATE operation SET status = 'ready', phase = NULL, updated_at = ?2 \
         WHERE vm = ?1 AND status = 'creating'",
        params![vm.to_string(), now.unix_micros()],
    )?;
    Ok(())
}

pub(super) fn failed(
    db: &Connection,
    vm: VmId,
    code: ErrorCode,
    message: &str,
    now: Timestamp,
) -> Result<(), VmError> {
    db.execute(
        "UPDATE operation SET status = 'failed', phase = NULL, code = ?2, message = ?3, updated_at = ?4 \
         WHERE vm = ?1 AND status = 'creating'",
        params![vm.to_string(), code.as_str(), message, now.unix_micros()],
    )?;
    Ok(())
}
