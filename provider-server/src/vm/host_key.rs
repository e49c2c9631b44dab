//! A VM's SSH host key: made before its first boot, so that the first connection can be trusted.

use std::fmt;

use golem_vm_protocol::vm::SshPublicKey;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};

/// An Ed25519 host key. Its `Debug` form shows the public half only.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    /// The private half, in OpenSSH's PEM form.
    pub private: String,
    /// The public half.
    pub public: SshPublicKey,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey").field("public", &self.public.as_str()).finish_non_exhaustive()
    }
}

impl HostKey {
    /// Makes one from the operating system's random generator.
    ///
    /// # Errors
    /// A sentence, when there are no random bytes or the key can't be written down.
    pub fn generate() -> Result<Self, String> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| format!("no random bytes for a host key: {error}"))?;
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let text = |error: ssh_key::Error| format!("a host key can't be written down: {error}");
        let private = key.to_openssh(LineEnding::LF).map_err(text)?.to_string();
        let public = key.public_key().to_openssh().map_err(text)?;
        let public =
            public.parse().map_err(|error| format!("a host key can't be read back: {error}"))?;
        Ok(Self { private, public })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_key_is_new_and_openssh_can_read_it() {
        let (one, two) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
        assert_ne!(one.public, two.public);
        assert!(one.private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        assert!(one.public.as_str().starts_with("ssh-ed25519 "));
        let read = PrivateKey::from_openssh(&one.private).unwrap();
        assert_eq!(read.public_key().to_openssh().unwrap(), one.public.as_str());
        assert!(!format!("{one:?}").contains("PRIVATE"));
    }
}
