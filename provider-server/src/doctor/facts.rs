//! What `doctor` looks at, gathered before it is judged.

use std::path::PathBuf;
use std::time::Duration;

use golem_vm_protocol::time::Timestamp;

use crate::backend::{BackendChoice, BackendKind, Capabilities, InstanceId, choice};
use crate::capacity::{Amount, Books};
use crate::control::messages::{DiscoveryStatus, PortsStatus};
use crate::forwarder::wire::Hello;
use crate::host::HostResources;
use crate::images::ImageInfo;

/// Everything that was found, with "could not be found out" kept apart from "is not so".
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the owner set to make VMs.
    pub choice: BackendChoice,
    /// The backends that this could be, and those that have something of this provider.
    pub backends: Vec<BackendFacts>,
    /// Who is served.
    pub trust: Trust,
    /// The images, or why they could not be listed.
    pub images: Result<Vec<ImageInfo>, String>,
    /// What a VM boots from when nothing is asked for.
    pub default_image: String,
    /// This machine's clock.
    pub clock: ClockFacts,
    /// The provider's key.
    pub key: KeyFacts,
    /// The machine, measured where the VMs' data is; or why it could not be measured.
    pub host: Result<HostResources, String>,
    /// A directory on the file system that holds the VMs' data.
    pub vm_data: PathBuf,
    /// The provider's own directory, where it is on another file system than the VMs' data.
    pub own_disk: Option<DiskFacts>,
    /// The ledger.
    pub capacity: CapacityFacts,
    /// What the database says of what is reserved; `None` when it could not be read.
    pub books: Option<Books>,
    /// The instances of each backend compared with its VMs, or why they could not be; none without a database.
    pub instances: Vec<(BackendKind, Result<InstanceFacts, String>)>,
    /// VMs that the provider itself has stopped: name and reason.
    pub stopped: Vec<(String, String)>,
    /// The forwarder.
    pub forwarder: ForwarderFacts,
    /// The ports.
    pub ports: PortsFacts,
    /// The port checkers that are set, asked for their health.
    pub checkers: Vec<Peer>,
    /// The discovery servers that are set, asked for their health.
    pub discovery: Vec<Peer>,
    /// What became of the last advertisements; empty when the provider does not run.
    pub advertised: Vec<DiscoveryStatus>,
    /// Whether the provider runs.
    pub running: bool,
}

/// One backend, asked.
#[derive(Debug, Clone)]
pub struct BackendFacts {
    /// Which.
    pub kind: BackendKind,
    /// What it can do, or why it could not be asked.
    pub found: Result<Capabilities, String>,
    /// Whether it has VMs or images of this provider.
    pub in_use: bool,
}

impl Facts {
    /// What was found of each backend.
    #[must_use]
    pub fn asked(&self) -> Vec<(BackendKind, Result<Capabilities, String>)> {
        self.backends.iter().map(|one| (one.kind, one.found.clone())).collect()
    }

    /// The backends that this provider uses, or would use if it were started now.
    #[must_use]
    pub fn used(&self) -> Vec<&BackendFacts> {
        let taken = match &self.choice {
            BackendChoice::Named(kinds) => kinds.clone(),
            BackendChoice::Auto => choice::take(&self.asked()).into_iter().collect(),
        };
        self.backends.iter().filter(|one| one.in_use || taken.contains(&one.kind)).collect()
    }

    /// Whether that backend could be asked.
    #[must_use]
    pub fn answers(&self, kind: BackendKind) -> bool {
        self.backends.iter().any(|one| one.kind == kind && one.found.is_ok())
    }
}

/// Who is served where guests are not contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// `GOLEM_PROVIDER_ALLOW_UNCONTAINED`.
    pub allow_uncontained: bool,
    /// How many requestors are in `GOLEM_PROVIDER_TRUSTED_REQUESTORS`.
    pub trusted: usize,
}

/// This machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockFacts {
    /// What it says.
    pub now: Timestamp,
    /// When the provider's key was written, by the same clock.
    pub key_written: Option<Timestamp>,
}

/// The file that holds the provider's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is there (`Ok(false)`: it is made at the first start), or why it can't be used.
    pub state: Result<bool, String>,
}

/// How full a file system is, in MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// A directory on it.
    pub path: PathBuf,
    /// What an unprivileged user could still write.
    pub free_mib: u64,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct CapacityFacts {
    /// What is offered in all, or why the offer is not accepted.
    pub offered: Result<Amount, String>,
    /// What is reserved; `None` when the database could not be read.
    pub reserved: Option<Amount>,
    /// How many times the host's disk may be promised.
    pub overcommit_storage: f64,
}

/// What the backend has, compared with the VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceFacts {
    /// How many instances there are.
    pub count: usize,
    /// Those that belong to no VM, and how long ago the provider noticed them, if it has.
    pub orphans: Vec<(InstanceId, Option<Duration>)>,
    /// VMs that should have one and have none: names, for people.
    pub missing: Vec<String>,
    /// How long after they were noticed orphans are removed.
    pub grace: Duration,
}

/// The forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwarderFacts {
    /// Its program, or where it was looked for in vain.
    pub program: Result<PathBuf, String>,
    /// Who answers on its socket (`Ok(None)`: nobody), or what is wrong with the answer.
    pub hello: Result<Option<Hello>, String>,
    /// Another build than the running one, that it could become.
    pub successor: Option<PathBuf>,
}

/// The ports, as far as they can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsFacts {
    /// The running provider says.
    Known(PortsStatus),
    /// Looked at from here, without a provider.
    Looked(LookedAtPorts),
}

/// Ports that were tried from here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookedAtPorts {
    /// First access port.
    pub first: u16,
    /// Last access port, itself included.
    pub last: u16,
    /// How many the forwarder holds.
    pub held: u32,
    /// How many are free to be held.
    pub free: u32,
    /// Those that can't be had, the API's among them.
    pub taken: Vec<TakenPort>,
    /// Whether ports are to be verified from outside.
    pub verify: bool,
}

/// A port that can't be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPort {
    /// Which.
    pub port: u16,
    /// Whether it is the API's.
    pub is_api: bool,
    /// The system's words.
    pub reason: String,
    /// The program that has it, where that can be told.
    pub by: Option<String>,
}

/// Another server, asked for its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address, as set.
    pub url: String,
    /// How many seconds this machine's clock is ahead of its (`None`: it did not say), or why it
    /// could not be asked.
    pub answer: Result<Option<i64>, String>,
}
