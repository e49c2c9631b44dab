//! Running machines kept to be resumed.
//!
//! ```text
//! ROOT/<key>/             a template; read-only, for all users: ROOT keeps them out
//!   disk.qcow2            what its boot wrote, on top of the image: clones' disks lie on it
//!   ram                   its memory: copied into memory for clones, which have it in common until they write
//!   state                 its devices
//!   template.json         what it is a template of, hashes, when it was used last
//! ROOT/making/            one that is being made; removed when it is found at a start
//! ```
//!
//! A template is an image that was booted once with a seed of nobody's: it never held a renter's data or keys. Which
//! machines it can be resumed as is its [`Key`]; when anything of that changes, another template has another key, and
//! the old one goes, except for its disk while there are machines whose disks lie on it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`key`] | what has to be the same in a template and its clones: pure |
//! | [`store`] | templates on disk: found, added whole, removed, within a budget |
//! | [`keeper`] | templates made in the background, one at a time |
//! | [`make`] | an image booted once, and captured |
//! | [`memory`] | a template's memory as its clones get it: sealed |
//!
//! Capturing and resuming a machine is the business of [`vm`](crate::vm).

pub mod keeper;
pub mod key;
pub mod make;
pub mod memory;
pub mod store;

pub use keeper::{Keeper, Surroundings, Wanted};
pub use key::Key;
pub use store::{Facts, Template, TemplateError, Templates};

use crate::seed::{HostKey, Identity, MachineId, USER};

/// A template's files.
pub mod file {
    /// What its boot wrote to its disk.
    pub const DISK: &str = "disk.qcow2";
    /// Its memory.
    pub const RAM: &str = "ram";
    /// Its devices.
    pub const STATE: &str = "state";
}

/// Who a machine is while it becomes a template: nobody. `host_key` has to be one that no VM has or gets; it goes with
/// the agent's first work in each clone.
///
/// # Errors
/// When the system has no random numbers.
pub fn nobody(host_key: HostKey) -> std::io::Result<Identity> {
    Ok(identity(MachineId::random()?, host_key))
}

fn identity(machine_id: MachineId, host_key: HostKey) -> Identity {
    Identity {
        instance_id: "golem-template".to_owned(),
        hostname: "golem-template".to_owned(),
        machine_id,
        host_key,
        user: USER.to_owned(),
        authorized_keys: Vec::new(),
        network: network(),
    }
}

/// The digest of what nobody's first boot is told, but for what is random.
fn seed_digest() -> String {
    let host_key = HostKey { private: String::new(), public: String::new() };
    crate::seed::digest(&identity(MachineId::from_bytes([0; 16]), host_key))
}

/// The addresses of every template: clones have others, which the agent puts in their place.
#[must_use]
pub fn network() -> crate::network::Addressing {
    crate::network::Addressing::of(b"golem template 1")
}
