//! What VMs boot from: the images that were built or pulled here, and which of them are rented out.

mod name;
mod register;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use golem_vm_node::store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::backend::{Backend, BackendError, ImageDigest, ProgressSender};
use crate::vm::VmError;

pub use name::{ImageName, ImageNameError, canonical};
pub use register::{ImageRegister, ImageRow};

/// How long a backend may take to say how large an image is, for those who look at a list.
const SIZE_DEADLINE: Duration = Duration::from_secs(3);

/// Why something about an image could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name can't be one.
    #[error(transparent)]
    Name(#[from] ImageNameError),
    /// There is none of that name.
    #[error("there is no image named {0} here: see 'golem-provider image list'")]
    Unknown(String),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Name, digest, source.
    #[serde(flatten)]
    pub row: ImageRow,
    /// Size in bytes; `None` when the backend no longer has it.
    pub size_bytes: Option<u64>,
    /// Whether it can be rented.
    pub offered: bool,
}

/// The images of this provider.
#[derive(Clone)]
pub struct ImageCatalog {
    register: Arc<dyn ImageRegister>,
    backend: Arc<dyn Backend>,
    allowed: Option<BTreeSet<String>>,
    default: String,
    changes: watch::Sender<u64>,
}

impl ImageCatalog {
    /// A catalog over what the register remembers. `allowed` names the images that can be rented; without it,
    /// those that were built here can.
    #[must_use]
    pub fn new(
        register: Arc<dyn ImageRegister>,
        backend: Arc<dyn Backend>,
        allowed: Option<&BTreeSet<String>>,
        default: &str,
    ) -> Self {
        let allowed = allowed.map(|names| names.iter().map(|name| canonical(name)).collect());
        Self {
            register,
            backend,
            allowed,
            default: canonical(default),
            changes: watch::Sender::new(0),
        }
    }

    /// Rises whenever an image comes or goes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The images that can be rented, the default one first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offered(&self) -> Result<Vec<ImageRow>, StoreError> {
        let mut rows = self.register.images().await?;
        rows.retain(|row| self.is_offered(row));
        rows.sort_by_key(|row| (row.name != self.default, row.name.clone()));
        Ok(rows)
    }

    fn is_offered(&self, row: &ImageRow) -> bool {
        row.backend == self.backend.kind()
            && match &self.allowed {
                Some(names) => names.contains(&row.name),
                None => row.built,
            }
    }

    /// The image that a requestor asks for, by name or by one of its other names (`24.04`,
    /// `noble`); without a name, the default, or the only one.
    ///
    /// # Errors
    /// [`VmError::ImageNotOffered`] with what is.
    pub async fn resolve(&self, asked: Option<&str>) -> Result<ImageRow, VmError> {
        let offered = self.offered().await?;
        let wanted = asked.map_or_else(|| self.default.clone(), canonical);
        if let Some(row) = offered.iter().find(|row| row.name == wanted) {
            return Ok(row.clone());
        }
        if asked.is_none()
            && let Some(first) = offered.first()
        {
            return Ok(first.clone());
        }
        let names: Vec<_> = offered.iter().map(|row| row.name.as_str()).collect();
        Err(VmError::ImageNotOffered {
            asked: golem_vm_protocol::text::printable(asked.unwrap_or(&self.default), 128),
            offered: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
        })
    }

    /// All images, with their sizes.
    ///
    /// # Errors
    /// When the database fails. A backend that can't be asked leaves the sizes out.
    pub async fn list(&self) -> Result<Vec<ImageInfo>, StoreError> {
        let of = async |row: ImageRow| {
            let size = timeout(SIZE_DEADLINE, self.backend.images().size(&row.digest)).await;
            let size_bytes = size.ok().and_then(Result::ok).flatten();
            ImageInfo { size_bytes, offered: self.is_offered(&row), row }
        };
        Ok(join_all(self.register.images().await?.into_iter().map(of)).await)
    }

    /// Builds one of the images that this program knows how to build.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageRow, ImageError> {
        let name: ImageName = canonical(name).parse()?;
        let digest = self.backend.images().build(name.as_str(), progress).await?;
        self.put(name, digest, true).await
    }

    /// Fetches an image from a registry. It can be rented once it is named in `GOLEM_PROVIDER_IMAGES`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn pull(
        &self,
        reference: &str,
        name: Option<&str>,
        progress: ProgressSender,
    ) -> Result<ImageRow, ImageError> {
        let name: ImageName = match name {
            Some(name) => canonical(name).parse()?,
            None => ImageName::from_reference(reference)?,
        };
        let digest = self.backend.images().pull(reference, progress).await?;
        self.put(name, digest, false).await
    }

    async fn put(
        &self,
        name: ImageName,
        digest: ImageDigest,
        built: bool,
    ) -> Result<ImageRow, ImageError> {
        let kind = self.backend.kind();
        self.register.put_image(name.as_str().to_owned(), digest, kind, built).await?;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        self.row(name.as_str()).await
    }

    async fn row(&self, name: &str) -> Result<ImageRow, ImageError> {
        let rows = self.register.images().await?;
        rows.into_iter()
            .find(|row| row.name == name)
            .ok_or_else(|| ImageError::Unknown(name.to_owned()))
    }

    /// Removes images that no name leads to and none of these VMs was made from, after a while.
    ///
    /// # Errors
    /// What the database or the backend said.
    pub async fn tidy(&self, of_vms: BTreeSet<ImageDigest>) -> Result<(), ImageError> {
        let mut needed = of_vms;
        needed.extend(self.register.images().await?.into_iter().map(|row| row.digest));
        Ok(self.backend.images().tidy(&needed).await?)
    }

    /// Gives an image up. VMs that were made from it go on.
    ///
    /// # Errors
    /// [`ImageError::Unknown`], or what the backend said.
    pub async fn remove(&self, name: &str) -> Result<(), ImageError> {
        let row = self.row(&canonical(name)).await?;
        self.backend.images().remove(&row.name, &row.digest).await?;
        self.register.forget_image(row.name).await?;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}
