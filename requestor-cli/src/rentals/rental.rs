//! What is known of one rental.

use std::collections::BTreeSet;
use std::time::Duration;

use golem_vm_protocol::advertisement::Endpoint;
use golem_vm_protocol::signature::Nonce;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Ability, Isolation, Lease, SshPublicKey, VmStatus};
use golem_vm_protocol::{KeyId, VmId, VmName, VmRef, VmResources};

use super::Agreed;
use crate::error::{CliError, Result};

/// How long a request may still be at work on the provider after it was sent: a provider that
/// denies a VM before that may yet make it.
pub const IN_FLIGHT: Duration = Duration::from_secs(120);

/// How sure a rental is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being created, or a create that was cut off.
    Pending,
    /// Created; somebody has logged in.
    Active,
    /// Not wanted any more, to be destroyed as soon as the provider answers.
    Abandoned,
}

/// A provider, as far as it is needed to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRef {
    /// Its key.
    pub id: KeyId,
    /// Its label when the VM was rented.
    pub name: String,
    /// The ways to reach it, as last advertised.
    pub endpoints: Vec<Endpoint>,
}

/// Where and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAccess {
    /// The host.
    pub host: String,
    /// The port; the same for the VM's whole life.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The only host key that is accepted there.
    pub host_key: SshPublicKey,
}

/// One rental.
#[derive(Debug, Clone, PartialEq)]
pub struct Rental {
    /// The row's number.
    pub row: i64,
    /// The VM's name.
    pub name: VmName,
    /// How sure it is.
    pub state: State,
    /// From whom.
    pub provider: ProviderRef,
    /// The key under which it is (or was) created.
    pub idempotency_key: String,
    /// The exact body of the request that makes it.
    pub request: String,
    /// Whose clone it is; `None`: it was created anew.
    pub cloned_from: Option<VmId>,
    /// Its size.
    pub resources: VmResources,
    /// The agreed price per month in micro-USD, where known.
    pub usd_micro_month: Option<u64>,
    /// How it is kept apart from its host.
    pub isolation: Option<Isolation>,
    /// What makes it run on the provider (`docker`, `qemu`, `multipass`).
    pub backend: Option<String>,
    /// What a virtual machine's processor is: `kvm`, or `tcg` (emulated).
    pub accel: Option<String>,
    /// Whether its memory is kept on its disk; its status is then that of a stopped one.
    pub suspended: bool,
    /// What else can be done with it; empty where its provider does not say.
    pub abilities: BTreeSet<Ability>,
    /// The image it was made from.
    pub image: Option<String>,
    /// That image's digest.
    pub image_digest: Option<String>,
    /// Its id, once the provider has told it.
    pub vm_id: Option<VmId>,
    /// The provider's operation that makes it.
    pub operation_id: Option<String>,
    /// Where to log in, once known.
    pub ssh: Option<SshAccess>,
    /// What `ssh -i` is given: a private key, or the public half of one in the agent.
    pub identity: Option<std::path::PathBuf>,
    /// Its last known state.
    pub status: VmStatus,
    /// When that was.
    pub status_at: Timestamp,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Why it does not work, in the provider's words.
    pub problem: Option<String>,
    /// What the provider promised; not known of a VM that was created elsewhere.
    pub agreed: Option<Agreed>,
    /// Its lease, as the provider last told it.
    pub lease: Option<Lease>,
    /// When the create request was last sent; `None`: it never was.
    pub asked_at: Option<Timestamp>,
    /// When a create that was cut off was found to have made the VM. Nobody has logged in since, as far as
    /// this golem knows.
    pub settled_at: Option<Timestamp>,
    /// When its provider last did not say what became of a create that was cut off, or of what is to be
    /// destroyed.
    pub silent_at: Option<Timestamp>,
}

impl Rental {
    /// What stands for it in a path: its id where known, else its name.
    #[must_use]
    pub fn reference(&self) -> VmRef {
        self.vm_id.map_or_else(|| self.name.clone().into(), Into::into)
    }

    /// Whether a create request may still be at work on the provider.
    #[must_use]
    pub fn may_be_in_flight(&self, now: Timestamp) -> bool {
        self.vm_id.is_none() && now.since(self.created_at) < IN_FLIGHT
    }

    /// Whether it is not known what became of the create: somebody is at it, or it was cut off.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.state == State::Pending && self.settled_at.is_none()
    }

    /// Whether its create request was never sent: no provider knows of it.
    #[must_use]
    pub const fn was_never_sent(&self) -> bool {
        self.asked_at.is_none() && self.vm_id.is_none()
    }
}

/// A rental that is about to be asked for.
#[derive(Debug, Clone)]
pub struct NewRental {
    /// The VM's name.
    pub name: VmName,
    /// From whom.
    pub provider: ProviderRef,
    /// A fresh key.
    pub idempotency_key: String,
    /// The exact body.
    pub request: String,
    /// Whose clone it is to be; `None`: it is created anew.
    pub cloned_from: Option<VmId>,
    /// Its size.
    pub resources: VmResources,
    /// The advertised price per month in micro-USD.
    pub usd_micro_month: Option<u64>,
    /// What `ssh -i` is to be given.
    pub identity: Option<std::path::PathBuf>,
    /// What the provider promised.
    pub agreed: Option<Agreed>,
}

/// A fresh idempotency key: 128 random bits.
///
/// # Errors
/// When the system gives no random numbers.
pub fn fresh_key() -> Result<String> {
    Nonce::random()
        .map(|nonce| nonce.to_string())
        .map_err(|error| CliError::other("this system gives no random numbers").because(error))
}
