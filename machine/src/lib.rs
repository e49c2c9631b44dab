//! Virtual machines by QEMU: processes, networks, images, templates.
//!
//! | module | what it holds |
//! |---|---|
//! | [`accel`] | whether hardware virtualisation works here, found by running a guest |
//! | [`hardware`] | what a machine is made of, and QEMU's arguments for it: pure |
//! | [`qmp`] | QEMU's monitor protocol |
//! | [`process`] | processes that outlive this one: started, proved, limited, ended |
//! | [`network`] | a machine's network namespace, and what may leave it |
//! | [`seed`] | what a guest learns at its first boot (cloud-init, NoCloud) |
//! | [`agent`] | the program inside our guests, and how it is spoken to |
//! | [`disk`] | disk files: inspected, made, grown |
//! | [`image`] | what machines boot from: built, fetched, checked |
//! | [`template`] | running machines kept to be resumed |
//! | [`vm`] | one machine on disk and in memory, from its making to its end |
//!
//! This crate knows nothing of renters, leases or the market. Only Linux has what it needs.

pub mod accel;
pub mod agent;
pub mod disk;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod hardware;
pub mod image;
pub mod network;
pub mod process;
pub mod qmp;
pub mod seed;
pub mod template;
pub mod vm;
