//! A disk so small that a test can fill it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::outcome::Outcome;

/// A tmpfs of its own. Dropped, it is gone with all that is in it.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// One of so many MiB. `None`, and a line that says so, where this user may not.
    #[must_use]
    pub fn of_mib(size: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a disk of its own needs root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}m,mode=0700"), "golem-small-disk"]);
        Outcome::of(mount.arg(directory.path()), b"").done();
        Some(Self { directory })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).unwrap();
        for piece in [64 << 10, 4 << 10, 1] {
            let zeros = vec![0; piece];
            let full = loop {
                if let Err(error) = ballast.write_all(&zeros) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives it back.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open in it loses nothing but its place.
        let mut umount = Command::new("umount");
        let outcome = Outcome::of(umount.arg("--lazy").arg(self.path()), b"");
        if outcome.code != 0 {
            eprintln!("the small disk could not be removed: {outcome}");
        }
    }
}
