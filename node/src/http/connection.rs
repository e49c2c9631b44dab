//! A stream that gives up when its peer takes nothing, or next to nothing, for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Slowest pace, in bytes per second, at which a reply may be taken.
const LEAST_PACE: u64 = 4096;

/// Wraps a stream: a write that has to wait fails with `TimedOut` after `timeout`, and later only by
/// as much as its peer has taken meanwhile at [`LEAST_PACE`]. So a peer that takes a byte now and then
/// holds its connection no longer than one that takes none. Reading is not timed here: headers, bodies
/// and idling have deadlines of their own.
pub(super) struct WriteDeadline<S> {
    stream: S,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether the peer has kept a write waiting since the last reply was taken whole.
    waiting: bool,
}

impl<S> WriteDeadline<S> {
    pub(super) fn new(stream: S, timeout: Duration) -> Self {
        Self { stream, timeout, deadline: Box::pin(tokio::time::sleep(timeout)), waiting: false }
    }

    /// A write that took `taken` bytes, or waits.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(taken)) = result
            && self.waiting
        {
            let micros = (taken as u64).saturating_mul(1_000_000) / LEAST_PACE;
            let latest = Instant::now() + self.timeout;
            let later = self.deadline.deadline() + Duration::from_micros(micros);
            self.deadline.as_mut().reset(later.min(latest));
        }
        self.wait(context, result)
    }

    /// A flush or a shutdown: when it is done, so is the reply.
    fn finished(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if matches!(result, Poll::Ready(Ok(()))) {
            self.waiting = false;
        }
        self.wait(context, result)
    }

    fn wait<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            return result;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.timeout);
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.finished(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.finished(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.wrote(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// Writes `size` bytes to a peer that takes `step` of them every tenth of a second, and says how that ended.
    async fn send(size: usize, step: usize) -> (io::Result<()>, Duration) {
        // No room in between, as behind a full window.
        let (near, mut far) = tokio::io::duplex(1);
        let mut stream = WriteDeadline::new(near, TIMEOUT);
        let began = Instant::now();
        let taking = tokio::spawn(async move {
            let mut sink = vec![0; step];
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if far.read_exact(&mut sink).await.is_err() {
                    break;
                }
            }
        });
        let sent = async {
            stream.write_all(&vec![b'x'; size]).await?;
            stream.flush().await
        };
        let result = tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap();
        let took = began.elapsed();
        drop(stream);
        taking.abort();
        (result, took)
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_byte_now_and_then_is_cut() {
        let (result, _) = send(200_000, 10).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_peer_is_served() {
        let (result, took) = send(60_000, 2000).await;
        assert!(result.is_ok() && took > TIMEOUT, "{result:?} after {took:?}");
    }
}
