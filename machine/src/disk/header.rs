//! The first bytes of a qcow2 file, and what they must not say.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`.

use super::SECTOR;
use super::error::Refusal;

/// How many bytes of a file are read to judge it; extensions beyond them are refused.
pub const HEADER_BYTES: usize = 64 * 1024;

/// `QFI\xfb`.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The length of a header of version 2, which has no field for it.
const LENGTH_OF_2: usize = 72;
const LENGTH_OF_3: usize = 104;
/// An L1 table of this many entries describes 4 TiB in clusters of 64 KiB; QEMU itself stops at four times that.
const MOST_L1_ENTRIES: u64 = 1 << 20;
/// QEMU's own limit for the refcount table.
const MOST_REFCOUNT_TABLE: u64 = 8 << 20;

mod incompatible {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
}

mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
    pub(super) const ENCRYPTION: u32 = 0x0537_be77;
    pub(super) const BITMAPS: u32 = 0x2385_2875;
}

/// A qcow2 header that names no other file and asks its reader for nothing absurd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the disk as a guest sees it: not 0, a multiple of 512.
    pub virtual_size: u64,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// How many snapshots are inside.
    pub snapshots: u32,
}

/// Numbers in big-endian order, by their place.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, Refusal> {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or(Refusal::CutOff("the header"))
    }

    fn u64(&self, at: usize) -> Result<u64, Refusal> {
        let bytes = self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or(Refusal::CutOff("the header"))
    }
}

impl Header {
    /// Reads and judges the beginning of a file (its first [`HEADER_BYTES`], or all of it) that has `file_bytes`.
    /// Snapshots are counted and not judged: a machine's own disk has some.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    pub fn judge(start: &[u8], file_bytes: u64) -> Result<Self, Refusal> {
        let start = &start[..start.len().min(HEADER_BYTES)];
        if !start.starts_with(&MAGIC) {
            return Err(Refusal::UnknownFormat);
        }
        let fields = Fields(start);
        let version = fields.u32(4)?;
        let length = match version {
            2 => LENGTH_OF_2,
            3 => fields.u32(100)? as usize,
            other => return Err(Refusal::Version(other)),
        };
        // What reads other files comes first: nothing else about such a file matters.
        if fields.u64(8)? != 0 || fields.u32(16)? != 0 {
            return Err(Refusal::BackingFile);
        }
        if fields.u32(32)? != 0 {
            return Err(Refusal::Encrypted);
        }
        let cluster_bits = fields.u32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Refusal::Impossible("the size of its clusters"));
        }
        let cluster_size = 1u64 << cluster_bits;
        if version == 3 {
            judge_version_3(&fields, length, cluster_size)?;
        }
        judge_extensions(&fields, length, cluster_size)?;

        let virtual_size = fields.u64(24)?;
        if virtual_size == 0 || !virtual_size.is_multiple_of(SECTOR) {
            return Err(Refusal::Impossible("the size of its disk"));
        }
        let layout = Layout { cluster_size, file_bytes };
        layout.judge_l1(virtual_size, u64::from(fields.u32(36)?), fields.u64(40)?)?;
        layout.judge_refcounts(fields.u64(48)?, u64::from(fields.u32(56)?))?;
        let snapshots = fields.u32(60)?;
        layout.judge_snapshots(snapshots, fields.u64(64)?)?;
        Ok(Self { version, virtual_size, cluster_size, snapshots })
    }

    /// The header of an image from outside: without snapshots, and at most `most` bytes of disk.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn as_image(self, most: u64) -> Result<Self, Refusal> {
        if self.snapshots != 0 {
            return Err(Refusal::Snapshots(self.snapshots));
        }
        if self.virtual_size > most {
            return Err(Refusal::TooLarge { bytes: self.virtual_size, most });
        }
        Ok(self)
    }
}

fn judge_version_3(fields: &Fields<'_>, length: usize, cluster_size: u64) -> Result<(), Refusal> {
    if length < LENGTH_OF_3 || !length.is_multiple_of(8) || length as u64 > cluster_size {
        return Err(Refusal::Impossible("the length of its header"));
    }
    let needed = fields.u64(72)?;
    if needed & incompatible::DATA_FILE != 0 {
        return Err(Refusal::DataFile);
    }
    if needed & (incompatible::DIRTY | incompatible::CORRUPT) != 0 {
        return Err(Refusal::Unclean);
    }
    let unknown = needed & !incompatible::COMPRESSION;
    if unknown != 0 {
        return Err(Refusal::Features(unknown));
    }
    let compression = if length > LENGTH_OF_3 {
        *fields.0.get(LENGTH_OF_3).ok_or(Refusal::CutOff("the header"))?
    } else {
        0
    };
    // 0 is zlib and needs no feature, 1 is zstd and does.
    let by_feature = needed & incompatible::COMPRESSION != 0;
    if compression > 1 || by_feature != (compression == 1) {
        return Err(Refusal::Compression(compression));
    }
    if fields.u32(96)? > 6 {
        return Err(Refusal::Impossible("the width of its reference counts"));
    }
    Ok(())
}

/// Extensions stand behind the header, each with a type and a length. A reader skips those that it does not know.
fn judge_extensions(fields: &Fields<'_>, length: usize, cluster_size: u64) -> Result<(), Refusal> {
    let end = cluster_size.min(HEADER_BYTES as u64) as usize;
    let mut at = length;
    // A header that fills its cluster has none.
    while at + 8 <= end {
        let (kind, bytes) = (fields.u32(at)?, fields.u32(at + 4)? as usize);
        match kind {
            extension::END => return Ok(()),
            extension::DATA_FILE => return Err(Refusal::DataFile),
            extension::BACKING_FORMAT => return Err(Refusal::BackingFile),
            extension::ENCRYPTION => return Err(Refusal::Encrypted),
            extension::BITMAPS => return Err(Refusal::Bitmaps),
            _ => {}
        }
        at += 8;
        if bytes > end - at {
            return Err(Refusal::Impossible("the length of an extension of its header"));
        }
        at += bytes.next_multiple_of(8);
    }
    Ok(())
}

/// Where tables may lie.
struct Layout {
    cluster_size: u64,
    file_bytes: u64,
}

impl Layout {
    fn inside(&self, what: &'static str, at: u64, bytes: u64) -> Result<(), Refusal> {
        if !at.is_multiple_of(self.cluster_size) || at == 0 {
            return Err(Refusal::Impossible(what));
        }
        match at.checked_add(bytes) {
            Some(end) if end <= self.file_bytes => Ok(()),
            _ => Err(Refusal::CutOff(what)),
        }
    }

    fn judge_l1(&self, virtual_size: u64, entries: u64, at: u64) -> Result<(), Refusal> {
        // One entry is an L2 table of a cluster, whose entries of 8 bytes are a cluster each.
        let described = self.cluster_size * (self.cluster_size / 8);
        let needed = virtual_size.div_ceil(described);
        // Tables that grew have room for half as much again.
        let most = needed.saturating_mul(2).saturating_add(self.cluster_size / 8);
        if entries < needed || entries > most.min(MOST_L1_ENTRIES) {
            return Err(Refusal::Impossible("the length of its L1 table"));
        }
        self.inside("the L1 table", at, entries * 8)
    }

    fn judge_refcounts(&self, at: u64, clusters: u64) -> Result<(), Refusal> {
        let bytes = clusters.saturating_mul(self.cluster_size);
        if clusters == 0 || bytes > MOST_REFCOUNT_TABLE {
            return Err(Refusal::Impossible("the length of its refcount table"));
        }
        self.inside("the refcount table", at, bytes)
    }

    fn judge_snapshots(&self, count: u32, at: u64) -> Result<(), Refusal> {
        // Each takes at least 40 bytes of the table.
        if count == 0 {
            Ok(())
        } else {
            self.inside("the snapshot table", at, u64::from(count) * 40)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::crafted::{Crafted, GIB};
    use super::*;

    #[track_caller]
    fn refused(crafted: &Crafted, why: &Refusal) {
        assert_eq!(crafted.judge().unwrap_err(), *why);
    }

    #[test]
    fn an_ordinary_header_is_taken() {
        let header = Crafted::ordinary(10 * GIB).judge().unwrap();
        assert_eq!((header.version, header.virtual_size), (3, 10 * GIB));
        assert_eq!(header.as_image(10 * GIB), Ok(header));
        assert_eq!(Crafted::ordinary(GIB).version_2().judge().unwrap().version, 2);
        // zstd
        let zstd = Crafted::ordinary(GIB).u64(72, 8).u32(100, 112).byte(104, 1);
        assert!(zstd.judge().is_ok());
    }

    #[test]
    fn what_names_another_file_is_refused() {
        refused(&Crafted::ordinary(GIB).u64(8, 0x200).u32(16, 13), &Refusal::BackingFile);
        refused(&Crafted::ordinary(GIB).u64(8, 0x200), &Refusal::BackingFile);
        refused(&Crafted::ordinary(GIB).version_2().u64(8, 0x200), &Refusal::BackingFile);
        refused(&Crafted::ordinary(GIB).u64(72, 4), &Refusal::DataFile);
        refused(&Crafted::ordinary(GIB).extension(0x4441_5441, b"/etc/passwd"), &Refusal::DataFile);
        refused(&Crafted::ordinary(GIB).extension(0xe279_2aca, b"raw"), &Refusal::BackingFile);
        // Also behind one that is harmless, and in version 2.
        let two = Crafted::ordinary(GIB).extension(0x6803_f857, &[0; 48]);
        refused(&two.extension(0x4441_5441, b"x"), &Refusal::DataFile);
        let old = Crafted::ordinary(GIB).version_2().extension(0x4441_5441, b"x");
        refused(&old, &Refusal::DataFile);
    }

    #[test]
    fn what_is_unknown_unclean_or_hidden_is_refused() {
        refused(&Crafted::ordinary(GIB).u32(4, 4), &Refusal::Version(4));
        refused(&Crafted::ordinary(GIB).u32(32, 2), &Refusal::Encrypted);
        refused(&Crafted::ordinary(GIB).extension(0x0537_be77, &[0; 16]), &Refusal::Encrypted);
        refused(&Crafted::ordinary(GIB).extension(0x2385_2875, &[0; 24]), &Refusal::Bitmaps);
        refused(&Crafted::ordinary(GIB).u64(72, 1), &Refusal::Unclean);
        refused(&Crafted::ordinary(GIB).u64(72, 2), &Refusal::Unclean);
        refused(&Crafted::ordinary(GIB).u64(72, 1 << 4), &Refusal::Features(1 << 4));
        refused(&Crafted::ordinary(GIB).u64(72, 1 << 63), &Refusal::Features(1 << 63));
        refused(&Crafted::ordinary(GIB).u64(72, 8), &Refusal::Compression(0));
        let unknown = Crafted::ordinary(GIB).u64(72, 8).u32(100, 112).byte(104, 2);
        refused(&unknown, &Refusal::Compression(2));
        assert_eq!(Header::judge(b"KDMV", 4), Err(Refusal::UnknownFormat));
        assert_eq!(Header::judge(b"", 0), Err(Refusal::UnknownFormat));
        assert_eq!(Header::judge(b"QFI\xfb\0\0\0\x03", 8), Err(Refusal::CutOff("the header")));
    }

    #[test]
    fn absurd_numbers_are_refused() {
        // The crafted headers that make tools busy for seconds.
        let snapshots = Crafted::ordinary(GIB).u32(60, 65_536).u64(64, 0x10000);
        refused(&snapshots, &Refusal::CutOff("the snapshot table"));
        let in_garbage = Crafted::ordinary(GIB).u32(60, 65_536).u64(64, 0x10000).file_bytes(GIB);
        let judged = in_garbage.judge().unwrap();
        assert_eq!(judged.as_image(GIB), Err(Refusal::Snapshots(65_536)));
        let petabyte = Crafted::ordinary(GIB).u64(24, 1 << 50).u32(36, 4 << 20).file_bytes(GIB);
        refused(&petabyte, &Refusal::Impossible("the length of its L1 table"));
        let l1 = "the length of its L1 table";
        refused(&Crafted::ordinary(GIB).u64(24, 1 << 62), &Refusal::Impossible(l1));
        refused(&Crafted::ordinary(GIB).u32(36, 0), &Refusal::Impossible(l1));
        refused(&Crafted::ordinary(GIB).u32(36, u32::MAX), &Refusal::Impossible(l1));
        refused(&Crafted::ordinary(GIB).u64(24, 0), &Refusal::Impossible("the size of its disk"));
        refused(&Crafted::ordinary(GIB).u64(24, 513), &Refusal::Impossible("the size of its disk"));
        for bits in [0, 8, 22, 63, u32::MAX] {
            let why = Refusal::Impossible("the size of its clusters");
            refused(&Crafted::ordinary(GIB).u32(20, bits), &why);
        }
        refused(&Crafted::ordinary(GIB).u64(40, 0), &Refusal::Impossible("the L1 table"));
        refused(&Crafted::ordinary(GIB).u64(40, 1), &Refusal::Impossible("the L1 table"));
        let beyond = !0xffff;
        refused(&Crafted::ordinary(GIB).u64(40, beyond), &Refusal::CutOff("the L1 table"));
        refused(&Crafted::ordinary(GIB).u64(48, beyond), &Refusal::CutOff("the refcount table"));
        let refcounts = Refusal::Impossible("the length of its refcount table");
        refused(&Crafted::ordinary(GIB).u32(56, u32::MAX), &refcounts);
        refused(&Crafted::ordinary(GIB).u32(56, 0), &refcounts);
        let width = Refusal::Impossible("the width of its reference counts");
        refused(&Crafted::ordinary(GIB).u32(96, 7), &width);
        let length = Refusal::Impossible("the length of its header");
        for bytes in [0, 72, 105, !7] {
            refused(&Crafted::ordinary(GIB).u32(100, bytes), &length);
        }
        let extension = Refusal::Impossible("the length of an extension of its header");
        refused(&Crafted::ordinary(GIB).u32(104, 7).u32(108, u32::MAX), &extension);
    }

    #[test]
    fn an_image_is_as_large_as_allowed_and_not_larger() {
        let header = Crafted::ordinary(10 * GIB).judge().unwrap();
        let most = 10 * GIB - 1;
        assert_eq!(header.as_image(most), Err(Refusal::TooLarge { bytes: 10 * GIB, most }));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_names_no_file(
            changes in prop::collection::vec((0usize..256, any::<u8>()), 0..6),
        ) {
            let mut crafted = Crafted::ordinary(GIB);
            for (at, byte) in changes {
                crafted = crafted.byte(at, byte);
            }
            if let Ok(header) = crafted.judge() {
                crafted.assert_harmless(&header);
            }
        }
    }
}
