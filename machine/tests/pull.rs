//! Images fetched from a server on loopback that breaks, stalls and lies, and taken from files.
#![cfg(feature = "qemu")]
#![allow(clippy::unwrap_used)]

mod loopback;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use golem_vm_machine::disk::{DiskError, DiskTool, Refusal};
use golem_vm_machine::image::pull::{Checksum, Keys, Origin, Patience, Puller, Wanted};
use golem_vm_machine::image::{Image, ImageError, ImageStore, Progress, Source};
use loopback::{Act, Server};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const MOST: u64 = 16 << 20;

/// Short where something is waited for that does not come.
const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(6),
    pause: Duration::from_millis(1),
    tries: 3,
    whole: Duration::from_secs(300),
};

/// A disk with a boot sector; its hash is in `data/SHA256SUMS`.
fn content() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..3 * MIB).map(|at| (at * 31 + at / 251) as u8).collect();
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fn data(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/pull/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

struct Setting {
    directory: TempDir,
    server: Server,
    store: ImageStore,
    progress: Progress,
}

impl Setting {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let server = Server::start().await;
        server.serve("dir/disk.img", content());
        server.serve("dir/SHA256SUMS", data("SHA256SUMS"));
        server.serve("dir/SHA256SUMS.gpg", data("SHA256SUMS.gpg"));
        let store = ImageStore::open(directory.path(), DiskTool::default()).unwrap();
        let (progress, mut lines) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move { while lines.recv().await.is_some() {} });
        Self { directory, server, store, progress }
    }

    fn puller(&self) -> Puller<'_> {
        let origin = Origin {
            name: "test-1".to_owned(),
            root: self.server.url(""),
            path: "dir/disk.img".to_owned(),
            list: "SHA256SUMS".to_owned(),
            signatures: vec!["SHA256SUMS.sign".to_owned(), "SHA256SUMS.gpg".to_owned()],
            keys: Keys::Known(data("keys.gpg")),
        };
        Puller::new(&self.store).from_origins(vec![origin], PATIENCE, MOST)
    }

    async fn pull(&self) -> Result<Image, ImageError> {
        let wanted = Wanted { what: "test-1", name: "mine", checksum: None };
        self.puller().pull(&wanted, &self.progress).await
    }

    async fn pulled_after(&self, acts: &[Act]) -> Vec<Option<String>> {
        self.server.next(acts);
        let image = self.pull().await.unwrap();
        assert_eq!(image.digest.to_string(), digest());
        self.assert_nothing_left();
        self.server.ranges("dir/disk.img")
    }

    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(self.left(), Vec::<PathBuf>::new());
    }
}

fn digest() -> String {
    let list = String::from_utf8(data("SHA256SUMS")).unwrap();
    Checksum::in_list(&list, "disk.img").unwrap().to_string()
}

fn from(at: usize) -> Option<String> {
    Some(format!("bytes={at}-"))
}

#[tokio::test]
async fn an_image_is_fetched_by_its_signed_list() {
    let setting = Setting::new().await;
    let image = setting.pull().await.unwrap();
    assert_eq!(image.digest.to_string(), digest());
    assert_eq!(
        (image.name.as_str(), image.virtual_size, image.has_agent),
        ("mine", 3 << 20, false)
    );
    assert_eq!(image.source, Source::Pulled { url: setting.server.url("dir/disk.img") });
    assert_eq!(setting.store.list().unwrap(), std::slice::from_ref(&image));
    assert_eq!(setting.store.verify(&image.digest).await.unwrap(), image);
    setting.assert_nothing_left();
    // The same again is the same image; so is its address.
    let by_address =
        Wanted { what: &setting.server.url("dir/disk.img"), name: "x", checksum: None };
    let again = setting.puller().pull(&by_address, &setting.progress).await.unwrap();
    assert_eq!(again, image);
    setting.store.remove(&image.digest).unwrap();
    setting.store.remove(&image.digest).unwrap();
    assert_eq!(setting.store.list().unwrap(), []);
    setting.assert_nothing_left();
}

#[tokio::test]
async fn a_connection_that_breaks_or_stalls_is_taken_up_where_it_ended() {
    let setting = Setting::new().await;
    let acts = [Act::Cut(MIB), Act::Status(503), Act::Stall(MIB / 2), Act::Cut(0)];
    let ranges = setting.pulled_after(&acts).await;
    let last = from(MIB + MIB / 2);
    assert_eq!(ranges, [None, from(MIB), from(MIB), last.clone(), last]);
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_is_read_from_the_beginning() {
    let setting = Setting::new().await;
    let ranges = setting.pulled_after(&[Act::Cut(MIB), Act::IgnoreRange]).await;
    assert_eq!(ranges, [None, from(MIB)]);
}

#[tokio::test]
async fn a_server_that_sends_another_part_or_file_is_found_out() {
    let setting = Setting::new().await;
    let ranges = setting.pulled_after(&[Act::Cut(MIB), Act::OtherPart]).await;
    assert_eq!(ranges, [None, from(MIB), None]);
    let setting = Setting::new().await;
    let ranges = setting.pulled_after(&[Act::Cut(MIB), Act::OtherFile]).await;
    assert_eq!(ranges, [None, from(MIB), None]);
    // One that lies from the beginning is believed nothing.
    let setting = Setting::new().await;
    setting.server.next(&[Act::OtherFile, Act::OtherFile, Act::OtherFile]);
    let error = setting.pull().await.unwrap_err();
    assert!(matches!(error, ImageError::WrongContent { .. }), "{error}");
    assert_eq!(setting.store.list().unwrap(), []);
    assert_eq!(fs::metadata(&setting.left()[0]).unwrap().len(), 0);
}

#[tokio::test]
async fn a_server_that_sends_too_much_is_cut_off() {
    let setting = Setting::new().await;
    setting.server.next(&[Act::Chunked(64 * MIB)]);
    let error = setting.pull().await.unwrap_err();
    assert!(error.to_string().contains("larger than the 16 MiB"), "{error}");
    assert_eq!(fs::metadata(&setting.left()[0]).unwrap().len(), 0);
    let setting = Setting::new().await;
    setting.server.serve("dir/disk.img", vec![1; 17 * MIB]);
    let error = setting.pull().await.unwrap_err();
    assert!(error.to_string().contains("larger than the 16 MiB"), "{error}");
    // Less than the limit, and not what it should be.
    let setting = Setting::new().await;
    setting.server.next(&[Act::Chunked(MIB), Act::Chunked(MIB)]);
    let error = setting.pull().await.unwrap_err();
    assert!(matches!(error, ImageError::WrongContent { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_gives_nothing_is_given_up_and_what_came_is_kept() {
    let setting = Setting::new().await;
    setting.server.next(&[Act::Cut(MIB)]);
    setting.server.next(&[Act::Status(500), Act::Status(502), Act::Status(503)]);
    let error = setting.pull().await.unwrap_err();
    assert!(error.to_string().contains("what has come is kept"), "{error}");
    assert_eq!(fs::metadata(&setting.left()[0]).unwrap().len(), MIB as u64);
    // Also by a program that was started anew.
    let store = ImageStore::open(setting.directory.path(), DiskTool::default()).unwrap();
    let setting = Setting { store, ..setting };
    let ranges = setting.pulled_after(&[]).await;
    assert_eq!(ranges.last().unwrap(), &from(MIB));
    let setting = Setting::new().await;
    setting.server.next(&[Act::Status(403)]);
    let error = setting.pull().await.unwrap_err();
    assert!(error.to_string().contains("it answers 403"), "{error}");
}

#[tokio::test]
async fn what_was_there_before_is_checked_with_the_rest() {
    let setting = Setting::new().await;
    setting.server.next(&[Act::Cut(MIB)]);
    setting.server.next(&[Act::Status(500), Act::Status(500), Act::Status(500)]);
    setting.pull().await.unwrap_err();
    // Somebody writes into what is kept.
    let partial = setting.left().remove(0);
    fs::write(&partial, vec![9; MIB]).unwrap();
    let ranges = setting.pulled_after(&[]).await;
    assert_eq!(ranges[ranges.len() - 2..], [from(MIB), None]);
    // All of it is there already.
    let setting = Setting::new().await;
    setting.server.next(&[Act::Cut(MIB)]);
    setting.server.next(&[Act::Status(500), Act::Status(500), Act::Status(500)]);
    setting.pull().await.unwrap_err();
    fs::write(setting.left().remove(0), content()).unwrap();
    let ranges = setting.pulled_after(&[]).await;
    assert_eq!(ranges.last().unwrap(), &from(3 * MIB));
    // More than there is.
    let setting = Setting::new().await;
    setting.server.next(&[Act::Cut(MIB)]);
    setting.server.next(&[Act::Status(500), Act::Status(500), Act::Status(500)]);
    setting.pull().await.unwrap_err();
    fs::write(setting.left().remove(0), vec![1; 4 * MIB]).unwrap();
    let ranges = setting.pulled_after(&[]).await;
    assert_eq!(ranges.last().unwrap(), &None);
}

#[tokio::test]
async fn a_list_that_is_not_signed_right_is_not_believed() {
    let setting = Setting::new().await;
    setting.server.serve("dir/SHA256SUMS.gpg", data("SHA256SUMS.other.gpg"));
    let error = setting.pull().await.unwrap_err();
    assert!(matches!(error, ImageError::BadSignature { .. }), "{error}");
    let setting = Setting::new().await;
    let mut list = data("SHA256SUMS");
    list[0] ^= 1;
    setting.server.serve("dir/SHA256SUMS", list);
    let error = setting.pull().await.unwrap_err();
    assert!(matches!(error, ImageError::BadSignature { .. }), "{error}");
    let setting = Setting::new().await;
    setting.server.serve("dir/SHA256SUMS.gpg", b"rubbish".to_vec());
    let error = setting.pull().await.unwrap_err();
    assert!(matches!(error, ImageError::BadSignature { .. }), "{error}");
    // A name that the list does not have.
    let setting = Setting::new().await;
    setting.server.serve("dir/unknown.img", content());
    let unknown = setting.server.url("dir/unknown.img");
    let wanted = Wanted { what: &unknown, name: "x", checksum: None };
    let error = setting.puller().pull(&wanted, &setting.progress).await.unwrap_err();
    assert!(matches!(error, ImageError::NotListed { .. }), "{error}");
    assert_eq!(setting.server.ranges("dir/unknown.img"), []);
    setting.assert_nothing_left();
}

#[tokio::test]
async fn what_nobody_vouches_for_needs_the_owners_word() {
    let setting = Setting::new().await;
    // Unsigned: the owner is told what the list says, and can pin it.
    setting.server.serve("bare/SHA256SUMS", data("SHA256SUMS"));
    setting.server.serve("bare/disk.img", content());
    let url = setting.server.url("bare/disk.img");
    let wanted = Wanted { what: &url, name: "x", checksum: None };
    let error = setting.puller().pull(&wanted, &setting.progress).await.unwrap_err();
    let hex = digest().replace("sha256:", "");
    assert!(error.to_string().contains(&format!("--sha256 {hex}")), "{error}");
    assert_eq!(setting.server.ranges("bare/disk.img"), []);
    let pinned = Wanted { checksum: Some(Checksum::parse(&hex).unwrap()), ..wanted.clone() };
    let image = setting.puller().pull(&pinned, &setting.progress).await.unwrap();
    assert_eq!(image.digest.to_string(), digest());
    // Nowhere at all.
    let elsewhere = Wanted { what: "http://127.0.0.1:9/disk.img", ..wanted.clone() };
    let error = setting.puller().pull(&elsewhere, &setting.progress).await.unwrap_err();
    assert!(matches!(error, ImageError::Unpinned(_)), "{error}");
    let nothing = Wanted { what: "file:///etc/passwd", ..wanted };
    let error = setting.puller().pull(&nothing, &setting.progress).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSource(..)), "{error}");
    setting.assert_nothing_left();
}

#[tokio::test]
async fn a_disk_that_is_refused_leaves_nothing() {
    let setting = Setting::new().await;
    let mut header = vec![0; 0x50000];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[15] = 0x70;
    header[19] = 11;
    let hash = Checksum::parse(&sha256(&header)).unwrap();
    setting.server.serve("evil.img", header.clone());
    let url = setting.server.url("evil.img");
    let wanted = Wanted { what: &url, name: "x", checksum: Some(hash) };
    let error = setting.puller().pull(&wanted, &setting.progress).await.unwrap_err();
    let refused = |error: &ImageError| {
        matches!(error, ImageError::Disk(DiskError::Refused { why: Refusal::BackingFile, .. }))
    };
    assert!(refused(&error), "{error}");
    setting.assert_nothing_left();
    let file = setting.directory.path().join("evil.qcow2");
    fs::write(&file, header).unwrap();
    let error = setting.puller().import(&file, "x", &setting.progress).await.unwrap_err();
    assert!(refused(&error), "{error}");
    setting.assert_nothing_left();
}

fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = std::process::Command::new("sha256sum").arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[tokio::test]
async fn a_file_of_the_owners_is_taken_in_any_format() {
    let setting = Setting::new().await;
    let raw = setting.directory.path().join("disk.raw");
    fs::write(&raw, content()).unwrap();
    let image = setting.puller().import(&raw, "one", &setting.progress).await.unwrap();
    assert_eq!(image.digest.to_string(), digest());
    assert_eq!(image.source, Source::Imported { file: "disk.raw".to_owned() });
    // The same content in another format is the same image.
    let compressed = setting.directory.path().join("disk.qcow2");
    let converted = std::process::Command::new("qemu-img")
        .args(["convert", "-c", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &compressed])
        .status();
    assert!(converted.unwrap().success());
    let again = setting.puller().import(&compressed, "two", &setting.progress).await.unwrap();
    assert_eq!(again, image);
    setting.assert_nothing_left();
}

#[tokio::test]
async fn an_image_that_changed_is_noticed() {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    let setting = Setting::new().await;
    let image = setting.pull().await.unwrap();
    assert_eq!(image.disk.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    setting.store.note_boot(&image.digest, 1234).unwrap();
    assert_eq!(setting.store.get(&image.digest).unwrap().unwrap().boot_millis, Some(1234));
    fs::set_permissions(&image.disk, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(&image.disk).unwrap();
    // The last byte of the file is content.
    let end = file.metadata().unwrap().len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, end).unwrap();
    file.write_all_at(&[!byte[0]], end).unwrap();
    let error = setting.store.verify(&image.digest).await.unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
    setting.assert_nothing_left();
}
