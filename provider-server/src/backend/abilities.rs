//! What some backends can do and others can't. Each ability is a trait of its own, which a
//! [`Backend`](super::Backend) hands out if it has it; its [`Capabilities::abilities`](super::Capabilities)
//! say the same in words, found by trying.
//!
//! As with the backend itself: calls for one instance never overlap, and everything is called again
//! after a crash.

use std::time::SystemTime;

use async_trait::async_trait;
use golem_vm_protocol::vm::SnapshotName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{BackendError, InstanceId, InstanceSpec, Limits};

/// Keeps an instance's memory on its disk, and goes on from there.
#[async_trait]
pub trait Suspend: Send + Sync {
    /// Writes the memory of a running instance to its disk, and ends it. Afterwards it is
    /// [`Observation::Suspended`](super::Observation::Suspended), also after the host was started anew, and
    /// [`start`](super::Backend::start) lets it go on where it was, with the size and the devices that it had.
    ///
    /// Does nothing if it is suspended already, or stopped. Called again, it finishes what an interrupted call
    /// has begun, or does it anew; until it has succeeded the instance still runs, or is stopped if it ended
    /// by itself. [`stop`](super::Backend::stop) of a suspended instance does nothing, and
    /// [`destroy`](super::Backend::destroy) removes it with its memory.
    async fn suspend(&self, id: InstanceId) -> Result<(), BackendError>;

    /// Throws away the memory that is kept, so that the instance is stopped, and boots from its disk when it is
    /// started. Does nothing if none is kept.
    async fn forget(&self, id: InstanceId) -> Result<(), BackendError>;
}

/// One snapshot of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// What it is called.
    pub name: SnapshotName,
    /// When it was made, by the host's clock.
    pub created_at: SystemTime,
    /// How many bytes of the host's disk it may take at most from now on, whatever the instance does: what it holds
    /// of the disk, and its memory. `None` where that can't be told.
    pub bytes: Option<u64>,
    /// Whether it has the instance's memory.
    pub with_memory: bool,
}

/// Makes snapshots of instances, and takes instances back to them.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// Makes a snapshot of the disk; of a running instance with its memory, and it runs on. Only with
    /// [`Ability::LiveSnapshots`](golem_vm_protocol::vm::Ability::LiveSnapshots) is it called for one that runs,
    /// and never for a suspended one.
    ///
    /// Does nothing if there is a whole one of that name. Called again, it makes anew what an interrupted call has
    /// left half-made.
    async fn create(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError>;

    /// All snapshots of the instance that are whole, the oldest first.
    async fn list(&self, id: InstanceId) -> Result<Vec<SnapshotInfo>, BackendError>;

    /// Takes an instance that does not run back to the snapshot, which stays. Afterwards it is
    /// [`Suspended`](super::Observation::Suspended) where the snapshot has its memory, and goes on from there when
    /// it is started; else it is stopped. Memory that was kept is thrown away.
    ///
    /// Fails with [`BackendError::NoSnapshot`] if there is none of that name; nothing has changed then. Called
    /// again, it does the same once more.
    async fn restore(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError>;

    /// Removes a snapshot, or what is left of one, whether the instance runs or not. Does nothing if it is gone.
    async fn remove(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError>;
}

/// Makes instances with the disk of another one.
#[async_trait]
pub trait CloneInstance: Send + Sync {
    /// Like [`ensure`](super::Backend::ensure): makes sure that an instance of this spec exists, without
    /// starting it, and its disk begins as that of `source` is at some moment during the call. It has its own
    /// identity, that of `spec`: nothing of the source's keys, host name, machine id or addresses is left to it
    /// when it is started. Snapshots and memory are not taken along. `spec.limits.storage_mib` is not less than
    /// the source's, and the image is the same.
    ///
    /// The source is not changed, and is neither started nor stopped; only with
    /// [`Ability::LiveClone`](golem_vm_protocol::vm::Ability::LiveClone) is it called for one that runs. Called
    /// again after it was made whole, it changes nothing; what an interrupted call left half-made is made anew, or
    /// fails with [`BackendError::NoInstance`] of the source if that is gone by now.
    async fn ensure_clone(
        &self,
        source: InstanceId,
        spec: &InstanceSpec,
    ) -> Result<(), BackendError>;
}

/// Changes how much an instance may use.
#[async_trait]
pub trait Resize: Send + Sync {
    /// Gives an instance these limits in place of those that it has. The disk has the new size when this returns; of
    /// a running instance only with
    /// [`Ability::LiveDiskResize`](golem_vm_protocol::vm::Ability::LiveDiskResize), else when it starts next. It
    /// is never less than it was: a smaller one is [`BackendError::Failed`], and nothing has changed. CPU, memory and
    /// the other limits hold from the next time that the instance boots. Called again, it changes nothing.
    async fn resize(&self, id: InstanceId, limits: Limits) -> Result<(), BackendError>;
}

/// The end of what an instance wrote to its console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsoleTail {
    /// The bytes, at most
    /// [`MAX_CONSOLE_LOG`](golem_vm_protocol::vm::MAX_CONSOLE_LOG).
    pub data: Vec<u8>,
    /// Whether there was more before them.
    pub truncated: bool,
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An instance's serial console.
#[async_trait]
pub trait Console: Send + Sync {
    /// The end of what it has said, whether it runs or not; kept over its starts.
    async fn log(&self, id: InstanceId) -> Result<ConsoleTail, BackendError>;

    /// Speaks with a running instance: what is read is what it says from now on (it goes into the log all the same),
    /// what is written is what it is told. Ends when the instance does. Whoever attaches later has it, and the
    /// earlier one ends. Dropping it leaves the instance as it is.
    async fn attach(&self, id: InstanceId) -> Result<Box<dyn Duplex>, BackendError>;
}
