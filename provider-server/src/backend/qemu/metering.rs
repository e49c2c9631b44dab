//! What machines use, without anything being run in their guests.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{QemuBackend, spec};
use crate::backend::{BackendError, InstanceId, Metering, Usage};

/// Between two looks at the CPU that was used.
const APART: Duration = Duration::from_secs(1);

#[async_trait]
impl Metering for QemuBackend {
    async fn usage(&self, id: InstanceId) -> Result<Usage, BackendError> {
        let name = spec::name(id)?;
        let used = || self.machines.usage(&name).map_err(|error| self.explained(id, error));
        let (before, begun) = (used()?, Instant::now());
        sleep(APART).await;
        let now = used()?;
        let apart = begun.elapsed().as_secs_f64();
        let cpu = now.cpu.saturating_sub(before.cpu).as_secs_f64();
        Ok(Usage {
            cpu_percent: 100.0 * cpu / apart,
            memory_used_bytes: now.memory_bytes.min(now.memory_limit_bytes),
            memory_limit_bytes: now.memory_limit_bytes,
            processes: 1,
            network_received_bytes: now.network_received_bytes,
            network_sent_bytes: now.network_sent_bytes,
            disk_used_bytes: Some(now.disk_bytes),
        })
    }
}
