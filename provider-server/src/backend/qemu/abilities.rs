//! What machines can do that not every instance can.

use async_trait::async_trait;
use golem_vm_machine::vm::{MachineError, State};

use super::{QemuBackend, spec};
use crate::backend::{BackendError, InstanceId, Suspend};

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
