//! The right to work on a create: whoever holds it is at it, and when its process ends, however it ends, it
//! is free. So a create that was cut off is told from one that is going on.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Held by one process at a time.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _locked: File,
}

impl Claim {
    /// Takes the right to work on the create with this idempotency key; `None` while another process has it.
    pub(super) fn take(directory: &Path, key: &str) -> io::Result<Option<Self>> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(directory)?;
        let name: String =
            key.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
        let path = directory.join(name);
        loop {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before may have removed the file meanwhile: then this is nobody's.
            if is_still_there(&file, &path) {
                return Ok(Some(Self { path, _locked: file }));
            }
        }
    }
}

/// The keys for which there is a file, whether somebody holds it or not.
pub(super) fn left(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that stays is taken and removed by the next run.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn is_still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_still_there(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_at_a_time_has_it_and_nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("creating");
        let take = |key| Claim::take(&directory, key).unwrap();
        let mine = take("a").unwrap();
        assert!(take("a").is_none());
        assert!(take("b").is_some());
        assert_eq!(left(&directory), ["a"]);
        drop(mine);
        assert!(take("a").is_some());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        assert!(take("../../etc").unwrap().path.starts_with(&directory));
    }
}
