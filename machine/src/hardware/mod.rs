//! What a machine is made of, and QEMU's arguments for it: pure.
//!
//! A machine that is resumed from a template has to be made of exactly what the template was made of; so devices
//! have fixed places, and all that a machine may ever need is in it from the beginning. What may differ between the
//! two is said at each field.

mod architecture;
mod arguments;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::accel::{Accelerator, Qemu};

pub use architecture::Architecture;
pub use arguments::arguments;

/// What QEMU may not do: all that it can be denied. Not to be combined with `-daemonize` and `-runas`, which need it.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The directory of the machine's files, as QEMU sees it.
pub const GUEST_DIRECTORY: &str = "/mnt/vm";
/// Where QEMU writes what the guest says on its serial port: a small file system of its own, so that no guest fills
/// the disk with it.
pub const LOG_DIRECTORY: &str = "/mnt/log";
/// What the guest has said on its serial port, in [`LOG_DIRECTORY`].
pub const CONSOLE_LOG: &str = "console.log";
/// The monitor's socket, in [`GUEST_DIRECTORY`] as the others.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The serial port's socket.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The socket of the guest agent's port.
pub const AGENT_SOCKET: &str = "agent.sock";
/// The guest agent's port, as the guest sees it: `/dev/virtio-ports/org.golem.agent`.
pub const AGENT_PORT: &str = "org.golem.agent";
/// The node of the machine's disk in QEMU's graph of block devices: for snapshots.
pub const DISK_NODE: &str = "disk";
/// The node above it, which holds back what is too fast: for growing the disk.
pub const DISK_TOP_NODE: &str = "disk-limited";
/// The object that is the machine's memory.
pub const MEMORY_OBJECT: &str = "ram";

/// How many MiB of translated code QEMU keeps without KVM. Less makes guests slower; more makes processes bigger.
pub const TRANSLATION_MIB: u64 = 64;

/// The QEMU that runs a machine, and with what: the same in a template and in what is resumed from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The program.
    pub qemu: Qemu,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
}

impl Platform {
    /// The processor's model as QEMU is told it.
    #[must_use]
    pub const fn cpu(&self) -> &'static str {
        self.qemu.architecture.cpu(self.accelerator)
    }
}

/// How big a machine is: the same in a template and in what is resumed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Size {
    /// Virtual processors, at least 1.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// Where the machine's memory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Nowhere else.
    Private,
    /// In this file, as QEMU sees it, for others to be resumed from.
    Shared(PathBuf),
    /// Read from this file, as QEMU sees it; what is written is the machine's own.
    CopyOf(PathBuf),
}

/// What kind of file a disk is. Never guessed from what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's own.
    Qcow2,
    /// The disk's bytes.
    Raw,
}

/// One file of those that a disk is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The file, as QEMU sees it.
    pub file: PathBuf,
    /// What it is.
    pub format: Format,
}

/// How fast a disk may be, with bursts of a second. May differ from the template's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpeed {
    /// Bytes per second, read and written together.
    pub bytes: u64,
    /// Requests per second.
    pub requests: u64,
}

/// A machine's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The file that is written to, then those below it down to the image. What their headers name is not followed.
    /// A machine that is resumed from a template has one more on top.
    pub layers: Vec<Layer>,
    /// How fast it may be.
    pub speed: Option<DiskSpeed>,
}

/// A machine's network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The tap device in the namespace in which QEMU runs. May differ from the template's.
    pub tap: String,
    /// Its address, six bytes in hexadecimal. What the guest uses after it was resumed is the agent's business.
    pub mac: String,
}

/// What is started instead of the disk's own boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectBoot {
    /// The kernel, as QEMU sees it.
    pub kernel: PathBuf,
    /// Its first file system.
    pub initrd: PathBuf,
    /// Its command line.
    pub append: String,
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// What people see in lists of processes; no commas. May differ from the template's.
    pub name: String,
    /// The machine's own number, in the form of a UUID. May differ from the template's.
    pub uuid: String,
    /// How big it is.
    pub size: Size,
    /// Where its memory is.
    pub memory: Memory,
    /// Its disk; none only in trials.
    pub disk: Option<Disk>,
    /// The seed: a disk that is only read, as QEMU sees it. Its content may differ from the template's, its length
    /// may not.
    pub seed: Option<PathBuf>,
    /// Its network card.
    pub nic: Option<Nic>,
    /// What it boots instead of its disk, in trials.
    pub direct_boot: Option<DirectBoot>,
}

/// How QEMU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It switches the machine on.
    Boot,
    /// It waits for a machine's state, which is asked for over the monitor (`migrate-incoming`).
    Incoming,
    /// It waits to be told to go on, before the machine's first instruction.
    Held,
}
