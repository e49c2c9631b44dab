//! The root file system, as large as its disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::run::Run;
use crate::{gpt, kernel};

/// Where a file system is.
#[derive(Debug, PartialEq, Eq)]
struct Root {
    device: String,
    kind: String,
}

/// Grows partition and file system. Twice is no harm.
pub(crate) fn grow() -> Result<(), String> {
    if grow_at_once().is_ok_and(|all| all) { Ok(()) } else { grow_by_programs() }
}

/// The same by the kernel alone, in some milliseconds: for ext4 in the last partition of a GPT. Whether it was that.
///
/// # Errors
/// What the kernel says.
fn grow_at_once() -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let Some(root) = root(&mounts).filter(|root| root.kind == "ext4") else { return Ok(false) };
    let device = fs::canonicalize(&root.device)?;
    let Some(name) = device.file_name() else { return Ok(false) };
    let block = fs::canonicalize(Path::new("/sys/class/block").join(name))?;
    let number =
        |path: &Path| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let (Some(disk), Some(partition)) = (block.parent(), number(&block.join("partition"))) else {
        return Ok(false);
    };
    let sectors = number(&disk.join("size"));
    let usual = number(&disk.join("queue/logical_block_size")) == Some(gpt::SECTOR);
    let (Some(sectors), true, Some(disk)) = (sectors, usual, disk.file_name()) else {
        return Ok(false);
    };
    let Ok(partition) = u32::try_from(partition) else { return Ok(false) };
    let disk = OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(disk))?;
    let mut head = vec![0; gpt::HEAD];
    disk.read_exact_at(&mut head, 0)?;
    let Some(grown) = gpt::grown(&head, sectors, partition) else { return Ok(false) };
    for (at, bytes) in &grown.writes {
        disk.write_all_at(bytes, *at)?;
        disk.sync_data()?;
    }
    // Perhaps an earlier one came no farther than to here.
    kernel::resize_partition(&disk, partition, grown.start, grown.length)?;
    let directory = File::open("/")?;
    let block = directory.metadata()?.blksize().max(1024);
    kernel::resize_ext4(&directory, blocks(grown.length, block))?;
    Ok(true)
}

/// How many blocks an ext4 file system may have in that many bytes: a last group that would have little more than its
/// own books is left out, as `resize2fs` does.
fn blocks(bytes: u64, block: u64) -> u64 {
    /// More than a group's inode table, bitmaps and copies have.
    const BOOKS: u64 = 1024;
    let (all, group) = (bytes / block, block * 8);
    if all > group && all % group < BOOKS { all - all % group } else { all }
}

fn grow_by_programs() -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let root = root(&mounts).ok_or("the root file system is not on a disk")?;
    let name = fs::canonicalize(&root.device)
        .ok()
        .and_then(|device| device.file_name()?.to_str().map(str::to_owned))
        .ok_or_else(|| format!("{} is not there", root.device))?;
    let block = Path::new("/sys/class/block").join(&name);
    if let Ok(partition) = fs::read_to_string(block.join("partition")) {
        let disk = fs::canonicalize(&block).ok();
        let disk = disk.as_deref().and_then(Path::parent).and_then(Path::file_name);
        let disk = disk.and_then(|disk| disk.to_str()).ok_or("the partition is on no disk")?;
        let grown = Run::new("growpart", &[&format!("/dev/{disk}"), partition.trim()]).status()?;
        // 1: there is nothing to grow.
        if !matches!(grown, Some(0 | 1)) {
            return Err(format!("growpart ended with {grown:?}"));
        }
    }
    let device = format!("/dev/{name}");
    match root.kind.as_str() {
        "ext2" | "ext3" | "ext4" => Run::new("resize2fs", &[&device]).run(),
        "xfs" => Run::new("xfs_growfs", &["/"]).run(),
        "btrfs" => Run::new("btrfs", &["filesystem", "resize", "max", "/"]).run(),
        kind => Err(format!("a root file system of kind {kind} can't be grown here")),
    }
}

fn root(mounts: &str) -> Option<Root> {
    let mut found = None;
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
        if place == "/" && device.starts_with("/dev/") {
            found = Some(Root { device: device.to_owned(), kind: kind.to_owned() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_disk_on_the_root_is_it() {
        let mounts =
            "rootfs / rootfs rw 0 0\n/dev/vda1 / ext4 rw 0 0\n/dev/vda15 /boot/efi vfat rw 0 0\n";
        let expected = Root { device: "/dev/vda1".to_owned(), kind: "ext4".to_owned() };
        assert_eq!(root(mounts), Some(expected));
        assert_eq!(root("overlay / overlay rw 0 0\n"), None);
        assert_eq!(root("x\n"), None);
    }

    #[test]
    fn a_group_of_little_but_books_is_left_out() {
        assert_eq!(blocks(10 << 30, 4096), 2_621_440);
        assert_eq!(blocks((128 << 20) * 3 + (4 << 20) - 4096, 4096), 3 * 32_768);
        assert_eq!(blocks((128 << 20) * 3 + (4 << 20), 4096), 3 * 32_768 + 1024);
        assert_eq!(blocks(1 << 20, 4096), 256);
    }
}
