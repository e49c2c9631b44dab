//! Why something about an image could not be done.

use std::io;
use std::path::{Path, PathBuf};

use super::ContentDigest;
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
