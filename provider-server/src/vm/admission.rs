//! What decides whether a new VM is let in, beside what is reserved already.

use golem_vm_protocol::vm::Owner;

use super::record::{OperationRecord, VmRecord};
use crate::capacity::Amount;

/// A VM that asks to be let in. Its port is chosen on admission.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// The VM; `ssh_port` is ignored.
    pub record: VmRecord,
    /// Makes a request that is sent twice one request.
    pub idempotency: Option<Idempotency>,
}

/// An idempotency key, and what it was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key that the client chose.
    pub key: String,
    /// Digest of the request's meaning.
    pub fingerprint: String,
}

/// The bounds within which VMs are let in.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// What is offered in all.
    pub offered: Amount,
    /// Most VMs at a time.
    pub max_vms: u32,
    /// Most VMs at a time of one owner.
    pub max_vms_per_requestor: Option<u32>,
    /// Ports that may be handed out.
    pub ports: Vec<u16>,
}

/// What came of asking.
#[derive(Debug, Clone)]
pub enum Admission {
    /// It is let in: capacity, port and name are its own from here on.
    Admitted(Box<VmRecord>),
    /// The same request was let in before.
    Repeated(OperationRecord),
}

/// A look-up key for a repeated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedRequest {
    /// Whose request.
    pub owner: Owner,
    /// Its key and fingerprint.
    pub idempotency: Idempotency,
}
