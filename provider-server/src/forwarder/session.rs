//! One session: a client's connection, the VM's connection, and the bytes between them.
//!
//! The VM's bytes go to the client from the first moment, and the client's to the VM: nothing
//! waits for anything else, so that a login is not slowed down. What looks at a client's first
//! bytes belongs in front of the client's direction in [`relay`], and leaves the other direction
//! alone.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::pump::{PumpError, pump};
use super::traffic::Traffic;

/// How long the VM may take to accept a connection. It is on this machine.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// When a connection on which nothing has been heard is first asked whether it is alive.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);

/// How often it is asked then.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(60);

/// How often without an answer until it counts as dead: ten minutes of silence in all, so that a
/// network that is cut for a while, or a VM that is suspended, does not end a session.
const KEEPALIVE_TIMES: u32 = 8;

/// How long the second direction of a session may be silent after the first has ended.
const HALF_CLOSED_SILENCE: Duration = Duration::from_secs(600);

/// How long what the VM had still said may take to reach the client after the VM has stopped
/// listening, or the other way round.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides were done.
    Done,
    /// The VM could not be reached.
    Unreachable(io::Error),
    /// It was cut by order.
    Cut,
    /// One of the connections broke, or was silent for too long.
    Broken(io::Error),
}

/// Carries one session to its end.
pub(super) async fn carry(
    client: TcpStream,
    target: SocketAddr,
    traffic: &Traffic,
    cut: &CancellationToken,
) -> End {
    let run = async {
        let vm = match timeout(CONNECT_DEADLINE, TcpStream::connect(target)).await {
            Ok(Ok(vm)) => vm,
            Ok(Err(error)) => return End::Unreachable(error),
            Err(_) => {
                return End::Unreachable(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", CONNECT_DEADLINE.as_secs()),
                ));
            }
        };
        prepare(&client);
        prepare(&vm);
        relay(&client, &vm, traffic).await
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => End::Cut,
        end = run => end,
    }
}

/// Sets a connection up for interactive use. A failure leaves it slower or longer-lived, and is
/// no reason to refuse it.
fn prepare(stream: &TcpStream) {
    let all = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TIMES)
    };
    if let Err(error) = all() {
        tracing::debug!("can't set the options of a connection: {error}");
    }
}

/// Moves bytes both ways until both directions have ended.
async fn relay(client: &TcpStream, vm: &TcpStream, traffic: &Traffic) -> End {
    // This session's own count: the route's is shared by all sessions of the VM.
    let moved = AtomicU64::new(0);
    let mut inwards = pin!(pump(client, vm, |bytes| {
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.inwards(bytes);
    }));
    let mut outwards = pin!(pump(vm, client, |bytes| {
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.outwards(bytes);
    }));
    tokio::select! {
        first = &mut inwards => finish(first, outwards, &moved).await,
        first = &mut outwards => finish(first, inwards, &moved).await,
    }
}

/// What becomes of the second direction when the first has ended.
async fn finish<F>(first: Result<(), PumpError>, second: F, moved: &AtomicU64) -> End
where
    F: Future<Output = Result<(), PumpError>>,
{
    let mut second = pin!(second);
    match first {
        Ok(()) => {
            let mut seen = moved.load(Ordering::Relaxed);
            let mut until = Instant::now() + HALF_CLOSED_SILENCE;
            loop {
                tokio::select! {
                    result = &mut second => return match result {
                        Ok(()) => End::Done,
                        Err(PumpError::From(error) | PumpError::To(error)) => End::Broken(error),
                    },
                    () = sleep_until(until) => {
                        let now = moved.load(Ordering::Relaxed);
                        if now == seen {
                            return End::Broken(io::Error::new(
                                io::ErrorKind::TimedOut,
                                "half of it was closed and the other half silent",
                            ));
                        }
                        seen = now;
                        until = Instant::now() + HALF_CLOSED_SILENCE;
                    }
                }
            }
        }
        // The sender is gone: nobody is left to deliver the other direction to.
        Err(PumpError::From(error)) => End::Broken(error),
        // The receiver doesn't listen any more, but what it had said is still delivered.
        Err(PumpError::To(error)) => {
            let _ = timeout(DRAIN_DEADLINE, second).await;
            End::Broken(error)
        }
    }
}
