//! What can go wrong with a request about a VM; HTTP knows how to say it, this does not know HTTP.

use std::time::Duration;

use golem_vm_node::store::StoreError;
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::problem::FieldError;
use golem_vm_protocol::time::in_words;
use golem_vm_protocol::vm::{MAX_SNAPSHOTS, SnapshotName};

use crate::backend::{BackendError, BackendKind};

/// Why a request about a VM was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VmError {
    /// There is none, or it is not the caller's.
    #[error("VM {0}: Not Found")]
    NotFound(String),
    /// There is no such operation of the caller's.
    #[error("job not found")]
    OperationNotFound,
    /// The owner has one of that name.
    #[error(
        "you have a VM named {0} on this provider already: choose another name, or destroy it first"
    )]
    NameTaken(String),
    /// Not so much is free.
    #[error("not enough is free on this provider: {0}")]
    InsufficientCapacity(String),
    /// No access port can be given to anybody now.
    #[error(
        "no access port of this provider can be used yet: it is finding out which of them can be reached, or none \
         can; try again in a minute, or take another provider"
    )]
    NoUsablePort,
    /// Every access port is in use.
    #[error("every access port of this provider is in use: try another provider")]
    PortsExhausted,
    /// The image is not rented out.
    #[error("the image '{asked}' is not offered by this provider; offered: {offered}")]
    ImageNotOffered {
        /// What was asked for.
        asked: String,
        /// What there is.
        offered: String,
    },
    /// The key was used for something else.
    #[error("this Idempotency-Key was used for another request: use a new key for a new VM")]
    IdempotencyMismatch,
    /// The terms are worse than those that were accepted.
    #[error("the offer has changed since you saw it: {0}; look at the providers again")]
    OfferChanged(String),
    /// The provider does not serve this requestor.
    #[error("this provider serves only requestors it trusts: {0}")]
    NotTrusted(String),
    /// The VM's state does not allow it.
    #[error("VM {name}: {reason}")]
    Conflict {
        /// Which VM.
        name: String,
        /// Why not.
        reason: String,
    },
    /// What made the VM can't do it.
    #[error("VM {name}: the {backend} backend can't {what}")]
    NotSupported {
        /// Which VM.
        name: String,
        /// Which backend.
        backend: BackendKind,
        /// What it can't, after "can't".
        what: &'static str,
    },
    /// It has one of that name.
    #[error("VM {vm} has a snapshot {snapshot} already: choose another name, or delete it first")]
    SnapshotExists {
        /// Which VM.
        vm: String,
        /// Its name.
        snapshot: SnapshotName,
    },
    /// It has none of that name.
    #[error("VM {vm} has no snapshot {snapshot}: Not Found")]
    SnapshotNotFound {
        /// Which VM.
        vm: String,
        /// Its name.
        snapshot: String,
    },
    /// It has as many as it may have.
    #[error("VM {0} has {MAX_SNAPSHOTS} snapshots, and may have no more: delete one first")]
    TooManySnapshots(String),
    /// Its disk is larger than what is asked for.
    #[error(
        "VM {vm} has {has} GB of disk, and a disk is never made smaller: ask for {has} or more"
    )]
    DiskCannotShrink {
        /// Which VM.
        vm: String,
        /// GB of disk that it has.
        has: u32,
    },
    /// No lease of this provider is as long as that.
    #[error(
        "this provider gives leases of at most {}, and {} was asked for: ask for less, and extend it later",
        in_words(.max.as_secs()), in_words(.asked.as_secs())
    )]
    LeaseTooLong {
        /// What was asked for, from now.
        asked: Duration,
        /// What there is.
        max: Duration,
    },
    /// Nobody could log in any more.
    #[error("no key could log in any more; the last one is taken only by force")]
    LastKey,
    /// A field is wrong.
    #[error("the request is not valid")]
    Invalid(Vec<FieldError>),
    /// The VM could not be made; nothing of it is left, or soon will be.
    #[error("Failed to create VM {name}: {reason}")]
    CreateFailed {
        /// The stable code of what happened, the same as its operation's.
        code: ErrorCode,
        /// Which VM.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The backend could not be asked, or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The provider is shutting down.
    #[error("the provider is shutting down: try again in a minute")]
    ShuttingDown,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}
