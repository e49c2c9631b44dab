//! What a machine is to be, from what an instance is to be: pure.

use std::path::Path;

use golem_vm_machine::hardware::{DiskSpeed, Format, Size};
use golem_vm_machine::image::Image;
use golem_vm_machine::network::{Access, Addressing};
use golem_vm_machine::seed::{HostKey, Identity, MachineId, USER};
use golem_vm_machine::vm::{Base, MachineName, MachineSpec, Network};
use golem_vm_protocol::VmId;
use sha2::{Digest as _, Sha256};

use crate::backend::{BackendError, Egress, InstanceId, InstanceSpec, Limits};

/// How fast a machine's disk may be: as much as four ordinary hard disks, so that none takes all of the host's.
const DISK_SPEED: DiskSpeed = DiskSpeed { bytes: 400 << 20, requests: 8000 };

/// What the machine of an instance is called.
pub(super) fn name(id: InstanceId) -> Result<MachineName, BackendError> {
    id.to_string().parse().map_err(|_| BackendError::NoInstance(id))
}

/// How big a machine with these limits is.
pub(super) fn size(limits: &Limits) -> Size {
    Size { vcpus: limits.cpu_millis.div_ceil(1000).max(1), memory_mib: limits.memory_mib }
}

/// Bytes of the host's disk that a machine may take: its disk, and its memory when it is suspended.
pub(super) const fn promise(machine: &MachineSpec) -> u64 {
    machine.disk_bytes + (machine.size.memory_mib << 20)
}

/// A number that is the VM's own, and the same for ever.
fn number(vm: VmId) -> [u8; 16] {
    let digest: [u8; 32] =
        Sha256::new_with_prefix(format!("golem machine 1\n{vm}")).finalize().into();
    let mut number = [0; 16];
    number.copy_from_slice(&digest[..16]);
    number
}

/// The image's disk, below machines'.
pub(super) fn base(image: &Image) -> Base {
    Base {
        directory: image.disk.parent().unwrap_or(Path::new("/")).to_owned(),
        file: image.disk.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        format: Format::Qcow2,
    }
}

/// What the instance's machine is to be.
pub(super) fn machine(spec: &InstanceSpec, image: &Image) -> Result<MachineSpec, BackendError> {
    let disk_bytes = spec.limits.storage_mib << 20;
    if disk_bytes < image.virtual_size {
        return Err(BackendError::Failed(format!(
            "the image {} needs a disk of {} MiB, and {} MiB are wanted",
            image.name,
            image.virtual_size.div_ceil(1 << 20),
            spec.limits.storage_mib
        )));
    }
    let machine_id = MachineId::from_bytes(number(spec.id.vm()));
    let addressing = Addressing::of(&number(spec.id.vm()));
    let access = spec.access.as_ref();
    let identity = Identity {
        instance_id: spec.id.to_string(),
        hostname: spec.hostname.to_string(),
        machine_id: machine_id.clone(),
        host_key: HostKey {
            private: access.map(|access| access.host_key_private.clone()).unwrap_or_default(),
            public: access.map(|access| access.host_key.as_str().to_owned()).unwrap_or_default(),
        },
        user: USER.to_owned(),
        authorized_keys: access
            .map(|access| {
                access.authorized_keys.iter().map(|key| key.as_str().to_owned()).collect()
            })
            .unwrap_or_default(),
        network: addressing.clone(),
    };
    Ok(MachineSpec {
        name: name(spec.id)?,
        uuid: machine_id.uuid(),
        size: size(&spec.limits),
        cpu_millis: spec.limits.cpu_millis,
        disk_bytes,
        speed: Some(DISK_SPEED),
        base: vec![base(image)],
        identity,
        user_data: spec.user_data.clone(),
        has_agent: image.has_agent,
        network: Some(Network {
            addressing,
            access: match spec.confinement.egress {
                Egress::Internet => Access::Internet,
                Egress::None => Access::SshOnly,
            },
        }),
        direct: None,
    })
}
