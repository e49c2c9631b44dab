//! Machines on a real QEMU, from their making to their end. Needs root, QEMU, and Debian's archive once.
#![cfg(feature = "qemu")]
#![allow(clippy::unwrap_used)]

mod guest;
mod support;

mod disks;
mod ends;
mod hostile;
mod power;
mod survival;
