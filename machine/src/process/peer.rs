//! A Unix socket, and who has to be at its other end.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::UnixStream;

use super::ProcessIdentity;

/// A socket in a directory that another, less trusted process may write to. It could have put anything there
/// under that name, say a link to a socket of somebody else's; so whoever answers has to be that very process.
#[derive(Debug)]
pub struct Peer<'a> {
    directory: &'a Path,
    name: &'a str,
    process: &'a ProcessIdentity,
}

impl<'a> Peer<'a> {
    /// The socket `name` in `directory`, made by `process`.
    #[must_use]
    pub const fn new(directory: &'a Path, name: &'a str, process: &'a ProcessIdentity) -> Self {
        Self { directory, name, process }
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    /// Connects, and proves who answers.
    ///
    /// # Errors
    /// When nobody answers there, or another process does.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        // The path of a socket is 107 bytes at most (unix(7)), which a data directory may well be longer than.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let directory = openat(CWD, self.directory, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), self.name);
        let stream = UnixStream::connect(short).await?;
        let answering = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if answering != Some(self.process.pid) || !self.process.alive()? {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("not process {} answers there, but {answering:?}", self.process.pid),
            ));
        }
        Ok(stream)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn only_the_process_that_was_meant_is_spoken_to() {
        let directory = tempfile::tempdir().unwrap();
        // Longer than a socket's path may be.
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(Peer::new(&deep, "s", &me).connect().await.is_err(), "nobody is there");
        let bound = directory.path().join("s");
        let _listener = UnixListener::bind(&bound).unwrap();
        std::fs::rename(&bound, deep.join("s")).unwrap();
        assert!(Peer::new(&deep, "s", &me).connect().await.is_ok());
        let init = ProcessIdentity::of(1).unwrap();
        let refused = Peer::new(&deep, "s", &init).connect().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let earlier = ProcessIdentity { start: me.start + 1, ..me };
        assert!(Peer::new(&deep, "s", &earlier).connect().await.is_err());
    }
}
