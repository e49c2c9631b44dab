//! A provider that follows the protocol, until it is told to do otherwise.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use golem_vm_protocol::advertisement::{Advertisement, Prices, Pricing};
use golem_vm_protocol::attestation::PortAttestation;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::port_ranges::PortRanges;
use golem_vm_protocol::signature::{RequestParts, RequestSignature, sign_response, verify_request};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{
    Ability, ChangeVmKeys, CreateVmRequest, Isolation, Lease, LeaseRequest, LeaseTerms, Operation,
    OperationAccepted, OperationStatus, SshPublicKey, Vm, VmAccess, VmAccessPending, VmKeys,
    VmResources, VmSnapshot, VmStage, VmStats, VmStatus,
};
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair, Problem, VmId, VmName};
use http::Method;
use serde_json::{Value, json};

use super::histories::{self, Histories};
use super::http::{Answer, Received, Server, serve, serve_at};
use super::leases;
use super::life;
use super::sshd::Sshd;

/// Who vouches for the ports of all providers here.
pub fn checker() -> KeyPair {
    KeyPair::from_secret_bytes([0xcc; 32]).unwrap()
}

/// How replies are signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    Right,
    None,
    OtherKey,
    /// Signed, then changed on the way.
    Altered,
}

pub struct Rented {
    pub owner: KeyId,
    pub vm: Vm,
    request: String,
    polls: u32,
    pub ssh_keys: Vec<SshPublicKey>,
    pub snapshots: Vec<VmSnapshot>,
}

/// What a create or a clone comes to.
pub struct Asked {
    pub name: VmName,
    pub resources: VmResources,
    pub ssh_keys: Vec<SshPublicKey>,
    pub lease: LeaseRequest,
    /// Of the advertisement that was accepted.
    pub sequence: Option<u64>,
    pub cloud_init: Option<String>,
}

/// What it has and how it behaves; tests change it as they like.
pub struct State {
    pub vms: Vec<Rented>,
    keys: HashMap<(KeyId, String), usize>,
    pub sequence: u64,
    pub name: String,
    pub country: String,
    pub resources: (u32, u32, u32),
    pub core_month: u64,
    pub isolation: Isolation,
    pub contained: bool,
    /// The accelerator of its virtual machines.
    pub accel: Option<String>,
    /// What can be done with its VMs.
    pub abilities: BTreeSet<Ability>,
    /// What its VMs have written to their consoles.
    pub console: Vec<u8>,
    /// What was typed into the one that is open.
    pub typed: Vec<u8>,
    /// The cloud-init that the last VM was asked for with.
    pub cloud_init: Option<String>,
    /// The next so many snapshots are made, and their answers lost.
    pub cut_after_snapshot: u32,
    /// The one image that it has.
    pub image: String,
    pub digest: String,
    pub ports_verified: bool,
    pub offers: bool,
    pub overcommit: f64,
    /// What leases it gives; `None`: it knows none.
    pub lease: Option<LeaseTerms>,
    /// The next so many extensions are obeyed, and their answers lost.
    pub cut_after_extend: u32,
    /// Polls that an operation takes.
    pub slowness: u32,
    pub signing: Signing,
    pub refuse: Option<(ErrorCode, &'static str)>,
    pub fail_operation: Option<ErrorCode>,
    /// The next so many creates are obeyed, and their answers lost.
    pub cut_after_create: u32,
    pub hang: bool,
    /// So many spaces behind each reply but that to a create.
    pub bloat: usize,
    pub stale_once: bool,
    /// The next request is told to come again after so many seconds.
    pub busy_once: Option<u64>,
    /// What `refuse` says goes for every request, not only for creates.
    pub refuse_all: bool,
    pub refuse_stale_offer: bool,
    pub ssh: Option<(u16, String, String, PathBuf)>,
    pub host_key: Option<String>,
    /// What it changes in the VM before it tells of it.
    pub lie: Option<fn(&mut Vm)>,
    /// What it changes in the access before it tells of it.
    pub access_lie: Option<fn(&mut VmAccess)>,
    /// The histories that it keeps; `None`: it is of an older release, which keeps none.
    pub histories: Option<Histories>,
    /// Every request, as method and target.
    pub log: Vec<String>,
}

pub struct Provider {
    pub key: KeyPair,
    pub state: Arc<Mutex<State>>,
    server: Mutex<Option<Server>>,
    address: SocketAddr,
}

pub fn now() -> Timestamp {
    SystemTime::now().into()
}

impl Provider {
    pub fn new(seed: u8) -> Self {
        let key = KeyPair::from_secret_bytes([seed; 32]).unwrap();
        let state = Arc::new(Mutex::new(State {
            vms: Vec::new(),
            keys: HashMap::new(),
            sequence: 1,
            name: format!("provider-{seed}"),
            country: "SE".into(),
            resources: (4, 8, 40),
            core_month: 5_000_000,
            isolation: Isolation::Container,
            contained: true,
            accel: None,
            abilities: Ability::ALL.iter().copied().collect(),
            console: b"Debian GNU/Linux 12 box ttyS0\r\n\r\nbox login: ".to_vec(),
            typed: Vec::new(),
            cloud_init: None,
            cut_after_snapshot: 0,
            image: "debian-12".into(),
            digest: "sha256:0123".into(),
            ports_verified: true,
            offers: true,
            overcommit: 1.0,
            lease: Some(LeaseTerms {
                default_seconds: 7 * 86_400,
                max_seconds: None,
                grace_seconds: 86_400,
            }),
            cut_after_extend: 0,
            slowness: 2,
            signing: Signing::Right,
            refuse: None,
            fail_operation: None,
            cut_after_create: 0,
            hang: false,
            bloat: 0,
            stale_once: false,
            busy_once: None,
            refuse_all: false,
            refuse_stale_offer: false,
            ssh: None,
            host_key: None,
            lie: None,
            access_lie: None,
            histories: None,
            log: Vec::new(),
        }));
        let server = serve(handler(key.clone(), Arc::clone(&state)));
        let address = server.address;
        Self { key, state, server: Mutex::new(Some(server)), address }
    }

    /// One whose VMs are all this one sshd.
    pub fn with_sshd(seed: u8, sshd: &Sshd) -> Self {
        let provider = Self::new(seed);
        provider.set(|state| {
            state.ssh = Some((
                sshd.port,
                sshd.host_key.clone(),
                sshd.user.clone(),
                sshd.authorized.clone(),
            ));
        });
        provider
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn id(&self) -> KeyId {
        self.key.id()
    }

    pub fn stop(&self) {
        self.server.lock().unwrap().take();
    }

    pub fn start(&self) {
        *self.server.lock().unwrap() =
            Some(serve_at(self.address, handler(self.key.clone(), Arc::clone(&self.state))));
    }

    pub fn vm_names(&self) -> Vec<String> {
        self.state.lock().unwrap().vms.iter().map(|rented| rented.vm.name.to_string()).collect()
    }

    pub fn vm_ids(&self) -> Vec<String> {
        self.state.lock().unwrap().vms.iter().map(|rented| rented.vm.id.clone()).collect()
    }

    /// Puts other machines in the place of all its VMs: from now on it names this host key.
    pub fn swap_vms(&self, host_key: &str) {
        for rented in &mut self.state.lock().unwrap().vms {
            rented.vm.host_key = Some(host_key.parse().unwrap());
        }
    }

    /// Changes the lease of all its VMs.
    pub fn leases(&self, change: impl Fn(&mut Lease)) {
        for rented in &mut self.state.lock().unwrap().vms {
            rented.vm.lease.iter_mut().for_each(&change);
        }
    }

    /// The VM is gone, whoever did it.
    pub fn lose_vms(&self) {
        self.state.lock().unwrap().vms.clear();
    }

    pub fn count(&self, request: &str) -> usize {
        self.state.lock().unwrap().log.iter().filter(|line| line.starts_with(request)).count()
    }

    pub fn advertisement(&self) -> Advertisement {
        let state = self.state.lock().unwrap();
        let offers = if state.offers {
            json!([{ "backend": "docker", "isolation": state.isolation, "accel": state.accel,
                "images": [{"name": state.image, "digest": state.digest}], "egress": "internet",
                "enforced": ["cpu", "memory"], "contained": state.contained }])
        } else {
            json!([])
        };
        let mut value = json!({
            "provider_id": self.id(), "sequence": state.sequence, "issued_at": now(),
            "expires_at": now().plus(Duration::from_secs(300)), "name": state.name,
            "country": state.country, "platform": "x86_64",
            "resources": {"cpu": state.resources.0, "memory": state.resources.1,
                          "storage": state.resources.2},
            "endpoints": [{"kind": "relay-of-tomorrow"},
                {"kind": "direct", "api": self.address.to_string(), "ssh_host": "127.0.0.1"}],
            "offers": offers,
            "prices": prices(&state),
            "overcommit": {"cpu": state.overcommit, "storage": 1.0},
        });
        if let Some(terms) = state.lease {
            value["lease"] = json!(terms);
        }
        if state.ports_verified {
            value["port_check"] = json!({"checker": checker().id(), "checked_at": now(), "api": true,
                                         "vm_ports": 100});
            value["attestations"] = json!([self.attested_by(&checker())]);
        }
        serde_json::from_value(value).unwrap()
    }

    /// A port checker's word on its ports.
    pub fn attested_by(&self, checker: &KeyPair) -> Envelope {
        let word = PortAttestation {
            provider_id: self.id(),
            host: "127.0.0.1".into(),
            ports: PortRanges::fitting((50_800..50_900).chain([self.address.port()])),
            observed_at: now(),
            expires_at: now().plus(Duration::from_secs(1800)),
        };
        Envelope::seal(&word, checker).unwrap()
    }

    pub fn entry(&self) -> Value {
        self.entry_of(self.advertisement(), &self.key)
    }

    /// What discovery would list of this advertisement, signed by that key.
    pub fn entry_of(&self, advertisement: Advertisement, key: &KeyPair) -> Value {
        let envelope = Envelope::seal(&advertisement, key).unwrap();
        json!({
            "provider_id": self.id(), "ip_address": "127.0.0.1", "country": advertisement.country,
            "resources": advertisement.resources,
            "pricing": Pricing::from(advertisement.prices),
            "created_at": now().naive(), "updated_at": now().naive(),
            "provider_name": advertisement.name, "platform": "x86_64", "verified": true,
            "last_seen": now(), "expires_at": advertisement.expires_at, "document": envelope,
        })
    }
}

pub fn prices(state: &State) -> Prices {
    Prices { core_month: state.core_month, gb_ram_month: 2_000_000, gb_storage_month: 100_000 }
}

pub type Said = (u16, Value);

/// Ends the creation of all VMs well.
pub fn finish(state: &mut State) {
    for rented in &mut state.vms {
        rented.polls = u32::MAX;
        rented.vm.status = VmStatus::Running;
    }
}

pub fn problem(code: ErrorCode, detail: &str) -> Said {
    (code.status(), serde_json::to_value(Problem::new(code, detail)).unwrap())
}

fn handler(key: KeyPair, state: Arc<Mutex<State>>) -> impl Fn(Received) -> Answer + Send + Sync {
    move |request| {
        let shared = Arc::clone(&state);
        let mut state = state.lock().unwrap();
        state.log.push(format!("{} {}", request.method, request.target));
        if state.hang {
            return Answer::Hang;
        }
        let carried = RequestSignature::carried_by(&request.headers);
        let parts = RequestParts::new(request.method.as_str(), &request.target, &request.body);
        let (said, cut) = match verify_request(&parts, &request.headers) {
            Ok(Some(verified)) if verified.recipient != key.id().to_string() => {
                (problem(ErrorCode::WrongRecipient, "not for me"), false)
            }
            Ok(Some(_)) if std::mem::take(&mut state.stale_once) => {
                (problem(ErrorCode::SignatureStale, "sign again"), false)
            }
            Ok(Some(_)) if state.busy_once.is_some() => {
                let mut said = problem(ErrorCode::RateLimited, "asked too often");
                said.1["retry_after"] = json!(state.busy_once.take());
                (said, false)
            }
            Ok(Some(_)) if state.refuse_all && state.refuse.is_some() => {
                let (code, detail) = state.refuse.unwrap();
                (problem(code, detail), false)
            }
            Ok(Some(verified)) => {
                let stream = histories::streamed(&mut state, &shared, &key, &request)
                    .or_else(|| life::console(&state, &shared, &key, &request));
                if let Some(stream) = stream {
                    return stream;
                }
                answered(&mut state, verified.signer, &request)
            }
            _ => (problem(ErrorCode::SignatureRequired, "sign"), false),
        };
        if cut {
            return Answer::Cut;
        }
        let (status, value) = said;
        let mut body = serde_json::to_vec(&value).unwrap();
        if request.method != Method::POST {
            body.resize(body.len() + state.bloat, b' ');
        }
        let other = KeyPair::from_secret_bytes([200; 32]).unwrap();
        let signed = carried.map(|carried| {
            let by = if state.signing == Signing::OtherKey { &other } else { &key };
            sign_response(by, status, &body, &carried, now().unix_seconds())
        });
        if state.signing == Signing::Altered {
            body.push(b' ');
        }
        let headers = match signed {
            Some(signed) if state.signing != Signing::None => signed
                .into_iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
            _ => Vec::new(),
        };
        Answer::Reply { status, headers, body }
    }
}

/// The reply, and whether it is to get lost.
fn answered(state: &mut State, owner: KeyId, request: &Received) -> (Said, bool) {
    let path = request.target.split('?').next().unwrap();
    let rest = path.strip_prefix("/api/v1/vms").unwrap_or("?");
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    let said = match (&request.method, parts.as_slice()) {
        (&Method::POST, []) => return created(state, owner, request),
        (&Method::GET, []) => {
            let mine: Vec<_> =
                state.vms.iter().filter(|v| v.owner == owner).map(|v| &v.vm).collect();
            (200, serde_json::to_value(mine).unwrap())
        }
        (&Method::GET, ["jobs", id]) => operation(state, owner, id),
        (method, [name, action @ ..]) => {
            let found = state.vms.iter().position(|rented| {
                rented.owner == owner && (rented.vm.id == *name || rented.vm.name.as_str() == *name)
            });
            if let (["events"], Some(histories)) = (action, &state.histories) {
                return (histories.page(name, &request.target), false);
            }
            match found {
                None => problem(ErrorCode::VmNotFound, "VM Not Found"),
                Some(at) => {
                    if let Some(said) = life::answered(state, at, request, action) {
                        return said;
                    }
                    let keep = request.target.ends_with("?keep=true");
                    let said = on_vm(state, at, method, action, &request.body, keep);
                    if action == ["extend"] && state.cut_after_extend > 0 {
                        state.cut_after_extend -= 1;
                        return (said, true);
                    }
                    said
                }
            }
        }
        _ => problem(ErrorCode::NotFound, "Not Found"),
    };
    (said, false)
}

fn created(state: &mut State, owner: KeyId, request: &Received) -> (Said, bool) {
    let body: CreateVmRequest = serde_json::from_slice(&request.body).unwrap();
    let valid = match body.validate() {
        Ok(valid) => valid,
        Err(errors) => {
            return ((422, serde_json::to_value(Problem::validation(errors)).unwrap()), false);
        }
    };
    let asked = Asked {
        name: valid.name,
        resources: valid.resources,
        ssh_keys: valid.ssh_keys,
        lease: valid.lease,
        sequence: valid.offer.map(|offer| offer.sequence),
        cloud_init: valid.cloud_init,
    };
    admitted(state, owner, request, asked)
}

/// A new VM, or the one that was made under the same key.
pub fn admitted(state: &mut State, owner: KeyId, request: &Received, valid: Asked) -> (Said, bool) {
    let key = request.headers["idempotency-key"].to_str().unwrap().to_owned();
    let text = String::from_utf8(request.body.to_vec()).unwrap();
    let at = match state.keys.get(&(owner, key.clone())) {
        Some(at) if state.vms.get(*at).is_some_and(|rented| rented.request == text) => *at,
        Some(_) => return (problem(ErrorCode::IdempotencyMismatch, "another spec"), false),
        None => {
            if let Some((code, detail)) = state.refuse {
                return (problem(code, detail), false);
            }
            if state.refuse_stale_offer && valid.sequence.unwrap() != state.sequence {
                return (problem(ErrorCode::OfferChanged, "the terms have changed"), false);
            }
            if state.vms.iter().any(|v| v.owner == owner && v.vm.name == valid.name) {
                return (problem(ErrorCode::NameTaken, "you have one of that name"), false);
            }
            let id = VmId::random().unwrap();
            let (port, host_key) = match &state.ssh {
                Some((port, host_key, _, authorized)) => {
                    authorize(authorized, &valid.ssh_keys);
                    (*port, host_key.clone())
                }
                None => (1, HOST_KEY.to_owned()),
            };
            let host_key = state.host_key.clone().unwrap_or(host_key);
            let vm = Vm {
                lease: state.lease.map(|terms| leases::begun(&terms, &valid.lease)),
                id: id.to_string(),
                name: valid.name,
                status: VmStatus::Creating,
                resources: valid.resources,
                ip_address: None,
                ssh_port: Some(port),
                created_at: now().naive(),
                updated_at: now().naive(),
                error_message: None,
                image: Some(state.image.clone()),
                image_digest: Some(state.digest.clone()),
                backend: Some("docker".into()),
                isolation: Some(state.isolation),
                accel: state.accel.clone(),
                suspended: false,
                abilities: state.abilities.clone(),
                egress: Some("internet".into()),
                prices: Some(prices(state)),
                host_key: Some(host_key.parse().unwrap()),
                ssh_user: None,
                job_id: Some(format!("job-{id}")),
            };
            if let Some(histories) = &mut state.histories {
                histories.begin(&vm);
            }
            let ssh_keys = valid.ssh_keys;
            state.cloud_init = valid.cloud_init;
            let snapshots = Vec::new();
            state.vms.push(Rented { owner, vm, request: text, polls: 0, ssh_keys, snapshots });
            state.keys.insert((owner, key), state.vms.len() - 1);
            state.vms.len() - 1
        }
    };
    let accepted = OperationAccepted {
        job_id: state.vms[at].vm.job_id.clone().unwrap(),
        vm_id: state.vms[at].vm.id.clone(),
        status: state.vms[at].vm.status,
    };
    let cut = state.cut_after_create > 0;
    state.cut_after_create = state.cut_after_create.saturating_sub(1);
    ((202, serde_json::to_value(accepted).unwrap()), cut)
}

fn authorize(file: &std::path::Path, keys: &[SshPublicKey]) {
    let lines: String = keys.iter().map(|key| format!("{}\n", key.as_str())).collect();
    std::fs::write(file, lines).unwrap();
}

fn change_keys(rented: &mut Rented, body: &[u8]) -> Option<Said> {
    let change: ChangeVmKeys = serde_json::from_slice(body).unwrap();
    let change = match change.validate() {
        Ok(change) => change,
        Err(errors) => return Some((422, json!(Problem::validation(errors)))),
    };
    let mut keys = rented.ssh_keys.clone();
    keys.retain(|key| !change.remove.contains(&key.fingerprint()));
    for new in change.add {
        if !keys.iter().any(|key| key.without_comment() == new.without_comment()) {
            keys.push(new);
        }
    }
    if keys.is_empty() && !change.force {
        return Some(problem(ErrorCode::LastKey, "no key could log in any more"));
    }
    rented.ssh_keys = keys;
    None
}

/// A host key that belongs to nobody.
pub const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

fn operation(state: &mut State, owner: KeyId, id: &str) -> Said {
    let slowness = state.slowness;
    let failing = state.fail_operation;
    let found = state
        .vms
        .iter_mut()
        .position(|rented| rented.owner == owner && rented.vm.job_id.as_deref() == Some(id));
    let Some(at) = found else {
        return problem(ErrorCode::OperationNotFound, "no such operation");
    };
    let rented = &mut state.vms[at];
    rented.polls = rented.polls.saturating_add(1);
    let vm_id = rented.vm.id.clone();
    let status = match failing {
        Some(_) => OperationStatus::Failed,
        None if rented.polls > slowness || rented.polls == u32::MAX => OperationStatus::Ready,
        None => OperationStatus::Creating,
    };
    match status {
        OperationStatus::Ready => rented.vm.status = VmStatus::Running,
        OperationStatus::Failed => drop(state.vms.remove(at)),
        OperationStatus::Creating | OperationStatus::Unknown => {}
    }
    let operation = Operation {
        job_id: id.to_owned(),
        vm_id,
        status,
        phase: (status == OperationStatus::Creating)
            .then(|| "starting\u{1b}[31m the VM".to_owned()),
        error: failing.map(|_| "the engine said no".to_owned()),
        code: failing,
        created_at: now(),
        updated_at: now(),
    };
    (200, serde_json::to_value(operation).unwrap())
}

fn on_vm(
    state: &mut State,
    at: usize,
    method: &Method,
    action: &[&str],
    body: &[u8],
    keep: bool,
) -> Said {
    let (user, port) = match &state.ssh {
        Some((port, _, user, _)) => (user.clone(), *port),
        None => ("ubuntu".to_owned(), 1),
    };
    let rented = &mut state.vms[at];
    match (method, action) {
        (&Method::GET, []) => {
            let mut vm = rented.vm.clone();
            state.lie.inspect(|lie| lie(&mut vm));
            (200, serde_json::to_value(vm).unwrap())
        }
        (&Method::DELETE, []) => {
            if keep && let Some(lease) = &mut rented.vm.lease {
                leases::give_up(lease);
                rented.vm.status = VmStatus::Stopped;
                return (200, serde_json::to_value(&rented.vm).unwrap());
            }
            let gone = state.vms.remove(at).vm;
            if let Some(histories) = &mut state.histories {
                histories.passes(&gone.id, VmStage::Destroyed);
            }
            (200, Value::Null)
        }
        (&Method::POST, ["extend"]) => leases::extend(state.lease, &mut rented.vm, body),
        (&Method::POST, ["undelete"]) => leases::undelete(state.lease, &mut rented.vm, body),
        (&Method::POST, ["start" | "restart"])
            if rented.vm.lease.as_ref().is_some_and(|lease| lease.ended_at.is_some()) =>
        {
            problem(
                ErrorCode::StateConflict,
                "it is only kept: have it back first (POST .../undelete)",
            )
        }
        (&Method::GET, ["access"]) if rented.vm.status != VmStatus::Running => {
            let pending = VmAccessPending {
                vm_id: rented.vm.id.clone(),
                multipass_name: format!("golem-{}", rented.vm.id),
                status: rented.vm.status,
                ssh_port: None,
            };
            (202, serde_json::to_value(pending).unwrap())
        }
        (&Method::GET, ["access"]) => {
            let mut access = VmAccess {
                ssh_host: "127.0.0.1".into(),
                ssh_port: port,
                vm_id: rented.vm.id.clone(),
                multipass_name: format!("golem-{}", rented.vm.id),
                ssh_user: Some(user),
                host_key: rented.vm.host_key.clone(),
            };
            state.access_lie.inspect(|lie| lie(&mut access));
            (200, serde_json::to_value(access).unwrap())
        }
        (&Method::GET, ["stats"]) => {
            let stats = VmStats {
                vm_id: rented.vm.id.clone(),
                measured_at: now(),
                cpu_percent: 12.5,
                memory_used_bytes: 256 << 20,
                memory_limit_bytes: 1 << 30,
                processes: 9,
                network_received_bytes: 1536,
                network_sent_bytes: 10,
                disk_used_bytes: None,
            };
            (200, serde_json::to_value(stats).unwrap())
        }
        (&Method::GET | &Method::POST, ["keys"]) => {
            if method == Method::POST
                && let Some(refused) = change_keys(rented, body)
            {
                return refused;
            }
            if let Some((_, _, _, authorized)) = &state.ssh {
                authorize(authorized, &rented.ssh_keys);
            }
            let keys = VmKeys {
                vm_id: rented.vm.id.clone(),
                keys: rented.ssh_keys.iter().cloned().map(Into::into).collect(),
                applied: rented.vm.status == VmStatus::Running,
            };
            (200, serde_json::to_value(keys).unwrap())
        }
        (&Method::POST, ["stop"]) => {
            rented.vm.status = VmStatus::Stopped;
            (200, serde_json::to_value(&rented.vm).unwrap())
        }
        (&Method::POST, ["start" | "restart"]) => {
            rented.vm.status = VmStatus::Running;
            (200, serde_json::to_value(&rented.vm).unwrap())
        }
        _ => problem(ErrorCode::NotFound, "Not Found"),
    }
}

/// So long ago.
pub fn ago(time: Duration) -> Timestamp {
    (SystemTime::now() - time).into()
}
