//! What machines can do that not every instance can.

use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use golem_vm_machine::vm::{MachineError, State};
use golem_vm_protocol::vm::SnapshotName;

use super::{QemuBackend, failed, spec};
use crate::backend::{
    BackendError, CloneInstance, InstanceId, InstanceSpec, Limits, Resize, SnapshotInfo, Snapshots,
    Suspend,
};

#[async_trait]
impl Suspend for QemuBackend {
    async fn suspend(&self, id: InstanceId) -> Result<(), BackendError> {
        self.consoles.end(id);
        let name = spec::name(id)?;
        match self.machines.suspend(&name).await {
            // Stopped meanwhile, by itself.
            Err(MachineError::NotNow(_)) => match self.machines.observe(&name).await {
                Ok(State::Stopped(_)) => Ok(()),
                Ok(other) => Err(BackendError::Failed(format!("{id} is {other:?}"))),
                Err(error) => Err(self.explained(id, error)),
            },
            other => other.map_err(|error| self.explained(id, error)),
        }
    }

    async fn forget(&self, id: InstanceId) -> Result<(), BackendError> {
        self.machines.forget(&spec::name(id)?).await.map_err(|error| self.explained(id, error))
    }
}

#[async_trait]
impl Snapshots for QemuBackend {
    async fn create(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        let machine = spec::name(id)?;
        let _promising = self.promising.lock().await;
        self.has_room(id, self.whole(id)?).await?;
        let made = self.machines.snapshot(&machine, name.as_str()).await;
        made.map_err(|error| self.explained(id, error))
    }

    async fn list(&self, id: InstanceId) -> Result<Vec<SnapshotInfo>, BackendError> {
        let machine = spec::name(id)?;
        let found = self.machines.snapshots(&machine).await;
        let manifest = self.machines.manifest(&machine).map_err(failed)?;
        let disk = manifest.map_or(0, |manifest| manifest.disk_bytes);
        let mut listed = Vec::new();
        for one in found.map_err(|error| self.explained(id, error))? {
            let Ok(name) = one.name.parse() else { continue };
            listed.push(SnapshotInfo {
                name,
                created_at: UNIX_EPOCH + Duration::from_secs(one.created),
                bytes: Some(disk.saturating_add(one.memory_bytes)),
                with_memory: one.memory_bytes > 0,
            });
        }
        Ok(listed)
    }

    async fn restore(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        match self.machines.restore(&spec::name(id)?, name.as_str()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BackendError::NoSnapshot(name.clone())),
            Err(error) => Err(self.explained(id, error)),
        }
    }

    async fn remove(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        let removed = self.machines.remove_snapshot(&spec::name(id)?, name.as_str()).await;
        removed.map_err(|error| self.explained(id, error))
    }
}

#[async_trait]
impl CloneInstance for QemuBackend {
    async fn ensure_clone(
        &self,
        source: InstanceId,
        spec: &InstanceSpec,
    ) -> Result<(), BackendError> {
        let wanted = spec::machine(spec, &self.image(&spec.image)?)?;
        let _promising = self.promising.lock().await;
        if self.machines.observe(&wanted.name).await.map_err(failed)? == State::Absent {
            self.has_room(spec.id, spec::promise(&wanted)).await?;
        }
        let made = self.machines.ensure_copy(&spec::name(source)?, &wanted).await;
        made.map_err(|error| self.explained(source, error))
    }
}

#[async_trait]
impl Resize for QemuBackend {
    async fn resize(&self, id: InstanceId, limits: Limits) -> Result<(), BackendError> {
        let disk_bytes = limits.storage_mib << 20;
        let size = spec::size(&limits);
        let _promising = self.promising.lock().await;
        self.has_room(id, disk_bytes + (size.memory_mib << 20)).await?;
        let name = spec::name(id)?;
        let resized = self.machines.resize(&name, size, limits.cpu_millis, disk_bytes).await;
        resized.map_err(|error| self.explained(id, error))
    }
}

impl QemuBackend {
    /// Bytes of the host's disk that a machine and one more snapshot of it may take.
    fn whole(&self, id: InstanceId) -> Result<u64, BackendError> {
        let name = spec::name(id)?;
        let promised = self.machines.promised().map_err(failed)?.remove(&name).unwrap_or(0);
        let manifest = self.machines.manifest(&name).map_err(failed)?;
        let manifest = manifest.ok_or(BackendError::NoInstance(id))?;
        let written = self.machines.disk_written(&name).unwrap_or(0);
        let another = manifest.disk_bytes + (manifest.size.memory_mib << 20);
        Ok(promised.saturating_add(another).saturating_sub(written))
    }
}
