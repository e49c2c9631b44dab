//! One session: a client's connection, the VM's connection, and the bytes between them.
//!
//! The VM's bytes go to the client from the first moment, so that a login is not slowed down. Of
//! the client the first bytes are looked at: an SSH client's go to the VM at once, with all that
//! follows; a port checker gets its proof, and nothing of it reaches the VM; anybody else is closed.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::listeners::Door;
use super::opening::{Patience, Wants, wants};
use super::pump::{PumpError, move_bytes, pass_end, pump};
use super::traffic::Traffic;
use super::waiting::Place;

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

/// How long the VM may take to notice that its client has left.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides were done.
    Done,
    /// It was a port checker's, and was answered.
    Proof,
    /// The client did not speak SSH, or said nothing for too long.
    NotSsh,
    /// The VM could not be reached.
    Unreachable(io::Error),
    /// It was cut by order.
    Cut,
    /// One of the connections broke, or was silent for too long.
    Broken(io::Error),
}

/// Carries one session to its end. `place` is the client's among those that have not said yet what
/// they want.
pub(super) async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    traffic: &Traffic,
    cut: &CancellationToken,
    place: Place,
    door: &Door,
) -> End {
    let run = async {
        prepare(&client);
        // This session's own count: the route's is shared by all sessions of the VM.
        let moved = AtomicU64::new(0);
        let vm = OnceLock::new();
        let end = match relay(&client, target, traffic, &moved, &vm, (&place, door.patience)).await
        {
            Ok(end) => end,
            Err(challenge) => {
                let after = moved.load(Ordering::Relaxed) > 0;
                door.prover.answer(&mut client, &challenge, after).await;
                End::Proof
            }
        };
        // Nobody is waited for with the client's connection, or with its place among the undecided.
        drop((client, place));
        if let Some(vm) = vm.into_inner() {
            leave(&vm).await;
        }
        end
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => End::Cut,
        end = run => end,
    }
}

/// A port checker's line.
type Challenge = Vec<u8>;

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    match timeout(CONNECT_DEADLINE, TcpStream::connect(target)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", CONNECT_DEADLINE.as_secs()),
        )),
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

/// Connects to the VM and moves bytes both ways until both directions have ended.
///
/// # Errors
/// The line of a client that turns out to be a port checker.
async fn relay(
    client: &TcpStream,
    target: SocketAddr,
    traffic: &Traffic,
    moved: &AtomicU64,
    vm: &OnceLock<TcpStream>,
    (place, patience): (&Place, Patience),
) -> Result<End, Challenge> {
    let is_ssh = AtomicBool::new(false);
    let inwards_moved = |bytes| {
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.inwards(bytes);
        traffic.used();
    };
    let outwards_moved = |bytes| {
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.outwards(bytes);
        // What a VM says to a port checker is no use of it.
        if is_ssh.load(Ordering::Relaxed) {
            traffic.used();
        }
    };
    let mut judging = pin!(judge(client, place, patience.in_use));
    let mut connecting = pin!(connect(target));
    let mut first = None;
    let connected = loop {
        tokio::select! {
            connected = &mut connecting => break connected,
            wants = &mut judging, if first.is_none() => match wants {
                Wants::Ssh(bytes) => first = Some(bytes),
                Wants::Proof(line) => return Err(line),
                Wants::Nothing => return Ok(End::NotSsh),
            },
        }
    };
    let vm = match connected {
        Ok(connected) => vm.get_or_init(|| connected),
        Err(error) => {
            // The port is this provider's also while its VM does not answer.
            let late = async {
                match timeout(patience.free, &mut judging).await {
                    Ok(Wants::Proof(line)) => Err(line),
                    _ => Ok(()),
                }
            };
            if first.is_none() {
                late.await?;
            }
            return Ok(End::Unreachable(error));
        }
    };
    prepare(vm);

    let mut outwards = pin!(move_bytes(vm, client, outwards_moved));
    let mut vm_is_done = false;
    let first = match first {
        Some(first) => first,
        None => loop {
            tokio::select! {
                wants = &mut judging => match wants {
                    Wants::Ssh(bytes) => break bytes,
                    Wants::Proof(line) => return Err(line),
                    Wants::Nothing => return Ok(End::NotSsh),
                },
                // What has ended is not passed on yet: a proof could not be given afterwards.
                ended = &mut outwards, if !vm_is_done => match ended {
                    Ok(()) => vm_is_done = true,
                    Err(PumpError::From(error) | PumpError::To(error)) => {
                        return Ok(End::Broken(error));
                    }
                },
            }
        },
    };
    is_ssh.store(true, Ordering::Relaxed);
    let inwards = async {
        hand_over(vm, &first).await.map_err(PumpError::To)?;
        inwards_moved(first.len());
        pump(client, vm, inwards_moved).await
    };
    let outwards = async {
        if !vm_is_done {
            outwards.await?;
        }
        pass_end(client)
    };
    let (mut inwards, mut outwards) = (pin!(inwards), pin!(outwards));
    Ok(tokio::select! {
        ended = &mut inwards => finish(ended, outwards, moved).await,
        ended = &mut outwards => finish(ended, inwards, moved).await,
    })
}

/// Ends the VM's connection and waits until the VM has seen it, within [`LEAVE_DEADLINE`]: until then
/// its SSH server counts the client among those who have not logged in, and whoever gets the client's
/// place would come on top.
async fn leave(vm: &TcpStream) {
    if pass_end(vm).is_err() {
        return;
    }
    let seen = async {
        let mut rest = [0; 4096];
        while vm.readable().await.is_ok() {
            match vm.try_read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It broke, which the VM knows as well.
                Err(_) => break,
            }
        }
    };
    let _ = timeout(LEAVE_DEADLINE, seen).await;
}

/// What the client wants; nothing, if its place is taken by another one first.
async fn judge(client: &TcpStream, place: &Place, patience: Duration) -> Wants {
    tokio::select! {
        biased;
        () = place.lost() => Wants::Nothing,
        wants = wants(client, patience) => wants,
    }
}

/// Writes the few bytes that were taken from the client.
async fn hand_over(vm: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        vm.writable().await?;
        match vm.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
