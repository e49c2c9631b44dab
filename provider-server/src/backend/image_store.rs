//! What instances boot from.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::BackendError;

/// An image as the backend knows it, for ever the same content (`sha256:…`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageDigest(String);

impl ImageDigest {
    /// From the backend's own text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The backend's own text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the lines of a long-running build or pull go.
pub type ProgressSender = tokio::sync::mpsc::Sender<String>;

/// An image that is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedImage {
    /// What the backend understands: `registry/name:tag`, `…@sha256:…`, `debian-12`, `https://…`.
    pub reference: String,
    /// What it will be called here.
    pub name: String,
    /// The checksum that the owner gave for it, in hexadecimal digits: 64 of SHA-256, 128 of SHA-512.
    pub checksum: Option<String>,
}

impl WantedImage {
    /// What a reference leads to, without more being said.
    #[must_use]
    pub fn of(reference: &str) -> Self {
        Self { reference: reference.to_owned(), name: String::new(), checksum: None }
    }
}

/// What a backend knows of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDetails {
    /// Bytes that it takes of the host's disk.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Where it comes from, where more is known than whether it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// From power-on to an answering SSH server in milliseconds, as last measured on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_millis: Option<u64>,
    /// The sizes for which a booted machine is kept to be resumed; none where the backend keeps no such machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<ImageTemplate>>,
}

/// A booted machine that new ones of its size are resumed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTemplate {
    /// Its virtual processors.
    pub vcpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Bytes that it takes of the host's disk.
    pub size_bytes: u64,
    /// How long its boot took here, in milliseconds.
    pub boot_millis: u64,
}

/// Keeps what instances boot from.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Builds the image `name` (`debian-12`, `ubuntu-24.04`) and returns its digest. Called again
    /// with nothing changed, it finds what is there.
    async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError>;

    /// Fetches an image and returns its digest. Called again after it failed, it goes on where it ended, where
    /// the backend can.
    async fn pull(
        &self,
        wanted: &WantedImage,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError>;

    /// Takes a disk file of the owner's as an image and returns its digest.
    async fn import(
        &self,
        file: &Path,
        _name: &str,
        _progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        Err(BackendError::Failed(format!(
            "this backend takes no disk files ({}): only qemu does; see 'golem-provider image pull'",
            golem_vm_protocol::text::printable(&file.to_string_lossy(), 200)
        )))
    }

    /// Reads an image again, and fails when it is not what it was.
    async fn verify(&self, digest: &ImageDigest) -> Result<(), BackendError> {
        Err(BackendError::Failed(format!(
            "this backend can't read the image {digest} again: its engine keeps it"
        )))
    }

    /// Size in bytes of the image, or `None` when it is not there.
    async fn size(&self, digest: &ImageDigest) -> Result<Option<u64>, BackendError>;

    /// What is known of the image, or `None` when it is not there.
    async fn details(&self, digest: &ImageDigest) -> Result<Option<ImageDetails>, BackendError> {
        let size = self.size(digest).await?;
        Ok(size.map(|bytes| ImageDetails { size_bytes: Some(bytes), ..ImageDetails::default() }))
    }

    /// Gives the image up for this provider; another provider's on the same engine is not touched.
    /// Does nothing if it is gone.
    async fn remove(&self, name: &str, digest: &ImageDigest) -> Result<(), BackendError>;

    /// Removes what builds and pulls of this provider have left that is not `needed` by a name or a VM and has
    /// not been for a while. Called every now and then, and soon after the start.
    async fn tidy(&self, _needed: &BTreeSet<ImageDigest>) -> Result<(), BackendError> {
        Ok(())
    }
}
