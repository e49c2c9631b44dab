//! Disks made, grown and kept by the real `qemu-img`.
#![cfg(feature = "qemu")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use golem_vm_machine::disk::{DiskError, DiskFormat, DiskTool, Refusal, SnapshotTag};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn scratch() -> (TempDir, DiskTool) {
    (TempDir::new().unwrap(), DiskTool::default())
}

/// A disk with a boot sector and something to be found again.
fn raw_image(directory: &Path) -> PathBuf {
    let mut content = vec![0; 4 * MIB as usize];
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    content[MIB as usize..][..9].copy_from_slice(b"something");
    let path = directory.join("source, raw.img");
    fs::write(&path, content).unwrap();
    path
}

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn qemu_io(disk: &Path, command: &str) {
    let status = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output();
    let output = status.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("failed"), "{command}: {said}");
}

#[tokio::test]
async fn an_image_is_flattened_and_its_content_stays() {
    let (directory, tool) = scratch();
    let source = raw_image(directory.path());
    let (format, bytes) = DiskFormat::detect(&source, 4 * MIB).unwrap();
    assert_eq!((format, bytes), (DiskFormat::Raw, 4 * MIB));
    let flat = directory.path().join("flat.qcow2");
    tool.flatten(&source, format, &flat).await.unwrap();
    let facts = tool.inspect(&flat).unwrap();
    assert_eq!((facts.virtual_size, facts.snapshots), (4 * MIB, 0));
    assert!(facts.actual_size < 2 * MIB, "{facts:?}");
    let again = directory.path().join("again.raw");
    tool.to_raw(&flat, DiskFormat::Qcow2, &again).await.unwrap();
    assert_eq!(fs::read(&again).unwrap(), fs::read(&source).unwrap());
}

#[tokio::test]
async fn what_real_tools_write_is_judged() {
    let (directory, tool) = scratch();
    let base = raw_image(directory.path());
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let base = base.to_str().unwrap();
    let judged = |path: &str| match DiskFormat::detect(Path::new(path), 64 * MIB).unwrap_err() {
        DiskError::Refused { why, .. } => why,
        other => panic!("{other}"),
    };
    let over = at("over.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", &over]);
    assert_eq!(judged(&over), Refusal::BackingFile);
    let nbd = at("nbd.qcow2");
    let remote = r#"json:{"driver":"nbd","host":"127.0.0.1","port":"1"}"#;
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", remote, "-F", "raw", &nbd, "1M"]);
    assert_eq!(judged(&nbd), Refusal::BackingFile);
    let (data, with_data) = (at("data"), at("data.qcow2"));
    let option = format!("data_file={data}");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, &with_data, "1M"]);
    assert_eq!(judged(&with_data), Refusal::DataFile);
    let large = at("large.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &large, "1T"]);
    assert!(matches!(judged(&large), Refusal::TooLarge { .. }));
    let vmdk = at("disk.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", &vmdk, "1M"]);
    assert_eq!(judged(&vmdk), Refusal::UnknownFormat);
    let kept = at("kept.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &kept, "1M"]);
    qemu_img(&["snapshot", "-c", "one", &kept]);
    assert_eq!(judged(&kept), Refusal::Snapshots(1));
    // All that official images come as is taken.
    for options in ["compat=0.10", "compat=1.1", "compression_type=zstd", "cluster_size=2M"] {
        let path = at("good.qcow2");
        qemu_img(&["convert", "-c", "-O", "qcow2", "-f", "raw", "-o", options, base, &path]);
        let path = Path::new(&path);
        let judged = DiskFormat::detect(path, 64 * MIB).unwrap();
        assert_eq!(judged, (DiskFormat::Qcow2, 4 * MIB), "{options}");
        let again = directory.path().join("again.raw");
        tool.to_raw(path, DiskFormat::Qcow2, &again).await.unwrap();
        assert_eq!(fs::read(&again).unwrap(), fs::read(base).unwrap(), "{options}");
    }
}

#[tokio::test]
async fn a_disk_grows_and_never_shrinks() {
    let (directory, tool) = scratch();
    let disk = directory.path().join("disk.qcow2");
    tool.create_overlay(&disk, 64 * MIB).await.unwrap();
    assert!(matches!(tool.create_overlay(&disk, MIB).await, Err(DiskError::Io { .. })));
    tool.grow(&disk, 64 * MIB).await.unwrap();
    tool.grow(&disk, 128 * MIB).await.unwrap();
    assert_eq!(tool.inspect(&disk).unwrap().virtual_size, 128 * MIB);
    let smaller = tool.grow(&disk, 64 * MIB).await.unwrap_err();
    assert!(matches!(smaller, DiskError::Smaller { have, .. } if have == 128 * MIB), "{smaller}");
    assert_eq!(tool.inspect(&disk).unwrap().virtual_size, 128 * MIB);
}

#[tokio::test]
async fn snapshots_are_made_restored_and_removed() {
    let (directory, tool) = scratch();
    let disk = directory.path().join("disk.qcow2");
    let tag: SnapshotTag = "first".parse().unwrap();
    tool.create_overlay(&disk, 64 * MIB).await.unwrap();
    assert_eq!(tool.snapshots(&disk).await.unwrap(), []);
    qemu_io(&disk, "write -P 1 0 64k");
    tool.create_snapshot(&disk, &tag).await.unwrap();
    tool.create_snapshot(&disk, &tag).await.unwrap();
    let seen = tool.snapshots(&disk).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].created > 1_700_000_000 && seen[0].memory_bytes == 0, "{seen:?}");
    qemu_io(&disk, "write -P 2 0 64k");
    tool.grow(&disk, 128 * MIB).await.unwrap();
    tool.apply_snapshot(&disk, &tag).await.unwrap();
    qemu_io(&disk, "read -P 1 0 64k");
    assert_eq!(tool.inspect(&disk).unwrap().virtual_size, 128 * MIB);
    tool.delete_snapshot(&disk, &tag).await.unwrap();
    tool.delete_snapshot(&disk, &tag).await.unwrap();
    let gone = tool.apply_snapshot(&disk, &tag).await.unwrap_err();
    assert!(matches!(gone, DiskError::NoSnapshot { .. }), "{gone}");
}

#[tokio::test]
async fn a_header_that_a_machine_rewrote_is_not_opened() {
    let (directory, tool) = scratch();
    let base = raw_image(directory.path());
    let disk = directory.path().join("disk.qcow2");
    tool.create_overlay(&disk, 64 * MIB).await.unwrap();
    let backing = base.to_str().unwrap();
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, disk.to_str().unwrap()]);
    for outcome in [tool.grow(&disk, 128 * MIB).await, tool.snapshots(&disk).await.map(|_| ())] {
        let refused = outcome.unwrap_err();
        assert!(
            matches!(refused, DiskError::Refused { why: Refusal::BackingFile, .. }),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_tool_that_is_missing_or_fails_is_named() {
    let (directory, _) = scratch();
    let missing = DiskTool::at(&directory.path().join("qemu-img"));
    let error = missing.version().await.unwrap_err();
    assert!(error.to_string().contains("install the package qemu-utils"), "{error}");
    let tool = DiskTool::default();
    assert!(tool.version().await.unwrap().starts_with("qemu-img version"));
    let nowhere = directory.path().join("no/such/disk.qcow2");
    assert!(matches!(tool.create_overlay(&nowhere, MIB).await, Err(DiskError::Tool { .. })));
}
