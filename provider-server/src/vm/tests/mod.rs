//! VMs' lives on instances in memory, over a real database, on a machine whose time the test tells.
#![allow(clippy::unwrap_used)]

mod abilities;
mod leases;
mod life;
mod reconciling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::clock::ManualClock;
use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Ability, Isolation, LeaseRequest, Owner, ValidCreate, VmStage};
use golem_vm_protocol::{KeyPair, VmId, VmRef, VmResources};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::Bounds;
use super::host_key::HostKey;
use super::lease::LeasePolicy;
use super::manager::Creation;
use super::policy::Request;
use super::record::Terms;
use super::repository::VmRepository as _;
use super::task::World;
use super::{AccessPorts, VmError, VmManager, VmRecord, VmState};
use crate::backend::memory::MemoryBackend;
use crate::backend::{Backend as _, BackendKind, Backends, Capabilities, Egress, ImageDigest};
use crate::capacity::Amount;
use crate::steady::ManualUptime;
use crate::store::ProviderStore;

/// Room for two VMs.
const OFFERED: Amount = Amount { cpu_millis: 2000, memory_mib: 2048, storage_mib: 40_960 };

/// Ports that are only written down.
#[derive(Default)]
struct PaperPorts(Mutex<BTreeSet<u16>>);

#[async_trait]
impl AccessPorts for PaperPorts {
    fn usable(&self) -> Vec<u16> {
        (50_800..50_810).collect()
    }

    async fn route(&self, port: u16, _: VmId, _: SocketAddr) -> Result<(), String> {
        self.0.lock().unwrap().insert(port);
        Ok(())
    }

    async fn unroute(&self, port: u16) -> Result<(), String> {
        self.0.lock().unwrap().remove(&port);
        Ok(())
    }

    async fn quiet_for(&self) -> Result<BTreeMap<u16, Duration>, String> {
        let ports = self.0.lock().unwrap();
        Ok(ports.iter().map(|port| (*port, Duration::from_secs(3600))).collect())
    }
}

/// What survives the program.
struct Machine {
    dir: TempDir,
    backend: MemoryBackend,
    uptime: Arc<ManualUptime>,
    clock: Arc<ManualClock>,
    ports: Arc<PaperPorts>,
}

impl Machine {
    async fn new() -> Self {
        let backend = MemoryBackend::greeting().await.unwrap();
        backend.add_image(ImageDigest::new("sha256:aa"), 1);
        let uptime = ManualUptime::default();
        uptime.boot("first");
        Self {
            dir: tempfile::tempdir().unwrap(),
            backend,
            uptime: Arc::new(uptime),
            clock: Arc::new(ManualClock::at(1_795_000_000)),
            ports: Arc::default(),
        }
    }

    /// Lets time pass, by both clocks.
    fn sleep(&self, span: Duration) {
        self.uptime.advance(span);
        self.clock.advance(span.as_secs());
    }

    /// The program starts.
    async fn start(&self) -> Program {
        let capabilities = MemoryBackend::new().probe().await.unwrap();
        self.start_with(capabilities.abilities).await
    }

    /// The program starts, with a backend that has no other abilities than these.
    async fn start_with(&self, abilities: BTreeSet<Ability>) -> Program {
        let capabilities = MemoryBackend::new().probe().await.unwrap();
        let capabilities = Capabilities { abilities, ..capabilities };
        let path = self.dir.path().join("state.db");
        let (clock, uptime) = (Arc::clone(&self.clock), Arc::clone(&self.uptime));
        let store = ProviderStore::open_on(&path, clock, uptime).unwrap();
        let token = CancellationToken::new();
        let vms = VmManager::new(Arc::new(World {
            repository: Arc::new(store.clone()),
            backends: Backends::one(Arc::new(self.backend.clone()), capabilities),
            ports: Arc::clone(&self.ports) as _,
            launch_timeout: Duration::from_secs(20),
            steady: store.steady(),
            changes: watch::Sender::new(0),
            shutdown: token.clone(),
        }));
        vms.take_up_all().await.unwrap();
        Program { vms, store, token }
    }
}

/// The provider while it runs.
struct Program {
    vms: VmManager,
    store: ProviderStore,
    token: CancellationToken,
}

fn owner() -> Owner {
    Owner::Key(KeyPair::from_secret_bytes([1; 32]).unwrap().id())
}

fn reference(name: &str) -> VmRef {
    name.parse().unwrap()
}

impl Program {
    async fn create_for(&self, name: &str, lease: LeaseRequest) -> Result<VmRecord, VmError> {
        self.make(name, lease, None).await
    }

    /// A VM with the disk of another one, for those who may log in to that.
    async fn clone_of(&self, source: &VmRecord, name: &str) -> Result<VmRecord, VmError> {
        self.make(name, LeaseRequest::default(), Some(source)).await
    }

    async fn make(
        &self,
        name: &str,
        lease: LeaseRequest,
        source: Option<&VmRecord>,
    ) -> Result<VmRecord, VmError> {
        let own = || vec![HostKey::generate().unwrap().public];
        let resources = VmResources { cpu: 1, memory: 1, storage: 10 };
        let creation = Creation {
            owner: owner(),
            request: ValidCreate {
                name: name.parse().unwrap(),
                resources,
                ssh_keys: source.map_or_else(own, |source| source.authorized_keys.clone()),
                image: None,
                image_digest: None,
                isolation: None,
                cloud_init: None,
                offer: None,
                lease,
            },
            terms: Terms {
                resources,
                image: "debian-12".into(),
                image_digest: ImageDigest::new("sha256:aa"),
                backend: BackendKind::Memory,
                isolation: Isolation::Container,
                accel: None,
                egress: Egress::Internet,
                prices: Prices::default(),
            },
            lease: LeasePolicy::default().grant(owner(), &lease).unwrap(),
            bounds: Bounds {
                offered: OFFERED,
                max_vms: 9,
                max_vms_per_requestor: None,
                ports: PaperPorts::default().usable(),
            },
            clone_of: source.map(|source| source.id),
            idempotency: None,
        };
        let now = Timestamp::from_unix_seconds(1_795_000_000);
        let operation = self.vms.create(creation, now).await?;
        self.vms.wait_for(owner(), operation).await
    }

    async fn create(&self, name: &str) -> VmRecord {
        self.create_for(name, LeaseRequest::default()).await.unwrap()
    }

    async fn request(&self, name: &str, request: Request) -> Result<Option<VmRecord>, VmError> {
        self.vms.request(owner(), reference(name), request).await
    }

    async fn state(&self, name: &str) -> Option<VmState> {
        self.vms.find(owner(), reference(name)).await.ok().map(|record| record.state)
    }

    /// Waits until the VM's state is as it should be; `None` is a VM that is gone.
    async fn until(&self, name: &str, wanted: impl Fn(Option<&VmState>) -> bool) {
        let mut changes = self.vms.changes();
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            changes.mark_unchanged();
            let state = self.state(name).await;
            if wanted(state.as_ref()) {
                return;
            }
            let waited = tokio::time::timeout_at(limit, changes.changed()).await;
            assert!(waited.is_ok(), "{name} stays {state:?}");
        }
    }

    /// The stages of the VM's history, checked to have no gaps.
    async fn stages(&self, vm: &str) -> Vec<VmStage> {
        let events = self.vms.events(owner(), reference(vm), 0, 1000).await.unwrap();
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        let delivered: Vec<u64> = events.iter().map(|event| event.delivered_micros).collect();
        assert!(delivered.is_sorted(), "{delivered:?}");
        let changed = events.iter().filter(|event| event.from != Some(event.to));
        changed.map(|event| event.to).collect()
    }

    async fn end(self) {
        self.token.cancel();
        self.store.close().await;
    }
}
