//! A template's memory as its clones get it: copied once into a file that exists in memory only, and sealed.
//!
//! Clones map it so that what they write is their own. QEMU before 8.2 opens such a file for reading and writing
//! nevertheless, so one on disk that clones may open could be changed by a QEMU that has been taken over, and with it
//! all later clones. What is sealed (memfd_create(2)) the kernel lets nobody write to, whoever has it open.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};

/// How much is copied at once, in bytes.
const PIECE: u64 = 1 << 20;

/// Memory that nobody can change.
#[derive(Debug)]
pub struct Sealed(File);

impl Sealed {
    /// A sealed copy of `ram`; holes stay holes.
    ///
    /// # Errors
    /// When it can't be read, or there is no memory for it.
    pub fn copy_of(ram: &Path) -> io::Result<Self> {
        let source = File::open(ram)?;
        let length = source.metadata()?.len();
        let memory =
            memfd_create("golem-template", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let memory = File::from(memory);
        memory.set_len(length)?;
        let mut piece = vec![0; usize::try_from(PIECE).unwrap_or(0)];
        let mut at = 0;
        while let Some((mut from, to)) = data(&source, at)? {
            while from < to {
                let count = usize::try_from((to - from).min(PIECE)).unwrap_or(0);
                source.read_exact_at(&mut piece[..count], from)?;
                memory.write_all_at(&piece[..count], from)?;
                from += count as u64;
            }
            at = to;
        }
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memory, all)?;
        Ok(Self(memory))
    }

    /// Where a process that this one starts finds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

/// The next piece of a file that is no hole: from where, to where.
fn data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(from) => Ok(Some((from, seek(file, SeekFrom::Hole(from))?))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The memory of templates that were used lately.
#[derive(Debug, Default)]
pub(super) struct Memories(Mutex<HashMap<PathBuf, (Arc<Sealed>, Instant)>>);

impl Memories {
    /// The memory in that file, if it was used lately.
    pub(super) fn get(&self, ram: &Path) -> Option<Arc<Sealed>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, used) = all.get_mut(ram)?;
        *used = Instant::now();
        Some(Arc::clone(memory))
    }

    /// Keeps it; or the one that somebody else has kept meanwhile.
    pub(super) fn keep(&self, ram: &Path, memory: Sealed) -> Arc<Sealed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, used) =
            all.entry(ram.to_owned()).or_insert_with(|| (Arc::new(memory), Instant::now()));
        *used = Instant::now();
        Arc::clone(memory)
    }

    /// Gives up what was not used for that long. Machines that have it keep it.
    pub(super) fn forget(&self, unused_for: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, used)| used.elapsed() < unused_for);
    }

    /// Gives up what is in that directory.
    pub(super) fn forget_below(&self, directory: &Path) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|ram, _| !ram.starts_with(directory));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_copy_is_the_same_with_its_holes_and_nobody_can_change_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 5000).unwrap();
        file.write_all_at(&vec![3; 3 << 20], 20 << 20).unwrap();
        file.write_all_at(b"end", (64 << 20) - 3).unwrap();
        let sealed = Sealed::copy_of(&path).unwrap();
        let copy = std::fs::read(sealed.path()).unwrap();
        assert!(copy == std::fs::read(&path).unwrap());
        assert!(sealed.0.metadata().unwrap().blocks() * 512 < 8 << 20);
        // Whoever opens it, for whatever.
        let open = File::options().read(true).write(true).open(sealed.path()).unwrap();
        assert!(open.write_at(b"x", 0).is_err());
        assert!(open.set_len(1).is_err());
    }

    #[test]
    fn what_is_not_used_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        std::fs::write(&path, "memory").unwrap();
        let memories = Memories::default();
        assert!(memories.get(&path).is_none());
        let kept = memories.keep(&path, Sealed::copy_of(&path).unwrap());
        assert!(Arc::ptr_eq(&kept, &memories.get(&path).unwrap()));
        let other = memories.keep(&path, Sealed::copy_of(&path).unwrap());
        assert!(Arc::ptr_eq(&kept, &other));
        memories.forget(Duration::from_secs(3600));
        assert!(memories.get(&path).is_some());
        memories.forget(Duration::ZERO);
        assert!(memories.get(&path).is_none());
        memories.keep(&path, Sealed::copy_of(&path).unwrap());
        memories.forget_below(directory.path());
        assert!(memories.get(&path).is_none());
    }
}
