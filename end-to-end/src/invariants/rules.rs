//! The comparison. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Event, Evidence, Instance, Row};

/// States in which something is still being done.
const IN_FLIGHT: [&str; 5] = ["creating", "starting", "stopping", "suspending", "destroying"];

/// Everything that does not hold, in sentences; empty when all is well.
#[must_use]
pub fn violations(evidence: &Evidence) -> Vec<String> {
    let mut found = evidence.traces.clone();
    at_rest(evidence, &mut found);
    names_and_operations(evidence, &mut found);
    ports(evidence, &mut found);
    instances(evidence, &mut found);
    routes(evidence, &mut found);
    guests(evidence, &mut found);
    ledger(evidence, &mut found);
    told(evidence, &mut found);
    histories(evidence, &mut found);
    found
}

/// Whether a VM in this state has a port, a name, room and (but for `error`) an instance.
fn is_held(row: &Row) -> bool {
    row.state != "failed"
}

fn shown(row: &Row) -> String {
    format!("{} ({}, {})", row.id, row.name, row.state)
}

fn at_rest(evidence: &Evidence, found: &mut Vec<String>) {
    for row in evidence.books.vms.iter().filter(|row| IN_FLIGHT.contains(&row.state.as_str())) {
        found.push(format!("VM {} is not at rest", shown(row)));
    }
    found.extend(evidence.books.half_done.iter().cloned());
    for orphan in &evidence.books.orphans {
        found.push(format!("{orphan} is noted as an instance without a VM"));
    }
}

fn names_and_operations(evidence: &Evidence, found: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for row in evidence.books.vms.iter().filter(|row| is_held(row)) {
        if !names.insert((&row.owner, &row.name)) {
            found.push(format!("VM {}: its owner has another of that name", shown(row)));
        }
        if !evidence.books.operations.contains(&row.operation) {
            found.push(format!("VM {}: its operation {} is gone", shown(row), row.operation));
        }
    }
    for (operation, vm) in &evidence.books.open_operations {
        if evidence.books.vm(vm).is_none_or(|row| row.state != "creating") {
            found
                .push(format!("operation {operation} of VM {vm} is not over, and nobody is at it"));
        }
    }
}

fn ports(evidence: &Evidence, found: &mut Vec<String>) {
    let mut of_vm: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    let mut numbers = BTreeSet::new();
    for (port, vm, purpose) in &evidence.books.ports {
        if !numbers.insert(port) {
            found.push(format!("port {port} was given twice"));
        }
        if !evidence.books.vm(vm).is_some_and(is_held) {
            found.push(format!("port {port} belongs to {vm}, which is no VM that holds one"));
        }
        if purpose == "ssh" {
            of_vm.entry(vm).or_default().push(*port);
        }
    }
    for row in evidence.books.vms.iter().filter(|row| is_held(row)) {
        let count = of_vm.get(row.id.as_str()).map_or(0, Vec::len);
        if count != 1 {
            found.push(format!("VM {} has {count} SSH ports, not one", shown(row)));
        }
    }
}

fn instances(evidence: &Evidence, found: &mut Vec<String>) {
    let Some(instances) = &evidence.instances else { return };
    let mut seen: BTreeMap<&str, &Instance> = BTreeMap::new();
    for instance in instances {
        if seen.insert(&instance.vm, instance).is_some() {
            found.push(format!("VM {} has two instances", instance.vm));
        }
        match evidence.books.vm(&instance.vm) {
            Some(row) if is_held(row) => {}
            Some(row) => found.push(format!("VM {} has an instance still", shown(row))),
            None => found.push(format!("instance golem-{} has no VM", instance.vm)),
        }
    }
    for row in &evidence.books.vms {
        let running = seen.get(row.id.as_str()).map(|instance| instance.running);
        let wrong = match (row.state.as_str(), running) {
            ("running" | "stopped" | "suspended" | "retained", None) => "its instance is gone",
            ("running", Some(false)) => "its instance does not run",
            ("stopped" | "suspended" | "retained" | "error", Some(true)) => "its instance runs",
            _ => continue,
        };
        found.push(format!("VM {}: {wrong}", shown(row)));
    }
}

fn routes(evidence: &Evidence, found: &mut Vec<String>) {
    let Some(routes) = &evidence.routes else { return };
    for route in routes {
        let (port, vm) = (route.port, &route.vm);
        let given = evidence.books.ports.iter().any(|(known, of, _)| (known, of) == (&port, vm));
        match evidence.books.vm(vm) {
            None => found.push(format!("port {port} leads to {vm}, which is no VM")),
            Some(row) if row.state != "running" => {
                found.push(format!("port {port} leads to VM {}", shown(row)));
            }
            Some(row) if !given => {
                found.push(format!("port {port} leads to VM {}, whose it is not", shown(row)));
            }
            Some(row) => {
                let instances = evidence.instances.iter().flatten();
                let targets: Vec<_> = instances
                    .filter(|instance| instance.vm == *vm)
                    .flat_map(|instance| &instance.targets)
                    .collect();
                if !targets.is_empty() && !targets.contains(&&route.target) {
                    let target = &route.target;
                    found.push(format!(
                        "port {port} of VM {} leads to {target}, and its SSH is at {targets:?}",
                        shown(row)
                    ));
                }
            }
        }
    }
    for row in evidence.books.vms.iter().filter(|row| row.state == "running") {
        if !routes.iter().any(|route| route.vm == row.id) {
            found.push(format!("VM {}: its port leads nowhere", shown(row)));
        }
    }
}

fn guests(evidence: &Evidence, found: &mut Vec<String>) {
    let (Some(guests), Some(instances)) = (&evidence.guests, &evidence.instances) else { return };
    let mut expected = BTreeSet::new();
    for instance in instances.iter().filter(|instance| instance.running) {
        let quarantined = evidence.books.vm(&instance.vm).is_some_and(|row| row.quarantined);
        if !quarantined && !instance.address.is_empty() {
            expected.insert(instance.address.clone());
        }
    }
    for address in guests.difference(&expected) {
        found.push(format!("the firewall lets {address} use the network, and no VM has it"));
    }
    for address in expected.difference(guests) {
        found.push(format!("the firewall does not know {address}, which a running VM has"));
    }
}

/// What a VM reserves: vCPUs in thousandths, MiB of memory, MiB of disk. One that is only kept needs
/// its disk and nothing else.
fn reserved(row: &Row) -> [u64; 3] {
    let (cpu, memory) = (u64::from(row.cpu) * 1000, u64::from(row.memory) * 1024);
    let storage = u64::from(row.storage) * 1024;
    match row.state.as_str() {
        "failed" => [0, 0, 0],
        "retained" => [0, 0, storage],
        _ => [cpu, memory, storage],
    }
}

fn ledger(evidence: &Evidence, found: &mut Vec<String>) {
    let Some(status) = &evidence.status else { return };
    let sum = evidence
        .books
        .vms
        .iter()
        .map(reserved)
        .fold([0; 3], |sum, one| [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]);
    let told = |which: &str| {
        let amount = &status["capacity"][which];
        ["cpu_millis", "memory_mib", "storage_mib"]
            .map(|unit| amount[unit].as_u64().unwrap_or_else(|| panic!("no {unit} in {status}")))
    };
    let (offered, reserved, free) = (told("offered"), told("reserved"), told("free"));
    if reserved != sum {
        found.push(format!("{reserved:?} are said to be reserved, and the VMs add up to {sum:?}"));
    }
    for (at, what) in ["vCPUs", "memory", "disk"].iter().enumerate() {
        if free[at] != offered[at].saturating_sub(reserved[at]) {
            found.push(format!("free {what}: {free:?}, of {offered:?} less {reserved:?}"));
        }
        if reserved[at] > offered[at] {
            found.push(format!("more {what} reserved than offered: {reserved:?} of {offered:?}"));
        }
    }
}

/// What the provider says of itself.
fn told(evidence: &Evidence, found: &mut Vec<String>) {
    if let Some(status) = &evidence.status {
        let ids = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
        let listed: BTreeSet<String> =
            status["vms"].as_array().into_iter().flatten().map(ids).collect();
        let rows: BTreeSet<String> = evidence
            .books
            .vms
            .iter()
            .filter(|row| is_held(row))
            .map(|row| row.id.clone())
            .collect();
        if listed != rows {
            found.push(format!("status lists {listed:?}, and the database has {rows:?}"));
        }
    }
    let checks = evidence.doctor.iter().flat_map(|doctor| doctor["checks"].as_array());
    for check in checks.flatten() {
        let subject = check["subject"].as_str().unwrap_or_default();
        if ["ledger", "instances"].contains(&subject) && check["verdict"] != "good" {
            found.push(format!("doctor finds, of {subject}: {}", check["found"]));
        }
    }
}

fn histories(evidence: &Evidence, found: &mut Vec<String>) {
    let mut of_vm: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in &evidence.books.events {
        of_vm.entry(&event.vm).or_default().push(event);
    }
    for (vm, events) in &of_vm {
        history(vm, events, found);
        let (last, row) = (&events[events.len() - 1].to, evidence.books.vm(vm));
        match row {
            Some(row) if row.state != *last => {
                found.push(format!("VM {}: its history ends with '{last}'", shown(row)));
            }
            None if last != "destroyed" && last != "failed" => {
                found.push(format!("VM {vm} is gone, and its history ends with '{last}'"));
            }
            _ => {}
        }
    }
    // A database without any is from before there were histories.
    if !of_vm.is_empty() {
        for row in evidence.books.vms.iter().filter(|row| !of_vm.contains_key(row.id.as_str())) {
            found.push(format!("VM {} has no history", shown(row)));
        }
    }
}

/// One VM's events: numbers without gaps, each from where the one before led, and time delivered
/// exactly while it ran.
fn history(vm: &str, events: &[&Event], found: &mut Vec<String>) {
    let mut before: Option<&Event> = None;
    for (expected, event) in (1..).zip(events) {
        let number = event.number;
        if number != expected {
            found.push(format!("VM {vm}: event {number} stands where {expected} should"));
            return;
        }
        if event.from.as_ref() != before.map(|before| &before.to) {
            let led = before.map(|before| before.to.as_str());
            found.push(format!(
                "VM {vm}: event {number} is from {:?}, and the one before led to {led:?}",
                event.from
            ));
        }
        if let Some(before) = before {
            let passed = event.steady.checked_sub(before.steady);
            let ran = event.delivered.checked_sub(before.delivered);
            let due = if before.to == "running" { passed } else { Some(0) };
            if passed.is_none() || ran != due {
                found.push(format!(
                    "VM {vm}: from event {} ({}) to {number} its time went from {} to {} µs, and what it ran from {} to {}",
                    before.number, before.to, before.steady, event.steady, before.delivered, event.delivered
                ));
            }
        }
        before = Some(event);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Books, Route};
    use super::*;

    const ADDRESS: &str = "172.18.0.2";

    fn row(id: &str, state: &str) -> Row {
        Row {
            id: id.to_owned(),
            owner: "me".to_owned(),
            name: format!("name-of-{id}"),
            state: state.to_owned(),
            cpu: 1,
            memory: 2,
            storage: 10,
            quarantined: false,
            operation: format!("op-{id}"),
        }
    }

    fn event(number: u64, from: Option<&str>, to: &str, steady: u64, delivered: u64) -> Event {
        let from = from.map(str::to_owned);
        Event { vm: "a".to_owned(), number, from, to: to.to_owned(), steady, delivered }
    }

    /// A provider with a VM that runs, one that is stopped, one that is kept, and one that failed.
    fn well() -> Evidence {
        let amount = |cpu: u64, memory: u64, storage: u64| json!({"cpu_millis": cpu, "memory_mib": memory, "storage_mib": storage});
        Evidence {
            provider: "p".to_owned(),
            books: Books {
                vms: ["running", "stopped", "retained", "failed"]
                    .iter()
                    .zip(["a", "b", "c", "d"])
                    .map(|(state, id)| row(id, state))
                    .collect(),
                ports: [(50800, "a"), (50801, "b"), (50802, "c")]
                    .map(|(port, vm)| (port, vm.to_owned(), "ssh".to_owned()))
                    .to_vec(),
                operations: ["op-a", "op-b", "op-c"].map(str::to_owned).to_vec(),
                ..Books::default()
            },
            instances: Some(vec![
                Instance {
                    vm: "a".to_owned(),
                    running: true,
                    targets: vec![format!("{ADDRESS}:22")],
                    address: ADDRESS.to_owned(),
                },
                Instance { vm: "b".to_owned(), ..Instance::default() },
                Instance { vm: "c".to_owned(), ..Instance::default() },
            ]),
            routes: Some(vec![Route {
                port: 50800,
                vm: "a".to_owned(),
                target: format!("{ADDRESS}:22"),
            }]),
            guests: Some(BTreeSet::from([ADDRESS.to_owned()])),
            status: Some(json!({
                "capacity": {
                    "offered": amount(4000, 8192, 102_400),
                    "reserved": amount(2000, 4096, 30_720),
                    "free": amount(2000, 4096, 71_680),
                },
                "vms": [{"id": "a"}, {"id": "b"}, {"id": "c"}],
            })),
            doctor: Some(
                json!({"checks": [{"subject": "ledger", "verdict": "good", "found": ""}]}),
            ),
            traces: Vec::new(),
        }
    }

    /// Spoils one thing, and expects exactly this to be found.
    fn spoilt(spoil: impl FnOnce(&mut Evidence), expected: &[&str]) {
        let mut evidence = well();
        spoil(&mut evidence);
        let found = violations(&evidence);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "'{expected}' is not in '{found}'");
        }
    }

    #[test]
    fn what_is_well_is_found_well() {
        spoilt(|_| {}, &[]);
    }

    #[test]
    fn instances_and_rows_belong_together() {
        let instances = |evidence: &mut Evidence| evidence.instances.take().unwrap_or_default();
        spoilt(
            |e| {
                let mut all = instances(e);
                all.push(Instance { vm: "x".to_owned(), ..Instance::default() });
                all.push(Instance { vm: "d".to_owned(), ..Instance::default() });
                e.instances = Some(all);
            },
            &["golem-x has no VM", "VM d (name-of-d, failed) has an instance still"],
        );
        spoilt(
            |e| e.instances = Some(instances(e).into_iter().filter(|one| one.vm != "c").collect()),
            &["VM c (name-of-c, retained): its instance is gone"],
        );
        spoilt(
            |e| e.books.vms[1].state = "running".to_owned(),
            &["its instance does not run", "its port leads nowhere"],
        );
        spoilt(|e| e.books.vms[1].state = "stopping".to_owned(), &["is not at rest"]);
        spoilt(|e| e.books.orphans.push("golem-x".to_owned()), &["noted as an instance without"]);
    }

    #[test]
    fn ports_and_routes_belong_to_vms() {
        spoilt(|e| e.books.ports[1].0 = 50800, &["port 50800 was given twice"]);
        spoilt(
            |e| e.books.ports[1].1 = "d".to_owned(),
            &["port 50801 belongs to d", "VM b (name-of-b, stopped) has 0 SSH ports"],
        );
        let route =
            |port, vm: &str| Route { port, vm: vm.to_owned(), target: format!("{ADDRESS}:22") };
        spoilt(
            |e| e.routes = Some(vec![route(50800, "a"), route(50801, "b"), route(1, "x")]),
            &["port 50801 leads to VM b", "port 1 leads to x, which is no VM"],
        );
        spoilt(|e| e.routes = Some(vec![route(50801, "a")]), &["whose it is not"]);
        spoilt(
            |e| e.routes.iter_mut().flatten().for_each(|route| route.target = "10.0.0.1:22".into()),
            &["leads to 10.0.0.1:22"],
        );
    }

    #[test]
    fn the_firewall_knows_those_that_run() {
        spoilt(
            |e| e.guests = Some(BTreeSet::from(["172.18.0.9".to_owned()])),
            &["lets 172.18.0.9 use", "does not know 172.18.0.2"],
        );
        spoilt(|e| e.books.vms[0].quarantined = true, &["lets 172.18.0.2 use"]);
    }

    #[test]
    fn the_ledger_adds_up() {
        let capacity = |evidence: &mut Evidence, which: &str, cpu: u64| {
            if let Some(status) = &mut evidence.status {
                status["capacity"][which]["cpu_millis"] = cpu.into();
            }
        };
        spoilt(|e| capacity(e, "reserved", 3000), &["add up to [2000", "free vCPUs"]);
        spoilt(
            |e| {
                capacity(e, "offered", 1000);
                capacity(e, "free", 0);
            },
            &["more vCPUs reserved than offered"],
        );
        spoilt(
            |e| {
                e.doctor =
                    Some(json!({"checks": [{"subject": "ledger", "verdict": "bad", "found": "x"}]}))
            },
            &["doctor finds, of ledger"],
        );
    }

    #[test]
    fn operations_and_names_are_kept() {
        spoilt(|e| e.books.operations.clear(), &["op-a", "op-b", "op-c"]);
        let open = |vm: &str| vec![("op".to_owned(), vm.to_owned())];
        spoilt(|e| e.books.open_operations = open("x"), &["nobody is at it"]);
        spoilt(|e| e.books.vms[1].name = "name-of-a".to_owned(), &["another of that name"]);
    }

    #[test]
    fn histories_have_no_gaps_and_count_what_ran() {
        let good = || {
            vec![
                event(1, None, "creating", 100, 0),
                event(2, Some("creating"), "running", 150, 0),
                event(3, Some("running"), "stopped", 180, 30),
                event(4, Some("stopped"), "running", 200, 30),
            ]
        };
        let with = |change: fn(&mut Vec<Event>), expected: &[&str]| {
            spoilt(
                |e| {
                    e.books.vms.truncate(1);
                    e.books.ports.truncate(1);
                    e.instances.iter_mut().for_each(|all| all.truncate(1));
                    e.status = None;
                    e.books.events = good();
                    change(&mut e.books.events);
                },
                expected,
            );
        };
        with(|_| {}, &[]);
        with(|events| drop(events.remove(1)), &["event 3 stands where 2 should"]);
        with(|events| drop(events.pop()), &["its history ends with 'stopped'"]);
        with(|events| events[3].delivered = 31, &["what it ran from 30 to 31"]);
        with(|events| events[2].delivered = 29, &["from 0 to 29", "from 29 to 30"]);
        with(|events| events[3].steady = 179, &["from 180 to 179"]);
        with(|events| events[1].from = None, &["event 2 is from None"]);
        with(
            |events| {
                events.push(Event {
                    vm: "x".to_owned(),
                    number: 1,
                    to: "running".into(),
                    ..Event::default()
                })
            },
            &["VM x is gone, and its history ends with 'running'"],
        );
    }
}
