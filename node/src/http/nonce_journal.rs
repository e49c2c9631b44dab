//! What survives a restart of the memory of requests: those whose signer's clock is ahead of ours.
//!
//! Everything that was signed before a server's start is refused, so a new process need not know what
//! the one before it has served. Except for this: by a clock that is ahead, a request is signed in what
//! is still our future, and would pass for new after a restart. Such a request is written down before
//! it is served. Most clocks are right, so most servers never write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use golem_vm_protocol::KeyId;
use golem_vm_protocol::signature::{Nonce, WINDOW_SECONDS};

use crate::data_dir;

/// `created` (8, big-endian), key (32), nonce (16).
const RECORD: usize = 56;

/// One request that was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) key: KeyId,
    pub(super) nonce: Nonce,
    pub(super) created: u64,
}

impl Served {
    const fn is_over(&self, now: u64) -> bool {
        self.created.saturating_add(WINDOW_SECONDS) < now
    }

    fn to_bytes(self) -> Vec<u8> {
        [&self.created.to_be_bytes()[..], self.key.as_bytes(), self.nonce.as_bytes()].concat()
    }

    /// `None` for what this program has not written.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (created, rest) = bytes.split_first_chunk::<8>()?;
        let (key, nonce) = rest.split_first_chunk::<32>()?;
        Some(Self {
            key: KeyId::from_bytes(*key).ok()?,
            nonce: Nonce::from_bytes(nonce.try_into().ok()?),
            created: u64::from_be_bytes(*created),
        })
    }
}

/// A file of records, and the one before it. Written without waiting for the disk: what a power
/// failure can lose is older than a machine takes to come up, as long as that is a minute.
#[derive(Debug)]
pub(super) struct NonceJournal {
    path: PathBuf,
    file: File,
    began: u64,
}

impl NonceJournal {
    /// Opens it, and gives what is in it and not over at `now`.
    pub(super) fn open(path: &Path, now: u64) -> io::Result<(Self, Vec<Served>)> {
        let mut left = Vec::new();
        for part in [older(path), path.to_owned()] {
            match fs::read(&part) {
                // A record that was cut off was not served either.
                Ok(bytes) => left.extend(
                    bytes
                        .chunks_exact(RECORD)
                        .filter_map(Served::from_bytes)
                        .filter(|served| !served.is_over(now)),
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let fresh = path.with_extension("new");
        let mut file = empty(&fresh)?;
        for served in &left {
            file.write_all(&served.to_bytes())?;
        }
        fs::rename(&fresh, path)?;
        match fs::remove_file(older(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok((Self { path: path.to_owned(), file, began: now }, left)),
        }
    }

    /// Writes down a request that is about to be served.
    pub(super) fn append(&mut self, served: Served, now: u64) -> io::Result<()> {
        // What is in the file before that one is over by then: nothing is signed further ahead.
        if now > self.began.saturating_add(2 * WINDOW_SECONDS) {
            fs::rename(&self.path, older(&self.path))?;
            self.file = empty(&self.path)?;
            self.began = now;
        }
        self.file.write_all(&served.to_bytes())
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// A new, empty file that nobody else can read.
fn empty(path: &Path) -> io::Result<File> {
    data_dir::private(OpenOptions::new().write(true).create(true).truncate(true)).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    fn served(number: u8, created: u64) -> Served {
        let key = KeyPair::from_secret_bytes([number; 32]).unwrap().id();
        Served { key, nonce: Nonce::from_bytes([number; 16]), created }
    }

    #[test]
    fn what_is_not_over_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("served");
        let (mut journal, before) = NonceJournal::open(&path, 1000).unwrap();
        assert_eq!(before, []);
        journal.append(served(1, 1010), 1000).unwrap();
        journal.append(served(2, 1060), 1000).unwrap();
        // The next file, and a record that was cut off.
        journal.append(served(3, 1180), 1121).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[1; 20]).unwrap();
        drop(journal);
        let (journal, left) = NonceJournal::open(&path, 1071).unwrap();
        assert_eq!(left, [served(2, 1060), served(3, 1180)]);
        drop(journal);
        let (_, left) = NonceJournal::open(&path, 1121).unwrap();
        assert_eq!(left, [served(3, 1180)]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("served");
        let (mut journal, _) = NonceJournal::open(&path, 0).unwrap();
        for now in 0..10_000 {
            journal.append(served(1, now + 1), now).unwrap();
        }
        let bytes: u64 = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 250 * RECORD as u64, "{bytes}");
    }
}
