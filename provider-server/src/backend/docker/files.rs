//! The files that make a container *this* VM: its host key, its machine id, and who may log in.
//! They travel in one tar archive that is put into the container before its first start. Files only,
//! but for the folder of the keys: folders are in the image, and would take their modes from the archive.
//!
//! The keys are not in `~/.ssh/authorized_keys`, which is the guest's own: they can be replaced without
//! touching what the guest has written there, and one that was removed opens nothing.

use data_encoding::HEXLOWER;
use golem_vm_protocol::vm::SshPublicKey;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::backend::{InstanceId, InstanceSpec};

const ROOT: u64 = 0;
/// Where sshd looks for the keys of a user, besides the user's own file; see `image/sshd.conf`. Root's,
/// and readable by all: sshd reads it as the user that logs in.
const KEYS: &str = "etc/ssh/golem_authorized_keys";
/// Who can be logged in as.
const USERS: [&str; 2] = ["ubuntu", "root"];

/// The archive, to be unpacked at `/`; `mtime` in seconds since 1970.
///
/// # Errors
/// None in practice: it is written to memory.
pub(super) fn archive(spec: &InstanceSpec, mtime: u64) -> std::io::Result<Vec<u8>> {
    let mut tar = Archive { builder: Builder::new(Vec::new()), mtime };
    tar.file("etc/machine-id", 0o444, ROOT, &format!("{}\n", machine_id(spec.id)))?;
    if let Some(access) = &spec.access {
        let public = format!("{}\n", access.host_key.as_str());
        tar.file("etc/ssh/ssh_host_ed25519_key", 0o600, ROOT, &access.host_key_private)?;
        tar.file("etc/ssh/ssh_host_ed25519_key.pub", 0o644, ROOT, &public)?;
        tar.keys(&access.authorized_keys)?;
    }
    tar.builder.into_inner()
}

/// The archive that replaces the keys of a container that is there, to be unpacked at `/`.
///
/// # Errors
/// None in practice: it is written to memory.
pub(super) fn keys_archive(keys: &[SshPublicKey], mtime: u64) -> std::io::Result<Vec<u8>> {
    let mut tar = Archive { builder: Builder::new(Vec::new()), mtime };
    tar.keys(keys)?;
    tar.builder.into_inner()
}

/// 32 hexadecimal digits as in machine-id(5): always the same for a VM, without giving its id away.
fn machine_id(id: InstanceId) -> String {
    let hash = Sha256::digest(format!("golem-machine-id-v1\0{id}"));
    HEXLOWER.encode(&hash[..16])
}

struct Archive {
    builder: Builder<Vec<u8>>,
    mtime: u64,
}

impl Archive {
    fn file(&mut self, path: &str, mode: u32, owner: u64, text: &str) -> std::io::Result<()> {
        let mut header = self.header(mode, owner);
        header.set_size(u64::try_from(text.len()).map_err(std::io::Error::other)?);
        self.builder.append_data(&mut header, path, text.as_bytes())
    }

    fn keys(&mut self, keys: &[SshPublicKey]) -> std::io::Result<()> {
        let mut folder = self.header(0o755, ROOT);
        folder.set_entry_type(EntryType::Directory);
        folder.set_size(0);
        self.builder.append_data(&mut folder, format!("{KEYS}/"), std::io::empty())?;
        let lines: String = keys.iter().map(|key| format!("{}\n", key.as_str())).collect();
        for user in USERS {
            self.file(&format!("{KEYS}/{user}"), 0o644, ROOT, &lines)?;
        }
        Ok(())
    }

    fn header(&self, mode: u32, owner: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(self.mtime);
        header
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use super::super::spec::tests::{key, spec};
    use super::*;

    fn listing(archive: &[u8]) -> Vec<String> {
        let mut tar = tar::Archive::new(archive);
        let entries = tar.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                let (mode, uid) = (header.mode().unwrap(), header.uid().unwrap());
                assert_eq!(header.gid().unwrap(), uid);
                format!("{mode:o} {uid} {path}")
            })
            .collect()
    }

    #[test]
    fn owners_and_modes_are_those_that_sshd_insists_on() {
        let expected = [
            "444 0 etc/machine-id",
            "600 0 etc/ssh/ssh_host_ed25519_key",
            "644 0 etc/ssh/ssh_host_ed25519_key.pub",
            "755 0 etc/ssh/golem_authorized_keys/",
            "644 0 etc/ssh/golem_authorized_keys/ubuntu",
            "644 0 etc/ssh/golem_authorized_keys/root",
        ];
        assert_eq!(listing(&archive(&spec(), 0).unwrap()), expected);
        assert_eq!(listing(&keys_archive(&[key(2)], 0).unwrap()), expected[3..]);
        assert!(include_str!("../../../image/sshd.conf").contains(&format!(" /{KEYS}/%u\n")));
        assert!(include_str!("../../../image/vm-init").contains(&format!(" /{KEYS}/%u\"")));
    }

    #[test]
    fn every_key_gets_a_line() {
        let archive = archive(&spec(), 0).unwrap();
        let mut tar = tar::Archive::new(archive.as_slice());
        let mut entry = tar
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|entry| entry.path().unwrap().ends_with("ubuntu"))
            .unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\n{}\n", key(2).as_str(), key(3).as_str()));
    }

    #[test]
    fn a_workload_that_nobody_logs_in_to_has_no_keys() {
        let mut spec = spec();
        spec.access = None;
        assert_eq!(listing(&archive(&spec, 0).unwrap()), ["444 0 etc/machine-id"]);
    }

    #[test]
    fn a_machine_id_stays_and_differs_from_vm_to_vm() {
        let (one, other) =
            (spec().id, InstanceId::of(golem_vm_protocol::VmId::from_bytes([8; 16])));
        assert_eq!(machine_id(one), machine_id(one));
        assert_ne!(machine_id(one), machine_id(other));
        assert_eq!(machine_id(one).len(), 32);
    }
}
