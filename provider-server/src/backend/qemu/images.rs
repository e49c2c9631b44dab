//! What machines boot from: images in the crate's store, known by the hash of their content.

use async_trait::async_trait;
use golem_vm_machine::image::build::{Recipe, build};
use golem_vm_machine::image::{ContentDigest, ImageError};

use super::QemuBackend;
use crate::backend::{BackendError, ImageDigest, ImageStore, ProgressSender};

#[async_trait]
impl ImageStore for QemuBackend {
    async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let recipe = Recipe::named(name).ok_or_else(|| {
            BackendError::Failed(format!(
                "there is no recipe for '{name}'; known: {}",
                Recipe::names()
            ))
        })?;
        let image = build(&self.images, &recipe, &progress).await.map_err(failed)?;
        Ok(ImageDigest::new(image.digest.to_string()))
    }

    async fn pull(
        &self,
        reference: &str,
        _progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        Err(BackendError::Failed(format!(
            "'{reference}' can't be fetched for QEMU; build an image: golem-provider image build debian-12"
        )))
    }

    async fn size(&self, digest: &ImageDigest) -> Result<Option<u64>, BackendError> {
        let Some(digest) = known(digest) else { return Ok(None) };
        Ok(self.images.get(&digest).map_err(failed)?.map(|image| image.file_size))
    }

    async fn remove(&self, _name: &str, digest: &ImageDigest) -> Result<(), BackendError> {
        match known(digest) {
            Some(digest) => self.images.remove(&digest).map_err(failed),
            None => Ok(()),
        }
    }
}

fn known(digest: &ImageDigest) -> Option<ContentDigest> {
    digest.as_str().parse().ok()
}

fn failed(error: ImageError) -> BackendError {
    BackendError::Failed(error.to_string())
}
