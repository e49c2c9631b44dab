//! Where VMs are kept: what the domain needs of a store.

use async_trait::async_trait;
use golem_vm_protocol::vm::{Owner, SshPublicKey, ValidKeyChange};
use golem_vm_protocol::{ErrorCode, VmId, VmRef};

use super::admission::{Admission, Bounds, NewVm, RepeatedRequest};
use super::{OperationRecord, VmError, VmRecord, VmState};
use crate::capacity::Amount;

/// Keeps VMs and their operations. Each method is one transaction, done when it returns.
#[async_trait]
pub trait VmRepository: Send + Sync + 'static {
    /// The operation of a request that was made before.
    ///
    /// # Errors
    /// [`VmError::IdempotencyMismatch`] when the key was used for something else.
    async fn repeated(&self, request: RepeatedRequest) -> Result<Option<OperationRecord>, VmError>;

    /// Lets a VM in: checks name, capacity, count and ports, reserves them, and begins its
    /// operation, all or nothing. A repeated request finds its operation.
    ///
    /// # Errors
    /// [`VmError::NameTaken`], [`VmError::InsufficientCapacity`], [`VmError::PortsExhausted`],
    /// [`VmError::IdempotencyMismatch`].
    async fn admit(&self, vm: NewVm, bounds: Bounds) -> Result<Admission, VmError>;

    /// The owner's VM of that id or name; one that failed only if none of that name is there.
    async fn find(&self, owner: Owner, vm: VmRef) -> Result<Option<VmRecord>, VmError>;

    /// A VM by its id, whoever owns it.
    async fn get(&self, id: VmId) -> Result<Option<VmRecord>, VmError>;

    /// The owner's VMs that hold something, oldest first.
    async fn list(&self, owner: Owner) -> Result<Vec<VmRecord>, VmError>;

    /// Everybody's VMs that hold something, oldest first.
    async fn all(&self) -> Result<Vec<VmRecord>, VmError>;

    /// Writes a VM's state, and returns it as it is now.
    async fn set_state(&self, id: VmId, state: VmState) -> Result<VmRecord, VmError>;

    /// Writes whether a VM is cut off from the network, and returns it as it is now.
    async fn set_quarantined(&self, id: VmId, quarantined: bool) -> Result<VmRecord, VmError>;

    /// Writes how far the making of a VM is.
    async fn set_phase(&self, id: VmId, phase: &'static str) -> Result<(), VmError>;

    /// The VM runs: its state and the end of its operation, together.
    async fn created(&self, id: VmId) -> Result<VmRecord, VmError>;

    /// The VM could not be made: ends its operation. What it holds is held until
    /// [`VmRepository::release_failed`].
    async fn creation_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
    ) -> Result<(), VmError>;

    /// Nothing is left of a VM that could not be made: gives back what it held.
    async fn release_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
    ) -> Result<(), VmError>;

    /// Changes which SSH keys may log in to the owner's VM, and returns it as it is then: with
    /// `keys_pending` where that changed anything.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::LastKey`], [`VmError::Invalid`].
    async fn change_keys(
        &self,
        owner: Owner,
        vm: VmRef,
        change: ValidKeyChange,
    ) -> Result<VmRecord, VmError>;

    /// The instance goes by these SSH keys; they may have been changed again meanwhile.
    async fn keys_applied(&self, id: VmId, keys: Vec<SshPublicKey>) -> Result<VmRecord, VmError>;

    /// The VM is gone: gives back what it held and forgets it.
    async fn remove(&self, id: VmId) -> Result<(), VmError>;

    /// One of the owner's operations.
    async fn operation(&self, owner: Owner, id: String)
    -> Result<Option<OperationRecord>, VmError>;

    /// What is reserved, over everybody's VMs.
    async fn reserved(&self) -> Result<Amount, VmError>;

    /// Forgets failed VMs and operations that are older than their time.
    async fn forget_old(&self) -> Result<(), VmError>;
}
