//! What a guest learns at its boots: a disk for cloud-init's NoCloud data source, with who the machine is.
//!
//! The seed is the source of a machine's identity in every image that has cloud-init, ours or not. On a machine that
//! was resumed from a template the [agent](crate::agent) has put the same identity in place already, and finds
//! nothing else at its next boot.

mod documents;
mod identity;
mod iso;
pub mod user_data;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

pub use identity::{HostKey, Identity, MachineId, USER, key_lines};
pub use user_data::{UserData, UserDataError};

/// How large every seed is, in bytes: as much as the longest keys and the longest cloud-config need, so that one can
/// take another's place below a running machine.
pub const SIZE: usize = 1024 * 1024;

/// The label by which cloud-init finds it.
const LABEL: &str = "cidata";

/// Where the provider's list of keys is in a guest; see decision 0008.
const AUTHORIZED_KEYS: &str = "authorized-keys";

/// The seed of a machine, as a disk of [`SIZE`] bytes. It holds the private host key: keep it at mode 0600.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] when keys and cloud-config do not fit; what the system's random numbers say.
pub fn disk(identity: &Identity, user_data: Option<&UserData>) -> io::Result<Vec<u8>> {
    let mut random = [0; 64];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let files = documents::all(identity, user_data, &random);
    let mut disk = iso::image(LABEL, &files);
    if disk.len() > SIZE {
        let most = format!("a seed of {} bytes: at most {SIZE} fit", disk.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, most));
    }
    disk.resize(SIZE, 0);
    Ok(disk)
}

/// The digest, in hexadecimal, of what the seed of `identity` says, but for its random numbers: another one when this
/// program writes seeds in another way.
pub(crate) fn digest(identity: &Identity) -> String {
    let mut hash = Sha256::new();
    for (name, content) in documents::all(identity, None, &[]) {
        hash.update(Sha256::digest(name));
        hash.update(Sha256::digest(content));
    }
    HEXLOWER.encode(&hash.finalize())
}

/// Writes a seed where none is in use: whole, or not at all.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, disk: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all_at(disk, 0)?;
    file.sync_all()?;
    fs::rename(beside, path)
}

/// Writes a seed over one that a running machine may have: the machine sees it at its next boot. The file stays the
/// same one, with its owner. When this is cut off, do it again before the machine boots.
///
/// # Errors
/// What the file system says; a file that is there and no seed is not written to.
pub fn replace(path: &Path, disk: &[u8]) -> io::Result<()> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    if file.metadata()?.len() != disk.len() as u64 {
        return Err(io::Error::other(format!("{} is no seed", path.display())));
    }
    file.write_all_at(disk, 0)?;
    file.sync_all()
}

/// Reads what somebody could have sent as user data, for the fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    pub(crate) use super::user_data::fuzzing::read;
}

#[cfg(test)]
mod tests;
