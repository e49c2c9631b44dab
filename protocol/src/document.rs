//! Signed documents: one envelope for everything that is published or attested.
//!
//! The payload travels as the exact bytes that were signed, base64url-encoded; whoever carries an
//! envelope stores and serves it untouched, so members that the carrier does not know survive.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::identity::{KeyId, KeyPair};

/// Largest payload in bytes; the same for every type of document.
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

/// A type of document: its name separates the signatures of one type from those of all others.
pub trait Document: Serialize + DeserializeOwned {
    /// The type's name as in the signed prefix `golem-<TYPE>-v1\0`.
    const TYPE: &'static str;
}

/// A document as it is carried. Nothing in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// base64url (no padding) of the exact bytes that were signed.
    pub payload: String,
    /// Who signed.
    pub keyid: KeyId,
    /// base64url (no padding) of the Ed25519 signature over `golem-<type>-v1\0` + payload bytes.
    pub signature: String,
}

/// Why an envelope is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The payload is larger than [`MAX_PAYLOAD_BYTES`].
    #[error("the document's payload is larger than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// Payload or signature is not base64url, or the signature has not 64 bytes.
    #[error("the document's {0} is not well-formed base64url")]
    Encoding(&'static str),
    /// The signature does not fit payload, type and key.
    #[error("the document's signature does not match its content and key {0}")]
    Signature(KeyId),
    /// The signed bytes are not a document of the expected type.
    #[error("the signed document can't be read: {0}")]
    Content(String),
}

/// SHA-256 of a document's payload bytes; the text form is `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentDigest([u8; 32]);

impl DocumentDigest {
    /// The digest of these payload bytes.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self(Sha256::digest(payload).into())
    }
}

impl fmt::Display for DocumentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for DocumentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for DocumentDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:")
            .and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok())
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| "a digest is 'sha256:' and 64 lower-case hex digits".to_owned())
    }
}

impl Serialize for DocumentDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DocumentDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A document whose signature was checked; made by [`Envelope::open`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    /// The content.
    pub content: T,
    /// Whose signature it carries.
    pub signer: KeyId,
    /// Digest of the signed bytes.
    pub digest: DocumentDigest,
}

impl Envelope {
    /// Signs `document` with `key`.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`] when its JSON is larger than [`MAX_PAYLOAD_BYTES`],
    /// [`DocumentError::Content`] when it can't be written as JSON.
    pub fn seal<T: Document>(document: &T, key: &KeyPair) -> Result<Self, DocumentError> {
        let bytes = serde_json::to_vec(document)
            .map_err(|error| DocumentError::Content(error.to_string()))?;
        if bytes.len() > MAX_PAYLOAD_BYTES {
            return Err(DocumentError::TooLarge);
        }
        let signature = key.sign(&signed_bytes::<T>(&bytes));
        Ok(Self {
            payload: BASE64URL_NOPAD.encode(&bytes),
            keyid: key.id(),
            signature: BASE64URL_NOPAD.encode(&signature),
        })
    }

    /// Checks the signature and reads the content.
    ///
    /// Whether the signer had the right to say what the document says is for the caller to judge.
    ///
    /// # Errors
    /// See [`DocumentError`]. The content is not looked at before the signature was found good.
    pub fn open<T: Document>(&self) -> Result<Verified<T>, DocumentError> {
        let bytes = self.payload_bytes()?;
        let signature = BASE64URL_NOPAD
            .decode(self.signature.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
            .ok_or(DocumentError::Encoding("signature"))?;
        if !self.keyid.verifies(&signed_bytes::<T>(&bytes), &signature) {
            return Err(DocumentError::Signature(self.keyid));
        }
        let content = serde_json::from_slice(&bytes)
            .map_err(|error| DocumentError::Content(error.to_string()))?;
        Ok(Verified { content, signer: self.keyid, digest: DocumentDigest::of(&bytes) })
    }

    /// The exact bytes of the payload, unchecked.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`] or [`DocumentError::Encoding`].
    pub fn payload_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        if self.payload.len() > MAX_PAYLOAD_BYTES.div_ceil(3) * 4 {
            return Err(DocumentError::TooLarge);
        }
        BASE64URL_NOPAD
            .decode(self.payload.as_bytes())
            .map_err(|_| DocumentError::Encoding("payload"))
    }
}

fn signed_bytes<T: Document>(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("golem-{}-v1\0", T::TYPE).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }
    impl Document for Note {
        const TYPE: &'static str = "note";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Other {
        text: String,
    }
    impl Document for Other {
        const TYPE: &'static str = "other";
    }

    fn sealed() -> (KeyPair, Envelope) {
        let key = KeyPair::from_secret_bytes([3; 32]).unwrap();
        let envelope = Envelope::seal(&Note { text: "hello".into() }, &key).unwrap();
        (key, envelope)
    }

    #[test]
    fn what_was_sealed_opens() {
        let (key, envelope) = sealed();
        let json = serde_json::to_string(&envelope).unwrap();
        let read: Envelope = serde_json::from_str(&json).unwrap();
        let note = read.open::<Note>().unwrap();
        assert_eq!(note.content.text, "hello");
        assert_eq!(note.signer, key.id());
        assert_eq!(note.digest, note.digest.to_string().parse().unwrap());
    }

    #[test]
    fn a_signature_is_good_for_one_type_one_key_and_one_content() {
        let (_, envelope) = sealed();
        let stranger = KeyPair::from_secret_bytes([4; 32]).unwrap();
        assert!(matches!(envelope.open::<Other>(), Err(DocumentError::Signature(_))));
        let renamed = Envelope { keyid: stranger.id(), ..envelope.clone() };
        assert!(matches!(renamed.open::<Note>(), Err(DocumentError::Signature(_))));
        let altered = Envelope {
            payload: BASE64URL_NOPAD.encode(br#"{"text":"hellO"}"#),
            ..envelope.clone()
        };
        assert!(matches!(altered.open::<Note>(), Err(DocumentError::Signature(_))));
        let cut = Envelope { signature: "AAAA".into(), ..envelope };
        assert!(matches!(cut.open::<Note>(), Err(DocumentError::Encoding("signature"))));
    }

    #[test]
    fn size_is_bounded_both_ways() {
        let key = KeyPair::from_secret_bytes([3; 32]).unwrap();
        let big = Note { text: "x".repeat(MAX_PAYLOAD_BYTES) };
        assert_eq!(Envelope::seal(&big, &key), Err(DocumentError::TooLarge));
        let (_, envelope) = sealed();
        let huge = Envelope { payload: "A".repeat(1 << 20), ..envelope };
        assert!(matches!(huge.open::<Note>(), Err(DocumentError::TooLarge)));
    }
}
