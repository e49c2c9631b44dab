//! What is on the machine: containers, networks, the firewall's set of guests.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::path::Path;

use serde_json::Value;

use crate::engine::Engine;
use crate::outcome::Outcome;
use crate::place::Place;

/// An instance behind a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// The VM's id.
    pub vm: String,
    /// Whether it runs.
    pub running: bool,
    /// Where its SSH server can be reached, in each way in which it can; empty: not known.
    pub targets: Vec<String>,
    /// Its own address on the provider's network, while it runs; empty: not known.
    pub address: String,
}

/// The instances that carry a provider's label, and what carries it that should not, in words.
pub(super) fn on_engine(engine: &Engine, provider: &str) -> (Vec<Instance>, Vec<String>) {
    let (mut instances, mut traces) = (Vec::new(), Vec::new());
    for container in engine.containers(provider) {
        let name = container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/');
        match container["Labels"]["golem.vm"].as_str() {
            Some(vm) if name == format!("golem-{vm}") => instances.push(instance(vm, &container)),
            _ => traces.push(format!("container {name} belongs to no VM")),
        }
    }
    let short = provider.get(..12).unwrap_or(provider);
    let known = [format!("golem-{short}"), format!("golem-{short}-internal")];
    for trace in engine.traces_of(provider) {
        match trace.split_once(' ') {
            Some(("network", name)) if !known.contains(&name.trim_matches('"').to_owned()) => {
                traces.push(format!("network {name} belongs to no VM"));
            }
            Some(("volume", name)) => traces.push(format!("volume {name} belongs to no VM")),
            _ => {}
        }
    }
    (instances, traces)
}

/// The machines that a provider has on QEMU; `None`: it has no such backend.
pub(crate) fn on_qemu(data_dir: &Path) -> Option<Vec<Instance>> {
    let machines = std::fs::read_dir(data_dir.join("qemu/machines")).ok()?;
    let lines = command_lines("qemu-system");
    let instance = |entry: DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let shown = format!("{name},");
        Some(Instance {
            vm: name.strip_prefix("golem-")?.to_owned(),
            running: lines.iter().any(|line| line.contains(&shown)),
            ..Instance::default()
        })
    };
    Some(machines.flatten().filter_map(instance).collect())
}

/// What the processes of that program were started with.
fn command_lines(program: &str) -> Vec<String> {
    let of = |entry: DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let lines = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of);
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines.filter(|line| line.contains(program)).collect()
}

fn instance(vm: &str, container: &Value) -> Instance {
    let running = container["State"] == "running";
    let networks = container["NetworkSettings"]["Networks"].as_object();
    let address = networks
        .into_iter()
        .flat_map(serde_json::Map::values)
        .filter_map(|network| network["IPAddress"].as_str())
        .find(|address| !address.is_empty())
        .unwrap_or_default()
        .to_owned();
    let mut targets = Vec::new();
    if running && !address.is_empty() {
        targets.push(format!("{address}:22"));
    }
    for port in container["Ports"].as_array().into_iter().flatten() {
        if port["PrivatePort"] == 22
            && let (Some(ip), Some(public)) = (port["IP"].as_str(), port["PublicPort"].as_u64())
        {
            targets.push(format!("{ip}:{public}"));
        }
    }
    Instance { vm: vm.to_owned(), running, targets, address }
}

/// The addresses in the firewall's set of guests; `None` where this provider has no table, or it
/// can't be seen.
pub(super) fn guests(place: &Place, provider: &str) -> Option<BTreeSet<String>> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    // As long as the bridge's name, which is as long as an interface's may be, less its `gvm-`.
    let table = format!("golem-{}", provider.get(..11)?);
    let mut command = place.command("nft");
    command.args(["--json", "list", "set", "inet", &table, "guests"]);
    let listed = Outcome::of(&mut command, b"");
    if listed.code != 0 {
        return None;
    }
    let listed = listed.json();
    let sets = listed["nftables"].as_array()?.iter().filter_map(|entry| entry.get("set"));
    let elements = sets.flat_map(|set| set["elem"].as_array().into_iter().flatten());
    let addresses = elements.filter_map(|element| element["concat"][0].as_str());
    Some(addresses.map(str::to_owned).collect())
}
