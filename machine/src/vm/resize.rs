//! Other sizes of machines.

use std::time::Duration;

use serde_json::json;

use super::{MachineError, MachineName, Machines};
use crate::hardware::{DISK_TOP_NODE, Size};

/// How long a guest may take to make its file system larger.
const GROWN: Duration = Duration::from_secs(60);

impl Machines {
    /// Gives a machine another size: its disk at once, CPU and memory when it boots next. A disk is never made
    /// smaller. Called again, it changes nothing.
    ///
    /// # Errors
    /// When the disk would be smaller, with nothing changed; or can't be made larger.
    pub async fn resize(
        &self,
        name: &MachineName,
        size: Size,
        cpu_millis: u32,
        disk_bytes: u64,
    ) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        // QEMU itself would make it smaller, and what lay beyond would be gone.
        if disk_bytes < manifest.disk_bytes {
            return Err(MachineError::Failed(format!(
                "the disk of {name} has {} MiB, and can't be made smaller: {} MiB are asked for",
                manifest.disk_bytes >> 20,
                disk_bytes >> 20
            )));
        }
        let runs = held.goes_on(&mut manifest).await?;
        manifest.size = size;
        manifest.cpu_millis = cpu_millis;
        manifest.disk_bytes = disk_bytes;
        held.save(&manifest)?;
        if !runs {
            return Ok(self.settings().disks.grow(&held.disk(), disk_bytes).await?);
        }
        let qmp = held.monitor(&manifest).await?;
        let larger = json!({ "node-name": DISK_TOP_NODE, "size": disk_bytes });
        qmp.execute("block_resize", larger).await?;
        // Where there is no agent, the guest sees the larger disk and grows its file system when it boots.
        if let Ok(Some(mut agent)) = held.agent(&manifest).await
            && let Err(error) = agent.grow(GROWN).await
        {
            tracing::warn!(machine = %name, "its file system does not grow now: {error}");
        }
        Ok(())
    }
}
