//! Images that are a name and nothing else.

use async_trait::async_trait;

use super::{MemoryBackend, Method, digest_of};
use crate::backend::{BackendError, ImageDigest, ImageStore, ProgressSender, WantedImage};

/// Size in bytes of the images made here.
pub(super) const IMAGE_SIZE: u64 = 1 << 20;

#[async_trait]
impl ImageStore for MemoryBackend {
    async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let _ = progress.send(format!("building {name}")).await;
        self.call(Method::Build, |state| {
            let digest = digest_of(name);
            state.images.insert(digest.clone(), IMAGE_SIZE);
            Ok(digest)
        })
        .await
    }

    async fn pull(
        &self,
        wanted: &WantedImage,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let reference = wanted.reference.as_str();
        let _ = progress.send(format!("pulling {reference}")).await;
        self.call(Method::Pull, |state| {
            let digest = digest_of(reference);
            state.images.insert(digest.clone(), IMAGE_SIZE);
            Ok(digest)
        })
        .await
    }

    async fn size(&self, digest: &ImageDigest) -> Result<Option<u64>, BackendError> {
        self.call(Method::Size, |state| Ok(state.images.get(digest).copied())).await
    }

    async fn remove(&self, _name: &str, digest: &ImageDigest) -> Result<(), BackendError> {
        self.call(Method::Remove, |state| {
            state.images.remove(digest);
            Ok(())
        })
        .await
    }
}
