//! One session: a client's connection, the VM's connection, and the bytes between them.
//!
//! The VM's bytes go to the client from the first moment, so that a login is not slowed down. Of
//! the client the first bytes are looked at: an SSH client's go to the VM at once, with all that
//! follows; a port checker gets its proof, and nothing of it reaches the VM; anybody else is closed.
//!
//! All that a session knows is in [`Session`], at any moment, so that another program can go on with it
//! ([`super::handover`]).

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::flow::{Flow, Held};
use super::keepalive::prepare;
use super::listeners::Door;
use super::opening::{Wants, wants};
use super::pump::{PumpError, move_bytes, pass_end, pump};
use super::traffic::Traffic;
use super::waiting::Place;

/// How long the VM may take to accept a connection. It is on this machine.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long what the VM had still said may take to reach the client after the VM has stopped
/// listening, or the other way round.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How long the VM may take to notice that its client has left.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// A session, at any moment of it.
#[derive(Debug)]
pub(super) struct Session {
    /// The client's connection.
    pub(super) client: TcpStream,
    /// The VM's SSH server.
    pub(super) target: SocketAddr,
    /// The VM's connection, once there is one.
    pub(super) vm: Option<TcpStream>,
    /// What the client has said, while it is not clear what it wants.
    pub(super) heard: Vec<u8>,
    /// Whether the client has said that it speaks SSH.
    pub(super) is_ssh: bool,
    /// From the client to the VM.
    pub(super) inwards: Flow,
    /// From the VM to the client.
    pub(super) outwards: Flow,
}

impl Session {
    /// The session of a client that has just come.
    pub(super) fn new(client: TcpStream, target: SocketAddr) -> Self {
        Self {
            client,
            target,
            vm: None,
            heard: Vec::new(),
            is_ssh: false,
            inwards: Flow::default(),
            outwards: Flow::default(),
        }
    }
}

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
    /// It has not ended: another program is to go on with it.
    Frozen(Box<Session>),
    /// One of the connections broke, or was silent for too long.
    Broken(io::Error),
}

/// Carries one session to its end, or until `frozen`. `place` is the client's among those that have not
/// said yet what they want.
pub(super) async fn carry(
    mut session: Session,
    traffic: &Traffic,
    (cut, frozen): (&CancellationToken, &CancellationToken),
    place: Place,
    door: &Door,
) -> End {
    prepare(&session.client, &door.keepalive);
    // This session's own count: the route's is shared by all sessions of the VM.
    let moved = AtomicU64::new(0);
    let relayed = tokio::select! {
        biased;
        () = cut.cancelled() => return End::Cut,
        () = frozen.cancelled() => return End::Frozen(Box::new(session)),
        relayed = relay(&mut session, traffic, &moved, &place, door) => relayed,
    };
    let end = match relayed {
        Ok(end) => end,
        Err(challenge) => {
            let after = moved.load(Ordering::Relaxed) > 0;
            tokio::select! {
                biased;
                () = cut.cancelled() => return End::Cut,
                // The line is among what was heard, and is answered by who goes on.
                () = frozen.cancelled() => return End::Frozen(Box::new(session)),
                () = door.prover.answer(&mut session.client, &challenge, after) => {}
            }
            End::Proof
        }
    };
    // Nobody is waited for with the client's connection, or with its place among the undecided.
    let Session { client, vm, .. } = session;
    drop((client, place));
    if let Some(vm) = vm {
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = frozen.cancelled() => {}
            () = async {
                leave(&vm).await;
            } => {}
        }
    }
    end
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

/// Connects to the VM and moves bytes both ways until both directions have ended.
///
/// # Errors
/// The line of a client that turns out to be a port checker.
async fn relay(
    session: &mut Session,
    traffic: &Traffic,
    moved: &AtomicU64,
    place: &Place,
    door: &Door,
) -> Result<End, Challenge> {
    let Session { client, target, vm, heard, is_ssh, inwards, outwards } = session;
    let (client, patience) = (&*client, door.patience);
    let inwards_moved = |bytes| {
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.inwards(bytes);
        traffic.used();
    };
    // What a VM says to a port checker is no use of it.
    let greeting_moved = |bytes| {
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.outwards(bytes);
    };
    let outwards_moved = |bytes| {
        greeting_moved(bytes);
        traffic.used();
    };
    {
        let mut judging = pin!(judge(client, heard, place, patience.in_use));
        if vm.is_none() {
            let mut connecting = pin!(connect(*target));
            let connected = loop {
                tokio::select! {
                    connected = &mut connecting => break connected,
                    wants = &mut judging, if !*is_ssh => match wants {
                        Judged::Ssh(bytes) => (*is_ssh, inwards.held) = (true, bytes),
                        Judged::Proof(line) => return Err(line),
                        Judged::Nothing => return Ok(End::NotSsh),
                    },
                }
            };
            match connected {
                Ok(connected) => {
                    prepare(&connected, &door.keepalive);
                    *vm = Some(connected);
                }
                Err(error) => {
                    // The port is this provider's also while its VM does not answer.
                    if !*is_ssh
                        && let Ok(Judged::Proof(line)) = timeout(patience.free, &mut judging).await
                    {
                        return Err(line);
                    }
                    return Ok(End::Unreachable(error));
                }
            }
        }
        let Some(vm) = vm.as_ref() else { return Ok(End::Done) };
        if !*is_ssh {
            let mut greeting = pin!(move_bytes(vm, client, outwards, greeting_moved));
            let mut vm_is_done = false;
            inwards.held = loop {
                tokio::select! {
                    wants = &mut judging => match wants {
                        Judged::Ssh(bytes) => break bytes,
                        Judged::Proof(line) => return Err(line),
                        Judged::Nothing => return Ok(End::NotSsh),
                    },
                    // What has ended is not passed on yet: a proof could not be given afterwards.
                    ended = &mut greeting, if !vm_is_done => match ended {
                        Ok(()) => vm_is_done = true,
                        Err(PumpError::From(error) | PumpError::To(error)) => {
                            return Ok(End::Broken(error));
                        }
                    },
                }
            };
            *is_ssh = true;
        }
    }
    let Some(vm) = vm.as_ref() else { return Ok(End::Done) };
    let mut inwards = pin!(pump(client, vm, inwards, inwards_moved));
    let mut outwards = pin!(pump(vm, client, outwards, outwards_moved));
    Ok(tokio::select! {
        ended = &mut inwards => finish(ended, outwards, moved, patience.half_closed).await,
        ended = &mut outwards => finish(ended, inwards, moved, patience.half_closed).await,
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

/// What a client turned out to be.
enum Judged {
    /// An SSH client, whose first bytes are these.
    Ssh(Held),
    /// A port checker with its line.
    Proof(Challenge),
    /// Nobody who gets anything here.
    Nothing,
}

/// What the client wants; nothing, if its place is taken by another one first.
async fn judge(
    client: &TcpStream,
    heard: &mut Vec<u8>,
    place: &Place,
    patience: Duration,
) -> Judged {
    let wants = tokio::select! {
        biased;
        () = place.lost() => Wants::Nothing,
        wants = wants(client, heard, patience) => wants,
    };
    match wants {
        Wants::Ssh => Judged::Ssh(Held::from(std::mem::take(heard))),
        Wants::Proof(line) => Judged::Proof(line),
        Wants::Nothing => Judged::Nothing,
    }
}

/// What becomes of the second direction when the first has ended.
async fn finish<F>(
    first: Result<(), PumpError>,
    second: F,
    moved: &AtomicU64,
    silence: Duration,
) -> End
where
    F: Future<Output = Result<(), PumpError>>,
{
    let mut second = pin!(second);
    match first {
        Ok(()) => {
            let mut seen = moved.load(Ordering::Relaxed);
            let mut until = Instant::now() + silence;
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
                        until = Instant::now() + silence;
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
