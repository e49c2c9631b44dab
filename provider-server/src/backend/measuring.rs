//! What instances use.

use async_trait::async_trait;

use super::{BackendError, InstanceId};

/// What an instance takes of the host's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of its own disk that are in use, on top of the image.
    pub bytes: u64,
    /// Files and directories in it.
    pub files: u64,
    /// Bytes that the guest has written where they are not on its disk.
    pub beside: u64,
}

/// What is free of the file system on which the instances' disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes that an unprivileged user could still write.
    pub bytes: u64,
    /// Files that could still be made; `None` where that is not limited.
    pub files: Option<u64>,
}

/// Watches the disks of instances, for where nothing keeps them within their size.
#[async_trait]
pub trait DiskWatch: Send + Sync {
    /// What is free for all of them; `None` where that can't be seen from here.
    async fn room(&self) -> Result<Option<DiskRoom>, BackendError>;

    /// What an instance uses. Counting may end with more than `most_files`, and what the backend
    /// keeps within its size counts as nothing.
    async fn disk_use(&self, id: InstanceId, most_files: u64) -> Result<DiskUse, BackendError>;
}

/// What an instance uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// CPU in percent of one core, over the last second or so.
    pub cpu_percent: f64,
    /// Memory in use in bytes, page cache left out.
    pub memory_used_bytes: u64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes received since its start.
    pub network_received_bytes: u64,
    /// Bytes sent since its start.
    pub network_sent_bytes: u64,
    /// Bytes written on top of the image, where known.
    pub disk_used_bytes: Option<u64>,
}

/// Measures what instances use.
#[async_trait]
pub trait Metering: Send + Sync {
    /// What a running instance uses. Takes about a second.
    async fn usage(&self, id: InstanceId) -> Result<Usage, BackendError>;
}
