//! The history of a VM.

use serde::{Deserialize, Serialize};

use super::VmResources;
use super::words::words;
use crate::document::Document;
use crate::time::Timestamp;

words! {
    /// The states of a VM, as its history names them: finer than [`super::VmStatus`], whose words are the
    /// original's.
    VmStage {
        /// Being made.
        Creating = "creating",
        /// Being brought up.
        Starting = "starting",
        /// Up. Time in this state is what is delivered.
        Running = "running",
        /// Being brought down.
        Stopping = "stopping",
        /// Down; its disk is kept.
        Stopped = "stopped",
        /// Its memory is being written to its disk.
        Suspending = "suspending",
        /// Down, with its memory kept on its disk: it goes on from there when it is started.
        Suspended = "suspended",
        /// Down, and its lease has ended: kept for the grace period.
        Retained = "retained",
        /// Being removed, with its disk.
        Destroying = "destroying",
        /// Gone. The last one.
        Destroyed = "destroyed",
        /// There, but not usable.
        Error = "error",
        /// Could not be made; nothing is left of it. The last one.
        Failed = "failed",
    }
}

words! {
    /// What an event is about.
    EventKind {
        /// The VM passed from one state to another.
        State = "state",
        /// Its creation got further; `detail` says what it is doing.
        Progress = "progress",
        /// Its lease was changed, or is about to end.
        Lease = "lease",
        /// A snapshot of it was made, restored or deleted.
        Snapshot = "snapshot",
        /// Its size was changed: `resources` is the new one.
        Resize = "resize",
        /// Something else that its owner may want to know.
        Note = "note",
    }
}

words! {
    /// Who or what made it happen.
    Actor {
        /// The VM's owner.
        Requestor = "requestor",
        /// The owner of the provider.
        ProviderOwner = "provider_owner",
        /// The provider by itself: leases, limits, recovery.
        Provider = "provider",
        /// The VM itself.
        Guest = "guest",
        /// The machine, or the program that makes instances on it.
        Host = "host",
    }
}

words! {
    /// Why it happened.
    Cause {
        /// It was asked for.
        Requested = "requested",
        /// What was begun has come to its end.
        Completed = "completed",
        /// It could not be made or brought up.
        LaunchFailed = "launch_failed",
        /// It was destroyed while it was being created.
        Abandoned = "abandoned",
        /// The backend did not do what it was asked.
        BackendFailed = "backend_failed",
        /// The backend could not be asked.
        BackendUnavailable = "backend_unavailable",
        /// Its lease has ended.
        LeaseExpired = "lease_expired",
        /// The grace period after its lease has ended.
        GraceEnded = "grace_ended",
        /// Its lease ends soon.
        LeaseEndsSoon = "lease_ends_soon",
        /// Nobody used it for as long as its owner said.
        Idle = "idle",
        /// It took more of the host's disk than it rents.
        DiskLimit = "disk_limit",
        /// It ended by itself.
        GuestShutDown = "guest_shut_down",
        /// It ended for using more memory than it rents.
        OutOfMemory = "out_of_memory",
        /// It was found running although it should not have been.
        FoundRunning = "found_running",
        /// Its instance was stopped from outside: the machine or the engine was restarted.
        HostStopped = "host_stopped",
        /// Its instance is gone from the backend.
        InstanceGone = "instance_gone",
        /// Its instance can't be used.
        InstanceBroken = "instance_broken",
        /// A snapshot of it was made.
        SnapshotMade = "snapshot_made",
        /// It was taken back to a snapshot.
        SnapshotRestored = "snapshot_restored",
        /// A snapshot of it was deleted.
        SnapshotDeleted = "snapshot_deleted",
        /// It could not go on from the memory that was kept, and boots from its disk.
        MemoryLost = "memory_lost",
        /// The provider ended in the middle of it, and carries on.
        Recovered = "recovered",
        /// The provider is given up.
        Purged = "purged",
    }
}

/// One thing that happened to a VM. `number` begins with 1 and has no gaps, so that it can be seen that
/// nothing is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmEvent {
    /// The VM's id (of an unsigned owner's VM: its name).
    pub vm_id: String,
    /// Which one of this VM's events it is, from 1.
    pub number: u64,
    /// When, by the provider's clock at that time.
    pub at: Timestamp,
    /// When, in microseconds of a clock of the provider that never goes back and never jumps, restarts
    /// included: for differences.
    pub steady_micros: u64,
    /// What it is about.
    pub kind: EventKind,
    /// The state before; null with the first one.
    pub from: Option<VmStage>,
    /// The state since then.
    pub to: VmStage,
    /// Who or what made it happen.
    pub actor: Actor,
    /// Why.
    pub cause: Cause,
    /// The same for a person, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How big the VM is since then.
    pub resources: VmResources,
    /// For how many microseconds of the steady clock it had run by then, in all.
    pub delivered_micros: u64,
}

/// `GET /api/v1/vms/{name}/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmEvents {
    /// The oldest first.
    pub events: Vec<VmEvent>,
    /// `after` for what follows, when there is more now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What `GET /api/v1/vms/{name}/events/stream` sends: the `data` of each server-sent event is the envelope
/// of this document, signed by the provider. A stream has no end that could be signed as a reply is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamedEvent {
    /// The `nonce` of the request's signature: what was said to another request is not taken for it.
    pub nonce: String,
    /// The event.
    pub event: VmEvent,
}

impl Document for StreamedEvent {
    const TYPE: &'static str = "vm-event";
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_read_back_and_new_ones_are_unknown() {
        for cause in Cause::ALL {
            assert_eq!(Cause::from_word(cause.as_str()), *cause);
            let json = serde_json::to_string(cause).unwrap();
            assert_eq!(json, format!("\"{cause}\""));
            assert_eq!(serde_json::from_str::<Cause>(&json).unwrap(), *cause);
        }
        assert_eq!(Actor::from_word("nobody"), Actor::Unknown);
        assert_eq!(serde_json::from_str::<VmStage>("\"floating\"").unwrap(), VmStage::Unknown);
    }
}
