//! A data directory with VMs in it.

use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::clock::SystemClock;
use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Cause, Isolation, LeaseRequest, Owner};
use golem_vm_protocol::{KeyId, KeyPair, VmId, VmResources};
use golem_vm_provider::backend::docker::DockerBackend;
use golem_vm_provider::backend::docker::endpoint::Surroundings;
use golem_vm_provider::backend::{Backend, BackendKind, Egress, ImageDigest, ImageStore as _};
use golem_vm_provider::capacity::Amount;
use golem_vm_provider::containment::{Firewall, Rules};
use golem_vm_provider::images::ImageRegister as _;
use golem_vm_provider::store::ProviderStore;
use golem_vm_provider::vm::admission::{Admission, Bounds, NewVm};
use golem_vm_provider::vm::history::{Reason, Transition};
use golem_vm_provider::vm::host_key::HostKey;
use golem_vm_provider::vm::lease::{Lease, LeasePolicy};
use golem_vm_provider::vm::record::Terms;
use golem_vm_provider::vm::repository::VmRepository as _;
use golem_vm_provider::vm::{VmRecord, VmState};

/// The image of all VMs.
const IMAGE: &str = "debian-12";

/// Puts a VM on each of `ports` into the database, all of one owner; `containers` of them are made and
/// started on the engine. Of the rest, four in five are stopped, and one in five is in `error`.
pub(super) async fn fill(
    data_dir: &DataDir,
    provider: &KeyPair,
    kind: BackendKind,
    owner: &KeyId,
    ports: Vec<u16>,
    containers: usize,
) {
    let store = ProviderStore::open(&data_dir.state_db(), Arc::new(SystemClock)).unwrap();
    let docker = (containers > 0).then(|| {
        let firewall = Firewall::new(&provider.id(), Rules::default());
        DockerBackend::connect(provider.id(), &Surroundings::of_this_process(), firewall).unwrap()
    });
    let image = match &docker {
        Some(docker) => {
            let (progress, mut lines) = tokio::sync::mpsc::channel(64);
            let drain = tokio::spawn(async move { while lines.recv().await.is_some() {} });
            let digest = docker.build(IMAGE, progress).await.unwrap();
            drain.await.unwrap();
            digest
        }
        None => ImageDigest::new("sha256:aa"),
    };
    store.put_image(IMAGE.to_owned(), image.clone(), kind, true).await.unwrap();
    let all = Amount { cpu_millis: u64::MAX, memory_mib: u64::MAX, storage_mib: u64::MAX };
    let bounds = Bounds { offered: all, max_vms: u32::MAX, max_vms_per_requestor: None, ports };
    for number in 0..bounds.ports.len() {
        let new = NewVm { record: record(number, kind, *owner, &image), idempotency: None };
        let Ok(Admission::Admitted(record)) = store.admit(new, bounds.clone()).await else {
            panic!("VM {number} was not let in")
        };
        store.created(record.id).await.unwrap();
        let reason = Reason::own(Cause::Completed);
        match &docker {
            Some(docker) if number < containers => {
                docker.ensure(&record.instance_spec()).await.unwrap();
                docker.start(record.instance()).await.unwrap();
            }
            _ if number % 5 == 0 => {
                let message = "it was made for a benchmark".to_owned();
                let to = VmState::Error { message };
                store.transition(record.id, Transition { to, reason }).await.unwrap();
            }
            _ => {
                let to = VmState::STOPPED;
                store.transition(record.id, Transition { to, reason }).await.unwrap();
            }
        }
    }
    store.close().await;
    // The kernel writes what was made meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn record(number: usize, kind: BackendKind, owner: KeyId, image: &ImageDigest) -> VmRecord {
    let now = Timestamp::from_unix_micros(1_700_000_000_000_000);
    let host_key = HostKey::generate().unwrap();
    let owner = Owner::Key(owner);
    let grant = LeasePolicy::default().grant(owner, &LeaseRequest::default()).unwrap();
    VmRecord {
        id: VmId::random().unwrap(),
        owner,
        name: format!("vm-{number}").parse().unwrap(),
        state: VmState::Creating,
        terms: Terms {
            resources: VmResources { cpu: 1, memory: 1, storage: 10 },
            image: IMAGE.to_owned(),
            image_digest: image.clone(),
            backend: kind,
            isolation: Isolation::Container,
            accel: None,
            egress: Egress::Internet,
            prices: Prices { core_month: 5, gb_ram_month: 2, gb_storage_month: 1 },
        },
        ssh_port: 0,
        authorized_keys: vec![host_key.public.clone()],
        host_key,
        keys_pending: false,
        lease: Lease { grant, expires: None, warned: false },
        operation: format!("op_{number}"),
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
