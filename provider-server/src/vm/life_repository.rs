//! What suspending, other sizes and snapshots need of a store.

use async_trait::async_trait;
use golem_vm_protocol::vm::SnapshotName;
use golem_vm_protocol::{VmId, VmResources};

use super::history::Reason;
use super::snapshot::{SnapshotRecord, SnapshotWanted};
use super::{VmError, VmRecord, VmState};
use crate::capacity::Amount;

/// Keeps what VMs have beside their state. Each method is one transaction, done when it returns.
#[async_trait]
pub trait LifeRepository: Send + Sync + 'static {
    /// Passes a VM to [`VmState::Suspending`], and reserves disk for its memory within what is `offered`.
    ///
    /// # Errors
    /// [`VmError::InsufficientCapacity`].
    async fn suspending(
        &self,
        id: VmId,
        offered: Amount,
        reason: Reason,
    ) -> Result<VmRecord, VmError>;

    /// Gives a VM another size, within what is `offered`: it is reserved from now on, and what it runs with stays
    /// reserved until it is down. The instance has to get it.
    ///
    /// # Errors
    /// [`VmError::InsufficientCapacity`], [`VmError::DiskCannotShrink`].
    async fn resize(
        &self,
        id: VmId,
        size: VmResources,
        offered: Amount,
    ) -> Result<VmRecord, VmError>;

    /// Writes that the instance has that size, if it is still what its VM has.
    async fn resized(&self, id: VmId, size: VmResources) -> Result<VmRecord, VmError>;

    /// A VM's snapshots, the oldest first, those that are not whole too.
    async fn snapshots(&self, id: VmId) -> Result<Vec<SnapshotRecord>, VmError>;

    /// Writes that a snapshot is being made of a VM, and reserves as much disk as it may take within what is
    /// `offered`. A request that is repeated finds its snapshot.
    ///
    /// # Errors
    /// [`VmError::SnapshotExists`], [`VmError::TooManySnapshots`], [`VmError::InsufficientCapacity`].
    async fn snapshot_begun(
        &self,
        id: VmId,
        wanted: SnapshotWanted,
        with_memory: bool,
        offered: Amount,
    ) -> Result<SnapshotRecord, VmError>;

    /// Writes that it is whole, what it takes and whether it has the VM's memory; what else was reserved for it is given back.
    async fn snapshot_made(
        &self,
        id: VmId,
        name: SnapshotName,
        bytes: Option<u64>,
        with_memory: bool,
    ) -> Result<(), VmError>;

    /// Writes that a snapshot is being removed.
    ///
    /// # Errors
    /// [`VmError::SnapshotNotFound`].
    async fn snapshot_going(&self, id: VmId, name: SnapshotName) -> Result<(), VmError>;

    /// Writes that it is gone, and gives back what was reserved for it; with a `reason` that is an event.
    async fn snapshot_gone(
        &self,
        id: VmId,
        name: SnapshotName,
        reason: Option<Reason>,
    ) -> Result<(), VmError>;

    /// Writes that a VM was taken back to a snapshot, and what it is since. Its instance may go by other SSH keys.
    async fn restored(
        &self,
        id: VmId,
        name: SnapshotName,
        to: VmState,
    ) -> Result<VmRecord, VmError>;
}
