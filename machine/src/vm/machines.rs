//! All machines of one directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::copy::Original;
use super::identity::Learned;
use super::manifest::{Base, Direct, Ended, Manifest, Network, VERSION};
use super::network::Mending;
use super::{MachineError, MachineName};
use crate::disk::DiskTool;
use crate::hardware::{DiskSpeed, Platform, Size};
use crate::network::Rules;
use crate::process::Groups;
use crate::seed::{self, Identity};

/// The first of the users that machines run as, and how many there may be. Distributions give these ids to nobody
/// (systemd's `UIDS-GIDS.md`: unused from 1879048192 to 2147352575).
const FIRST_USER: u32 = 1_900_000_000;
const USERS: u32 = 200_000_000;

/// What all machines of one directory have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where they are: a directory of ours, one below it for each machine.
    pub root: PathBuf,
    /// What runs them.
    pub platform: Platform,
    /// How they are bounded.
    pub groups: Groups,
    /// What changes their disks.
    pub disks: DiskTool,
    /// Directories that no machine's QEMU sees: what the provider keeps for itself.
    pub hidden: Vec<PathBuf>,
    /// What the owner decided about guests' traffic.
    pub rules: Rules,
}

/// What a machine is to be.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// What it is called.
    pub name: MachineName,
    /// Its number, as a UUID.
    pub uuid: String,
    /// How big it is.
    pub size: Size,
    /// CPU in thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of its disk: a multiple of 512, at least as many as what is below it.
    pub disk_bytes: u64,
    /// How fast its disk may be.
    pub speed: Option<DiskSpeed>,
    /// What is below its own disk, from the top to the image. Empty in trials only.
    pub base: Vec<Base>,
    /// Who it is.
    pub identity: Identity,
    /// The requestor's own user data, for the first boot.
    pub user_data: Option<String>,
    /// Whether our agent is in its image.
    pub has_agent: bool,
    /// Its network; none in trials.
    pub network: Option<Network>,
    /// What is booted in trials.
    pub direct: Option<Direct>,
}

/// The machines of one directory. Each operation holds its machine until it is done; others wait.
#[derive(Debug)]
pub struct Machines {
    pub(super) settings: Shared,
    locks: Mutex<HashMap<MachineName, Arc<tokio::sync::Mutex<()>>>>,
}

/// What all machines have in common, and which of them are cut off from all network.
#[derive(Debug)]
pub(super) struct Shared {
    given: Settings,
    cut_off: Mutex<BTreeSet<MachineName>>,
    pub(super) mending: Mending,
}

impl std::ops::Deref for Shared {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.given
    }
}

impl Shared {
    pub(super) fn cut_off(&self) -> MutexGuard<'_, BTreeSet<MachineName>> {
        self.cut_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One machine while something is done with it.
pub(super) struct Held<'a> {
    pub(super) settings: &'a Shared,
    pub(super) name: MachineName,
    _lock: OwnedMutexGuard<()>,
}

impl Machines {
    /// The machines in the directory that `settings` name, which is made if it is not there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(settings: Settings) -> Result<Self, MachineError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&settings.root);
        made.map_err(MachineError::io("make", &settings.root))?;
        let settings =
            Shared { given: settings, cut_off: Mutex::default(), mending: Mending::default() };
        Ok(Self { settings, locks: Mutex::default() })
    }

    /// What all have in common.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings.given
    }

    fn lock(&self, name: &MachineName) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(name.clone()).or_default())
    }

    /// Waits until nobody else does anything with that machine.
    pub(super) async fn hold(&self, name: &MachineName) -> Held<'_> {
        let lock = self.lock(name).lock_owned().await;
        Held { settings: &self.settings, name: name.clone(), _lock: lock }
    }

    /// The same, if nobody does anything with it now.
    pub(super) fn try_hold(&self, name: &MachineName) -> Option<Held<'_>> {
        let lock = self.lock(name).try_lock_owned().ok()?;
        Some(Held { settings: &self.settings, name: name.clone(), _lock: lock })
    }

    /// All machines that are there, also those that were only half made.
    ///
    /// # Errors
    /// When their directory can't be read.
    pub fn list(&self) -> Result<Vec<MachineName>, MachineError> {
        let unreadable = |error: io::Error| {
            MachineError::Unknown(format!("{}: {error}", self.settings.root.display()))
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.settings.root).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // What has another name is not ours.
            names.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        Ok(names)
    }

    /// What is known of a machine; `None` when it is not there.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn manifest(&self, name: &MachineName) -> Result<Option<Manifest>, MachineError> {
        let directory = self.settings.root.join(name.as_str());
        Manifest::load(&directory).map_err(|error| MachineError::Unknown(error.to_string()))
    }

    /// The directories that machines' disks lie on: of images, and of templates.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn lie_on(&self) -> Result<BTreeSet<PathBuf>, MachineError> {
        let mut all = BTreeSet::new();
        for name in self.list()? {
            let base = self.manifest(&name)?.map(|manifest| manifest.base).unwrap_or_default();
            all.extend(base.into_iter().map(|base| base.directory));
        }
        Ok(all)
    }

    /// Bytes of disk that are promised to each machine: as much as its disk may become, and its memory, which
    /// suspending writes there.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn promised(&self) -> Result<BTreeMap<MachineName, u64>, MachineError> {
        let mut promised = BTreeMap::new();
        for name in self.list()? {
            if let Some(manifest) = self.manifest(&name)? {
                let memory = manifest.size.memory_mib << 20;
                // Each snapshot keeps what the disk was, at most all of it.
                let disk = self.settings.disks.inspect(&self.disk(&name));
                let times = 1 + disk.map_or(0, |disk| u64::from(disk.snapshots));
                promised.insert(name, (manifest.disk_bytes + memory).saturating_mul(times));
            }
        }
        Ok(promised)
    }

    /// Makes sure that the machine is there, with its disk and its seed, without starting it. What a call that was
    /// cut off left half made is made anew; one that is there is left as it is.
    ///
    /// # Errors
    /// When something of it can't be made. Call it again, or [`destroy`](Self::destroy) it.
    pub async fn ensure(&self, spec: &MachineSpec) -> Result<(), MachineError> {
        self.make(spec, None).await
    }

    /// The same, with the disk of another machine.
    pub(super) async fn make(
        &self,
        spec: &MachineSpec,
        original: Option<&Original<'_>>,
    ) -> Result<(), MachineError> {
        let held = self.hold(&spec.name).await;
        if held.load()?.is_some_and(|manifest| manifest.made) {
            return Ok(());
        }
        held.clear()?;
        let user = if rustix::process::geteuid().is_root() {
            Some(self.free_user(&spec.name)?)
        } else {
            None
        };
        let mut manifest = Manifest {
            version: VERSION,
            name: spec.name.clone(),
            uuid: spec.uuid.clone(),
            user,
            size: spec.size,
            cpu_millis: spec.cpu_millis,
            disk_bytes: spec.disk_bytes,
            speed: spec.speed,
            base: spec.base.clone(),
            network: spec.network.clone(),
            direct: spec.direct.clone(),
            made: false,
            copied: original.is_some(),
            has_agent: spec.has_agent,
            suspended: None,
            becomes_template: false,
            resuming: None,
            snapshots: Vec::new(),
            run: None,
            ended: Ended::Never,
        };
        held.make_directory(&held.directory())?;
        held.save(&manifest)?;
        let guest = held.guest_directory();
        held.make_directory(&guest)?;
        held.make_directory(&held.directory().join("stage"))?;
        let disk = held.disk();
        match original {
            None => self.settings.disks.create_overlay(&disk, spec.disk_bytes).await?,
            Some(original) => original.copy_disk(&disk, spec.disk_bytes).await?,
        }
        let learned =
            Learned { identity: spec.identity.clone(), user_data: spec.user_data.clone() };
        held.keep_learned(&learned)?;
        seed::write(&held.seed(), &learned.seed()?)
            .map_err(MachineError::io("write the seed", &held.seed()))?;
        for path in [&guest, &disk, &held.seed()] {
            held.give(&manifest, path)?;
        }
        manifest.made = true;
        held.save(&manifest)
    }

    fn disk(&self, name: &MachineName) -> PathBuf {
        self.settings.root.join(name.as_str()).join("guest/disk.qcow2")
    }

    /// A user that no machine here has. Other directories' machines begin to look elsewhere.
    fn free_user(&self, name: &MachineName) -> Result<u32, MachineError> {
        let mut taken = Vec::new();
        for other in self.list()? {
            taken.extend(self.manifest(&other)?.and_then(|manifest| manifest.user));
        }
        let seen = format!("{}/{name}", self.settings.root.display());
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(seen.as_bytes()).into();
        let begin = u32::from_be_bytes([a, b, c, d]) % USERS;
        (0..USERS)
            .map(|step| FIRST_USER + (begin + step) % USERS)
            .find(|user| !taken.contains(user))
            .ok_or_else(|| MachineError::Failed("all users for machines are taken".to_owned()))
    }

    /// Ends the machine and removes all of it. Does nothing if it is gone.
    ///
    /// # Errors
    /// When its process can't be ended, or something of it can't be removed. Call it again.
    pub async fn destroy(&self, name: &MachineName) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        // A manifest that can't be read says of no process that it is ours.
        if let Some(mut manifest) = held.load()? {
            held.kill_process(&manifest).await?;
            held.end_process(&mut manifest, Ended::Stopped).await?;
        }
        held.clear()
    }
}

impl Held<'_> {
    pub(super) fn directory(&self) -> PathBuf {
        self.settings.root.join(self.name.as_str())
    }

    /// What its QEMU sees and may write to.
    pub(super) fn guest_directory(&self) -> PathBuf {
        self.directory().join("guest")
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.guest_directory().join("disk.qcow2")
    }

    pub(super) fn seed(&self) -> PathBuf {
        self.guest_directory().join("seed.iso")
    }

    /// What QEMU itself says.
    pub(super) fn log(&self) -> PathBuf {
        self.directory().join("qemu.log")
    }

    pub(super) fn load(&self) -> Result<Option<Manifest>, MachineError> {
        Manifest::load(&self.directory()).map_err(|error| MachineError::Unknown(error.to_string()))
    }

    /// The manifest of a machine that is there.
    pub(super) fn there(&self) -> Result<Manifest, MachineError> {
        let made = self.load()?.filter(|manifest| manifest.made);
        made.ok_or_else(|| MachineError::Absent(self.name.clone()))
    }

    pub(super) fn save(&self, manifest: &Manifest) -> Result<(), MachineError> {
        let directory = self.directory();
        manifest.save(&directory).map_err(MachineError::io("write the manifest in", &directory))
    }

    fn make_directory(&self, path: &Path) -> Result<(), MachineError> {
        DirBuilder::new().mode(0o700).create(path).map_err(MachineError::io("make", path))
    }

    /// Makes a file the machine's user's own.
    pub(super) fn give(&self, manifest: &Manifest, path: &Path) -> Result<(), MachineError> {
        let Some(user) = manifest.user else { return Ok(()) };
        chown(path, Some(user), Some(user)).map_err(MachineError::io("give away", path))
    }

    /// Removes its directory. The manifest goes last: while it is there, the machine is known.
    fn clear(&self) -> Result<(), MachineError> {
        let directory = self.directory();
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        for part in ["guest", "stage"] {
            let part = directory.join(part);
            gone(fs::remove_dir_all(&part)).map_err(MachineError::io("remove", &part))?;
        }
        gone(fs::remove_dir_all(&directory)).map_err(MachineError::io("remove", &directory))
    }
}
