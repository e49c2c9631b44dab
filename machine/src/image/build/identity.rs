//! Identifiers of an image's parts, which follow from its name and date: the same build has the same ones.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A UUID of version 8 (RFC 9562), made of a hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Uuid([u8; 16]);

impl Uuid {
    /// The one that follows from a text.
    pub(super) fn of(text: &str) -> Self {
        let hash = Sha256::digest(text.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// As a partition table has it: the first three fields are little-endian.
    pub(super) fn mixed_endian(&self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_gives_the_same_uuid() {
        let uuid = Uuid::of("debian-12 root 1").to_string();
        assert_eq!(uuid, Uuid::of("debian-12 root 1").to_string());
        assert_ne!(uuid, Uuid::of("debian-12 root 2").to_string());
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "8"));
    }
}
