//! What this machine has and uses.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

const MIB: u64 = 1024 * 1024;

/// What this machine has, and what is free of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostResources {
    /// CPUs that this process may use.
    pub cpus: u32,
    /// MiB of memory.
    pub memory_total_mib: u64,
    /// MiB of memory that could be used without swapping.
    pub memory_available_mib: u64,
    /// MiB of the file system that holds the VMs' data.
    pub disk_total_mib: u64,
    /// MiB of it that an unprivileged user could still write.
    pub disk_free_mib: u64,
}

/// Why the machine could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Memory or CPU could not be read.
    #[error("this machine's memory and CPUs can't be read: {0}")]
    System(String),
    /// The file system could not be read.
    #[error("the file system of {path} can't be read: {source}")]
    FileSystem {
        /// Which directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Of these directories, which need not exist, the one on the file system with the least room.
#[must_use]
pub fn tightest(directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let free = |path: &PathBuf| {
        let disk = rustix::fs::statvfs(existing_ancestor(path)).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    };
    directories.min_by_key(|path| free(path).unwrap_or(u64::MAX))
}

/// Measures the machine; `data` is a directory on the file system that holds the VMs' data.
///
/// # Errors
/// [`HostError`].
pub fn measure(data: &Path) -> Result<HostResources, HostError> {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(what).map_err(|e| HostError::System(e.to_string()))?;
    let cpus =
        std::thread::available_parallelism().map_err(|e| HostError::System(e.to_string()))?;
    let disk = rustix::fs::statvfs(data).map_err(|e| HostError::FileSystem {
        path: data.display().to_string(),
        source: e.into(),
    })?;
    Ok(HostResources {
        cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX),
        memory_total_mib: system.total_memory() / MIB,
        memory_available_mib: system.available_memory() / MIB,
        disk_total_mib: disk.f_blocks.saturating_mul(disk.f_frsize) / MIB,
        disk_free_mib: disk.f_bavail.saturating_mul(disk.f_frsize) / MIB,
    })
}

/// The nearest directory at or above `path` that exists, to measure the disk of one that does not yet.
#[must_use]
pub fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|p| p.is_dir()).unwrap_or_else(|| Path::new("/"))
}

/// How busy the CPUs are, in percent of all of them, measured over `interval`. Blocks so long.
///
/// # Errors
/// [`HostError::System`].
pub fn cpu_percent(interval: std::time::Duration) -> Result<f32, HostError> {
    let what = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage());
    let mut system =
        System::new_with_specifics(what).map_err(|e| HostError::System(e.to_string()))?;
    std::thread::sleep(interval.max(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL));
    system.refresh_cpu_usage();
    Ok(system.global_cpu_usage())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let host = measure(existing_ancestor(Path::new("/nonexistent/a/b"))).unwrap();
        assert!(host.cpus >= 1 && host.memory_total_mib > 64 && host.disk_total_mib > 64);
        assert!(host.memory_available_mib <= host.memory_total_mib);
        assert!(host.disk_free_mib <= host.disk_total_mib);
    }
}
