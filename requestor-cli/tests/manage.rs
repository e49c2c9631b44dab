//! What a person does with VMs they have, and with the settings.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use serde_json::json;
use support::Home;
use support::discovery::Discovery;
use support::provider::{Provider, Signing};
use support::sshd::Sshd;

struct Rented {
    _sshd: Sshd,
    discovery: Discovery,
    provider: Provider,
    home: Home,
}

/// A person with one VM, `box`.
fn rented() -> Rented {
    let sshd = Sshd::start();
    let discovery = Discovery::new();
    let provider = Provider::with_sshd(1, &sshd);
    discovery.list(&provider);
    let home = Home::with(&discovery);
    home.golem(&["vm", "create", "box"]).exits(0);
    Rented { _sshd: sshd, discovery, provider, home }
}

#[test]
fn an_empty_list_is_an_empty_list() {
    let home = Home::new();
    assert_eq!(home.golem(&["vm", "list", "--json"]).exits(0).stdout, "{\"vms\":[]}\n");
    let ran = home.golem(&["vm", "list"]).exits(0).says("golem vm create NAME");
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_silent_provider_makes_its_vms_stale_and_never_gone() {
    let rented = rented();
    rented.provider.stop();
    let ran = rented.home.golem(&["vm", "list", "--json"]).exits(0);
    let vm = &ran.json()["vms"][0];
    assert_eq!(
        (&vm["name"], &vm["status"], &vm["stale"]),
        (&json!("box"), &json!("running"), &json!(true))
    );
    let ran = rented.home.golem(&["vm", "list"]).exits(0).says("its VMs are shown as last known");
    assert!(ran.stdout.contains("running (stale, "), "{}", ran.stdout);
    rented.home.golem(&["vm", "info", "box"]).exits(0).says("this is what was last known");
    rented.home.golem(&["vm", "stop", "box"]).exits(4).says("can't stop 'box'");
    rented
        .home
        .golem(&["vm", "destroy", "box", "--yes"])
        .exits(4)
        .says("can't destroy 'box'")
        .says("--forget");

    // Somebody else at that address is not believed either.
    rented.provider.start();
    rented.provider.set(|state| state.signing = Signing::OtherKey);
    let ran = rented.home.golem(&["vm", "list", "--json"]).exits(0);
    assert_eq!(ran.json()["vms"][0]["stale"], json!(true));
    rented.home.golem(&["vm", "stop", "box"]).exits(6);
    rented.provider.set(|state| state.signing = Signing::Right);

    rented.provider.stop();
    rented.home.golem(&["vm", "destroy", "box", "--yes", "--forget"]).exits(0).says("may go on at");
    assert_eq!(rented.home.golem(&["vm", "list", "--json"]).exits(0).stdout, "{\"vms\":[]}\n");
    rented.provider.start();
    rented.home.golem(&["vm", "list"]).exits(0);
    assert!(rented.provider.vm_names().is_empty());
}

#[test]
fn a_provider_that_moved_is_found_again_by_discovery() {
    let rented = rented();
    let db = rusqlite::Connection::open(rented.home.base().join("state.db")).unwrap();
    let wrong = r#"[{"kind":"direct","api":"127.0.0.1:1","ssh_host":"127.0.0.1"}]"#;
    db.execute("UPDATE rentals SET endpoints = ?1", [wrong]).unwrap();
    drop(db);
    let ran = rented.home.golem(&["vm", "list", "--json"]).exits(0);
    assert_eq!(ran.json()["vms"][0]["stale"], json!(false));
    rented.discovery.withdraw(&rented.provider);
    rented.home.golem(&["vm", "info", "box"]).exits(0);
}

#[test]
fn what_its_provider_denies_is_off_the_list_and_told() {
    let rented = rented();
    rented.provider.lose_vms();
    let ran = rented.home.golem(&["vm", "list", "--json"]).exits(0).says("'box' is gone");
    assert_eq!(ran.stdout, "{\"vms\":[]}\n");
    rented.home.golem(&["vm", "info", "box"]).exits(3);
}

#[test]
fn stop_start_restart_and_stats() {
    let rented = rented();
    let golem = |arguments: &[&str]| rented.home.golem(arguments).exits(0);
    assert_eq!(golem(&["vm", "stop", "box"]).stdout, "'box' is stopped\n");
    assert_eq!(golem(&["vm", "list", "--json"]).json()["vms"][0]["status"], "stopped");
    assert_eq!(golem(&["vm", "start", "box", "--json"]).json()["status"], "running");
    assert_eq!(golem(&["vm", "restart", "box"]).stdout, "'box' is running\n");
    let stats = golem(&["vm", "stats", "box"]).stdout;
    assert!(stats.contains("CPU           12.5% of one core\n"), "{stats}");
    assert!(stats.contains("256.0 MiB of 1.0 GiB (25%)"), "{stats}");
    assert_eq!(golem(&["vm", "stats", "box", "--json"]).json()["processes"], 9);
    let id = rented.provider.vm_ids()[0].clone();
    assert_eq!(golem(&["vm", "info", &id, "--json"]).json()["name"], "box");
}

#[test]
fn destroying_asks_first() {
    let rented = rented();
    rented.home.golem(&["vm", "destroy", "box"]).exits(2).says("needs --yes");
    let ran = rented.home.on_terminal(&["vm", "destroy", "box"], "n\n").exits(0);
    assert!(ran.stdout.contains("Destroy box and everything in it? [y/N]"), "{}", ran.stdout);
    assert_eq!(rented.provider.vm_names(), ["box"]);
    rented.home.on_terminal(&["vm", "destroy", "box"], "y\n").exits(0);
    assert!(rented.provider.vm_names().is_empty());
}

#[test]
fn destroying_what_is_gone_is_done() {
    let rented = rented();
    rented.provider.lose_vms();
    let ran = rented.home.golem(&["vm", "delete", "box", "--yes"]).exits(0);
    assert_eq!(ran.stdout, "'box' is destroyed\n");
    rented
        .home
        .golem(&["vm", "destroy", "box", "--yes"])
        .exits(3)
        .says("you have no VM called 'box'");
}

#[test]
fn purge_gives_everything_back() {
    let rented = rented();
    rented.home.golem(&["vm", "create", "two"]).exits(0);
    rented.home.golem(&["vm", "purge"]).exits(2);
    let ran = rented.home.golem(&["vm", "purge", "--yes", "--json"]).exits(0);
    assert_eq!(ran.json(), json!({"destroyed": ["box", "two"]}));
    assert!(rented.provider.vm_names().is_empty());
}

#[test]
fn names_typed_wrong_are_suggested() {
    let rented = rented();
    rented.home.golem(&["vm", "info", "bux"]).exits(3).says("did you mean 'box'?");
    rented.home.golem(&["vm", "ssh", "elsewhere"]).exits(3).says("golem vm list");
    rented.home.golem(&["vm", "lost"]).exits(2).says("list");
}

#[test]
fn two_people_do_not_see_each_other() {
    let rented = rented();
    let other = Home::with(&rented.discovery);
    other.golem(&["vm", "create", "box"]).exits(0);
    assert_eq!(rented.provider.vm_names(), ["box", "box"]);
    assert_ne!(other.id(), rented.home.id());
    other.golem(&["vm", "destroy", "box", "--yes"]).exits(0);
    assert_eq!(
        rented.home.golem(&["vm", "list", "--json"]).json()["vms"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn settings_are_written_read_and_explained() {
    let home = Home::new();
    let golem = |arguments: &[&str]| home.golem(arguments);
    assert_eq!(
        golem(&["config", "path"]).exits(0).stdout.trim(),
        home.config_file().to_str().unwrap()
    );
    golem(&["config", "get", "discovery-url"]).exits(3);
    golem(&["config", "set", "discovery-url", "localhost:9001"]).exits(2).says("is not an address");
    golem(&["config", "set", "discovery-url", "http://127.0.0.1:9001"]).exits(0);
    assert_eq!(
        golem(&["config", "get", "discovery-url"]).exits(0).stdout,
        "http://127.0.0.1:9001\n"
    );
    let shown = golem(&["config", "get", "discovery-url", "--json"]).json();
    assert!(shown["origin"].as_str().unwrap().contains("requestor.toml"), "{shown}");
    golem(&["config", "set", "discovery-ulr", "x"]).exits(2).says("did you mean 'discovery-url'?");
    let list = golem(&["config", "list"]).exits(0).stdout;
    assert!(list.contains("GOLEM_REQUESTOR_BASE_DIR") && list.contains("(not set)"), "{list}");

    // The environment wins over the file, and a flag over both.
    let mut command = home.command(&["config", "get", "discovery-url"]);
    command.env("GOLEM_REQUESTOR_DISCOVERY_URL", "http://env:1");
    assert_eq!(support::Ran::of(command.output().unwrap()).stdout, "http://env:1\n");
    let mut command =
        home.command(&["--discovery-url", "http://flag:1", "config", "get", "discovery-url"]);
    command.env("GOLEM_REQUESTOR_DISCOVERY_URL", "http://env:1");
    assert_eq!(support::Ran::of(command.output().unwrap()).stdout, "http://flag:1\n");

    golem(&["config", "unset", "discovery-url"]).exits(0);
    golem(&["config", "get", "discovery-url"]).exits(3);
    std::fs::write(home.config_file(), "discovery-url = \n").unwrap();
    golem(&["vm", "list"]).exits(2).says("requestor.toml");
}

#[test]
fn a_dotenv_of_the_working_directory_is_never_read() {
    let home = Home::new();
    std::fs::write(home.path().join(".env"), "GOLEM_REQUESTOR_DISCOVERY_URL=http://evil:1\n")
        .unwrap();
    home.golem(&["vm", "providers"]).exits(2).says("no discovery server is set");
}

#[test]
fn settings_without_a_meaning_are_told_once() {
    let home = Home::new();
    let list = |verbose: &[&str]| {
        let mut command = home.command(&[&["vm", "list"], verbose].concat());
        command.env("GOLEM_REQUESTOR_NETWORK", "mainnet");
        support::Ran::of(command.output().unwrap()).exits(0).stderr
    };
    assert!(list(&[]).contains("GOLEM_REQUESTOR_NETWORK"));
    assert!(!list(&[]).contains("GOLEM_REQUESTOR_NETWORK"));
    assert!(list(&["--verbose"]).contains("GOLEM_REQUESTOR_NETWORK"));
}

#[test]
fn the_base_directory_and_the_database_go_where_they_are_told() {
    let home = Home::new();
    let base = home.path().join("elsewhere");
    let mut command = home.command(&["vm", "list"]);
    command.env("GOLEM_REQUESTOR_BASE_DIR", &base);
    command.env("GOLEM_REQUESTOR_DB_PATH", home.path().join("db/vms.db"));
    support::Ran::of(command.output().unwrap()).exits(0);
    assert!(home.path().join("db/vms.db").exists() && !base.join("state.db").exists());
    assert!(!home.base().exists());
}

#[test]
fn version_and_help_touch_nothing() {
    let home = Home::new();
    let version = home.golem(&["version"]).exits(0).stdout;
    assert_eq!(version, home.golem(&["--version"]).exits(0).stdout);
    assert!(home.golem(&["version", "--json"]).exits(0).json()["version"].is_string());
    let help = home.golem(&["--help"]).exits(0).stdout;
    for part in ["Start here:", "golem config set discovery-url", "Exit codes:", "golem vm create"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
    home.golem(&["config", "list"]).exits(0);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    assert_eq!(home.golem(&["id"]).exits(0).stdout.trim().len(), 52);
    assert_eq!(home.golem(&["id", "--json"]).json()["id"], home.id());
}
