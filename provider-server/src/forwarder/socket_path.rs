//! The control socket's place, and how to reach it when its path is too long for the system.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The control socket's name in the data directory.
pub const SOCKET_NAME: &str = "forwarder.sock";

/// The longest path that fits into a socket address everywhere: `sun_path` has 108 bytes on Linux
/// and 104 elsewhere, with a zero at the end.
const LONGEST: usize = 100;

/// A path that names the socket and is short enough for a socket address.
pub(super) struct SocketPath {
    path: PathBuf,
    /// Keeps the directory open while `path` goes through `/proc/self/fd`.
    _directory: Option<File>,
}

impl SocketPath {
    /// The path of the socket in a data directory.
    ///
    /// # Errors
    /// When the path is too long and can't be shortened.
    pub(super) fn new(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET_NAME);
        if path.as_os_str().len() <= LONGEST {
            return Ok(Self { path, _directory: None });
        }
        Self::shortened(data_dir)
    }

    #[cfg(target_os = "linux")]
    fn shortened(data_dir: &Path) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let directory = File::open(data_dir)?;
        let path =
            PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(SOCKET_NAME);
        Ok(Self { path, _directory: Some(directory) })
    }

    #[cfg(not(target_os = "linux"))]
    fn shortened(data_dir: &Path) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the path {} is too long for a socket, choose a data directory with a shorter one",
                data_dir.display()
            ),
        ))
    }

    /// The path to bind or connect to, valid while this value lives.
    pub(super) fn as_path(&self) -> &Path {
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
        let path = SocketPath::new(&deep).unwrap();
        assert!(path.as_path().as_os_str().len() <= LONGEST);
        let _listener = std::os::unix::net::UnixListener::bind(path.as_path()).unwrap();
        assert!(deep.join(SOCKET_NAME).exists());
        let again = SocketPath::new(&deep).unwrap();
        std::os::unix::net::UnixStream::connect(again.as_path()).unwrap();
    }
}
