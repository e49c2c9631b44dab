//! What is kept of a VM.

use std::fmt;
use std::str::FromStr;

use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Isolation, OperationStatus, Owner, SshPublicKey};
use golem_vm_protocol::{ErrorCode, KeyId, VmId, VmName, VmResources};

use super::VmState;
use super::host_key::HostKey;
use super::lease::Lease;
use crate::backend::{
    BackendKind, Confinement, Egress, ImageDigest, InstanceId, InstanceSpec, Limits, SshAccess,
};

/// Processes and threads that a VM may have for each vCPU it rents, and at least.
const PROCESSES_PER_CPU: u32 = 1024;
/// Open files that one process of a VM may have.
const OPEN_FILES: u64 = 65_536;
/// The user that every image has.
pub const SSH_USER: &str = "ubuntu";

/// Who owns a VM, as it stands in the database: a key's id, or `unsigned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerColumn(pub Owner);

const UNSIGNED: &str = "unsigned";

impl fmt::Display for OwnerColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Owner::Key(id) => id.fmt(f),
            Owner::Unsigned => f.write_str(UNSIGNED),
        }
    }
}

impl FromStr for OwnerColumn {
    type Err = golem_vm_protocol::identity::KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == UNSIGNED {
            return Ok(Self(Owner::Unsigned));
        }
        text.parse::<KeyId>().map(|id| Self(Owner::Key(id)))
    }
}

/// The terms of a VM: agreed when it was created, and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How big it is.
    pub resources: VmResources,
    /// The name of the image it was made from.
    pub image: String,
    /// That image's digest.
    pub image_digest: ImageDigest,
    /// Which backend made it.
    pub backend: BackendKind,
    /// How it is kept apart from the host.
    pub isolation: Isolation,
    /// What runs the processors of a virtual machine (`kvm`, `tcg`), where its backend said so.
    pub accel: Option<String>,
    /// Where its traffic may go.
    pub egress: Egress,
    /// What it costs.
    pub prices: Prices,
}

/// A requestor's own cloud-init. There may be passwords in it, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(pub String);

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

/// What an instance has until it boots next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunsWith {
    /// Virtual CPUs.
    pub cpu: u32,
    /// Memory in GiB.
    pub memory: u32,
}

/// A VM as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRecord {
    /// Its id.
    pub id: VmId,
    /// Whose it is.
    pub owner: Owner,
    /// The owner's name for it.
    pub name: VmName,
    /// Where it stands.
    pub state: VmState,
    /// What was agreed.
    pub terms: Terms,
    /// The port that leads to its sshd, for its whole life.
    pub ssh_port: u16,
    /// Its host key.
    pub host_key: HostKey,
    /// Who may log in.
    pub authorized_keys: Vec<SshPublicKey>,
    /// Whether the instance does not go by these keys yet.
    pub keys_pending: bool,
    /// For how long it is rented.
    pub lease: Lease,
    /// The operation that made it.
    pub operation: String,
    /// The VM with whose disk it begins, if it is a clone.
    pub clone_of: Option<VmId>,
    /// Its owner's own cloud-init; only until it was made.
    pub user_data: Option<UserData>,
    /// What it runs with until it boots next, where that is not its size any more.
    pub runs_with: Option<RunsWith>,
    /// Whether the instance may not have the VM's size yet.
    pub resize_pending: bool,
    /// Disk in GB that is reserved for its memory.
    pub suspend_gb: u32,
    /// Since when the provider's owner has cut it off from the network.
    pub quarantined_at: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

impl VmRecord {
    /// What its instance has as it runs now: CPU and memory of a new size come with the next boot.
    #[must_use]
    pub fn hardware(&self) -> VmResources {
        let size = self.terms.resources;
        match self.runs_with {
            Some(RunsWith { cpu, memory }) => VmResources { cpu, memory, ..size },
            None => size,
        }
    }

    /// The instance behind it.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        InstanceId::of(self.id)
    }

    /// What its owner calls it: unsigned owners know VMs by name only, as in the original.
    #[must_use]
    pub fn public_id(&self) -> String {
        match self.owner {
            Owner::Key(_) => self.id.to_string(),
            Owner::Unsigned => self.name.to_string(),
        }
    }

    /// What the backend has to know.
    #[must_use]
    pub fn instance_spec(&self) -> InstanceSpec {
        let size = self.terms.resources;
        InstanceSpec {
            id: self.instance(),
            hostname: self.name.clone(),
            image: self.terms.image_digest.clone(),
            limits: Limits {
                cpu_millis: size.cpu.saturating_mul(1000),
                memory_mib: u64::from(size.memory) * 1024,
                storage_mib: u64::from(size.storage) * 1024,
                processes: size.cpu.saturating_mul(PROCESSES_PER_CPU),
                open_files: OPEN_FILES,
            },
            confinement: Confinement { egress: self.terms.egress },
            access: Some(SshAccess {
                host_key_private: self.host_key.private.clone(),
                host_key: self.host_key.public.clone(),
                authorized_keys: self.authorized_keys.clone(),
            }),
            user_data: self.user_data.as_ref().map(|data| data.0.clone()),
        }
    }
}

/// An operation as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// Its id.
    pub id: String,
    /// The VM it is about.
    pub vm: VmId,
    /// What the owner calls that VM.
    pub vm_public_id: String,
    /// How far it is.
    pub status: OperationStatus,
    /// What it is doing, in words.
    pub phase: Option<String>,
    /// Why it failed: stable code and sentence.
    pub failure: Option<(ErrorCode, String)>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last got further.
    pub updated_at: Timestamp,
}
