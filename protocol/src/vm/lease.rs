//! For how long a VM is rented, and what happens then.

use serde::{Deserialize, Serialize};

use crate::problem::FieldError;
use crate::time::Timestamp;

/// Shortest lease in seconds.
pub const MIN_LEASE_SECONDS: u64 = 1;
/// Longest lease in seconds: ten years.
pub const MAX_LEASE_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// Shortest idle time in seconds after which a VM can be stopped.
pub const MIN_IDLE_SECONDS: u64 = 10;
/// Longest idle time in seconds: thirty days.
pub const MAX_IDLE_SECONDS: u64 = 30 * 24 * 3600;

/// What happens to a VM when its lease ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    /// It is stopped, and its disk kept for the grace period.
    #[default]
    Stop,
    /// It is destroyed at once: for throw-away machines.
    Destroy,
    /// A word that this version does not know: the other side is newer.
    #[serde(other)]
    Unknown,
}

impl OnExpiry {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Destroy => "destroy",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for OnExpiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for OnExpiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stop" => Ok(Self::Stop),
            "destroy" => Ok(Self::Destroy),
            other => Err(format!("'{other}' is neither 'stop' nor 'destroy'")),
        }
    }
}

/// The lease that a requestor asks for, as it arrives (`lease` of `POST /api/v1/vms`). Whatever is left
/// out is the provider's to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// For how many seconds, from the moment when the VM runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<u64>,
    /// What happens at the end; without it, `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<OnExpiry>,
    /// After how many seconds without SSH traffic and without load the VM is stopped; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_when_idle_seconds: Option<u64>,
}

impl LeaseRequest {
    /// What is wrong with it; pointers begin with `at`.
    #[must_use]
    pub fn errors(&self, at: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(seconds) = self.duration_seconds {
            errors.extend(lease_error(seconds, &format!("{at}/duration_seconds")));
        }
        if self.on_expiry == Some(OnExpiry::Unknown) {
            errors.push(FieldError::new(format!("{at}/on_expiry"), "it is 'stop' or 'destroy'"));
        }
        if let Some(seconds) = self.stop_when_idle_seconds
            && !(MIN_IDLE_SECONDS..=MAX_IDLE_SECONDS).contains(&seconds)
        {
            errors.push(FieldError::new(
                format!("{at}/stop_when_idle_seconds"),
                format!("{seconds} is not {MIN_IDLE_SECONDS} to {MAX_IDLE_SECONDS} seconds"),
            ));
        }
        errors
    }
}

fn lease_error(seconds: u64, pointer: &str) -> Option<FieldError> {
    let good = (MIN_LEASE_SECONDS..=MAX_LEASE_SECONDS).contains(&seconds);
    (!good).then(|| {
        FieldError::new(
            pointer,
            format!("{seconds} is not {MIN_LEASE_SECONDS} to {MAX_LEASE_SECONDS} seconds"),
        )
    })
}

/// The lease of a VM, as its owner sees it. Moments are by the provider's clock as it is now; what is
/// kept is how much time is left, so that a clock that is set forward or back ends no lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When it ends; null: not by itself.
    pub expires_at: Option<Timestamp>,
    /// What happens then.
    pub on_expiry: OnExpiry,
    /// For how many seconds the disk is kept after a stop at the end.
    pub grace_seconds: u64,
    /// Whether it ends so soon that its owner should be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_soon: bool,
    /// Since when the VM is only kept: its lease has ended, or its owner gave it up with `keep`. It can be
    /// had back until `erased_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// When it is erased, if it is only kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<Timestamp>,
    /// After how many seconds without SSH traffic and without load it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_when_idle_seconds: Option<u64>,
}

/// What leases a provider gives; in its advertisement and in `GET /api/v1/provider/info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// Seconds that a VM is rented for unless its requestor says otherwise.
    pub default_seconds: u64,
    /// Most seconds from now that a lease can end; null: any.
    pub max_seconds: Option<u64>,
    /// Seconds for which a VM whose lease has ended can be had back.
    pub grace_seconds: u64,
}

/// `POST /api/v1/vms/{name}/extend`. Names the moment and not the time to be added, so that it can be
/// repeated; a moment before the present end changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendLease {
    /// When the lease is to end, by the provider's clock: count from the `expires_at` that it gave.
    pub expires_at: Timestamp,
}

/// `POST /api/v1/vms/{name}/undelete`: has a VM back that is only kept. It is stopped then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeleteVm {
    /// For how many seconds from now; without it, the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<u64>,
}

impl UndeleteVm {
    /// Checks every field.
    ///
    /// # Errors
    /// All wrong fields.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        match self.duration_seconds.and_then(|s| lease_error(s, "/duration_seconds")) {
            Some(error) => Err(vec![error]),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_told_field_by_field() {
        let wrong = LeaseRequest {
            duration_seconds: Some(0),
            on_expiry: Some(OnExpiry::Unknown),
            stop_when_idle_seconds: Some(1),
        };
        let errors = wrong.errors("/lease");
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/lease/duration_seconds", "/lease/on_expiry", "/lease/stop_when_idle_seconds"]
        );
        assert!(LeaseRequest::default().errors("/lease").is_empty());
        assert!(UndeleteVm { duration_seconds: Some(u64::MAX) }.validate().is_err());
    }
}
