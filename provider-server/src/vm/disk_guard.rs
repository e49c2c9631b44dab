//! Stops VMs that take more of the host's disk than they rent, and protects what the host itself needs.
//!
//! Where a backend does not keep disks within their size, nothing but this does: all running VMs are
//! measured every half minute, and at once when the host's disk is seen to fill up. How far a VM can go
//! beyond its size is what it writes in the seconds between.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::VmId;
use golem_vm_protocol::vm::Cause;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::history::Reason;
use super::{VmManager, VmRecord, VmState};
use crate::backend::{Backend, BackendKind, DiskRoom, DiskUse, DiskWatch};

/// How often the host's disk is looked at: cheap, and the bound of how late anything is noticed.
const LOOK: Duration = Duration::from_secs(2);
/// How often VMs are measured while nothing happens.
const ROUND: Duration = Duration::from_secs(30);
/// A fall of the free space by so much since the last round begins another.
const FALL_BYTES: u64 = 256 << 20;
const FALL_FILES: u64 = 50_000;
/// Time between two rounds, as a multiple of what the last one took: millions of files take their time,
/// and counting them must not become the load that it is to prevent.
const REST: u32 = 5;
/// How long measuring one VM may take.
const MEASURE: Duration = Duration::from_secs(30);

/// Bytes per file that a VM may have: the density of an ext4 as mkfs makes it.
const BYTES_PER_FILE: u64 = 16 * 1024;
/// Files that the host keeps for itself.
const FILES_RESERVE: u64 = 50_000;
/// What a guest may write beside its disk: `/etc/hosts` and the like, which are a few hundred bytes.
const BESIDE_MAX: u64 = 16 << 20;

/// How long a VM may run to make room, after it was stopped for its disk and started again.
const TIDYING: Duration = Duration::from_secs(600);
/// How much more than when it was stopped it may use meanwhile.
const TIDYING_BYTES: u64 = 256 << 20;

/// Watches the disks of one backend's VMs until `token` is cancelled. `reserve` is what the host keeps for itself, in bytes.
pub async fn run(
    vms: VmManager,
    backend: Arc<dyn Backend>,
    reserve: u64,
    token: CancellationToken,
) {
    let Some(watch) = backend.disk_watch() else { return };
    let mut guard = Guard { reserve, ..Guard::of(backend.kind()) };
    let mut timer = interval(LOOK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut at_last_round: Option<DiskRoom> = None;
    let mut next_round = Instant::now();
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        let room = match watch.room().await {
            Ok(room) => room,
            Err(error) => {
                tracing::debug!("the host's disk can't be looked at: {error}");
                continue;
            }
        };
        let hurry = hurries(at_last_round, room, reserve);
        let now = Instant::now();
        if now < rested || (now < next_round && !hurry) {
            continue;
        }
        guard.round(&vms, watch, room).await;
        at_last_round = room;
        rested = Instant::now() + now.elapsed() * REST;
        next_round = Instant::now() + ROUND;
    }
}

/// Whether the host's disk fills up so fast, or is so full, that VMs are measured now.
fn hurries(before: Option<DiskRoom>, room: Option<DiskRoom>, reserve: u64) -> bool {
    let Some(room) = room else { return false };
    if is_low(room, reserve) {
        return true;
    }
    before.is_some_and(|before| {
        let files = before.files.unwrap_or(0).saturating_sub(room.files.unwrap_or(u64::MAX));
        before.bytes.saturating_sub(room.bytes) >= FALL_BYTES || files >= FALL_FILES
    })
}

fn is_low(room: DiskRoom, reserve: u64) -> bool {
    room.bytes < reserve || room.files.is_some_and(|files| files < FILES_RESERVE)
}

/// The most that a VM of this size may take.
fn allowed(storage_gib: u32) -> DiskUse {
    let bytes = u64::from(storage_gib) << 30;
    DiskUse { bytes, files: bytes / BYTES_PER_FILE, beside: BESIDE_MAX }
}

/// A VM that was stopped for its disk, and may be started to make room.
#[derive(Debug, Clone, Copy)]
struct Tidying {
    /// How much it may use meanwhile.
    most: DiskUse,
    /// Until when, once it has been seen to run again.
    until: Option<Instant>,
}

/// What is remembered from round to round of the disks of one backend's VMs.
#[derive(Debug)]
struct Guard {
    kind: BackendKind,
    reserve: u64,
    /// What each VM used the last time.
    last: HashMap<VmId, u64>,
    tidying: HashMap<VmId, Tidying>,
}

impl Guard {
    fn of(kind: BackendKind) -> Self {
        Self { kind, reserve: 0, last: HashMap::new(), tidying: HashMap::new() }
    }

    /// Measures all running VMs, and stops those that have to be.
    async fn round(&mut self, vms: &VmManager, watch: &dyn DiskWatch, room: Option<DiskRoom>) {
        let mut records = match vms.all().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!("the VMs can't be read, so their disks are not measured: {error}");
                return;
            }
        };
        records.retain(|record| record.terms.backend == self.kind);
        self.last.retain(|id, _| records.iter().any(|record| record.id == *id));
        self.tidying.retain(|id, _| records.iter().any(|record| record.id == *id));
        let mut stopped = false;
        let mut innocent = Vec::new();
        for record in records.iter().filter(|record| record.state == VmState::Running) {
            let most = allowed(record.terms.resources.storage);
            let tidying = self.tidying.get(&record.id).map_or(0, |tidying| tidying.most.files);
            // Enough to tell by how much it is over.
            let files = tidying.max(most.files.saturating_mul(2)).saturating_add(1);
            let measured = match timeout(MEASURE, watch.disk_use(record.instance(), files)).await {
                Ok(Ok(measured)) => measured,
                Ok(Err(error)) => {
                    tracing::debug!(vm = %record.id, "its disk can't be measured: {error}");
                    continue;
                }
                Err(_) => {
                    tracing::warn!(vm = %record.id, "measuring its disk takes too long; given up");
                    continue;
                }
            };
            match self.judge(record, measured, Instant::now()) {
                Some(reason) => stopped |= stop(vms, record, reason).await,
                None => innocent.push((record, measured)),
            }
        }
        // Those that went past their size are gone first, and with them perhaps the need.
        let Some(room) = room.filter(|room| !stopped && is_low(*room, self.reserve)) else {
            self.remember(&innocent);
            return;
        };
        let growth = |(record, used): &(&VmRecord, DiskUse)| {
            let before = self.last.get(&record.id).copied().unwrap_or(used.bytes);
            (used.bytes.saturating_sub(before), used.bytes)
        };
        // The one that grows fastest; if none does, the one that has most.
        let chosen = innocent.iter().max_by_key(|one| growth(one)).copied();
        self.remember(&innocent);
        if let Some((record, used)) = chosen {
            let reason = host_is_full(room, used);
            stop(vms, record, reason).await;
        }
    }

    fn remember(&mut self, measured: &[(&VmRecord, DiskUse)]) {
        self.last = measured.iter().map(|(record, used)| (record.id, used.bytes)).collect();
    }

    /// Why the VM has to be stopped, if it has to.
    fn judge(&mut self, record: &VmRecord, used: DiskUse, now: Instant) -> Option<String> {
        let rented = allowed(record.terms.resources.storage);
        let Some(over) = Over::find(used, rented) else {
            self.tidying.remove(&record.id);
            return None;
        };
        if let Some(tidying) = self.tidying.get_mut(&record.id) {
            let until = *tidying.until.get_or_insert(now + TIDYING);
            let grows = Over::find(used, tidying.most).is_some();
            if !grows && now < until {
                return None;
            }
            // Started once more, it has the same time again, but no more room.
            tidying.until = None;
            return Some(over.to_string());
        }
        let most = DiskUse {
            bytes: used.bytes.max(rented.bytes).saturating_add(TIDYING_BYTES),
            files: used.files.max(rented.files).saturating_add(FALL_FILES),
            beside: rented.beside,
        };
        self.tidying.insert(record.id, Tidying { most, until: None });
        Some(over.to_string())
    }
}

async fn stop(vms: &VmManager, record: &VmRecord, reason: String) -> bool {
    let reason = Reason::own(Cause::DiskLimit).with(reason);
    match vms.stop_because(record, reason).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(vm = %record.id, "it has to be stopped for its disk, and can't be: {error}");
            false
        }
    }
}

fn host_is_full(room: DiskRoom, used: DiskUse) -> String {
    format!(
        "it was stopped because its provider's disk is nearly full ({} GB free), and it uses {} GB of it; \
         its disk is kept: start it later, or move elsewhere",
        tenths(room.bytes),
        tenths(used.bytes)
    )
}

/// What a VM takes more of than it rents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Bytes(u64, u64),
    Files(u64, u64),
    Beside(u64),
}

impl Over {
    fn find(used: DiskUse, most: DiskUse) -> Option<Self> {
        if used.bytes > most.bytes {
            Some(Self::Bytes(used.bytes, most.bytes))
        } else if used.files > most.files {
            Some(Self::Files(used.files, most.files))
        } else if used.beside > most.beside {
            Some(Self::Beside(used.beside))
        } else {
            None
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Bytes(used, most) => format!(
                "it used more than {} GB of disk, and rents {} GB",
                tenths(*used),
                tenths(*most)
            ),
            Self::Files(used, most) => {
                format!("it had more than {used} files, and its disk has room for {most}")
            }
            Self::Beside(used) => format!(
                "it wrote {} MB to files beside its disk (/etc/hosts, /etc/hostname, /etc/resolv.conf)",
                used >> 20
            ),
        };
        write!(
            f,
            "it was stopped because {what}; its disk is kept: start it and make room within {} minutes, or \
             destroy it",
            TIDYING.as_secs() / 60
        )
    }
}

/// Bytes in GiB, rounded down to a tenth.
fn tenths(bytes: u64) -> String {
    crate::capacity::gib(bytes >> 20)
}

#[cfg(test)]
mod tests;
