//! What the owner's commands and the running provider say to each other over the control socket.

use std::collections::BTreeSet;
use std::path::PathBuf;

use golem_vm_protocol::problem::Problem;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Ability, Isolation, Lease, VmEvent, VmStatus};
use golem_vm_protocol::{KeyId, VmResources};
use serde::{Deserialize, Serialize};

use crate::backend::{Accelerator, BackendKind, Containment};
use crate::capacity::Amount;
use crate::host::HostResources;
use crate::images::ImageInfo;
use crate::images::ImageRow;
use crate::ports::CheckerReport;

/// `GET`: [`Status`].
pub const STATUS: &str = "/status";
/// `GET`: a list of [`Check`].
pub const DOCTOR: &str = "/doctor";
/// `GET`: a list of [`ImageInfo`].
pub const IMAGES: &str = "/images";
/// `POST` [`BuildImage`]: [`JobStarted`].
pub const BUILD_IMAGE: &str = "/images/build";
/// `POST` [`PullImage`]: [`JobStarted`].
pub const PULL_IMAGE: &str = "/images/pull";
/// `POST` [`ImportImage`]: [`JobStarted`].
pub const IMPORT_IMAGE: &str = "/images/import";
/// `POST` with the query [`ImageQuery`]: [`JobStarted`]; the job reads the image again.
pub const VERIFY_IMAGE: &str = "/images/{name}/verify";
/// `DELETE` with the query [`ImageQuery`]: `null`.
pub const IMAGE: &str = "/images/{name}";
/// `GET ?from=N`: [`JobProgress`]. `DELETE`: cancels it.
pub const JOB: &str = "/jobs/{id}";
/// `POST`: `null`; the provider then ends. VMs and forwarder go on.
pub const STOP: &str = "/stop";
/// `POST`: [`Purged`]; every VM is destroyed, the forwarder ended, and the provider then ends.
pub const PURGE: &str = "/purge";
/// `POST` [`Quarantine`]: [`VmLine`].
pub const QUARANTINE: &str = "/quarantine";
/// `GET` with the query [`EventsQuery`]: [`OwnerEvents`].
pub const EVENTS: &str = "/events";
/// `POST`: `null`; ports are verified again now.
pub const VERIFY_PORTS: &str = "/verify-ports";

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, with a drawback that the owner should know of.
    Warning,
    /// It keeps the provider from renting out.
    Bad,
}

/// One thing that `golem-provider doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `engine`, `clock`, `disk`, `ports`, `limits`, `containment`, …
    pub subject: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; absent when the verdict is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    /// A check that came out well.
    pub fn good(subject: &str, found: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            verdict: Verdict::Good,
            found: found.into(),
            remedy: None,
        }
    }

    /// A check with a drawback.
    pub fn warning(subject: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (found, remedy) = (found.into(), Some(remedy.into()));
        Self { subject: subject.to_owned(), verdict: Verdict::Warning, found, remedy }
    }

    /// A check that failed.
    pub fn bad(subject: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::warning(subject, found, remedy) }
    }
}

/// How this machine is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HostUse {
    /// What there is, and what is free of it.
    #[serde(flatten)]
    pub resources: HostResources,
    /// CPU in percent of all CPUs, over the last fraction of a second.
    pub cpu_percent: f32,
}

/// The ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityStatus {
    /// What is offered in all.
    pub offered: Amount,
    /// What is reserved.
    pub reserved: Amount,
    /// What is free.
    pub free: Amount,
}

/// One VM, as the provider's owner sees it: nothing of what is inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmLine {
    /// Its id.
    pub id: String,
    /// Its owner: a key's id, or `unsigned`.
    pub owner: String,
    /// The owner's name for it.
    pub name: String,
    /// Its state.
    pub status: VmStatus,
    /// Why, where something went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it is cut off from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_at: Option<Timestamp>,
    /// For how long it is rented, and until when it is kept if it is only kept.
    pub lease: Lease,
    /// Its access port.
    pub ssh_port: u16,
    /// Its size.
    pub resources: VmResources,
    /// What it boots from.
    pub image: String,
    /// What made it.
    pub backend: BackendKind,
    /// The name of its instance in the backend's own tools.
    pub instance: String,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// An instance that belongs to no VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanLine {
    /// Its name in the backend's own tools.
    pub instance: String,
    /// When it was noticed.
    pub first_seen_at: Timestamp,
    /// In how many seconds it is removed, at the earliest.
    pub removed_in_seconds: u64,
}

/// Which part of the histories of all VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Only of VMs with this id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// What follows the event with this id; without it, the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most so many, 1 to 1000.
    pub limit: u32,
    /// For how many seconds to wait until there is one, at most 20.
    #[serde(default)]
    pub wait_seconds: u64,
}

/// Parts of the histories of all VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerEvents {
    /// The oldest first.
    pub events: Vec<OwnerEvent>,
}

/// What happened to one VM, as the provider's owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerEvent {
    /// Rises over all VMs of the provider.
    pub id: i64,
    /// The VM's id, also where its owner knows it by name only.
    pub vm: String,
    /// Its owner's name for it.
    pub name: String,
    /// Its owner: a key's id, or `unsigned`.
    pub owner: String,
    /// What its owner sees of it.
    pub event: VmEvent,
}

/// Cuts a VM off from all network, or lets it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Its id, its instance's name, or its name where only one VM has that.
    pub vm: String,
    /// Whether it is cut off from now on.
    pub cut_off: bool,
}

/// The access ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsStatus {
    /// First port of the range.
    pub first: u16,
    /// Last port of the range, itself included.
    pub last: u16,
    /// How many are held by the forwarder.
    pub bound: u32,
    /// How many may be handed out.
    pub usable: u32,
    /// How many lead to VMs.
    pub in_use: u32,
    /// Whether ports are verified from outside at all.
    pub verified_from_outside: bool,
    /// When they were verified last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// By whom: what each port checker found.
    #[serde(default)]
    pub checkers: Vec<CheckerReport>,
    /// What is wrong, in sentences.
    pub problems: Vec<String>,
}

/// Advertising at one discovery server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// Which.
    pub url: String,
    /// When it last took our advertisement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
    /// The sequence it then took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Why the last try failed, or why nothing is advertised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One backend of the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Which.
    pub backend: BackendKind,
    /// How many VMs it made that there are.
    pub vms: usize,
    /// Why it makes no VMs now, and those that it made can't be handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// What it can do, unless it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can: Option<BackendCan>,
}

/// What a backend can do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCan {
    /// Its version, in its own words.
    pub version: String,
    /// How its VMs are kept apart from the host.
    pub isolation: Isolation,
    /// What runs virtual machines' processors, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<Accelerator>,
    /// Which limits are enforced.
    pub enforced: Vec<String>,
    /// What it can do that not every backend can.
    pub abilities: BTreeSet<Ability>,
    /// Whether guests are contained.
    pub containment: Containment,
    /// Whether strangers get VMs of it.
    pub serves_strangers: bool,
    /// Why nothing can be said of VMs that are not seen on it, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How the provider is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The provider's key.
    pub provider_id: KeyId,
    /// Its label.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Where the API listens.
    pub api: String,
    /// The advertised host, once known.
    pub public_host: Option<String>,
    /// What makes VMs, the first one for those who ask for nothing else.
    pub backends: Vec<BackendStatus>,
    /// Whether strangers are served.
    pub open_to_strangers: bool,
    /// This machine.
    pub host: HostUse,
    /// The ledger.
    pub capacity: CapacityStatus,
    /// The access ports.
    pub ports: PortsStatus,
    /// Where it is advertised.
    pub discovery: Vec<DiscoveryStatus>,
    /// The images.
    pub images: Vec<ImageInfo>,
    /// The VMs.
    pub vms: Vec<VmLine>,
    /// Instances that carry this provider's label, and belong to no VM.
    #[serde(default)]
    pub orphans: Vec<OrphanLine>,
}

/// Builds an image that the program knows how to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildImage {
    /// Its name, or one of its other names.
    pub name: String,
    /// For which backend; else for the provider's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
}

/// Fetches an image from a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullImage {
    /// `registry/name:tag` or `…@sha256:…`.
    pub reference: String,
    /// What to call it; else a name that follows from the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The checksum that is demanded: 64 hexadecimal digits of SHA-256, or 128 of SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// For which backend; else for the provider's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
}

/// Takes a disk file of the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportImage {
    /// Where it is, from `/`.
    pub file: PathBuf,
    /// What to call it; else the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For which backend; else for the provider's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
}

/// Of which backend an image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageQuery {
    /// Which; needed only where several have one of that name.
    #[serde(default)]
    pub backend: Option<BackendKind>,
}

/// Long work has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStarted {
    /// Asks about it: [`JOB`].
    pub job: u64,
}

/// How far long work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// The lines from the one that was asked for on.
    pub lines: Vec<String>,
    /// The number of the line behind the last one: ask from there the next time.
    pub next: usize,
    /// Absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
}

/// How long work ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobOutcome {
    /// With an image.
    Done(ImageRow),
    /// Without.
    Failed(Problem),
}

/// What a purge removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Ids of the VMs that are gone.
    pub vms: Vec<String>,
    /// Names of the images that are gone.
    pub images: Vec<String>,
    /// What could not be removed, in sentences.
    pub problems: Vec<String>,
}
