//! What a provider does about leases.

use std::time::Duration;

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::{
    ExtendLease, Lease, LeaseRequest, LeaseTerms, UndeleteVm, Vm, VmStatus,
};
use serde_json::json;

use super::provider::{Said, now, problem};

/// The lease of a new VM.
pub fn begun(terms: &LeaseTerms, asked: &LeaseRequest) -> Lease {
    let seconds = asked.duration_seconds.unwrap_or(terms.default_seconds);
    Lease {
        expires_at: Some(now().plus(Duration::from_secs(seconds))),
        on_expiry: asked.on_expiry.unwrap_or_default(),
        grace_seconds: terms.grace_seconds,
        ends_soon: seconds < 60,
        ended_at: None,
        erased_at: None,
        stop_when_idle_seconds: asked.stop_when_idle_seconds,
    }
}

/// Ends a lease: from now on the VM is only kept.
pub fn give_up(lease: &mut Lease) {
    lease.ended_at = Some(now());
    lease.erased_at = Some(now().plus(Duration::from_secs(lease.grace_seconds)));
}

pub fn extend(terms: Option<LeaseTerms>, vm: &mut Vm, body: &[u8]) -> Said {
    let (Some(terms), Some(lease)) = (terms, &mut vm.lease) else {
        return problem(ErrorCode::NotFound, "Not Found");
    };
    let to: ExtendLease = serde_json::from_slice(body).unwrap();
    if terms.max_seconds.is_some_and(|max| to.expires_at.since(now()).as_secs() > max) {
        return problem(ErrorCode::LeaseTooLong, "no lease is as long as that");
    }
    if lease.ended_at.is_some() {
        return problem(ErrorCode::StateConflict, "it is only kept: undelete it");
    }
    lease.expires_at = lease.expires_at.max(Some(to.expires_at));
    lease.ends_soon = false;
    (200, json!(vm))
}

pub fn undelete(terms: Option<LeaseTerms>, vm: &mut Vm, body: &[u8]) -> Said {
    let Some(terms) = terms else { return problem(ErrorCode::NotFound, "Not Found") };
    let asked: UndeleteVm = serde_json::from_slice(body).unwrap();
    if vm.lease.as_ref().is_some_and(|lease| lease.ended_at.is_some()) {
        let request =
            LeaseRequest { duration_seconds: asked.duration_seconds, ..LeaseRequest::default() };
        vm.lease = Some(begun(&terms, &request));
        vm.status = VmStatus::Stopped;
    }
    (200, json!(vm))
}
