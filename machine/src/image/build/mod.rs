//! Images made from a distribution's packages, by an ordinary user or by root, without mounting anything.
//!
//! 1. mmdebstrap installs the packages and writes all files as a tar file, the same bytes each time.
//! 2. `mke2fs -d` makes a file system of that and of the files that we add, in mmdebstrap's user namespace
//!    where there is no root; what it takes from the moment (times of files) is set to a fixed one.
//! 3. This program writes the partition table and GRUB around it.
//!
//! The same packages give the same bytes, and so the same digest: identifiers follow from the image's name and date,
//! and the date is that of the newest list of packages (`SOURCE_DATE_EPOCH`, if it is set).

mod epoch;
mod gpt;
mod identity;
mod recipe;
mod rootfs;
mod scratch;
mod worker;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

pub use recipe::Recipe;
use rootfs::Place;

use super::store::{Image, ImageStore, Particulars, Source};
use super::{ImageError, Progress, say};
use crate::agent;
use crate::disk::DiskFormat;

/// MiB that a build needs while it runs, in the store and in the directory for temporary files each.
const ROOM_MIB: u64 = 4096;

/// What a file that is added to an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    /// A file with this content.
    File(Vec<u8>),
    /// A symbolic link to this.
    Link(String),
}

/// A file of our own in an image. It replaces the packages' file at the same path; its directory is made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Addition {
    /// Where it goes, from `/`.
    path: String,
    /// Its permissions; root owns it.
    mode: u32,
    /// What it is.
    content: Content,
}

/// Our program for guests and what starts it.
fn guest_agent() -> Vec<Addition> {
    const UNIT: &str = "/usr/lib/systemd/system/golem-agent.service";
    let wanted = "/etc/systemd/system/sysinit.target.wants/golem-agent.service";
    let file = |path: &str, mode, content: &[u8]| Addition {
        path: path.to_owned(),
        mode,
        content: Content::File(content.to_owned()),
    };
    vec![
        file(agent::PATH_IN_GUEST, 0o755, agent::PROGRAM),
        file(UNIT, 0o644, agent::UNIT.as_bytes()),
        Addition { path: wanted.to_owned(), mode: 0o777, content: Content::Link(UNIT.to_owned()) },
    ]
}

/// Builds the image and puts it into the store. Takes minutes; dropped, it ends what it started. Where an image of the
/// same recipe, agent and date is there, it is that one, at once.
///
/// # Errors
/// [`ImageError`]: a program that is missing, packages that can't be fetched, no room.
pub async fn build(
    store: &ImageStore,
    recipe: &Recipe,
    progress: &Progress,
) -> Result<Image, ImageError> {
    let started = Instant::now();
    let epoch = epoch::of(recipe, progress).await?;
    let root = recipe.uuid("root", epoch);
    let mut additions = recipe.additions(&root);
    additions.extend(guest_agent());
    let source = Source::Built {
        recipe: recipe.name.to_owned(),
        epoch,
        inputs: recipe.inputs(&root, &additions),
    };
    if let Some(image) = store.list()?.into_iter().find(|image| image.source == source) {
        say(progress, format!("{} is there already, from the same packages", recipe.name));
        return Ok(image);
    }
    let draft = store.draft()?;
    let scratch = scratch::prepare(store.root()).await?;
    for place in [store.root(), &scratch] {
        room_for(place, ROOM_MIB)?;
    }
    let place = Place { directory: draft.directory(), scratch: &scratch, epoch };
    let keyring = scratch::keyring(recipe, &scratch)?;
    let tar = draft.directory().join("packages.tar");
    let disk = draft.directory().join("disk.raw");

    say(progress, format!("{}: installing its packages", recipe.name));
    rootfs::install(recipe, &place, keyring.as_deref(), &tar, progress).await?;
    say(progress, "making the disk");
    write_around(recipe, epoch, &tar, &disk).await?;
    rootfs::assemble(recipe, &place, &tar, &additions, &disk, progress).await?;
    remove(&tar)?;
    // What is left in there after a failure is removed by the next build.
    let _ = std::fs::remove_dir_all(&scratch);
    say(progress, "keeping it");
    let particulars = Particulars { name: recipe.name.to_owned(), source, has_agent: true };
    let image = store.keep(draft, particulars, &disk, DiskFormat::Raw).await?;
    say(progress, format!("built in {} s", started.elapsed().as_secs()));
    Ok(image)
}

/// Writes all of the disk but the root file system.
async fn write_around(
    recipe: &Recipe,
    epoch: u64,
    tar: &Path,
    disk: &Path,
) -> Result<(), ImageError> {
    let names = gpt::Names {
        disk: recipe.uuid("disk", epoch),
        bios: recipe.uuid("bios partition", epoch),
        root: recipe.uuid("root partition", epoch),
    };
    let (tar, disk) = (tar.to_owned(), disk.to_owned());
    let writing = tokio::task::spawn_blocking(move || {
        let boot = rootfs::file_in(&tar, "./boot/grub/i386-pc/boot.img")?;
        let core = rootfs::file_in(&tar, "./boot/grub/i386-pc/core.img")?;
        let pieces = gpt::pieces(recipe::DISK_BYTES, &names, &boot, &core);
        let pieces = pieces.map_err(|error| ImageError::Unexpected(error.to_string()))?;
        let failed = || ImageError::io("write", &disk);
        let file = File::create_new(&disk).map_err(failed())?;
        file.set_len(recipe::DISK_BYTES).map_err(failed())?;
        for (at, bytes) in pieces {
            file.write_all_at(&bytes, at).map_err(failed())?;
        }
        Ok(())
    });
    writing.await.map_err(|error| ImageError::Unexpected(error.to_string()))?
}

fn remove(path: &Path) -> Result<(), ImageError> {
    std::fs::remove_file(path).map_err(ImageError::io("remove", path))
}

pub(super) fn room_for(place: &Path, needed: u64) -> Result<(), ImageError> {
    let found = rustix::fs::statvfs(place)
        .map_err(|error| ImageError::io("look at the file system of", place)(error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
    if free >= needed {
        return Ok(());
    }
    Err(ImageError::NoRoom { path: place.to_owned(), free, needed })
}
