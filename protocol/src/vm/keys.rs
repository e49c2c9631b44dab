//! Which SSH keys may log in to a VM that exists.

use serde::{Deserialize, Serialize};

use super::SshPublicKey;
use crate::problem::FieldError;

/// Most keys that one VM can have.
pub const MAX_SSH_KEYS: usize = 16;

/// One key that may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmKey {
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// The key, one line with its comment.
    pub key: SshPublicKey,
}

impl From<SshPublicKey> for VmKey {
    fn from(key: SshPublicKey) -> Self {
        Self { fingerprint: key.fingerprint(), key }
    }
}

/// `GET /api/v1/vms/{name}/keys`, and the answer to a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmKeys {
    /// The VM's id.
    pub vm_id: String,
    /// The keys that may log in as `ubuntu` and as `root`. What the renter has written into
    /// `authorized_keys` inside the VM is not among them, and is not touched.
    pub keys: Vec<VmKey>,
    /// Whether the VM goes by them already; otherwise it will when it starts next.
    pub applied: bool,
}

/// `POST /api/v1/vms/{name}/keys`, as it arrives: removes, then adds. Sent again it changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeVmKeys {
    /// Keys that may log in from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Fingerprints (`SHA256:…`) of keys that may not any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Also if no key is left then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A [`ChangeVmKeys`] whose fields are all as they have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidKeyChange {
    /// Keys to add.
    pub add: Vec<SshPublicKey>,
    /// Fingerprints of those to remove.
    pub remove: Vec<String>,
    /// Whether none may be left.
    pub force: bool,
}

impl ChangeVmKeys {
    /// Checks every field.
    ///
    /// # Errors
    /// All wrong fields, each with a JSON pointer and what would be right.
    pub fn validate(&self) -> Result<ValidKeyChange, Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.add.is_empty() && self.remove.is_empty() {
            errors.push(FieldError::new("/add", "Field required (or 'remove')"));
        }
        for (pointer, count) in [("/add", self.add.len()), ("/remove", self.remove.len())] {
            if count > MAX_SSH_KEYS {
                errors.push(FieldError::new(pointer, format!("at most {MAX_SSH_KEYS} keys")));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut add = Vec::new();
        for (at, text) in self.add.iter().enumerate() {
            match text.parse::<SshPublicKey>() {
                Ok(key) => add.push(key),
                Err(error) => {
                    errors.push(FieldError::new(format!("/add/{at}"), error.to_string()));
                }
            }
        }
        for (at, text) in self.remove.iter().enumerate() {
            if !is_fingerprint(text) {
                errors.push(FieldError::new(
                    format!("/remove/{at}"),
                    "a fingerprint is 'SHA256:' and 43 characters of base64",
                ));
            }
        }
        if errors.is_empty() {
            Ok(ValidKeyChange { add, remove: self.remove.clone(), force: self.force })
        } else {
            Err(errors)
        }
    }
}

fn is_fingerprint(text: &str) -> bool {
    text.strip_prefix("SHA256:").is_some_and(|hash| {
        hash.len() == 43
            && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

    #[test]
    fn every_wrong_field_is_told() {
        let pointers = |change: ChangeVmKeys| -> Vec<String> {
            change.validate().unwrap_err().into_iter().map(|error| error.pointer).collect()
        };
        assert_eq!(pointers(ChangeVmKeys::default()), ["/add"]);
        let change = ChangeVmKeys {
            add: vec![KEY.into(), "nope".into()],
            remove: vec!["SHA256:short".into()],
            force: false,
        };
        assert_eq!(pointers(change), ["/add/1", "/remove/0"]);
        let many = ChangeVmKeys { add: vec![KEY.into(); 17], ..ChangeVmKeys::default() };
        assert_eq!(pointers(many), ["/add"]);
        let fingerprint = KEY.parse::<SshPublicKey>().unwrap().fingerprint();
        let good = ChangeVmKeys { remove: vec![fingerprint], ..ChangeVmKeys::default() };
        assert!(good.validate().is_ok());
    }
}
