//! What instances boot from. Multipass fetches and keeps images itself: those of its catalogue and of addresses, by
//! the name that is passed on to it. A file of the owner's is known by its hash.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use golem_vm_protocol::text::{is_printable, printable};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Multipass;
use super::reading;
use super::said::Trouble;
use crate::backend::{
    BackendError, ImageDigest, ImageStore, ProgressSender, WantedImage, kept_file,
};

/// What stands before a name that Multipass understands.
const NAMED: &str = "multipass:";
/// Longest name or address, in characters.
const LONGEST: usize = 1024;

/// A file of the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    path: PathBuf,
    /// As it was when it was hashed.
    size: u64,
    modified: (i64, i64),
}

impl File {
    fn is_as_it_was(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| {
            (meta.len(), (meta.mtime(), meta.mtime_nsec())) == (self.size, self.modified)
        })
    }
}

/// The files that images are, by their hashes.
#[derive(Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self(directory.join("images.json"))
    }

    fn read(&self) -> BTreeMap<String, File> {
        kept_file::read(&self.0).unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, File>)) -> Result<(), BackendError> {
        let mut files = self.read();
        let before = files.clone();
        change(&mut files);
        if files == before {
            return Ok(());
        }
        let written = self.0.parent().map_or(Ok(()), super::books::make_directory);
        written.and_then(|()| kept_file::write(&self.0, &files)).map_err(|error| {
            BackendError::Failed(format!("{} can't be written: {error}", self.0.display()))
        })
    }
}

/// An image as people call it.
pub(super) fn shown(digest: &ImageDigest) -> String {
    let text = digest.as_str();
    text.strip_prefix(NAMED).unwrap_or(text).to_owned()
}

/// What Multipass may call an image that others know by this name.
fn candidates(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned()];
    if let Some(release) = name.strip_prefix("ubuntu-") {
        all.push(release.to_owned());
    }
    if name == "debian-12" {
        all.extend(["bookworm", "debian:12", "debian:bookworm"].map(str::to_owned));
    }
    all
}

fn check(reference: &str) -> Result<(), BackendError> {
    let good = !reference.is_empty()
        && is_printable(reference, LONGEST)
        && !reference.contains(char::is_whitespace)
        // It would be taken for an option.
        && !reference.starts_with('-');
    if good {
        return Ok(());
    }
    Err(BackendError::Failed(format!(
        "'{}' names no image: write a name that 'multipass find' lists, https://…, or file:///…",
        printable(reference, 80)
    )))
}

fn hash(path: &Path) -> std::io::Result<(String, File)> {
    let mut file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hash.update(&buffer[..length]);
    }
    let digest = format!("sha256:{}", data_encoding::HEXLOWER.encode(&hash.finalize()));
    let modified = (meta.mtime(), meta.mtime_nsec());
    Ok((digest, File { path: path.to_owned(), size: meta.len(), modified }))
}

impl Multipass {
    /// What `multipass launch` is told of an image.
    pub(super) fn source(&self, digest: &ImageDigest) -> Result<String, BackendError> {
        if let Some(name) = digest.as_str().strip_prefix(NAMED) {
            check(name)?;
            return Ok(name.to_owned());
        }
        let file = self.images.read().remove(digest.as_str());
        let file = file.ok_or_else(|| BackendError::ImageMissing(digest.to_string()))?;
        if !file.is_as_it_was() {
            tracing::warn!("{} is not the file any more that {digest} was", file.path.display());
            return Err(BackendError::ImageMissing(digest.to_string()));
        }
        Ok(format!("file://{}", file.path.display()))
    }

    async fn catalogue(&self) -> Result<Vec<String>, BackendError> {
        let what = "can't read Multipass's catalogue of images";
        let said = self.program.call(&["find", "--format", "json"], b"", self.pace.query).await;
        let text = said.map_err(|error| match error.trouble() {
            Some(Trouble::Unreachable) => BackendError::Unavailable(format!("{what}: {error}")),
            _ => error.into_backend(what),
        })?;
        reading::images(&text).map_err(|error| BackendError::Failed(format!("{what}: {error}")))
    }

    async fn named(&self, candidates: &[String]) -> Result<ImageDigest, BackendError> {
        let known = self.catalogue().await?;
        let found = candidates.iter().find(|one| known.contains(one));
        found.map(|name| ImageDigest::new(format!("{NAMED}{name}"))).ok_or_else(|| {
            let names = known.iter().take(40).map(String::as_str).collect::<Vec<_>>().join(", ");
            BackendError::Failed(format!(
                "Multipass has no image '{}'; it has: {}",
                candidates.first().map_or("", String::as_str),
                printable(&names, 600)
            ))
        })
    }
}

#[async_trait]
impl ImageStore for Multipass {
    /// Multipass builds none: it fetches the distribution's own when it is first launched.
    async fn build(
        &self,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        check(name)?;
        let digest = self.named(&candidates(name)).await?;
        let told = format!("Multipass fetches {} when a VM is first made from it", shown(&digest));
        let _ = progress.send(told).await;
        Ok(digest)
    }

    async fn pull(
        &self,
        wanted: &WantedImage,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        if wanted.checksum.is_some() {
            return Err(BackendError::Failed(
                "Multipass fetches images itself, so no checksum can be demanded of it".to_owned(),
            ));
        }
        let reference = wanted.reference.as_str();
        check(reference)?;
        if let Some(path) = reference.strip_prefix("file://") {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err(BackendError::Failed(format!(
                    "'{}' has to be a whole path: file:///home/…",
                    path.display()
                )));
            }
            let _ = progress.send(format!("reading {}", path.display())).await;
            let hashed = tokio::task::spawn_blocking({
                let path = path.clone();
                move || hash(&path)
            });
            let hashed = hashed.await.map_err(|error| BackendError::Failed(error.to_string()))?;
            let (digest, file) = hashed.map_err(|error| {
                BackendError::Failed(format!("{} can't be read: {error}", path.display()))
            })?;
            self.images.change(|files| drop(files.insert(digest.clone(), file)))?;
            return Ok(ImageDigest::new(digest));
        }
        if reference.starts_with("https://") || reference.starts_with("http://") {
            return Ok(ImageDigest::new(format!("{NAMED}{reference}")));
        }
        self.named(&[reference.to_owned()]).await
    }

    async fn import(
        &self,
        file: &Path,
        name: &str,
        progress: ProgressSender,
    ) -> Result<ImageDigest, BackendError> {
        let reference = format!("file://{}", file.display());
        let wanted = WantedImage { reference, name: name.to_owned(), checksum: None };
        self.pull(&wanted, progress).await
    }

    /// Of what Multipass keeps itself the size is not said.
    async fn size(&self, digest: &ImageDigest) -> Result<Option<u64>, BackendError> {
        if digest.as_str().starts_with(NAMED) {
            return Ok(Some(0));
        }
        let file = self.images.read().remove(digest.as_str());
        Ok(file.filter(File::is_as_it_was).map(|file| file.size))
    }

    async fn remove(&self, _name: &str, digest: &ImageDigest) -> Result<(), BackendError> {
        self.images.change(|files| drop(files.remove(digest.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_an_option_is_no_image() {
        for bad in ["", "-v", "--network=x", "a b", "a\u{1b}[2J", "a\nb"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["24.04", "daily:noble", "https://example.org/x.img", "file:///home/x/y.qcow2"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn others_names_lead_to_multipass_s() {
        assert!(candidates("ubuntu-24.04").contains(&"24.04".to_owned()));
        assert!(candidates("debian-12").contains(&"bookworm".to_owned()));
        assert_eq!(candidates("mine"), ["mine"]);
    }
}
