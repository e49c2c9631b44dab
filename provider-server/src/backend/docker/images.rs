//! The images of one provider on the engine.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::engine::CallError;
use super::progress::Progress;
use super::pull::{self, Reference};
use super::recipe::Recipe;
use super::{DockerBackend, build, disk, tags, tidy};
use crate::backend::{BackendError, ImageDigest, ImageStore, ProgressSender, WantedImage};

#[async_trait]
impl ImageStore for DockerBackend {
    async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let Some(recipe) = Recipe::named(name) else {
            return Err(BackendError::Failed(format!(
                "there is no recipe for the image '{}'; there is one for: {}",
                golem_vm_protocol::text::printable(name, 60),
                Recipe::names()
            )));
        };
        let _one_at_a_time = self.builds.lock().await;
        let progress = Progress::new(progress);
        let id = Box::pin(build::build(&self.engine, &self.provider, &recipe, &progress)).await?;
        Ok(ImageDigest::new(id))
    }

    async fn pull(
        &self,
        wanted: &WantedImage,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        if wanted.checksum.is_some() {
            return Err(BackendError::Failed(
                "an image of a registry is pinned by its reference: registry/name@sha256:…"
                    .to_owned(),
            ));
        }
        let reference = Reference::parse(&wanted.reference).map_err(BackendError::Failed)?;
        let progress = Progress::new(progress);
        let tag = tags::tag_of(&self.provider);
        let pulled =
            pull::pull(&self.engine, &reference, tags::pulled_repository, &tag, &progress).await;
        let what = || format!("can't pull the image {}", reference.as_text());
        let failed = |error: CallError| error.into_backend(&what());
        let id = pulled.map_err(failed)?;
        let image = tags::inspect(&self.engine, &id).await.map_err(failed)?;
        if let Some(reason) = image.as_ref().and_then(disk::image_is_refused) {
            let reference = format!("{}:{tag}", tags::pulled_repository(&id));
            tags::untag(&self.engine, &reference).await.map_err(failed)?;
            return Err(BackendError::Failed(format!("{}: {reason}", what())));
        }
        Ok(ImageDigest::new(id))
    }

    async fn size(&self, digest: &ImageDigest) -> Result<Option<u64>, BackendError> {
        let image = tags::inspect(&self.engine, digest.as_str()).await;
        let what = || format!("can't look at the image {digest}");
        let image = image.map_err(|error| error.into_backend(&what()))?;
        Ok(image.map(|image| image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)))
    }

    async fn remove(&self, _name: &str, digest: &ImageDigest) -> Result<(), BackendError> {
        let failed = |error: CallError| {
            if error.is_conflict() {
                BackendError::Failed(format!(
                    "the image {digest} is still used by a VM: destroy those that were made from \
                     it first"
                ))
            } else {
                error.into_backend(&format!("can't remove the image {digest}"))
            }
        };
        let image = tags::inspect(&self.engine, digest.as_str()).await.map_err(failed)?;
        let references = image.and_then(|image| image.repo_tags).unwrap_or_default();
        for reference in tags::own(&references, &self.provider) {
            tags::untag(&self.engine, reference).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn tidy(&self, needed: &BTreeSet<ImageDigest>) -> Result<(), BackendError> {
        // While one is built, nothing is known of what is left over; there is another time.
        let Ok(mut unused) = self.builds.try_lock() else { return Ok(()) };
        let tidied = tidy::tidy(&self.engine, &self.provider, &mut unused, needed).await;
        tidied.map_err(|error| error.into_backend("can't remove images that nothing needs"))
    }
}
