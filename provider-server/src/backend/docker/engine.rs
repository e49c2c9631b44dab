//! Calls to the engine: each with a deadline, and with failures told apart.
//!
//! A connection is made for every call, so that an engine that was restarted is found again
//! without further ado. (A call over a Unix socket costs a millisecond, connecting included.)

use std::error::Error as _;
use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt};
use golem_vm_protocol::text::printable;

use super::endpoint::{Address, Endpoint};
use crate::backend::BackendError;

/// For calls that only read.
pub(super) const QUERY: Duration = Duration::from_secs(20);
/// For calls that change something.
pub(super) const CHANGE: Duration = Duration::from_secs(90);
/// How long a build or a pull may be silent.
const SILENCE: Duration = Duration::from_secs(600);

/// Seconds after which bollard itself gives up. Every call has a shorter deadline of its own.
const CLIENT_TIMEOUT: u64 = 3600;

/// Longest message of the engine that is passed on, in characters.
const MESSAGE_CHARS: usize = 600;

/// What engines say of what is not there: Docker, and Podman where it differs.
const NOT_THERE: [&str; 4] = ["no such ", "not known", "unable to find", "network "];

/// What an engine says, with status 500, of calls that were under way when it, or the containerd behind it,
/// went down.
const GOING_DOWN: [&str; 7] = [
    "containerd.sock",
    "transport is closing",
    "client connection is closing",
    "ttrpc: closed",
    "code = unavailable",
    "daemon is shutting down",
    "context canceled",
];

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// The engine could not be asked.
    Unavailable(String),
    /// It answered with an error.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words, made printable.
        message: String,
    },
    /// It answered, and its stream of progress ended in an error, or can't be understood.
    Failed(String),
}

impl CallError {
    /// Whether the engine said that there is no such thing. The status alone does not say so: whatever else
    /// listens on that address has nothing under these paths either.
    pub(super) fn is_not_found(&self) -> bool {
        let Self::Refused { status: 404, message } = self else { return false };
        let message = message.to_lowercase();
        NOT_THERE.iter().any(|words| message.contains(words))
    }

    /// Whether the engine said that it is in the way of something else.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// Whether the engine's words contain `text`.
    pub(super) fn says(&self, text: &str) -> bool {
        match self {
            Self::Unavailable(_) => false,
            Self::Refused { message, .. } | Self::Failed(message) => message.contains(text),
        }
    }

    /// As the backend's error; `what` was attempted, as in "can't create the network x".
    pub(super) fn into_backend(self, what: &str) -> BackendError {
        match self {
            Self::Unavailable(text) => BackendError::Unavailable(text),
            Self::Refused { message, .. } | Self::Failed(message) => {
                BackendError::Failed(format!("{what}: {message}"))
            }
        }
    }
}

/// One engine.
#[derive(Debug)]
pub(super) struct Engine {
    endpoint: Endpoint,
}

impl Engine {
    pub(super) const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Makes one call, which has to be done by `deadline`.
    pub(super) async fn call<T, F>(
        &self,
        deadline: Duration,
        make: impl FnOnce(Docker) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let docker = self.connect()?;
        match tokio::time::timeout(deadline, Box::pin(make(docker))).await {
            Ok(answer) => answer.map_err(|error| self.told_apart(error)),
            Err(_) => Err(self.silent(deadline)),
        }
    }

    /// A client, for a call whose answer comes in pieces; see [`Self::pieces`].
    pub(super) fn client(&self) -> Result<Docker, CallError> {
        self.connect()
    }

    /// An answer that comes in pieces. It may take as long as it wants to, but not be silent for
    /// longer than [`SILENCE`].
    pub(super) fn pieces<'a, T>(
        &'a self,
        stream: impl Stream<Item = Result<T, Error>> + Send + 'a,
    ) -> Pieces<'a, T> {
        Pieces { engine: self, stream: Box::pin(stream) }
    }

    fn connect(&self) -> Result<Docker, CallError> {
        match &self.endpoint.address {
            Address::Unix(path) => Docker::connect_with_unix(
                &path.to_string_lossy(),
                CLIENT_TIMEOUT,
                API_DEFAULT_VERSION,
            ),
            Address::Tcp(authority) => {
                Docker::connect_with_http(authority, CLIENT_TIMEOUT, API_DEFAULT_VERSION)
            }
        }
        .map_err(|error| self.told_apart(error))
    }

    fn told_apart(&self, error: Error) -> CallError {
        match error {
            // An engine that is shutting down, or a proxy before one that is not there.
            Error::DockerResponseServerError { status_code, message }
                if is_going_down(status_code, &message) =>
            {
                self.unavailable(&printable(message.trim(), MESSAGE_CHARS))
            }
            Error::DockerResponseServerError { status_code: 404, message }
                if message.to_lowercase().contains("page not found")
                    || message.trim_start().starts_with('<') =>
            {
                self.unavailable("what listens there is no Docker Engine")
            }
            Error::DockerResponseServerError { status_code, message } => CallError::Refused {
                status: status_code,
                message: printable(message.trim(), MESSAGE_CHARS),
            },
            Error::DockerStreamError { error } => {
                CallError::Failed(printable(error.trim(), MESSAGE_CHARS))
            }
            Error::SocketNotFoundError(_) => self.no_connection(ErrorKind::NotFound, ""),
            Error::RequestTimeoutError => self.silent(Duration::from_secs(CLIENT_TIMEOUT)),
            error @ (Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }) => match io_cause(&error) {
                Some((kind, text)) => self.no_connection(kind, &text),
                None => self.unavailable(&root_cause(&error)),
            },
            other => {
                self.unavailable(&printable(&format!("its answer is not understood: {other}"), 300))
            }
        }
    }

    fn no_connection(&self, kind: ErrorKind, text: &str) -> CallError {
        match kind {
            ErrorKind::NotFound => self.unavailable("there is no such socket"),
            ErrorKind::ConnectionRefused => self.unavailable("nothing listens there"),
            ErrorKind::PermissionDenied => CallError::Unavailable(format!(
                "this user may not use the Docker Engine on {}: run as root, or add the user to \
                 the group that owns the socket (usually 'docker') and log in again",
                self.endpoint.address
            )),
            _ => self.unavailable(text),
        }
    }

    fn unavailable(&self, cause: &str) -> CallError {
        CallError::Unavailable(format!(
            "the Docker Engine does not answer on {}: {cause}. Is it running? Start it \
             ('systemctl start docker', or 'dockerd' where there is no systemd), or set DOCKER_HOST \
             to where it listens. ({} was chosen because {}.)",
            self.endpoint.address, self.endpoint.address, self.endpoint.reason
        ))
    }

    fn silent(&self, after: Duration) -> CallError {
        CallError::Unavailable(format!(
            "the Docker Engine on {} gave no answer within {} s; if this goes on, look at its log \
             and restart it",
            self.endpoint.address,
            after.as_secs()
        ))
    }
}

/// The pieces of one answer.
pub(super) struct Pieces<'a, T> {
    engine: &'a Engine,
    stream: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send + 'a>>,
}

impl<T> Pieces<'_, T> {
    /// The next piece, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<T>, CallError> {
        match tokio::time::timeout(SILENCE, self.stream.next()).await {
            Ok(Some(piece)) => piece.map(Some).map_err(|error| self.engine.told_apart(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(self.engine.silent(SILENCE)),
        }
    }
}

fn is_going_down(status: u16, message: &str) -> bool {
    let message = message.to_lowercase();
    matches!(status, 502..=504)
        || (status == 500 && GOING_DOWN.iter().any(|words| message.contains(words)))
}

fn io_cause(error: &Error) -> Option<(ErrorKind, String)> {
    let mut cause = error.source();
    if let Error::IOError { err } = error {
        return Some((err.kind(), err.to_string()));
    }
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some((io.kind(), io.to_string()));
        }
        cause = error.source();
    }
    None
}

fn root_cause(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn engine(address: Address) -> Engine {
        Engine::new(Endpoint { address, reason: "DOCKER_HOST names it".to_owned() })
    }

    async fn ping(engine: &Engine) -> Result<String, CallError> {
        engine.call(Duration::from_millis(300), |docker| async move { docker.ping().await }).await
    }

    #[tokio::test]
    async fn no_socket_and_no_listener_are_unavailable_with_what_to_do() {
        let absent = ping(&engine(Address::Unix("/nonexistent/docker.sock".into()))).await;
        let Err(CallError::Unavailable(text)) = absent else { panic!("{absent:?}") };
        assert_eq!(
            text,
            "the Docker Engine does not answer on unix:///nonexistent/docker.sock: there is no \
             such socket. Is it running? Start it ('systemctl start docker', or 'dockerd' where \
             there is no systemd), or set DOCKER_HOST to where it listens. \
             (unix:///nonexistent/docker.sock was chosen because DOCKER_HOST names it.)"
        );
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let refused = ping(&engine(Address::Unix(dead))).await;
        let Err(CallError::Unavailable(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("nothing listens there"), "{text}");
    }

    #[tokio::test]
    async fn silence_and_a_closed_connection_are_unavailable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = engine(Address::Tcp(listener.local_addr().unwrap().to_string()));
        let Err(CallError::Unavailable(text)) = ping(&silent).await else { panic!() };
        assert!(text.contains("gave no answer within"), "{text}");

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closing = engine(Address::Tcp(listener.local_addr().unwrap().to_string()));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        });
        let answer = ping(&closing).await;
        assert!(matches!(answer, Err(CallError::Unavailable(_))), "{answer:?}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_passed_on_in_printable_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = engine(Address::Tcp(listener.local_addr().unwrap().to_string()));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let body = "{\"message\":\"no \\u001b[31m\"}";
            let answer = format!(
                "HTTP/1.1 409 Conflict\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let error = ping(&refusing).await.unwrap_err();
        assert!(error.is_conflict());
        assert_eq!(
            error.into_backend("can't do it"),
            BackendError::Failed("can't do it: no \u{fffd}[31m".to_owned())
        );
        server.await.unwrap();
    }
}
