//! Between columns and the domain's types. What does not read back is damage, and said as such.

use std::time::Duration;

use golem_vm_node::store::StoreError;
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Isolation, OperationStatus, SshPublicKey};
use golem_vm_protocol::{VmId, VmResources};
use rusqlite::Row;
use rusqlite::types::Type;

use crate::backend::ImageDigest;
use crate::steady::SteadyTime;
use crate::vm::host_key::HostKey;
use crate::vm::lease::{Lease, LeaseGrant};
use crate::vm::record::{OwnerColumn, RunsWith, Terms, UserData};
use crate::vm::state::AfterStop;
use crate::vm::{OperationRecord, VmError, VmRecord, VmState};

/// The columns that [`vm`] reads, in its order; needs `vm` and `port` joined.
pub(super) const VM_COLUMNS: &str = "vm.id, vm.owner, vm.name, vm.state, vm.message, vm.code, vm.cpu, \
    vm.memory_gb, vm.storage_gb, vm.image, vm.image_digest, vm.backend, vm.isolation, vm.core_month, \
    vm.gb_ram_month, vm.gb_storage_month, vm.host_key_private, vm.host_key, vm.authorized_keys, \
    vm.operation, vm.created_at, vm.updated_at, coalesce(port.host_port, 0), vm.egress, vm.quarantined_at, \
    vm.keys_pending, vm.lease_seconds, vm.lease_expires, vm.lease_warned, vm.on_expiry, vm.grace_seconds, \
    vm.idle_seconds, vm.next, vm.retained_since, vm.retained_until, vm.accel, vm.work, vm.work_snapshot, \
    vm.suspend_gb, vm.runs_cpu, vm.runs_memory_gb, vm.resize_pending, vm.user_data, vm.clone_of";

/// `vm` with the port of its SSH.
pub(super) const VM_FROM: &str = "vm LEFT JOIN port ON port.vm = vm.id AND port.purpose = 'ssh'";

/// The columns that [`operation`] reads, in its order.
pub(super) const OPERATION_COLUMNS: &str =
    "id, vm, vm_public_id, status, phase, code, message, created_at, updated_at";

pub(super) fn damaged(column: usize, what: impl std::fmt::Display) -> rusqlite::Error {
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_string());
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error: T::Err| damaged(column, error))
}

pub(super) fn code_from(text: Option<String>) -> ErrorCode {
    text.and_then(|text| serde_json::from_value(serde_json::Value::String(text)).ok())
        .unwrap_or(ErrorCode::Unknown)
}

pub(super) fn vm(row: &Row<'_>) -> rusqlite::Result<VmRecord> {
    let message: Option<String> = row.get(4)?;
    let state: String = row.get(3)?;
    let work: Option<String> = row.get(36)?;
    let state = match state.as_str() {
        "creating" => VmState::Creating,
        "starting" => VmState::Starting,
        "running" => VmState::Running,
        "stopping" if work.as_deref() == Some("suspending") => VmState::Suspending,
        "stopping" if work.as_deref() == Some("restoring") => {
            let run = row.get::<_, Option<String>>(32)?.as_deref() == Some("started");
            VmState::Stopping { next: AfterStop::Restored { snapshot: parsed(row, 37)?, run } }
        }
        "stopping" => {
            let next = match row.get::<_, Option<String>>(32)?.as_deref() {
                Some("started") => AfterStop::Started,
                Some("retained") => AfterStop::Retained { reason: message.unwrap_or_default() },
                _ => AfterStop::Stopped { reason: message },
            };
            VmState::Stopping { next }
        }
        "stopped" => match (moment(row, 33)?, moment(row, 34)?) {
            (Some(since), Some(until)) => {
                VmState::Retained { since, until, reason: message.unwrap_or_default() }
            }
            _ if work.as_deref() == Some("suspended") => VmState::Suspended,
            _ => VmState::Stopped { reason: message },
        },
        "destroying" => VmState::Destroying,
        "error" => VmState::Error { message: message.unwrap_or_default() },
        "failed" => {
            let message = message.unwrap_or_default();
            VmState::Failed { code: code_from(row.get(5)?), message }
        }
        other => return Err(damaged(3, format!("unknown state '{other}'"))),
    };
    let keys: String = row.get(18)?;
    let authorized_keys: Vec<SshPublicKey> =
        serde_json::from_str(&keys).map_err(|e| damaged(18, e))?;
    Ok(VmRecord {
        id: parsed::<VmId>(row, 0)?,
        owner: parsed::<OwnerColumn>(row, 1)?.0,
        name: parsed(row, 2)?,
        state,
        terms: Terms {
            resources: VmResources { cpu: row.get(6)?, memory: row.get(7)?, storage: row.get(8)? },
            image: row.get(9)?,
            image_digest: ImageDigest::new(row.get::<_, String>(10)?),
            backend: parsed(row, 11)?,
            isolation: parsed::<Isolation>(row, 12)?,
            accel: row.get(35)?,
            egress: parsed(row, 23)?,
            prices: Prices {
                core_month: unsigned(row, 13)?,
                gb_ram_month: unsigned(row, 14)?,
                gb_storage_month: unsigned(row, 15)?,
            },
        },
        host_key: HostKey { private: row.get(16)?, public: parsed(row, 17)? },
        authorized_keys,
        keys_pending: row.get(25)?,
        lease: lease(row)?,
        operation: row.get(19)?,
        created_at: Timestamp::from_unix_micros(row.get(20)?),
        updated_at: Timestamp::from_unix_micros(row.get(21)?),
        ssh_port: row.get(22)?,
        quarantined_at: row.get::<_, Option<i64>>(24)?.map(Timestamp::from_unix_micros),
        suspend_gb: row.get(38)?,
        runs_with: match (row.get(39)?, row.get(40)?) {
            (Some(cpu), Some(memory)) => Some(RunsWith { cpu, memory }),
            _ => None,
        },
        resize_pending: row.get(41)?,
        user_data: row.get::<_, Option<String>>(42)?.map(UserData),
        clone_of: row
            .get::<_, Option<String>>(43)?
            .map(|text| text.parse().map_err(|error| damaged(43, error)))
            .transpose()?,
    })
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Lease> {
    let span = |column: usize| {
        let seconds: Option<i64> = row.get(column)?;
        let span = seconds.map(u64::try_from).transpose().map(|s| s.map(Duration::from_secs));
        span.map_err(|error| damaged(column, error))
    };
    Ok(Lease {
        grant: LeaseGrant {
            duration: span(26)?,
            on_expiry: parsed(row, 29)?,
            grace: span(30)?.unwrap_or_default(),
            stop_when_idle: span(31)?,
        },
        expires: moment(row, 27)?,
        warned: row.get(28)?,
    })
}

fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<SteadyTime>> {
    let micros: Option<i64> = row.get(column)?;
    micros
        .map(u64::try_from)
        .transpose()
        .map(|micros| micros.map(SteadyTime::from_micros))
        .map_err(|error| damaged(column, error))
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|error| damaged(column, error))
}

/// For a column of SQLite, which has no unsigned numbers.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn operation(row: &Row<'_>) -> rusqlite::Result<OperationRecord> {
    let status: String = row.get(3)?;
    let status = match status.as_str() {
        "creating" => OperationStatus::Creating,
        "ready" => OperationStatus::Ready,
        "failed" => OperationStatus::Failed,
        other => return Err(damaged(3, format!("unknown status '{other}'"))),
    };
    let message: Option<String> = row.get(6)?;
    let code: Option<String> = row.get(5)?;
    Ok(OperationRecord {
        id: row.get(0)?,
        vm: parsed::<VmId>(row, 1)?,
        vm_public_id: row.get(2)?,
        status,
        phase: row.get(4)?,
        failure: message.map(|message| (code_from(code), message)),
        created_at: Timestamp::from_unix_micros(row.get(7)?),
        updated_at: Timestamp::from_unix_micros(row.get(8)?),
    })
}

impl From<rusqlite::Error> for VmError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(StoreError::from(error))
    }
}
