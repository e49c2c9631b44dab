//! What has to be the same in a template and in what is resumed from it.

use std::fs::File;
use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::agent;
use crate::hardware::{Begin, Hardware, Memory, Platform, Size, arguments};

/// Of what a template is one. Two that are equal can be resumed as each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The image: digest of its content.
    pub image: String,
    /// The QEMU, its machine type, and what runs the guest.
    pub platform: Platform,
    /// Digest of the QEMU program itself: a distribution may mend it without another version.
    pub program: String,
    /// The processor's model, and all devices: digest of the arguments of a machine of this size without its files.
    pub hardware: String,
    /// Memory and processors.
    pub size: Size,
    /// The agent inside.
    pub agent: String,
    /// What its first boot was told: digest of the seed.
    #[serde(default)]
    pub seed: String,
}

impl Key {
    /// The key of templates of `image` in that size, made and resumed by this program.
    ///
    /// `program` is [`program_digest`] of the QEMU, which takes long enough to be kept.
    #[must_use]
    pub fn new(image: &str, platform: &Platform, program: &str, size: Size) -> Self {
        let hardware = Hardware {
            name: String::new(),
            uuid: String::new(),
            size,
            memory: Memory::Private,
            disk: Some(crate::hardware::Disk { layers: Vec::new(), speed: None }),
            seed: Some("seed".into()),
            nic: Some(crate::hardware::Nic { tap: String::new(), mac: String::new() }),
            direct_boot: None,
        };
        let mut hash = Sha256::new();
        for argument in arguments(platform, &hardware, Begin::Boot) {
            hash.update(argument);
            hash.update([0]);
        }
        Self {
            image: image.to_owned(),
            platform: platform.clone(),
            program: program.to_owned(),
            hardware: HEXLOWER.encode(&hash.finalize()),
            size,
            agent: agent::VERSION.to_owned(),
            seed: super::seed_digest(),
        }
    }

    /// The name of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        // What can be written as JSON and has no maps is always written the same.
        let text = serde_json::to_vec(self).unwrap_or_default();
        HEXLOWER.encode(&Sha256::digest(text)[..16])
    }

    /// Whether this is what a template made now, of whatever image and size, would have.
    #[must_use]
    pub fn is_current(&self, platform: &Platform, program: &str) -> bool {
        *self == Self::new(&self.image, platform, program, self.size)
    }
}

/// The digest of a program, in hexadecimal.
///
/// # Errors
/// When it can't be read.
pub fn program_digest(program: &Path) -> io::Result<String> {
    digest(program).map(|digest| digest.0)
}

/// The digest of a file in hexadecimal, and its length.
pub(super) fn digest(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let count = io::Read::read(&mut file, &mut bytes)?;
        if count == 0 {
            return Ok((HEXLOWER.encode(&hash.finalize()), length));
        }
        hash.update(&bytes[..count]);
        length += count as u64;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::accel::{Accelerator, Qemu};
    use crate::hardware::Architecture;

    pub(in crate::template) fn platform() -> Platform {
        Platform {
            qemu: Qemu {
                binary: "/usr/bin/qemu-system-x86_64".into(),
                version: "7.2.22".to_owned(),
                architecture: Architecture::X86_64,
                machine: "pc-q35-7.2".to_owned(),
            },
            accelerator: Accelerator::Tcg,
        }
    }

    pub(in crate::template) fn key(image: &str) -> Key {
        Key::new(image, &platform(), "program", Size { vcpus: 1, memory_mib: 512 })
    }

    #[test]
    fn anything_that_differs_is_another_key() {
        let base = key("a");
        assert!(base.is_current(&platform(), "program"));
        assert_eq!(base.directory().len(), 32);
        let mut others = vec![
            key("b"),
            Key::new("a", &platform(), "mended", base.size),
            Key::new("a", &platform(), "program", Size { vcpus: 2, memory_mib: 512 }),
            Key::new("a", &platform(), "program", Size { vcpus: 1, memory_mib: 1024 }),
            Key { agent: "older".to_owned(), ..base.clone() },
            Key { hardware: "other devices".to_owned(), ..base.clone() },
            Key { seed: String::new(), ..base.clone() },
        ];
        for change in [
            |platform: &mut Platform| platform.accelerator = Accelerator::Kvm,
            |platform: &mut Platform| platform.qemu.version = "7.2.23".to_owned(),
            |platform: &mut Platform| platform.qemu.machine = "pc-q35-8.0".to_owned(),
            |platform: &mut Platform| platform.qemu.binary = "/opt/qemu".into(),
        ] {
            let mut other = platform();
            change(&mut other);
            assert!(!base.is_current(&other, "program"));
            others.push(Key::new("a", &other, "program", base.size));
        }
        for other in &others {
            assert_ne!(other.directory(), base.directory());
        }
        for other in &others[4..7] {
            assert!(!other.is_current(&platform(), "program"));
        }
    }
}
