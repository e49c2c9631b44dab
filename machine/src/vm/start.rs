//! Starting a machine's process.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::machines::Held;
use super::manifest::{Ended, Manifest, Run};
use super::{MachineError, MachineName, Machines, network, resume};
use crate::accel::Accelerator;
use crate::hardware::{
    self, Begin, DirectBoot, Disk, Format, GUEST_DIRECTORY, Hardware, Layer, Platform, QMP_SOCKET,
    Size, TRANSLATION_MIB,
};
use crate::process::{GroupLimits, Launch, Peer, ProcessLimits, Resource, Seen};
use crate::qmp::{Qmp, QmpError};

/// How long QEMU may take to open its monitor, on a host that is busy. Usual are 50 ms.
const OPENED: Duration = Duration::from_secs(60);
/// Memory that QEMU needs beside the guest's and the translated code, in MiB: measured 60 to 110 with a guest that
/// uses disk and network.
pub const OVERHEAD_MIB: u64 = 192;
/// What the console's log may take while nobody reads it, in bytes.
pub(super) const LOG_BYTES: u64 = 1 << 20;
/// The snapshot in which a suspended machine is kept.
pub(super) const SUSPENDED: &str = "golem-suspended";

impl Machines {
    /// Starts the machine: boots it, or takes it up where it was suspended. Does nothing if it runs. Returns when
    /// it runs, long before it has booted.
    ///
    /// # Errors
    /// When it can't be started; nothing runs then.
    pub async fn start(&self, name: &MachineName) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        if held.goes_on(&mut manifest).await? {
            held.mend(&mut manifest).await;
            return Ok(());
        }
        if let Some(suspended) = manifest.suspended.clone() {
            return held.wake(&mut manifest, suspended).await;
        }
        let born = Born { size: manifest.size, platform: held.settings.platform.clone() };
        held.launch(&mut manifest, &born, Begin::Boot).await.map(|_| ())
    }
}

/// As what a process is started.
#[derive(Debug, Clone)]
pub(super) struct Born {
    pub(super) size: Size,
    pub(super) platform: Platform,
}

impl Held<'_> {
    /// Starts the process and waits until its monitor answers.
    pub(super) async fn launch(
        &self,
        manifest: &mut Manifest,
        born: &Born,
        begin: Begin,
    ) -> Result<Qmp, MachineError> {
        let launched = self.try_launch(manifest, born, begin).await;
        if launched.is_err() {
            self.end_process(manifest, Ended::Stopped).await?;
        }
        launched
    }

    async fn try_launch(
        &self,
        manifest: &mut Manifest,
        born: &Born,
        begin: Begin,
    ) -> Result<Qmp, MachineError> {
        let settings = self.settings;
        for socket in [QMP_SOCKET, hardware::CONSOLE_SOCKET, hardware::AGENT_SOCKET] {
            // One that a killed process left would be in the way.
            let _ = std::fs::remove_file(self.guest_directory().join(socket));
        }
        let limits = group_limits(manifest, born);
        let said = std::fs::metadata(self.log()).map_or(0, |log| log.len());
        let launch = self.described(manifest, born, begin, &limits);
        let failed = |error: std::io::Error| {
            MachineError::Failed(format!("{} can't be started: {error}", self.name))
        };
        let waiting = launch.hold().await.map_err(failed)?;
        let mut run = Run {
            process: waiting.identity().clone(),
            begun: false,
            size: born.size,
            platform: born.platform.clone(),
            group: None,
            uplink: None,
            ssh: None,
        };
        manifest.run = Some(run.clone());
        self.save(manifest)?;
        run.group =
            Some(settings.groups.enter(&self.unit(), &limits, &run.process).map_err(failed)?);
        self.raise(manifest, &mut run).await?;
        run.begun = true;
        manifest.run = Some(run.clone());
        self.save(manifest)?;
        let process = waiting.go().await.map_err(failed)?;
        // From here on it may end by itself.
        let deadline = Instant::now() + OPENED;
        loop {
            let guest = self.guest_directory();
            match Qmp::connect(&Peer::new(&guest, QMP_SOCKET, &process)).await {
                Ok(qmp) => return Ok(qmp),
                Err(QmpError::Unreachable(..)) if Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
            if !process.alive().map_err(failed)? {
                let said = crate::process::last_words(&self.log(), said);
                return Err(MachineError::Failed(format!(
                    "QEMU did not start {}: {said}",
                    self.name
                )));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What its unit and its group are called.
    pub(super) fn unit(&self) -> String {
        let name = self.name.as_str();
        if name.starts_with("golem-") { name.to_owned() } else { format!("golem-{name}") }
    }

    /// How its process is started.
    fn described(
        &self,
        manifest: &Manifest,
        born: &Born,
        begin: Begin,
        limits: &GroupLimits,
    ) -> Launch {
        let settings = self.settings;
        let bounded = settings.groups.enforces().contains(&Resource::Memory);
        Launch {
            program: born.platform.qemu.binary.clone(),
            arguments: hardware::arguments(
                &born.platform,
                &self.hardware(manifest, born.size),
                begin,
            ),
            wrapper: settings.groups.wrapper(&self.unit(), limits),
            run_as: network::run_as(manifest),
            limits: ProcessLimits {
                open_files: 1024,
                threads: limits.threads,
                // As much as the disk may become, its tables and what suspending and snapshots of a running machine
                // write into it.
                file_bytes: file_bytes(manifest),
                // Where nothing else bounds it: its memory, and what libraries and stacks reserve without using it.
                address_space: (!bounded).then_some(limits.memory_bytes + (3 << 30)),
            },
            seen: self.seen(manifest),
            hidden: settings.hidden.clone(),
            stage: self.directory().join("stage"),
            input: resume::input(manifest),
            third: resume::third(manifest),
            log: self.log(),
            log_bytes: LOG_BYTES,
        }
    }

    fn seen(&self, manifest: &Manifest) -> Vec<Seen> {
        let mut seen =
            vec![Seen { directory: self.guest_directory(), name: "vm".to_owned(), written: true }];
        let below = manifest.base.iter().map(|base| &base.directory).enumerate();
        let direct = manifest.direct.iter().map(|direct| &direct.directory);
        let all = below.map(|(depth, directory)| (format!("below{depth}"), directory));
        seen.extend(resume::seen(manifest));
        for (name, directory) in all.chain(direct.map(|directory| ("boot".to_owned(), directory))) {
            seen.push(Seen { directory: directory.clone(), name, written: false });
        }
        seen
    }

    fn hardware(&self, manifest: &Manifest, size: Size) -> Hardware {
        let own = Layer { file: in_guest(&self.disk()), format: Format::Qcow2 };
        let below = manifest.base.iter().enumerate().map(|(depth, base)| Layer {
            file: Path::new(&format!("/mnt/below{depth}")).join(&base.file),
            format: base.format,
        });
        Hardware {
            name: self.name.to_string(),
            uuid: manifest.uuid.clone(),
            size,
            memory: resume::memory(manifest),
            disk: Some(Disk {
                layers: std::iter::once(own).chain(below).collect(),
                speed: manifest.speed,
            }),
            seed: Some(in_guest(&self.seed())),
            nic: Self::nic(manifest),
            direct_boot: manifest.direct.as_ref().map(|direct| DirectBoot {
                kernel: "/mnt/boot/vmlinuz".into(),
                initrd: "/mnt/boot/initrd".into(),
                append: direct.append.clone(),
            }),
        }
    }
}

/// What its process may use, guest and all.
fn group_limits(manifest: &Manifest, born: &Born) -> GroupLimits {
    let guest_mib = born.size.memory_mib;
    // What its template has never used, the kernel fills into the template's memory when a clone first touches it, and
    // counts it as that clone's: once for all clones, and beside what is the clone's own.
    let template_mib = if manifest.resuming.is_some() { guest_mib } else { 0 };
    let memory_mib = guest_mib + template_mib + overhead_mib(born.platform.accelerator);
    GroupLimits {
        memory_bytes: memory_mib << 20,
        cpu_millis: manifest.cpu_millis,
        threads: threads(born.size.vcpus),
    }
}

/// Memory that a machine's process may need beside the guest's, in MiB.
#[must_use]
pub const fn overhead_mib(accelerator: Accelerator) -> u64 {
    match accelerator {
        Accelerator::Kvm => OVERHEAD_MIB,
        Accelerator::Tcg => OVERHEAD_MIB + TRANSLATION_MIB,
    }
}

/// Threads of a QEMU: its processors', its main one, and up to 64 that read and write files.
fn threads(vcpus: u32) -> u64 {
    u64::from(vcpus) + 96
}

/// How large a file of the machine's may become.
pub(super) fn file_bytes(manifest: &Manifest) -> u64 {
    let disk = manifest.disk_bytes;
    // Ten snapshots with all the disk and memory anew; qcow2's tables take less than a thousandth.
    (disk + (manifest.size.memory_mib << 20)) * 11 + (64 << 20)
}

/// A file of the machine's directory as QEMU sees it.
fn in_guest(file: &Path) -> PathBuf {
    Path::new(GUEST_DIRECTORY).join(file.file_name().unwrap_or_default())
}

/// The group that may use KVM.
pub(super) fn kvm_group() -> Option<u32> {
    let kvm = std::fs::metadata("/dev/kvm").ok()?;
    (kvm.gid() != 0).then_some(kvm.gid())
}
