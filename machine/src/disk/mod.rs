//! Disk files: inspected before any tool opens them, made, grown, and their snapshots while nothing runs on them.
//!
//! What comes from outside ([`DiskFormat::detect`], [`Header`]) is judged by its first bytes, in this process, before
//! `qemu-img` sees it: a qcow2 file may name other files that its reader opens, and counts that take its reader
//! minutes. What is accepted is [flattened](DiskTool::flatten) into a file that nobody else wrote.
//!
//! A machine's own disk is an *overlay*: a qcow2 file that names no other file either. What lies under it is said by
//! whoever opens it (`-blockdev …,backing=NODE`), never by its header, which the machine could have rewritten. So the
//! same [inspection](DiskTool::inspect) serves for both, and is repeated before each use.
//!
//! `qemu-img` runs with bounded memory and CPU time, under a wall clock, and is ended when its caller goes away.

mod error;
mod header;
mod overlay;
mod program;
mod raw;
mod snapshots;

#[cfg(test)]
mod crafted;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

pub use error::{DiskError, Refusal};
pub use header::{HEADER_BYTES, Header};
pub use overlay::DiskFacts;
pub use program::DiskTool;
pub use raw::DiskFormat;
pub use snapshots::{DiskSnapshot, SnapshotTag};

/// Bytes of a sector: every disk's size is a multiple of it.
pub const SECTOR: u64 = 512;
