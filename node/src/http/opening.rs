//! A port that answers something else than HTTP as well, told apart by the first bytes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Most bytes that are looked at before it has to be clear what they are.
const MAX_OPENING: usize = 256;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// HTTP, or nothing that is known here: whatever it is, the service answers it.
    Http,
    /// Too few bytes to tell.
    More,
    /// Something else, with its answer; empty for none. The connection is closed after it.
    Answered(Vec<u8>),
}

/// Judges the first bytes of each connection over TCP, in front of HTTP.
pub trait Opening: fmt::Debug + Send + Sync + 'static {
    /// What `received`, the bytes so far, are on the connection that was accepted at `here`.
    /// Called again with more after [`Opened::More`].
    fn judge(&self, here: SocketAddr, received: &[u8]) -> Opened;
}

/// Reads until it is clear what the connection is. `None` when it was answered here.
///
/// # Errors
/// When the connection breaks.
pub(super) async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    here: SocketAddr,
    opening: &dyn Opening,
) -> io::Result<Option<Reread<S>>> {
    let mut first = Vec::with_capacity(MAX_OPENING);
    loop {
        let room = MAX_OPENING.saturating_sub(first.len());
        let ended = (&mut stream).take(room as u64).read_buf(&mut first).await? == 0;
        match opening.judge(here, &first) {
            Opened::Answered(answer) => {
                stream.write_all(&answer).await?;
                stream.shutdown().await?;
                return Ok(None);
            }
            Opened::More if !ended => {}
            Opened::Http | Opened::More => return Ok(Some(Reread { first, read: 0, stream })),
        }
    }
}

/// A stream whose first bytes were read already; they are read once more.
#[derive(Debug)]
pub(super) struct Reread<S> {
    first: Vec<u8>,
    read: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Reread<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.first.get(self.read..).unwrap_or_default();
        if left.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        } else {
            let count = left.len().min(buffer.remaining());
            buffer.put_slice(left.get(..count).unwrap_or_default());
            self.read += count;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Reread<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Answers `PING` with `PONG`.
    #[derive(Debug)]
    struct Pong;

    impl Opening for Pong {
        fn judge(&self, _: SocketAddr, received: &[u8]) -> Opened {
            match received {
                [b'P', b'I', b'N', b'G', ..] => Opened::Answered(b"PONG".to_vec()),
                short if b"PING".starts_with(short) => Opened::More,
                _ => Opened::Http,
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_known_here_is_read_from_its_first_byte() {
        let here = "127.0.0.1:1".parse().unwrap();
        for (pieces, expected) in [
            (["PI", "NG"], None),
            (["P", "OST /"], Some("POST /")),
            (["GET /", " HTTP"], Some("GET / HTTP")),
            (["PI", ""], Some("PI")),
        ] {
            let (mut near, far) = tokio::io::duplex(64);
            let passed = tokio::spawn(async move { pass(far, here, &Pong).await.unwrap() });
            for piece in pieces {
                near.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            near.shutdown().await.unwrap();
            let mut read = String::new();
            match (passed.await.unwrap(), expected) {
                (None, None) => {
                    near.read_to_string(&mut read).await.unwrap();
                    assert_eq!(read, "PONG");
                }
                (Some(mut stream), Some(expected)) => {
                    stream.read_to_string(&mut read).await.unwrap();
                    assert_eq!(read, expected);
                }
                (passed, _) => panic!("{pieces:?}: {passed:?}"),
            }
        }
    }
}
