//! The name of an image's content.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ImageError;

/// The SHA-256 of a disk as a guest sees it, from its first byte to its last: the same for the same content, in
/// whatever format it came. Written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentDigest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 'sha256:' and 64 digits of 0-9 and a-f")]
pub struct ContentDigestError;

impl ContentDigest {
    /// The digest of what a hasher has seen.
    pub(super) fn of(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// That it can't be read.
    pub(super) fn of_file(path: &Path) -> Result<Self, ImageError> {
        let failed = || ImageError::io("read", path);
        let mut file = File::open(path).map_err(failed())?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).map_err(failed())?;
            if read == 0 {
                return Ok(Self::of(hasher));
            }
            hasher.update(&buffer[..read]);
        }
    }

    /// The 64 hexadecimal digits alone.
    #[must_use]
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentDigest {
    type Err = ContentDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or(ContentDigestError)?;
        let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| ContentDigestError)?;
        bytes.try_into().map(Self).map_err(|_| ContentDigestError)
    }
}

impl TryFrom<String> for ContentDigest {
    type Error = ContentDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ContentDigest> for String {
    fn from(digest: ContentDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_digest_has_one_spelling() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<ContentDigest>().unwrap().to_string(), text);
        for bad in ["", "sha256:", &"0a".repeat(32), &text.to_uppercase(), &text[..70]] {
            assert_eq!(bad.parse::<ContentDigest>(), Err(ContentDigestError), "{bad}");
        }
    }
}
