//! Whether the write-ahead log beside a database (`…-wal`) is whole.
//!
//! SQLite reads the log up to the first frame whose checksum is wrong and takes what follows for the rest
//! of a write that was cut off. Where bytes in the middle were overwritten, it so forgets commits that were
//! acknowledged, and says nothing. One commit at the end may be lost by a power cut: it was never
//! acknowledged. More than one behind a bad frame means damage.
//!
//! A log that was cut short can't be told from one that was not written further.
//! The format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::path::{Path, PathBuf};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The header begins with this; the lowest bit says that checksums are over big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// The log of the database at `path`.
pub(super) fn path_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// What is wrong with a log, if anything is. Nobody may be writing to it.
pub(super) fn damage(bytes: &[u8]) -> Option<String> {
    // One that holds a part of its header was never used.
    let (header, frames) = bytes.split_at_checked(HEADER).filter(|(_, rest)| !rest.is_empty())?;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes)
    };
    let (magic, page) = (word(header, 0)?, word(header, 8)?);
    let big_endian = magic & 1 == 1;
    let start = checksum((0, 0), &header[..24], big_endian);
    let page = usize::try_from(page).unwrap_or(0);
    if magic & !1 != MAGIC
        || (word(header, 24)?, word(header, 28)?) != start
        || !page.is_power_of_two()
        || !(512..=65536).contains(&page)
    {
        return Some("the beginning of its log is not what was written".to_owned());
    }
    // Frames of an earlier round have other salts: everything before it is in the database.
    let salts = header.get(16..24)?;
    let mut whole = true;
    let mut before = start;
    let mut lost = 0;
    let mut first_bad = 0;
    for (number, frame) in frames.chunks_exact(FRAME_HEADER + page).enumerate() {
        let (head, data) = frame.split_at(FRAME_HEADER);
        let stated = (word(head, 16)?, word(head, 20)?);
        let is_commit = word(head, 4)? != 0;
        let ours = head.get(8..16)? == salts;
        let sum = checksum(checksum(before, &head[..8], big_endian), data, big_endian);
        let follows = ours && sum == stated;
        if whole && !follows {
            whole = false;
            first_bad = number + 1;
        } else if !whole && follows && is_commit {
            lost += 1;
        }
        before = stated;
    }
    (lost > 1).then(|| {
        format!(
            "frame {first_bad} of its log is not what was written, and {lost} commits follow it"
        )
    })
}

/// SQLite's checksum of whole pairs of words, carried on from `sums`.
fn checksum(sums: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let read = |word: &[u8]| {
        let word = word.try_into().unwrap_or_default();
        if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    bytes.chunks_exact(8).fold(sums, |(first, second), pair| {
        let first = first.wrapping_add(read(&pair[..4])).wrapping_add(second);
        (first, second.wrapping_add(read(&pair[4..])).wrapping_add(first))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rusqlite::Connection;

    use super::*;

    /// A log of `commits` commits of one page each, beside the first ones.
    fn log(commits: i64) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        for x in 0..commits {
            connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        }
        std::fs::read(path_of(&path)).unwrap()
    }

    #[test]
    fn a_log_as_sqlite_leaves_it_is_whole() {
        assert_eq!(damage(&[]), None);
        for commits in [0, 1, 2, 20] {
            let log = log(commits);
            assert!(log.len() > HEADER);
            assert_eq!(damage(&log), None, "{commits} commits");
            // Cut off anywhere: that is what a crash leaves.
            for length in [1, HEADER, HEADER + 1, log.len() / 2, log.len() - 1] {
                assert_eq!(damage(&log[..length]), None, "{commits} commits, {length} bytes");
            }
        }
    }

    #[test]
    fn frames_of_an_earlier_round_are_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        for x in 0..50 {
            connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        }
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        connection.execute("INSERT INTO t VALUES (99)", []).unwrap();
        assert_eq!(damage(&std::fs::read(path_of(&path)).unwrap()), None);
    }

    #[test]
    fn bytes_that_were_overwritten_in_the_middle_are_damage() {
        let whole = log(20);
        for at in [0, 5, 20, HEADER + 2, HEADER + 9, HEADER + 100, whole.len() / 2] {
            let mut log = whole.clone();
            log[at] ^= 0x55;
            assert!(damage(&log).is_some(), "byte {at}");
        }
        // What a power cut may leave: the last commit was not all there.
        let mut log = whole.clone();
        let last = log.len() - 100;
        log[last] ^= 0x55;
        assert_eq!(damage(&log), None);
    }

    #[test]
    fn no_log_makes_it_fail() {
        let mut log = log(3);
        for at in 0..HEADER {
            for value in [0, 1, 0x7f, 0xff] {
                let before = std::mem::replace(&mut log[at], value);
                damage(&log);
                log[at] = before;
            }
        }
        damage(&vec![0; 10_000]);
    }
}
