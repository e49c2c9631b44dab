//! What makes VMs on this machine.
//!
//! A backend makes *instances*: a container, a QEMU process, a Multipass instance. The rest of the
//! provider knows VMs, and never what an instance is. The trait is small, and each method says what
//! calling it twice does, because everything here is called again after a crash.
//!
//! Call order for one instance: [`ensure`](Backend::ensure) → [`start`](Backend::start) ⇄
//! [`stop`](Backend::stop) → [`destroy`](Backend::destroy); [`observe`](Backend::observe) at any time.
//! Calls for one instance never overlap: each VM has one task that makes them.
//!
//! Rarer abilities are traits of their own ([`Metering`], [`ImageStore`], [`Suspend`], [`Snapshots`], …);
//! differences between backends are data ([`Capabilities`]), found by trying.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::vm::{Ability, Isolation, SnapshotName, SshPublicKey};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::containment::TrafficGuard;

mod abilities;
pub mod at_most;
pub mod choice;
pub mod docker;
mod found;
mod image_store;
mod instance;
pub(crate) mod kept_file;
pub mod kernel_numbers;
mod measuring;
pub mod memory;
pub mod multipass;
pub mod open_files;
pub mod qemu;
mod set;

pub use abilities::{
    CloneInstance, Console, ConsoleTail, Duplex, Resize, SnapshotInfo, Snapshots, Suspend,
};
pub use choice::BackendChoice;
pub use found::Found;
pub use image_store::{
    ImageDetails, ImageDigest, ImageStore, ImageTemplate, ProgressSender, WantedImage,
};
pub use instance::{
    Confinement, Egress, InstanceId, InstanceIdError, InstanceSpec, Limits, SshAccess,
};
pub use measuring::{DiskRoom, DiskUse, DiskWatch, Metering, Usage};
pub use set::{Backends, Connected, Member, Present, Standing};

/// Which program makes the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Containers on a Docker Engine.
    Docker,
    /// Machines of their own kernel, each a QEMU process.
    Qemu,
    /// Instances of Canonical's Multipass.
    Multipass,
    /// Instances that are nothing but a description: for tests.
    Memory,
}

impl BackendKind {
    /// The word in settings, in the database and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Qemu => "qemu",
            Self::Multipass => "multipass",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BackendKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "docker" => Ok(Self::Docker),
            "qemu" => Ok(Self::Qemu),
            "multipass" => Ok(Self::Multipass),
            "memory" => Ok(Self::Memory),
            other => Err(format!("'{other}' is not a backend; known: docker, qemu, multipass")),
        }
    }
}

/// Who ended an instance that does not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// That can't be told.
    #[default]
    Unknown,
    /// The guest shut itself down, by its own will: whoever finds it so later does not start it again.
    Guest,
    /// It was stopped from outside, or has not run yet.
    Host,
}

/// How far an instance is that was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Started {
    /// It comes up: its SSH server will answer in time.
    #[default]
    Boots,
    /// Its SSH server listens: it goes on where that was seen.
    Ready,
}

/// What was seen when a backend was asked about an instance. "Could not ask" is not among them:
/// that is [`BackendError::Unavailable`], and says nothing about the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// There is no such instance.
    Absent,
    /// It is there and does not run.
    Stopped {
        /// With which code its first process ended, if it ever ran.
        exit_code: Option<i64>,
        /// Whether it was ended for using too much memory.
        out_of_memory: bool,
        /// Who ended it, as far as that can be told.
        by: EndedBy,
    },
    /// It is there and does not run, and its memory is kept: it goes on from there when it is started.
    Suspended,
    /// It runs.
    Running {
        /// Where its sshd listens, as seen from this host; changes from start to start.
        ssh: SocketAddr,
    },
    /// It is there but can't be used.
    Broken {
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a backend did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// It could not be asked: not running, no permission, no answer within the deadline. Says
    /// nothing about any instance.
    #[error("{0}")]
    Unavailable(String),
    /// The image is not there (any more).
    #[error("the image {0} is not on this machine")]
    ImageMissing(String),
    /// There is no such instance.
    #[error("there is no instance {0}")]
    NoInstance(InstanceId),
    /// The instance has no snapshot of that name.
    #[error("there is no snapshot {0}")]
    NoSnapshot(SnapshotName),
    /// The instance can't go on from the memory that is kept, which is still there:
    /// [`Suspend::forget`] throws it away, and then it boots.
    #[error("it can't go on from its kept memory: {0}")]
    MemoryLost(String),
    /// It was asked and refused or failed.
    #[error("{0}")]
    Failed(String),
}

impl BackendError {
    /// Whether it could not be asked.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// One thing that was tried at the start, and what came of it; shown by `golem-provider doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was tried (`memory limit`, `user namespaces`, …).
    pub subject: String,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it, where something can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn good(subject: &str, detail: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), good: true, detail: detail.into(), remedy: None }
    }

    /// It is not, and this can be done about it.
    #[must_use]
    pub fn bad(subject: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { good: false, remedy, ..Self::good(subject, detail) }
    }
}

/// Whether guests are kept from the host and its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum Containment {
    /// They are.
    Contained,
    /// They are not, and why.
    Uncontained(String),
}

/// What a backend can do here and now, found by trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// How its instances are kept apart from the host.
    pub isolation: Isolation,
    /// The backend's own name and version, for people.
    pub version: String,
    /// Which limits are enforced: of `cpu`, `memory`, `processes`, `storage`, `bandwidth`.
    pub enforced: Vec<String>,
    /// Whether guests are contained.
    pub containment: Containment,
    /// What was tried.
    pub findings: Vec<Finding>,
    /// Where the backend keeps the instances' disks, if that is on this machine.
    #[serde(default)]
    pub data_root: Option<PathBuf>,
    /// What runs the processors of virtual machines; `None` where there are none, or that can't be told.
    #[serde(default)]
    pub accel: Option<Accelerator>,
    /// What it can do with its instances that not every backend can.
    #[serde(default)]
    pub abilities: BTreeSet<Ability>,
}

/// The word for an accelerator that is none.
const EMULATED: &str = "tcg";

/// What runs the processors of virtual machines here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// `kvm`, or `tcg` (emulation, slow): the word in advertisements.
    pub kind: String,
    /// Why this one, for the provider's owner.
    pub why: String,
}

impl Capabilities {
    /// What is known of a backend that nobody has asked yet.
    #[must_use]
    pub fn untried() -> Self {
        Self {
            isolation: Isolation::Unknown,
            version: String::new(),
            enforced: Vec::new(),
            containment: Containment::Uncontained("it was not tried".to_owned()),
            findings: Vec::new(),
            data_root: None,
            accel: None,
            abilities: BTreeSet::new(),
        }
    }

    /// Where the instances' disks are, if that is on this machine; else `otherwise`.
    #[must_use]
    pub fn vm_data(&self, otherwise: &Path) -> PathBuf {
        let root = self.data_root.clone().filter(|path| path.is_dir());
        root.unwrap_or_else(|| otherwise.to_owned())
    }

    /// The word for what runs its virtual machines' processors.
    #[must_use]
    pub fn accel_word(&self) -> Option<&str> {
        self.accel.as_ref().map(|accel| accel.kind.as_str())
    }

    /// Whether its virtual machines are emulated: the same in everything but speed.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.accel_word() == Some(EMULATED)
    }
}

/// Makes instances. See the module's documentation for the order of calls.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Which backend this is. A VM's row keeps it, and the VM is always handled by that one.
    fn kind(&self) -> BackendKind;

    /// Tries what it can do. Leaves nothing behind.
    async fn probe(&self) -> Result<Capabilities, BackendError>;

    /// What an earlier [`probe`](Self::probe) found, also one before this start of the program, if nothing
    /// that could change it has changed since; `None` where that can't be told, or nobody has tried yet. Takes
    /// a few quick calls. Whoever uses it tries anew as soon as there is time.
    async fn recall(&self) -> Result<Option<Capabilities>, BackendError> {
        Ok(None)
    }

    /// Makes sure that an instance of this spec exists, without starting it. Called again, it
    /// repairs what an interrupted call left half-made, and changes nothing otherwise.
    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), BackendError>;

    /// Starts the instance; a suspended one goes on where it was, or fails with
    /// [`BackendError::MemoryLost`]. Does nothing if it runs.
    async fn start(&self, id: InstanceId) -> Result<(), BackendError>;

    /// As [`start`](Self::start), of an instance of this spec that is being made. Says in a few words what takes its
    /// time; what was said last holds until its SSH server answers.
    async fn first_start(
        &self,
        spec: &InstanceSpec,
        _progress: ProgressSender,
    ) -> Result<Started, BackendError> {
        self.start(spec.id).await?;
        Ok(Started::Boots)
    }

    /// Makes these the keys that may log in, in place of those it was made with, whether it runs or
    /// not. Sessions that are open stay; what the guest itself allows is not touched. Called again,
    /// it changes nothing.
    async fn authorize(&self, id: InstanceId, keys: &[SshPublicKey]) -> Result<(), BackendError>;

    /// Stops the instance: asks it to end, and ends it after `grace`. Does nothing if it is
    /// stopped. Its disk is kept.
    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), BackendError>;

    /// Removes the instance and its disk. Does nothing if it is gone.
    async fn destroy(&self, id: InstanceId) -> Result<(), BackendError>;

    /// Looks at the instance.
    async fn observe(&self, id: InstanceId) -> Result<Observation, BackendError>;

    /// All instances that carry this provider's label, running or not; never another provider's.
    async fn list(&self) -> Result<Vec<InstanceId>, BackendError>;

    /// Looks at all instances that carry this provider's label. One that is not in the answer is
    /// [`Observation::Absent`].
    async fn survey(&self) -> Result<BTreeMap<InstanceId, Observation>, BackendError> {
        let mut seen = BTreeMap::new();
        for id in self.list().await? {
            seen.insert(id, self.observe(id).await?);
        }
        Ok(seen)
    }

    /// Removes what the backend keeps for this provider beside instances and images (networks,
    /// rules). Called when the provider is purged, after its instances are gone. Does nothing if
    /// there is nothing.
    async fn clean_up(&self) -> Result<(), BackendError>;

    /// Ends what it does by itself and for no instance: the program ends, and instances go on. What can't be ended now
    /// is at the next start.
    async fn rest(&self) {}

    /// Why nothing can be said of instances that are not seen, although it answers, where that is so: it is not
    /// the engine on which they were made. Its owner is told, and nothing is offered meanwhile. `None` where that
    /// can't happen.
    fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        None
    }

    /// What contains its guests' traffic, where there is such a thing. Whoever runs the backend raises
    /// it before a guest is started, and keeps it up.
    fn traffic_guard(&self) -> Option<&dyn TrafficGuard> {
        None
    }

    /// Its images.
    fn images(&self) -> &dyn ImageStore;

    /// How long one call of [`ensure`](Self::ensure) or [`start`](Self::start) may take: longer where it returns only
    /// when the guest is up. A creation has its own deadline above it.
    fn longest_start(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Its meter, if it has one.
    fn metering(&self) -> Option<&dyn Metering>;

    /// Resolves when what makes the instances goes away, from the first time that it is polled on: they may
    /// have ended with it. Never where that can't be told.
    fn interrupted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    /// What tells people inside its instances something, if it can.
    fn notifier(&self) -> Option<&dyn NotifyGuest> {
        None
    }

    /// What suspends its instances, if it can.
    fn suspend(&self) -> Option<&dyn Suspend> {
        None
    }

    /// What makes snapshots of its instances, if it can.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// What clones its instances, if it can.
    fn clones(&self) -> Option<&dyn CloneInstance> {
        None
    }

    /// What resizes its instances, if it can.
    fn resizes(&self) -> Option<&dyn Resize> {
        None
    }

    /// Its instances' consoles, if they have such a thing.
    fn console(&self) -> Option<&dyn Console> {
        None
    }

    /// What watches its instances' disks, if it has such a thing.
    fn disk_watch(&self) -> Option<&dyn DiskWatch> {
        None
    }
}

/// Tells whoever is logged in to an instance something.
#[async_trait]
pub trait NotifyGuest: Send + Sync {
    /// Shows one line to all who are logged in to the running instance. That nobody is there is no error.
    /// The guest decides whether it is shown: nothing may rely on it.
    async fn notify(&self, id: InstanceId, line: &str) -> Result<(), BackendError>;
}
