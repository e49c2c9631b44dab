//! Stops VMs that nobody uses, where their owner asked for that.
//!
//! A VM is used while bytes go through its SSH port, or while it works. What can't be asked counts as
//! use: nobody's VM is stopped for want of an answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::VmId;
use golem_vm_protocol::time::in_words;
use golem_vm_protocol::vm::Cause;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::history::Reason;
use super::{AccessPorts, VmManager, VmRecord, VmState};
use crate::steady::SteadyTime;

/// How often it is looked; the bound of how late a VM is stopped.
const ROUND: Duration = Duration::from_secs(5);
/// From how much CPU on a VM works, in percent of one core: an idle system's own jobs stay below.
const WORKS: f64 = 5.0;

/// Watches until `token` is cancelled.
pub async fn run(vms: VmManager, ports: Arc<dyn AccessPorts>, token: CancellationToken) {
    let mut guard = Guard::default();
    let mut timer = interval(ROUND);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = guard.round(&vms, &*ports) => {}
        }
    }
}

/// When each VM was last seen to be used.
#[derive(Debug, Default)]
pub(super) struct Guard {
    used: HashMap<VmId, SteadyTime>,
}

impl Guard {
    pub(super) async fn round(&mut self, vms: &VmManager, ports: &dyn AccessPorts) {
        let Ok(records) = vms.all().await else { return };
        let watched: Vec<(VmRecord, Duration)> = records
            .into_iter()
            .filter(|record| record.state == VmState::Running)
            .filter_map(|record| record.lease.grant.stop_when_idle.map(|idle| (record, idle)))
            .collect();
        self.used.retain(|id, _| watched.iter().any(|(record, _)| record.id == *id));
        if watched.is_empty() {
            return;
        }
        let quiet = match ports.quiet_for().await {
            Ok(quiet) => quiet,
            Err(error) => {
                tracing::debug!("whether VMs are used can't be asked: {error}");
                self.used.clear();
                return;
            }
        };
        let look = watched.iter().map(|(record, idle)| {
            let quiet = quiet.get(&record.ssh_port).copied().unwrap_or_default();
            async move {
                // Measuring takes a second, so it is done where it decides something.
                let works = quiet < ROUND || works(vms, record).await;
                (record, *idle, quiet, works)
            }
        });
        for (record, idle, quiet, works) in futures_util::future::join_all(look).await {
            let now = vms.steady_now();
            if let Some(unused) = self.unused(record.id, quiet, works, now)
                && unused >= idle
            {
                stop(vms, record, idle).await;
            }
        }
    }

    /// For how long a VM has not been used; `None` if it is in use.
    fn unused(
        &mut self,
        id: VmId,
        quiet: Duration,
        works: bool,
        now: SteadyTime,
    ) -> Option<Duration> {
        if works {
            self.used.insert(id, now);
            return None;
        }
        let used = *self.used.entry(id).or_insert(now);
        Some(now.since(used).min(quiet))
    }
}

async fn works(vms: &VmManager, record: &VmRecord) -> bool {
    match vms.usage(record).await {
        Ok(usage) => usage.cpu_percent >= WORKS,
        Err(error) => {
            tracing::debug!(vm = %record.id, "whether it works can't be measured: {error}");
            true
        }
    }
}

async fn stop(vms: &VmManager, record: &VmRecord, idle: Duration) {
    let reason = Reason::own(Cause::Idle).with(format!(
        "it was stopped because it was not used for {} (no SSH traffic, no load), as its owner wished; its \
         disk is kept: start it when it is needed",
        in_words(idle.as_secs())
    ));
    if let Err(error) = vms.stop_because(record, reason).await {
        tracing::warn!(vm = %record.id, "it is idle and can't be stopped: {error}; this is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_begins_the_time_anew_and_both_kinds_count() {
        let mut guard = Guard::default();
        let id = VmId::from_bytes([1; 16]);
        let at = |seconds: u64| SteadyTime::from_micros(seconds * 1_000_000);
        let minutes = |n: u64| Duration::from_secs(n * 60);
        // First seen: whatever was before is not held against it.
        assert_eq!(guard.unused(id, minutes(60), false, at(0)), Some(Duration::ZERO));
        assert_eq!(guard.unused(id, minutes(61), false, at(600)), Some(minutes(10)));
        assert_eq!(guard.unused(id, minutes(5), false, at(660)), Some(minutes(5)), "SSH traffic");
        assert_eq!(guard.unused(id, minutes(6), true, at(720)), None, "load");
        assert_eq!(guard.unused(id, minutes(7), false, at(780)), Some(minutes(1)));
    }
}
