//! VMs that begin where a template is, and are not booted.
//!
//! A create whose image and size have a template is resumed from it; any other boots, and has its template made in the
//! background. One with cloud-init of its own boots: what it says is for a first boot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use golem_vm_machine::hardware::Size;
use golem_vm_machine::image::{Image, ImageStore};
use golem_vm_machine::seed::HostKey;
use golem_vm_machine::template::key::program_digest;
use golem_vm_machine::template::{Facts, Keeper, Key, Surroundings, Template, Templates, Wanted};
use golem_vm_machine::vm::{Ended, MachineName, MachineSpec, Machines, overhead_mib};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::unavailable;
use crate::backend::{BackendError, ImageTemplate, Started};

/// How many are resumed at a time, for each of the host's processors: their first second is work.
const AT_A_TIME: usize = 2;
/// How long no VM must have been started for a template to be made.
const QUIET: Duration = Duration::from_secs(60);
/// Memory that has to be left when one is made, in MiB.
const LEFT_MIB: u64 = 512;
/// After how long a resumed guest's file system is grown: its owner's first login comes first, which would take half as
/// long again beside it, emulated.
const GROWN_AFTER: Duration = Duration::from_secs(3);
/// How long that may take.
const GROWN: Duration = Duration::from_secs(600);
/// The size of which an image gets a template when it is there: what is asked for when nothing else is said.
const USUAL: Size = Size { vcpus: 1, memory_mib: 1024 };

/// Templates, and who makes them.
#[derive(Debug)]
pub(super) struct Resuming {
    templates: Arc<Templates>,
    keeper: Keeper,
    program: String,
    busy: Arc<Busy>,
    turns: Semaphore,
}

/// When a VM was started last.
#[derive(Debug, Default)]
struct Busy {
    began: OnceLock<Instant>,
    last: AtomicU64,
}

impl Busy {
    fn seconds(&self) -> u64 {
        self.began.get_or_init(Instant::now).elapsed().as_secs()
    }

    fn note(&self) {
        self.last.store(self.seconds(), Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.seconds().saturating_sub(self.last.load(Ordering::Relaxed)) >= QUIET.as_secs()
    }
}

/// What the keeper of templates has to know.
struct Around {
    machines: Arc<Machines>,
    busy: Arc<Busy>,
}

impl Surroundings for Around {
    fn host_key(&self) -> Result<HostKey, String> {
        let made = crate::vm::host_key::HostKey::generate()?;
        Ok(HostKey { private: made.private, public: made.public.as_str().to_owned() })
    }

    fn in_use(&self) -> Result<BTreeSet<PathBuf>, String> {
        self.machines.lie_on().map_err(|error| error.to_string())
    }

    fn has_room(&self, memory_mib: u64) -> bool {
        let accelerator = self.machines.settings().platform.accelerator;
        let needed = memory_mib + overhead_mib(accelerator) + LEFT_MIB;
        available_mib().is_some_and(|available| available >= needed)
    }

    fn is_quiet(&self) -> bool {
        self.busy.is_over()
    }
}

impl Resuming {
    /// The templates in `directory`, of at most `budget` bytes. Those that fit nothing any more are removed.
    pub(super) fn begin(
        directory: &Path,
        budget: u64,
        machines: &Arc<Machines>,
        images: &ImageStore,
    ) -> Result<Self, BackendError> {
        let lost = |what: String| BackendError::Unavailable(what);
        let settings = machines.settings().clone();
        let templates =
            Templates::open(directory, budget).map_err(|error| lost(error.to_string()))?;
        let program = program_digest(&settings.platform.qemu.binary)
            .map_err(|error| lost(format!("QEMU can't be read: {error}")))?;
        let in_use = machines.lie_on().map_err(unavailable)?;
        let images = images.list().map_err(|error| lost(error.to_string()))?;
        let known: BTreeSet<_> = images.iter().map(|image| image.digest.to_string()).collect();
        let fits =
            |key: &Key| key.is_current(&settings.platform, &program) && known.contains(&key.image);
        templates.tidy(&in_use, fits).map_err(|error| lost(error.to_string()))?;
        let templates = Arc::new(templates);
        let busy = Arc::new(Busy::default());
        let around = Around { machines: Arc::clone(machines), busy: Arc::clone(&busy) };
        let keeper = Keeper::begin(Arc::clone(&templates), settings, around);
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = Semaphore::new(processors * AT_A_TIME);
        let resuming = Self { templates, keeper, program, busy, turns };
        // Images that came while the provider did not run, and templates that fitted no more.
        for image in &images {
            resuming.image_came(image, machines);
        }
        Ok(resuming)
    }

    /// Has a machine that is to be made lie on the template of its image and size; if there is none, one is made for
    /// the next. Without a template it is left as it is.
    pub(super) fn lay(&self, spec: &mut MachineSpec, image: &Image, machines: &Machines) {
        if !image.has_agent || spec.user_data.is_some() {
            return;
        }
        let digest = image.digest.to_string();
        let key = Key::new(&digest, &machines.settings().platform, &self.program, spec.size);
        match self.templates.find(&key) {
            Ok(Some(template)) if template.facts.disk_bytes <= spec.disk_bytes => {
                spec.base.insert(0, template.base());
            }
            Ok(Some(_)) => {}
            Ok(None) => self.want(spec, image, key),
            Err(error) => tracing::warn!("{} boots: {error}", spec.name),
        }
    }

    fn want(&self, spec: &MachineSpec, image: &Image, key: Key) {
        tracing::info!(machine = %spec.name, "boots: there is no template of this size yet; one is made for the next");
        let Some(base) = spec.base.last().cloned() else { return };
        self.keeper.want(Wanted { key, base, disk_bytes: image.virtual_size });
    }

    /// Has the template of an image made in the usual size, if there is none.
    pub(super) fn image_came(&self, image: &Image, machines: &Machines) {
        if image.has_agent {
            let digest = image.digest.to_string();
            let key = Key::new(&digest, &machines.settings().platform, &self.program, USUAL);
            if matches!(self.templates.find(&key), Ok(Some(_))) {
                return;
            }
            let base = super::spec::base(image);
            self.keeper.want(Wanted { key, base, disk_bytes: image.virtual_size });
        }
    }

    /// The templates of that image, the smallest machine first.
    pub(super) fn of_image(&self, digest: &str) -> Result<Vec<ImageTemplate>, BackendError> {
        let all = self.templates.list().map_err(|error| BackendError::Failed(error.to_string()))?;
        Ok(of_image(all.into_iter().map(|template| template.facts), digest))
    }

    /// Makes no more templates, and removes the one that was being made.
    pub(super) async fn clean_up(&self, machines: &Machines) -> Result<(), BackendError> {
        let stopped = self.keeper.stop(&self.templates, machines.settings()).await;
        stopped.map_err(|error| BackendError::Failed(error.to_string()))
    }

    /// Removes what is left of an image that is gone.
    pub(super) fn image_gone(&self, digest: &str, machines: &Machines) {
        self.keeper.image_gone(digest);
        let tidied = machines.lie_on().map_err(|error| error.to_string()).and_then(|in_use| {
            let tidied = self.templates.tidy(&in_use, |key| key.image != digest);
            tidied.map_err(|error| error.to_string())
        });
        if let Err(error) = tidied {
            tracing::warn!("templates of an image that is gone: {error}");
        }
    }

    /// Starts a machine that lies on a template and has never run, from there. `None`: it has to boot.
    pub(super) async fn start(
        &self,
        name: &MachineName,
        machines: &Arc<Machines>,
    ) -> Option<Started> {
        self.busy.note();
        let template = self.template_of(name, machines)?;
        let _turn = self.turns.acquire().await.ok()?;
        let memory = match self.templates.memory(&template).await {
            Ok(memory) => memory,
            Err(error) => {
                tracing::warn!(machine = %name, "boots: {error}");
                return None;
            }
        };
        match machines.resume(name, &template, &memory).await {
            Ok(Some(resumed)) => {
                tracing::info!(machine = %name, ?resumed, "resumed");
                let (machines, name) = (Arc::clone(machines), name.clone());
                tokio::spawn(async move {
                    sleep(GROWN_AFTER).await;
                    if let Err(error) = machines.grow_file_system(&name, GROWN).await {
                        tracing::warn!(machine = %name, "its file system grows at its next boot: {error}");
                    }
                });
                Some(Started::Ready)
            }
            // It runs already.
            Ok(None) => Some(Started::Boots),
            Err(error) => {
                tracing::warn!(machine = %name, "boots: {error}");
                None
            }
        }
    }

    /// Whether that machine has never run, and a template is there to resume it from.
    pub(super) fn has_template(&self, name: &MachineName, machines: &Machines) -> bool {
        self.template_of(name, machines).is_some()
    }

    fn template_of(&self, name: &MachineName, machines: &Machines) -> Option<Template> {
        let manifest = machines.manifest(name).ok()??;
        let begins = manifest.ended == Ended::Never && manifest.suspended.is_none();
        if !begins || manifest.copied {
            return None;
        }
        let directory = &manifest.base.first()?.directory;
        let all = self.templates.list().ok()?;
        all.into_iter().find(|template| template.directory == *directory)
    }
}

fn of_image(facts: impl Iterator<Item = Facts>, digest: &str) -> Vec<ImageTemplate> {
    let of = |facts: Facts| ImageTemplate {
        vcpus: facts.key.size.vcpus,
        memory_mib: facts.key.size.memory_mib,
        size_bytes: facts.bytes,
        boot_millis: facts.boot_ms,
    };
    let mut all: Vec<_> = facts.filter(|facts| facts.key.image == digest).map(of).collect();
    all.sort_by_key(|template| (template.memory_mib, template.vcpus));
    all
}

/// Memory of the host that can be had now, in MiB.
fn available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_when_no_vm_was_started_for_a_while() {
        let busy = Busy::default();
        busy.note();
        assert!(!busy.is_over());
        assert!(available_mib().unwrap() > 0);
    }
}
