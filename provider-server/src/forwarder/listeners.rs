//! One listening port: binding it, accepting on it, letting it go.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::carriers::{Carriers, Packed};
use super::crowd::{Crowd, Entered};
use super::keepalive::Keepalive;
use super::limits::{Gate, Inside, PortLimits};
use super::opening::{Patience, Wants, wants};
use super::prove::Prover;
use super::session::{self, End, Session};
use super::traffic::{Counts, Traffic};
use super::waiting::{OF_FREE_PORTS, PER_PORT, Place, Waiting};
use super::wire::{BindFailure, BindFailureReason, Route};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// First and longest pause after accepting has failed for want of files or memory.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Where a port leads that leads nowhere.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Where a port leads, and what has gone there.
#[derive(Debug)]
pub(super) struct Destination {
    /// The route.
    pub(super) route: Route,
    /// What has gone to its VM.
    pub(super) traffic: Arc<Traffic>,
}

/// What outlives the listener of a port: its sessions, and where new ones go.
#[derive(Debug)]
pub(super) struct PortState {
    port: u16,
    destination: Mutex<Option<Arc<Destination>>>,
    sessions: Arc<Gate>,
    all_sessions: Arc<Gate>,
    /// Clients of the VM that have not said yet what they want.
    undecided: Arc<Waiting>,
    door: Arc<Door>,
    newcomers: Arc<Crowd>,
    turned_away: AtomicU64,
    cut: Mutex<CancellationToken>,
}

impl PortState {
    /// A port without a destination.
    pub(super) fn new(
        port: u16,
        limits: PortLimits,
        all_sessions: Arc<Gate>,
        door: Arc<Door>,
    ) -> Arc<Self> {
        Arc::new(Self {
            undecided: Waiting::new(PER_PORT),
            door,
            port,
            destination: Mutex::new(None),
            sessions: Gate::new(limits.sessions),
            all_sessions,
            newcomers: Crowd::new(limits.newcomers),
            turned_away: AtomicU64::new(0),
            cut: Mutex::new(CancellationToken::new()),
        })
    }

    /// Where new sessions go.
    pub(super) fn destination(&self) -> Option<Arc<Destination>> {
        self.destination.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends new sessions somewhere else. The counters go on if it is the same VM.
    pub(super) fn lead_to(&self, route: Option<Route>) {
        let mut destination = self.destination.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = match (destination.as_deref(), &route) {
            (Some(before), Some(route)) if before.route.vm == route.vm => {
                Arc::clone(&before.traffic)
            }
            _ => Arc::new(Traffic::new()),
        };
        *destination = route.map(|route| Arc::new(Destination { route, traffic }));
    }

    /// Cuts all sessions of this port. New ones are possible.
    pub(super) fn cut_sessions(&self) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    /// How many sessions are open.
    pub(super) fn open(&self) -> usize {
        self.sessions.open()
    }

    /// How many connections were closed at once for want of room.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Goes on to count what an earlier program has counted.
    pub(super) fn resume(
        &self,
        route: Option<&Route>,
        turned_away: u64,
        counts: Option<(String, Counts)>,
    ) {
        self.turned_away.store(turned_away, Ordering::Relaxed);
        if let (Some(route), Some((vm, counts))) = (route, counts)
            && route.vm == vm
        {
            let traffic = Arc::new(Traffic::resumed(counts));
            *self.destination.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Arc::new(Destination { route: route.clone(), traffic }));
        }
    }

    /// Goes on with a session.
    pub(super) fn resume_session(self: &Arc<Self>, packed: Packed) {
        let Packed { peer, age, session, .. } = packed;
        let began = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let Some(vm) = packed.vm else {
            let answering = Arc::clone(&self.door).answer(self.port, peer, session);
            self.door.carriers.spawn(answering);
            return;
        };
        // A session that outlived its route is counted nowhere.
        let destination =
            self.destination().filter(|there| there.route.vm == vm).unwrap_or_else(|| {
                let route = Route { port: self.port, target: session.target, vm };
                Arc::new(Destination { route, traffic: Arc::new(Traffic::new()) })
            });
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner).child_token();
        let entered = self.newcomers.enter_again(peer, cut.clone(), began);
        let places = ([self.all_sessions.enter_again(), self.sessions.enter_again()], entered);
        let door = (self.undecided.enter(), Arc::clone(&self.door));
        self.door.carriers.spawn(run(session, (peer, began), destination, cut, places, door));
    }

    /// What to do with a connection that has just been accepted.
    fn admit(self: &Arc<Self>, client: TcpStream, peer: SocketAddr) {
        let Some(destination) = self.destination() else {
            // The port is held, and nobody lives there.
            let session = Box::new(Session::new(client, NOWHERE));
            let answering = Arc::clone(&self.door).answer(self.port, peer, session);
            self.door.carriers.spawn(answering);
            return;
        };
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner).child_token();
        let (Some(place), Some(place_here), Some(entered)) = (
            self.all_sessions.enter(),
            self.sessions.enter(),
            self.newcomers.enter(peer, cut.clone(), Instant::now()),
        ) else {
            let before = self.turned_away.fetch_add(1, Ordering::Relaxed);
            // Said at 1, 2, 4, 8, ..., so that a flood does not fill the log.
            if (before + 1).is_power_of_two() {
                tracing::warn!(
                    port = self.port,
                    vm = destination.route.vm,
                    open = self.sessions.open(),
                    limit = self.sessions.limit(),
                    open_in_all = self.all_sessions.open(),
                    limit_in_all = self.all_sessions.limit(),
                    turned_away = before + 1,
                    %peer,
                    "too many sessions, or too many that have just come; a connection was closed"
                );
            }
            return;
        };
        destination.traffic.began();
        tracing::debug!(port = self.port, vm = destination.route.vm, %peer, "session begins");
        let session = Box::new(Session::new(client, destination.route.target));
        let places = ([place, place_here], entered);
        let door = (self.undecided.enter(), Arc::clone(&self.door));
        let began = (peer, Instant::now());
        self.door.carriers.spawn(run(session, began, destination, cut, places, door));
    }
}

async fn run(
    session: Box<Session>,
    (peer, began): (SocketAddr, Instant),
    destination: Arc<Destination>,
    cut: CancellationToken,
    _places: ([Inside; 2], Entered),
    (undecided, door): (Place, Arc<Door>),
) {
    let Destination { route, traffic } = &*destination;
    let frozen = door.carriers.frozen();
    match session::carry(*session, traffic, (&cut, &frozen), undecided, &door).await {
        End::Frozen(session) => door.carriers.give_back(Packed {
            port: route.port,
            vm: Some(route.vm.clone()),
            peer,
            age: began.elapsed(),
            session,
        }),
        End::Proof => tracing::debug!(port = route.port, %peer, "a port checker was answered"),
        End::NotSsh => tracing::debug!(port = route.port, %peer, "not an SSH client"),
        End::Unreachable(error) => {
            traffic.unreachable();
            let times = traffic.read().unreachable;
            if times.is_power_of_two() {
                tracing::warn!(
                    port = route.port,
                    vm = route.vm,
                    target = %route.target,
                    times,
                    "the VM's SSH server can't be reached: {error}"
                );
            }
        }
        End::Done => tracing::debug!(port = route.port, vm = route.vm, %peer, "session done"),
        // Strangers can have this happen as often as they like.
        End::Cut => tracing::debug!(port = route.port, vm = route.vm, %peer, "session cut"),
        End::Broken(error) => {
            tracing::debug!(port = route.port, vm = route.vm, %peer, "session broken: {error}");
        }
    }
}

/// What all ports have in common: how clients are served.
#[derive(Debug)]
pub(super) struct Door {
    /// Gives the proofs.
    pub(super) prover: Prover,
    /// How long clients are waited for.
    pub(super) patience: Patience,
    /// When they are asked whether they are alive.
    pub(super) keepalive: Keepalive,
    /// The tasks that do it.
    pub(super) carriers: Carriers,
    /// Clients of ports that lead nowhere.
    waiting: Arc<Waiting>,
}

impl Door {
    /// For the provider of a data directory.
    pub(super) fn new(data_dir: &Path, patience: Patience, keepalive: Keepalive) -> Arc<Self> {
        let (prover, waiting) = (Prover::new(data_dir), Waiting::new(OF_FREE_PORTS));
        Arc::new(Self { prover, patience, keepalive, carriers: Carriers::default(), waiting })
    }

    /// Gives a client of a port that leads nowhere its proof, or closes the connection.
    async fn answer(self: Arc<Self>, port: u16, peer: SocketAddr, mut session: Box<Session>) {
        let place = self.waiting.enter();
        let frozen = self.carriers.frozen();
        let answer = async {
            let Session { client, heard, .. } = &mut *session;
            if let Wants::Proof(line) = wants(client, heard, self.patience.free).await {
                self.prover.answer(client, &line, false).await;
            }
        };
        tokio::select! {
            biased;
            () = place.lost() => return,
            () = frozen.cancelled() => {}
            () = answer => return,
        }
        self.carriers.give_back(Packed { port, vm: None, peer, age: Duration::ZERO, session });
    }
}

/// A bound port with the task that accepts on it.
#[derive(Debug)]
pub(super) struct Listener {
    stop: CancellationToken,
    task: JoinHandle<TcpListener>,
}

impl Listener {
    /// Binds a port and accepts on it from now on.
    ///
    /// # Errors
    /// When the port can't be had.
    pub(super) fn start(ip: IpAddr, state: &Arc<PortState>) -> Result<Self, BindFailure> {
        let listener = bind(SocketAddr::new(ip, state.port)).map_err(|error| failure(&error))?;
        Ok(Self::accept_on(listener, state))
    }

    /// Goes on to accept on a port that is held.
    ///
    /// # Errors
    /// When the socket can't be watched.
    pub(super) fn resume(
        listener: std::net::TcpListener,
        state: &Arc<PortState>,
    ) -> Result<Self, BindFailure> {
        let listener = TcpListener::from_std(listener).map_err(|error| failure(&error))?;
        Ok(Self::accept_on(listener, state))
    }

    fn accept_on(listener: TcpListener, state: &Arc<PortState>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, Arc::clone(state), stop.clone()));
        Self { stop, task }
    }

    /// Lets the port go. It is free when this returns.
    pub(super) async fn stop(self) {
        drop(self.halt().await);
    }

    /// Accepts no more. The port stays held for as long as the socket is open.
    pub(super) async fn pack(self) -> Option<std::net::TcpListener> {
        let listener = self.halt().await?.into_std();
        listener.inspect_err(|error| tracing::error!("a listener is lost: {error}")).ok()
    }

    async fn halt(self) -> Option<TcpListener> {
        self.stop.cancel();
        let ended = self.task.await;
        ended.inspect_err(|error| tracing::error!("the task of a listener failed: {error}")).ok()
    }

    /// Whether it is still accepting.
    pub(super) fn lives(&self) -> bool {
        !self.task.is_finished()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of a predecessor that are in TIME_WAIT must not keep the port.
    socket.set_reuseaddr(true)?;
    if address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) {
        // All addresses means both families, whatever the system's default.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn failure(error: &io::Error) -> BindFailure {
    let reason = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => BindFailureReason::InUse,
        Some(Errno::ACCESS | Errno::PERM) => BindFailureReason::Permission,
        Some(Errno::ADDRNOTAVAIL) => BindFailureReason::Address,
        _ => BindFailureReason::Other,
    };
    BindFailure { reason, detail: error.to_string() }
}

async fn accept(
    listener: TcpListener,
    state: Arc<PortState>,
    stop: CancellationToken,
) -> TcpListener {
    let mut pause = PAUSE.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return listener,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                pause = PAUSE.0;
                state.admit(client, peer);
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::warn!(
                    port = state.port,
                    "can't accept, trying again in {} ms: {error}",
                    pause.as_millis()
                );
                tokio::select! {
                    () = stop.cancelled() => return listener,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Whether accepting failed because of the one connection, which Linux reports here:
/// accept(2), "Error handling".
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::AGAIN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
        )
    )
}
