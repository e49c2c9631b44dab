//! HTTP over a Unix socket in the data directory: how the owner's commands speak to the running
//! service. Whoever may open the socket is the owner; it is 0600 in a directory that others can't
//! write to.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Url;
use tokio::net::UnixListener;

use crate::client::{Call, ClientError, Reply, builder, root_cause, send};

/// Longest path of a Unix socket, in bytes (`sun_path` holds 108, the last of them zero).
const MAX_PATH: usize = 107;
/// Largest reply that is read, in bytes.
const MAX_BODY: usize = 64 << 20;

/// Why the control socket can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The operating system's bound on socket paths.
    #[error("the path of the control socket is too long ({} bytes, at most {MAX_PATH}): {}; choose a shorter data directory", .0.as_os_str().len(), .0.display())]
    PathTooLong(PathBuf),
    /// Somebody listens on it already.
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something the operating system refused.
    #[error("can't use the control socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The listening socket; removed from the file system when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Listens on `path` with mode 0600. A socket that a dead process has left there is replaced;
    /// call this only while holding the lock of the data directory.
    ///
    /// Keep the first half while the second is served (see
    /// [`HttpService::serve_unix`](crate::http::HttpService::serve_unix)).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), ControlError> {
        let io = |source| ControlError::Io { path: path.to_owned(), source };
        check_length(path)?;
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ControlError::InUse(path.to_owned())),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            // Left behind: nobody accepts any more.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(io)?
            }
            Err(e) => return Err(io(e)),
        }
        let listener = UnixListener::bind(path).map_err(io)?;
        // Between these two lines the directory's mode protects it.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        Ok((Self { path: path.to_owned() }, listener))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn check_length(path: &Path) -> Result<(), ControlError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(ControlError::PathTooLong(path.to_owned()));
    }
    Ok(())
}

/// Calls the service behind a control socket.
#[derive(Debug, Clone)]
pub struct ControlClient {
    http: reqwest::Client,
    shown: String,
}

impl ControlClient {
    /// A client for the socket at `path`, or `None` when no service listens there. The one place
    /// that tells "not running" from "broken".
    ///
    /// # Errors
    /// [`ControlError`] when the socket is there and can't be used.
    pub async fn connect(path: &Path) -> Result<Option<Self>, ControlError> {
        let io = |source| ControlError::Io { path: path.to_owned(), source };
        check_length(path)?;
        match tokio::net::UnixStream::connect(path).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(io(e)),
        }
        let http = builder()
            .unix_socket(path)
            .build()
            .map_err(|e| io(io::Error::other(root_cause(&e))))?;
        Ok(Some(Self { http, shown: path.display().to_string() }))
    }

    /// Sends a request to the service.
    ///
    /// # Errors
    /// [`ClientError`]; a reply with an error status is no error here, see [`Reply::json`].
    pub async fn call(&self, call: &Call<'_>) -> Result<Reply, ClientError> {
        let url = Url::parse(&format!("http://localhost{}", call.path()))
            .map_err(|e| ClientError::Request(e.to_string()))?;
        send(&self.http, &self.shown, url, call, Vec::new(), MAX_BODY).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt as _;

    use axum::Router;
    use axum::extract::Extension;
    use axum::routing::get;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::{HttpLimits, HttpService, LocalPeer};

    #[tokio::test]
    async fn the_owner_is_answered_over_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        assert!(ControlClient::connect(&path).await.unwrap().is_none());
        // One that a dead process left behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(ControlClient::connect(&path).await.unwrap().is_none());

        let (socket, listener) = ControlSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(ControlSocket::bind(&path), Err(ControlError::InUse(_))));
        let who = async |peer: Extension<LocalPeer>| format!("{:?}", peer.uid.unwrap());
        let service =
            HttpService::unsigned(Router::new().route("/who", get(who)), HttpLimits::default());
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let serving = tokio::spawn(service.serve_unix(listener, stop));

        let client = ControlClient::connect(&path).await.unwrap().unwrap();
        let reply = client.call(&Call::get("/who")).await.unwrap();
        assert_eq!(reply.body, rustix::process::getuid().as_raw().to_string());
        let missing = client.call(&Call::get("/nothing")).await.unwrap();
        assert_eq!(missing.problem().code, golem_vm_protocol::ErrorCode::NotFound);
        shutdown.cancel();
        serving.await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_explained() {
        let path = PathBuf::from(format!("/{}", "x".repeat(120)));
        let error = ControlSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("shorter data directory"), "{error}");
    }
}
