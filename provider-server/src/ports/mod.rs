//! This host's ports: what is held, what the world can reach, and where that leads.
//!
//! ```text
//!  golem-forwarder ──▶ ForwardedPorts ──┐                       ┌──▶ usable(): for new VMs
//!    (holds, routes)     (restarts it)  ├──▶ PortBoard ─────────┼──▶ summary(): advertised
//!  port checkers ────▶ PortVerifier ────┘   (per port: held?    └──▶ report(): shown, display
//!    (dial back)         │                   reached by whom?)
//!                        └──▶ PublicAddress ◀── discovery
//! ```
//!
//! A port is given to a new VM when it is held here and, unless its owner switched that off, was
//! reached from outside. A VM that has a port keeps it whatever is found later.

mod backoff;
mod board;
pub mod display;
mod forwarding;
pub(crate) mod holder;
mod proofs;
mod public_address;
mod report;
mod verify;

#[cfg(test)]
mod tests;

pub(crate) use backoff::Backoff;
pub use board::PortBoard;
pub use forwarding::{ForwardedPorts, ForwarderProgram, ForwardingError, LaunchForwarder};
pub(crate) use holder::holders;
pub use proofs::{PortProofs, bind_proof_socket};
pub use public_address::{PublicAddress, SeenBy};
pub use report::{
    CheckerReport, External, Local, NotReached, PortProblem, PortReport, PortsReport, PortsSummary,
    Verification,
};
pub use verify::{PortVerifier, VerifyPace};
