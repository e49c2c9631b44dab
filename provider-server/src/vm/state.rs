//! The states of a VM, each with what exists only in it.

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::VmStatus;

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
    Stopping,
    /// Down; its disk is kept.
    Stopped {
        /// Why the provider stopped it, if it did that by itself.
        reason: Option<String>,
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

impl VmState {
    /// Stopped as it was asked to be, or by itself.
    pub const STOPPED: Self = Self::Stopped { reason: None };

    /// The word in the database.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped { .. } => "stopped",
            Self::Destroying => "destroying",
            Self::Error { .. } => "error",
            Self::Failed { .. } => "failed",
        }
    }

    /// What the wire calls it.
    #[must_use]
    pub const fn status(&self) -> VmStatus {
        match self {
            Self::Creating | Self::Starting => VmStatus::Creating,
            Self::Running => VmStatus::Running,
            Self::Stopping => VmStatus::Stopping,
            Self::Stopped { .. } => VmStatus::Stopped,
            Self::Destroying => VmStatus::Deleted,
            Self::Error { .. } | Self::Failed { .. } => VmStatus::Error,
        }
    }

    /// What went wrong, where something did.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Stopped { reason } => reason.as_deref(),
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
