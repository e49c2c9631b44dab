//! Which format a file from outside has.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::SECTOR;
use super::error::{DiskError, Refusal};
use super::header::{HEADER_BYTES, Header, MAGIC};

/// The format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// QEMU's own.
    Qcow2,
    /// The disk's content as it is.
    Raw,
}

impl DiskFormat {
    /// QEMU's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }

    /// Tells the format of an image from outside by its beginning, and judges it: its disk may have at most `most`
    /// bytes. Only what can be booted is taken for a raw disk, so that nothing else passes as one.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn judge_image(start: &[u8], file_bytes: u64, most: u64) -> Result<(Self, u64), Refusal> {
        if start.starts_with(&MAGIC) {
            let header = Header::judge(start, file_bytes)?.as_image(most)?;
            return Ok((Self::Qcow2, header.virtual_size));
        }
        if start.get(510..512) != Some(&[0x55, 0xaa]) {
            return Err(Refusal::UnknownFormat);
        }
        if !file_bytes.is_multiple_of(SECTOR) {
            return Err(Refusal::Impossible("a disk consists of sectors of 512 bytes"));
        }
        if file_bytes > most {
            return Err(Refusal::TooLarge { bytes: file_bytes, most });
        }
        Ok((Self::Raw, file_bytes))
    }

    /// [`judge_image`](Self::judge_image) of a file; the format, and the bytes that a guest would see.
    ///
    /// # Errors
    /// [`DiskError::Refused`], or that it can't be read.
    pub fn detect(path: &Path, most: u64) -> Result<(Self, u64), DiskError> {
        let (start, file_bytes) = beginning(path)?;
        Self::judge_image(&start, file_bytes, most)
            .map_err(|why| DiskError::Refused { path: path.to_owned(), why })
    }
}

/// The first bytes of a regular file, and its length.
pub(super) fn beginning(path: &Path) -> Result<(Vec<u8>, u64), DiskError> {
    let failed = || DiskError::io("read", path);
    // Opening a pipe would wait for its writer.
    if !path.metadata().map_err(failed())?.is_file() {
        return Err(failed()(std::io::Error::other("it is no regular file")));
    }
    let file = File::open(path).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let mut start = Vec::with_capacity(HEADER_BYTES);
    file.take(HEADER_BYTES as u64).read_to_end(&mut start).map_err(failed())?;
    Ok((start, length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::crafted::{Crafted, GIB};
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_format() {
        let crafted = Crafted::ordinary(GIB);
        let judged = DiskFormat::judge_image(&crafted.bytes, 0x50000, GIB);
        assert_eq!(judged, Ok((DiskFormat::Qcow2, GIB)));
        let mut raw = vec![0; 1024];
        assert_eq!(DiskFormat::judge_image(&raw, 1024, GIB), Err(Refusal::UnknownFormat));
        raw[510] = 0x55;
        raw[511] = 0xaa;
        assert_eq!(DiskFormat::judge_image(&raw, 1024, GIB), Ok((DiskFormat::Raw, 1024)));
        let too_large = Refusal::TooLarge { bytes: 1024, most: 512 };
        assert_eq!(DiskFormat::judge_image(&raw, 1024, 512), Err(too_large));
        assert!(DiskFormat::judge_image(&raw, 1025, GIB).is_err());
        // What other tools would take for a disk that names files.
        let vmdk = b"# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/passwd\" 0\n";
        assert_eq!(DiskFormat::judge_image(vmdk, 80, GIB), Err(Refusal::UnknownFormat));
    }

    #[test]
    fn only_a_regular_file_is_read() {
        assert!(matches!(
            DiskFormat::detect(Path::new("/dev/zero"), GIB),
            Err(DiskError::Io { .. })
        ));
        assert!(matches!(DiskFormat::detect(Path::new("/"), GIB), Err(DiskError::Io { .. })));
    }
}
