//! What requestor and provider say to each other about VMs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Ability, Isolation, Lease, LeaseRequest, MAX_SSH_KEYS, SshPublicKey, VmName, VmResources,
    VmSize,
};
use crate::KeyId;
use crate::advertisement::Prices;
use crate::document::DocumentDigest;
use crate::problem::FieldError;
use crate::time::{NaiveUtc, Timestamp};

/// Longest image name in characters.
const MAX_IMAGE_CHARS: usize = 128;
/// Largest `cloud_init` in bytes.
pub const MAX_CLOUD_INIT_BYTES: usize = 32 * 1024;

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
    /// The image's name, or its name, `@` and the digest that it has to have
    /// (`debian-12@sha256:…`); without one, the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How the VM is to be kept apart from its host; without it, as the provider has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The requestor's own cloud-init user data, for the first boot: at most
    /// [`MAX_CLOUD_INIT_BYTES`] bytes of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<String>,
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
    /// The name of the image asked for, if any; whether it is offered is for the provider to say.
    pub image: Option<String>,
    /// The digest that the image has to have, if one was said.
    pub image_digest: Option<DocumentDigest>,
    /// How it is to be kept apart from its host, if that was said: never [`Isolation::Unknown`].
    pub isolation: Option<Isolation>,
    /// The requestor's own cloud-init user data.
    pub cloud_init: Option<String>,
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
        let ssh_keys = valid_keys(&self.ssh_key, &self.ssh_keys, &mut errors);
        let (image, image_digest) = self.image_and_digest(&mut errors);
        if self.isolation == Some(Isolation::Unknown) {
            errors.push(FieldError::new("/isolation", "it is 'vm' or 'container'"));
        }
        errors.extend(self.cloud_init_error());
        let lease = self.lease.unwrap_or_default();
        errors.extend(lease.errors("/lease"));
        match (name, resources) {
            (Ok(name), Some(resources)) if errors.is_empty() => Ok(ValidCreate {
                name,
                resources,
                ssh_keys,
                image,
                image_digest,
                isolation: self.isolation,
                cloud_init: self.cloud_init.clone(),
                offer: self.offer.clone(),
                lease,
            }),
            _ => Err(errors),
        }
    }

    /// The image's name, and the digest behind its `@`.
    fn image_and_digest(
        &self,
        errors: &mut Vec<FieldError>,
    ) -> (Option<String>, Option<DocumentDigest>) {
        let Some(image) = &self.image else { return (None, None) };
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<DocumentDigest>())),
            None => (image.as_str(), None),
        };
        if name.is_empty() || !crate::text::is_printable(name, MAX_IMAGE_CHARS) {
            errors.push(FieldError::new(
                "/image",
                format!("an image name is 1 to {MAX_IMAGE_CHARS} printable characters"),
            ));
        }
        match digest.transpose() {
            Ok(digest) => (Some(name.to_owned()), digest),
            Err(error) => {
                errors.push(FieldError::new("/image", format!("behind the '@': {error}")));
                (None, None)
            }
        }
    }

    fn cloud_init_error(&self) -> Option<FieldError> {
        let text = self.cloud_init.as_ref()?;
        let wrong = if text.trim().is_empty() {
            "it is empty".to_owned()
        } else if text.len() > MAX_CLOUD_INIT_BYTES {
            format!("{} bytes are more than {MAX_CLOUD_INIT_BYTES}", text.len())
        } else if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            "it is text, without control characters other than line ends and tabs".to_owned()
        } else {
            return None;
        };
        Some(FieldError::new("/cloud_init", wrong))
    }
}

/// The keys of `ssh_key` and `ssh_keys`, each once; what is wrong with them goes to `errors`.
pub(super) fn valid_keys(
    one: &String,
    further: &[String],
    errors: &mut Vec<FieldError>,
) -> Vec<SshPublicKey> {
    let mut keys: Vec<SshPublicKey> = Vec::new();
    if one.is_empty() && further.is_empty() {
        errors.push(FieldError::new("/ssh_key", "Field required: a public SSH key"));
    }
    if further.len() + usize::from(!one.is_empty()) > MAX_SSH_KEYS {
        errors.push(FieldError::new(
            "/ssh_keys",
            format!("at most {MAX_SSH_KEYS} keys, that of /ssh_key included"),
        ));
        return keys;
    }
    let first = (!one.is_empty()).then_some(("/ssh_key".to_owned(), one));
    let more = further.iter().enumerate().map(|(at, key)| (format!("/ssh_keys/{at}"), key));
    for (pointer, text) in first.into_iter().chain(more) {
        match text.parse::<SshPublicKey>() {
            Ok(key) if keys.iter().any(|k| k.without_comment() == key.without_comment()) => {}
            Ok(key) => keys.push(key),
            Err(error) => errors.push(FieldError::new(pointer, error.to_string())),
        }
    }
    keys
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
    /// What a virtual machine's processor is: `kvm`, or `tcg` (emulated, and slow).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// Whether its memory is kept on its disk, so that it goes on from there when it is started. Its
    /// status is `stopped` then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// What else can be done with it, where the backend that made it says so.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub abilities: BTreeSet<Ability>,
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
    fn an_image_may_be_named_with_its_digest() {
        let with = |more: &str| {
            request(&format!(r#"{{"name":"box","size":"small","ssh_key":"{KEY}",{more}}}"#))
                .validate()
        };
        let digest = DocumentDigest::of(b"disk");
        let valid = with(&format!(r#""image":"debian-12@{digest}""#)).unwrap();
        assert_eq!(valid.image.as_deref(), Some("debian-12"));
        assert_eq!(valid.image_digest, Some(digest));
        for bad in ["debian-12@", "debian-12@sha256:12", "@sha256:12", "a@b@c"] {
            let errors = with(&format!(r#""image":"{bad}""#)).unwrap_err();
            assert!(errors.iter().all(|error| error.pointer == "/image"), "{errors:?}");
        }
    }

    #[test]
    fn cloud_init_is_a_bounded_text() {
        let with = |text: &str| CreateVmRequest {
            cloud_init: Some(text.to_owned()),
            ..request(&format!(r#"{{"name":"box","size":"small","ssh_key":"{KEY}"}}"#))
        };
        let good = "#cloud-config\npackages: [git]\n";
        assert_eq!(with(good).validate().unwrap().cloud_init.as_deref(), Some(good));
        assert!(with(&"x".repeat(MAX_CLOUD_INIT_BYTES)).validate().is_ok());
        for bad in ["", " \n", "a\0b", &"x".repeat(MAX_CLOUD_INIT_BYTES + 1)] {
            assert_eq!(with(bad).validate().unwrap_err()[0].pointer, "/cloud_init");
        }
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
