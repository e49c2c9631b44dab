//! Identity is a key: every party has an Ed25519 key, and its id is the public half.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// z-base-32: lower case only, and no characters that are easily taken for one another.
/// Source: P. Zimmermann, "human-oriented base-32 encoding" (2009).
static Z_BASE_32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
    #[expect(clippy::expect_used, reason = "the alphabet is a constant of 32 distinct symbols")]
    spec.encoding().expect("z-base-32 is a valid specification")
});

/// Length of a [`KeyId`] in characters.
pub const KEY_ID_LENGTH: usize = 52;

/// Shortest prefix of an id that a person may type in its place.
pub const KEY_PREFIX_MIN_LENGTH: usize = 8;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyIdError {
    /// Not 52 characters of z-base-32.
    #[error("an id is {KEY_ID_LENGTH} characters of z-base-32 (a-z, 1, 3-9), without a prefix")]
    Encoding,
    /// 32 bytes that are no usable Ed25519 public key (RFC 8032): no point of the curve, one of small
    /// order, or a second spelling of one.
    #[error("the id is well-formed but is not a usable Ed25519 public key")]
    NotAKey,
}

/// The id of a provider, requestor, discovery server or port checker: its 32-byte Ed25519 public
/// key. Its text form is z-base-32, 52 lower-case characters, no prefix.
///
/// A value of this type has been checked to be a key that signatures can be verified with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// Takes the bytes of a public key.
    ///
    /// # Errors
    /// [`KeyIdError::NotAKey`] when they are not a curve point, one of small order, or not the way in
    /// which RFC 8032 writes it: a coordinate of 2^255 - 19 or more would give one key two ids.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyIdError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyIdError::NotAKey)?;
        let canonical = key.to_edwards().compress().to_bytes() == bytes;
        if canonical && !key.is_weak() { Ok(Self(bytes)) } else { Err(KeyIdError::NotAKey) }
    }

    /// The public key's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first characters of the text form, for places where 52 are too many. Not unique.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }

    /// Whether `signature` over `message` was made with this key. Strict: malleable signatures
    /// and small-order keys are refused (`verify_strict`).
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Z_BASE_32.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != KEY_ID_LENGTH {
            return Err(KeyIdError::Encoding);
        }
        let bytes = Z_BASE_32.decode(text.as_bytes()).map_err(|_| KeyIdError::Encoding)?;
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| KeyIdError::Encoding)?;
        Self::from_bytes(bytes)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The beginning of an id, as a person types it: at least 8 characters of z-base-32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// Whether `id` begins with these characters.
    #[must_use]
    pub fn matches(&self, id: &KeyId) -> bool {
        id.to_string().starts_with(&self.0)
    }

    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyPrefix {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let alphabet = Z_BASE_32.specification().symbols;
        if (KEY_PREFIX_MIN_LENGTH..=KEY_ID_LENGTH).contains(&text.len())
            && text.chars().all(|c| alphabet.contains(c))
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyIdError::Encoding)
        }
    }
}

/// An Ed25519 key pair: the secret behind a [`KeyId`]. Its `Debug` form shows the id only.
#[derive(Clone)]
pub struct KeyPair {
    secret: SigningKey,
    id: KeyId,
}

impl KeyPair {
    /// Makes a key from the operating system's random generator.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        loop {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes)?;
            if let Ok(pair) = Self::from_secret_bytes(bytes) {
                return Ok(pair);
            }
        }
    }

    /// Takes the 32 secret bytes of RFC 8032 (the seed).
    ///
    /// # Errors
    /// [`KeyIdError::NotAKey`] when the public half is not usable; no known seed does that.
    pub fn from_secret_bytes(secret: [u8; 32]) -> Result<Self, KeyIdError> {
        let secret = SigningKey::from_bytes(&secret);
        let id = KeyId::from_bytes(secret.verifying_key().to_bytes())?;
        Ok(Self { secret, id })
    }

    /// The 32 secret bytes, for writing the key file. Nothing else needs them.
    #[must_use]
    pub fn secret_bytes(&self) -> [u8; 32] {
        self.secret.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Signs `message` (RFC 8032 Ed25519, no pre-hash).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair() -> KeyPair {
        KeyPair::from_secret_bytes([7; 32]).unwrap()
    }

    #[test]
    fn an_id_is_52_lower_case_characters_and_reads_back() {
        let id = pair().id();
        let text = id.to_string();
        assert_eq!(text.len(), KEY_ID_LENGTH);
        assert_eq!(text, text.to_lowercase());
        assert_eq!(text.parse::<KeyId>().unwrap(), id);
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        assert_eq!("".parse::<KeyId>(), Err(KeyIdError::Encoding));
        assert_eq!("l".repeat(52).parse::<KeyId>(), Err(KeyIdError::Encoding));
        // The neutral element (y = 1) is a point of small order.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert_eq!(KeyId::from_bytes(weak), Err(KeyIdError::NotAKey));
        // A coordinate y of p and more is y - p, spelt a second time.
        let second_spellings = (0xed..=0xff_u8).map(|low| {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, 0x7f);
            bytes
        });
        let taken_by_the_library: Vec<_> =
            second_spellings.filter(|bytes| VerifyingKey::from_bytes(bytes).is_ok()).collect();
        assert!(taken_by_the_library.len() > 4, "{}", taken_by_the_library.len());
        for bytes in taken_by_the_library {
            assert_eq!(KeyId::from_bytes(bytes), Err(KeyIdError::NotAKey));
        }
        // Trailing bits that are not zero would give one key two names.
        let mut text = pair().id().to_string();
        text.pop();
        text.push('9');
        assert!(text.parse::<KeyId>().is_err());
    }

    #[test]
    fn a_prefix_needs_eight_characters() {
        let id = pair().id();
        let text = id.to_string();
        assert!(text[..7].parse::<KeyPrefix>().is_err());
        assert!(text[..8].parse::<KeyPrefix>().unwrap().matches(&id));
        assert!(text.parse::<KeyPrefix>().unwrap().matches(&id));
        assert!("yyyyyyyy".parse::<KeyPrefix>().is_ok_and(|p| !p.matches(&id)));
        assert!("LLLLLLLL".parse::<KeyPrefix>().is_err());
    }

    #[test]
    fn the_secret_never_shows() {
        let shown = format!("{:?}", pair());
        assert!(shown.contains(&pair().id().to_string()));
        assert!(!shown.contains("7, 7"));
    }
}
