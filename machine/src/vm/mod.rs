//! One machine on disk and in memory, from its making to its end.
//!
//! ```text
//! ROOT/NAME/              0700, ours
//!   manifest.json         all that is known of it, written before it is done
//!   identity.json         who it is, with its private host key
//!   console.log           the last of what it said on its serial port
//!   qemu.log              what QEMU itself said
//!   stage/                empty; used while it is started
//!   guest/                0700, the machine's user's: all that its QEMU may write to
//!     disk.qcow2          its disk, on top of an image
//!     seed.iso            what the guest learns at its boots
//!     *.sock              QEMU's sockets
//! ```
//!
//! A machine is one QEMU process, which outlives this program: the manifest says which, and the process itself, also
//! when its guest has ended, how that came about. Whatever a compromised QEMU puts into `guest/` is looked at with
//! that in mind: sockets are proved, files are not followed.

mod capture;
mod console;
mod copy;
mod error;
mod identity;
mod machines;
mod manifest;
mod name;
mod network;
mod observe;
mod resize;
mod resume;
mod snapshots;
mod start;
mod stop;
mod suspend;
mod usage;

pub use error::MachineError;
pub use machines::{MachineSpec, Machines, Settings};
pub use manifest::{Base, Direct, Ended, Manifest, Network, Run, Suspended};
pub use name::{MachineName, MachineNameError};
pub use observe::State;
pub use resume::Resumed;
pub use snapshots::{MOST_SNAPSHOTS, MachineSnapshot};
pub use start::{OVERHEAD_MIB, overhead_mib};
pub use usage::MachineUsage;
