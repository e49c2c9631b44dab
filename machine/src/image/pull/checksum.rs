//! Checksums of files, and the lists of them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;
use sha2::{Sha256, Sha512};

/// What a file's bytes have to hash to.
#[derive(Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// A text that is no checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is 64 (SHA-256) or 128 (SHA-512) hexadecimal digits")]
pub struct ChecksumError;

impl Checksum {
    /// From hexadecimal digits: their number says which one it is.
    ///
    /// # Errors
    /// [`ChecksumError`].
    pub fn parse(hex: &str) -> Result<Self, ChecksumError> {
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| ChecksumError)?;
        match bytes.len() {
            32 => bytes.try_into().map(Self::Sha256).map_err(|_| ChecksumError),
            64 => bytes.try_into().map(Self::Sha512).map_err(|_| ChecksumError),
            _ => Err(ChecksumError),
        }
    }

    /// Whether a file has it. Reads all of it.
    pub(super) fn is_of(&self, path: &Path) -> std::io::Result<bool> {
        fn hash<D: sha2::Digest>(mut file: File) -> std::io::Result<Vec<u8>> {
            let mut hasher = D::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finalize().to_vec()),
                    read => hasher.update(&buffer[..read]),
                }
            }
        }
        let file = File::open(path)?;
        Ok(match self {
            Self::Sha256(wanted) => hash::<Sha256>(file)? == wanted,
            Self::Sha512(wanted) => hash::<Sha512>(file)? == wanted,
        })
    }

    /// Finds a file's line in a list (`SHA256SUMS`, `SHA512SUMS`): digits, a space, a space or `*`, the name. Two lines
    /// for one name that differ are as bad as none.
    #[must_use]
    pub fn in_list(list: &str, wanted: &str) -> Option<Self> {
        let mut found = None;
        for line in list.lines() {
            let Some((hex, name)) = line.split_once(' ') else { continue };
            let name = name.strip_prefix([' ', '*']).unwrap_or(name);
            if name != wanted {
                continue;
            }
            let checksum = Self::parse(hex).ok()?;
            if found.as_ref().is_some_and(|before| *before != checksum) {
                return None;
            }
            found = Some(checksum);
        }
        found
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Sha256(bytes) => ("sha256", bytes.as_slice()),
            Self::Sha512(bytes) => ("sha512", bytes.as_slice()),
        };
        write!(f, "{name}:{}", data_encoding::HEXLOWER.encode(bytes))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    //! Lists of checksums, tried with any bytes.

    use super::Checksum;

    /// What is found stands in the list, before that name.
    pub(crate) fn checksum_list(data: &[u8]) {
        let list = String::from_utf8_lossy(data);
        for line in list.lines().take(20) {
            let name = line.rsplit([' ', '*']).next().unwrap_or_default();
            let Some(found) = Checksum::in_list(&list, name) else { continue };
            let text = found.to_string();
            let hex = text.split(':').next_back().unwrap_or_default();
            let stands =
                |line: &str| line.to_ascii_lowercase().starts_with(hex) && line.ends_with(name);
            assert!(list.lines().any(stands), "{text} for {name}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_files_line_is_found() {
        let (one, two) = ("a".repeat(64), "B".repeat(128));
        let list = format!("{one} *disk.img\n{two}  other.img\n\nrubbish\n{one}  disk.img.old\n");
        assert_eq!(Checksum::in_list(&list, "disk.img"), Checksum::parse(&one).ok());
        assert_eq!(Checksum::in_list(&list, "other.img"), Checksum::parse(&two).ok());
        for absent in ["", "disk", "img", "DISK.IMG", "../disk.img"] {
            assert_eq!(Checksum::in_list(&list, absent), None, "{absent}");
        }
        let twice = format!("{one}  disk.img\n{}  disk.img\n", "c".repeat(64));
        assert_eq!(Checksum::in_list(&twice, "disk.img"), None);
        assert_eq!(Checksum::in_list("12  disk.img\n", "disk.img"), None);
    }

    #[test]
    fn a_file_has_its_checksum() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(Checksum::parse(right).unwrap().is_of(file.path()).unwrap());
        assert!(!Checksum::parse(&"0".repeat(64)).unwrap().is_of(file.path()).unwrap());
        assert!(!Checksum::parse(&"0".repeat(128)).unwrap().is_of(file.path()).unwrap());
    }
}
