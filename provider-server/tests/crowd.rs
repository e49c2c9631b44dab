//! Fifty requestors at once, at a provider with room for ten: the real program on the in-memory backend,
//! over its API.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use golem_vm_node::client::{Call, ClientError, SignedClient, Target};
use golem_vm_node::clock::SystemClock;
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair, route};
use golem_vm_provider::forwarder::ForwarderClient;
use http::Method;
use serde_json::{Value, json};

const REQUESTORS: usize = 50;
const ROOM: usize = 10;
/// More than there is room for, so that they don't decide.
const PORTS: u16 = 24;
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

/// A provider in a directory of its own, which ends with the test.
struct Provider {
    home: tempfile::TempDir,
    child: Option<Child>,
    ready: Value,
}

impl Provider {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let first = free_ports();
        let range = format!("{first}-{}", first + PORTS - 1);
        let mut provider = Self { home, child: None, ready: Value::Null };
        let built = provider.command(&["image", "build", "debian-12"]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut start =
            provider.command(&["start", "--json", "--host", "127.0.0.1", "--port", "0"]);
        start.args(["--no-verify-ports", "--port-range", &range]);
        start.args(["--forwarder", env!("CARGO_BIN_EXE_golem-forwarder")]);
        start.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = provider.child.insert(start.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        provider.ready = serde_json::from_str(&line).unwrap();
        provider
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_golem-provider"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("GOLEM_PROVIDER_DATA_DIR", self.data())
            .env("GOLEM_PROVIDER_BACKEND", "memory")
            // Room for ten by vCPUs, for more by all else that there is.
            .env("GOLEM_PROVIDER_OFFER_CPU", ROOM.to_string())
            .env("GOLEM_PROVIDER_OVERCOMMIT_CPU", "64")
            .env("GOLEM_PROVIDER_OFFER_STORAGE_GB", "1000")
            .env("GOLEM_PROVIDER_OVERCOMMIT_STORAGE", "64")
            .env("GOLEM_PROVIDER_MAX_VMS", "100")
            .env("GOLEM_PROVIDER_CREATES_PER_MINUTE", "1000")
            .env("GOLEM_PROVIDER_WRITES_PER_MINUTE", "1000")
            .env("GOLEM_PROVIDER_READS_PER_MINUTE", "10000")
            .env("GOLEM_PROVIDER_ALLOW_UNCONTAINED", "true")
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).output().unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Reserved vCPUs in thousandths, MiB of memory and of disk; and what the audit of the books says.
    fn ledger(&self) -> ([u64; 3], Value) {
        let reserved = self.json(&["status", "--json"])["capacity"]["reserved"].clone();
        let amounts = ["cpu_millis", "memory_mib", "storage_mib"]
            .map(|unit| reserved[unit].as_u64().unwrap());
        let doctor = self.json(&["doctor", "--json"]);
        let checks = doctor["checks"].as_array().unwrap();
        let ledger = checks.iter().find(|check| check["subject"] == "ledger").unwrap();
        (amounts, ledger["verdict"].clone())
    }

    fn target(&self) -> Target {
        let id: KeyId = self.ready["id"].as_str().unwrap().parse().unwrap();
        Target::key(&format!("http://{}", self.ready["http"].as_str().unwrap()), id).unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            if let Ok((client, _)) = ForwarderClient::connect(&self.data()).await {
                let _ = client.shutdown().await;
            }
        });
    }
}

/// The first of as many ports as are wanted, all free just now, below those that the system hands out.
fn free_ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut first = 21_000 + u16::try_from(std::process::id() % 400).unwrap() * PORTS;
    while !(first..first + PORTS).all(free) {
        first += PORTS;
        assert!(first < 32_000, "no {PORTS} ports in a row are free");
    }
    first
}

fn requestor() -> SignedClient {
    SignedClient::new(KeyPair::generate().unwrap(), Arc::new(SystemClock)).unwrap()
}

async fn create(client: &SignedClient, target: &Target, name: &str) -> Result<Value, ClientError> {
    let size = json!({"cpu": 1, "memory": 1, "storage": 10});
    let body = json!({"name": name, "resources": size, "ssh_key": KEY});
    let call = Call::post(route::VMS, &body).unwrap().timeout(Duration::from_secs(120));
    client.call(target, &call).await?.reply.json()
}

async fn destroy(client: &SignedClient, target: &Target, name: &str) {
    let path = format!("{}/{name}", route::VMS);
    let call = Call::new(Method::DELETE, &path).timeout(Duration::from_secs(120));
    client.call(target, &call).await.unwrap().reply.ok().unwrap();
}

/// Memory of the machine in GiB: what is promised has to be there.
fn memory_gib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 20
}

#[test]
fn fifty_at_once_where_there_is_room_for_ten() {
    if memory_gib() < ROOM as u64 + 1 {
        eprintln!("skipped: ten VMs of 1 GB can't be offered here");
        return;
    }
    let provider = Provider::start();
    let target = provider.target();
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let requestors: Vec<SignedClient> = (0..REQUESTORS).map(|_| requestor()).collect();
    let names: Vec<String> = (0..REQUESTORS).map(|number| format!("box-{number}")).collect();
    let all = requestors.iter().zip(&names).map(|(client, name)| create(client, &target, name));
    let outcomes = runtime.block_on(join_all(all));

    let mut ports = BTreeSet::new();
    let mut rented = Vec::new();
    for (number, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(vm) => {
                assert_eq!(vm["status"], "running", "{vm}");
                assert!(ports.insert(vm["ssh_port"].as_u64().unwrap()), "one port twice: {vm}");
                rented.push(number);
            }
            Err(ClientError::Refused { problem, .. }) => {
                assert_eq!(problem.code, ErrorCode::InsufficientCapacity, "{problem:?}");
                assert_eq!(problem.status, 409);
                assert!(problem.detail.contains("1 vCPUs wanted, 0 free"), "{}", problem.detail);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(rented.len(), ROOM);
    let gib = 1024;
    let ten = ROOM as u64;
    assert_eq!(provider.ledger(), ([ten * 1000, ten * gib, ten * 10 * gib], json!("good")));

    // All at once again, while those that were refused try once more.
    let destroyed = join_all(
        rented.iter().map(|number| destroy(&requestors[*number], &target, &names[*number])),
    );
    let again = join_all((0..REQUESTORS).filter(|number| !rented.contains(number)).map(|number| {
        let (client, target, name) = (&requestors[number], &target, &names[number]);
        async move { (number, create(client, target, name).await) }
    }));
    let (_, again) = runtime.block_on(async { tokio::join!(destroyed, again) });
    let rented: Vec<usize> =
        again.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(number, _)| *number).collect();
    assert!(rented.len() <= ROOM, "{} were let in", rented.len());
    let held = rented.len() as u64;
    assert_eq!(provider.ledger(), ([held * 1000, held * gib, held * 10 * gib], json!("good")));

    runtime.block_on(join_all(
        rented.iter().map(|number| destroy(&requestors[*number], &target, &names[*number])),
    ));
    let began = Instant::now();
    while provider.ledger().0 != [0, 0, 0] {
        assert!(began.elapsed() < Duration::from_secs(60), "not everything is free again");
    }
    assert_eq!(provider.json(&["status", "--json"])["vms"], json!([]));
}
