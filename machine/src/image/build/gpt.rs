//! A partition table for a disk that boots by BIOS: GPT, with GRUB in a partition of its own.
//!
//! Sources: UEFI specification 2.10, chapter 5; GRUB's `grub-core/boot/i386/pc/boot.S` and `diskboot.S` for the places
//! that `grub-install` would fill in.

use super::identity::Uuid;
use crate::agent::crc32::crc32;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;
/// Where GRUB's partition begins, in sectors, and how many it has (4 MiB).
const BIOS_FIRST: u64 = 2048;
const BIOS_SECTORS: u64 = 8192;
/// Where the root file system begins, in sectors. It is the last partition, so that it can grow.
pub(super) const ROOT_FIRST: u64 = BIOS_FIRST + BIOS_SECTORS;
/// Sectors of the entries: 128 of 128 bytes.
const ENTRY_SECTORS: u64 = 32;
/// Sectors that the second copy of the table takes at the end: entries and header.
const TAIL: u64 = ENTRY_SECTORS + 1;
/// The numbers of the partitions, as official cloud images have them.
const ROOT_NUMBER: usize = 1;
const BIOS_NUMBER: usize = 14;

/// `21686148-6449-6E6F-744E-656564454649`: "BIOS boot".
const TYPE_BIOS: [u8; 16] = *b"Hah!IdontNeedEFI";
/// `4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709`: "root, x86-64" of the Discoverable Partitions Specification.
const TYPE_ROOT: [u8; 16] = [
    0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09,
];

/// What the parts of a disk are called.
pub(super) struct Names {
    pub(super) disk: Uuid,
    pub(super) bios: Uuid,
    pub(super) root: Uuid,
}

/// Why GRUB's files can't be put on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GrubError {
    #[error("boot.img has {0} bytes and not 512")]
    BootLength(usize),
    #[error(
        "core.img has {0} bytes, and there is room for 4 MiB and needs to be a sector at least"
    )]
    CoreLength(usize),
}

/// Bytes of the root file system on a disk of that many bytes: whole blocks of 4 KiB.
pub(super) const fn root_bytes(disk_bytes: u64) -> u64 {
    (disk_bytes / SECTOR - TAIL - ROOT_FIRST) * SECTOR / 4096 * 4096
}

/// Pieces of a disk and where they go, in bytes from its beginning: everything but the root file system.
pub(super) fn pieces(
    disk_bytes: u64,
    names: &Names,
    boot: &[u8],
    core: &[u8],
) -> Result<Vec<(u64, Vec<u8>)>, GrubError> {
    let last = disk_bytes / SECTOR - 1;
    let entries = entries(last, names);
    let head = header(1, last, 2, &entries, names);
    let tail_entries = last - ENTRY_SECTORS;
    let tail = header(last, 1, tail_entries, &entries, names);
    Ok(vec![
        (0, boot_sector(boot, last)?),
        (SECTOR, head),
        (2 * SECTOR, entries.clone()),
        (BIOS_FIRST * SECTOR, located(core)?),
        (tail_entries * SECTOR, entries),
        (last * SECTOR, tail),
    ])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// GRUB's first 440 bytes, which load the sector at `BIOS_FIRST`, and a table that keeps tools that know no GPT off.
fn boot_sector(boot: &[u8], last: u64) -> Result<Vec<u8>, GrubError> {
    if boot.len() != 512 {
        return Err(GrubError::BootLength(boot.len()));
    }
    let mut sector = vec![0; 512];
    sector[..440].copy_from_slice(&boot[..440]);
    put(&mut sector, 0x5c, &BIOS_FIRST.to_le_bytes());
    // Where boot.S would jump when it was told a drive by a broken BIOS: the drive number is always checked.
    put(&mut sector, 0x66, &[0x90, 0x90]);
    let sectors = u32::try_from(last).unwrap_or(u32::MAX);
    put(&mut sector, 446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    put(&mut sector, 454, &1u32.to_le_bytes());
    put(&mut sector, 458, &sectors.to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xaa]);
    Ok(sector)
}

/// GRUB's core, told where its own second sector and those behind it are.
fn located(core: &[u8]) -> Result<Vec<u8>, GrubError> {
    let sectors = core.len().div_ceil(512);
    if sectors < 2 || sectors as u64 > BIOS_SECTORS {
        return Err(GrubError::CoreLength(core.len()));
    }
    let mut core = core.to_vec();
    core.resize(sectors * 512, 0);
    // The last block list of the first sector: start, number of sectors, segment to load to.
    let rest = u16::try_from(sectors - 1).map_err(|_| GrubError::CoreLength(core.len()))?;
    put(&mut core, 0x1f4, &(BIOS_FIRST + 1).to_le_bytes());
    put(&mut core, 0x1fc, &rest.to_le_bytes());
    put(&mut core, 0x1fe, &0x820u16.to_le_bytes());
    Ok(core)
}

fn entries(last: u64, names: &Names) -> Vec<u8> {
    let mut entries = vec![0; (ENTRY_SECTORS * SECTOR) as usize];
    let mut entry = |number: usize, kind: [u8; 16], id: &Uuid, first: u64, end: u64| {
        let at = (number - 1) * 128;
        put(&mut entries, at, &kind);
        put(&mut entries, at + 16, &id.mixed_endian());
        put(&mut entries, at + 32, &first.to_le_bytes());
        put(&mut entries, at + 40, &end.to_le_bytes());
    };
    entry(ROOT_NUMBER, TYPE_ROOT, &names.root, ROOT_FIRST, last - TAIL);
    entry(BIOS_NUMBER, TYPE_BIOS, &names.bios, BIOS_FIRST, BIOS_FIRST + BIOS_SECTORS - 1);
    entries
}

fn header(own: u64, other: u64, entries_at: u64, entries: &[u8], names: &Names) -> Vec<u8> {
    let last = own.max(other);
    let mut sector = vec![0; 512];
    put(&mut sector, 0, b"EFI PART\0\0\x01\0");
    put(&mut sector, 12, &92u32.to_le_bytes());
    put(&mut sector, 24, &own.to_le_bytes());
    put(&mut sector, 32, &other.to_le_bytes());
    put(&mut sector, 40, &(2 + ENTRY_SECTORS).to_le_bytes());
    put(&mut sector, 48, &(last - TAIL).to_le_bytes());
    put(&mut sector, 56, &names.disk.mixed_endian());
    put(&mut sector, 72, &entries_at.to_le_bytes());
    put(&mut sector, 80, &128u32.to_le_bytes());
    put(&mut sector, 84, &128u32.to_le_bytes());
    put(&mut sector, 88, &crc32(entries).to_le_bytes());
    let sum = crc32(&sector[..92]);
    put(&mut sector, 16, &sum.to_le_bytes());
    sector
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DISK: u64 = 64 << 20;

    fn names() -> Names {
        Names { disk: Uuid::of("disk"), bios: Uuid::of("bios"), root: Uuid::of("root") }
    }

    #[test]
    fn both_copies_of_the_table_are_sound() {
        let pieces = pieces(DISK, &names(), &[1; 512], &[2; 1000]).unwrap();
        let at = |place: u64| pieces.iter().find(|(at, _)| *at == place).unwrap().1.clone();
        let last = DISK / 512 - 1;
        for (own, other, entries_at) in [(1, last, 2), (last, 1, last - 32)] {
            let header = at(own * 512);
            let number =
                |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().unwrap());
            assert_eq!((number(24), number(32), number(72)), (own, other, entries_at));
            let mut cleared = header.clone();
            cleared[16..20].fill(0);
            assert_eq!(header[16..20], crc32(&cleared[..92]).to_le_bytes());
            assert_eq!(header[88..92], crc32(&at(entries_at * 512)).to_le_bytes());
        }
        let entries = at(1024);
        assert_eq!(entries[13 * 128..][..16], TYPE_BIOS);
        let end = u64::from_le_bytes(entries[40..48].try_into().unwrap());
        let room = (end + 1 - ROOT_FIRST) * 512;
        assert!((root_bytes(DISK)..root_bytes(DISK) + 4096).contains(&room), "{room}");
        assert!(end < last - 32);
    }

    #[test]
    fn grub_finds_itself() {
        let pieces = pieces(DISK, &names(), &[1; 512], &[2; 1000]).unwrap();
        let (boot, core) = (&pieces[0].1, &pieces[3].1);
        assert_eq!(boot[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(boot[510..], [0x55, 0xaa]);
        assert_eq!(core.len(), 1024);
        assert_eq!(core[0x1f4..0x1fc], 2049u64.to_le_bytes());
        assert_eq!(core[0x1fc..0x200], [1, 0, 0x20, 0x08]);
    }

    #[test]
    fn what_is_not_grub_is_refused() {
        let short = super::pieces(DISK, &names(), &[1; 511], &[2; 1000]);
        assert_eq!(short.unwrap_err(), GrubError::BootLength(511));
        let large = super::pieces(DISK, &names(), &[1; 512], &vec![2; (4 << 20) + 1]);
        assert!(matches!(large, Err(GrubError::CoreLength(_))));
        assert!(super::pieces(DISK, &names(), &[1; 512], &[2; 512]).is_err());
    }
}
