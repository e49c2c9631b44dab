//! Where VMs are kept: what the domain needs of a store.

use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::vm::{Cause, Owner, SshPublicKey, ValidKeyChange};
use golem_vm_protocol::{ErrorCode, VmId, VmRef};

use super::admission::{Admission, Bounds, NewVm, RepeatedRequest};
use super::history::{EventRecord, Occurrence, Reason, Transition};
use super::life_repository::LifeRepository;
use super::{OperationRecord, VmError, VmRecord};
use crate::capacity::Amount;
use crate::steady::SteadyTime;

/// Keeps VMs and their operations. Each method is one transaction, done when it returns.
#[async_trait]
pub trait VmRepository: LifeRepository {
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

    /// Everybody's VMs, at the start of the program. Those that ran when the machine went down are
    /// [`VmState::Starting`](super::VmState::Starting) then, and none that is only kept is erased before
    /// its owner had some time since the machine is up again.
    async fn take_up(&self) -> Result<Vec<VmRecord>, VmError>;

    /// Passes a VM to another state, writes the event, and returns the VM as it is now. A state that it
    /// has already is no event.
    async fn transition(&self, id: VmId, transition: Transition) -> Result<VmRecord, VmError>;

    /// Writes an event that changes no state.
    async fn occurred(&self, id: VmId, occurrence: Occurrence) -> Result<(), VmError>;

    /// Writes whether a VM is cut off from the network, and returns it as it is now.
    async fn set_quarantined(&self, id: VmId, quarantined: bool) -> Result<VmRecord, VmError>;

    /// Writes how far the making of a VM is.
    async fn set_phase(&self, id: VmId, phase: String) -> Result<(), VmError>;

    /// The VM runs: its state, the beginning of its lease and the end of its operation, together.
    async fn created(&self, id: VmId) -> Result<VmRecord, VmError>;

    /// The VM could not be made: ends its operation. What it holds is held until
    /// [`VmRepository::release_failed`].
    async fn creation_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
        cause: Cause,
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

    /// Writes when a VM's lease ends, unless it ends later already, and returns the VM as it is now.
    async fn extend(&self, id: VmId, expires: SteadyTime) -> Result<VmRecord, VmError>;

    /// Writes that a VM's owner has been told that its lease ends.
    async fn warned(&self, id: VmId) -> Result<VmRecord, VmError>;

    /// Has a VM back that was only kept: it is stopped, and its lease lasts as long as `lasting` from now.
    ///
    /// # Errors
    /// [`VmError::InsufficientCapacity`] when `offered` has no room for it any more.
    async fn undelete(
        &self,
        id: VmId,
        lasting: Duration,
        offered: Amount,
    ) -> Result<VmRecord, VmError>;

    /// The VM is gone: gives back what it held and forgets it, but for its history.
    async fn remove(&self, id: VmId, reason: Reason) -> Result<(), VmError>;

    /// What happened to one of the owner's VMs, there or gone, after the event with that number; the oldest
    /// first. A name means the newest VM that had it. `None`: there never was one, or it was forgotten.
    async fn events(
        &self,
        owner: Owner,
        vm: VmRef,
        after: u64,
        limit: u32,
    ) -> Result<Option<Vec<EventRecord>>, VmError>;

    /// What happened to everybody's VMs, after the event with that id; the oldest first. With `vm`, only
    /// what happened to those of that id or name.
    async fn all_events(
        &self,
        vm: Option<VmRef>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, VmError>;

    /// The last `count` events of everybody's VMs, the oldest first; with `vm` as above.
    async fn last_events(&self, vm: Option<VmRef>, count: u32)
    -> Result<Vec<EventRecord>, VmError>;

    /// One of the owner's operations.
    async fn operation(&self, owner: Owner, id: String)
    -> Result<Option<OperationRecord>, VmError>;

    /// What is reserved, over everybody's VMs.
    async fn reserved(&self) -> Result<Amount, VmError>;

    /// Forgets failed VMs, operations and histories that are older than their time, and writes down
    /// which time it is.
    async fn forget_old(&self) -> Result<(), VmError>;
}
