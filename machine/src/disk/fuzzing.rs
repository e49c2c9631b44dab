//! What reads disk files and the tool's answers, tried with any bytes.

use super::{DiskFormat, HEADER_BYTES, Header, snapshots};

const MOST: u64 = 1 << 40;

/// A header that is taken names no other file, and its numbers are bounded.
pub(crate) fn qcow2_header(data: &[u8]) {
    // The first bytes say how long the file is said to be.
    let (length, start) = data.split_at(data.len().min(8));
    let mut file_bytes = [0; 8];
    file_bytes[..length.len()].copy_from_slice(length);
    let file_bytes = u64::from_be_bytes(file_bytes);
    if let Ok(header) = Header::judge(start, file_bytes) {
        assert!(start[8..20].iter().all(|byte| *byte == 0), "a backing file");
        assert!(start[32..36].iter().all(|byte| *byte == 0), "encryption");
        assert!(header.virtual_size > 0 && header.virtual_size.is_multiple_of(512));
        assert!(header.cluster_size.is_power_of_two());
        assert!(header.version == 2 || (header.version == 3 && start[79] & !8 == 0));
        // More bytes than are read change nothing.
        let mut longer = start.to_vec();
        longer.resize(start.len().max(HEADER_BYTES), 0);
        longer.push(0xff);
        assert_eq!(
            Header::judge(&longer, file_bytes),
            Header::judge(&longer[..HEADER_BYTES], file_bytes)
        );
    }
    if let Ok((_, bytes)) = DiskFormat::judge_image(start, file_bytes, MOST) {
        assert!(bytes <= MOST && bytes.is_multiple_of(512));
    }
}

/// What `qemu-img` says of snapshots gives names that harm nothing.
pub(crate) fn disk_snapshots(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for snapshot in snapshots::read_info(&text).unwrap_or_default() {
        let tag = snapshot.tag.as_str();
        assert!(tag.starts_with(|c: char| c.is_ascii_alphabetic()) && tag.len() <= 64);
    }
}
