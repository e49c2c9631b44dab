//! For how long a VM is rented, and what is due when. Pure.

use std::time::Duration;

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{
    self as wire, LeaseRequest, LeaseTerms, MAX_LEASE_SECONDS, OnExpiry, Owner,
};

use super::{VmError, VmState};
use crate::steady::SteadyTime;

/// How long before its end an owner is told, at most; less for short leases.
const WARNING: Duration = Duration::from_secs(24 * 3600);
/// The same, as a part of the lease.
const WARNING_PART: u32 = 10;

/// What leases the provider gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeasePolicy {
    /// For whoever does not say.
    pub default: Duration,
    /// The latest end, from now; `None`: any.
    pub max: Option<Duration>,
    /// For how long a VM is kept after its end.
    pub grace: Duration,
}

impl Default for LeasePolicy {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { default: day * 7, max: None, grace: day }
    }
}

impl LeasePolicy {
    /// As it is advertised.
    #[must_use]
    pub fn terms(&self) -> LeaseTerms {
        LeaseTerms {
            default_seconds: self.default.as_secs(),
            max_seconds: self.max.map(|max| max.as_secs()),
            grace_seconds: self.grace.as_secs(),
        }
    }

    /// The lease of a new VM.
    ///
    /// # Errors
    /// [`VmError::LeaseTooLong`].
    pub fn grant(&self, owner: Owner, asked: &LeaseRequest) -> Result<LeaseGrant, VmError> {
        let duration = match (asked.duration_seconds, owner) {
            (Some(seconds), _) => Some(self.within(Duration::from_secs(seconds))?),
            (None, Owner::Key(_)) => Some(self.max.map_or(self.default, |m| m.min(self.default))),
            // Their client knows no way to extend it.
            (None, Owner::Unsigned) => self.max,
        };
        Ok(LeaseGrant {
            duration,
            on_expiry: asked.on_expiry.unwrap_or_default(),
            grace: self.grace,
            stop_when_idle: asked.stop_when_idle_seconds.map(Duration::from_secs),
        })
    }

    /// For how long a VM is had back, unless its owner says.
    ///
    /// # Errors
    /// [`VmError::LeaseTooLong`].
    pub fn again(&self, asked: Option<Duration>) -> Result<Duration, VmError> {
        match asked {
            Some(span) => self.within(span),
            None => Ok(self.max.map_or(self.default, |max| max.min(self.default))),
        }
    }

    /// A span that counts from now.
    ///
    /// # Errors
    /// [`VmError::LeaseTooLong`].
    pub fn within(&self, span: Duration) -> Result<Duration, VmError> {
        // Who extends has no other bound.
        let max = self.max.unwrap_or(Duration::from_secs(MAX_LEASE_SECONDS));
        if span > max { Err(VmError::LeaseTooLong { asked: span, max }) } else { Ok(span) }
    }
}

/// What was agreed about a new VM's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// For how long, from the moment when the VM runs; `None`: it ends only by request.
    pub duration: Option<Duration>,
    /// What happens at the end.
    pub on_expiry: OnExpiry,
    /// For how long the VM is kept after it.
    pub grace: Duration,
    /// After how long without use the VM is stopped.
    pub stop_when_idle: Option<Duration>,
}

/// The lease of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// What was agreed.
    pub grant: LeaseGrant,
    /// When it ends.
    pub expires: Option<SteadyTime>,
    /// Whether its owner has been told that it ends.
    pub warned: bool,
}

impl Lease {
    /// One that begins now.
    #[must_use]
    pub fn begin(grant: LeaseGrant, now: SteadyTime) -> Self {
        Self { grant, expires: grant.duration.map(|span| now.plus(span)), warned: false }
    }

    /// From when on its owner should be told.
    #[must_use]
    pub fn warn_from(&self) -> Option<SteadyTime> {
        let early = self.grant.duration.map_or(WARNING, |d| (d / WARNING_PART).min(WARNING));
        self.expires.map(|end| {
            SteadyTime::from_micros(
                end.micros().saturating_sub(u64::try_from(early.as_micros()).unwrap_or(u64::MAX)),
            )
        })
    }

    /// As its owner sees it, when the wall clock shows `wall` at `now`.
    #[must_use]
    pub fn to_wire(&self, state: &VmState, now: SteadyTime, wall: Timestamp) -> wire::Lease {
        let shown = |moment: SteadyTime| moment.on_the_wall(now, wall);
        let (ended_at, erased_at) = match state {
            VmState::Retained { since, until, .. } => (Some(shown(*since)), Some(shown(*until))),
            _ => (None, None),
        };
        wire::Lease {
            expires_at: self.expires.map(shown),
            on_expiry: self.grant.on_expiry,
            grace_seconds: self.grant.grace.as_secs(),
            ends_soon: ended_at.is_none() && self.warn_from().is_some_and(|from| from <= now),
            ended_at,
            erased_at,
            stop_when_idle_seconds: self.grant.stop_when_idle.map(|idle| idle.as_secs()),
        }
    }
}

/// What the passing of time asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Its owner is to be told that the lease ends.
    Warn,
    /// The lease has ended.
    Expire,
    /// The grace period has ended.
    Erase,
}

/// What is due next, and when. What is on its way somewhere is left to arrive.
#[must_use]
pub fn next_due(state: &VmState, lease: &Lease) -> Option<(SteadyTime, Due)> {
    match state {
        VmState::Retained { until, .. } => Some((*until, Due::Erase)),
        VmState::Running | VmState::Stopped { .. } | VmState::Suspended | VmState::Error { .. } => {
            let end = lease.expires?;
            match lease.warn_from() {
                Some(from) if !lease.warned && from < end => Some((from, Due::Warn)),
                _ => Some((end, Due::Expire)),
            }
        }
        VmState::Creating
        | VmState::Starting
        | VmState::Stopping { .. }
        | VmState::Suspending
        | VmState::Destroying
        | VmState::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: SteadyTime = SteadyTime::from_micros(1_000_000_000);

    fn owner() -> Owner {
        Owner::Key(KeyPair::from_secret_bytes([1; 32]).unwrap().id())
    }

    fn asked(seconds: Option<u64>) -> LeaseRequest {
        LeaseRequest { duration_seconds: seconds, ..LeaseRequest::default() }
    }

    #[test]
    fn what_is_not_said_is_the_providers_to_say() {
        let policy = LeasePolicy::default();
        assert_eq!(policy.grant(owner(), &asked(None)).unwrap().duration, Some(DAY * 7));
        assert_eq!(policy.grant(Owner::Unsigned, &asked(None)).unwrap().duration, None);
        let strict = LeasePolicy { max: Some(DAY), ..policy };
        assert_eq!(strict.grant(owner(), &asked(None)).unwrap().duration, Some(DAY));
        assert_eq!(strict.grant(Owner::Unsigned, &asked(None)).unwrap().duration, Some(DAY));
        let error = strict.grant(owner(), &asked(Some(2 * 24 * 3600))).unwrap_err();
        assert!(matches!(error, VmError::LeaseTooLong { .. }), "{error}");
        assert_eq!(strict.again(None).unwrap(), DAY);
        // Also without a maximum, nobody extends beyond what the wire allows for a create.
        assert!(policy.within(Duration::from_secs(MAX_LEASE_SECONDS)).is_ok());
        assert!(policy.within(Duration::from_secs(MAX_LEASE_SECONDS + 1)).is_err());
    }

    #[test]
    fn first_a_warning_then_the_end_then_the_grace() {
        let grant = LeasePolicy::default().grant(owner(), &asked(Some(7200))).unwrap();
        let mut lease = Lease::begin(grant, START);
        let end = START.plus(Duration::from_secs(7200));
        let warning = START.plus(Duration::from_secs(6480));
        assert_eq!(next_due(&VmState::Running, &lease), Some((warning, Due::Warn)));
        lease.warned = true;
        assert_eq!(next_due(&VmState::Running, &lease), Some((end, Due::Expire)));
        assert_eq!(next_due(&VmState::STOPPED, &lease), Some((end, Due::Expire)));
        assert_eq!(next_due(&VmState::Creating, &lease), None);
        let until = end.plus(grant.grace);
        let kept = VmState::Retained { since: end, until, reason: "r".into() };
        assert_eq!(next_due(&kept, &lease), Some((until, Due::Erase)));
        let endless = Lease { expires: None, ..lease };
        assert_eq!(next_due(&VmState::Running, &endless), None);
    }

    #[test]
    fn its_owner_sees_moments_of_the_wall_clock() {
        let grant = LeasePolicy::default().grant(owner(), &asked(Some(3600))).unwrap();
        let lease = Lease::begin(grant, START);
        let wall = Timestamp::from_unix_seconds(50_000);
        let seen = lease.to_wire(&VmState::Running, START, wall);
        assert_eq!(seen.expires_at, Some(Timestamp::from_unix_seconds(53_600)));
        assert!(!seen.ends_soon && seen.erased_at.is_none());
        let later = START.plus(Duration::from_secs(3300));
        assert!(lease.to_wire(&VmState::Running, later, wall).ends_soon);
    }
}
