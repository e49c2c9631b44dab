//! Making disks, growing them, and flattening what came from outside.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::error::DiskError;
use super::header::Header;
use super::program::{Bounds, DiskTool, as_qcow2};
use super::raw::beginning;
use super::{DiskFormat, SECTOR};

/// What is known of a disk file of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFacts {
    /// Bytes of the disk as a guest sees it.
    pub virtual_size: u64,
    /// Bytes that the file takes of the host's disk.
    pub actual_size: u64,
    /// How many snapshots are inside.
    pub snapshots: u32,
}

impl DiskTool {
    /// Looks at a disk of ours without opening it with any tool: it must be a qcow2 file that names no other file.
    ///
    /// # Errors
    /// [`DiskError::Refused`] when somebody has changed its header; that it can't be read.
    pub fn inspect(&self, disk: &Path) -> Result<DiskFacts, DiskError> {
        let (start, file_bytes) = beginning(disk)?;
        let header = Header::judge(&start, file_bytes)
            .map_err(|why| DiskError::Refused { path: disk.to_owned(), why })?;
        Ok(DiskFacts {
            virtual_size: header.virtual_size,
            actual_size: actual_size(disk)?,
            snapshots: header.snapshots,
        })
    }

    /// Makes an empty disk of `bytes` (a multiple of 512) that is to lie on another one. It does not name that one:
    /// whoever opens it says what is under it. Refuses to replace a file.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn create_overlay(&self, disk: &Path, bytes: u64) -> Result<(), DiskError> {
        if disk.try_exists().map_err(DiskError::io("look for", disk))? {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(DiskError::io("make the disk", disk)(exists));
        }
        let create = self.run("make the disk", disk, Bounds::SHORT, |c| {
            c.args(["create", "-q", "-f", "qcow2"]).arg(plain(disk)).arg(bytes.to_string());
        });
        create.await.map(|_| ())
    }

    /// Copies an image of `format` that was judged before into a qcow2 file of our own, at `target`, which is
    /// replaced. Nothing of the source's tables is taken over.
    ///
    /// # Errors
    /// [`DiskError`]; the target may then be half written.
    pub async fn flatten(
        &self,
        source: &Path,
        format: DiskFormat,
        target: &Path,
    ) -> Result<(), DiskError> {
        self.convert(source, format, target, DiskFormat::Qcow2).await
    }

    /// Writes an image's content as it is, with holes where it is zero, to `target`, which is replaced.
    ///
    /// # Errors
    /// [`DiskError`]; the target may then be half written.
    pub async fn to_raw(
        &self,
        source: &Path,
        format: DiskFormat,
        target: &Path,
    ) -> Result<(), DiskError> {
        self.convert(source, format, target, DiskFormat::Raw).await
    }

    async fn convert(
        &self,
        source: &Path,
        format: DiskFormat,
        target: &Path,
        to: DiskFormat,
    ) -> Result<(), DiskError> {
        let convert = self.run("read the image", source, Bounds::LONG, |c| {
            c.args(["convert", "-q", "-O", to.as_str()]);
            match format {
                DiskFormat::Qcow2 => c.arg("--image-opts").arg(as_qcow2(source)),
                DiskFormat::Raw => c.args(["-f", "raw"]).arg(plain(source)),
            };
            c.arg(plain(target));
        });
        convert.await.map(|_| ())
    }

    /// Makes a disk that no machine runs on `bytes` large. Does nothing if it is.
    ///
    /// # Errors
    /// [`DiskError::Smaller`] when it is larger already; any [`DiskError`].
    pub async fn grow(&self, disk: &Path, bytes: u64) -> Result<(), DiskError> {
        let have = self.inspect(disk)?.virtual_size;
        let bytes = bytes.next_multiple_of(SECTOR);
        if bytes < have {
            return Err(DiskError::Smaller { path: disk.to_owned(), have, asked: bytes });
        }
        if bytes == have {
            return Ok(());
        }
        let resize = self.run("grow the disk", disk, Bounds::SHORT, |c| {
            c.args(["resize", "-q", "--image-opts"]).arg(as_qcow2(disk)).arg(bytes.to_string());
        });
        resize.await.map(|_| ())
    }
}

/// Bytes that a file takes of the host's disk.
fn actual_size(path: &Path) -> Result<u64, DiskError> {
    // Blocks are of 512 bytes here, whatever the file system's are.
    path.metadata().map(|found| found.blocks() * 512).map_err(DiskError::io("look at", path))
}

/// A path that is never taken for an option or a protocol (`nbd:…`).
fn plain(path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from("file:");
    text.push(path);
    text
}
