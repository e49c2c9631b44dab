//! The process: takes its data directory, listens for the provider, keeps the ports.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use golem_vm_node::socket_path::SocketPath;

use super::SOCKET_NAME;
use super::control::{self, Control, Identity, Upgrade};
use super::crowd::DEFAULT_MAX_NEWCOMERS_PER_PORT;
use super::handover::{self, Inheritance, Parcel, build_of};
use super::keepalive::Keepalive;
use super::limits::{self, DEFAULT_MAX_SESSIONS, DEFAULT_MAX_SESSIONS_PER_PORT, Gate, PortLimits};
use super::listeners::Door;
use super::opening::Patience;
use super::reserved_ports::{KERNEL_LIST, ReservedPorts};
use super::state::{State, StateFile};
use super::table::Table;
use super::traffic::unix_ms;

/// The lock's name in the data directory.
pub const LOCK_NAME: &str = "forwarder.lock";

/// Control connections at once.
const MAX_CONTROL: usize = 64;

/// How long a predecessor that answers no more may hold its lock.
const DYING: Duration = Duration::from_secs(3);

/// How often ports that could not be bound are tried again.
const DEFAULT_RETRY: Duration = Duration::from_secs(5);

/// How a forwarder runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its socket, lock and state are; the provider's data directory.
    pub data_dir: PathBuf,
    /// Sessions at most on all ports at once; fewer if the system grants too few open files.
    pub max_sessions: usize,
    /// Sessions at most on one port at once.
    pub max_sessions_per_port: usize,
    /// Those among them that have come within the time that an SSH server gives for logging in.
    pub max_newcomers_per_port: usize,
    /// The kernel's list of reserved ports to add the offered ones to; none to leave it alone.
    pub reserved_ports: Option<PathBuf>,
    /// How often ports that could not be bound are tried again.
    pub retry_every: Duration,
    /// How long clients are waited for.
    pub patience: Patience,
    /// When they, and VMs, are asked whether they are alive.
    pub keepalive: Keepalive,
    /// With which arguments another program is executed in place of this one; none for a forwarder that
    /// has no process to itself, and can't be upgraded.
    pub arguments: Option<Vec<OsString>>,
}

impl Options {
    /// The defaults.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            max_sessions: DEFAULT_MAX_SESSIONS,
            max_sessions_per_port: DEFAULT_MAX_SESSIONS_PER_PORT,
            max_newcomers_per_port: DEFAULT_MAX_NEWCOMERS_PER_PORT,
            reserved_ports: cfg!(target_os = "linux").then(|| PathBuf::from(KERNEL_LIST)),
            retry_every: DEFAULT_RETRY,
            patience: Patience::default(),
            keepalive: Keepalive::default(),
            arguments: None,
        }
    }
}

/// Why a forwarder did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another one has the data directory.
    #[error(
        "another golem-forwarder{} already works in {}; it is left alone, and one is enough",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        data_dir.display()
    )]
    AlreadyRunning {
        /// The data directory.
        data_dir: PathBuf,
        /// The other one's process id, where it could be read.
        holder: Option<u32>,
    },
    /// What the program before this one has left can't be used.
    #[error("can't go on with what the program before this one has left: {0}")]
    Inheritance(io::Error),
    /// The data directory, or something in it, can't be used.
    #[error("can't {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ServerError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// Runs a forwarder until `shutdown` is cancelled or the provider asks for it. Then all ports are
/// released and all sessions cut at once: whoever stops it means it.
///
/// # Errors
/// When the data directory can't be used, or is in use.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), ServerError> {
    let data_dir = &options.data_dir;
    if !data_dir.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(ServerError::file("create the data directory", data_dir))?;
    }
    let lock = lock(data_dir)?;
    let listener = listen(data_dir)?;
    let state = StateFile::new(data_dir)
        .load()
        .map_err(ServerError::file("read the stored routes in", data_dir))?;
    let control = listener.into_std().map_err(ServerError::file("listen on", data_dir))?;
    let (ports, sessions) = (Vec::new(), Vec::new());
    serve(options, shutdown, Inheritance { lock, control, state, ports, sessions }).await
}

/// Goes on where the program before this one has stopped ([`super::take_over`]); else as [`run`].
///
/// # Errors
/// When what it has left can't be used.
pub async fn take_up(
    options: Options,
    shutdown: CancellationToken,
    left: Parcel,
) -> Result<(), ServerError> {
    let inheritance = left.unpack().map_err(ServerError::Inheritance)?;
    serve(options, shutdown, inheritance).await
}

async fn serve(
    options: Options,
    shutdown: CancellationToken,
    inheritance: Inheritance,
) -> Result<(), ServerError> {
    let data_dir = &options.data_dir;
    let Inheritance { mut lock, control, state, ports, sessions } = inheritance;
    let mut listener = UnixListener::from_std(control)
        .map_err(ServerError::file("listen on", &data_dir.join(SOCKET_NAME)))?;
    let (mut table, max_sessions) = furnish(&options, state);
    let resumed = sessions.len();
    table.unpack(ports, sessions);
    table.apply().await;
    let (wanted, held) = table.counts();
    tracing::info!(
        data_dir = %data_dir.display(),
        ports = wanted,
        bound = held,
        sessions = resumed,
        max_sessions,
        version = env!("CARGO_PKG_VERSION"),
        "golem-forwarder is ready"
    );

    let (upgrades, mut orders) = mpsc::channel(1);
    let control = Arc::new(Control {
        table: Mutex::new(table),
        identity: Identity {
            started_unix_ms: unix_ms(),
            started: Instant::now(),
            start_ticks: start_ticks(),
            program: own_program(),
        },
        shutdown: shutdown.clone(),
        upgrades,
    });
    let places = Gate::new(MAX_CONTROL);
    let mut retry = tokio::time::interval(options.retry_every);
    retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Beyond the limit they are closed at once.
                    if let Some(place) = places.enter() {
                        let control = Arc::clone(&control);
                        tokio::spawn(async move {
                            let _place = place;
                            control::serve(stream, control).await;
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!("can't accept a control connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(order) = orders.recv() => {
                (lock, listener) = upgrade(order, &options, &control, lock, listener).await?;
            }
            _ = retry.tick() => control.table.lock().await.try_on().await,
        }
    }
    // Removed before the ports are released, so that nobody finds a socket without a forwarder.
    let _ = fs::remove_file(data_dir.join(SOCKET_NAME));
    control.table.lock().await.close().await;
    drop(lock);
    tracing::info!("golem-forwarder has ended");
    Ok(())
}

/// The table for a state, without its ports, and how many sessions there may be.
fn furnish(options: &Options, state: State) -> (Table, usize) {
    let open_files = limits::raise_open_files();
    let max_sessions =
        limits::sessions_that_fit(options.max_sessions, open_files, state.offered.len());
    if max_sessions < options.max_sessions {
        tracing::warn!(
            "only {max_sessions} sessions instead of {}, as there may be no more than {open_files} open files; raise the limit (ulimit -n, LimitNOFILE=)",
            options.max_sessions
        );
    }
    let reserved = ReservedPorts::new(options.reserved_ports.clone(), state.reserved.clone());
    let door = Door::new(&options.data_dir, options.patience, options.keepalive);
    let per_port = PortLimits {
        sessions: options.max_sessions_per_port,
        newcomers: options.max_newcomers_per_port,
    };
    let file = StateFile::new(&options.data_dir);
    let table = Table::new(state, file, reserved, Gate::new(max_sessions), per_port, door);
    (table, max_sessions)
}

/// Becomes another program. Returns only if that fails, and then everything goes on.
async fn upgrade(
    order: Upgrade,
    options: &Options,
    control: &Control,
    lock: File,
    listener: UnixListener,
) -> Result<(File, UnixListener), ServerError> {
    let shown = order.program.display();
    let probed = match &options.arguments {
        Some(arguments) => handover::probe(&order.program, arguments).await,
        None => Err("this forwarder has no process to itself".to_owned()),
    };
    let arguments = options.arguments.clone().unwrap_or_default();
    if let Err(why) = probed {
        tracing::warn!("it goes on as it is: {why}");
        let _ = order.failed.send(why);
        return Ok((lock, listener));
    }
    // Until the end of this function nobody else changes anything.
    let mut table = control.table.lock().await;
    let (state, ports, sessions, running) = table.pack().await;
    let socket = listener.into_std().map_err(ServerError::Inheritance)?;
    let left = Inheritance { lock, control: socket, state, ports, sessions };
    let (why, left) = if running == 0 {
        tracing::info!(
            ports = left.ports.len(),
            sessions = left.sessions.len(),
            "becoming {shown}"
        );
        let (error, left) = handover::become_program(&order.program, &arguments, left);
        (format!("can't execute {shown}: {error}"), left.map_err(ServerError::Inheritance)?)
    } else {
        (format!("{running} sessions could not be stopped for it"), left)
    };
    tracing::warn!("it goes on as it is: {why}");
    table.unpack(left.ports, left.sessions);
    table.apply().await;
    let listener = UnixListener::from_std(left.control).map_err(ServerError::Inheritance)?;
    let _ = order.failed.send(why);
    Ok((left.lock, listener))
}

/// The file that this program was started from, and which build of it.
fn own_program() -> Option<(PathBuf, String)> {
    let path = std::env::current_exe().ok()?;
    let build = build_of(Path::new("/proc/self/exe")).or_else(|_| build_of(&path)).ok()?;
    Some((path, build))
}

/// Whether somebody listens on the control socket.
fn answers(data_dir: &Path) -> bool {
    SocketPath::new(data_dir, SOCKET_NAME)
        .and_then(|path| std::os::unix::net::UnixStream::connect(path.as_path()))
        .is_ok()
}

/// Takes the data directory for this process, for as long as the file is open.
fn lock(data_dir: &Path) -> Result<File, ServerError> {
    let path = data_dir.join(LOCK_NAME);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(ServerError::file("open the lock", &path))?;
    let until = Instant::now() + DYING;
    let locked = loop {
        match file.try_lock() {
            // One that was killed is heard to be gone a moment before its lock is free.
            Err(TryLockError::WouldBlock) if Instant::now() < until && !answers(data_dir) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => break done,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.take(16).read_to_string(&mut text);
            return Err(ServerError::AlreadyRunning {
                data_dir: data_dir.to_owned(),
                holder: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(error)) => {
            return Err(ServerError::file("lock", &path)(error));
        }
    }
    // The process id is only for the message above.
    file.set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()))
        .map_err(ServerError::file("write the lock", &path))?;
    Ok(file)
}

/// Listens for the provider. With the lock in hand, a socket that is there is a dead one's.
fn listen(data_dir: &Path) -> Result<UnixListener, ServerError> {
    let place = data_dir.join(SOCKET_NAME);
    match fs::remove_file(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ServerError::file("remove the old socket", &place)(error));
        }
        _ => {}
    }
    let path =
        SocketPath::new(data_dir, SOCKET_NAME).map_err(ServerError::file("listen on", &place))?;
    let listener =
        UnixListener::bind(path.as_path()).map_err(ServerError::file("listen on", &place))?;
    fs::set_permissions(path.as_path(), Permissions::from_mode(0o600))
        .map_err(ServerError::file("protect", &place))?;
    Ok(listener)
}

/// Field 22 of `/proc/self/stat`, see proc(5).
fn start_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets, and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}
