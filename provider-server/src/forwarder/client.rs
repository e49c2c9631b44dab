//! What the provider uses: starts the forwarder where none runs, and tells it what to do.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use golem_vm_node::socket_path::SocketPath;

use super::SOCKET_NAME;
use super::frame::{self, FrameError};
use super::launch;
use super::wire::{
    self, Hello, PROTOCOL_VERSION, PortStatus, Refusal, RefusalCode, Reply, Request, Route, Stats,
};

/// How long a forwarder may take to answer one request. An offer binds all ports and stores them.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);

/// How long a forwarder that was just started may take until it answers.
const START_DEADLINE: Duration = Duration::from_secs(15);

/// How often a forwarder that was just started is tried.
const START_POLL: Duration = Duration::from_millis(20);

/// The exit code with which a forwarder says that another one has the data directory.
pub const EXIT_ALREADY_RUNNING: i32 = 3;

/// Why the forwarder could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No forwarder answers on the socket.
    #[error("no golem-forwarder answers on {}: {source}", socket.display())]
    NotRunning {
        /// The control socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens on the socket and doesn't answer in time.
    #[error(
        "golem-forwarder{} on {} does not answer within {} s; if it hangs, end it with `kill -9` (open SSH sessions end with it) and start the provider again",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        socket.display(),
        REPLY_DEADLINE.as_secs()
    )]
    NoAnswer {
        /// The control socket.
        socket: PathBuf,
        /// Whose it is, where the system tells.
        pid: Option<i32>,
    },
    /// The running forwarder speaks another version of the protocol.
    #[error(
        "the running golem-forwarder (process {pid}, version {version}) speaks version {theirs} of the control protocol and this provider version {PROTOCOL_VERSION}; when no SSH session is in use, end it with `kill {pid}`, and the provider starts its own"
    )]
    OtherVersion {
        /// Its version of the protocol.
        theirs: u32,
        /// Its program version.
        version: String,
        /// Its process id.
        pid: u32,
    },
    /// The forwarder has refused a request.
    #[error("golem-forwarder refused: {}", printable(&.0.message))]
    Refused(Refusal),
    /// The connection broke in the middle of a request, twice.
    #[error("the connection to golem-forwarder on {} broke: {source}", socket.display())]
    Broken {
        /// The control socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer is none.
    #[error("golem-forwarder on {} gave an answer that is not one: {what}", socket.display())]
    Nonsense {
        /// The control socket.
        socket: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is no binary to start.
    #[error(
        "the program golem-forwarder is not there; tried {tried}. It comes with golem-provider (`cargo install golem-vm-provider` installs both); if it is somewhere else, set its path"
    )]
    NoBinary {
        /// Where it was looked for.
        tried: String,
    },
    /// The log could not be opened.
    #[error("can't write golem-forwarder's log {}: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The binary could not be started.
    #[error("can't start {}: {source}", binary.display())]
    Start {
        /// The binary.
        binary: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was started, and ended at once or never answered.
    #[error("{} was started and {what}; its log is {}: {tail}", binary.display(), log.display())]
    DidNotStart {
        /// The binary.
        binary: PathBuf,
        /// What became of it.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// A connection to the forwarder, made again when it breaks. All requests can be repeated without
/// harm, so one that met a broken connection is sent once more.
#[derive(Debug)]
pub struct ForwarderClient {
    data_dir: PathBuf,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: BufReader<UnixStream>,
    next_id: u64,
}

impl ForwarderClient {
    /// A client for the forwarder of a data directory; connects when first used.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), connection: Mutex::new(None) }
    }

    /// Connects to the forwarder of a data directory and asks who it is.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is none, [`ClientError::OtherVersion`] when it is
    /// not one that this client can talk to.
    pub async fn connect(data_dir: &Path) -> Result<(Self, Hello), ClientError> {
        let client = Self::new(data_dir);
        let hello = client.hello().await?;
        Ok((client, hello))
    }

    /// Connects to the forwarder of a data directory, and starts one where none answers. It runs
    /// in a session of its own and outlives this process; its output goes to the log.
    ///
    /// # Errors
    /// When it can't be started or doesn't answer, and as [`ForwarderClient::connect`].
    pub async fn ensure_running(
        data_dir: &Path,
        binary: &Path,
        log_path: &Path,
    ) -> Result<(Self, Hello), ClientError> {
        Self::ensure_running_with(data_dir, binary, log_path, &[]).await
    }

    /// As [`ForwarderClient::ensure_running`], with further arguments for a forwarder that has to
    /// be started, such as `--no-reserve-ports`.
    ///
    /// # Errors
    /// As [`ForwarderClient::ensure_running`].
    pub async fn ensure_running_with(
        data_dir: &Path,
        binary: &Path,
        log_path: &Path,
        extra_arguments: &[String],
    ) -> Result<(Self, Hello), ClientError> {
        match Self::connect(data_dir).await {
            Err(ClientError::NotRunning { .. } | ClientError::Broken { .. }) => {}
            other => return other,
        }
        // It changes its working directory, and so would find another one by a relative path.
        let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let binary = std::path::absolute(binary).unwrap_or_else(|_| binary.to_owned());
        let mut child = launch::spawn(&binary, &absolute, log_path, extra_arguments)?;
        let until = Instant::now() + START_DEADLINE;
        let what = loop {
            match Self::connect(data_dir).await {
                Err(ClientError::NotRunning { .. } | ClientError::Broken { .. }) => {}
                done => {
                    launch::reap(child);
                    return done;
                }
            }
            match child.try_wait() {
                // Somebody else has started one at the same time, which will answer in a moment.
                Ok(Some(status)) if status.code() == Some(EXIT_ALREADY_RUNNING) => {}
                Ok(Some(status)) => break format!("ended at once ({status})"),
                Ok(None) => {}
                Err(error) => break format!("can't be watched ({error})"),
            }
            if Instant::now() >= until {
                break format!("does not answer after {} s", START_DEADLINE.as_secs());
            }
            sleep(START_POLL).await;
        };
        launch::reap(child);
        Err(ClientError::DidNotStart {
            binary,
            what,
            log: log_path.to_owned(),
            tail: launch::log_tail(log_path),
        })
    }

    /// Who the forwarder is.
    ///
    /// # Errors
    /// As [`ForwarderClient::connect`].
    pub async fn hello(&self) -> Result<Hello, ClientError> {
        match self.ask(&Request::Hello).await? {
            Reply::Hello(hello) if hello.protocol_version == PROTOCOL_VERSION => Ok(hello),
            Reply::Hello(hello) => Err(ClientError::OtherVersion {
                theirs: hello.protocol_version,
                version: printable(&hello.version),
                pid: hello.pid,
            }),
            other => Err(self.nonsense(&other)),
        }
    }

    /// Sets the full set of ports to hold, and tells what has become of each. Ports that are not
    /// in it are released, unless they have a route.
    ///
    /// # Errors
    /// When the forwarder is not there or refuses. A port that can't be bound is no error here:
    /// its status says why, and it is tried again until it can be.
    pub async fn offer(
        &self,
        listen_ip: IpAddr,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<Vec<PortStatus>, ClientError> {
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        self.ask_ports(&Request::Offer { listen_ip, ports }).await
    }

    /// What has become of every port that is held or wanted.
    ///
    /// # Errors
    /// When the forwarder is not there.
    pub async fn ports(&self) -> Result<Vec<PortStatus>, ClientError> {
        self.ask_ports(&Request::Ports).await
    }

    /// Sets the full table of routes. With `close_removed` the sessions of ports that no longer
    /// lead to the same VM are cut; without, none is.
    ///
    /// # Errors
    /// When the forwarder is not there or refuses.
    pub async fn set_routes(
        &self,
        routes: Vec<Route>,
        close_removed: bool,
    ) -> Result<Vec<PortStatus>, ClientError> {
        self.ask_ports(&Request::Routes { routes, close_removed }).await
    }

    /// Adds or replaces one route. Open sessions stay where they are.
    ///
    /// # Errors
    /// When the forwarder is not there or refuses.
    pub async fn set_route(&self, route: Route) -> Result<PortStatus, ClientError> {
        let mut ports = self.ask_ports(&Request::SetRoute { route }).await?;
        ports.pop().ok_or_else(|| ClientError::Nonsense {
            socket: self.socket(),
            what: "no status for the port".to_owned(),
        })
    }

    /// Removes one route, and cuts its port's sessions if asked. No error if there is none. The
    /// status of the port is none when it has been released.
    ///
    /// # Errors
    /// When the forwarder is not there.
    pub async fn clear_route(
        &self,
        port: u16,
        close_sessions: bool,
    ) -> Result<Option<PortStatus>, ClientError> {
        Ok(self.ask_ports(&Request::ClearRoute { port, close_sessions }).await?.pop())
    }

    /// What goes through the ports.
    ///
    /// # Errors
    /// When the forwarder is not there.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        match self.ask(&Request::Stats).await? {
            Reply::Stats(stats) => Ok(stats),
            other => Err(self.nonsense(&other)),
        }
    }

    /// Has the running forwarder become another program, the one that it was started as if none is named;
    /// ports and sessions stay. Does nothing if it is of that build already. Returns who it is then.
    ///
    /// # Errors
    /// When the forwarder is not there, or goes on as it is: [`RefusalCode::NotUpgraded`]. One of an earlier
    /// version than that of [`Hello::build`] does not understand.
    pub async fn upgrade(&self, program: Option<&Path>) -> Result<Hello, ClientError> {
        let request = Request::Upgrade { program: program.map(Path::to_owned) };
        let mut tries = 3;
        loop {
            match self.ask(&request).await {
                Ok(Reply::Hello(hello)) => return Ok(hello),
                Ok(other) => return Err(self.nonsense(&other)),
                // Its connections end when it becomes the other program, which is asked next.
                Err(ClientError::Broken { .. }) if tries > 1 => tries -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the forwarder: all ports are released and all sessions cut. Returns when it has let
    /// go of its data directory's socket.
    ///
    /// # Errors
    /// When the forwarder is not there.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        let reply = self.ask(&Request::Shutdown).await?;
        *self.connection.lock().await = None;
        if reply != Reply::Done {
            return Err(self.nonsense(&reply));
        }
        let until = Instant::now() + REPLY_DEADLINE;
        while self.socket().exists() && Instant::now() < until {
            sleep(START_POLL).await;
        }
        Ok(())
    }

    /// Waits until the forwarder is gone, on a connection of its own; at once if there is none.
    /// Then [`ForwarderClient::ensure_running`] brings it back, with the ports and routes that it
    /// had stored, and the provider sends its own again.
    pub async fn watch(&self) {
        let Ok(path) = SocketPath::new(&self.data_dir, SOCKET_NAME) else { return };
        let Ok(stream) = UnixStream::connect(path.as_path()).await else { return };
        // It never says anything unasked, so whatever comes, it is not a living forwarder.
        let _ = frame::read_line(&mut BufReader::new(stream)).await;
    }

    fn socket(&self) -> PathBuf {
        self.data_dir.join(SOCKET_NAME)
    }

    fn nonsense(&self, reply: &Reply) -> ClientError {
        let what = match reply {
            Reply::Hello(_) => "a hello",
            Reply::Ports { .. } => "the state of ports",
            Reply::Stats(_) => "statistics",
            Reply::Done => "done",
            Reply::Error(_) => "an error",
        };
        ClientError::Nonsense {
            socket: self.socket(),
            what: format!("{what}, to another question"),
        }
    }

    async fn ask_ports(&self, request: &Request) -> Result<Vec<PortStatus>, ClientError> {
        match self.ask(request).await? {
            Reply::Ports { ports } => Ok(ports),
            other => Err(self.nonsense(&other)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Reply, ClientError> {
        let mut slot = self.connection.lock().await;
        // What was idle may have died meanwhile, which shows only when it is used.
        let mut fresh = false;
        let reply = loop {
            // Taken out, so that a request that is given up half-way leaves no connection behind
            // on which the next one would read the wrong reply.
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => {
                    fresh = true;
                    self.open().await?
                }
            };
            match timeout(REPLY_DEADLINE, self.exchange(&mut connection, request)).await {
                Ok(Ok(reply)) => {
                    *slot = Some(connection);
                    break reply;
                }
                Ok(Err(ClientError::Broken { .. })) if !fresh => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let pid = connection.stream.get_ref().peer_cred().ok().and_then(|c| c.pid());
                    return Err(ClientError::NoAnswer { socket: self.socket(), pid });
                }
            }
        };
        match reply {
            Reply::Error(refusal) if refusal.code == RefusalCode::ProtocolVersion => {
                drop(slot);
                // Its hello is answered in any version and says who it is.
                match Box::pin(self.hello()).await {
                    Err(error @ ClientError::OtherVersion { .. }) => Err(error),
                    _ => Err(ClientError::Refused(refusal)),
                }
            }
            Reply::Error(refusal) => Err(ClientError::Refused(refusal)),
            reply => Ok(reply),
        }
    }

    async fn open(&self) -> Result<Connection, ClientError> {
        let connect = async {
            let path = SocketPath::new(&self.data_dir, SOCKET_NAME)?;
            UnixStream::connect(path.as_path()).await
        };
        let connected = match timeout(REPLY_DEADLINE, connect).await {
            Ok(connected) => connected,
            Err(_) => return Err(ClientError::NoAnswer { socket: self.socket(), pid: None }),
        };
        let stream = connected
            .map_err(|source| ClientError::NotRunning { socket: self.socket(), source })?;
        Ok(Connection { stream: BufReader::new(stream), next_id: 1 })
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: &Request,
    ) -> Result<Reply, ClientError> {
        let broken = |source| ClientError::Broken { socket: self.socket(), source };
        let nonsense = |what: String| ClientError::Nonsense { socket: self.socket(), what };
        let id = connection.next_id;
        connection.next_id += 1;
        let line = wire::encode(id, request).map_err(|error| nonsense(error.to_string()))?;
        // A write that fails is looked at only if there is no reply: the forwarder may have said
        // why it closed the connection.
        let written = connection.stream.get_mut().write_all(&line).await;
        let line = match frame::read_line(&mut connection.stream).await {
            Ok(Some(line)) => line,
            Ok(None) | Err(FrameError::CutOff) => {
                return Err(broken(
                    written.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
                ));
            }
            Err(FrameError::Io(error)) => return Err(broken(error)),
            Err(error @ FrameError::TooLong) => return Err(nonsense(error.to_string())),
        };
        let decoded = wire::decode_header(&line)
            .and_then(|header| Ok((header.id, wire::decode::<Reply>(&line)?)));
        match decoded {
            // Refusals of what could not be read carry no number.
            Ok((number, reply)) if number == id || matches!(reply, Reply::Error(_)) => Ok(reply),
            Ok((number, _)) => Err(nonsense(format!("the reply to request {number}, not {id}"))),
            Err(error) => Err(nonsense(printable(&error.to_string()))),
        }
    }
}
