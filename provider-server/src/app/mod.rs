//! Builds the provider from its settings, runs it, and takes it down: the only place that names
//! concrete types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::client::{ClientError, SignedClient};
use golem_vm_node::clock::{Clock, SystemClock};
use golem_vm_node::control::{ControlError, ControlSocket};
use golem_vm_node::data_dir::{DataDir, DataDirError};
use golem_vm_node::http::{BindError, HttpService, RateLimits, Recipients, Signing, bind};
use golem_vm_node::key_file::{self, KeyFileError};
use golem_vm_node::ready::{self, Ready, ReadyError};
use golem_vm_node::shutdown;
use golem_vm_node::sqlite::SqliteError;
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::advertisement::Overcommit;
use golem_vm_protocol::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::advertise::{
    AdvertSource, Advertiser, AdvertiserParts, BackendOffer, HttpDiscovery, Pace, RentableImage,
    Snapshot, TermsSettings,
};
use crate::backend::docker::DockerBackend;
use crate::backend::docker::endpoint::Surroundings;
use crate::backend::memory::MemoryBackend;
use crate::backend::{
    Backend, BackendError, BackendKind, Capabilities, Containment, kernel_numbers, open_files,
};
use crate::capacity::{self, OfferError};
use crate::config::Config;
use crate::containment::Firewall;
use crate::control::{self, Running};
use crate::forwarder;
use crate::host::{self, HostError};
use crate::http::{self, ApiState, InfoSource};
use crate::images::ImageCatalog;
use crate::ports::{
    ForwardedPorts, ForwarderProgram, ForwardingError, PortBoard, PortProofs, PortVerifier,
    PublicAddress, bind_proof_socket, display,
};
use crate::rental::{Conditions, Rental};
use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;
use crate::vm::task::World;
use crate::vm::{VmError, VmManager, disk_guard};

/// How often old operations and failed VMs are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// How long a purge waits for the forwarder to end.
const FORWARDER_END: Duration = Duration::from_secs(10);

/// What [`run`] needs.
pub struct StartOptions {
    /// The settings.
    pub config: Config,
    /// Where state lives.
    pub data_dir: DataDir,
    /// Where to announce the bound addresses.
    pub ready_fd: Option<u32>,
}

/// Why the provider does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Another process has the data directory, or it can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database can't be used.
    #[error(transparent)]
    Database(#[from] SqliteError),
    /// The machine can't be measured.
    #[error(transparent)]
    Host(#[from] HostError),
    /// More is offered than there is.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The backend can't be used.
    #[error("no backend can make VMs here ('golem-provider doctor' says more)")]
    Backend(#[from] BackendError),
    /// Guests can't be contained after all.
    #[error("guests can't be contained: {0}")]
    Containment(String),
    /// The forwarder can't be used.
    #[error(transparent)]
    Forwarding(#[from] ForwardingError),
    /// The forwarder's program is not there.
    #[error("{0}")]
    NoForwarder(String),
    /// The API's address can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The control socket can't be bound.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An address in the settings can't be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The VMs can't be read.
    #[error(transparent)]
    Vms(#[from] VmError),
    /// Nobody can be told that it runs.
    #[error(transparent)]
    Ready(#[from] ReadyError),
    /// Signals can't be caught.
    #[error("signals can't be caught: {0}")]
    Signals(std::io::Error),
}

impl AppError {
    /// The exit code; `golem-provider --help` lists them.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Offer(_) => 2,
            Self::Backend(_) => 4,
            Self::DataDir(DataDirError::InUse { .. }) => 5,
            _ => 1,
        }
    }
}

/// Connects to the backend that the settings name, or to the first that there is.
///
/// # Errors
/// [`BackendError::Unavailable`] when it does not answer.
pub async fn connect_backend(
    config: &Config,
    key: &KeyPair,
    data_dir: &DataDir,
) -> Result<Arc<dyn Backend>, BackendError> {
    match config.backend {
        Some(BackendKind::Memory) => {
            let backend = MemoryBackend::kept(data_dir.path()).await;
            Ok(Arc::new(backend.map_err(|error| BackendError::Unavailable(error.to_string()))?))
        }
        Some(BackendKind::Docker) | None => {
            let firewall = Firewall::new(&key.id(), config.network.rules());
            let backend =
                DockerBackend::connect(key.id(), &Surroundings::of_this_process(), firewall);
            Ok(Arc::new(backend.map_err(|error| BackendError::Unavailable(error.to_string()))?))
        }
    }
}

/// Runs the provider until it is told to end by a signal or over the control socket.
///
/// # Errors
/// [`AppError`], before anything is offered.
pub async fn run(options: StartOptions) -> Result<(), AppError> {
    let StartOptions { config, data_dir, ready_fd } = options;
    let _lock = data_dir.lock()?;
    let key = key_file::load_or_create(&data_dir.key_path())?;
    let token = shutdown::on_signal().map_err(AppError::Signals)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = ProviderStore::open(&data_dir.state_db(), Arc::clone(&clock))?;
    let provider = Provider::assemble(config, &data_dir, key, store.clone(), clock, token).await;
    let outcome = match provider {
        Ok(provider) => provider.serve(&data_dir, ready_fd).await,
        Err(error) => Err(error),
    };
    store.close().await;
    outcome
}

/// Everything, put together and not yet at work.
struct Provider {
    config: Config,
    key: KeyPair,
    clock: Arc<dyn Clock>,
    token: CancellationToken,
    listener: tokio::net::TcpListener,
    running: Arc<Running>,
    forwarded: ForwardedPorts,
    address: PublicAddress,
}

impl Provider {
    async fn assemble(
        config: Config,
        data_dir: &DataDir,
        key: KeyPair,
        store: ProviderStore,
        clock: Arc<dyn Clock>,
        token: CancellationToken,
    ) -> Result<Self, AppError> {
        let backend = connect_backend(&config, &key, data_dir).await?;
        open_files::let_memory_bound_them();
        kernel_numbers::let_memory_bound_them();
        let capabilities = backend.probe().await?;
        contain(&*backend, &capabilities, &store).await?;
        let vm_data = vm_data_dir(&capabilities, data_dir);
        let offered =
            capacity::offered(&config.offer, &host::measure(host::existing_ancestor(&vm_data))?)?;
        let conditions = Arc::new(Conditions {
            offered,
            max_vms: config.max_vms,
            max_vms_per_requestor: config.max_vms_per_requestor,
            prices: config.prices,
            overcommit: Overcommit {
                cpu: config.offer.overcommit_cpu,
                storage: config.offer.overcommit_storage,
            },
            trusted: config.trusted_requestors.clone(),
            allow_uncontained: config.allow_uncontained,
            egress: config.network.egress,
            backend: backend.kind(),
            capabilities,
        });

        let listener = bind(&config.host.to_string(), config.port).await?;
        let api = listener.local_addr().map_err(AppError::Signals)?;
        let client = SignedClient::new(key.clone(), Arc::clone(&clock))?;
        let address = PublicAddress::new(config.public_host.clone(), config.host);
        let board = PortBoard::new(&config, api.port());
        let forwarded = start_forwarding(&config, data_dir, &board, &store).await?;
        let verifier = PortVerifier::new(
            &config,
            board.clone(),
            client.clone(),
            address.clone(),
            Arc::clone(&clock),
        )?;

        let images = ImageCatalog::new(
            Arc::new(store.clone()),
            Arc::clone(&backend),
            config.images.as_ref(),
            &config.default_image,
        );
        let vms = VmManager::new(Arc::new(World {
            repository: Arc::new(store.clone()),
            backends: BTreeMap::from([(backend.kind(), Arc::clone(&backend))]),
            ports: Arc::new(forwarded.clone()),
            launch_timeout: config.launch_timeout,
            changes: watch::Sender::new(0),
            shutdown: token.clone(),
        }));
        let rental = Rental {
            conditions: Arc::clone(&conditions),
            vms,
            images,
            ports: Arc::new(forwarded.clone()),
            offers: Arc::new(store.clone()),
            clock: Arc::clone(&clock),
        };
        let advertiser = Advertiser::new(AdvertiserParts {
            settings: TermsSettings::new(&config, key.id()),
            key: key.clone(),
            source: Arc::new(WhatThereIs {
                rental: rental.clone(),
                store: store.clone(),
                board: board.clone(),
                address: address.clone(),
                api,
            }),
            log: Arc::new(store.clone()),
            discoveries: HttpDiscovery::all(&config.discovery, &client)?,
            address: address.clone(),
            clock: Arc::clone(&clock),
            pace: Pace::new(config.advertisement_interval),
        });
        let info = Arc::new(InfoSource {
            id: key.id(),
            name: config.name.clone(),
            country: config.country.clone(),
            trusted_only: conditions.open_to_strangers().is_err(),
            address: address.changes(),
        });
        let running = Arc::new(Running {
            config: config.clone(),
            data_dir: data_dir.clone(),
            clock: Arc::clone(&clock),
            id: key.id(),
            started_at: now(&*clock),
            api,
            info,
            rental,
            store,
            backend,
            ports: board,
            verifier,
            advertiser,
            vm_data,
            shutdown: token.clone(),
            purged: AtomicBool::new(false),
        });
        Ok(Self { config, key, clock, token, listener, running, forwarded, address })
    }

    async fn serve(self, data_dir: &DataDir, ready_fd: Option<u32>) -> Result<(), AppError> {
        let Self { config, key, clock, token, listener, running, forwarded, address } = self;
        let taken_up = running.rental.vms.take_up_all().await?;
        tell_who_this_is(&config, &running, taken_up);

        let rates = RateLimits::new(config.rates, http::class, Arc::clone(&clock));
        let served = data_dir.served_requests();
        let signing = Signing::new(key.clone(), Recipients::own_id(), clock);
        let signing = signing.remembering(&served).map_err(|source| DataDirError::Io {
            action: "write",
            path: served,
            source,
        })?;
        let signing = Arc::new(signing);
        let api = http::router(ApiState {
            rental: running.rental.clone(),
            info: Arc::clone(&running.info),
            allow_unsigned: config.allow_unsigned,
        });
        let limits = http::limits(config.launch_timeout);
        let (_socket, control_listener) = ControlSocket::bind(&data_dir.control_socket())?;
        let owner = HttpService::unsigned(control::router(Arc::clone(&running)), limits);

        let proofs = PortProofs::new(key.clone());
        let (_proof_socket, questions) = bind_proof_socket(data_dir.path())?;
        let api = HttpService::signed(api, limits, signing).opened_by(Arc::new(proofs.clone()));

        let mut work = JoinSet::new();
        let service = api.behind(config.trusted_proxies.clone()).limited(rates);
        work.spawn(service.serve(listener, token.clone()));
        work.spawn(proofs.serve(questions, token.clone()));
        work.spawn(owner.serve_unix(control_listener, token.clone()));
        work.spawn({
            let (forwarded, token) = (forwarded.clone(), token.clone());
            async move { forwarded.watch(token).await }
        });
        if let Some(firewall) = running.backend.firewall() {
            let (firewall, token) = (Arc::clone(firewall), token.clone());
            work.spawn(async move { firewall.watch(token).await });
        }
        work.spawn(housekeeping(running.store.clone(), token.clone()));
        work.spawn(disk_guard::run(
            running.rental.vms.clone(),
            Arc::clone(&running.backend),
            config.disk_reserve_mib << 20,
            token.clone(),
        ));
        work.spawn(display::follow(running.ports.clone(), token.clone()));

        // The API has to listen before its port can be verified, and ports have to be verified
        // before they are advertised.
        tokio::select! {
            () = token.cancelled() => {}
            _ = running.verifier.check() => {}
        }
        work.spawn({
            let (verifier, token) = (running.verifier.clone(), token.clone());
            async move { verifier.run(token).await }
        });
        let advertiser = running.advertiser.clone();
        advertiser.follow(running.rental.vms.changes());
        advertiser.follow(running.rental.images.changes());
        advertiser.follow(running.ports.changes());
        work.spawn({
            let token = token.clone();
            async move { advertiser.run(token).await }
        });

        if let Some(fd) = ready_fd {
            let mut ready = Ready::new("provider", key.id(), running.api);
            let host = address.current();
            ready.more.insert("public_host".to_owned(), host.into());
            ready::announce(fd, &ready)?;
        }
        while let Some(ended) = work.join_next().await {
            if let Err(error) = ended {
                tracing::error!(
                    "a part of the provider ended unexpectedly, and so it ends: {error}"
                );
                token.cancel();
            }
        }
        if running.purged.load(Ordering::SeqCst) {
            end_forwarder(&forwarded).await;
            tracing::info!("ended; nothing of this provider is left but its data directory");
        } else {
            tracing::info!("ended; VMs and their SSH sessions go on");
        }
        Ok(())
    }
}

/// Raises the firewall where the probe found that it can be: before any guest is started, and with
/// the addresses of those that run, so that they lose nothing.
async fn contain(
    backend: &dyn Backend,
    capabilities: &Capabilities,
    store: &ProviderStore,
) -> Result<(), AppError> {
    let Some(firewall) = backend.firewall() else { return Ok(()) };
    if capabilities.containment != Containment::Contained {
        return Ok(());
    }
    let records = store.all().await?;
    // What can't be observed now is admitted when it is.
    let looks = records.iter().map(|record| backend.observe(record.instance()));
    futures_util::future::join_all(looks).await;
    let quarantined = records.iter().filter(|record| record.quarantined_at.is_some());
    firewall.raise(quarantined.map(|record| record.id)).await.map_err(AppError::Containment)
}

async fn start_forwarding(
    config: &Config,
    data_dir: &DataDir,
    board: &PortBoard,
    store: &ProviderStore,
) -> Result<ForwardedPorts, AppError> {
    let binary = forwarder::find_binary(config.forwarder.as_deref())
        .map_err(|error| AppError::NoForwarder(error.to_string()))?;
    let program = ForwarderProgram {
        data_dir: data_dir.path().to_owned(),
        binary,
        log: data_dir.path().join("forwarder.log"),
    };
    let expected =
        store.all().await?.into_iter().map(|record| (record.ssh_port, record.id)).collect();
    Ok(ForwardedPorts::start(Arc::new(program), config.host, board.clone(), expected).await?)
}

async fn end_forwarder(forwarded: &ForwardedPorts) {
    match tokio::time::timeout(FORWARDER_END, forwarded.shut_down()).await {
        Ok(Ok(())) => tracing::info!("the forwarder has ended"),
        Ok(Err(error)) => tracing::warn!("ending the forwarder: {error}"),
        Err(_) => tracing::warn!("the forwarder did not end within {} s", FORWARDER_END.as_secs()),
    }
}

fn tell_who_this_is(config: &Config, running: &Running, taken_up: usize) {
    let conditions = &running.rental.conditions;
    tracing::info!(
        id = %running.id, name = %config.name, api = %running.api, backend = %conditions.backend,
        version = conditions.capabilities.version, offered = ?conditions.offered.whole(), vms = taken_up,
        "provider runs"
    );
    if let Err(reason) = conditions.open_to_strangers() {
        tracing::warn!(
            "only trusted requestors are served: {reason}. Set GOLEM_PROVIDER_TRUSTED_REQUESTORS, or \
             GOLEM_PROVIDER_ALLOW_UNCONTAINED=true to rent to strangers all the same"
        );
    } else if !conditions.contained() {
        tracing::warn!(
            "guests are not contained, and strangers are served because you allowed it; this is advertised"
        );
    }
}

async fn housekeeping(store: ProviderStore, token: CancellationToken) {
    let mut timer = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        if let Err(error) = store.forget_old().await {
            tracing::warn!("forgetting what is old: {error}");
        }
    }
}

/// Where the VMs' data is: the engine's own directory when it is on this machine.
fn vm_data_dir(capabilities: &Capabilities, data_dir: &DataDir) -> PathBuf {
    capabilities
        .data_root
        .clone()
        .filter(|path| path.is_dir())
        .unwrap_or_else(|| data_dir.path().to_owned())
}

fn now(clock: &dyn Clock) -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(clock.now_micros()).unwrap_or(i64::MAX))
}

/// What there is to advertise.
struct WhatThereIs {
    rental: Rental,
    store: ProviderStore,
    board: PortBoard,
    address: PublicAddress,
    api: SocketAddr,
}

#[async_trait]
impl AdvertSource for WhatThereIs {
    async fn snapshot(&self) -> Result<Snapshot, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let conditions = &self.rental.conditions;
        let records = self.rental.vms.all().await.map_err(|e| text(&e))?;
        let reserved = self.store.reserved().await.map_err(|e| text(&e))?;
        let images = self.rental.images.offered().await.map_err(|e| text(&e))?;
        let images = images.into_iter().map(|row| RentableImage {
            name: row.name,
            digest: row.digest.to_string(),
            backend: row.backend,
        });
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        Ok(Snapshot {
            free: conditions.offered.less(reserved),
            backends: vec![BackendOffer {
                kind: conditions.backend,
                capabilities: conditions.capabilities.clone(),
                egress: conditions.egress,
            }],
            images: images.collect(),
            vms_left: conditions.max_vms.saturating_sub(count),
            address: self.address.current(),
            api_port: self.api.port(),
            ports: self.board.summary(records.iter().map(|record| record.ssh_port)),
        })
    }
}
