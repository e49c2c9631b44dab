//! Unix sockets in a directory whose path is too long for a socket address.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The longest path that fits into a socket address everywhere: `sun_path` has 108 bytes on Linux
/// and 104 elsewhere, with a zero at the end.
const LONGEST: usize = 100;

/// A path that names the socket and is short enough for a socket address.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Keeps the directory open while `path` goes through `/proc/self/fd`.
    _directory: Option<File>,
}

impl SocketPath {
    /// The path of the socket `name` in the directory `data_dir`.
    ///
    /// # Errors
    /// When the path is too long and can't be shortened: the directory can't be opened, or this is
    /// not Linux.
    pub fn new(data_dir: &Path, name: &str) -> io::Result<Self> {
        let path = data_dir.join(name);
        if path.as_os_str().len() <= LONGEST {
            return Ok(Self { path, _directory: None });
        }
        Self::shortened(data_dir, name)
    }

    #[cfg(target_os = "linux")]
    fn shortened(data_dir: &Path, name: &str) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let directory = File::open(data_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    #[cfg(not(target_os = "linux"))]
    fn shortened(data_dir: &Path, _name: &str) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the path {} is too long for a socket, choose a data directory with a shorter one",
                data_dir.display()
            ),
        ))
    }

    /// The path to bind or connect to, valid while this value lives.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_long_path_can_be_bound_and_connected() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a".repeat(90)).join("b".repeat(90));
        std::fs::create_dir_all(&deep).unwrap();
        let path = SocketPath::new(&deep, "a.sock").unwrap();
        assert!(path.as_path().as_os_str().len() <= LONGEST);
        let _listener = std::os::unix::net::UnixListener::bind(path.as_path()).unwrap();
        assert!(deep.join("a.sock").exists());
        let again = SocketPath::new(&deep, "a.sock").unwrap();
        std::os::unix::net::UnixStream::connect(again.as_path()).unwrap();
    }
}
