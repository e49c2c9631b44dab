//! Rented VMs: what they are called, how big they can be, and what is said about them.

mod ability;
mod console;
mod event;
mod event_stream;
mod frames;
mod id;
mod image_name;
mod keys;
mod lease;
mod life;
mod messages;
mod resources;
mod ssh_key;
mod words;

pub use ability::Ability;
pub use console::{
    Bytes, ConsoleInput, ConsoleLog, ConsoleOutput, ConsoleReader, ConsoleTaken, MAX_CONSOLE_CHUNK,
    MAX_CONSOLE_INPUT, MAX_CONSOLE_LOG, console_frame,
};
pub use event::{Actor, Cause, EventKind, StreamedEvent, VmEvent, VmEvents, VmStage};
pub use event_stream::{
    KEEP_ALIVE, MAX_STREAM_LINE, StreamError, StreamReader, event_number, stream_frame,
};
pub use id::{VM_NAME_RULE, VmId, VmIdError, VmName, VmNameError, VmRef};
pub use image_name::canonical_image;
pub use keys::{ChangeVmKeys, MAX_SSH_KEYS, ValidKeyChange, VmKey, VmKeys};
pub use lease::{
    ExtendLease, Lease, LeaseRequest, LeaseTerms, MAX_IDLE_SECONDS, MAX_LEASE_SECONDS,
    MIN_IDLE_SECONDS, MIN_LEASE_SECONDS, OnExpiry, UndeleteVm,
};
pub use life::{
    CloneVm, CreateSnapshot, MAX_SNAPSHOTS, ResizeVm, SNAPSHOT_NAME_RULE, SnapshotName,
    SnapshotNameError, ValidClone, VmSnapshot, VmSnapshots,
};
pub use messages::{
    AcceptedOffer, CreateVmRequest, MAX_CLOUD_INIT_BYTES, Operation, OperationAccepted,
    OperationStatus, Owner, ValidCreate, Vm, VmAccess, VmAccessPending, VmStats, VmStatus,
};
pub use resources::{CPU_SIZES, MEMORY_SIZES_GB, MIN_STORAGE_GB, VmResources, VmSize};
pub use ssh_key::{RSA_GOOD_BITS, RSA_MIN_BITS, SshKeyError, SshPublicKey};

/// How a VM is kept apart from its host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A container: it shares the host's kernel.
    Container,
    /// A virtual machine: it has a kernel of its own.
    Vm,
    /// A word that this version does not know: the other side is newer.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Vm => "vm",
            Self::Unknown => "unknown",
        })
    }
}

impl std::str::FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "container" => Ok(Self::Container),
            "vm" => Ok(Self::Vm),
            _ => Err("isolation is 'container' or 'vm'".to_owned()),
        }
    }
}
