//! What VMs boot from: the images that were built or pulled here, and which of them are rented out.

mod name;
mod register;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use golem_vm_node::store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::backend::{
    BackendError, BackendKind, Backends, ImageDetails, ImageDigest, Present, ProgressSender,
    WantedImage,
};

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
    /// Several backends have one of that name.
    #[error("the image {name} is there for {}: say which one is meant with --backend", words(.backends))]
    Several {
        /// The name.
        name: String,
        /// Which.
        backends: Vec<BackendKind>,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn words(backends: &[BackendKind]) -> String {
    backends.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" and ")
}

/// An image as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Name, digest, source.
    #[serde(flatten)]
    pub row: ImageRow,
    /// What its backend knows; nothing when it no longer has it.
    #[serde(flatten)]
    pub details: ImageDetails,
    /// Whether it can be rented.
    pub offered: bool,
}

/// The images of this provider.
#[derive(Clone)]
pub struct ImageCatalog {
    register: Arc<dyn ImageRegister>,
    backends: Backends,
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
        backends: Backends,
        allowed: Option<&BTreeSet<String>>,
        default: &str,
    ) -> Self {
        let allowed = allowed.map(|names| names.iter().map(|name| canonical(name)).collect());
        Self {
            register,
            backends,
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

    /// What a VM boots from when nothing is asked for.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// The images that can be rented: those of the provider's first backend first, and of each the default one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offered(&self) -> Result<Vec<ImageRow>, StoreError> {
        let mut rows = self.register.images().await?;
        let order: Vec<BackendKind> = self.backends.there().iter().map(Present::kind).collect();
        rows.retain(|row| self.is_offered(row, &order));
        let place = |row: &ImageRow| order.iter().position(|kind| *kind == row.backend);
        rows.sort_by_key(|row| (place(row), row.name != self.default, row.name.clone()));
        Ok(rows)
    }

    fn is_offered(&self, row: &ImageRow, there: &[BackendKind]) -> bool {
        there.contains(&row.backend)
            && match &self.allowed {
                Some(names) => names.contains(&row.name),
                None => row.built,
            }
    }

    /// All images, with their sizes.
    ///
    /// # Errors
    /// When the database fails. A backend that can't be asked leaves the sizes out.
    pub async fn list(&self) -> Result<Vec<ImageInfo>, StoreError> {
        let there = self.backends.there();
        let order: Vec<BackendKind> = there.iter().map(Present::kind).collect();
        let of = async |row: ImageRow| {
            let details = async {
                let present = there.iter().find(|present| present.kind() == row.backend)?;
                let details = present.backend.images().details(&row.digest);
                timeout(SIZE_DEADLINE, details).await.ok()?.ok()?
            };
            let details = details.await.unwrap_or_default();
            ImageInfo { details, offered: self.is_offered(&row, &order), row }
        };
        Ok(join_all(self.register.images().await?.into_iter().map(of)).await)
    }

    /// The backend that is meant: the provider's first one where none is named.
    fn meant(&self, named: Option<BackendKind>) -> Result<Present, BackendError> {
        let first = self.backends.now().first().map(|member| member.kind);
        match named.or(first) {
            Some(kind) => self.backends.of(kind),
            None => Err(BackendError::Unavailable("this provider has no backend".to_owned())),
        }
    }

    /// Builds one of the images that this program knows how to build, for one backend.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn build(
        &self,
        name: &str,
        backend: Option<BackendKind>,
        progress: ProgressSender,
    ) -> Result<ImageRow, ImageError> {
        let name: ImageName = canonical(name).parse()?;
        let backend = self.meant(backend)?.backend;
        let digest = backend.images().build(name.as_str(), progress).await?;
        self.put(name, digest, backend.kind(), true).await
    }

    /// Fetches an image for one backend, with the checksum that the owner demands. It can be rented once it is named
    /// in `GOLEM_PROVIDER_IMAGES`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn pull(
        &self,
        reference: &str,
        checksum: Option<String>,
        name: Option<&str>,
        backend: Option<BackendKind>,
        progress: ProgressSender,
    ) -> Result<ImageRow, ImageError> {
        let name: ImageName = match name {
            Some(name) => canonical(name).parse()?,
            None => ImageName::from_reference(reference)?,
        };
        let backend = self.meant(backend)?.backend;
        let reference = reference.to_owned();
        let wanted = WantedImage { reference, name: name.to_string(), checksum };
        let digest = backend.images().pull(&wanted, progress).await?;
        self.put(name, digest, backend.kind(), false).await
    }

    /// Takes a disk file of the owner's for one backend. It can be rented as what was fetched.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn import(
        &self,
        file: &Path,
        name: Option<&str>,
        backend: Option<BackendKind>,
        progress: ProgressSender,
    ) -> Result<ImageRow, ImageError> {
        let name: ImageName = match name {
            Some(name) => canonical(name).parse()?,
            None => ImageName::from_reference(&file.to_string_lossy())?,
        };
        let backend = self.meant(backend)?.backend;
        let digest = backend.images().import(file, name.as_str(), progress).await?;
        self.put(name, digest, backend.kind(), false).await
    }

    /// Reads an image again from its first byte to its last.
    ///
    /// # Errors
    /// [`ImageError::Unknown`], [`ImageError::Several`], or that it is not what it was.
    pub async fn verify(
        &self,
        name: &str,
        backend: Option<BackendKind>,
    ) -> Result<ImageRow, ImageError> {
        let row = self.row(&canonical(name), backend).await?;
        let images = self.backends.of(row.backend)?.backend;
        images.images().verify(&row.digest).await?;
        Ok(row)
    }

    async fn put(
        &self,
        name: ImageName,
        digest: ImageDigest,
        backend: BackendKind,
        built: bool,
    ) -> Result<ImageRow, ImageError> {
        self.register.put_image(name.as_str().to_owned(), digest, backend, built).await?;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        self.row(name.as_str(), Some(backend)).await
    }

    /// The image of that name, of that backend or of the only one that has it.
    async fn row(&self, name: &str, backend: Option<BackendKind>) -> Result<ImageRow, ImageError> {
        let mut rows = self.register.images().await?;
        rows.retain(|row| row.name == name && backend.is_none_or(|kind| row.backend == kind));
        if rows.len() > 1 {
            let backends = rows.into_iter().map(|row| row.backend).collect();
            return Err(ImageError::Several { name: name.to_owned(), backends });
        }
        rows.pop().ok_or_else(|| ImageError::Unknown(name.to_owned()))
    }

    /// Removes images that no name leads to and none of these VMs was made from, after a while. Every backend is
    /// tidied by itself: one that hangs keeps no other waiting.
    ///
    /// # Errors
    /// What the database said, or the first backend that failed, when all are done.
    pub async fn tidy(
        &self,
        of_vms: BTreeMap<BackendKind, BTreeSet<ImageDigest>>,
    ) -> Result<(), ImageError> {
        let mut needed = of_vms;
        for row in self.register.images().await? {
            needed.entry(row.backend).or_default().insert(row.digest);
        }
        let tidied = self.backends.there().into_iter().map(|present| {
            let needed = needed.remove(&present.kind()).unwrap_or_default();
            async move { present.backend.images().tidy(&needed).await }
        });
        let tidied = join_all(tidied.collect::<Vec<_>>()).await;
        Ok(tidied.into_iter().collect::<Result<(), _>>()?)
    }

    /// Gives an image up. VMs that were made from it go on.
    ///
    /// # Errors
    /// [`ImageError::Unknown`], [`ImageError::Several`], or what the backend said.
    pub async fn remove(&self, name: &str, backend: Option<BackendKind>) -> Result<(), ImageError> {
        let row = self.row(&canonical(name), backend).await?;
        let images = self.backends.of(row.backend)?.backend;
        images.images().remove(&row.name, &row.digest).await?;
        self.register.forget_image(row.name, row.backend).await?;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}
