//! ISO 9660 images with files in one directory: what Linux and cloud-init need of it and no more (ECMA-119).

/// The size of a logical block.
const BLOCK: usize = 2048;
/// The blocks: 16 of the system area, the volume descriptor, its end, two path tables, the directory.
const VOLUME_SPACE: u32 = 16;
const LITTLE_TABLE: u32 = 18;
const BIG_TABLE: u32 = 19;
const DIRECTORY: u32 = 20;
const FIRST_FILE: u32 = 21;

/// An image named `label` with these files. Names are written as they are, lower case and hyphens included: Linux
/// reads names without Rock Ridge in lower case and without their `;1`.
///
/// # Panics
/// When the directory does not fit into one block: more than about 30 files, which nobody writes here.
pub(super) fn image(label: &str, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut records =
        [record(&[0], DIRECTORY, BLOCK, true), record(&[1], DIRECTORY, BLOCK, true)].concat();
    let mut data = Vec::new();
    // A directory is in the order of its names.
    let mut files: Vec<_> = files.iter().collect();
    files.sort_by_key(|file| file.0);
    for (name, content) in files {
        let at = FIRST_FILE + blocks(data.len());
        records.extend(record(format!("{name};1").as_bytes(), at, content.len(), false));
        data.extend_from_slice(content);
        data.resize(data.len().next_multiple_of(BLOCK), 0);
    }
    assert!(records.len() <= BLOCK, "the seed has few files");
    let mut image = vec![0; BLOCK * VOLUME_SPACE as usize];
    for part in
        [volume(label, FIRST_FILE + blocks(data.len())), end(), table(true), table(false), records]
    {
        image.extend(part);
        image.resize(image.len().next_multiple_of(BLOCK), 0);
    }
    image.extend(data);
    image
}

fn blocks(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX)
}

/// A number in both byte orders.
fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

fn both32(number: u32) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&number.to_le_bytes());
    both[4..].copy_from_slice(&number.to_be_bytes());
    both
}

/// A directory record (9.1).
fn record(name: &[u8], at: u32, bytes: usize, directory: bool) -> Vec<u8> {
    // Of even length.
    let length = (33 + name.len()).next_multiple_of(2);
    let mut record = vec![u8::try_from(length).unwrap_or(u8::MAX), 0];
    record.extend(both32(at));
    record.extend(both32(u32::try_from(bytes).unwrap_or(u32::MAX)));
    // 1 January 2025: the time says nothing, and the same content is the same image.
    record.extend([125, 1, 1, 0, 0, 0, 0]);
    record.extend([if directory { 2 } else { 0 }, 0, 0]);
    record.extend(both16(1));
    record.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    record.extend(name);
    record.resize(length, 0);
    record
}

/// The primary volume descriptor (8.4).
fn volume(label: &str, all: u32) -> Vec<u8> {
    let text = |text: &str, length: usize| format!("{text:<length$}").into_bytes();
    let mut volume = b"\x01CD001\x01\x00".to_vec();
    volume.extend(text("LINUX", 32));
    volume.extend(text(label, 32));
    volume.extend([0; 8]);
    volume.extend(both32(all));
    volume.extend([0; 32]);
    volume.extend(both16(1));
    volume.extend(both16(1));
    volume.extend(both16(u16::try_from(BLOCK).unwrap_or(0)));
    volume.extend(both32(10)); // The length of a path table.
    volume.extend(LITTLE_TABLE.to_le_bytes());
    volume.extend([0; 4]);
    volume.extend(BIG_TABLE.to_be_bytes());
    volume.extend([0; 4]);
    volume.extend(record(&[0], DIRECTORY, BLOCK, true));
    volume.extend(text("", 4 * 128 + 3 * 37));
    for _ in 0..4 {
        volume.extend([b'0'; 16]); // No date.
        volume.push(0);
    }
    volume.extend([1, 0]);
    volume
}

/// The end of the descriptors (8.3).
fn end() -> Vec<u8> {
    b"\xffCD001\x01".to_vec()
}

/// The path table (9.4): the root alone.
fn table(little: bool) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(if little { DIRECTORY.to_le_bytes() } else { DIRECTORY.to_be_bytes() });
    table.extend(if little { 1_u16.to_le_bytes() } else { 1_u16.to_be_bytes() });
    table.extend([0, 0]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_are_where_the_standard_has_them() {
        let image =
            image("cidata", &[("user-data", b"two".to_vec()), ("meta-data", vec![7; 3000])]);
        assert_eq!(image.len(), (FIRST_FILE as usize + 3) * BLOCK);
        let block = |number: u32| &image[number as usize * BLOCK..][..BLOCK];
        assert_eq!(&block(16)[..7], b"\x01CD001\x01");
        assert_eq!(&block(16)[40..72], format!("{:<32}", "cidata").as_bytes());
        assert_eq!(block(16)[80..88], both32(24));
        assert_eq!(&block(16)[156..158], &[34, 0]);
        assert_eq!(block(16)[881], 1);
        assert_eq!(&block(17)[..7], b"\xffCD001\x01");
        assert_eq!(&block(21)[..3], &[7, 7, 7]);
        assert_eq!(&block(23)[..4], b"two\0");
        let directory = String::from_utf8_lossy(block(20)).into_owned();
        let (meta, user) = (directory.find("meta-data;1"), directory.find("user-data;1"));
        assert!(meta.is_some() && meta < user);
    }
}
