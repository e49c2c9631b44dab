#![allow(clippy::unwrap_used)]
mod ledger;
mod order;

use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::clock::ManualClock;
use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::vm::{Actor, Cause, Isolation, LeaseRequest, OperationStatus, Owner};
use golem_vm_protocol::{ErrorCode, KeyPair, VmId, VmRef, VmResources};
use tempfile::TempDir;

use super::*;
use crate::backend::{BackendKind, ImageDigest};
use crate::capacity::Amount;
use crate::images::ImageRegister as _;
use crate::vm::admission::{Admission, Bounds, Idempotency, NewVm, RepeatedRequest};
use crate::vm::history::Reason;
use crate::vm::host_key::HostKey;
use crate::vm::lease::{Lease, LeasePolicy};
use crate::vm::record::Terms;
use crate::vm::repository::VmRepository as _;
use crate::vm::{VmError, VmRecord, VmState};

struct Bench {
    store: ProviderStore,
    clock: Arc<ManualClock>,
    _dir: TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let store = ProviderStore::open(&dir.path().join("state.db"), Arc::clone(&clock) as _).unwrap();
    Bench { store, clock, _dir: dir }
}

pub(crate) fn owner(seed: u8) -> Owner {
    Owner::Key(KeyPair::from_secret_bytes([seed; 32]).unwrap().id())
}

pub(crate) fn record(owner: Owner, name: &str) -> VmRecord {
    let now = Timestamp::from_unix_seconds(1_000_000);
    let grant = LeasePolicy::default().grant(owner, &LeaseRequest::default()).unwrap();
    VmRecord {
        id: VmId::random().unwrap(),
        owner,
        name: name.parse().unwrap(),
        state: VmState::Creating,
        terms: Terms {
            resources: VmResources { cpu: 1, memory: 1, storage: 10 },
            image: "debian-12".into(),
            image_digest: ImageDigest::new("sha256:aa"),
            backend: BackendKind::Memory,
            isolation: Isolation::Container,
            accel: None,
            egress: crate::backend::Egress::Internet,
            prices: Prices::default(),
        },
        ssh_port: 0,
        host_key: HostKey::generate().unwrap(),
        authorized_keys: vec![HostKey::generate().unwrap().public],
        keys_pending: false,
        lease: Lease::begin(grant, SteadyTime::from_micros(1_000_000_000_000)),
        operation: format!("op_{}", VmId::random().unwrap()),
        clone_of: None,
        user_data: None,
        runs_with: None,
        resize_pending: false,
        suspend_gb: 0,
        quarantined_at: None,
        created_at: now,
        updated_at: now,
    }
}

pub(crate) fn new(owner: Owner, name: &str, key: Option<(&str, &str)>) -> NewVm {
    let idempotency = key
        .map(|(key, fingerprint)| Idempotency { key: key.into(), fingerprint: fingerprint.into() });
    NewVm { record: record(owner, name), idempotency }
}

pub(crate) fn room_for(vms: u64) -> Bounds {
    let offered =
        Amount { cpu_millis: vms * 1000, memory_mib: vms * 1024, storage_mib: vms * 10_240 };
    Bounds { offered, max_vms: 100, max_vms_per_requestor: None, ports: (50800..50900).collect() }
}

pub(crate) async fn admit(
    store: &ProviderStore,
    new: NewVm,
    bounds: Bounds,
) -> Result<VmRecord, VmError> {
    match store.admit(new, bounds).await? {
        Admission::Admitted(record) => Ok(*record),
        Admission::Repeated(operation) => panic!("repeated {operation:?}"),
    }
}

#[tokio::test]
async fn what_is_admitted_reads_back_and_belongs_to_its_owner_alone() {
    let bench = bench();
    let (one, two) = (owner(1), owner(2));
    let made = admit(&bench.store, new(one, "box", None), room_for(5)).await.unwrap();
    assert_eq!(made.ssh_port, 50800);
    let by_name: VmRef = "box".parse().unwrap();
    assert_eq!(bench.store.find(one, by_name.clone()).await.unwrap().unwrap(), made);
    assert_eq!(bench.store.find(one, made.id.into()).await.unwrap().unwrap(), made);
    assert_eq!(bench.store.find(two, by_name).await.unwrap(), None);
    assert_eq!(bench.store.find(two, made.id.into()).await.unwrap(), None);
    assert!(bench.store.list(two).await.unwrap().is_empty());
    // The same name of another owner is another VM, with another port.
    let other = admit(&bench.store, new(two, "box", None), room_for(5)).await.unwrap();
    assert_eq!(other.ssh_port, 50801);
    assert!(matches!(
        admit(&bench.store, new(one, "box", None), room_for(5)).await,
        Err(VmError::NameTaken(_))
    ));
}

#[tokio::test]
async fn the_history_of_a_vm_that_lived_long_is_kept_whole_until_all_of_it_is_old() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let dir = tempfile::tempdir().unwrap();
    let machine = Arc::new(crate::steady::ManualUptime::default());
    machine.boot("first");
    let clock = Arc::new(ManualClock::at(1_000_000));
    let path = dir.path().join("state.db");
    let store = ProviderStore::open_on(&path, clock, Arc::clone(&machine) as _).unwrap();
    let me = owner(1);
    let vm = admit(&store, new(me, "box", None), room_for(2)).await.unwrap();
    machine.advance(DAY * 100);
    store.remove(vm.id, Reason::new(Actor::Requestor, Cause::Requested)).await.unwrap();
    store.forget_old().await.unwrap();
    let events = async || store.events(me, vm.id.into(), 0, 100).await.unwrap();
    assert_eq!(events().await.unwrap().len(), 2, "its first day counts still");
    machine.advance(DAY * 91);
    store.forget_old().await.unwrap();
    assert_eq!(events().await, None);
    store.close().await;
}

#[tokio::test]
async fn the_ledger_refuses_what_does_not_fit_and_gives_back_what_is_freed() {
    let bench = bench();
    let (store, me) = (&bench.store, owner(1));
    let first = admit(store, new(me, "one", None), room_for(2)).await.unwrap();
    admit(store, new(me, "two", None), room_for(2)).await.unwrap();
    assert!(matches!(
        admit(store, new(me, "three", None), room_for(2)).await,
        Err(VmError::InsufficientCapacity(_))
    ));
    let one_port = Bounds { ports: vec![50800, 50801], ..room_for(9) };
    assert!(matches!(
        admit(store, new(me, "three", None), one_port).await,
        Err(VmError::PortsExhausted)
    ));
    let two_at_most = Bounds { max_vms: 2, ..room_for(9) };
    assert!(matches!(
        admit(store, new(me, "three", None), two_at_most).await,
        Err(VmError::InsufficientCapacity(_))
    ));
    store.remove(first.id, Reason::new(Actor::Requestor, Cause::Requested)).await.unwrap();
    let third = admit(store, new(me, "three", None), room_for(2)).await.unwrap();
    assert_eq!(third.ssh_port, first.ssh_port, "the port came back to the pool");
}

#[tokio::test]
async fn one_requestor_has_no_more_than_its_share() {
    let bench = bench();
    let store = &bench.store;
    let two_each = Bounds { max_vms_per_requestor: Some(2), ..room_for(9) };
    let first = admit(store, new(owner(1), "one", None), two_each.clone()).await.unwrap();
    admit(store, new(owner(1), "two", None), two_each.clone()).await.unwrap();
    let refused = admit(store, new(owner(1), "three", None), two_each.clone()).await.unwrap_err();
    assert!(matches!(&refused, VmError::InsufficientCapacity(why) if why.contains("you have 2")));
    admit(store, new(owner(2), "one", None), two_each.clone()).await.unwrap();
    store.remove(first.id, Reason::new(Actor::Requestor, Cause::Requested)).await.unwrap();
    admit(store, new(owner(1), "three", None), two_each).await.unwrap();
}

#[tokio::test]
async fn a_failed_creation_holds_nothing_and_can_be_read_for_a_while() {
    let bench = bench();
    let (store, me) = (&bench.store, owner(1));
    let made = admit(store, new(me, "box", None), room_for(1)).await.unwrap();
    store.release_failed(made.id, ErrorCode::CreateFailed, "no luck".into()).await.unwrap();
    assert_eq!(store.reserved().await.unwrap(), Amount::default());
    let found = store.find(me, "box".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(found.state.message(), Some("no luck"));
    assert!(found.host_key.private.is_empty());
    assert!(store.list(me).await.unwrap().is_empty());
    let operation = store.operation(me, made.operation.clone()).await.unwrap().unwrap();
    assert_eq!(operation.status, OperationStatus::Failed);
    // Its name is free, and the new one hides it.
    let again = admit(store, new(me, "box", None), room_for(1)).await.unwrap();
    assert_eq!(store.find(me, "box".parse().unwrap()).await.unwrap().unwrap().id, again.id);
    bench.clock.advance(8 * 24 * 3600);
    store.created(again.id).await.unwrap();
    store.forget_old().await.unwrap();
    assert_eq!(store.operation(me, made.operation).await.unwrap(), None);
    assert_eq!(store.list(me).await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_key_is_one_vm_for_one_owner() {
    let bench = bench();
    let (store, me) = (&bench.store, owner(1));
    let made = admit(store, new(me, "box", Some(("k", "spec"))), room_for(9)).await.unwrap();
    let again = store.admit(new(me, "box", Some(("k", "spec"))), room_for(9)).await.unwrap();
    assert!(matches!(again, Admission::Repeated(op) if op.vm == made.id));
    let other = store.admit(new(me, "box", Some(("k", "other"))), room_for(9)).await;
    assert!(matches!(other, Err(VmError::IdempotencyMismatch)));
    let theirs = admit(store, new(owner(2), "box", Some(("k", "other"))), room_for(9)).await;
    assert!(theirs.is_ok());
    // Also when the VM is long gone.
    store.remove(made.id, Reason::new(Actor::Requestor, Cause::Requested)).await.unwrap();
    let idempotency = Idempotency { key: "k".into(), fingerprint: "spec".into() };
    let found = store.repeated(RepeatedRequest { owner: me, idempotency }).await.unwrap();
    assert_eq!(found.unwrap().vm, made.id);
}

#[tokio::test]
async fn sequences_rise_also_when_nothing_is_sent() {
    let bench = bench();
    assert_eq!(bench.store.next_sequence(1).await.unwrap(), 1);
    assert_eq!(bench.store.next_sequence(1).await.unwrap(), 2);
    assert_eq!(bench.store.next_sequence(50).await.unwrap(), 50);
    assert_eq!(bench.store.next_sequence(1).await.unwrap(), 51);
}

#[tokio::test]
async fn images_are_kept_by_name() {
    let bench = bench();
    let store = &bench.store;
    let put = |name: &str, digest: &str, built| {
        store.put_image(name.into(), ImageDigest::new(digest), BackendKind::Docker, built)
    };
    put("debian-12", "sha256:1", true).await.unwrap();
    put("debian-12", "sha256:2", true).await.unwrap();
    put("other", "sha256:3", false).await.unwrap();
    let of_another = ImageDigest::new("sha256:4");
    store.put_image("debian-12".into(), of_another, BackendKind::Qemu, true).await.unwrap();
    let images = store.images().await.unwrap();
    assert_eq!(images.len(), 3);
    assert_eq!(images[1].backend, BackendKind::Qemu);
    assert_eq!(images[0].digest.as_str(), "sha256:2");
    assert!(!store.forget_image("other".into(), BackendKind::Qemu).await.unwrap());
    assert!(store.forget_image("other".into(), BackendKind::Docker).await.unwrap());
    assert!(!store.forget_image("other".into(), BackendKind::Docker).await.unwrap());
}
