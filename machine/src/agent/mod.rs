//! The program inside our guests, and how it is spoken to.
//!
//! The program itself is in `guest-agent/` of this crate: the build script compiles it, and [`PROGRAM`] is the result.
//! A guest is hostile: what it answers is bounded in size and time, and its words are made printable.

mod client;
#[path = "../../guest-agent/crc32.rs"]
pub(crate) mod crc32;
#[path = "../../guest-agent/wire.rs"]
pub mod wire;

#[cfg(feature = "fuzzing")]
pub(crate) use client::fuzzing;
pub use client::{Agent, AgentError};

/// The agent as an x86-64 (or whatever this was built for) Linux program that needs no library. Empty where this
/// crate was built for another system.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-agent"));

/// Its version. Part of what a template is known by.
pub const VERSION: &str = env!("GOLEM_GUEST_AGENT_VERSION");

/// Where it is in a guest.
pub const PATH_IN_GUEST: &str = "/usr/lib/golem/guest-agent";

/// The systemd unit that starts it, for `/usr/lib/systemd/system/golem-agent.service`, wanted by `sysinit.target`.
pub const UNIT: &str = include_str!("../../guest-agent/golem-agent.service");

/// The name of its virtio-serial port.
pub const PORT: &str = "org.golem.agent";
