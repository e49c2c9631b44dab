//! What a renter does with a VM beside starting and stopping it: the real `golem` and the real provider, on a backend
//! that is a file and can do everything. Nobody can log in there, so `golem` is killed before it would, and its next
//! run takes the VM over.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use golem_vm_end_to_end::{
    Outcome, Place, Provider, ProviderOptions, Requestor, Service, eventually, program,
};
use serde_json::{Value, json};

/// Who offers what, one provider, and somebody who rents there.
struct Market {
    requestor: Requestor,
    _provider: Provider,
    _discovery: Service,
    _directory: tempfile::TempDir,
}

impl Market {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        let mut command = place.command(program("golem-discovery"));
        command.args(["start", "--host", "127.0.0.1", "--port", "0", "--data-dir"]);
        command.arg(directory.path().join("discovery"));
        let discovery = Service::start(command, directory.path(), "discovery").unwrap();
        let options =
            ProviderOptions::default().with("GOLEM_PROVIDER_DISCOVERY_URL", &discovery.url());
        let mut provider = Provider::in_memory("able", &place, &options);
        provider.start();
        let requestor = Requestor::new(&place, &discovery.url());
        eventually("the provider is listed", || {
            let listed = requestor.golem(&["vm", "providers", "--json"]);
            listed.code == 0 && listed.json()["providers"].as_array().unwrap().len() == 1
        });
        Self { requestor, _provider: provider, _discovery: discovery, _directory: directory }
    }

    fn golem(&self, line: &str) -> Outcome {
        self.requestor.golem(&line.split(' ').collect::<Vec<_>>())
    }

    fn done(&self, line: &str) -> Outcome {
        self.golem(line).done()
    }

    /// Rents a VM, and takes it over.
    fn rent(&self, line: &str, name: &str) {
        let mut command = self.requestor.command(&line.split(' ').collect::<Vec<_>>());
        command.env("GOLEM_FAIL_POINT", "create.access-noted").stdin(Stdio::null());
        let killed = command.output().unwrap();
        assert_eq!(killed.status.code(), None, "{}", String::from_utf8_lossy(&killed.stderr));
        self.done("vm list").says(&[&format!("golem vm ssh {name}")]);
    }

    fn info(&self, name: &str) -> Value {
        self.done(&format!("vm info {name} --json")).json()
    }
}

#[test]
fn everything_that_a_vm_can_do_is_done_by_golem() {
    let market = Market::new();
    market.rent("vm create box", "box");
    let vm = market.info("box");
    for ability in ["suspend", "snapshots", "clone", "resize", "console"] {
        assert!(vm["abilities"].as_array().unwrap().contains(&json!(ability)), "{ability}: {vm}");
    }

    market.done("vm suspend box");
    let vm = market.info("box");
    assert_eq!((&vm["status"], &vm["suspended"]), (&json!("stopped"), &json!(true)));
    market.golem("vm clone box other").failed(5).says(&["golem vm resume box"]);
    market.done("vm resume box");
    assert_eq!(market.info("box")["suspended"], json!(false));

    let made = market.done("vm snapshot create box first --json").json();
    assert_eq!(made["snapshot"]["name"], "first", "{made}");
    market.golem("vm snapshot create box first").failed(5).says(&["golem vm snapshot list box"]);
    market.done("vm stop box");
    market.done("vm snapshot create box");
    let list = market.done("vm snapshot list box --json").json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2, "{list}");
    market.done("vm snapshot restore box first");
    market.golem("vm snapshot restore box never").failed(3).says(&["never"]);
    market.done("vm snapshot delete box first");
    market.golem("vm snapshot delete box first").failed(3).says(&["first"]);

    market.done("vm start box");
    market.done("vm resize box --cpu 2 --storage 12").says(&["per month in place of"]);
    let vm = market.info("box");
    assert_eq!((&vm["config"]["cpu"], &vm["config"]["storage"]), (&json!(2), &json!(12)));
    market.golem("vm resize box --storage 10").failed(2).says(&["no disk is ever made smaller"]);

    let log = market.done("vm console box --json").json();
    assert!(log["data"].is_string() && log["text"].is_string(), "{log}");

    market.done("vm stop box");
    market.rent("vm clone box other", "other");
    let (one, two) = (market.info("box"), market.info("other"));
    assert_eq!(two["config"]["storage"], 12, "{two}");
    assert_ne!(one["ssh"]["host_key"], two["ssh"]["host_key"]);
    assert_ne!(one["ssh"]["port"], two["ssh"]["port"]);
    assert_ne!(one["vm_id"], two["vm_id"]);
    market.done("vm purge --yes");
    assert!(market.requestor.vms().is_empty());
}
