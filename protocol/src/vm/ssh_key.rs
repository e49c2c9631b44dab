//! Public SSH keys that may log in to a VM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssh_key::public::KeyData;
use ssh_key::{HashAlg, PublicKey};

use crate::text::is_printable;

/// Smallest RSA key in bits.
pub const RSA_MIN_BITS: usize = 2048;
/// Smallest RSA key in bits that is as strong as the other kinds (NIST SP 800-57: 128 bits).
pub const RSA_GOOD_BITS: usize = 3072;
/// Longest accepted line in bytes: an RSA key of 16384 bits with its comment.
const MAX_LINE_BYTES: usize = 4096;
const MAX_COMMENT_CHARS: usize = 255;

/// Why a text is not a usable public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshKeyError {
    /// More than one line, too long, or not the OpenSSH form.
    #[error(
        "not a public SSH key: expected one line such as 'ssh-ed25519 AAAA… name', the content of a .pub file"
    )]
    Format,
    /// Somebody handed over the wrong half.
    #[error("this is a PRIVATE key: keep it to yourself, and give the .pub file")]
    Private,
    /// A type that is not accepted.
    #[error("keys of type {0} are not accepted: use ed25519, ecdsa, sk-ed25519, sk-ecdsa, or rsa")]
    Type(String),
    /// DSA.
    #[error(
        "DSA keys are not accepted: they are too weak, and OpenSSH has given them up; use ed25519"
    )]
    Dsa,
    /// A certificate.
    #[error(
        "certificates ({0}) are not accepted: it would be for their authority to say who logs in, and \
         until when; give the plain key, the .pub file without -cert"
    )]
    Certificate(String),
    /// An RSA key that is too short.
    #[error(
        "an RSA key of {0} bits is too short: {RSA_MIN_BITS} bits or more are needed, or an ed25519 key"
    )]
    TooShort(usize),
}

/// A public key in OpenSSH's one-line form: ed25519, ecdsa, their sk- kinds, or RSA of 2048 bits
/// and more. Certificates, options and DSA are refused. Reads back to the same line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPublicKey {
    key: PublicKey,
    line: String,
}

impl SshPublicKey {
    /// Type, base64 and comment, one line without its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.line
    }

    /// Type and base64 without the comment: what identifies the key.
    #[must_use]
    pub fn without_comment(&self) -> &str {
        let mut spaces = self.line.match_indices(' ').map(|(at, _)| at);
        spaces.next();
        spaces.next().map_or(&self.line, |end| &self.line[..end])
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Why this key is accepted and not a good one, if so, in words.
    #[must_use]
    pub fn weakness(&self) -> Option<String> {
        self.rsa_bits().filter(|bits| *bits < RSA_GOOD_BITS).map(|bits| {
            format!("an RSA key of {bits} bits is accepted, but weaker than it could be: {RSA_GOOD_BITS} bits, or an ed25519 key (ssh-keygen -t ed25519), are better")
        })
    }

    /// Length of the modulus in bits when it is an RSA key.
    #[must_use]
    pub fn rsa_bits(&self) -> Option<usize> {
        match self.key.key_data() {
            KeyData::Rsa(key) => {
                Some(modulus_bits(key.n().as_positive_bytes().unwrap_or_default()))
            }
            _ => None,
        }
    }
}

fn modulus_bits(modulus: &[u8]) -> usize {
    let significant = modulus.iter().skip_while(|byte| **byte == 0).collect::<Vec<_>>();
    significant.first().map_or(0, |first| {
        significant.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or(0)
    })
}

impl FromStr for SshPublicKey {
    type Err = SshKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("PRIVATE KEY") {
            return Err(SshKeyError::Private);
        }
        let text = text.trim();
        if text.len() > MAX_LINE_BYTES || text.contains(['\n', '\r']) {
            return Err(SshKeyError::Format);
        }
        let mut fields = text.splitn(3, [' ', '\t']);
        let (Some(kind), Some(data)) = (fields.next(), fields.next()) else {
            return Err(SshKeyError::Format);
        };
        let comment = fields.next().unwrap_or_default().trim();
        if !is_printable(comment, MAX_COMMENT_CHARS) {
            return Err(SshKeyError::Format);
        }
        if kind.contains("-cert-v") {
            return Err(SshKeyError::Certificate(crate::text::printable(kind, 60)));
        }
        if kind == "ssh-dss" {
            return Err(SshKeyError::Dsa);
        }
        let line = if comment.is_empty() {
            format!("{kind} {data}")
        } else {
            format!("{kind} {data} {comment}")
        };
        let key = PublicKey::from_openssh(&line).map_err(|_| SshKeyError::Format)?;
        match key.key_data() {
            KeyData::Ed25519(_)
            | KeyData::Ecdsa(_)
            | KeyData::SkEd25519(_)
            | KeyData::SkEcdsaSha2NistP256(_) => {}
            KeyData::Rsa(rsa) => {
                let bits = modulus_bits(rsa.n().as_positive_bytes().unwrap_or_default());
                if bits < RSA_MIN_BITS {
                    return Err(SshKeyError::TooShort(bits));
                }
            }
            _ => return Err(SshKeyError::Type(crate::text::printable(kind, 40))),
        }
        Ok(Self { key, line })
    }
}

impl fmt::Display for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl Serialize for SshPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.line)
    }
}

impl<'de> Deserialize<'de> for SshPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

    const KINDS: [&str; 5] = [
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBOG1JLEjt49hKLN/4ZHvHY8ASh59TswHfmWrsuPZxvZ2Z5zv1bD8fdW6Uzn0iZ6vcHNRwllg1cj7xB3a5StvVJw=",
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBJdDP/kaZAEa1ijvtd/SNJcMVCgQbJ3zgjqXv77TuyLjaBVbE9b14kzk2cTwKWqgfJoOTmMxne7eJaeRAbvMnnGXz9fD+eVmdZYxftdgzSD+atmxC+LoZ2pqwv8SoaryuA==",
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBADGPva09b6af3jMBnByk0uKqeGQ+1AFrRy/P8kUkB3hasHCEtMJjn5lwmWotUXpQQcWtSWueWayk1DYtXhonB+mAQAExJufK2FAnTrTuU1WTm1r6Nmj4/kfSlNIG/5EJIOuXPvJ2k6t3Q4XZN8NdePI47VM4Vt6wp7iGClKqz6O1IJqFw==",
        "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMWAAAABHNzaDo=",
        "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBOG1JLEjt49hKLN/4ZHvHY8ASh59TswHfmWrsuPZxvZ2Z5zv1bD8fdW6Uzn0iZ6vcHNRwllg1cj7xB3a5StvVJwAAAAEc3NoOg==",
    ];

    fn rsa(modulus: &[u8]) -> String {
        let mut blob = Vec::new();
        for part in [b"ssh-rsa".as_slice(), &[1, 0, 1], modulus] {
            blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(part);
        }
        format!("ssh-rsa {}", data_encoding::BASE64.encode(&blob))
    }

    #[test]
    fn good_keys_read_back() {
        let key: SshPublicKey = format!("  {ED25519}   me@host \n").parse().unwrap();
        assert_eq!(key.as_str(), format!("{ED25519} me@host"));
        assert_eq!(key.without_comment(), ED25519);
        assert!(key.fingerprint().starts_with("SHA256:"));
        let mut modulus = vec![0_u8; 257];
        modulus[1] = 0x80;
        let key: SshPublicKey = rsa(&modulus).parse().unwrap();
        assert_eq!(key.rsa_bits(), Some(2048));
        assert!(key.weakness().unwrap().contains("2048 bits"));
        let mut modulus = vec![0_u8; 385];
        modulus[1] = 0x80;
        let key: SshPublicKey = rsa(&modulus).parse().unwrap();
        assert_eq!((key.rsa_bits(), key.weakness()), (Some(3072), None));
    }

    /// Made with `ssh-keygen -t ecdsa -b N`; the sk- kinds in the form of PROTOCOL.u2f.
    #[test]
    fn every_kind_that_openssh_makes_is_read() {
        for key in KINDS {
            let read: SshPublicKey = key.parse().unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(read.without_comment(), key);
            assert_eq!(read.weakness(), None);
        }
    }

    #[test]
    fn what_is_not_a_key_is_told_apart() {
        let read = |text: &str| text.parse::<SshPublicKey>().unwrap_err();
        assert_eq!(read(""), SshKeyError::Format);
        assert_eq!(read("ssh-ed25519"), SshKeyError::Format);
        assert_eq!(read("ssh-ed25519 AAAA"), SshKeyError::Format);
        assert_eq!(read(&format!("{ED25519}\nssh-ed25519 AAAA")), SshKeyError::Format);
        assert_eq!(read(&format!("command=\"x\" {ED25519}")), SshKeyError::Format);
        assert_eq!(read(&format!("{ED25519} a\x1b[2J")), SshKeyError::Format);
        assert_eq!(read("-----BEGIN OPENSSH PRIVATE KEY-----\nx"), SshKeyError::Private);
        assert_eq!(read("ssh-dss AAAA"), SshKeyError::Dsa);
        for kind in
            ["ssh-ed25519-cert-v01@openssh.com", "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com"]
        {
            let error = read(&format!("{kind} AAAA"));
            assert_eq!(error, SshKeyError::Certificate(kind.into()));
            assert!(error.to_string().contains("authority"));
        }
        assert_eq!(read("ssh-xmss@openssh.com AAAA"), SshKeyError::Format);
        let mut modulus = vec![0_u8; 129];
        modulus[1] = 0x80;
        assert_eq!(read(&rsa(&modulus)), SshKeyError::TooShort(1024));
        // A type that does not fit what the base64 holds.
        assert_eq!(read(&ED25519.replacen("ssh-ed25519", "ssh-rsa", 1)), SshKeyError::Format);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = text.parse::<SshPublicKey>();
            let _ = format!("ssh-ed25519 {text}").parse::<SshPublicKey>();
        }
    }
}
