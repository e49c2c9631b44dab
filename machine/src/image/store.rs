//! Images on disk: `<root>/<digest>/disk.qcow2` and `image.json`, read-only.
//!
//! Whatever is unfinished is in a directory whose name begins with `.work-`, and becomes an image by being renamed,
//! when all of it is on the disk. So an image that is there is whole, whenever the program or the machine ended. One
//! process uses a store; opening it removes what an earlier one left unfinished.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::pull::is_given_up;
use super::{ContentDigest, ImageError};
use crate::disk::{DiskFormat, DiskTool};

/// The version of `image.json`.
const VERSION: u32 = 1;
const UNFINISHED: &str = ".work-";
const DISK: &str = "disk.qcow2";
const MANIFEST: &str = "image.json";
const BOOT: &str = "boot.json";

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum Source {
    /// Built here.
    Built {
        /// By which recipe.
        recipe: String,
        /// From when its packages are, in seconds since 1970.
        epoch: u64,
        /// The hash of all else that it was made of: the same again is not built again.
        #[serde(default)]
        inputs: String,
    },
    /// Fetched.
    Pulled {
        /// From where.
        url: String,
    },
    /// Taken from a file.
    Imported {
        /// The file's name, without its directory.
        file: String,
    },
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is called where it was made.
    pub name: String,
    /// The hash of its content.
    pub digest: ContentDigest,
    /// Where it comes from.
    pub source: Source,
    /// Its disk: a qcow2 file that names no other, never to be written to.
    pub disk: PathBuf,
    /// Bytes of the disk as a guest sees it: no machine's disk is smaller.
    pub virtual_size: u64,
    /// Bytes that it takes of the host's disk.
    pub file_size: u64,
    /// Whether our agent is in it, so that machines can be resumed from templates of it.
    pub has_agent: bool,
    /// When it came into the store, in seconds since 1970.
    pub created: u64,
    /// From power-on to an answering SSH server, in milliseconds, as last measured on this host.
    pub boot_millis: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u32,
    name: String,
    digest: ContentDigest,
    source: Source,
    virtual_size: u64,
    file_size: u64,
    has_agent: bool,
    created: u64,
}

#[derive(Serialize, Deserialize)]
struct Boot {
    millis: u64,
}

/// The images of one provider.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    tool: DiskTool,
}

/// A directory in which an image is being made; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Draft(PathBuf);

impl Draft {
    pub(super) fn directory(&self) -> &Path {
        &self.0
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is known of an image that is about to be kept.
#[derive(Debug, Clone)]
pub(super) struct Particulars {
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) has_agent: bool,
}

impl ImageStore {
    /// Opens the store in `root`, which is made if it is not there, and removes what was left unfinished.
    ///
    /// # Errors
    /// That the directory can't be made or read.
    pub fn open(root: &Path, tool: DiskTool) -> Result<Self, ImageError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(ImageError::io("make", root))?;
        let store = Self { root: root.to_owned(), tool };
        for entry in store.entries()? {
            let left = root.join(&entry);
            if entry.starts_with(UNFINISHED) {
                fs::remove_dir_all(&left).map_err(ImageError::io("remove", &left))?;
            } else if is_given_up(&entry, &left) {
                fs::remove_file(&left).map_err(ImageError::io("remove", &left))?;
            }
        }
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn entries(&self) -> Result<Vec<String>, ImageError> {
        let failed = || ImageError::io("read", &self.root);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed())? {
            if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn directory(&self, digest: &ContentDigest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// A place to make an image in.
    pub(super) fn draft(&self) -> Result<Draft, ImageError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| ImageError::Unexpected(format!("no random bytes: {error}")))?;
        let path = self.root.join(format!("{UNFINISHED}{}", HEXLOWER.encode(&random)));
        DirBuilder::new().mode(0o700).create(&path).map_err(ImageError::io("make", &path))?;
        Ok(Draft(path))
    }

    /// All images that are whole, in order of their digests. What can't be read is left out, and logged.
    ///
    /// # Errors
    /// That the directory can't be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for entry in self.entries()? {
            let Ok(digest) = format!("sha256:{entry}").parse::<ContentDigest>() else { continue };
            match self.get(&digest) {
                Ok(Some(image)) => images.push(image),
                Ok(None) => {}
                Err(error) => tracing::warn!(%digest, %error, "an image can't be read"),
            }
        }
        Ok(images)
    }

    /// The image with that content, if it is here.
    ///
    /// # Errors
    /// That its manifest can't be read.
    pub fn get(&self, digest: &ContentDigest) -> Result<Option<Image>, ImageError> {
        let directory = self.directory(digest);
        let path = directory.join(MANIFEST);
        let Some(manifest) = read_json::<Manifest>(&path)? else { return Ok(None) };
        if manifest.version != VERSION || manifest.digest != *digest {
            let version = manifest.version;
            return Err(ImageError::Unexpected(format!(
                "{} is of version {version} and for {}",
                path.display(),
                manifest.digest
            )));
        }
        let boot = read_json::<Boot>(&directory.join(BOOT)).ok().flatten();
        Ok(Some(Image {
            name: manifest.name,
            digest: manifest.digest,
            source: manifest.source,
            disk: directory.join(DISK),
            virtual_size: manifest.virtual_size,
            file_size: manifest.file_size,
            has_agent: manifest.has_agent,
            created: manifest.created,
            boot_millis: boot.map(|boot| boot.millis),
        }))
    }

    /// Copies a disk into the store, in a form of our own, under the hash of its content. One that is there already
    /// stays as it is.
    pub(super) async fn keep(
        &self,
        draft: Draft,
        particulars: Particulars,
        disk: &Path,
        format: DiskFormat,
    ) -> Result<Image, ImageError> {
        let raw = match format {
            DiskFormat::Raw => disk.to_owned(),
            DiskFormat::Qcow2 => {
                let raw = draft.directory().join("content.raw");
                self.tool.to_raw(disk, format, &raw).await?;
                raw
            }
        };
        let digest = digest_of(raw.clone()).await?;
        if let Some(image) = self.get(&digest)? {
            return Ok(image);
        }
        let finished = draft.directory().join("image");
        fs::create_dir(&finished).map_err(ImageError::io("make", &finished))?;
        let target = finished.join(DISK);
        self.tool.flatten(&raw, DiskFormat::Raw, &target).await?;
        let facts = self.tool.inspect(&target)?;
        let manifest = Manifest {
            version: VERSION,
            name: particulars.name,
            digest,
            source: particulars.source,
            virtual_size: facts.virtual_size,
            file_size: facts.actual_size,
            has_agent: particulars.has_agent,
            created: now(),
        };
        write_json(&finished.join(MANIFEST), &manifest)?;
        settle(&finished)?;
        let place = self.directory(&digest);
        fs::rename(&finished, &place).map_err(ImageError::io("keep", &place))?;
        synced(&self.root)?;
        drop(draft);
        self.get(&digest)?.ok_or(ImageError::Missing(digest))
    }

    /// Reads an image again from its first byte to its last.
    ///
    /// # Errors
    /// [`ImageError::Changed`] when it is not what it was; [`ImageError::Missing`]; any other.
    pub async fn verify(&self, digest: &ContentDigest) -> Result<Image, ImageError> {
        let image = self.get(digest)?.ok_or(ImageError::Missing(*digest))?;
        self.tool.inspect(&image.disk)?;
        let draft = self.draft()?;
        let raw = draft.directory().join("content.raw");
        self.tool.to_raw(&image.disk, DiskFormat::Qcow2, &raw).await?;
        let found = digest_of(raw).await?;
        if found == image.digest {
            Ok(image)
        } else {
            Err(ImageError::Changed { expected: image.digest, found })
        }
    }

    /// Removes an image. Does nothing if it is gone. Whoever calls knows that no machine and no template needs it.
    ///
    /// # Errors
    /// That it can't be removed.
    pub fn remove(&self, digest: &ContentDigest) -> Result<(), ImageError> {
        let place = self.directory(digest);
        // Renamed first: an image is there as a whole or not at all.
        let draft = self.draft()?;
        match fs::rename(&place, draft.directory().join("removed")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ImageError::io("remove", &place)(error))
            }
            _ => synced(&self.root),
        }
    }

    /// Writes down how long a machine took from power-on to an answering SSH server.
    ///
    /// # Errors
    /// [`ImageError::Missing`], or that it can't be written.
    pub fn note_boot(&self, digest: &ContentDigest, millis: u64) -> Result<(), ImageError> {
        let directory = self.directory(digest);
        if !directory.is_dir() {
            return Err(ImageError::Missing(*digest));
        }
        let new = directory.join(".boot.json.new");
        let _ = fs::remove_file(&new);
        write_json(&new, &Boot { millis })?;
        let path = directory.join(BOOT);
        fs::rename(&new, &path).map_err(ImageError::io("write", &path))
    }
}

async fn digest_of(raw: PathBuf) -> Result<ContentDigest, ImageError> {
    let reading = tokio::task::spawn_blocking(move || ContentDigest::of_file(&raw));
    reading.await.map_err(|error| ImageError::Unexpected(error.to_string()))?
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, ImageError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::io("read", path)(error)),
    };
    let said = |error| ImageError::Unexpected(format!("{}: {error}", path.display()));
    serde_json::from_slice(&text).map(Some).map_err(said)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    use std::io::Write as _;
    let said = |error: serde_json::Error| ImageError::Unexpected(error.to_string());
    let mut text = serde_json::to_vec_pretty(value).map_err(said)?;
    text.push(b'\n');
    let failed = || ImageError::io("write", path);
    let mut file = File::create_new(path).map_err(failed())?;
    file.write_all(&text).map_err(failed())?;
    file.sync_all().map_err(failed())
}

/// Makes all files of an image read-only and puts them on the disk, before it is known by its name. Everybody may read
/// them who gets to them: the store itself lets only its owner in.
fn settle(directory: &Path) -> Result<(), ImageError> {
    for name in [DISK, MANIFEST] {
        let path = directory.join(name);
        let failed = || ImageError::io("settle", &path);
        fs::set_permissions(&path, Permissions::from_mode(0o444)).map_err(failed())?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed())?;
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755))
        .map_err(ImageError::io("settle", directory))?;
    synced(directory)
}

fn synced(directory: &Path) -> Result<(), ImageError> {
    let synced = File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(ImageError::io("write", directory))
}
