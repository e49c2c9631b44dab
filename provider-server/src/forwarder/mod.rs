//! The forwarder: holds the ports that lead to the VMs, and carries their bytes.
//!
//! It is a process of its own (`golem-forwarder`), in a session of its own, so that the provider
//! can end, be killed or be replaced without cutting an SSH session or losing a port. The provider
//! is the only one who tells it anything, over a Unix socket in the data directory ([`wire`]), and
//! finds it again there ([`ForwarderClient`]). What it was told it keeps in a file, so that after
//! its own death it binds the same ports and leads them to the same VMs before anybody asks.
//!
//! - [`Options`], [`run`]: the process.
//! - [`ForwarderClient`], [`find_binary`]: the provider's side.
//! - [`wire`]: what they say to each other.
//!
//! Every port answers port checkers with the provider's proof; one that leads nowhere answers nobody
//! else. The forwarder has no key: the provider signs.
//! A port that can't be bound is tried again every few seconds and never replaced by another one.

mod carriers;
mod client;
mod control;
mod copy;
mod crowd;
mod detach;
mod flow;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod keepalive;
mod launch;
mod limits;
mod listeners;
mod opening;
#[cfg(target_os = "linux")]
mod pipes;
mod prove;
mod pump;
mod reserved_ports;
mod server;
mod session;
#[cfg(target_os = "linux")]
mod splice;
mod state;
mod table;
mod traffic;
mod waiting;
pub mod wire;

#[cfg(test)]
mod tests;

pub use client::{ClientError, EXIT_ALREADY_RUNNING, ForwarderClient};
pub use crowd::DEFAULT_MAX_NEWCOMERS_PER_PORT;
pub use detach::detach;
pub use handover::{
    CAN_TAKE_OVER, Parcel, TAKE_OVER, build_of, can_take_over, successor_of, take_over,
};
pub use keepalive::Keepalive;
pub use launch::{BINARY_NAME, find_binary};
pub use limits::{DEFAULT_MAX_SESSIONS, DEFAULT_MAX_SESSIONS_PER_PORT};
pub use opening::Patience;
pub use prove::PROOF_SOCKET_NAME;
pub use reserved_ports::KERNEL_LIST;
pub use server::{LOCK_NAME, Options, ServerError, run, take_up};
pub use state::STATE_NAME;

/// The name of the control socket in the data directory.
pub const SOCKET_NAME: &str = "forwarder.sock";
