//! Finds the facts out: everything at once, each with a deadline. Nothing is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use golem_vm_node::client::{Call, ClientError, SignedClient};
use golem_vm_node::clock::Clock;
use golem_vm_node::data_dir::DataDir;
use golem_vm_node::key_file;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyPair, route};
use tokio::time::timeout;

use super::facts::{
    BackendFacts, CapacityFacts, ClockFacts, DiskFacts, Facts, ForwarderFacts, KeyFacts, Peer,
    PortsFacts, Trust,
};
use super::{books, http_date, local_ports};
use crate::backend::{BackendChoice, Backends, Connected};
use crate::capacity::{self, Amount};
use crate::config::Config;
use crate::control::messages::{DiscoveryStatus, PortsStatus};
use crate::forwarder::{self, ClientError as ForwarderError, ForwarderClient};
use crate::host::{self, HostResources};
use crate::images::{ImageCatalog, ImageInfo, ImageRegister as _};
use crate::store::ProviderStore;
use crate::vm::VmState;
use crate::vm::repository::VmRepository as _;

/// How long another server may take to say that it is well.
const PEER_DEADLINE: Duration = Duration::from_secs(5);
/// How long the backend may take to be probed.
const PROBE_DEADLINE: Duration = Duration::from_secs(60);

/// What is to be examined.
pub struct Subject<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The provider's directory.
    pub data_dir: &'a DataDir,
    /// What makes VMs or could, each connected to.
    pub backends: Vec<Connected>,
    /// The database, where it could be opened.
    pub store: Option<ProviderStore>,
    /// What only the running provider knows; `None` when it does not run.
    pub running: Option<Running>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What only the running provider knows.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its ports.
    pub ports: PortsStatus,
    /// What became of its advertisements.
    pub discovery: Vec<DiscoveryStatus>,
    /// What it offers, decided at its start.
    pub offered: Amount,
}

/// Finds everything out that [`examine`](super::examine) judges.
pub async fn gather(subject: Subject<'_>) -> Facts {
    let config = subject.config;
    let (backends, images, peers, forwarder) = tokio::join!(
        ask_backends(&subject),
        list_images(&subject),
        ask_peers(config, &subject.clock),
        ask_forwarder(config, subject.data_dir),
    );
    let (discovery, checkers) = peers;
    let (forwarder, held) = forwarder;
    let vm_data = vm_data(config, &backends, subject.data_dir.path());
    let (running, advertised, known_ports, offered) = match subject.running {
        Some(running) => (true, running.discovery, Some(running.ports), Some(running.offered)),
        None => (false, Vec::new(), None, None),
    };
    let machine = look_at_machine(config, subject.data_dir, &vm_data, known_ports, held).await;
    let offered = match (offered, &machine.host) {
        (Some(offered), _) => Ok(offered),
        (None, Ok(host)) => capacity::offered(&config.offer, host).map_err(|e| e.to_string()),
        (None, Err(reason)) => Err(reason.clone()),
    };
    let reserved = match &subject.store {
        Some(store) => store.reserved().await.ok(),
        None => None,
    };
    let (books, instances) = match &subject.store {
        None => (None, Vec::new()),
        Some(store) => {
            let in_use = subject.backends.iter().filter(|(kind, _)| {
                backends.iter().any(|one| one.kind == *kind && (one.in_use || one.found.is_ok()))
            });
            let compare = in_use.map(|(kind, backend)| async move {
                let compared = match backend {
                    Ok(backend) => books::compare(store, backend, config.orphan_grace).await,
                    Err(reason) => Err(reason.clone()),
                };
                (*kind, compared)
            });
            tokio::join!(async { store.books().await.ok() }, join_all(compare))
        }
    };
    let stopped = match &subject.store {
        Some(store) => stopped(store).await,
        None => Vec::new(),
    };
    Facts {
        choice: config.backend.clone(),
        backends,
        trust: Trust {
            allow_uncontained: config.allow_uncontained,
            trusted: config.trusted_requestors.len(),
        },
        images,
        default_image: config.default_image.clone(),
        clock: ClockFacts { now: now(&*subject.clock), key_written: machine.key_written },
        key: machine.key,
        host: machine.host,
        vm_data,
        own_disk: machine.own_disk,
        capacity: CapacityFacts {
            offered,
            reserved,
            overcommit_storage: config.offer.overcommit_storage,
        },
        books,
        instances,
        stopped,
        forwarder,
        ports: machine.ports,
        checkers,
        discovery,
        advertised,
        running,
    }
}

/// The VMs that the provider itself has stopped, with the reasons.
async fn stopped(store: &ProviderStore) -> Vec<(String, String)> {
    let records = store.all().await.unwrap_or_default();
    let stopped = records.into_iter().filter_map(|record| match record.state {
        VmState::Stopped { reason } => Some((record.name.to_string(), reason?)),
        _ => None,
    });
    stopped.collect()
}

async fn ask_backends(subject: &Subject<'_>) -> Vec<BackendFacts> {
    let in_use = match &subject.store {
        Some(store) => {
            let vms = store.all().await.unwrap_or_default().into_iter();
            let images = store.images().await.unwrap_or_default().into_iter();
            vms.map(|vm| vm.terms.backend).chain(images.map(|image| image.backend)).collect()
        }
        None => BTreeSet::new(),
    };
    let ask = |(kind, backend): &Connected| {
        let (kind, backend, in_use) = (*kind, backend.clone(), in_use.contains(kind));
        async move {
            let found = match backend {
                Ok(backend) => match timeout(PROBE_DEADLINE, backend.probe()).await {
                    Ok(probed) => probed.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {} s", PROBE_DEADLINE.as_secs())),
                },
                Err(reason) => Err(reason),
            };
            BackendFacts { kind, found, in_use }
        }
    };
    join_all(subject.backends.iter().map(ask)).await
}

/// What was built is known without the backends; only whether it is still there is not.
async fn list_images(subject: &Subject<'_>) -> Result<Vec<ImageInfo>, String> {
    let Some(store) = subject.store.clone() else { return Ok(Vec::new()) };
    let config = subject.config;
    let backends = Backends::untried(subject.backends.clone());
    let (allowed, default) = (config.images.as_ref(), &config.default_image);
    let catalog = ImageCatalog::new(Arc::new(store), backends, allowed, default);
    match timeout(PROBE_DEADLINE, catalog.list()).await {
        Ok(list) => list.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PROBE_DEADLINE.as_secs())),
    }
}

async fn ask_peers(config: &Config, clock: &Arc<dyn Clock>) -> (Vec<Peer>, Vec<Peer>) {
    // Health is public: nothing is signed, so a key of no one's will do.
    let client = KeyPair::generate()
        .map_err(|error| error.to_string())
        .and_then(|key| SignedClient::new(key, Arc::clone(clock)).map_err(|e| e.to_string()));
    let ask = |url: &String| {
        let (url, client) = (url.clone(), client.clone());
        async move {
            let answer = match client {
                Ok(client) => ask_peer(&client, &url, clock).await.map_err(|e| e.to_string()),
                Err(reason) => Err(reason),
            };
            Peer { url, answer }
        }
    };
    tokio::join!(
        join_all(config.discovery.iter().map(ask)),
        join_all(config.port_checkers.iter().map(ask))
    )
}

/// Asks for the health of the server at `url`, and by how many seconds our clock is ahead of its.
async fn ask_peer(
    client: &SignedClient,
    url: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Option<i64>, ClientError> {
    let asked = now(&**clock);
    let reply = client.call_unsigned(url, &Call::get(route::HEALTH).timeout(PEER_DEADLINE)).await?;
    let answered = now(&**clock);
    reply.ok()?;
    let date = reply.headers.get(::http::header::DATE).and_then(|value| value.to_str().ok());
    Ok(date.and_then(http_date::parse).map(|date| http_date::ahead(asked, answered, date)))
}

/// The forwarder, and the ports that it holds.
async fn ask_forwarder(config: &Config, data_dir: &DataDir) -> (ForwarderFacts, BTreeSet<u16>) {
    let program =
        forwarder::find_binary(config.forwarder.as_deref()).map_err(|error| error.to_string());
    match ForwarderClient::connect(data_dir.path()).await {
        Ok((client, hello)) => {
            let ports = client.ports().await.unwrap_or_default();
            let held = ports.iter().filter(|port| port.bound).map(|port| port.port).collect();
            let own = program.as_deref().unwrap_or(Path::new(""));
            let successor = forwarder::successor_of(&hello, own).await;
            (ForwarderFacts { program, hello: Ok(Some(hello)), successor }, held)
        }
        Err(ForwarderError::NotRunning { .. }) => {
            (ForwarderFacts { program, hello: Ok(None), successor: None }, BTreeSet::new())
        }
        Err(error) => {
            let hello = Err(error.to_string());
            (ForwarderFacts { program, hello, successor: None }, BTreeSet::new())
        }
    }
}

/// Where the VMs' data is: of all backends' directories the one with the least room.
fn vm_data(config: &Config, backends: &[BackendFacts], data_dir: &Path) -> PathBuf {
    let is_named = |kind| match &config.backend {
        BackendChoice::Named(kinds) => kinds.contains(&kind),
        BackendChoice::Auto => true,
    };
    let used = backends.iter().filter(|one| one.in_use || is_named(one.kind));
    let found = used.filter_map(|one| one.found.as_ref().ok());
    host::tightest(found.map(|found| found.vm_data(data_dir)))
        .unwrap_or_else(|| data_dir.to_owned())
}

struct Machine {
    host: Result<HostResources, String>,
    own_disk: Option<DiskFacts>,
    key: KeyFacts,
    key_written: Option<Timestamp>,
    ports: PortsFacts,
}

/// What is read from files and sockets of this machine, off the async threads.
async fn look_at_machine(
    config: &Config,
    data_dir: &DataDir,
    vm_data: &Path,
    known_ports: Option<PortsStatus>,
    held: BTreeSet<u16>,
) -> Machine {
    let (config, data_dir, vm_data) = (config.clone(), data_dir.clone(), vm_data.to_owned());
    let key_path = data_dir.key_path();
    let looked = tokio::task::spawn_blocking(move || {
        let key_path = data_dir.key_path();
        let written = std::fs::metadata(&key_path).and_then(|data| data.modified()).ok();
        let key = key_file::load(&key_path).map(|key| key.is_some()).map_err(|e| e.to_string());
        Machine {
            host: host::measure(host::existing_ancestor(&vm_data)).map_err(|e| e.to_string()),
            own_disk: own_disk(data_dir.path(), &vm_data),
            key: KeyFacts { path: key_path, state: key },
            key_written: written.map(Timestamp::from),
            ports: match known_ports {
                Some(ports) => PortsFacts::Known(ports),
                None => PortsFacts::Looked(local_ports::look(&config, &held)),
            },
        }
    });
    looked.await.unwrap_or_else(|error| Machine {
        host: Err(format!("this machine can't be looked at: {error}")),
        own_disk: None,
        key: KeyFacts { path: key_path, state: Err("it can't be looked at".to_owned()) },
        key_written: None,
        ports: PortsFacts::Looked(super::LookedAtPorts::default()),
    })
}

/// The provider's own directory, where it is not on the VMs' file system.
fn own_disk(own: &Path, vm_data: &Path) -> Option<DiskFacts> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev()).ok();
    if device(own) == device(vm_data) {
        return None;
    }
    let free_mib = host::measure(own).ok()?.disk_free_mib;
    Some(DiskFacts { path: own.to_owned(), free_mib })
}

fn now(clock: &dyn Clock) -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(clock.now_micros()).unwrap_or(i64::MAX))
}
