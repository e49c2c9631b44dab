#![allow(clippy::unwrap_used)]

use std::process::Command;

use super::*;

pub(crate) fn identity() -> Identity {
    Identity {
        instance_id: "vm_1".to_owned(),
        hostname: "web-1".to_owned(),
        machine_id: MachineId::from_bytes([1; 16]),
        host_key: HostKey {
            private:
                "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
                    .to_owned(),
            public: "ssh-ed25519 AAAA".to_owned(),
        },
        user: USER.to_owned(),
        authorized_keys: vec!["ssh-ed25519 BBBB me".to_owned()],
        network: crate::network::Addressing::of(&[1; 16]),
    }
}

#[test]
fn a_seed_has_one_size_and_is_replaced_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed.iso");
    write(&path, &disk(&identity(), None).unwrap()).unwrap();
    let before = fs::metadata(&path).unwrap();
    assert_eq!(before.len(), SIZE as u64);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&before.permissions()) & 0o777, 0o600);

    let mut changed = identity();
    changed.authorized_keys = vec!["ssh-ed25519 CCCC you".to_owned(); 200];
    replace(&path, &disk(&changed, None).unwrap()).unwrap();
    let ino = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(ino(&fs::metadata(&path).unwrap()), ino(&before));
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    assert!(text.contains("CCCC you") && !text.contains("BBBB"));

    fs::write(&path, "short").unwrap();
    assert!(replace(&path, &disk(&changed, None).unwrap()).is_err());
    changed.authorized_keys = vec!["x".repeat(1000); SIZE / 1000 + 1];
    assert_eq!(disk(&changed, None).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn the_longest_user_data_fits_however_it_has_to_be_written() {
    let script = format!("#!/bin/sh\n{}", "\u{fc}".repeat((user_data::MAX_BYTES - 10) / 2));
    disk(&identity(), Some(&UserData::parse(&script).unwrap())).unwrap();
}

#[test]
fn two_seeds_of_one_machine_differ_in_their_randomness() {
    assert_ne!(disk(&identity(), None).unwrap(), disk(&identity(), None).unwrap());
}

/// By the tools of the distribution, which every machine with systemd has.
#[test]
fn blkid_finds_the_label_that_cloud_init_looks_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed.iso");
    write(&path, &disk(&identity(), None).unwrap()).unwrap();
    let said =
        Command::new("/sbin/blkid").args(["-p", "-o", "export"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("LABEL=cidata") && said.contains("TYPE=iso9660"), "{said}");
}

#[test]
fn the_boot_script_is_one_that_a_shell_reads() {
    let files = documents::all(&identity(), None, &[0; 64]);
    let (_, script) = files.iter().find(|file| file.0 == "boot.sh").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("boot.sh");
    fs::write(&path, script).unwrap();
    assert!(Command::new("sh").arg("-n").arg(&path).status().unwrap().success());
    let script = String::from_utf8_lossy(script).into_owned();
    assert!(script.contains(identity().machine_id.as_str()) && !script.contains('@'), "{script}");
}
