//! What an instance is to be.

use std::fmt;
use std::str::FromStr;

use golem_vm_protocol::vm::SshPublicKey;
use golem_vm_protocol::{VmId, VmName};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Capabilities;
use super::ImageDigest;

/// The name of the instance behind a VM, in the backend's own tools: `golem-<vm id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(VmId);

impl InstanceId {
    /// The instance of that VM.
    #[must_use]
    pub const fn of(vm: VmId) -> Self {
        Self(vm)
    }

    /// The VM behind which it stands.
    #[must_use]
    pub const fn vm(self) -> VmId {
        self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "golem-{}", self.0)
    }
}

/// A text that names no instance of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an instance is named 'golem-' and a VM id")]
pub struct InstanceIdError;

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.strip_prefix("golem-").ok_or(InstanceIdError)?;
        id.parse().map(Self).map_err(|_| InstanceIdError)
    }
}

/// How much an instance may use. What the backend can't enforce it says in [`Capabilities`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU in thousandths of a vCPU.
    pub cpu_millis: u32,
    /// Memory in MiB; there is no swap on top.
    pub memory_mib: u64,
    /// Disk in MiB.
    pub storage_mib: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Open files of one process.
    pub open_files: u64,
}

/// Where an instance's traffic may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// To the internet.
    Internet,
    /// Nowhere.
    None,
}

impl Egress {
    /// The word in settings, in the database and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::None => "none",
        }
    }
}

impl FromStr for Egress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "internet" => Ok(Self::Internet),
            "none" => Ok(Self::None),
            other => Err(format!("'{other}' is neither internet nor none")),
        }
    }
}

/// How a workload is confined: an argument to the backend, decided by the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Where its traffic may go.
    pub egress: Egress,
}

/// What lets the requestor in: absent for workloads that nobody logs in to.
#[derive(Clone, PartialEq, Eq)]
pub struct SshAccess {
    /// The VM's host key, private half, in OpenSSH's PEM form.
    pub host_key_private: String,
    /// Its public half.
    pub host_key: SshPublicKey,
    /// The keys that may log in.
    pub authorized_keys: Vec<SshPublicKey>,
}

impl fmt::Debug for SshAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshAccess")
            .field("host_key", &self.host_key.as_str())
            .field("authorized_keys", &self.authorized_keys.len())
            .finish_non_exhaustive()
    }
}

/// Everything that a backend needs to know to make an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Its name.
    pub id: InstanceId,
    /// The host name inside.
    pub hostname: VmName,
    /// What it boots from.
    pub image: ImageDigest,
    /// How much it may use.
    pub limits: Limits,
    /// How it is confined.
    pub confinement: Confinement,
    /// Who may log in.
    pub access: Option<SshAccess>,
    /// The requestor's own cloud-init user data, for the first boot; only for a backend with
    /// [`Ability::CloudInit`](golem_vm_protocol::vm::Ability::CloudInit).
    pub user_data: Option<String>,
}

impl fmt::Debug for InstanceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceSpec")
            .field("id", &self.id)
            .field("hostname", &self.hostname)
            .field("image", &self.image)
            .field("limits", &self.limits)
            .field("confinement", &self.confinement)
            .field("access", &self.access)
            // There may be passwords in it.
            .field("user_data", &self.user_data.as_ref().map(String::len))
            .finish()
    }
}
