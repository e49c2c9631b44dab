//! Whether hardware virtualisation works here, found by running a guest.
//!
//! That `/dev/kvm` is there, and even that a small guest runs, says little: the firmware in `rom.rs` says why. KVM is used only
//! after the very QEMU that machines get has run a guest with it that does what a kernel does.

mod probe;
mod qemu;
mod rom;

pub use probe::{Accelerator, Choice, choose};
pub use qemu::{Qemu, QemuError};
