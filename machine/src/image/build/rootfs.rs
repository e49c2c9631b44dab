//! The root file system: packages to a tar file, and that with our files to an ext4 file system.
//!
//! Both steps run in mmdebstrap's own way of being root: the user himself if he is root, otherwise the root of a user
//! namespace that has his range of subordinate ids. Nothing is mounted on the host and no loop device is taken.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use super::recipe::Recipe;
use super::worker::{Worker, finished};
use super::{Addition, Content, gpt};
use crate::image::sparse::SparseWriter;
use crate::image::{ImageError, Progress};

/// What the builder was told: where its files are, and from when the packages are.
pub(super) struct Place<'a> {
    /// Where its own files are.
    pub(super) directory: &'a Path,
    /// Where the programs keep theirs while they run.
    pub(super) scratch: &'a Path,
    /// No file in the image is younger, in seconds since 1970.
    pub(super) epoch: u64,
}

/// Installs the packages, and writes all files as a tar file.
pub(super) async fn install(
    recipe: &Recipe,
    place: &Place<'_>,
    keyring: Option<&Path>,
    tar: &Path,
    progress: &Progress,
) -> Result<(), ImageError> {
    let root = recipe.uuid("root", place.epoch);
    let target = File::create(tar).map_err(ImageError::io("make", tar))?;
    let mut worker = Worker::new("mmdebstrap", "mmdebstrap", place);
    // The mode that is best here, but not one that can't run the packages' scripts as they expect.
    let mode = if rustix::process::geteuid().is_root() { "root" } else { "unshare" };
    worker
        .command
        .args(["--variant=minbase", "--format=tar"])
        .arg(format!("--mode={mode}"))
        .arg(format!("--include={}", recipe.packages()))
        .arg(format!("--essential-hook={}", Recipe::early_hook()))
        .arg(format!("--customize-hook={}", recipe.late_hook(&root)))
        .args(keyring.map(|path| format!("--keyring={}", path.display())))
        .args([recipe.suite, "-"])
        .args(recipe.sources);
    worker.command.stdin(Stdio::null()).stdout(target);
    finished("installing the packages", worker, progress).await
}

/// Makes the file system, and writes it into `disk` at its place.
pub(super) async fn assemble(
    recipe: &Recipe,
    place: &Place<'_>,
    tar: &Path,
    additions: &[Addition],
    disk: &Path,
    progress: &Progress,
) -> Result<(), ImageError> {
    let root = recipe.uuid("root", place.epoch);
    let bytes = gpt::root_bytes(super::recipe::DISK_BYTES);
    let mut worker = Worker::new("mmdebstrap", "mmdebstrap", place);
    worker
        .command
        .args(["--unshare-helper", "sh", "-c", MAKE_FILE_SYSTEM, "make-file-system"])
        .arg(place.scratch)
        .arg((bytes / 1024).to_string())
        .arg(root.to_string())
        .arg(recipe.uuid("hash seed", place.epoch).to_string())
        .arg(place.epoch.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    worker.start()?;
    let (input, output) = worker.pipes();
    let packages = File::open(tar).map_err(ImageError::io("read", tar))?;
    let ours = archive(additions, place.epoch).map_err(ImageError::io("pack files for", tar))?;
    let feeding = tokio::task::spawn_blocking(move || feed(packages, &ours, input));
    let disk = disk.to_owned();
    let keeping = tokio::task::spawn_blocking(move || keep(output, &disk));
    let done = finished("making the file system", worker, progress).await;
    // Why the other end went away is what the program said.
    done?;
    let joined = |error| ImageError::Unexpected(format!("a thread ended early: {error}"));
    feeding.await.map_err(joined)?.map_err(ImageError::io("read", tar))?;
    let written = keeping.await.map_err(joined)??;
    if written != bytes {
        let said = format!("the file system has {written} bytes and not {bytes}");
        return Err(ImageError::Unexpected(said));
    }
    Ok(())
}

fn feed(
    mut packages: File,
    ours: &[u8],
    mut input: std::process::ChildStdin,
) -> std::io::Result<()> {
    std::io::copy(&mut packages, &mut input)?;
    input.write_all(ours)
}

fn keep(mut output: std::process::ChildStdout, disk: &Path) -> Result<u64, ImageError> {
    let failed = || ImageError::io("write", disk);
    let file = File::options().write(true).open(disk).map_err(failed())?;
    let start = gpt::ROOT_FIRST * gpt::SECTOR;
    let mut writer = SparseWriter::new(&file, start);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = output.read(&mut buffer).map_err(failed())?;
        if read == 0 {
            return Ok(writer.finish().map_err(failed())? - start);
        }
        writer.write(&buffer[..read]).map_err(failed())?;
    }
}

/// Our files as a tar archive, in order of their paths.
fn archive(additions: &[Addition], epoch: u64) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind, mode, bytes: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(epoch);
        header.set_size(bytes);
        header
    };
    let mut sorted: Vec<&Addition> = additions.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    for addition in sorted {
        let path = addition.path.trim_start_matches('/');
        match &addition.content {
            Content::File(bytes) => {
                let mut header = header(tar::EntryType::Regular, addition.mode, bytes.len() as u64);
                builder.append_data(&mut header, path, bytes.as_slice())?;
            }
            Content::Link(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    builder.into_inner()
}

/// Reads one file out of a tar file.
pub(super) fn file_in(tar: &Path, wanted: &str) -> Result<Vec<u8>, ImageError> {
    let failed = || ImageError::io("read", tar);
    let file = File::open(tar).map_err(failed())?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(failed())? {
        let mut entry = entry.map_err(failed())?;
        if entry.path_bytes().as_ref() == wanted.as_bytes() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(failed())?;
            return Ok(content);
        }
    }
    Err(ImageError::Unexpected(format!("there is no {wanted} among the packages' files")))
}

/// Reads tar archives, and writes an ext4 file system. Arguments: where it may keep files, KiB of the file system, its
/// UUID, the seed of its directories' hashes, the date that files get that have none of their own.
///
/// Without /dev: the kernel fills it, and an ordinary user can't make devices. mke2fs takes over the moments at which
/// the files were unpacked, so they are set afterwards; inodes in use have the lowest numbers. Directories that no
/// archive has a line for were made now.
const MAKE_FILE_SYSTEM: &str = r#"set -eu
export LC_ALL=C E2FSPROGS_FAKE_TIME="$5" MKE2FS_CONFIG=/dev/null PATH="$PATH:/usr/sbin:/sbin"
work=$(mktemp -d "$1/assemble.XXXXXX")
# Where it was started may be closed to it: find goes back there.
cd "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir "$work/root"
tar --extract --ignore-zeros --numeric-owner --same-owner --preserve-permissions --delay-directory-restore \
    --keep-directory-symlink --xattrs "--xattrs-include=*" --exclude "./dev/?*" --directory "$work/root" --file -
find "$work/root" -newermt "@$5" -exec touch --no-dereference --date "@$5" {} +
touch --no-dereference --date "@$5" "$work/root"
mke2fs -q -F -L root -U "$3" -m 1 -b 4096 -I 256 -N 131072 \
    -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
    -E "hash_seed=$4,lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0" \
    -d "$work/root" "$work/fs" "$2k" >&2
rm -rf "$work/root"
used=$(dumpe2fs -h "$work/fs" 2>/dev/null | awk -F: '/^Inode count/ { all = $2 } /^Free inodes/ { free = $2 } END { print all - free }')
awk -v used="$used" -v epoch="$5" 'BEGIN {
    for (i = 1; i <= used; i++) {
        if (i != 2 && i != 7 && i != 8 && i < 11) continue
        printf "sif <%d> atime @%d\nsif <%d> ctime @%d\nsif <%d> crtime @%d\n", i, epoch, i, epoch, i, epoch
        printf "sif <%d> atime_extra 0\nsif <%d> ctime_extra 0\nsif <%d> mtime_extra 0\nsif <%d> crtime_extra 0\n", i, i, i, i
    }
    printf "sif <2> mtime @%d\nsif <8> mtime @%d\nsif <11> mtime @%d\n", epoch, epoch, epoch
}' > "$work/times"
debugfs -w -f "$work/times" "$work/fs" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
rm "$work/times"
e2fsck -f -n "$work/fs" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
cat "$work/fs"
"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_files_are_packed_the_same_each_time_in_order() {
        let file = |path: &str| Addition {
            path: path.to_owned(),
            mode: 0o755,
            content: Content::File(b"text".to_vec()),
        };
        let one = archive(&[file("/b"), file("/a/c")], 5).unwrap();
        let other = archive(&[file("/a/c"), file("/b")], 5).unwrap();
        assert!(one == other);
        let mut read = tar::Archive::new(one.as_slice());
        let seen: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    entry.path().unwrap().into_owned(),
                    header.mode().unwrap(),
                    header.mtime().unwrap(),
                )
            })
            .collect();
        assert_eq!(seen, [("a/c".into(), 0o755, 5), ("b".into(), 0o755, 5)]);
    }
}
