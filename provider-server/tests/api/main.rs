//! The provider's API over real sockets, on the in-memory backend.
#![allow(clippy::unwrap_used)]

mod backends;
mod events;
mod keys;
mod leases;
mod life;
mod strangers;
pub(crate) mod times;
mod unsigned;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::client::{Call, ClientError, SignedClient, Target};
use golem_vm_node::clock::SystemClock;
use golem_vm_node::http::{CallsPerMinute, HttpService, RateLimits, Recipients, Signing};
use golem_vm_protocol::advertisement::{Overcommit, Prices};
use golem_vm_protocol::vm::{
    Operation, OperationAccepted, OperationStatus, Vm, VmAccess, VmStatus,
};
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair, VmId, route};
use golem_vm_provider::backend::memory::{Fault, MemoryBackend, Method};
use golem_vm_provider::backend::{
    Backend, BackendError, BackendKind, Backends, Capabilities, Containment, Found, ImageDigest,
    InstanceId, Member, Observation, Present, Standing,
};
use golem_vm_provider::capacity::Amount;
use golem_vm_provider::http::{self, ApiState, InfoSource};
use golem_vm_provider::images::{ImageCatalog, ImageRegister as _};
use golem_vm_provider::rental::{Conditions, Rental};
use golem_vm_provider::store::ProviderStore;
use golem_vm_provider::vm::lease::LeasePolicy;
use golem_vm_provider::vm::repository::VmRepository as _;
use golem_vm_provider::vm::task::World;
use golem_vm_provider::vm::{AccessPorts, VmManager};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Routes that are only written down.
#[derive(Default)]
struct PaperPorts(Mutex<BTreeMap<u16, SocketAddr>>);

#[async_trait]
impl AccessPorts for PaperPorts {
    fn usable(&self) -> Vec<u16> {
        vec![50800, 50801, 50802]
    }

    async fn route(&self, port: u16, _vm: VmId, target: SocketAddr) -> Result<(), String> {
        self.0.lock().unwrap().insert(port, target);
        Ok(())
    }

    async fn unroute(&self, port: u16) -> Result<(), String> {
        self.0.lock().unwrap().remove(&port);
        Ok(())
    }

    async fn quiet_for(&self) -> Result<BTreeMap<u16, Duration>, String> {
        Ok(BTreeMap::new())
    }
}

/// What survives the provider's process.
struct Ground {
    dir: TempDir,
    backend: MemoryBackend,
    key: KeyPair,
    ports: Arc<PaperPorts>,
    /// A second backend, and its image.
    machines: Option<(MemoryBackend, ImageDigest)>,
    /// Why the second one is away, where it is.
    machines_away: Option<String>,
    /// Creates in a minute.
    creates: u32,
}

impl Ground {
    async fn new() -> Self {
        let backend = MemoryBackend::greeting().await.unwrap();
        backend.add_image(ImageDigest::new("sha256:aa"), 1);
        Self {
            dir: tempfile::tempdir().unwrap(),
            backend,
            key: KeyPair::generate().unwrap(),
            ports: Arc::default(),
            machines: None,
            machines_away: None,
            creates: 30,
        }
    }

    async fn provider(&self, change: impl FnOnce(&mut Conditions)) -> Provider {
        self.provider_for(false, change).await
    }

    /// One that serves unsigned requestors too, if told so.
    async fn provider_for(
        &self,
        allow_unsigned: bool,
        change: impl FnOnce(&mut Conditions),
    ) -> Provider {
        let clock = Arc::new(SystemClock);
        let store = ProviderStore::open(&self.dir.path().join("state.db"), clock.clone()).unwrap();
        let digest = ImageDigest::new("sha256:aa");
        store.put_image("debian-12".into(), digest, BackendKind::Memory, true).await.unwrap();
        let there = |backend: &MemoryBackend| {
            let found = Found::new(backend.capabilities());
            Standing::There(Present { backend: Arc::new(backend.clone()), found })
        };
        let first = Member { kind: BackendKind::Memory, standing: there(&self.backend) };
        let mut members = vec![first];
        if let Some((machines, image)) = &self.machines {
            let kind = machines.kind();
            store.put_image("debian-12".into(), image.clone(), kind, true).await.unwrap();
            let standing =
                self.machines_away.clone().map_or_else(|| there(machines), Standing::Away);
            members.push(Member { kind, standing });
        }
        let backends = Backends::new(members);
        let mut conditions = Conditions {
            offered: Amount { cpu_millis: 4000, memory_mib: 4096, storage_mib: 100 * 1024 },
            max_vms: 10,
            max_vms_per_requestor: None,
            prices: Prices { core_month: 5, gb_ram_month: 2, gb_storage_month: 1 },
            overcommit: Overcommit::default(),
            trusted: BTreeSet::new(),
            allow_uncontained: false,
            egress: golem_vm_provider::backend::Egress::Internet,
            backends: backends.clone(),
            leases: LeasePolicy::default(),
        };
        change(&mut conditions);
        let token = CancellationToken::new();
        let vms = VmManager::new(Arc::new(World {
            repository: Arc::new(store.clone()),
            backends: backends.clone(),
            ports: self.ports.clone(),
            launch_timeout: Duration::from_secs(20),
            steady: store.steady(),
            changes: watch::Sender::new(0),
            shutdown: token.clone(),
        }));
        let rental = Rental {
            conditions: Arc::new(conditions),
            vms,
            images: ImageCatalog::new(Arc::new(store.clone()), backends.clone(), None, "debian-12"),
            ports: self.ports.clone(),
            offers: Arc::new(store.clone()),
            clock: clock.clone(),
        };
        rental.vms.take_up_all().await.unwrap();
        let info = InfoSource {
            id: self.key.id(),
            name: "attic".into(),
            country: "SE".into(),
            address: watch::Sender::new(Some("127.0.0.1".to_owned())).subscribe(),
        };
        let state = ApiState { rental: rental.clone(), info: Arc::new(info), allow_unsigned };
        let signing = Signing::new(self.key.clone(), Recipients::own_id(), clock);
        let limits = http::limits(Duration::from_secs(20));
        let rates = CallsPerMinute { reads: 600, writes: 120, expensive: self.creates };
        let rates = RateLimits::new(rates, http::class, Arc::new(SystemClock));
        let service =
            HttpService::signed(http::router(state), limits, Arc::new(signing)).limited(rates);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(service.serve(listener, token.clone()));
        Provider { url, id: self.key.id(), store, backends, rental, token, serving }
    }
}

struct Provider {
    url: String,
    id: KeyId,
    store: ProviderStore,
    backends: Backends,
    rental: Rental,
    token: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Provider {
    async fn end(self) {
        self.token.cancel();
        self.serving.await.unwrap();
        self.store.close().await;
    }
}

struct Requestor(SignedClient);

impl Requestor {
    fn new() -> Self {
        Self(SignedClient::new(KeyPair::generate().unwrap(), Arc::new(SystemClock)).unwrap())
    }

    async fn call(&self, provider: &Provider, call: Call<'_>) -> Result<Value, ClientError> {
        let target = Target::key(&provider.url, provider.id).unwrap();
        self.0.call(&target, &call).await?.reply.json()
    }

    async fn get(&self, provider: &Provider, path: &str) -> Result<Value, ClientError> {
        self.call(provider, Call::get(path)).await
    }

    async fn post(&self, provider: &Provider, path: &str) -> Result<Value, ClientError> {
        self.call(provider, Call::new(::http::Method::POST, path)).await
    }

    async fn delete(&self, provider: &Provider, path: &str) -> Result<Value, ClientError> {
        self.call(provider, Call::new(::http::Method::DELETE, path)).await
    }

    async fn create(&self, provider: &Provider, name: &str) -> Result<Vm, ClientError> {
        let body = create_body(name);
        let value = self.call(provider, Call::post(route::VMS, &body).unwrap()).await?;
        Ok(serde_json::from_value(value).unwrap())
    }
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

fn create_body(name: &str) -> Value {
    json!({"name": name, "resources": {"cpu": 1, "memory": 1, "storage": 10}, "ssh_key": KEY})
}

fn code(error: &ClientError) -> ErrorCode {
    error.code().unwrap_or_else(|| panic!("no code in: {error}"))
}

#[tokio::test]
async fn a_vm_lives_and_ends_and_only_its_owner_knows() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (me, other) = (Requestor::new(), Requestor::new());

    let vm = me.create(&provider, "box").await.unwrap();
    assert_eq!((vm.status, vm.ssh_port), (VmStatus::Running, Some(50800)));
    assert!(ground.ports.0.lock().unwrap().contains_key(&50800));
    let access: VmAccess =
        serde_json::from_value(me.get(&provider, "/api/v1/vms/box/access").await.unwrap()).unwrap();
    assert_eq!((access.ssh_host.as_str(), access.ssh_port), ("127.0.0.1", 50800));
    assert_eq!(access.host_key, vm.host_key);
    assert_eq!(access.multipass_name, format!("golem-{}", vm.id));

    // Another key, by name or by id: the same answer as for a VM that never was.
    for path in ["/api/v1/vms/box".to_owned(), format!("/api/v1/vms/{}", vm.id)] {
        assert_eq!(code(&other.get(&provider, &path).await.unwrap_err()), ErrorCode::VmNotFound);
        assert_eq!(code(&other.delete(&provider, &path).await.unwrap_err()), ErrorCode::VmNotFound);
    }
    assert_eq!(other.get(&provider, route::VMS).await.unwrap(), json!([]));
    let theirs = other.create(&provider, "box").await.unwrap();
    assert_ne!(theirs.id, vm.id);

    let stopped = me.post(&provider, "/api/v1/vms/box/stop").await.unwrap();
    assert_eq!(stopped["status"], "stopped");
    assert_eq!(me.post(&provider, "/api/v1/vms/box/stop").await.unwrap()["status"], "stopped");
    assert!(!ground.ports.0.lock().unwrap().contains_key(&50800));
    let started = me.post(&provider, "/api/v1/vms/box/start").await.unwrap();
    assert_eq!((&started["status"], &started["ssh_port"]), (&json!("running"), &json!(50800)));
    assert_eq!(me.post(&provider, "/api/v1/vms/box/restart").await.unwrap()["status"], "running");
    assert!(
        me.get(&provider, "/api/v1/vms/box/stats").await.unwrap()["memory_limit_bytes"].is_u64()
    );

    assert_eq!(me.delete(&provider, "/api/v1/vms/box").await.unwrap(), Value::Null);
    let gone = me.delete(&provider, "/api/v1/vms/box").await.unwrap_err();
    assert!(gone.to_string().contains("Not Found"), "{gone}");
    let instance = InstanceId::of(vm.id.parse().unwrap());
    assert_eq!(ground.backend.observe(instance).await.unwrap(), Observation::Absent);
    assert_eq!(other.get(&provider, route::VMS).await.unwrap().as_array().unwrap().len(), 1);
    provider.end().await;
}

#[tokio::test]
async fn without_a_signature_nothing_is_told() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    Requestor::new().create(&provider, "box").await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut bodies = BTreeSet::new();
    for path in [
        "/api/v1/vms",
        "/api/v1/vms/box",
        "/api/v1/vms/nope",
        "/api/v1/vms/box/access",
        "/api/v1/vms/jobs/x",
    ] {
        let reply = client.get(format!("{}{path}", provider.url)).send().await.unwrap();
        assert_eq!(reply.status(), 401, "{path}");
        let mut body: Value = reply.json().await.unwrap();
        body.as_object_mut().unwrap().remove("request_id");
        bodies.insert(body.to_string());
    }
    assert_eq!(bodies.len(), 1, "the answer depends on what is behind the path: {bodies:?}");
    let info: Value = client
        .get(format!("{}/api/v1/provider/info", provider.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(info["provider_id"], provider.id.to_string());
    provider.end().await;
}

#[tokio::test]
async fn an_asynchronous_create_can_be_followed_and_repeated() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let body = create_body("box");
    let call = || Call::post("/api/v1/vms?async=true", &body).unwrap().idempotency_key("k-1");
    let accepted: OperationAccepted =
        serde_json::from_value(me.call(&provider, call()).await.unwrap()).unwrap();
    let path = route::vm_operation(&accepted.job_id);
    let done = loop {
        let operation: Operation =
            serde_json::from_value(me.get(&provider, &path).await.unwrap()).unwrap();
        if operation.status != OperationStatus::Creating {
            break operation;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(done.status, OperationStatus::Ready);
    assert_eq!(
        code(&Requestor::new().get(&provider, &path).await.unwrap_err()),
        ErrorCode::OperationNotFound
    );

    let again: OperationAccepted =
        serde_json::from_value(me.call(&provider, call()).await.unwrap()).unwrap();
    assert_eq!((again.vm_id, again.status), (accepted.vm_id, VmStatus::Running));
    let other = create_body("other");
    let misuse = Call::post(route::VMS, &other).unwrap().idempotency_key("k-1");
    assert_eq!(
        code(&me.call(&provider, misuse).await.unwrap_err()),
        ErrorCode::IdempotencyMismatch
    );
    assert_eq!(me.get(&provider, route::VMS).await.unwrap().as_array().unwrap().len(), 1);
    provider.end().await;
}

#[tokio::test]
async fn what_fails_on_the_way_leaves_nothing() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    for method in [Method::Ensure, Method::Start] {
        ground.backend.script(method, Fault::Fail(BackendError::Failed("the disk is full".into())));
        let error = me.create(&provider, "box").await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::CreateFailed);
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(provider.store.reserved().await.unwrap(), Amount::default());
        assert!(ground.backend.list().await.unwrap().is_empty());
        assert!(ground.ports.0.lock().unwrap().is_empty());
        // Its owner can read why, and use the name again.
        assert_eq!(me.get(&provider, "/api/v1/vms/box").await.unwrap()["status"], "error");
        assert_eq!(me.get(&provider, route::VMS).await.unwrap(), json!([]));
    }
    assert_eq!(me.create(&provider, "box").await.unwrap().status, VmStatus::Running);
    provider.end().await;
}

#[tokio::test]
async fn bad_requests_get_their_code_and_cost_nothing() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let with = |key: &str, value: Value| {
        let mut body = create_body("box");
        body[key] = value;
        body
    };
    for (body, expected) in [
        (with("name", json!("Bad_Name")), ErrorCode::ValidationFailed),
        (with("ssh_key", json!("ssh-rsa AAAA")), ErrorCode::ValidationFailed),
        (
            with("resources", json!({"cpu": 3, "memory": 1, "storage": 10})),
            ErrorCode::ValidationFailed,
        ),
        (with("image", json!("windows")), ErrorCode::ImageNotOffered),
        (with("image", json!("../../etc")), ErrorCode::ImageNotOffered),
        (
            with("resources", json!({"cpu": 16, "memory": 1, "storage": 10})),
            ErrorCode::InsufficientCapacity,
        ),
        (
            with("offer", json!({"sequence": 9, "digest": format!("sha256:{}", "0".repeat(64))})),
            ErrorCode::OfferChanged,
        ),
        (json!([1]), ErrorCode::ValidationFailed),
    ] {
        let error = me.call(&provider, Call::post(route::VMS, &body).unwrap()).await.unwrap_err();
        assert_eq!(code(&error), expected, "{body}: {error}");
    }
    for path in ["/api/v1/vms/%00", "/api/v1/vms/nope", "/api/v1/vms/..%2f"] {
        assert_eq!(
            code(&me.get(&provider, path).await.unwrap_err()),
            ErrorCode::VmNotFound,
            "{path}"
        );
    }
    for name in ["one", "two", "three"] {
        me.create(&provider, name).await.unwrap();
    }
    assert_eq!(code(&me.create(&provider, "one").await.unwrap_err()), ErrorCode::NameTaken);
    assert_eq!(code(&me.create(&provider, "four").await.unwrap_err()), ErrorCode::PortsExhausted);
    provider.end().await;
}

#[tokio::test]
async fn a_backend_that_is_away_changes_nothing() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    me.create(&provider, "box").await.unwrap();
    ground.backend.set_unavailable(Some("the engine does not answer"));
    let error = me.post(&provider, "/api/v1/vms/box/stop").await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::BackendUnavailable);
    assert_eq!(me.get(&provider, "/api/v1/vms/box").await.unwrap()["status"], "running");
    assert_eq!(
        code(&me.create(&provider, "new").await.unwrap_err()),
        ErrorCode::BackendUnavailable
    );
    ground.backend.set_unavailable(None);
    assert_eq!(me.post(&provider, "/api/v1/vms/box/stop").await.unwrap()["status"], "stopped");
    provider.end().await;
}

#[tokio::test]
async fn a_restart_takes_up_what_was_meant() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let vm = me.create(&provider, "box").await.unwrap();
    me.create(&provider, "halted").await.unwrap();
    me.post(&provider, "/api/v1/vms/halted/stop").await.unwrap();
    // One that is being made when the program ends.
    ground.backend.script(Method::Start, Fault::Hang);
    let body = create_body("late");
    me.call(&provider, Call::post("/api/v1/vms?async=true", &body).unwrap()).await.unwrap();
    while ground.backend.calls(Method::Start) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    provider.end().await;
    ground.ports.0.lock().unwrap().clear();

    let provider = ground.provider(|_| {}).await;
    let late = loop {
        let late = me.get(&provider, "/api/v1/vms/late").await.unwrap();
        if late["status"] != "creating" && ground.ports.0.lock().unwrap().contains_key(&50800) {
            break late;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(late["status"], "running");
    let found = me.get(&provider, "/api/v1/vms/box").await.unwrap();
    assert_eq!((&found["id"], &found["ssh_port"]), (&json!(vm.id), &json!(50800)));
    assert_eq!(me.get(&provider, "/api/v1/vms/halted").await.unwrap()["status"], "stopped");
    provider.end().await;
}

#[tokio::test]
async fn destroying_cuts_a_creation_short() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    // Nothing greets there, so that the creation waits for SSH.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ground.backend.set_ssh(silent.local_addr().unwrap());
    let body = create_body("box");
    let value =
        me.call(&provider, Call::post("/api/v1/vms?async=true", &body).unwrap()).await.unwrap();
    let accepted: OperationAccepted = serde_json::from_value(value).unwrap();
    assert_eq!(me.delete(&provider, "/api/v1/vms/box").await.unwrap(), Value::Null);
    assert!(ground.backend.list().await.unwrap().is_empty());
    assert_eq!(provider.store.reserved().await.unwrap(), Amount::default());
    let operation = me.get(&provider, &route::vm_operation(&accepted.job_id)).await.unwrap();
    assert_eq!(operation["status"], "failed");
    provider.end().await;
}

#[tokio::test]
async fn where_guests_are_not_contained_only_trusted_requestors_are_served() {
    let ground = Ground::new().await;
    let contained = ground.backend.probe().await.unwrap();
    let containment = Containment::Uncontained("no rules".into());
    ground.backend.set_capabilities(Capabilities { containment, ..contained });
    let friend = KeyPair::generate().unwrap();
    let friend_id = friend.id();
    let provider =
        ground.provider(|conditions| conditions.trusted = BTreeSet::from([friend_id])).await;
    let stranger = Requestor::new();
    assert_eq!(code(&stranger.create(&provider, "box").await.unwrap_err()), ErrorCode::NotTrusted);
    let friend = Requestor(SignedClient::new(friend, Arc::new(SystemClock)).unwrap());
    assert_eq!(friend.create(&provider, "box").await.unwrap().status, VmStatus::Running);
    provider.end().await;
    let provider = ground.provider(|conditions| conditions.allow_uncontained = true).await;
    assert_eq!(stranger.create(&provider, "box").await.unwrap().status, VmStatus::Running);
    provider.end().await;
}

#[tokio::test]
async fn a_flood_of_creates_is_told_to_wait_and_leaves_the_rest_alone() {
    let ground = Ground { creates: 2, ..Ground::new().await };
    let provider = ground.provider(|_| {}).await;
    let (flood, other) = (Requestor::new(), Requestor::new());
    let create = async |requestor: &Requestor| {
        // Refused by the rules, not by the limit: that counts as well.
        let call = Call::post(route::VMS, &create_body("NO!")).unwrap();
        requestor.call(&provider, call.timeout(Duration::from_secs(10))).await.unwrap_err()
    };
    for _ in 0..2 {
        assert_eq!(code(&create(&flood).await), ErrorCode::ValidationFailed);
    }
    let refused = create(&flood).await;
    assert_eq!(code(&refused), ErrorCode::RateLimited);
    let ClientError::Refused { problem, .. } = &refused else { panic!("{refused}") };
    assert!(problem.retry_after.is_some_and(|seconds| (20..=30).contains(&seconds)), "{refused}");
    // It can still look at, and end, what it has; and others can create.
    assert_eq!(flood.get(&provider, route::VMS).await.unwrap(), json!([]));
    let gone = flood.delete(&provider, &route::vm(&"box".parse().unwrap())).await.unwrap_err();
    assert_eq!(code(&gone), ErrorCode::VmNotFound);
    assert_eq!(code(&create(&other).await), ErrorCode::ValidationFailed);
    provider.end().await;
}
