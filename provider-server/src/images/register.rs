//! Where images are written down: what the catalog needs of a store.

use async_trait::async_trait;
use golem_vm_node::store::StoreError;
use golem_vm_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendKind, ImageDigest};

/// An image that was built or pulled here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: ImageDigest,
    /// Whose it is.
    pub backend: BackendKind,
    /// Whether it was built here (and so can be rented without being listed).
    pub built: bool,
    /// When.
    pub created_at: Timestamp,
}

/// Remembers which images were built or pulled here.
#[async_trait]
pub trait ImageRegister: Send + Sync + 'static {
    /// Writes an image down, in the place of an older one of that name of the same backend.
    ///
    /// # Errors
    /// When the database fails.
    async fn put_image(
        &self,
        name: String,
        digest: ImageDigest,
        backend: BackendKind,
        built: bool,
    ) -> Result<(), StoreError>;

    /// All images, by name and backend.
    ///
    /// # Errors
    /// When the database fails.
    async fn images(&self) -> Result<Vec<ImageRow>, StoreError>;

    /// Forgets an image. Returns whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    async fn forget_image(&self, name: String, backend: BackendKind) -> Result<bool, StoreError>;
}
