//! What machines boot from: images in the crate's store, known by the hash of their content.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use golem_vm_machine::image::build::{Recipe, build};
use golem_vm_machine::image::pull::{Checksum, Puller, Wanted};
use golem_vm_machine::image::{ContentDigest, Image, ImageError, Source};
use golem_vm_machine::vm::{Base, MachineName};
use golem_vm_protocol::text::printable;

use super::QemuBackend;
use crate::backend::{
    BackendError, ImageDetails, ImageDigest, ImageStore, ProgressSender, WantedImage,
};
use crate::images::canonical;

/// An image that no name leads to is kept for this long: it may just have been made.
const KEPT: Duration = Duration::from_secs(86_400);

#[async_trait]
impl ImageStore for QemuBackend {
    async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let recipe = Recipe::named(name)
            .ok_or_else(|| failed(ImageError::NoRecipe(printable(name, 60), Recipe::names())))?;
        // Two at once would be in each other's way.
        let _one_at_a_time = self.builds.lock().await;
        let image = build(&self.images, &recipe, &progress).await.map_err(failed)?;
        self.resuming.image_came(&image, &self.machines);
        Ok(digest_of(&image))
    }

    async fn pull(
        &self,
        wanted: &WantedImage,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let checksum = wanted.checksum.as_deref().map(Checksum::parse).transpose();
        let checksum = checksum.map_err(|error| BackendError::Failed(error.to_string()))?;
        let official = canonical(&wanted.reference);
        let known = Recipe::named(&official).is_some();
        let what = if known { official.as_str() } else { wanted.reference.as_str() };
        let wanted = Wanted { what, name: &wanted.name, checksum };
        let image = Puller::new(&self.images).pull(&wanted, &progress).await.map_err(failed)?;
        Ok(digest_of(&image))
    }

    async fn import(
        &self,
        file: &Path,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let image = Puller::new(&self.images).import(file, name, &progress).await;
        Ok(digest_of(&image.map_err(failed)?))
    }

    async fn verify(&self, digest: &ImageDigest) -> Result<(), BackendError> {
        let missing = || BackendError::ImageMissing(digest.to_string());
        let known = known(digest).ok_or_else(missing)?;
        self.images.verify(&known).await.map(|_| ()).map_err(|error| match error {
            ImageError::Missing(_) => missing(),
            other => failed(other),
        })
    }

    async fn size(&self, digest: &ImageDigest) -> Result<Option<u64>, BackendError> {
        let Some(digest) = known(digest) else { return Ok(None) };
        Ok(self.images.get(&digest).map_err(failed)?.map(|image| image.file_size))
    }

    async fn details(&self, digest: &ImageDigest) -> Result<Option<ImageDetails>, BackendError> {
        let Some(digest) = known(digest) else { return Ok(None) };
        let image = self.images.get(&digest).map_err(failed)?;
        let Some(image) = image else { return Ok(None) };
        Ok(Some(ImageDetails {
            size_bytes: Some(image.file_size),
            source: Some(source(&image.source)),
            boot_millis: image.boot_millis,
            templates: Some(self.resuming.of_image(&image.digest.to_string())?),
        }))
    }

    async fn remove(&self, _name: &str, digest: &ImageDigest) -> Result<(), BackendError> {
        let Some(known) = known(digest) else { return Ok(()) };
        let users = self.users_of(&known)?;
        if !users.is_empty() {
            return Err(BackendError::Failed(still_used(&known, &users)));
        }
        self.images.remove(&known).map_err(failed)?;
        self.resuming.image_gone(&known.to_string(), &self.machines);
        Ok(())
    }

    async fn tidy(&self, needed: &BTreeSet<ImageDigest>) -> Result<(), BackendError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for image in self.images.list().map_err(failed)? {
            let young = now.saturating_sub(Duration::from_secs(image.created)) < KEPT;
            if young || needed.contains(&digest_of(&image)) {
                continue;
            }
            if self.users_of(&image.digest)?.is_empty() {
                self.images.remove(&image.digest).map_err(failed)?;
                self.resuming.image_gone(&image.digest.to_string(), &self.machines);
            }
        }
        Ok(())
    }
}

impl QemuBackend {
    /// The machines whose disks lie on that image.
    fn users_of(&self, digest: &ContentDigest) -> Result<Vec<MachineName>, BackendError> {
        let mut users = Vec::new();
        for name in self.machines.list().map_err(super::failed)? {
            // One that can't be read could be one of them.
            if let Some(manifest) = self.machines.manifest(&name).map_err(super::failed)?
                && lies_on(&manifest.base, digest)
            {
                users.push(name);
            }
        }
        Ok(users)
    }
}

/// Whether what is below a machine's disk has that image in it. Below a template's disk is its image's, too.
fn lies_on(below: &[Base], digest: &ContentDigest) -> bool {
    let is_it = |base: &Base| {
        base.directory.file_name().is_some_and(|name| name.to_string_lossy() == digest.hex())
    };
    below.iter().any(is_it)
}

/// Why an image can't be removed.
fn still_used(digest: &ContentDigest, users: &[MachineName]) -> String {
    const NAMED: usize = 5;
    let mut names: Vec<_> = users.iter().take(NAMED).map(ToString::to_string).collect();
    if users.len() > NAMED {
        names.push(format!("{} more", users.len() - NAMED));
    }
    format!(
        "the disks of these VMs lie on the image {digest} or on a template of it: {}. Destroy them first, then remove \
         the image again",
        names.join(", ")
    )
}

fn source(source: &Source) -> String {
    match source {
        Source::Built { .. } => "built".to_owned(),
        Source::Pulled { url } => url.clone(),
        Source::Imported { file } => format!("file {file}"),
    }
}

fn digest_of(image: &Image) -> ImageDigest {
    ImageDigest::new(image.digest.to_string())
}

fn known(digest: &ImageDigest) -> Option<ContentDigest> {
    digest.as_str().parse().ok()
}

fn failed(error: ImageError) -> BackendError {
    BackendError::Failed(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use golem_vm_machine::hardware::Format;

    use super::*;

    #[test]
    fn a_disk_on_a_template_lies_on_its_image_too() {
        let digest: ContentDigest = format!("sha256:{}", "1a".repeat(32)).parse().unwrap();
        let base = |directory: &str| Base {
            directory: Path::new("/qemu").join(directory),
            file: "disk".to_owned(),
            format: Format::Qcow2,
        };
        let image = format!("images/{}", digest.hex());
        let template = format!("templates/{}-00000000", "2b".repeat(16));
        assert!(lies_on(&[base(&image)], &digest));
        assert!(lies_on(&[base(&template), base(&image)], &digest));
        assert!(!lies_on(&[base(&template), base("images/other")], &digest));
        assert!(!lies_on(&[], &digest));
    }

    #[test]
    fn a_refusal_names_who_needs_the_image() {
        let digest: ContentDigest = format!("sha256:{}", "1a".repeat(32)).parse().unwrap();
        let names: Vec<MachineName> =
            (0..7).map(|n| format!("golem-{n}").parse().unwrap()).collect();
        let said = still_used(&digest, &names);
        assert!(said.contains("golem-0, ") && said.contains("golem-4, 2 more."), "{said}");
        assert!(
            said.contains(&digest.to_string()) && said.contains("Destroy them first"),
            "{said}"
        );
    }
}
