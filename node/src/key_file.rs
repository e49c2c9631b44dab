//! The file that holds a program's identity.
//!
//! One line of text: `golem-ed25519-secret:` and the 32 secret bytes of RFC 8032 in base64url
//! without padding (43 characters). Mode 0600. Made on first use; never overwritten. Whoever has a
//! copy of it is this party, and there is no way to make the same one again: back it up.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use golem_vm_protocol::KeyPair;

use crate::data_dir::private;

/// What the line begins with.
const PREFIX: &str = "golem-ed25519-secret:";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others can read it.
    #[error(
        "other users can read the key {path} (mode {mode:04o}); if nobody has copied it run \
         `chmod 600 {path}`, otherwise move it away and start again: a new identity is made",
        path = .0.display(),
        mode = .1
    )]
    ReadableByOthers(PathBuf, u32),
    /// It holds something else.
    #[error(
        "{} does not hold a key ({reason}); restore it from a backup, or move it away and start again: \
         a new identity is made",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something the operating system refused.
    #[error("can't {action} the key {}: {source}", path.display())]
    Io {
        /// "read", "create", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("can't make a key: {0}")]
    Random(getrandom::Error),
}

/// Reads the key at `path`, or makes one there. Two processes that start at once end up with the
/// same key: the file appears complete or not at all, and the second maker takes the first's.
///
/// # Errors
/// [`KeyFileError`].
pub fn load_or_create(path: &Path) -> Result<KeyPair, KeyFileError> {
    match load(path)? {
        Some(key) => Ok(key),
        None => create(path),
    }
}

/// Reads the key at `path`; `None` when there is no such file.
///
/// # Errors
/// [`KeyFileError`].
pub fn load(path: &Path) -> Result<Option<KeyPair>, KeyFileError> {
    let io = |source| KeyFileError::Io { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        // Of the open file, not of the path: nobody can swap it in between.
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::ReadableByOthers(path.to_owned(), mode));
        }
    }
    let mut text = String::new();
    match file.take(1024).read_to_string(&mut text) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::InvalidData => {
            return Err(KeyFileError::Malformed {
                path: path.to_owned(),
                reason: "it is not text",
            });
        }
        Err(e) => return Err(io(e)),
    }
    decode(&text)
        .map(Some)
        .map_err(|reason| KeyFileError::Malformed { path: path.to_owned(), reason })
}

fn create(path: &Path) -> Result<KeyPair, KeyFileError> {
    let io = |source| KeyFileError::Io { action: "create", path: path.to_owned(), source };
    let key = KeyPair::generate().map_err(KeyFileError::Random)?;
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(KeyFileError::Random)?;
    let suffix: String = suffix.iter().map(|byte| format!("{byte:02x}")).collect();
    let temporary = path.with_extension(format!("new-{suffix}"));

    let written = (|| {
        let mut file = private(OpenOptions::new().write(true).create_new(true)).open(&temporary)?;
        file.write_all(encode(&key).as_bytes())?;
        file.sync_all()?;
        // A link, unlike a rename, never replaces a key that another process made meanwhile.
        fs::hard_link(&temporary, path)
    })();
    let _ = fs::remove_file(&temporary);
    match written {
        Ok(()) => {
            sync_directory(path);
            Ok(key)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            load(path)?.ok_or_else(|| io(std::io::Error::from(ErrorKind::NotFound)))
        }
        Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            // A file system without links: create in place, still never over another one.
            create_in_place(path, &key).map_err(io)?;
            Ok(key)
        }
        Err(e) => Err(io(e)),
    }
}

fn create_in_place(path: &Path, key: &KeyPair) -> std::io::Result<()> {
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(encode(key).as_bytes())?;
    file.sync_all()
}

/// Makes the new name survive a power cut. Best effort: not every file system can.
fn sync_directory(path: &Path) {
    if let Some(directory) = path.parent().and_then(|parent| File::open(parent).ok()) {
        let _ = directory.sync_all();
    }
}

pub(crate) fn encode(key: &KeyPair) -> String {
    format!("{PREFIX}{}\n", BASE64URL_NOPAD.encode(&key.secret_bytes()))
}

pub(crate) fn decode(text: &str) -> Result<KeyPair, &'static str> {
    let line = text.trim();
    let encoded =
        line.strip_prefix(PREFIX).ok_or("it does not begin with golem-ed25519-secret:")?;
    let bytes = BASE64URL_NOPAD
        .decode(encoded.as_bytes())
        .map_err(|_| "what follows the colon is not base64url")?;
    let secret = <[u8; 32]>::try_from(bytes).map_err(|_| "a secret has 32 bytes")?;
    KeyPair::from_secret_bytes(secret).map_err(|_| "its bytes are no usable key")
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn it_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(load(&path).unwrap().is_none());
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap().id(), made.id());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing temporary is left");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(PREFIX) && text.len() == PREFIX.len() + 44);
    }

    #[test]
    fn makers_at_once_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create(&path).unwrap().id())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn one_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("0640"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in [
            "",
            "x",
            "golem-ed25519-secret:AAAA",
            "golem-ed25519-secret:!",
            "golem-ed25519-secret:ü",
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(load_or_create(&path), Err(KeyFileError::Malformed { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyFileError::Malformed { .. })));
    }
}
