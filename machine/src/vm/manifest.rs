//! What is written down of a machine, in its directory: `manifest.json`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MachineName;
use crate::hardware::{DiskSpeed, Format, Platform, Size};
use crate::network::{Access, Addressing};
use crate::process::{Group, ProcessIdentity};

/// The version that is written. One that is higher was written by a later release, and is not touched.
pub(super) const VERSION: u32 = 1;

const FILE: &str = "manifest.json";

/// One file of the host's below a machine's own disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The directory in which it is; the machine's QEMU sees it, and can only read it.
    pub directory: PathBuf,
    /// Its name there. It has to be readable for all users: the directory's parents keep them out.
    pub file: String,
    /// What it is.
    pub format: Format,
}

/// What is booted in place of the disk, in trials: `vmlinuz` and `initrd` in a directory of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direct {
    /// The directory.
    pub directory: PathBuf,
    /// The kernel's command line.
    pub append: String,
}

/// How a machine that does not run came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "detail")]
pub enum Ended {
    /// It was never started.
    Never,
    /// It was asked to stop, and did or was switched off.
    Stopped,
    /// The guest switched it off.
    GuestShutdown,
    /// The guest's kernel gave up.
    GuestPanicked,
    /// QEMU could not go on with it, and why.
    InternalError(String),
    /// QEMU ended by itself or was killed; with what it said last.
    Crashed(String),
    /// The kernel ended QEMU because it used more memory than it may.
    OutOfMemory,
    /// The host was started anew.
    HostRestarted,
}

/// A process that runs a machine, or ran it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which process it is.
    pub process: ProcessIdentity,
    /// Whether it was told to go on. One that was not ends by itself.
    pub begun: bool,
    /// What it was started as: what its snapshots can be loaded into.
    pub size: Size,
    /// The QEMU, and with what it runs the guest.
    pub platform: Platform,
    /// Its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// The process that carries its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<ProcessIdentity>,
    /// Where on this host the guest's SSH server is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SocketAddr>,
}

/// A machine's memory and devices that are kept in its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// The snapshot in which they are.
    pub tag: String,
    /// Whether the snapshot is the owner's, and stays.
    pub stays: bool,
    /// As what it has to be taken up.
    pub size: Size,
    /// By what.
    pub platform: Platform,
}

/// A machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its addresses.
    pub addressing: Addressing,
    /// Where its traffic may go, when it is not cut off.
    pub access: Access,
}

/// What a machine is being resumed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resuming {
    /// The template's directory.
    pub template: PathBuf,
    /// Its memory, where the program has it that resumes the machine.
    pub memory: PathBuf,
}

/// Everything that is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the form of this file.
    pub version: u32,
    /// What it is called.
    pub name: MachineName,
    /// Its number, as a UUID.
    pub uuid: String,
    /// The user that it runs as, where it has one of its own.
    pub user: Option<u32>,
    /// How big it is from the next start on.
    pub size: Size,
    /// CPU in thousandths of a processor, from the next start on.
    pub cpu_millis: u32,
    /// Bytes of its disk. What is on disk is never less after a resize has ended well.
    pub disk_bytes: u64,
    /// How fast its disk may be.
    pub speed: Option<DiskSpeed>,
    /// What is below its own disk, from the top to the image.
    pub base: Vec<Base>,
    /// Its network; none in trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What is booted in trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// Whether disk and seed are all there.
    pub made: bool,
    /// Whether its disk began as another machine's: what is in it is lost if that is made anew, and no template's memory
    /// goes with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
    /// Whether our agent is in its image.
    pub has_agent: bool,
    /// The state in its disk from which it goes on at its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspended>,
    /// Whether it becomes a template: its memory is then in a file of its directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub becomes_template: bool,
    /// What it is being resumed from. It is nobody yet: when this was cut off, it is made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resuming: Option<Resuming>,
    /// The owner's snapshots with memory: as what each has to be taken up. Some may not be in the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Suspended>,
    /// The process, from before it begins until its end was seen.
    pub run: Option<Run>,
    /// How the last one ended.
    pub ended: Ended,
}

impl Manifest {
    /// Reads the one in that directory; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read or understood, or was written by a later release.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        let file = directory.join(FILE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let broken = |why: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", file.display()))
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if version != VERSION {
            return Err(broken(format!(
                "has version {version}, and this program knows {VERSION}; run the release that wrote it"
            )));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| broken(error.to_string()))
    }

    /// Writes it, whole or not at all, so that it is there after a failure of power too.
    ///
    /// # Errors
    /// When it can't be written; the earlier one is there then.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let new = directory.join("manifest.json.new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, directory.join(FILE))?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::accel::{Accelerator, Qemu};
    use crate::hardware::Architecture;

    pub(in crate::vm) fn manifest() -> Manifest {
        let size = Size { vcpus: 1, memory_mib: 256 };
        Manifest {
            version: VERSION,
            name: "golem-vm_1".parse().unwrap(),
            uuid: "00000000-0000-4000-8000-000000000001".to_owned(),
            user: Some(1_900_000_000),
            size,
            cpu_millis: 1000,
            disk_bytes: 1 << 30,
            speed: None,
            base: vec![Base {
                directory: "/images/x".into(),
                file: "disk.qcow2".to_owned(),
                format: Format::Qcow2,
            }],
            network: None,
            direct: None,
            made: true,
            copied: false,
            has_agent: true,
            suspended: None,
            becomes_template: false,
            resuming: None,
            snapshots: Vec::new(),
            run: Some(Run {
                process: ProcessIdentity { pid: 7, start: 8, boot: "b".to_owned() },
                begun: true,
                size,
                platform: Platform {
                    qemu: Qemu {
                        binary: "/usr/bin/qemu-system-x86_64".into(),
                        version: "7.2.22".to_owned(),
                        architecture: Architecture::X86_64,
                        machine: "pc-q35-7.2".to_owned(),
                    },
                    accelerator: Accelerator::Tcg,
                },
                group: None,
                uplink: None,
                ssh: None,
            }),
            ended: Ended::Crashed("x".to_owned()),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_none_else() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(directory.path()).unwrap(), None);
        manifest().save(directory.path()).unwrap();
        manifest().save(directory.path()).unwrap();
        assert_eq!(Manifest::load(directory.path()).unwrap(), Some(manifest()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let later = serde_json::json!({ "version": VERSION + 1, "new": true }).to_string();
        fs::write(directory.path().join(FILE), later).unwrap();
        let refused = Manifest::load(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("version 2"), "{refused}");
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(Manifest::load(directory.path()).is_err());
    }
}
