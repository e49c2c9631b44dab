//! Machines by QEMU: a thin layer over the crate `golem-vm-machine`, which knows nothing of VMs' owners.
//!
//! | module | what it holds |
//! |---|---|
//! | `starting` | resuming or booting, and what is said of it |
//! | `spec` | what a machine is to be, from what an instance is to be (pure) |
//! | `probe` | what can be done here, found by trying |
//! | `guard` | the rules of guests' networks, kept up |
//! | `abilities` | suspend and its like |
//! | `console` | the serial port |
//! | `metering` | what machines use |
//! | `images` | what machines boot from |
//! | `templates` | what they are resumed from |

mod abilities;
mod console;
mod guard;
mod images;
mod metering;
mod probe;
mod spec;
mod starting;
mod templates;
#[cfg(all(test, feature = "qemu"))]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_machine::accel::Choice;
use golem_vm_machine::disk::DiskTool;
use golem_vm_machine::image::{Image, ImageStore as Images};
use golem_vm_machine::network::Rules;
use golem_vm_machine::vm::{Ended, MachineError, Machines, State};
use golem_vm_protocol::vm::SshPublicKey;

use super::{
    Backend, BackendError, BackendKind, Capabilities, CloneInstance, Console, EndedBy, ImageDigest,
    ImageStore, InstanceId, InstanceSpec, Metering, NotifyGuest, Observation, ProgressSender,
    Resize, Snapshots, Started, Suspend,
};
use crate::containment::TrafficGuard;

/// What it can do on a host that has all that is needed, as root or as an ordinary user without control groups.
pub(super) fn at_most(as_root: bool) -> super::at_most::AtMost {
    probe::at_most(as_root)
}

/// Where things are kept in the provider's directory.
const DIRECTORY: &str = "qemu";
/// Longest that the program's end may wait for the end of what it does by itself. Usual is a second.
const REST: Duration = Duration::from_secs(15);

/// What the owner decided that matters to machines.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Guests' traffic. Without resolvers guests ask the host's own.
    pub rules: Rules,
    /// MiB of the file system that stay free, whatever is promised.
    pub disk_reserve_mib: u64,
    /// MiB that templates may take.
    pub templates_mib: u64,
}

/// One provider's machines.
#[derive(Debug)]
pub struct QemuBackend {
    machines: Arc<Machines>,
    resuming: templates::Resuming,
    images: Images,
    directory: PathBuf,
    choice: Choice,
    owner: Owner,
    guard: guard::State,
    consoles: console::Attached,
    /// Held while disk is promised.
    promising: tokio::sync::Mutex<()>,
    /// Held while an image is built.
    builds: tokio::sync::Mutex<()>,
}

impl QemuBackend {
    /// For the provider whose directory this is. Tries whether hardware virtualisation works, unless that is known;
    /// it takes up to 10 s where that only seems so.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] when there is no QEMU, or its directories can't be made.
    pub async fn connect(data_dir: &Path, owner: Owner) -> Result<Self, BackendError> {
        let directory = data_dir.join(DIRECTORY);
        let (platform, choice) = probe::platform(&directory).await?;
        let disks = DiskTool::default();
        let images = Images::open(&directory.join("images"), disks.clone());
        let images = images.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let settings = golem_vm_machine::vm::Settings {
            root: directory.join("machines"),
            platform,
            groups: golem_vm_machine::process::Groups::find(),
            disks,
            hidden: vec![data_dir.to_owned()],
            rules: owner.rules.clone(),
        };
        let machines = Arc::new(Machines::open(settings).map_err(unavailable)?);
        let budget = owner.templates_mib << 20;
        let resuming =
            templates::Resuming::begin(&directory.join("templates"), budget, &machines, &images)?;
        Ok(Self {
            machines,
            resuming,
            images,
            directory,
            choice,
            owner,
            guard: guard::State::default(),
            consoles: console::Attached::default(),
            promising: tokio::sync::Mutex::default(),
            builds: tokio::sync::Mutex::default(),
        })
    }

    fn image(&self, digest: &ImageDigest) -> Result<Image, BackendError> {
        let missing = || BackendError::ImageMissing(digest.to_string());
        let found = self.images.get(&digest.as_str().parse().map_err(|_| missing())?);
        let found = found.map_err(|error| {
            BackendError::Unavailable(format!("the image {digest} can't be looked at: {error}"))
        })?;
        found.ok_or_else(missing)
    }

    /// Refuses what would promise more disk than there is, less the owner's reserve. What machines have written
    /// already is taken out of what is free and out of what is promised alike.
    async fn has_room(&self, id: InstanceId, bytes: u64) -> Result<(), BackendError> {
        let name = spec::name(id)?;
        let mut open = bytes;
        for (other, promised) in self.machines.promised().map_err(failed)? {
            if other != name {
                let written = self.machines.disk_written(&other).unwrap_or(0);
                open = open.saturating_add(promised.saturating_sub(written));
            }
        }
        let free = rustix::fs::statvfs(&self.directory)
            .map(|found| found.f_bavail.saturating_mul(found.f_frsize))
            .map_err(|error| {
                BackendError::Failed(format!("{}: {error}", self.directory.display()))
            })?;
        let room = free.saturating_sub(self.owner.disk_reserve_mib << 20);
        if open > room {
            return Err(BackendError::Failed(format!(
                "its disk does not fit: {} GiB would be promised to all VMs, and {} GiB are free beyond the reserve",
                open.div_ceil(1 << 30),
                room >> 30
            )));
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for QemuBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Qemu
    }

    async fn probe(&self) -> Result<Capabilities, BackendError> {
        self.try_all().await
    }

    async fn recall(&self) -> Result<Option<Capabilities>, BackendError> {
        Ok(self.remembered())
    }

    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        let image = self.image(&spec.image)?;
        let mut wanted = spec::machine(spec, &image)?;
        let _promising = self.promising.lock().await;
        if self.machines.observe(&wanted.name).await.map_err(failed)? == State::Absent {
            self.has_room(spec.id, spec::promise(&wanted)).await?;
        }
        self.resuming.lay(&mut wanted, &image, &self.machines);
        self.machines.ensure(&wanted).await.map_err(failed)
    }

    async fn start(&self, id: InstanceId) -> Result<(), BackendError> {
        self.begin(id, None).await.map(drop)
    }

    async fn first_start(
        &self,
        spec: &InstanceSpec,
        progress: ProgressSender,
    ) -> Result<Started, BackendError> {
        self.begin(spec.id, Some((spec, &progress))).await
    }

    async fn authorize(&self, id: InstanceId, keys: &[SshPublicKey]) -> Result<(), BackendError> {
        let keys = keys.iter().map(|key| key.as_str().to_owned()).collect();
        let at_once = self.machines.authorize(&spec::name(id)?, keys).await;
        if !at_once.map_err(|error| self.explained(id, error))? {
            return Err(BackendError::Failed(
                "the guest's agent does not answer: the keys hold from the next restart on"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), BackendError> {
        self.machines.stop(&spec::name(id)?, grace).await.map_err(|error| self.explained(id, error))
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), BackendError> {
        self.consoles.end(id);
        self.machines.destroy(&spec::name(id)?).await.map_err(|error| self.explained(id, error))
    }

    async fn observe(&self, id: InstanceId) -> Result<Observation, BackendError> {
        let name = spec::name(id)?;
        let state = self.machines.observe(&name).await.map_err(failed)?;
        self.seen(id, state)
    }

    async fn list(&self) -> Result<Vec<InstanceId>, BackendError> {
        let names = self.machines.list().map_err(failed)?;
        Ok(names.iter().filter_map(|name| name.as_str().parse().ok()).collect())
    }

    async fn survey(&self) -> Result<BTreeMap<InstanceId, Observation>, BackendError> {
        let mut seen = BTreeMap::new();
        for (name, state) in self.machines.survey().await.map_err(failed)? {
            let Ok(id) = name.as_str().parse::<InstanceId>() else { continue };
            seen.insert(id, self.seen(id, state)?);
        }
        Ok(seen)
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        self.resuming.clean_up(&self.machines).await
    }

    async fn rest(&self) {
        let ended = tokio::time::timeout(REST, self.resuming.clean_up(&self.machines)).await;
        let ended = ended.unwrap_or_else(|_| {
            Err(BackendError::Unavailable(format!("not within {} s", REST.as_secs())))
        });
        if let Err(error) = ended {
            tracing::warn!("a template that was being made goes at the next start only: {error}");
        }
    }

    fn traffic_guard(&self) -> Option<&dyn TrafficGuard> {
        Some(self)
    }

    fn images(&self) -> &dyn ImageStore {
        self
    }

    fn metering(&self) -> Option<&dyn Metering> {
        Some(self)
    }

    fn notifier(&self) -> Option<&dyn NotifyGuest> {
        Some(self)
    }

    fn suspend(&self) -> Option<&dyn Suspend> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn clones(&self) -> Option<&dyn CloneInstance> {
        Some(self)
    }

    fn resizes(&self) -> Option<&dyn Resize> {
        Some(self)
    }

    fn console(&self) -> Option<&dyn Console> {
        Some(self)
    }
}

impl QemuBackend {
    /// What was seen of a machine, as others understand it.
    fn seen(&self, id: InstanceId, state: State) -> Result<Observation, BackendError> {
        let stopped =
            |by, out_of_memory| Observation::Stopped { exit_code: None, out_of_memory, by };
        Ok(match state {
            State::Absent => Observation::Absent,
            State::HalfMade => stopped(EndedBy::Host, false),
            State::Suspended => Observation::Suspended,
            State::Running => {
                let manifest = self.machines.manifest(&spec::name(id)?).map_err(failed)?;
                match manifest.and_then(|manifest| manifest.run).and_then(|run| run.ssh) {
                    Some(ssh) => Observation::Running { ssh },
                    None => Observation::Broken {
                        reason: "it runs without a network: stop it and start it".to_owned(),
                    },
                }
            }
            State::Stopped(ended) => match ended {
                Ended::Never | Ended::Stopped | Ended::HostRestarted => {
                    stopped(EndedBy::Host, false)
                }
                Ended::GuestShutdown => stopped(EndedBy::Guest, false),
                Ended::OutOfMemory => stopped(EndedBy::Unknown, true),
                Ended::GuestPanicked | Ended::InternalError(_) | Ended::Crashed(_) => {
                    stopped(EndedBy::Unknown, false)
                }
            },
        })
    }

    /// An error about one machine.
    fn explained(&self, id: InstanceId, error: MachineError) -> BackendError {
        match error {
            MachineError::Absent(_) => BackendError::NoInstance(id),
            other => failed(other),
        }
    }
}

#[async_trait]
impl NotifyGuest for QemuBackend {
    async fn notify(&self, id: InstanceId, line: &str) -> Result<(), BackendError> {
        let told = self.machines.notify(&spec::name(id)?, line).await;
        told.map(|_| ()).map_err(|error| self.explained(id, error))
    }
}

/// An error that is not about one machine alone.
fn failed(error: MachineError) -> BackendError {
    match error {
        MachineError::Unknown(what) => BackendError::Unavailable(what),
        other => BackendError::Failed(other.to_string()),
    }
}

fn unavailable(error: MachineError) -> BackendError {
    BackendError::Unavailable(error.to_string())
}
