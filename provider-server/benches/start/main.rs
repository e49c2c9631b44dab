//! How long a provider with 500 VMs takes from its start to serving:
//! `cargo bench -p golem-vm-provider --bench start [-- memory|docker|all] [-- ROUNDS]`.
//!
//! The real `golem-provider` is executed on a data directory that was filled through the store, and told
//! to end after each round; its forwarder lives on, as it does when a provider is restarted. Measured from
//! `exec` to the line on `--ready-fd`, and to the first answered `GET /vms` (500 VMs, one owner).
//!
//! On `docker`, which needs a Docker Engine, 20 of the VMs have a running container, and the rest none.
#![allow(clippy::unwrap_used)]

mod rows;

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use golem_vm_node::client::{Call, SignedClient, Target};
use golem_vm_node::clock::SystemClock;
use golem_vm_node::data_dir::DataDir;
use golem_vm_node::key_file;
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::route;
use golem_vm_provider::backend::BackendKind;
use serde_json::Value;

/// VMs in the database.
const VMS: u16 = 500;
/// Of these, on Docker, those that have a running container.
const CONTAINERS: usize = 20;
const ROUNDS: usize = 10;

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let named = |kind: &str| words.iter().any(|word| word == kind || word == "all");
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(ROUNDS);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("{VMS} VMs; medians of {rounds}, in milliseconds since exec");
    println!("{:32} {:>8} {:>12} {:>20}", "", "ready", "GET /vms", "slowest GET /vms");
    if named("memory") || words.iter().all(|word| word.parse::<usize>().is_ok()) {
        runtime.block_on(measure(BackendKind::Memory, rounds));
    }
    if named("docker") {
        runtime.block_on(measure(BackendKind::Docker, rounds));
    }
}

async fn measure(kind: BackendKind, rounds: usize) {
    let ground = Ground::new(kind).await;
    let first = ground.start().await;
    print_line(&format!("{kind}, the first start"), &[first]);
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(ground.start().await);
    }
    print_line(&format!("{kind}, started again"), &times);
}

fn print_line(what: &str, times: &[Times]) {
    let median = |of: fn(&Times) -> Duration| {
        let mut all: Vec<Duration> = times.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64() * 1000.0
    };
    let slowest = times.iter().map(|times| times.answered).max().unwrap().as_secs_f64() * 1000.0;
    println!(
        "{what:32} {:8.0} {:12.0} {slowest:20.0}",
        median(|times| times.ready),
        median(|times| times.answered)
    );
}

/// Since the program was executed.
struct Times {
    ready: Duration,
    answered: Duration,
}

/// A provider that is not running.
struct Ground {
    dir: tempfile::TempDir,
    kind: BackendKind,
    owner: KeyPair,
    first_port: u16,
}

impl Ground {
    async fn new(kind: BackendKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let owner = KeyPair::generate().unwrap();
        let ground = Self { first_port: free_ports(), dir, kind, owner };
        let data_dir = DataDir::open(&ground.data()).unwrap();
        let key = key_file::load_or_create(&data_dir.key_path()).unwrap();
        let containers = if kind == BackendKind::Docker { CONTAINERS } else { 0 };
        let ports = ground.first_port..ground.first_port + VMS;
        rows::fill(&data_dir, &key, kind, &ground.owner.id(), ports.collect(), containers).await;
        ground
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_golem-provider"));
        let text = |path: &Path| path.display().to_string();
        let end = self.first_port + VMS;
        for (name, value) in [
            ("DATA_DIR", text(&self.data())),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", "0".to_owned()),
            ("PUBLIC_IP", "127.0.0.1".to_owned()),
            ("BACKEND", self.kind.to_string()),
            ("PORT_RANGE_START", self.first_port.to_string()),
            ("PORT_RANGE_END", end.to_string()),
            ("FORWARDER", env!("CARGO_BIN_EXE_golem-forwarder").to_owned()),
            ("SKIP_PORT_VERIFICATION", "true".to_owned()),
            ("LOG", "warn".to_owned()),
        ] {
            command.env(format!("GOLEM_PROVIDER_{name}"), value);
        }
        command.env("HOME", self.dir.path()).args(arguments);
        command
    }

    async fn start(&self) -> Times {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
        let mut command = self.command(&["start", "--ready-fd", &writer.as_raw_fd().to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let client = SignedClient::new(self.owner.clone(), Arc::new(SystemClock)).unwrap();
        let begun = Instant::now();
        let child = command.spawn().unwrap();
        drop(writer);
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        let ready = begun.elapsed();
        let Ok(told) = serde_json::from_str::<Value>(&line) else {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            panic!("the provider did not start:\n{log}");
        };
        let address = told["http"].as_str().unwrap();
        let id = told["id"].as_str().unwrap().parse().unwrap();
        let target = Target::key(&format!("http://{address}"), id).unwrap();
        let reply = client.call(&target, &Call::get(route::VMS)).await.unwrap();
        let answered = begun.elapsed();
        let listed: Value = reply.reply.json().unwrap();
        assert_eq!(listed.as_array().map(Vec::len), Some(usize::from(VMS)), "{listed}");
        end(child);
        Times { ready, answered }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let purged = self.command(&["purge", "--yes"]).stdout(Stdio::null()).status();
        if !purged.is_ok_and(|status| status.success()) {
            eprintln!("not all that was made could be removed again");
        }
    }
}

/// Tells it to end, and waits until it has.
fn end(mut child: Child) {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
}

/// The first of as many free ports in a row as there are VMs, below Linux's ephemeral ones.
fn free_ports() -> u16 {
    let candidates = (10_000..32_000).step_by(usize::from(VMS));
    let free = |first: &u16| {
        let held: Vec<_> = (*first..*first + VMS)
            .map(|port| std::net::TcpListener::bind(("127.0.0.1", port)))
            .collect();
        held.iter().all(Result::is_ok)
    };
    let mut candidates: Vec<u16> = candidates.collect();
    let turn = usize::try_from(std::process::id()).unwrap() % candidates.len();
    candidates.rotate_left(turn);
    candidates.into_iter().find(free).unwrap()
}
