//! Why something about a disk could not be done.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a disk file is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither a qcow2 header nor a boot sector.
    #[error("it is neither a qcow2 image nor a raw disk with a boot sector")]
    UnknownFormat,
    /// The file is shorter than what its header says.
    #[error("it is cut off: {0} lies beyond its end")]
    CutOff(&'static str),
    /// The version of qcow2 is unknown.
    #[error("it is of qcow2 version {0}; 2 and 3 are known")]
    Version(u32),
    /// It wants another file under it.
    #[error("it names a backing file, which could be any file of this machine")]
    BackingFile,
    /// It keeps its content in another file.
    #[error("it names a data file, which could be any file of this machine")]
    DataFile,
    /// It brings snapshots.
    #[error("it has {0} snapshots inside: an image has none")]
    Snapshots(u32),
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// It was not closed, or found to be damaged.
    #[error(
        "it was not closed properly or is damaged: repair it with 'qemu-img check -r all' first"
    )]
    Unclean,
    /// It needs what is not known here.
    #[error(
        "it needs features that are not known here ({0:#x}): convert it with 'qemu-img convert -O qcow2' first"
    )]
    Features(u64),
    /// It brings dirty bitmaps.
    #[error("it has dirty bitmaps inside: convert it with 'qemu-img convert -O qcow2' first")]
    Bitmaps,
    /// Compressed in a way that is not known here.
    #[error("it is compressed in a way that is not known here ({0})")]
    Compression(u8),
    /// A number in the header is impossible.
    #[error("its header is impossible: {0}")]
    Impossible(&'static str),
    /// It is larger than allowed.
    #[error("its disk has {bytes} bytes, more than the {most} that are allowed")]
    TooLarge {
        /// Bytes that the guest would see.
        bytes: u64,
        /// How many are allowed.
        most: u64,
    },
}

/// Why something about a disk could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The operating system said no.
    #[error("can't {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried (`read`, `make`, …).
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not opened.
    #[error("the disk {path} is refused: {why}", path = path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: Refusal,
    },
    /// A program that is needed is not installed.
    #[error("there is no {0} here: install the package {1} (Debian, Ubuntu)")]
    NoProgram(String, &'static str),
    /// `qemu-img` failed.
    #[error("qemu-img can't {what} {path}: {said}", path = path.display())]
    Tool {
        /// What it was to do.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The end of what it said.
        said: String,
    },
    /// `qemu-img` did not end in time.
    #[error("qemu-img did not {what} {path} within {seconds} s", path = path.display(), seconds = after.as_secs())]
    TooSlow {
        /// What it was to do.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// How long it had.
        after: Duration,
    },
    /// A disk never gets smaller: its content would be cut off.
    #[error("the disk {path} has {have} bytes and can't get smaller ({asked} bytes)", path = path.display())]
    Smaller {
        /// Which file.
        path: PathBuf,
        /// Its size in bytes.
        have: u64,
        /// What was asked for.
        asked: u64,
    },
    /// There is no such snapshot.
    #[error("the disk {path} has no snapshot {tag}", path = path.display())]
    NoSnapshot {
        /// Which file.
        path: PathBuf,
        /// Which snapshot.
        tag: SnapshotTag,
    },
    /// A text that can't name a snapshot.
    #[error(
        "'{0}' can't name a snapshot: 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter"
    )]
    BadTag(String),
}

use super::SnapshotTag;

impl DiskError {
    pub(super) fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
