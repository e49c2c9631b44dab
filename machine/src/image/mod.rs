//! What machines boot from: whole disks with a boot loader in them, built here or brought here, and kept under the
//! hash of their content.
//!
//! | module | what it holds |
//! |---|---|
//! | [`store`] | images on disk, read-only, each under its digest |
//! | [`build`] | images made from a distribution's packages |
//! | [`pull`] | images that others have made, fetched and checked |

pub mod build;
mod digest;
mod error;
pub mod pull;
mod sparse;
pub mod store;

pub use digest::ContentDigest;
pub use error::ImageError;
pub use store::{Image, ImageStore, Source};

/// Where the lines go that tell how far something is. A full channel loses lines and holds nothing up.
pub type Progress = tokio::sync::mpsc::Sender<String>;

/// Says a line, if somebody still listens.
pub(crate) fn say(progress: &Progress, line: impl Into<String>) {
    let _ = progress.try_send(line.into());
}
