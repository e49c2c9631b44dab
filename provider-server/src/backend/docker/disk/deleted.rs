//! What a guest holds of its disk without a name: files that are deleted and still open, or still
//! mapped. A walk does not see them, and they are gone only with the process that holds them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, stat};

use super::usage::bytes;

/// Most open or mapped files that are looked at in one guest.
const LOOKS_MAX: usize = 200_000;

/// Bytes of the deleted files that the processes of a guest hold; `first` is one of them, as this
/// host numbers it. What can't be seen (as root, it can) counts as nothing.
pub(super) fn held(first: u32) -> u64 {
    let root = PathBuf::from(format!("/proc/{first}"));
    let (Ok(space), Ok(disk)) = (fs::read_link(root.join("ns/pid")), stat(root.join("root")))
    else {
        return 0;
    };
    let mut seen = HashSet::new();
    let mut looks = 0;
    let mut total = 0;
    for process in processes_in(&space) {
        for folder in ["fd", "map_files"] {
            let Ok(entries) = fs::read_dir(process.join(folder)) else { continue };
            for entry in entries.flatten() {
                looks += 1;
                if looks > LOOKS_MAX {
                    return total;
                }
                // The link leads to the very file, whatever its name says.
                let Ok(file) = stat(entry.path()) else { continue };
                let is_file = FileType::from_raw_mode(file.st_mode) == FileType::RegularFile;
                if is_file
                    && file.st_nlink == 0
                    && file.st_dev == disk.st_dev
                    && seen.insert(file.st_ino)
                {
                    total += bytes(&file);
                }
            }
        }
    }
    total
}

/// The processes in a namespace of process ids. A guest can't make further ones.
fn processes_in(space: &Path) -> impl Iterator<Item = PathBuf> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
    });
    let space = space.to_owned();
    processes
        .map(|entry| entry.path())
        .filter(move |process| fs::read_link(process.join("ns/pid")).is_ok_and(|its| its == space))
}
