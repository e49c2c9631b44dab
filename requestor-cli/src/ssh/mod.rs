//! Logging in: keys, the host keys that are pinned, the system's OpenSSH, and the built-in client.
//!
//! Whichever client is used, it accepts exactly one host key per VM: the one that the provider
//! named in a signed reply when the VM was created.

pub mod builtin;
pub mod keys;
pub mod known_hosts;
pub mod login;
pub mod openssh;

use std::path::Path;
use std::time::Duration;

use golem_vm_protocol::VmId;

use crate::rentals::SshAccess;

/// A VM that somebody logs in to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its id, under which its host key is known.
    pub vm: VmId,
    /// Where it is, and which host key answers.
    pub access: &'a SshAccess,
    /// What `ssh -i` is given; `None`: whatever keys the person has by default.
    pub identity: Option<&'a Path>,
    /// The file of pinned host keys.
    pub known_hosts: &'a Path,
}

/// How often a silent machine is asked whether it is still there. One that was reset says nothing of its own accord.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// After how many questions without an answer its sessions end.
const KEEPALIVES: usize = 4;

/// What a wrong host key means, for a person.
pub const WRONG_HOST_KEY: &str = "the machine that answers is not the one you rented, or somebody \
    is in between; nothing was sent to it, and no key of yours was offered";
