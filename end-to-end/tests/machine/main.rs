//! What machines by QEMU stand on, tried with real namespaces: as root, and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod network;
mod owner;
