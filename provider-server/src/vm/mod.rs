//! The life of a rented VM.
//!
//! ```text
//!   admit ──▶ creating ──▶ running ⇄ stopping ──▶ stopped ──▶ starting ──▶ running
//!                │            │          │          │   ▲
//!                │            │          └▶ retained◀───┘ (undelete)
//!                │            │                 │
//!                │            └────────┬────────┘
//!             failed              destroying ──▶ (no row)
//! ```
//!
//! * [`manager`] takes requests, finds the VM, and hands the request to the VM's task.
//! * [`task`] is the only writer of one VM: requests for it are carried out one after another.
//! * [`keys`] says which SSH keys a VM has after a change; it is pure.
//! * [`policy`] says whether a request makes sense in a state; it is pure.
//! * [`lease`] says for how long, and what is due when; it is pure. [`history`] is what happened.
//! * [`state`] and [`record`] are what is kept; [`repository`] is where (a trait: no SQL in here).
//! * `survey` looks at all instances.
//! * [`readiness`] finds out whether SSH answers.
//! * [`disk_guard`] stops what goes past its disk, [`idle_guard`] what nobody uses.
//!
//! Every intention is written before the backend is touched, so that whatever interrupts the
//! program, the next start finds what was meant and carries on.

pub mod access;
pub mod admission;
pub mod console;
pub mod disk_guard;
pub mod error;
pub mod history;
pub mod host_key;
pub mod idle_guard;
pub mod keys;
pub mod lease;
mod life;
pub mod life_repository;
pub mod manager;
pub mod offer_book;
pub mod policy;
pub mod readiness;
pub mod record;
pub mod repository;
pub mod snapshot;
pub mod state;
mod survey;
pub mod task;

pub use access::AccessPorts;
pub use error::VmError;
pub use manager::VmManager;
pub use record::{OperationRecord, VmRecord};
pub use state::VmState;

#[cfg(test)]
mod tests;
