//! Processes that outlive this one: started, proved, limited, ended.

mod group;
mod identity;
mod launch;
mod peer;

pub use group::{Group, GroupLimits, GroupUsage, Groups, Resource};
pub use identity::{ProcessIdentity, cpu_time};
pub(crate) use launch::last_words;
pub use launch::{Held, Launch, ProcessLimits, RunAs, Seen};
pub use peer::Peer;
pub use rustix::process::Signal;
