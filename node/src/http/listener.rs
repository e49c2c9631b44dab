//! Accepting connections: capped, with deadlines, ended gracefully.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address_shares::AddressShares;
use super::connection::WriteDeadline;
use super::opening;
use super::peer::Peer;
use super::problem::too_many_connections;
use super::service::HttpService;

/// Refusals being written at once; beyond that connections are dropped without a word.
const MAX_REFUSALS: usize = 64;
/// Time for one refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses after accept errors, doubling between these.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why a service can't listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port is in use.
    #[error(
        "port {port} on {host} is taken by another program; find it with `ss -ltnp 'sport = :{port}'` \
         and stop it, or choose another port"
    )]
    Taken {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// The port may not be used by this user.
    #[error("this user may not listen on port {0}; choose one above 1023")]
    Forbidden(u16),
    /// Anything else.
    #[error("can't listen on {host} port {port}: {source}")]
    Io {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Listens on `host` (an address or a name of this machine) and `port`; 0 lets the system choose.
///
/// # Errors
/// [`BindError`].
pub async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    TcpListener::bind((bare, port)).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { host: host.to_owned(), port },
        io::ErrorKind::PermissionDenied if port < 1024 => BindError::Forbidden(port),
        _ => BindError::Io { host: host.to_owned(), port, source },
    })
}

/// What connections come from.
trait Accept: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept_peer(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;

    /// The address at which a connection over TCP was accepted.
    fn here(_: &Self::Stream) -> Option<SocketAddr> {
        None
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept_peer(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, address) = self.accept().await?;
        // Replies are small and whole: waiting to fill packets only delays them.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::tcp(address)))
    }

    fn here(stream: &Self::Stream) -> Option<SocketAddr> {
        stream.local_addr().ok()
    }
}

#[cfg(unix)]
impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept_peer(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, _) = self.accept().await?;
        let credentials = stream.peer_cred().ok();
        let (uid, pid) = (credentials.map(|c| c.uid()), credentials.and_then(|c| c.pid()));
        Ok((stream, Peer::Local(super::peer::LocalPeer { uid, pid })))
    }
}

impl HttpService {
    /// Serves on `listener` until `shutdown`, then lets open requests finish for
    /// `drain_timeout` and returns.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        self.accept_loop(listener, &shutdown).await;
    }

    /// [`HttpService::serve`] on a Unix socket.
    #[cfg(unix)]
    pub async fn serve_unix(self, listener: tokio::net::UnixListener, shutdown: CancellationToken) {
        self.accept_loop(listener, &shutdown).await;
    }

    async fn accept_loop<A: Accept + 'static>(self, listener: A, shutdown: &CancellationToken) {
        let limits = self.inner.limits;
        let slots = Arc::new(Semaphore::new(limits.max_connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let addresses = AddressShares::new(limits.max_connections_per_address);
        let connections = TaskTracker::new();
        // Cancelled when the time for draining is over.
        let abort = CancellationToken::new();
        let mut pause = BACK_OFF.0;
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept_peer() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: accepting again at once would spin.
                    tracing::warn!(
                        "can't accept a connection: {error}; waiting {} ms",
                        pause.as_millis()
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(BACK_OFF.1);
                    continue;
                }
            };
            pause = BACK_OFF.0;
            // A proxy carries the connections of many.
            let counted = peer.bucket().filter(|_| !self.inner.is_proxy(peer));
            // The fewer places are left, the fewer of them one address gets: the last ones are for
            // those who have none.
            let share = addresses.enter_below(slots.available_permits() / 8, counted);
            let slot = Arc::clone(&slots).try_acquire_owned();
            match (share, slot) {
                (Some(share), Ok(slot)) => {
                    let connection = self.clone().connection::<A>(stream, peer, shutdown.clone());
                    let abort = abort.clone();
                    connections.spawn(async move {
                        let _held = (share, slot);
                        tokio::select! {
                            () = abort.cancelled() => {}
                            () = connection => {}
                        }
                    });
                }
                (share, _) => {
                    let detail = if share.is_none() {
                        "your address has too many connections open here; close some and try again"
                    } else {
                        "this server has as many connections as it can serve; try again"
                    };
                    tracing::debug!(%peer, "connection refused: {detail}");
                    if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                        connections.spawn(async move {
                            let _held = permit;
                            let _ =
                                tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, detail)).await;
                        });
                    }
                }
            }
        }
        // From here on connecting is refused, not left waiting.
        drop(listener);
        connections.close();
        // They would not end by themselves.
        self.inner.streams.end();
        self.inner.handlers.close();
        let drained = async {
            connections.wait().await;
            self.inner.handlers.wait().await;
        };
        if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
            tracing::warn!(
                "{} connections and {} requests did not end within {} s and are cut",
                connections.len(),
                self.inner.handlers.len(),
                limits.drain_timeout.as_secs_f32()
            );
            abort.cancel();
            connections.wait().await;
        }
    }

    /// One connection, to its end.
    async fn connection<A: Accept + 'static>(
        self,
        stream: A::Stream,
        peer: Peer,
        shutdown: CancellationToken,
    ) {
        let opening = self.inner.opening.clone();
        let (Some(opening), Some(here)) = (opening, A::here(&stream)) else {
            return self.http(stream, peer, shutdown).await;
        };
        let passed = opening::pass(stream, here, &*opening);
        tokio::select! {
            () = shutdown.cancelled() => {}
            passed = tokio::time::timeout(self.inner.limits.header_timeout, passed) => match passed {
                Ok(Ok(Some(stream))) => self.http(stream, peer, shutdown).await,
                Ok(Ok(None)) => tracing::debug!(%peer, "connection answered, not HTTP"),
                Ok(Err(error)) => tracing::debug!(%peer, "connection ended: {error}"),
                Err(_) => tracing::debug!(%peer, "connection ended: it said nothing in time"),
            }
        }
    }

    /// The HTTP on one connection.
    async fn http<S>(self, stream: S, peer: Peer, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.inner.limits;
        let stream = TokioIo::new(WriteDeadline::new(stream, limits.write_timeout));
        let service = service_fn(move |request| {
            let service = self.clone();
            async move { Ok::<_, std::convert::Infallible>(service.answer(request, peer).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(limits.max_headers)
            .max_buf_size(limits.max_headers.max(8192) + 8192);
        let connection = builder.serve_connection(stream, service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "connection ended: {error}");
        }
    }
}

/// Tells the peer that there is no room, once it has begun to ask: a reply before any request
/// confuses clients. Lets it read that before the connection is closed.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, detail: &str) -> io::Result<()> {
    let mut sink = [0; 1024];
    if stream.read(&mut sink).await? == 0 {
        return Ok(());
    }
    stream.write_all(&too_many_connections(detail)).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection, and the reply with it.
    let mut left: usize = 64 * 1024;
    while left > 0 {
        match stream.read(&mut sink).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind("127.0.0.1", 0).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind("127.0.0.1", port).await.unwrap_err().to_string();
        assert!(error.contains("is taken by another program"), "{error}");
    }
}
