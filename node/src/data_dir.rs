//! The directory a program keeps its state in: key, database, lock, control socket.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// As many characters as a pid can have.
const PID_WIDTH: usize = 10;

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The platform names no home directory for this user.
    #[error("this user has no home directory, so there is no default data directory; set {0}")]
    NoHome(String),
    /// Something the operating system refused.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "create", "open", …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// There is something else at that path.
    #[error("{} is not a directory; name another data directory or move it away", .0.display())]
    NotADirectory(PathBuf),
    /// Other users can write into it, so they could plant a key or a database.
    #[error(
        "other users can write to {path}, so nothing secret can be kept in it; \
         run `chmod 700 {path}` if it is yours alone, or name another data directory",
        path = .0.display()
    )]
    WritableByOthers(PathBuf),
    /// Another process has it.
    #[error(
        "{} is in use by {}; stop that one first, or start this one with another data directory",
        path.display(),
        holder(*pid)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("another process (pid {pid})"))
}

/// A data directory that exists and that other users can't write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The default directory of `service`: the platform's data directory + `golem/<service>`
    /// (on Linux `$XDG_DATA_HOME` or `~/.local/share`). `setting` is named when there is none.
    ///
    /// # Errors
    /// [`DataDirError::NoHome`].
    pub fn default_path(service: &str, setting: &str) -> Result<PathBuf, DataDirError> {
        let dirs =
            directories::BaseDirs::new().ok_or_else(|| DataDirError::NoHome(setting.to_owned()))?;
        Ok(dirs.data_local_dir().join("golem").join(service))
    }

    /// Makes sure that `path` is a directory of ours: creates it with mode 0700 (its parents with
    /// 0755 at most), and refuses one that other users can write to. A directory that exists
    /// keeps its mode: it may be shared for reading on purpose, and each file in it is 0600.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |action, source| DataDirError::Io { action, path: path.to_owned(), source };
        let path = &std::path::absolute(path).map_err(|e| io("resolve", e))?;
        if let Some(parent) = path.parent() {
            create_parents(parent).map_err(|e| io("create", e))?;
        }
        match create_private(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io("create", e)),
            _ => {}
        }
        let metadata = fs::metadata(path).map_err(|e| io("look at", e))?;
        if !metadata.is_dir() {
            return Err(DataDirError::NotADirectory(path.clone()));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            if metadata.mode() & 0o022 != 0 {
                return Err(DataDirError::WritableByOthers(path.clone()));
            }
        }
        Ok(Self { path: path.clone() })
    }

    /// [`DataDir::open`] of `explicit` if given, else of the default for `service`.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn resolve(
        explicit: Option<&Path>,
        service: &str,
        setting: &str,
    ) -> Result<Self, DataDirError> {
        match explicit {
            Some(path) => Self::open(path),
            None => Self::open(&Self::default_path(service, setting)?),
        }
    }

    /// The directory, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity key: `key`.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.path.join("key")
    }

    /// The database: `state.db`.
    #[must_use]
    pub fn state_db(&self) -> PathBuf {
        self.path.join("state.db")
    }

    /// The requests that were served and would pass for new after a restart: `served`.
    #[must_use]
    pub fn served_requests(&self) -> PathBuf {
        self.path.join("served")
    }

    /// The owner's socket: `control.sock`.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Takes the directory for this process; see [`DataDirLock`].
    ///
    /// # Errors
    /// [`DataDirError::InUse`] when another process has it.
    pub fn lock(&self) -> Result<DataDirLock, DataDirError> {
        DataDirLock::acquire(&self.path)
    }
}

/// The platform's config file of `service`: config directory + `golem/<service>.toml`
/// (on Linux `$XDG_CONFIG_HOME` or `~/.config`). `None` for a user without a home.
#[must_use]
pub fn config_file(service: &str) -> Option<PathBuf> {
    let dirs = directories::BaseDirs::new()?;
    Some(dirs.config_dir().join("golem").join(format!("{service}.toml")))
}

/// The exclusive right to a data directory: an advisory lock on its file `lock`, held until this
/// value is dropped or the process ends in whatever way. The file stays and holds the pid of the
/// last holder, for the message to the second one.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes the lock of the directory `path`, or refuses at once.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] with the holder's pid; [`DataDirError::Io`].
    pub fn acquire(path: &Path) -> Result<Self, DataDirError> {
        let lock = path.join("lock");
        let io = |action, source| DataDirError::Io { action, path: lock.clone(), source };
        // Not truncated on opening: until the lock is ours, the pid in it is the holder's.
        let mut file =
            private(OpenOptions::new().read(true).write(true).create(true).truncate(false))
                .open(&lock)
                .map_err(|e| io("open", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Unreadable (other platforms lock the content too) means only an unnamed holder.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(DataDirError::InUse {
                    path: path.to_owned(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(io("lock", e)),
        }
        // Over what stood there, and as long as that: so it needs no room on a full disk.
        file.seek(SeekFrom::Start(0))
            .and_then(|_| writeln!(file, "{:<PID_WIDTH$}", std::process::id()))
            .map_err(|e| io("write", e))?;
        Ok(Self { _file: file })
    }
}

#[cfg(unix)]
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Whoever could write to a directory above could put another one in the place of ours.
#[cfg(unix)]
fn create_parents(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

#[cfg(not(unix))]
fn create_parents(path: &Path) -> std::io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(not(unix))]
fn create_private(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

/// Makes files that `options` creates readable by their owner only, where modes exist.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[cfg(unix)]
    fn chmod(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn it_is_made_for_the_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&root.path().join("a/b")).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(dir.key_path(), root.path().join("a/b/key"));
        assert_eq!(DataDir::open(dir.path()).unwrap(), dir);
    }

    #[test]
    fn one_that_others_can_write_to_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        chmod(root.path(), 0o777);
        let error = DataDir::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        assert_eq!(mode(root.path()), 0o777);
        chmod(root.path(), 0o755);
        DataDir::open(root.path()).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("f");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::open(&file), Err(DataDirError::NotADirectory(_))));
    }

    #[test]
    fn a_second_holder_is_told_who_has_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        let held = dir.lock().unwrap();
        let error = dir.lock().unwrap_err();
        assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
        assert_eq!(mode(&root.path().join("lock")), 0o600);
        drop(held);
        dir.lock().unwrap();
    }
}
