//! How machines of different processors differ: a table.

use serde::{Deserialize, Serialize};

use crate::accel::Accelerator;

/// What processor a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit PCs.
    X86_64,
    /// 64-bit ARM. Its arguments are made and compared, and no guest has run with them yet.
    Aarch64,
}

impl Architecture {
    /// What this program was built for. On other processors, PCs that are emulated.
    #[must_use]
    pub const fn of_this_host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// The name of QEMU's program.
    #[must_use]
    pub const fn binary(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// How to get it.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::X86_64 => {
                "apt-get install qemu-system-x86 (Debian, Ubuntu), dnf install qemu-system-x86 (Fedora)"
            }
            Self::Aarch64 => {
                "apt-get install qemu-system-arm (Debian, Ubuntu), dnf install qemu-system-aarch64 (Fedora)"
            }
        }
    }

    /// The short name of the machine type, which stands for the newest of its kind.
    #[must_use]
    pub const fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "q35",
            Self::Aarch64 => "virt",
        }
    }

    /// What is switched off in the machine itself: what no guest here needs.
    pub(super) const fn machine_options(self) -> &'static str {
        match self {
            Self::X86_64 => ",vmport=off,smm=off,graphics=off",
            Self::Aarch64 => ",gic-version=max,its=on",
        }
    }

    /// The processor's model. With KVM, the host's own; emulated, all that QEMU can, without the wider addresses
    /// that only cost time.
    pub(super) const fn cpu(self, accelerator: Accelerator) -> &'static str {
        match (self, accelerator) {
            (_, Accelerator::Kvm) => "host",
            (Self::X86_64, Accelerator::Tcg) => "max,la57=off",
            (Self::Aarch64, Accelerator::Tcg) => "max,pauth-impdef=on",
        }
    }

    /// The firmware, where QEMU has none of its own for this machine.
    pub(super) const fn firmware(self) -> Option<&'static str> {
        match self {
            Self::X86_64 => None,
            Self::Aarch64 => Some("/usr/share/AAVMF/AAVMF_CODE.fd"),
        }
    }

    /// Whether there is a device that tells the guest that it is a copy.
    pub(super) const fn has_generation_id(self) -> bool {
        matches!(self, Self::X86_64)
    }
}
