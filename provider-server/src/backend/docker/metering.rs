//! What a running container uses.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use futures_util::StreamExt;

use super::engine::{CallError, Engine, QUERY};
use crate::backend::{BackendError, InstanceId, Usage};

/// The engine walks all of a guest's files to tell their size, and a guest can have millions: it
/// is asked no more often than this, and given up on soon.
const DISK_INTERVAL: Duration = Duration::from_secs(60);
const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// How often an answer without figures is asked for again.
const TRIES: u32 = 3;

/// When the disk was last measured, and what came of it.
type Measured = (Instant, Option<u64>);

/// Measures containers, and remembers the slow part.
#[derive(Debug, Default)]
pub(super) struct Meter {
    disks: Mutex<HashMap<InstanceId, Measured>>,
}

impl Meter {
    /// See [`crate::backend::Metering::usage`].
    pub(super) async fn usage(
        &self,
        engine: &Engine,
        id: InstanceId,
    ) -> Result<Usage, BackendError> {
        let (stats, disk) = tokio::join!(sample(engine, id), self.disk(engine, id));
        match stats {
            Ok(Some(stats)) if is_empty(&stats) => Err(BackendError::Failed(format!(
                "the engine has no figures of the container {id} now; try again"
            ))),
            Ok(Some(stats)) => Ok(Usage { disk_used_bytes: disk, ..used(&stats) }),
            Ok(None) => Err(BackendError::NoInstance(id)),
            Err(error) if error.is_not_found() => Err(BackendError::NoInstance(id)),
            Err(error) => Err(error.into_backend(&format!("can't measure the container {id}"))),
        }
    }

    /// What is no more: frees its place.
    pub(super) fn forget(&self, id: InstanceId) {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Bytes of the container's disk in use, as the engine counts them.
    pub(super) async fn disk(&self, engine: &Engine, id: InstanceId) -> Option<u64> {
        let known = self.disks.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        if let Some((when, size)) = known
            && when.elapsed() < DISK_INTERVAL
        {
            return size;
        }
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let name = id.to_string();
        let inspected: Result<_, CallError> = engine
            .call(DISK_DEADLINE, |docker| async move {
                docker.inspect_container(&name, Some(options)).await
            })
            .await;
        let size = inspected
            .ok()
            .and_then(|container| container.size_rw)
            .and_then(|bytes| u64::try_from(bytes).ok());
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.insert(id, (Instant::now(), size));
        size
    }
}

/// Figures of a container; `None` when the engine says nothing at all. An answer without figures,
/// which an engine gives that is too busy to collect them, is asked for again.
async fn sample(
    engine: &Engine,
    id: InstanceId,
) -> Result<Option<ContainerStatsResponse>, CallError> {
    let mut tries = 0;
    loop {
        tries += 1;
        // Two samples a second apart, so that there is a difference to tell the CPU's use from.
        let options = StatsOptionsBuilder::new().stream(false).one_shot(false).build();
        let name = id.to_string();
        let stats = engine
            .call(QUERY, |docker| async move {
                docker.stats(&name, Some(options)).next().await.transpose()
            })
            .await?;
        if tries == TRIES || !stats.as_ref().is_some_and(is_empty) {
            return Ok(stats);
        }
    }
}

/// A running container always has a memory limit, be it the host's memory.
fn is_empty(stats: &ContainerStatsResponse) -> bool {
    stats.memory_stats.as_ref().and_then(|memory| memory.limit).unwrap_or(0) == 0
}

pub(super) fn used(stats: &ContainerStatsResponse) -> Usage {
    let networks = stats.networks.iter().flat_map(HashMap::values);
    let (received, sent) = networks.fold((0, 0), |(received, sent), network| {
        (
            u64::saturating_add(received, network.rx_bytes.unwrap_or(0)),
            u64::saturating_add(sent, network.tx_bytes.unwrap_or(0)),
        )
    });
    let memory = stats.memory_stats.as_ref();
    Usage {
        cpu_percent: cpu_percent(stats.precpu_stats.as_ref(), stats.cpu_stats.as_ref()),
        memory_used_bytes: memory.map_or(0, memory_used),
        memory_limit_bytes: memory.and_then(|memory| memory.limit).unwrap_or(0),
        processes: stats.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0),
        network_received_bytes: received,
        network_sent_bytes: sent,
        disk_used_bytes: None,
    }
}

/// CPU time over wall time, in percent of one core. The engine's "system" time runs on all cores at
/// once, so divided by their number it is the wall time.
#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than 52 bits")]
fn cpu_percent(before: Option<&ContainerCpuStats>, after: Option<&ContainerCpuStats>) -> f64 {
    let total = |stats: Option<&ContainerCpuStats>| stats?.cpu_usage.as_ref()?.total_usage;
    let system = |stats: Option<&ContainerCpuStats>| stats?.system_cpu_usage;
    let (Some(used_before), Some(used_after)) = (total(before), total(after)) else { return 0.0 };
    let (Some(all_before), Some(all_after)) = (system(before), system(after)) else { return 0.0 };
    let cores = after.and_then(|stats| stats.online_cpus).unwrap_or(1).max(1);
    let wall = all_after.saturating_sub(all_before) as f64 / f64::from(cores);
    if wall > 0.0 { used_after.saturating_sub(used_before) as f64 / wall * 100.0 } else { 0.0 }
}

/// Without the file cache that the kernel would give back at once, as `docker stats` has it.
fn memory_used(memory: &ContainerMemoryStats) -> u64 {
    let cache = memory
        .stats
        .as_ref()
        // Control groups of version 1 and of version 2.
        .and_then(|stats| stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")))
        .copied()
        .unwrap_or(0);
    memory.usage.unwrap_or(0).saturating_sub(cache)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_without_figures_is_known_as_such() {
        assert!(is_empty(&ContainerStatsResponse::default()));
        let stats = json!({ "memory_stats": { "limit": 1 } });
        assert!(!is_empty(&serde_json::from_value(stats).unwrap()));
    }

    #[test]
    fn figures_are_in_the_units_promised() {
        let stats: ContainerStatsResponse = serde_json::from_value(json!({
            "precpu_stats": {
                "cpu_usage": { "total_usage": 1_000_000_000_u64 },
                "system_cpu_usage": 100_000_000_000_u64,
            },
            "cpu_stats": {
                "cpu_usage": { "total_usage": 1_500_000_000_u64 },
                "system_cpu_usage": 102_000_000_000_u64,
                "online_cpus": 2,
            },
            "memory_stats": {
                "usage": 100, "limit": 1000, "stats": { "total_inactive_file": 30 },
            },
            "pids_stats": { "current": 7 },
            "networks": {
                "eth0": { "rx_bytes": 1, "tx_bytes": 2 },
                "eth1": { "rx_bytes": 10, "tx_bytes": 20 },
            },
        }))
        .unwrap();
        let usage = used(&stats);
        assert!((usage.cpu_percent - 50.0).abs() < 1e-9, "{}", usage.cpu_percent);
        assert_eq!(usage.memory_used_bytes, 70);
        assert_eq!(usage.memory_limit_bytes, 1000);
        assert_eq!(usage.processes, 7);
        assert_eq!((usage.network_received_bytes, usage.network_sent_bytes), (11, 22));
    }

    #[test]
    fn what_an_engine_leaves_out_is_nothing() {
        let usage = used(&ContainerStatsResponse::default());
        assert_eq!(usage.cpu_percent, 0.0);
        assert_eq!(usage.memory_used_bytes, 0);
    }
}
