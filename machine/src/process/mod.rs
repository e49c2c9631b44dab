//! Processes that outlive this one: started, proved, limited, ended.

mod identity;
mod peer;

pub use identity::ProcessIdentity;
pub use peer::Peer;
pub use rustix::process::Signal;
