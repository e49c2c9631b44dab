//! What is kept of a VM's snapshots.

use golem_vm_protocol::VmResources;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{SnapshotName, VmSnapshot};

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotStage {
    /// It may be half-made.
    Making,
    /// It is whole.
    Ready,
    /// It may be half-removed.
    Removing,
}

impl SnapshotStage {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Removing => "removing",
        }
    }
}

impl std::str::FromStr for SnapshotStage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Making, Self::Ready, Self::Removing]
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| format!("unknown stage '{text}' of a snapshot"))
    }
}

/// A snapshot as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// What its VM's owner calls it.
    pub name: SnapshotName,
    /// How far it is.
    pub stage: SnapshotStage,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Whether it has the VM's memory.
    pub with_memory: bool,
    /// What the VM ran with.
    pub resources: VmResources,
    /// Bytes that it takes on the host's disk at most, where the backend can tell.
    pub bytes: Option<u64>,
}

impl SnapshotRecord {
    /// As its VM's owner sees it.
    #[must_use]
    pub fn to_wire(&self) -> VmSnapshot {
        VmSnapshot {
            name: self.name.clone(),
            created_at: self.created_at,
            with_memory: self.with_memory,
            resources: self.resources,
            bytes: self.bytes,
        }
    }

    /// Why a VM whose instance has `now` can't be taken back to it, if it can't.
    #[must_use]
    pub fn misfit(&self, now: VmResources) -> Option<String> {
        let then = self.resources;
        if then.storage != now.storage {
            return Some(format!(
                "its disk had {} GB when the snapshot {} was made, and has {} now: it can't be taken back to it",
                then.storage, self.name, now.storage
            ));
        }
        (self.with_memory && then != now).then(|| {
            format!(
                "it had {} vCPUs and {} GB of memory when the snapshot {} was made, and has {} and {} now: resize it \
                 to that first",
                then.cpu, then.memory, self.name, now.cpu, now.memory
            )
        })
    }
}

/// A snapshot that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotWanted {
    /// What it is to be called.
    pub name: SnapshotName,
    /// Makes a request that is sent twice one request.
    pub key: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vm_goes_back_to_what_fits_it() {
        let then = VmResources { cpu: 1, memory: 2, storage: 10 };
        let mut snapshot = SnapshotRecord {
            name: "first".parse().unwrap(),
            stage: SnapshotStage::Ready,
            created_at: Timestamp::from_unix_seconds(1),
            with_memory: true,
            resources: then,
            bytes: None,
        };
        assert_eq!(snapshot.misfit(then), None);
        let faster = VmResources { cpu: 2, ..then };
        assert!(snapshot.misfit(faster).unwrap().contains("resize it"));
        let larger = VmResources { storage: 20, ..then };
        assert!(snapshot.misfit(larger).unwrap().contains("10 GB"));
        snapshot.with_memory = false;
        assert_eq!(snapshot.misfit(faster), None);
        assert!(snapshot.misfit(larger).is_some());
    }
}
