//! Headers as an attacker would write them, for tests.

use super::error::Refusal;
use super::header::Header;

pub(super) const GIB: u64 = 1 << 30;

/// The beginning of a qcow2 file with clusters of 64 KiB, and the length of the file.
#[derive(Clone)]
pub(super) struct Crafted {
    pub(super) bytes: Vec<u8>,
    file_bytes: u64,
    extensions_end: usize,
}

impl Crafted {
    /// What `qemu-img create` writes for a disk of that size.
    pub(super) fn ordinary(virtual_size: u64) -> Self {
        let mut bytes = vec![0; 0x1000];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        let l1_entries = virtual_size.div_ceil(512 << 20);
        Self { bytes, file_bytes: 0x50000, extensions_end: 104 }
            .u32(4, 3)
            .u32(20, 16)
            .u64(24, virtual_size)
            .u32(36, u32::try_from(l1_entries).unwrap_or(u32::MAX))
            .u64(40, 0x30000)
            .u64(48, 0x10000)
            .u32(56, 1)
            .u32(96, 4)
            .u32(100, 104)
    }

    pub(super) fn version_2(mut self) -> Self {
        self.extensions_end = 72;
        self.bytes[72..104].fill(0);
        self.u32(4, 2)
    }

    pub(super) fn byte(mut self, at: usize, value: u8) -> Self {
        self.bytes[at] = value;
        self
    }

    pub(super) fn u32(mut self, at: usize, value: u32) -> Self {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, at: usize, value: u64) -> Self {
        self.bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds an extension behind those that are there.
    pub(super) fn extension(mut self, kind: u32, data: &[u8]) -> Self {
        let at = self.extensions_end;
        self.extensions_end += 8 + data.len().next_multiple_of(8);
        self.bytes[at + 8..at + 8 + data.len()].copy_from_slice(data);
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.u32(at, kind).u32(at + 4, length)
    }

    pub(super) fn file_bytes(mut self, bytes: u64) -> Self {
        self.file_bytes = bytes;
        self
    }

    pub(super) fn judge(&self) -> Result<Header, Refusal> {
        Header::judge(&self.bytes, self.file_bytes)
    }

    /// What holds of every header that is taken, read again in a simpler way.
    pub(super) fn assert_harmless(&self, header: &Header) {
        assert!(self.bytes[8..20].iter().all(|byte| *byte == 0), "a backing file");
        assert!(self.bytes[32..36].iter().all(|byte| *byte == 0), "encryption");
        if header.version == 3 {
            assert!(self.bytes[72..79].iter().all(|byte| *byte == 0) && self.bytes[79] & !8 == 0);
        }
        assert!(header.virtual_size.is_multiple_of(512) && header.virtual_size > 0);
        assert!((512..=2 << 20).contains(&header.cluster_size));
    }
}
