//! Why something about an image could not be done.

use std::io;
use std::path::{Path, PathBuf};

use super::ContentDigest;
use super::pull::Checksum;
use crate::disk::DiskError;

/// Why something about an image could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system said no.
    #[error("can't {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something about its disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no recipe of that name.
    #[error("there is no recipe for the image '{0}'; there is one for: {1}")]
    NoRecipe(String, String),
    /// A program that is needed is not installed.
    #[error("there is no {program} here: install the package {package} (Debian, Ubuntu)")]
    NoProgram {
        /// Which program.
        program: String,
        /// In which package it is.
        package: &'static str,
    },
    /// A step of making it failed.
    #[error("{step} failed ({how}): {said}")]
    Step {
        /// Which step.
        step: &'static str,
        /// Its status.
        how: String,
        /// The end of what it said.
        said: String,
    },
    /// There is no room for it.
    #[error("{path} has {free} MiB left, and this takes about {needed} MiB: make room there", path = path.display())]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// MiB that are free.
        free: u64,
        /// MiB that are needed.
        needed: u64,
    },
    /// Something that was made is not as it has to be.
    #[error("what was made is not as it should be: {0}")]
    Unexpected(String),
    /// It is neither a name that is known nor an address.
    #[error("'{0}' is neither an address (https://…) nor one of: {1}")]
    NoSource(String, String),
    /// Nobody has said what the file should be.
    #[error(
        "nothing says what is at {0}: give its checksum (--sha256 or --sha512), from a source that you trust"
    )]
    Unpinned(String),
    /// The list of checksums has no signature.
    #[error(
        "the list {list} is not signed{said}: give the file's checksum (--sha256 or --sha512), from a source that you \
         trust, or build the image instead ('golem-provider image build')"
    )]
    Unsigned {
        /// Which list.
        list: String,
        /// What it says.
        said: String,
    },
    /// The list of checksums is signed by somebody else, or changed.
    #[error("the signature of {list} is not good, so nothing is fetched: {said}")]
    BadSignature {
        /// Which list.
        list: String,
        /// What gpgv said.
        said: String,
    },
    /// The list does not name the file.
    #[error("the list {list} has no checksum for {file}")]
    NotListed {
        /// Which list.
        list: String,
        /// Which file.
        file: String,
    },
    /// A server does not give what it should.
    #[error("can't fetch {url}: {said}")]
    Server {
        /// From where.
        url: String,
        /// What is wrong.
        said: String,
    },
    /// What came is not what was wanted.
    #[error("what {url} gives is not the file with {expected}: nothing of it was kept")]
    WrongContent {
        /// From where.
        url: String,
        /// What it should be.
        expected: Checksum,
    },
    /// It is being fetched already.
    #[error("this is being fetched already")]
    Busy,
    /// There is no such image.
    #[error("the image {0} is not here")]
    Missing(ContentDigest),
    /// An image has changed since it was made.
    #[error(
        "the image {expected} has changed: its content is now {found}; remove it and make it anew"
    )]
    Changed {
        /// What it was.
        expected: ContentDigest,
        /// What it is.
        found: ContentDigest,
    },
}

impl ImageError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
