//! What a full probe found, kept in a file for the next start, together with everything that could have
//! changed it since.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bollard::models::{SystemInfo, SystemVersion};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk;
use super::endpoint::Address;
use crate::backend::Capabilities;
use crate::backend::kept_file;
use crate::containment::Rules;

/// The file in the provider's directory.
const FILE: &str = "capabilities.json";

/// What this process is allowed and where it runs: whatever of it changes can change what is found.
const OWN: [&str; 3] = ["/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/user"];
/// Files whose text is part of it.
const TEXTS: [&str; 2] =
    ["/proc/sys/kernel/random/boot_id", "/proc/sys/net/bridge/bridge-nf-call-iptables"];
/// Files that are others, or newer, after the engine was set up otherwise or started again.
const OF_ENGINE: [&str; 2] = ["/etc/docker/daemon.json", "/var/run/docker.pid"];

/// What was found, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    surroundings: String,
    pub(super) capabilities: Capabilities,
    pub(super) disk: disk::Tried,
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    file: PathBuf,
}

impl Memory {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { file: directory.join(FILE) }
    }

    /// What was found in these surroundings. A file that can't be read is none.
    pub(super) fn recall(&self, surroundings: &str) -> Option<Remembered> {
        let found: Remembered = kept_file::read(&self.file)?;
        (found.surroundings == surroundings).then_some(found)
    }

    /// Keeps it. That it can't be is no harm: the next start tries everything again.
    pub(super) fn keep(
        &self,
        surroundings: String,
        capabilities: &Capabilities,
        disk: &disk::Tried,
    ) {
        let found =
            Remembered { surroundings, capabilities: capabilities.clone(), disk: disk.clone() };
        if let Err(error) = kept_file::write(&self.file, &found) {
            tracing::debug!("{} can't be written: {error}", self.file.display());
        }
    }
}

/// Everything that could change what a probe finds, as one word.
pub(super) fn surroundings(
    address: &Address,
    info: &SystemInfo,
    version: &SystemVersion,
    rules: &Rules,
    own_image: Option<&str>,
) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut add = |part: &dyn std::fmt::Debug| {
        let _ = writeln!(text, "{part:?}");
    };
    add(&env!("CARGO_PKG_VERSION"));
    add(&std::env::current_exe().ok().and_then(|path| stat(&path)));
    add(&(address, rules, own_image));
    add(&(&info.id, &version.version, &version.api_version, &info.kernel_version));
    add(&(&info.driver, &info.docker_root_dir, &info.operating_system));
    add(&(&info.security_options, &info.cgroup_driver, &info.cgroup_version));
    add(&(&info.default_runtime, &info.live_restore_enabled, &info.warnings));
    add(&(info.memory_limit, info.swap_limit, info.pids_limit, info.cpu_cfs_quota));
    for path in OWN {
        add(&std::fs::read_link(path).ok());
    }
    for path in TEXTS {
        add(&std::fs::read_to_string(path).ok());
    }
    for path in OF_ENGINE {
        add(&stat(Path::new(path)));
    }
    // The engine makes its socket anew when it starts.
    if let Address::Unix(path) = address {
        add(&stat(path));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = |line: &&str| {
        ["Uid:", "Cap", "NoNewPrivs", "Seccomp:"].iter().any(|word| line.starts_with(word))
    };
    add(&status.lines().filter(allowed).collect::<Vec<_>>());
    HEXLOWER.encode(&Sha256::digest(text))
}

/// Which file it is, and which version of it.
fn stat(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::vm::Isolation;

    use super::*;
    use crate::backend::Containment;

    fn capabilities() -> Capabilities {
        Capabilities {
            isolation: Isolation::Container,
            version: "Docker Engine 20.10".to_owned(),
            enforced: vec!["cpu".to_owned()],
            containment: Containment::Contained,
            findings: Vec::new(),
            data_root: None,
            accel: None,
            abilities: [].into(),
        }
    }

    #[test]
    fn what_was_found_is_recalled_in_the_same_surroundings_only() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::in_directory(folder.path());
        assert_eq!(memory.recall("a"), None);
        let disk = disk::Tried::Enforced { counts_image: true };
        memory.keep("a".to_owned(), &capabilities(), &disk);
        let found = memory.recall("a").unwrap();
        assert_eq!((found.capabilities, found.disk), (capabilities(), disk));
        assert_eq!(memory.recall("b"), None);
        std::fs::write(folder.path().join(FILE), "{\"surroundings\":\"a\"").unwrap();
        assert_eq!(memory.recall("a"), None, "half a file");
    }

    #[test]
    fn whatever_could_change_what_is_found_makes_them_others() {
        type Change = fn(&mut SystemInfo, &mut SystemVersion, &mut Rules);
        let changes: [Change; 9] = [
            |info, _, _| info.id = Some("other".to_owned()),
            |info, _, _| info.kernel_version = Some("6.1".to_owned()),
            |info, _, _| info.driver = Some("btrfs".to_owned()),
            |info, _, _| info.docker_root_dir = Some("/mnt".to_owned()),
            |info, _, _| info.security_options = Some(vec!["name=rootless".to_owned()]),
            |info, _, _| info.live_restore_enabled = Some(true),
            |info, _, _| info.pids_limit = Some(false),
            |_, version, _| version.version = Some("29".to_owned()),
            |_, _, rules| rules.caps.connections += 1,
        ];
        let word = |change: Option<Change>, image| {
            let (mut info, mut version, mut rules) =
                (SystemInfo::default(), SystemVersion::default(), Rules::default());
            if let Some(change) = change {
                change(&mut info, &mut version, &mut rules);
            }
            let address = Address::Tcp("127.0.0.1:2375".to_owned());
            surroundings(&address, &info, &version, &rules, image)
        };
        let before = word(None, None);
        assert_eq!(word(None, None), before);
        assert_ne!(word(None, Some("sha256:aa")), before, "there is an image to try with now");
        for (number, change) in changes.into_iter().enumerate() {
            assert_ne!(word(Some(change), None), before, "change {number}");
        }
    }
}
