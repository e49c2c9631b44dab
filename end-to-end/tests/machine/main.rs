//! What machines by QEMU stand on, tried with real namespaces: as root, and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// The small guest that the machine crate's own tests boot, and what they make it with.
#[allow(dead_code)]
#[path = "../../../machine/tests/life/guest.rs"]
mod guest;
mod network;
mod owner;
mod real_guest;
#[allow(dead_code)]
#[path = "../../../machine/tests/life/support.rs"]
mod support;
