//! What requestor and provider say to each other about VMs.

use serde::{Deserialize, Serialize};

use super::{
    Isolation, Lease, LeaseRequest, MAX_SSH_KEYS, SshPublicKey, VmName, VmResources, VmSize,
};
use crate::KeyId;
use crate::advertisement::Prices;
use crate::document::DocumentDigest;
use crate::problem::FieldError;
use crate::time::{NaiveUtc, Timestamp};

/// Longest image name in characters.
const MAX_IMAGE_CHARS: usize = 128;

/// The state of a VM as the wire knows it (the original's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VmStatus {
    /// Being made.
    Creating,
    /// Up; SSH answers.
    Running,
    /// Being stopped.
    Stopping,
    /// Down; its disk is kept.
    Stopped,
    /// Not usable; `error_message` says why.
    Error,
    /// Gone.
    Deleted,
    /// A word that this version does not know: the other side is newer.
    #[serde(other)]
    Unknown,
}

impl VmStatus {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for VmStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The advertisement whose terms a requestor accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedOffer {
    /// Its sequence.
    pub sequence: u64,
    /// Digest of its payload.
    pub digest: DocumentDigest,
}

/// `POST /api/v1/vms`, as it arrives. Nothing but the types has been checked: see
/// [`CreateVmRequest::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateVmRequest {
    /// The VM's name; see [`super::VM_NAME_RULE`].
    pub name: String,
    /// How big; this or `size`. In whole numbers.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::resources::whole"
    )]
    pub resources: Option<VmResources>,
    /// How big, by the original's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<VmSize>,
    /// The key that may log in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ssh_key: String,
    /// Further keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// The image's name; without one, the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The original's payment stream; accepted and ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<i64>,
    /// The terms that the requestor was shown; worse ones are refused with `offer_changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<AcceptedOffer>,
    /// For how long, and what happens then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseRequest>,
}

/// A [`CreateVmRequest`] whose fields are all as they have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidCreate {
    /// The VM's name.
    pub name: VmName,
    /// How big.
    pub resources: VmResources,
    /// The keys that may log in: at least one, each once.
    pub ssh_keys: Vec<SshPublicKey>,
    /// The image asked for, if any; whether it is offered is for the provider to say.
    pub image: Option<String>,
    /// The terms that the requestor was shown, if any.
    pub offer: Option<AcceptedOffer>,
    /// For how long, and what happens then; within the wire's bounds, not yet within the provider's.
    pub lease: LeaseRequest,
}

impl CreateVmRequest {
    /// Checks every field.
    ///
    /// # Errors
    /// All wrong fields, each with a JSON pointer and what would be right.
    pub fn validate(&self) -> Result<ValidCreate, Vec<FieldError>> {
        let mut errors = Vec::new();
        let name = self.name.parse::<VmName>();
        if let Err(error) = &name {
            errors.push(FieldError::new("/name", error.to_string()));
        }
        let resources = match (self.resources, self.size) {
            (Some(resources), _) => {
                errors.extend(resources.size_errors("/resources"));
                Some(resources)
            }
            (None, Some(size)) => Some(size.resources()),
            (None, None) => {
                errors.push(FieldError::new("/resources", "Field required (or 'size')"));
                None
            }
        };
        let ssh_keys = self.keys(&mut errors);
        if let Some(image) = &self.image
            && (image.is_empty() || !crate::text::is_printable(image, MAX_IMAGE_CHARS))
        {
            errors.push(FieldError::new(
                "/image",
                format!("an image name is 1 to {MAX_IMAGE_CHARS} printable characters"),
            ));
        }
        let lease = self.lease.unwrap_or_default();
        errors.extend(lease.errors("/lease"));
        match (name, resources) {
            (Ok(name), Some(resources)) if errors.is_empty() => Ok(ValidCreate {
                name,
                resources,
                ssh_keys,
                image: self.image.clone(),
                offer: self.offer.clone(),
                lease,
            }),
            _ => Err(errors),
        }
    }

    fn keys(&self, errors: &mut Vec<FieldError>) -> Vec<SshPublicKey> {
        let mut keys: Vec<SshPublicKey> = Vec::new();
        if self.ssh_key.is_empty() && self.ssh_keys.is_empty() {
            errors.push(FieldError::new("/ssh_key", "Field required: a public SSH key"));
        }
        if self.ssh_keys.len() + usize::from(!self.ssh_key.is_empty()) > MAX_SSH_KEYS {
            errors.push(FieldError::new(
                "/ssh_keys",
                format!("at most {MAX_SSH_KEYS} keys, that of /ssh_key included"),
            ));
            return keys;
        }
        let first = (!self.ssh_key.is_empty()).then_some(("/ssh_key".to_owned(), &self.ssh_key));
        let more =
            self.ssh_keys.iter().enumerate().map(|(at, key)| (format!("/ssh_keys/{at}"), key));
        for (pointer, text) in first.into_iter().chain(more) {
            match text.parse::<SshPublicKey>() {
                Ok(key) if keys.iter().any(|k| k.without_comment() == key.without_comment()) => {}
                Ok(key) => keys.push(key),
                Err(error) => errors.push(FieldError::new(pointer, error.to_string())),
            }
        }
        keys
    }
}

/// A VM as its owner sees it. The original's fields come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// The VM's id (of an unsigned owner's VM: its name, as in the original).
    pub id: String,
    /// The owner's name for it.
    pub name: VmName,
    /// Its state.
    pub status: VmStatus,
    /// Its size.
    pub resources: VmResources,
    /// Always null: where the instance is inside the provider is of no use to its owner (the
    /// original gives that address).
    pub ip_address: Option<String>,
    /// The provider's port that leads to its sshd; the same for the VM's whole life.
    pub ssh_port: Option<u16>,
    /// When it was asked for.
    pub created_at: NaiveUtc,
    /// When its state last changed.
    pub updated_at: NaiveUtc,
    /// What happened, when `status` is `error`, or `stopped` by the provider itself; or that the
    /// provider's owner has cut it off from the network, whatever its status.
    pub error_message: Option<String>,
    /// The image it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// That image's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Which backend made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// How it is kept apart from its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Where its traffic may go: `internet` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// What it is rented for, agreed when it was created: micro-USD per month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// Its SSH host key, made by the provider; pin this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<SshPublicKey>,
    /// The user to log in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_user: Option<String>,
    /// The operation that is making it, or that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// For how long it is rented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

/// `202` to `POST /api/v1/vms?async=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationAccepted {
    /// The operation's id, for `GET /api/v1/vms/jobs/{job_id}`.
    pub job_id: String,
    /// The VM's id.
    pub vm_id: String,
    /// Its state: `creating` for a new one.
    pub status: VmStatus,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationStatus {
    /// At work.
    Creating,
    /// Done.
    Ready,
    /// Ended without a VM; nothing of it is left.
    Failed,
    /// A word that this version does not know: the other side is newer.
    #[serde(other)]
    Unknown,
}

/// One asynchronous operation. The original's fields come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub job_id: String,
    /// The VM it is about.
    pub vm_id: String,
    /// How far it is.
    pub status: OperationStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last got further.
    pub updated_at: Timestamp,
    /// What it is doing now, in words for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The stable code of the failure, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<crate::ErrorCode>,
}

/// `GET /api/v1/vms/{name}/access`: where SSH answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAccess {
    /// The host to connect to.
    pub ssh_host: String,
    /// The port to connect to.
    pub ssh_port: u16,
    /// The VM's id.
    pub vm_id: String,
    /// The instance's name in the backend's own tools (the original's field name).
    pub multipass_name: String,
    /// The user to log in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_user: Option<String>,
    /// The SSH host key that answers there; pin this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<SshPublicKey>,
}

/// `202` to the access request of a VM that is not up yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAccessPending {
    /// The VM's id.
    pub vm_id: String,
    /// The instance's name.
    pub multipass_name: String,
    /// Its state.
    pub status: VmStatus,
    /// Always null.
    pub ssh_port: Option<u16>,
}

/// What a VM uses at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmStats {
    /// The VM's id.
    pub vm_id: String,
    /// When it was measured.
    pub measured_at: Timestamp,
    /// CPU in percent of one core, over the last second or so.
    pub cpu_percent: f64,
    /// Memory in use, in bytes, without what can be given back (page cache).
    pub memory_used_bytes: u64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes received since the instance started.
    pub network_received_bytes: u64,
    /// Bytes sent since the instance started.
    pub network_sent_bytes: u64,
    /// Bytes that the VM has written on top of its image, where the backend can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<u64>,
}

/// Who the owner of a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The key that created it.
    Key(KeyId),
    /// All unsigned callers together, where the provider's owner allows them.
    Unsigned,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

    fn request(json: &str) -> CreateVmRequest {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_originals_request_is_valid() {
        let valid = request(&format!(
            r#"{{"name":"test-vm","resources":{{"cpu":1,"memory":1,"storage":10}},"ssh_key":"{KEY}","stream_id":1}}"#
        ))
        .validate()
        .unwrap();
        assert_eq!(valid.name.as_str(), "test-vm");
        assert_eq!(valid.ssh_keys.len(), 1);
    }

    #[test]
    fn every_wrong_field_is_told() {
        let errors = request(r#"{"name":"X","ssh_key":"nope","image":""}"#).validate().unwrap_err();
        let pointers: Vec<_> = errors.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/resources", "/ssh_key", "/image"]);
    }

    #[test]
    fn nobody_gets_less_than_was_asked_for() {
        let read = |cpu: &str| {
            serde_json::from_str::<CreateVmRequest>(&format!(
                r#"{{"name":"box","resources":{{"cpu":{cpu},"memory":1,"storage":10}}}}"#
            ))
        };
        assert!(read("1.5").is_err_and(|error| error.to_string().contains("whole number")));
        for one in ["1", "1.0", "\"1\""] {
            assert_eq!(read(one).unwrap().resources.unwrap().cpu, 1);
        }
    }

    #[test]
    fn a_key_counts_once() {
        let valid = request(&format!(
            r#"{{"name":"box","size":"small","ssh_key":"{KEY} a","ssh_keys":["{KEY} b"]}}"#
        ))
        .validate()
        .unwrap();
        assert_eq!(valid.ssh_keys.len(), 1);
        let many = vec![KEY; 40];
        let request = CreateVmRequest {
            ssh_keys: many.into_iter().map(str::to_owned).collect(),
            ..request(r#"{"name":"box","size":"small"}"#)
        };
        assert!(request.validate().is_err());
    }
}
