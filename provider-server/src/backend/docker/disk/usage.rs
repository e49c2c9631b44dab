//! What a guest has written to its disk: counted where the storage driver keeps it (overlay2's upper
//! directory), as a walk over a tree whose owner is hostile.
//!
//! Directories are opened one below the other and never by path, so that neither a symbolic link that
//! appears meanwhile nor names beyond `PATH_MAX` lead the walk astray, and blocks are counted, so that
//! holes cost nothing. The engine's own count does neither, and takes as long as it takes.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, statat};

use crate::backend::DiskUse;

/// Deeper trees than this are taken for an attempt to hide something.
const DEPTH_MAX: usize = 400;
/// Bytes of a block in `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Counts what is in `directory`. Ends early with more than `most_files`.
///
/// # Errors
/// When it can't be opened. What vanishes meanwhile is not counted.
pub(super) fn count(directory: &Path, most_files: u64) -> io::Result<DiskUse> {
    let mut used = DiskUse::default();
    // Files with several names are counted once.
    let mut linked = HashSet::new();
    let mut path = vec![Dir::new(open(directory, DIRECTORY, Mode::empty())?)?];
    while let Some(here) = path.last_mut() {
        let Some(entry) = here.read() else {
            path.pop();
            continue;
        };
        let Ok(entry) = entry else {
            path.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let (below, is_directory) = {
            let fd = here.fd()?;
            let Ok(stat) = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
                used.files += 1;
                used.bytes += bytes(&stat);
            }
            let below =
                if is_directory { openat(fd, name, DIRECTORY, Mode::empty()).ok() } else { None };
            (below, is_directory)
        };
        if used.files > most_files {
            return Ok(used);
        }
        if !is_directory {
            continue;
        }
        if path.len() >= DEPTH_MAX {
            // As if it were full of files.
            return Ok(DiskUse { files: most_files.saturating_add(1), ..used });
        }
        path.extend(below.and_then(|fd: OwnedFd| Dir::new(fd).ok()));
    }
    Ok(used)
}

/// Bytes of a file that is not followed if it is a link; nothing if it is not there.
pub(super) fn of_file(path: &Path) -> u64 {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).and_then(fstat).map_or(0, |stat| bytes(&stat))
}

pub(super) fn bytes(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(path: &Path, bytes: u64) {
        fs::write(path, vec![1; usize::try_from(bytes).unwrap()]).unwrap();
    }

    #[test]
    fn blocks_are_counted_once_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        file(&outside.path().join("huge"), 8 * MIB);
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        file(&root.join("a/b/one"), MIB);
        fs::hard_link(root.join("a/b/one"), root.join("same")).unwrap();
        symlink(outside.path(), root.join("away")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let used = count(root, 1000).unwrap();
        assert_eq!(used.files, 5, "a, b, one, away, sparse: {used:?}");
        assert!((MIB..2 * MIB).contains(&used.bytes), "{used:?}");
    }

    #[test]
    fn a_flood_of_files_ends_the_count() {
        let tree = tempfile::tempdir().unwrap();
        for number in 0..50 {
            file(&tree.path().join(number.to_string()), 1);
        }
        assert_eq!(count(tree.path(), 10).unwrap().files, 11);
        assert_eq!(count(tree.path(), 100).unwrap().files, 50);
        assert!(count(&tree.path().join("none"), 1).is_err());
    }

    #[test]
    fn what_is_hidden_deeper_than_a_path_can_say_is_found_or_taken_for_too_much() {
        let tree = tempfile::tempdir().unwrap();
        let name = "x".repeat(250);
        let dive = |depth: usize| {
            let mut here = open(tree.path(), DIRECTORY, Mode::empty()).unwrap();
            for _ in 0..depth {
                let _ = rustix::fs::mkdirat(&here, &name, Mode::RWXU);
                here = openat(&here, &name, DIRECTORY, Mode::empty()).unwrap();
            }
            here
        };
        // 25000 bytes of path, where PATH_MAX is 4096.
        let bottom = dive(100);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let hidden = openat(&bottom, "hidden", flags, Mode::RUSR | Mode::WUSR).unwrap();
        rustix::io::write(&hidden, &vec![1; 1 << 20]).unwrap();
        let used = count(tree.path(), 1000).unwrap();
        assert!(used.files == 101 && used.bytes >= MIB, "{used:?}");
        drop(dive(DEPTH_MAX + 1));
        assert_eq!(count(tree.path(), 1000).unwrap().files, 1001);
        // std removes it by path, and can't.
        let removed =
            std::process::Command::new("rm").arg("-rf").arg(tree.path()).status().unwrap();
        assert!(removed.success());
    }
}
