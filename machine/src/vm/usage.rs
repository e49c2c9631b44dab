//! What machines use, as the kernel counts it.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::{MachineError, MachineName, Machines};
use crate::network::counters;
use crate::process::cpu_time;

/// What a machine uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineUsage {
    /// CPU that its process has used since it was started, the guest's and QEMU's own.
    pub cpu: Duration,
    /// Memory of the host's that its process has, in bytes: what the guest has touched once, and QEMU's own.
    pub memory_bytes: u64,
    /// Memory that the guest has, in bytes.
    pub memory_limit_bytes: u64,
    /// Bytes of the host's disk that its own disk takes, with its snapshots.
    pub disk_bytes: u64,
    /// Bytes that the guest was sent since its start.
    pub network_received_bytes: u64,
    /// Bytes that it sent.
    pub network_sent_bytes: u64,
}

impl Machines {
    /// What a running machine uses. Nothing is run in the guest, and nobody is waited for.
    ///
    /// # Errors
    /// When it does not run, or that can't be told.
    pub fn usage(&self, name: &MachineName) -> Result<MachineUsage, MachineError> {
        let manifest = self.manifest(name)?.ok_or_else(|| MachineError::Absent(name.clone()))?;
        let run = manifest.run;
        let run = run.ok_or_else(|| MachineError::NotNow(format!("{name} does not run")))?;
        let unknown = |error: std::io::Error| MachineError::Unknown(format!("{name}: {error}"));
        let (cpu, memory_bytes) = cpu_time(&run.process).map_err(unknown)?;
        let network = match manifest.network {
            Some(_) => counters::counters(&run.process).map_err(unknown)?,
            None => counters::Counters::default(),
        };
        Ok(MachineUsage {
            cpu,
            memory_bytes,
            memory_limit_bytes: run.size.memory_mib << 20,
            disk_bytes: self.disk_written(name)?,
            network_received_bytes: network.received_bytes,
            network_sent_bytes: network.sent_bytes,
        })
    }

    /// Bytes of the host's disk that the machine's own disk takes, with its snapshots.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub fn disk_written(&self, name: &MachineName) -> Result<u64, MachineError> {
        let disk = self.settings().root.join(name.as_str()).join("guest/disk.qcow2");
        let found = std::fs::symlink_metadata(&disk);
        found.map(|found| found.blocks() * 512).map_err(MachineError::io("look at", &disk))
    }
}
