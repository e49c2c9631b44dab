//! What instances use, and what is shown in them.

use async_trait::async_trait;

use super::{MemoryBackend, Method};
use crate::backend::{
    BackendError, DiskRoom, DiskUse, DiskWatch, InstanceId, Metering, NotifyGuest, Usage,
};

#[async_trait]
impl DiskWatch for MemoryBackend {
    async fn room(&self) -> Result<Option<DiskRoom>, BackendError> {
        Ok(self.lock().disk_room)
    }

    async fn disk_use(&self, id: InstanceId, _most_files: u64) -> Result<DiskUse, BackendError> {
        Ok(self.lock().disk_uses.get(&id).copied().unwrap_or_default())
    }
}

#[async_trait]
impl NotifyGuest for MemoryBackend {
    async fn notify(&self, id: InstanceId, line: &str) -> Result<(), BackendError> {
        self.call(Method::Notify, |state| {
            state.instance(id)?;
            state.told.push((id, line.to_owned()));
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Metering for MemoryBackend {
    async fn usage(&self, id: InstanceId) -> Result<Usage, BackendError> {
        self.call(Method::Usage, |state| {
            let limits = state.instance(id)?.spec.limits;
            Ok(Usage {
                cpu_percent: 1.0,
                memory_used_bytes: 32 << 20,
                memory_limit_bytes: limits.memory_mib << 20,
                processes: 5,
                network_received_bytes: 1000,
                network_sent_bytes: 1000,
                disk_used_bytes: Some(1 << 20),
            })
        })
        .await
    }
}
