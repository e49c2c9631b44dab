//! The log of a provider that was started with `--background`: a file, kept within bounds.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The file in the data directory.
pub(crate) const NAME: &str = "provider.log";

/// A log that is longer than this many bytes is put aside.
pub(crate) const LONG: u64 = 16 * 1024 * 1024;

/// Where the log is put aside.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    PathBuf::from(old)
}

/// Puts the log aside when this process writes to it and it is too long.
pub(super) fn bound(data_dir: &Path) {
    let path = data_dir.join(NAME);
    let is_ours = match (fs::metadata("/dev/stdout"), fs::metadata(&path)) {
        (Ok(out), Ok(log)) => (out.dev(), out.ino()) == (log.dev(), log.ino()),
        _ => false,
    };
    if is_ours && let Err(error) = put_aside(&path, LONG) {
        tracing::warn!("{} grows: {error}", path.display());
    }
}

/// The file stays the same one, because it is open for appending: its content is moved. What is written in the
/// instant between the copy and the cut is lost.
fn put_aside(path: &Path, longest: u64) -> io::Result<()> {
    if fs::metadata(path)?.len() <= longest {
        return Ok(());
    }
    let copied = fs::copy(path, aside(path));
    // With a full disk there may be no copy, and more than ever a need to make room.
    let cut = OpenOptions::new().write(true).open(path)?.set_len(0);
    copied.map(drop).and(cut)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_long_log_is_put_aside_while_it_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        log.write_all(b"0123456789").unwrap();
        put_aside(&path, 10).unwrap();
        assert!(!aside(&path).exists());
        log.write_all(b"\n").unwrap();
        put_aside(&path, 10).unwrap();
        log.write_all(b"next").unwrap();
        assert_eq!(fs::read(aside(&path)).unwrap(), b"0123456789\n");
        assert_eq!(fs::read(&path).unwrap(), b"next", "no hole at its beginning");
    }
}
