//! Puts the parts together.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use golem_vm_node::client::SignedClient;
use golem_vm_node::clock::Clock;
use golem_vm_node::data_dir::DataDir;
use golem_vm_node::http::bind;
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::advertisement::Overcommit;
use golem_vm_protocol::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::advert_source::WhatThereIs;
use super::backend::Arrived;
use super::backends::{self, Begun, Way};
use crate::advertise::{Advertiser, AdvertiserParts, HttpDiscovery, Pace, TermsSettings};
use crate::backend::{Backends, kernel_numbers, open_files};
use crate::capacity;
use crate::config::Config;
use crate::control::Running;
use crate::fail_point::{self, FailPoint};
use crate::forwarder;
use crate::host;
use crate::http::InfoSource;
use crate::images::ImageCatalog;
use crate::ports::{ForwardedPorts, ForwarderProgram, PortBoard, PortVerifier, PublicAddress};
use crate::rental::{Conditions, Rental};
use crate::store::ProviderStore;
use crate::vm::VmManager;
use crate::vm::repository::VmRepository as _;
use crate::vm::task::World;

/// Everything, put together and not yet at work.
pub(super) struct Provider {
    pub(super) config: Config,
    pub(super) key: KeyPair,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) token: CancellationToken,
    pub(super) listener: tokio::net::TcpListener,
    pub(super) running: Arc<Running>,
    pub(super) forwarded: ForwardedPorts,
    pub(super) address: PublicAddress,
    pub(super) arrived: Vec<Arrived>,
}

impl Provider {
    pub(super) async fn assemble(
        config: Config,
        data_dir: &DataDir,
        key: KeyPair,
        store: ProviderStore,
        clock: Arc<dyn Clock>,
        token: CancellationToken,
    ) -> Result<Self, AppError> {
        open_files::let_memory_bound_them();
        kernel_numbers::let_memory_bound_them();
        let way = Way { config: &config, key: &key, data_dir, store: &store };
        let Begun { backends, arrived } = backends::begin(way).await?;
        let vm_data = vm_data(&backends, data_dir);
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
            backends: backends.clone(),
            leases: config.leases,
        });

        let listener = bind(&config.host.to_string(), config.port).await?;
        let api = listener.local_addr().map_err(AppError::Signals)?;
        let client = SignedClient::new(key.clone(), Arc::clone(&clock))?;
        let address = PublicAddress::new(config.public_host.clone(), config.host);
        let board = PortBoard::new(&config, api.port());
        let forwarded = start_forwarding(&config, data_dir, &board, &store).await?;
        fail_point::reached(FailPoint::RecoveryRouted);
        let verifier = PortVerifier::new(
            &config,
            board.clone(),
            client.clone(),
            address.clone(),
            Arc::clone(&clock),
        )?;

        let images = ImageCatalog::new(
            Arc::new(store.clone()),
            backends.clone(),
            config.images.as_ref(),
            &config.default_image,
        );
        let vms = VmManager::new(Arc::new(World {
            repository: Arc::new(store.clone()),
            backends: backends.clone(),
            ports: Arc::new(forwarded.clone()),
            launch_timeout: config.launch_timeout,
            steady: store.steady(),
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
            address: address.changes(),
        });
        let running = Arc::new(Running {
            config: config.clone(),
            data_dir: data_dir.clone(),
            clock: Arc::clone(&clock),
            id: key.id(),
            key: key.clone(),
            started_at: now(&*clock),
            api,
            info,
            rental,
            store,
            backends,
            ports: board,
            verifier,
            advertiser,
            vm_data,
            shutdown: token.clone(),
            purged: AtomicBool::new(false),
        });
        Ok(Self { config, key, clock, token, listener, running, forwarded, address, arrived })
    }
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

/// Where the VMs' data is: of all backends' directories the one on the file system with the least room,
/// because what is promised is one pool.
fn vm_data(backends: &Backends, data_dir: &DataDir) -> PathBuf {
    let there = backends.there();
    let found: Vec<_> = there.iter().map(|present| present.found.now()).collect();
    host::tightest(found.iter().map(|found| found.vm_data(data_dir.path())))
        .unwrap_or_else(|| data_dir.path().to_owned())
}

fn now(clock: &dyn Clock) -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(clock.now_micros()).unwrap_or(i64::MAX))
}
