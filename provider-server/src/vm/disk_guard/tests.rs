#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::clock::ManualClock;
use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Actor, Isolation, LeaseRequest, Owner, ValidCreate};
use golem_vm_protocol::{KeyPair, VmResources};
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::backend::memory::{MemoryBackend, Method};
use crate::backend::{BackendKind, Backends, Egress, ImageDigest};
use crate::capacity::Amount;
use crate::store::ProviderStore;
use crate::vm::AccessPorts;
use crate::vm::admission::Bounds;
use crate::vm::host_key::HostKey;
use crate::vm::lease::LeasePolicy;
use crate::vm::manager::Creation;
use crate::vm::policy::Request;
use crate::vm::record::Terms;
use crate::vm::task::World;

const GIB: u64 = 1 << 30;
const ROOMY: DiskRoom = DiskRoom { bytes: 100 * GIB, files: Some(1_000_000) };

struct NoPorts;

#[async_trait]
impl AccessPorts for NoPorts {
    fn usable(&self) -> Vec<u16> {
        (50_800..50_810).collect()
    }

    async fn route(&self, _: u16, _: VmId, _: SocketAddr) -> Result<(), String> {
        Ok(())
    }

    async fn unroute(&self, _: u16) -> Result<(), String> {
        Ok(())
    }

    async fn quiet_for(&self) -> Result<BTreeMap<u16, Duration>, String> {
        Ok(BTreeMap::new())
    }
}

struct Bench {
    vms: VmManager,
    backend: MemoryBackend,
    _dir: TempDir,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let backend = MemoryBackend::greeting().await.unwrap();
    backend.add_image(ImageDigest::new("sha256:aa"), 1);
    let clock = Arc::new(ManualClock::at(1_000_000));
    let store = ProviderStore::open(&dir.path().join("state.db"), clock).unwrap();
    let vms = VmManager::new(Arc::new(World {
        repository: Arc::new(store.clone()),
        backends: Backends::one(Arc::new(backend.clone()), backend.probe().await.unwrap()),
        ports: Arc::new(NoPorts),
        steady: store.steady(),
        launch_timeout: Duration::from_secs(20),
        changes: watch::Sender::new(0),
        shutdown: CancellationToken::new(),
    }));
    Bench { vms, backend, _dir: dir }
}

impl Bench {
    /// A running VM of 10 GiB.
    async fn vm(&self, name: &str) -> VmRecord {
        let owner = Owner::Key(KeyPair::from_secret_bytes([1; 32]).unwrap().id());
        let resources = VmResources { cpu: 1, memory: 1, storage: 10 };
        let creation = Creation {
            owner,
            request: ValidCreate {
                lease: LeaseRequest::default(),
                name: name.parse().unwrap(),
                resources,
                ssh_keys: vec![HostKey::generate().unwrap().public],
                image: None,
                image_digest: None,
                isolation: None,
                cloud_init: None,
                offer: None,
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
            lease: LeasePolicy::default().grant(owner, &LeaseRequest::default()).unwrap(),
            bounds: Bounds {
                offered: Amount { cpu_millis: 9000, memory_mib: 9000, storage_mib: 1 << 20 },
                max_vms: 9,
                max_vms_per_requestor: None,
                ports: NoPorts.usable(),
            },
            clone_of: None,
            idempotency: None,
        };
        let now = Timestamp::from_unix_seconds(1_000_000);
        let operation = self.vms.create(creation, now).await.unwrap();
        self.vms.wait_for(owner, operation).await.unwrap()
    }

    fn uses(&self, record: &VmRecord, bytes: u64) {
        self.backend.set_disk_use(record.instance(), DiskUse { bytes, files: 10, beside: 300 });
    }

    async fn state(&self, record: &VmRecord) -> VmState {
        let all = self.vms.all().await.unwrap();
        all.into_iter().find(|one| one.id == record.id).unwrap().state
    }

    async fn start(&self, record: &VmRecord) {
        let record = self.vms.all().await.unwrap().into_iter().find(|r| r.id == record.id).unwrap();
        self.vms.request_for(&record, Request::Start, Actor::Requestor).await.unwrap();
    }
}

#[tokio::test]
async fn a_vm_that_goes_past_its_disk_is_stopped_and_told_why() {
    let bench = bench().await;
    let (greedy, modest) = (bench.vm("greedy").await, bench.vm("modest").await);
    let mut guard = Guard { reserve: 2 * GIB, ..Guard::of(BackendKind::Memory) };
    bench.uses(&greedy, 10 * GIB);
    bench.uses(&modest, 9 * GIB);
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert_eq!(bench.state(&greedy).await, VmState::Running, "exactly what it rents");

    bench.uses(&greedy, 11 * GIB);
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    let VmState::Stopped { reason: Some(reason) } = bench.state(&greedy).await else {
        panic!("it runs on")
    };
    assert!(reason.contains("more than 11 GB of disk, and rents 10 GB"), "{reason}");
    assert_eq!(bench.state(&modest).await, VmState::Running);
    assert_eq!(bench.backend.calls(Method::Destroy), 0, "its disk is kept");
}

#[tokio::test(start_paused = true)]
async fn who_is_started_again_may_make_room_but_not_take_more() {
    let bench = bench().await;
    let vm = bench.vm("greedy").await;
    let mut guard = Guard::of(BackendKind::Memory);
    bench.uses(&vm, 11 * GIB);
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;

    bench.start(&vm).await;
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert_eq!(bench.state(&vm).await, VmState::Running, "it has time to make room");
    bench.uses(&vm, 12 * GIB);
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert!(bench.state(&vm).await.message().is_some(), "it takes more instead");

    bench.uses(&vm, 11 * GIB);
    bench.start(&vm).await;
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert_eq!(bench.state(&vm).await, VmState::Running);
    tokio::time::advance(TIDYING).await;
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert!(bench.state(&vm).await.message().is_some(), "its time is over");

    bench.start(&vm).await;
    bench.uses(&vm, GIB);
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert!(guard.tidying.is_empty(), "it has made room, and all is forgotten");
    assert_eq!(bench.state(&vm).await, VmState::Running);
}

#[tokio::test]
async fn files_without_end_and_writes_beside_the_disk_count_too() {
    let bench = bench().await;
    let mut guard = Guard::of(BackendKind::Memory);
    let table = [
        (DiskUse { files: 10 * GIB / BYTES_PER_FILE + 1, ..DiskUse::default() }, "files"),
        (DiskUse { beside: BESIDE_MAX + 1, ..DiskUse::default() }, "/etc/hosts"),
    ];
    for (number, (used, word)) in table.into_iter().enumerate() {
        let vm = bench.vm(&format!("vm-{number}")).await;
        bench.backend.set_disk_use(vm.instance(), used);
        guard.round(&bench.vms, &bench.backend, None).await;
        let state = bench.state(&vm).await;
        assert!(state.message().is_some_and(|reason| reason.contains(word)), "{state:?}");
    }
}

#[tokio::test]
async fn a_host_that_runs_full_is_protected_from_what_grows_fastest() {
    let bench = bench().await;
    let vms = [bench.vm("still").await, bench.vm("grows").await, bench.vm("over").await];
    let mut guard = Guard { reserve: 2 * GIB, ..Guard::of(BackendKind::Memory) };
    let full = DiskRoom { bytes: GIB, files: None };
    for (vm, gib) in vms.iter().zip([9, 5, 1]) {
        bench.uses(vm, gib * GIB);
    }
    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    bench.uses(&vms[1], 7 * GIB);
    bench.uses(&vms[2], 11 * GIB);

    guard.round(&bench.vms, &bench.backend, Some(full)).await;
    let running = async |vm: &VmRecord| bench.state(vm).await == VmState::Running;
    assert!(!running(&vms[2]).await, "first who is past its size");
    assert!(running(&vms[0]).await && running(&vms[1]).await, "that may be enough");

    bench.uses(&vms[1], 8 * GIB);
    guard.round(&bench.vms, &bench.backend, Some(full)).await;
    assert!(running(&vms[0]).await && !running(&vms[1]).await);
    let reason = bench.state(&vms[1]).await;
    assert!(reason.message().is_some_and(|text| text.contains("provider's disk is nearly full")));

    guard.round(&bench.vms, &bench.backend, Some(ROOMY)).await;
    assert!(running(&vms[0]).await);
    guard.round(&bench.vms, &bench.backend, Some(DiskRoom { files: Some(10), ..ROOMY })).await;
    assert!(!running(&vms[0]).await, "files can run out as well");
}

#[test]
fn a_disk_that_fills_up_begins_a_round() {
    let room = |bytes, files| Some(DiskRoom { bytes, files: Some(files) });
    let before = room(50 * GIB, 500_000);
    assert!(!hurries(before, before, GIB));
    assert!(!hurries(before, room(50 * GIB - FALL_BYTES + 1, 500_000), GIB));
    assert!(hurries(before, room(50 * GIB - FALL_BYTES, 500_000), GIB));
    assert!(hurries(before, room(50 * GIB, 450_000), GIB));
    assert!(hurries(None, room(GIB - 1, 500_000), GIB));
    assert!(hurries(None, room(GIB, 1), GIB));
    assert!(!hurries(None, None, GIB));
    assert!(!hurries(None, Some(DiskRoom { bytes: GIB, files: None }), GIB));
}
