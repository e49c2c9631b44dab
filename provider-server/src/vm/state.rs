//! The states of a VM, each with what exists only in it.

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::{SnapshotName, VmStage, VmStatus};

use crate::steady::SteadyTime;

/// Where a VM stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmState {
    /// Being made; its first operation says how far it is.
    Creating,
    /// Being brought up again.
    Starting,
    /// Up.
    Running,
    /// Being brought down.
    Stopping {
        /// What it is to be then.
        next: AfterStop,
    },
    /// Down; its disk is kept.
    Stopped {
        /// Why the provider stopped it, if it did that by itself.
        reason: Option<String>,
    },
    /// Its memory is being written to its disk.
    Suspending,
    /// Down, and its memory is kept: it goes on from there when it is started. It holds what a stopped one
    /// does, and disk for its memory.
    Suspended,
    /// Down, and its lease has ended: it holds disk, name and port, and can be had back.
    Retained {
        /// Since when.
        since: SteadyTime,
        /// When it is erased.
        until: SteadyTime,
        /// How it came to that.
        reason: String,
    },
    /// Being removed, with its disk. There is no way back.
    Destroying,
    /// There, but not usable.
    Error {
        /// What happened, and what its owner can do.
        message: String,
    },
    /// Never came to be. Holds no capacity, port or name; kept for a while so that its owner can
    /// read why.
    Failed {
        /// The stable code of what happened.
        code: ErrorCode,
        /// What happened.
        message: String,
    },
}

/// What a VM is to be when it is down. Kept with the state, so that whoever carries on after a crash
/// arrives where it was meant to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterStop {
    /// Down.
    Stopped {
        /// Why, if the provider wants it.
        reason: Option<String>,
    },
    /// Up again.
    Started,
    /// Kept for the grace period.
    Retained {
        /// How it came to that.
        reason: String,
    },
    /// As it was when a snapshot was made of it.
    Restored {
        /// Which.
        snapshot: SnapshotName,
        /// Whether it runs then, also without the memory of that time.
        run: bool,
    },
}

impl VmState {
    /// Stopped as it was asked to be, or by itself.
    pub const STOPPED: Self = Self::Stopped { reason: None };

    /// The word in the database.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            // A table made by an earlier release knows no other word for them; other columns tell them apart.
            Self::Retained { .. } | Self::Suspended => "stopped",
            Self::Suspending => "stopping",
            _ => self.stage().as_str(),
        }
    }

    /// What the history calls it.
    #[must_use]
    pub const fn stage(&self) -> VmStage {
        match self {
            Self::Creating => VmStage::Creating,
            Self::Starting => VmStage::Starting,
            Self::Running => VmStage::Running,
            Self::Stopping { .. } => VmStage::Stopping,
            Self::Stopped { .. } => VmStage::Stopped,
            Self::Suspending => VmStage::Suspending,
            Self::Suspended => VmStage::Suspended,
            Self::Retained { .. } => VmStage::Retained,
            Self::Destroying => VmStage::Destroying,
            Self::Error { .. } => VmStage::Error,
            Self::Failed { .. } => VmStage::Failed,
        }
    }

    /// What the wire calls it.
    #[must_use]
    pub const fn status(&self) -> VmStatus {
        match self {
            Self::Creating | Self::Starting => VmStatus::Creating,
            Self::Running => VmStatus::Running,
            Self::Stopping { .. } | Self::Suspending => VmStatus::Stopping,
            Self::Stopped { .. } | Self::Suspended | Self::Retained { .. } => VmStatus::Stopped,
            Self::Destroying => VmStatus::Deleted,
            Self::Error { .. } | Self::Failed { .. } => VmStatus::Error,
        }
    }

    /// What went wrong, where something did.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Stopped { reason } | Self::Stopping { next: AfterStop::Stopped { reason } } => {
                reason.as_deref()
            }
            Self::Retained { reason, .. }
            | Self::Stopping { next: AfterStop::Retained { reason } } => Some(reason),
            Self::Error { message } | Self::Failed { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Whether it holds capacity, a port and a name.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        !matches!(self, Self::Failed { .. })
    }
}
