//! Templates on disk.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::file;
use super::key::{Key, digest};
use super::memory::{Memories, Sealed};
use crate::hardware::Format;
use crate::network::Addressing;
use crate::vm::Base;

const VERSION: u32 = 1;
const MANIFEST: &str = "template.json";
const MAKING: &str = "making";
const MACHINES: &str = "machines";

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file of it.
    #[error("template: could not {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The machine that was to become one.
    #[error("a template could not be made: {0}")]
    Failed(String),
    /// It takes more than all templates may.
    #[error(
        "a template of {bytes} bytes does not fit into the {budget} bytes that templates may take; \
         raise that limit, or do without templates of this size"
    )]
    Budget {
        /// Bytes of the one.
        bytes: u64,
        /// Bytes of all.
        budget: u64,
    },
}

impl TemplateError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}

/// What is written down of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Of the form of this file.
    version: u32,
    /// What it is a template of.
    pub key: Key,
    /// What the network is of the machine that was captured.
    pub network: Addressing,
    /// Bytes of its disk as the guest sees it: clones have as many or more.
    pub disk_bytes: u64,
    /// Digests of its files, by name.
    pub digests: Vec<(String, String)>,
    /// Bytes that it takes on the host's disk.
    pub bytes: u64,
    /// When it was made: seconds since 1970.
    pub made_at: u64,
    /// How long the boot took here, from switching on to being captured: milliseconds.
    pub boot_ms: u64,
}

/// A template that is there, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its files' directory.
    pub directory: PathBuf,
    /// What is known of it.
    pub facts: Facts,
}

/// All templates of one directory.
#[derive(Debug)]
pub struct Templates {
    root: PathBuf,
    budget: u64,
    making: tokio::sync::Mutex<()>,
    memories: Memories,
}

/// A template that is being made. Dropped, it leaves nothing but a machine that may still run.
#[derive(Debug)]
pub(super) struct Making<'a> {
    store: &'a Templates,
    directory: PathBuf,
    began: SystemTime,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

impl Templates {
    /// The templates in `root`, which is made if it is not there, taking at most `budget` bytes. What an earlier
    /// program left half made may have a machine that runs: [`make::clear_up`](super::make::clear_up) ends it.
    ///
    /// # Errors
    /// When the directory can't be made or cleaned.
    pub fn open(root: &Path, budget: u64) -> Result<Self, TemplateError> {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(TemplateError::io("make", root))?;
        let (making, memories) = <(tokio::sync::Mutex<()>, Memories)>::default();
        let store = Self { root: root.to_owned(), budget, making, memories };
        for directory in store.directories()? {
            // Its manifest is written last, and goes first.
            if !directory.join(MANIFEST).exists() && !directory.join(file::DISK).exists() {
                remove(&directory)?;
            }
        }
        Ok(store)
    }

    /// Whether there is any room for templates.
    #[must_use]
    pub const fn are_kept(&self) -> bool {
        self.budget > 0
    }

    /// The template of that key, if there is one. It counts as used now.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn find(&self, key: &Key) -> Result<Option<Template>, TemplateError> {
        let found = self.list()?.into_iter().find(|template| template.facts.key == *key);
        if let Some(template) = &found {
            let manifest = template.directory.join(MANIFEST);
            let touched =
                File::open(&manifest).and_then(|file| file.set_modified(SystemTime::now()));
            touched.map_err(TemplateError::io("mark as used", &manifest))?;
        }
        Ok(found)
    }

    /// The template's memory for a clone. It stays in the host's memory until it was not used for a while:
    /// [`forget_memory`](Self::forget_memory).
    ///
    /// # Errors
    /// When it can't be read, or there is no memory for it.
    pub async fn memory(&self, template: &Template) -> Result<Arc<Sealed>, TemplateError> {
        let ram = template.directory.join(file::RAM);
        if let Some(memory) = self.memories.get(&ram) {
            return Ok(memory);
        }
        let path = ram.clone();
        let copied = tokio::task::spawn_blocking(move || Sealed::copy_of(&path)).await;
        let copied = copied.map_err(io::Error::other).and_then(|copied| copied);
        let memory = copied.map_err(TemplateError::io("take into memory", &ram))?;
        Ok(self.memories.keep(&ram, memory))
    }

    /// Gives up the memory of templates that no clone was made of for that long.
    pub fn forget_memory(&self, unused_for: Duration) {
        self.memories.forget(unused_for);
    }

    /// All templates that are whole, the one that was used last first.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn list(&self) -> Result<Vec<Template>, TemplateError> {
        let mut all = Vec::new();
        for directory in self.directories()? {
            if let Some(template) = load(&directory)? {
                let used = fs::metadata(directory.join(MANIFEST)).and_then(|file| file.modified());
                all.push((used.unwrap_or(UNIX_EPOCH), template));
            }
        }
        all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.directory.cmp(&b.1.directory)));
        Ok(all.into_iter().map(|(_, template)| template).collect())
    }

    /// Begins a template; waits while another one is being made. What is in its directory of an earlier one is
    /// the caller's business.
    ///
    /// # Errors
    /// When its directory can't be made.
    pub(super) async fn begin(&self) -> Result<Making<'_>, TemplateError> {
        let alone = self.making.lock().await;
        let directory = self.root.join(MAKING);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(TemplateError::io("make", &directory))?;
        Ok(Making { store: self, directory, began: SystemTime::now(), _alone: alone })
    }

    /// Removes a template. Its disk stays while `in_use` names its directory: there are machines on top of it.
    ///
    /// # Errors
    /// When something of it can't be removed; it is no template any more then, and goes with the next [`tidy`](Self::tidy).
    pub fn remove(
        &self,
        template: &Template,
        in_use: &BTreeSet<PathBuf>,
    ) -> Result<(), TemplateError> {
        let directory = &template.directory;
        self.memories.forget_below(directory);
        for name in [MANIFEST, file::STATE, file::RAM] {
            remove(&directory.join(name))?;
        }
        if in_use.contains(directory) { Ok(()) } else { remove(directory) }
    }

    /// Removes templates that `keep` does not want, and disks that were kept for machines that are gone. `in_use`
    /// names the directories that machines' disks lie on.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn tidy(
        &self,
        in_use: &BTreeSet<PathBuf>,
        keep: impl Fn(&Key) -> bool,
    ) -> Result<(), TemplateError> {
        for directory in self.directories()? {
            match load(&directory)? {
                Some(template) if keep(&template.facts.key) => {}
                Some(template) => self.remove(&template, in_use)?,
                None if in_use.contains(&directory) => {}
                None => remove(&directory)?,
            }
        }
        Ok(())
    }

    /// Bytes that all of it takes on the host's disk.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn bytes(&self) -> Result<u64, TemplateError> {
        self.directories()?.iter().map(|directory| taken(directory)).sum()
    }

    /// Removes templates until all are within the budget, which may have been larger: those that were not used for
    /// longest go first. `in_use` is as for [`remove`](Self::remove).
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn shrink(&self, in_use: &BTreeSet<PathBuf>) -> Result<(), TemplateError> {
        self.make_room(0, in_use)
    }

    /// Makes room for one of `bytes`: those that were not used for longest go first.
    fn make_room(&self, bytes: u64, in_use: &BTreeSet<PathBuf>) -> Result<(), TemplateError> {
        if bytes > self.budget {
            return Err(TemplateError::Budget { bytes, budget: self.budget });
        }
        let mut all = self.list()?;
        while self.bytes()? + bytes > self.budget {
            // What is left then are disks that machines need.
            let Some(oldest) = all.pop() else { return Ok(()) };
            tracing::info!(template = %oldest.directory.display(), "removed: others need its room");
            self.remove(&oldest, in_use)?;
        }
        Ok(())
    }

    fn directories(&self) -> Result<Vec<PathBuf>, TemplateError> {
        let unreadable = |error| TemplateError::io("read", &self.root)(error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let ours = |name: &str| name.len() == 41 && name.as_bytes()[32] == b'-';
            if name.to_str().is_some_and(ours) {
                all.push(entry.path());
            }
        }
        Ok(all)
    }
}

impl Making<'_> {
    /// Where to put its files: [`file`].
    #[must_use]
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its machine is.
    pub(super) fn machines(&self) -> PathBuf {
        self.directory.join(MACHINES)
    }

    /// It is complete: [`file::DISK`], [`file::RAM`] and [`file::STATE`] are in its directory. They become read-only,
    /// and older templates make room.
    ///
    /// # Errors
    /// [`TemplateError::Budget`], and when files can't be read, changed or removed.
    pub(super) fn finish(
        self,
        key: Key,
        network: Addressing,
        disk_bytes: u64,
        in_use: &BTreeSet<PathBuf>,
    ) -> Result<Template, TemplateError> {
        let mut digests = Vec::new();
        for name in [file::DISK, file::RAM, file::STATE] {
            let path = self.directory.join(name);
            own(&path).map_err(TemplateError::io("take over", &path))?;
            let (digest, _) = digest(&path).map_err(TemplateError::io("read", &path))?;
            digests.push((name.to_owned(), digest));
        }
        let bytes = taken(&self.directory)?;
        let milliseconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        let now = milliseconds(SystemTime::now());
        let facts = Facts {
            version: VERSION,
            network,
            disk_bytes,
            digests,
            bytes,
            made_at: now / 1000,
            boot_ms: now.saturating_sub(milliseconds(self.began)),
            key,
        };
        for old in self.store.list()? {
            if old.facts.key == facts.key {
                self.store.remove(&old, in_use)?;
            }
        }
        self.store.make_room(bytes, in_use)?;
        let mut number = [0; 4];
        let random = getrandom::fill(&mut number).map_err(io::Error::other);
        random.map_err(TemplateError::io("name", &self.directory))?;
        let name = format!("{}-{}", facts.key.directory(), HEXLOWER.encode(&number));
        let target = self.store.root.join(name);
        save(&self.directory, &facts).map_err(TemplateError::io("write down", &self.directory))?;
        let mode = fs::set_permissions(&self.directory, Permissions::from_mode(0o755));
        mode.and_then(|()| fs::rename(&self.directory, &target))
            .and_then(|()| File::open(&self.store.root)?.sync_all())
            .map_err(TemplateError::io("put into place", &target))?;
        Ok(Template { directory: target, facts })
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        // A machine that may still run is ended first, by whoever makes the next one.
        if self.machines().exists() {
            return;
        }
        if let Err(error) = remove(&self.directory) {
            tracing::warn!("what was left of a template stays until the next start: {error}");
        }
    }
}

impl Template {
    /// What is below the disk of a machine that is resumed from it, above the image.
    #[must_use]
    pub fn base(&self) -> Base {
        Base {
            directory: self.directory.clone(),
            file: file::DISK.to_owned(),
            format: Format::Qcow2,
        }
    }

    /// Reads all of it, and compares: memory that somebody wrote to is no template.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn is_unchanged(&self) -> Result<bool, TemplateError> {
        for (name, expected) in &self.facts.digests {
            let path = self.directory.join(name);
            let (digest, _) = digest(&path).map_err(TemplateError::io("read", &path))?;
            if digest != *expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// When it was made.
    #[must_use]
    pub fn made_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.facts.made_at)
    }
}

/// Reads a template's manifest; `None` when there is none, or one of another version, which can't be resumed.
fn load(directory: &Path) -> Result<Option<Template>, TemplateError> {
    let path = directory.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TemplateError::io("read", &path)(error)),
    };
    let facts =
        serde_json::from_slice::<Facts>(&text).ok().filter(|facts| facts.version == VERSION);
    Ok(facts.map(|facts| Template { directory: directory.to_owned(), facts }))
}

fn save(directory: &Path, facts: &Facts) -> io::Result<()> {
    let path = directory.join(MANIFEST);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(facts)?)?;
    file.sync_all()?;
    File::open(directory)?.sync_all()
}

/// Makes a file ours, readable for all and writable for none, and has it on disk.
fn own(path: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(0), Some(0))?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o444))?;
    File::open(path)?.sync_all()
}

/// Bytes of the host's disk that the files of a directory take.
fn taken(directory: &Path) -> Result<u64, TemplateError> {
    let unreadable = |error| TemplateError::io("read", directory)(error);
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(unreadable)?;
        bytes += if metadata.is_file() { metadata.blocks() * 512 } else { 0 };
    }
    Ok(bytes)
}

/// Removes a file or directory, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), TemplateError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(TemplateError::io("remove", path)),
    }
}

#[cfg(test)]
mod tests;
