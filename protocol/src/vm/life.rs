//! Snapshots, clones and other sizes of VMs that exist.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::messages::valid_keys;
use super::{LeaseRequest, SshPublicKey, VmName, VmResources};
use crate::problem::FieldError;
use crate::time::Timestamp;

/// Most snapshots that one VM can have.
pub const MAX_SNAPSHOTS: usize = 8;

/// The rule for names of snapshots, in words.
pub const SNAPSHOT_NAME_RULE: &str =
    "1 to 32 characters a-z, 0-9 and '-', beginning and ending with a letter or digit";

/// A text that is not a snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot's name is {SNAPSHOT_NAME_RULE}")]
pub struct SnapshotNameError;

/// What the owner of a VM calls one of its snapshots: see [`SNAPSHOT_NAME_RULE`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = SnapshotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let legal = (1..=32).contains(&bytes.len())
            && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| plain(*byte))
            && bytes.last().is_some_and(|byte| plain(*byte));
        if legal { Ok(Self(text.to_owned())) } else { Err(SnapshotNameError) }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for SnapshotName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SnapshotName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `POST /api/v1/vms/{name}/snapshots`, as it arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateSnapshot {
    /// What it is to be called; see [`SNAPSHOT_NAME_RULE`].
    pub name: String,
}

impl CreateSnapshot {
    /// The name.
    ///
    /// # Errors
    /// The wrong field, and what would be right.
    pub fn validate(&self) -> Result<SnapshotName, Vec<FieldError>> {
        self.name
            .parse()
            .map_err(|error: SnapshotNameError| vec![FieldError::new("/name", error.to_string())])
    }
}

/// One snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSnapshot {
    /// What it is called.
    pub name: SnapshotName,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Whether it has the VM's memory too: going back to it, the VM runs on as it ran then.
    pub with_memory: bool,
    /// How big the VM was. It can't be taken back to it while its disk is another size or, with memory,
    /// while anything of its size is another.
    pub resources: VmResources,
    /// Bytes that it takes on the provider's disk, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// `GET /api/v1/vms/{name}/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSnapshots {
    /// The VM's id.
    pub vm_id: String,
    /// The oldest first.
    pub snapshots: Vec<VmSnapshot>,
}

/// `POST /api/v1/vms/{name}/clone`, as it arrives: a new VM of the same size, whose disk begins as the
/// other's is now. It has its own id, port, host key and lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneVm {
    /// The new VM's name.
    pub name: String,
    /// The key that may log in. Without this and `ssh_keys`, those of the other VM.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ssh_key: String,
    /// Further keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// For how long, and what happens then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseRequest>,
}

/// A [`CloneVm`] whose fields are all as they have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidClone {
    /// The new VM's name.
    pub name: VmName,
    /// The keys that may log in, each once; none: those of the other VM.
    pub ssh_keys: Vec<SshPublicKey>,
    /// For how long, and what happens then.
    pub lease: LeaseRequest,
}

impl CloneVm {
    /// Checks every field.
    ///
    /// # Errors
    /// All wrong fields, each with a JSON pointer and what would be right.
    pub fn validate(&self) -> Result<ValidClone, Vec<FieldError>> {
        let mut errors = Vec::new();
        let name = self.name.parse::<VmName>();
        if let Err(error) = &name {
            errors.push(FieldError::new("/name", error.to_string()));
        }
        let ssh_keys = if self.ssh_key.is_empty() && self.ssh_keys.is_empty() {
            Vec::new()
        } else {
            valid_keys(&self.ssh_key, &self.ssh_keys, &mut errors)
        };
        let lease = self.lease.unwrap_or_default();
        errors.extend(lease.errors("/lease"));
        match name {
            Ok(name) if errors.is_empty() => Ok(ValidClone { name, ssh_keys, lease }),
            _ => Err(errors),
        }
    }
}

/// `POST /api/v1/vms/{name}/resize`, as it arrives. Names the size and not the difference, so that it can be
/// repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeVm {
    /// How big the VM is to be, in whole numbers. Its disk is never made smaller.
    #[serde(deserialize_with = "super::resources::whole_size")]
    pub resources: VmResources,
}

impl ResizeVm {
    /// The size.
    ///
    /// # Errors
    /// All wrong fields, each with a JSON pointer and what would be right.
    pub fn validate(&self) -> Result<VmResources, Vec<FieldError>> {
        let errors = self.resources.size_errors("/resources");
        if errors.is_empty() { Ok(self.resources) } else { Err(errors) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn snapshot_names_follow_the_rule() {
        for good in ["a", "1", "before-upgrade", &"a".repeat(32), "a--b"] {
            assert_eq!(good.parse::<SnapshotName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "..", "ü", &"a".repeat(33)] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_clone_needs_a_name_and_may_have_keys() {
        let clone: CloneVm = serde_json::from_str(r#"{"name":"second"}"#).unwrap();
        let valid = clone.validate().unwrap();
        assert!(valid.ssh_keys.is_empty());
        let wrong: CloneVm = serde_json::from_str(r#"{"name":"X","ssh_key":"nope"}"#).unwrap();
        let pointers: Vec<_> =
            wrong.validate().unwrap_err().into_iter().map(|error| error.pointer).collect();
        assert_eq!(pointers, ["/name", "/ssh_key"]);
    }

    #[test]
    fn a_size_is_one_that_is_offered() {
        let read = |text: &str| serde_json::from_str::<ResizeVm>(text);
        let good = read(r#"{"resources":{"cpu":2,"memory":"4","storage":20.0}}"#).unwrap();
        assert_eq!(good.validate().unwrap().memory, 4);
        let odd = read(r#"{"resources":{"cpu":3,"memory":4,"storage":20}}"#).unwrap();
        assert_eq!(odd.validate().unwrap_err()[0].pointer, "/resources/cpu");
        assert!(read(r#"{"resources":{"cpu":1.5,"memory":4,"storage":20}}"#).is_err());
        assert!(read("{}").is_err());
    }
}
