//! The root file system, as large as its disk.

use std::fs;
use std::path::Path;

use crate::run::Run;

/// Where a file system is.
#[derive(Debug, PartialEq, Eq)]
struct Root {
    device: String,
    kind: String,
}

/// Grows partition and file system. Twice is no harm.
pub(crate) fn grow() -> Result<(), String> {
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
}
