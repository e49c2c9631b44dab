//! Instances that carry this provider's label, and belong to no VM.
//!
//! There should be none: a VM's row is written before its instance is made, and removed after. One is
//! left when the database was lost or an older one was put back, or when the backend said that it had
//! removed what it had not. It takes of the host what nobody has promised, so it is noticed at once
//! (log, `status`, `doctor`), and removed after a period of grace in which the owner can put the
//! database back. Why none is adopted: docs/decisions/0010-orphans-are-removed.md.
//!
//! * What could not be asked changes nothing: neither backend nor database.
//! * The backend names only what carries this provider's id.
//! * Two answers have to agree, the rows being read in between: a VM that is just being destroyed loses
//!   its instance before its row.

mod sweeper;

use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::time::Timestamp;

use crate::backend::{BackendKind, InstanceId};
use crate::vm::VmError;

pub use sweeper::{Sweeper, Swept};
pub(crate) use sweeper::{in_time, look};

/// How long an orphan is left alone unless the owner says otherwise.
pub const USUAL_GRACE: Duration = Duration::from_secs(24 * 3600);

/// An instance without a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its name.
    pub instance: InstanceId,
    /// What made it.
    pub backend: BackendKind,
    /// When it was noticed, by the wall clock.
    pub first_seen_at: Timestamp,
    /// How long ago that is in steady time.
    pub known_for: Duration,
}

/// Where orphans are noted.
#[async_trait]
pub trait OrphanRegister: Send + Sync + 'static {
    /// Those of these instances that belong to no VM.
    ///
    /// # Errors
    /// When the database can't be read.
    async fn without_vm(&self, instances: Vec<InstanceId>) -> Result<Vec<InstanceId>, VmError>;

    /// Notes that these, and no others, are a backend's instances without a VM, and returns them with
    /// the time since each was noticed.
    ///
    /// # Errors
    /// When the database can't be written.
    async fn note(
        &self,
        backend: BackendKind,
        orphans: Vec<InstanceId>,
    ) -> Result<Vec<Orphan>, VmError>;

    /// All that are noted, oldest first.
    ///
    /// # Errors
    /// When the database can't be read.
    async fn noted(&self) -> Result<Vec<Orphan>, VmError>;
}

#[cfg(test)]
mod tests;
