//! Processes that outlive this one: started, proved, limited, ended.

mod identity;
mod launch;
mod peer;

pub use identity::ProcessIdentity;
pub use launch::{Held, Launch, ProcessLimits, RunAs, Seen};
pub use peer::Peer;
pub use rustix::process::Signal;
