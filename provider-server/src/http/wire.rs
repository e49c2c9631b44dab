//! From the domain's values to the wire's.

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{
    Operation, OperationAccepted, OperationStatus, SnapshotName, Vm, VmKeys, VmStatus,
};

use crate::rental::Rental;
use crate::vm::record::SSH_USER;
use crate::vm::{OperationRecord, VmError, VmRecord, VmState};

pub(super) fn vm(rental: &Rental, record: VmRecord) -> Vm {
    let status = record.state.status();
    let cut_off = record.quarantined_at.map(|since| {
        format!("the provider's owner has cut it off from the network (since {since})")
    });
    let capabilities = rental.vms.capabilities_of(&record);
    Vm {
        lease: Some(rental.lease_of(&record)),
        id: record.public_id(),
        status,
        resources: record.terms.resources,
        // Where it is inside this host is of no use to its owner.
        ip_address: None,
        ssh_port: (record.ssh_port != 0).then_some(record.ssh_port),
        created_at: record.created_at.naive(),
        updated_at: record.updated_at.naive(),
        error_message: record.state.message().map(str::to_owned).or(cut_off),
        image: Some(record.terms.image),
        image_digest: Some(record.terms.image_digest.to_string()),
        backend: Some(record.terms.backend.to_string()),
        isolation: Some(record.terms.isolation),
        accel: record.terms.accel,
        suspended: matches!(record.state, VmState::Suspended),
        abilities: capabilities.map(|now| now.abilities.clone()).unwrap_or_default(),
        egress: Some(record.terms.egress.as_str().to_owned()),
        prices: Some(record.terms.prices),
        host_key: Some(record.host_key.public),
        ssh_user: Some(SSH_USER.to_owned()),
        job_id: Some(record.operation),
        name: record.name,
    }
}

/// The name of a snapshot in a path: a text that is none is that of a snapshot that is not there.
pub(super) fn snapshot_name(record: &VmRecord, text: &str) -> Result<SnapshotName, VmError> {
    text.parse().map_err(|_| VmError::SnapshotNotFound {
        vm: record.name.to_string(),
        snapshot: printable(text, 40),
    })
}

pub(super) fn keys(record: VmRecord) -> VmKeys {
    VmKeys {
        vm_id: record.public_id(),
        applied: !record.keys_pending,
        keys: record.authorized_keys.into_iter().map(Into::into).collect(),
    }
}

pub(super) fn operation(record: OperationRecord) -> Operation {
    let (code, error) =
        record.failure.map_or((None, None), |(code, error)| (Some(code), Some(error)));
    Operation {
        job_id: record.id,
        vm_id: record.vm_public_id,
        status: record.status,
        phase: record.phase,
        error,
        code,
        created_at: record.created_at,
        updated_at: record.updated_at,
    }
}

pub(super) fn accepted(record: OperationRecord) -> OperationAccepted {
    let status = match record.status {
        OperationStatus::Creating | OperationStatus::Unknown => VmStatus::Creating,
        OperationStatus::Ready => VmStatus::Running,
        OperationStatus::Failed => VmStatus::Error,
    };
    OperationAccepted { job_id: record.id, vm_id: record.vm_public_id, status }
}
