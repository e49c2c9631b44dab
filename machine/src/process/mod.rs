//! Processes that outlive this one: started, proved, limited, ended.

mod identity;

pub use identity::ProcessIdentity;
pub use rustix::process::Signal;
