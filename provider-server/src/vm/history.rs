//! What happened to a VM, as it is written down.

use golem_vm_protocol::VmId;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Actor, Cause, EventKind, Owner, VmEvent, VmResources, VmStage};

use super::VmState;
use crate::steady::SteadyTime;

/// Who or what did something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Who or what.
    pub actor: Actor,
    /// Why.
    pub cause: Cause,
    /// The same for a person, where there is more to say.
    pub detail: Option<String>,
}

impl Reason {
    /// By `actor`, because of `cause`.
    #[must_use]
    pub const fn new(actor: Actor, cause: Cause) -> Self {
        Self { actor, cause, detail: None }
    }

    /// By the provider itself, because of `cause`.
    #[must_use]
    pub const fn own(cause: Cause) -> Self {
        Self::new(Actor::Provider, cause)
    }

    /// With more to say.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// A VM's passing from one state to another; written together with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state from now on.
    pub to: VmState,
    /// By whom and why.
    pub reason: Reason,
}

/// Something that happened, and changed no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// What it is about; never [`EventKind::State`].
    pub kind: EventKind,
    /// By whom and why.
    pub reason: Reason,
}

/// One event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Rises over all VMs of the provider.
    pub id: i64,
    /// Which VM.
    pub vm: VmId,
    /// What its owner calls it.
    pub vm_public_id: String,
    /// Its owner's name for it.
    pub vm_name: String,
    /// Whose it is.
    pub owner: Owner,
    /// Counts this VM's events from 1, without gaps.
    pub number: u64,
    /// When, by the wall clock.
    pub at: Timestamp,
    /// When, in steady time.
    pub steady: SteadyTime,
    /// What it is about.
    pub kind: EventKind,
    /// The state before.
    pub from: Option<VmStage>,
    /// The state since.
    pub to: VmStage,
    /// By whom and why.
    pub reason: Reason,
    /// How big the VM is.
    pub resources: VmResources,
    /// Microseconds for which it had run by then.
    pub delivered_micros: u64,
}

impl EventRecord {
    /// As its VM's owner sees it.
    #[must_use]
    pub fn to_wire(&self) -> VmEvent {
        VmEvent {
            vm_id: self.vm_public_id.clone(),
            number: self.number,
            at: self.at,
            steady_micros: self.steady.micros(),
            kind: self.kind,
            from: self.from,
            to: self.to,
            actor: self.reason.actor,
            cause: self.reason.cause,
            detail: self.reason.detail.clone(),
            resources: self.resources,
            delivered_micros: self.delivered_micros,
        }
    }
}
