#![allow(clippy::unwrap_used)]
//! On the backend in memory, by clocks that stand still until they are told.

use std::sync::Arc;

use golem_vm_node::clock::ManualClock;
use golem_vm_protocol::VmId;
use tempfile::TempDir;

use super::*;
use crate::backend::memory::{Fault, MemoryBackend, Method};
use crate::backend::{
    Backend as _, BackendError, Confinement, Egress, ImageDigest, InstanceSpec, Limits,
};
use crate::steady::ManualUptime;
use crate::store::ProviderStore;
use crate::store::tests::{admit, new, owner, room_for};
use crate::vm::repository::VmRepository as _;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Bench {
    backend: MemoryBackend,
    clock: Arc<ManualClock>,
    uptime: Arc<ManualUptime>,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let backend = MemoryBackend::new();
        backend.add_image(ImageDigest::new("sha256:aa"), 1);
        Self {
            backend,
            clock: Arc::new(ManualClock::at(1_800_000_000)),
            uptime: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The provider's database: opened again, it is another run of the program.
    fn store(&self) -> ProviderStore {
        let path = self.dir.path().join("state.db");
        ProviderStore::open_on(&path, self.clock.clone(), self.uptime.clone()).unwrap()
    }

    fn sweeper(&self, store: &ProviderStore) -> Sweeper {
        Sweeper::new(Arc::new(self.backend.clone()), Arc::new(store.clone()), DAY)
    }

    async fn instance(&self) -> InstanceId {
        let id = InstanceId::of(VmId::random().unwrap());
        let limits = Limits {
            cpu_millis: 1000,
            memory_mib: 1024,
            storage_mib: 10_240,
            processes: 100,
            open_files: 100,
        };
        let spec = InstanceSpec {
            id,
            hostname: "box".parse().unwrap(),
            image: ImageDigest::new("sha256:aa"),
            limits,
            confinement: Confinement { egress: Egress::Internet },
            access: None,
            user_data: None,
        };
        self.backend.ensure(&spec).await.unwrap();
        id
    }
}

#[tokio::test]
async fn one_is_noticed_at_once_and_removed_after_its_grace() {
    let bench = Bench::new();
    let orphan = bench.instance().await;
    let store = bench.store();
    let sweeper = bench.sweeper(&store);

    let swept = sweeper.sweep().await.unwrap();
    assert_eq!(swept.left.len(), 1);
    assert_eq!((swept.left[0].instance, swept.left[0].known_for), (orphan, Duration::ZERO));
    assert_eq!(store.noted().await.unwrap(), swept.left);

    bench.uptime.advance(DAY - Duration::from_secs(1));
    assert_eq!(sweeper.sweep().await.unwrap().removed, []);
    // Another start of the program goes on counting.
    store.forget_old().await.unwrap();
    store.close().await;
    let store = bench.store();
    bench.uptime.advance(Duration::from_secs(1));
    let swept = bench.sweeper(&store).sweep().await.unwrap();
    assert_eq!((swept.removed, swept.left.len()), (vec![orphan], 0));
    assert_eq!(bench.backend.list().await.unwrap(), []);
    assert_eq!(store.noted().await.unwrap(), []);
}

#[tokio::test]
async fn a_clock_that_is_set_forward_ends_no_grace() {
    let bench = Bench::new();
    bench.instance().await;
    let store = bench.store();
    let sweeper = bench.sweeper(&store);
    sweeper.sweep().await.unwrap();
    bench.clock.advance(30 * 24 * 3600);
    let swept = sweeper.sweep().await.unwrap();
    assert_eq!((swept.removed, swept.left.len()), (Vec::new(), 1));
}

#[tokio::test]
async fn what_could_not_be_asked_changes_nothing() {
    let bench = Bench::new();
    let orphan = bench.instance().await;
    let store = bench.store();
    let sweeper = bench.sweeper(&store);
    let away = || BackendError::Unavailable("away".into());

    bench.backend.script(Method::List, Fault::Fail(away()));
    assert!(sweeper.sweep().await.is_err());
    assert_eq!(store.noted().await.unwrap(), []);

    sweeper.sweep().await.unwrap();
    bench.uptime.advance(2 * DAY);
    bench.backend.set_unavailable(Some("away"));
    assert!(sweeper.sweep().await.is_err());
    assert_eq!(store.noted().await.unwrap().len(), 1, "forgotten while the backend was away");

    // It answers, and does not remove it: that is tried again.
    bench.backend.set_unavailable(None);
    bench.backend.script(Method::Destroy, Fault::Fail(away()));
    let swept = sweeper.sweep().await.unwrap();
    assert_eq!((swept.left.len(), store.noted().await.unwrap().len()), (1, 1));
    assert_eq!(sweeper.sweep().await.unwrap().removed, [orphan]);
}

#[tokio::test]
async fn one_that_goes_by_itself_is_forgotten_and_counts_anew() {
    let bench = Bench::new();
    let orphan = bench.instance().await;
    let store = bench.store();
    let sweeper = bench.sweeper(&store);
    sweeper.sweep().await.unwrap();
    bench.backend.set_absent(orphan);
    assert_eq!(sweeper.sweep().await.unwrap(), Swept::default());
    assert_eq!(store.noted().await.unwrap(), []);
}

/// The instances of VMs, and one that goes between the two answers of the backend.
#[tokio::test]
async fn vms_and_what_just_goes_are_left_alone() {
    let bench = Bench::new();
    let store = bench.store();
    let vm = admit(&store, new(owner(1), "box", None), room_for(1)).await.unwrap();
    bench.backend.ensure(&vm.instance_spec()).await.unwrap();
    bench.uptime.advance(2 * DAY);
    assert_eq!(bench.sweeper(&store).sweep().await.unwrap(), Swept::default());
    assert_eq!(bench.backend.calls(Method::List), 1, "nothing was suspected");

    let going = bench.instance().await;
    let away = BackendError::Unavailable("away".into());
    bench.backend.script(Method::List, Fault::Delay(Duration::ZERO));
    bench.backend.script(Method::List, Fault::FailAfterwards(away));
    assert!(bench.sweeper(&store).sweep().await.is_err(), "the second answer counts too");
    bench.backend.set_absent(going);
    assert_eq!(bench.sweeper(&store).sweep().await.unwrap(), Swept::default());
}
