//! Where the programs that build keep their files, some of which belong to nobody on this machine.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::Recipe;
use crate::image::ImageError;

/// An empty directory for this store's builds. In a user namespace, root is a user of the host who can't enter the
/// store, so it is in the directory for temporary files, and everybody may make files in it, as there. What a build
/// that was killed has left is removed.
pub(super) async fn prepare(store: &Path) -> Result<PathBuf, ImageError> {
    let directory = place_for(store);
    match fs::symlink_metadata(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ImageError::io("look at", &directory)(error)),
        Ok(found) => {
            if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
                return Err(ImageError::Unexpected(format!(
                    "{} belongs to somebody else: remove it",
                    directory.display()
                )));
            }
            clear(&directory).await?;
        }
    }
    DirBuilder::new().mode(0o700).create(&directory).map_err(ImageError::io("make", &directory))?;
    let everybody = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(&directory, everybody).map_err(ImageError::io("open", &directory))?;
    Ok(directory)
}

/// The same for the same store, so that what is left of a build is found.
fn place_for(store: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let parent =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let user = rustix::process::geteuid().as_raw();
    let hash = Sha256::digest(store.as_os_str().as_bytes());
    parent.join(format!("golem-image-{user}-{}", HEXLOWER.encode(&hash[..6])))
}

async fn clear(directory: &Path) -> Result<(), ImageError> {
    if fs::remove_dir_all(directory).is_ok() {
        return Ok(());
    }
    // Files of subordinate ids are removed by who has these.
    let helper = Command::new("mmdebstrap")
        .args(["--unshare-helper", "find"])
        .arg(directory)
        .args(["-mindepth", "1", "-delete"])
        .output();
    let _ = helper.await;
    fs::remove_dir_all(directory).map_err(ImageError::io("remove", directory))
}

/// The keys that the recipe's lists have to be signed with, as a file that apt can read in there; `None` where
/// mmdebstrap knows them by itself.
pub(super) fn keyring(recipe: &Recipe, scratch: &Path) -> Result<Option<PathBuf>, ImageError> {
    let Some(keys) = recipe.keys else { return Ok(None) };
    let path = scratch.join("archive-key.gpg");
    let failed = || ImageError::io("write", &path);
    fs::write(&path, keys).map_err(failed())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed())?;
    Ok(Some(path))
}
