//! HTTP over a Unix socket in the data directory: how the owner's commands speak to the running
//! service. Whoever may open the socket is the owner; it is 0600 in a directory that others can't
//! write to.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;
use tokio::net::UnixListener;

use crate::client::{Call, ClientError, Reply, builder, root_cause, send};
use crate::socket_path::SocketPath;

/// Largest reply that is read, in bytes.
const MAX_BODY: usize = 64 << 20;

/// Why the control socket can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
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
        let reachable = reachable(path).map_err(io)?;
        match std::os::unix::net::UnixStream::connect(reachable.as_path()) {
            Ok(_) => return Err(ControlError::InUse(path.to_owned())),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            // Left behind: nobody accepts any more.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(io)?
            }
            Err(e) => return Err(io(e)),
        }
        let listener = UnixListener::bind(reachable.as_path()).map_err(io)?;
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

/// A path to the same socket that fits into a socket address, however long `path` is.
fn reachable(path: &Path) -> io::Result<SocketPath> {
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(directory), Some(name)) => SocketPath::new(directory, name),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "not the path of a file")),
    }
}

/// Calls the service behind a control socket.
#[derive(Debug, Clone)]
pub struct ControlClient {
    http: reqwest::Client,
    shown: String,
    // The client connects by this path whenever it has no open connection.
    _reachable: Arc<SocketPath>,
}

impl ControlClient {
    /// A client for the socket at `path`, or `None` when no service listens there. The one place
    /// that tells "not running" from "broken".
    ///
    /// # Errors
    /// [`ControlError`] when the socket is there and can't be used.
    pub async fn connect(path: &Path) -> Result<Option<Self>, ControlError> {
        let io = |source| ControlError::Io { path: path.to_owned(), source };
        let reachable = match reachable(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io)?,
        };
        match tokio::net::UnixStream::connect(reachable.as_path()).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(io(e)),
        }
        let http = builder()
            .unix_socket(reachable.as_path())
            .build()
            .map_err(|e| io(io::Error::other(root_cause(&e))))?;
        Ok(Some(Self { http, shown: path.display().to_string(), _reachable: Arc::new(reachable) }))
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

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_path_that_is_too_long_for_a_socket_works_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        assert!(ControlClient::connect(&deep.join("control.sock")).await.unwrap().is_none());
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("control.sock");
        let (socket, listener) = ControlSocket::bind(&path).unwrap();
        let service = HttpService::unsigned(
            Router::new().route("/", get(async || "here")),
            HttpLimits::default(),
        );
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(service.serve_unix(listener, shutdown.clone()));
        let client = ControlClient::connect(&path).await.unwrap().unwrap();
        assert_eq!(client.call(&Call::get("/")).await.unwrap().body, "here");
        shutdown.cancel();
        serving.await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }
}
