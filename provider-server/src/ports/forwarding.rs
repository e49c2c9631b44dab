//! The provider's side of the forwarder: which ports it holds, and where each one leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::VmId;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Backoff, PortBoard, holder};
use crate::forwarder::wire::{Hello, MAX_PORTS, PortStatus, Route, Stats};
use crate::forwarder::{ClientError, ForwarderClient, successor_of};
use crate::vm::AccessPorts;

/// How often the forwarder is asked what has become of its ports: one that was taken may be free.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest wait between two attempts to bring the forwarder back.
const RESTART_WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A forwarder that lived so long did not die of how it was started.
const LIVED: Duration = Duration::from_secs(10);

/// Brings the forwarder up where none runs.
#[async_trait]
pub trait LaunchForwarder: Send + Sync + 'static {
    /// The directory on whose control socket it answers.
    fn data_dir(&self) -> &Path;

    /// Makes sure that one runs, and says which. Does nothing if one does.
    async fn ensure(&self) -> Result<Hello, ClientError>;

    /// Has the running one become the program that there is now, if that is another one, and says which runs
    /// then. Ports and sessions stay. If it can't, it goes on as it is.
    async fn upgrade(&self, running: Hello) -> Hello {
        running
    }
}

/// The `golem-forwarder` program.
#[derive(Debug, Clone)]
pub struct ForwarderProgram {
    /// The provider's data directory.
    pub data_dir: PathBuf,
    /// The program; see [`crate::forwarder::find_binary`].
    pub binary: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
}

#[async_trait]
impl LaunchForwarder for ForwarderProgram {
    fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    async fn ensure(&self) -> Result<Hello, ClientError> {
        let (_, hello) =
            ForwarderClient::ensure_running(&self.data_dir, &self.binary, &self.log).await?;
        Ok(hello)
    }

    async fn upgrade(&self, running: Hello) -> Hello {
        let Some(program) = successor_of(&running, &self.binary).await else { return running };
        match ForwarderClient::new(&self.data_dir).upgrade(Some(&program)).await {
            Ok(now) => {
                tracing::info!(
                    pid = now.pid,
                    program = %program.display(),
                    version = now.version,
                    "the forwarder has been upgraded, with its sessions"
                );
                now
            }
            Err(error) => {
                tracing::warn!("the forwarder is not upgraded: {error}");
                running
            }
        }
    }
}

/// How a forwarder that proves no ports is called.
fn old(hello: &Hello) -> Option<String> {
    (!hello.proofs).then(|| format!("the running golem-forwarder (process {})", hello.pid))
}

/// Whether it is of a version that can't be upgraded while it runs, so that it is replaced as soon as it
/// carries nothing.
fn must_be_replaced(hello: &Hello) -> bool {
    !hello.proofs || hello.build.is_none()
}

/// Why the ports could not be taken up at the start.
#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    /// The range is too large.
    #[error(
        "the port range has {0} ports and at most {MAX_PORTS} can be held: bring GOLEM_PROVIDER_PORT_RANGE_START and _END closer together"
    )]
    TooManyPorts(usize),
    /// The forwarder can't be started or told.
    #[error(transparent)]
    Forwarder(#[from] ClientError),
}

/// The access ports, held by the forwarder. Cheap to clone; clones are one.
///
/// The table of routes is kept here as well, and is what counts: a forwarder that died is started
/// again and told all of it.
#[derive(Clone)]
pub struct ForwardedPorts {
    inner: Arc<Inner>,
}

struct Inner {
    launch: Arc<dyn LaunchForwarder>,
    client: ForwarderClient,
    listen: IpAddr,
    board: PortBoard,
    // Held while the forwarder is told, so that what it is told is in the order of the table.
    table: Mutex<Table>,
    behind: Notify,
}

#[derive(Debug, Default)]
struct Table {
    routes: BTreeMap<u16, Route>,
    /// Ports outside the offered range that VMs have from earlier; they are held as well.
    of_vms: BTreeSet<u16>,
    /// Whether the forwarder missed something.
    behind: bool,
}

impl fmt::Debug for ForwardedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardedPorts").field("listen", &self.inner.listen).finish_non_exhaustive()
    }
}

impl ForwardedPorts {
    /// Finds the forwarder or starts it, and has it hold the ports of `board` on `listen`.
    ///
    /// `expected` are the VMs of the database with their access ports. Routes to them that the
    /// forwarder has from before this start stay as they are, with their sessions, until each VM's
    /// task says where it is now; other routes lead to VMs that are gone, and are cut.
    ///
    /// # Errors
    /// [`ForwardingError`]. A port that can't be held is no error: the board says why.
    pub async fn start(
        launch: Arc<dyn LaunchForwarder>,
        listen: IpAddr,
        board: PortBoard,
        expected: Vec<(u16, VmId)>,
    ) -> Result<Self, ForwardingError> {
        let expected: BTreeMap<u16, String> =
            expected.into_iter().map(|(port, vm)| (port, vm.to_string())).collect();
        let offered = board.offered();
        let held = offered.union(&expected.keys().copied().collect()).count();
        if held > MAX_PORTS {
            return Err(ForwardingError::TooManyPorts(held));
        }
        let mut hello = launch.ensure().await?;
        let client = ForwarderClient::new(launch.data_dir());
        if must_be_replaced(&hello) && client.stats().await?.open == 0 {
            tracing::info!(
                pid = hello.pid,
                "the forwarder is of an earlier version: it is replaced"
            );
            client.shutdown().await?;
            hello = launch.ensure().await?;
        }
        hello = launch.upgrade(hello).await;
        tracing::info!(pid = hello.pid, uptime_ms = hello.uptime_ms, "the forwarder runs");
        board.set_old_forwarder(old(&hello));
        let of_vms = expected.keys().filter(|port| !offered.contains(port)).copied().collect();
        let this = Self {
            inner: Arc::new(Inner {
                launch,
                client,
                listen,
                board,
                table: Mutex::new(Table { of_vms, ..Table::default() }),
                behind: Notify::new(),
            }),
        };
        let mut table = this.inner.table.lock().await;
        let statuses = this.inner.client.ports().await?;
        for route in statuses.into_iter().filter_map(|status| status.route) {
            if expected.get(&route.port) == Some(&route.vm) {
                table.routes.insert(route.port, route);
            } else {
                tracing::info!(
                    port = route.port,
                    vm = route.vm,
                    "its VM is gone: the route is cut"
                );
            }
        }
        this.tell_all(&mut table).await?;
        drop(table);
        Ok(this)
    }

    /// Looks after the forwarder until `shutdown`: brings it back when it has ended, tells it what
    /// it missed, and asks what has become of the ports.
    pub async fn watch(&self, shutdown: CancellationToken) {
        let mut waits = Backoff::new(RESTART_WAITS.0, RESTART_WAITS.1);
        let mut said = String::new();
        loop {
            let since = Instant::now();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.attend(&mut said) => {}
            }
            if since.elapsed() >= LIVED {
                waits.reset();
            } else {
                // The first time at once: sessions are waiting.
                let wait = waits.next();
                if wait > RESTART_WAITS.0 {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = sleep(wait) => {}
                    }
                }
            }
            match self.inner.client.hello().await {
                Ok(hello) => tracing::info!(
                    pid = hello.pid,
                    version = hello.version,
                    "another program is the forwarder now"
                ),
                Err(_) => tracing::warn!("the forwarder has ended; it is started again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.bring_back(&mut said, &mut waits) => {}
            }
        }
    }

    /// Returns when the forwarder has ended.
    async fn attend(&self, said: &mut String) {
        let ended = self.inner.client.watch();
        tokio::pin!(ended);
        let is_old = match self.inner.client.hello().await {
            Ok(hello) => {
                self.inner.board.set_old_forwarder(old(&hello));
                must_be_replaced(&hello)
            }
            // What is wrong with it is said below.
            Err(_) => false,
        };
        loop {
            tokio::select! {
                () = &mut ended => return,
                () = self.inner.behind.notified() => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
            let mut table = self.inner.table.lock().await;
            if is_old && self.inner.client.stats().await.is_ok_and(|stats| stats.open == 0) {
                tracing::info!("the forwarder is of an earlier version: it is replaced");
                // Its end is seen, and a new one started, which takes up ports and routes.
                let _ = self.inner.client.shutdown().await;
                continue;
            }
            let told = if table.behind {
                self.tell_all(&mut table).await
            } else {
                match self.inner.client.ports().await {
                    Ok(statuses) => {
                        self.note(statuses);
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            };
            drop(table);
            match told {
                Ok(()) => said.clear(),
                Err(error) => self.failed(&error, said, false),
            }
        }
    }

    async fn bring_back(&self, said: &mut String, waits: &mut Backoff) {
        loop {
            let brought = async {
                let hello = self.inner.launch.ensure().await?;
                let mut table = self.inner.table.lock().await;
                self.tell_all(&mut table).await?;
                Ok::<_, ClientError>(hello)
            };
            match brought.await {
                Ok(hello) => {
                    tracing::info!(pid = hello.pid, "the forwarder runs again, with all routes");
                    said.clear();
                    return;
                }
                Err(error) => self.failed(&error, said, true),
            }
            sleep(waits.next()).await;
        }
    }

    /// Logs an error once, however often it comes.
    fn failed(&self, error: &ClientError, said: &mut String, gone: bool) {
        let text = error.to_string();
        if *said != text {
            tracing::error!("{text}");
            said.clone_from(&text);
        }
        self.inner.board.forwarder_failed(&text, gone);
    }

    async fn tell_all(&self, table: &mut Table) -> Result<(), ClientError> {
        table.behind = true;
        let mut ports = self.inner.board.offered();
        ports.extend(&table.of_vms);
        self.inner.client.offer(self.inner.listen, ports).await?;
        let routes = table.routes.values().cloned().collect();
        // What the table does not have leads to VMs that were unrouted meanwhile.
        let statuses = self.inner.client.set_routes(routes, true).await?;
        table.behind = false;
        self.note(statuses);
        Ok(())
    }

    /// Takes note of the ports' state, and finds out in the background who has those that are taken.
    fn note(&self, statuses: Vec<PortStatus>) {
        let taken = self.inner.board.set_access(&statuses);
        if !taken.is_empty() {
            let board = self.inner.board.clone();
            tokio::task::spawn_blocking(move || board.set_holders(holder::holders(&taken)));
        }
    }

    /// What goes through the ports.
    ///
    /// # Errors
    /// A sentence, when the forwarder can't be asked.
    pub async fn stats(&self) -> Result<Stats, String> {
        self.inner.client.stats().await.map_err(|error| error.to_string())
    }

    /// Ends the forwarder, and with it every session: for a provider that is given up. Stop
    /// [`ForwardedPorts::watch`] first, which would bring it back.
    ///
    /// # Errors
    /// A sentence, when it can't be asked.
    pub async fn shut_down(&self) -> Result<(), String> {
        self.inner.client.shutdown().await.map_err(|error| error.to_string())
    }

    /// What is known about the ports.
    #[must_use]
    pub fn board(&self) -> &PortBoard {
        &self.inner.board
    }

    fn missed(&self, table: &mut Table, error: &ClientError) -> String {
        table.behind = true;
        self.inner.behind.notify_one();
        error.to_string()
    }
}

#[async_trait]
impl AccessPorts for ForwardedPorts {
    fn usable(&self) -> Vec<u16> {
        self.inner.board.usable()
    }

    async fn route(&self, port: u16, vm: VmId, target: SocketAddr) -> Result<(), String> {
        let mut table = self.inner.table.lock().await;
        let route = Route { port, target, vm: vm.to_string() };
        if !table.behind && table.routes.get(&port) == Some(&route) {
            return Ok(());
        }
        table.routes.insert(port, route.clone());
        match self.inner.client.set_route(route).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.missed(&mut table, &error)),
        }
    }

    async fn unroute(&self, port: u16) -> Result<(), String> {
        let mut table = self.inner.table.lock().await;
        table.routes.remove(&port);
        match self.inner.client.clear_route(port, true).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.missed(&mut table, &error)),
        }
    }

    async fn quiet_for(&self) -> Result<BTreeMap<u16, Duration>, String> {
        let stats = self.stats().await?;
        let routed = stats.ports.into_iter().filter(|port| port.vm.is_some());
        routed
            .map(|port| match port.quiet_ms {
                Some(quiet) => Ok((port.port, Duration::from_millis(quiet))),
                None => Err(format!(
                    "the running golem-forwarder is of an earlier version and does not tell when port {} was last used",
                    port.port
                )),
            })
            .collect()
    }
}
