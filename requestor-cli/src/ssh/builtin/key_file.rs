//! Private key files, as far as the built-in client can use them.

use std::path::Path;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, decode_secret_key};

/// Whether the built-in client can use a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// As it is.
    Ready,
    /// Not without its passphrase.
    Locked,
    /// Not at all: RSA, a security key, or an old form.
    NotSupported,
}

fn parsed(text: &str) -> Result<PrivateKey, Readiness> {
    match PrivateKey::from_openssh(text) {
        Ok(key) if key.is_encrypted() => Err(Readiness::Locked),
        Ok(key) => Ok(key),
        Err(_) => decode_secret_key(text, None).map_err(|error| match error {
            russh::keys::Error::KeyIsEncrypted => Readiness::Locked,
            _ if text.contains("ENCRYPTED") => Readiness::Locked,
            _ => Readiness::NotSupported,
        }),
    }
}

const fn signs_here(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Ed25519 | Algorithm::Ecdsa { .. })
}

/// Whether the built-in client can use the private key in `text`.
#[must_use]
pub fn readiness(text: &str) -> Readiness {
    match parsed(text) {
        Ok(key) if signs_here(&key.algorithm()) => Readiness::Ready,
        Ok(_) => Readiness::NotSupported,
        Err(readiness) => readiness,
    }
}

/// The public half of the private key in `text`, as one line, where it can be had without a
/// passphrase. (OpenSSH's own form tells it even when the private half is encrypted.)
#[must_use]
pub fn public_half(text: &str) -> Option<String> {
    let key = PrivateKey::from_openssh(text).ok().or_else(|| parsed(text).ok())?;
    let comment = key.comment().to_string();
    let mut public = key.public_key().clone();
    public.set_comment(comment.as_str());
    public.to_openssh().ok()
}

/// A fresh Ed25519 key: the private half in OpenSSH's form, and the public one as a line.
///
/// # Errors
/// A sentence, when the system gives no random numbers.
pub fn generate(comment: &str) -> Result<(String, String), String> {
    let mut key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
        .map_err(|error| error.to_string())?;
    key.set_comment(comment);
    let private = key.to_openssh(LineEnding::LF).map_err(|error| error.to_string())?;
    let public = key.public_key().to_openssh().map_err(|error| error.to_string())?;
    Ok((private.to_string(), format!("{public}\n")))
}

/// Loads a private key that is [`Readiness::Ready`].
///
/// # Errors
/// A sentence that names the file.
pub(super) fn load(path: &Path) -> Result<PrivateKey, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("can't read the key {}: {error}", path.display()))?;
    parsed(&text).map_err(|_| format!("can't use the key {} any more", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_generated_key_is_ready() {
        let (private, public) = generate("golem").unwrap();
        assert_eq!(readiness(&private), Readiness::Ready);
        assert_eq!(format!("{}\n", public_half(&private).unwrap()), public);
        assert!(public.starts_with("ssh-ed25519 ") && public.ends_with(" golem\n"), "{public}");
        assert_ne!(generate("golem").unwrap().0, private);
    }

    #[test]
    fn what_is_no_key_is_not_supported() {
        assert_eq!(readiness("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"), Readiness::NotSupported);
        assert_eq!(
            readiness("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"),
            Readiness::Locked
        );
        assert_eq!(public_half("x"), None);
    }
}
