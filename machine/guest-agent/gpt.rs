//! A partition table (GPT) on a disk that has become larger: its last partition goes up to the new end.
//!
//! The distribution's tools do the same, and start some forty processes for it, which takes an emulated machine
//! seconds. Whatever is not as simple as here is left to them. Source: UEFI specification 2.10, chapter 5.3.

use crate::crc32::crc32;

/// Bytes of a sector: disks with others are left to the distribution's tools.
pub(crate) const SECTOR: u64 = 512;
/// Bytes at the beginning of a disk that have to be known: the first sector, the header, and 128 entries.
pub(crate) const HEAD: usize = 34 * 512;
/// Sectors of the entries.
const ENTRIES: u64 = 32;
const HEADER_LENGTH: usize = 92;

/// A table that reaches up to the end of its disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grown {
    /// What has to be written, in this order: bytes from the beginning of the disk, and what. Nothing where it is as
    /// large as it can be.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// Where the partition begins, in bytes.
    pub(crate) start: u64,
    /// How long it is now, in bytes.
    pub(crate) length: u64,
}

/// The table in `head` with its partition `number` (from 1 on) up to the end of a disk of that many sectors. `None`
/// where that is not simply so: no sound table, unusual sizes, or something behind the partition.
pub(crate) fn grown(head: &[u8], sectors: u64, number: u32) -> Option<Grown> {
    let mut header = head.get(512..1024)?.to_vec();
    let mut entries = head.get(1024..HEAD)?.to_vec();
    let (own, other) = (long(&header, 24)?, long(&header, 32)?);
    let sound = header.starts_with(b"EFI PART\0\0\x01\0")
        && int(&header, 12)? as usize == HEADER_LENGTH
        && own == 1
        && long(&header, 72)? == 2
        && (int(&header, 80)?, int(&header, 84)?) == (128, 128)
        && int(&header, 88)? == crc32(&entries)
        && int(&header, 16)? == sum(&header)?;
    let last = sectors.checked_sub(1)?;
    if !sound || last < other {
        return None;
    }
    let at = (number.checked_sub(1)? as usize).checked_mul(128)?;
    let (start, end) = (long(&entries, at + 32)?, long(&entries, at + 40)?);
    if start < 34 || end < start || end > long(&header, 48)? {
        return None;
    }
    for entry in entries.chunks_exact(128) {
        if entry.get(..16)?.iter().any(|byte| *byte != 0) && long(entry, 32)? > end {
            return None;
        }
    }
    let usable = last.checked_sub(ENTRIES + 1)?;
    let grown = |end: u64, writes| Grown {
        writes,
        start: start * SECTOR,
        length: (end + 1 - start) * SECTOR,
    };
    if usable <= end {
        return Some(grown(end, Vec::new()));
    }
    put(&mut entries, at + 40, &usable.to_le_bytes())?;
    put(&mut header, 48, &usable.to_le_bytes())?;
    put(&mut header, 88, &crc32(&entries).to_le_bytes())?;
    let copy = placed(&header, last, 1, last - ENTRIES)?;
    let first = placed(&header, 1, last, 2)?;
    // The copy is there before the first one names it.
    let tail = ((last - ENTRIES) * SECTOR, [entries.clone(), copy].concat());
    Some(grown(usable, vec![tail, (SECTOR, [first, entries].concat())]))
}

/// The header for one of the two places of a table.
fn placed(header: &[u8], own: u64, other: u64, entries: u64) -> Option<Vec<u8>> {
    let mut header = header.to_vec();
    put(&mut header, 24, &own.to_le_bytes())?;
    put(&mut header, 32, &other.to_le_bytes())?;
    put(&mut header, 72, &entries.to_le_bytes())?;
    let sum = sum(&header)?;
    put(&mut header, 16, &sum.to_le_bytes())?;
    Some(header)
}

/// The checksum of a header, whose own place counts as zeros.
fn sum(header: &[u8]) -> Option<u32> {
    let mut header = header.get(..HEADER_LENGTH)?.to_vec();
    put(&mut header, 16, &[0; 4])?;
    Some(crc32(&header))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..at.checked_add(value.len())?)?.copy_from_slice(value);
    Some(())
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 4 MiB with a partition 1 in all of it behind a partition 14, as our images have them.
    fn head() -> Vec<u8> {
        let mut entries = vec![0; 128 * 128];
        let mut partition = |number: usize, start: u64, end: u64| {
            let at = (number - 1) * 128;
            entries[at..at + 16].fill(7);
            entries[at + 32..at + 40].copy_from_slice(&start.to_le_bytes());
            entries[at + 40..at + 48].copy_from_slice(&end.to_le_bytes());
        };
        partition(14, 34, 99);
        partition(1, 100, 8192 - 34);
        let mut header = vec![0; 512];
        header[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[40..48].copy_from_slice(&34u64.to_le_bytes());
        header[48..56].copy_from_slice(&(8192u64 - 34).to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        let header = placed(&header, 1, 8191, 2).expect("placed");
        [vec![0; 512], header, entries].concat()
    }

    #[test]
    fn the_last_partition_goes_up_to_the_new_end_in_both_copies() {
        let head = head();
        let same = Grown { writes: Vec::new(), start: 100 * 512, length: (8192 - 133) * 512 };
        assert_eq!(grown(&head, 8192, 1), Some(same));
        let larger = grown(&head, 10_000, 1).expect("grown");
        assert_eq!((larger.start, larger.length), (100 * 512, (10_000 - 133) * 512));
        let [(tail_at, tail), (first_at, first)] = &larger.writes[..] else { panic!("two writes") };
        assert_eq!((*tail_at, *first_at), ((10_000 - 33) * 512, 512));
        // What was written is a sound table, which has nothing to grow any more.
        let again = [&head[..512], first].concat();
        let same = Grown { writes: Vec::new(), ..larger };
        assert_eq!(grown(&again, 10_000, 1), Some(same));
        assert_eq!(tail[..32 * 512], again[1024..]);
        let copy = &tail[32 * 512..];
        assert_eq!(
            (long(copy, 24), long(copy, 32), long(copy, 72)),
            (Some(9999), Some(1), Some(9967))
        );
        assert_eq!(int(copy, 16), sum(copy));
    }

    #[test]
    fn what_is_not_simple_is_left_alone() {
        let head = head();
        assert_eq!(grown(&head, 10_000, 14), None, "another one is behind it");
        assert_eq!(grown(&head, 10_000, 2), None, "there is none");
        assert_eq!(grown(&head, 10_000, 0), None);
        assert_eq!(grown(&head, 10_000, u32::MAX), None);
        assert_eq!(grown(&head, 8000, 1), None, "the disk is smaller");
        assert_eq!(grown(&head, 0, 1), None);
        assert_eq!(grown(&head[..HEAD - 1], 10_000, 1), None);
        for at in [512, 512 + 24, 512 + 40, 512 + 88, 1024 + 32, HEAD - 1] {
            let mut spoilt = head.clone();
            spoilt[at] ^= 1;
            assert_eq!(grown(&spoilt, 10_000, 1), None, "byte {at}");
        }
    }
}
