//! Images that others have made: official cloud images, files at an address, files of the owner's.
//!
//! Nothing is taken on trust. A file's checksum is known before its first byte is fetched: from the distribution's list,
//! whose signature is verified with the distribution's key, or from the owner. What has arrived is kept when a
//! connection breaks or the program ends, and goes on from there; all of it is hashed in the end. Then it is
//! [judged](crate::disk) and flattened, like any disk from outside.

mod checksum;
mod download;
mod official;
mod signature;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

#[cfg(feature = "fuzzing")]
pub(crate) use checksum::fuzzing;
pub use checksum::{Checksum, ChecksumError};
pub use download::Patience;
pub use official::Origin;
pub use signature::Keys;

use super::build::room_for;
use super::store::{Image, ImageStore, Particulars, Source};
use super::{ImageError, Progress, say};
use crate::disk::DiskFormat;

/// Bytes of the largest file that is fetched, and of the largest disk that is taken.
const MOST_BYTES: u64 = 64 << 30;
/// What is left of a download is kept for this long.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
const PARTIAL: &str = ".download-";

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// `debian-12`, `ubuntu-24.04`, or an address (`https://…`).
    pub what: &'a str,
    /// What it will be called.
    pub name: &'a str,
    /// What the owner says its checksum is: then no list is asked.
    pub checksum: Option<Checksum>,
}

/// Fetches images into a store.
#[derive(Debug, Clone)]
pub struct Puller<'a> {
    store: &'a ImageStore,
    origins: Vec<Origin>,
    patience: Patience,
    most_bytes: u64,
}

impl<'a> Puller<'a> {
    /// One that knows the distributions' own servers.
    #[must_use]
    pub fn new(store: &'a ImageStore) -> Self {
        let (patience, most_bytes) = (Patience::default(), MOST_BYTES);
        Self { store, origins: official::all(), patience, most_bytes }
    }

    /// With these servers in place of the distributions', this patience, and no file larger than that: for tests.
    #[must_use]
    pub fn from_origins(mut self, origins: Vec<Origin>, patience: Patience, most: u64) -> Self {
        self.origins = origins;
        self.patience = patience;
        self.most_bytes = most;
        self
    }

    /// Fetches an image. Called again after it failed or was dropped, it goes on where it ended.
    ///
    /// # Errors
    /// [`ImageError`]: no checksum that can be trusted, a server that does not give what it should, a disk that is
    /// refused, no room.
    pub async fn pull(
        &self,
        wanted: &Wanted<'_>,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        let client = download::client()?;
        let url = self.address(wanted.what)?;
        let checksum = match &wanted.checksum {
            Some(checksum) => checksum.clone(),
            None => self.listed(&client, &url, progress).await?,
        };
        let partial = self.partial(&url, &checksum);
        let _held = held(&partial)?;
        let fetch = download::Fetch {
            client: &client,
            url: &url,
            checksum: &checksum,
            file: &partial,
            most: self.most_bytes,
            patience: self.patience,
        };
        fetch.run(progress).await?;
        say(progress, "its checksum is right; reading the disk");
        let image = self.keep(&partial, wanted.name, Source::Pulled { url: url.clone() }).await;
        // A disk that is refused would be refused again.
        if matches!(&image, Ok(_) | Err(ImageError::Disk(_))) {
            std::fs::remove_file(&partial).map_err(ImageError::io("remove", &partial))?;
        }
        image
    }

    /// Takes a disk file of the owner's.
    ///
    /// # Errors
    /// [`ImageError`]: it can't be read, it is refused, no room.
    pub async fn import(
        &self,
        file: &Path,
        name: &str,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        say(progress, "reading the disk");
        let shown = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        self.keep(file, name, Source::Imported { file: shown }).await
    }

    async fn keep(&self, file: &Path, name: &str, source: Source) -> Result<Image, ImageError> {
        let (format, bytes) = DiskFormat::detect(file, self.most_bytes)?;
        // Holes are not written: twice what the file has is rather too much than too little.
        let taken = file.metadata().map_or(bytes, |found| found.len().min(bytes));
        room_for(self.store.root(), (taken >> 20).saturating_mul(3) + 64)?;
        let draft = self.store.draft()?;
        let particulars = Particulars { name: name.to_owned(), source, has_agent: false };
        self.store.keep(draft, particulars, file, format).await
    }

    fn address(&self, what: &str) -> Result<String, ImageError> {
        if let Some(origin) = self.origins.iter().find(|origin| origin.name == what) {
            return Ok(origin.url());
        }
        let is_address = what.starts_with("https://") || what.starts_with("http://");
        if is_address && reqwest::Url::parse(what).is_ok() {
            return Ok(what.to_owned());
        }
        let names: Vec<_> = self.origins.iter().map(|origin| origin.name.as_str()).collect();
        Err(ImageError::NoSource(printable(what), names.join(", ")))
    }

    /// The checksum that the distribution's signed list has for it.
    async fn listed(
        &self,
        client: &reqwest::Client,
        url: &str,
        progress: &Progress,
    ) -> Result<Checksum, ImageError> {
        let Some((origin, file)) = self.origins.iter().find_map(|origin| origin.covers(url)) else {
            return Err(ImageError::Unpinned(printable(url)));
        };
        say(progress, format!("reading {}", origin.list_url(url)));
        origin.checksum(client, url, &file, self.store).await
    }

    /// Where an unfinished download of that is: the same for the same file, so that it is found again.
    fn partial(&self, url: &str, checksum: &Checksum) -> PathBuf {
        let hash = Sha256::digest(format!("{url}\n{checksum}"));
        self.store.root().join(format!("{PARTIAL}{}", HEXLOWER.encode(&hash[..12])))
    }
}

/// Whether nobody has added to an unfinished download for long.
pub(super) fn is_given_up(name: &str, path: &Path) -> bool {
    let written = path.metadata().and_then(|found| found.modified());
    name.starts_with(PARTIAL)
        && written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > KEPT))
}

/// Two that fetch the same would write into each other's file.
fn held(partial: &Path) -> Result<File, ImageError> {
    let file = File::options().create(true).append(true).open(partial);
    let file = file.map_err(ImageError::io("open", partial))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ImageError::Busy),
        Err(std::fs::TryLockError::Error(error)) => Err(ImageError::io("lock", partial)(error)),
    }
}

pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
